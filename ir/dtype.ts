/** Element types: names, sizes and the rounding each one imposes on a real number. */

export type Float = 'f64' | 'f32' | 'f16' | 'bf16';
export type Int = 'i64' | 'i32' | 'i16' | 'i8' | 'u64' | 'u32' | 'u16' | 'u8';
export type Scalar = Float | Int | 'bool';

const SIZES: Readonly<Record<Scalar, number>> = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  i64: 8,
  i32: 4,
  i16: 2,
  i8: 1,
  u64: 8,
  u32: 4,
  u16: 2,
  u8: 1,
  bool: 1,
};

export const SCALARS = Object.keys(SIZES) as readonly Scalar[];

/** Bytes of one element as stored in files and buffers. */
export const sizeOf = (dtype: Scalar): number => SIZES[dtype];
export const isScalar = (name: string): name is Scalar => Object.hasOwn(SIZES, name);
export const isFloat = (dtype: Scalar): dtype is Float =>
  dtype === 'f64' || dtype === 'f32' || dtype === 'f16' || dtype === 'bf16';
export const isInt = (dtype: Scalar): dtype is Int => !isFloat(dtype) && dtype !== 'bool';
export const isUnsigned = (dtype: Scalar): boolean => dtype.startsWith('u');

/** Smallest and largest integer of an integer type (64-bit bounds are rounded to the nearest double). */
export function intRange(dtype: Int): readonly [number, number] {
  const bits = sizeOf(dtype) * 8;
  return isUnsigned(dtype) ? [0, 2 ** bits - 1] : [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
}

const f32Bits = new Float32Array(1);
const u32Bits = new Uint32Array(f32Bits.buffer);

/**
 * The value of `dtype` nearest to `x`, as a double: the meaning of `cast` to that type.
 *
 * Floats round to nearest, ties to even. Integers truncate towards zero, saturate at the type's range, and read NaN as 0
 * (WASM `trunc_sat`; ONNX leaves these cases open). 64-bit integers are exact up to 2^53. `bool` is `x != 0`.
 */
export function roundTo(dtype: Scalar, x: number): number {
  switch (dtype) {
    case 'f64':
      return x;
    case 'f32':
      return Math.fround(x);
    case 'f16':
      return roundToHalf(x);
    case 'bf16':
      return roundToBrain(x);
    case 'bool':
      return x !== 0 ? 1 : 0;
    default: {
      if (Number.isNaN(x)) return 0;
      const [lo, hi] = intRange(dtype);
      return Math.min(hi, Math.max(lo, Math.trunc(x))) + 0;
    }
  }
}

/**
 * An integer reduced modulo 2^bits into the range of `dtype`: the meaning of integer arithmetic that overflows and of
 * `cast` between integer types. Exact while |x| ≤ 2^53.
 */
export function wrapInt(dtype: Int, x: number): number {
  switch (dtype) {
    case 'i32':
      return x | 0;
    case 'u32':
      return x >>> 0;
    case 'i16':
      return (x << 16) >> 16;
    case 'u16':
      return x & 0xffff;
    case 'i8':
      return (x << 24) >> 24;
    case 'u8':
      return x & 0xff;
    case 'i64':
      return Number.isSafeInteger(x) ? x : Number(BigInt.asIntN(64, BigInt(x)));
    case 'u64':
      return x >= 0 && Number.isSafeInteger(x) ? x : Number(BigInt.asUintN(64, BigInt(x)));
  }
}

/** a·b modulo 2^bits, from the exact product. */
export function mulInt(dtype: Int, a: number, b: number): number {
  const product = a * b;
  if (Number.isSafeInteger(product)) return wrapInt(dtype, product) + 0;
  const bits = sizeOf(dtype) * 8;
  const exact = BigInt(a) * BigInt(b);
  return Number(isUnsigned(dtype) ? BigInt.asUintN(bits, exact) : BigInt.asIntN(bits, exact));
}

function roundToHalf(x: number): number {
  const abs = Math.abs(x);
  if (!(abs < 65520)) return Number.isNaN(x) ? x : Math.sign(x) * Infinity;
  if (abs === 0) return x;
  // One unit in the last place: 2^-24 for subnormals, else 10 bits below the leading one.
  const exponent = Math.max(Math.floor(Math.log2(abs)), -14);
  const unit = 2 ** ((2 ** exponent > abs && exponent > -14 ? exponent - 1 : exponent) - 10);
  return roundHalfEven(x / unit) * unit;
}

function roundToBrain(x: number): number {
  if (Number.isNaN(x) || !Number.isFinite(x)) return x;
  const abs = Math.abs(x);
  if (abs < 2 ** -126) return roundHalfEven(x / 2 ** -133) * 2 ** -133;
  f32Bits[0] = abs;
  const exponent = Math.max((u32Bits[0]! >>> 23) - 127, -126);
  const unit = 2 ** (exponent - 7);
  const rounded = roundHalfEven(x / unit) * unit;
  return Math.abs(rounded) > 3.3895313892515355e38 ? Math.sign(x) * Infinity : rounded;
}

/** Nearest integer, ties to even; keeps the sign of zero. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const diff = x - floor;
  if (diff < 0.5) return floor === 0 && x < 0 ? -0 : floor;
  if (diff > 0.5) return floor + 1 === 0 && x < 0 ? -0 : floor + 1;
  const even = floor % 2 === 0 ? floor : floor + 1;
  return even === 0 && x < 0 ? -0 : even;
}
