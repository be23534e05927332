/** What a model promises of its outputs, and what it leaves open. */
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import { typeOf } from '../../ir/graph.ts';
import { observed as observedRows, readRows } from '../../ir/interface.ts';
import { not } from '../../ir/ops/elementwise.ts';
import { callSite } from './location.ts';
import { type Shape, Tensor } from './tensor.ts';

/** Which rows of an output its readers look at. Exactly one of `where`, `dontCare` and `rows` is given. */
export interface Observed {
  /** True for what is read: leading axes of the output, `[B, N]` for rows of `[B, N, D]`; axes of size 1 stretch. */
  readonly where?: Tensor<'bool'>;
  /** True for what is not read, as `where` otherwise: `{ dontCare: padding }`. */
  readonly dontCare?: Tensor<'bool'>;
  /**
   * The first row, the last row, the row of a number (negative: from the end), or rows at positions: i32 or i64, [P] for all
   * batch entries or [B, P].
   */
  readonly rows?: 'cls' | 'last' | number | Tensor;
  /** The axis of the rows. Default 1. */
  readonly axis?: number;
}

/**
 * An output of which only some rows are read; the others are zeros. The compiler then computes only what those rows need.
 *
 * ```ts
 * return { pred: output(pred, { where: removed }), last: output(logits, { rows: 'last' }) };
 * ```
 *
 * @throws CompileError `usage` unless exactly one of `where`, `dontCare` and `rows` is given; `shape` where they do not fit
 */
export function output<D extends Scalar, S extends Shape>(x: Tensor<D, S>, observed: Observed): Tensor<D, S> {
  const { where, dontCare, rows, axis = 1 } = observed;
  if ([where, dontCare, rows].filter((given) => given !== undefined).length !== 1)
    fail('usage', 'output: give either where, dontCare or rows', {
      loc: callSite(),
      help: "output(x, { rows: 'last' })",
    });
  const rank = x.shape.length;
  if (!Number.isInteger(axis) || axis < 0 || axis >= rank)
    fail('rank', `output: axis ${axis} does not exist in rank ${rank}`, { loc: callSite() });
  if (rows instanceof Tensor && rows.shape.length !== 1 && (rows.shape.length !== 2 || axis === 0))
    fail('rank', `output: rows must be [P] or [B, P], not of rank ${rows.shape.length}`, { loc: callSite() });
  const named = rows instanceof Tensor ? rows.value : rows;
  const read = where?.value ?? (dontCare ? not([dontCare.value]) : readRows(named!, x.shape, axis));
  const given = typeOf(read).shape.length;
  if (given > rank)
    fail('rank', `output: ${where ? 'where' : 'dontCare'} has rank ${given}, and the output only ${rank}`, {
      loc: callSite(),
    });
  return new Tensor(observedRows(x.value, read, callSite())) as Tensor as Tensor<D, S>;
}
