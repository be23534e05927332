/**
 * Loops, branches and counts of a program on WebGPU: laid out flat, and walked. Bundles that only launch kernels one after
 * another ship without this: see `compiler/build-runtime.ts`.
 */
import { type Num, numberOf } from './late.ts';
import type { Address, Loop, Size, Step } from './manifest.ts';
import type { Counting, CountOp, KeptCounts, Range } from './webgpu-counts.ts';

/** Instructions that decide what runs next; targets are positions in the list. */
export type ControlOp =
  | { readonly kind: 'enter'; readonly symbol: string; readonly trips: Num; readonly reverse: boolean; end: number }
  | { readonly kind: 'next'; readonly start: number }
  | { readonly kind: 'unless'; readonly at: Range; target: number }
  | { readonly kind: 'jump'; target: number }
  | CountOp;

type Symbols = Readonly<Record<string, number>>;

/** What lays out a program. */
export interface Layout {
  readonly ops: { readonly length: number; push(op: ControlOp): number };
  readonly counts: KeptCounts;
  readonly emit: (steps: readonly Step[]) => void;
  readonly num: (size: Size, symbols: Symbols, min: number, max: number, what: string) => Num;
  readonly word: (address: Address) => Range;
  readonly symbols: Symbols;
}

const MOST = 2 ** 31 - 1;

/** Lays out a step that is no launch. @returns whether there are such steps */
export function layOut(step: Step, to: Layout): boolean {
  const { ops, emit, num, word, symbols } = to;
  if ('loop' in step) layOutLoop(step, to);
  else if ('if' in step) {
    const unless = { kind: 'unless' as const, at: word(step.if), target: 0 };
    ops.push(unless);
    emit(step.then);
    const jump = { kind: 'jump' as const, target: 0 };
    unless.target = ops.push(jump);
    emit(step.else);
    jump.target = ops.length;
  } else if ('count' in step) ops.push(to.counts.op(step, { emit, num, word, symbols }));
  else return false;
  return true;
}

function layOutLoop(step: Loop, { ops, emit, num, symbols }: Layout): void {
  const trips = num(step.trips, symbols, 0, MOST, `the trips of ${step.loop}`);
  const enter = { kind: 'enter' as const, symbol: step.loop, trips, reverse: step.reverse, end: 0 };
  const start = ops.push(enter) - 1;
  emit(step.steps);
  enter.end = ops.push({ kind: 'next', start });
}

/** Where one run of a program stands in its loops. */
export class Walk {
  readonly #symbols: Record<string, number>;
  /** By position: trips that are done. */
  readonly #done: number[] = [];

  constructor(symbols: Record<string, number>) {
    this.#symbols = symbols;
  }

  /**
   * What runs after an instruction at a position.
   *
   * @param look  reads an i32, once all launches before are done
   * @param take  binds a count
   */
  async after(
    op: ControlOp,
    at: number,
    ops: readonly { readonly kind: string }[],
    look: (at: Range) => Promise<number>,
    take: (op: CountOp) => ReturnType<Counting['take']>,
  ): Promise<number> {
    const symbols = this.#symbols;
    switch (op.kind) {
      case 'enter': {
        const trips = numberOf(op.trips, symbols, op.symbol);
        this.#done[at] = 0;
        if (trips === 0) return op.end;
        symbols[op.symbol] = op.reverse ? trips - 1 : 0;
        break;
      }
      case 'next': {
        const loop = ops[op.start] as Extract<ControlOp, { readonly kind: 'enter' }>;
        const trips = numberOf(loop.trips, symbols, loop.symbol);
        const i = ++this.#done[op.start]!;
        if (i < trips) {
          symbols[loop.symbol] = loop.reverse ? trips - 1 - i : i;
          return op.start + 1;
        }
        delete symbols[loop.symbol];
        break;
      }
      case 'unless':
        if ((await look(op.at)) === 0) return op.target;
        break;
      case 'count':
        await take(op);
        break;
      case 'jump':
        return op.target;
    }
    return at + 1;
  }
}
