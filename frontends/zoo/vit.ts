/** Vision Transformer (Dosovitskiy et al. 2020): a classifier over the class token. Parameters have timm's names. */
import {
  add,
  concat,
  dim,
  expand,
  f32,
  init,
  input,
  type ModelGraph,
  model,
  named,
  nn,
  param,
  type Tensor,
  take,
} from '../dsl/index.ts';
import type { Activation, StackConfig } from '../weights/hf-config.ts';
import { type PatchConfig, patchCount, patchEmbed, visionBlock } from './vision-block.ts';

export interface VitOptions extends StackConfig, PatchConfig {
  /** Rows of the classifier; 0 for none, then the output is the normalised tokens. */
  readonly classes: number;
  /** ε of every layer normalisation. Default 1e-6, timm's; the transformers library has 1e-12. */
  readonly eps?: number;
  /** Default exact GELU. */
  readonly activation?: Activation;
  /** Default true. */
  readonly qkvBias?: boolean;
  /** Also give the attention map of the class token in the last layer. */
  readonly attentionMap?: boolean;
  /** Class names by index. */
  readonly labels?: readonly string[] | undefined;
  readonly name?: string;
}

/**
 * `pixel_values` f32[B, C, S, S] → `logits` f32[B, classes].
 *
 * With `attentionMap` also `attention` f32[B, heads, L]: how much the class token reads each of the L patches in the
 * last layer. Without a classifier the output is `last_hidden_state` f32[B, 1 + L, D].
 * Batch is symbolic: 1 … 64, default 1.
 *
 * Initialisation as in timm: N(0, 0.02) matrices and positions, zero biases, N(0, 1e-6) class token, the patch
 * projection as PyTorch's convolutions.
 */
export function vit(options: VitOptions): ModelGraph {
  const { eps = 1e-6, activation = 'gelu', qkvBias = true, attentionMap = false, name = 'vit' } = options;
  const { imageSize, patchSize, channels, layers, width, heads, mlp, classes, labels } = options;
  const config = {
    imageSize,
    patchSize,
    channels,
    layers,
    width,
    heads,
    mlp,
    classes,
    eps,
    activation,
    qkvBias,
    labels,
  };
  const matrix = () => init.normal(0.02);
  const batch = dim('batch', { max: 64, default: 1 });
  const pixels = input(f32, [batch, channels, imageSize, imageSize], 'normalised image, channels first');

  return model(
    name,
    { pixel_values: pixels },
    ({ pixel_values }) => {
      const cut = init.fanIn(channels * patchSize ** 2);
      const patches = patchEmbed(pixel_values as Tensor<'f32'>, config, { init: cut, biasInit: cut });
      const classToken = expand(param('cls_token', [1, 1, width], init.normal(1e-6)), [batch, 1, width]);
      const positions = param('pos_embed', [1, 1 + patchCount(config), width], init.normal(0.02));
      let x: Tensor<'f32'> = named('tokens', add(concat([classToken, patches], 1), positions));
      let map: Tensor<'f32'> | undefined;
      for (let layer = 0; layer < layers; layer++) {
        const classMap = attentionMap && layer === layers - 1;
        const result = visionBlock(`blocks.${layer}`, x, { ...config, matrix }, { classMap });
        x = result.x;
        map = result.classMap;
      }
      const normed = nn.layerNorm('norm', { size: width, eps })(x);
      const maps = map ? { attention: map } : {};
      if (classes === 0) return { last_hidden_state: normed, ...maps };
      const head = nn.linear('head', { in: width, out: classes, init: matrix() });
      return { logits: head(take(normed, 1, 0)), ...maps };
    },
    { doc: `Vision Transformer, ${imageSize}×${imageSize} image, ${patchSize}×${patchSize} patches`, config },
  );
}
