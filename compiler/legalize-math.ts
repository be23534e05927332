/**
 * Transcendental functions of f32 as polynomials, on one lane or four: nothing but arithmetic, shifts and selects, so that
 * both spell the same. Coefficients are minimax fits of the relative error (iteratively reweighted least squares in
 * double precision). Bounds hold with `fma` rounded once or twice; infinities, zeros and NaN give what IEEE 754 and C say.
 */
import type { Expr } from '../ir/expr.ts';
import {
  abs,
  add,
  and,
  bitcast,
  cast,
  div,
  eq,
  fma,
  le,
  literal,
  lt,
  min,
  mul,
  or,
  select,
  shl,
  shr,
  sub,
} from '../ir/scalar.ts';

const LOG2E = Math.LOG2E;
/** ln 2 in two parts; the first has 12 bits, so that its product with an exponent is exact. */
const LN2_HIGH = 0.693145751953125;
const LN2_LOW = Math.LN2 - LN2_HIGH;
/** 1.5·2^23: adding it rounds to an integer, which then stands in the low bits. */
const ROUNDER = 12582912;
const SIGN = -(2 ** 31);

const real = (like: Expr, value: number): Expr => literal(value, 'f32', like.lanes);
const whole = (like: Expr, value: number): Expr => literal(value, 'i32', like.lanes);

/** c₀ + c₁x + c₂x² … by Horner's rule. */
function polynomial(x: Expr, coefficients: readonly number[]): Expr {
  const [last, ...rest] = [...coefficients].reverse();
  return rest.reduce((sum, c) => fma(sum, x, real(x, c)), real(x, last!));
}

/** (e^r − 1 − r) / r² for |r| ≤ ln 2 / 2, relative error 3e-9 of e^r. */
const EXP = [
  0.49999994039535522, 0.1666651964187622, 0.041668403893709183, 0.0083688991144299507, 0.0013814221601933241,
];

/** x = n·ln 2 + r with |r| ≤ ln 2 / 2: an integer that ends in the bits of n + bias, and r. */
function reduce(x: Expr, bias: number): { readonly bits: Expr; readonly r: Expr } {
  const sum = fma(x, real(x, LOG2E), real(x, ROUNDER + bias));
  const n = sub(sum, real(x, ROUNDER + bias));
  const r = fma(n, real(x, -LN2_LOW), fma(n, real(x, -LN2_HIGH), x));
  return { bits: bitcast(sum, 'i32'), r };
}

/** The float whose exponent field is the low bits of an integer: 2^(e − 127). */
const powerOfTwo = (e: Expr): Expr => bitcast(shl(e, whole(e, 23)), 'f32');

/** Clamps that keep NaN, in the form of one instruction on four lanes. */
const atMost = (x: Expr, bound: number): Expr => select(lt(real(x, bound), x), real(x, bound), x);
const atLeast = (x: Expr, bound: number): Expr => select(lt(x, real(x, bound)), real(x, bound), x);

/** e^x for x ≤ 0: relative error ≤ 1.3e-7, and zero below the smallest normal number. NaN stays NaN. */
export function expOfNonPositiveF32(x: Expr): Expr {
  const least = -87.33654;
  const { bits, r } = reduce(atLeast(x, least), 127);
  const p = add(fma(mul(r, r), polynomial(r, EXP), r), real(x, 1));
  return select(lt(x, real(x, least)), real(x, 0), mul(p, powerOfTwo(bits)));
}

/** e^x. Relative error ≤ 1.3e-7 where the result is normal; subnormal results are within one unit of 2^-149. */
export function expF32(x: Expr): Expr {
  // Beyond these the result is infinite or zero anyway.
  const { bits, r } = reduce(atLeast(atMost(x, 89), -105), 254);
  const p = add(fma(mul(r, r), polynomial(r, EXP), r), real(x, 1));
  // 2^n alone would leave the range of exponents at both ends, so that it comes in two factors.
  const half = shr(bits, whole(x, 1));
  return mul(mul(p, powerOfTwo(half)), powerOfTwo(sub(bits, half)));
}

/** tanh x = (e^2x − 1) / (e^2x + 1), with e^2x − 1 never cancelled. Relative error ≤ 2e-7. */
export function tanhF32(x: Expr): Expr {
  const { bits, r } = reduce(min(mul(abs(x), real(x, 2)), real(x, 20)), 127);
  const scale = powerOfTwo(bits);
  const small = fma(mul(r, r), polynomial(r, EXP), r);
  const minusOne = fma(small, scale, sub(scale, real(x, 1)));
  return withSign(div(minusOne, add(minusOne, real(x, 2))), x);
}

/** erf(x)/x = P(x²)/Q(x²) for |x| ≤ 4: a minimax fit of the relative error, 2.5e-8 before rounding. */
const ERF_OVER = [
  1.1283791065216064, 0.1935410350561142, 0.05310119688510895, 0.0038831657730042934, 0.0002845609560608864,
  1.9868018625857076e-6,
];
const ERF_UNDER = [
  1, 0.5048538446426392, 0.11534832417964935, 0.015206896699965, 0.0011855261400341988, 3.74201154045295e-5,
];

/**
 * erf x, relative error ≤ 3.8e-7: one quotient for all x, half the work of a fit by parts, and exactly ±1 from |x| = 4.
 * x/2·(1 + erf(x/√2)) is within 1.9e-7·|x| of gelu, and has no relative accuracy where gelu is below that.
 */
export function erfF32(x: Expr): Expr {
  const within = atLeast(atMost(x, 4), -4);
  const square = mul(within, within);
  return div(mul(within, polynomial(square, ERF_OVER)), polynomial(square, ERF_UNDER));
}

/** (ln(1 + f) − f + f²/2) / f³ for √½ ≤ 1 + f ≤ √2, relative error 6e-9 of the logarithm. */
const LOG = [
  0.33333331346511841, -0.25000819563865662, 0.20001226663589478, -0.16623356938362122, 0.14201757311820984,
  -0.13160184025764465, 0.12761583924293518, -0.07634501904249191,
];

/** The magnitude of one and the sign of the other. */
const withSign = (magnitude: Expr, sign: Expr): Expr =>
  bitcast(or(bitcast(magnitude, 'i32'), and(bitcast(sign, 'i32'), whole(sign, SIGN))), 'f32');

/** ln x. Relative error ≤ 2e-7, subnormal arguments included; ln 0 = −∞, NaN below. */
export function logF32(x: Expr): Expr {
  const tiny = lt(x, real(x, 2 ** -126));
  const normal = select(tiny, mul(x, real(x, 2 ** 23)), x);
  // The mantissa between √½ and √2: taking the bits of √½ away makes the exponent change there.
  const distance = sub(bitcast(normal, 'i32'), whole(x, 0x3f3504f3));
  const n = shr(distance, whole(x, 23));
  const mantissa = bitcast(sub(bitcast(normal, 'i32'), shl(n, whole(x, 23))), 'f32');
  const exponent = sub(cast(n, 'f32'), select(tiny, real(x, 23), real(x, 0)));
  const f = sub(mantissa, real(x, 1));
  const square = mul(f, f);
  const tail = fma(mul(square, f), polynomial(f, LOG), fma(exponent, real(x, LN2_LOW), mul(square, real(x, -0.5))));
  const value = fma(exponent, real(x, LN2_HIGH), add(tail, f));
  const positive = select(lt(x, real(x, Infinity)), value, x);
  const atMostZero = select(eq(x, real(x, 0)), real(x, -Infinity), real(x, NaN));
  return select(le(x, real(x, 0)), atMostZero, positive);
}
