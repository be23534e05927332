/** Sizes at which an op of the model would read outside its operand are refused, when compiling or when running. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { possibleSizes } from '../compiler/possible.ts';
import {
  add,
  concat,
  dim,
  entry,
  expr,
  f32,
  input,
  type ModelGraph,
  maxPool,
  model,
  type Named,
  param,
  program,
  relu,
  reshape,
  scan,
  slice,
  split,
  type Tensor,
  take,
  topK,
} from '../frontends/dsl/index.ts';
import type { WeightStore, WeightTensor } from '../ir/weights.ts';
import { open } from '../runtime/open.ts';

const table: WeightTensor = {
  dtype: 'f32',
  shape: [4, 2],
  bytes: new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8).buffer),
};
const store = (tensor = table): WeightStore => ({ source: 'a table', names: () => ['w'], get: () => tensor });

type X = Tensor<'f32'>;
const of = (body: (x: X, n: Named<'n'>) => Tensor, bounds = {}): ModelGraph => {
  const n = dim('n', { max: 12, ...bounds });
  return model('sizes', { x: input(f32, [2, n]) }, ({ x }) => ({ y: body(x as X, n) }));
};

const cases: readonly (readonly [string, ModelGraph, { readonly min: number; readonly max: number } | undefined])[] = [
  ['a slice from the start', of((x) => slice(x, 1, { stop: 3 })), { min: 3, max: 12 }],
  ['a slice from the end', of((x) => slice(x, 1, { start: -4 })), { min: 4, max: 12 }],
  ['a position', of((x) => take(x, 1, 6)), { min: 7, max: 12 }],
  ['the largest elements', of((x) => topK(x, 5).values), { min: 5, max: 12 }],
  ['rows of a table', of((_, n) => slice(param('w', [4, 2]), 0, { stop: n })), { min: 1, max: 4 }],
  ['the rest of a split', of((x, n) => split(x, 1, [3, expr.sub(n, 3)])[1]!), { min: 3, max: 12 }],
  [
    'a window',
    of((x, n) => maxPool(reshape(x, [1, 1, 2, n]), { kernel: [1, 4], strides: [1, 1] })),
    { min: 3, max: 12 },
  ],
  [
    'sizes of a range in steps',
    of((x) => slice(x, 1, { stop: 5 }), { min: 0, multipleOf: 4, default: 4 }),
    { min: 8, max: 12 },
  ],
  ['a range that suits', of((x) => slice(x, 1, { stop: 3 }), { min: 3, default: 3 }), undefined],
  ['the whole axis', of((x, n) => slice(x, 1, { stop: n })), undefined],
  [
    'a slice inside a loop',
    of(
      (x) =>
        scan({ h: slice(x, 1, { stop: 2 }) }, { x }, ({ h, x }) => ({
          states: { h: add(h, slice(x, 0, { stop: 2 })) as never },
        })).states.h,
    ),
    { min: 2, max: 12 },
  ],
];
for (const [title, { entries }, want] of cases)
  test(`${title} narrows the range to what it can read`, (t) => {
    t.deepEqual(possibleSizes(entries.main!), want ? { n: want } : {});
  });

test('a bundle refuses the sizes that its ops cannot run at', async (t) => {
  const session = await open(
    compile(
      of((x) => slice(x, 1, { stop: 3 })),
      { weights: store() },
    ),
  );
  t.teardown(() => session.dispose());
  t.like(session.entries.main!.symbols[0], { name: 'n', min: 3, max: 12, default: 3 });
  await t.throwsAsync(session.run({ x: new Float32Array(4) }), { message: /"n" is 2 .* takes 3 … 12/ });
  const { y } = await session.run({ x: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8) });
  t.deepEqual([...(y!.data as Float32Array)], [1, 2, 3, 5, 6, 7]);
});

test('each entry has the range that it needs', async (t) => {
  const n = dim('n', { max: 12 });
  const x = input(f32, [n]);
  const two = program('two', {
    any: entry({ x }, ({ x }) => ({ y: relu(x) })),
    long: entry({ x }, ({ x }) => ({ y: slice(x as X, 0, { stop: 3 }) })),
  });
  const session = await open(compile(two, { weights: store() }));
  t.teardown(() => session.dispose());
  t.deepEqual((await session.run({ x: [1] }, { entry: 'any' })).y!.shape, [1]);
  await t.throwsAsync(session.run({ x: [1] }, { entry: 'long' }), { message: /takes 3 … 12/ });
});

test('a model that no size suits is refused when compiled', (t) => {
  const n = dim('n', { max: 12 });
  const both = model('both', { x: input(f32, [2, n]) }, ({ x }) => ({
    y: slice(x as X, 1, { stop: 9 }),
    z: slice(param('w', [4, 2]), 0, { stop: n }),
  }));
  t.throws(() => compile(both, { weights: store() }), { message: /error\[range\].*no size "n" of 9\.\.12 suits it/s });
});

test('one name for two sizes is refused', (t) => {
  const twice = model(
    'twice',
    { x: input(f32, [dim('n', { max: 4 })]), y: input(f32, [dim('n', { max: 8 })]) },
    ({ x, y }) => ({ x: relu(x), y: relu(y) }),
  );
  const message = /error\[name\].*size "n" twice, as 1\.\.4, default 1 and as 1\.\.8, default 1/s;
  t.throws(() => compile(twice, { weights: store() }), { message });
});

test('options and weights that make no sense are refused by name', (t) => {
  const rows = of((_, n) => slice(param('w', [4, 2]), 0, { stop: n }));
  t.throws(() => compile(rows, { weights: store(), storage: 'f8' as 'f16' }), { message: /storage "f8" is not known/ });
  for (const bound of ['3', null])
    t.throws(() => compile(rows, { weights: store(), symbols: { n: bound as never } }), { message: /"n" cannot be/ });
  for (const bytes of [24, 40])
    t.throws(() => compile(rows, { weights: store({ ...table, bytes: new Uint8Array(bytes) }) }), {
      message: new RegExp(`tensor "w" has ${bytes} bytes, 32 for its type and shape`),
    });
});

test('what a model cannot read or return is said at its line', (t) => {
  let leaked: X | undefined;
  model('one', { x: input(f32, [2]) }, ({ x }) => {
    leaked = x as X;
    return { x };
  });
  const other = (): ModelGraph => model('two', { y: input(f32, [2]) }, ({ y }) => ({ z: add(y as X, leaked!) }));
  t.throws(other, { message: /model "two" reads "x", which is not one of its inputs/ });
  const inside = (): ModelGraph =>
    model('three', { x: input(f32, [2, 2]) }, ({ x }) => {
      scan({ h: take(x, 0, 0) as X }, { x }, ({ h, x }) => {
        leaked = x as X;
        return { states: { h } };
      });
      return { y: relu(leaked!) };
    });
  t.throws(inside, { message: /model "three" reads "x", which is not one of its inputs/ });
  t.throws(() => model('four', { x: input(f32, [2]) }, () => undefined as never), { message: /returns no output/ });
  t.throws(() => model('five', { x: input(f32, [-2]) }, ({ x }) => ({ x })), { message: /input "x" has size -2/ });
});

test('concatenations of a symbolic axis agree, however they are nested', async (t) => {
  const n = dim('n', { max: 12 });
  const nested = model('nested', { x: input(f32, [n]), y: input(f32, [n]) }, ({ x, y }) => {
    const all = concat([concat([x, y], 0), concat([x, y, x], 0)], 0) as X;
    return { all, sum: add(all, concat([concat([y, x, y, x] as X[], 0), y as X], 0) as X) };
  });
  const session = await open(compile(nested, { weights: store() }));
  t.teardown(() => session.dispose());
  const { all, sum } = await session.run({ x: [1, 2], y: [30, 40] });
  t.deepEqual([...(all!.data as Float32Array)], [1, 2, 30, 40, 1, 2, 30, 40, 1, 2]);
  t.deepEqual([...(sum!.data as Float32Array)], [31, 42, 31, 42, 31, 42, 31, 42, 31, 42]);
});
