/** Bundles written by hand, for tests of the runtime without the compiler. */
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type FunctionBuilder, type Local, ModuleBuilder } from '../../compiler/wasm-encode.ts';
import type { Bundle } from '../../runtime/api.ts';
import type {
  EntryPlan,
  Manifest,
  Port,
  SelfTest,
  Size,
  WasmModules,
  WasmPart,
  WeightSegment,
} from '../../runtime/manifest.ts';

/** The kernels of every hand-made bundle, by their number. */
export const KERNEL = {
  /** (a, b, c): c[i] = a[i] + b[i], f32; unit: an element. */
  add: 0,
  /** (a, b, c; k, n): c[i, j] = Σ a[i, l] · b[l, j], f32; unit: a row. Fused in the relaxed module. */
  matmul: 1,
  /** (x, y): y[i] = exp(x[i]), f32, through `m.exp`. */
  exp: 2,
  /** (x, acc): acc[i] += x[i], f32. */
  accumulate: 3,
  /** (x, y; rounds): y[i] = x[i] + 1, after that many idle rounds. */
  slow: 4,
  /** (x): traps. */
  trap: 5,
  /** (x, y): y[i] = 2 · x[i], i64. */
  double: 6,
  /** (x, y, scratch): y[i] = 2 · x[i], f32, through the thread's scratch. */
  scratch: 7,
  /** (x; value): x[i] = value, f32. */
  fill: 8,
  /** (x, y): y[i] = x[i] > 0, f32 to bool. */
  positive: 9,
  /** (x): traps in every thread but the leader: when the scratch, the argument, is not at the address given as parameter. */
  trapAway: 10,
} as const;

interface Range {
  readonly f: FunctionBuilder;
  readonly args: readonly Local[];
  readonly i: Local;
}

/** Defines `k<number>` with `count` arguments, whose body runs for every `i` of the range. */
function kernel(module: ModuleBuilder, name: keyof typeof KERNEL, count: number, body: (range: Range) => void): void {
  const f = module.function(name, new Array<'i32'>(count + 2).fill('i32'));
  const [i, to] = [f.param(count), f.param(count + 1)];
  f.block((out) => {
    f.loop((again) => {
      f.get(i).get(to).op('i32.ge_s').brIf(out);
      body({ f, args: f.params.slice(0, count), i });
      f.get(i).i32(1).op('i32.add').set(i).br(again);
    });
  });
  module.export(`k${KERNEL[name]}`, f);
}

/** Pushes `base + (i << shift)`. */
const at = (f: FunctionBuilder, base: Local, i: Local, shift: number): FunctionBuilder =>
  f.get(base).get(i).i32(shift).op('i32.shl').op('i32.add');

function kernels(relaxed: boolean): ModuleBuilder {
  const module = new ModuleBuilder().importMemory('env', 'memory', { min: 1, max: 65536, shared: true });
  const exp = module.importFunction('m', 'exp', ['f64'], ['f64']);
  kernel(module, 'add', 3, ({ f, args: [a, b, c], i }) => {
    at(f, c!, i, 2);
    at(f, a!, i, 2).mem('f32.load');
    at(f, b!, i, 2).mem('f32.load').op('f32.add').mem('f32.store');
  });
  kernel(module, 'matmul', 5, ({ f, args: [a, b, c, k, n], i }) => {
    const [j, l, sum] = [f.local('i32'), f.local('i32'), f.local('v128')];
    f.i32(0).set(j);
    f.loop((column) => {
      f.i32(0).set(l).f32x4(0).set(sum);
      f.loop((inner) => {
        f.get(i).get(k!).op('i32.mul').get(l).op('i32.add').i32(2).op('i32.shl').get(a!).op('i32.add');
        f.mem('v128.load32_splat');
        f.get(l).get(n!).op('i32.mul').get(j).op('i32.add').i32(2).op('i32.shl').get(b!).op('i32.add');
        f.mem('v128.load32_splat');
        if (relaxed) f.get(sum).op('f32x4.relaxed_madd').set(sum);
        else f.op('f32x4.mul').get(sum).op('f32x4.add').set(sum);
        f.get(l).i32(1).op('i32.add').tee(l).get(k!).op('i32.lt_s').brIf(inner);
      });
      f.get(i).get(n!).op('i32.mul').get(j).op('i32.add').i32(2).op('i32.shl').get(c!).op('i32.add');
      f.get(sum).lane('f32x4.extract_lane', 0).mem('f32.store');
      f.get(j).i32(1).op('i32.add').tee(j).get(n!).op('i32.lt_s').brIf(column);
    });
  });
  kernel(module, 'exp', 2, ({ f, args: [x, y], i }) => {
    at(f, y!, i, 2);
    at(f, x!, i, 2).mem('f32.load').op('f64.promote_f32').call(exp).op('f32.demote_f64').mem('f32.store');
  });
  kernel(module, 'accumulate', 2, ({ f, args: [x, acc], i }) => {
    at(f, acc!, i, 2);
    at(f, acc!, i, 2).mem('f32.load');
    at(f, x!, i, 2).mem('f32.load').op('f32.add').mem('f32.store');
  });
  kernel(module, 'slow', 3, ({ f, args: [x, y, rounds], i }) => {
    const left = f.local('i32');
    f.get(rounds!).set(left);
    f.loop((again) => {
      f.get(left).i32(1).op('i32.sub').tee(left).i32(0).op('i32.gt_s').brIf(again);
    });
    at(f, y!, i, 2);
    at(f, x!, i, 2).mem('f32.load').f32(1).op('f32.add').mem('f32.store');
  });
  kernel(module, 'trap', 1, ({ f }) => {
    f.unreachable();
  });
  kernel(module, 'double', 2, ({ f, args: [x, y], i }) => {
    at(f, y!, i, 3);
    at(f, x!, i, 3).mem('i64.load').i64(1n).op('i64.shl').mem('i64.store');
  });
  kernel(module, 'scratch', 3, ({ f, args: [x, y, s], i }) => {
    f.get(s!);
    at(f, x!, i, 2).mem('f32.load').mem('f32.store');
    at(f, y!, i, 2);
    f.get(s!).mem('f32.load').get(s!).mem('f32.load').op('f32.add').mem('f32.store');
  });
  kernel(module, 'fill', 2, ({ f, args: [x, value], i }) => {
    at(f, x!, i, 2).get(value!).op('f32.convert_i32_s').mem('f32.store');
  });
  kernel(module, 'positive', 2, ({ f, args: [x, y], i }) => {
    at(f, y!, i, 0);
    at(f, x!, i, 2).mem('f32.load').f32(0).op('f32.gt').mem('i32.store8');
  });
  kernel(module, 'trapAway', 2, ({ f, args: [scratch, first], i }) => {
    const left = f.local('i32');
    f.get(scratch!)
      .get(first!)
      .op('i32.ne')
      .if(() => f.unreachable());
    // Slow enough that the other threads come to take a part.
    f.i32(200_000).set(left);
    f.loop((again) => {
      f.get(left).i32(1).op('i32.sub').tee(left).i32(0).op('i32.gt_s').brIf(again);
    });
    f.get(i).drop();
  });
  return module;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Both variants in one file. */
function wasmModules(file: string, files: Map<string, Uint8Array>): WasmModules {
  const bytes: number[] = [];
  const place = (relaxed: boolean): WasmPart => {
    const module = kernels(relaxed).encode();
    const part = { from: bytes.length, bytes: module.bytes.length, memoryFlagAt: module.memoryFlagOffset! };
    bytes.push(...module.bytes);
    return part;
  };
  const parts = { plain: place(false), relaxed: place(true) };
  const whole = Uint8Array.from(bytes);
  files.set(file, whole);
  return { file, bytes: whole.length, sha256: sha256(whole), ...parts };
}

/** A port of f32 unless said otherwise. */
export function port(name: string, buffer: number, shape: readonly Size[], more: Partial<Port> = {}): Port {
  return { name, dtype: 'f32', shape, doc: `${name} of a test`, buffer, ...more };
}

/** Bytes of `count` elements of four bytes. */
export const words = (count: Size): Size => ['*', count, 4];

/** A symbol that may be 1 … 1000. */
export const symbol = (
  name: string,
  more: Partial<EntryPlan['symbols'][number]> = {},
): EntryPlan['symbols'][number] => ({
  name,
  min: 1,
  max: 1000,
  multipleOf: 1,
  default: 4,
  ...more,
});

/** Buffers of `sizes` bytes that live for the whole run. */
export const buffers = (...sizes: Size[]): EntryPlan['buffers'] =>
  sizes.map((bytes) => ({ bytes, first: 0, last: 1_000_000 }));

export interface HandOptions {
  readonly entries: Readonly<Record<string, Partial<EntryPlan>>>;
  readonly weights?: Uint8Array;
  /** Default: the whole file as it is, at 0. */
  readonly segments?: readonly WeightSegment[];
  /** Bytes of the weights in memory; default: those of the file. */
  readonly memory?: number;
  /** Default 128. */
  readonly block?: number;
  readonly selftest?: readonly SelfTest[];
}

/** A complete bundle in memory. */
export function handBundle(options: HandOptions): Bundle & { readonly files: Map<string, Uint8Array> } {
  const { weights = new Uint8Array(0), block = 128, selftest = [] } = options;
  const files = new Map<string, Uint8Array>([['weights.bin', weights]]);
  const hashes: string[] = [];
  for (let from = 0; from < weights.length; from += block) hashes.push(sha256(weights.subarray(from, from + block)));
  const empty: EntryPlan = { symbols: [], inputs: [], outputs: [], buffers: [], scratch: 0, steps: [] };
  const entries = Object.entries(options.entries).map(([name, plan]) => [name, { ...empty, ...plan }]);
  const whole: WeightSegment = { from: 0, bytes: weights.length, to: 0, stored: 'raw' };
  const manifest: Manifest = {
    heddle: 1,
    name: 'hand',
    entries: Object.fromEntries(entries) as Record<string, EntryPlan>,
    weights: {
      file: 'weights.bin',
      bytes: weights.length,
      memory: options.memory ?? weights.length,
      segments: options.segments ?? [whole],
      block,
      sha256: sha256(new TextEncoder().encode(hashes.join(''))),
    },
    wasm: wasmModules('kernels.bin', files),
    selftest,
  };
  return { manifest, files };
}

/** Where the build puts the bundled runtime. */
export const runtimeFolder = join(import.meta.dirname, '..', '..', 'runtime', 'bundle');

/** Writes a bundle as `compile` does: its files, the runtime, and an `index.js` that opens it. */
export function writeBundle(bundle: Bundle, folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, bytes] of bundle.files) if (!(bytes instanceof URL)) writeFileSync(join(folder, name), bytes);
  writeFileSync(join(folder, 'manifest.json'), JSON.stringify(bundle.manifest));
  for (const name of ['heddle.js', 'worker.js']) copyFileSync(join(runtimeFolder, name), join(folder, name));
  const index = `import { open as openBundle } from './heddle.js';
export const open = (options) => openBundle(new URL('.', import.meta.url), options);
`;
  writeFileSync(join(folder, 'index.js'), index);
}

/** `z = x + y` over a symbol `n`, in chunks of 4. */
export const addEntry: Partial<EntryPlan> = {
  symbols: [symbol('n')],
  inputs: [port('x', 0, ['n']), port('y', 1, ['n'])],
  outputs: [port('z', 2, ['n'])],
  buffers: buffers(words('n'), words('n'), words('n')),
  steps: [{ kernel: KERNEL.add, args: [{ b: 0 }, { b: 1 }, { b: 2 }], params: [], grid: 'n', chunk: 4, label: 'add' }],
};

/** `z = x + 1` for 512 elements, in steps that take about 200 ms in all on one thread. */
export const slowEntry: Partial<EntryPlan> = {
  inputs: [port('x', 0, [512])],
  outputs: [port('z', 1, [512])],
  buffers: buffers(2048, 2048),
  steps: [{ kernel: KERNEL.slow, args: [{ b: 0 }, { b: 1 }], params: [1_000_000], grid: 512, chunk: 1, label: 'slow' }],
};
