import type { OnnxGraph } from './onnx-graph.ts';
import { type BertConfig, bertOnnx, type MatmulConfig, matmulOnnx, type VitConfig, vitOnnx } from './onnx-models.ts';
import { uniform } from './weights.ts';

/** Inputs by name: f32 tensors as Float32Array, i64 tensors as BigInt64Array, each with its shape. */
export type Inputs = Readonly<
  Record<string, { readonly data: Float32Array | BigInt64Array; readonly shape: readonly number[] }>
>;

/** Outputs by name, each row-major f32. */
export type Outputs = Readonly<Record<string, Float32Array>>;

export type Architecture =
  | { readonly kind: 'vit'; readonly config: VitConfig }
  | { readonly kind: 'bert'; readonly config: BertConfig }
  | { readonly kind: 'matmul'; readonly config: MatmulConfig };

/** One workload that every competitor runs with the same weights and inputs. */
export interface BenchModel {
  /** Unique, usable as a file name. */
  readonly name: string;
  readonly architecture: Architecture;
  /** Multiply-adds of its contractions in one run. */
  readonly macs: number;
  /**
   * Accepted difference from the reference where it is more than usual: a value that falls on the other side of half a
   * quantisation step moves by a step.
   */
  readonly tolerance?: number;
}

const WHOLE_MODELS: readonly BenchModel[] = [
  vit('vit-b16', { image: 224, patch: 16, width: 768, layers: 12, heads: 12, mlp: 3072, classes: 1000 }),
  bert('bert-base-128', { width: 768, layers: 12, heads: 12, mlp: 3072 }),
  bert('minilm-l6-128', { width: 384, layers: 6, heads: 12, mlp: 1536 }),
  { ...bert('minilm-l6-128-int8', { width: 384, layers: 6, heads: 12, mlp: 1536, int8: true }), tolerance: 0.03 },
];

/** The products of ViT-B/16, BERT-base and MiniLM: linear layers, one row, and attention's two batched products. */
const MATMULS: readonly BenchModel[] = [
  matmul({ m: 197, k: 768, n: 768 }),
  matmul({ m: 197, k: 768, n: 3072 }),
  matmul({ m: 197, k: 3072, n: 768 }),
  matmul({ m: 128, k: 384, n: 384 }),
  matmul({ m: 128, k: 384, n: 1536 }),
  matmul({ m: 50, k: 768, n: 768 }),
  matmul({ m: 1, k: 768, n: 768 }),
  matmul({ batch: 12, m: 197, k: 64, n: 197 }),
  matmul({ batch: 12, m: 197, k: 197, n: 64 }),
];

/** Names of the whole models, in the order of the table. */
export const MODEL_NAMES: readonly string[] = WHOLE_MODELS.map((model) => model.name);

/** Names of the single products, in the order of the table. */
export const MATMUL_NAMES: readonly string[] = MATMULS.map((model) => model.name);

/** @throws Error that lists the known names when there is no such workload */
export function findModel(name: string): BenchModel {
  const found = [...WHOLE_MODELS, ...MATMULS].find((model) => model.name === name);
  if (found) return found;
  throw new Error(`no model "${name}"; known are ${[...MODEL_NAMES, ...MATMUL_NAMES].join(', ')}`);
}

/** ViT classifier; `macs` counts the patch embedding, the blocks and the head. */
export function vit(name: string, config: VitConfig): BenchModel {
  const { image, patch, width, layers, mlp, classes } = config;
  const patches = (image / patch) ** 2;
  const stem = patches * 3 * patch * patch * width;
  const macs = stem + layers * blockMacs(patches + 1, width, mlp) + width * classes;
  return { name, architecture: { kind: 'vit', config }, macs };
}

/** BERT encoder over 128 tokens with BERT's vocabulary unless said otherwise; `macs` counts blocks and pooler. */
export function bert(
  name: string,
  config: Omit<BertConfig, 'tokens' | 'vocabulary' | 'positions'> & Partial<BertConfig>,
): BenchModel {
  const full: BertConfig = { tokens: 128, vocabulary: 30522, positions: 512, ...config };
  const macs = full.layers * blockMacs(full.tokens, full.width, full.mlp) + full.width ** 2;
  return { name, architecture: { kind: 'bert', config: full }, macs };
}

export function matmul(config: MatmulConfig): BenchModel {
  const { batch, m, k, n } = config;
  const name = `matmul-${batch === undefined ? '' : `${batch}x`}${m}x${k}x${n}`;
  return { name, architecture: { kind: 'matmul', config }, macs: (batch ?? 1) * m * k * n };
}

/** The model's ONNX graph, weights not yet asked for. */
export function onnxGraph(model: BenchModel): OnnxGraph {
  const { architecture: it, name } = model;
  switch (it.kind) {
    case 'vit':
      return vitOnnx(name, it.config);
    case 'bert':
      return bertOnnx(name, it.config);
    case 'matmul':
      return matmulOnnx(name, it.config);
  }
}

/** The inputs of every run: reproducible values in ±1, ids below the vocabulary, a mask of ones, all one segment. */
export function inputsOf(model: BenchModel): Inputs {
  const { architecture: it, name } = model;
  const floats = (input: string, shape: readonly number[]): Inputs[string] => {
    const count = shape.reduce((a, b) => a * b, 1);
    return { data: uniform(`${name}/${input}`, count, 0, 1), shape };
  };
  switch (it.kind) {
    case 'vit':
      return { image: floats('image', [1, 3, it.config.image, it.config.image]) };
    case 'bert': {
      const { tokens, vocabulary } = it.config;
      const shape = [1, tokens];
      const draws = uniform(`${name}/input_ids`, tokens, 0.5, 0.5);
      const ids = BigInt64Array.from(draws, (u) => BigInt(Math.min(Math.floor(u * vocabulary), vocabulary - 1)));
      return {
        input_ids: { data: ids, shape },
        attention_mask: { data: new BigInt64Array(tokens).fill(1n), shape },
        token_type_ids: { data: new BigInt64Array(tokens), shape },
      };
    }
    case 'matmul': {
      const { batch, m, k, n } = it.config;
      if (batch === undefined) return { a: floats('a', [m, k]) };
      return { a: floats('a', [batch, m, k]), b: floats('b', [batch, k, n]) };
    }
  }
}

function blockMacs(tokens: number, width: number, mlp: number): number {
  return tokens * width * (4 * width + 2 * mlp) + 2 * tokens * tokens * width;
}
