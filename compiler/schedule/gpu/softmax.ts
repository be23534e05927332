/** Softmax and its logarithm over the last axis: a workgroup for each line, which is read from memory once. */
import type { Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { add, cast, div, exp, literal, log, lowest, lt, mul, select, splat, sub } from '../../../ir/scalar.ts';
import { asExpr } from '../../../ir/type.ts';
import type { Stage } from '../../region.ts';
import { operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { wide } from '../fold.ts';
import { scheduleSoftmax } from '../softmax.ts';
import { onePerInvocation } from './invocations.ts';
import { eachLine, foldWalk, GroupFold, isShort, KeptLine, Walk } from './rows.ts';

export function scheduleSoftmaxGpu(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape, dtype } = typeOf(root);
  const width = asExpr(shape.at(-1)!);
  if (isShort(width)) return onePerInvocation(scheduleSoftmax)(cx);
  const work = wide(dtype);
  const logarithm = root.op.name === 'log_softmax';
  return [
    eachLine(cx, shape, width, ({ at, t, size }, body) => {
      const x = (i: Expr): Expr => cast(operandAt(cx, 0, [...at, i]), work);
      const walk = new Walk(t, size, width, x);
      const line = new KeptLine(walk, work, x);
      const group = new GroupFold(cx, work, size);
      const shift = foldWalk(body, walk, t, group, { init: lowest(work), dtype: work, step: larger }, (i, inner) =>
        line.first(i, inner),
      );
      const weight = (v: Expr): Expr => exp(sub(v, splat(shift, v.lanes)));
      const sum = foldWalk(body, walk, t, group, { init: 0, dtype: work, step: add }, (i, inner) => {
        const e = inner.let('e', weight(line.again(i)));
        if (!logarithm) line.keep(i, e, inner);
        return e;
      });
      const last = logarithm ? body.let('log_sum', log(sum)) : body.let('inverse', div(literal(1, work), sum));
      walk.each(body, (i, inner) => {
        const value = logarithm
          ? sub(sub(line.again(i), splat(shift, walk.lanes)), splat(last, walk.lanes))
          : mul(line.again(i, weight), splat(last, walk.lanes));
        storeResult(cx, inner, [...at, i], cast(value, dtype));
      });
    }),
  ];
}

/** Passes over NaN, which the exponentials will meet again. */
const larger = (acc: Expr, x: Expr): Expr => select(lt(acc, x), x, acc);
