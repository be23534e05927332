/**
 * Masks as predicates: what passes and schedules ask of a boolean expression over the coordinates b h q k of an attention and
 * loads of its operands. Answers are exact for comparisons of sums of coordinates, sizes and loaded integers (causal masks,
 * windows, lengths, ranges, prefixes, chunks), and on the safe side for everything else.
 */
import {
  type Affine,
  affineOf,
  type Box,
  formMentions,
  mentions,
  plus,
  type Range,
  rangeOf,
  scaled,
  shifted,
  solve,
  toExpr,
} from './affine.ts';
import { type Expr, exprNodes } from './expr.ts';
import { coords } from './ops/attention.ts';
import {
  atMost,
  boxOf,
  type Domain,
  equal,
  exprOf,
  isLeaf,
  type Leaf,
  type Node,
  Normalizer,
  negate,
  nodeOf,
  normalPredicate,
  sortedAll,
} from './predicate-form.ts';
import * as s from './scalar.ts';
import { boundsOf } from './simplify.ts';
import type { Dim } from './type.ts';

export { conjuncts, type Domain, normalPredicate } from './predicate-form.ts';

/** Queries `q0 ≤ q < q1` against keys `k0 ≤ k < k1`; neither is empty. */
export interface Tile {
  readonly q: readonly [Dim, Dim];
  readonly k: readonly [Dim, Dim];
}
export type TileClass = 'empty' | 'full' | 'partial';

/**
 * Whether no pair, every pair or some pairs of a tile may be read. `partial` also where the sizes do not decide it. For
 * masks that are comparisons of sums of coordinates the answer is exact; elsewhere `empty` and `full` are never wrong.
 */
export function bounds(mask: Expr, tile: Tile, domain: Domain = {}): TileClass {
  const { some, all } = tileConditions(mask, tile, domain);
  if (some.op === 'const' && some.arg === 0) return 'empty';
  return all.op === 'const' && all.arg === 1 ? 'full' : 'partial';
}

/**
 * Conditions without q and k: `some` is true where any pair of the tile may be read, `all` is true only where each may be.
 * Limits of the tile may be expressions, so a kernel can ask while it runs.
 */
export function tileConditions(
  mask: Expr,
  { q, k }: Tile,
  domain: Domain = {},
): { readonly some: Expr; readonly all: Expr } {
  const closed = ([from, to]: readonly [Dim, Dim]): Range => ({
    lo: affineOf(s.index(from)),
    hi: shifted(affineOf(s.index(to)), -1),
  });
  const box = boxOf({ batch: domain.batch, heads: domain.heads });
  box.delete(coords.b);
  box.delete(coords.h);
  box.set(coords.q, closed(q));
  box.set(coords.k, closed(k));
  const normal = new Normalizer(domain).node(nodeOf(mask));
  return { some: possible(normal, box), all: s.not(possible(negate(normal), box)) };
}

/** A necessary condition that a predicate is true somewhere in a box. */
function possible(n: Node, box: Box): Expr {
  switch (n.kind) {
    case 'known':
      return s.bool(n.value);
    case 'or':
      return n.items.map((x) => possible(x, box)).reduce(s.or);
    case 'and': {
      // Keys and queries that a bound of their own excludes do not count for the others.
      const smaller = clipped(n.items, box);
      const empty = [...smaller.values()].map(({ lo, hi }) => (lo && hi ? holds(plus(lo, hi, -1)) : s.bool(true)));
      return [...empty, ...n.items.map((x) => possible(x, smaller))].reduce(s.and);
    }
    case 'le': {
      const { lo } = rangeOf(n.form, box);
      return lo ? holds(lo) : s.bool(true);
    }
    case 'eq': {
      const { lo, hi } = rangeOf(n.form, box);
      if (!n.holds) return lo && hi ? s.not(s.and(isZero(lo), isZero(hi))) : s.bool(true);
      return s.and(lo ? holds(lo) : s.bool(true), hi ? holds(scaled(hi, -1)) : s.bool(true));
    }
    case 'is': {
      const depends = [...box.keys()].some((leaf) => mentions(n.e, leaf));
      return depends ? s.bool(true) : n.holds ? n.e : s.not(n.e);
    }
  }
}
const holds = (form: Affine): Expr => exprOf(atMost(form));
const isZero = (form: Affine): Expr => exprOf(equal(form));

/** A box without what bounds on single coordinates exclude. */
function clipped(items: readonly Node[], box: Box): Box {
  const smaller = new Map(box);
  for (const n of items) {
    if (n.kind !== 'le') continue;
    for (const leaf of [coords.q, coords.k]) {
      const bound = [...box.keys()].every((x) => x === leaf || !formMentions(n.form, x))
        ? solve(n.form, leaf)
        : undefined;
      const range = smaller.get(leaf);
      if (!bound || !range?.lo || !range.hi) continue;
      const join = bound.side === 'upper' ? s.min : s.max;
      const old = bound.side === 'upper' ? range.hi : range.lo;
      const edge = affineOf(join(toExpr(old, 'i32'), narrow(bound.value)));
      smaller.set(leaf, bound.side === 'upper' ? { lo: range.lo, hi: edge } : { lo: edge, hi: range.hi });
    }
  }
  return smaller;
}
/** A bound as `i32`: what lies beyond the type lies beyond every coordinate too. */
function narrow(a: Affine): Expr {
  const e = toExpr(a);
  return e.dtype === 'i32' ? e : s.cast(s.max(s.min(e, 2 ** 30), -(2 ** 30)), 'i32');
}

/** Keys that queries may read. */
export interface Span {
  /** No key outside `lo ≤ k < hi` is read; the limits may cross when none is. */
  readonly lo: Expr;
  readonly hi: Expr;
  /** Every key in `solidLo ≤ k < solidHi` is read by all of the queries; the limits may cross. */
  readonly solidLo: Expr;
  readonly solidHi: Expr;
}

/**
 * The hull of the keys that queries `q0 ≤ q < q1` may read, over b, h, symbols, loads and what the limits mention.
 *
 * @param q absent: the single query `coords.q`
 */
export function rowSpan(mask: Expr, keys: Dim, q?: readonly [Dim, Dim], domain: Domain = {}): Span {
  const range: Range = q
    ? { lo: affineOf(s.index(q[0])), hi: shifted(affineOf(s.index(q[1])), -1) }
    : { lo: affineOf(coords.q), hi: affineOf(coords.q) };
  const box: Box = new Map([[coords.q, range]]);
  const end = s.index(keys);
  const normal = new Normalizer({ ...domain, keys }).node(nodeOf(mask));
  const { lo, hi, solidLo, solidHi } = spanOf(normal, box, end);
  const clip = (e: Expr): Expr => s.min(s.max(e, 0), end);
  return { lo: clip(lo), hi: clip(hi), solidLo: clip(solidLo), solidHi: clip(solidHi) };
}

function spanOf(n: Node, box: Box, keys: Expr): Span {
  const zero = s.literal(0);
  const within = (when: Expr): Span => {
    const hi = s.select(when, keys, zero);
    return { lo: zero, hi, solidLo: zero, solidHi: hi };
  };
  const loose: Span = { lo: zero, hi: keys, solidLo: zero, solidHi: zero };
  switch (n.kind) {
    case 'known':
      return within(s.bool(n.value));
    case 'and': {
      const parts = n.items.map((x) => spanOf(x, box, keys));
      const fold = (name: keyof Span, f: (a: Expr, b: Expr) => Expr): Expr => parts.map((p) => p[name]).reduce(f);
      return {
        lo: fold('lo', s.max),
        hi: fold('hi', s.min),
        solidLo: fold('solidLo', s.max),
        solidHi: fold('solidHi', s.min),
      };
    }
    case 'or':
      return n.items.map((x) => spanOf(x, box, keys)).reduce(union);
    case 'is': {
      const varies = mentions(n.e, coords.k) || (mentions(n.e, coords.q) && !isPoint(box));
      if (varies) return loose;
      return within(s.substitute(n.holds ? n.e : s.not(n.e), (e) => (e === coords.q ? pointOf(box) : undefined)));
    }
    case 'eq': {
      if (!n.holds) return formMentions(n.form, coords.k) ? loose : withoutKeys(n, box, keys, within, loose);
      const [up, down] = [n.form, scaled(n.form, -1)].map((form) => spanOf({ kind: 'le', form }, box, keys));
      return {
        lo: s.max(up!.lo, down!.lo),
        hi: s.min(up!.hi, down!.hi),
        solidLo: s.max(up!.solidLo, down!.solidLo),
        solidHi: s.min(up!.solidHi, down!.solidHi),
      };
    }
    case 'le': {
      if (!formMentions(n.form, coords.k)) return withoutKeys(n, box, keys, within, loose);
      const bound = solve(n.form, coords.k);
      if (!bound) return loose;
      const { lo, hi } = isPoint(box) ? atPoint(bound.value, box) : rangeOf(bound.value, box);
      if (bound.side === 'upper')
        return {
          lo: zero,
          hi: hi ? s.add(narrow(hi), 1) : keys,
          solidLo: zero,
          solidHi: lo ? s.add(narrow(lo), 1) : zero,
        };
      return { lo: lo ? narrow(lo) : zero, hi: keys, solidLo: hi ? narrow(hi) : keys, solidHi: keys };
    }
  }
}
/** A leaf without k: all keys or none, by whether any of the queries passes and whether all do. */
function withoutKeys(n: Leaf, box: Box, keys: Expr, within: (when: Expr) => Span, loose: Span): Span {
  if (n.kind === 'is') return loose;
  const some = within(possible(n, box));
  const all = within(s.not(possible(negate(n), box)));
  return { ...some, solidLo: s.min(all.solidLo, keys), solidHi: all.solidHi };
}
const pointOf = (box: Box): Expr => toExpr(box.get(coords.q)!.lo!);
const isPoint = (box: Box): boolean => {
  const { lo, hi } = box.get(coords.q)!;
  const gap = lo && hi && plus(hi, lo, -1);
  return gap !== undefined && gap.terms.size === 0 && gap.constant === 0;
};

/** A bound where all queries are one: exact, also where a number of each query is loaded. */
function atPoint(form: Affine, box: Box): Range {
  const e = s.substitute(toExpr(form), (leaf) => (leaf === coords.q ? pointOf(box) : undefined));
  const value = affineOf(e);
  return { lo: value, hi: value };
}

function union(a: Span, b: Span): Span {
  const solid =
    a.solidLo === b.solidLo
      ? { solidLo: a.solidLo, solidHi: s.max(a.solidHi, b.solidHi) }
      : a.solidHi === b.solidHi
        ? { solidLo: s.min(a.solidLo, b.solidLo), solidHi: a.solidHi }
        : { solidLo: a.solidLo, solidHi: a.solidHi };
  return { lo: s.min(a.lo, b.lo), hi: s.max(a.hi, b.hi), ...solid };
}

/**
 * {k | some demanded query may read k}: a predicate over b, h and k. `true` stands for all keys.
 *
 * @param demanded a predicate over b, h and q; absent: all queries
 * @returns exact: whether the result is that set; otherwise it contains it
 */
export function pre(
  mask: Expr,
  demanded: Expr = s.bool(true),
  domain: Domain = {},
): { readonly keys: Expr; readonly exact: boolean } {
  const { e, exact } = exists(s.and(demanded, mask), coords.q, domain);
  return { keys: e, exact };
}

/** Most terms of a disjunction of conjunctions; beyond them parts are given up. */
const MOST_TERMS = 16;

/**
 * A predicate without `coord` that is true wherever the given one is true for some value of it within its size. `exact`
 * where it is true nowhere else.
 */
export function exists(e: Expr, coord: Expr, domain: Domain = {}): { readonly e: Expr; readonly exact: boolean } {
  const normalizer = new Normalizer(domain);
  const { terms, exact } = disjunction(normalizer.node(nodeOf(e)));
  const range = boxOf(domain).get(coord);
  let precise = exact;
  const projected = terms.map((leaves): Node => {
    const rest: Node[] = [];
    const [lows, highs]: [Affine[], Affine[]] = [[], []];
    if (range?.lo) lows.push(range.lo);
    if (range?.hi) highs.push(range.hi);
    for (const leaf of leaves) {
      if (!leafMentions(leaf, coord)) {
        rest.push(leaf);
        continue;
      }
      const forms =
        leaf.kind === 'le' ? [leaf.form] : leaf.kind === 'eq' && leaf.holds ? [leaf.form, scaled(leaf.form, -1)] : [];
      const found = forms.map((form) => solve(form, coord));
      if (forms.length === 0 || found.includes(undefined)) precise = false;
      for (const bound of found) if (bound) (bound.side === 'lower' ? lows : highs).push(bound.value);
    }
    for (const low of lows) for (const high of highs) rest.push(atMost(plus(low, high, -1)));
    return { kind: 'and', items: rest };
  });
  const all = normalizer.node({ kind: 'or', items: projected });
  return { e: exprOf(sortedAll(all)), exact: precise };
}
const leafMentions = (leaf: Leaf, coord: Expr): boolean =>
  leaf.kind === 'is' ? mentions(leaf.e, coord) : formMentions(leaf.form, coord);

/** Conjunctions of which one is true. Where there would be too many, a part is taken as true. */
function disjunction(n: Node): { readonly terms: readonly (readonly Leaf[])[]; readonly exact: boolean } {
  if (n.kind === 'known') return { terms: n.value ? [[]] : [], exact: true };
  if (isLeaf(n)) return { terms: [[n]], exact: true };
  const parts = n.items.map(disjunction);
  const exact = parts.every((p) => p.exact);
  if (n.kind === 'or') {
    const terms = parts.flatMap((p) => p.terms);
    return terms.length > MOST_TERMS ? { terms: [[]], exact: false } : { terms, exact };
  }
  let terms: readonly (readonly Leaf[])[] = [[]];
  let all = exact;
  for (const p of parts) {
    if (terms.length * p.terms.length > MOST_TERMS) all = false;
    else terms = terms.flatMap((x) => p.terms.map((y) => [...x, ...y]));
  }
  return { terms, exact: all };
}

/**
 * Whether the first predicate is never true without the second; false also where that is not known. Decided by elimination,
 * so chains count: `k <= q` implies `k < 9` where there are 9 queries.
 */
export function implies(a: Expr, b: Expr, domain: Domain = {}): boolean {
  const counterexample = normalPredicate(s.and(a, s.not(b)), domain);
  const without = (e: Expr, coord: Expr): Expr => exists(e, coord, domain).e;
  const left = [coords.q, coords.k].reduce(without, counterexample);
  return left.op === 'const' && left.arg === 0;
}

/** Whether every query that `on` selects may read the key at its own position. Queries and keys are the same tokens. */
export function reflexive(mask: Expr, on: Expr = s.bool(true), domain: Domain = {}): boolean {
  const diagonal = s.substitute(mask, (e) => (e === coords.k ? coords.q : undefined));
  return implies(on, diagonal, domain);
}

/**
 * How many pairs of one batch entry and head a predicate allows.
 *
 * @param sizes whole numbers; `bind` gives symbols their values
 * @returns exact: false where it depends on operands, which then count as allowing everything
 */
export function count(
  mask: Expr,
  sizes: { readonly queries: number; readonly keys: number },
  bind: (symbol: Expr) => number = (symbol) => boundsOf(symbol)[1],
): { readonly pairs: number; readonly exact: boolean } {
  const fixed = s.substitute(mask, (e) => (e.op === 'sym' ? s.literal(bind(e), e.dtype) : undefined));
  const normal = normalPredicate(fixed, sizes);
  const free = exprNodes(normal).some((e) => e.op === 'operand' || e === coords.b || e === coords.h);
  const span = rowSpan(normal, sizes.keys, undefined, sizes);
  let [pairs, exact] = [0, !free];
  for (let q = 0; q < sizes.queries; q++) {
    const at = (e: Expr): number => {
      const value = s.substitute(e, (x) => (x === coords.q ? s.literal(q) : undefined));
      return value.op === 'const' ? (value.arg as number) : Number.NaN;
    };
    const known = [span.lo, span.hi, span.solidLo, span.solidHi].map(at);
    const lo = Number.isNaN(known[0]!) ? 0 : known[0]!;
    const hi = Number.isNaN(known[1]!) ? sizes.keys : known[1]!;
    if (lo === known[2] && hi === known[3]) pairs += Math.max(0, hi - lo);
    else if (free) pairs += Math.max(0, hi - lo);
    else
      for (let k = lo; k < hi; k++) {
        const value = s.substitute(normal, (x) =>
          x === coords.q ? s.literal(q) : x === coords.k ? s.literal(k) : undefined,
        );
        if (value.op !== 'const') exact = false;
        if (value.op !== 'const' || value.arg !== 0) pairs++;
      }
  }
  return { pairs, exact };
}
