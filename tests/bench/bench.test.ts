import test from 'ava';
import onnxProto from 'onnx-proto';
import ort from 'onnxruntime-node';
import { compile } from '../../compiler/compile.ts';
import { open } from '../../runtime/open.ts';
import { heddleInputs } from './heddle.ts';
import { heddleModel } from './heddle-models.ts';
import { executed, maskedModels, maskedVerdicts, renderMasked, rowOf } from './masked.ts';
import { agreement, effort, type Measurement, pool } from './measure.ts';
import { bert, findModel, inputsOf, MATMUL_NAMES, MODEL_NAMES, matmul, onnxGraph, vit } from './models.ts';
import { ratioOf } from './ratio.ts';
import { difference, quantile, summarize } from './stats.ts';
import { digits, gflops, markdownTable, renderResults } from './table.ts';
import { firstResultVerdict, verdicts } from './targets.ts';
import { seededWeights, type WeightSource } from './weights.ts';

const ENVIRONMENT = {
  date: '2030-01-02',
  cpu: 'Some CPU',
  cores: 4,
  memoryGiB: 8,
  platform: 'linux x64',
  node: '20.20.0',
  v8: '11.3',
  packages: { 'onnxruntime-web': '1.30.0' },
  rounds: 3,
};
const TINY_VIT = vit('tiny-vit', { image: 6, patch: 2, width: 12, layers: 2, heads: 3, mlp: 20, classes: 5 });
const TINY_BERT = bert('tiny-bert', {
  tokens: 7,
  width: 10,
  layers: 2,
  heads: 2,
  mlp: 16,
  vocabulary: 13,
  positions: 9,
});

test('quantile interpolates between order statistics and does not reorder its argument', (t) => {
  const sample = [40, 10, 30, 20];
  t.is(quantile(sample, 0), 10);
  t.is(quantile(sample, 1), 40);
  t.is(quantile(sample, 0.5), 25);
  t.true(Math.abs(quantile(sample, 0.2) - 16) < 1e-12);
  t.deepEqual(sample, [40, 10, 30, 20]);
  t.deepEqual(summarize([7]), { count: 1, min: 7, p20: 7, median: 7 });
});

test('quantile refuses an empty sample and a level outside 0 to 1', (t) => {
  t.throws(() => quantile([], 0.5), { message: /sample is empty/ });
  t.throws(() => quantile([1], 1.5), { message: /q is 1.5/ });
});

test('difference is relative to the largest reference value and refuses lengths and NaN', (t) => {
  t.deepEqual(difference(new Float32Array([1, -6]), new Float32Array([1, -8])), { maxAbs: 2, maxRel: 0.25 });
  t.deepEqual(difference(new Float32Array(2), new Float32Array(2)), { maxAbs: 0, maxRel: 0 });
  t.is(difference(new Float32Array([1]), new Float32Array([0])).maxRel, Number.POSITIVE_INFINITY);
  t.throws(() => difference(new Float32Array(2), new Float32Array(3)), { message: /2 elements against 3/ });
  t.throws(() => difference(new Float32Array([Number.NaN]), new Float32Array(1)), { message: /element 0 is NaN/ });
});

test('agreement is that of the worst output and wants the same names', (t) => {
  const expected = { a: new Float32Array([1]), b: new Float32Array([4]) };
  const actual = { b: new Float32Array([5]), a: new Float32Array([1]) };
  t.deepEqual(agreement(actual, expected), { maxAbs: 1, maxRel: 0.25 });
  t.throws(() => agreement({ a: new Float32Array([1]) }, expected), { message: /\[a\], the reference has \[a,b\]/ });
});

test('pooling joins the runs of all processes and keeps one opening time for each', (t) => {
  const child = { openMs: 5, firstRunMs: 9, wallMs: [1, 2], cpuMs: 3, peakRssBytes: 100, baseRssBytes: 40 };
  const pooled = pool([child, { ...child, openMs: 7, wallMs: [3], cpuMs: 6, peakRssBytes: 300 }]);
  t.deepEqual(pooled.wall, { count: 3, min: 1, p20: 1.4, median: 2 });
  t.deepEqual(pooled.processMedians, [1.5, 3]);
  t.deepEqual(pooled.cpu, { count: 2, min: 3, p20: 3.6, median: 4.5 });
  t.deepEqual(pooled.open, { count: 2, min: 5, p20: 5.4, median: 6 });
  t.is(pooled.peakRssBytes, 200);
  t.is(pooled.baseRssBytes, 40);
  t.is(pooled.plannedBytes, undefined);
});

test('small products get many runs and whole models at least three', (t) => {
  t.is(effort(findModel('vit-b16'), true).runs, 3);
  t.is(effort(findModel('matmul-1x768x768'), false).runs, 300);
});

test('ratios are baseline time over own time, per model and number of threads', (t) => {
  const rows = [row('slow', 1, 100), row('fast', 1, 40, 20), row('fast', 2, 20, 40)];
  t.deepEqual(ratioOf(rows[1] as Measurement, rows, 'slow'), { median: 2.5, p20: 2.5, cpu: 5 });
  t.is(ratioOf(rows[2] as Measurement, rows, 'slow'), undefined);
  t.is(gflops(17_500_000_000, 1000), 35);
});

test('the report has a row for each measurement, with ratios and a dash where there is no baseline', (t) => {
  const environment = ENVIRONMENT;
  const names = { baseline: 'slow', reference: 'slow' };
  const rows = [row('slow', 1, 100), row('fast', 1, 40, 20), row('fast', 2, 20, 40)];
  const text = renderResults(rows, environment, names, [
    firstResultVerdict({ count: 3, min: 250, p20: 270, median: 310 }),
  ]);
  t.true(text.includes('Node 20.20.0 (V8 11.3);\nonnxruntime-web 1.30.0. f32'));
  t.true(
    text.includes(
      '| m | 1 | fast | 40.0 / 40.0 / 40.0 | 20.0 | 50.0 | 2.50 / 2.50 / 5.00 | 3.00 | 4.00 | 7 | – | 1e-7 |',
    ),
  );
  t.true(text.includes('| m | 2 | fast | 20.0 / 20.0 / 20.0 | 40.0 | 100 | – | 3.00 | 4.00 | 7 | – | 1e-7 |'));
  t.true(text.includes('| import to first result | perceptron | 1 | heddle | ≤ 300 ms | 310 ms (best 250) | **no** |'));
  t.false(text.includes('Matrix products'));
});

test('promises are judged where the row has one and its baseline was measured', (t) => {
  const slow = { ...row('slow', 1, 100), model: 'vit-b16', open: { count: 1, min: 8, p20: 8, median: 8 } };
  const held = { plannedBytes: 300e6, deployedGzip: 31_000, peakRssBytes: 380e6, baseRssBytes: 45e6 };
  const fast = { ...row('heddle relaxed', 1, 52, 50), model: 'vit-b16', ...held };
  const alone = { ...row('heddle plain', 1, 60), model: 'bert-base-128' };
  const found = verdicts([slow, fast, alone], 'slow').map(({ what, measured, reached }) => [what, measured, reached]);
  t.deepEqual(found, [
    ['latency', '1.92 / 1.92 / 2.00 ×', true],
    ['opening', '0.38 × (3 ms of 8)', true],
    ['peak memory, MB', '335 (peak 380, of Node 45)', false],
    ['runtime, KB gzipped', '31.0', false],
  ]);
});

test('numbers are shown with three digits and tables align numbers to the right', (t) => {
  t.deepEqual([1234.5, 99.94, 5.678, 0.12345].map(digits), ['1235', '99.9', '5.68', '0.123']);
  t.is(markdownTable(['a', 'b'], 1, [['x', '1']]), '| a | b |\n| --- | ---: |\n| x | 1 |');
});

test('the whole models have the published parameter counts and multiply-adds', (t) => {
  const parameters = (name: string): number =>
    onnxGraph(findModel(name)).parameters.reduce((sum, it) => sum + it.shape.reduce((a, b) => a * b, 1), 0);
  t.is(parameters('vit-b16'), 86_567_656);
  t.is(findModel('vit-b16').macs, 17_563_828_224);
  t.is(parameters('bert-base-128'), 109_482_240);
  t.is(findModel('bert-base-128').macs, 11_173_625_856 + 768 * 768);
  t.is(parameters('minilm-l6-128'), 22_713_216);
  t.is(findModel('matmul-12x197x64x197').macs, 12 * 197 * 64 * 197);
});

test('every name is known, used once, and an unknown one lists them', (t) => {
  const names = [...MODEL_NAMES, ...MATMUL_NAMES];
  t.is(new Set(names.map((name) => findModel(name).name)).size, names.length);
  t.throws(() => findModel('vit'), { message: /no model "vit"; known are vit-b16, .*matmul-50x768x768/ });
});

test('seeded weights depend on the name alone and centre normalisations on one', (t) => {
  t.deepEqual(seededWeights('a.weight', [3, 4]), seededWeights('a.weight', [12]));
  t.notDeepEqual(seededWeights('a.weight', [4]), seededWeights('b.weight', [4]));
  t.true(seededWeights('encoder.layer.0.output.LayerNorm.weight', [64]).every((v) => Math.abs(v - 1) <= 0.0351));
  t.true(seededWeights('blocks.0.norm1.bias', [64]).every((v) => Math.abs(v) <= 0.0351));
});

test('onnxruntime runs a tiny ViT, and the head sees the class token through the last layer', async (t) => {
  const { logits } = await runOnnx(TINY_VIT, seededWeights);
  t.is(logits?.length, 5);
  // With a zero head the logits are the head's bias, whatever the trunk computes.
  const zeroHead: WeightSource = (name, shape) =>
    name === 'head.weight' ? new Float32Array(shape.reduce((a, b) => a * b, 1)) : seededWeights(name, shape);
  t.deepEqual((await runOnnx(TINY_VIT, zeroHead)).logits, seededWeights('head.bias', [5]));
  t.true(difference(logits as Float32Array, seededWeights('head.bias', [5])).maxAbs > 1e-3);
});

test('onnxruntime runs a tiny BERT whose last layer norm and pooler follow from the weights', async (t) => {
  const { last_hidden_state: hidden, pooler_output: pooled } = await runOnnx(TINY_BERT, seededWeights);
  t.is(hidden?.length, 7 * 10);
  const scale = seededWeights('encoder.layer.1.output.LayerNorm.weight', [10]);
  const shift = seededWeights('encoder.layer.1.output.LayerNorm.bias', [10]);
  const row = Array.from({ length: 10 }, (_, i) => (at(hidden, i) - at(shift, i)) / at(scale, i));
  t.true(Math.abs(row.reduce((a, b) => a + b, 0)) < 1e-4);
  t.true(Math.abs(row.reduce((a, b) => a + b * b, 0) / 10 - 1) < 1e-4);
  const weight = seededWeights('pooler.dense.weight', [10, 10]);
  const bias = seededWeights('pooler.dense.bias', [10]);
  const expected = Float32Array.from({ length: 10 }, (_, o) => {
    const product = Array.from({ length: 10 }, (_, i) => at(hidden, i) * at(weight, o * 10 + i));
    return Math.tanh(product.reduce((a, b) => a + b, at(bias, o)));
  });
  t.true(difference(pooled as Float32Array, expected).maxRel < 1e-5);
});

test('onnxruntime multiplies as the definition says, batched and by a weight', async (t) => {
  for (const model of [matmul({ m: 3, k: 5, n: 2 }), matmul({ batch: 2, m: 3, k: 4, n: 5 })]) {
    const { architecture } = model;
    if (architecture.kind !== 'matmul') return t.fail();
    const { batch = 1, m, k, n } = architecture.config;
    const inputs = inputsOf(model);
    const a = inputs.a?.data as Float32Array;
    const b = (inputs.b?.data as Float32Array | undefined) ?? seededWeights('weight', [k, n]);
    const expected = new Float32Array(batch * m * n);
    for (let i = 0; i < expected.length; i++) {
      const [z, row, column] = [Math.floor(i / (m * n)), Math.floor(i / n) % m, i % n];
      let sum = 0;
      for (let j = 0; j < k; j++) sum += at(a, (z * m + row) * k + j) * at(b, (z * k + j) * n + column);
      expected[i] = sum;
    }
    const { c } = await runOnnx(model, seededWeights);
    t.true(difference(c as Float32Array, expected).maxRel < 1e-6);
  }
});

for (const workload of [TINY_VIT, TINY_BERT, matmul({ m: 3, k: 5, n: 2 }), matmul({ batch: 2, m: 3, k: 4, n: 5 })]) {
  test(`heddle computes of ${workload.name} what onnxruntime does of its ONNX file`, async (t) => {
    const { model, weights, symbols } = heddleModel(workload, seededWeights);
    const session = await open(compile(model, { weights, symbols }), { threads: 1 });
    const results = await session.run(heddleInputs(workload));
    session.dispose();
    const outputs = Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]));
    t.true(agreement(outputs, await runOnnx(workload, seededWeights)).maxRel < 1e-5);
  });
}

test('a quantised workload is the float one in steps of its weights, in heddle as in onnxruntime', async (t) => {
  const { config } = TINY_BERT.architecture;
  if (!('vocabulary' in config)) throw new Error('not a BERT');
  const workload = bert('tiny-int8', { ...config, int8: true });
  const { model, weights, symbols } = heddleModel(workload, seededWeights);
  const session = await open(compile(model, { weights, symbols }), { threads: 1 });
  const results = await session.run(heddleInputs(workload));
  session.dispose();
  const outputs = Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]));
  t.true(agreement(outputs, await runOnnx(workload, seededWeights)).maxRel < 0.03);
  const stored = onnxProto.onnx.ModelProto.decode(onnxGraph(workload).encode(seededWeights)).graph?.initializer ?? [];
  const found = stored.filter((it) => it.name?.endsWith('_quantized'));
  t.is(found.length, 6 * config.layers);
  t.true(found.every((it) => Math.max(...Array.from(Int8Array.from(it.rawData ?? []), Math.abs)) === 127));
});

test('integers are held against floats of the baseline, where both were measured', (t) => {
  const of = (competitor: string, model: string, ms: number): Measurement => ({ ...row(competitor, 1, ms), model });
  const rows = [of('heddle relaxed', 'minilm-l6-128-int8', 10), of('onnxruntime-web', 'minilm-l6-128', 31)];
  const verdict = verdicts(rows, 'onnxruntime-web').find(({ what }) => what === 'latency against floats');
  t.is(verdict?.reached, true);
  t.regex(verdict?.measured ?? '', /^3\.10/);
  t.deepEqual(
    verdicts(rows.slice(0, 1), 'onnxruntime-web').filter(({ what }) => what === 'latency against floats'),
    [],
  );
});

test('a weight of the wrong length is refused by name', (t) => {
  const message = /parameter cls_token: got 3 values, shape \[1, 1, 12\] needs 12/;
  const wrong: WeightSource = (name, shape) =>
    name === 'cls_token' ? new Float32Array(3) : seededWeights(name, shape);
  t.throws(() => onnxGraph(TINY_VIT).encode(wrong), { message });
});

function at(values: Float32Array | undefined, i: number): number {
  return values?.[i] ?? Number.NaN;
}

async function runOnnx(model: typeof TINY_VIT, weights: WeightSource): Promise<Record<string, Float32Array>> {
  const session = await ort.InferenceSession.create(onnxGraph(model).encode(weights), { intraOpNumThreads: 1 });
  const feeds: Record<string, ort.Tensor> = {};
  for (const [name, { data, shape }] of Object.entries(inputsOf(model))) {
    feeds[name] = data instanceof Float32Array ? new ort.Tensor('float32', data, shape) : new ort.Tensor(data, shape);
  }
  const results = await session.run(feeds);
  return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]));
}

function row(competitor: string, threads: number, ms: number, cpuMs = ms): Measurement {
  const time = (value: number): Measurement['wall'] => ({ count: 1, min: value, p20: value, median: value });
  return {
    model: 'm',
    macs: 1e9,
    threads,
    competitor,
    agreement: { maxAbs: 1e-6, maxRel: 1e-7 },
    wall: time(ms),
    processMedians: [ms],
    cpu: time(cpuMs),
    open: time(3),
    firstRun: time(4),
    peakRssBytes: 7e6,
    baseRssBytes: 4e6,
  };
}

test('masked models: ratios are medians over rounds, promises follow from them', (t) => {
  const [model] = maskedModels(['mae-b16']);
  const reports = (medians: readonly number[], cpuMs: number) => medians.map((ms) => ({ wallMs: [ms, ms, ms], cpuMs }));
  const row = rowOf(model!, [240, 100], [reports([10, 20, 30], 12), reports([5, 10, 10], 6)]);
  t.is(row.times, 2);
  t.is(row.cpuTimes, 2);
  t.is(row.macTimes, 2.4);
  t.is(row.ways[0].wall.median, 20);
  t.deepEqual(
    maskedVerdicts([row]).map(({ promised, measured, reached }) => [promised, measured, reached]),
    [
      ['≥ 1.9 ×', '2.00 ×', true],
      ['≥ 0.85', '0.83 (of 2.40 ×)', false],
    ],
  );
  const environment = { ...ENVIRONMENT, rounds: 3 };
  const text = renderMasked([row], maskedVerdicts([row]), environment);
  t.regex(text, /\| mae-b16 \| as written \| 240 \|/);
  t.regex(text, /\| dropped \| 100 \| 10(\.0)? \/ .*2\.40 \| 2\.00 \| 2\.00 \| 0\.83 \| –/);
  t.regex(text, /\*\*no\*\*/);
  t.throws(() => maskedModels(['mae']), { message: /no masked model "mae"/ });
});

test('masked models execute fewer multiply-accumulates the second way', (t) => {
  const [causal] = maskedModels(['causal-2048']);
  const [longer, shorter] = causal!.ways.map((way) => executed(causal!, way)) as [number, number];
  t.is(longer, 12 * 2048 * 2048 * 128);
  t.true(longer / shorter >= 1.7 && longer / shorter < 2);
});
