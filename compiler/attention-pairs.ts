/** How many scores attention computes: as written, and where masks let kernels skip keys. */
import { evaluateExpr } from '../ir/evaluate-expr.ts';
import { type Expr, exprNodes, type Sym } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
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
  /** Pairs whose score a kernel computes. */
  readonly executed: number;
  /** Whether that is known; otherwise lengths and masks that come at run time are taken to allow the most. */
  readonly exact: boolean;
}

export const NO_PAIRS: Pairs = { written: 0, executed: 0, exact: true };
export const addPairs = (a: Pairs, b: Pairs, times = 1): Pairs => ({
  written: a.written + b.written * times,
  executed: a.executed + b.executed * times,
  exact: a.exact && b.exact,
});

/**
 * The pairs of one attention.
 * @param sizes of symbols by name; a symbol that is not named takes its default
 * @param rows queries of one block, which meet the keys that any of them may read
 */
export function executedPairs(
  attention: Value,
  sizes: Readonly<Record<string, number>>,
  rows: number = WASM_RELAXED.attentionRows,
): Pairs {
  const bind = (e: Expr): number => sizes[(e.arg as Sym).name] ?? (e.arg as Sym).default;
  const size = (d: Dim): number => sizeAt(d, bind);
  const [batch, heads, queries] = typeOf(attention.inputs[0]!).shape.map(size) as [number, number, number];
  const keys = size(typeOf(attention.inputs[1]!).shape[2]!);
  const written = batch * heads * queries * keys;
  const mask = attention.attrs.mask as Expr | undefined;
  if (!mask) return { written, executed: written, exact: true };
  const fixed = substitute(mask, (e) => (e.op === 'sym' ? literal(bind(e), e.dtype) : undefined));
  const span = rowSpan(fixed, keys, undefined, { batch, heads, queries, keys });
  const emptyRow = attention.attrs.emptyRow as EmptyRow;
  const wholeWhenEmpty = emptyRow === 'uniform' || emptyRow === 'unmasked';
  const hullIsAll = span.lo === span.solidLo && span.hi === span.solidHi;
  const isFree = (e: Expr): boolean => exprNodes(e).some((x) => x.op === 'operand' || x === coords.b || x === coords.h);
  const free = isFree(span.lo) || isFree(span.hi);
  const at = (e: Expr, q: number, end: 0 | 1): number => {
    const known = substitute(e, (x) => (x === coords.q ? literal(q) : undefined));
    return free ? boundsOf(known)[end] : evaluateExpr(known, { value: () => Number.NaN });
  };
  let pairs = 0;
  for (let first = 0; first < queries; first += rows) {
    const count = Math.min(rows, queries - first);
    let [from, to] = [keys, 0];
    for (let q = first; q < first + count; q++) {
      const [lo, hi] = [Math.max(0, at(span.lo, q, 0)), Math.min(keys, at(span.hi, q, 1))];
      if (wholeWhenEmpty && (free || !hullIsAll || lo >= hi)) [from, to] = [0, keys];
      else if (lo < hi) [from, to] = [Math.min(from, lo), Math.max(to, hi)];
    }
    if (from < to) pairs += count * (Math.min(keys, Math.ceil(to / STEP) * STEP) - Math.floor(from / STEP) * STEP);
  }
  return {
    written,
    executed: batch * heads * pairs,
    exact: !free && (hullIsAll || !wholeWhenEmpty),
  };
}
