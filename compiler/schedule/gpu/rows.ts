/** Lines that a workgroup walks together: each invocation takes every n-th element, four neighbours at a time where it can. */
import type { Scalar } from '../../../ir/dtype.ts';
import { type Buffer, type Expr, exprNodes } from '../../../ir/expr.ts';
import { Block, buffer } from '../../../ir/kernel.ts';
import { add, extract, floordiv, floormod, literal, load, lt, mul, shr, variable } from '../../../ir/scalar.ts';
import { boundsOf } from '../../../ir/simplify.ts';
import { elements, type Shape } from '../../../ir/type.ts';
import { fillsLanes, packLanes } from '../../access.ts';
import { gpuOf } from '../../gpu-target.ts';
import type { Stage } from '../../region.ts';
import { makeStage, type ScheduleContext } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import type { FoldSpec } from '../fold.ts';
import { workgroups } from './invocations.ts';
import { Members, subgroupOp } from './members.ts';

/** Elements of a line that stand in workgroup memory between passes, in words: half of what every device has. */
const KEPT = 2048;

/** Lines of at most so many elements are walked by one invocation each. */
export const SHORT = 16;

export const isShort = (width: Expr): boolean => boundsOf(width)[1] <= SHORT;

/** No lane is put together from scalars. */
export const isVector = (e: Expr): boolean => !exprNodes(e).some((x) => x.op === 'vec');

/** How a workgroup of `size` invocations walks `count` elements. */
export class Walk {
  readonly count: Expr;
  readonly lanes: 1 | 4;
  readonly size: number;
  private readonly t: Expr;

  /** @param element  asked once, to see whether four neighbours are a vector */
  constructor(t: Expr, size: number, count: Expr, element: (i: Expr) => Expr) {
    this.t = t;
    this.size = size;
    this.count = count;
    this.lanes = vectorLanes(count, element);
  }

  /** Visits the elements of this invocation; `pack` reads as many as there are lanes from the first one's index. */
  each(block: Block, visit: (i: Expr, body: Block) => void): void {
    const turns = this.lanes === 4 ? floordiv(this.count, 4) : this.count;
    block.for('i', this.t, turns, (i, body) => visit(this.lanes === 4 ? mul(i, 4) : i, body), { step: this.size });
  }

  pack(i: Expr, element: (i: Expr) => Expr): Expr {
    return this.lanes === 1 ? element(i) : packLanes([0, 1, 2, 3].map((j) => element(add(i, j))));
  }
}

function vectorLanes(count: Expr, element: (i: Expr) => Expr): 1 | 4 {
  if (floormod(count, 4) !== literal(0)) return 1;
  const q = variable('q', 'i32', 1, { from: 0, to: floordiv(count, 4) });
  const lanes = [0, 1, 2, 3].map((j) => element(add(mul(q, 4), j)));
  return fillsLanes(lanes[0]!.dtype) && isVector(packLanes(lanes)) ? 4 : 1;
}

/** Invocations for a line: a power of two, few where the line is short. */
export function groupFor(cx: ScheduleContext, width: Expr): number {
  const most = gpuOf(cx.target).reduceGroup;
  const needed = Math.ceil(boundsOf(width)[1] / 4);
  return Math.min(most, 2 ** Math.ceil(Math.log2(Math.max(needed, 8))));
}

/** One workgroup for each line along the last axis of `shape`. */
export function eachLine(
  cx: ScheduleContext,
  shape: Shape,
  width: Expr,
  handle: (line: { readonly at: readonly Expr[]; readonly t: Expr; readonly size: number }, block: Block) => void,
): Stage {
  const outer = shape.slice(0, -1);
  const grid = elements(outer);
  const size = groupFor(cx, width);
  const block = new Block();
  workgroups(block, grid, size, (row, t, body) => handle({ at: nameCoordinates(body, outer, row), t, size }, body));
  return makeStage(cx, block, { grid, work: width });
}

/**
 * Joins one value of each invocation into one that all of them get, through workgroup memory: as a tree, or where
 * subgroups can join it (`Members`).
 */
export class GroupFold {
  private readonly memory: Buffer;
  private readonly size: number;
  private readonly members: Members | undefined;
  private used = false;

  constructor(cx: ScheduleContext, dtype: Scalar, size: number) {
    this.size = size;
    this.members = gpuOf(cx.target).subgroups ? new Members(size) : undefined;
    this.memory = buffer('joined', dtype, size, { space: 'shared', access: 'readwrite' });
  }

  /** @param value  lanes are joined first */
  total(block: Block, t: Expr, value: Expr, join: (a: Expr, b: Expr) => Expr): Expr {
    const lanes = value.lanes === 1 ? [value] : Array.from({ length: value.lanes }, (_, j) => extract(value, j));
    // What was read from the memory last time must have been read by all.
    if (this.used) block.barrier();
    this.used = true;
    block.store(this.memory, t, lanes.reduce(join));
    block.barrier();
    const op = this.members && subgroupOp(join, this.memory.dtype);
    if (this.members && op) return this.members.total(block, 'total', this.size, op, join, (i) => load(this.memory, i));
    block.for('s', 0, Math.log2(this.size), (s, body) => {
      const half = body.let('half', shr(literal(this.size / 2), s));
      body.if(lt(t, half), (some) =>
        some.store(this.memory, t, join(load(this.memory, t), load(this.memory, add(t, half)))),
      );
      body.barrier();
    });
    return block.let('total', load(this.memory, literal(0)));
  }
}

/** Folds what `visit` gives for the elements of a walk, over the whole workgroup. */
export function foldWalk(
  block: Block,
  walk: Walk,
  t: Expr,
  group: GroupFold,
  spec: Pick<FoldSpec, 'init' | 'dtype' | 'step' | 'join'>,
  visit: (i: Expr, body: Block) => Expr,
): Expr {
  const acc = block.var('acc', literal(spec.init, spec.dtype, walk.lanes));
  walk.each(block, (i, body) => body.set(acc, spec.step(acc, visit(i, body))));
  return group.total(block, t, acc, spec.join ?? spec.step);
}

/** A line that is computed once and read again: in workgroup memory where it is short enough, else computed again. */
export class KeptLine {
  private readonly walk: Walk;
  private readonly element: (i: Expr) => Expr;
  private readonly memory: Buffer | undefined;

  constructor(walk: Walk, dtype: Scalar, element: (i: Expr) => Expr) {
    this.walk = walk;
    this.element = element;
    const most = Math.ceil(boundsOf(walk.count)[1] / 4) * 4;
    this.memory = most <= KEPT ? buffer('line', dtype, most, { space: 'shared', access: 'readwrite' }) : undefined;
  }

  /** The first time: computes the elements and keeps them. */
  first(i: Expr, block: Block): Expr {
    const x = block.let('x', this.walk.pack(i, this.element));
    this.keep(i, x, block);
    return x;
  }

  keep(i: Expr, x: Expr, block: Block): void {
    if (this.memory) block.store(this.memory, i, x);
  }

  /** Later, in the same invocation: `otherwise` of the elements where they were not kept. */
  again(i: Expr, otherwise: (x: Expr) => Expr = (x) => x): Expr {
    if (this.memory) return load(this.memory, i, this.walk.lanes);
    return otherwise(this.walk.pack(i, this.element));
  }
}
