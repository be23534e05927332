/** Masked and padded models as their authors write them, each in two ways between which nothing but the work differs. */
import { attention, causal, f32, input, type ModelGraph, model } from '../../frontends/dsl/index.ts';
import { bert, mae, zoo } from '../../frontends/zoo/index.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { uniform } from './weights.ts';

/** One of the two ways. */
export interface Way {
  readonly name: string;
  readonly model: () => ModelGraph;
  /** Passes that are left out. */
  readonly without: readonly string[];
}

export interface MaskedModel {
  readonly name: string;
  readonly entry: string;
  /** What it is, in the table. */
  readonly doc: string;
  /** The longer way first. */
  readonly ways: readonly [Way, Way];
  /** Whether both ways compute the same. */
  readonly same: boolean;
  readonly inputs: () => Readonly<Record<string, Nd>>;
  /** How many times faster the second way was promised to be. */
  readonly promised?: number;
  /** Share of what the ratio of multiply-accumulates allows. */
  readonly share?: number;
}

/** Rows that nobody reads are computed, or not. */
const dropping = (build: () => ModelGraph): readonly [Way, Way] => [
  { name: 'as written', model: build, without: ['drop-steps', 'drop-tokens', 'pack-rows'] },
  { name: 'dropped', model: build, without: [] },
];

const floats = (seed: string, ...shape: number[]): Nd => {
  const count = shape.reduce((a, b) => a * b, 1);
  return nd('f32', shape, Float64Array.from(uniform(seed, count, 0, 1)));
};
const integers = (shape: readonly number[], of: (row: number, i: number) => number): Nd => {
  const width = shape[1]!;
  const data = Float64Array.from({ length: shape[0]! * width }, (_, i) => of(Math.floor(i / width), i % width));
  return nd('i64', shape, data);
};

/** Lengths of 16 texts in 128 slots: 60 % on average, spread evenly from 20 % to all. */
export const LENGTHS: readonly number[] = [26, 32, 39, 46, 53, 60, 66, 73, 80, 87, 94, 101, 107, 114, 121, 128];

const image = { imageSize: 224, patchSize: 16, channels: 3, layers: 12, width: 768, heads: 12, mlp: 3072 } as const;
const picture = () => ({ pixel_values: floats('pixels', 1, 3, 224, 224), noise: floats('noise', 1, 196) });

/** Attention alone: twelve heads over 2048 tokens. */
function scores(masked: boolean): ModelGraph {
  const part = () => input(f32, [1, 12, 2048, 64], 'tokens by head');
  return model(masked ? 'causal' : 'unmasked', { q: part(), k: part(), v: part() }, ({ q, k, v }) => ({
    y: attention(q, k, v, masked ? { mask: causal } : {}),
  }));
}

export const MASKED_MODELS: readonly MaskedModel[] = [
  {
    name: 'mae-b16-encoder',
    entry: 'main',
    doc: 'MAE ViT-B/16 encoder, 49 of 196 patches visible',
    ways: dropping(() =>
      mae({
        ...image,
        decoder: { layers: 8, width: 512, heads: 16, mlp: 2048 },
        hasDecoder: false,
        latents: 'visible',
      }),
    ),
    same: true,
    inputs: picture,
    promised: 3,
    share: 0.85,
  },
  {
    name: 'mae-b16',
    entry: 'main',
    doc: 'MAE ViT-B/16, encoder and decoder, predictions and loss of removed patches',
    ways: dropping(() => zoo('mae-b16')),
    same: true,
    inputs: picture,
    promised: 1.9,
    share: 0.85,
  },
  {
    name: 'bert-base-padded',
    entry: 'main',
    doc: 'BERT-base, next sentence head, 16 texts of 26 to 128 tokens in 128 slots (60 %)',
    ways: dropping(() => bert({ layers: 12, width: 768, heads: 12, mlp: 3072, vocabulary: 30522, maskedLm: false })),
    same: true,
    inputs: () => ({
      input_ids: integers([16, 128], (row, i) => (i < LENGTHS[row]! ? 1000 + ((row * 131 + i * 37) % 20000) : 0)),
      attention_mask: integers([16, 128], (row, i) => (i < LENGTHS[row]! ? 1 : 0)),
      token_type_ids: integers([16, 128], () => 0),
    }),
    promised: 1.5,
    share: 0.85,
  },
  {
    name: 'clip-b32-text',
    entry: 'text',
    doc: 'CLIP ViT-B/32 text tower, 12 tokens up to the end mark in 77 slots',
    ways: dropping(() => zoo('clip-b32')),
    same: true,
    inputs: () => ({ input_ids: integers([1, 77], (_, i) => (i < 11 ? 300 + 7 * i : i === 11 ? 49407 : 0)) }),
  },
  {
    name: 'causal-2048',
    entry: 'main',
    doc: 'attention over 2048 tokens, 12 heads of 64: unmasked and causal',
    ways: [
      { name: 'unmasked', model: () => scores(false), without: [] },
      { name: 'causal', model: () => scores(true), without: [] },
    ],
    same: false,
    inputs: () => ({
      q: floats('q', 1, 12, 2048, 64),
      k: floats('k', 1, 12, 2048, 64),
      v: floats('v', 1, 12, 2048, 64),
    }),
    promised: 1.7,
  },
];
