/** From a bundle to a session on WebAssembly. */
import type { Bundle, OpenOptions, Session } from './api.ts';
import { HeddleError } from './error.ts';
import { canShare, cores, inNode } from './host.ts';
import type { Manifest, Step } from './manifest.ts';
import { checkLaunches, compileModule, connect, hasRelaxed } from './module.ts';
import { type Loading, opening } from './opening.ts';
import { Pool } from './pool.ts';
import { bindProgram, WEIGHTS_AT } from './program.ts';
import { defaultEntry } from './session.ts';
import type { Source } from './source.ts';
import { controlWords } from './team.ts';
import { wasmSession } from './wasm-session.ts';
import { loadWeights } from './weights.ts';

const PAGE = 2 ** 16;
const MAX_PAGES = 2 ** 16;
const MAX_THREADS = 64;
/** Below this many bytes of weights and arena, threads cost more than they bring. */
const SMALL = 4 * 2 ** 20;

const warned = new Set<string>();

function warnOnce(text: string): void {
  if (!warned.has(text)) console.warn(`heddle: ${text}`);
  warned.add(text);
}

function checkOptions({ threads, relaxed }: OpenOptions): void {
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS)) {
    throw new HeddleError('option', `threads is ${String(threads)}. Use an integer in 1 … ${MAX_THREADS}.`);
  }
  if (relaxed === true && !hasRelaxed()) {
    throw new HeddleError('support', 'this engine has no relaxed SIMD. Leave the option relaxed out.');
  }
}

function createMemory(bytes: number, shared: boolean): WebAssembly.Memory {
  const initial = Math.ceil(bytes / PAGE);
  // Hosts with little address space refuse to reserve 4 GiB for a memory that may grow that far.
  for (const wish of [MAX_PAGES, MAX_PAGES / 4, initial]) {
    try {
      return new WebAssembly.Memory({ initial, maximum: Math.max(wish, initial), shared });
    } catch {}
  }
  const wants = `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  throw new HeddleError('memory', `the model needs ${wants} of memory, which the host refuses.`);
}

/** How many threads to use. */
function chooseThreads(options: OpenOptions, bytes: number, source: Source): number {
  const { threads, workerUrl } = options;
  if (threads === 1) return 1;
  if (!canShare()) {
    if (threads !== undefined) {
      warnOnce(
        `${threads} threads need shared memory, which this page lacks; running on one. Serve the page with the headers ` +
          'Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.',
      );
    }
    return 1;
  }
  if (!inNode && !source.hosted && workerUrl === undefined) {
    if (threads !== undefined) warnOnce('a bundle in memory runs on one thread in a page unless workerUrl is given.');
    return 1;
  }
  return threads ?? (bytes < SMALL ? 1 : Math.min(cores(), 8));
}

/** The most arguments that a launch has. */
function mostArgs(steps: readonly Step[]): number {
  const each = steps.map((step) => {
    if ('loop' in step) return mostArgs(step.steps);
    if ('then' in step) return Math.max(mostArgs(step.then), mostArgs(step.else));
    return 'kernel' in step ? step.args.length + step.params.length : 0;
  });
  return Math.max(0, ...each);
}

/**
 * A session on WebAssembly.
 *
 * @param fallback  why it is not one on WebGPU
 */
export async function loadWasm(loading: Loading, fallback?: string): Promise<Session> {
  const { source, manifest, options, signal, progress } = loading;
  checkOptions(options);
  const { weights, wasm } = manifest;
  const plans = Object.values(manifest.entries);
  const bytes = bytesAtDefaults(manifest, 1);
  const threads = chooseThreads(options, bytes, source);
  const relaxed = options.relaxed ?? hasRelaxed();
  const shared = threads > 1;
  const memory = createMemory(bytesAtDefaults(manifest, threads), shared);

  const compiling = compileModule(source, wasm, relaxed ? wasm.relaxed : wasm.plain, shared, signal).then((module) => {
    progress('kernels', wasm.bytes, wasm.bytes);
    return module;
  });
  const reading = loadWeights(
    source,
    weights,
    new Uint8Array(memory.buffer, WEIGHTS_AT, weights.memory),
    signal,
    (loaded) => progress('weights', loaded, weights.bytes),
  );
  const starting = compiling.then(async (module) => {
    if (!shared) return undefined;
    const words = controlWords(Math.max(...plans.map((plan) => mostArgs(plan.steps))));
    const control = new Int32Array(new SharedArrayBuffer(4 * words));
    const start = { module, memory, control };
    try {
      return await Pool.start(threads - 1, options.workerUrl, start, signal, (n) =>
        progress('threads', n + 1, threads),
      );
    } catch (error) {
      signal.throwIfAborted();
      warnOnce(`${(error as Error).message.replace(/^heddle: /, '')}; running on one thread.`);
      return undefined;
    }
  });
  const connecting = compiling.then(async (module) => {
    const kernels = await connect(module, memory);
    for (const plan of plans) checkLaunches(plan.steps, kernels);
    return kernels;
  });
  try {
    const [kernels, pool] = await Promise.all([connecting, starting, reading]);
    progress('ready', weights.bytes, weights.bytes);
    signal.throwIfAborted();
    return wasmSession(manifest, { kernels, memory, pool }, relaxed, fallback);
  } catch (error) {
    starting.then(
      (pool) => pool?.close(),
      () => {},
    );
    throw error;
  }
}

function bytesAtDefaults(manifest: Manifest, threads: number): number {
  const plan = manifest.entries[defaultEntry(manifest)]!;
  const symbols = Object.fromEntries(plan.symbols.map((symbol) => [symbol.name, symbol.default]));
  return bindProgram(plan, symbols, manifest.weights.memory, threads).bytes;
}

/** `open` in bundles that were compiled for WebAssembly alone; see `open.ts`. */
export async function open(source: string | URL | Bundle, options: OpenOptions = {}): Promise<Session> {
  const { device = 'auto' } = options;
  if (device !== 'auto' && device !== 'wasm') {
    const what = typeof device === 'string' ? `device "${device}"` : 'a GPUDevice';
    throw new HeddleError('option', `${what} is not known here: the bundle was compiled for "wasm" alone.`);
  }
  return opening(source, options, loadWasm);
}
