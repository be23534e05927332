/** Graphs that are deep or wide: nothing overflows a stack or a limit of WebAssembly, and results stay right. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import {
  add,
  concat,
  dim,
  f32,
  input,
  type ModelGraph,
  matmul,
  max,
  mean,
  model,
  mul,
  relu,
  reshape,
  slice,
  split,
  sum,
  type Tensor,
  tanh,
  transpose,
} from '../frontends/dsl/index.ts';
import { evaluate } from '../ir/evaluate.ts';
import { typeOf } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { open } from '../runtime/open.ts';

type Loose = Tensor<'f32'>;
const NO_WEIGHTS = { source: 'no weights', names: () => [], get: () => undefined };
/** Sixteenths, so that sums are exact in any order. */
const ramp = (shape: readonly number[]): Nd => {
  const count = shape.reduce((a, b) => a * b, 1);
  return nd(
    'f32',
    shape,
    Float64Array.from({ length: count }, (_, i) => ((i * 7) % 23) / 16 - 0.75),
  );
};
const many = (count: number, shape: readonly number[]) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`x${i}`, input(f32, shape)]));

const repeat = (times: number, x: Loose, step: (y: Loose, n: number) => Loose): Loose => {
  let y = x;
  for (let n = 0; n < times; n++) y = step(y, n);
  return y;
};

const MODELS: Readonly<Record<string, () => ModelGraph>> = {
  'a chain of 3,000 elementwise ops': () =>
    model('chain', { x: input(f32, [3]) }, ({ x }) => ({
      y: repeat(
        3000,
        x,
        (y, n) => (n % 3 === 0 ? mul(y, 0.99) : n % 3 === 1 ? (add(y, x) as Loose) : tanh(y)) as Loose,
      ),
    })),
  'a chain of 2,000 views': () =>
    model('views', { x: input(f32, [2, 3]) }, ({ x }) => ({
      y: add(
        repeat(2000, x, (y, n) => (n % 2 ? transpose(y, [1, 0]) : reshape(y, [2, 3])) as Loose),
        1,
      ),
    })),
  'elementwise ops after a product': () =>
    model('epilogue', { x: input(f32, [3, 3]) }, ({ x }) => ({
      y: repeat(300, matmul(x, x) as Loose, (y, n) => (n % 2 ? tanh(y) : mul(y, 1.5)) as Loose),
    })),
  'a sum of 1,200 inputs': () =>
    model('sum', many(1200, [3]), (xs) => ({ y: (Object.values(xs) as Loose[]).reduce((a, b) => add(a, b) as Loose) })),
  'a balanced sum of 1,024 inputs': () =>
    model('tree', many(1024, [3]), (xs) => {
      let level = Object.values(xs) as Loose[];
      while (level.length > 1)
        level = level.filter((_, i) => i % 2 === 0).map((a, i) => add(a, level[2 * i + 1]!) as Loose);
      return { y: level[0]! };
    }),
  'a concatenation of 1,200 inputs': () =>
    model('concat', many(1200, [2, 3]), (xs) => ({ y: relu(concat(Object.values(xs), 1) as Loose) })),
  'a split into 600 pieces': () =>
    model('split', { x: input(f32, [600, 3]) }, ({ x }) =>
      Object.fromEntries(split(x, 0, 600).map((piece, i) => [`y${i}`, mul(piece as Loose, i)])),
    ),
  'a sum of 1,200 slices': () =>
    model('slices', { x: input(f32, [1200, 3]) }, ({ x }) => ({
      y: Array.from({ length: 1200 }, (_, i) => slice(x, 0, { start: i, stop: i + 1 }) as Loose).reduce(
        (a, b) => add(a, b) as Loose,
      ),
    })),
};

for (const [title, make] of Object.entries(MODELS))
  test(title, async (t) => {
    const { entries, ...rest } = make();
    const { main } = entries as { readonly main: NonNullable<(typeof entries)[string]> };
    const session = await open(compile({ entries, ...rest }, { weights: NO_WEIGHTS }));
    t.teardown(() => session.dispose());
    const values = Object.fromEntries(
      main.inputs.map((v) => [String(v.attrs.name), ramp(typeOf(v).shape as readonly number[])]),
    );
    const got = await session.run(
      Object.fromEntries(
        Object.entries(values).map(([name, { data, shape }]) => [name, { data: Float32Array.from(data), shape }]),
      ),
    );
    for (const [name, want] of Object.entries(evaluate(main, { inputs: values }))) {
      const worst = want.data.reduce((most, x, i) => Math.max(most, Math.abs(x - Number(got[name]!.data[i]))), 0);
      const size = want.data.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
      t.deepEqual(got[name]!.shape, want.shape);
      t.true(worst <= 2e-6 * size, `${name} is off by ${worst}`);
    }
  });

test('a sum of two million numbers keeps its small terms', async (t) => {
  const n = dim('n', { max: 1 << 21 });
  const session = await open(
    compile(
      model('long', { x: input(f32, [n]) }, ({ x }) => ({ sum: sum(x), mean: mean(x), largest: max(x) })),
      { weights: NO_WEIGHTS },
    ),
  );
  t.teardown(() => session.dispose());
  for (const count of [1 << 21, 4096, 4097, 12_345, 1]) {
    const outputs = await session.run({ x: new Float32Array(count).fill(0.1) });
    const tenth = Math.fround(0.1);
    const off = (got: unknown, want: number): number => Math.abs(Number(got) / want - 1);
    t.true(off(outputs.sum!.data[0], tenth * count) < 2e-5, `sum of ${count}: ${outputs.sum!.data[0]}`);
    t.true(off(outputs.mean!.data[0], tenth) < 2e-5, `mean of ${count}: ${outputs.mean!.data[0]}`);
    t.is(outputs.largest!.data[0], tenth);
  }
});
