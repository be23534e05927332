/** What a device bounds, and what kernels cost: bindings, the size of a binding, bytes moved for each operation. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { WEBGPU } from '../compiler/gpu-target.ts';
import type { Stage } from '../compiler/region.ts';
import { EVERY_DEVICE } from '../compiler/wgsl-access.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Expr, exprNodes } from '../ir/expr.ts';
import { type Attrs, type Graph, graph, typeOf, type Value } from '../ir/graph.ts';
import { type Stmt, stmtExprs } from '../ir/kernel.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { makeValue, opNamed } from '../ir/op.ts';
import { coords } from '../ir/ops/attention.ts';
import { seeded } from '../ir/ops/example.ts';
import { input, param } from '../ir/ops/structural.ts';
import { le } from '../ir/scalar.ts';
import type { WeightStore } from '../ir/weights.ts';
import { CLOSE, gpuDevice, gpuDifference, SHARED } from './support/gpu-check.ts';
import { compileForGpu, type GpuProgram } from './support/run-webgpu.ts';
import '../ir/ops/all.ts';

const given = (name: string, ...shape: readonly number[]): Value => input([], { name, dtype: 'f32', shape }, { name });
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
const inputsOf = (g: Graph): Record<string, Nd> =>
  Object.fromEntries(
    g.inputs.map((v, i) => [String(v.attrs.name), random(typeOf(v).shape as readonly number[], i + 1)]),
  );

const storeOf = (tensors: Readonly<Record<string, Nd>>): WeightStore => ({
  source: 'test',
  names: () => Object.keys(tensors),
  get: (name) =>
    tensors[name] && { ...tensors[name], bytes: new Uint8Array(Float32Array.from(tensors[name].data).buffer) },
});

async function agrees(
  g: Graph,
  program: GpuProgram,
  tensors: Readonly<Record<string, Nd>> = {},
): Promise<string | undefined> {
  const inputs = inputsOf(g);
  const want = evaluate(g, { inputs, params: (name) => tensors[name]! });
  const got = await program.device(await gpuDevice(), inputs);
  return Object.entries(want)
    .map(([name, x]) => gpuDifference(got[name], x, CLOSE))
    .find((wrong) => wrong !== undefined);
}

test('a kernel of more operands than a stage may bind takes the arena in one binding', async (t) => {
  const parts = Array.from({ length: 20 }, (_, i) => given(`x${i}`, 3 + i));
  const g = graph('many', parts, [['y', op('concat', parts, { axis: 0 })]]);
  const program = compileForGpu(g);
  t.deepEqual(
    program.shaders.kernels.map((k) => k.bindings.map((b) => Object.keys(b))),
    [[['arena']]],
  );
  t.is(await agrees(g, program), undefined);
});

test('weights too many to bind come in one binding too', async (t) => {
  const names = Array.from({ length: 12 }, (_, i) => `w${i}`);
  const tensors = Object.fromEntries(names.map((name, i) => [name, random([5], i + 40)]));
  const x = given('x', 4, 5);
  const sum = names.reduce(
    (v, name) => op('mul', [op('add', [v, param([], { name, dtype: 'f32', shape: [5] })]), x]),
    x as Value,
  );
  const g = graph('weights', [x], [['y', sum]]);
  const program = compileForGpu(g, { store: storeOf(tensors) });
  const kinds = program.shaders.kernels.flatMap((k) => k.bindings.map((b) => Object.keys(b)[0]));
  t.deepEqual([...new Set(kinds)].sort(), ['arena', 'weights']);
  t.is(await agrees(g, program, tensors), undefined);
});

test('a weight larger than a binding may be comes in pieces', async (t) => {
  const limits = { ...EVERY_DEVICE, bindingBytes: 1024 };
  const tensors = { table: random([100, 12], 3), w: random([24, 40], 4) };
  const [table, w] = [
    param([], { name: 'table', dtype: 'f32', shape: [100, 12] }),
    param([], { name: 'w', dtype: 'f32', shape: [24, 40] }),
  ];
  const ids = input([], { name: 'ids', dtype: 'i32', shape: [7] }, { name: 'ids' });
  const rows = graph('rows', [ids], [['y', op('gather', [table, ids], { axis: 0 })]]);
  const program = compileForGpu(rows, { store: storeOf(tensors), limits });
  const pieces = program.shaders.kernels[0]!.bindings.filter((b) => 'from' in b);
  t.deepEqual(pieces.length, Math.ceil((100 * 12 * 4) / 1024));
  const inputs = { ids: nd('i32', [7], Float64Array.from([0, 99, 21, 22, 42, 64, 85])) };
  const want = evaluate(rows, { inputs, params: () => tensors.table });
  t.is(gpuDifference((await program.device(await gpuDevice(), inputs)).y, want.y!, CLOSE), undefined);

  for (const m of [2, 40])
    for (const target of [WEBGPU, SHARED]) {
      const x = given('x', m, 24);
      const g = graph('product', [x], [['y', op('matmul', [x, w])]]);
      const split = compileForGpu(g, { store: storeOf(tensors), limits, target });
      t.true(split.shaders.kernels[0]!.bindings.filter((b) => 'from' in b).length > 1);
      t.is(await agrees(g, split, tensors), undefined, `${m} rows`);
    }
});

test('more workgroups than one row of a dispatch are folded', async (t) => {
  const x = given('x', 70000, 24);
  const g = graph('tall', [x], [['y', op('reduce_sum', [x], { axes: [1] })]]);
  const program = compileForGpu(g);
  t.true(program.shaders.sets[0]!.sources[0]!.includes('group.y * 65535u'));
  t.is(await agrees(g, program), undefined);
});

/** Elements of the arena and of weights that one launch reads and writes, as the interpreter sees it. */
function traffic(program: GpuProgram, g: Graph): { readonly reads: number; readonly writes: number } {
  const counts = { reads: 0, writes: 0 };
  program.host(
    inputsOf(g),
    (numbers) =>
      new Proxy(numbers, {
        get(target, key) {
          if (typeof key === 'string' && /^\d+$/.test(key)) counts.reads++;
          const value: unknown = Reflect.get(target, key, target);
          return typeof value === 'function' ? value.bind(target) : value;
        },
        set(target, key, value) {
          counts.writes++;
          return Reflect.set(target, key, value, target);
        },
      }),
  );
  // The interpreter looks at what stands where it writes, to find races.
  return { reads: counts.reads - counts.writes, writes: counts.writes };
}

test('a product moves at most 1.3 times what its tiles must', (t) => {
  const [m, k, n] = [128, 48, 128];
  const [a, b] = [given('a', m, k), given('b', k, n)];
  const g = graph('product', [a, b], [['y', op('matmul', [a, b])]]);
  for (const workgroups of [1, 1000]) {
    const target = { ...SHARED, workgroups };
    const tile = workgroups === 1 ? target.tiles[0]! : target.tiles.at(-1)!;
    const { reads, writes } = traffic(compileForGpu(g, { target }), g);
    // Every tile reads its rows and its columns once.
    const floor = (m / tile.rows) * (n / tile.columns) * (tile.rows + tile.columns) * k;
    t.true(reads <= 1.3 * floor, `${reads} reads, ${floor} at least`);
    t.true(reads >= floor);
    t.is(writes, m * n);
  }
});

test('a product of few rows reads its weight once', (t) => {
  const [m, k, n] = [2, 64, 48];
  const x = given('x', m, k);
  const w = param([], { name: 'w', dtype: 'f32', shape: [k, n] });
  const g = graph('decode', [x], [['y', op('matmul', [x, w])]]);
  const program = compileForGpu(g, { store: storeOf({ w: random([k, n], 9) }), target: SHARED });
  const { reads, writes } = traffic(program, g);
  // The rows are read by every panel of 8 columns, twice: by neighbours that share them in a cache line.
  t.is(reads, k * n + (n / 8) * 2 * m * k);
  t.is(writes, m * n);
});

test('attention moves at most 1.3 times what its blocks must, and no scores', (t) => {
  const [heads, queries, keys, width] = [2, 64, 96, 32];
  const [q, k, v] = [
    given('q', 1, heads, queries, width),
    given('k', 1, heads, keys, width),
    given('v', 1, heads, keys, width),
  ];
  // With the mask, blocks of queries meet the blocks of keys that are not after them.
  const [rows, columns] = WEBGPU.attention[0]!;
  const all = (queries / rows) * (keys / columns);
  const masks: readonly (readonly [Expr | undefined, number])[] = [
    [undefined, all],
    [le(coords.k, coords.q), 3],
  ];
  for (const [mask, blocks] of masks) {
    const g = graph('look', [q, k, v], [['y', op('attention', [q, k, v], { ...(mask && { mask }) })]]);
    const { reads, writes } = traffic(compileForGpu(g, { target: SHARED }), g);
    const floor = heads * (queries * width + blocks * columns * 2 * width);
    t.true(reads <= 1.3 * floor, `${reads} reads, ${floor} at least`);
    t.true(reads >= floor);
    t.is(writes, heads * queries * width);
  }
});

/** Multiply-adds that the invocations of a kernel make, with loops and branches taken as far as they go. */
function multiplyAdds({ kernel, grid }: Stage): number {
  const known = (e: Expr): number => {
    if (e.op !== 'const') throw new Error(`a loop of ${kernel.name} ends at ${e.op}`);
    return Number(e.arg);
  };
  const of = (e: Expr): number => exprNodes(e).reduce((n, x) => n + (x.op === 'fma' ? x.lanes : 0), 0);
  const walk = (body: readonly Stmt[]): number =>
    body.reduce((sum, s) => {
      const own = stmtExprs(s).reduce((n, e) => n + of(e), 0);
      if (s.kind === 'if') return sum + own + walk(s.then) + walk(s.else);
      if (s.kind !== 'for') return sum + own;
      const inner = walk(s.body);
      if (inner === 0) return sum + own;
      const trips = s.bind === 'grid.x' ? known(grid) : Math.ceil((known(s.to) - known(s.from)) / s.step);
      return sum + own + trips * inner;
    }, 0);
  return walk(kernel.body);
}

test('products and attention make the multiply-adds that they must, and no others', (t) => {
  const [m, k, n] = [128, 48, 128];
  const inputs = [given('a', m, k), given('b', k, n)];
  const y = op('matmul', inputs);
  for (const workgroups of [1, 1000]) {
    const target = { ...SHARED, workgroups };
    const { scheduled } = compileForGpu(graph('product', inputs, [['y', y]]), { target });
    t.is(multiplyAdds(scheduled.regions[0]!.stages[0]!), m * k * n);
  }
  const shapes = [64, 96, 96].map((tokens, i) => given('qkv'[i]!, 1, 2, tokens, 32));
  const { scheduled } = compileForGpu(graph('look', shapes, [['y', op('attention', shapes)]]), { target: SHARED });
  t.is(multiplyAdds(scheduled.regions[0]!.stages[0]!), 2 * 64 * 96 * (32 + 32));
});

test('rows are read once, whatever is folded of them', (t) => {
  const x = given('x', 6, 100);
  for (const name of ['softmax', 'log_softmax', 'layer_norm', 'rms_norm']) {
    const g = graph('rows', [x], [['y', op(name, [x])]]);
    const { reads, writes } = traffic(compileForGpu(g), g);
    t.is(reads, 600, name);
    t.is(writes, 600, name);
  }
});

test('weights of 64-bit integers beyond 32 bits are refused for WebGPU, by name', (t) => {
  const table = param([], { name: 'table', dtype: 'i64', shape: [3] });
  const x = input([], { name: 'x', dtype: 'i64', shape: [3] }, { name: 'x' });
  const entries = { main: graph('main', [x], [['y', op('add', [x, table])]]) };
  const weightsOf = (last: bigint): WeightStore => ({
    source: 'test',
    names: () => ['table'],
    get: () => ({ dtype: 'i64', shape: [3], bytes: new Uint8Array(BigInt64Array.of(1n, -2n, last).buffer) }),
  });
  const targets = { target: ['wasm', 'webgpu'] } as const;
  const model = { name: 'long', entries };
  t.notThrows(() => compile(model, { weights: weightsOf(-(2n ** 31n)), ...targets }));
  t.notThrows(() => compile(model, { weights: weightsOf(2n ** 31n) }));
  const error = t.throws(() => compile(model, { weights: weightsOf(2n ** 31n), ...targets }), {
    instanceOf: CompileError,
  });
  t.is(error?.diagnostic.code, 'range');
  t.regex(error?.diagnostic.message ?? '', /tensor "table" holds 2147483648/);
});
