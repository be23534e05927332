import { fail } from './diagnostic.ts';
import type { Scalar } from './dtype.ts';

/** One stored tensor: little-endian bytes, C order; a view of the file's buffer, never a copy. */
export interface WeightTensor {
  readonly dtype: Scalar;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/**
 * Bytes of parameters, keyed by checkpoint name. `get` may be lazy (seeded initialisation) but always answers the
 * same bytes; it answers undefined exactly for the names that `names` does not list.
 */
export interface WeightStore {
  /** What to call this store in a message: a path, or how the values were made. */
  readonly source: string;
  names(): readonly string[];
  get(name: string): WeightTensor | undefined;
}

/**
 * The values of a float tensor as f32: exact from f16, bf16 and f32 (NaN payloads kept), rounded to nearest even from
 * f64. An aligned f32 tensor is answered as a view of its bytes, so treat the result as read-only.
 *
 * @throws CompileError `dtype` when the tensor is not of a float type
 */
export function toFloat32(tensor: WeightTensor): Float32Array {
  const { dtype } = tensor;
  switch (dtype) {
    case 'f32': {
      const bytes = aligned(tensor.bytes, 4);
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    }
    case 'f64': {
      const bytes = aligned(tensor.bytes, 8);
      return new Float32Array(new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8));
    }
    case 'f16':
    case 'bf16': {
      const bytes = aligned(tensor.bytes, 2);
      const stored = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
      // Written as bit patterns: a NaN that passes through a number may lose its payload.
      const words = new Uint32Array(stored.length);
      if (dtype === 'f16') {
        const table = halfTable();
        for (let i = 0; i < stored.length; i++) words[i] = table[stored[i]!]!;
      } else {
        for (let i = 0; i < stored.length; i++) words[i] = stored[i]! << 16;
      }
      return new Float32Array(words.buffer);
    }
    default:
      return fail('dtype', `a ${dtype} tensor of shape [${tensor.shape.join(', ')}] does not hold floats`);
  }
}

/** `bytes` itself, or a copy of it where its offset is not a multiple of `size`. (`slice` of a Buffer is no copy.) */
export function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
}

let halves: Uint32Array | undefined;

/** The f32 pattern of every f16 pattern (256 KiB, made once). */
function halfTable(): Uint32Array {
  if (halves !== undefined) return halves;
  halves = new Uint32Array(0x10000);
  for (let half = 0; half < 0x10000; half++) {
    const sign = (half & 0x8000) << 16;
    let exponent = (half >> 10) & 0x1f;
    let mantissa = half & 0x3ff;
    if (exponent === 0x1f) exponent = 0xff;
    else if (exponent !== 0) exponent += 112;
    else if (mantissa !== 0) {
      // A subnormal f16 is a normal f32: shift the leading one up to the implicit place.
      const shift = Math.clz32(mantissa) - 21;
      mantissa = (mantissa << shift) & 0x3ff;
      exponent = 113 - shift;
    }
    halves[half] = sign | (exponent << 23) | (mantissa << 13);
  }
  return halves;
}

/** f32 values as f16 patterns, rounded to nearest even; beyond the largest half (65504) they become infinite. */
export function toHalf(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    const sign = (word >>> 16) & 0x8000;
    const abs = word & 0x7fffffff;
    if (abs >= 0x7f800000) out[i] = sign | (abs > 0x7f800000 ? 0x7e00 : 0x7c00);
    else if (abs >= 0x477ff000) out[i] = sign | 0x7c00;
    else if (abs >= 0x38800000) {
      // Normal: rebias the exponent and round away 13 bits of the mantissa.
      const rounded = abs - 0x38000000 + 0xfff + ((abs >>> 13) & 1);
      out[i] = sign | (rounded >>> 13);
    } else {
      // Subnormal: units of 2^-24.
      const magnitude = Math.abs(values[i]!) * 2 ** 24;
      const floor = Math.floor(magnitude);
      const rest = magnitude - floor;
      out[i] = sign | (rest > 0.5 || (rest === 0.5 && (floor & 1) === 1) ? floor + 1 : floor);
    }
  }
  return out;
}
