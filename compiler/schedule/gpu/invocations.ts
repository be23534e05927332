/** Work spread over invocations: how the schedules of WebGPU open their loops. */
import type { Expr } from '../../../ir/expr.ts';
import { Block, type Stmt } from '../../../ir/kernel.ts';
import { add, ceildiv, lt, mul } from '../../../ir/scalar.ts';
import type { Stage } from '../../region.ts';
import type { Schedule } from '../context.ts';

/** Invocations of a workgroup whose invocations have nothing to do with each other. */
export const GROUP = 64;

/** One workgroup for each of `groups`, of `size` invocations. */
export function workgroups(
  block: Block,
  groups: Expr,
  size: number,
  body: (group: Expr, invocation: Expr, block: Block) => void,
): void {
  block.for('g', 0, groups, (g, inner) => inner.for('t', 0, size, (t, b) => body(g, t, b), { bind: 'thread.x' }), {
    bind: 'grid.x',
  });
}

/** One invocation for each of `count` units. @returns the number of workgroups */
export function invocations(block: Block, count: Expr, body: (unit: Expr, block: Block) => void): Expr {
  const groups = ceildiv(count, GROUP);
  workgroups(block, groups, GROUP, (g, t, inner) => {
    const unit = inner.let('unit', add(mul(g, GROUP), t));
    inner.if(lt(unit, count), (some) => body(unit, some));
  });
  return groups;
}

/**
 * A schedule for independent grid units, one invocation for each: lines that are walked one after another, where the
 * number of lines keeps the device busy.
 */
export function onePerInvocation(schedule: Schedule): Schedule {
  return (cx) => schedule(cx).map(spread);
}

function spread(stage: Stage): Stage {
  const [grid, ...others] = stage.kernel.body;
  if (grid?.kind !== 'for' || grid.bind !== 'grid.x' || others.length > 0)
    throw new Error(`kernel ${stage.kernel.name} is not one grid`);
  const block = new Block();
  const groups = invocations(block, stage.grid, (unit, inner) => {
    const named: Stmt = { kind: 'let', v: grid.v, value: unit };
    inner.stmts.push(named, ...grid.body);
  });
  return { ...stage, kernel: { ...stage.kernel, body: block.stmts }, grid: groups };
}
