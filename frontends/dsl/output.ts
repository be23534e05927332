/** What a model promises of its outputs, and what it leaves open. */
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import { coords, scoreTerm } from '../../ir/ops/attention.ts';
import * as ops from '../../ir/ops/elementwise.ts';
import { places } from '../../ir/ops/rows.ts';
import { scalar } from '../../ir/ops/structural.ts';
import { eq, index, sub } from '../../ir/scalar.ts';
import type { Dim } from '../../ir/type.ts';
import { callSite } from './location.ts';
import { reshape } from './movement.ts';
import { apply, type Shape, Tensor } from './tensor.ts';

/** Which rows of an output its readers look at. Exactly one of `where` and `rows` is given. */
export interface Observed {
  /** True for what is read: leading axes of the output, `[B, N]` for rows of `[B, N, D]`; axes of size 1 stretch. */
  readonly where?: Tensor<'bool'>;
  /** The first row, the last row, or rows at positions: i32 or i64, [P] for all batch entries or [B, P]. */
  readonly rows?: 'cls' | 'last' | Tensor;
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
 * @throws CompileError `usage` unless exactly one of `where` and `rows` is given; `shape` where they do not fit
 */
export function output<D extends Scalar, S extends Shape>(x: Tensor<D, S>, observed: Observed): Tensor<D, S> {
  const { where, rows, axis = 1 } = observed;
  if ((where === undefined) === (rows === undefined))
    fail('usage', 'output: give either where or rows', { loc: callSite(), help: "output(x, { rows: 'last' })" });
  const rank = x.shape.length;
  if (!Number.isInteger(axis) || axis < 0 || axis >= rank)
    fail('rank', `output: axis ${axis} does not exist in rank ${rank}`, { loc: callSite() });
  const read: Tensor<'bool'> = where ?? rowsRead(rows!, x.shape, axis);
  const missing = rank - read.shape.length;
  if (missing < 0)
    fail('rank', `output: where has rank ${read.shape.length}, and the output only ${rank}`, { loc: callSite() });
  const wide = reshape(read, [...(read.shape as Shape), ...Array<number>(missing).fill(1)]);
  return apply(ops.select, [wide, x, new Tensor(scalar(0, x.dtype))]);
}

/** bool [1 or B, 1, …, N]: which rows of an axis are read. */
function rowsRead(rows: 'cls' | 'last' | Tensor, shape: Shape, axis: number): Tensor<'bool'> {
  const size = shape[axis]!;
  const lead = (batch: Dim): Dim[] =>
    Array.from({ length: axis + 1 }, (_, n) => (n === axis ? size : n === 0 ? batch : 1));
  if (!(rows instanceof Tensor)) {
    const row = rows === 'cls' ? index(0) : sub(index(size), 1);
    return reshape(
      apply(scoreTerm, [], { expr: eq(coords.k, row), shape: [1, 1, 1, size] }) as Tensor<'bool'>,
      lead(1),
    );
  }
  if (rows.shape.length !== 1 && (rows.shape.length !== 2 || axis === 0))
    fail('rank', `output: rows must be [P] or [B, P], not of rank ${rows.shape.length}`, { loc: callSite() });
  const numbers: Tensor = apply(ops.cast, [rows], { to: 'i32' });
  const length: Tensor = reshape(apply(scoreTerm, [], { expr: index(size), shape: [1, 1, 1, 1] }), []);
  const fromEnd: Tensor = apply(ops.add, [numbers, length]);
  const negative: Tensor = apply(ops.less, [numbers, 0]);
  const ids: Tensor = apply(ops.select, [negative, fromEnd, numbers]);
  const named: Tensor<'bool'> = apply(ops.greaterEqual, [apply(places, [ids], { size }), 0]);
  return reshape(named, lead(rows.shape.length === 2 ? rows.shape[0]! : 1));
}
