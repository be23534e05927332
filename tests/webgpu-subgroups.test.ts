/** Kernels for devices whose invocations can join values of a subgroup: right for subgroups of every size. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { subgroupOp } from '../compiler/schedule/gpu/members.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { SCALARS } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Attrs, type Graph, graph, typeOf, type Value } from '../ir/graph.ts';
import type { Subgroups } from '../ir/interpret.ts';
import type { Stmt } from '../ir/kernel.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { allOps, makeValue, opNamed } from '../ir/op.ts';
import { exampleGraph, exampleInput, exampleValues, seeded } from '../ir/ops/example.ts';
import { input, param } from '../ir/ops/structural.ts';
import { add, lt, max, min, mul, select, sub } from '../ir/scalar.ts';
import type { WeightStore } from '../ir/weights.ts';
import { open } from '../runtime/open.ts';
import { countedGpu } from './support/counted-gpu.ts';
import { CLOSE, gpuDevice, gpuDifference, SHARED, type Tolerance } from './support/gpu-check.ts';
import { compileForGpu, type GpuProgram } from './support/run-webgpu.ts';
import '../ir/ops/all.ts';

/** Large products and all folds by subgroups, whatever the sizes. */
const TARGET = { ...SHARED, subgroups: true };
/** Sizes that devices have, one that no workgroup is a multiple of, and members that are no neighbours. */
const SIZES: readonly Subgroups[] = [
  ...[4, 8, 16, 32, 64, 128, 24].map((size) => ({ size })),
  { size: 16, scattered: true },
  { size: 5, scattered: true },
];

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

const storeOf = (tensors: Readonly<Record<string, Nd>>): WeightStore => ({
  source: 'test',
  names: () => Object.keys(tensors),
  get: (name) => {
    const tensor = tensors[name];
    return tensor && { ...tensor, bytes: new Uint8Array(Float32Array.from(tensor.data).buffer) };
  },
});

const joins = (program: GpuProgram): boolean => program.shaders.sets[0]!.features.has('subgroups');

/** What is wrong on the device and on the host, with subgroups of each size. */
async function wrongIn(
  program: GpuProgram,
  inputs: Readonly<Record<string, Nd>>,
  want: Readonly<Record<string, Nd>>,
  tolerance: Tolerance = CLOSE,
): Promise<readonly string[]> {
  const results = SIZES.map((s) => [JSON.stringify(s), program.host(inputs, undefined, s)] as const);
  return [...results, ['device', await program.device(await gpuDevice(), inputs)] as const].flatMap(([engine, got]) =>
    Object.entries(want).flatMap(([name, x]) => {
      const text = gpuDifference(got[name], x, tolerance);
      return text === undefined ? [] : [`${engine}, ${name}: ${text}`];
    }),
  );
}

test('every example whose kernels join values agrees with the reference', async (t) => {
  const seen = new Set<string>();
  for (const def of allOps())
    for (const [n, example] of def.examples.entries()) {
      const g = exampleGraph(def, example);
      let program: GpuProgram;
      try {
        program = compileForGpu(g, { target: TARGET });
      } catch (error) {
        if (error instanceof CompileError) continue;
        throw error;
      }
      if (!joins(program)) continue;
      const inputs = Object.fromEntries(exampleValues(example).map((x, i) => [exampleInput(i), x]));
      t.deepEqual(await wrongIn(program, inputs, evaluate(g, { inputs })), [], `${def.name}, example ${n}`);
      seen.add(def.name);
    }
  t.log([...seen].join(', '));
  for (const name of ['reduce_sum', 'reduce_max', 'reduce_prod', 'group_norm']) t.true(seen.has(name), name);
});

async function check(
  t: {
    readonly deepEqual: (a: unknown, b: unknown, message?: string) => unknown;
    is: (a: unknown, b: unknown) => unknown;
  },
  g: Graph,
  tensors: Readonly<Record<string, Nd>> = {},
  tolerance?: Tolerance,
): Promise<void> {
  const inputs = Object.fromEntries(
    g.inputs.map((v, i) => [String(v.attrs.name), random(typeOf(v).shape as readonly number[], i + 1)]),
  );
  const program = compileForGpu(g, { target: TARGET, store: storeOf(tensors) });
  t.is(joins(program), true);
  const want = evaluate(g, { inputs, params: (name) => tensors[name]! });
  t.deepEqual(await wrongIn(program, inputs, want, tolerance), [], g.name);
}

test('lines of any length are folded by subgroups of any size', async (t) => {
  for (const width of [17, 100, 260]) {
    const x = given('x', 2, width);
    for (const name of ['softmax', 'log_softmax', 'layer_norm', 'rms_norm'])
      await check(t, graph(`${name}-${width}`, [x], [['y', op(name, [x])]]));
    for (const name of ['reduce_sum', 'reduce_max', 'reduce_min', 'reduce_mean'])
      await check(t, graph(`${name}-${width}`, [x], [['y', op(name, [x], { axes: [1], keepdims: false })]]));
  }
});

test('a line whose length is beyond workgroup memory is folded too', async (t) => {
  const x = given('x', 1, 2100);
  await check(t, graph('long', [x], [['y', op('softmax', [x])]]));
});

test('products of few rows join what their invocations summed', async (t) => {
  for (const m of [1, 3]) {
    const x = given('x', m, 37);
    const w = param([], { name: 'w', dtype: 'f32', shape: [37, 20] });
    const g = graph(`rows-${m}`, [x], [['y', op('matmul', [x, w])]]);
    await check(t, g, { w: random([37, 20], 5) }, { relative: 1e-5, floor: 16 });
  }
});

test('NaN reaches the extremes of its line and no other', async (t) => {
  const x = given('x', 2, 40);
  const data = random([2, 40], 3).data.slice();
  data[57] = Number.NaN;
  for (const name of ['reduce_max', 'reduce_min']) {
    const g = graph(name, [x], [['y', op(name, [x], { axes: [1], keepdims: false })]]);
    const program = compileForGpu(g, { target: TARGET });
    const inputs = { x: nd('f32', [2, 40], data) };
    const want = evaluate(g, { inputs });
    t.true(Number.isNaN(want.y!.data[1]) && !Number.isNaN(want.y!.data[0]));
    t.deepEqual(await wrongIn(program, inputs, want), [], name);
  }
});

test('an operation of subgroups is taken for joins that mean the same, of types that they have', (t) => {
  t.is(subgroupOp(add, 'f32'), 'add');
  t.is(subgroupOp(mul, 'i32'), 'mul');
  t.is(subgroupOp(max, 'f32'), 'max');
  t.is(subgroupOp(min, 'u32'), 'min');
  t.is(
    subgroupOp((a, b) => select(lt(a, b), b, a), 'f32'),
    'max',
  );
  t.is(subgroupOp(sub, 'f32'), undefined);
  t.is(
    subgroupOp((a) => add(a, a), 'f32'),
    undefined,
  );
  t.is(
    subgroupOp((a, b) => add(add(a, b), 1), 'f32'),
    undefined,
  );
  t.deepEqual(
    SCALARS.filter((dtype) => dtype !== 'bool' && subgroupOp(add, dtype)),
    ['f32', 'i64', 'i32', 'u64', 'u32'].filter((dtype) => (SCALARS as readonly string[]).includes(dtype)) as never,
  );
});

/** Barriers that an invocation meets: loops around them turn a fixed number of times. */
function barriers(body: readonly Stmt[]): number {
  return body.reduce((n, s) => {
    if (s.kind === 'barrier') return n + 1;
    if (s.kind === 'if') return n + barriers(s.then) + barriers(s.else);
    if (s.kind !== 'for') return n;
    const inner = barriers(s.body);
    return n + (inner === 0 ? 0 : inner * (s.bind === 'serial' ? (s.to.arg as number) - (s.from.arg as number) : 1));
  }, 0);
}

test('subgroups meet at one barrier for each fold, where a tree has one for each level', (t) => {
  const x = given('x', 4, 256);
  const counts = (name: string): number[] =>
    [SHARED, TARGET].map((target) => {
      const program = compileForGpu(graph('g', [x], [['y', op(name, [x])]]), { target });
      return program.scheduled.regions.flatMap((r) => r.stages).reduce((n, s) => n + barriers(s.kernel.body), 0);
    });
  // Two folds of 64 invocations, and a barrier between them: six levels each, and one before.
  t.deepEqual(counts('softmax'), [2 * 7 + 1, 3]);
  t.deepEqual(counts('layer_norm'), [2 * 7 + 1, 3]);
});

test('a bundle has kernels for devices with subgroups and without; each loads its own', async (t) => {
  const x = given('x', 2, 100);
  const entries = { main: graph('main', [x], [['y', op('softmax', [x])]]) };
  const bundle = compile({ name: 'both', entries }, { weights: storeOf({}), target: ['wasm', 'webgpu'] });
  const files = [...bundle.files.keys()].filter((name) => name.endsWith('.wgsl')).sort();
  t.deepEqual(files, ['kernels.subgroups.wgsl', 'kernels.wgsl']);
  const value = random([2, 100], 9);
  const want = evaluate(entries.main, { inputs: { x: value } }).y!;
  for (const [without, file] of [
    [[], 'kernels.subgroups.wgsl'],
    [['subgroups'], 'kernels.wgsl'],
  ] as const) {
    const kept = new Map([...bundle.files].filter(([name]) => !name.endsWith('.wgsl') || name === file));
    const { gpu, devices } = countedGpu({ without });
    const session = await open({ manifest: bundle.manifest, files: kept }, { device: 'webgpu', gpu });
    t.is(devices[0]!.device.features.has('subgroups'), without.length === 0);
    const { y } = await session.run({ x: Float32Array.from(value.data) });
    const off = Array.from(y!.data as Float32Array, (v, i) => Math.abs(v - want.data[i]!));
    t.true(Math.max(...off) <= 1e-6);
    session.dispose();
  }
});

test('a bundle without folds has one file of kernels', (t) => {
  const x = given('x', 2, 100);
  const entries = { main: graph('main', [x], [['y', op('tanh', [x])]]) };
  const bundle = compile({ name: 'plain', entries }, { weights: storeOf({}), target: ['wasm', 'webgpu'] });
  t.deepEqual(
    bundle.manifest.webgpu!.wgsl.map(({ file, features }) => [file, features]),
    [['kernels.wgsl', undefined]],
  );
});
