/** Folds over one axis, as patterns of normalisations and softmax meet them. */
import type { Value } from '../ir/graph.ts';
import { normalizeAxes } from '../ir/ops/check.ts';
import { ints, rankOf } from './facts.ts';
import { type Pattern, where } from './pattern.ts';

/** The one axis that a fold which keeps its axes runs over; undefined when there are several or they are dropped. */
export function foldAxis(fold: Value): number | undefined {
  const axes = normalizeAxes(ints(fold.attrs, 'axes'), rankOf(fold.inputs[0]!));
  return axes.length === 1 && fold.attrs.keepdims === true ? axes[0] : undefined;
}

/** The axis that every fold between the root and `from` runs over; undefined when they differ. */
export function foldedAxis(root: Value, from: Value): number | undefined {
  const axes = new Set<number | undefined>();
  const seen = new Set<Value>([from]);
  const stack = [root];
  for (let v = stack.pop(); v; v = stack.pop()) {
    if (seen.has(v)) continue;
    seen.add(v);
    if (v.op.lower.kind === 'reduce') axes.add(foldAxis(v));
    stack.push(...v.inputs);
  }
  return axes.size === 1 ? [...axes][0] : undefined;
}

/** A fold over one axis, which stays with size 1. */
export const alongOne = <C>(fold: Pattern<C>): Pattern<C> => where(fold, (v) => foldAxis(v) !== undefined);
