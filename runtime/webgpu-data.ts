/** Elements between the host's arrays and the 32-bit words of a GPU buffer: f32, i32 or u32 by the element type. */
import type { TensorData } from './api.ts';
import type { ElementType, Port } from './manifest.ts';
import { arrayClass, refuse } from './tensor.ts';
import { widened } from './weights.ts';

/** Bytes of an element on the GPU. */
export const WORD = 4;

type Words = Float32Array | Int32Array | Uint32Array;

/** Bits of an f16, rounded to nearest even, of a number that stands as f32. */
function halfBits(value: number): number {
  const float = Float32Array.of(value);
  const bits = new Uint32Array(float.buffer)[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const size = Math.abs(float[0]!);
  if (Number.isNaN(size)) return sign | 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  // Adding a power of two whose last place is the half's makes the addition round.
  const exponent = Math.max(-14, Math.floor(Math.log2(size)));
  const least = 2 ** (exponent - 10);
  const steps = Math.round(size / least);
  const even = Math.abs(size / least - Math.trunc(size / least)) === 0.5 ? 2 * Math.round(size / least / 2) : steps;
  // A subnormal has exponent field 0, and its carry into the first normal is the right one.
  return sign | (size < 2 ** -14 ? even : ((exponent + 14) << 10) + even);
}

/** @throws HeddleError `input` for a number that has no 32-bit word */
function narrow(port: Port, data: ArrayLike<bigint>, out: Int32Array | Uint32Array): Words {
  for (let i = 0; i < data.length; i++) {
    out[i] = Number(data[i]!);
    if (BigInt(out[i]!) !== data[i]) {
      refuse(port, `has ${data[i]} at [${i}]`, 'WebGPU has no 64-bit integers: use smaller numbers, or device "wasm".');
    }
  }
  return out;
}

/** An input as words; its own memory where it has them already. */
export function toWords(port: Port, data: TensorData): Words {
  switch (port.dtype) {
    case 'f32':
      return data as Float32Array;
    case 'i32':
      return data as Int32Array;
    case 'u32':
      return data as Uint32Array;
    case 'f64':
      return Float32Array.from(data as Float64Array);
    case 'f16': {
      const wide = widened();
      return Uint32Array.from(data as Uint16Array, (bits) => wide[bits]!);
    }
    case 'bf16':
      return Uint32Array.from(data as Uint16Array, (bits) => bits << 16);
    case 'i64':
      return narrow(port, data as BigInt64Array, new Int32Array(data.length));
    case 'u64':
      return narrow(port, data as BigUint64Array, new Uint32Array(data.length));
    case 'i16':
    case 'i8':
      return Int32Array.from(data as Int16Array);
    case 'u16':
    case 'u8':
    case 'bool':
      return Uint32Array.from(data as Uint16Array);
  }
}

/** Elements from words that stand at byte `at` of mapped memory; a copy. */
export function fromWords(dtype: ElementType, memory: ArrayBuffer, at: number, count: number): TensorData {
  const Class = arrayClass[dtype] as unknown as { from(a: ArrayLike<unknown>, f?: (x: never) => unknown): TensorData };
  switch (dtype) {
    case 'f32':
    case 'f64':
      return Class.from(new Float32Array(memory, at, count));
    case 'f16':
      return Class.from(new Float32Array(memory, at, count), halfBits);
    case 'bf16':
      return Class.from(new Uint32Array(memory, at, count), (bits: number) => bits >>> 16);
    case 'i64':
      return Class.from(new Int32Array(memory, at, count), BigInt);
    case 'u64':
      return Class.from(new Uint32Array(memory, at, count), BigInt);
    case 'i32':
    case 'i16':
    case 'i8':
      return Class.from(new Int32Array(memory, at, count));
    case 'u32':
    case 'u16':
    case 'u8':
    case 'bool':
      return Class.from(new Uint32Array(memory, at, count));
  }
}
