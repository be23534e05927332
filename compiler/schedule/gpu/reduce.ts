/**
 * Folds over any axes. Where the last axis folds, a workgroup folds each result together; where it stays, neighbouring
 * invocations make neighbouring results, one each, so that they read memory side by side.
 */
import type { Expr } from '../../../ir/expr.ts';
import { Block } from '../../../ir/kernel.ts';
import { eq, literal } from '../../../ir/scalar.ts';
import { elements } from '../../../ir/type.ts';
import { unflatten } from '../../access.ts';
import type { Stage } from '../../region.ts';
import { makeStage, type ScheduleContext } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { Reduction } from '../reduce.ts';
import { invocations, workgroups } from './invocations.ts';
import { GroupFold, groupFor, isShort, Walk } from './rows.ts';

export function scheduleReduceGpu(cx: ScheduleContext): readonly Stage[] {
  const r = new Reduction(cx);
  const keepsLast = r.kept.at(-1) === r.shape.length - 1 && r.shape.length > 0;
  return [keepsLast || isShort(r.count) ? alone(cx, r) : together(cx, r)];
}

/** One result an invocation. */
function alone(cx: ScheduleContext, r: Reduction): Stage {
  const keptShape = r.kept.map((axis) => r.shape[axis]!);
  const block = new Block();
  const { init, dtype, step } = r.spec();
  const grid = invocations(block, elements(keptShape), (unit, body) => {
    const at = nameCoordinates(body, keptShape, unit);
    const acc = body.var('acc', literal(init, dtype));
    r.nest(body, r.folded, (along, inner) => inner.set(acc, step(acc, r.element(at, along))));
    r.store(body, at, acc);
  });
  return makeStage(cx, block, { grid, work: r.count });
}

/** One result a workgroup. */
function together(cx: ScheduleContext, r: Reduction): Stage {
  const keptShape = r.kept.map((axis) => r.shape[axis]!);
  const grid = elements(keptShape);
  const size = groupFor(cx, r.count);
  const block = new Block();
  const { init, dtype, step } = r.spec();
  workgroups(block, grid, size, (u, t, body) => {
    const at = nameCoordinates(body, keptShape, u);
    const run = r.run(at);
    const [outer, line] = [r.folded.slice(0, r.folded.length - run), r.folded.slice(r.folded.length - run)];
    const lineShape = line.map((axis) => r.shape[axis]!);
    let acc: Expr | undefined;
    const accumulate = (before: readonly Expr[], inner: Block): void => {
      const element = (i: Expr): Expr => r.element(at, [...before, ...unflatten(lineShape, i)]);
      const walk = new Walk(t, size, elements(lineShape), element);
      acc ??= start(body, walk.lanes);
      const sum = acc;
      walk.each(inner, (i, turn) => turn.set(sum, step(sum, walk.pack(i, element))));
    };
    const start = (outside: Block, lanes: 1 | 4): Expr => {
      const v = outside.var('acc', literal(init, dtype, lanes));
      return v;
    };
    // The accumulator stands before the loops, and its lanes follow from what they read.
    const loops = new Block();
    r.nest(loops, outer, accumulate);
    body.stmts.push(...loops.stmts);
    const total = new GroupFold(cx, dtype, size).total(body, t, acc ?? start(body, 1), step);
    body.if(eq(t, 0), (first) => r.store(first, at, total));
  });
  return makeStage(cx, block, { grid, work: r.count });
}
