/**
 * Queries that may read no key: the five meanings that programs give them, in every spelling that has that meaning, where
 * somebody reads the query and where nobody does. What is wanted is computed here, from the definition.
 */

import test from 'ava';
import type onnxProto from 'onnx-proto';
import { importOnnx } from '../frontends/onnx/index.ts';
import { ndOf } from '../frontends/onnx/tensor.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graph, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import * as e from '../ir/ops/elementwise.ts';
import { seeded } from '../ir/ops/example.ts';
import { matmul } from '../ir/ops/linear.ts';
import { softmax } from '../ir/ops/norm.ts';
import { reduceAny } from '../ir/ops/reduce.ts';
import { iota, sliceAxis } from '../ir/ops/shape.ts';
import { input, scalar } from '../ir/ops/structural.ts';
import { dropTokensPass } from '../passes/drop-tokens.ts';
import { packRowsPass } from '../passes/pack-rows.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { encodeModel, int, type NodeSpec, node, value } from './onnx-kit.ts';
import { compileGraph, type Engine } from './support/run-graph.ts';

type Attribute = onnxProto.onnx.IAttributeProto;

/** What a query without keys gets: zeros, NaN, the mean of all values, or what it would get without a mask. */
type Meaning = 'zero' | 'nan' | 'uniform' | 'unmasked';

const [B, H, S, D] = [3, 2, 5, 4];
const LEAST = -3.4028234663852886e38;
/** Keys of each entry: of the first some, of the second none, of the last all. */
const LENGTHS = [2, 0, S];
const HOLES = [0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1];

const next = seeded(77);
const floats = (): Nd =>
  nd(
    'f32',
    [B, H, S, D],
    Array.from({ length: B * H * S * D }, () => next() * 2 - 1),
  );
const DATA = { q: floats(), k: floats(), v: floats() };

/** From the definition, in doubles. */
function wanted(meaning: Meaning, keep: (entry: number, key: number) => boolean): Nd {
  const { q, k, v } = DATA;
  const at = (x: Nd, b: number, h: number, n: number, d: number): number => x.data[((b * H + h) * S + n) * D + d]!;
  const all = [...Array(S).keys()];
  const out = nd('f32', [B, H, S, D]);
  let n = 0;
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let i = 0; i < S; i++) {
        const own = all.filter((j) => keep(b, j));
        const seen = own.length === 0 && meaning === 'unmasked' ? all : own;
        const scores = all.map((j) => {
          let dot = 0;
          for (let d = 0; d < D; d++) dot += at(q, b, h, i, d) * at(k, b, h, j, d);
          return seen.includes(j) ? Math.exp(dot / Math.sqrt(D)) : 0;
        });
        const total = scores.reduce((x, y) => x + y, 0);
        for (let d = 0; d < D; d++) {
          const weighed = all.reduce((sum, j) => sum + scores[j]! * at(v, b, h, j, d), 0) / total;
          const mean = all.reduce((sum, j) => sum + at(v, b, h, j, d), 0) / S;
          out.data[n++] = seen.length > 0 ? weighed : { zero: 0, nan: NaN, uniform: mean, unmasked: NaN }[meaning];
        }
      }
  return out;
}

/** Where keys are hidden: bits that are given, or fewer keys than there are. */
type Hidden = 'bits' | 'lengths';
const MASKS: Readonly<Record<Hidden, { readonly given: Nd; keep(b: number, k: number): boolean }>> = {
  bits: { given: nd('bool', [B, 1, 1, S], HOLES), keep: (b, k) => HOLES[b * S + k] === 1 },
  lengths: { given: nd('i64', [B, 1, 1, 1], LENGTHS), keep: (b, k) => k < LENGTHS[b]! },
};

/** A program of one attention, `y`, over `q`, `k`, `v` and `m`: a mask of that kind. */
type Spelling = (hidden: Hidden) => Graph;

// ---------------------------------------------------------------- single operations

const port = (name: string, { dtype, shape }: Nd): Value => input([], { name, dtype, shape }, { name });

/** softmax(q·kᵀ / √D + terms)·v, one operation after another. */
const decomposed =
  (terms: (scores: Value, keep: Value) => Value, finish = (y: Value, _: Value): Value => y): Spelling =>
  (hidden) => {
    const [q, k, v, m] = [...Object.entries(DATA), ['m', MASKS[hidden].given] as const].map(([n, x]) => port(n, x)) as [
      Value,
      Value,
      Value,
      Value,
    ];
    const keys = iota([], { axis: 3, shape: [1, 1, 1, S], dtype: 'i64' });
    const keep = hidden === 'bits' ? m : e.less([keys, m]);
    const scores = e.mul([matmul([q, k], { transposeB: true }), scalar(1 / Math.sqrt(D))]);
    const y = finish(matmul([softmax([terms(scores, keep)]), v]), keep);
    return graph('decomposed', [q, k, v, m], [['y', y]]);
  };
const added = (fill: number) => (scores: Value, keep: Value) =>
  e.add([scores, e.select([keep, scalar(0), scalar(fill)])]);
const filled = (fill: number) => (scores: Value, keep: Value) => e.select([keep, scores, scalar(fill)]);
const zeroed = (y: Value, keep: Value): Value =>
  e.select([reduceAny([keep], { axes: [3], keepdims: true }), y, scalar(0)]);

// ---------------------------------------------------------------- ONNX

const f = (name: string, x: number): Attribute => ({ name, type: 1, f: x });
const [FLOAT, INT64, BOOL, INT32] = [1, 7, 9, 6];
const constantNode = (name: string, x: number): NodeSpec =>
  node('Constant', [], [name], [{ name: 'value_float', type: 1, f: x }]);

interface OnnxOptions {
  readonly opset: number;
  readonly domains?: Readonly<Record<string, number>>;
}
/** A file with nodes that make `y` of `q`, `k`, `v` and of `keep` bool[B, 1, 1, S]. */
const file =
  (nodes: readonly NodeSpec[], { opset, domains = {} }: OnnxOptions): Spelling =>
  (hidden) => {
    const bytes = encodeModel({
      nodes: [
        ...(hidden === 'bits'
          ? [node('Identity', ['m'], ['keep'])]
          : [
              node('Constant', [], ['keys'], [{ name: 'value_ints', type: 7, ints: [...Array(S).keys()] }]),
              node('Less', ['keys', 'm'], ['keep']),
            ]),
        ...nodes,
      ],
      inputs: [
        ...['q', 'k', 'v'].map((name) => value(name, [B, H, S, D], FLOAT)),
        hidden === 'bits' ? value('m', [B, 1, 1, S], BOOL) : value('m', [B, 1, 1, 1], INT64),
      ],
      outputs: ['y'],
      opset,
      domains,
    });
    const { model, weights } = importOnnx(bytes);
    if (weights.names().length > 0) throw new Error(`${ndOf(weights.get(weights.names()[0]!)!).dtype} is not expected`);
    return model.entries.main!;
  };
/** An Attention with a mask of floats: 0 for keys that count. */
const floatMask = (fill: number): readonly NodeSpec[] => [
  constantNode('none', 0),
  constantNode('fill', fill),
  node('Where', ['keep', 'none', 'fill'], ['mask']),
  node('Attention', ['q', 'k', 'v', 'mask'], ['y']),
];
const boolMask = [node('Attention', ['q', 'k', 'v', 'keep'], ['y'])];

/** MultiHeadAttention of com.microsoft over [B, S, H·D], its mask i32[B, S]. */
const contrib = (fill: number): readonly NodeSpec[] => {
  const flat = ['q', 'k', 'v'].flatMap((name) => [
    node('Transpose', [name], [`${name}t`], [{ name: 'perm', type: 7, ints: [0, 2, 1, 3] }]),
    node('Reshape', [`${name}t`, 'wide'], [`${name}f`]),
  ]);
  const shape = (name: string, ...ints: number[]): NodeSpec =>
    node('Constant', [], [name], [{ name: 'value_ints', type: 7, ints }]);
  return [
    shape('wide', B, S, H * D),
    shape('narrow', B, S),
    shape('headed', B, S, H, D),
    ...flat,
    node('Reshape', ['keep', 'narrow'], ['keepFlat']),
    node('Cast', ['keepFlat'], ['mask'], [int('to', INT32)]),
    node(
      'MultiHeadAttention',
      ['qf', 'kf', 'vf', '', 'mask'],
      ['yf'],
      [int('num_heads', H), f('mask_filter_value', fill)],
      { domain: 'com.microsoft' },
    ),
    node('Reshape', ['yf', 'headed'], ['yh']),
    node('Transpose', ['yh'], ['y'], [{ name: 'perm', type: 7, ints: [0, 2, 1, 3] }]),
  ];
};
const microsoft = { opset: 17, domains: { 'com.microsoft': 1 } };

/** Each spelling with its meaning. */
const SPELLINGS: Readonly<Record<string, readonly [Meaning, Spelling]>> = {
  'single operations, −∞ added': ['nan', decomposed(added(-Infinity))],
  'single operations, filled with −∞': ['nan', decomposed(filled(-Infinity))],
  'single operations, the least float added': ['uniform', decomposed(added(LEAST))],
  'single operations, filled with the least float': ['uniform', decomposed(filled(LEAST))],
  'single operations, the least float added twice': ['nan', decomposed((x, m) => added(LEAST)(added(LEAST)(x, m), m))],
  'single operations, −10000 added': ['unmasked', decomposed(added(-10000))],
  'single operations, −∞ and then zeros': ['zero', decomposed(filled(-Infinity), zeroed)],
  ...Object.fromEntries(
    [23, 24, 25].flatMap((opset): [string, readonly [Meaning, Spelling]][] => [
      [`Attention-${opset}, truths`, ['zero', file(boolMask, { opset })]],
      [`Attention-${opset}, −∞`, ['zero', file(floatMask(-Infinity), { opset })]],
      [`Attention-${opset}, the least float`, ['uniform', file(floatMask(LEAST), { opset })]],
      [`Attention-${opset}, −10000`, ['unmasked', file(floatMask(-10000), { opset })]],
    ]),
  ),
  'MultiHeadAttention, −10000': ['unmasked', file(contrib(-10000), microsoft)],
  'MultiHeadAttention, the least float': ['uniform', file(contrib(LEAST), microsoft)],
  'MultiHeadAttention, −∞': ['nan', file(contrib(-Infinity), microsoft)],
};

/** Rows of the first entry alone; the second, which has no keys, is read by nobody. */
function ofFirst(g: Graph): Graph {
  return graph(g.name, g.inputs, [['y', sliceAxis(g.outputs.get('y')!, 0, 0, 1)]]);
}
/** Each query's row put first or read as a whole, so that rows can be left out along their own axis as well. */
const readBy: Readonly<Record<string, (g: Graph) => Graph>> = {
  'the row is read': (g) => g,
  'the row is not read': ofFirst,
  'one query is read': (g) => graph(g.name, g.inputs, [['y', sliceAxis(g.outputs.get('y')!, 2, 1, 2)]]),
};

const passes = pipelineFor().map((pass) =>
  pass.name === 'drop-tokens'
    ? dropTokensPass({ macsPerElement: 0, share: 0.999 })
    : pass.name === 'pack-rows'
      ? packRowsPass(0)
      : pass,
);
const ENGINES: readonly Engine[] = ['host plain', 'wasm relaxed'];

/** The first element that is not what is wanted. */
function wrong(got: Nd, want: Nd, tolerance: number): string | undefined {
  const at = want.data.findIndex((x, i) => {
    const y = got.data[i]!;
    return Number.isNaN(x) ? !Number.isNaN(y) : !(Math.abs(x - y) <= tolerance);
  });
  return at < 0 ? undefined : `element ${at} is ${got.data[at]}, not ${want.data[at]}`;
}

for (const [name, [meaning, spelled]] of Object.entries(SPELLINGS))
  test(`${name}: ${meaning}`, (t) => {
    const tolerance = 3e-6;
    // Beside −10000 a score keeps three decimals until the mask is known for what it is.
    const asWritten = meaning === 'unmasked' ? 5e-3 : tolerance;
    const precision = 'f32';
    for (const hidden of ['bits', 'lengths'] as const) {
      const { given, keep } = MASKS[hidden];
      const inputs = { ...DATA, m: given };
      const full = wanted(meaning, keep);
      for (const [reader, cut] of Object.entries(readBy)) {
        const where = `${hidden}, ${reader}`;
        const y = port('y', full);
        const want = evaluate(cut(graph('want', [y], [['y', y]])), { inputs: { y: full } }).y!;
        const written = cut(spelled(hidden));
        t.is(wrong(evaluate(written, { inputs, precision }).y!, want, asWritten), undefined, `${where}, as written`);
        const optimised = runPasses(written, passes);
        t.is(wrong(evaluate(optimised, { inputs, precision }).y!, want, tolerance), undefined, `${where}, optimised`);
        if (hidden === 'lengths' && reader !== 'the row is read') continue;
        const compiled = compileGraph(optimised);
        for (const engine of ENGINES)
          t.is(wrong(compiled.run(engine, inputs).y!, want, tolerance), undefined, `${where}, ${engine}`);
      }
    }
  });
