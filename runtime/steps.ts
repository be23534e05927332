/** The control flow of a program, the same on every device: steps laid out flat, and the walk over them. */
import { HeddleError } from './error.ts';
import { type Num, numberOf } from './late.ts';
import type { Address, Copy, Launch, Size, Step } from './manifest.ts';

/** Instructions that decide what runs next; `At` says where a device finds a number. Targets are positions in the list. */
export type Control<At> =
  | { readonly kind: 'enter'; readonly symbol: string; readonly trips: Num; readonly reverse: boolean; end: number }
  | { readonly kind: 'next'; readonly start: number }
  | { readonly kind: 'unless'; readonly at: At; target: number }
  | { readonly kind: 'jump'; target: number }
  | { readonly kind: 'count'; readonly symbol: string; readonly at: At; readonly min: Num; readonly max: Num };

/** What a device makes of the parts of a step. */
export interface Layout<Work, At> {
  num(size: Size, min: number, max: number, what: string): Num;
  /** Where the plan looks at a number of that many bytes. */
  look(address: Address, bytes: number): At;
  /** What computes or moves data. Its `kind` is none of those of `Control`. */
  work(step: Launch | Copy): Work;
}

const MOST = 2 ** 31 - 1;

/** Lays the steps out flat. */
export function layOut<Work, At>(plan: readonly Step[], to: Layout<Work, At>): (Work | Control<At>)[] {
  const ops: (Work | Control<At>)[] = [];
  const emit = (steps: readonly Step[]): void => {
    for (const step of steps) {
      if ('loop' in step) {
        const trips = to.num(step.trips, 0, MOST, `the trips of ${step.loop}`);
        const enter = { kind: 'enter' as const, symbol: step.loop, trips, reverse: step.reverse, end: 0 };
        const start = ops.push(enter) - 1;
        emit(step.steps);
        enter.end = ops.push({ kind: 'next', start });
      } else if ('if' in step) {
        const unless = { kind: 'unless' as const, at: to.look(step.if, 1), target: 0 };
        ops.push(unless);
        emit(step.then);
        const jump = { kind: 'jump' as const, target: 0 };
        unless.target = ops.push(jump);
        emit(step.else);
        jump.target = ops.length;
      } else if ('count' in step) {
        const [min, max] = [step.min, step.max].map((size) => to.num(size, 0, MOST, `a bound of ${step.count}`));
        ops.push({ kind: 'count', symbol: step.count, at: to.look(step.at, 4), min: min!, max: max! });
      } else ops.push(to.work(step));
    }
  };
  emit(plan);
  return ops;
}

/** A number that the walk has to be told: a condition, of which it asks whether it is 0, or an i32 that the data decide. */
export interface Look<At> {
  readonly kind: 'look';
  readonly at: At;
  readonly what: 'condition' | 'count';
}

/**
 * Goes through the list once: yields what is to be done, in order, with its position, and what it has to know, to which the
 * answer is passed to `next`. Symbols of loops and counts are set in `symbols` before what depends on them.
 *
 * @throws HeddleError `manifest` when a late number is out of bounds, `input` for a counted size outside its bounds
 */
export function* walk<Work extends { readonly kind: string }, At>(
  ops: readonly (Work | Control<At>)[],
  symbols: Record<string, number>,
): Generator<readonly [op: Work | Look<At>, at: number], void, number | undefined> {
  const isControl = (op: Work | Control<At>): op is Control<At> => CONTROL.has(op.kind);
  const done: number[] = [];
  for (let pc = 0; pc < ops.length; ) {
    const at = pc++;
    const op = ops[at]!;
    if (!isControl(op)) yield [op, at];
    else if (op.kind === 'enter') {
      const trips = numberOf(op.trips, symbols, op.symbol);
      done[at] = 0;
      if (trips === 0) pc = op.end;
      else symbols[op.symbol] = op.reverse ? trips - 1 : 0;
    } else if (op.kind === 'next') {
      const loop = ops[op.start]!;
      if (!isControl(loop) || loop.kind !== 'enter') continue;
      const trips = numberOf(loop.trips, symbols, loop.symbol);
      const i = ++done[op.start]!;
      if (i < trips) {
        symbols[loop.symbol] = loop.reverse ? trips - 1 - i : i;
        pc = op.start + 1;
      } else delete symbols[loop.symbol];
    } else if (op.kind === 'unless') {
      if ((yield [{ kind: 'look', at: op.at, what: 'condition' }, at]) === 0) pc = op.target;
    } else if (op.kind === 'count') {
      const count = (yield [{ kind: 'look', at: op.at, what: 'count' }, at])!;
      const [least, most] = [numberOf(op.min, symbols, op.symbol), numberOf(op.max, symbols, op.symbol)];
      if (count < least || count > most) {
        const range = `${least} … ${most}`;
        throw new HeddleError('input', `size "${op.symbol}" is ${count} by the data; the bundle takes ${range}.`);
      }
      symbols[op.symbol] = count;
    } else pc = op.target;
  }
}

const CONTROL: ReadonlySet<string> = new Set<Control<unknown>['kind']>(['enter', 'next', 'unless', 'jump', 'count']);
