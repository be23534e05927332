import { fail } from '../../ir/diagnostic.ts';
import type { WeightTensor } from '../../ir/weights.ts';
import type { HfConfig } from './hf-config.ts';
import { formatShape, quote } from './message.ts';
import type { FileStore } from './store.ts';

/** A store under the zoo's names over the names of a Hugging Face checkpoint. */
export interface MappedStore extends FileStore {
  /** Stored tensors that the architecture does not compute with: masks kept as buffers, tied copies, ViT's pooler. */
  readonly ignored: readonly string[];
}

/**
 * Stored name → ours. `$1` … insert groups; what follows a `#` says which part of the tensor it is; null ignores it.
 * A name that no rule matches keeps its name, so that a check against the model reports it.
 */
type Rule = readonly [stored: RegExp, ours: string | null];

const N = '(0|[1-9]\\d*)';
const WB = '(weight|bias)';

/** `{N}` stands for a layer number, `{WB}` for `weight` or `bias`, `{ANY}` for any text; `.` is a dot. */
function rule(stored: string, ours: string | null): Rule {
  const dots = stored.replaceAll('.', '\\.');
  const pattern = dots.replaceAll('{N}', N).replaceAll('{WB}', WB).replaceAll('{ANY}', '.*');
  return [new RegExp(`^${pattern}$`), ours];
}

/** One block of HF's ViT in timm's names; query, key and value become parts of one `qkv`. */
function vitBlock(stored: string, ours: string): readonly Rule[] {
  return [
    rule(`${stored}.{N}.attention.attention.(query|key|value).{WB}`, `${ours}.$1.attn.qkv.$3#$2`),
    rule(`${stored}.{N}.attention.output.dense.{WB}`, `${ours}.$1.attn.proj.$2`),
    rule(`${stored}.{N}.intermediate.dense.{WB}`, `${ours}.$1.mlp.fc1.$2`),
    rule(`${stored}.{N}.output.dense.{WB}`, `${ours}.$1.mlp.fc2.$2`),
    rule(`${stored}.{N}.layernorm_before.{WB}`, `${ours}.$1.norm1.$2`),
    rule(`${stored}.{N}.layernorm_after.{WB}`, `${ours}.$1.norm2.$2`),
  ];
}

const VIT: readonly Rule[] = [
  rule('(?:vit.)?embeddings.cls_token', 'cls_token'),
  rule('(?:vit.)?embeddings.position_embeddings', 'pos_embed'),
  rule('(?:vit.)?embeddings.patch_embeddings.projection.{WB}', 'patch_embed.proj.$1'),
  ...vitBlock('(?:vit.)?encoder.layer', 'blocks'),
  rule('(?:vit.)?layernorm.{WB}', 'norm.$1'),
];

const RULES: Readonly<Record<HfConfig['type'], readonly Rule[]>> = {
  vit: [
    ...VIT,
    rule('classifier.{WB}', 'head.$1'),
    // The classifier reads the class token itself; the mask token serves pre-training only.
    rule('(?:vit.)?pooler.dense.{WB}', null),
    rule('(?:vit.)?embeddings.mask_token', null),
  ],
  vit_mae: [
    ...VIT,
    rule('decoder.mask_token', 'mask_token'),
    rule('decoder.decoder_pos_embed', 'decoder_pos_embed'),
    rule('decoder.decoder_embed.{WB}', 'decoder_embed.$1'),
    ...vitBlock('decoder.decoder_layers', 'decoder_blocks'),
    rule('decoder.decoder_norm.{WB}', 'decoder_norm.$1'),
    rule('decoder.decoder_pred.{WB}', 'decoder_pred.$1'),
  ],
  bert: [
    rule('(?:bert.)?embeddings.position_ids', null),
    rule('(?:bert.)?embeddings.token_type_ids', null),
    // Checkpoints converted from TensorFlow keep its names for scale and shift.
    rule('(cls.predictions.transform.LayerNorm).gamma', '$1.weight'),
    rule('(cls.predictions.transform.LayerNorm).beta', '$1.bias'),
    rule('(?:bert.)?((?:embeddings|encoder).{ANY}LayerNorm).gamma', 'bert.$1.weight'),
    rule('(?:bert.)?((?:embeddings|encoder).{ANY}LayerNorm).beta', 'bert.$1.bias'),
    rule('(?:bert.)?((?:embeddings|encoder|pooler).{ANY})', 'bert.$1'),
  ],
  clip: [rule('(?:text|vision)_model.embeddings.position_ids', null)],
  gpt2: [
    // The causal mask and its fill value, stored as buffers; c_attn.bias is another tensor.
    rule('(?:transformer.)?h.{N}.attn.(?:bias|masked_bias)', null),
    rule('(?:transformer.)?((?:wte|wpe|h|ln_f).{ANY})', 'transformer.$1'),
  ],
};

/** A second name under which a checkpoint may store a tensor again: accepted when the bytes agree. */
const TIES: Readonly<Record<HfConfig['type'], readonly (readonly [copy: string, tensor: string])[]>> = {
  vit: [],
  vit_mae: [],
  bert: [
    ['cls.predictions.decoder.weight', 'bert.embeddings.word_embeddings.weight'],
    ['cls.predictions.decoder.bias', 'cls.predictions.bias'],
  ],
  clip: [],
  gpt2: [['lm_head.weight', 'transformer.wte.weight']],
};

/** The order of the rows of `qkv`. */
const PARTS = ['query', 'key', 'value'] as const;

/** Stored names of one of our tensors: one, or the three that are concatenated. */
type Sources = readonly [string] | readonly [string, string, string];

/**
 * Presents a Hugging Face checkpoint under the zoo's names. ViT and MAE get timm's names, and their query, key and
 * value become the rows of one `qkv`, concatenated anew on every `get`; BERT and GPT-2 get HF's names with the prefix
 * `bert.` or `transformer.`, whether or not the file has it; CLIP keeps HF's names.
 *
 * @throws CompileError `weights` when two stored tensors would get one name, when a part of a `qkv` is missing, or when
 *   an output projection that the architecture ties to the embedding holds other values
 */
export function mapNames(type: HfConfig['type'], stored: FileStore): MappedStore {
  const sources = new Map<string, Sources>();
  const parts = new Map<string, Map<string, string>>();
  const ignored: string[] = [];
  const claim = (ours: string, name: string): void => {
    const other = sources.get(ours);
    if (other !== undefined) {
      fail('weights', `${stored.source}: ${quote(other[0])} and ${quote(name)} both stand for ${quote(ours)}`);
    }
    sources.set(ours, [name]);
  };
  for (const name of stored.names()) {
    const target = rename(RULES[type], name);
    if (target === null) {
      ignored.push(name);
      continue;
    }
    const { whole, part } = target;
    if (part === undefined) claim(whole, name);
    else {
      const found = parts.get(whole) ?? new Map<string, string>();
      const other = found.get(part);
      if (other !== undefined) {
        fail(
          'weights',
          `${stored.source}: ${quote(other)} and ${quote(name)} both stand for the ${part} of ${quote(whole)}`,
        );
      }
      parts.set(whole, found.set(part, name));
    }
  }
  for (const [whole, found] of parts) {
    const [query, key, value] = PARTS.map((part) => found.get(part));
    if (query === undefined || key === undefined || value === undefined) {
      const lacks = PARTS.filter((part) => !found.has(part)).join(' and ');
      fail('weights', `${stored.source}: ${quote([...found.values()][0] ?? whole)} has no ${lacks} beside it`);
    }
    if (sources.has(whole)) fail('weights', `${stored.source}: ${quote(whole)} is stored both whole and in parts`);
    sources.set(whole, [query, key, value]);
  }
  for (const [copy, tensor] of TIES[type]) {
    if (dropTied(stored, sources, copy, tensor)) ignored.push(copy);
  }

  const names = [...sources.keys()];
  return {
    source: stored.source,
    ignored,
    names: () => names,
    origin(name) {
      const of = sources.get(name) ?? [name];
      return { file: stored.origin(of[0]).file, name: of.join(' + ') };
    },
    get(name) {
      const of = sources.get(name);
      if (of === undefined) return undefined;
      return of.length === 1 ? stored.get(of[0]) : concatenateRows(stored, of);
    },
  };
}

interface Target {
  readonly whole: string;
  /** One of `PARTS`, when the stored tensor is that part of `whole`. */
  readonly part: string | undefined;
}

/** Our name of a stored tensor, or null when a rule ignores it. */
function rename(rules: readonly Rule[], name: string): Target | null {
  for (const [pattern, ours] of rules) {
    if (!pattern.test(name)) continue;
    if (ours === null) return null;
    // Split the rule, not its result: a stored name may hold a '#'.
    const [whole = '', part] = ours.split('#');
    return { whole: name.replace(pattern, whole), part: part === undefined ? undefined : name.replace(pattern, part) };
  }
  return { whole: name, part: undefined };
}

/** Removes the copy of a tied tensor once its bytes are seen to agree; answers whether it was there to remove. */
function dropTied(stored: FileStore, sources: Map<string, Sources>, copy: string, tensor: string): boolean {
  const again = sources.get(copy);
  if (again === undefined) return false;
  const first = sources.get(tensor);
  sources.delete(copy);
  if (first === undefined) {
    // Stored under the second name only.
    sources.set(tensor, again);
    return false;
  }
  const a = stored.get(again[0]);
  const b = stored.get(first[0]);
  if (a === undefined || b === undefined || a.dtype !== b.dtype || Buffer.compare(a.bytes, b.bytes) !== 0) {
    const names = `${quote(again[0])} differs from ${quote(first[0])}`;
    fail('weights', `${stored.source}: ${names}, to which the architecture ties it`, {
      help: 'a checkpoint with an output projection of its own is not supported',
    });
  }
  return true;
}

function concatenateRows(stored: FileStore, names: readonly string[]): WeightTensor {
  const tensors = names.map((name) => stored.get(name) ?? fail('weights', `${stored.source}: lost ${quote(name)}`));
  const [first] = tensors as [WeightTensor];
  for (const [i, { dtype, shape }] of tensors.entries()) {
    if (dtype === first.dtype && shape.length > 0 && shape.join() === first.shape.join()) continue;
    const described = `${dtype}${formatShape(shape)} and ${quote(names[0]!)} ${first.dtype}${formatShape(first.shape)}`;
    fail('weights', `${stored.source}: ${quote(names[i]!)} is ${described}; they must agree to stand in one qkv`);
  }
  const bytes = new Uint8Array(tensors.reduce((total, tensor) => total + tensor.bytes.length, 0));
  let at = 0;
  for (const tensor of tensors) {
    bytes.set(tensor.bytes, at);
    at += tensor.bytes.length;
  }
  return { dtype: first.dtype, shape: [first.shape[0]! * tensors.length, ...first.shape.slice(1)], bytes };
}
