/** Softmax and its logarithm over the last axis, one line after another: largest element, exponentials and sum, results. */
import type { Buffer, Expr } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import { type Block, buffer } from '../../ir/kernel.ts';
import { add, cast, div, exp, literal, load, log, lowest, lt, mul, select, sub } from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import type { Stage } from '../region.ts';
import { operandAt, type ScheduleContext, storeResult } from './context.ts';
import { eachRow, walk } from './element.ts';
import { Fold, wide } from './fold.ts';

/** Longest line whose exponentials stand in the private memory of a thread, in elements. */
const LONGEST_LOCAL = 16384;

export function scheduleSoftmax(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape, dtype } = typeOf(root);
  const work = wide(dtype);
  const logarithm = root.op.name === 'log_softmax';
  return [
    eachRow(cx, shape, 16, ({ at, width, row, rows }, body) => {
      const x = (i: Expr): Expr => cast(operandAt(cx, 0, [...at, i]), work);
      const top = new Fold(body, { dtype: work, init: lowest(work), vectors: 4, step: larger });
      top.line(body, width, x);
      const shift = body.let('shift', top.total(body));
      const weight = (i: Expr): Expr => exp(sub(x(i), shift));
      const sum = new Fold(body, { dtype: work, init: 0, vectors: 2, step: add });
      const store = (i: Expr, value: Expr, inner: Block): void =>
        storeResult(cx, inner, [...at, i], cast(value, dtype));
      if (logarithm) {
        sum.line(body, width, weight);
        const total = body.let('log_sum', log(sum.total(body)));
        walk(body, width, (i) => sub(sub(x(i), shift), total), store);
        return;
      }
      const { line, from } = lineMemory(cx, width, rows, row);
      sum.line(body, width, weight, (i, e, inner) => {
        const named = inner.let('e', e);
        inner.store(line, add(from, i), named);
        return named;
      });
      const inverse = body.let('inverse', div(literal(1, work), sum.total(body)));
      walk(body, width, (i) => mul(load(line, add(from, i)), inverse), store);
    }),
  ];
}

/** Passes over NaN, which the exponentials will meet again: cheaper than a maximum that keeps it. */
const larger = (acc: Expr, x: Expr): Expr => select(lt(acc, x), x, acc);

/** Where a line's exponentials wait for their sum, and the index of the first. */
function lineMemory(cx: ScheduleContext, width: Expr, rows: Expr, row: Expr): { line: Buffer; from: Expr } {
  const work = wide(typeOf(cx.region.root).dtype);
  const most = boundsOf(width)[1];
  if (most <= LONGEST_LOCAL) {
    const line = buffer('line', work, Math.max(most, 1), { space: 'local', access: 'readwrite' });
    return { line, from: literal(0) };
  }
  return { line: cx.buffers.temp('lines', work, mul(rows, width)), from: mul(row, width) };
}
