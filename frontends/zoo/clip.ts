/**
 * CLIP (Radford et al. 2021): an encoder of images and one of texts into one space. Parameters have the names of the
 * transformers library.
 */
import type { Dim } from '../../ir/type.ts';
import {
  type AttentionOptions,
  add,
  argMax,
  attention,
  cast,
  causal,
  concat,
  dim,
  div,
  type Entry,
  entry,
  equal,
  exp,
  expand,
  f32,
  type Init,
  i32,
  i64,
  init,
  input,
  linear,
  type ModelGraph,
  mergeHeads,
  mul,
  named,
  nn,
  param,
  program,
  reshape,
  scope,
  slice,
  splitHeads,
  sqrt,
  sum,
  type Tensor,
  take,
  takeRows,
  transpose,
} from '../dsl/index.ts';
import type { Activation, StackConfig } from '../weights/hf-config.ts';
import { activate } from './activation.ts';
import { type PatchConfig, patchCount } from './vision-block.ts';

/** What both towers say of their blocks. */
interface TowerOptions extends StackConfig {
  /** Default quick GELU, x · σ(1.702 x). */
  readonly activation?: Activation;
  /** Default 1e-5. */
  readonly eps?: number;
}

export interface ClipImageOptions extends TowerOptions, PatchConfig {}

export interface ClipTextOptions extends TowerOptions {
  readonly vocabulary: number;
  /** Longest text, its two marks included. Default 77. */
  readonly positions?: number;
  /**
   * The number of the mark that ends a text: the first one is read. Default none, and the token of the largest number is
   * read, which in the published vocabulary is that mark.
   */
  readonly eosToken?: number | undefined;
}

export interface ClipOptions {
  readonly image: ClipImageOptions;
  readonly text: ClipTextOptions;
  /** Width of the space that both are put into. */
  readonly projection: number;
  readonly name?: string;
}

/** How the matrices of a block start, and the biases of its MLP. */
interface BlockStart {
  readonly qkv: Init;
  readonly out: Init;
  readonly fc1: Init;
  readonly fc2: Init;
  readonly fc1Bias: Init;
  readonly fc2Bias: Init;
}

/**
 * - `image`: `pixel_values` f32[images, C, S, S] → `image_embeds` f32[images, P], of length 1.
 * - `text`: `input_ids` i64[texts, S] → `text_embeds` f32[texts, P], of length 1.
 * - `match`: both embeddings → `logits_per_image` f32[images, texts] and `logits_per_text`, its transpose: cosines times
 *   `exp(logit_scale)`.
 *
 * A token sees those before it, and the result is read where the text ends. Tokens behind that are computed as written and
 * read by nobody, so no mask for padding is needed.
 *
 * `images` and `texts` are 1 … 64, default 1; `sequence` is 1 … positions, default all.
 *
 * Initialisation as published: normals whose deviations shrink with width and depth in the text tower, PyTorch's own in
 * the blocks of the image tower, a temperature of 0.07.
 */
export function clip(options: ClipOptions): ModelGraph {
  const { image, text, projection, name = 'clip' } = options;
  const { positions = 77, vocabulary, eosToken } = text;
  const config = {
    image: { ...image },
    text: { ...text, positions },
    projection,
  };
  const images = dim('images', { max: 64, default: 1 });
  const texts = dim('texts', { max: 64, default: 1 });
  const sequence = dim('sequence', { max: positions, default: positions });
  const embeds = (count: Dim, what: string) =>
    input(f32, [count, projection] as readonly Dim[], `embeddings of ${what}, each of length 1`);
  const entries: Readonly<Record<string, Entry>> = {
    image: entry(
      {
        pixel_values: input(
          f32,
          [images, image.channels, image.imageSize, image.imageSize] as readonly Dim[],
          'normalised image, channels first',
        ),
      },
      ({ pixel_values }) => ({ image_embeds: imageTower(pixel_values) }),
    ),
    text: entry(
      { input_ids: input(i64, [texts, sequence] as readonly Dim[], 'token numbers; whatever follows the end mark') },
      ({ input_ids }) => ({ text_embeds: textTower(input_ids) }),
    ),
    match: entry(
      { image_embeds: embeds(images, 'images'), text_embeds: embeds(texts, 'texts') },
      ({ image_embeds, text_embeds }) => {
        const scale = exp(param('logit_scale', [] as readonly number[], init.constant(Math.log(1 / 0.07))));
        const logits: Tensor<'f32'> = mul(linear(image_embeds, text_embeds), scale);
        return { logits_per_image: logits, logits_per_text: transpose(logits, [1, 0]) };
      },
    ),
  };
  return program(name, entries, { doc: 'CLIP, images and texts in one space', config });

  function imageTower(pixels: Tensor<'f32'>): Tensor<'f32'> {
    const { width, channels, patchSize, eps = 1e-5 } = image;
    const kernel = [patchSize, patchSize];
    const norm = (layer: string) => nn.layerNorm(`vision_model.${layer}`, { size: width, eps });
    const start = init.normal(width ** -0.5);
    const project = nn.conv('vision_model.embeddings.patch_embedding', {
      in: channels,
      out: width,
      kernel,
      strides: kernel,
      bias: false,
      init: init.fanIn(channels * patchSize ** 2),
    });
    const count = patchCount(image);
    const grid = project(pixels);
    const patches: Tensor<'f32'> = transpose(reshape(grid, [images, width, count] as readonly Dim[]), [0, 2, 1]);
    const mark = param('vision_model.embeddings.class_embedding', [width] as readonly number[], start);
    const first: Tensor<'f32'> = expand(reshape(mark, [1, 1, width] as readonly Dim[]), [images, 1, width]);
    const places = param('vision_model.embeddings.position_embedding.weight', [1 + count, width], start);
    // The checkpoint spells it so.
    let x: Tensor<'f32'> = named('image.embeddings', norm('pre_layrnorm')(add(concat([first, patches], 1), places)));
    const blocks: BlockStart = {
      qkv: init.xavierUniform(width, 3 * width),
      out: init.fanIn(width),
      fc1: init.fanIn(width),
      fc2: init.fanIn(image.mlp),
      fc1Bias: init.fanIn(width),
      fc2Bias: init.fanIn(image.mlp),
    };
    for (let n = 0; n < image.layers; n++)
      x = scope(`vision_model.encoder.layers.${n}`, () => block(x, image, blocks, {}, `image.layer.${n}`));
    return embedding('visual_projection', norm('post_layernorm')(take(x, 1, 0)), width);
  }

  function textTower(ids: Tensor<'i64'>): Tensor<'f32'> {
    const { width, layers, eps = 1e-5 } = text;
    const words = nn.embedding('text_model.embeddings.token_embedding', {
      rows: vocabulary,
      width,
      init: init.normal(0.02),
    });
    const places = param('text_model.embeddings.position_embedding.weight', [positions, width], init.normal(0.01));
    const residual = init.normal((width * 2 * layers) ** -0.5);
    const blocks: BlockStart = {
      qkv: init.normal(width ** -0.5),
      out: residual,
      fc1: init.normal((2 * width) ** -0.5),
      fc2: residual,
      fc1Bias: init.fanIn(width),
      fc2Bias: init.fanIn(text.mlp),
    };
    let x: Tensor<'f32'> = named('text.embeddings', add(words(ids), slice(places, 0, { stop: sequence })));
    for (let n = 0; n < layers; n++)
      x = scope(`text_model.encoder.layers.${n}`, () => block(x, text, blocks, { mask: causal }, `text.layer.${n}`));
    const normed = nn.layerNorm('text_model.final_layer_norm', { size: width, eps })(x);
    const end = named('end', eosToken === undefined ? argMax(ids) : argMax(cast(equal(ids, eosToken), i32)));
    const read: Tensor<'f32'> = takeRows(normed, reshape(end, [texts, 1] as readonly Dim[]));
    return embedding('text_projection', reshape(read, [texts, width] as readonly Dim[]), width);
  }

  /** A vector [B, width] in the common space, of length 1. */
  function embedding(layer: string, x: Tensor<'f32'>, width: number): Tensor<'f32'> {
    const start = init.normal(width ** -0.5);
    const y = nn.linear(layer, { in: width, out: projection, bias: false, init: start })(x) as Tensor<'f32'>;
    return div(y, sqrt(sum(mul(y, y), { axes: -1, keepdims: true })));
  }

  /** Pre-norm: x + attention(norm(x)), then y + mlp(norm(y)). */
  function block(
    x: Tensor<'f32'>,
    { width, heads, mlp, eps = 1e-5, activation = 'quick_gelu' }: TowerOptions,
    start: BlockStart,
    masking: AttentionOptions,
    label: string,
  ): Tensor<'f32'> {
    const dense = (layer: string, from: number, to: number, weight: Init, bias: Init = init.zeros) =>
      nn.linear(layer, { in: from, out: to, init: weight, biasInit: bias });
    const norm = (layer: string) => nn.layerNorm(layer, { size: width, eps });
    const normed = norm('layer_norm1')(x);
    const [q, k, v] = (['q', 'k', 'v'] as const).map((part) =>
      splitHeads(dense(`self_attn.${part}_proj`, width, width, start.qkv)(normed), heads),
    );
    const context = mergeHeads(attention(q!, k!, v!, masking));
    const y: Tensor<'f32'> = add(x, dense('self_attn.out_proj', width, width, start.out)(context));
    const hidden = dense('mlp.fc1', width, mlp, start.fc1, start.fc1Bias)(norm('layer_norm2')(y));
    const out = dense('mlp.fc2', mlp, width, start.fc2, start.fc2Bias)(activate(activation, hidden));
    return named(label, add(y, out));
  }
}
