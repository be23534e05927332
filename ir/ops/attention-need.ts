/** What attention reads of its operands: of keys and values, those that a demanded query may read. */
import type { AxisMap, NeedContext } from '../core.ts';
import type { Expr } from '../expr.ts';
import { and, coordinate, exists, holdsOn, type IndexSet, isNone, NONE, or, where } from '../index-set.ts';
import { moved, needByAxes } from '../need.ts';
import * as s from '../scalar.ts';
import { sameDim, type TensorType } from '../type.ts';

interface ScoreAttrs {
  readonly mask: Expr | undefined;
  readonly emptyRow: 'zero' | 'nan' | 'uniform' | 'unmasked';
}
/** What masks are written in. */
export interface ScoreCoordinates {
  readonly b: Expr;
  readonly h: Expr;
  readonly q: Expr;
  readonly k: Expr;
}

/**
 * Keys and values at `{k | some demanded query q has mask(q, k)}`; q and what masks load by axes.
 * @param at the coordinates that masks are written in
 */
export const attentionNeed =
  (axes: (inputs: readonly TensorType[], attrs: never) => AxisMap, at: ScoreCoordinates) =>
  (demand: readonly IndexSet[], cx: NeedContext<ScoreAttrs>): readonly IndexSet[] => {
    const { inputs, outs, attrs } = cx;
    const roles = axes(inputs, attrs as never);
    const [q, , , ...operands] = needByAxes(demand, outs, roles);
    // Queries [B, H, Q] of which some result is wanted.
    const rows = or(...demand.map((d, n) => exists(d, coordinate(3), outs[n]!.shape[3] ?? 1)));
    const keys = keysOf(rows, cx, at);
    return [q!, keys, keys, ...operands];
  };

function keysOf(rows: IndexSet, { inputs, attrs, element }: NeedContext<ScoreAttrs>, at: ScoreCoordinates): IndexSet {
  if (isNone(rows)) return NONE;
  const [q, k] = inputs as [TensorType, TensorType];
  const [, heads, queries] = q.shape as [never, TensorType['shape'][number], TensorType['shape'][number]];
  const query = s.variable('q', 'i32', 1, { from: 0, to: 2 ** 30 });
  const head = s.variable('h', 'i32', 1, { from: 0, to: 2 ** 30 });
  const sharing = !sameDim(heads, k.shape[1]!);
  const own = sharing ? head : coordinate(1);
  const readers = moved(rows, (axis) => [undefined, own, query][axis], 3);
  const group = sharing
    ? where(s.eq(s.floordiv(own, s.floordiv(s.index(heads), s.index(k.shape[1]!))), coordinate(1)))
    : undefined;
  let pairs = group ? and(readers, group) : readers;
  const mask = attrs.mask && maskAt(attrs.mask, element, at, { b: coordinate(0), h: own, q: query, k: coordinate(2) });
  if (
    mask &&
    (attrs.emptyRow === 'zero' || attrs.emptyRow === 'nan' || seesItself(rows, attrs.mask!, inputs, element, at))
  )
    pairs = and(pairs, where(mask));
  const wide = exists(pairs, query, queries);
  return sharing ? exists(wide, head, heads) : wide;
}

/** A mask with its coordinates and the elements that it loads put in. */
export function maskAt(
  mask: Expr,
  element: (n: number, at: readonly Expr[]) => Expr,
  at: ScoreCoordinates,
  to: ScoreCoordinates,
): Expr {
  const put = (e: Expr): Expr =>
    s.substitute(e, (leaf) => {
      if (leaf === at.b) return to.b;
      if (leaf === at.h) return to.h;
      if (leaf === at.q) return to.q;
      if (leaf === at.k) return to.k;
      return leaf.op === 'operand' ? element(leaf.arg as number, leaf.args.map(put)) : undefined;
    });
  return put(mask);
}

/** Whether every demanded query of a self-attention may read its own key, so that none of them has an empty row. */
function seesItself(
  rows: IndexSet,
  mask: Expr,
  [q, k]: readonly TensorType[],
  element: NeedContext<unknown>['element'],
  at: ScoreCoordinates,
): boolean {
  if (!sameDim(q!.shape[2]!, k!.shape[2]!)) return false;
  const own = maskAt(mask, element, at, { b: coordinate(0), h: coordinate(1), q: coordinate(2), k: coordinate(2) });
  return holdsOn(rows, own, q!.shape);
}
