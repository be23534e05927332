/** Positions of extrema: the best element so far and where it stood. */
import { isFloat } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import type { Block } from '../../ir/kernel.ts';
import { normalizeAxis } from '../../ir/ops/check.ts';
import { add, and, cast, extract, isNaN, le, literal, lt, not, or, select, splat, zero } from '../../ir/scalar.ts';
import { asExpr } from '../../ir/type.ts';
import { fillsLanes } from '../access.ts';
import type { Stage } from '../region.ts';
import { neighbours, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { alongAxis, type Line } from './lines.ts';

export function scheduleArgReduce(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape } = typeOf(root.inputs[0]!);
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  const size = asExpr(shape[axis]!);
  const replaces = rule(root.op.name === 'arg_max', root.attrs.last === true);
  const search = (block: Block, line: Line): void => {
    const { lanes } = line;
    const x = (n: Expr): Expr => neighbours(line.at(n), lanes, (at) => operandAt(cx, 0, at));
    const best = block.var('best', x(literal(0)));
    const position = block.var('position', zero('i32', lanes));
    block.for('n', 1, size, (n, body) => {
      const v = body.let('v', x(n));
      const better = body.let('better', replaces(v, best));
      body.set(best, select(better, v, best));
      body.set(position, select(better, splat(n, lanes), position));
    });
    const at = root.attrs.keepdims === true ? line.at(literal(0)) : line.outer;
    storePositions(cx, block, at, position);
  };
  return [alongAxis(cx, shape, axis, search)];
}

/** Whether a later element takes the place of the best one; NaN beats every number. */
function rule(largest: boolean, last: boolean): (v: Expr, best: Expr) => Expr {
  return (v, best) => {
    const compare = last ? le : lt;
    const beats = largest ? compare(best, v) : compare(v, best);
    if (!isFloat(v.dtype)) return beats;
    return or(beats, last ? isNaN(v) : and(isNaN(v), not(isNaN(best))));
  };
}

function storePositions(cx: ScheduleContext, block: Block, at: readonly Expr[], position: Expr): void {
  const { dtype } = typeOf(cx.region.root);
  if (position.lanes === 1 || fillsLanes(dtype)) {
    storeResult(cx, block, at, cast(position, dtype));
    return;
  }
  for (let j = 0; j < position.lanes; j++)
    storeResult(cx, block, at.with(-1, add(at.at(-1)!, j)), cast(extract(position, j), dtype));
}
