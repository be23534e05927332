/**
 * Updates at positions given as data: a copy of the operand, then the updates in C order. Grid units own disjoint parts
 * of the result, so that duplicates meet in one unit: lines along the axis, or pieces of the slices.
 */
import type { Buffer, Expr } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import { normalizeAxis } from '../../ir/ops/check.ts';
import { add, and, bool, cast, ceildiv, ge, literal, load, lt, max, min, mul, select, sub } from '../../ir/scalar.ts';
import { asExpr, type Dim, elements } from '../../ir/type.ts';
import { flatten, unflatten } from '../access.ts';
import type { Stage } from '../region.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { nameCoordinates, walk } from './element.ts';
import { wide } from './fold.ts';
import { alongAxis } from './lines.ts';

/** Elements of one grid unit of the copy, and of a piece of a slice. */
const COPIED = 1024;
const PIECE = 64;

export function scheduleScatter(cx: ScheduleContext): readonly Stage[] {
  const { root, epilogue, outputs } = cx.region;
  const { dtype, shape } = typeOf(root);
  // Updates read what they change, so an epilogue must wait for the last of them.
  const finished = epilogue.length === 0;
  const target = finished ? cx.buffers.output(outputs[0]!) : cx.buffers.temp('scattered', dtype, elements(shape));
  const update = root.op.name === 'scatter_elements' ? scatterElements(cx, target) : scatterSlices(cx, target);
  return [copyOperand(cx, target), update, ...(finished ? [] : [finish(cx, target)])];
}

function copyOperand(cx: ScheduleContext, target: Buffer): Stage {
  const { shape } = typeOf(cx.region.root);
  const total = elements(shape);
  const grid = ceildiv(total, COPIED);
  const block = new Block();
  block.for(
    'u',
    0,
    grid,
    (u, body) => {
      const start = mul(u, COPIED);
      walk(
        body,
        body.let('count', min(sub(total, start), COPIED)),
        (i) => operandAt(cx, 0, unflatten(shape, add(start, i))),
        (i, value, inner) => inner.store(target, add(start, i), value),
      );
    },
    { bind: 'grid.x' },
  );
  return makeStage(cx, block, { grid, work: literal(COPIED) });
}

function scatterElements(cx: ScheduleContext, target: Buffer): Stage {
  const { root } = cx.region;
  const { shape } = typeOf(root);
  const indices = typeOf(root.inputs[1]!).shape;
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  return alongAxis(
    cx,
    indices,
    axis,
    (block, line) =>
      block.for('n', 0, asExpr(indices[axis]!), (n, body) => {
        const at = line.at(n);
        const to = at.with(axis, body.let('to', position(operandAt(cx, 1, at), shape[axis]!)));
        body.if(to.map((c, i) => within(c, shape[i]!)).reduce(and, bool(true)), (some) => {
          const flat = some.let('flat', flatten(shape, to));
          some.store(target, flat, combined(cx, load(target, flat), operandAt(cx, 2, at)));
        });
      }),
    false,
  );
}

function scatterSlices(cx: ScheduleContext, target: Buffer): Stage {
  const { root } = cx.region;
  const { shape } = typeOf(root);
  const indices = typeOf(root.inputs[1]!).shape;
  const tuples = indices.slice(0, -1);
  const depth = Number(indices.at(-1)!);
  const slice = shape.slice(depth);
  const size = elements(slice);
  const grid = ceildiv(size, PIECE);
  const block = new Block();
  block.for(
    'u',
    0,
    grid,
    (u, body) => {
      const first = mul(u, PIECE);
      const count = body.let('count', min(sub(size, first), PIECE));
      body.for('t', 0, elements(tuples), (t, inner) => {
        const at = nameCoordinates(inner, tuples, t);
        const to = Array.from({ length: depth }, (_, i) =>
          inner.let(`to${i}`, position(operandAt(cx, 1, [...at, literal(i)]), shape[i]!)),
        );
        inner.if(to.map((c, i) => within(c, shape[i]!)).reduce(and, bool(true)), (some) => {
          const row = some.let('row', add(mul(flatten(shape.slice(0, depth), to), size), first));
          walk(
            some,
            count,
            (i) =>
              combined(cx, load(target, add(row, i)), operandAt(cx, 2, [...at, ...unflatten(slice, add(first, i))])),
            (i, value, store) => store.store(target, add(row, i), value),
          );
        });
      });
    },
    { bind: 'grid.x' },
  );
  return makeStage(cx, block, { grid, work: mul(elements(tuples), PIECE) });
}

/** Stores the finished result, after the epilogue. */
function finish(cx: ScheduleContext, target: Buffer): Stage {
  const { shape } = typeOf(cx.region.root);
  const outer = shape.slice(0, -1);
  const width = asExpr(shape.at(-1) ?? 1);
  const grid = elements(outer);
  const block = new Block();
  block.for(
    'row',
    0,
    grid,
    (row, body) => {
      const at = nameCoordinates(body, outer, row);
      walk(
        body,
        width,
        (i) => load(target, add(mul(row, width), i)),
        (i, value, inner) => storeResult(cx, inner, shape.length === 0 ? [] : [...at, i], value),
      );
    },
    { bind: 'grid.x' },
  );
  return makeStage(cx, block, { grid, work: width });
}

/** A loaded index as an i32 position; negative ones count from the end. */
export function position(index: Expr, size: Dim): Expr {
  // 64-bit indices stay outside the axis when they are narrowed.
  const limit = 2 ** 31 - 1;
  const i = cast(index.dtype === 'i64' ? max(min(index, limit), -limit) : index, 'i32');
  return select(lt(i, 0), add(i, asExpr(size)), i);
}
/** Whether a position exists. */
export const within = (at: Expr, size: Dim): Expr => and(ge(at, 0), lt(at, asExpr(size)));

/** What an update makes of what stood there. */
export function combined(cx: ScheduleContext, old: Expr, update: Expr): Expr {
  const work = wide(old.dtype);
  const [a, b] = [cast(old, work), cast(update, work)];
  switch (cx.region.root.attrs.reduction) {
    case 'add':
      return cast(add(a, b), old.dtype);
    case 'mul':
      return cast(mul(a, b), old.dtype);
    case 'min':
      return cast(min(a, b), old.dtype);
    case 'max':
      return cast(max(a, b), old.dtype);
    default:
      return update;
  }
}
