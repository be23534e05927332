import test from 'ava';
import type { Input } from '../runtime/api.ts';
import { HeddleError, open } from '../runtime/index.ts';
import type { EntryPlan } from '../runtime/manifest.ts';
import { addEntry, buffers, handBundle, port, symbol } from './support/hand-bundle.ts';

const pair: Partial<EntryPlan> = {
  symbols: [symbol('b', { max: 4 }), symbol('n', { min: 8, max: 64, multipleOf: 8, default: 8 })],
  inputs: [port('ids', 0, ['b', 'n'], { dtype: 'i64' }), port('mask', 1, ['b', ['+', 'n', 1]], { dtype: 'bool' })],
  outputs: [port('mask', 1, ['b', ['+', 'n', 1]], { dtype: 'bool' })],
  buffers: buffers(4 * 64 * 8, 4 * 65),
};
const square: Partial<EntryPlan> = {
  symbols: [symbol('n')],
  inputs: [port('x', 0, ['n', 'n'])],
  outputs: [port('x', 0, ['n', 'n'])],
  buffers: buffers(['*', ['*', 'n', 'n'], 4]),
};
const types = ['f64', 'f16', 'bf16', 'i32', 'i16', 'i8', 'u64', 'u32', 'u16', 'u8'] as const;
const typed: Partial<EntryPlan> = {
  inputs: types.map((dtype, i) => port(dtype, i, [2], { dtype })),
  outputs: types.map((dtype, i) => port(dtype, i, [2], { dtype })),
  buffers: buffers(...types.map(() => 16)),
};
const bundle = handBundle({ entries: { add: addEntry, pair, square, typed } });
const f32 = (n: number): Float32Array => new Float32Array(n);
const ids = (n: number): BigInt64Array => new BigInt64Array(n);

const good = { ids: { data: ids(16), shape: [2, 8] }, mask: new Uint8Array(18) };
const refused: readonly (readonly [string, string, Readonly<Record<string, unknown>>, RegExp])[] = [
  ['a missing input', 'add', { x: f32(3) }, /input "y" \(f32\[n\]\) is missing. The inputs are: x, y/],
  ['an input that is undefined', 'add', { x: f32(3), y: undefined }, /input "y" .* is missing/],
  ['an unknown input', 'add', { x: f32(3), y: f32(3), q: f32(3) }, /no input "q". The inputs are: x, y/],
  ['inherited names', 'add', Object.create({ x: f32(3), y: f32(3) }), /is missing/],
  ['another class', 'add', { x: new Float64Array(3), y: f32(3) }, /"x" .* was given Float64Array. Pass a Float32Array/],
  ['a plain buffer', 'add', { x: new ArrayBuffer(12), y: f32(3) }, /was given ArrayBuffer/],
  ['a string', 'add', { x: 'abc', y: f32(3) }, /was given abc/],
  ['an object without data', 'add', { x: { shape: [3] }, y: f32(3) }, /an object with shape/],
  [
    'sizes that disagree',
    'add',
    { x: f32(3), y: f32(4) },
    /"y" .* was given 4 elements but has shape \[3\] where n = 3/,
  ],
  [
    'shapes that disagree',
    'add',
    { x: f32(3), y: { data: f32(4), shape: [4] } },
    /shape \[3\] but has shape|shape \[4\] but has/,
  ],
  ['a size above the range', 'add', { x: f32(1001), y: f32(1001) }, /size "n" is 1001 .* takes 1 … 1000/],
  ['a size below the range', 'add', { x: f32(0), y: f32(0) }, /size "n" is 0/],
  ['a rank', 'add', { x: { data: f32(3), shape: [1, 3] }, y: f32(3) }, /shape \[1, 3\]. Pass 1 dimensions/],
  [
    'a shape that is not the length',
    'add',
    { x: { data: f32(3), shape: [4] }, y: f32(4) },
    /shape \[4\] with 3 elements/,
  ],
  ['a shape that is no list', 'add', { x: { data: f32(3), shape: 7 }, y: f32(3) }, /given shape \[\]. Pass 1 dim/],
  ['nested lists', 'add', { x: [[1, 2, 3]], y: f32(3) }, /has 1,2,3 at \[0\]/],
  ['a negative size', 'add', { x: { data: f32(3), shape: [-3] }, y: f32(3) }, /Sizes are integers/],
  ['a symbolic text', 'add', { x: ['1'], y: f32(1) }, /has 1 at \[0\]/],
  [
    'a size off its multiple',
    'pair',
    { ...good, ids: { data: ids(18), shape: [2, 9] }, mask: new Uint8Array(20) },
    /"n" is 9 .* multiples of 8/,
  ],
  ['a batch beyond the range', 'pair', { ids: { data: ids(40), shape: [5, 8] }, mask: new Uint8Array(45) }, /"b" is 5/],
  [
    'a length that no size explains',
    'pair',
    { ...good, mask: new Uint8Array(19) },
    /19 elements but has shape \[2, 9\]/,
  ],
  ['a bool that is 2', 'pair', { ...good, mask: new Uint8Array(18).fill(2, 5) }, /has 2 at \[5\]. A bool is 0 or 1/],
  ['an index that is no integer', 'pair', { ...good, ids: { data: [0.5], shape: [1, 1] } }, /has 0.5 at \[0\]/],
  ['two open sizes', 'pair', { ids: ids(16), mask: new Uint8Array(18) }, /leaves b open. Pass \{ data, shape \}/],
  ['an open square', 'square', { x: f32(9) }, /leaves n open/],
  ['no inputs', 'add', null as never, /inputs are null/],
];

for (const [what, entry, inputs, message] of refused) {
  test(`${what} is refused`, async (t) => {
    const session = await open(bundle);
    const error = await t.throwsAsync(session.run(inputs as Record<string, Input>, { entry }), {
      instanceOf: HeddleError,
    });
    t.is(error?.code, 'input');
    t.regex(error?.message ?? '', message);
    session.dispose();
  });
}

test('sizes are solved from lengths, shapes and expressions', async (t) => {
  const session = await open(bundle);
  t.teardown(() => session.dispose());
  const fromIds = await session.run(good, { entry: 'pair' });
  t.deepEqual(fromIds.mask?.shape, [2, 9]);
  const fromMask = await session.run(
    { ids: ids(48), mask: { data: new Array<boolean>(51).fill(true), shape: [3, 17] } },
    { entry: 'pair' },
  );
  t.deepEqual(fromMask.mask?.shape, [3, 17]);
  t.deepEqual(fromMask.mask?.data, new Uint8Array(51).fill(1));
  const nine = await session.run({ x: { data: f32(9), shape: [3, 3] } }, { entry: 'square' });
  t.deepEqual(nine.x?.shape, [3, 3]);
});

test('every element type passes through unchanged', async (t) => {
  const session = await open(bundle);
  t.teardown(() => session.dispose());
  const inputs = {
    f64: Float64Array.of(1e-300, -2),
    f16: Uint16Array.of(0x3c00, 0xffff),
    bf16: Uint16Array.of(0x3f80, 1),
    i32: Int32Array.of(-1, 2 ** 31 - 1),
    i16: Int16Array.of(-32768, 5),
    i8: Int8Array.of(-128, 127),
    u64: BigUint64Array.of(2n ** 64n - 1n, 0n),
    u32: Uint32Array.of(2 ** 32 - 1, 0),
    u16: Uint16Array.of(65535, 0),
    u8: Uint8Array.of(255, 0),
  };
  const outputs = await session.run(inputs, { entry: 'typed' });
  for (const [name, data] of Object.entries(inputs)) t.deepEqual(outputs[name]?.data, data, name);

  const plain = { ...inputs, i8: [-128, 127], u8: new Uint8ClampedArray([255, 0]), u64: [2n ** 64n - 1n, 0] };
  const again = await session.run(plain as Record<string, Input>, { entry: 'typed' });
  for (const [name, data] of Object.entries(inputs)) t.deepEqual(again[name]?.data, data, name);

  for (const [name, data] of [
    ['i8', [128, 0]],
    ['u32', [-1, 0]],
    ['u64', [-1n, 0n]],
    ['f16', [1, 2]],
  ] as const) {
    await t.throwsAsync(session.run({ ...inputs, [name]: data }, { entry: 'typed' }), { code: 'input' }, name);
  }
});

test('a view into a larger buffer is copied from its own place', async (t) => {
  const session = await open(bundle);
  t.teardown(() => session.dispose());
  const all = Float32Array.from({ length: 10 }, (_, i) => i);
  const { z } = await session.run({ x: all.subarray(3, 6), y: all.subarray(7, 10) }, { entry: 'add' });
  t.deepEqual([...(z!.data as Float32Array)], [10, 12, 14]);
  t.not(z!.data.buffer, all.buffer);
});

test('an unknown entry is named together with those there are', async (t) => {
  const session = await open(bundle);
  t.teardown(() => session.dispose());
  await t.throwsAsync(session.run({}, { entry: 'nope' }), {
    message: /no entry "nope". The entries are: add, pair, square/,
  });
  await t.throwsAsync(session.run({}, { entry: 'toString' }), { code: 'option' });
});

test('an input whose buffer is transferred while its run waits is refused, and the session goes on', async (t) => {
  const session = await open(bundle);
  t.teardown(() => session.dispose());
  const given = { x: f32(3), y: f32(3) };
  const first = session.run({ x: f32(3), y: f32(3) }, { entry: 'add' });
  const second = session.run(given, { entry: 'add' });
  structuredClone(given.x.buffer, { transfer: [given.x.buffer] });
  await first;
  await t.throwsAsync(second, {
    instanceOf: HeddleError,
    message: /"x" .* changed while it waited. Leave/,
  });
  await t.notThrowsAsync(session.run({ x: f32(2), y: f32(2) }, { entry: 'add' }));
});

for (const source of [undefined, null, 5, {}])
  test(`open refuses ${JSON.stringify(source) ?? 'undefined'}`, async (t) => {
    await t.throwsAsync(open(source as never), { instanceOf: HeddleError, message: /cannot read .*: no bundle/ });
  });
