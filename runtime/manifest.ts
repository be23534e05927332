/**
 * What a bundle says about itself: the JSON that the compiler writes and the session executes. Nothing here knows a
 * graph: a plan is a list of kernel launches over one arena.
 */

/** Element types as they stand in buffers. `bool` is one byte, 0 or 1. */
export type ElementType =
  | 'f64'
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'i64'
  | 'i32'
  | 'i16'
  | 'i8'
  | 'u64'
  | 'u32'
  | 'u16'
  | 'u8'
  | 'bool';

/** A size: a number, a symbol's name, or an operator on two sizes. Division rounds down; all values are ≥ 0. */
export type Size = number | string | readonly ['+' | '-' | '*' | '/' | '%' | 'min' | 'max', Size, Size];

export interface SymbolInfo {
  readonly name: string;
  readonly min: number;
  readonly max: number;
  readonly multipleOf: number;
  readonly default: number;
}

export interface Port {
  readonly name: string;
  readonly dtype: ElementType;
  readonly shape: readonly Size[];
  readonly doc: string;
  /** Every element must be 0 or 1. */
  readonly binary?: boolean;
  /** How many elements of each line along the last axis are not 0: least and most. Checked by `promises.ts`. */
  readonly ones?: readonly [least: Size, most: Size];
  /** Index into `EntryPlan.buffers`. */
  readonly buffer: number;
}

/** A region of the arena, alive from the start of step `first` to the end of step `last`. */
export interface BufferInfo {
  readonly bytes: Size;
  readonly first: number;
  readonly last: number;
}

/**
 * Where a kernel argument points: a buffer of the arena, an offset into the weights, or this thread's scratch; plus an
 * optional byte offset (which may mention loop symbols).
 */
export type Address =
  | { readonly b: number; readonly at?: Size }
  | { readonly w: number; readonly at?: Size }
  | { readonly s: number };

/** One kernel launch: `kernel(addresses…, params…, from, to)` for ranges that cover `[0, grid)` in any order. */
export interface Launch {
  readonly kernel: number;
  readonly args: readonly Address[];
  readonly params: readonly Size[];
  readonly grid: Size;
  /** Grid units that make a call of about 0.2 ms: the unit of scheduling between threads. */
  readonly chunk: Size;
  /** Region name, for profiles and errors. */
  readonly label: string;
}

/** Runs `steps` for `symbol` = 0 … `trips` − 1 (or downwards when `reverse`). Liveness counts the whole loop as one step. */
export interface Loop {
  readonly loop: string;
  readonly trips: Size;
  readonly reverse: boolean;
  readonly steps: readonly Step[];
}

/** Runs `then` or `else` by the first byte of a buffer. */
export interface Branch {
  readonly if: Address;
  readonly then: readonly Step[];
  readonly else: readonly Step[];
}

/** Copies bytes inside the arena. */
export interface Copy {
  readonly from: Address;
  readonly to: Address;
  readonly bytes: Size;
}

/**
 * Binds a size that the program has counted: the i32 at `at` becomes the value of symbol `count` in all later steps of the
 * list and inside them (parameters, grids, chunks, trips, offsets, lengths) and, on the top level, in the shapes of outputs.
 * A number outside `min` … `max` ends the run. Buffers never mention such symbols: they have room for `max`. A symbol that
 * nobody mentions makes the step a mere check.
 *
 * With `steps`, on WebGPU alone, the host need not know the number before the end of the run: their one launch writes i32s
 * into its last argument, the number within its bounds, and then three workgroup counts for each grid that mentions it, in the
 * order in which launches up to the next count first have it; no grid is the same as one before. Parameters that
 * mention the number are the number itself, and all counts of the plan have steps.
 */
export interface Count {
  readonly count: string;
  readonly at: Address;
  readonly min: Size;
  readonly max: Size;
  readonly steps?: readonly [Launch];
}

export type Step = Launch | Loop | Branch | Copy | Count;

export interface EntryPlan {
  readonly symbols: readonly SymbolInfo[];
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly buffers: readonly BufferInfo[];
  /** Bytes of private memory per thread. */
  readonly scratch: number;
  readonly steps: readonly Step[];
  /**
   * The entry that runs instead where inputs break what is only assumed of them, or where more than this share of the elements
   * of an input, by its number, is not 0. Its ports promise less, and are otherwise the same.
   */
  readonly otherwise?: { readonly entry: string; readonly crowded?: readonly [input: number, share: number] };
}

export interface WeightSegment {
  /** Byte range of `weights.bin`. */
  readonly from: number;
  readonly bytes: number;
  /** Byte offset in the weight memory, where elements stand as f32 (or as stored, when not a float). */
  readonly to: number;
  /** How the file stores it; `f16` is widened to f32 at load. */
  readonly stored: 'raw' | 'f16';
}

export interface WeightsInfo {
  readonly file: string;
  readonly bytes: number;
  /** Bytes in memory after widening; segments are aligned to 64. */
  readonly memory: number;
  readonly segments: readonly WeightSegment[];
  /** Bytes of the file that are hashed at a time, the last block shorter. */
  readonly block: number;
  /** Hex SHA-256 of the hex SHA-256s of all blocks in a row: one hash for the whole file, made while it is read. */
  readonly sha256: string;
}

/**
 * Two variants of one module, which export the same functions `k0, k1, …`. They stand in one file: they differ in few
 * places, so that together they compress to little more than one.
 */
export interface WasmModules {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly plain: WasmPart;
  readonly relaxed: WasmPart;
}
export interface WasmPart {
  /** Byte range of the file. */
  readonly from: number;
  readonly bytes: number;
  /** Position in the module of the limits flag of the imported memory: 1 = private, 3 = shared. The file holds 3 and a maximum. */
  readonly memoryFlagAt: number;
}

/**
 * A storage binding of a WGSL kernel, one GPUBuffer range. Bindings into the arena are declared `read_write` (a buffer may
 * not be bound both ways in one dispatch), bindings into the weights `read`. Sizes are rounded up to 16 bytes.
 */
export type WgslBinding =
  /** A launch argument from its address to its end. */
  | { readonly arg: number }
  /** `bytes` of a weight from byte `from` of it on: a weight that is larger than one binding may be comes in pieces. */
  | { readonly arg: number; readonly from: number; readonly bytes: number }
  /** The whole arena, or all weights; the word offsets of these arguments follow the launch's parameters, in this order. */
  | { readonly arena: readonly number[] }
  | { readonly weights: readonly number[] };

/**
 * A compute shader, the function `main` of its source. Group 0 has the parameters at binding 0, a uniform of i32s, when
 * there are any: those of the launch, then the word offsets that bindings ask for. Storage bindings follow from binding 1
 * on. A launch dispatches as many workgroups as its grid has units, in rows of 65535; the shader leaves those beyond the
 * grid alone.
 */
export interface WgslKernel {
  /** As the source says; for whoever reads the manifest of a bundle in memory. */
  readonly workgroup?: readonly [x: number, y: number, z: number];
  readonly bindings: readonly WgslBinding[];
  /** Parameters that launches give. */
  readonly params: number;
}

/** The source of every kernel as UTF-8, one line each, written for devices of some features. */
export interface WgslFile {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  /** WebGPU features that the sources enable. */
  readonly features?: readonly string[];
}

/**
 * The same entries for WebGPU, over the same weight file. Every element of the arena is a 32-bit word: floats as f32,
 * signed integers as i32, unsigned ones and bools as u32. Weights stand as in their file. Addresses have no
 * `at` and no scratch; there are no `Copy` steps; `chunk` means nothing; a branch looks at a word.
 */
export interface WebGpuPart {
  readonly entries: Readonly<Record<string, EntryPlan>>;
  /** The same kernels for devices of different features: the first that a device can run is loaded, no other. */
  readonly wgsl: readonly WgslFile[];
  /** By `Launch.kernel`. */
  readonly kernels: readonly WgslKernel[];
  /** Least value of each limit of a device that the kernels need, where that is above WebGPU's own default. */
  readonly limits: Readonly<Record<string, number>>;
}

/** A recorded run for `selftest()`: inputs made by the rule, a few outputs kept. */
export interface SelfTest {
  readonly entry: string;
  readonly symbols: Readonly<Record<string, number>>;
  /** Inputs are `fill(name, i)`: see `runtime/selftest.ts`. */
  readonly outputs: readonly {
    readonly name: string;
    readonly at: readonly number[];
    readonly values: readonly number[];
  }[];
  readonly tolerance: number;
}

export const FORMAT = 1;

export interface Manifest {
  readonly heddle: typeof FORMAT;
  readonly name: string;
  readonly entries: Readonly<Record<string, EntryPlan>>;
  readonly weights: WeightsInfo;
  readonly wasm: WasmModules;
  /** Where the bundle was compiled for WebGPU too. */
  readonly webgpu?: WebGpuPart;
  readonly selftest: readonly SelfTest[];
  /** By entry and label: multiply-accumulates of contractions at the default sizes, for `heddle bench`. */
  readonly macs?: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/** A size under a binding of symbols. @throws RangeError for a symbol without value */
export function sizeOf(size: Size, symbols: Readonly<Record<string, number>>): number {
  if (typeof size === 'number') return size;
  if (typeof size === 'string') {
    const value = symbols[size];
    if (value === undefined) throw new RangeError(`size "${size}" is not bound`);
    return value;
  }
  const a = sizeOf(size[1], symbols);
  const b = sizeOf(size[2], symbols);
  switch (size[0]) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '/':
      return Math.floor(a / b);
    case '%':
      return a % b;
    case 'min':
      return Math.min(a, b);
    case 'max':
      return Math.max(a, b);
  }
}
