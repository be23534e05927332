/** Long lines along one axis, a workgroup for each; and running sums over the invocations of a workgroup. */
import type { Scalar } from '../../../ir/dtype.ts';
import type { Buffer, Expr } from '../../../ir/expr.ts';
import { Block, buffer } from '../../../ir/kernel.ts';
import { add, le, literal, load, lt, max, min, mul, select, shl, sub, zero } from '../../../ir/scalar.ts';
import { asExpr, dim, elements, type Shape } from '../../../ir/type.ts';
import { gpuOf } from '../../gpu-target.ts';
import type { Stage } from '../../region.ts';
import { makeStage, type Schedule, type ScheduleContext } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { GROUP, onePerInvocation, workgroups } from './invocations.ts';
import { groupFor, isShort } from './rows.ts';
import { usualSize } from './small.ts';

/** A line, as one invocation of its workgroup sees it. */
export interface LongLine {
  /** Coordinates of element `n`. */
  at(n: Expr): readonly Expr[];
  /** Coordinates of the line, without the axis. */
  readonly outer: readonly Expr[];
  readonly size: Expr;
  /** This invocation, of so many. */
  readonly t: Expr;
  readonly group: number;
}

/**
 * Lines that one invocation walks: short ones, and those that stand side by side in such numbers that a device is busy with
 * one invocation for each, which then read memory side by side.
 */
function walksAlone(cx: ScheduleContext, shape: Shape, axis: number): boolean {
  const lines = elements(shape.filter((_, i) => i !== axis));
  const many = usualSize(dim(lines)) >= gpuOf(cx.target).workgroups * GROUP;
  return isShort(asExpr(shape[axis]!)) || (many && axis !== shape.length - 1);
}

/** One launch over all lines along `axis`: a workgroup for each, or `alone` where one invocation walks each. */
export function longLines(
  cx: ScheduleContext,
  shape: Shape,
  axis: number,
  alone: Schedule,
  handle: (block: Block, line: LongLine) => void,
): readonly Stage[] {
  if (walksAlone(cx, shape, axis)) return onePerInvocation(alone)(cx);
  const size = asExpr(shape[axis]!);
  const outerShape = shape.filter((_, i) => i !== axis);
  const grid = elements(outerShape);
  const group = groupFor(cx, size);
  const block = new Block();
  workgroups(block, grid, group, (g, t, body) => {
    const outer = nameCoordinates(body, outerShape, g);
    handle(body, { outer, size, t, group, at: (n) => outer.toSpliced(axis, 0, n) });
  });
  return [makeStage(cx, block, { grid, work: size })];
}

/** Elements that an invocation takes at a time. */
const EACH = 4;

/**
 * Walks a line in order, a workgroup together: each invocation takes a few neighbours at a time, and learns the sum of all
 * elements before each of them.
 *
 * @param element the number at a place of the line
 * @param use where a place exists: its number, the sum before it and the sum with it
 */
export function scanLine(
  block: Block,
  line: Pick<LongLine, 'size' | 't' | 'group'>,
  dtype: Scalar,
  element: (n: Expr) => Expr,
  use: (n: Expr, sums: { readonly own: Expr; readonly before: Expr; readonly after: Expr }, block: Block) => void,
): void {
  const { size, t, group } = line;
  const scan = new GroupScan(dtype, group);
  const carried = block.var('carried', zero(dtype));
  block.for(
    'tile',
    0,
    size,
    (tile, body) => {
      const first = body.let('first', add(tile, mul(t, EACH)));
      const own: Expr[] = [];
      const sums: Expr[] = [zero(dtype)];
      for (let j = 0; j < EACH; j++) {
        const n = add(first, j);
        own.push(body.let(`x${j}`, select(lt(n, size), element(min(n, sub(size, 1))), zero(dtype))));
        sums.push(body.let(`sum${j}`, add(sums[j]!, own[j]!)));
      }
      const { before, all } = scan.sums(body, t, sums[EACH]!);
      const base = body.let('base', add(carried, before));
      for (let j = 0; j < EACH; j++) {
        const n = add(first, j);
        body.if(lt(n, size), (some) =>
          use(n, { own: own[j]!, before: add(base, sums[j]!), after: add(base, sums[j + 1]!) }, some),
        );
      }
      body.update('add', carried, all);
    },
    { step: EACH * group },
  );
}

/** Running sums over the invocations of a workgroup, in workgroup memory: each step adds what stands twice as far back. */
class GroupScan {
  readonly #memory: Buffer;
  readonly #dtype: Scalar;
  readonly #group: number;

  constructor(dtype: Scalar, group: number) {
    this.#memory = buffer('sums', dtype, group, { space: 'shared', access: 'readwrite' });
    this.#dtype = dtype;
    this.#group = group;
  }

  sums(block: Block, t: Expr, own: Expr): { readonly before: Expr; readonly all: Expr } {
    const memory = this.#memory;
    block.store(memory, t, own);
    block.barrier();
    block.for('s', 0, Math.log2(this.#group), (s, body) => {
      const far = body.let('far', shl(literal(1), s));
      const other = select(le(far, t), load(memory, max(sub(t, far), 0)), zero(this.#dtype));
      const sum = body.let('sum', add(other, load(memory, t)));
      body.barrier();
      body.store(memory, t, sum);
      body.barrier();
    });
    const before = block.let('before', select(lt(literal(0), t), load(memory, max(sub(t, 1), 0)), zero(this.#dtype)));
    const all = block.let('all', load(memory, literal(this.#group - 1)));
    block.barrier();
    return { before, all };
  }
}
