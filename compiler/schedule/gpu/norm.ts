/** Layer and RMS normalisation over the last axis: a workgroup for each line, which is read from memory once. */
import type { Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { add, cast, div, fma, literal, mul, splat, sqrt, sub } from '../../../ir/scalar.ts';
import { asExpr } from '../../../ir/type.ts';
import type { Stage } from '../../region.ts';
import { operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { countAs, wide } from '../fold.ts';
import { scheduleNorm } from '../norm.ts';
import { onePerInvocation } from './invocations.ts';
import { eachLine, foldWalk, GroupFold, isShort, KeptLine, Walk } from './rows.ts';

export function scheduleNormGpu(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape, dtype } = typeOf(root);
  const width = asExpr(shape.at(-1)!);
  if (isShort(width)) return onePerInvocation(scheduleNorm)(cx);
  const work = wide(dtype);
  const sums = { init: 0, dtype: work, step: add } as const;
  return [
    eachLine(cx, shape, width, ({ at, t, size }, body) => {
      const operand = (n: number, i: Expr): Expr => cast(operandAt(cx, n, n === 0 ? [...at, i] : [i]), work);
      const walk = new Walk(t, size, width, (i) => operand(0, i));
      const line = new KeptLine(walk, work, (i) => operand(0, i));
      const group = new GroupFold(cx, work, size);
      const count = countAs(width, work);
      const centred = root.op.name === 'layer_norm';
      const mean = centred
        ? body.let(
            'mean',
            div(
              foldWalk(body, walk, t, group, sums, (i, inner) => line.first(i, inner)),
              count,
            ),
          )
        : undefined;
      const centre = (x: Expr): Expr => (mean ? sub(x, splat(mean, x.lanes)) : x);
      const square = { ...sums, step: (acc: Expr, x: Expr): Expr => fma(x, x, acc), join: add };
      const squares = foldWalk(body, walk, t, group, square, (i, inner) =>
        inner.let('x', centred ? centre(line.again(i)) : line.first(i, inner)),
      );
      const variance = add(div(squares, count), literal(Number(root.attrs.eps), work));
      const inverse = body.let('inverse', div(literal(1, work), sqrt(variance)));
      walk.each(body, (i, inner) => {
        const unit = mul(centre(line.again(i)), splat(inverse, walk.lanes));
        const along = (n: number): Expr => walk.pack(i, (j) => operand(n, j));
        const scaled =
          root.inputs.length > 2 ? fma(unit, along(1), along(2)) : root.inputs.length > 1 ? mul(unit, along(1)) : unit;
        storeResult(cx, inner, [...at, i], cast(scaled, dtype));
      });
    }),
  ];
}
