/** Batches of every shape of padding, packed: kernels against the model as it is written, on rows of every length. */
import test from 'ava';
import { bert } from '../frontends/zoo/bert.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graphValues } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { packRowsPass } from '../passes/pack-rows.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import type { Tensors } from './support/replay.ts';
import { compileGraph } from './support/run-graph.ts';
import { modelParams, modelWeights } from './support/token-models.ts';

/** Positions; kernels take keys by eight and rows by 24. */
const N = 26;
const [KEYS, ROWS] = [8, 24];
const stack = { layers: 1, width: 8, heads: 2, mlp: 16, vocabulary: 11, positions: N } as const;

/** 1 for the words of each entry. */
type Kept = readonly (readonly number[])[];
const upTo = (n: number): number[] => Array.from({ length: N }, (_, i) => Number(i < n));
const from = (n: number): number[] => Array.from({ length: N }, (_, i) => Number(i >= n));
const holes = (seed: number): number[] => {
  const next = seeded(seed);
  return Array.from({ length: N }, () => Number(next() < 0.5));
};
const LENGTHS = [0, 1, KEYS - 1, KEYS, KEYS + 1, ROWS - 1, ROWS, ROWS + 1, N];
const spread = (count: number, seed: number): number[] => {
  const next = seeded(seed);
  return Array.from({ length: count }, () => LENGTHS[Math.floor(next() * LENGTHS.length)]!);
};

const BATCHES: Readonly<Record<string, Kept>> = {
  ...Object.fromEntries(LENGTHS.map((n) => [`one entry of ${n}`, [upTo(n)]])),
  ...Object.fromEntries(LENGTHS.map((n) => [`three entries of ${n}`, [upTo(n), upTo(n), upTo(n)]])),
  'three entries of unequal lengths': [upTo(ROWS + 1), upTo(0), upTo(KEYS - 1)],
  'sixteen entries of unequal lengths': spread(16, 1).map(upTo),
  'sixteen others': spread(16, 2).map(upTo),
  'one long entry among sixteen': Array.from({ length: 16 }, (_, b) => upTo(b === 5 ? N : 1)),
  'one short entry among sixteen': Array.from({ length: 16 }, (_, b) => upTo(b === 5 ? 1 : N)),
  'every place taken': Array.from({ length: 16 }, () => upTo(N)),
  'nothing at all': Array.from({ length: 3 }, () => upTo(0)),
  'padding before the words': [from(0), from(KEYS), from(N)],
  'padding before the words of sixteen': spread(16, 3).map(from),
  holes: [holes(1), holes(2), holes(3)],
  'holes in sixteen': Array.from({ length: 16 }, (_, b) => holes(b)),
};

function inputsOf(kept: Kept): Tensors {
  const shape = [kept.length, N];
  const all = kept.flat();
  return {
    input_ids: nd(
      'i64',
      shape,
      all.map((m, i) => (m ? (i * 5) % 11 : 0)),
    ),
    attention_mask: nd('i64', shape, all),
    token_type_ids: nd(
      'i64',
      shape,
      all.map((_, i) => i % 2),
    ),
  };
}

interface Model {
  readonly written: Graph;
  /** Rows of an entry that somebody reads. */
  reads(kept: readonly number[]): number;
}
const sum = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0);
const MODELS: Readonly<Record<string, Model>> = {
  // The class token is read whether it is a word or not.
  'class token': {
    written: bert({ ...stack, layers: 2, maskedLm: false }).entries.main!,
    reads: (kept) => sum(kept) + (kept[0] ? 0 : 1),
  },
  'hidden states of words': {
    written: bert({ ...stack, maskedLm: false, nextSentence: false, pooler: false, hiddenStates: 'tokens' }).entries
      .main!,
    reads: sum,
  },
};
const passes = pipelineFor().map((pass) => (pass.name === 'pack-rows' ? packRowsPass(0) : pass));
/** Largest |got − want|: values are of the order of one. */
const TOLERANCE = 2e-5;

for (const [name, { written, reads }] of Object.entries(MODELS)) {
  const packed = runPasses(written, passes);
  const compiled = compileGraph(packed, modelWeights(written));
  test(`${name}: packed batches are what they are when padded`, (t) => {
    t.true(graphValues(packed).some((v) => v.op.name === 'counted'));
    for (const [note, kept] of Object.entries(BATCHES)) {
      const inputs = inputsOf(kept);
      const want = evaluate(written, { inputs, params: modelParams });
      const counts: number[] = [];
      const observe = (v: { readonly op: { readonly name: string } }, x: Nd | readonly Nd[]): void => {
        if (v.op.name === 'counted' && 'shape' in x) counts.push(x.shape[0]!);
      };
      const reference = evaluate(packed, { inputs, params: modelParams, observe });
      t.is(counts[0], sum(kept.map(reads)), `${note}: rows that are packed`);
      const got = compiled.run('wasm relaxed', inputs);
      for (const [output, { data }] of Object.entries(want))
        for (const [i, x] of data.entries()) {
          const [exact, near] = [reference[output]!.data[i]!, got[output]!.data[i]!];
          if (!(exact === x && Math.abs(near - x) <= TOLERANCE))
            t.fail(`${note}: ${output}[${i}] is ${exact} and compiled ${near}, not ${x}`);
        }
    }
  });
}
