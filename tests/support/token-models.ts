/**
 * Small models of every kind of which somebody does not read all rows, written as their authors write them: nothing is
 * dropped by hand. Each with operands on which the rows that are read differ between entries.
 */
import {
  add,
  attention,
  bool,
  cast,
  causal,
  concat,
  dim,
  div,
  expand,
  f32,
  gelu,
  i64,
  init,
  input,
  type Mask,
  mask,
  mergeHeads,
  model,
  mul,
  nn,
  output,
  param,
  reshape,
  select,
  slice,
  splitHeads,
  sum,
  type Tensor,
  take,
  takeRows,
  transpose,
} from '../../frontends/dsl/index.ts';
import { bert } from '../../frontends/zoo/bert.ts';
import { clip } from '../../frontends/zoo/clip.ts';
import { gpt2 } from '../../frontends/zoo/gpt2.ts';
import { mae } from '../../frontends/zoo/mae.ts';
import { vit } from '../../frontends/zoo/vit.ts';
import { type Graph, graphValues, typeOf } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { seeded } from '../../ir/ops/example.ts';
import type { Dim } from '../../ir/type.ts';
import type { WeightStore, WeightTensor } from '../../ir/weights.ts';
import type { Params, Tensors } from './replay.ts';

export interface TokenModel {
  readonly graph: Graph;
  readonly inputs: Tensors;
  /**
   * Rows that demands name and that change nothing all the same, by op. A query that sees a single key gives it the weight 1
   * whatever the query is.
   */
  readonly spare?: Readonly<Record<string, number>>;
  /** Why nothing is dropped though rows of some values are read by nobody. */
  readonly kept?: string;
}

const WIDTH = 4;
const MLP = 8;
export const ENTRIES = 2;
const stack = { layers: 2, width: WIDTH, heads: 1, mlp: MLP } as const;
const patches = { imageSize: 6, patchSize: 2, channels: 1 } as const;
const PATCHES = 9;

const floats = (seed: number, ...shape: number[]): Nd => {
  const next = seeded(seed);
  return nd(
    'f32',
    shape,
    Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => next() * 2 - 1),
  );
};
const pixels = (): Nd => floats(3, ENTRIES, 1, 6, 6);

/** Parameters: no zeros and no ones, so that nothing falls out by chance. */
export const modelParams: Params = (name, { shape, dtype }) => {
  const next = seeded([...name].reduce((hash, c) => Math.imul(hash, 31) + c.charCodeAt(0), 11));
  const sizes = shape as readonly number[];
  return nd(
    dtype,
    sizes,
    Array.from({ length: sizes.reduce((n, d) => n * d, 1) }, () => 0.2 + next() * (next() < 0.5 ? -1.4 : 1)),
  );
};

type X = Tensor<'f32'>;
const dense = (name: string, from: number, to: number) => nn.linear(name, { in: from, out: to });
const norm = (name: string) => nn.layerNorm(name, { size: WIDTH });

/** softmax(q·kᵀ)·v with projections; keys and values from `memory`. */
function attend(name: string, x: X, memory: X, seen?: Mask): X {
  const [q, k, v] = [x, memory, memory].map((y, n) => splitHeads(dense(`${name}.${n}`, WIDTH, WIDTH)(y), 1));
  return mergeHeads(attention(q!, k!, v!, seen ? { mask: seen } : {})) as X;
}
/** A pre-norm block, with cross-attention where there is a memory. */
function block(name: string, x: X, seen?: Mask, cross?: { readonly memory: X; readonly seen?: Mask }): X {
  const h = norm(`${name}.n1`)(x);
  let y: X = add(x, attend(`${name}.self`, h, h, seen));
  if (cross) y = add(y, attend(`${name}.cross`, norm(`${name}.nc`)(y), cross.memory, cross.seen));
  const up = gelu(dense(`${name}.up`, WIDTH, MLP)(norm(`${name}.n2`)(y)));
  return add(y, dense(`${name}.down`, MLP, WIDTH)(up)) as X;
}
const blocks = (name: string, count: number, x: X, seen?: Mask): X =>
  Array.from({ length: count }, (_, n) => `${name}${n}`).reduce((y, layer) => block(layer, y, seen), x);

const batch = dim('batch', { max: 8, default: ENTRIES });
const tokens = (n: number) => input(f32, [batch, n, WIDTH] as readonly Dim[]);
const padding = (n: number) => input(bool, [batch, n] as readonly Dim[]);
/** Right padding in the first entry, holes in the second. */
const KEPT = nd('bool', [ENTRIES, 5], [1, 1, 1, 0, 0, 1, 0, 1, 1, 0]);
const entryOf = (m: { readonly entries: Readonly<Record<string, Graph>> }, name = 'main'): Graph => m.entries[name]!;

const words = (n: number): Nd =>
  nd(
    'i64',
    [ENTRIES, n],
    Array.from({ length: ENTRIES * n }, (_, i) => (i * 5) % 7),
  );
const bertInputs = (): Tensors => ({
  input_ids: words(5),
  attention_mask: { ...KEPT, dtype: 'i64' },
  token_type_ids: nd('i64', [ENTRIES, 5]),
});
const bertOf = (options: object): Graph => entryOf(bert({ ...stack, vocabulary: 7, positions: 6, ...options }));

/** Of a masked autoencoder: patches of least noise stay. */
export const noise = (): Nd => floats(9, ENTRIES, PATCHES);
export const tinyMae = (options: Partial<Parameters<typeof mae>[0]> = {}): Graph =>
  entryOf(mae({ ...stack, ...patches, decoder: { ...stack, layers: 2 }, predictions: 'removed', ...options }));
export const maeInputs = (): Tensors => ({ pixel_values: pixels(), noise: noise() });

/** Projections of the first query of a causal attention, which sees one key: in two entries. */
const FIRST_QUERY = { matmul: 2, add: 2, reshape: 2 } as const;

/** Every model of §3.9 of the specification, and those that must not be taken for them. */
export const TOKEN_MODELS: Readonly<Record<string, () => TokenModel>> = {
  'MAE, loss and predictions of removed patches': () => ({
    graph: tinyMae({ maskRatio: 0.5 }),
    inputs: maeInputs(),
  }),
  'MAE, latents of visible patches': () => ({
    graph: tinyMae({ hasDecoder: false, latents: 'visible', maskRatio: 0.5 }),
    inputs: maeInputs(),
  }),
  'ViT, class token': () => ({
    graph: entryOf(vit({ ...stack, ...patches, classes: 3 })),
    inputs: { pixel_values: pixels() },
  }),
  'BERT, class token of a padded batch': () => ({ graph: bertOf({ maskedLm: false }), inputs: bertInputs() }),
  'BERT, predictions at masked positions': () => ({
    graph: bertOf({ predictionsAt: 2, nextSentence: false }),
    inputs: { ...bertInputs(), masked_positions: nd('i64', [ENTRIES, 2], [1, 2, 0, 3]) },
  }),
  'BERT, hidden states of words': () => ({
    graph: bertOf({ maskedLm: false, nextSentence: false, pooler: false, hiddenStates: 'tokens' }),
    inputs: bertInputs(),
  }),
  'GPT-2, last logits and the cache': () => ({
    graph: entryOf(gpt2({ ...stack, vocabulary: 7, positions: 6, logits: 'last' }), 'prefill'),
    inputs: { input_ids: words(5) },
    spare: { slice: 2, reshape: 2 },
  }),
  'causal decoder, last row': () => ({
    graph: entryOf(
      model('causal', { x: tokens(5) }, ({ x }) => ({ y: slice(blocks('b', 2, x, causal), 1, { start: 4 }) })),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH) },
    spare: FIRST_QUERY,
  }),
  'CLIP, texts up to their end': () => ({
    graph: entryOf(
      clip({ image: { ...stack, ...patches }, text: { ...stack, vocabulary: 9, positions: 5 }, projection: 3 }),
      'text',
    ),
    inputs: { input_ids: nd('i64', [ENTRIES, 5], [1, 3, 8, 2, 2, 4, 8, 0, 0, 1]) },
    spare: FIRST_QUERY,
  }),
  'BEiT, masked patches before the encoder, predictions of those': () => ({
    graph: entryOf(
      model('beit', { x: tokens(5), masked: padding(5) }, ({ x, masked }) => {
        const where = reshape(masked, [batch, 5, 1] as readonly Dim[]);
        const seen = select(where, param('token', [1, 1, WIDTH], init.normal(1)), x) as X;
        return { y: output(dense('head', WIDTH, 3)(blocks('b', 2, seen)), { where: masked }) };
      }),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH), masked: KEPT },
  }),
  'DETR, queries over a padded memory': () => ({
    graph: entryOf(
      model('detr', { x: tokens(5), kept: padding(5) }, ({ x, kept }) => {
        const memory = blocks('e', 2, x, mask.keep(kept));
        const learned = param('queries', [1, 3, WIDTH], init.normal(1));
        const queries = expand(learned, [batch, 3, WIDTH] as readonly Dim[]) as X;
        const cross = { memory, seen: mask.keep(kept) };
        const y = ['d0', 'd1'].reduce((q, name) => block(name, q, undefined, cross), queries);
        return { boxes: dense('head', WIDTH, 4)(y) };
      }),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH), kept: KEPT },
  }),
  'DETR, heads on a stack of layers of which the last is read': () => ({
    graph: entryOf(
      model('stack', { x: tokens(4) }, ({ x }) => {
        const layers = [block('d0', x), block('d1', block('d0', x))];
        const all = concat(
          layers.map((y) => reshape(y, [1, batch, 4, WIDTH] as readonly Dim[])),
          0,
        );
        return { y: take(dense('head', WIDTH, 3)(all), 0, 1) };
      }),
    ),
    inputs: { x: floats(5, ENTRIES, 4, WIDTH) },
  }),
  'sliding window, last token': () => ({
    graph: entryOf(
      model('window', { x: tokens(6) }, ({ x }) => ({
        y: slice(blocks('b', 3, x, mask.window(1, 0)), 1, { start: 5 }),
      })),
    ),
    inputs: { x: floats(5, ENTRIES, 6, WIDTH) },
  }),
  'sentences, mean of words': () => ({
    graph: entryOf(
      model('sentence', { x: tokens(5), kept: padding(5) }, ({ x, kept }) => {
        const m = reshape(cast(kept, f32), [batch, 5, 1] as readonly Dim[]);
        const y = blocks('b', 2, x, mask.keep(kept));
        return { mean: div(sum(mul(y, m), { axes: 1 }), sum(m, { axes: 1 })) };
      }),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH), kept: KEPT },
  }),
  'encoder and decoder, padded source': () => ({
    graph: entryOf(
      model('translate', { x: tokens(5), kept: padding(5), y: tokens(3) }, ({ x, kept, y }) => {
        const cross = { memory: blocks('e', 2, x, mask.keep(kept)), seen: mask.keep(kept) };
        return { z: ['d0', 'd1'].reduce((q, name) => block(name, q, causal, cross), y as X) };
      }),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH), kept: KEPT, y: floats(6, ENTRIES, 3, WIDTH) },
    spare: { matmul: 4, add: 4, reshape: 4 },
  }),
  'padded batch, every hidden state returned': () => ({
    graph: entryOf(
      model('hidden', { x: tokens(5), kept: padding(5) }, ({ x, kept }) => ({ y: blocks('b', 2, x, mask.keep(kept)) })),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH), kept: KEPT },
    kept: 'keys and values come from one product with the queries, of which every row is read',
  }),
  'tokens mixed before one is read': () => ({
    graph: entryOf(
      model('mixer', { x: tokens(5) }, ({ x }) => {
        const y = blocks('b', 1, x, causal);
        const mixed = transpose(dense('mix', 5, 5)(transpose(y, [0, 2, 1])), [0, 2, 1]);
        return { z: slice(add(y, mixed), 1, { stop: 1 }) };
      }),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH) },
    spare: FIRST_QUERY,
  }),
  'rows that positions name': () => ({
    graph: entryOf(
      model('rows', { x: tokens(5), at: input(i64, [batch, 2] as readonly Dim[]) }, ({ x, at }) => ({
        y: takeRows(blocks('b', 2, x), at),
      })),
    ),
    inputs: { x: floats(5, ENTRIES, 5, WIDTH), at: nd('i64', [ENTRIES, 2], [1, 2, 0, 3]) },
  }),
};

/** The same parameters as a store that weights are written from. */
export function modelWeights(graph: Graph): WeightStore {
  const all = new Map<string, WeightTensor>();
  for (const v of graphValues(graph)) {
    if (v.op.name !== 'param') continue;
    const name = String(v.attrs.name);
    const { dtype, shape, data } = modelParams(name, typeOf(v));
    all.set(name, { dtype, shape, bytes: new Uint8Array(Float32Array.from(data).buffer) });
  }
  return { source: 'made up', names: () => [...all.keys()], get: (name) => all.get(name) };
}
