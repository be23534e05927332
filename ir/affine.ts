/**
 * Integer expressions as sums: each base, an expression that is no sum itself, times a whole number, plus a constant. What
 * comparisons of coordinates are decided with.
 *
 * Arithmetic is over the integers: a sum of coordinates that leaves its type has no meaning in a mask. Factors that could
 * make one leave it at ordinary sizes are not taken apart.
 */
import { isInt } from './dtype.ts';
import { type Expr, exprNodes } from './expr.ts';
import { printExpr } from './print.ts';
import * as s from './scalar.ts';
import { boundsOf } from './simplify.ts';

export interface Affine {
  /** Factor of each base; never 0. */
  readonly terms: ReadonlyMap<Expr, number>;
  readonly constant: number;
}

/** Factors and constants beyond this are not taken apart. */
const LARGEST = 2 ** 30;

export const constantForm = (constant: number): Affine => ({ terms: new Map(), constant });
const baseForm = (base: Expr): Affine => ({ terms: new Map([[base, 1]]), constant: 0 });

/** a + by · b. */
export function plus(a: Affine, b: Affine, by = 1): Affine {
  const terms = new Map(a.terms);
  for (const [base, factor] of b.terms) {
    const sum = (terms.get(base) ?? 0) + by * factor;
    if (sum === 0) terms.delete(base);
    else terms.set(base, sum);
  }
  return { terms, constant: a.constant + by * b.constant };
}
export const scaled = (a: Affine, by: number): Affine => plus(constantForm(0), a, by);
export const shifted = (a: Affine, by: number): Affine => ({ terms: a.terms, constant: a.constant + by });

const isSmall = (a: Affine): boolean =>
  [a.constant, ...a.terms.values()].every((x) => Number.isInteger(x) && Math.abs(x) <= LARGEST);

/** The sum that an integer expression is. Widening casts are looked through; every other cast is a base. */
export function affineOf(e: Expr): Affine {
  const form = isInt(e.dtype) && e.lanes === 1 ? read(e) : undefined;
  return form && isSmall(form) ? form : baseForm(e);
}

function read(e: Expr): Affine | undefined {
  const [a, b] = e.args;
  switch (e.op) {
    case 'const':
      return constantForm(e.arg as number);
    case 'neg':
      return scaled(affineOf(a!), -1);
    case 'add':
      return plus(affineOf(a!), affineOf(b!));
    case 'sub':
      return plus(affineOf(a!), affineOf(b!), -1);
    case 'mul': {
      const [x, y] = [affineOf(a!), affineOf(b!)];
      if (y.terms.size === 0) return scaled(x, y.constant);
      return x.terms.size === 0 ? scaled(y, x.constant) : baseForm(e);
    }
    case 'cast':
      return a!.dtype === 'i32' && e.dtype === 'i64' ? affineOf(a!) : baseForm(e);
    default:
      return baseForm(e);
  }
}

const texts = new WeakMap<Expr, string>();
/** What an expression prints as: an order that does not depend on which expression was made first. */
export function textOf(e: Expr): string {
  let text = texts.get(e);
  if (text === undefined) {
    text = printExpr(e);
    texts.set(e, text);
  }
  return text;
}

/** A text that is the same for equal sums without their constants. */
export const termsKey = (a: Affine): string =>
  [...a.terms]
    .map(([base, factor]) => `${base.id}*${factor}`)
    .sort()
    .join();

/** Positive terms in the order of their text, then the constant. @param dtype of the result: `i32` or `i64` */
export function toExpr(a: Affine, dtype: 'i32' | 'i64' = widthOf(a)): Expr {
  const ordered = [...a.terms].sort(([x, m], [y, n]) => (m > 0 === n > 0 ? (textOf(x) < textOf(y) ? -1 : 1) : n - m));
  let sum: Expr | undefined;
  for (const [base, factor] of ordered) {
    const value = base.dtype === dtype ? base : s.cast(base, dtype);
    const size = s.mul(value, Math.abs(factor));
    if (factor > 0) sum = sum ? s.add(sum, size) : size;
    else sum = s.sub(sum ?? s.literal(0, dtype), size);
  }
  return sum ? s.add(sum, a.constant) : s.literal(a.constant, dtype);
}
export const widthOf = (...forms: readonly Affine[]): 'i32' | 'i64' =>
  forms.some((a) => [...a.terms.keys()].some((base) => base.dtype !== 'i32')) ? 'i64' : 'i32';

/** Whether an expression mentions a leaf, also inside the coordinates of a load. */
export const mentions = (e: Expr, leaf: Expr): boolean => exprNodes(e).includes(leaf);
export const formMentions = (a: Affine, leaf: Expr): boolean =>
  [...a.terms.keys()].some((base) => mentions(base, leaf));

/** Smallest and largest value that is known of a sum, from what is known of its bases. */
export function limitsOf(a: Affine): readonly [lo: number, hi: number] {
  let [lo, hi] = [a.constant, a.constant];
  for (const [base, factor] of a.terms) {
    const [l, h] = boundsOf(base);
    lo += factor > 0 ? factor * l : factor * h;
    hi += factor > 0 ? factor * h : factor * l;
  }
  return [lo, hi];
}

/** Closed ranges of leaves, by leaf. A bound that nobody knows is undefined. */
export type Box = ReadonlyMap<Expr, Range>;
export interface Range {
  readonly lo: Affine | undefined;
  readonly hi: Affine | undefined;
}
const UNKNOWN: Range = { lo: undefined, hi: undefined };
const exactly = (a: Affine): Range => ({ lo: a, hi: a });

/**
 * Closed range of a sum while the leaves of `box` run over their ranges. Exact where each leaf occurs once; elsewhere it
 * contains the true one.
 */
export function rangeOf(a: Affine, box: Box): Range {
  let [lo, hi]: [Affine | undefined, Affine | undefined] = [constantForm(a.constant), constantForm(a.constant)];
  for (const [base, factor] of a.terms) {
    const r = rangeOfBase(base, box);
    const [low, high] = factor > 0 ? [r.lo, r.hi] : [r.hi, r.lo];
    lo = lo && low && plus(lo, low, factor);
    hi = hi && high && plus(hi, high, factor);
  }
  return { lo, hi };
}

function rangeOfBase(e: Expr, box: Box): Range {
  const known = box.get(e);
  if (known) return known;
  if (![...box.keys()].some((leaf) => mentions(e, leaf))) return exactly(baseForm(e));
  const [a, b] = e.args;
  const map = (r: Range, f: (x: Expr) => Expr): Range => ({
    lo: r.lo && affineOf(f(toExpr(r.lo, e.dtype === 'i64' ? 'i64' : 'i32'))),
    hi: r.hi && affineOf(f(toExpr(r.hi, e.dtype === 'i64' ? 'i64' : 'i32'))),
  });
  switch (e.op) {
    case 'floordiv': {
      const by = affineOf(b!);
      return by.terms.size === 0 && by.constant > 0
        ? map(rangeOf(affineOf(a!), box), (x) => s.floordiv(x, b!))
        : UNKNOWN;
    }
    case 'floormod': {
      const by = affineOf(b!);
      if (by.terms.size > 0 || by.constant <= 0) return UNKNOWN;
      const r = rangeOf(affineOf(a!), box);
      const most = constantForm(by.constant - 1);
      if (!r.lo || !r.hi) return { lo: constantForm(0), hi: most };
      const [x, y] = [toExpr(r.lo), toExpr(r.hi)];
      const same = s.eq(s.floordiv(x, b!), s.floordiv(y, b!));
      return {
        lo: affineOf(s.select(same, s.floormod(x, b!), 0)),
        hi: affineOf(s.select(same, s.floormod(y, b!), by.constant - 1)),
      };
    }
    case 'abs': {
      const { lo, hi } = rangeOf(affineOf(a!), box);
      if (!lo || !hi) return { lo: constantForm(0), hi: undefined };
      const [x, y] = [toExpr(lo), toExpr(scaled(hi, -1))];
      return {
        lo: affineOf(s.max(s.max(x, y), 0)),
        hi: affineOf(s.max(toExpr(scaled(lo, -1)), toExpr(hi))),
      };
    }
    case 'min':
    case 'max': {
      const [x, y] = [rangeOf(affineOf(a!), box), rangeOf(affineOf(b!), box)];
      const join = (p: Affine | undefined, q: Affine | undefined): Affine | undefined =>
        p && q && affineOf(s.binary(e.op as 'min', toExpr(p), toExpr(q)));
      return { lo: join(x.lo, y.lo), hi: join(x.hi, y.hi) };
    }
    case 'cast':
      return a!.dtype === 'bool' ? { lo: constantForm(0), hi: constantForm(1) } : UNKNOWN;
    default:
      return UNKNOWN;
  }
}

/** A bound on one leaf that is exact over the integers. */
export interface Bound {
  readonly side: 'upper' | 'lower';
  readonly value: Affine;
}

/**
 * `form ≤ 0` as a bound on `leaf`; undefined where the leaf occurs more than once or inside something that is neither a sum
 * nor a quotient by a positive constant.
 */
export function solve(form: Affine, leaf: Expr): Bound | undefined {
  const holders = [...form.terms].filter(([base]) => mentions(base, leaf));
  const [holder] = holders;
  if (!holder || holders.length > 1) return undefined;
  const [base, factor] = holder;
  const rest = plus(form, { terms: new Map([[base, factor]]), constant: 0 }, -1);
  // base ≤ ⌊−rest ÷ factor⌋, or base ≥ ⌈rest ÷ −factor⌉ = −⌊−rest ÷ −factor⌋
  const side = factor > 0 ? 'upper' : 'lower';
  const least = quotient(scaled(rest, -1), Math.abs(factor));
  const value = side === 'upper' ? least : scaled(least, -1);
  if (base === leaf) return { side, value };
  const by = base.op === 'floordiv' ? affineOf(base.args[1]!) : undefined;
  if (!by || by.terms.size > 0 || by.constant <= 0) return undefined;
  // x ÷ n ≤ v is x ≤ v·n + n − 1; x ÷ n ≥ v is x ≥ v·n
  const x = affineOf(base.args[0]!);
  const edge = scaled(value, by.constant);
  return solve(side === 'upper' ? shifted(plus(x, edge, -1), 1 - by.constant) : plus(edge, x, -1), leaf);
}

/** ⌊a ÷ n⌋ for n > 0. */
function quotient(a: Affine, n: number): Affine {
  if (n === 1) return a;
  const all = [...a.terms.values()].every((factor) => factor % n === 0);
  if (all)
    return {
      terms: new Map([...a.terms].map(([base, factor]) => [base, factor / n])),
      constant: Math.floor(a.constant / n),
    };
  return affineOf(s.floordiv(toExpr(a), n));
}
