/** How many scores attention computes: as written, and where masks let kernels skip keys. */
import { evaluateExpr } from '../ir/evaluate-expr.ts';
import { type Expr, exprNodes, type Sym } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { coords, type EmptyRow } from '../ir/ops/attention.ts';
import { rowSpan } from '../ir/predicate.ts';
import { literal, substitute } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { type Dim, sizeAt } from '../ir/type.ts';
import { STEP } from './schedule/attention-reach.ts';
import { WASM_RELAXED } from './target.ts';

export interface Pairs {
  /** Queries times keys, for all heads and batch entries. */
  readonly written: number;
  /** Pairs that masks allow: the least that could be computed. */
  readonly allowed: number;
  /** Pairs whose score a kernel computes: blocks of queries meet the keys between the first and the last that any reads. */
  readonly executed: number;
  /** Whether that is known; otherwise lengths and masks that come at run time are taken to allow the most. */
  readonly exact: boolean;
}

export const NO_PAIRS: Pairs = { written: 0, allowed: 0, executed: 0, exact: true };
export const addPairs = (a: Pairs, b: Pairs, times = 1): Pairs => ({
  written: a.written + b.written * times,
  allowed: a.allowed + b.allowed * times,
  executed: a.executed + b.executed * times,
  exact: a.exact && b.exact,
});

export interface PairOptions {
  /** Queries of one block, which meet the keys that any of them may read. Default what kernels take. */
  readonly rows?: number;
  /** Keys that a block meets at a time. Default what kernels take. */
  readonly step?: number;
  /** The value of an operand of the mask, where it is known. */
  readonly known?: (operand: Value) => Nd | undefined;
}

/** Pairs that are looked at one by one where a mask is not a stretch of keys; beyond that, all between first and last count. */
const MOST = 2 ** 23;

/**
 * The pairs of one attention.
 * @param sizes of symbols by name; a symbol that is not named takes its default
 */
export function executedPairs(
  attention: Value,
  sizes: Readonly<Record<string, number>>,
  { rows = WASM_RELAXED.attentionRows, step = STEP, known: given }: PairOptions = {},
): Pairs {
  const bind = (e: Expr): number => sizes[(e.arg as Sym).name] ?? (e.arg as Sym).default;
  const size = (d: Dim): number => sizeAt(d, bind);
  const [batch, heads, queries] = typeOf(attention.inputs[0]!).shape.map(size) as [number, number, number];
  const keys = size(typeOf(attention.inputs[1]!).shape[2]!);
  const written = batch * heads * queries * keys;
  const mask = attention.attrs.mask as Expr | undefined;
  if (!mask) return { written, allowed: written, executed: written, exact: true };
  const fixed = substitute(mask, (e) => (e.op === 'sym' ? literal(bind(e), e.dtype) : undefined));
  const span = rowSpan(fixed, keys, undefined, { batch, heads, queries, keys });
  const emptyRow = attention.attrs.emptyRow as EmptyRow;
  const wholeWhenEmpty = emptyRow === 'uniform' || emptyRow === 'unmasked';
  const operands = attention.inputs.map((x, n) => (n < 3 ? undefined : given?.(x)));
  const isKnown = (e: Expr): boolean =>
    exprNodes(e).every((x) => x.op !== 'operand' || operands[x.arg as number] !== undefined);
  const known = isKnown(fixed);
  const free = !isKnown(span.lo) || !isKnown(span.hi);
  const hullIsAll = span.lo === span.solidLo && span.hi === span.solidHi;
  const place = { b: 0, h: 0, q: 0, k: 0 };
  const env = {
    value: (leaf: Expr, at: readonly number[]): number => {
      if (leaf === coords.b) return place.b;
      if (leaf === coords.h) return place.h;
      if (leaf === coords.q) return place.q;
      if (leaf === coords.k) return place.k;
      const operand = operands[leaf.arg as number];
      return operand ? operand.data[offset(operand.shape, at)]! : Number.NaN;
    },
  };
  const bound = (e: Expr, end: 0 | 1): number =>
    isKnown(e)
      ? evaluateExpr(e, env)
      : boundsOf(substitute(e, (x) => (x === coords.q ? literal(place.q) : undefined)))[end];
  // Masks of attention are rarely told apart by head: equal lines of scores are counted once.
  const mentions = (c: Expr): boolean => known && exprNodes(fixed).includes(c);
  const [entries, own] = [mentions(coords.b) ? batch : 1, mentions(coords.h) ? heads : 1];
  const byPair = known && !hullIsAll && entries * own * queries * keys <= MOST;
  const line = (): readonly [lo: number, hi: number, allowed: number] => {
    const [lo, hi] = [Math.max(0, bound(span.lo, 0)), Math.min(keys, bound(span.hi, 1))];
    if (!byPair) return [lo, hi, Math.max(0, hi - lo)];
    let allowed = 0;
    for (place.k = lo; place.k < hi; place.k++) if (evaluateExpr(fixed, env) !== 0) allowed++;
    return [lo, hi, allowed];
  };
  let [executed, allowed] = [0, 0];
  for (place.b = 0; place.b < entries; place.b++)
    for (place.h = 0; place.h < own; place.h++)
      for (let first = 0; first < queries; first += rows) {
        const count = Math.min(rows, queries - first);
        let [from, to] = [keys, 0];
        for (place.q = first; place.q < first + count; place.q++) {
          const [lo, hi, read] = line();
          const isEmpty = byPair ? read === 0 : lo >= hi;
          if (wholeWhenEmpty && (isEmpty || free || (!hullIsAll && !byPair))) {
            [from, to] = [0, keys];
            allowed += keys;
          } else {
            if (lo < hi) [from, to] = [Math.min(from, lo), Math.max(to, hi)];
            allowed += read;
          }
        }
        if (from < to)
          executed += count * (Math.min(keys, Math.ceil(to / step) * step) - Math.floor(from / step) * step);
      }
  const times = (batch / entries) * (heads / own);
  return {
    written,
    allowed: allowed * times,
    executed: executed * times,
    exact: !free && (hullIsAll || byPair || !wholeWhenEmpty),
  };
}

/** The place of an element, coordinates of axes of size 1 ignored. */
function offset(shape: readonly number[], at: readonly number[]): number {
  return shape.reduce((n, size, axis) => n * size + (size === 1 ? 0 : at[axis]!), 0);
}
