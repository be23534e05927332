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

/** An input: elements alone, when the other inputs and the length leave one shape, or elements with their shape. */
export type Input = InputData | { readonly data: InputData; readonly shape?: readonly number[] };

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

/** How far `open` is; `loaded` and `total` count bytes (threads for `threads`). */
export interface Progress {
  readonly phase: 'manifest' | 'kernels' | 'weights' | 'threads' | 'ready';
  readonly loaded: number;
  readonly total: number;
}

export interface OpenOptions {
  /** Default `auto`, which is `wasm` today. */
  readonly device?: 'wasm' | 'auto';
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

/** Time spent in the launches with one label, workers' waits included, pauses for the event loop excluded. */
export interface ProfileRow {
  readonly label: string;
  readonly ms: number;
  readonly calls: number;
}

export interface RunOptions {
  /** Which function to run; default `main`, or the first. */
  readonly entry?: string;
  /** Checked while waiting, and about every 10 ms; aborting rejects with the signal's reason. The session stays usable. */
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
  /** Inputs of the default entry. */
  readonly inputs: readonly PortInfo[];
  /** Outputs of the default entry. */
  readonly outputs: readonly PortInfo[];
  /** Threads that compute, the caller's included. */
  readonly threads: number;
  /** Whether the fused multiply-add kernels run. */
  readonly relaxed: boolean;
  /** Bytes of memory held: weights, arena and scratch for the largest sizes so far. 0 when disposed. */
  readonly peakBytes: number;
  /**
   * Computes the outputs. Inputs are checked before anything executes; their elements are read when the run's turn
   * comes, so leave them alone until then.
   *
   * @throws HeddleError `input`, `option`, `memory`, `kernel` or `disposed`
   */
  run(inputs: Inputs, options?: RunOptions): Promise<Outputs>;
  /** Runs the recorded cases on this device and compares. */
  selftest(): Promise<SelfTestResult>;
  /** Stops the threads and drops the memory; runs under way or queued reject. Calling it again does nothing. */
  dispose(): void;
}
