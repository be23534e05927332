/** Positions of extrema: the best element so far and where it stood. */
import { intRange, isFloat, isInt, type Scalar } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import type { Block } from '../../ir/kernel.ts';
import { normalizeAxis } from '../../ir/ops/check.ts';
import {
  add,
  and,
  cast,
  eq,
  extract,
  isNan,
  le,
  literal,
  lowest,
  lt,
  max,
  min,
  not,
  or,
  select,
  splat,
  vec,
  zero,
} from '../../ir/scalar.ts';
import { asExpr } from '../../ir/type.ts';
import { fillsLanes } from '../access.ts';
import type { Stage } from '../region.ts';
import { neighbours, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { Fold } from './fold.ts';
import { alongAxis, type Line } from './lines.ts';

export function scheduleArgReduce(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape } = typeOf(root.inputs[0]!);
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  const size = asExpr(shape[axis]!);
  const replaces = rule(root.op.name === 'arg_max', root.attrs.last === true);
  const alongLine = axis === shape.length - 1 && fillsLanes(typeOf(root.inputs[0]!).dtype);
  const search = (block: Block, line: Line): void => {
    const { lanes } = line;
    const x = (n: Expr): Expr => neighbours(line.at(n), lanes, (at) => operandAt(cx, 0, at));
    const to = root.attrs.keepdims === true ? line.at(literal(0)) : line.outer;
    if (alongLine) {
      storePositions(cx, block, to, twoPasses(cx, block, size, x));
      return;
    }
    const best = block.var('best', x(literal(0)));
    const position = block.var('position', zero('i32', lanes));
    block.for('n', 1, size, (n, body) => {
      const v = body.let('v', x(n));
      const better = body.let('better', replaces(v, best));
      body.set(best, select(better, v, best));
      body.set(position, select(better, splat(n, lanes), position));
    });
    storePositions(cx, block, to, position);
  };
  return [alongAxis(cx, shape, axis, search)];
}

/** The extremum of a line of neighbours, then the first or last position where it stands. */
function twoPasses({ region }: ScheduleContext, block: Block, size: Expr, x: (n: Expr) => Expr): Expr {
  const { attrs, inputs, op } = region.root;
  const { dtype } = typeOf(inputs[0]!);
  const [init, step] = op.name === 'arg_max' ? [lowest(dtype), max] : [highest(dtype), min];
  const extremum = new Fold(block, { dtype, init, vectors: 4, step });
  extremum.line(block, size, x);
  const best = block.let('best', extremum.total(block));
  const last = attrs.last === true;
  const nowhere = last ? -1 : 2 ** 31 - 1;
  const position = new Fold(block, { dtype: 'i32', init: nowhere, vectors: 2, step: last ? max : min });
  position.line(block, size, x, (n, value, inner) => {
    const v = inner.let('v', value);
    const attains = isFloat(dtype) ? or(eq(v, best), and(isNan(v), isNan(splat(best, v.lanes)))) : eq(v, best);
    const here = v.lanes === 1 ? n : add(splat(n, v.lanes), vec([0, 1, 2, 3].map((j) => literal(j))));
    return select(attains, here, nowhere);
  });
  return position.total(block);
}

/** Whether an element is more extreme than another; NaN beats every number, and nothing its equal. */
export function beats(v: Expr, best: Expr, largest: boolean): Expr {
  const more = largest ? lt(best, v) : lt(v, best);
  return isFloat(v.dtype) ? or(more, and(isNan(v), not(isNan(best)))) : more;
}

/** Whether a later element takes the place of the best one. */
function rule(largest: boolean, last: boolean): (v: Expr, best: Expr) => Expr {
  return (v, best) => {
    const compare = last ? le : lt;
    const beats = largest ? compare(best, v) : compare(v, best);
    if (!isFloat(v.dtype)) return beats;
    return or(beats, last ? isNan(v) : and(isNan(v), not(isNan(best))));
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

const highest = (dtype: Scalar): number => (isInt(dtype) ? intRange(dtype)[1] : Infinity);
