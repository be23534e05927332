import test from 'ava';
import fc from 'fast-check';
import { encodeNpy, parseNpy } from '../frontends/npy.ts';
import { SCALARS, sizeOf } from '../ir/dtype.ts';
import type { WeightTensor } from '../ir/weights.ts';
import { counting, damaged, f32, refusal, survives } from './weights-kit.ts';

const anyTensor = fc
  .tuple(
    fc.constantFrom(...SCALARS.filter((dtype) => dtype !== 'bf16')),
    fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 5 }),
    fc.integer(),
  )
  .map(([dtype, shape, seed]): WeightTensor => {
    const length = shape.reduce((a, b) => a * b, sizeOf(dtype));
    return { dtype, shape, bytes: Uint8Array.from({ length }, (_, i) => (seed + i * 37) & 0xff) };
  });

/** A file of this version around a header as it stands. */
function rawNpy(header: string, data = 0, version = [1, 0]): Uint8Array {
  const prefix = version[0] === 1 ? 10 : 12;
  const bytes = new Uint8Array(prefix + header.length + data);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, ...version, header.length & 0xff, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), prefix);
  return bytes;
}

const dict = (descr: string, shape: string, fortran = 'False'): string =>
  `{'descr': ${descr}, 'fortran_order': ${fortran}, 'shape': ${shape}, }\n`;

test('npy: writing then reading gives the same tensor, as a view of the file', (t) => {
  fc.assert(
    fc.property(anyTensor, (tensor) => {
      const bytes = encodeNpy(tensor);
      const read = parseNpy(bytes, 'x.npy');
      t.is(read.bytes.buffer, bytes.buffer);
      t.is(read.bytes.byteOffset % 64, 0);
      t.deepEqual({ ...read, bytes: Array.from(read.bytes) }, { ...tensor, bytes: Array.from(tensor.bytes) });
    }),
  );
});

test('npy: the bytes are those of numpy.save', (t) => {
  // numpy.save of numpy.arange(6, dtype='float32').reshape(2, 3) and of numpy.array(True), numpy 2.4.
  const matrix = `${dict("'<f4'", '(2, 3)').trimEnd()}${' '.repeat(58)}\n`;
  t.deepEqual(encodeNpy(counting([2, 3])), rawNpyOf(matrix, counting([2, 3]).bytes));
  const scalar = `${dict("'|b1'", '()').trimEnd()}${' '.repeat(62)}\n`;
  const truth = Uint8Array.of(1);
  t.deepEqual(encodeNpy({ dtype: 'bool', shape: [], bytes: truth }), rawNpyOf(scalar, truth));
});

function rawNpyOf(header: string, data: Uint8Array): Uint8Array {
  const bytes = rawNpy(header, data.length);
  bytes.set(data, bytes.length - data.length);
  return bytes;
}

test('npy: formats 2 and 3, other key orders and one-column Fortran arrays are read', (t) => {
  const header = '{"shape": (3,1,), "fortran_order": True, "descr": "|u1"}';
  for (const version of [
    [1, 0],
    [2, 0],
    [3, 0],
  ]) {
    const read = parseNpy(rawNpy(header, 3, version), 'x.npy');
    t.deepEqual([read.dtype, read.shape, read.bytes.length], ['u8', [3, 1], 3]);
  }
});

const hostile: readonly (readonly [title: string, bytes: Uint8Array, message: RegExp])[] = [
  ['an empty file', new Uint8Array(0), /x\.npy: not a \.npy file/],
  ['another format', new TextEncoder().encode('PK\x03\x04 a zip archive'), /not a \.npy file/],
  ['version 4', rawNpy('{}', 0, [4, 0]), /\.npy format 4\.0/],
  ['a cut header', rawNpy(dict("'<f4'", '()')).subarray(0, 20), /the header is 56 bytes but only 10 follow/],
  ['a file of version 2 that ends in its length', rawNpy('', 0, [2, 0]).subarray(0, 11), /ends inside its header/],
  [
    'a header length of gigabytes',
    Uint8Array.of(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 2, 0, 255, 255, 255, 255),
    /4294967295/,
  ],
  ['a header that calls a function', rawNpy("__import__('os')"), /the header is not \{'descr'/],
  ['a missing key', rawNpy("{'descr': '<f4', 'shape': ()}"), /the header is not/],
  ['a repeated key', rawNpy("{'descr': '<f4', 'descr': '<f4'}"), /the header has two 'descr'/],
  ['an unknown key', rawNpy("{'__proto__': 1}"), /the header is not/],
  ['text after the dict', rawNpy(`${dict("'<f4'", '()').trim()} + 1`, 4), /the header is not/],
  ['a number for a shape', rawNpy(dict("'<f4'", '(3)'), 12), /the header is not/],
  ['a negative size', rawNpy(dict("'<f4'", '(-3,)'), 12), /the header is not/],
  ['a size of many digits', rawNpy(dict("'<f4'", `(${'9'.repeat(400)},)`)), /the size 9{40} overflows/],
  ['sizes that overflow', rawNpy(dict("'<f4'", '(4294967296, 4294967296, 0)')), /the sizes .* overflow/],
  ['a hundred axes', rawNpy(dict("'<f4'", `(${'1, '.repeat(100)})`), 4), /100 axes, more than the 64/],
  ['objects', rawNpy(dict("'|O'", '(1,)'), 8), /holds Python objects/],
  ['a structured type', rawNpy(dict("[('a', '<f4')]", '(1,)'), 4), /structured types are not supported/],
  ['complex numbers', rawNpy(dict("'<c8'", '(1,)'), 8), /holds type "<c8"; known types are f8 f4/],
  ['a big-endian type', rawNpy(dict("'>f4'", '(1,)'), 4), /type ">f4" is not little-endian/],
  ['Fortran order', rawNpy(dict("'<f4'", '(2, 3)', 'True'), 24), /the array \[2, 3\] is in Fortran order/],
  ['too little data', rawNpy(dict("'<f4'", '(2, 3)'), 23), /f32\[2, 3\] needs 24 bytes of data, the file has 23/],
  ['too much data', rawNpy(dict("'<f4'", '(2, 3)'), 25), /f32\[2, 3\] needs 24 bytes of data, the file has 25/],
];

for (const [title, bytes, message] of hostile) {
  test(`npy: refused: ${title}`, (t) => {
    t.regex(
      refusal(t, () => parseNpy(bytes, 'x.npy'), 'file'),
      message,
    );
  });
}

test('npy: bf16, which numpy lacks, and wrong lengths are not written', (t) => {
  const brain: WeightTensor = { dtype: 'bf16', shape: [1], bytes: new Uint8Array(2) };
  t.regex(
    refusal(t, () => encodeNpy(brain)),
    /numpy has no bf16\n {3}help: convert the tensor to f32/,
  );
  t.regex(
    refusal(t, () => encodeNpy({ ...f32([1], [1]), shape: [2] })),
    /f32\[2\] needs 8 bytes, the tensor has 4/,
  );
});

test('npy: a damaged file is read or refused, without a large allocation', (t) => {
  fc.assert(
    fc.property(damaged(encodeNpy(counting([3, 5]))), (bytes) => survives(t, bytes, () => parseNpy(bytes, 'x.npy'))),
    { numRuns: 3000 },
  );
  t.pass();
});
