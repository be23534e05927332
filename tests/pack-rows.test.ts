/** Batches of which each entry has another number of rows that are read, computed as one list. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { bert } from '../frontends/zoo/bert.ts';
import { seededWeights } from '../frontends/zoo/seeded.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graphValues, typeOf } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
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

test('where all rows are returned nothing is packed', (t) => {
  const whole = runPasses(bert({ ...small, nextSentence: false, pooler: false }).entries.main!, withoutPacking);
  t.is(runPasses(whole, [packRows]), whole);
});
