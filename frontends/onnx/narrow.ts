/**
 * Element types of 8 bits or fewer that have no type of their own here. Each is a subset of a wider type, in which its
 * elements are stored, computed with and handed in and out, value for value; what narrows to it is rounded to it.
 */
import type { Scalar } from '../../ir/dtype.ts';
import { toHalf } from '../../ir/weights.ts';

/** Whole numbers of few bits, in two's complement where they have a sign. */
interface Whole {
  readonly kind: 'whole';
  readonly signed: boolean;
}
/** A sign, `bits − 1 − fraction` bits of exponent, and a fraction. */
export interface Real {
  readonly kind: 'real';
  readonly fraction: number;
  readonly bias: number;
  /** Largest finite magnitude. */
  readonly largest: number;
  /** What the patterns beyond the finite ones are; `unsigned zero`: the pattern of −0 is the only NaN. */
  readonly special: 'nan' | 'infinity and nan' | 'unsigned zero' | 'none';
}
/** Powers of two: nothing but an exponent. */
interface Power {
  readonly kind: 'power';
}

export type Narrow = (Whole | Real | Power) & {
  /** ONNX's number and name of the type. */
  readonly code: number;
  readonly name: string;
  readonly bits: 2 | 4 | 8;
  /** The type that holds every element of it exactly. */
  readonly wide: Scalar;
};

const real = (
  code: number,
  name: string,
  bits: 4 | 8,
  fraction: number,
  bias: number,
  largest: number,
  special: Real['special'],
): Narrow => ({ code, name, bits, wide: 'f16', kind: 'real', fraction, bias, largest, special });
const whole = (code: number, name: string, bits: 2 | 4, signed: boolean): Narrow => ({
  code,
  name,
  bits,
  wide: signed ? 'i8' : 'u8',
  kind: 'whole',
  signed,
});

const FORMATS: readonly Narrow[] = [
  real(17, 'FLOAT8E4M3FN', 8, 3, 7, 448, 'nan'),
  real(18, 'FLOAT8E4M3FNUZ', 8, 3, 8, 240, 'unsigned zero'),
  real(19, 'FLOAT8E5M2', 8, 2, 15, 57344, 'infinity and nan'),
  real(20, 'FLOAT8E5M2FNUZ', 8, 2, 16, 57344, 'unsigned zero'),
  whole(21, 'UINT4', 4, false),
  whole(22, 'INT4', 4, true),
  real(23, 'FLOAT4E2M1', 4, 1, 1, 6, 'none'),
  { code: 24, name: 'FLOAT8E8M0', bits: 8, wide: 'f32', kind: 'power' },
  whole(25, 'UINT2', 2, false),
  whole(26, 'INT2', 2, true),
];
const byCode = new Map(FORMATS.map((format) => [format.code, format]));

/** The format of a `TensorProto.DataType`; undefined for those that have a type of their own, and for unknown ones. */
export const narrowOf = (type: number): Narrow | undefined => byCode.get(type);

/** The number that a pattern of bits stands for. */
export function decoded(format: Narrow, pattern: number): number {
  if (format.kind === 'power') return pattern === 255 ? Number.NaN : 2 ** (pattern - 127);
  const top = 2 ** (format.bits - 1);
  if (format.kind === 'whole') return format.signed && pattern >= top ? pattern - 2 * top : pattern;
  const { fraction, bias, special } = format;
  const [negative, rest] = [pattern >= top, pattern % top];
  if (special === 'unsigned zero' && pattern === top) return Number.NaN;
  const part = 2 ** fraction;
  const [exponent, mantissa] = [Math.floor(rest / part), rest % part];
  if (special === 'nan' && rest === top - 1) return Number.NaN;
  if (special === 'infinity and nan' && exponent === top / part - 1)
    return mantissa === 0 ? (negative ? -Infinity : Infinity) : Number.NaN;
  const size = exponent === 0 ? 2 ** (1 - bias) * (mantissa / part) : 2 ** (exponent - bias) * (1 + mantissa / part);
  return negative ? -size : size;
}

/** Bytes that so many elements take, several to a byte. */
export const packedBytes = ({ bits }: Narrow, count: number): number => Math.ceil((count * bits) / 8);

/** Elements, packed with the first in the lowest bits, as bytes of the wide type. */
export function widenedBytes(format: Narrow, packed: Uint8Array, count: number): Uint8Array {
  const { bits, wide } = format;
  const table = Float32Array.from({ length: 2 ** bits }, (_, pattern) => decoded(format, pattern));
  const perByte = 8 / bits;
  const patternAt = (i: number): number => (packed[Math.floor(i / perByte)]! >> (bits * (i % perByte))) % 2 ** bits;
  if (wide === 'i8' || wide === 'u8') return Uint8Array.from({ length: count }, (_, i) => table[patternAt(i)]!);
  const elements = wide === 'f16' ? toHalf(table) : table;
  const out = wide === 'f16' ? new Uint16Array(count) : new Float32Array(count);
  for (let i = 0; i < count; i++) out[i] = elements[patternAt(i)]!;
  return new Uint8Array(out.buffer);
}
