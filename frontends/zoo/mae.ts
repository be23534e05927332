/**
 * Masked autoencoder (He et al. 2021), written naively: every patch goes through the encoder, removed ones are only
 * hidden as keys, and the mask token overwrites them before the decoder. The compiler drops what nobody reads.
 * Parameters have the names of facebookresearch/mae.
 */
import { fail } from '../../ir/diagnostic.ts';
import type { Dim } from '../../ir/type.ts';
import {
  add,
  argSort,
  bool,
  cast,
  concat,
  constant,
  dim,
  div,
  expand,
  f32,
  init,
  input,
  less,
  type ModelGraph,
  mean,
  model,
  mul,
  named,
  nn,
  not,
  output,
  param,
  reshape,
  type Score,
  select,
  slice,
  sqrt,
  sub,
  sum,
  type Tensor,
  transpose,
  unsqueeze,
} from '../dsl/index.ts';
import type { Activation, StackConfig } from '../weights/hf-config.ts';
import { type PatchConfig, patchCount, patchEmbed, visionBlock } from './vision-block.ts';

export interface MaeOptions extends StackConfig, PatchConfig {
  readonly decoder: StackConfig;
  /** Share of patches removed, in [0, 1); int(L · (1 − ratio)) stay. Default 0.75. */
  readonly maskRatio?: number;
  /** The loss compares with patches normalised to mean 0 and (unbiased) variance 1. Default false. */
  readonly normPixLoss?: boolean;
  /** Which rows of `pred` are given: those of all patches, or zeros for visible ones. Default `all`. */
  readonly predictions?: 'all' | 'removed';
  /** Which rows of `latent` an encoder alone gives: those of all patches, or zeros for removed ones. Default `all`. */
  readonly latents?: 'all' | 'visible';
  /** False for an encoder alone, whose outputs are `latent` and `mask`. Default true. */
  readonly hasDecoder?: boolean;
  /** Default 1e-6; the transformers library has 1e-12. */
  readonly eps?: number;
  readonly activation?: Activation;
  readonly qkvBias?: boolean;
  readonly name?: string;
}

/**
 * `pixel_values` f32[B, C, S, S], `noise` f32[B, L] → `pred` f32[B, L, P·P·C], `mask` f32[B, L] (1 = removed),
 * `loss` f32 (mean squared error over removed patches).
 *
 * With `predictions: 'removed'` the rows of visible patches are zeros, and their predictions are not computed; so it is
 * with `latents: 'visible'` and removed patches, where there is no decoder.
 *
 * The patches of least noise stay: noise is any set of random numbers, equal ones count in order of position.
 * Batch is symbolic: 1 … 64, default 1.
 *
 * Initialisation as published: Xavier-uniform matrices (the patch projection counts as one), N(0, 0.02) tokens, frozen
 * sine-cosine positions.
 */
export function mae(options: MaeOptions): ModelGraph {
  const { maskRatio = 0.75, normPixLoss = false, hasDecoder = true, predictions = 'all', latents = 'all' } = options;
  const { eps = 1e-6, activation = 'gelu', qkvBias = true, name = 'mae' } = options;
  const { imageSize, patchSize, channels, layers, width, heads, mlp, decoder } = options;
  const shared = { eps, activation, qkvBias, matrix: init.xavierUniform };
  const config = {
    imageSize,
    patchSize,
    channels,
    layers,
    width,
    heads,
    mlp,
    decoder: { ...decoder },
    maskRatio,
    normPixLoss,
    eps,
    activation,
    qkvBias,
  };
  const patches = patchCount(config);
  const grid = imageSize / patchSize;
  const visible = Math.trunc(patches * (1 - maskRatio));
  if (!(maskRatio >= 0 && maskRatio < 1)) fail('config', `${name}: mask ratio ${maskRatio} is outside [0, 1)`);
  const batch = dim('batch', { max: 64, default: 1 });
  const inputs = {
    pixel_values: input(
      f32,
      [batch, channels, imageSize, imageSize] as readonly Dim[],
      'normalised image, channels first',
    ),
    noise: input(
      f32,
      [batch, patches] as readonly Dim[],
      `random numbers; the ${visible} patches of least noise stay visible`,
    ),
  };

  return model(
    name,
    inputs,
    ({ pixel_values, noise }) => {
      const stays = less(argSort(argSort(noise)), visible);
      const classStays = expand(constant(bool, [1, 1], [1]), [batch, 1] as readonly Dim[]);
      const keep = named('keep', concat([classStays, stays], 1));

      const area = channels * patchSize ** 2;
      const cut = { init: init.xavierUniform(area, width), biasInit: init.fanIn(area) };
      const classToken = expand(param('cls_token', [1, 1, width], init.normal(0.02)), [
        batch,
        1,
        width,
      ] as readonly Dim[]);
      let x: Tensor<'f32'> = add(
        concat([classToken, patchEmbed(pixel_values, config, cut)], 1),
        param('pos_embed', [1, 1 + patches, width], init.sinCos2d(grid)),
      );
      const mask = ({ b, k, read }: Score) => read(keep, b, k);
      for (let layer = 0; layer < layers; layer++)
        x = visionBlock(`blocks.${layer}`, x, { ...shared, layers, width, heads, mlp }, { mask }).x;
      const latent = named('latent', nn.layerNorm('norm', { size: width, eps })(x));
      const removed = cast(not(stays), f32);
      if (!hasDecoder) return { latent: latents === 'all' ? latent : output(latent, { where: keep }), mask: removed };

      const embed = nn.linear('decoder_embed', {
        in: width,
        out: decoder.width,
        init: init.xavierUniform(width, decoder.width),
      });
      const maskToken = param('mask_token', [1, 1, decoder.width], init.normal(0.02));
      let y: Tensor<'f32'> = add(
        select(unsqueeze(keep, 2), embed(latent), maskToken),
        param('decoder_pos_embed', [1, 1 + patches, decoder.width], init.sinCos2d(grid)),
      );
      for (let layer = 0; layer < decoder.layers; layer++)
        y = visionBlock(`decoder_blocks.${layer}`, y, { ...shared, ...decoder }).x;
      const toPixels = nn.linear('decoder_pred', {
        in: decoder.width,
        out: area,
        init: init.xavierUniform(decoder.width, area),
      });
      const pred = slice(toPixels(nn.layerNorm('decoder_norm', { size: decoder.width, eps })(y)) as Tensor<'f32'>, 1, {
        start: 1,
      });

      const wanted = named('target', target(pixel_values, config));
      const error = sub(pred, wanted);
      const perPatch = mean(mul(error, error), { axes: -1 });
      const loss = div(sum(mul(perPatch, removed)), sum(removed));
      const observed = predictions === 'all' ? pred : output(pred, { where: not(stays) });
      return { pred: observed, mask: removed, loss };
    },
    {
      doc: `Masked autoencoder, ${imageSize}×${imageSize} image, ${patchSize}×${patchSize} patches, ${visible} of ${patches} visible`,
      config,
    },
  );
}

/** Pixels of each patch, [B, L, P·P·C]: rows, then columns, then channels; normalised where the loss wants it. */
function target(pixels: Tensor<'f32'>, config: PatchConfig & { readonly normPixLoss: boolean }): Tensor<'f32'> {
  const { channels, patchSize: side, imageSize } = config;
  const grid = imageSize / side;
  const batch = pixels.shape[0]!;
  const cut: Tensor<'f32'> = reshape(pixels, [batch, channels, grid, side, grid, side] as readonly Dim[]);
  const rows: Tensor<'f32'> = transpose(cut, [0, 2, 4, 3, 5, 1]);
  const patches: Tensor<'f32'> = reshape(rows, [batch, grid * grid, side * side * channels] as readonly Dim[]);
  if (!config.normPixLoss) return patches;
  const centred: Tensor<'f32'> = sub(patches, mean(patches, { axes: -1, keepdims: true }));
  const squares = sum(mul(centred, centred), { axes: -1, keepdims: true });
  const variance = div(squares, side * side * channels - 1);
  return div(centred, sqrt(add(variance, 1e-6)));
}
