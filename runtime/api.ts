/** The public types of a session. */
import type { ElementType, Manifest, Size } from './manifest.ts';

/** Elements as they are handed out: `f16` and `bf16` are their bits, `bool` is 0 or 1. */
export type TensorData =
  | Float64Array
  | Float32Array
  | Uint16Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint32Array
  | Uint8Array;

/** An output: its elements in row-major order, owned by the caller. */
export interface Tensor {
  readonly dtype: ElementType;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

/**
 * Elements of an input. The typed array of the dtype is taken as it is (`Uint16Array` of bits for f16 and bf16,
 * `Uint8Array` for bool); i64 also takes `Int32Array`, u8 `Uint8ClampedArray`; plain arrays are converted, except to f16
 * and bf16, and refused when a value does not fit an integer type.
 */
export type InputData = TensorData | Uint8ClampedArray | readonly number[] | readonly bigint[] | readonly boolean[];

/** A `GPUBuffer`, spelt so that no types of WebGPU are needed. */
export interface BufferLike {
  readonly size: number;
  readonly usage: number;
}

/**
 * An input in GPU memory, at the start of a buffer with usage `COPY_SRC` of the session's device: 32-bit words, which are
 * f32 for floats, i32 for signed integers and u32 for unsigned ones and bools.
 */
export interface DeviceInput {
  readonly buffer: BufferLike;
  readonly shape: readonly number[];
}

/** An output in GPU memory, as the words of `DeviceInput`: an input of any session on the same device. */
export interface DeviceTensor extends DeviceInput {
  readonly dtype: ElementType;
  /** Copies it to the host. */
  read(): Promise<Tensor>;
  /** Frees the memory; belongs to the caller, unless the session owns the device and is disposed. */
  destroy(): void;
}

/** An input: elements alone, when the other inputs and the length leave one shape, or elements with their shape. */
export type Input = InputData | { readonly data: InputData; readonly shape?: readonly number[] } | DeviceInput;

/** A declared input or output. Sizes that depend on the inputs are symbols or expressions over them. */
export interface PortInfo {
  readonly name: string;
  readonly dtype: ElementType;
  readonly shape: readonly Size[];
  readonly doc: string;
}

/** A symbolic size and the values that it may take. */
export interface SymbolRange {
  readonly name: string;
  readonly min: number;
  readonly max: number;
  readonly multipleOf: number;
  readonly default: number;
}

/** One function of the bundle. */
export interface EntryInfo {
  readonly inputs: readonly PortInfo[];
  readonly outputs: readonly PortInfo[];
  readonly symbols: readonly SymbolRange[];
}

/** A bundle without a folder. A file is its bytes or where to fetch them. */
export interface Bundle {
  readonly manifest: Manifest;
  readonly files: ReadonlyMap<string, Uint8Array | URL>;
}

/** How far `open` is; `loaded` and `total` count bytes (pipelines for `kernels` on WebGPU, threads for `threads`). */
export interface Progress {
  readonly phase: 'manifest' | 'kernels' | 'weights' | 'threads' | 'ready';
  readonly loaded: number;
  readonly total: number;
}

/** A `GPUDevice`, spelt so that no types of WebGPU are needed. */
export interface DeviceLike {
  readonly features: object;
  readonly limits: object;
  readonly queue: object;
  readonly lost: Promise<object>;
}

/** A `GPU`: what `navigator.gpu` is, or what Dawn's `create` makes in Node. */
export interface GpuLike {
  requestAdapter(): Promise<object | null>;
}

export interface OpenOptions {
  /**
   * Where the model runs. `auto`, the default, is WebGPU where the bundle has it and a device can be had, else WebAssembly;
   * `Session.fallback` says why. A `GPUDevice` is used as it is and never destroyed.
   */
  readonly device?: 'wasm' | 'webgpu' | 'auto' | DeviceLike;
  /** Where adapters come from; default `navigator.gpu`. */
  readonly gpu?: GpuLike;
  /**
   * Threads that compute, the caller's included. Default: the machine's, at most 8; 1 for models under 4 MiB and where
   * memory cannot be shared (a page without cross-origin isolation), where a larger wish is met with one warning.
   */
  readonly threads?: number;
  /** Fused multiply-add kernels; default: where the engine has them. */
  readonly relaxed?: boolean;
  /** Aborting stops reading, ends the threads and rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  /** Where the thread's module `worker.js` is; default: beside the runtime (in a page, for a bundle with a URL only). */
  readonly workerUrl?: URL | string;
}

/**
 * Time spent in the launches with one label, workers' waits included, pauses for the event loop excluded. On WebGPU the
 * GPU's own time where it has timestamps, else that until the label's launches are done.
 */
export interface ProfileRow {
  readonly label: string;
  readonly ms: number;
  readonly calls: number;
}

export interface RunOptions {
  /** Which function to run; default `main`, or the first. */
  readonly entry?: string;
  /** Checked while waiting, and about every 10 ms (between submissions on WebGPU); aborting rejects with the signal's reason. The session stays usable. */
  readonly signal?: AbortSignal;
  /** Receives the time per label, longest first, when the run is done. */
  readonly profile?: (rows: readonly ProfileRow[]) => void;
}

export interface SelfTestResult {
  /** Every compared value is within the recorded tolerance. */
  readonly ok: boolean;
  /** The largest |got − want| / max(1, |want|); Infinity when a value is not finite and should be, or the reverse. */
  readonly worst: number;
  /** The smallest tolerance that the recording asks for. */
  readonly tolerance: number;
  readonly cases: readonly { readonly entry: string; readonly output: string; readonly worst: number }[];
}

/**
 * A loaded bundle. Runs are queued in the order of their calls; sessions do not share anything. A bundle's own types name
 * its inputs and outputs; `Inputs` and `Outputs` are those of the default entry.
 */
export interface Session<Inputs = Readonly<Record<string, Input>>, Outputs = Record<string, Tensor>> {
  readonly name: string;
  readonly entries: Readonly<Record<string, EntryInfo>>;
  readonly device: 'wasm' | 'webgpu';
  /** Why `auto` did not become WebGPU, where the bundle has it. */
  readonly fallback?: string | undefined;
  /** The name of the GPU, as far as its driver tells. */
  readonly adapter?: string;
  /** Inputs of the default entry. */
  readonly inputs: readonly PortInfo[];
  /** Outputs of the default entry. */
  readonly outputs: readonly PortInfo[];
  /** Threads that compute, the caller's included. */
  readonly threads: number;
  /** Whether the fused multiply-add kernels run. */
  readonly relaxed: boolean;
  /** Bytes of memory held (on the GPU for WebGPU): weights, arena and scratch for the largest sizes so far. 0 when disposed. */
  readonly peakBytes: number;
  /**
   * Computes the outputs. Inputs are checked before anything executes; their elements are read when the run's turn
   * comes, so leave them alone until then.
   *
   * @throws HeddleError `input`, `option`, `memory`, `kernel`, `device` or `disposed`
   */
  run(inputs: Inputs, options?: RunOptions): Promise<Outputs>;
  /**
   * On WebGPU: as `run`, but leaves the outputs in GPU memory.
   *
   * @throws HeddleError as `run`
   */
  runOnDevice?(inputs: Inputs, options?: RunOptions): Promise<{ readonly [K in keyof Outputs]: DeviceTensor }>;
  /** Runs the recorded cases on this device and compares. */
  selftest(): Promise<SelfTestResult>;
  /** Stops the threads and drops the memory; runs under way or queued reject. Calling it again does nothing. */
  dispose(): void;
}
