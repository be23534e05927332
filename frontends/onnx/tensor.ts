/** Tensors of ONNX files: element types, every encoding, data in other files. */
import { closeSync, fstatSync, openSync, readSync, realpathSync } from 'node:fs';
import { isAbsolute, relative, resolve } from 'node:path';
import { fail } from '../../ir/diagnostic.ts';
import { type Scalar, sizeOf } from '../../ir/dtype.ts';
import type { Nd } from '../../ir/nd.ts';
import { aligned, toFloat32, type WeightTensor } from '../../ir/weights.ts';
import { type Narrow, narrowOf, packedBytes, widenedBytes } from './narrow.ts';
import { elementTypeName, type OnnxTensor } from './proto.ts';

const SCALAR: Readonly<Record<number, Scalar>> = {
  1: 'f32',
  2: 'u8',
  3: 'i8',
  4: 'u16',
  5: 'i16',
  6: 'i32',
  7: 'i64',
  9: 'bool',
  10: 'f16',
  11: 'f64',
  12: 'u32',
  13: 'u64',
  16: 'bf16',
};

/** Our element type of `TensorProto.DataType`. @throws CompileError `dtype` naming those that are not supported */
export function scalarOf(type: number, what: string): Scalar {
  return (
    SCALAR[type] ??
    fail('dtype', `${what} has elements of type ${elementTypeName(type)}, which is not supported`, {
      help: `supported: ${Object.keys(SCALAR)
        .map((t) => elementTypeName(Number(t)))
        .join(', ')}`,
    })
  );
}

/** Where tensors that live in other files are looked up. */
export interface ExternalData {
  /** Folder of the model file; undefined when the model came as bytes, so that nothing outside them may be read. */
  readonly folder: string | undefined;
}

/** Number of elements. @throws CompileError for negative or overflowing sizes */
export function elementCount(tensor: OnnxTensor, what: string): number {
  let count = 1;
  for (const size of tensor.dims) {
    count *= size;
    if (size < 0 || !Number.isSafeInteger(count))
      fail('shape', `${what} has the impossible shape [${tensor.dims.join(', ')}]`, { help: 'the file is damaged' });
  }
  return count;
}

/**
 * The elements as little-endian bytes: a view of the file where it stores them so. Elements of 8 bits or fewer come in
 * the type of `narrow.ts` that holds them.
 * @throws CompileError `dtype`, `shape`, `file` when type, count or place of the data are wrong
 */
export function weightOf(tensor: OnnxTensor, what: string, external: ExternalData): WeightTensor {
  const format = narrowOf(tensor.type);
  if (format) return widened(tensor, format, what, external);
  const dtype = scalarOf(tensor.type, what);
  const count = elementCount(tensor, what);
  const wanted = count * sizeOf(dtype);
  const bytes = bytesOf(tensor, what, dtype, count, wanted, external);
  if (bytes.length !== wanted)
    fail('file', `${what} holds ${bytes.length} bytes, but ${dtype}[${tensor.dims.join(', ')}] needs ${wanted}`, {
      help: 'the file is damaged; export it again',
    });
  return { dtype, shape: tensor.dims, bytes };
}

/** Elements of 8 bits or fewer in the type that holds them exactly. */
function widened(tensor: OnnxTensor, format: Narrow, what: string, external: ExternalData): WeightTensor {
  const count = elementCount(tensor, what);
  const wanted = packedBytes(format, count);
  const packed = bytesOf(tensor, what, 'u8', wanted, wanted, external);
  if (packed.length !== wanted)
    fail('file', `${what} holds ${packed.length} bytes, but ${count} elements of ${format.name} need ${wanted}`, {
      help: 'the file is damaged; export it again',
    });
  return { dtype: format.wide, shape: tensor.dims, bytes: widenedBytes(format, packed, count) };
}

function bytesOf(
  tensor: OnnxTensor,
  what: string,
  dtype: Scalar,
  count: number,
  wanted: number,
  external: ExternalData,
): Uint8Array<ArrayBufferLike> {
  if (tensor.external) return externalBytes(tensor.external, what, wanted, external);
  if (tensor.varints.length > 0) {
    if (tensor.raw.length > 0) fail('file', `${what} holds its elements twice`, { help: 'the file is damaged' });
    return fromVarints(tensor.varints, what, dtype, count);
  }
  if (tensor.raw.length === 1) return tensor.raw[0]!;
  const total = tensor.raw.reduce((n, part) => n + part.length, 0);
  const all = new Uint8Array(total);
  let at = 0;
  for (const part of tensor.raw) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Elements from varints; f16 and bf16 store their bit patterns so. */
function fromVarints(parts: readonly Uint8Array[], what: string, dtype: Scalar, count: number): Uint8Array {
  // A varint ends at the first byte below 0x80, which counts elements before anything is allocated.
  let found = 0;
  for (const part of parts) for (const byte of part) if (byte < 0x80) found++;
  if (found !== count)
    fail('file', `${what} holds ${found} elements, but its shape has ${count}`, { help: 'export the model again' });
  const width = sizeOf(dtype);
  const out = new Uint8Array(count * width);
  const view = new DataView(out.buffer);
  let n = 0;
  for (const part of parts) {
    let [low, high, shift] = [0, 0, 0];
    for (const byte of part) {
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high |= bits >> 4;
      } else if (shift < 64) high |= bits << (shift - 32);
      shift += 7;
      if (byte >= 0x80) continue;
      const at = n++ * width;
      if (width === 1) out[at] = low;
      else if (width === 2) view.setUint16(at, low & 0xffff, true);
      else {
        view.setInt32(at, low, true);
        if (width === 8) view.setInt32(at + 4, high, true);
      }
      [low, high, shift] = [0, 0, 0];
    }
  }
  return out;
}

function externalBytes(
  entries: ReadonlyMap<string, string>,
  what: string,
  wanted: number,
  { folder }: ExternalData,
): Uint8Array {
  const location = entries.get('location') ?? '';
  if (folder === undefined)
    fail('file', `${what} stands in another file, "${location}", but the model was given as bytes`, {
      help: 'import the model by its path',
    });
  const outside = (why: string): never =>
    fail('file', `${what} stands in "${location}": ${why}`, {
      help: "external data must be plain files inside the model's folder",
    });
  if (location === '' || isAbsolute(location) || location.includes('\0')) outside('not a relative path');
  const path = resolve(folder, location);
  const inside = (from: string, to: string): boolean => {
    const way = relative(from, to);
    return way !== '' && !way.startsWith('..') && !isAbsolute(way);
  };
  if (!inside(resolve(folder), path)) outside('outside the folder of the model');
  let real: string;
  try {
    real = realpathSync(path);
  } catch {
    return outside('there is no such file');
  }
  if (!inside(realpathSync(folder), real)) outside('a link that leads outside the folder of the model');
  const number = (key: string, usual: number): number => {
    const value = Number(entries.get(key) ?? usual);
    return Number.isSafeInteger(value) && value >= 0 ? value : outside(`${key} is "${entries.get(key)}"`);
  };
  const file = openSync(real, 'r');
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) outside('not a plain file');
    const offset = number('offset', 0);
    const length = number('length', wanted);
    if (length !== wanted) outside(`${length} bytes where ${wanted} are needed`);
    if (offset + length > stat.size) outside(`bytes ${offset}..${offset + length} of a file of ${stat.size}`);
    const out = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      const got = readSync(file, out, at, Math.min(length - at, 1 << 30), offset + at);
      if (got === 0) outside(`its end comes after ${at} of ${length} bytes`);
      at += got;
    }
    return out;
  } finally {
    closeSync(file);
  }
}

/** Elements of a stored tensor as doubles; 64-bit integers are exact up to 2^53. */
export function ndOf({ dtype, shape, bytes }: WeightTensor): Nd {
  return { dtype, shape, data: doubles(dtype, aligned(bytes, sizeOf(dtype)), shape) };
}

function doubles(dtype: Scalar, b: Uint8Array, shape: readonly number[]): Float64Array {
  const n = b.length / sizeOf(dtype);
  switch (dtype) {
    case 'f32':
      return Float64Array.from(new Float32Array(b.buffer, b.byteOffset, n));
    case 'f64':
      return Float64Array.from(new Float64Array(b.buffer, b.byteOffset, n));
    case 'f16':
    case 'bf16':
      return Float64Array.from(toFloat32({ dtype, shape, bytes: b }));
    case 'i64':
      return Float64Array.from(new BigInt64Array(b.buffer, b.byteOffset, n), Number);
    case 'u64':
      return Float64Array.from(new BigUint64Array(b.buffer, b.byteOffset, n), Number);
    case 'i32':
      return Float64Array.from(new Int32Array(b.buffer, b.byteOffset, n));
    case 'u32':
      return Float64Array.from(new Uint32Array(b.buffer, b.byteOffset, n));
    case 'i16':
      return Float64Array.from(new Int16Array(b.buffer, b.byteOffset, n));
    case 'u16':
      return Float64Array.from(new Uint16Array(b.buffer, b.byteOffset, n));
    case 'i8':
      return Float64Array.from(new Int8Array(b.buffer, b.byteOffset, n));
    case 'u8':
      return Float64Array.from(b);
    case 'bool':
      return Float64Array.from(b, (x) => (x === 0 ? 0 : 1));
  }
}
