/**
 * The normal form of predicates, which are boolean expressions over the coordinates b h q k of an attention and loads of its
 * operands. `predicate.ts` asks questions of it.
 *
 * It is a tree of `and` and `or` over three kinds of leaf: a sum of coordinates, sizes and loaded integers that is ≤ 0, one
 * that is or is not 0, and a boolean that is or is not true. Causal masks, windows, lengths, ranges, prefixes and chunks are
 * leaves of the first two kinds; arbitrary bit masks are leaves of the third.
 */
import {
  type Affine,
  affineOf,
  type Box,
  constantForm,
  formMentions,
  limitsOf,
  mentions,
  plus,
  type Range,
  rangeOf,
  scaled,
  shifted,
  termsKey,
  textOf,
  toExpr,
  widthOf,
} from './affine.ts';
import { isInt } from './dtype.ts';
import type { Expr } from './expr.ts';
import { coords } from './ops/attention.ts';
import * as s from './scalar.ts';
import type { Dim } from './type.ts';

/** Sizes of the scores that a predicate is about; a size that is left out is not known. */
export interface Domain {
  readonly batch?: Dim | undefined;
  readonly heads?: Dim | undefined;
  readonly queries?: Dim | undefined;
  readonly keys?: Dim | undefined;
}

export type Leaf =
  /** form ≤ 0 */
  | { readonly kind: 'le'; readonly form: Affine }
  /** form = 0, or ≠ 0 */
  | { readonly kind: 'eq'; readonly form: Affine; readonly holds: boolean }
  | { readonly kind: 'is'; readonly e: Expr; readonly holds: boolean };
export type Node =
  | Leaf
  | { readonly kind: 'known'; readonly value: boolean }
  | { readonly kind: 'and' | 'or'; readonly items: readonly Node[] };

export const TRUE: Node = { kind: 'known', value: true };
export const FALSE: Node = { kind: 'known', value: false };
export const isLeaf = (n: Node): n is Leaf => n.kind === 'le' || n.kind === 'eq' || n.kind === 'is';

// ---------------------------------------------------------------- reading

const nodes = new WeakMap<Expr, Node>();

/** The tree of a boolean expression, negations pushed to the leaves. */
export function nodeOf(e: Expr): Node {
  let node = nodes.get(e);
  if (!node) {
    node = readNode(e);
    nodes.set(e, node);
  }
  return node;
}

function readNode(e: Expr): Node {
  const [a, b, c] = e.args as [Expr, Expr, Expr];
  switch (e.op) {
    case 'const':
      return e.arg === 0 ? FALSE : TRUE;
    case 'not':
      return negate(nodeOf(a));
    case 'and':
    case 'or':
      return { kind: e.op, items: [nodeOf(a), nodeOf(b)] };
    case 'select':
      return { kind: 'and', items: [either(negate(nodeOf(a)), nodeOf(b)), either(nodeOf(a), nodeOf(c))] };
    case 'cast':
      return isInt(a.dtype) ? negate(equal(affineOf(a))) : { kind: 'is', e, holds: true };
  }
  if (!a || !isInt(a.dtype)) return { kind: 'is', e, holds: true };
  switch (e.op) {
    case 'le':
      return atMost(plus(affineOf(a), affineOf(b), -1));
    case 'lt':
      return atMost(shifted(plus(affineOf(a), affineOf(b), -1), 1));
    case 'eq':
      return equal(plus(affineOf(a), affineOf(b), -1));
    case 'ne':
      return negate(equal(plus(affineOf(a), affineOf(b), -1)));
    default:
      return { kind: 'is', e, holds: true };
  }
}
const either = (a: Node, b: Node): Node => ({ kind: 'or', items: [a, b] });

export function negate(n: Node): Node {
  switch (n.kind) {
    case 'known':
      return n.value ? FALSE : TRUE;
    case 'le':
      return { kind: 'le', form: shifted(scaled(n.form, -1), 1) };
    case 'eq':
    case 'is':
      return { ...n, holds: !n.holds };
    default:
      return { kind: n.kind === 'and' ? 'or' : 'and', items: n.items.map(negate) };
  }
}

/** form ≤ 0, with absolute values, minima, maxima and numbers made of booleans taken apart. */
export function atMost(form: Affine): Node {
  for (const [base, factor] of form.terms) {
    const rest = plus(form, { terms: new Map([[base, factor]]), constant: 0 }, -1);
    const [a, b] = base.args as [Expr, Expr];
    const parts =
      base.op === 'abs'
        ? [affineOf(a), scaled(affineOf(a), -1)]
        : base.op === 'max' || base.op === 'min'
          ? [affineOf(a), affineOf(b)]
          : undefined;
    if (parts) {
      const all = (base.op === 'min') !== factor > 0;
      return { kind: all ? 'and' : 'or', items: parts.map((p) => atMost(plus(rest, p, factor))) };
    }
    if (base.op === 'select') {
      const [when, x, y] = base.args.map((e, i) => (i === 0 ? e : plus(rest, affineOf(e), factor))) as [
        Expr,
        Affine,
        Affine,
      ];
      return { kind: 'and', items: [either(negate(nodeOf(when)), atMost(x)), either(nodeOf(when), atMost(y))] };
    }
    if (base.op === 'cast' && a.dtype === 'bool') {
      const [off, on] = [atMost(rest), atMost(shifted(rest, factor))];
      return { kind: 'and', items: [either(negate(nodeOf(a)), on), either(nodeOf(a), off)] };
    }
  }
  const divisor = [...form.terms.values()].reduce((x, y) => gcd(x, y), 0);
  if (divisor > 1)
    return atMost({
      terms: new Map([...form.terms].map(([base, factor]) => [base, factor / divisor])),
      constant: Math.ceil(form.constant / divisor),
    });
  return { kind: 'le', form };
}
const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));

/** form = 0. Of the two forms that say so the one that sorts first. */
export function equal(form: Affine): Node {
  for (const [base, factor] of form.terms) {
    const [a] = base.args as [Expr];
    if (base.op !== 'cast' || a.dtype !== 'bool') continue;
    const rest = plus(form, { terms: new Map([[base, factor]]), constant: 0 }, -1);
    const [off, on] = [equal(rest), equal(shifted(rest, factor))];
    return { kind: 'and', items: [either(negate(nodeOf(a)), on), either(nodeOf(a), off)] };
  }
  if (form.terms.size === 0) return form.constant === 0 ? TRUE : FALSE;
  const first = [...form.terms].reduce((x, y) => (rank(x[0]) <= rank(y[0]) ? x : y));
  return { kind: 'eq', form: first[1] < 0 ? scaled(form, -1) : form, holds: true };
}
/** What prints first: bases with k, then with q, then the rest, each in the order of their text. */
const rank = (e: Expr): string => `${mentions(e, coords.k) ? 0 : mentions(e, coords.q) ? 1 : 2}${textOf(e)}`;

// ---------------------------------------------------------------- writing

export function exprOf(n: Node): Expr {
  switch (n.kind) {
    case 'known':
      return s.bool(n.value);
    case 'is':
      return n.holds ? n.e : s.not(n.e);
    case 'eq': {
      const [left, right] = sides(n.form);
      const dtype = widthOf(n.form);
      return (n.holds ? s.eq : s.ne)(toExpr(left, dtype), toExpr(right, dtype));
    }
    case 'le': {
      const dtype = widthOf(n.form);
      const [left, right] = sides(n.form);
      const { constant } = n.form;
      const strict = (by: number): Expr => s.lt(toExpr(left, dtype), toExpr(shifted(constantless(right), by), dtype));
      if (left.terms.size === 0) return s.le(s.literal(constant, dtype), toExpr(constantless(right), dtype));
      if (constant > 0)
        return s.lt(toExpr({ ...left, constant: constant - 1 }, dtype), toExpr(constantless(right), dtype));
      if (right.terms.size === 0) return strict(1 - constant);
      return s.le(toExpr(constantless(left), dtype), toExpr({ ...right, constant: -constant }, dtype));
    }
    default:
      return n.items.map(exprOf).reduce(n.kind === 'and' ? s.and : s.or);
  }
}
const constantless = (a: Affine): Affine => ({ terms: a.terms, constant: 0 });

/** left = right is form = 0, without a minus sign. */
function sides(form: Affine): readonly [Affine, Affine] {
  const [left, right] = [new Map<Expr, number>(), new Map<Expr, number>()];
  for (const [base, factor] of form.terms) (factor > 0 ? left : right).set(base, Math.abs(factor));
  return [
    { terms: left, constant: Math.max(0, form.constant) },
    { terms: right, constant: Math.max(0, -form.constant) },
  ];
}

// ---------------------------------------------------------------- normal form

/** Ranges of the coordinates. */
export function boxOf(domain: Domain): Map<Expr, Range> {
  const box = new Map<Expr, Range>();
  const sizes = [
    [coords.b, domain.batch],
    [coords.h, domain.heads],
    [coords.q, domain.queries],
    [coords.k, domain.keys],
  ] as const;
  for (const [leaf, size] of sizes)
    box.set(leaf, { lo: constantForm(0), hi: size === undefined ? undefined : shifted(affineOf(s.index(size)), -1) });
  return box;
}

export class Normalizer {
  readonly #box: Box;
  /** Ranges of q and k alone. */
  readonly #tokens: Box;

  constructor(domain: Domain) {
    this.#box = boxOf(domain);
    this.#tokens = new Map([coords.q, coords.k].map((leaf) => [leaf, this.#box.get(leaf)!]));
  }

  node(n: Node, facts: readonly Leaf[] = []): Node {
    switch (n.kind) {
      case 'known':
        return n;
      case 'and':
        return this.#conjunction(n.items, facts);
      case 'or':
        return negate(this.#conjunction(n.items.map(negate), facts));
      default: {
        const leaf = this.#leaf(n);
        if (!isLeaf(leaf)) return leaf;
        if (facts.some((f) => entails(f, leaf))) return TRUE;
        return facts.some((f) => contradicts(f, leaf)) ? FALSE : leaf;
      }
    }
  }

  /** A leaf decided by the ranges of coordinates, or one that is simpler. */
  #leaf(leaf: Leaf): Node {
    if (leaf.kind === 'is') return leaf;
    const form = this.#pinned(leaf.form);
    const { lo, hi } = rangeOf(form, this.#box);
    const [least, most] = [lo ? limitsOf(lo)[0] : -Infinity, hi ? limitsOf(hi)[1] : Infinity];
    if (leaf.kind === 'eq') {
      if (least > 0 || most < 0) return leaf.holds ? FALSE : TRUE;
      if (least === 0 && most === 0) return leaf.holds ? TRUE : FALSE;
      const same = equal(form);
      return leaf.holds ? same : negate(same);
    }
    if (most <= 0) return TRUE;
    return least > 0 ? FALSE : { kind: 'le', form };
  }

  /** Coordinates that have one value replaced by it: there is one query when a token is decoded. */
  #pinned(form: Affine): Affine {
    let result = form;
    for (const [leaf, { lo, hi }] of this.#box) {
      if (!lo || !hi || hi.terms.size > 0 || lo.terms.size > 0 || hi.constant !== lo.constant) continue;
      if (!formMentions(result, leaf)) continue;
      result = affineOf(s.substitute(toExpr(result), (e) => (e === leaf ? toExpr(lo) : undefined)));
    }
    return result;
  }

  /** Whether a bound follows from another one and the ranges of coordinates: 0 ≤ n from k ≤ n. */
  #covers(b: Leaf, a: Leaf): boolean {
    if (a.kind !== 'le' || b.kind !== 'le') return false;
    const { lo } = rangeOf(b.form, this.#tokens);
    return lo !== undefined && termsKey(lo) === termsKey(a.form) && lo.constant >= a.form.constant;
  }

  #conjunction(given: readonly Node[], outer: readonly Leaf[]): Node {
    let leaves: Leaf[] = [];
    const ors: Node[] = [];
    const queue = [...given];
    for (let n = queue.shift(); n; n = queue.shift()) {
      if (n.kind === 'and') {
        queue.unshift(...n.items);
        continue;
      }
      if (n.kind === 'or') {
        ors.push(n);
        continue;
      }
      const simple = this.node(n, outer);
      if (simple.kind === 'known') {
        if (!simple.value) return FALSE;
      } else if (!isLeaf(simple)) queue.unshift(simple);
      else if (leaves.some((f) => contradicts(f, simple))) return FALSE;
      else if (!leaves.some((f) => entails(f, simple))) leaves = [...leaves.filter((f) => !entails(simple, f)), simple];
    }
    leaves = joinBounds(leaves.filter((a) => !leaves.some((b) => a !== b && this.#covers(b, a))));
    const open: Node[] = [];
    const facts = [...outer, ...leaves];
    for (const n of ors) {
      const simple = this.node(n, facts);
      if (simple.kind === 'known' && !simple.value) return FALSE;
      if (simple.kind === 'known') continue;
      // What has become a leaf may decide others.
      if (simple.kind !== 'or')
        return this.#conjunction([...leaves, ...open, simple, ...ors.slice(ors.indexOf(n) + 1)], outer);
      open.push(simple);
    }
    const items = absorbed([...leaves, ...open]);
    return items.length === 0 ? TRUE : items.length === 1 ? items[0]! : { kind: 'and', items: sorted(items) };
  }
}

const leafKey = (leaf: Leaf): string => (leaf.kind === 'is' ? `is${leaf.e.id}` : `${leaf.kind}${termsKey(leaf.form)}`);

/** Whether a is never true without b, as far as the two alone tell. */
function entails(a: Leaf, b: Leaf): boolean {
  if (a.kind === 'is') return b.kind === 'is' && a.e === b.e && a.holds === b.holds;
  if (b.kind === 'is') return false;
  if (a.kind === 'le' && b.kind === 'le')
    return termsKey(a.form) === termsKey(b.form) && a.form.constant >= b.form.constant;
  if (a.kind === 'eq' && b.kind === 'eq' && a.holds === b.holds)
    return termsKey(a.form) === termsKey(b.form) && a.form.constant === b.form.constant;
  return contradicts(a, negate(b) as Leaf);
}

/** Whether a and b are never true together, as far as the two alone tell. */
function contradicts(a: Leaf, b: Leaf): boolean {
  if (a.kind === 'is') return b.kind === 'is' && a.e === b.e && a.holds !== b.holds;
  if (b.kind === 'is') return false;
  if (a.kind === 'le' && b.kind === 'le') {
    const sum = plus(a.form, b.form);
    return sum.terms.size === 0 && sum.constant > 0;
  }
  if (a.kind === 'eq' && b.kind === 'eq') {
    if (termsKey(a.form) !== termsKey(b.form)) return false;
    return a.holds !== b.holds ? a.form.constant === b.form.constant : a.holds && a.form.constant !== b.form.constant;
  }
  const [le, eq] = a.kind === 'le' ? [a, b] : [b, a as Leaf];
  if (eq.kind !== 'eq' || le.kind !== 'le') return false;
  // t ≤ −c against t = −d or −t = −d
  if (!eq.holds) return false;
  const [plain, turned] = [plus(le.form, eq.form, -1), plus(le.form, eq.form)];
  return (plain.terms.size === 0 && plain.constant > 0) || (turned.terms.size === 0 && turned.constant > 0);
}

/** Two bounds that leave one value become an equation. */
function joinBounds(leaves: readonly Leaf[]): Leaf[] {
  const result = [...leaves];
  for (let i = 0; i < result.length; i++)
    for (let j = i + 1; j < result.length; j++) {
      const [a, b] = [result[i]!, result[j]!];
      if (a.kind !== 'le' || b.kind !== 'le') continue;
      const sum = plus(a.form, b.form);
      if (sum.terms.size > 0 || sum.constant !== 0) continue;
      const joined = equal(a.form);
      if (!isLeaf(joined)) continue;
      result[i] = joined;
      result.splice(j, 1);
    }
  return result;
}

const setOf = (n: Node, inner: 'and' | 'or'): readonly Node[] => (n.kind === inner ? n.items : [n]);
/** In a conjunction: A ∧ (A ∨ B) is A, also where A is a disjunction itself. */
function absorbed(items: readonly Node[]): Node[] {
  const keep: Node[] = [];
  for (const [i, n] of items.entries()) {
    const mine = setOf(n, 'or').map(nodeKey);
    const covered = items.some((other, j) => {
      if (i === j) return false;
      const theirs = setOf(other, 'or').map(nodeKey);
      return theirs.every((key) => mine.includes(key)) && (theirs.length < mine.length || j < i);
    });
    if (!covered) keep.push(n);
  }
  return keep;
}
function nodeKey(n: Node): string {
  if (n.kind === 'known') return String(n.value);
  if (!isLeaf(n)) return `${n.kind}(${n.items.map(nodeKey).sort().join()})`;
  return `${leafKey(n)}:${n.kind === 'is' ? n.holds : `${n.form.constant}${n.kind === 'eq' ? n.holds : ''}`}`;
}

/** Comparisons, then equations, then booleans, then the rest; each in the order of their text. */
const ORDER = { le: 0, eq: 1, is: 2, and: 3, or: 4, known: 5 } as const;
const sorted = (items: readonly Node[]): Node[] =>
  items
    .map((n) => ({ n, text: textOf(exprOf(n)) }))
    .sort((x, y) => ORDER[x.n.kind] - ORDER[y.n.kind] || (x.text < y.text ? -1 : 1))
    .map(({ n }) => n);

/**
 * The normal form of a predicate: equal masks become equal expressions as far as the rules reach. Comparisons that the sizes
 * decide disappear, of several bounds the tightest stays, contradictions are `false`.
 *
 * @param facts holds wherever the predicate will be asked: what it implies disappears
 */
export function normalPredicate(e: Expr, domain: Domain = {}, facts?: Expr): Expr {
  const normalizer = new Normalizer(domain);
  const known = facts ? conjunctionLeaves(normalizer.node(nodeOf(facts))) : [];
  return exprOf(sortedAll(normalizer.node(nodeOf(e), known)));
}
export const sortedAll = (n: Node): Node =>
  n.kind === 'and' || n.kind === 'or' ? { kind: n.kind, items: sorted(n.items.map(sortedAll)) } : n;
const conjunctionLeaves = (n: Node): Leaf[] => (n.kind === 'and' ? n.items : [n]).filter(isLeaf);

/** The conjuncts of a predicate in normal form; none for `true`. */
export function conjuncts(e: Expr): readonly Expr[] {
  if (e.op === 'and' && e.dtype === 'bool') return [...conjuncts(e.args[0]!), ...conjuncts(e.args[1]!)];
  return e.op === 'const' && e.arg === 1 ? [] : [e];
}
