/**
 * Layer and RMS normalisation over the last axis, one line after another: the mean, then the centred squares (a single
 * pass over sum and sum of squares cancels where the mean is far above the deviation), then the results.
 */
import type { Scalar } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import type { Block } from '../../ir/kernel.ts';
import { add, cast, div, fma, literal, mul, sqrt, sub } from '../../ir/scalar.ts';
import type { Stage } from '../region.ts';
import { operandAt, type ScheduleContext, storeResult } from './context.ts';
import { eachRow, walk } from './element.ts';
import { countAs, Fold, wide } from './fold.ts';

/** Accumulating vectors; two cover the latency of an addition where another pass follows, four cover a fused one. */
const VECTORS = 4;

export function scheduleNorm(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape, dtype } = typeOf(root);
  const work = wide(dtype);
  const centred = root.op.name === 'layer_norm';
  return [
    eachRow(cx, shape, 4, ({ at, width }, body) => {
      const operand = (n: number, i: Expr): Expr => cast(operandAt(cx, n, n === 0 ? [...at, i] : [i]), work);
      const x = (i: Expr): Expr => operand(0, i);
      const count = countAs(width, work);
      const mean = centred ? body.let('mean', div(sumOf(body, work, width, x), count)) : undefined;
      const centre = (i: Expr): Expr => (mean ? sub(x(i), mean) : x(i));
      const squares = sumOfSquares(body, work, width, centre);
      const variance = add(div(squares, count), literal(Number(root.attrs.eps), work));
      const inverse = body.let('inverse', div(literal(1, work), sqrt(variance)));
      const hasScale = root.inputs.length > 1;
      const hasBias = root.inputs.length > 2;
      const result = (i: Expr): Expr => {
        const unit = mul(centre(i), inverse);
        const scaled = hasBias ? fma(unit, operand(1, i), operand(2, i)) : hasScale ? mul(unit, operand(1, i)) : unit;
        return cast(scaled, dtype);
      };
      walk(body, width, result, (i, value, inner) => storeResult(cx, inner, [...at, i], value));
    }),
  ];
}

function sumOf(block: Block, dtype: Scalar, count: Expr, element: (i: Expr) => Expr): Expr {
  const fold = new Fold(block, { dtype, init: 0, vectors: VECTORS, step: add });
  fold.line(block, count, element);
  return fold.total(block);
}

function sumOfSquares(block: Block, dtype: Scalar, count: Expr, element: (i: Expr) => Expr): Expr {
  const fold = new Fold(block, { dtype, init: 0, vectors: VECTORS, step: (acc, x) => fma(x, x, acc), join: add });
  fold.line(block, count, element, (_, x, inner) => inner.let('x', x));
  return fold.total(block);
}
