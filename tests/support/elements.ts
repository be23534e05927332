/** Elements of every type between the interpreter's numbers and the arrays that sessions take and give. */
import type { Scalar } from '../../ir/dtype.ts';
import { toFloat32, toHalf } from '../../ir/weights.ts';
import type { TensorData } from '../../runtime/api.ts';

/** Numbers as the array of a type; floats are rounded. */
export function bytesFrom(dtype: Scalar, data: ArrayLike<number>): TensorData {
  switch (dtype) {
    case 'f64':
      return Float64Array.from(data);
    case 'f32':
      return Float32Array.from(data);
    case 'f16':
      return toHalf(Float32Array.from(data));
    case 'bf16':
      return Uint16Array.from(new Uint32Array(Float32Array.from(data).buffer), (x) => x >>> 16);
    case 'i64':
      return BigInt64Array.from(Array.from(data, BigInt));
    case 'u64':
      return BigUint64Array.from(Array.from(data, BigInt));
    case 'i32':
      return Int32Array.from(data);
    case 'u32':
      return Uint32Array.from(data);
    case 'i16':
      return Int16Array.from(data);
    case 'u16':
      return Uint16Array.from(data);
    case 'i8':
      return Int8Array.from(data);
    case 'u8':
    case 'bool':
      return Uint8Array.from(data);
  }
}

/** The numbers that an array of a type holds. */
export function numbersFrom(dtype: Scalar, data: TensorData): Float64Array {
  if (dtype === 'f16' || dtype === 'bf16') {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return Float64Array.from(toFloat32({ dtype, shape: [data.length], bytes }));
  }
  return Float64Array.from(data as ArrayLike<number | bigint>, Number);
}
