/** The steps of an entry under one binding of its symbols: flat, with addresses computed as far as they can be. */
import { layoutArena } from './arena.ts';
import { elementBytes, MAX_MEMORY } from './check.ts';
import { HeddleError } from './error.ts';
import { type Late, type Num, within } from './late.ts';
import { type Address, type Copy, type EntryPlan, type Launch, type Port, type Size, sizeOf } from './manifest.ts';
import { type Control, layOut } from './steps.ts';

type Symbols = Readonly<Record<string, number>>;

export interface LaunchOp {
  readonly kind: 'launch';
  readonly label: string;
  readonly kernel: number;
  /** Addresses and parameters, and two places for the range; late ones are 0 until they are known. */
  readonly args: number[];
  readonly late: readonly { readonly i: number; readonly value: Late }[];
  /** What each argument grows by from one thread to the next: the size of a scratch, or 0. */
  readonly strides: readonly number[];
  readonly grid: Num;
  readonly chunk: Num;
}

/** Bytes to move; addresses are absolute. */
export interface CopyOp {
  readonly kind: 'copy';
  readonly from: Num;
  readonly to: Num;
  readonly bytes: Num;
}

export interface PortPlace {
  readonly port: Port;
  readonly at: number;
  /** Bytes of the buffer. */
  readonly room: number;
  /** That of an output is set at the end of each run, when all sizes are known. */
  shape: readonly number[];
}

export interface Program {
  readonly ops: readonly (LaunchOp | CopyOp | Control<Num>)[];
  readonly inputs: readonly PortPlace[];
  readonly outputs: readonly PortPlace[];
  /** Bytes of memory from address 0. */
  readonly bytes: number;
  readonly symbols: Symbols;
}

/** First address that is not reserved: the weights start here. */
export const WEIGHTS_AT = 64;

/** Rounds up to a whole number of cache lines. */
export const lines = (bytes: number): number => Math.ceil(bytes / 64) * 64;

/** The shape of a port under symbols, checked against its buffer. @throws HeddleError `manifest` */
export function shapeOf({ port, room }: Pick<PortPlace, 'port' | 'room'>, symbols: Symbols): readonly number[] {
  const shape = port.shape.map((size) => within(sizeOf(size, symbols), 0, MAX_MEMORY, `a size of ${port.name}`));
  within(
    shape.reduce((a, b) => a * b, elementBytes[port.dtype]),
    0,
    room,
    `the size of ${port.name}`,
  );
  return shape;
}

/** Replaces what is known by numbers. */
function fold(size: Size, symbols: Symbols): Size {
  if (typeof size === 'string') return symbols[size] ?? size;
  if (typeof size === 'number') return size;
  const folded: Size = [size[0], fold(size[1], symbols), fold(size[2], symbols)];
  return typeof folded[1] === 'number' && typeof folded[2] === 'number' ? sizeOf(folded, symbols) : folded;
}

/**
 * @param weightBytes  size of the weights, which stand at `WEIGHTS_AT`; the arena follows, then a scratch per thread
 * @throws HeddleError `memory` when it does not fit into 4 GiB; `manifest`
 */
export function bindProgram(plan: EntryPlan, symbols: Symbols, weightBytes: number, threads: number): Program {
  const arena = layoutArena(plan.buffers, symbols);
  const arenaAt = WEIGHTS_AT + lines(weightBytes);
  const scratchAt = arenaAt + arena.bytes;
  const scratch = lines(plan.scratch);
  const bytes = scratchAt + threads * scratch;
  // The negation also catches NaN, from sizes that divide by zero.
  if (!(bytes >= 0 && bytes <= MAX_MEMORY)) {
    throw new HeddleError(
      'memory',
      `these sizes need ${(bytes / 2 ** 30).toFixed(2)} GiB; a WebAssembly memory holds 4. Use smaller sizes.`,
    );
  }
  const sizes = plan.buffers.map((buffer) => within(sizeOf(buffer.bytes, symbols), 0, MAX_MEMORY, 'a buffer size'));

  const num = (size: Size, min: number, max: number, what: string, base = 0): Num => {
    const folded = fold(size, symbols);
    return typeof folded === 'number' ? base + within(folded, min, max, what) : { base, size: folded, min, max };
  };
  const address = (a: Address, length = 0): Num => {
    if ('s' in a) return scratchAt + a.s;
    const [base, limit] =
      'b' in a ? [arenaAt + arena.offsets[a.b]!, sizes[a.b]!] : [WEIGHTS_AT + a.w, weightBytes - a.w];
    return num(a.at ?? 0, 0, Math.max(0, limit - length), 'an offset', base);
  };
  const launch = (step: Launch): LaunchOp => {
    const int = 2 ** 31;
    const nums = [
      ...step.args.map((each) => address(each)),
      ...step.params.map((size) => num(size, -int, int - 1, `a parameter of ${step.label}`)),
    ];
    return {
      kind: 'launch',
      label: step.label,
      kernel: step.kernel,
      args: [...nums.map((each) => (typeof each === 'number' ? each : 0)), 0, 0],
      late: nums.flatMap((value, i) => (typeof value === 'number' ? [] : [{ i, value }])),
      strides: [...step.args.map((each) => ('s' in each ? scratch : 0)), ...step.params.map(() => 0)],
      grid: num(step.grid, 0, int - 1, `the grid of ${step.label}`),
      chunk: num(step.chunk, 1, int - 1, `the chunk of ${step.label}`),
    };
  };
  const copy = (step: Copy): CopyOp => {
    const bytes = num(step.bytes, 0, MAX_MEMORY, 'the length of a copy');
    const least = typeof bytes === 'number' ? bytes : 0;
    return { kind: 'copy', from: address(step.from, least), to: address(step.to, least), bytes };
  };
  const ops = layOut<LaunchOp | CopyOp, Num>(plan.steps, {
    num,
    look: address,
    work: (step) => ('kernel' in step ? launch(step) : copy(step)),
  });

  const place = (port: Port): PortPlace => {
    const room = sizes[port.buffer]!;
    const known = port.shape.every((size) => typeof fold(size, symbols) === 'number');
    const shape = known ? shapeOf({ port, room }, symbols) : [];
    return { port, at: arenaAt + arena.offsets[port.buffer]!, room, shape };
  };
  return { ops, inputs: plan.inputs.map(place), outputs: plan.outputs.map(place), bytes, symbols };
}
