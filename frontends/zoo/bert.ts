/** BERT (Devlin et al. 2018). Parameters have the names of the transformers library. */
import type { Dim } from '../../ir/type.ts';
import {
  type AttentionOptions,
  add,
  attention,
  dim,
  expr,
  i64,
  init,
  input,
  linear,
  type ModelGraph,
  mergeHeads,
  model,
  named,
  nn,
  notEqual,
  output,
  param,
  type Score,
  scope,
  slice,
  splitHeads,
  type Tensor,
  take,
  takeRows,
  tanh,
} from '../dsl/index.ts';
import type { Activation, StackConfig } from '../weights/hf-config.ts';
import { activate } from './activation.ts';

export interface BertOptions extends StackConfig {
  readonly vocabulary: number;
  /** Longest sequence. Default 512. */
  readonly positions?: number;
  /** Default 2. */
  readonly segments?: number;
  /** Default exact GELU, as in the transformers library; google-research/bert has the tanh formula. */
  readonly activation?: Activation;
  /** Default 1e-12. */
  readonly eps?: number;
  /** Which heads there are. Each defaults to true. The next-sentence head reads the pooler. */
  readonly pooler?: boolean;
  readonly maskedLm?: boolean;
  readonly nextSentence?: boolean;
  /**
   * Positions of each sequence whose predictions are wanted, of which there are this many: an input `masked_positions`
   * i64[B, P] more, and `prediction_logits` f32[B, P, V]. Absent: predictions of all positions.
   */
  readonly predictionsAt?: number;
  /** Which rows of `last_hidden_state` are given: those of all positions, or zeros for padding. Default `all`. */
  readonly hiddenStates?: 'all' | 'tokens';
  readonly name?: string;
}

/**
 * `input_ids`, `attention_mask` (0 = padding), `token_type_ids`, all i64[B, S] → `prediction_logits` f32[B, S, V] of
 * the masked-language head and `seq_relationship_logits` f32[B, 2] of the next-sentence head, whichever there are;
 * without heads `last_hidden_state` f32[B, S, D] and `pooler_output` f32[B, D].
 *
 * Padding is hidden as keys; as queries its rows are computed like any other, unless nobody reads them: with
 * `hiddenStates: 'tokens'` and in models of which only other rows are given. Batch is symbolic, 1 … 64, default 1;
 * the sequence 1 … positions, default 128 (or all positions where there are fewer).
 *
 * Initialisation as published: normals of standard deviation 0.02 cut at twice that, zero biases.
 */
export function bert(options: BertOptions): ModelGraph {
  const { positions = 512, segments = 2, activation = 'gelu', eps = 1e-12, name = 'bert' } = options;
  const { pooler = true, maskedLm = true, nextSentence = true, predictionsAt, hiddenStates = 'all' } = options;
  const { layers, width, heads, mlp, vocabulary } = options;
  const config = {
    layers,
    width,
    heads,
    mlp,
    vocabulary,
    positions,
    segments,
    activation,
    eps,
    pooler,
    maskedLm,
    nextSentence,
  };
  const start = init.truncatedNormal(0.02);
  const batch = dim('batch', { max: 64, default: 1 });
  const sequence = dim('sequence', { max: positions, default: Math.min(128, positions) });
  const ids = [batch, sequence] as readonly Dim[];
  const inputs = {
    input_ids: input(i64, ids, 'token numbers'),
    attention_mask: input(i64, ids, '1 for tokens, 0 for padding'),
    token_type_ids: input(i64, ids, 'segment of each token: 0 or 1'),
    ...(predictionsAt !== undefined && {
      masked_positions: input(i64, [batch, predictionsAt] as readonly Dim[], 'positions whose predictions are wanted'),
    }),
  };
  const dense = (layer: string, from: number, to: number) => nn.linear(layer, { in: from, out: to, init: start });
  const norm = (layer: string) => nn.layerNorm(layer, { size: width, eps });

  return model(
    name,
    inputs,
    ({ input_ids, attention_mask, token_type_ids, masked_positions }) => {
      const mask = ({ b, k, read }: Score) => expr.ne(read(attention_mask, b, k), 0);
      const words = nn.embedding('bert.embeddings.word_embeddings', { rows: vocabulary, width, init: start });
      const kinds = nn.embedding('bert.embeddings.token_type_embeddings', { rows: segments, width, init: start });
      const places = param('bert.embeddings.position_embeddings.weight', [positions, width], start);
      const embedded = add(add(words(input_ids), kinds(token_type_ids)), slice(places, 0, { stop: sequence }));
      let x: Tensor<'f32'> = named('embeddings', norm('bert.embeddings.LayerNorm')(embedded));
      for (let layer = 0; layer < layers; layer++)
        x = scope(`bert.encoder.layer.${layer}`, () => block(x, `layer.${layer}`, mask));

      const pooled = pooler || nextSentence ? tanh(dense('bert.pooler.dense', width, width)(take(x, 1, 0))) : undefined;
      if (!maskedLm && !nextSentence) {
        const states = hiddenStates === 'all' ? x : output(x, { where: notEqual(attention_mask, 0) });
        return { last_hidden_state: states, ...(pooled ? { pooler_output: pooled } : {}) };
      }
      return {
        ...(maskedLm ? { prediction_logits: at(predictions(x, words.table()), masked_positions) } : {}),
        ...(nextSentence && pooled ? { seq_relationship_logits: dense('cls.seq_relationship', width, 2)(pooled) } : {}),
      };
    },
    { doc: 'BERT encoder', config },
  );

  /** Rows at positions; all where there are none. */
  function at(x: Tensor<'f32'>, positions: Tensor<'i64'> | undefined): Tensor<'f32'> {
    return positions ? takeRows(x, positions) : x;
  }

  /** Post-norm: norm(x + attention(x)), then norm(y + mlp(y)). */
  function block(x: Tensor<'f32'>, label: string, mask: AttentionOptions['mask'] & {}): Tensor<'f32'> {
    const [q, k, v] = (['query', 'key', 'value'] as const).map((part) =>
      named(`${label}.${part}`, splitHeads(dense(`attention.self.${part}`, width, width)(x), heads)),
    );
    const context = mergeHeads(attention(q!, k!, v!, { mask }));
    const y = named(
      `${label}.attention`,
      norm('attention.output.LayerNorm')(add(dense('attention.output.dense', width, width)(context), x)),
    );
    const hidden = activate(activation, dense('intermediate.dense', width, mlp)(y));
    return named(label, norm('output.LayerNorm')(add(dense('output.dense', mlp, width)(hidden), y)));
  }

  /** Logits over the vocabulary; the projection is tied to the word embeddings. */
  function predictions(x: Tensor<'f32'>, table: Tensor<'f32'>): Tensor<'f32'> {
    const hidden = activate(activation, dense('cls.predictions.transform.dense', width, width)(x));
    const normed = norm('cls.predictions.transform.LayerNorm')(hidden);
    return linear(normed, table, param('cls.predictions.bias', [vocabulary] as readonly number[], init.zeros));
  }
}
