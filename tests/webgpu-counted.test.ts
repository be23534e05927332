/** Sizes that are counted on the device: read back where they are needed, on WebGPU as in the reference. */
import test from 'ava';
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
import { toFloat32 } from '../ir/weights.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { gpuDevice } from './support/gpu-check.ts';
import { compileForGpu } from './support/run-webgpu.ts';

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
