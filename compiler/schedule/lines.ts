/** Lines along one axis of a value: one after another, or four side by side where the axis is not the last. */
import type { Expr } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import { add, ceildiv, floordiv, min, mul, sub } from '../../ir/scalar.ts';
import { asExpr, elements, type Shape } from '../../ir/type.ts';
import { fillsLanes } from '../access.ts';
import type { Stage } from '../region.ts';
import { makeStage, type ScheduleContext } from './context.ts';
import { nameCoordinates } from './element.ts';

/** Lines of one grid unit where they stand side by side. */
const COLUMNS = 16;

export interface Line {
  /** 4 for four lines whose last coordinates are neighbours. */
  readonly lanes: 1 | 4;
  /** Coordinates of element `n` of the (first) line. */
  at(n: Expr): readonly Expr[];
  /** Coordinates of the (first) line, without the axis. */
  readonly outer: readonly Expr[];
}

/**
 * One launch over all lines along `axis` of `shape`.
 * @param vectors false where `write` takes one line at a time, as invocations of a GPU do: neighbours read side by side
 */
export function alongAxis(
  cx: ScheduleContext,
  shape: Shape,
  axis: number,
  write: (block: Block, line: Line) => void,
  vectors: boolean = cx.target.name !== 'webgpu' && fillsLanes(typeOf(cx.region.root.inputs[0]!).dtype),
): Stage {
  const last = shape.length - 1;
  const outerShape = shape.filter((_, i) => i !== axis);
  const line = (outer: readonly Expr[], lanes: 1 | 4): Line => ({
    lanes,
    outer,
    at: (n) => outer.toSpliced(axis, 0, n),
  });
  const size = asExpr(shape[axis]!);
  const block = new Block();
  if (axis === last || !vectors) {
    const grid = elements(outerShape);
    block.for('u', 0, grid, (u, body) => write(body, line(nameCoordinates(body, outerShape, u), 1)), {
      bind: 'grid.x',
    });
    return makeStage(cx, block, { grid, work: mul(size, 4) });
  }
  const width = asExpr(shape[last]!);
  const blocks = ceildiv(width, COLUMNS);
  const units = [...outerShape.slice(0, -1), blocks];
  const grid = elements(units);
  block.for(
    'u',
    0,
    grid,
    (u, body) => {
      const at = nameCoordinates(body, units, u);
      const first = mul(at.at(-1)!, COLUMNS);
      const outer = (c: Expr): readonly Expr[] => [...at.slice(0, -1), c];
      const count = body.let('count', min(sub(width, first), COLUMNS));
      const quads = floordiv(count, 4);
      body.for('q', 0, quads, (q, inner) => write(inner, line(outer(add(first, mul(q, 4))), 4)));
      body.for('c', mul(quads, 4), count, (c, inner) => write(inner, line(outer(add(first, c)), 1)));
    },
    { bind: 'grid.x' },
  );
  return makeStage(cx, block, { grid, work: mul(size, 4 * COLUMNS) });
}
