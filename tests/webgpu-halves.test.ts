/** Weights that stand as halves in GPU memory: what kernels read of them, and how much. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { type GpuTarget, WEBGPU } from '../compiler/gpu-target.ts';
import { EVERY_DEVICE } from '../compiler/wgsl-access.ts';
import { halfMemory } from '../compiler/wgsl-halves.ts';
import { roundTo } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Attrs, type Graph, graph, typeOf, type Value } from '../ir/graph.ts';
import { Block, type Buffer, buffer, type Kernel } from '../ir/kernel.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { makeValue, opNamed } from '../ir/op.ts';
import { seeded } from '../ir/ops/example.ts';
import { input, param } from '../ir/ops/structural.ts';
import { add, literal, load, lt, select, splat } from '../ir/scalar.ts';
import { toHalf, type WeightStore } from '../ir/weights.ts';
import { open } from '../runtime/open.ts';
import { countedGpu } from './support/counted-gpu.ts';
import { CLOSE, gpuDevice, gpuDifference, SHARED, type Tolerance } from './support/gpu-check.ts';
import { compileForGpu } from './support/run-webgpu.ts';
import { dawnGpu } from './support/swiftshader.ts';
import '../ir/ops/all.ts';

const given = (name: string, ...shape: readonly number[]): Value => input([], { name, dtype: 'f32', shape }, { name });
const weight = (name: string, ...shape: readonly number[]): Value => param([], { name, dtype: 'f32', shape });
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

const halved = (x: Nd): Nd => ({ ...x, data: x.data.map((v) => roundTo('f16', v)) });

type Tensors = Readonly<Record<string, Nd>>;
const storeOf = (tensors: Tensors): WeightStore => ({
  source: 'test',
  names: () => Object.keys(tensors),
  get: (name) => {
    const tensor = tensors[name];
    if (!tensor) return undefined;
    const bytes =
      tensor.dtype === 'f16'
        ? new Uint8Array(toHalf(Float32Array.from(tensor.data)).buffer)
        : new Uint8Array(Float32Array.from(tensor.data).buffer);
    return { ...tensor, bytes };
  },
});

/** What is wrong with the results of a graph of f32 whose weights are stored as halves. */
async function wrongIn(
  g: Graph,
  tensors: Tensors,
  options: { readonly target?: GpuTarget; readonly limits?: typeof EVERY_DEVICE; readonly tolerance?: Tolerance } = {},
): Promise<readonly string[]> {
  const { tolerance = CLOSE, ...rest } = options;
  const inputs = Object.fromEntries(
    g.inputs.map((v, i) => [String(v.attrs.name), random(typeOf(v).shape as readonly number[], i + 1)]),
  );
  const program = compileForGpu(g, { store: storeOf(tensors), storage: 'f16', ...rest });
  const want = evaluate(g, { inputs, params: (name) => halved(tensors[name]!) });
  const results = { host: program.host(inputs), device: await program.device(await gpuDevice(), inputs) };
  return Object.entries(results).flatMap(([engine, got]) =>
    Object.entries(want).flatMap(([name, x]) => {
      const text = gpuDifference(got[name], x, tolerance);
      return text === undefined ? [] : [`${engine}, ${name}: ${text}`];
    }),
  );
}

const SUMS: Tolerance = { relative: 1e-5, floor: 16 };
const TARGETS: readonly GpuTarget[] = [WEBGPU, SHARED, { ...SHARED, subgroups: true }];

test('products read panels of halves, whatever their sizes and however they are shared out', async (t) => {
  for (const target of TARGETS)
    for (const [m, k, n] of [
      [1, 5, 3],
      [3, 33, 20],
      [40, 17, 24],
    ] as const) {
      const x = given('x', m, k);
      const tensors = { w: random([k, n], 5), b: random([n], 6) };
      const y = op('add', [op('matmul', [x, weight('w', k, n)]), weight('b', n)]);
      t.deepEqual(
        await wrongIn(graph('g', [x], [['y', y]]), tensors, { target, tolerance: SUMS }),
        [],
        `${m}×${k}×${n}`,
      );
    }
});

test('rows, lines and single elements of weights are read from halves', async (t) => {
  const x = given('x', 3, 21);
  const tensors = { w: random([21], 7), b: random([21], 8), wide: random([3, 20], 9), table: random([9, 7], 10) };
  const normed = op('layer_norm', [x, weight('w', 21), weight('b', 21)]);
  const y = given('y', 3, 20);
  const flat = op(
    'gather',
    [weight('table', 9, 7), op('constant', [], { value: nd('i32', [4], Float64Array.of(8, 0, 3, 8)) })],
    {
      axis: 0,
    },
  );
  const g = graph(
    'g',
    [x, y],
    [
      ['normed', normed],
      ['sum', op('add', [y, weight('wide', 3, 20)])],
      [
        'turned',
        op('add', [op('transpose', [weight('wide', 3, 20)], { perm: [1, 0] }), op('transpose', [y], { perm: [1, 0] })]),
      ],
      ['rows', op('mul', [flat, op('slice', [y], { starts: [0, 0], stops: [1, 7], steps: [1, 1] })])],
    ],
  );
  t.deepEqual(await wrongIn(g, tensors), []);
});

test('halves come in pieces, and from a binding of all weights', async (t) => {
  const x = given('x', 2, 24);
  const product = graph('g', [x], [['y', op('matmul', [x, weight('w', 24, 40)])]]);
  for (const target of [WEBGPU, SHARED]) {
    const limits = { ...EVERY_DEVICE, bindingBytes: 512 };
    const pieces = { target, limits, tolerance: SUMS };
    t.deepEqual(await wrongIn(product, { w: random([24, 40], 3) }, pieces), []);
  }
  const rows = given('rows', 4, 5);
  const names = Array.from({ length: 12 }, (_, i) => `w${i}`);
  const sum = names.reduce((v, name) => op('mul', [op('add', [v, weight(name, 5)]), rows]), rows as Value);
  const tensors = Object.fromEntries(names.map((name, i) => [name, random([5], i + 40)]));
  t.deepEqual(
    await wrongIn(graph('g', [rows], [['y', sum]]), tensors, { tolerance: { relative: 1e-5, floor: 1e4 } }),
    [],
  );
});

test('every half is read exactly, those below the normal ones too', async (t) => {
  const all = Float64Array.from({ length: 1 << 16 }, (_, bits) => bits)
    .filter((bits) => (bits & 0x7c00) !== 0x7c00)
    .map((bits) => {
      const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
      const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
      return bits & 0x8000 ? -size : size;
    });
  const x = given('x', all.length);
  const y = op('add', [x, weight('w', all.length)]);
  const tensors = { w: nd('f32', [all.length], all) };
  const program = compileForGpu(graph('g', [x], [['y', y]]), { store: storeOf(tensors), storage: 'f16' });
  const zeros = { x: nd('f32', [all.length], new Float64Array(all.length)) };
  const got = (await program.device(await gpuDevice(), zeros)).y!.data;
  t.true(all.every((v, i) => v === got[i]));
});

test('weights whose own type is f16 are read the same way', async (t) => {
  const half = (name: string, shape: readonly number[]): Value => input([], { name, dtype: 'f16', shape }, { name });
  const x = half('x', [3, 20]);
  const w = param([], { name: 'w', dtype: 'f16', shape: [3, 20] });
  const g = graph('g', [x], [['y', op('add', [x, w])]]);
  const tensors = { w: { ...halved(random([3, 20], 4)), dtype: 'f16' as const } };
  const inputs = { x: { ...halved(random([3, 20], 5)), dtype: 'f16' as const } };
  const program = compileForGpu(g, { store: storeOf(tensors) });
  t.true(program.shaders.sets[0]!.sources.some((text) => text.includes('unpack2x16float')));
  const want = evaluate(g, { inputs, params: (name) => tensors[name as 'w'] });
  for (const got of [program.host(inputs), await program.device(await gpuDevice(), inputs)])
    t.is(gpuDifference(got.y, want.y!, CLOSE), undefined);
});

test('a bundle of halves takes half the memory for its weights on WebGPU, and computes what WebAssembly does', async (t) => {
  const [k, n] = [64, 96];
  const x = given('x', 2, k);
  const y = op('add', [op('matmul', [x, weight('w', k, n)]), weight('b', n)]);
  const entries = { main: graph('main', [x], [['y', y]]) };
  const weights = storeOf({ w: random([k, n], 1), b: random([n], 2) });
  const of = (storage: 'f32' | 'f16'): ReturnType<typeof compile> =>
    compile({ name: 'halves', entries }, { weights, storage, target: ['wasm', 'webgpu'] });
  const values = { x: Float32Array.from(random([2, k], 3).data) };
  const held: number[] = [];
  for (const storage of ['f32', 'f16'] as const) {
    const { gpu, devices } = countedGpu();
    const [onGpu, onWasm] = [
      await open(of(storage), { device: 'webgpu', gpu }),
      await open(of(storage), { device: 'wasm', threads: 1 }),
    ];
    const [got, want] = [await onGpu.run(values), await onWasm.run(values)];
    held.push(devices[0]!.made.find(({ label }) => label === 'the weights')!.size);
    const off = Array.from(want.y!.data as Float32Array, (v, i) => Math.abs(v - Number(got.y!.data[i])));
    t.true(Math.max(...off) <= 1e-4, storage);
    onGpu.dispose();
    onWasm.dispose();
  }
  t.deepEqual(held, [4 * (k * n + n), 2 * (k * n + n)]);
});

/**
 * SwiftShader lacks `shader-f16`. Dawn's null backend has every feature and checks shaders as for any device, but computes
 * nothing.
 */
const nullGpu = (): GPU => dawnGpu({ dawn: ['backend=null'] });

/** Bytes of workgroup memory that a shader declares. */
function workgroupBytes(source: string): number {
  const sizes: Readonly<Record<string, number>> = { f32: 4, i32: 4, u32: 4, vec4f: 16, f16: 2, 'vec4<f16>': 8 };
  const declared = [...source.matchAll(/var<workgroup> \w+: array<(.+), (\d+)>;/g)];
  return declared.reduce((sum, [, type, count]) => sum + sizes[type!]! * Number(count), 0);
}

test('with shader-f16 blocks of halved weights take half the workgroup memory, and Dawn takes the shaders', async (t) => {
  const adapter = await nullGpu().requestAdapter();
  const device = await adapter!.requestDevice({ requiredFeatures: ['shader-f16', 'subgroups'] });
  const x = given('x', 40, 17);
  const product = op('layer_norm', [op('matmul', [x, weight('w', 17, 24)]), weight('a', 24), weight('b', 24)]);
  const store = storeOf({ w: random([17, 24], 1), a: random([24], 2), b: random([24], 3) });
  for (const subgroups of [false, true]) {
    const target = { ...SHARED, subgroups };
    const { sets } = compileForGpu(graph('g', [x], [['y', product]]), { store, storage: 'f16', target }).shaders;
    t.deepEqual(
      sets.map(({ features }) => features.has('shader-f16')),
      [false, true],
    );
    const [plain, narrow] = sets.map(({ sources }) => sources.find((text) => text.includes('> right: array'))!);
    const tile = SHARED.tiles.at(-1)!;
    const [left, right] = [tile.rows * tile.depth, tile.depth * tile.columns];
    t.deepEqual(
      [plain, narrow].map((text) => workgroupBytes(text!)),
      [4 * (left + right), 4 * left + 2 * right],
    );
    for (const code of sets[1]!.sources) {
      const module = device.createShaderModule({ code });
      t.deepEqual(
        [...(await module.getCompilationInfo()).messages].map((m) => m.message),
        [],
      );
      await t.notThrowsAsync(device.createComputePipelineAsync({ layout: 'auto', compute: { module } }));
    }
  }
  const wrong = device.createShaderModule({ code: 'enable f16; fn f() -> f16 { return 1u; }' });
  t.is((await wrong.getCompilationInfo()).messages.length, 1);
});

test('a bundle of halves has kernels for devices with shader-f16, with subgroups, both and neither', async (t) => {
  const x = given('x', 128, 64);
  const y = op('softmax', [op('matmul', [x, weight('w', 64, 96)])]);
  const entries = { main: graph('main', [x], [['y', y]]) };
  const weights = storeOf({ w: random([64, 96], 1) });
  const bundle = compile({ name: 'kinds', entries }, { weights, storage: 'f16', target: ['wasm', 'webgpu'] });
  const files = bundle.manifest.webgpu!.wgsl.map(({ file, features = [] }) => [file, ...features]);
  t.deepEqual(files, [
    ['kernels.shader-f16.subgroups.wgsl', 'shader-f16', 'subgroups'],
    ['kernels.shader-f16.wgsl', 'shader-f16'],
    ['kernels.subgroups.wgsl', 'subgroups'],
    ['kernels.wgsl'],
  ]);
  for (const [file, ...features] of files) {
    const kept = new Map([...bundle.files].filter(([name]) => !name.endsWith('.wgsl') || name === file));
    const adapter = await nullGpu().requestAdapter();
    const device = await adapter!.requestDevice({ requiredFeatures: features as GPUFeatureName[] });
    const session = await open({ manifest: bundle.manifest, files: kept }, { device });
    t.is(session.device, 'webgpu', file);
    session.dispose();
    device.destroy();
  }
  const plain = compile({ name: 'kinds', entries }, { weights, target: ['wasm', 'webgpu'] });
  t.deepEqual(
    plain.manifest.webgpu!.wgsl.map(({ file }) => file),
    ['kernels.subgroups.wgsl', 'kernels.wgsl'],
  );
});

test('memory counts as halves where it receives nothing else', (t) => {
  const [w, x] = [buffer('w', 'f32', 64), buffer('x', 'f32', 64)];
  const memory = buffer('memory', 'f32', 64, { space: 'shared', access: 'readwrite' });
  const holds = (write: (block: Block) => void, target: Buffer = memory): boolean => {
    const block = new Block();
    write(block);
    const kernel: Kernel = { kind: 'kernel', name: 'k', buffers: [w, x, target], params: [], body: block.stmts };
    return halfMemory(kernel, new Set([w])).has(target);
  };
  const [a, b] = [load(w, literal(0)), load(x, literal(0))];
  t.true(holds((k) => k.store(memory, 0, a)));
  t.true(holds((k) => k.store(memory, 0, splat(a, 4))));
  t.true(holds((k) => k.store(memory, 0, select(lt(b, a), a, literal(0, 'f32')))));
  t.true(holds((k) => k.store(memory, 0, k.let('v', load(w, 0, 4)))));
  t.true(
    holds((k) => {
      const v = k.var('v', literal(0.5, 'f32'));
      k.set(v, select(lt(b, a), v, a));
      k.store(memory, 0, v);
    }),
  );
  t.false(holds((k) => k.store(memory, 0, b)));
  t.false(holds((k) => k.store(memory, 0, add(a, a))));
  t.false(holds((k) => k.store(memory, 0, literal(0.1, 'f32'))));
  t.false(
    holds((k) => {
      k.store(memory, 0, a);
      k.store(memory, 1, b);
    }),
  );
  t.false(
    holds((k) => {
      const v = k.var('v', a);
      k.set(v, b);
      k.store(memory, 0, v);
    }),
  );
  const own = buffer('own', 'f32', 64, { space: 'local', access: 'readwrite' });
  t.false(holds((k) => k.store(own, 0, a), own));
});
