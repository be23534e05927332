/** What movements, choices and folds read of their operands. Kept beside the ops, whose files are long. */
import type { AxisMap, NeedContext } from '../core.ts';
import type { Expr } from '../expr.ts';
import { ALL, and, coordinate, exists, type IndexSet, isNone, NONE, where, whereNot } from '../index-set.ts';
import { coordinates, forget, moved, needByAxes, needOfRoles } from '../need.ts';
import * as s from '../scalar.ts';
import { asExpr, type Dim, dim, type Shape, sameDim } from '../type.ts';
import { normalizeAxes, normalizeAxis } from './check.ts';
import { broadcastAxes } from './elementwise-define.ts';

type Need<A> = (demand: readonly IndexSet[], cx: NeedContext<A>) => readonly IndexSet[];

/** Each element of x stands in one place of the result, which `reindex` finds from either side. */
export const reshapeNeed =
  (reindex: (at: readonly Expr[], of: Shape, from: Shape) => readonly Expr[]): Need<Record<never, never>> =>
  ([demand], { inputs: [x], outs: [out] }) => {
    const to = reindex(coordinates(x!.shape.length), x!.shape, out!.shape);
    return [moved(demand!, (axis) => to[axis], to.length)];
  };

/** Position p is read when p = start + c · step for some demanded c. */
export const sliceNeed: Need<{ readonly starts: readonly Dim[]; readonly steps: readonly number[] }> = (
  [demand],
  { attrs: { starts, steps }, inputs: [x], outs: [out] },
) => {
  let set = demand!;
  const rank = x!.shape.length;
  const moves: (Expr | undefined)[] = coordinates(rank);
  for (let axis = 0; axis < rank; axis++) {
    const [at, start, step] = [coordinate(axis), asExpr(starts[axis]!), steps[axis]!];
    if (dim(out!.shape[axis]!) === 1) {
      // The one position that is left stands for itself.
      set = and(
        moved(set, (n) => (n === axis ? s.literal(0) : coordinate(n)), rank),
        where(s.eq(at, start)),
      );
      continue;
    }
    if (step === 1) moves[axis] = s.sub(at, start);
    else moves[axis] = step > 0 ? s.floordiv(s.sub(at, start), step) : s.floordiv(s.sub(start, at), -step);
  }
  const touched = moves.some((m, axis) => m !== coordinate(axis));
  let result = touched ? moved(set, (n) => moves[n], rank) : set;
  for (let axis = 0; axis < rank; axis++) {
    const [at, start, step, count] = [coordinate(axis), asExpr(starts[axis]!), steps[axis]!, out!.shape[axis]!];
    if (dim(count) === 1) continue;
    const last = s.add(start, s.mul(s.sub(asExpr(count), 1), step));
    const [low, high] = step > 0 ? [start, last] : [last, start];
    result = and(result, and(where(s.le(low, at)), where(s.le(at, high))));
    if (Math.abs(step) > 1) result = and(result, where(s.eq(s.floormod(s.sub(at, start), Math.abs(step)), 0)));
  }
  return [result];
};

/** The part of the demand that lies on each operand's stretch of the axis. */
export const concatNeed: Need<{ readonly axis: number }> = ([demand], { attrs, inputs, outs: [out] }) => {
  const rank = out!.shape.length;
  const axis = normalizeAxis(attrs.axis, rank);
  let start: Expr = s.literal(0);
  return inputs.map(({ shape }) => {
    const at = s.add(coordinate(axis), start);
    start = s.add(start, asExpr(shape[axis]!));
    if (dim(shape[axis]!) === 0) return NONE;
    const set = moved(demand!, (n) => (n === axis ? at : coordinate(n)), rank);
    return set;
  });
};

/** Inside a constant padding the demand moves; what other paddings show is read throughout those axes. */
export const padNeed: Need<{
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly mode: string;
}> = ([demand], { attrs: { before, after, mode }, outs: [out] }) => {
  const rank = before.length;
  if (mode === 'constant') return [moved(demand!, (n) => s.add(coordinate(n), before[n]!), rank)];
  const grown = before.flatMap((n, axis) => (n === 0 && after[axis] === 0 ? [] : [axis]));
  return [forget(demand!, grown, out!.shape)];
};

/** Each side where the condition chooses it. */
export const selectNeed: Need<Record<never, never>> = ([demand], { inputs, outs, element }) => {
  const [roles, ...sides] = broadcastAxes(inputs);
  const place = coordinates(outs[0]!.shape.length);
  const skip = place.length - inputs[0]!.shape.length;
  const condition = element(
    0,
    inputs[0]!.shape.map((_, i) => (roles![i] === 'mix' ? s.literal(0) : place[i + skip]!)),
  );
  const [yes, no] = [and(demand!, where(condition)), and(demand!, whereNot(condition))];
  return [
    needOfRoles(demand!, outs[0]!, roles!),
    needOfRoles(yes, outs[0]!, sides[0]!),
    needOfRoles(no, outs[0]!, sides[1]!),
  ];
};

/** Terms of a sum that are zero are not read. */
export const sumNeed: Need<{ readonly axes: readonly number[]; readonly keepdims: boolean }> = (
  demand,
  { attrs: { axes, keepdims }, inputs: [x], outs, support },
) => {
  const [all] = needByAxes(demand, outs, foldRolesOf(x!.shape.length, axes, keepdims));
  return [and(all!, support(0))];
};

/** Roles as `foldRoles` in `reduce.ts` gives them. */
function foldRolesOf(rank: number, axes: readonly number[], keepdims: boolean): AxisMap {
  const gone = new Set(normalizeAxes(axes, rank));
  let next = 0;
  return [
    Array.from({ length: rank }, (_, axis) => {
      if (!gone.has(axis)) return next++;
      if (keepdims) next++;
      return 'mix' as const;
    }),
  ];
}

/** A running sum reads what stands before the last demanded position, or behind the first where it runs backwards. */
export const runningNeed: Need<{ readonly axis: number; readonly reverse: boolean }> = (
  [demand],
  { attrs, inputs: [x] },
) => {
  const rank = x!.shape.length;
  const axis = normalizeAxis(attrs.axis, rank);
  const other = s.variable('other', 'i32', 1, { from: 0, to: 2 ** 30 });
  const set = moved(demand!, (n) => (n === axis ? other : coordinate(n)), rank);
  const at = coordinate(axis);
  return [exists(and(set, where(attrs.reverse ? s.le(other, at) : s.le(at, other))), other, x!.shape[axis]!)];
};

/** Rows at positions given as data: the positions that some index names. */
export const gatherNeed: Need<{ readonly axis: number }> = (demand, { attrs, inputs: [x, indices], outs, image }) => {
  const axis = normalizeAxis(attrs.axis, x!.shape.length);
  const rank = indices!.shape.length;
  const roles = x!.shape.map((_, i) => (i === axis ? 'mix' : i < axis ? i : i + rank - 1));
  const places = indices!.shape.map((_, i) => axis + i);
  const [rows, read] = needByAxes(demand, outs, [roles, places]) as [IndexSet, IndexSet];
  const open = indices!.shape.map((d) => (dim(d) === 1 ? s.literal(0) : undefined));
  return [and(rows, where(image(1, open, coordinate(axis), x!.shape[axis]!))), read];
};

/** As `gather`, on several axes, behind batch axes that are shared. */
export const gatherNdNeed: Need<{ readonly batchDims: number }> = (
  demand,
  { attrs: { batchDims }, inputs: [x, indices], outs, image },
) => {
  const rank = indices!.shape.length - 1;
  const depth = Number(indices!.shape[rank]);
  const roles = x!.shape.map((_, i) =>
    i < batchDims ? i : i < batchDims + depth ? 'mix' : i - batchDims - depth + rank,
  );
  const [rows, read] = needByAxes(demand, outs, [roles, indices!.shape.map((_, i) => (i < rank ? i : 'mix'))]);
  let set = rows!;
  for (let n = 0; n < depth; n++) {
    const at = indices!.shape.map((d, i) =>
      i === rank ? s.literal(n) : i < batchDims ? coordinate(i) : dim(d) === 1 ? s.literal(0) : undefined,
    );
    set = and(set, where(image(1, at, coordinate(batchDims + n), x!.shape[batchDims + n]!)));
  }
  return [set, read!];
};

/** As `gather` along one axis, the other coordinates being the index's own. */
export const gatherElementsNeed: Need<{ readonly axis: number }> = (
  demand,
  { attrs, inputs: [x, indices], outs, image },
) => {
  const axis = normalizeAxis(attrs.axis, x!.shape.length);
  const lockstep = x!.shape.map((d, i) => i !== axis && sameDim(d, indices!.shape[i]!));
  const [rows, read] = needByAxes(demand, outs, [
    x!.shape.map((_, i) => (lockstep[i] ? i : 'mix')),
    indices!.shape.map((_, i) => i),
  ]);
  const at = indices!.shape.map((_, i) => (lockstep[i] ? coordinate(i) : undefined));
  return [and(rows!, where(image(1, at, coordinate(axis), x!.shape[axis]!))), read!];
};

/** What is not surely overwritten is read of x; indices and updates throughout. */
export const scatterElementsNeed: Need<{ readonly axis: number; readonly reduction: string }> = (
  [demand],
  { attrs, inputs: [x, indices], image },
) => {
  const all = isNone(demand!) ? NONE : ALL;
  const axis = normalizeAxis(attrs.axis, x!.shape.length);
  const lockstep = x!.shape.every((d, i) => i === axis || sameDim(d, indices!.shape[i]!));
  if (attrs.reduction !== 'none' || !lockstep) return [demand!, all, all];
  const at = indices!.shape.map((_, i) => (i === axis ? undefined : coordinate(i)));
  return [and(demand!, whereNot(image(1, at, coordinate(axis), x!.shape[axis]!))), all, all];
};

/** Each element of x is read where it stands; indices and updates throughout. */
export const scatterNdNeed: Need<Record<never, never>> = ([demand]) => {
  const all = isNone(demand!) ? NONE : ALL;
  return [demand!, all, all];
};
