import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { encodeSafetensors, parseSafetensors } from '../frontends/weights/safetensors.ts';
import { readSafetensors, readSharded, readWeights, writeSafetensors } from '../frontends/weights/sharded.ts';
import { checkWeights, firstNaN, toFloat32 } from '../frontends/weights/store.ts';
import { CompileError, type DiagnosticCode } from '../ir/diagnostic.ts';
import { roundTo, SCALARS, type Scalar, sizeOf } from '../ir/dtype.ts';
import type { WeightStore, WeightTensor } from '../ir/weights.ts';
import { counting, damaged, f32, refusal, survives, temporaryFolder } from './weights-kit.ts';

type Tensors = readonly (readonly [string, WeightTensor])[];

/** A file from a header text as it stands and data; `claim` overrides the header length. */
function rawSafetensors(header: string | Uint8Array, data = 0, claim?: bigint): Uint8Array {
  const json = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + json.length + data);
  new DataView(bytes.buffer).setBigUint64(0, claim ?? BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

function memoryStore(tensors: Tensors, source = 'memory'): WeightStore {
  const map = new Map(tensors);
  return { source, names: () => [...map.keys()], get: (name) => map.get(name) };
}

const anyTensor = fc
  .tuple(fc.constantFrom(...SCALARS), fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }), fc.integer())
  .map(([dtype, shape, seed]): WeightTensor => {
    const length = shape.reduce((a, b) => a * b, sizeOf(dtype));
    return { dtype, shape, bytes: Uint8Array.from({ length }, (_, i) => (seed + i * 37) & 0xff) };
  });
const anyName = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.constantFrom('__proto__', 'constructor', '0', '', 'a"b\\c\n', 'blocks.0.attn.qkv.weight'),
);
const anyTensors = fc
  .uniqueArray(fc.tuple(anyName, anyTensor), { selector: ([name]) => name, maxLength: 8 })
  .filter((tensors) => tensors.every(([name]) => name !== '__metadata__'));

// ---------------------------------------------------------------------------------------------- safetensors

test('safetensors: writing then reading gives the same tensors, as views of the file', (t) => {
  fc.assert(
    fc.property(anyTensors, fc.dictionary(fc.string(), fc.string()), (tensors, metadata) => {
      const bytes = encodeSafetensors(tensors, Object.entries(metadata));
      const file = parseSafetensors(bytes, 'x');
      t.deepEqual([...file.names()].sort(), tensors.map(([name]) => name).sort());
      t.deepEqual(Object.fromEntries(file.metadata), metadata);
      for (const [name, tensor] of tensors) {
        const read = file.get(name);
        t.is(read?.bytes.buffer, bytes.buffer);
        t.deepEqual({ ...read, bytes: Array.from(read!.bytes) }, { ...tensor, bytes: Array.from(tensor.bytes) });
        t.is((read!.bytes.byteOffset - bytes.byteOffset) % sizeOf(tensor.dtype), 0);
      }
      t.is(file.get('no such tensor'), undefined);
    }),
  );
});

test('safetensors: the bytes do not depend on the order of the tensors', (t) => {
  fc.assert(
    fc.property(anyTensors, (tensors) => {
      t.deepEqual(encodeSafetensors(tensors), encodeSafetensors(tensors.toReversed()));
    }),
  );
});

test('safetensors: the format is the published one, byte for byte', (t) => {
  const header =
    '{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},' +
    '"a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}';
  const expected = rawSafetensors(header.padEnd(Math.ceil(header.length / 8) * 8), 11);
  expected.set([0, 0, 128, 63, 0, 0, 0, 64, 7, 8, 9], expected.length - 11);
  const tensors: Tensors = [
    ['a', { dtype: 'u8', shape: [3], bytes: Uint8Array.of(7, 8, 9) }],
    ['b', f32([1, 2], [1, 2])],
  ];
  t.deepEqual(encodeSafetensors(tensors, [['format', 'pt']]), expected);
});

for (const name of ['vit-hf', 'mae-hf', 'clip-hf', 'gpt2-hf']) {
  test(`safetensors: ${name}, written by the reference implementation, is written again to the same bytes`, (t) => {
    const path = join('tests', 'fixtures', 'references', name, 'model.safetensors');
    const file = readSafetensors(path);
    const tensors = file.names().map((tensor): [string, WeightTensor] => [tensor, file.get(tensor)!]);
    t.true(tensors.length > 20);
    t.is(Buffer.compare(encodeSafetensors(tensors, file.metadata), readFileSync(path)), 0);
  });
}

test('safetensors: a Buffer inside a larger pool is read as well as a plain array', (t) => {
  const bytes = encodeSafetensors([['w', f32([2], [1.5, -2])]]);
  const pool = Buffer.alloc(bytes.length + 13, 0xee);
  pool.set(bytes, 13);
  t.deepEqual([...toFloat32(parseSafetensors(pool.subarray(13), 'x').get('w')!)], [1.5, -2]);
});

const entry = (dtype: string, shape: string, offsets: string): string =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`;

const hostile: readonly (readonly [title: string, bytes: Uint8Array, message: RegExp])[] = [
  ['an empty file', new Uint8Array(0), /m\.safetensors: not a safetensors file: 0 bytes/],
  [
    'a header length of 2^64 - 1',
    rawSafetensors('{}', 0, 2n ** 64n - 1n),
    /claims a header of 18446744073709551615 bytes/,
  ],
  ['a header length above the limit', rawSafetensors('{}', 0, 100_000_001n), /more than the limit of 100000000/],
  ['a header longer than the file', rawSafetensors('{}', 0, 90_000_000n), /header is 90000000 bytes but only 2 follow/],
  ['a header that is not UTF-8', rawSafetensors(Uint8Array.of(0x7b, 0xff, 0x7d)), /not valid UTF-8/],
  ['a byte order mark', rawSafetensors('\ufeff{}'), /does not begin with "\{"/],
  ['a header that is an array', rawSafetensors('[]'), /does not begin with "\{"/],
  ['an unfinished header', rawSafetensors('{"a":'), /header: not valid JSON: expected a value \(line 1, column 6\)/],
  ['text after the header', rawSafetensors('{} {}'), /unexpected text after the value/],
  [
    'a duplicate name',
    rawSafetensors(`{"w":${entry('U8', '[1]', '[0,1]')},"w":${entry('U8', '[1]', '[0,1]')}}`, 1),
    /duplicate key "w"/,
  ],
  [
    'a name duplicated through an escape',
    rawSafetensors(`{"w":${entry('U8', '[0]', '[0,0]')},"\\u0077":1}`),
    /duplicate key "w"/,
  ],
  ['half of a surrogate pair', rawSafetensors('{"\\ud800":1}'), /half of a surrogate pair/],
  ['a bad escape', rawSafetensors('{"\\x":1}'), /an escape that JSON does not have/],
  ['deep nesting', rawSafetensors(`{"w":${'['.repeat(100_000)}`), /nesting deeper than 3/],
  [
    'a shape of too many axes',
    rawSafetensors(`{"w":${entry('U8', `[${'1,'.repeat(99)}1]`, '[0,1]')}}`, 1),
    /an array of more than 64 elements/,
  ],
  ['metadata that is no map', rawSafetensors('{"__metadata__":[]}'), /__metadata__ is not an object/],
  ['metadata with a number', rawSafetensors('{"__metadata__":{"a":1}}'), /__metadata__ "a" is not a string/],
  ['a tensor that is no object', rawSafetensors('{"__proto__":1}'), /tensor "__proto__": the header holds no object/],
  [
    'a field that the format lacks',
    rawSafetensors('{"w":{"dtype":"U8","shape":[],"strides":[]}}'),
    /unknown field "strides"/,
  ],
  [
    'an unknown dtype',
    rawSafetensors(`{"w":${entry('F33', '[1]', '[0,4]')}}`, 4),
    /tensor "w": unknown dtype "F33"; known are F64/,
  ],
  ['no dtype', rawSafetensors('{"w":{"shape":[],"data_offsets":[0,0]}}'), /tensor "w": dtype is missing/],
  [
    'a negative size',
    rawSafetensors(`{"w":${entry('U8', '[-1]', '[0,1]')}}`, 1),
    /shape is not a list of non-negative/,
  ],
  [
    'a fractional size',
    rawSafetensors(`{"w":${entry('U8', '[1.5]', '[0,1]')}}`, 1),
    /shape is not a list of non-negative/,
  ],
  [
    'sizes that overflow',
    rawSafetensors(`{"w":${entry('F32', '[4294967296,4294967296,0]', '[0,0]')}}`),
    /the sizes \[4294967296, 4294967296, 0\] overflow/,
  ],
  ['three offsets', rawSafetensors(`{"w":${entry('U8', '[1]', '[0,1,1]')}}`, 1), /data_offsets is not a pair/],
  [
    'offsets beyond 2^53',
    rawSafetensors(`{"w":${entry('U8', '[1]', '[0,9007199254740993]')}}`, 1),
    /not a pair of non-negative/,
  ],
  ['offsets beyond the data', rawSafetensors(`{"w":${entry('F32', '[2]', '[0,8]')}}`, 7), /leave the 7 bytes of data/],
  [
    'offsets that go backwards',
    rawSafetensors(`{"w":${entry('U8', '[1]', '[2,1]')}}`, 4),
    /\[2, 1\] leave the 4 bytes/,
  ],
  [
    'a length that is not the shape',
    rawSafetensors(`{"w":${entry('F16', '[3]', '[0,4]')}}`, 4),
    /tensor "w": F16 \[3\] needs 6 bytes, data_offsets \[0, 4\] hold 4/,
  ],
  [
    'an overlap',
    rawSafetensors(`{"a":${entry('U8', '[4]', '[0,4]')},"b":${entry('U8', '[4]', '[2,6]')}}`, 6),
    /tensors "a" and "b" overlap: bytes 2 to 4/,
  ],
  [
    'a hole',
    rawSafetensors(`{"a":${entry('U8', '[1]', '[0,1]')},"b":${entry('U8', '[1]', '[2,3]')}}`, 3),
    /bytes 1 to 2, before tensor "b", belong to no tensor/,
  ],
  [
    'bytes after the last tensor',
    rawSafetensors(`{"a":${entry('U8', '[1]', '[0,1]')}}`, 3),
    /bytes 1 to 3, after the last tensor/,
  ],
];

for (const [title, bytes, message] of hostile) {
  test(`safetensors: ${title} is refused`, (t) => {
    t.regex(
      refusal(t, () => parseSafetensors(bytes, 'm.safetensors'), 'weights'),
      message,
    );
  });
}

test('safetensors: a float8 file opens, and the tensor is refused by name', (t) => {
  const header = `{"ok":${entry('U8', '[1]', '[3,4]')},"scaled":${entry('F8_E4M3', '[3]', '[0,3]')}}`;
  const file = parseSafetensors(rawSafetensors(header, 4), 'm.safetensors');
  t.is(file.get('ok')?.dtype, 'u8');
  t.regex(
    refusal(t, () => file.get('scaled')),
    /m\.safetensors: tensor "scaled" is F8_E4M3/,
  );
});

test('safetensors: what cannot be written is refused', (t) => {
  const w = f32([1], [1]);
  t.regex(
    refusal(t, () =>
      encodeSafetensors([
        ['w', w],
        ['w', w],
      ]),
    ),
    /two tensors are called "w"/,
  );
  t.regex(
    refusal(t, () => encodeSafetensors([['__metadata__', w]])),
    /rename the tensor/,
  );
  t.regex(
    refusal(t, () => encodeSafetensors([['\ud800', w]])),
    /half of a surrogate pair/,
  );
  t.regex(
    refusal(t, () => encodeSafetensors([['w', { ...w, shape: [2] }]])),
    /f32\[2\] needs 8 bytes, it has 4/,
  );
});

const sample = encodeSafetensors(
  [
    ['blocks.0.attn.qkv.weight', counting([6, 2])],
    ['blocks.0.attn.qkv.bias', counting([6])],
    ['position_ids', { dtype: 'i64', shape: [1, 2], bytes: new Uint8Array(16) }],
    ['mask', { dtype: 'bool', shape: [3], bytes: Uint8Array.of(1, 0, 1) }],
  ],
  [['format', 'pt']],
);

test('safetensors: a damaged file is read or refused, without a large allocation', (t) => {
  fc.assert(
    fc.property(damaged(sample), (bytes) => {
      survives(t, bytes, () => {
        const file = parseSafetensors(bytes, 'x');
        for (const name of file.names()) {
          const tensor = file.get(name)!;
          if (tensor.bytes.buffer !== bytes.buffer) t.fail('a tensor was copied');
        }
      });
    }),
    { numRuns: 3000 },
  );
  t.pass();
});

test('safetensors: a small file that claims a large one allocates nothing for it', (t) => {
  for (const [, bytes] of hostile) survives(t, bytes, () => parseSafetensors(bytes, 'x'));
  t.pass();
});

// ---------------------------------------------------------------------------------------------------- files

test('files: a write is atomic, replaces, and leaves no temporary file', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'model.safetensors');
  writeSafetensors(path, [['w', f32([1], [1])]]);
  writeSafetensors(path, [['w', f32([2], [3, 4])]]);
  t.deepEqual([...toFloat32(readSafetensors(path).get('w')!)], [3, 4]);
  t.throws(() => writeSafetensors(path, [['w', f32([3], [3, 4])]]), { instanceOf: CompileError });
  mkdirSync(join(folder, 'taken'));
  refusal(t, () => writeSafetensors(join(folder, 'taken'), []), 'file');
  t.deepEqual(readdirSync(folder).sort(), ['model.safetensors', 'taken']);
  t.deepEqual([...toFloat32(readSafetensors(path).get('w')!)], [3, 4]);
});

test('files: a missing file, a folder and a truncated file are named', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'model.safetensors');
  t.regex(
    refusal(t, () => readSafetensors(path), 'file'),
    /model\.safetensors: cannot read it: there is no such file/,
  );
  t.regex(
    refusal(t, () => readSafetensors(folder), 'file'),
    /folder|regular file/,
  );
  writeFileSync(path, sample.subarray(0, sample.length - 5));
  t.regex(
    refusal(t, () => readWeights(folder), 'weights'),
    /model\.safetensors: tensor ".*leave the \d+ bytes/,
  );
});

test('files: a folder without safetensors says what it looked for, and what a pickle needs', (t) => {
  const folder = temporaryFolder(t);
  t.regex(
    refusal(t, () => readWeights(folder), 'file'),
    /holds neither model\.safetensors nor model\.safetensors\.index\.json/,
  );
  writeFileSync(join(folder, 'pytorch_model.bin'), '');
  t.regex(
    refusal(t, () => readWeights(folder), 'file'),
    /pytorch_model\.bin is a Python pickle/,
  );
});

/** A folder with two shards and an index; `map` overrides the index's weight_map. */
function shardedFolder(t: ExecutionContext, map: unknown = { a: '1.safetensors', b: '2.safetensors' }): string {
  const folder = temporaryFolder(t);
  writeSafetensors(join(folder, '1.safetensors'), [
    ['a', f32([1], [1])],
    ['stray', f32([1], [9])],
  ]);
  writeSafetensors(join(folder, '2.safetensors'), [['b', f32([1], [2])]]);
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: map }));
  return folder;
}

test('sharded: tensors come from the shards that the index names, and strays are reported', (t) => {
  const folder = shardedFolder(t);
  const store = readSharded(join(folder, 'model.safetensors.index.json'));
  t.deepEqual(store.names(), ['a', 'b']);
  t.deepEqual([...toFloat32(store.get('b')!)], [2]);
  t.is(store.origin('b').file, join(folder, '2.safetensors'));
  t.deepEqual(store.unlisted, ['stray']);
  t.is(store.get('stray'), undefined);
  t.deepEqual(readWeights(folder).names(), ['a', 'b']);
});

const badMaps: readonly (readonly [title: string, map: unknown, code: DiagnosticCode, message: RegExp])[] = [
  ['no map', undefined, 'weights', /"weight_map" is missing or not an object/],
  ['a map to a number', { a: 1 }, 'weights', /weight_map "a" is not a file name/],
  ['a parent folder', { a: '../1.safetensors' }, 'weights', /"\.\.\/1\.safetensors" does not stay inside the folder/],
  ['the folder itself', { a: '..' }, 'weights', /"\.\." does not stay inside/],
  ['an absolute path', { a: '/1.safetensors' }, 'weights', /does not stay inside/],
  ['a Windows path', { a: 'C:1.safetensors' }, 'weights', /does not stay inside/],
  ['a backslash', { a: '..\\1.safetensors' }, 'weights', /does not stay inside/],
  ['a NUL', { a: '1.safetensors\0' }, 'weights', /does not stay inside/],
  ['a missing shard', { a: '3.safetensors' }, 'file', /3\.safetensors: cannot read it: there is no such file/],
  [
    'tensors in the wrong shard',
    { a: '2.safetensors', b: '1.safetensors' },
    'weights',
    /2 listed tensors are not in their files\n {3}= "a" in 2\.safetensors\n {3}= "b" in 1\.safetensors/,
  ],
];

for (const [title, map, code, message] of badMaps) {
  test(`sharded: ${title} is refused`, (t) => {
    const folder = shardedFolder(t, map ?? null);
    t.regex(
      refusal(t, () => readWeights(folder), code),
      message,
    );
  });
}

test('sharded: a link out of the folder is refused, one inside it and a Hugging Face cache are followed', (t) => {
  const outside = temporaryFolder(t);
  writeSafetensors(join(outside, 'secret'), [['a', f32([1], [1])]]);
  const folder = shardedFolder(t, { a: 'link.safetensors' });
  symlinkSync(join(outside, 'secret'), join(folder, 'link.safetensors'));
  t.regex(
    refusal(t, () => readWeights(folder), 'weights'),
    /link\.safetensors: a link that leaves the folder/,
  );

  rmSync(join(folder, 'link.safetensors'));
  symlinkSync('1.safetensors', join(folder, 'link.safetensors'));
  t.deepEqual(readWeights(folder).names(), ['a']);

  const snapshot = join(outside, 'snapshots', 'rev');
  mkdirSync(snapshot, { recursive: true });
  mkdirSync(join(outside, 'blobs'));
  writeSafetensors(join(outside, 'blobs', '0123'), [['a', f32([1], [1])]]);
  symlinkSync(join('..', '..', 'blobs', '0123'), join(snapshot, 'model.safetensors'));
  t.deepEqual(readWeights(snapshot).names(), ['a']);
  rmSync(join(snapshot, 'model.safetensors'));
  symlinkSync(join('..', '..', 'secret'), join(snapshot, 'model.safetensors'));
  t.regex(
    refusal(t, () => readWeights(snapshot), 'weights'),
    /leaves the folder/,
  );
});

// ---------------------------------------------------------------------------------------------------- store

test('toFloat32: every f16 and bf16 pattern has its value', (t) => {
  const patterns = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
  const bytes = new Uint8Array(patterns.buffer);
  const half = toFloat32({ dtype: 'f16', shape: [0x10000], bytes });
  const brain = toFloat32({ dtype: 'bf16', shape: [0x10000], bytes });
  /** sign · 2^e · 1.m, from the definition. */
  const decode = (bits: number, mantissaBits: number, bias: number): number => {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits & 0x7fff) >> mantissaBits;
    const fraction = (bits & ((1 << mantissaBits) - 1)) / 2 ** mantissaBits;
    if (exponent === 2 * bias + 1) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
  };
  let wrong = 0;
  for (let i = 0; i < 0x10000; i++) {
    if (!Object.is(half[i], decode(i, 10, 15)) || !Object.is(brain[i], decode(i, 7, 127))) wrong++;
  }
  t.is(wrong, 0);
});

test('toFloat32: f64 rounds to nearest, unaligned bytes are read, integers are refused', (t) => {
  const values = [0.1, -1e-46, 1e39, 16777217, Number.NaN];
  const wide: WeightTensor = { dtype: 'f64', shape: [5], bytes: new Uint8Array(Float64Array.from(values).buffer) };
  t.deepEqual(
    [...toFloat32(wide)],
    values.map((value) => roundTo('f32', value)),
  );
  for (const [tensor, at] of [
    [wide, 3],
    [f32([3], [1, 2, 3]), 1],
  ] as const) {
    const shifted = Buffer.alloc(tensor.bytes.length + at);
    shifted.set(tensor.bytes, at);
    t.deepEqual(toFloat32({ ...tensor, bytes: shifted.subarray(at) }), toFloat32(tensor));
  }
  t.regex(
    refusal(t, () => toFloat32({ dtype: 'i32', shape: [1], bytes: new Uint8Array(4) }), 'dtype'),
    /i32 tensor/,
  );
});

test('firstNaN: finds the first of each float type, and infinity is no NaN', (t) => {
  const patterns: readonly (readonly [Scalar, number[], number[]])[] = [
    ['f32', [0, 0, 0x80, 0x7f], [1, 0, 0x80, 0xff]],
    ['f64', [0, 0, 0, 0, 0, 0, 0xf0, 0xff], [1, 0, 0, 0, 0, 0, 0xf0, 0x7f]],
    ['f16', [0, 0xfc], [1, 0x7c]],
    ['bf16', [0x80, 0x7f], [0x81, 0xff]],
  ];
  for (const [dtype, infinity, nan] of patterns) {
    t.is(firstNaN({ dtype, shape: [2], bytes: Uint8Array.from([...infinity, ...infinity]) }), -1, dtype);
    t.is(firstNaN({ dtype, shape: [3], bytes: Uint8Array.from([...infinity, ...nan, ...nan]) }), 1, dtype);
  }
  t.is(firstNaN({ dtype: 'i32', shape: [1], bytes: new Uint8Array(4).fill(255) }), -1);
});

test('checkWeights: one error lists everything that is wrong', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'w.safetensors');
  writeSafetensors(path, [
    ['good', { dtype: 'f16', shape: [2], bytes: new Uint8Array(4) }],
    ['turned', counting([3, 2])],
    ['ids', { dtype: 'i64', shape: [1], bytes: new Uint8Array(8) }],
    ['sick', f32([2, 2], [1, 2, Number.NaN, Number.NaN])],
    ['surplus', f32([1], [1])],
    ['buffer.position_ids', f32([1], [1])],
  ]);
  const expected = [
    { name: 'good', dtype: 'f32', shape: [2] },
    { name: 'turned', dtype: 'f32', shape: [2, 3] },
    { name: 'ids', dtype: 'i32', shape: [1] },
    { name: 'sick', dtype: 'f32', shape: [2, 2] },
    { name: 'absent', dtype: 'f32', shape: [4] },
  ] as const;
  const message = refusal(
    t,
    () => checkWeights(expected, readWeights(path), { allowExtra: [/position_ids$/] }),
    'weights',
  );
  t.is(
    message,
    [
      `error[weights]: ${path} does not fit the model: 1 missing, 1 extra, 3 with a wrong type, shape or value`,
      '   = missing    "absent" : f32[4]',
      `   = shape      "turned" is f32[3, 2], the model reads f32[2, 3]; it looks transposed, in ${path}`,
      `   = type       "ids" is i64[1], the model reads i32[1], in ${path}`,
      `   = NaN        "sick" at element 2 of f32[2, 2], in ${path}`,
      `   = extra      "surplus", in ${path}`,
    ].join('\n'),
  );
  const fitting = expected.filter(({ name }) => name === 'good' || name === 'sick');
  t.notThrows(() => checkWeights(fitting, readWeights(path), { allowExtra: [/./], nan: 'allow' }));
});

test('checkWeights: twenty lines at most, and a common prefix is pointed out', (t) => {
  const expected = Array.from({ length: 30 }, (_, i) => ({ name: `w${i}`, dtype: 'f32' as const, shape: [1] }));
  const store = memoryStore(expected.map(({ name }): [string, WeightTensor] => [`module.${name}`, f32([1], [1])]));
  const lines = refusal(t, () => checkWeights(expected, store)).split('\n');
  t.is(lines.length, 23);
  t.regex(lines[21]!, /… and 40 more/);
  t.regex(lines[22]!, /30 of the missing names are present after the prefix "module\."/);
});

test('checkWeights: a tensor that the file refuses is one of the problems', (t) => {
  const file = parseSafetensors(rawSafetensors(`{"w":${entry('F8_E5M2', '[1]', '[0,1]')}}`, 1), 'm');
  const message = refusal(t, () => checkWeights([{ name: 'w', dtype: 'f32', shape: [1] }], file));
  t.regex(message, /= refused {4}m: tensor "w" is F8_E5M2/);
});
