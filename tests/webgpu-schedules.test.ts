import test from 'ava';
import { type GpuTarget, WEBGPU } from '../compiler/gpu-target.ts';
import type { Expr } from '../ir/expr.ts';
import { type Attrs, graph, type Value } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { makeValue, opNamed } from '../ir/op.ts';
import { coords } from '../ir/ops/attention.ts';
import { seeded } from '../ir/ops/example.ts';
import { input, param, projectAll } from '../ir/ops/structural.ts';
import { add, and, cast, gt, le, lt, mul, operand, sub, symbol } from '../ir/scalar.ts';
import { type Dim, dim } from '../ir/type.ts';
import type { WeightStore } from '../ir/weights.ts';
import { checkOnGpu, SHARED, type Tolerance } from './support/gpu-check.ts';
import '../ir/ops/all.ts';

const given = (name: string, ...shape: readonly Dim[]): Value => input([], { name, dtype: 'f32', shape }, { name });
const op = (name: string, inputs: readonly Value[], attrs: Attrs = {}): Value =>
  makeValue(opNamed(name)!, inputs, attrs, { name });

function random(shape: readonly number[], seed: number): Nd {
  const next = seeded(seed);
  return nd(
    'f32',
    shape,
    Float64Array.from({ length: countOf(shape) }, () => Math.fround(next() * 4 - 2)),
  );
}

const storeOf = (tensors: Readonly<Record<string, Nd>>): WeightStore => ({
  source: 'test',
  names: () => Object.keys(tensors),
  get: (name) => {
    const tensor = tensors[name];
    if (!tensor) return undefined;
    const bytes = new Uint8Array(Float32Array.from(tensor.data).buffer);
    return { dtype: tensor.dtype, shape: tensor.shape, bytes };
  },
});

/** Checks an op on operands of these sizes, with a symbol for each size that is a string, at all of its values. */
async function check(
  t: { readonly deepEqual: (a: unknown, b: unknown, message?: string) => unknown },
  name: string,
  shapes: readonly (readonly (number | string)[])[],
  attrs: Attrs = {},
  options: {
    readonly at?: Readonly<Record<string, readonly number[]>>;
    readonly after?: (v: Value, inputs: readonly Value[]) => Value;
    readonly tolerance?: Tolerance;
    readonly target?: GpuTarget;
  } = {},
): Promise<void> {
  const { at = {}, after = (v) => v, tolerance, target } = options;
  const dims: Record<string, Dim> = {};
  for (const [key, values] of Object.entries(at)) dims[key] = dim(symbol(key, { max: Math.max(...values) }));
  const inputs = shapes.map((shape, i) => given(`x${i}`, ...shape.map((d) => (typeof d === 'string' ? dims[d]! : d))));
  const results = projectAll(op(name, inputs, attrs));
  const g = graph(
    'test',
    inputs,
    results.map((v, i) => [`out${i}`, i === 0 ? after(v, inputs) : v] as const),
  );
  const runs = Math.max(1, ...Object.values(at).map((v) => v.length));
  for (let run = 0; run < runs; run++) {
    const sizeOf = (d: number | string): number => (typeof d === 'number' ? d : at[d]![run % at[d]!.length]!);
    const values = Object.fromEntries(shapes.map((s, i) => [`x${i}`, random(s.map(sizeOf), 7 * i + run + 1)]));
    const { wrong } = await checkOnGpu(g, values, {
      ...(tolerance && { tolerance }),
      ...(target && { target }),
    });
    t.deepEqual(wrong, [], `${name} ${JSON.stringify(shapes)} run ${run}`);
  }
}

test('softmax of lines of any length', async (t) => {
  for (const width of [17, 20, 64, 100, 768, 2050]) await check(t, 'softmax', [[3, width]]);
  for (const width of [20, 33, 3000]) await check(t, 'log_softmax', [[2, width]]);
  await check(t, 'softmax', [[2, 'n']], {}, { at: { n: [1, 7, 40, 4096] } });
});

test('norms of lines of any length', async (t) => {
  for (const width of [17, 20, 64, 100, 768, 2050]) {
    await check(t, 'layer_norm', [[3, width], [width], [width]]);
    await check(t, 'rms_norm', [[2, width], [width]]);
  }
  await check(t, 'layer_norm', [['b', 5, 64], [64], [64]], {}, { at: { b: [1, 3] } });
});

test('reductions along and across lines', async (t) => {
  for (const shape of [
    [3, 40],
    [5, 7, 24],
    [70, 3, 9],
  ]) {
    for (const axes of [[0], [shape.length - 1], shape.map((_, i) => i)]) {
      await check(t, 'reduce_sum', [shape], { axes, keepdims: false });
      await check(t, 'reduce_max', [shape], { axes, keepdims: true });
    }
  }
  await check(t, 'reduce_mean', [['b', 130]], { axes: [1], keepdims: true }, { at: { b: [1, 66] } });
});

/** Sums of so many products of up to 4 round at the size of their partial sums. */
const SUMS: Tolerance = { relative: 1e-5, floor: 16 };

test('products of odd sizes, turned and batched', async (t) => {
  const sizes = [
    [1, 1, 1],
    [3, 5, 7],
    [33, 65, 17],
    [70, 16, 64],
    [66, 36, 66],
  ] as const;
  for (const target of [WEBGPU, SHARED]) {
    const options = { tolerance: SUMS, target };
    for (const [m, k, n] of sizes) {
      await check(
        t,
        'matmul',
        [
          [m, k],
          [k, n],
        ],
        {},
        options,
      );
      await check(
        t,
        'matmul',
        [
          [k, m],
          [n, k],
        ],
        { transposeA: true, transposeB: true },
        options,
      );
      await check(
        t,
        'matmul',
        [
          [2, m, k],
          [2, k, n],
        ],
        {},
        options,
      );
    }
    await check(
      t,
      'matmul',
      [
        [2, 'm', 20],
        [20, 24],
      ],
      {},
      { at: { m: [1, 5, 70] }, ...options },
    );
    await check(
      t,
      'matmul',
      [
        [9, 'k'],
        ['k', 'n'],
      ],
      {},
      { at: { k: [1, 6, 40], n: [3, 8, 33] }, ...options },
    );
  }
  // Larger than two tiles of the larger kind.
  await check(
    t,
    'matmul',
    [
      [130, 40],
      [40, 600],
    ],
    {},
    { tolerance: SUMS, target: { ...SHARED, workgroups: 2 } },
  );
});

test('products with panels: many rows, few rows, and either by the size of a run', async (t) => {
  for (const target of [WEBGPU, SHARED])
    for (const rows of [[1], [3], [40], [1, 4, 5, 40]])
      for (const [k, n] of [
        [7, 5],
        [36, 24],
        [64, 50],
      ] as const) {
        const m = rows.length === 1 ? rows[0]! : dim(symbol('m', { max: 40 }));
        const x = given('x', m, k);
        const w = param([], { name: 'w', dtype: 'f32', shape: [k, n] });
        const bias = given('b', n);
        const y = op('relu', [op('add', [op('matmul', [x, w]), bias])]);
        const g = graph('panels', [x, bias], [['y', y]]);
        const weights = random([k, n], 11);
        const store = storeOf({ w: weights });
        for (const run of rows) {
          const inputs = { x: random([run, k], run), b: random([n], 5) };
          const { wrong } = await checkOnGpu(g, inputs, { store, target, tolerance: SUMS });
          t.deepEqual(wrong, [], `${run} × ${k} × ${n}`);
        }
      }
});

test('attention over any number of queries and keys, with masks and biases of every kind', async (t) => {
  const { b, h, q, k } = coords;
  const masks: Readonly<Record<string, Expr | undefined>> = {
    none: undefined,
    causal: le(k, q),
    'never the first': lt(k, sub(q, 2)),
    'by operand': gt(operand(3, 'f32', [b, k]), -0.5),
    window: and(le(q, add(k, 9)), le(k, q)),
    'lengths by operand': and(lt(k, cast(mul(add(operand(3, 'f32', [b]), 1), 20), 'i32')), le(k, add(q, 3))),
  };
  const sizes = [
    { H: 2, G: 1, Q: 5, K: 7, D: 4, E: 6 },
    { H: 2, G: 2, Q: 37, K: 41, D: 20, E: 36 },
    { H: 1, G: 1, Q: 33, K: 70, D: 64, E: 64 },
    { H: 4, G: 2, Q: 1, K: 50, D: 32, E: 32 },
  ];
  for (const { H, G, Q, K, D, E } of sizes)
    for (const [name, mask] of Object.entries(masks))
      for (const emptyRow of mask && D === 4 ? ['zero', 'nan', 'uniform', 'unmasked'] : ['zero'])
        for (const target of D === 64 ? [SHARED] : [WEBGPU, SHARED]) {
          const shapes = [
            [2, H, Q, D],
            [2, G, K, D],
            [2, G, K, E],
            ...(name === 'by operand' ? [[2, K]] : name === 'lengths by operand' ? [[2]] : []),
          ];
          const attrs = { ...(mask && { mask }), emptyRow, lse: E === 6 || D === 64 };
          await check(t, 'attention', shapes, attrs, { tolerance: { relative: 2e-5, floor: 1 }, target });
        }
  const bias = mul(operand(3, 'f32', [h]), cast(sub(k, q), 'f32'));
  await check(t, 'attention', [[1, 2, 9, 8], [1, 2, 20, 8], [1, 2, 20, 8], [2]], { bias, softcap: 3, mask: le(k, q) });
  const at = { n: [1, 8, 33], m: [3, 40] };
  await check(
    t,
    'attention',
    [
      [1, 2, 'n', 16],
      [1, 2, 'm', 16],
      [1, 2, 'm', 16],
    ],
    {},
    { at },
  );
});
