/** f16 and bf16 as 16-bit patterns and as f32 values, by bit arithmetic on one lane or four; exact in every case. */
import { isFloat, type Scalar, sizeOf } from '../ir/dtype.ts';
import type { Expr } from '../ir/expr.ts';
import {
  abs,
  add,
  and,
  bitcast,
  cast,
  extract,
  le,
  literal,
  lt,
  min,
  mul,
  ne,
  or,
  select,
  shl,
  shr,
  sub,
  vec,
} from '../ir/scalar.ts';

export type Half = 'f16' | 'bf16';

/** The f32 value of a pattern in the low half of an i32 whose upper half is 0. */
export function fromHalf(dtype: Half, bits: Expr): Expr {
  if (dtype === 'bf16') return bitcast(shl(bits, 16), 'f32');
  const k = (value: number): Expr => literal(value, 'i32', bits.lanes);
  const magnitude = shl(and(bits, k(0x7fff)), 13);
  // The exponent is 112 too small; a multiplication mends it and normalises subnormals on the way.
  const scaled = bitcast(mul(bitcast(magnitude, 'f32'), literal(2 ** 112, 'f32', bits.lanes)), 'i32');
  const finite = lt(magnitude, k(0x0f800000));
  const sign = shl(and(bits, k(0x8000)), 16);
  return bitcast(or(sign, select(finite, scaled, or(magnitude, k(0x7f800000)))), 'f32');
}

/** The pattern, 0 … 0xffff in an i32, of the half nearest to an f32; ties to even. Every NaN becomes a quiet NaN. */
export function toHalf(dtype: Half, x: Expr): Expr {
  const k = (value: number): Expr => literal(value, 'i32', x.lanes);
  const bits = bitcast(x, 'i32');
  const isNumber = le(and(bits, k(0x7fffffff)), k(0x7f800000));
  if (dtype === 'bf16') {
    const upper = and(shr(bits, 16), k(0xffff));
    const odd = and(upper, k(1));
    const rounded = and(shr(add(add(bits, odd), k(0x7fff)), 16), k(0xffff));
    return select(isNumber, rounded, or(upper, k(0x40)));
  }
  const magnitude = and(bits, k(0x7fffffff));
  const sign = and(shr(bits, 16), k(0x8000));
  const odd = and(shr(magnitude, 13), k(1));
  const normal = sub(shr(add(add(magnitude, odd), k(0xfff)), 13), k(112 << 10));
  // Adding ½ leaves multiples of 2^-24 in the low bits, rounded to even: the subnormals of f16.
  const half = literal(0.5, 'f32', x.lanes);
  const subnormal = sub(bitcast(add(bitcast(magnitude, 'f32'), half), 'i32'), bitcast(half, 'i32'));
  const finite = select(lt(magnitude, k(0x38800000)), subnormal, min(normal, k(0x7c00)));
  return or(sign, select(isNumber, finite, k(0x7e00)));
}

/** The half nearest to a value of type `from`, as an f32. `x` is that value, or its f32 where `from` is a half itself. */
export function roundHalf(dtype: Half, x: Expr, from: Scalar): Expr {
  if (from === dtype) return x;
  const exact = from === 'f32' || from === 'f16' || from === 'bf16' || (!isFloat(from) && sizeOf(from) < 4);
  if (!exact && x.lanes > 1)
    return vec(Array.from({ length: x.lanes }, (_, lane) => roundHalf(dtype, extract(x, lane), from)));
  const single = exact ? cast(x, 'f32') : narrowOdd(cast(x, 'f64'));
  return fromHalf(dtype, toHalf(dtype, single));
}

/** f64 to f32 rounded to odd, so that rounding once more to a half gives the half nearest to the f64. */
function narrowOdd(x: Expr): Expr {
  const near = cast(x, 'f32');
  const back = cast(near, 'f64');
  const bits = bitcast(near, 'i32');
  const truncated = select(lt(abs(x), abs(back)), sub(bits, 1), bits);
  return bitcast(select(ne(back, x), or(truncated, 1), bits), 'f32');
}
