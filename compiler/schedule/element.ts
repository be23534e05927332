/** Every result element on its own: pointwise chains, movement, gathers, and whatever fused into them. */

import type { Expr } from '../../ir/expr.ts';
import { exprNodes } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import { add, ceildiv, floordiv, literal, lt, min, mul, sub, variable } from '../../ir/scalar.ts';
import { asExpr, elements, type Shape } from '../../ir/type.ts';
import { elementOf, packLanes, unflatten, widensToLanes } from '../access.ts';
import type { Stage } from '../region.ts';
import { makeStage, type ScheduleContext, sourcesOf } from './context.ts';

/** Elements of one grid unit when the result is walked as one flat run. */
const RUN = 1024;

export function scheduleElement(cx: ScheduleContext): readonly Stage[] {
  const { root, outputs } = cx.region;
  const shape = typeOf(outputs[0]!).shape;
  const element = (at: readonly Expr[]): Expr => elementOf(root, at, sourcesOf(cx));
  const flat = variable('i', 'i32', 1, { from: 0, to: elements(shape) });
  const walksFlat = shape.length > 0 && !needsCoordinates(element(unflatten(shape, flat)));
  return walksFlat || shape.length <= 1 ? flatKernel(cx, shape, element) : rowKernel(cx, shape, element);
}

const needsCoordinates = (e: Expr): boolean =>
  exprNodes(e).some((x) => (x.op === 'floordiv' || x.op === 'floormod') && x.dtype === 'i32');

function flatKernel(cx: ScheduleContext, shape: Shape, element: (at: readonly Expr[]) => Expr): readonly Stage[] {
  const output = cx.buffers.output(cx.region.outputs[0]!);
  const total = elements(shape);
  const units = ceildiv(total, RUN);
  const block = new Block();
  const at = (i: Expr): Expr => element(unflatten(shape, i));
  block.for(
    'u',
    0,
    units,
    (u, body) => {
      const start = mul(u, RUN);
      const count = body.let('count', min(sub(total, start), RUN));
      walk(
        body,
        count,
        (i) => at(add(start, i)),
        (i, value, inner) => inner.store(output, add(start, i), value),
      );
    },
    { bind: 'grid.x' },
  );
  return [makeStage(cx, block, { grid: units, work: literal(RUN) })];
}

function rowKernel(cx: ScheduleContext, shape: Shape, element: (at: readonly Expr[]) => Expr): readonly Stage[] {
  const output = cx.buffers.output(cx.region.outputs[0]!);
  return [
    eachRow(cx, shape, 1, ({ at, width, row }, body) => {
      const base = mul(row, width);
      walk(
        body,
        width,
        (i) => element([...at, i]),
        (i, value, inner) => inner.store(output, add(base, i), value),
      );
    }),
  ];
}

/** One line along the last axis. */
export interface Row {
  /** Coordinates of all axes but the last. */
  readonly at: readonly Expr[];
  /** Number of the line. */
  readonly row: Expr;
  readonly width: Expr;
  readonly rows: Expr;
}

/**
 * One stage that handles every line along the last axis by itself.
 * @param cost work of one element, in multiply-accumulates
 */
export function eachRow(
  cx: ScheduleContext,
  shape: Shape,
  cost: number,
  handle: (row: Row, block: Block) => void,
): Stage {
  const outer = shape.slice(0, -1);
  const width = asExpr(shape.at(-1)!);
  const rows = elements(outer);
  const block = new Block();
  block.for('row', 0, rows, (row, body) => handle({ at: nameCoordinates(body, outer, row), row, width, rows }, body), {
    bind: 'grid.x',
  });
  return makeStage(cx, block, { grid: rows, work: mul(width, cost) });
}

/** Coordinates of a flat index as variables with known ranges, so that later arithmetic on them simplifies. */
export function nameCoordinates(block: Block, shape: Shape, flat: Expr): Expr[] {
  return unflatten(shape, flat).map((value, axis) => {
    if (value.op === 'const' || value.op === 'var') return value;
    const v = variable(`c${axis}`, 'i32', 1, { from: 0, to: asExpr(shape[axis]!) });
    block.stmts.push({ kind: 'let', v, value });
    return v;
  });
}

/** Four at a time while they last, then one by one. */
export function walk(
  block: Block,
  count: Expr,
  element: (i: Expr) => Expr,
  store: (i: Expr, value: Expr, block: Block) => void,
): void {
  const quads = floordiv(count, 4);
  const probe = variable('q', 'i32', 1, { from: 0, to: quads });
  const lanes = (q: Expr): Expr => packLanes([0, 1, 2, 3].map((j) => element(add(mul(q, 4), j))));
  if (!widensToLanes(element(probe).dtype)) {
    block.for('i', 0, count, (i, body) => store(i, element(i), body));
    return;
  }
  block.for('q', 0, quads, (q, body) => store(mul(q, 4), lanes(q), body));
  const done = mul(quads, 4);
  block.if(lt(done, count), (tail) => tail.for('i', done, count, (i, body) => store(i, element(i), body)));
}
