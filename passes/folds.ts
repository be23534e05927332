/** Folds over one axis, as patterns of normalisations and softmax meet them. */
import type { Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxes } from '../ir/ops/check.ts';
import { type Shape, sameShape } from '../ir/type.ts';
import { ints, rankOf, shapeOf, uniformOf, unlessRefused } from './facts.ts';
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

/** Arithmetic on more folds than this is left as it is. */
const MOST_DEEP = 8;

/**
 * `v`, folds that drop their axes or arithmetic on such folds, with those axes kept in size 1; undefined where that is not
 * `shape`, or something else is read.
 */
export function withAxesKept(v: Value, shape: Shape, depth = 0): Value | undefined {
  if (depth > MOST_DEEP) return undefined;
  if (v.op.lower.kind === 'reduce' && v.attrs.keepdims === false) {
    const kept = unlessRefused(() => makeValue(v.op, v.inputs, { ...v.attrs, keepdims: true }));
    return kept && sameShape(shapeOf(kept), shape) ? kept : undefined;
  }
  if (v.op.lower.kind !== 'pointwise') return undefined;
  const inputs = v.inputs.map((x) =>
    rankOf(x) === 0 && uniformOf(x) !== undefined ? x : withAxesKept(x, shape, depth + 1),
  );
  if (!inputs.every((x) => x !== undefined)) return undefined;
  const kept = makeValue(v.op, inputs, v.attrs);
  return sameShape(shapeOf(kept), shape) ? kept : undefined;
}
