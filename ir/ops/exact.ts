/** Arithmetic of the reference evaluations: integers exact modulo 2^bits, floats in f64. */
import { isInt, isUnsigned, mulInt, type Scalar, sizeOf, wrapInt } from '../dtype.ts';

/** a + b as `dtype` adds. */
export function addAs(dtype: Scalar, a: number, b: number): number {
  const sum = a + b;
  if (!isInt(dtype)) return sum;
  if (Number.isSafeInteger(sum)) return wrapInt(dtype, sum);
  const exact = BigInt(a) + BigInt(b);
  return Number(isUnsigned(dtype) ? BigInt.asUintN(8 * sizeOf(dtype), exact) : BigInt.asIntN(8 * sizeOf(dtype), exact));
}

/** a · b as `dtype` multiplies. */
export const mulAs = (dtype: Scalar, a: number, b: number): number => (isInt(dtype) ? mulInt(dtype, a, b) : a * b);
