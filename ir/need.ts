/** What ops read of their operands, where it follows from their axes or from how they move elements. */
import type { AxisMap } from './core.ts';
import type { Expr } from './expr.ts';
import { coordinate, exists, type IndexSet, isNone, NONE, or, replace } from './index-set.ts';
import type { Shape, TensorType } from './type.ts';

/** Coordinates of an element of a tensor of that rank. */
export const coordinates = (rank: number): Expr[] => Array.from({ length: rank }, (_, n) => coordinate(n));

/** The set with coordinate `n` of the result replaced by `by(n)`. All are replaced at once. */
export function moved(set: IndexSet, by: (axis: number) => Expr | undefined, rank: number): IndexSet {
  const to = new Map(coordinates(rank).map((v, n) => [v, by(n)]));
  return replace(set, (leaf) => to.get(leaf));
}

/** The set without what it says about some axes: wherever some position on those leads into it. */
export function forget(set: IndexSet, axes: readonly number[], shape: Shape): IndexSet {
  return axes.reduce((left, axis) => exists(left, coordinate(axis), shape[axis]!), set);
}

/** What one operand must hold, given which result axis each of its axes runs in lockstep with. */
export function needOfRoles(demand: IndexSet, out: TensorType, roles: AxisMap[number]): IndexSet {
  if (isNone(demand)) return NONE;
  const axes = [...out.shape.keys()];
  const left = forget(
    demand,
    axes.filter((axis) => !roles.includes(axis)),
    out.shape,
  );
  return moved(left, (axis) => (roles.includes(axis) ? coordinate(roles.indexOf(axis)) : undefined), axes.length);
}

/** Needs that follow from `axes`: lockstep axes carry the demand, all others are read throughout. */
export const needByAxes = (demand: readonly IndexSet[], outs: readonly TensorType[], axes: AxisMap): IndexSet[] =>
  axes.map((roles) => or(...demand.map((d, n) => needOfRoles(d, outs[n]!, roles))));
