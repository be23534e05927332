/**
 * The intrinsic table of WGSL: what each function of the IR is there. Some are builtins; the others are expressions of the
 * IR itself, printed once for each number of lanes as functions of the module.
 *
 * WGSL's builtins of f32 have these errors at most: `exp` (3 + 2·|x|) units in the last place, `sqrt` and division 2.5; `log`
 * is absolute 2^-21 near 1, `sin` and `cos` absolute 2^-11, `pow` that of exp2(y·log2 x), `tanh` may overflow, and there is no
 * `erf`. So `exp` is the builtin, and the rest are the polynomials that WebAssembly has too.
 */
import { type Expr, makeExpr } from '../ir/expr.ts';
import {
  abs,
  add,
  and,
  bitcast,
  cast,
  div,
  eq,
  floor,
  fma,
  le,
  literal,
  lt,
  mul,
  ne,
  neg,
  not,
  or,
  rem,
  select,
  sub,
} from '../ir/scalar.ts';
import { fromHalf, type Half, toHalf } from './legalize-half.ts';
import { erfF32, logF32, tanhF32 } from './legalize-math.ts';

/** A function of the module: its parameters' types follow from the arguments. */
export type Definition = (...args: readonly Expr[]) => Expr;

/** Functions of WGSL itself under another or the same name; never given to a user's name. */
export const BUILTINS: Readonly<Record<string, string>> = {
  raw_exp: 'exp',
  raw_max: 'max',
  raw_min: 'min',
  raw_pow: 'pow',
  raw_sin: 'sin',
  raw_cos: 'cos',
  subgroup_add: 'subgroupAdd',
  subgroup_mul: 'subgroupMul',
  subgroup_before: 'subgroupExclusiveAdd',
  raw_subgroup_max: 'subgroupMax',
  raw_subgroup_min: 'subgroupMin',
  raw_subgroup_any: 'subgroupAny',
};

const builtin = (name: string, ...args: readonly [Expr, ...Expr[]]): Expr =>
  makeExpr('intrinsic', args[0].dtype, args[0].lanes, args, name);
/** WGSL's own conversion, which saturates. */
const truncated = (x: Expr, dtype: 'i32' | 'u32'): Expr => makeExpr('intrinsic', dtype, x.lanes, [x], 'raw_cast');
const f = (like: Expr, value: number): Expr => literal(value, 'f32', like.lanes);
const i = (like: Expr, value: number): Expr => literal(value, 'i32', like.lanes);
const isNaN32 = (x: Expr): Expr => lt(i(x, 0x7f800000), and(bitcast(x, 'i32'), i(x, 0x7fffffff)));
const isNaNCall = (x: Expr): Expr => makeExpr('intrinsic', 'bool', x.lanes, [x], 'is_nan');

export const DEFINITIONS: Readonly<Record<string, Definition>> = {
  is_nan: (x) => isNaN32(x!),
  max: (a, b) => select(isNaNCall(a!), a!, select(isNaNCall(b!), b!, builtin('raw_max', a!, b!))),
  min: (a, b) => select(isNaNCall(a!), a!, select(isNaNCall(b!), b!, builtin('raw_min', a!, b!))),
  max_number: (a, b) => select(isNaNCall(a!), a!, builtin('raw_max', a!, b!)),
  min_number: (a, b) => select(isNaNCall(a!), a!, builtin('raw_min', a!, b!)),
  subgroup_max: (x) => subgroupExtremum('raw_subgroup_max', x!),
  subgroup_min: (x) => subgroupExtremum('raw_subgroup_min', x!),
  exp: (x) => select(isNaNCall(x!), x!, builtin('raw_exp', x!)),
  log: (x) => logF32(x!),
  tanh: (x) => tanhF32(x!),
  erf: (x) => erfF32(x!),
  sin: (x) => sinF32(x!, 0),
  cos: (x) => sinF32(x!, 1),
  pow: (x, y) => powF32(x!, y!),
  to_i32: (x) => select(isNaNCall(x!), 0, select(le(f(x!, 2 ** 31), x!), 2 ** 31 - 1, truncated(x!, 'i32'))),
  to_u32: (x) => select(isNaNCall(x!), 0, select(le(f(x!, 2 ** 32), x!), 2 ** 32 - 1, truncated(x!, 'u32'))),
  round_f16: (x) => rounded('f16', x!),
  round_bf16: (x) => rounded('bf16', x!),
  bits_f16: (x) => toHalf('f16', x!),
  bits_bf16: (x) => toHalf('bf16', x!),
  floordiv: (a, b) => sub(div(a!, b!), select(disagree(a!, b!), literal(1, a!.dtype, a!.lanes), 0)),
  floormod: (a, b) => add(rem(a!, b!), select(disagree(a!, b!), b!, literal(0, a!.dtype, a!.lanes))),
};

/** NaN where a value is: the builtins do not say what they make of one. */
const subgroupExtremum = (name: string, x: Expr): Expr =>
  select(makeExpr('intrinsic', 'bool', 1, [isNaNCall(x)], 'raw_subgroup_any'), f(x, Number.NaN), builtin(name, x));

/** Whether division towards zero left a remainder whose sign is not the divisor's. */
const disagree = (a: Expr, b: Expr): Expr => {
  const rest = rem(a, b);
  return and(ne(rest, 0), ne(lt(rest, 0), lt(b, 0)));
};

const rounded = (dtype: Half, x: Expr): Expr => fromHalf(dtype, toHalf(dtype, x));

/** π/2 in three parts; the first two have few bits, so that their products with small whole numbers are exact. */
const HALF_PI = [1.5703125, 4.837512969970703e-4, 7.549789954891882e-8] as const;

/** sin(r)/r and cos(r) for |r| ≤ π/4 as polynomials in r² (Cephes `sinf`, `cosf`). */
const SIN = [-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4] as const;
const COS = [4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5] as const;

/**
 * sin(x + quarters·π/2). Absolute error ≤ 2e-7 for |x| ≤ 12800; beyond, where f32 hardly tells angles apart, the builtin's.
 */
function sinF32(x: Expr, quarters: 0 | 1): Expr {
  const n = floor(fma(x, f(x, 2 / Math.PI), f(x, 0.5)));
  const r = fma(n, f(x, -HALF_PI[2]), fma(n, f(x, -HALF_PI[1]), fma(n, f(x, -HALF_PI[0]), x)));
  const square = mul(r, r);
  const horner = (c: readonly number[]): Expr => fma(fma(f(x, c[2]!), square, f(x, c[1]!)), square, f(x, c[0]!));
  const sine = fma(mul(horner(SIN), square), r, r);
  const cosine = fma(mul(square, square), horner(COS), fma(square, f(x, -0.5), f(x, 1)));
  const quadrant = and(add(cast(n, 'i32'), i(x, quarters)), i(x, 3));
  const value = select(eq(and(quadrant, i(x, 1)), i(x, 1)), cosine, sine);
  const near = select(lt(i(x, 1), quadrant), neg(value), value);
  return select(le(abs(x), f(x, 12800)), near, builtin(quarters === 0 ? 'raw_sin' : 'raw_cos', x));
}

/**
 * C's `pow`. |x|^y by the builtin, whose relative error grows with |y·log2 x|; small whole powers are products before this is
 * reached. The sign of a negative base is that of an odd power, NaN for a broken one.
 */
function powF32(x: Expr, y: Expr): Expr {
  const magnitude = builtin('raw_pow', abs(x), y);
  const whole = eq(floor(y), y);
  const half = mul(y, f(y, 0.5));
  const odd = and(whole, ne(floor(half), half));
  const signBit = and(bitcast(x, 'i32'), i(x, -(2 ** 31)));
  const negative = ne(signBit, i(x, 0));
  const infinite = (v: Expr): Expr => eq(abs(v), f(v, Infinity));
  // Zero and infinite bases: 0 or ∞ by the sign of the exponent.
  const grows = ne(lt(f(x, 1), abs(x)), lt(y, f(y, 0)));
  const extreme = select(grows, f(x, Infinity), f(x, 0));
  const size = select(or(or(eq(x, f(x, 0)), infinite(x)), infinite(y)), extreme, magnitude);
  const signed = select(and(odd, negative), neg(size), size);
  const broken = and(and(lt(x, f(x, 0)), not(whole)), not(or(infinite(x), infinite(y))));
  const number = select(broken, f(x, Number.NaN), signed);
  const either = select(or(isNaNCall(x), isNaNCall(y)), add(x, y), number);
  return select(or(eq(x, f(x, 1)), or(eq(y, f(y, 0)), and(eq(x, f(x, -1)), infinite(y)))), f(x, 1), either);
}
