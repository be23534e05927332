import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type BenchModel, onnxGraph } from './models.ts';
import { safetensors, type WeightSource } from './weights.ts';

/**
 * Writes the weights that the peers' ONNX file holds as a checkpoint: `model.safetensors` (f32) with timm's names for a
 * ViT and Hugging Face's for BERT, and for BERT the `config.json` that makes the folder a Hugging Face one.
 *
 * @returns the path of the safetensors file
 */
export function writeCheckpoint(model: BenchModel, weights: WeightSource, folder: string): string {
  mkdirSync(folder, { recursive: true });
  const config = hfConfig(model);
  if (config) writeFileSync(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  const path = join(folder, 'model.safetensors');
  const file = openSync(path, 'w');
  try {
    for (const bytes of safetensors(onnxGraph(model).parameters, weights)) writeWhole(file, bytes);
  } finally {
    closeSync(file);
  }
  return path;
}

/** One write may take fewer bytes than it is given. */
function writeWhole(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
}

function hfConfig({ architecture: it }: BenchModel): Readonly<Record<string, unknown>> | undefined {
  if (it.kind !== 'bert') return undefined;
  return {
    architectures: ['BertModel'],
    model_type: 'bert',
    vocab_size: it.config.vocabulary,
    hidden_size: it.config.width,
    num_hidden_layers: it.config.layers,
    num_attention_heads: it.config.heads,
    intermediate_size: it.config.mlp,
    max_position_embeddings: it.config.positions,
    type_vocab_size: 2,
    hidden_act: 'gelu',
    layer_norm_eps: 1e-12,
    pad_token_id: 0,
  };
}
