/** Rows of every kind of axis that nobody reads: queries, layers, samples, tokens of a window, words, patches. */
import test from 'ava';
import { compile, lowerModel } from '../compiler/compile.ts';
import { allowedMacs, sampleFor } from '../compiler/report.ts';
import {
  add,
  attention,
  bool,
  concat,
  conv,
  dim,
  expand,
  f32,
  gather,
  gelu,
  groupNorm,
  i64,
  init,
  input,
  type Mask,
  type ModelGraph,
  mask,
  mergeHeads,
  model,
  nn,
  output,
  param,
  relu,
  reshape,
  select,
  slice,
  splitHeads,
  type Tensor,
  take,
} from '../frontends/dsl/index.ts';
import { evaluate } from '../ir/evaluate.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
import type { Dim } from '../ir/type.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { open } from '../runtime/open.ts';
import { modelParams, modelWeights } from './support/token-models.ts';

type X = Tensor<'f32'>;
const [W, M] = [64, 128];
const batch = dim('batch', { max: 8, default: 2 });
const dense = (name: string, from: number, to: number) => nn.linear(name, { in: from, out: to });
const norm = (name: string) => nn.layerNorm(name, { size: W });
function attend(name: string, x: X, memory: X, seen?: Mask): X {
  const [q, k, v] = (['q', 'k', 'v'] as const).map((part) =>
    splitHeads(dense(`${name}.${part}`, W, W)((part === 'q' ? x : memory) as never) as X, 2),
  );
  const mixed = mergeHeads(attention(q!, k!, v!, seen ? { mask: seen } : {}));
  return dense(`${name}.out`, W, W)(mixed as never) as X;
}
function block(name: string, x: X, seen?: Mask, cross?: { readonly memory: X; readonly seen?: Mask }): X {
  const h = norm(`${name}.n1`)(x as never) as X;
  let y = add(x, attend(`${name}.self`, h, h, seen)) as X;
  if (cross) y = add(y, attend(`${name}.cross`, norm(`${name}.nc`)(y as never) as X, cross.memory, cross.seen)) as X;
  const up = gelu(dense(`${name}.up`, W, M)(norm(`${name}.n2`)(y as never) as never) as X);
  return add(y, dense(`${name}.down`, M, W)(up as never) as X) as X;
}
const stack = (name: string, count: number, x: X, seen?: Mask): X =>
  Array.from({ length: count }, (_, n) => `${name}${n}`).reduce((y, layer) => block(layer, y, seen), x);
const tokens = (n: number) => input(f32, [batch, n, W] as readonly Dim[], 'tokens');
const bits = (n: number) => input(bool, [batch, n] as readonly Dim[], 'which count');

/** A block in products: rows of q, of k and v, of everything behind attention, and pairs. */
const cost = (q: number, kv: number, rest: number, pairs: number): number =>
  q * W * W + 2 * kv * W * W + rest * (W * W + 2 * W * M) + 2 * pairs * W;

interface Case {
  readonly model: ModelGraph;
  readonly inputs: Readonly<Record<string, Nd>>;
  readonly written: number;
  readonly compiled: number;
}
const wave = (...shape: number[]): Nd =>
  nd(
    'f32',
    shape,
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.fround(Math.sin(1.7 * i))),
  );
const KEPT = nd('bool', [2, 6], [1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0]);
const WORDS = 8;
const SQUARES = 9 + 25;

const CASES: Readonly<Record<string, () => Case>> = {
  'queries: masks are drawn for those that matched': () => {
    const [Q, C, S, P] = [10, 16, 6, 3];
    const kernel = (name: string, out: number, inner: number) => param(name, [out, inner, 3, 3], init.normal(0.1)) as X;
    const same = { pads: [1, 1, 1, 1] };
    const head = (x: X): X => {
      const first = conv(x, kernel('c1', C, C), undefined, same) as X;
      const scaled = groupNorm(first, param('scale', [C], init.ones) as X, param('shift', [C], init.zeros) as X, {
        groups: 4,
      }) as X;
      return conv(relu(scaled), kernel('c2', 1, C), undefined, same) as X;
    };
    const one = S * S * 9 * (C * C + C);
    return {
      model: model(
        'm',
        { x: input(f32, [Q, C, S, S], 'maps by query'), at: input(i64, [P], 'matched') },
        ({ x, at }) => ({
          masks: gather(head(x as X), at as never),
        }),
      ),
      inputs: { x: wave(Q, C, S, S), at: nd('i64', [P], [7, 0, 4]) },
      written: Q * one,
      compiled: P * one,
    };
  },
  'layers: heads on a stack of which the last is read': () => ({
    model: model('m', { x: tokens(4) }, ({ x }) => {
      const first = block('d0', x as X);
      const all = concat(
        [first, block('d1', first)].map((y) => reshape(y, [1, batch, 4, W] as readonly Dim[]) as X),
        0,
      );
      return { y: take(dense('head', W, 96)(all as never) as X, 0, 1) };
    }),
    inputs: { x: wave(2, 4, W) },
    written: 2 * cost(8, 8, 8, 32) + 16 * W * 96,
    compiled: 2 * cost(8, 8, 8, 32) + 8 * W * 96,
  }),
  'samples: of a batch the second alone is read': () => ({
    model: model('m', { x: input(f32, [4, 5, W], 'tokens') }, ({ x }) => ({ y: take(stack('b', 2, x as X), 0, 1) })),
    inputs: { x: wave(4, 5, W) },
    written: 2 * cost(20, 20, 20, 100),
    compiled: 2 * cost(5, 5, 5, 25),
  }),
  'samples: the third alone of a padded batch': () => ({
    model: model('m', { x: input(f32, [4, 5, W], 'tokens'), kept: input(bool, [4, 5], 'words') }, ({ x, kept }) => ({
      y: take(stack('b', 2, x as X, mask.keep(kept as Tensor<'bool'>)), 0, 2),
    })),
    inputs: {
      x: wave(4, 5, W),
      kept: nd('bool', [4, 5], [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0]),
    },
    written: 2 * cost(20, 20, 20, 100),
    compiled: 2 * cost(5, 5, 5, 5 * 3),
  }),
  'samples: those that a predicate keeps': () => ({
    model: model('m', { x: tokens(5), live: input(bool, [batch], 'samples that count') }, ({ x, live }) => ({
      y: output(stack('b', 2, x as X), { where: live as Tensor<'bool'> }),
    })),
    inputs: { x: wave(3, 5, W), live: nd('bool', [3], [0, 1, 0]) },
    written: 2 * cost(15, 15, 15, 75),
    compiled: 2 * cost(5, 5, 5, 25),
  }),
  'a window: the last token needs a cone': () => ({
    // Three layers over six tokens, each reading itself and the one before: 1, 2, 3 rows and their keys.
    model: model('m', { x: tokens(6) }, ({ x }) => ({
      y: slice(stack('b', 3, x as X, mask.window(1, 0)), 1, { start: 5 }),
    })),
    inputs: { x: wave(2, 6, W) },
    written: 3 * cost(12, 12, 12, 72),
    compiled: 2 * (cost(3, 4, 3, 6) + cost(2, 3, 2, 4) + cost(1, 2, 1, 2)),
  }),
  'encoder and decoder: the source has words and padding, and nothing says so': () => ({
    model: model('m', { x: tokens(6), kept: bits(6), y: tokens(3) }, ({ x, kept, y }) => {
      const seen = mask.keep(kept as Tensor<'bool'>);
      return { z: block('d', y as X, mask.causal(), { memory: stack('e', 2, x as X, seen), seen }) };
    }),
    inputs: { x: wave(2, 6, W), kept: KEPT, y: wave(2, 3, W) },
    written: 2 * cost(12, 12, 12, 72) + cost(6, 6, 6, 18) + 2 * 6 * W * W + 2 * 12 * W * W + 2 * 36 * W,
    compiled:
      2 * cost(WORDS, WORDS, WORDS, SQUARES) +
      cost(6, 6, 6, 12) +
      2 * 6 * W * W +
      2 * WORDS * W * W +
      2 * 3 * WORDS * W,
  }),
  'predictions of masked patches, which the encoder reads': () => ({
    model: model('m', { x: tokens(6), masked: bits(6) }, ({ x, masked }) => {
      const where = reshape(masked as Tensor<'bool'>, [batch, 6, 1] as readonly Dim[]);
      const token = expand(param('token', [1, 1, W], init.normal(1)), [batch, 6, W] as readonly Dim[]);
      const seen = select(where as never, token as X, x as X) as X;
      return {
        y: output(dense('head', W, 96)(stack('b', 2, seen) as never) as X, { where: masked as Tensor<'bool'> }),
      };
    }),
    inputs: { x: wave(2, 6, W), masked: KEPT },
    written: 2 * cost(12, 12, 12, 72) + 12 * W * 96,
    // Queries of the last block come from one product with the keys, of which every row is read.
    compiled: cost(12, 12, 12, 72) + cost(12, 12, WORDS, 6 * WORDS) + WORDS * W * 96,
  }),
};

for (const [name, make] of Object.entries(CASES)) {
  test(`${name}: work`, (t) => {
    const { model: authored, inputs, written, compiled } = make();
    const { entries, at } = lowerModel(authored, {});
    const known = sampleFor(entries[0]!, inputs, at)!;
    t.is(countMacs(authored.entries.main!, known.sizes), written);
    t.is(allowedMacs(entries[0]!.relaxed, known.sizes, known), compiled);
  });

  test(`${name}: results are the same, bit by bit`, (t) => {
    const { model: authored, inputs } = make();
    const graph = authored.entries.main!;
    const want = evaluate(graph, { inputs, params: modelParams });
    const got = evaluate(runPasses(graph, pipelineFor()), { inputs, params: modelParams });
    for (const [key, { data, shape }] of Object.entries(want)) {
      t.deepEqual(got[key]!.shape, shape);
      t.true(data.every((v, i) => v === got[key]!.data[i]));
      t.true(data.some((v) => v !== 0));
    }
  });

  test(`${name}: compiled`, async (t) => {
    const { model: authored, inputs } = make();
    const graph = authored.entries.main!;
    const session = await open(compile(authored, { weights: modelWeights(graph) }));
    t.teardown(() => session.dispose());
    const want = evaluate(graph, { inputs, params: modelParams });
    const got = await session.run(
      Object.fromEntries(
        Object.entries(inputs).map(([key, { shape, dtype, data }]) => [
          key,
          {
            shape,
            data:
              dtype === 'i64'
                ? BigInt64Array.from(data, BigInt)
                : dtype === 'bool'
                  ? Uint8Array.from(data)
                  : Float32Array.from(data),
          },
        ]),
      ),
    );
    for (const [key, { data }] of Object.entries(want)) {
      const most = Math.max(...data.map(Math.abs));
      t.true(
        data.every((v, i) => Math.abs(v - Number(got[key]!.data[i])) <= 1e-5 * most),
        key,
      );
    }
  });
}
