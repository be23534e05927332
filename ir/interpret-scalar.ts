/** Single scalar operators of kernels as functions of numbers, rounded as their dtype demands. */
import { isFloat, roundTo, type Scalar } from './dtype.ts';
import { reinterpret } from './evaluate-expr.ts';
import type { ExprOp } from './expr.ts';
import { foldScalar } from './simplify.ts';
import { erf } from './special.ts';

/** `separate` rounds the product and then the sum; `fused` rounds once. */
export type FmaRounding = 'separate' | 'fused';
export type ScalarFunction = (a: number, b: number, c: number) => number;

const FLOAT_FUNCTIONS: Partial<Record<ExprOp, (x: number) => number>> = {
  exp: Math.exp,
  log: Math.log,
  tanh: Math.tanh,
  sin: Math.sin,
  cos: Math.cos,
  erf,
};

/** The common cases without the generality of `foldScalar`, which defines them. */
const F32: Partial<Record<ExprOp, ScalarFunction>> = {
  add: (a, b) => Math.fround(a + b),
  sub: (a, b) => Math.fround(a - b),
  mul: (a, b) => Math.fround(a * b),
  div: (a, b) => Math.fround(a / b),
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
};
const I32: Partial<Record<ExprOp, ScalarFunction>> = {
  add: (a, b) => (a + b) | 0,
  sub: (a, b) => (a - b) | 0,
  mul: (a, b) => Math.imul(a, b),
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
};
const ANY: Partial<Record<ExprOp, ScalarFunction>> = {
  lt: (a, b) => (a < b ? 1 : 0),
  le: (a, b) => (a <= b ? 1 : 0),
  eq: (a, b) => (a === b ? 1 : 0),
  ne: (a, b) => (a !== b ? 1 : 0),
  select: (a, b, c) => (a !== 0 ? b : c),
};

/**
 * One operator on members of its operands' dtype; the result is a member of `dtype`.
 *
 * @param from dtype of the first operand
 * @throws RangeError when called with a zero integer divisor
 */
export function scalarFunction(op: ExprOp, dtype: Scalar, from: Scalar, fma: FmaRounding): ScalarFunction {
  const common = ANY[op] ?? (dtype === 'f32' ? F32[op] : dtype === 'i32' ? I32[op] : undefined);
  if (common) return common;
  if (op === 'bitcast') return (a) => reinterpret(a, from, dtype);
  if (op === 'fma') return fmaFunction(dtype, fma);
  const f = isFloat(dtype) ? FLOAT_FUNCTIONS[op] : undefined;
  if (f) return (a) => roundTo(dtype, f(a));
  return (a, b, c) => {
    const value = foldScalar(op, dtype, [a, b, c], from);
    if (value === undefined) throw new RangeError(`${op} of ${dtype} has no value for ${a} and ${b}`);
    return value;
  };
}

function fmaFunction(dtype: Scalar, rounding: FmaRounding): ScalarFunction {
  const fold = (op: ExprOp, a: number, b: number): number => foldScalar(op, dtype, [a, b], dtype)!;
  if (rounding === 'separate' && dtype === 'f32') return (a, b, c) => Math.fround(Math.fround(a * b) + c);
  if (rounding === 'separate' || !isFloat(dtype) || dtype === 'f64')
    return (a, b, c) => fold('add', fold('mul', a, b), c);
  // The product of two f32, f16 or bf16 is exact in f64; rounding the sum to odd first makes the last rounding right.
  return (a, b, c) => roundTo(dtype, addToOdd(a * b, c));
}

const f64 = new Float64Array(1);
const u64 = new BigUint64Array(f64.buffer);

/** a + b in f64, and where that is inexact the neighbour of the exact sum whose last bit is 1. */
function addToOdd(a: number, b: number): number {
  const sum = a + b;
  const bb = sum - a;
  const error = a - (sum - bb) + (b - bb);
  if (error === 0 || !Number.isFinite(sum) || Number.isNaN(error)) return sum;
  f64[0] = sum;
  if ((u64[0]! & 1n) === 1n) return sum;
  // Towards the exact sum: away from zero when the error has the sign of the sum.
  u64[0] = u64[0]! + (error > 0 === sum > 0 ? 1n : -1n);
  return f64[0]!;
}
