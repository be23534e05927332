/** Bundles with WGSL written by hand, for tests of the WebGPU runtime without the compiler. */
import { createHash } from 'node:crypto';
import type { Bundle } from '../../runtime/api.ts';
import type { EntryPlan, Manifest, Size, WebGpuPart, WgslBinding } from '../../runtime/manifest.ts';
import { buffers, type HandOptions, handBundle, port, symbol, words } from './hand-bundle.ts';

interface HandKernel {
  readonly code: string;
  readonly params?: number;
  readonly bindings: readonly WgslBinding[];
  /** For devices that have `TEST_FEATURE`; default: the same. */
  readonly better?: string;
}

/** A feature that no device has unless it pretends to. */
export const TEST_FEATURE = 'heddle-test-feature';

const GROUP = 64;
const args = (count: number): WgslBinding[] => Array.from({ length: count }, (_, arg) => ({ arg }));

/** `body` runs for every `i` below the length of the last binding that is listed. */
const each = (declarations: string, length: string, body: string): string => `
${declarations}
@compute @workgroup_size(${GROUP}) fn main(
  @builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) l: u32) {
  let i = (w.x + w.y * n.x) * ${GROUP}u + l;
  if (i < ${length}) { ${body} }
}`;
const storage = (at: number, name: string, type: string): string =>
  `@group(0) @binding(${at}) var<storage, read_write> ${name}: array<${type}>;`;
const weights = (at: number, name: string): string =>
  `@group(0) @binding(${at}) var<storage, read> ${name}: array<f32>;`;
const uniform = (...names: readonly string[]): string =>
  `struct P { ${names.map((name) => `${name}: i32`).join(', ')} } @group(0) @binding(0) var<uniform> p: P;`;
const lines = (...parts: readonly string[]): string => parts.join('\n');

/** Words of every piece of the weight that `pieces` reads. */
export const PIECE = 256;

const KERNELS = {
  /** (a, b, c; n): c[i] = a[i] + b[i]. */
  add: {
    params: 1,
    bindings: args(3),
    code: each(
      lines(uniform('n'), storage(1, 'a', 'f32'), storage(2, 'b', 'f32'), storage(3, 'c', 'f32')),
      'u32(p.n)',
      'c[i] = a[i] + b[i];',
    ),
  },
  /** (x, acc; n, step): acc[i] += x[i] · (step + 1). */
  accumulate: {
    params: 2,
    bindings: args(2),
    code: each(
      lines(uniform('n', 'step'), storage(1, 'x', 'f32'), storage(2, 'acc', 'f32')),
      'u32(p.n)',
      'acc[i] += x[i] * f32(p.step + 1);',
    ),
  },
  /** (x; n, value): x[i] = value. */
  fill: {
    params: 2,
    bindings: args(1),
    code: each(lines(uniform('n', 'value'), storage(1, 'x', 'f32')), 'u32(p.n)', 'x[i] = f32(p.value);'),
  },
  /** (x, y; n): y[i] = x[i] > 0, a bool. */
  positive: {
    params: 1,
    bindings: args(2),
    code: each(
      lines(uniform('n'), storage(1, 'x', 'f32'), storage(2, 'y', 'u32')),
      'u32(p.n)',
      'y[i] = select(0u, 1u, x[i] > 0);',
    ),
  },
  /** (x, y): y[i] = 2 · x[i] in place of i64, for one word a group; no parameters. */
  double: {
    bindings: args(2),
    code: lines(
      storage(1, 'x', 'i32'),
      storage(2, 'y', 'i32'),
      '@compute @workgroup_size(1) fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) n: vec3u) {',
      '  let i = w.x + w.y * n.x; if (i < arrayLength(&x)) { y[i] = 2 * x[i]; }',
      '}',
    ),
  },
  /** (x, w, y; n): y[i] = x[i] · w[i], w a weight. */
  scale: {
    params: 1,
    bindings: args(3),
    code: each(
      lines(uniform('n'), storage(1, 'x', 'f32'), weights(2, 'scale'), storage(3, 'y', 'f32')),
      'u32(p.n)',
      'y[i] = x[i] * scale[i];',
    ),
  },
  /** (w, y; n): y[i] = w[i], w a weight in two pieces. */
  pieces: {
    params: 1,
    bindings: [{ arg: 0, from: 0, bytes: 4 * PIECE }, { arg: 0, from: 4 * PIECE, bytes: 4 * PIECE }, { arg: 1 }],
    code: each(
      lines(uniform('n'), weights(1, 'low'), weights(2, 'high'), storage(3, 'y', 'f32')),
      'u32(p.n)',
      `if (i < ${PIECE}u) { y[i] = low[i]; } else { y[i] = high[i - ${PIECE}u]; }`,
    ),
  },
  /** (a, b, w, y; n): y[i] = a[i] − b[i] + w[i], through bindings of everything. */
  everywhere: {
    params: 1,
    bindings: [{ arena: [0, 1, 3] }, { weights: [2] }],
    code: each(
      lines(uniform('n', 'a', 'b', 'y', 'w'), storage(1, 'm', 'f32'), weights(2, 'all')),
      'u32(p.n)',
      'm[u32(p.y) + i] = m[u32(p.a) + i] - m[u32(p.b) + i] + all[u32(p.w) + i];',
    ),
  },
  /** (x, y; n, rounds): y[i] = x[i] + 1, after that many idle rounds. */
  slow: {
    params: 2,
    bindings: args(2),
    code: each(
      lines(uniform('n', 'rounds'), storage(1, 'x', 'f32'), storage(2, 'y', 'f32')),
      'u32(p.n)',
      'var s = x[i]; for (var r = 0; r < p.rounds; r++) { s = s * 1.0000001; } y[i] = select(x[i] + 1, s, s < -1e30);',
    ),
  },
  /** (x, y; n): y[0] = how many of n elements are positive, an i32. */
  count: {
    params: 1,
    bindings: args(2),
    code: lines(
      uniform('n'),
      storage(1, 'x', 'f32'),
      storage(2, 'y', 'i32'),
      '@compute @workgroup_size(1) fn main() {',
      '  var c = 0; for (var i = 0; i < p.n; i++) { c += select(0, 1, x[i] > 0); } y[0] = c;',
      '}',
    ),
  },
  /** (x): no WGSL at all. */
  broken: { bindings: args(1), code: '@compute @workgroup_size(1) fn main() { nonsense(); }' },
  /** (y): y[0] = 2 on a device that has `TEST_FEATURE`, else 1. */
  choice: {
    bindings: args(1),
    code: lines(storage(1, 'y', 'f32'), '@compute @workgroup_size(1) fn main() { y[0] = 1; }'),
    better: lines(storage(1, 'y', 'f32'), '@compute @workgroup_size(1) fn main() { y[0] = 2; }'),
  },
} as const satisfies Readonly<Record<string, HandKernel>>;

const names = Object.keys(KERNELS) as (keyof typeof KERNELS)[];

/** The kernels of every hand-made WebGPU bundle, by their number. */
export const GPU_KERNEL = Object.fromEntries(names.map((name, i) => [name, i])) as Record<keyof typeof KERNELS, number>;

/** Workgroups for `n` elements. */
export const groups = (n: Size): Size => ['/', ['+', n, GROUP - 1], GROUP];

export interface HandGpuOptions extends Omit<HandOptions, 'entries'> {
  /** For WebGPU. */
  readonly gpu: Readonly<Record<string, Partial<EntryPlan>>>;
  /** For WebAssembly; default: the same ports, and nothing is computed. */
  readonly entries?: HandOptions['entries'];
  readonly limits?: Readonly<Record<string, number>>;
  /** Which files of kernels there are: for devices with `TEST_FEATURE`, for all. Default: both. */
  readonly files?: readonly ('better' | 'code')[];
}

/** A complete bundle in memory for both devices. */
export function handGpuBundle(options: HandGpuOptions): Bundle & { readonly files: Map<string, Uint8Array> } {
  const { gpu, limits = {}, files = ['better', 'code'], ...rest } = options;
  const portsOnly = Object.fromEntries(
    Object.entries(gpu).map(([name, plan]) => [
      name,
      { ...plan, steps: (plan.steps ?? []).filter((step) => 'count' in step) },
    ]),
  );
  const wasm = handBundle({ entries: portsOnly, ...rest });
  const all: readonly HandKernel[] = names.map((name) => KERNELS[name]);
  const wgsl = files.map((which) => {
    const features = which === 'better' ? [TEST_FEATURE] : undefined;
    const file = features ? `kernels.${TEST_FEATURE}.wgsl` : 'kernels.wgsl';
    const sources = all.map(({ code, better = code }) => (features ? better : code).replaceAll('\n', ' '));
    const bytes = new TextEncoder().encode(sources.join('\n'));
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    wasm.files.set(file, bytes);
    return { file, bytes: bytes.length, sha256, ...(features && { features }) };
  });
  const empty: EntryPlan = { symbols: [], inputs: [], outputs: [], buffers: [], scratch: 0, steps: [] };
  const webgpu: WebGpuPart = {
    entries: Object.fromEntries(Object.entries(gpu).map(([name, plan]) => [name, { ...empty, ...plan }])),
    kernels: all.map(({ params = 0, bindings }) => ({ workgroup: [GROUP, 1, 1], bindings, params })),
    limits,
    wgsl,
  };
  const manifest: Manifest = { ...wasm.manifest, webgpu };
  return { manifest, files: wasm.files };
}

/** `z = x + y` over a symbol `n`. */
export const addOnGpu: Partial<EntryPlan> = {
  symbols: [symbol('n', { max: 1e6 })],
  inputs: [port('x', 0, ['n']), port('y', 1, ['n'])],
  outputs: [port('z', 2, ['n'])],
  buffers: buffers(words('n'), words('n'), words('n')),
  steps: [
    {
      kernel: GPU_KERNEL.add,
      args: [{ b: 0 }, { b: 1 }, { b: 2 }],
      params: ['n'],
      grid: groups('n'),
      chunk: 1,
      label: 'add',
    },
  ],
};

/** `z = x + 1` for 512 elements, in 200 launches that take a while. */
export const slowOnGpu: Partial<EntryPlan> = {
  inputs: [port('x', 0, [512])],
  outputs: [port('z', 1, [512])],
  buffers: buffers(2048, 2048),
  steps: Array.from({ length: 200 }, () => ({
    kernel: GPU_KERNEL.slow,
    args: [{ b: 0 }, { b: 1 }],
    params: [512, 3_000],
    grid: 8,
    chunk: 1,
    label: 'slow',
  })),
};
