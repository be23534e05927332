/** Sizes that are counted on the device, and stay there until a run ends: on WebGPU as in the reference. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import type { Bundle } from '../compiler/bundle.ts';
import { compile } from '../compiler/compile.ts';
import { dim, f32, i32, model, input as modelInput, nn, type Tensor } from '../frontends/dsl/index.ts';
import { bert } from '../frontends/zoo/bert.ts';
import { seededWeights } from '../frontends/zoo/seeded.ts';
import { countedIn, countedSize } from '../ir/counts.ts';
import { evaluate } from '../ir/evaluate.ts';
import { graph } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import '../ir/ops/all.ts';
import { counted, positions, unravel } from '../ir/ops/counted.ts';
import { mul, notEqual } from '../ir/ops/elementwise.ts';
import { gather } from '../ir/ops/index.ts';
import { reduceSum } from '../ir/ops/reduce.ts';
import { input, project, scalar } from '../ir/ops/structural.ts';
import { symbol } from '../ir/scalar.ts';
import { toFloat32, type WeightStore } from '../ir/weights.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import type { Session } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';
import { type Counted, countedGpu } from './support/counted-gpu.ts';
import { gpuDevice } from './support/gpu-check.ts';
import { compileForGpu } from './support/run-webgpu.ts';
import { tinyModel, tinyWeights } from './support/tiny-model.ts';

const NO_WEIGHTS: WeightStore = { source: 'no weights', names: () => [], get: () => undefined };

test('what is not zero is found, gathered and summed at its size', async (t) => {
  const n = symbol('n', { min: 1, max: 6000 });
  const x = input([], { name: 'x', dtype: 'f32', shape: [n] }, { name: 'x' });
  const order = positions([notEqual([x, scalar(0)])]);
  const ids = counted([project(order, 0), project(order, 1)], { size: countedSize('kept', n) });
  const rows = mul([gather([x, ids]), scalar(2)]);
  const g = graph(
    'kept',
    [x],
    [
      ['rows', rows],
      ['at', unravel([ids], { shape: [1, n], dtype: 'i32' })],
      ['total', reduceSum([rows], { axes: [0] })],
    ],
  );
  const program = compileForGpu(g);
  for (const data of [
    [0, 0, 0],
    [5],
    [1, 2, 3, 4, 5],
    Array.from({ length: 5003 }, (_, i) => (i % 97 === 3 ? 1 + (i % 5) : 0)),
  ]) {
    const inputs = { x: nd('f32', [data.length], data) };
    const want = evaluate(g, { inputs, precision: 'f32' });
    const got = await program.device(await gpuDevice(), inputs);
    for (const [name, { shape, data: wanted }] of Object.entries(want)) {
      t.deepEqual([...got[name]!.shape], [...shape], name);
      t.deepEqual([...got[name]!.data], [...wanted], name);
    }
  }
});

test('a padded batch is computed packed', async (t) => {
  const model = bert({ layers: 2, width: 32, heads: 4, mlp: 128, vocabulary: 40, positions: 12, maskedLm: false });
  const store = seededWeights(model, 3);
  const authored = model.entries.main!;
  const optimised = runPasses(authored, pipelineFor());
  const program = compileForGpu(optimised, { store });
  const params = (name: string): Nd => {
    const tensor = store.get(name)!;
    return nd(tensor.dtype, tensor.shape, toFloat32(tensor));
  };
  for (const lengths of [
    [1, 7, 3],
    [7, 7],
    [0, 2],
  ]) {
    const shape = [lengths.length, 7];
    const mask = lengths.flatMap((many) => Array.from({ length: 7 }, (_, i) => Number(i < many)));
    const inputs = {
      input_ids: nd(
        'i64',
        shape,
        mask.map((m, i) => m * ((i * 11) % 40)),
      ),
      attention_mask: nd('i64', shape, mask),
      token_type_ids: nd(
        'i64',
        shape,
        mask.map((_, i) => i % 2),
      ),
    };
    const want = evaluate(authored, { inputs, params }).seq_relationship_logits!;
    const got = (await program.device(await gpuDevice(), inputs)).seq_relationship_logits!;
    want.data.forEach((x, i) => {
      t.true(Math.abs(got.data[i]! - x) <= 2e-5, `${lengths}: ${got.data[i]} for ${x}`);
    });
  }
});

/** A model's bundle opened on a GPU that counts what it is asked for. */
async function counting(model: Parameters<typeof compile>[0], weights: WeightStore): Promise<[Session, Counted]> {
  const { gpu, devices } = countedGpu();
  const bundle = compile(model, { weights, target: ['wasm', 'webgpu'] });
  const session = await open(bundle, { device: 'webgpu', gpu });
  return [session, devices.at(-1)!];
}

test('a packed batch is read back once, at the end, and the device says how many workgroups it takes', async (t) => {
  const model = bert({ layers: 2, width: 32, heads: 4, mlp: 128, vocabulary: 40, positions: 12, maskedLm: false });
  const [session, counted] = await counting(model, seededWeights(model, 3));
  const host = await open(compile(model, { weights: seededWeights(model, 3) }), { threads: 1 });
  for (const lengths of [
    [1, 7, 3],
    [7, 7],
    [0, 2],
    [1, 7, 3],
  ]) {
    const mask = lengths.flatMap((many) => Array.from({ length: 7 }, (_, i) => Number(i < many)));
    const tensor = (data: readonly number[]): { data: readonly number[]; shape: number[] } => ({
      data,
      shape: [lengths.length, 7],
    });
    const inputs = {
      input_ids: tensor(mask.map((m, i) => m * ((i * 11) % 40))),
      attention_mask: tensor(mask),
      token_type_ids: tensor(mask.map((_, i) => i % 2)),
    };
    const [maps, indirect] = [counted.maps, counted.indirect];
    const got = (await session.run(inputs)).seq_relationship_logits!;
    t.is(counted.maps - maps, 1, 'read-backs');
    t.true(counted.indirect - indirect > 5, 'dispatches of the device');
    const want = (await host.run(inputs)).seq_relationship_logits!;
    t.deepEqual(got.shape, want.shape);
    const data = want.data as Float32Array;
    data.forEach((x, i) => {
      t.true(Math.abs((got.data as Float32Array)[i]! - x) <= 2e-5, `${lengths}: ${got.data[i]} for ${x}`);
    });
  }
  session.dispose();
  host.dispose();
  t.is(counted.made.length, counted.destroyed.length);
});

test('outputs of counted sizes have the sizes that were counted, on the host and left on the device', async (t) => {
  const n = symbol('n', { min: 1, max: 6000 });
  const x = input([], { name: 'x', dtype: 'f32', shape: [n] }, { name: 'x' });
  const order = positions([notEqual([x, scalar(0)])]);
  const ids = counted([project(order, 0), project(order, 1)], { size: countedSize('kept', n) });
  const rows = mul([gather([x, ids]), scalar(2)]);
  // What is counted of what was counted.
  const again = positions([notEqual([rows, scalar(4)])]);
  const rest = counted([project(again, 0), project(again, 1)], { size: countedSize('rest', countedSize('kept', n)) });
  const g = graph(
    'kept',
    [x],
    [
      ['rows', rows],
      ['rest', gather([rows, rest])],
      ['total', reduceSum([rows], { axes: [0] })],
    ],
  );
  const model = { name: 'kept', entries: { main: g }, parameters: [] };
  const [session, asked] = await counting(model, NO_WEIGHTS);
  for (const data of [
    [0, 0, 0],
    [5],
    [1, 2, 3, 4, 5],
    Array.from({ length: 5003 }, (_, i) => (i % 97 === 3 ? 1 + (i % 5) : 0)),
  ]) {
    const want = evaluate(g, { inputs: { x: nd('f32', [data.length], data) }, precision: 'f32' });
    const before = asked.maps;
    const got = await session.run({ x: data });
    t.is(asked.maps - before, 1);
    const left = await session.runOnDevice!({ x: data });
    t.is(asked.maps - before, 2);
    for (const [name, { shape, data: wanted }] of Object.entries(want))
      for (const tensor of [got[name]!, await left[name]!.read()]) {
        t.deepEqual([...tensor.shape], [...shape], name);
        t.deepEqual(Array.from(tensor.data as Float32Array), [...wanted], name);
      }
    for (const tensor of Object.values(left)) tensor.destroy();
  }
  session.dispose();
  t.is(asked.made.length, asked.destroyed.length);
});

test('a loop runs as many steps as the longest row has', async (t) => {
  const rows = dim('rows', { max: 8 });
  const layer = model(
    'layer',
    { x: modelInput(f32, [6, rows, 5], 'words'), lens: modelInput(i32, [rows], 'lengths') },
    ({ x, lens }) => ({ ...nn.lstm('layer', { in: 5, out: 16 })(x, undefined, lens as Tensor<'i32'>) }),
  );
  const store = seededWeights(layer, 5);
  const authored = layer.entries.main!;
  const optimised = runPasses(authored, pipelineFor());
  t.true(countedIn(optimised).length > 0);
  const program = compileForGpu(optimised, { store });
  const params = (name: string): Nd => {
    const tensor = store.get(name)!;
    return nd(tensor.dtype, tensor.shape, toFloat32(tensor));
  };
  for (const lengths of [[2, 4, 1], [6], [0, 0]]) {
    const inputs = {
      x: nd(
        'f32',
        [6, lengths.length, 5],
        Float64Array.from({ length: 30 * lengths.length }, (_, i) => Math.sin(3 * i)),
      ),
      lens: nd('i32', [lengths.length], lengths),
    };
    const want = evaluate(authored, { inputs, params });
    const got = await program.device(await gpuDevice(), inputs);
    for (const [name, { shape, data }] of Object.entries(want)) {
      t.deepEqual([...got[name]!.shape], [...shape], name);
      t.true(
        data.every((v, i) => Math.abs(v - got[name]!.data[i]!) < 1e-5),
        `${name} of ${lengths}`,
      );
    }
  }
});

test('the files of a bundle that counts bring what counts, and those of others do not', async (t) => {
  const padded = bert({ layers: 2, width: 32, heads: 4, mlp: 128, vocabulary: 40, positions: 12, maskedLm: false });
  const counts = async (bundle: Bundle): Promise<boolean> =>
    new TextDecoder().decode((await bundle.folder()).get('webgpu.js')).includes('by the data');
  const target = ['wasm', 'webgpu'] as const;
  const bundle = compile(padded, { weights: seededWeights(padded, 3), target });
  t.true(await counts(bundle));
  t.false(await counts(compile(tinyModel(), { weights: tinyWeights(), target })));

  const folder = mkdtempSync(join(tmpdir(), 'heddle-counted-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  await bundle.write(join(folder, 'bundle'));
  const own = (await import(pathToFileURL(join(folder, 'bundle', 'index.js')).href)) as { readonly open: typeof open };
  const inputs = Object.fromEntries(
    ['input_ids', 'attention_mask', 'token_type_ids'].map((name) => [
      name,
      { data: [1, 1, 0, 1, 1, 1], shape: [2, 3] },
    ]),
  );
  const answers: number[][] = [];
  for (const options of [
    { device: 'webgpu', gpu: countedGpu().gpu },
    { device: 'wasm', threads: 1 },
  ] as const) {
    const session = await own.open(options as never);
    t.is(session.device, options.device);
    answers.push(Array.from((await session.run(inputs)).seq_relationship_logits!.data as Float32Array));
    session.dispose();
  }
  t.true(answers[0]!.every((x, i) => Math.abs(x - answers[1]![i]!) <= 2e-5));
});
