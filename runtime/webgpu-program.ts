/** The steps of an entry under one binding of its symbols: flat, with every GPU buffer range known. */
import { layoutArena } from './arena.ts';
import { HeddleError } from './error.ts';
import { type Num, numberOf } from './late.ts';
import { type Address, type EntryPlan, type Launch, type Port, type Size, type Step, sizeOf } from './manifest.ts';
import { product } from './tensor.ts';
import { type ControlOp, layOut } from './webgpu-control.ts';
import { KeptCounts, type Range } from './webgpu-counts.ts';
import { WORD } from './webgpu-data.ts';
import { offsetsOf, type Pipeline } from './webgpu-kernels.ts';
import { BINDING_ALIGN, type WeightRange } from './webgpu-weights.ts';

export type { Range } from './webgpu-counts.ts';

type Symbols = Readonly<Record<string, number>>;

/** What the program is bound to. */
export interface Bindings {
  readonly pipelines: readonly (Pipeline | undefined)[];
  /** The parts of the weight memory by GPU buffer. */
  readonly weights: readonly WeightRange[];
  /** Where bindings of weights start, and their end. */
  readonly starts: readonly number[];
  readonly limits: Pick<GPUSupportedLimits, 'maxStorageBufferBindingSize' | 'maxBufferSize'>;
}

export interface GpuLaunch {
  readonly kind: 'launch';
  readonly label: string;
  readonly kernel: number;
  /** By storage binding. */
  readonly ranges: readonly Range[];
  /** Workgroups. */
  readonly grid: Num;
  /** The uniform's i32s. */
  readonly words: readonly Num[];
  /** Where its uniform stands among those of the program; undefined when the host learns a word as the program runs. */
  readonly block: number | undefined;
  /** Where the device finds its workgroups, in bytes among the uniforms of the program. */
  readonly indirect: number | undefined;
}

/** One instruction. */
export type GpuOp = GpuLaunch | ControlOp;

export interface GpuPort {
  readonly port: Port;
  readonly at: number;
  /** Bytes of the buffer. */
  readonly room: number;
}

export interface GpuProgram {
  readonly ops: readonly GpuOp[];
  readonly inputs: readonly GpuPort[];
  readonly outputs: readonly GpuPort[];
  /** Bytes of the arena. */
  readonly bytes: number;
  /** The uniforms of all launches that are known, and room for grids that are not, `BINDING_ALIGN` apart. */
  readonly uniforms: Int32Array<ArrayBuffer>;
  readonly symbols: Symbols;
  /** Frees what the device holds for the program; set when it first runs. */
  drop?: () => void;
}

const bad = (what: string): HeddleError => new HeddleError('manifest', `manifest: ${what}. Compile the bundle again.`);

function isKnown(size: Size, symbols: Symbols): boolean {
  if (typeof size === 'number') return true;
  return typeof size === 'string'
    ? Object.hasOwn(symbols, size)
    : isKnown(size[1], symbols) && isKnown(size[2], symbols);
}

function num(size: Size, symbols: Symbols, min: number, max: number, what: string): Num {
  const late = { base: 0, size, min, max };
  return isKnown(size, symbols) ? numberOf(late, symbols, what) : late;
}

const INT = 2 ** 31;
/** Workgroups in a row of a dispatch. */
export const ROW = 65535;

/** The sizes of a port, once all symbols are known. @throws HeddleError `manifest` when its buffer is too small */
export function shapeOf({ port, room }: GpuPort, symbols: Symbols): number[] {
  const shape = port.shape.map((size) => sizeOf(size, symbols));
  if (!(product(shape) * WORD <= room)) throw bad(`${port.name} does not fit into its buffer`);
  return shape;
}

/** A storage binding ends at a multiple of 16 bytes. */
const rounded = (bytes: number): number => Math.max(16, Math.ceil(bytes / 16) * 16);

/** @throws HeddleError `memory` when the device cannot hold or bind what these sizes need; `manifest` */
export function bindGpuProgram(plan: EntryPlan, symbols: Symbols, to: Bindings): GpuProgram {
  // No buffer is empty, so that every binding has a place of its own.
  const buffers = plan.buffers.map((buffer) => ({ ...buffer, bytes: ['max', buffer.bytes, 16] as const }));
  const sizes = buffers.map(({ bytes }) => sizeOf(bytes, symbols));
  const arena = layoutArena(buffers, symbols, BINDING_ALIGN);
  const most = to.limits.maxBufferSize;
  if (!(arena.bytes <= most)) {
    const wants = `${(arena.bytes / 2 ** 20).toFixed(0)} MiB`;
    throw new HeddleError(
      'memory',
      `these sizes need ${wants} of GPU memory in one buffer; the device allows ${most} bytes. Use smaller sizes.`,
    );
  }
  const whole: Range = { at: 0, bytes: Math.max(BINDING_ALIGN, arena.bytes) };
  const blocks: (readonly number[])[] = [];
  const places = new Map<string, number>();
  const counts = new KeptCounts(blocks);

  const inArena = (address: Address): number => {
    if (!('b' in address)) throw bad('a step looks at what is no buffer of the arena');
    return arena.offsets[address.b]!;
  };
  const inWeights = (from: number, bytes: number): Range => {
    const weights = to.weights.findIndex((range) => from >= range.from && from < range.from + range.bytes);
    const range = to.weights[weights];
    if (range === undefined || from + bytes > range.from + Math.ceil(range.bytes / 16) * 16) {
      throw bad(`no GPU buffer holds the weight at ${from}`);
    }
    return { weights, at: from - range.from, bytes };
  };
  /** The first word, which the steps of a plan look at. */
  const word = (address: Address): Range =>
    'w' in address ? inWeights(address.w, WORD) : { at: inArena(address), bytes: WORD };
  /** The weight at `from` ends at or before the next one. */
  const wholeWeight = (from: number): Range => {
    const end = to.starts.find((start) => start > from) ?? from;
    const limit = Math.floor(to.limits.maxStorageBufferBindingSize / BINDING_ALIGN) * BINDING_ALIGN;
    return inWeights(from, Math.min(limit, rounded(end - from)));
  };

  const launch = (step: Launch): GpuLaunch => {
    const { args, label, params } = step;
    const pipeline = to.pipelines[step.kernel];
    if (pipeline === undefined) throw bad(`${label} launches a kernel that was not compiled`);
    const { bindings } = pipeline.kernel;
    const ranges = bindings.map((binding): Range => {
      if ('arena' in binding) return whole;
      if ('weights' in binding) {
        if (to.weights.length !== 1) throw new HeddleError('memory', `${label} needs all weights in one GPU buffer.`);
        return { weights: 0, at: 0, bytes: rounded(to.weights[0]!.bytes) };
      }
      const address = args[binding.arg]!;
      if ('w' in address) {
        return 'from' in binding ? inWeights(address.w + binding.from, rounded(binding.bytes)) : wholeWeight(address.w);
      }
      return { at: inArena(address), bytes: rounded('b' in address ? sizes[address.b]! : 0) };
    });
    checkRanges(label, ranges, to.limits.maxStorageBufferBindingSize);
    const offsets = bindings.flatMap((binding) =>
      offsetsOf(binding).map((i): number => {
        const address = args[i]!;
        return ('w' in address ? address.w : inArena(address)) / WORD;
      }),
    );
    const word = (size: Size): Num => counts.word(size) ?? num(size, symbols, -INT, INT - 1, `a parameter of ${label}`);
    const words = [...params.map(word), ...offsets];
    const grid = num(step.grid, symbols, 0, INT - 1, `the grid of ${label}`);
    const indirect = counts.grid(step.grid);
    return { kind: 'launch', label, kernel: step.kernel, ranges, grid, words, block: blockOf(words), indirect };
  };
  const blockOf = (words: readonly Num[]): number | undefined => {
    if (words.length === 0 || !words.every((word) => typeof word === 'number')) return undefined;
    const key = words.join();
    let block = places.get(key);
    if (block === undefined) {
      block = (blocks.push(words) - 1) * BINDING_ALIGN;
      places.set(key, block);
    }
    return block;
  };

  const ops: GpuOp[] = [];
  const emit = (steps: readonly Step[]): void => {
    for (const step of steps) {
      if ('kernel' in step) ops.push(launch(step));
      else if (!layOut(step, layout)) throw bad('a plan for WebGPU copies bytes');
    }
  };
  const layout = { ops, counts, emit, num, word, symbols };
  emit(plan.steps);

  const place = (port: Port): GpuPort => ({ port, at: arena.offsets[port.buffer]!, room: sizes[port.buffer]! });
  const uniforms = new Int32Array((blocks.length * BINDING_ALIGN) / WORD);
  for (const [i, words] of blocks.entries()) {
    if (words.length * WORD > BINDING_ALIGN) throw bad(`a launch has ${words.length} parameters`);
    uniforms.set(words, (i * BINDING_ALIGN) / WORD);
    counts.place(words, i);
  }
  const [inputs, outputs] = [plan.inputs.map(place), plan.outputs.map(place)];
  return { ops, inputs, outputs, bytes: whole.bytes, uniforms, symbols };
}

/** WebGPU refuses bindings that are too large, and two that may write the same bytes. */
function checkRanges(label: string, ranges: readonly Range[], most: number): void {
  for (const [i, a] of ranges.entries()) {
    if (a.bytes > most) {
      throw new HeddleError(
        'memory',
        `${label} binds ${a.bytes} bytes at once; the device allows ${most}. Use smaller sizes, or device "wasm".`,
      );
    }
    for (const b of ranges.slice(i + 1)) {
      if (a.weights !== undefined || b.weights !== undefined) continue;
      if (a.at < b.at + b.bytes && b.at < a.at + a.bytes) throw bad(`${label} binds the same bytes twice`);
    }
  }
}
