/** Algebra of scalar expressions: exact constant folding, integer identities one rule per line, interval bounds. */
import { intRange, isFloat, isInt, mulInt, roundHalfEven, roundTo, type Scalar, sizeOf, wrapInt } from './dtype.ts';
import { type Expr, makeExpr, type Sym, type Var } from './expr.ts';
import { powC } from './special.ts';
import { sumOfSizes } from './sum.ts';

const INT_FOLD: Partial<Record<Expr['op'], (a: number, b: number) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  div: (a, b) => Math.trunc(a / b),
  rem: (a, b) => a % b,
  floordiv: (a, b) => Math.floor(a / b),
  floormod: (a, b) => a - b * Math.floor(a / b),
  min: Math.min,
  max: Math.max,
  shl: (a, b) => a * 2 ** b,
  and: (a, b) => (isSmall(a, b) ? a & b : Number(BigInt(a) & BigInt(b))),
  or: (a, b) => (isSmall(a, b) ? a | b : Number(BigInt(a) | BigInt(b))),
  xor: (a, b) => (isSmall(a, b) ? a ^ b : Number(BigInt(a) ^ BigInt(b))),
};
const isSmall = (a: number, b: number): boolean => a === (a | 0) && b === (b | 0);

/** IEEE-754 minimum and maximum that propagate NaN and order −0 below +0, as `Math.min` and `Math.max` do. */
const FLOAT_FOLD: Partial<Record<Expr['op'], (a: number, b: number) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  rem: (a, b) => a % b,
  min: Math.min,
  max: Math.max,
  pow: powC,
};
const COMPARE: Partial<Record<Expr['op'], (a: number, b: number) => boolean>> = {
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
};

/**
 * The value of one operator on constants, rounded as `dtype` demands; undefined where folding is not exact (division by
 * zero of integers, functions whose targets round differently).
 */
export function foldScalar(op: Expr['op'], dtype: Scalar, args: readonly number[], from: Scalar): number | undefined {
  const [a = 0, b = 0, c = 0] = args;
  const compare = COMPARE[op];
  if (compare) return compare(a, b) ? 1 : 0;
  switch (op) {
    case 'cast':
      return isInt(dtype) && isInt(from) ? wrapInt(dtype, a) : roundTo(dtype, a);
    case 'select':
      return a !== 0 ? b : c;
    case 'neg':
      return isInt(dtype) ? wrapInt(dtype, -a) : -a;
    case 'abs':
      return isInt(dtype) ? wrapInt(dtype, Math.abs(a)) : Math.abs(a);
    case 'floor':
      return Math.floor(a);
    case 'ceil':
      return Math.ceil(a);
    case 'trunc':
      return Math.trunc(a);
    case 'round':
      return roundHalfEven(a);
    case 'sqrt':
      return roundTo(dtype, Math.sqrt(a));
    case 'not':
      return dtype === 'bool' ? 1 - a : isInt(dtype) ? wrapInt(dtype, -a - 1) : undefined;
  }
  if (dtype === 'bool') {
    if (op === 'and') return a !== 0 && b !== 0 ? 1 : 0;
    if (op === 'or') return a !== 0 || b !== 0 ? 1 : 0;
    if (op === 'xor') return (a !== 0) !== (b !== 0) ? 1 : 0;
    return undefined;
  }
  if (isFloat(dtype)) {
    const value = FLOAT_FOLD[op]?.(a, b);
    return value === undefined ? undefined : roundTo(dtype, value);
  }
  if ((op === 'div' || op === 'rem' || op === 'floordiv' || op === 'floormod') && b === 0) return undefined;
  if (!isInt(dtype)) return undefined;
  if (op === 'mul') return mulInt(dtype, a, b);
  // Machines disagree about distances of the width and more.
  if ((op === 'shl' || op === 'shr') && (b < 0 || b >= 8 * sizeOf(dtype))) return undefined;
  if (op === 'shr') return Math.floor(a / 2 ** b);
  const value = INT_FOLD[op]?.(a, b);
  return value === undefined ? undefined : wrapInt(dtype, value) + 0;
}

/**
 * Closed interval of the values of an integer or boolean expression, from the ranges of its symbols and variables: the whole
 * range of its type where nothing better is known, or where arithmetic may wrap. ±∞ for floats.
 */
export type Interval = readonly [lo: number, hi: number];
const ANY: Interval = [-Infinity, Infinity];

const bounds = new WeakMap<Expr, Interval>();
const unwrapped = new WeakMap<Expr, Interval>();

export function boundsOf(e: Expr): Interval {
  let known = bounds.get(e);
  if (!known) {
    const [lo, hi] = isInt(e.dtype) ? intRange(e.dtype) : e.dtype === 'bool' ? [0, 1] : ANY;
    const ideal = idealBounds(e);
    const within = ideal[0] >= lo && ideal[1] <= hi;
    // A variable's declared range may be open at one end; arithmetic that leaves its type at one end wraps to the other.
    known = within ? ideal : e.op === 'var' ? [Math.max(lo, ideal[0]), Math.min(hi, ideal[1])] : [lo, hi];
    bounds.set(e, known);
  }
  return known;
}

/** Interval of the operator's result over the integers, before it wraps into its type. */
function idealBounds(e: Expr): Interval {
  let known = unwrapped.get(e);
  if (!known) {
    known = isFloat(e.dtype) ? ANY : computeBounds(e);
    unwrapped.set(e, known);
  }
  return known;
}

/** Whether the operator's integer result always fits its type, so that it is the result over the integers. */
function fits(e: Expr): boolean {
  const [lo, hi] = idealBounds(e);
  const [least, most] = isInt(e.dtype) ? intRange(e.dtype) : ANY;
  return lo >= least && hi <= most;
}
/** `fits` for every sum and product of a sum of products. */
const fitsThroughout = (e: Expr): boolean =>
  e.op === 'add' ? fits(e) && e.args.every(fitsThroughout) : e.op !== 'mul' || fits(e);

function computeBounds(e: Expr): Interval {
  switch (e.op) {
    case 'const':
      return [e.arg as number, e.arg as number];
    case 'sym':
      return [(e.arg as Sym).min, (e.arg as Sym).max];
    case 'var': {
      const { from, to } = e.arg as Var;
      return [from ? boundsOf(from)[0] : -Infinity, to ? boundsOf(to)[1] - 1 : Infinity];
    }
    case 'lt':
    case 'le':
    case 'eq':
    case 'ne':
      return [0, 1];
    case 'select': {
      const [, a, b] = e.args.map(boundsOf) as [Interval, Interval, Interval];
      return [Math.min(a[0], b[0]), Math.max(a[1], b[1])];
    }
    case 'cast': {
      const from = e.args[0]!;
      return isFloat(from.dtype) ? ANY : boundsOf(from);
    }
  }
  if (e.dtype === 'bool') return [0, 1];
  if (e.op === 'splat' || e.op === 'extract') return boundsOf(e.args[0]!);
  if (e.op === 'neg') {
    const [lo, hi] = boundsOf(e.args[0]!);
    return [-hi, -lo];
  }
  if (!isInt(e.dtype) || e.args.length !== 2) return ANY;
  const [[al, ah], [bl, bh]] = [boundsOf(e.args[0]!), boundsOf(e.args[1]!)];
  switch (e.op) {
    case 'add':
      return [al + bl, ah + bh];
    case 'sub':
      return [al - bh, ah - bl];
    case 'mul':
      return hull([times(al, bl), times(al, bh), times(ah, bl), times(ah, bh)]);
    case 'min':
      return [Math.min(al, bl), Math.min(ah, bh)];
    case 'max':
      return [Math.max(al, bl), Math.max(ah, bh)];
    case 'floordiv':
      return bl > 0 ? hull([al / bl, al / bh, ah / bl, ah / bh].map(floorFinite)) : ANY;
    case 'div':
      return bl > 0 && al >= 0 ? hull([al / bl, al / bh, ah / bl, ah / bh].map(floorFinite)) : ANY;
    case 'floormod':
      return bl > 0 ? (al >= 0 && ah < bl ? [al, ah] : [0, bh - 1]) : ANY;
    case 'rem':
      return bl > 0 && al >= 0 ? (ah < bl ? [al, ah] : [0, Math.min(ah, bh - 1)]) : ANY;
    case 'shr':
      return al >= 0 && bl >= 0 ? [0, ah] : ANY;
    case 'and':
      return al >= 0 && bl >= 0 ? [0, Math.min(ah, bh)] : ANY;
    default:
      return ANY;
  }
}
const times = (a: number, b: number): number => (a === 0 || b === 0 ? 0 : a * b);
const floorFinite = (x: number): number => (Number.isNaN(x) ? 0 : Math.floor(x));
const hull = (xs: readonly number[]): Interval => [Math.min(...xs), Math.max(...xs)];

/** A constant like `e`, wrapped into its type. */
const constant = (e: Expr, value: number): Expr =>
  makeExpr('const', e.dtype, e.lanes, [], isInt(e.dtype) ? wrapInt(e.dtype, value) + 0 : value);
const product = (e: Expr, a: number, b: number): Expr => constant(e, isInt(e.dtype) ? mulInt(e.dtype, a, b) : a * b);
const constantOf = (e: Expr | undefined): number | undefined => (e?.op === 'const' ? (e.arg as number) : undefined);

/** Simplest known form of a node whose operands are already simple. */
export function simplify(e: Expr): Expr {
  if (e.args.length === 0) return e;
  const values = e.args.map(constantOf);
  if (e.op !== 'load' && e.op !== 'operand' && e.op !== 'bitcast' && values.every((v) => v !== undefined)) {
    const folded = e.op === 'splat' ? values[0] : foldScalar(e.op, e.dtype, values as number[], e.args[0]!.dtype);
    if (folded !== undefined) return constant(e, folded);
  }
  if (e.op === 'select') return simplifySelect(e);
  if (e.op === 'cast' && e.args[0]!.dtype === e.dtype) return e.args[0]!;
  if (e.dtype === 'bool') return simplifyBool(e);
  if (e.args.length !== 2) return e;
  return isInt(e.dtype) ? simplifyInt(e) : simplifyFloat(e);
}

function simplifySelect(e: Expr): Expr {
  const [c, a, b] = e.args as [Expr, Expr, Expr];
  if (c.op === 'const') return c.arg !== 0 ? a : b;
  return a === b ? a : e;
}

function simplifyBool(e: Expr): Expr {
  const [a, b] = e.args as [Expr, Expr | undefined];
  if (e.op === 'not') return a.op === 'not' ? a.args[0]! : e;
  if (!b) return e;
  const [x, y] = [constantOf(a), constantOf(b)];
  switch (e.op) {
    case 'and':
      return x === 0 || y === 0 ? constant(e, 0) : x === 1 || a === b ? b : y === 1 ? a : e;
    case 'or':
      return x === 1 || y === 1 ? constant(e, 1) : x === 0 || a === b ? b : y === 0 ? a : e;
  }
  if (!isInt(a.dtype)) return e;
  const [[al, ah], [bl, bh]] = [boundsOf(a), boundsOf(b)];
  switch (e.op) {
    case 'lt':
      return ah < bl ? constant(e, 1) : al >= bh || a === b ? constant(e, 0) : e;
    case 'le':
      return ah <= bl || a === b ? constant(e, 1) : al > bh ? constant(e, 0) : e;
    case 'eq':
      return a === b ? constant(e, 1) : ah < bl || bh < al ? constant(e, 0) : e;
    case 'ne':
      return a === b ? constant(e, 0) : ah < bl || bh < al ? constant(e, 1) : e;
    default:
      return e;
  }
}

const int = (op: Expr['op'], like: Expr, a: Expr, b: Expr): Expr =>
  simplify(makeExpr(op, like.dtype, like.lanes, [a, b]));

/**
 * Integer identities. Sums and products may be rearranged freely, since they wrap modulo 2^bits; quotients, remainders and
 * comparisons only see through arithmetic that provably does not wrap (`fits`). Constants stand on the right of
 * commutative operators; sums and products lean left.
 */
function simplifyInt(e: Expr): Expr {
  const [a, b] = e.args as [Expr, Expr];
  const [x, y] = [constantOf(a), constantOf(b)];
  const c = (value: number): Expr => constant(e, value);
  switch (e.op) {
    case 'add':
      if (x === 0) return b;
      if (y === 0) return a;
      if (x !== undefined) return int('add', e, b, a);
      if (y !== undefined && a.op === 'add' && constantOf(a.args[1]) !== undefined)
        return int('add', e, a.args[0]!, c(constantOf(a.args[1])! + y));
      if (b.op === 'add' && constantOf(b.args[1]) !== undefined)
        return int('add', e, int('add', e, a, b.args[0]!), b.args[1]!);
      if (a.op === 'add' && constantOf(a.args[1]) !== undefined && y === undefined)
        return int('add', e, int('add', e, a.args[0]!, b), a.args[1]!);
      return collectDivMod(e, a, b) ?? sumOfSizes(e) ?? e;
    case 'sub':
      if (y === 0) return a;
      if (a === b) return c(0);
      if (y !== undefined) return int('add', e, a, c(-y));
      if (b.op === 'add' && constantOf(b.args[1]) !== undefined)
        return int('add', e, int('sub', e, a, b.args[0]!), c(-constantOf(b.args[1])!));
      if (a.op === 'add' && constantOf(a.args[1]) !== undefined)
        return int('add', e, int('sub', e, a.args[0]!, b), a.args[1]!);
      if (a.op === 'add' && a.args[0] === b) return a.args[1]!;
      if (a.op === 'add' && a.args[1] === b) return a.args[0]!;
      if (b.op === 'add' && (b.args[0] === a || b.args[1] === a))
        return int('sub', e, c(0), b.args[b.args[0] === a ? 1 : 0]!);
      return sumOfSizes(e) ?? e;
    case 'mul':
      if (x === 0 || y === 0) return c(0);
      if (x === 1) return b;
      if (y === 1) return a;
      if (x !== undefined) return int('mul', e, b, a);
      if (y !== undefined && a.op === 'mul' && constantOf(a.args[1]) !== undefined)
        return int('mul', e, a.args[0]!, product(e, constantOf(a.args[1])!, y));
      if (y !== undefined && a.op === 'add' && constantOf(a.args[1]) !== undefined)
        return int('add', e, int('mul', e, a.args[0]!, b), product(e, constantOf(a.args[1])!, y));
      return e;
    case 'floordiv':
    case 'div':
      return simplifyDiv(e, a, b, y);
    case 'floormod':
    case 'rem':
      return simplifyMod(e, a, b, y);
    case 'min':
    case 'max':
      return simplifyMinMax(e, a, b);
    case 'shl':
    case 'shr':
      return y === 0 ? a : e;
    default:
      return e;
  }
}

/** A product as `[factor, multiplier]`; anything else counts once. */
const factors = (e: Expr): readonly [Expr, Expr] => (e.op === 'mul' ? [e.args[0]!, e.args[1]!] : [e, constant(e, 1)]);

/** (i ÷ n)·n·k + (i mod n)·k = i·k, in either order, also where `a` is a sum that ends in one of the two. */
function collectDivMod(e: Expr, a: Expr, b: Expr): Expr | undefined {
  for (const [p, q] of [
    [a, b],
    [b, a],
  ] as const) {
    const [remainder, k] = factors(q);
    if (remainder.op !== 'floormod' || p.op !== 'mul') continue;
    const [i, n] = remainder.args as [Expr, Expr];
    if (p.args[1] === int('mul', e, n, k) && p.args[0] === int('floordiv', e, i, n)) return int('mul', e, i, k);
  }
  if (a.op !== 'add') return undefined;
  const tail = collectDivMod(e, a.args[1]!, b);
  return tail && int('add', e, a.args[0]!, tail);
}

/**
 * a = g·x + r with 0 ≤ r < g, for a g > 1 that divides `n`: then a ÷ n = x ÷ (n/g), and r passes through a mod n untouched.
 * The summands of g·x are those with the largest constant multipliers.
 */
function splitCommonFactor(a: Expr, n: number): { scaled: Expr; rest: Expr; g: number } | undefined {
  const terms: { readonly e: Expr; readonly by: number }[] = [];
  let offset = 0;
  const collect = (e: Expr): void => {
    if (e.op === 'const') offset += e.arg as number;
    else if (e.op !== 'add') terms.push({ e, by: e.op === 'mul' ? Math.abs(constantOf(e.args[1]) ?? 1) : 1 });
    else e.args.forEach(collect);
  };
  collect(a);
  const sizes = [...new Set(terms.map((t) => t.by))].sort((p, q) => p - q);
  for (const least of sizes) {
    const [large, small] = [terms.filter((t) => t.by >= least), terms.filter((t) => t.by < least)];
    const g = large.reduce((d, t) => gcd(d, t.by), n);
    if (g <= 1) continue;
    const extra = offset - g * Math.floor(offset / g);
    const [lo, hi] = small.reduce(([l, h], { e }) => [l + boundsOf(e)[0], h + boundsOf(e)[1]], [extra, extra]);
    if (lo < 0 || hi >= g) continue;
    const sum = (parts: readonly Expr[], more: number): Expr =>
      [...parts, constant(a, more)].reduce((x, y) => int('add', a, x, y));
    const over = ({ e }: { readonly e: Expr }): Expr =>
      int('mul', a, e.args[0]!, constant(a, constantOf(e.args[1])! / g));
    return {
      scaled: sum(large.map(over), (offset - extra) / g),
      rest: sum(
        small.map((t) => t.e),
        extra,
      ),
      g,
    };
  }
  return undefined;
}
const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));

const nonNegative = (e: Expr): boolean => boundsOf(e)[0] >= 0;

/** Splits `e` into `part·n + rest` when some summands are visibly multiples of n. */
function splitMultiple(e: Expr, n: number): { part: Expr; rest: Expr } | undefined {
  const c = (value: number): Expr => constant(e, value);
  const v = constantOf(e);
  if (v !== undefined) {
    const q = Math.floor(v / n);
    return q === 0 ? undefined : { part: c(q), rest: c(v - q * n) };
  }
  if (e.op === 'mul') {
    const k = constantOf(e.args[1]);
    if (k !== undefined && k % n === 0) return { part: int('mul', e, e.args[0]!, c(k / n)), rest: c(0) };
    return undefined;
  }
  if (e.op !== 'add') return undefined;
  const [l, r] = [splitMultiple(e.args[0]!, n), splitMultiple(e.args[1]!, n)];
  if (!l && !r) return undefined;
  return {
    part: int('add', e, l?.part ?? c(0), r?.part ?? c(0)),
    rest: int('add', e, l?.rest ?? e.args[0]!, r?.rest ?? e.args[1]!),
  };
}

function simplifyDiv(e: Expr, a: Expr, b: Expr, y: number | undefined): Expr {
  if (y === 1) return a;
  if (a === b && boundsOf(b)[0] > 0) return constant(e, 1);
  const [lo, hi] = boundsOf(a);
  if (lo >= 0 && hi < boundsOf(b)[0]) return constant(e, 0);
  if (e.op === 'div' && !nonNegative(a)) return e;
  if (e.op === 'div' && boundsOf(b)[0] > 0) return int('floordiv', e, a, b);
  if (!fitsThroughout(a)) return e;
  // (i·n) ÷ n = i, also for symbolic n
  if (a.op === 'mul' && a.args[1] === b && boundsOf(b)[0] > 0) return a.args[0]!;
  if (a.op === 'mul' && a.args[0] === b && boundsOf(b)[0] > 0) return a.args[1]!;
  // (i·n + r) ÷ n = i for 0 ≤ r < n, symbolic n
  if (a.op === 'add') {
    for (const [p, r] of [
      [a.args[0]!, a.args[1]!],
      [a.args[1]!, a.args[0]!],
    ] as const)
      if (p.op === 'mul' && (p.args[1] === b || p.args[0] === b) && below(r, b))
        return p.args[1] === b ? p.args[0]! : p.args[1]!;
  }
  if (y === undefined || y <= 0) return e;
  const inner = a.op === 'floordiv' ? (constantOf(a.args[1]) ?? 0) : 0;
  if (inner > 0 && isInt(e.dtype) && inner * y <= intRange(e.dtype)[1])
    return int('floordiv', e, a.args[0]!, constant(e, inner * y));
  const common = e.op === 'floordiv' ? splitCommonFactor(a, y) : undefined;
  if (common) return int('floordiv', e, common.scaled, constant(e, y / common.g));
  const split = splitMultiple(a, y);
  if (split && split.rest !== a && fitsThroughout(split.rest))
    return int('add', e, split.part, int('floordiv', e, split.rest, b));
  return e;
}

function simplifyMod(e: Expr, a: Expr, b: Expr, y: number | undefined): Expr {
  if (y === 1 || (a === b && boundsOf(b)[0] > 0)) return constant(e, 0);
  const [lo, hi] = boundsOf(a);
  if (lo >= 0 && hi < boundsOf(b)[0]) return a;
  if (lo >= 0 && below(a, b)) return a;
  if (e.op === 'rem' && !nonNegative(a)) return e;
  if (e.op === 'rem' && boundsOf(b)[0] > 0) return int('floormod', e, a, b);
  if (!fitsThroughout(a)) return e;
  if (a.op === 'mul' && (a.args[0] === b || a.args[1] === b)) return constant(e, 0);
  if (a.op === 'add') {
    for (const [p, r] of [
      [a.args[0]!, a.args[1]!],
      [a.args[1]!, a.args[0]!],
    ] as const)
      if (p.op === 'mul' && (p.args[1] === b || p.args[0] === b) && below(r, b)) return r;
  }
  if (y === undefined || y <= 0) return e;
  const common = e.op === 'floormod' ? splitCommonFactor(a, y) : undefined;
  if (common) {
    const inner = int('floormod', e, common.scaled, constant(e, y / common.g));
    return int('add', e, int('mul', e, inner, constant(e, common.g)), common.rest);
  }
  const split = splitMultiple(a, y);
  return split && split.rest !== a && fitsThroughout(split.rest) ? int('floormod', e, split.rest, b) : e;
}

/** 0 ≤ a < b, by intervals or because `a` is a variable that ends at `b`. */
function below(a: Expr, b: Expr): boolean {
  const [lo, hi] = boundsOf(a);
  if (lo < 0) return false;
  if (hi < boundsOf(b)[0]) return true;
  if (a.op === 'floormod') return a.args[1] === b;
  // A variable that ends at `to`, moved by a constant: below b when to + offset ≤ b.
  const [v, offset] = a.op === 'add' ? [a.args[0]!, constantOf(a.args[1])] : [a, 0];
  const to = v.op === 'var' ? (v.arg as Var).to : undefined;
  if (!to || offset === undefined || to.dtype !== b.dtype) return false;
  const slack = constantOf(int('sub', b, int('add', b, to, constant(b, offset)), b));
  return slack !== undefined && slack <= 0;
}

function simplifyMinMax(e: Expr, a: Expr, b: Expr): Expr {
  if (a === b) return a;
  const [[al, ah], [bl, bh]] = [boundsOf(a), boundsOf(b)];
  if (ah <= bl) return e.op === 'min' ? a : b;
  if (bh <= al) return e.op === 'min' ? b : a;
  return e;
}

/** Only identities that hold for every float, NaN and −0 included. */
function simplifyFloat(e: Expr): Expr {
  const [a, b] = e.args as [Expr, Expr];
  const [x, y] = [constantOf(a), constantOf(b)];
  if (e.op === 'mul' && y === 1) return a;
  if (e.op === 'mul' && x === 1) return b;
  if (e.op === 'div' && y === 1) return a;
  if (e.op === 'sub' && y === 0 && !Object.is(y, -0)) return a;
  return e;
}
