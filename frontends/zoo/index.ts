/** The models that come with heddle, each as published: names, sizes, initialisation. */
import { fail } from '../../ir/diagnostic.ts';
import { nearest } from '../../ir/suggest.ts';
import type { ModelGraph } from '../dsl/index.ts';
import { type BertOptions, bert } from './bert.ts';
import { clip } from './clip.ts';
import { gpt2 } from './gpt2.ts';
import { type MaeOptions, mae } from './mae.ts';
import { type VitOptions, vit } from './vit.ts';

export { countParameters, type ModelGraph, type Parameter } from '../dsl/index.ts';
export { type BertOptions, bert } from './bert.ts';
export { type ClipImageOptions, type ClipOptions, type ClipTextOptions, clip } from './clip.ts';
export { type Gpt2Options, gpt2 } from './gpt2.ts';
export { type FolderOptions, type LoadedModel, modelFromHf } from './hf.ts';
export { type MaeOptions, mae } from './mae.ts';
export { seededWeights } from './seeded.ts';
export { type VitOptions, vit } from './vit.ts';

const image = (patchSize: number) => ({ imageSize: 224, patchSize, channels: 3 }) as const;
const small = { layers: 12, width: 384, heads: 6, mlp: 1536 } as const;
const base = { layers: 12, width: 768, heads: 12, mlp: 3072 } as const;
const large = { layers: 24, width: 1024, heads: 16, mlp: 4096 } as const;
const huge = { layers: 32, width: 1280, heads: 16, mlp: 5120 } as const;
/** The decoder of every published MAE. */
const decoder = { layers: 8, width: 512, heads: 16, mlp: 2048 } as const;

/** The loss reads predictions of removed patches only, and so do its users: they show the visible ones as they are. */
const removed = { predictions: 'removed' } as const;

/** Options that every zoo model of a family takes. */
export interface ZooOptions {
  /** ViT: also give the class token's attention map. */
  readonly attentionMap?: boolean;
  /** MAE: share of patches removed; 0.75 as published. */
  readonly maskRatio?: number;
  /** MAE: the loss normalises each target patch. */
  readonly normPixLoss?: boolean;
  /** BERT: predictions at that many positions of each sequence, which are an input. */
  readonly predictionsAt?: number;
  /** GPT-2: logits of every position of a prompt, or of the last. */
  readonly logits?: 'all' | 'last';
}

const MODELS = {
  'vit-s16': (o) => vit({ name: 'vit-s16', ...image(16), ...small, classes: 1000, ...pick(o) }),
  'vit-b16': (o) => vit({ name: 'vit-b16', ...image(16), ...base, classes: 1000, ...pick(o) }),
  'vit-b32': (o) => vit({ name: 'vit-b32', ...image(32), ...base, classes: 1000, ...pick(o) }),
  'vit-l16': (o) => vit({ name: 'vit-l16', ...image(16), ...large, classes: 1000, ...pick(o) }),
  'mae-b16': (o) => mae({ name: 'mae-b16', ...image(16), ...base, decoder, ...removed, ...loss(o) }),
  'mae-l16': (o) => mae({ name: 'mae-l16', ...image(16), ...large, decoder, ...removed, ...loss(o) }),
  'mae-h14': (o) => mae({ name: 'mae-h14', ...image(14), ...huge, decoder, ...removed, ...loss(o) }),
  'bert-base': (o) => bert({ name: 'bert-base', ...base, vocabulary: 30522, ...positionsOf(o) }),
  'bert-large': (o) => bert({ name: 'bert-large', ...large, vocabulary: 30522, ...positionsOf(o) }),
  /** Sentence encoder: BERT of six narrow layers without heads. */
  'minilm-l6': () =>
    bert({
      name: 'minilm-l6',
      layers: 6,
      width: 384,
      heads: 12,
      mlp: 1536,
      vocabulary: 30522,
      maskedLm: false,
      nextSentence: false,
    }),
  'clip-b32': () =>
    clip({
      name: 'clip-b32',
      image: { ...image(32), ...base },
      text: { layers: 12, width: 512, heads: 8, mlp: 2048, vocabulary: 49408 },
      projection: 512,
    }),
  gpt2: ({ logits = 'all' }) => gpt2({ name: 'gpt2', ...base, vocabulary: 50257, logits }),
} as const satisfies Record<string, (options: ZooOptions) => ModelGraph>;

const pick = ({ attentionMap = false }: ZooOptions): Pick<VitOptions, 'attentionMap'> => ({ attentionMap });
const positionsOf = ({ predictionsAt }: ZooOptions): Pick<BertOptions, 'predictionsAt'> =>
  predictionsAt === undefined ? {} : { predictionsAt };
const loss = ({
  maskRatio = 0.75,
  normPixLoss = false,
}: ZooOptions): Pick<MaeOptions, 'maskRatio' | 'normPixLoss'> => ({
  maskRatio,
  normPixLoss,
});

export type ZooName = keyof typeof MODELS;
export const zooNames = Object.keys(MODELS) as readonly ZooName[];

/**
 * A published model by name, with options behind it: `bert-base:predictionsAt=19`, `gpt2:logits=last`,
 * `mae-b16:maskRatio=0.5,normPixLoss=true`.
 *
 * @throws CompileError `name` for an unknown model, `usage` for an option that none has or a value that it cannot have
 */
export function zooFromText(text: string): ModelGraph {
  const [name = '', list, ...more] = text.split(':');
  const options: Record<string, string | number | boolean> = {};
  for (const pair of more.length > 0 ? [text] : (list?.split(',') ?? [])) {
    const [key = '', value = '', ...rest] = pair.split('=');
    const read = Object.hasOwn(OPTIONS, key) && rest.length === 0 ? OPTIONS[key as keyof ZooOptions](value) : undefined;
    if (read === undefined)
      fail('usage', `zoo: "${pair}" is no option of a model`, {
        help: 'options are attentionMap=true, maskRatio=0.75, normPixLoss=true, predictionsAt=20, logits=last',
      });
    options[key] = read;
  }
  return zoo(name, options as ZooOptions);
}

const flag = (text: string): boolean | undefined => (text === 'true' ? true : text === 'false' ? false : undefined);
const numeral = (text: string): number | undefined => (/^\d+(\.\d+)?$/.test(text) ? Number(text) : undefined);
const OPTIONS = {
  attentionMap: flag,
  maskRatio: numeral,
  normPixLoss: flag,
  predictionsAt: (text) => (/^[1-9]\d*$/.test(text) ? Number(text) : undefined),
  logits: (text) => (text === 'all' || text === 'last' ? text : undefined),
} as const satisfies Record<keyof ZooOptions, (text: string) => string | number | boolean | undefined>;

/**
 * A published model by name.
 * @throws CompileError `name` for an unknown one, with the nearest known
 */
export function zoo(name: string, options: ZooOptions = {}): ModelGraph {
  const build = Object.hasOwn(MODELS, name) ? MODELS[name as ZooName] : undefined;
  if (build) return build(options);
  const near = nearest(name, zooNames);
  return fail('name', `zoo: there is no model "${name}"`, {
    help: `${near === undefined ? '' : `did you mean ${near}? `}known models: ${zooNames.join(', ')}`,
  });
}
