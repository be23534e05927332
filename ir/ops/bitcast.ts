/** Elements read as another type of the same width. */
import { attr } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { type Scalar, sizeOf } from '../dtype.ts';
import { defineOp } from '../op.ts';
import * as s from '../scalar.ts';
import { tensor } from '../type.ts';
import { toFloat32, toHalf } from '../weights.ts';
import { f32, given } from './example.ts';

const bytes = new DataView(new ArrayBuffer(8));
const halves = (dtype: 'f16' | 'bf16', pattern: number): number =>
  toFloat32({ dtype, shape: [1], bytes: new Uint8Array(Uint16Array.of(pattern).buffer) })[0]!;
/** The pattern of a number that `dtype` holds exactly. */
const patternOf = (dtype: 'f16' | 'bf16', x: number): number => {
  if (dtype === 'f16') return toHalf(Float32Array.of(x))[0]!;
  bytes.setFloat32(0, x);
  return bytes.getUint16(0);
};

function write(dtype: Scalar, x: number): void {
  switch (dtype) {
    case 'f64':
      bytes.setFloat64(0, x);
      return;
    case 'f32':
      bytes.setFloat32(0, x);
      return;
    case 'f16':
    case 'bf16':
      bytes.setUint16(0, patternOf(dtype, x));
      return;
    case 'i64':
    case 'u64':
      bytes.setBigInt64(0, BigInt.asIntN(64, BigInt(x)));
      return;
    default:
      if (sizeOf(dtype) === 4) bytes.setInt32(0, x);
      else if (sizeOf(dtype) === 2) bytes.setInt16(0, x);
      else bytes.setInt8(0, x);
  }
}
function read(dtype: Scalar): number {
  switch (dtype) {
    case 'f64':
      return bytes.getFloat64(0);
    case 'f32':
      return bytes.getFloat32(0);
    case 'f16':
    case 'bf16':
      return halves(dtype, bytes.getUint16(0));
    case 'i64':
      return Number(bytes.getBigInt64(0));
    case 'u64':
      return Number(bytes.getBigUint64(0));
    case 'i32':
      return bytes.getInt32(0);
    case 'u32':
      return bytes.getUint32(0);
    case 'i16':
      return bytes.getInt16(0);
    case 'u16':
      return bytes.getUint16(0);
    case 'i8':
      return bytes.getInt8(0);
    case 'u8':
      return bytes.getUint8(0);
    case 'bool':
      return bytes.getUint8(0) === 0 ? 0 : 1;
  }
}

export const bitcast = defineOp({
  name: 'bitcast',
  doc: 'The same bits as another element type of the same width. Of bool, true is 1; to bool, all but 0 is true.',
  inputs: ['x'],
  attrs: { to: attr.dtype('element type of the result') },
  type: ([x], { to }) => {
    if (sizeOf(x!.dtype) !== sizeOf(to))
      fail('dtype', `${x!.dtype} has ${8 * sizeOf(x!.dtype)} bits, but ${to} has ${8 * sizeOf(to)}`, {
        help: 'only types of one width share bits; cast converts values',
      });
    return tensor(to, x!.shape);
  },
  axes: ([x]) => [x!.shape.map((_, i) => i)],
  eval: ([x], { to }) => ({
    dtype: to,
    shape: x!.shape,
    data: x!.data.map((v) => {
      write(x!.dtype, v);
      return read(to);
    }),
  }),
  lower: {
    kind: 'pointwise',
    expr: ([x], { attrs: { to }, inputs }) => {
      const from = inputs[0]!.dtype;
      // Among bytes, bits and values are the same modulo 256.
      return from === 'bool' || to === 'bool' ? s.cast(x!, to) : s.bitcast(x!, to);
    },
  },
  onnx: { op: 'BitCast', since: 26, attrs: { to: 'to' } },
  examples: [
    { inputs: [f32(3, 5)], attrs: { to: 'i32' } },
    { inputs: [given('i32', [4], [0, 0x3f800000, -0x40800000, 0x7f800000])], attrs: { to: 'f32' } },
    { inputs: [given('u16', [5], [0, 0x3c00, 0xbc00, 1, 0x7bff])], attrs: { to: 'f16' } },
    { inputs: [given('f16', [4], [0, 1, -2.5, 65504])], attrs: { to: 'i16' } },
    { inputs: [given('f64', [3], [0, 1, -2])], attrs: { to: 'u64' } },
    { inputs: [given('i8', [3], [-1, 0, 127])], attrs: { to: 'u8' } },
    { inputs: [given('u32', [2], [1, 4294967295])], attrs: { to: 'i32' } },
    { inputs: [f32(0)], attrs: { to: 'u32' } },
  ],
});
