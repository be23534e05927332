/** Model folders as they are published: `config.json` beside `model.safetensors`. */
import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fail } from '../../ir/diagnostic.ts';
import type { WeightStore } from '../../ir/weights.ts';
import type { ModelGraph } from '../dsl/index.ts';
import { readJsonFile, resolveInside } from '../weights/files.ts';
import { openHfFolder } from '../weights/hf.ts';
import type { HfConfig } from '../weights/hf-config.ts';
import { isObject, type JsonObject } from '../weights/json.ts';
import { failIn, quote } from '../weights/message.ts';
import { readWeights } from '../weights/sharded.ts';
import { checkWeights } from '../weights/store.ts';
import { bert } from './bert.ts';
import { clip } from './clip.ts';
import { gpt2 } from './gpt2.ts';
import { mae } from './mae.ts';
import { vit } from './vit.ts';

export interface LoadedModel {
  readonly model: ModelGraph;
  /** Under the model's names; checked: nothing missing, extra, misshapen or NaN. */
  readonly weights: WeightStore;
}

/** What a caller may change of the model in a folder. */
export interface FolderOptions {
  /** ViT: also give the class token's attention map. */
  readonly attentionMap?: boolean;
  /** MAE: instead of the config's. */
  readonly maskRatio?: number;
  readonly normPixLoss?: boolean;
}

/**
 * The model of a folder and its weights.
 *
 * `config.json` is Hugging Face's (`model_type` vit, vit_mae, bert, clip or gpt2), or has `"architecture": "vit" | "mae"` with
 * the fields that timm and facebookresearch/mae call their hyper-parameters and weights under their names.
 *
 * @throws CompileError `file`, `config` or `weights`, naming the file and the field or tensor
 */
export function modelFromHf(folder: string, options: FolderOptions = {}): LoadedModel {
  const name = basename(resolve(folder)) || 'model';
  const path = join(folder, 'config.json');
  const plain = existsSync(path) ? readJsonFile(resolveInside(folder, 'config.json'), 'config') : undefined;
  if (isObject(plain) && plain.has('architecture') && !plain.has('model_type')) {
    const model = fromPlain(plain, path, name, options);
    const weights = readWeights(folder);
    checkWeights(model.parameters, weights);
    return { model, weights };
  }
  const { config, weights } = openHfFolder(folder);
  const model = graphOfConfig(config, name, options);
  checkWeights(model.parameters, weights);
  return { model, weights };
}

/** The graph of a Hugging Face config. */
export function graphOfConfig(config: HfConfig, name: string, options: FolderOptions = {}): ModelGraph {
  switch (config.type) {
    case 'vit':
      return vit({ ...config, name, attentionMap: options.attentionMap ?? false });
    case 'vit_mae':
      return mae({ ...config, name, ...changed(options) });
    case 'bert':
      return bert({ ...config, name });
    case 'clip':
      return clip({ ...config, name });
    case 'gpt2':
      return gpt2({ ...config, name });
  }
}

const changed = ({ maskRatio, normPixLoss }: FolderOptions): { maskRatio?: number; normPixLoss?: boolean } => ({
  ...(maskRatio === undefined ? {} : { maskRatio }),
  ...(normPixLoss === undefined ? {} : { normPixLoss }),
});

function fromPlain(json: JsonObject, path: string, name: string, options: FolderOptions): ModelGraph {
  const complain = failIn('config', path);
  const number = (field: string): number => {
    const value = json.get(field);
    return typeof value === 'number' && Number.isFinite(value) && value > 0
      ? value
      : complain(`"${field}" is not a positive number`);
  };
  const size = (field: string): number => {
    const value = number(field);
    return Number.isInteger(value) && value < 2 ** 31 ? value : complain(`"${field}" is ${value}, not a size`);
  };
  const stack = (prefix: string) => {
    const width = size(`${prefix}dim`);
    const heads = size(`${prefix}heads`);
    if (width % heads !== 0) complain(`"${prefix}dim" ${width} is not a multiple of "${prefix}heads" ${heads}`);
    return { layers: size(`${prefix}depth`), width, heads, mlp: width * size('mlp_ratio') };
  };
  const image = {
    imageSize: size('image_size'),
    patchSize: size('patch_size'),
    channels: size('channels'),
    eps: number('layer_norm_eps'),
  };
  if (image.imageSize % image.patchSize !== 0)
    complain(`"image_size" ${image.imageSize} is not a multiple of "patch_size" ${image.patchSize}`);
  const architecture = json.get('architecture');
  if (architecture === 'vit')
    return vit({ ...image, ...stack(''), classes: size('classes'), name, attentionMap: options.attentionMap ?? false });
  if (architecture === 'mae')
    return mae({
      ...image,
      ...stack(''),
      decoder: stack('decoder_'),
      maskRatio: number('mask_ratio'),
      normPixLoss: json.get('norm_pix_loss') === true,
      name,
      ...changed(options),
    });
  const given = typeof architecture === 'string' ? quote(architecture) : 'no text';
  return fail('config', `${path}: "architecture" is ${given}`, { help: 'known architectures: vit, mae' });
}
