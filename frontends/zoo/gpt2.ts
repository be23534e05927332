/** GPT-2 (Radford et al. 2019) as two programs over one set of weights: prompt in, then token by token. */
import type { Dim } from '../../ir/type.ts';
import {
  type AttentionOptions,
  add,
  attention,
  causal,
  concat,
  dim,
  entry,
  expr,
  f32,
  type Inputs,
  i64,
  init,
  input,
  linear,
  type ModelGraph,
  mergeHeads,
  named,
  nn,
  param,
  program,
  scope,
  slice,
  split,
  splitHeads,
  type Tensor,
  take,
} from '../dsl/index.ts';
import type { Activation, StackConfig } from '../weights/hf-config.ts';
import { activate } from './activation.ts';

export interface Gpt2Options extends StackConfig {
  readonly vocabulary: number;
  /** Longest sequence, prompt and continuation together. Default 1024. */
  readonly positions?: number;
  /** Default the tanh formula of GELU. */
  readonly activation?: Activation;
  /** Default 1e-5. */
  readonly eps?: number;
  /** Which logits prefill gives: those of every position, or of the last, f32[B, V]. Default `all`. */
  readonly logits?: 'all' | 'last';
  readonly name?: string;
}

/** Keys and values of one layer, each f32[B, H, S, E]. */
interface Cache {
  readonly key: Tensor<'f32'>;
  readonly value: Tensor<'f32'>;
}

/**
 * - `prefill`: `input_ids` i64[B, S] → `logits` f32[B, S, V] and, for each layer N, `present.N.key` and
 *   `present.N.value` f32[B, H, S, E].
 * - `decode`: `input_ids` i64[B, 1] with `past.N.key` and `past.N.value` f32[B, H, past, E] → `logits` f32[B, 1, V] and
 *   `present.N.*` f32[B, H, past + 1, E]. The token stands at position `past`.
 *
 * With `logits: 'last'` prefill gives `logits` f32[B, V] of the last position.
 *
 * Batch is symbolic, 1 … 64, default 1; `sequence` 1 … positions, default all; `past` 1 … positions − 1, default all.
 * Linear weights are stored [in, out], as published.
 *
 * Initialisation as published: N(0, 0.02), positions N(0, 0.01), projections into the residual stream divided by
 * √(2 · layers).
 */
export function gpt2(options: Gpt2Options): ModelGraph {
  const { positions = 1024, activation = 'gelu_tanh', eps = 1e-5, name = 'gpt2' } = options;
  const { layers, width, heads, mlp, vocabulary, logits: wanted = 'all' } = options;
  const config = { layers, width, heads, mlp, vocabulary, positions, activation, eps };
  const batch = dim('batch', { max: 64, default: 1 });
  const sequence = dim('sequence', { max: positions, default: positions });
  const past = dim('past', { max: positions - 1, default: positions - 1 });
  const start = init.normal(0.02);
  const residual = init.normal(0.02 / Math.sqrt(2 * layers));
  const dense = (layer: string, from: number, to: number, weight = start) =>
    nn.linear(layer, { in: from, out: to, layout: 'in-out', init: weight });
  const norm = (layer: string) => nn.layerNorm(layer, { size: width, eps });
  const numbers = Array.from({ length: layers }, (_, layer) => layer);
  const cached = (what: string) =>
    input(f32, [batch, heads, past, width / heads] as readonly Dim[], `${what} of earlier tokens`);

  const prefill = entry(
    { input_ids: input(i64, [batch, sequence] as readonly Dim[], 'token numbers') },
    ({ input_ids }) => {
      const given = decoder(input_ids, { start: 0, stop: sequence }, { mask: causal });
      return wanted === 'all' ? given : { ...given, logits: take(given.logits as Tensor<'f32'>, 1, -1) };
    },
  );
  const decodeInputs: Inputs = {
    input_ids: input(i64, [batch, 1] as readonly Dim[], 'number of the newest token'),
    ...Object.fromEntries(
      numbers.flatMap((n) => [
        [`past.${n}.key`, cached(`layer ${n}: keys`)],
        [`past.${n}.value`, cached(`layer ${n}: values`)],
      ]),
    ),
  };
  const decode = entry(decodeInputs, (given) => {
    const cache = (name: string) => given[name] as Tensor<'f32'>;
    const caches = numbers.map((n) => ({ key: cache(`past.${n}.key`), value: cache(`past.${n}.value`) }));
    return decoder(given.input_ids as Tensor<'i64'>, { start: past, stop: expr.add(past, 1) }, {}, caches);
  });
  return program(name, { prefill, decode }, { doc: 'GPT-2 language model', config });

  function decoder(
    ids: Tensor<'i64'>,
    place: { readonly start: Dim; readonly stop: Dim },
    masking: AttentionOptions,
    caches: readonly Cache[] = [],
  ) {
    const words = nn.embedding('transformer.wte', { rows: vocabulary, width, init: start });
    const places = param('transformer.wpe.weight', [positions, width], init.normal(0.01));
    let x: Tensor<'f32'> = add(words(ids), slice(places, 0, place));
    const present: Record<string, Tensor> = {};
    for (const n of numbers) {
      const result = scope(`transformer.h.${n}`, () => block(x, n, masking, caches[n]));
      x = result.x;
      present[`present.${n}.key`] = result.key;
      present[`present.${n}.value`] = result.value;
    }
    const logits = linear(norm('transformer.ln_f')(x), words.table());
    return { logits: logits as Tensor, ...present };
  }

  /** Pre-norm: x + attention(norm(x)), then y + mlp(norm(y)). */
  function block(
    x: Tensor<'f32'>,
    n: number,
    masking: AttentionOptions,
    cache: Cache | undefined,
  ): Cache & { readonly x: Tensor<'f32'> } {
    const [q, k, v] = split(dense('attn.c_attn', width, 3 * width)(norm('ln_1')(x)) as Tensor<'f32'>, -1, 3).map(
      (part) => splitHeads(part, heads),
    );
    const key = cache ? concat([cache.key, k!], 2) : k!;
    const value = cache ? concat([cache.value, v!], 2) : v!;
    const context = mergeHeads(attention(q!, key, value, masking));
    const y: Tensor<'f32'> = add(x, dense('attn.c_proj', width, width, residual)(context));
    const hidden = activate(activation, dense('mlp.c_fc', width, mlp)(norm('ln_2')(y)));
    return { x: named(`h.${n}`, add(y, dense('mlp.c_proj', mlp, width, residual)(hidden))), key, value };
  }
}
