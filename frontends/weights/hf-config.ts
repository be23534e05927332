import { isObject, type Json, type JsonObject } from './json.ts';
import { type Fail, failIn, quote } from './message.ts';

/** `gelu` is the exact one (erf), `gelu_tanh` its tanh approximation. */
export type Activation = 'gelu' | 'gelu_tanh' | 'quick_gelu' | 'relu' | 'silu';

/** Sizes that every stack of blocks has. `width` is the model's, `mlp` the hidden width of a block's MLP. */
export interface StackConfig {
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly mlp: number;
}

interface ImageConfig extends StackConfig {
  /** Side of the square input image and of one square patch, in pixels. The patch divides the image. */
  readonly imageSize: number;
  readonly patchSize: number;
  readonly channels: number;
  readonly activation: Activation;
  /** ε of every layer normalisation. */
  readonly eps: number;
  readonly qkvBias: boolean;
}

export interface VitConfig extends ImageConfig {
  readonly type: 'vit';
  /** Rows of the classifier; 0 when the checkpoint has none. */
  readonly classes: number;
  /** Class names by index, where the config gives them all. */
  readonly labels: readonly string[] | undefined;
}

export interface MaeConfig extends ImageConfig {
  readonly type: 'vit_mae';
  readonly decoder: StackConfig;
  /** Share of patches dropped in pre-training, in [0, 1). */
  readonly maskRatio: number;
  /** Targets were normalised per patch. */
  readonly normPixLoss: boolean;
  /** False when the checkpoint holds the encoder only. */
  readonly hasDecoder: boolean;
}

export interface BertConfig extends StackConfig {
  readonly type: 'bert';
  readonly vocabulary: number;
  /** Longest sequence. */
  readonly positions: number;
  readonly segments: number;
  readonly activation: Activation;
  readonly eps: number;
  readonly padToken: number;
  /** Which heads the checkpoint holds. */
  readonly pooler: boolean;
  readonly maskedLm: boolean;
  readonly nextSentence: boolean;
}

export interface Gpt2Config extends StackConfig {
  readonly type: 'gpt2';
  readonly vocabulary: number;
  /** Longest sequence, prompt and continuation together. */
  readonly positions: number;
  readonly activation: Activation;
  readonly eps: number;
  readonly eosToken: number | undefined;
}

/** The image tower of CLIP, whose patches have no bias. */
export type ClipImageConfig = Omit<ImageConfig, 'qkvBias'>;

export interface ClipTextConfig extends StackConfig {
  readonly vocabulary: number;
  /** Longest text. */
  readonly positions: number;
  readonly activation: Activation;
  readonly eps: number;
  /** The token where a text is read; undefined for that of the largest number. */
  readonly eosToken: number | undefined;
}

export interface ClipConfig {
  readonly type: 'clip';
  readonly image: ClipImageConfig;
  readonly text: ClipTextConfig;
  /** Width of the space that both towers end in. */
  readonly projection: number;
}

/** A checked `config.json` in one vocabulary for all architectures; heads are read off the checkpoint's tensors. */
export type HfConfig = VitConfig | MaeConfig | BertConfig | ClipConfig | Gpt2Config;

/** The architectures known, by `model_type`. */
export const MODEL_TYPES = ['vit', 'vit_mae', 'bert', 'clip', 'gpt2'] as const satisfies readonly HfConfig['type'][];

/** Answers whether the checkpoint holds a tensor of this (mapped) name. */
export type Has = (name: string) => boolean;

/**
 * Checks the fields that change what the model computes and brings them to one vocabulary. Sizes must be present, except
 * CLIP's, whose towers are stored without what is usual; those, activations, ε and flags default as in the transformers
 * library.
 *
 * @param source the config's path, for messages
 * @throws CompileError `config`, naming the field
 */
export function readHfConfig(json: Json, source: string, has: Has): HfConfig {
  const fields = new Fields(json, source);
  switch (modelType(json, source)) {
    case 'vit':
      return vit(fields, has);
    case 'vit_mae':
      return mae(fields, has);
    case 'bert':
      return bert(fields, has);
    case 'clip':
      return clip(fields);
    case 'gpt2':
      return gpt2(fields);
  }
}

/** @throws CompileError `config` when `model_type` is absent or unknown */
export function modelType(json: Json, source: string): HfConfig['type'] {
  const type = isObject(json) ? json.get('model_type') : undefined;
  const known = MODEL_TYPES.find((name) => name === type);
  if (known !== undefined) return known;
  const given = typeof type === 'string' ? `is ${quote(type)}` : 'is missing or not a string';
  return failIn('config', source)(`"model_type" ${given}`, { help: `known types: ${MODEL_TYPES.join(', ')}` });
}

function vit(fields: Fields, has: Has): VitConfig {
  const labels = fields.labels();
  const classes = has('head.weight') ? (fields.optionalSize('num_labels') ?? labels?.length ?? 2) : 0;
  return { type: 'vit', ...image(fields), classes, labels };
}

function mae(fields: Fields, has: Has): MaeConfig {
  const decoder = stack(fields, [
    'decoder_num_hidden_layers',
    'decoder_hidden_size',
    'decoder_num_attention_heads',
    'decoder_intermediate_size',
  ]);
  const maskRatio = fields.number('mask_ratio', 0.75);
  if (maskRatio < 0 || maskRatio >= 1) fields.fail(`"mask_ratio" is ${maskRatio}, outside [0, 1)`);
  return {
    type: 'vit_mae',
    ...image(fields),
    decoder,
    maskRatio,
    normPixLoss: fields.flag('norm_pix_loss', false),
    hasDecoder: has('decoder_embed.weight'),
  };
}

function bert(fields: Fields, has: Has): BertConfig {
  fields.only('position_embedding_type', 'absolute');
  fields.only('is_decoder', false);
  fields.only('add_cross_attention', false);
  return {
    type: 'bert',
    ...stack(fields, ['num_hidden_layers', 'hidden_size', 'num_attention_heads', 'intermediate_size']),
    vocabulary: fields.size('vocab_size'),
    positions: fields.size('max_position_embeddings'),
    segments: fields.size('type_vocab_size', 2),
    activation: fields.activation('hidden_act', 'gelu'),
    eps: fields.eps('layer_norm_eps', 1e-12),
    padToken: fields.token('pad_token_id') ?? 0,
    pooler: has('bert.pooler.dense.weight'),
    maskedLm: has('cls.predictions.transform.dense.weight'),
    nextSentence: has('cls.seq_relationship.weight'),
  };
}

/** The end mark of texts in the first configs, which is not the token's number: the largest number of a text is meant. */
const OLD_EOS = 2;

function clip(fields: Fields): ClipConfig {
  const text = fields.part('text_config', 'text_config_dict');
  const image = fields.part('vision_config', 'vision_config_dict');
  const eosToken = text.token('eos_token_id') ?? 49407;
  const imageSize = image.side('image_size', 224);
  const patchSize = image.side('patch_size', 32);
  if (imageSize % patchSize !== 0)
    image.fail(`"image_size" ${imageSize} is not a multiple of "patch_size" ${patchSize}`);
  const names = ['num_hidden_layers', 'hidden_size', 'num_attention_heads', 'intermediate_size'] as const;
  const rest = (tower: Fields) => ({
    activation: tower.activation('hidden_act', 'quick_gelu'),
    eps: tower.eps('layer_norm_eps', 1e-5),
  });
  return {
    type: 'clip',
    image: {
      ...stack(image, names, { layers: 12, width: 768, heads: 12, mlp: 3072 }),
      ...rest(image),
      imageSize,
      patchSize,
      channels: image.size('num_channels', 3),
    },
    text: {
      ...stack(text, names, { layers: 12, width: 512, heads: 8, mlp: 2048 }),
      ...rest(text),
      vocabulary: text.size('vocab_size', 49408),
      positions: text.size('max_position_embeddings', 77),
      eosToken: eosToken === OLD_EOS ? undefined : eosToken,
    },
    projection: fields.size('projection_dim', 512),
  };
}

function gpt2(fields: Fields): Gpt2Config {
  fields.only('scale_attn_weights', true);
  fields.only('scale_attn_by_inverse_layer_idx', false);
  fields.only('add_cross_attention', false);
  const width = fields.size('n_embd');
  return {
    type: 'gpt2',
    ...stack(fields, ['n_layer', 'n_embd', 'n_head', 'n_inner'], { mlp: 4 * width }),
    vocabulary: fields.size('vocab_size'),
    positions: fields.size('n_positions', fields.optionalSize('n_ctx')),
    activation: fields.activation('activation_function', 'gelu_new'),
    eps: fields.eps('layer_norm_epsilon', 1e-5),
    eosToken: fields.token('eos_token_id'),
  };
}

function image(fields: Fields): ImageConfig {
  const imageSize = fields.side('image_size');
  const patchSize = fields.side('patch_size');
  if (imageSize % patchSize !== 0) {
    fields.fail(`"image_size" ${imageSize} is not a multiple of "patch_size" ${patchSize}`);
  }
  return {
    ...stack(fields, ['num_hidden_layers', 'hidden_size', 'num_attention_heads', 'intermediate_size']),
    imageSize,
    patchSize,
    channels: fields.size('num_channels', 3),
    activation: fields.activation('hidden_act', 'gelu'),
    eps: fields.eps('layer_norm_eps', 1e-12),
    qkvBias: fields.flag('qkv_bias', true),
  };
}

/** @param names the fields of layers, width, heads and MLP width @param usual what a field that is absent says */
function stack(
  fields: Fields,
  [layers, width, heads, mlp]: readonly [string, string, string, string],
  usual: Partial<StackConfig> = {},
): StackConfig {
  const config = {
    layers: fields.size(layers, usual.layers, MAX_LAYERS),
    width: fields.size(width, usual.width),
    heads: fields.size(heads, usual.heads),
    mlp: fields.size(mlp, usual.mlp),
  };
  if (config.width % config.heads !== 0) {
    fields.fail(`"${width}" ${config.width} is not a multiple of "${heads}" ${config.heads}`);
  }
  return config;
}

/** Bounds that keep a hostile config from making the caller build forever. */
const MAX_LAYERS = 10_000;
const MAX_SIZE = 2 ** 31 - 1;

const ACTIVATIONS: ReadonlyMap<string, Activation> = new Map<string, Activation>([
  ['gelu', 'gelu'],
  ['gelu_python', 'gelu'],
  ['gelu_new', 'gelu_tanh'],
  ['gelu_pytorch_tanh', 'gelu_tanh'],
  ['gelu_fast', 'gelu_tanh'],
  ['quick_gelu', 'quick_gelu'],
  ['relu', 'relu'],
  ['silu', 'silu'],
  ['swish', 'silu'],
]);

/** Typed access to the fields of a config. An explicit `null` counts as absent, as it does for transformers. */
class Fields {
  readonly fail: Fail;
  private readonly object: JsonObject;
  private readonly source: string;

  constructor(json: Json, source: string) {
    this.source = source;
    this.fail = failIn('config', source);
    this.object = isObject(json) ? json : failIn('config', source)('not a JSON object');
  }

  size(field: string, fallback?: number, max = MAX_SIZE): number {
    const value = this.object.get(field) ?? fallback;
    if (value === undefined) return this.fail(`"${field}" is missing`);
    if (typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= max) return value;
    return this.fail(`"${field}" is ${show(value)}, not an integer from 1 to ${max}`);
  }

  optionalSize(field: string): number | undefined {
    return this.absent(field) ? undefined : this.size(field);
  }

  /** A side in pixels, given as a number or as two equal numbers. */
  side(field: string, fallback?: number): number {
    const value = this.object.get(field);
    if (!Array.isArray(value)) return this.size(field, fallback);
    const [height, width]: readonly Json[] = value;
    if (value.length !== 2 || height !== width || typeof height !== 'number') {
      return this.fail(`"${field}" is ${show(value as Json)}; only squares are supported`);
    }
    return this.size(field, undefined, MAX_SIZE);
  }

  /** The fields of an object within; those of a second object, where that is there, win. */
  part(field: string, over: string): Fields {
    const objects = [field, over].flatMap((name) => {
      const value = this.object.get(name) ?? undefined;
      if (value === undefined) return [];
      return isObject(value) ? [value] : this.fail(`"${name}" is ${show(value)}, not an object`);
    });
    return new Fields(new Map(objects.flatMap((object) => [...object])), `${this.source}: ${field}`);
  }

  number(field: string, fallback: number): number {
    const value = this.object.get(field) ?? fallback;
    return typeof value === 'number' && Number.isFinite(value)
      ? value
      : this.fail(`"${field}" is ${show(value)}, not a number`);
  }

  eps(field: string, fallback: number): number {
    const value = this.number(field, fallback);
    return value > 0 && value < 1 ? value : this.fail(`"${field}" is ${value}, not between 0 and 1`);
  }

  flag(field: string, fallback: boolean): boolean {
    const value = this.object.get(field) ?? fallback;
    return typeof value === 'boolean' ? value : this.fail(`"${field}" is ${show(value)}, not true or false`);
  }

  token(field: string): number | undefined {
    const value = this.object.get(field) ?? undefined;
    if (value === undefined || (typeof value === 'number' && Number.isInteger(value) && value >= 0)) return value;
    return this.fail(`"${field}" is ${show(value)}, not a token number`);
  }

  activation(field: string, fallback: string): Activation {
    const value = this.object.get(field) ?? fallback;
    const known = typeof value === 'string' ? ACTIVATIONS.get(value) : undefined;
    return (
      known ??
      this.fail(`"${field}" is ${show(value)}`, { help: `known activations: ${[...ACTIVATIONS.keys()].join(', ')}` })
    );
  }

  /** Refuses a variant of the architecture that is not built here. */
  only(field: string, supported: boolean | string): void {
    const value = this.object.get(field) ?? supported;
    if (value !== supported) this.fail(`"${field}" is ${show(value)}; only ${show(supported)} is supported`);
  }

  /** Class names from `id2label`, which must number them 0, 1, 2, …. */
  labels(): readonly string[] | undefined {
    const map = this.object.get('id2label') ?? undefined;
    if (map === undefined) return undefined;
    if (!isObject(map)) return this.fail('"id2label" is not an object');
    return Array.from({ length: map.size }, (_, i) => {
      const label = map.get(String(i));
      return typeof label === 'string' ? label : this.fail(`"id2label" has ${map.size} entries but no text for ${i}`);
    });
  }

  private absent(field: string): boolean {
    return (this.object.get(field) ?? undefined) === undefined;
  }
}

function show(value: Json): string {
  if (typeof value === 'string') return quote(value);
  if (isObject(value)) return 'an object';
  if (Array.isArray(value)) return value.length > 4 ? `a list of ${value.length}` : `[${value.map(show).join(', ')}]`;
  return String(value);
}
