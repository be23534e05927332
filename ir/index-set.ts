/**
 * Sets of positions of a tensor, as predicates over its coordinates: which elements of a value somebody reads.
 *
 * A set is a union of terms, a term an intersection of literals: a sum of coordinates, sizes and loaded integers that is
 * ≤ 0, or a boolean expression that holds or does not. Every operation may give a superset of what it is asked for, never a
 * subset: sets that grow too large become `ALL`.
 */
import {
  type Affine,
  affineOf,
  constantForm,
  formMentions,
  limitsOf,
  mentions,
  plus,
  scaled,
  shifted,
  solve,
  termsKey,
  textOf,
  toExpr,
} from './affine.ts';
import { isInt } from './dtype.ts';
import type { Expr } from './expr.ts';
import { printExpr } from './print.ts';
import * as s from './scalar.ts';
import type { Dim } from './type.ts';

/** Largest coordinate that is ever reasoned about; far below where i32 arithmetic wraps. */
const LIMIT = 2 ** 30;
const RANK = 12;
const coordinates = Array.from({ length: RANK }, (_, n) => s.variable(`i${n}`, 'i32', 1, { from: 0, to: LIMIT }));
/** The coordinate of an element on axis `n`: what sets are written in, printed `i0`, `i1`, … */
export const coordinate = (n: number): Expr => {
  const known = coordinates[n];
  if (!known) throw new RangeError(`coordinate ${n} of ${RANK}`);
  return known;
};

export type Literal =
  | { readonly kind: 'le'; readonly form: Affine; readonly key: string }
  | { readonly kind: 'is'; readonly e: Expr; readonly holds: boolean; readonly key: string };
/** Literals that all hold. */
export type Term = readonly Literal[];

export interface IndexSet {
  readonly kind: 'set';
  /** At least one of them holds: none is the empty set, an empty term every position. */
  readonly terms: readonly Term[];
}

/** Beyond these a set is widened. */
const MOST_TERMS = 12;
const MOST_LITERALS = 12;

export const NONE: IndexSet = { kind: 'set', terms: [] };
export const ALL: IndexSet = { kind: 'set', terms: [[]] };
/** Whether the set is visibly empty or full; `isEmpty` and `isAll` also reason. */
export const isNone = (set: IndexSet): boolean => set.terms.length === 0;
export const isWhole = (set: IndexSet): boolean => set.terms.some((t) => t.length === 0);

const le = (form: Affine): Literal => ({ kind: 'le', form, key: `${termsKey(form)}<${-form.constant}` });
const is = (e: Expr, holds: boolean): Literal => ({ kind: 'is', e, holds, key: `${holds ? '' : '!'}${e.id}` });
const negated = (l: Literal): Literal => (l.kind === 'is' ? is(l.e, !l.holds) : le(shifted(scaled(l.form, -1), 1)));
const single = (l: Literal): IndexSet => ({ kind: 'set', terms: [[l]] });

// ---------------------------------------------------------------- building

/** Literals without what others say already; undefined when they contradict each other. */
function conjunction(literals: readonly Literal[]): Term | undefined {
  const kept = new Map<string, Literal>();
  for (const l of literals) {
    if (l.kind === 'le') {
      const [lo, hi] = limitsOf(l.form);
      if (lo > 0) return undefined;
      if (hi <= 0) continue;
      // Of two bounds on one sum the tighter stays.
      const sum = `sum ${termsKey(l.form)}`;
      const other = kept.get(sum);
      if (other?.kind === 'le' && other.form.constant >= l.form.constant) continue;
      const opposite = kept.get(`sum ${termsKey(scaled(l.form, -1))}`);
      if (opposite?.kind === 'le' && opposite.form.constant + l.form.constant > 0) return undefined;
      kept.set(sum, l);
    } else {
      if (kept.has(negated(l).key)) return undefined;
      kept.set(l.key, l);
    }
  }
  const term = [...kept.values()];
  return term.length > MOST_LITERALS ? term.slice(0, MOST_LITERALS) : term;
}

/** Whether every literal of `a` is implied by one of `b`: then b ⊆ a. */
const covers = (a: Term, b: Term): boolean => a.every((l) => b.some((m) => weaker(l, m)));
/** Whether m implies l, by comparing the two alone. */
const weaker = (l: Literal, m: Literal): boolean =>
  l.key === m.key ||
  (l.kind === 'le' && m.kind === 'le' && l.form.constant <= m.form.constant && termsKey(l.form) === termsKey(m.form));

function union(terms: readonly Term[]): IndexSet {
  let kept: Term[] = [];
  const queue = [...terms];
  for (let term = queue.shift(); term; term = queue.shift()) {
    const candidate = term;
    if (candidate.length === 0) return ALL;
    if (kept.some((t) => covers(t, candidate))) continue;
    kept = kept.filter((t) => !covers(candidate, t));
    // (A ∧ x) ∨ (A ∧ ¬x) is A
    const merged = kept.findIndex((t) => resolvent(t, candidate) !== undefined);
    if (merged >= 0) {
      queue.push(resolvent(kept[merged]!, candidate)!);
      kept.splice(merged, 1);
    } else kept.push(candidate);
  }
  return kept.length > MOST_TERMS ? ALL : { kind: 'set', terms: kept };
}

function resolvent(a: Term, b: Term): Term | undefined {
  if (a.length !== b.length) return undefined;
  const own = a.filter((l) => !b.some((m) => m.key === l.key));
  const other = b.filter((l) => !a.some((m) => m.key === l.key));
  const [l, m] = [own[0], other[0]];
  if (own.length !== 1 || other.length !== 1 || !l || !m) return undefined;
  return exhaustive(l, m) ? a.filter((x) => x !== l) : undefined;
}
/** Whether l ∨ m always holds. */
function exhaustive(l: Literal, m: Literal): boolean {
  if (l.kind === 'is' || m.kind === 'is') return negated(l).key === m.key;
  const sum = plus(l.form, m.form);
  return sum.terms.size === 0 && sum.constant <= 1;
}

/** Positions in either set. */
export const or = (...sets: readonly IndexSet[]): IndexSet =>
  sets.length === 1 ? sets[0]! : union(sets.flatMap((set) => set.terms));

/** Positions in both sets. Where their product is too large: the first of them. */
export function and(a: IndexSet, b: IndexSet): IndexSet {
  if (a === b || isWhole(b)) return a;
  if (isWhole(a)) return b;
  if (a.terms.length * b.terms.length > MOST_TERMS ** 2) return a;
  const terms = a.terms.flatMap((x) =>
    b.terms.flatMap((y) => {
      const both = conjunction([...x, ...y]);
      return both ? [both] : [];
    }),
  );
  const both = union(terms);
  return isWhole(both) ? a : both;
}

/** Positions that are not in the set, as it is represented. */
export function complement(set: IndexSet): IndexSet {
  let result: IndexSet = ALL;
  for (const term of set.terms) result = and(result, union(term.map((l) => [negated(l)])));
  return result;
}

const known = new WeakMap<Expr, IndexSet>();

/** The positions where a boolean expression over `coordinate(n)` holds. */
export function where(e: Expr): IndexSet {
  let set = known.get(e);
  if (!set) {
    set = read(e, true);
    known.set(e, set);
  }
  return set;
}
/** The positions where it does not hold. */
export const whereNot = (e: Expr): IndexSet => where(s.not(e));

function read(e: Expr, holds: boolean): IndexSet {
  const [a, b, c] = e.args as [Expr, Expr, Expr];
  if (e.op === 'const') return (e.arg !== 0) === holds ? ALL : NONE;
  if (e.op === 'not') return read(a, !holds);
  if (e.dtype === 'bool' && (e.op === 'and' || e.op === 'or'))
    return (e.op === 'and') === holds ? and(read(a, holds), read(b, holds)) : or(read(a, holds), read(b, holds));
  if (e.op === 'select') return or(and(read(a, true), read(b, holds)), and(read(a, false), read(c, holds)));
  if (e.op === 'cast' && isInt(a.dtype)) return zero(affineOf(a), !holds);
  if (e.op === 'lt' || e.op === 'le' || e.op === 'eq' || e.op === 'ne') {
    if (isInt(a.dtype)) {
      const form = plus(affineOf(a), affineOf(b), -1);
      if (e.op === 'eq' || e.op === 'ne') return zero(form, (e.op === 'eq') === holds);
      const least = e.op === 'lt' ? shifted(form, 1) : form;
      return holds ? atMostZero(least) : atMostZero(shifted(scaled(least, -1), 1));
    }
    const whole = ofIntegers(e);
    if (whole) return read(whole, holds);
    const parts = cases(e);
    if (parts)
      return or(
        and(read(parts.when, true), read(parts.then, holds)),
        and(read(parts.when, false), read(parts.other, holds)),
      );
  }
  return single(is(e, holds));
}

/** Integers up to this are themselves in every float type, and nothing else is rounded to them. */
const SMALL = 128;

/** Whether an integer, made a float, is a small number or is not: as a question about the integer. */
function ofIntegers(e: Expr): Expr | undefined {
  const [x, by] = e.args as [Expr, Expr];
  if ((e.op !== 'eq' && e.op !== 'ne') || x.op !== 'cast' || by.op !== 'const') return undefined;
  const [from, n] = [x.args[0]!, by.arg as number];
  if (!isInt(from.dtype) || !Number.isInteger(n) || Math.abs(n) > SMALL) return undefined;
  return s.binary(e.op, from, s.literal(n, from.dtype));
}

/** A comparison of a number that is one of two by a condition, as the two comparisons. */
function cases(e: Expr): { readonly when: Expr; readonly then: Expr; readonly other: Expr } | undefined {
  for (const [i, x] of e.args.entries()) {
    const by = (value: Expr): Expr => s.binary(e.op as 'lt', ...(e.args.with(i, value) as [Expr, Expr]));
    if (x.op === 'cast' && x.args[0]!.dtype === 'bool')
      return { when: x.args[0]!, then: by(s.literal(1, x.dtype)), other: by(s.literal(0, x.dtype)) };
    if (x.op === 'select') return { when: x.args[0]!, then: by(x.args[1]!), other: by(x.args[2]!) };
  }
  return undefined;
}

/** A base of a sum that has two cases, by itself: the condition, and what stands in its place. */
interface Split {
  readonly when: IndexSet;
  readonly not: IndexSet;
  readonly then: Affine;
  readonly other: Affine;
}
function split(form: Affine): Split | undefined {
  for (const [base, factor] of form.terms) {
    const rest = plus(form, { terms: new Map([[base, factor]]), constant: 0 }, -1);
    const [a, b, c] = base.args as [Expr, Expr, Expr];
    const of = (when: Expr, x: Affine, y: Affine): Split => ({
      when: read(when, true),
      not: read(when, false),
      then: plus(rest, x, factor),
      other: plus(rest, y, factor),
    });
    if (base.op === 'select') return of(a, affineOf(b), affineOf(c));
    if (base.op === 'cast' && a.dtype === 'bool') return of(a, constantForm(1), constantForm(0));
    if (base.op === 'min') return of(s.le(a, b), affineOf(a), affineOf(b));
    if (base.op === 'max') return of(s.le(b, a), affineOf(a), affineOf(b));
    if (base.op === 'abs') return of(s.le(s.literal(0, a.dtype), a), affineOf(a), scaled(affineOf(a), -1));
  }
  return undefined;
}
const byCases = ({ when, not, then, other }: Split, f: (form: Affine) => IndexSet): IndexSet =>
  or(and(when, f(then)), and(not, f(other)));

function atMostZero(form: Affine): IndexSet {
  const parts = split(form);
  if (parts) return byCases(parts, atMostZero);
  const divisor = [...form.terms.values()].reduce(gcd, 0);
  const reduced =
    divisor > 1
      ? {
          terms: new Map([...form.terms].map(([base, factor]) => [base, factor / divisor])),
          constant: Math.ceil(form.constant / divisor),
        }
      : form;
  const term = conjunction([le(reduced)]);
  return term ? { kind: 'set', terms: [term] } : NONE;
}
const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));

/** Positions where a sum is zero, or is not. */
function zero(form: Affine, holds: boolean): IndexSet {
  const parts = split(form);
  if (parts) return byCases(parts, (x) => zero(x, holds));
  const [lo, hi] = limitsOf(form);
  if (lo > 0 || hi < 0) return holds ? NONE : ALL;
  if (form.terms.size === 0) return (form.constant === 0) === holds ? ALL : NONE;
  const opposite = scaled(form, -1);
  // Bounds can be reasoned about, but a number that is compared for equality alone is better left one literal.
  if ([...form.terms.keys()].some((base) => base.op === 'var' || base.op === 'sym'))
    return holds
      ? and(atMostZero(form), atMostZero(opposite))
      : or(atMostZero(shifted(form, 1)), atMostZero(shifted(opposite, 1)));
  const [first] = [...form.terms].sort(([x], [y]) => (textOf(x) < textOf(y) ? -1 : 1));
  const e = toExpr(first![1] < 0 ? opposite : form);
  return single(is(s.eq(e, s.literal(0, e.dtype)), holds));
}

// ---------------------------------------------------------------- asking

/** Sizes of the coordinates that a question is about, by axis. */
export type Extents = readonly Dim[];

const FORMS = 48;

/** Whether a term holds nowhere within the extents. False also where that could not be proved. */
function contradicts(term: Term, extents: Extents): boolean {
  const forms: Affine[] = term.flatMap((l) => (l.kind === 'le' ? [l.form] : []));
  if (forms.length === 0) return false;
  for (const [n, size] of extents.entries()) {
    const v = coordinate(n);
    if (!forms.some((f) => f.terms.has(v))) continue;
    // i ≤ size − 1; that i ≥ 0 is known of the coordinate
    forms.push(shifted(plus(affineOf(v), affineOf(s.index(size)), -1), 1));
  }
  const seen = new Set(forms.map((f) => le(f).key));
  if (forms.some((f) => limitsOf(f)[0] > 0)) return true;
  for (let i = 0; i < forms.length && forms.length < FORMS; i++)
    for (let j = 0; j < i; j++) {
      const sum = eliminated(forms[i]!, forms[j]!);
      if (!sum) continue;
      if (limitsOf(sum)[0] > 0) return true;
      const { key } = le(sum);
      if (seen.has(key) || sum.terms.size > 3) continue;
      seen.add(key);
      forms.push(sum);
    }
  return false;
}

/** A positive combination of two sums in which a base cancels; undefined when none has opposite signs. */
function eliminated(a: Affine, b: Affine): Affine | undefined {
  for (const [base, x] of a.terms) {
    const y = b.terms.get(base);
    if (y === undefined || x > 0 === y > 0) continue;
    return plus(scaled(a, Math.abs(y)), b, Math.abs(x));
  }
  return undefined;
}

/** Whether no position within the extents is in the set; false also where that could not be proved. */
export const isEmpty = (set: IndexSet, extents: Extents): boolean => set.terms.every((t) => contradicts(t, extents));
/** Whether every position within the extents is in the set; false also where that could not be proved. */
export const isAll = (set: IndexSet, extents: Extents): boolean =>
  isWhole(set) || (!isNone(set) && isEmpty(complement(set), extents));
/** Whether a ⊆ b; false also where that could not be proved. */
export const isWithin = (a: IndexSet, b: IndexSet, extents: Extents): boolean =>
  a === b || isWhole(b) || isNone(a) || isEmpty(and(complement(b), a), extents);
/** Whether the expression holds at every position of the set; false also where that could not be proved. */
export const holdsOn = (set: IndexSet, e: Expr, extents: Extents): boolean => isEmpty(and(whereNot(e), set), extents);
/** Whether the sets have the same positions; false also where that could not be proved. */
export const isSame = (a: IndexSet, b: IndexSet, extents: Extents): boolean =>
  a === b || (isWithin(a, b, extents) && isWithin(b, a, extents));

/** The same set without terms that hold nowhere and literals that hold everywhere. */
export function tidy(set: IndexSet, extents: Extents): IndexSet {
  const terms = set.terms.flatMap((term) => {
    if (contradicts(term, extents)) return [];
    let kept = term;
    for (const l of term) {
      const others = kept.filter((m) => m !== l);
      if (contradicts([...others, negated(l)], extents)) kept = others;
    }
    return [kept];
  });
  const result = union(terms);
  return terms.length > 1 && isAll(result, extents) ? ALL : result;
}

/** Positions in either set, in whichever form is shorter where one holds the other. */
export function join(a: IndexSet, b: IndexSet, extents: Extents): IndexSet {
  if (isNone(a) || isWhole(b)) return b;
  if (isNone(b) || isWhole(a) || a === b) return a;
  if (isWithin(b, a, extents)) return a;
  return isWithin(a, b, extents) ? b : tidy(or(a, b), extents);
}

// ---------------------------------------------------------------- moving

/** Every position from which some value of a coordinate leads into the set: ∃ v in 0 … size − 1. */
export function exists(set: IndexSet, v: Expr, size: Dim): IndexSet {
  if (!isMentioned(set, v)) return set;
  return union(set.terms.flatMap((term) => projected(term, v, size)));
}

function projected(term: Term, v: Expr, size: Dim): Term[] {
  const kept: Literal[] = [];
  const lower: Affine[] = [];
  const upper: Affine[] = [];
  for (const l of term) {
    if (l.kind === 'is') {
      if (!mentions(l.e, v)) kept.push(l);
      continue;
    }
    if (!formMentions(l.form, v)) kept.push(l);
    else {
      const bound = solve(l.form, v);
      // A bound that v itself stands in is not one; leaving it out only makes the set larger.
      if (bound && !formMentions(bound.value, v)) (bound.side === 'upper' ? upper : lower).push(bound.value);
    }
  }
  const last = shifted(affineOf(s.index(size)), -1);
  const pairs = lower.flatMap((lo) => [...upper, last].map((hi) => le(plus(lo, hi, -1))));
  const least = upper.map((hi) => le(scaled(hi, -1)));
  const result = conjunction([...kept, ...pairs, ...least]);
  return result ? [result] : [];
}

/** Whether the set says anything about a leaf. */
export const isMentioned = (set: IndexSet, leaf: Expr): boolean =>
  set.terms.some((term) => term.some((l) => (l.kind === 'is' ? mentions(l.e, leaf) : formMentions(l.form, leaf))));

/** The set with coordinates (or other leaves) replaced by expressions. */
export function replace(set: IndexSet, by: (leaf: Expr) => Expr | undefined): IndexSet {
  let result: IndexSet = NONE;
  for (const term of set.terms) {
    let moved: IndexSet = ALL;
    for (const l of term) {
      const e = s.substitute(l.kind === 'is' ? l.e : toExpr(l.form), by);
      moved = and(l.kind === 'is' ? read(e, l.holds) : atMostZero(affineOf(e)), moved);
    }
    result = or(result, moved);
  }
  return result;
}

/** The set as a boolean expression. */
export function toPredicate(set: IndexSet): Expr {
  return set.terms.reduce<Expr>(
    (any, term) => s.or(any, term.map(literalExpr).reduce(s.and, s.bool(true))),
    s.bool(false),
  );
}
/** `Σ terms ≤ constant` with what is subtracted on the other side. */
function literalExpr(l: Literal): Expr {
  if (l.kind === 'is') return l.holds ? l.e : s.not(l.e);
  const { terms, constant } = l.form;
  const part = (sign: number): Affine => ({
    terms: new Map([...terms].filter(([, f]) => f > 0 === sign > 0).map(([b, f]) => [b, Math.abs(f)])),
    constant: 0,
  });
  const [more, less] = [part(1), part(-1)];
  const wide = [...terms.keys()].some((base) => base.dtype !== 'i32') ? 'i64' : 'i32';
  return s.le(toExpr(shifted(more, Math.max(constant, 0)), wide), toExpr(shifted(less, Math.max(-constant, 0)), wide));
}

/** `i1 <= 49 && keep[i0, i1]`; names stand for the operands that are loaded from, by number. */
export function printSet(set: IndexSet, name: (operand: number) => string = (n) => `in${n}`): string {
  if (isNone(set)) return 'none';
  if (isWhole(set)) return 'all';
  return printExpr(toPredicate(set)).replace(/\bin(\d+)\[/g, (_, n: string) => `${name(Number(n))}[`);
}
