import { type Scalar, sizeOf } from '../ir/dtype.ts';
import type { WeightTensor } from '../ir/weights.ts';
import { type Fail, failIn, formatShape, quote } from './weights/message.ts';
import { tensorBytes } from './weights/store.ts';

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

/** Longest header read, in bytes, and most axes: numpy itself stops at 64 axes and at 10,000 bytes by default. */
const MAX_HEADER = 65_536;
const MAX_RANK = 64;

/** Kind and size of numpy's type strings; bf16 has none. */
const CODES: readonly (readonly [code: string, dtype: Scalar])[] = [
  ['f8', 'f64'],
  ['f4', 'f32'],
  ['f2', 'f16'],
  ['i8', 'i64'],
  ['i4', 'i32'],
  ['i2', 'i16'],
  ['i1', 'i8'],
  ['u8', 'u64'],
  ['u4', 'u32'],
  ['u2', 'u16'],
  ['u1', 'u8'],
  ['b1', 'bool'],
];

/**
 * Reads a `.npy` file (format 1, 2 or 3) that is in memory. The result's `bytes` is a view of the file, aligned to 64
 * bytes within it when numpy or `encodeNpy` wrote it.
 *
 * Refused: big-endian and structured types, Python objects, Fortran order of two or more axes, sizes that overflow, and
 * data shorter or longer than the shape says.
 *
 * @param source what to call the file in messages
 * @throws CompileError `file`
 */
export function parseNpy(bytes: Uint8Array, source: string): WeightTensor {
  const fail: Fail = failIn('file', source);
  if (bytes.length < 10 || MAGIC.some((byte, i) => bytes[i] !== byte))
    fail('not a .npy file: it does not begin with \\x93NUMPY');
  const major = bytes[6]!;
  if (major < 1 || major > 3 || bytes[7] !== 0) fail(`.npy format ${major}.${bytes[7]}; known are 1.0, 2.0 and 3.0`);
  const prefix = major === 1 ? 10 : 12;
  if (bytes.length < prefix) fail('the file ends inside its header');
  const view = new DataView(bytes.buffer, bytes.byteOffset, prefix);
  const length = major === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > MAX_HEADER) fail(`the header is ${length} bytes, more than the limit of ${MAX_HEADER}`);
  const start = prefix + length;
  if (start > bytes.length) fail(`the header is ${length} bytes but only ${bytes.length - prefix} follow`);

  const header = readHeader(bytes.subarray(prefix, start), fail);
  const dtype = readDtype(header.descr, fail);
  const { shape } = header;
  if (header.fortran && shape.filter((size) => size !== 1).length > 1) {
    fail(`the array ${formatShape(shape)} is in Fortran order`, { help: 'save numpy.ascontiguousarray(array)' });
  }
  const expected = tensorBytes(dtype, shape) ?? fail(`the sizes ${formatShape(shape)} overflow`);
  const found = bytes.length - start;
  if (found !== expected) fail(`${dtype}${formatShape(shape)} needs ${expected} bytes of data, the file has ${found}`);
  return { dtype, shape, bytes: bytes.subarray(start) };
}

/**
 * A `.npy` file of a tensor, little-endian and in C order. The same tensor always gives the same bytes, those that
 * numpy's `save` writes.
 *
 * @throws CompileError `file` when the type is bf16, which numpy lacks, or when bytes and shape disagree
 */
export function encodeNpy(tensor: WeightTensor): Uint8Array {
  const { dtype, shape } = tensor;
  const fail: Fail = failIn('file', 'writing .npy');
  const code = CODES.find(([, name]) => name === dtype)?.[0];
  if (code === undefined) fail(`numpy has no ${dtype}`, { help: 'convert the tensor to f32' });
  const expected = tensorBytes(dtype, shape);
  if (expected !== tensor.bytes.length) {
    fail(`${dtype}${formatShape(shape)} needs ${expected ?? 'too many'} bytes, the tensor has ${tensor.bytes.length}`);
  }
  if (shape.length > MAX_RANK) fail(`${shape.length} axes, more than the ${MAX_RANK} of the format`);
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const order = sizeOf(dtype) === 1 ? '|' : '<';
  const dict = `{'descr': '${order}${code}', 'fortran_order': False, 'shape': ${tuple}, }`;
  // The data begins at a multiple of 64 after a newline; numpy leaves room for axis 0 to grow to 21 digits.
  const growth = shape.length > 0 ? 21 - String(shape[0]).length : 0;
  const start = (Math.floor((10 + dict.length + growth + 1) / 64) + 1) * 64;
  const result = new Uint8Array(start + tensor.bytes.length).fill(0x20, 10, start);
  result.set([...MAGIC, 1, 0]);
  new DataView(result.buffer).setUint16(8, start - 10, true);
  new TextEncoder().encodeInto(dict, result.subarray(10));
  result[start - 1] = 0x0a;
  result.set(tensor.bytes, start);
  return result;
}

interface Header {
  readonly descr: string;
  readonly fortran: boolean;
  readonly shape: readonly number[];
}

/** The header is a Python dict literal with exactly three keys, in any order. */
function readHeader(bytes: Uint8Array, fail: Fail): Header {
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte))
    .join('')
    .trim();
  const bad = (): never => fail(`the header is not {'descr': …, 'fortran_order': …, 'shape': …} but ${quote(text)}`);
  let rest = text.startsWith('{') ? text.slice(1).trimStart() : bad();
  const take = (pattern: RegExp): RegExpExecArray => {
    const match = pattern.exec(rest) ?? bad();
    rest = rest.slice(match[0].length);
    return match;
  };
  const seen = new Set<string>();
  let descr = '';
  let fortran = false;
  let shape: readonly number[] = [];
  while (!rest.startsWith('}')) {
    const key = take(/^(['"])(descr|fortran_order|shape)\1\s*:\s*/)[2]!;
    if (seen.has(key)) fail(`the header has two '${key}'`);
    seen.add(key);
    if (key === 'descr') {
      if (rest.startsWith('[')) fail('structured types are not supported', { help: 'save each field by itself' });
      descr = take(/^(['"])([<>|=]?[A-Za-z?][\w[\]]*)\1/)[2]!;
    } else if (key === 'fortran_order') fortran = take(/^(True|False)/)[1] === 'True';
    else shape = readShape(take(/^\(([\d,\s]*)\)/)[1]!, bad, fail);
    take(/^\s*(?:,\s*|(?=\}))/);
  }
  if (rest !== '}' || seen.size !== 3) bad();
  return { descr, fortran, shape };
}

function readShape(text: string, bad: () => never, fail: Fail): readonly number[] {
  if (text.trim() === '') return [];
  const items = text.split(',').map((item) => item.trim());
  // (3) is a number in Python, not a tuple; a tuple of one needs its comma.
  if (items.length === 1) bad();
  if (items.at(-1) === '') items.pop();
  if (items.length > MAX_RANK) fail(`${items.length} axes, more than the ${MAX_RANK} of the format`);
  return items.map((item) => {
    if (!/^\d+$/.test(item)) bad();
    const size = Number.parseInt(item, 10);
    return Number.isSafeInteger(size) ? size : fail(`the size ${item.slice(0, 40)} overflows`);
  });
}

function readDtype(descr: string, fail: Fail): Scalar {
  const order = /^[<>|=]/.test(descr) ? descr[0] : '|';
  const code = descr === '?' ? 'b1' : descr.replace(/^[<>|=]/, '');
  const dtype = CODES.find(([name]) => name === code)?.[1];
  if (dtype === undefined) {
    const what = code.startsWith('O') ? 'Python objects' : `type ${quote(descr)}`;
    return fail(`holds ${what}; known types are ${CODES.map(([name]) => name).join(' ')}`);
  }
  if (sizeOf(dtype) > 1 && order !== '<' && order !== '=') {
    fail(`type ${quote(descr)} is not little-endian`, { help: "save array.astype(array.dtype.newbyteorder('<'))" });
  }
  return dtype;
}
