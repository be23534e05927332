/** Batches of which each entry has another number of rows that are read, computed as one list. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import {
  add,
  argMax,
  attention,
  causal,
  dim,
  gelu,
  i64,
  init,
  input,
  mergeHeads,
  model,
  nn,
  param,
  reshape,
  splitHeads,
  Tensor,
} from '../frontends/dsl/index.ts';
import { bert } from '../frontends/zoo/bert.ts';
import { seededWeights } from '../frontends/zoo/seeded.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graphValues, typeOf } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { compact } from '../ir/ops/rows.ts';
import type { WeightStore } from '../ir/weights.ts';
import { toFloat32 } from '../ir/weights.ts';
import { packRows } from '../passes/pack-rows.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { open } from '../runtime/open.ts';
import { compileGraph, ENGINES } from './support/run-graph.ts';

const small = { layers: 2, width: 32, heads: 4, mlp: 128, vocabulary: 40, positions: 24 } as const;
const N = 9;

/** 1 for the words of each entry. */
const MASKS: Readonly<Record<string, readonly (readonly number[])[]>> = {
  'lengths 1, N − 1 and N': [
    [1, 0, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 1],
  ],
  'one entry': [[1, 1, 1, 1, 0, 0, 0, 0, 0]],
  'all of equal length': [
    [1, 1, 1, 1, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 0, 0, 0, 0, 0],
  ],
  'no padding': [
    [1, 1, 1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 1, 1, 1, 1],
  ],
  'padding before, and holes': [
    [0, 0, 0, 1, 1, 1, 1, 1, 1],
    [1, 0, 1, 0, 0, 1, 1, 0, 1],
  ],
  'nothing but padding': [
    [0, 0, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0],
  ],
};

function inputsOf(mask: readonly (readonly number[])[], padding = 0): Record<string, Nd> {
  const shape = [mask.length, N];
  const words = mask.flatMap((line, b) => line.map((m, n) => (m ? (b * 7 + n * 5) % 40 : padding)));
  return {
    input_ids: nd('i64', shape, words),
    attention_mask: nd('i64', shape, mask.flat()),
    token_type_ids: nd(
      'i64',
      shape,
      mask.flat().map((_, i) => i % 2),
    ),
  };
}

const classifier = bert({ ...small, maskedLm: false });
const weights = seededWeights(classifier, 3);
const paramOf =
  (store: WeightStore) =>
  (name: string): Nd => {
    const tensor = store.get(name)!;
    return nd(tensor.dtype, tensor.shape, toFloat32(tensor));
  };
const withoutPacking = pipelineFor().filter((pass) => pass !== packRows);
const padded = runPasses(classifier.entries.main!, withoutPacking);
const packed = runPasses(padded, [packRows]);

test('a padded batch is computed packed, and says so', (t) => {
  const remarks: string[] = [];
  runPasses(padded, [packRows], { remark: ({ kind, why }) => remarks.push(`${kind}: ${why}`) });
  t.is(remarks.length, 1);
  t.regex(remarks[0]!, /^applied: \d+ values hold the packed of batch × sequence rows that are read/);
  const products = graphValues(packed).filter((v) => v.op.name === 'matmul' && typeOf(v).shape.length === 3);
  const rows = products.map((v) => typeOf(v).shape.map(String).length > 0 && typeOf(v).shape[0] === 1);
  t.true(rows.filter(Boolean).length >= 5, `${rows}`);
});

test('packed and padded batches give the same bits in the reference', (t) => {
  for (const [note, mask] of Object.entries(MASKS)) {
    const inputs = inputsOf(mask);
    const [want, got] = [padded, packed].map((g) => evaluate(g, { inputs, params: paramOf(weights) }));
    for (const [name, { data }] of Object.entries(want!))
      for (const [i, x] of data.entries())
        t.true(Object.is(got![name]!.data[i], x) || x === 0, `${note}: ${name}[${i}]`);
  }
});

test('words behind the padding change nothing', (t) => {
  for (const mask of Object.values(MASKS)) {
    const [a, b] = [0, 39].map((word) => {
      const inputs = inputsOf(mask, word);
      // The first word of an entry is read whether it is padding or not.
      mask.forEach((_, entry) => {
        inputs.input_ids!.data[entry * N] = 3;
      });
      return evaluate(packed, { inputs, params: paramOf(weights) });
    });
    t.deepEqual([...a!.seq_relationship_logits!.data], [...b!.seq_relationship_logits!.data]);
  }
});

test('kernels compute the packed batch on every engine, in memory full of NaN', (t) => {
  const runnable = compileGraph(packed, weights);
  for (const [note, mask] of Object.entries(MASKS)) {
    const inputs = inputsOf(mask);
    const want = evaluate(classifier.entries.main!, { inputs, params: paramOf(weights) }).seq_relationship_logits!;
    for (const engine of ENGINES) {
      const got = runnable.run(engine, inputs).seq_relationship_logits!;
      for (const [i, x] of want.data.entries())
        t.true(Math.abs(got.data[i]! - x) <= 2e-5, `${engine}, ${note}: ${got.data[i]} for ${x}`);
    }
  }
});

test('one session takes batches of any lengths, alone and with threads', async (t) => {
  const bundle = compile(classifier, { weights });
  for (const threads of [1, 3]) {
    const session = await open(bundle, { threads });
    for (const [note, mask] of [...Object.entries(MASKS), ...Object.entries(MASKS).reverse()]) {
      const inputs = inputsOf(mask);
      const want = evaluate(classifier.entries.main!, { inputs, params: paramOf(weights) }).seq_relationship_logits!;
      const given = Object.entries(inputs).map(([name, { data, shape }]) => [
        name,
        { data: BigInt64Array.from(data, BigInt), shape },
      ]);
      const got = await session.run(Object.fromEntries(given));
      const data = got.seq_relationship_logits!.data as Float32Array;
      for (const [i, x] of want.data.entries())
        t.true(Math.abs(data[i]! - x) <= 2e-5, `${threads} threads, ${note}: ${data[i]} for ${x}`);
    }
    session.dispose();
  }
});

test('the packed batch is counted by its words', (t) => {
  const lengths = { batch: 4, sequence: 20 };
  const at = (g: Graph, words: number): number => countMacs(g, { ...lengths, packed: words });
  const perWord = at(packed, 41) - at(packed, 40);
  // One layer of four products and two thirds of another; the last one has keys and values only.
  t.is(perWord, 12 * 32 * 32 + 2 * 32 * 32);
  t.is(at(packed, 80), at(padded, 0));
});

/** A causal text encoder of which one row of each text is read, the one of its last word. */
function textTower(): Graph {
  const [width, heads, length] = [32, 4, 12];
  const batch = dim('batch', { max: 8, default: 2 });
  const dense = (name: string, from: number, to: number) => nn.linear(name, { in: from, out: to });
  const block = (x: Tensor<'f32'>, name: string): Tensor<'f32'> => {
    const h = nn.layerNorm(`${name}.ln_1`, { size: width })(x);
    const [q, k, v] = ['q', 'k', 'v'].map((part) => splitHeads(dense(`${name}.${part}`, width, width)(h), heads));
    const y = add(x, dense(`${name}.o`, width, width)(mergeHeads(attention(q!, k!, v!, { mask: causal }))));
    const up = dense(`${name}.up`, width, 4 * width)(nn.layerNorm(`${name}.ln_2`, { size: width })(y));
    return add(y, dense(`${name}.down`, 4 * width, width)(gelu(up)));
  };
  return model('text', { ids: input(i64, [batch, length]) }, ({ ids }) => {
    const places = param('places', [length, width], init.normal(0.02));
    const words = nn.embedding('words', { rows: 50, width })(ids);
    const x = ['a', 'b', 'c'].reduce(block, add(words, places) as Tensor<'f32'>);
    const last = reshape(argMax(ids, -1), [batch, 1]);
    return { row: new Tensor(compact([x.value, last.value], { axis: 1 })) };
  }).entries.main!;
}

test('texts are computed up to their last words', (t) => {
  const authored = textTower();
  const params = (name: string, { shape, dtype }: { shape: readonly unknown[]; dtype: 'f32' | string }): Nd => {
    const sizes = shape as readonly number[];
    const next = seeded([...name].reduce((sum, c) => sum + c.charCodeAt(0), 0));
    const count = sizes.reduce((a, b) => a * b, 1);
    t.is(dtype, 'f32');
    return nd(
      'f32',
      sizes,
      Array.from({ length: count }, () => next() - 0.5),
    );
  };
  const optimised = runPasses(authored, pipelineFor());
  // Lengths 1, 5 and 12; the last word has the largest number.
  const ids = [0, 4, 11].flatMap((last) => Array.from({ length: 12 }, (_, n) => (n === last ? 49 : (n * 7) % 30)));
  const inputs = { ids: nd('i64', [3, 12], ids) };
  const [want, got] = [authored, optimised].map((g) => evaluate(g, { inputs, params }).row!.data);
  want!.forEach((x, i) => {
    t.true(Math.abs(got![i]! - x) <= 1e-6 * Math.max(1, Math.abs(x)), `[${i}]: ${got![i]} for ${x}`);
  });
  const at = (rows: number): number => countMacs(optimised, { batch: 3, packed: rows });
  // Two layers, and the keys and values of the third.
  t.is(at(18) - at(17), 26 * 32 * 32);
});

test('where all rows are returned nothing is packed', (t) => {
  const whole = runPasses(bert({ ...small, nextSentence: false, pooler: false }).entries.main!, withoutPacking);
  t.is(runPasses(whole, [packRows]), whole);
});
