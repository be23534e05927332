/** Folds of many elements into one: independent accumulators in vectors, so that steps do not wait for each other. */
import { isFloat, type Scalar } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import type { Block } from '../../ir/kernel.ts';
import { add, cast, extract, floordiv, literal, mul, sub } from '../../ir/scalar.ts';
import { fillsLanes, packLanes } from '../access.ts';

/** The type in which elements of `dtype` are summed and normalised: half floats are widened. */
export const wide = (dtype: Scalar): Scalar => (isFloat(dtype) && dtype !== 'f32' && dtype !== 'f64' ? 'f32' : dtype);

export interface FoldSpec {
  /** Identity of `step`; every accumulator starts there. */
  readonly init: number;
  readonly dtype: Scalar;
  /** Vectors of four lanes that one turn of the loop fills; 1 where each element is much work. */
  readonly vectors: number;
  /** Adds an element, scalar or vector, to an accumulator. */
  step(acc: Expr, x: Expr): Expr;
  /** Joins two accumulators; `step` when not given. */
  join?(a: Expr, b: Expr): Expr;
}

/** Accumulators of one fold: fill them from any number of loops, then take the total. */
export class Fold {
  private readonly spec: FoldSpec;
  private readonly lanes: readonly Expr[];
  private readonly rest: Expr;

  constructor(block: Block, spec: FoldSpec) {
    this.spec = spec;
    const { dtype, init } = spec;
    const vectors = fillsLanes(dtype) ? spec.vectors : 0;
    this.lanes = Array.from({ length: vectors }, (_, i) => block.var(`lanes${i}`, literal(init, dtype, 4)));
    this.rest = block.var('rest', literal(init, dtype));
  }

  /**
   * Folds `element(0 … count − 1)`.
   * @param use sees every element (scalar or vector) with its first index before it is folded, and returns what to fold
   */
  line(
    block: Block,
    count: Expr,
    element: (i: Expr) => Expr,
    use: (i: Expr, x: Expr, block: Block) => Expr = (_, x) => x,
  ): void {
    const { lanes, spec } = this;
    let done: Expr = literal(0);
    for (const vectors of new Set([lanes.length, Math.min(1, lanes.length)])) {
      if (vectors === 0) break;
      const turn = vectors * 4;
      const end = add(done, mul(floordiv(sub(count, done), turn), turn));
      block.for(
        'i',
        done,
        end,
        (i, body) => {
          for (let v = 0; v < vectors; v++) {
            const at = add(i, v * 4);
            const x = packLanes([0, 1, 2, 3].map((j) => element(add(at, j))));
            body.set(lanes[v]!, spec.step(lanes[v]!, use(at, x, body)));
          }
        },
        { step: turn },
      );
      done = end;
    }
    block.for('i', done, count, (i, body) => body.set(this.rest, spec.step(this.rest, use(i, element(i), body))));
  }

  total(block: Block): Expr {
    const join = this.spec.join ?? this.spec.step;
    if (this.lanes.length === 0) return this.rest;
    const vector = block.let('folded', pairwise(this.lanes, join));
    const scalars = [0, 1, 2, 3].map((lane) => extract(vector, lane));
    return block.let('total', join(pairwise(scalars, join), this.rest));
  }
}

/** Joins neighbours, then their results, and so on: the shortest chain. */
function pairwise(parts: readonly Expr[], join: (a: Expr, b: Expr) => Expr): Expr {
  let level = parts;
  while (level.length > 1)
    level = Array.from({ length: Math.ceil(level.length / 2) }, (_, i) =>
      level[2 * i + 1] ? join(level[2 * i]!, level[2 * i + 1]!) : level[2 * i]!,
    );
  return level[0]!;
}

/** The number of elements as a float. */
export const countAs = (count: Expr, dtype: Scalar): Expr =>
  count.op === 'const' ? literal(count.arg as number, dtype) : cast(count, dtype);
