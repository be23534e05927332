/** What ViT and MAE share: patches and pre-norm blocks, with timm's parameter names. */
import {
  type AttentionOptions,
  add,
  attention,
  attentionWeights,
  type Init,
  mergeHeads,
  named,
  nn,
  reshape,
  scope,
  slice,
  split,
  splitHeads,
  type Tensor,
  take,
  transpose,
} from '../dsl/index.ts';
import type { Activation, StackConfig } from '../weights/hf-config.ts';
import { activate } from './activation.ts';

/** Sizes of an image and how it is cut; squares only. */
export interface PatchConfig {
  /** Pixels a side. */
  readonly imageSize: number;
  readonly patchSize: number;
  readonly channels: number;
}

/** What a stack of blocks needs beyond its sizes. */
export interface BlockConfig extends StackConfig {
  readonly eps: number;
  readonly activation: Activation;
  readonly qkvBias: boolean;
  /** How a matrix [out, in] starts. */
  readonly matrix: (fanIn: number, fanOut: number) => Init;
}

/** Patches in an image. */
export const patchCount = ({ imageSize, patchSize }: PatchConfig): number => (imageSize / patchSize) ** 2;

/** [B, C, S, S] to [B, L, D]: one row a patch, in row-major order. */
export function patchEmbed(
  pixels: Tensor<'f32'>,
  config: PatchConfig & { readonly width: number },
  start: { readonly init: Init; readonly biasInit: Init },
): Tensor<'f32'> {
  const { channels, patchSize, width } = config;
  const kernel = [patchSize, patchSize];
  const project = nn.conv('patch_embed.proj', { in: channels, out: width, kernel, strides: kernel, ...start });
  const grid = project(pixels);
  const batch = grid.shape[0]!;
  return transpose(reshape(grid, [batch, width, patchCount(config)]), [0, 2, 1]) as Tensor<'f32'>;
}

/** q, k, v of the block's own attention, each [B, H, N, E]: the rows of `qkv.weight` are all q, all k, all v. */
function heads(
  x: Tensor<'f32'>,
  { width, heads, qkvBias, matrix }: BlockConfig,
): readonly [Tensor<'f32'>, Tensor<'f32'>, Tensor<'f32'>] {
  const qkv = nn.linear('qkv', { in: width, out: 3 * width, bias: qkvBias, init: matrix(width, 3 * width) })(x);
  const [q, k, v] = split(qkv, -1, 3);
  return [splitHeads(q!, heads), splitHeads(k!, heads), splitHeads(v!, heads)];
}

/** What a block gives besides its result. */
export interface BlockResult {
  readonly x: Tensor<'f32'>;
  /** Weights of the class token's attention over the patches, f32[B, H, L], where they are asked for. */
  readonly classMap: Tensor<'f32'> | undefined;
}

/** x + attention(norm1(x)), then x + mlp(norm2(x)). */
export function visionBlock(
  name: string,
  x: Tensor<'f32'>,
  config: BlockConfig,
  options: AttentionOptions & { readonly classMap?: boolean } = {},
): BlockResult {
  const { width, mlp, eps, activation, matrix } = config;
  const { classMap: wanted = false, ...masking } = options;
  return scope(name, () => {
    let classMap: Tensor<'f32'> | undefined;
    const normed = nn.layerNorm('norm1', { size: width, eps })(x);
    const attended = scope('attn', () => {
      const [q, k, v] = heads(normed, config);
      if (wanted) classMap = patchesOf(attentionWeights(slice(q, 2, { start: 0, stop: 1 }), k, masking));
      return nn.linear('proj', { in: width, out: width, init: matrix(width, width) })(
        mergeHeads(attention(q, k, v, masking)),
      );
    });
    const middle = add(x, attended);
    const hidden = nn.linear('mlp.fc1', { in: width, out: mlp, init: matrix(width, mlp) })(
      nn.layerNorm('norm2', { size: width, eps })(middle),
    );
    const out = nn.linear('mlp.fc2', { in: mlp, out: width, init: matrix(mlp, width) })(activate(activation, hidden));
    return { x: named(name, add(middle, out)), classMap };
  });
}

/** Weights [B, H, 1, 1 + L] without the class token itself: [B, H, L]. */
function patchesOf(weights: Tensor<'f32'>): Tensor<'f32'> {
  return slice(take(weights, 2, 0), 2, { start: 1 });
}
