/**
 * The first k elements of each line in sorted order. Few are kept in a sorted list while the line passes by; for many
 * the positions of the whole line are merge-sorted, which keeps equal elements in order.
 */
import { isFloat } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { type Block, buffer } from '../../ir/kernel.ts';
import { normalizeAxis } from '../../ir/ops/check.ts';
import {
  add,
  and,
  cast,
  floordiv,
  gt,
  isNan,
  literal,
  load,
  lt,
  min,
  mul,
  not,
  or,
  select,
  sub,
} from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, elements } from '../../ir/type.ts';
import { flatten } from '../access.ts';
import type { Stage } from '../region.ts';
import { operandAt, type ScheduleContext, storeResult } from './context.ts';
import { alongAxis, type Line } from './lines.ts';

/** Longest sorted list: beyond it, insertions cost more than sorting the line. */
const LONGEST_LIST = 128;

interface Search {
  readonly cx: ScheduleContext;
  readonly size: Expr;
  readonly k: Expr;
  /** Whether `a` stands before `b` in the result; false for equals. */
  before(a: Expr, b: Expr): Expr;
  x(line: Line, n: Expr): Expr;
  /** Stores rank `n` of the result. */
  store(block: Block, line: Line, n: Expr, value: Expr, position: Expr): void;
}

export function scheduleTopK(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape } = typeOf(root.inputs[0]!);
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  const k = asExpr(root.attrs.k as Dim);
  const [values, positions] = [resultOf(cx, 0), resultOf(cx, 1)];
  const search: Search = {
    cx,
    k,
    size: asExpr(shape[axis]!),
    before: root.attrs.largest === true ? (a, b) => isLarger(a, b) : (a, b) => isLarger(b, a),
    x: (line, n) => operandAt(cx, 0, line.at(n)),
    store(block, line, n, value, position) {
      if (values) storeResult(cx, block, line.at(n), value, values);
      if (positions) storeResult(cx, block, line.at(n), cast(position, 'i64'), positions);
    },
  };
  if (boundsOf(k)[1] <= LONGEST_LIST)
    return [alongAxis(cx, shape, axis, (block, line) => keepSorted(search, block, line), false)];
  const lines = shape.filter((_, i) => i !== axis);
  const order = cx.buffers.temp('order', 'i32', mul(elements(lines), mul(search.size, 2)));
  const sort = (block: Block, line: Line): void => {
    const base = block.let('base', mul(flatten(lines, line.outer), mul(search.size, 2)));
    mergeSort(
      search,
      block,
      line,
      (n) => load(order, add(base, n)),
      (at, n, inner) => inner.store(order, add(base, at), n),
    );
  };
  return [alongAxis(cx, shape, axis, sort, false)];
}

/** The output that takes result number `index`; undefined when nobody reads it. */
export function resultOf({ region }: ScheduleContext, index: number): Value | undefined {
  return region.outputs.find((v) => v.attrs.index === index);
}

/** NaN is larger than every number. */
export function isLarger(a: Expr, b: Expr): Expr {
  return isFloat(a.dtype) ? or(lt(b, a), and(isNan(a), not(isNan(b)))) : lt(b, a);
}

function keepSorted({ cx, k, size, before, x, store }: Search, block: Block, line: Line): void {
  const { dtype } = typeOf(cx.region.root.inputs[0]!);
  const room = Math.max(1, boundsOf(k)[1]);
  const best = buffer('best', dtype, room, { space: 'local', access: 'readwrite' });
  const where = buffer('where', 'i32', room, { space: 'local', access: 'readwrite' });
  const insert = (body: Block, v: Expr, i: Expr): void => {
    const hole = body.var('hole', min(i, sub(k, 1)));
    const start = body.let('start', hole);
    body.for('step', 0, start, (_, moving) =>
      moving.if(gt(hole, 0), (some) => {
        const above = some.let('above', load(best, sub(hole, 1)));
        some.if(before(v, above), (shift) => {
          shift.store(best, hole, above);
          shift.store(where, hole, load(where, sub(hole, 1)));
          shift.set(hole, sub(hole, 1));
        });
      }),
    );
    body.store(best, hole, v);
    body.store(where, hole, i);
  };
  block.if(gt(k, 0), (some) => {
    some.for('i', 0, k, (i, body) => insert(body, body.let('v', x(line, i)), i));
    some.for('i', k, size, (i, body) => {
      const v = body.let('v', x(line, i));
      body.if(before(v, load(best, sub(k, 1))), (found) => insert(found, v, i));
    });
    some.for('n', 0, k, (n, body) => store(body, line, n, load(best, n), load(where, n)));
  });
}

/** Runs of 1, 2, 4, … positions merge back and forth between the two halves of the line's memory. */
function mergeSort(
  { k, size, before, x, store }: Search,
  block: Block,
  line: Line,
  read: (at: Expr) => Expr,
  write: (at: Expr, position: Expr, block: Block) => void,
): void {
  block.for('i', 0, size, (i, body) => write(i, i, body));
  const width = block.var('width', literal(1));
  const from = block.var('from', literal(0));
  const levels = Math.ceil(Math.log2(Math.max(1, boundsOf(size)[1])));
  block.for('level', 0, levels, (_, level) =>
    level.if(lt(width, size), (some) => {
      const to = some.let('to', sub(size, from));
      const pair = some.let('pair', mul(width, 2));
      const pairs = some.let('pairs', floordiv(sub(add(size, pair), 1), pair));
      some.for('p', 0, pairs, (p, body) => {
        const lo = body.let('lo', mul(p, pair));
        const mid = body.let('mid', min(add(lo, width), size));
        const hi = body.let('hi', min(add(lo, pair), size));
        const left = body.var('left', lo);
        const right = body.var('right', mid);
        body.for('t', lo, hi, (t, step) => {
          const a = step.let('a', read(add(from, min(left, sub(size, 1)))));
          const b = step.let('b', read(add(from, min(right, sub(size, 1)))));
          const overtakes = and(lt(right, hi), before(x(line, b), x(line, a)));
          const takeLeft = step.let('take_left', and(lt(left, mid), not(overtakes)));
          write(add(to, t), select(takeLeft, a, b), step);
          step.set(left, add(left, select(takeLeft, literal(1), 0)));
          step.set(right, add(right, select(takeLeft, literal(0), 1)));
        });
      });
      some.set(from, to);
      some.set(width, pair);
    }),
  );
  block.for('n', 0, k, (n, body) => {
    const position = body.let('position', read(add(from, n)));
    store(body, line, n, x(line, position), position);
  });
}
