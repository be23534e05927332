/** From a folder, URL or bundle in memory to a session. */
import type { Bundle, OpenOptions, Progress, Session } from './api.ts';
import { checkManifest } from './check.ts';
import { HeddleError } from './error.ts';
import { canShare, cores, inNode } from './host.ts';
import type { Manifest, Step } from './manifest.ts';
import { checkLaunches, compileModule, connect, hasRelaxed } from './module.ts';
import { Pool } from './pool.ts';
import { bindProgram, WEIGHTS_AT } from './program.ts';
import { defaultEntry, WasmSession } from './session.ts';
import { type Source, sourceOf } from './source.ts';
import { controlWords } from './team.ts';
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

function checkOptions({ device = 'auto', threads, relaxed }: OpenOptions): void {
  if (device !== 'auto' && device !== 'wasm') {
    throw new HeddleError('option', `device "${String(device)}" is not known. Use "wasm" or "auto".`);
  }
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

async function load(source: Source, options: OpenOptions, signal: AbortSignal): Promise<Session> {
  const progress = (phase: Progress['phase'], loaded: number, total: number): void =>
    options.onProgress?.({ phase, loaded, total });
  progress('manifest', 0, 0);
  const manifest = checkManifest(await source.manifest(signal));
  signal.throwIfAborted();
  const { weights, wasm } = manifest;
  const plans = Object.values(manifest.entries);
  const bytes = bytesAtDefaults(manifest, 1);
  const threads = chooseThreads(options, bytes, source);
  const relaxed = options.relaxed ?? hasRelaxed();
  const shared = threads > 1;
  const memory = createMemory(bytesAtDefaults(manifest, threads), shared);

  const info = relaxed ? wasm.relaxed : wasm.plain;
  const compiling = compileModule(source, info, shared, signal).then((module) => {
    progress('kernels', info.bytes, info.bytes);
    return module;
  });
  const loading = loadWeights(
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
    const [kernels, pool] = await Promise.all([connecting, starting, loading]);
    progress('ready', weights.bytes, weights.bytes);
    signal.throwIfAborted();
    return new WasmSession(manifest, { kernels, memory, pool }, relaxed);
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

/**
 * Opens a bundle: reads and checks its files, compiles its kernels, starts its threads. Requests nothing but the bundle's
 * own files.
 *
 * @param source  a bundle's folder by path (Node) or URL, or a bundle in memory
 * @throws HeddleError `source`, `manifest`, `integrity`, `support`, `memory` or `option`; or the signal's reason. Whatever
 * was begun is undone
 */
export async function open(source: string | URL | Bundle, options: OpenOptions = {}): Promise<Session> {
  checkOptions(options);
  const abort = new AbortController();
  const { signal } = options;
  const forward = (): void => abort.abort(signal?.reason);
  signal?.addEventListener('abort', forward);
  try {
    signal?.throwIfAborted();
    return await load(sourceOf(source), options, abort.signal);
  } catch (error) {
    // Ends whatever still reads or starts beside what failed.
    abort.abort(error);
    if (signal?.aborted) throw signal.reason;
    throw error;
  } finally {
    signal?.removeEventListener('abort', forward);
  }
}
