import { statSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../../ir/diagnostic.ts';
import { readJsonFile, resolveInside } from './files.ts';
import { type HfConfig, modelType, readHfConfig } from './hf-config.ts';
import { type MappedStore, mapNames } from './hf-names.ts';
import { isObject, type Json } from './json.ts';
import { readWeights } from './sharded.ts';

export interface HfModel {
  readonly config: HfConfig;
  /** Under the zoo's names; see `mapNames`. */
  readonly weights: MappedStore;
}

/**
 * Opens a Hugging Face model folder: `config.json` beside `model.safetensors` or `model.safetensors.index.json`.
 * The weight files are read whole, once; tensors are views of them. Whether they fit the model is for `checkWeights`.
 *
 * @throws CompileError `file` when a file is absent or unreadable, `config` when a field is wrong or the architecture
 *   unknown, `weights` when the tensors cannot be what the config says
 */
export function openHfFolder(folder: string): HfModel {
  if (!(statSync(folder, { throwIfNoEntry: false })?.isDirectory() ?? false)) fail('file', `${folder}: not a folder`);
  const path = join(folder, 'config.json');
  const json = readJsonFile(resolveInside(folder, 'config.json'), 'config');
  // The type comes first: naming an unknown architecture must not wait for gigabytes to be read.
  const type = modelType(json, path);
  const weights = mapNames(type, readWeights(folder));
  const names = new Set(weights.names());
  const config = readHfConfig(json, path, (name) => names.has(name));
  refuseUntied(json, path, config, weights);
  return { config, weights };
}

/** `tie_word_embeddings: false` asks for an output projection of its own: refused unless one is stored. */
function refuseUntied(json: Json, path: string, config: HfConfig, weights: MappedStore): void {
  if (!isObject(json) || json.get('tie_word_embeddings') !== false) return;
  const architectures = json.get('architectures');
  const lm = Array.isArray(architectures) && architectures.includes('GPT2LMHeadModel');
  const copy =
    config.type === 'gpt2' && lm
      ? 'lm_head.weight'
      : config.type === 'bert' && config.maskedLm
        ? 'cls.predictions.decoder.weight'
        : undefined;
  if (copy === undefined || weights.ignored.includes(copy)) return;
  fail('config', `${path}: "tie_word_embeddings" is false but the checkpoint holds no ${copy}`);
}
