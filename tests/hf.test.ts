import { rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { openHfFolder } from '../frontends/weights/hf.ts';
import { readWeights, writeSafetensors } from '../frontends/weights/sharded.ts';
import { toFloat32 } from '../frontends/weights/store.ts';
import type { WeightTensor } from '../ir/weights.ts';
import { counting, damaged, f32, refusal, survives, temporaryFolder } from './weights-kit.ts';

type Config = Readonly<Record<string, unknown>>;
type Names = Readonly<Record<string, readonly number[] | WeightTensor>>;

/** A model folder; tensors given by shape hold distinct values, a hundred apart in the order of the entries. */
function hfFolder(t: ExecutionContext, config: Config | string, tensors: Names): string {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config));
  const entries = Object.entries(tensors).map(([name, value], i): [string, WeightTensor] => {
    return [name, 'bytes' in value ? value : counting(value, i * 100)];
  });
  writeSafetensors(join(folder, 'model.safetensors'), entries);
  return folder;
}

function values(folder: string, name: string): number[] {
  const tensor = openHfFolder(folder).weights.get(name);
  return tensor === undefined ? [] : [...toFloat32(tensor)];
}

const D = 4;
const M = 6;

/** HF's names of one ViT block of width D and MLP width M. */
function vitBlock(prefix: string, bias = true): Names {
  const names: Record<string, readonly number[]> = {};
  for (const part of ['value', 'query', 'key']) {
    names[`${prefix}.attention.attention.${part}.weight`] = [D, D];
    if (bias) names[`${prefix}.attention.attention.${part}.bias`] = [D];
  }
  for (const [layer, rows, columns] of [
    ['attention.output.dense', D, D],
    ['intermediate.dense', M, D],
    ['output.dense', D, M],
  ] as const) {
    names[`${prefix}.${layer}.weight`] = [rows, columns];
    names[`${prefix}.${layer}.bias`] = [rows];
  }
  for (const norm of ['layernorm_before', 'layernorm_after']) {
    names[`${prefix}.${norm}.weight`] = [D];
    names[`${prefix}.${norm}.bias`] = [D];
  }
  return names;
}

const timmBlock = (prefix: string): string[] =>
  ['attn.proj', 'attn.qkv', 'mlp.fc1', 'mlp.fc2', 'norm1', 'norm2'].flatMap((layer) => [
    `${prefix}.${layer}.bias`,
    `${prefix}.${layer}.weight`,
  ]);

const vitConfig: Config = {
  model_type: 'vit',
  hidden_size: D,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: M,
  image_size: 6,
  patch_size: 3,
  num_channels: 1,
  hidden_act: 'gelu',
  layer_norm_eps: 1e-12,
  id2label: { 0: 'cat', 1: 'dog', 2: 'emu' },
};

function vitTensors(prefix: string): Names {
  return {
    [`${prefix}embeddings.cls_token`]: [1, 1, D],
    [`${prefix}embeddings.position_embeddings`]: [1, 5, D],
    [`${prefix}embeddings.patch_embeddings.projection.weight`]: [D, 1, 3, 3],
    [`${prefix}embeddings.patch_embeddings.projection.bias`]: [D],
    ...vitBlock(`${prefix}encoder.layer.0`),
    [`${prefix}layernorm.weight`]: [D],
    [`${prefix}layernorm.bias`]: [D],
  };
}

const vitNames = [
  'cls_token',
  'norm.bias',
  'norm.weight',
  'patch_embed.proj.bias',
  'patch_embed.proj.weight',
  'pos_embed',
  ...timmBlock('blocks.0'),
];

test('vit: gets timm names, one qkv and its labels', (t) => {
  const folder = hfFolder(t, vitConfig, {
    ...vitTensors('vit.'),
    'classifier.weight': [3, D],
    'classifier.bias': [3],
    'vit.pooler.dense.weight': [D, D],
  });
  const { config, weights } = openHfFolder(folder);
  t.deepEqual(config, {
    type: 'vit',
    layers: 1,
    width: D,
    heads: 2,
    mlp: M,
    imageSize: 6,
    patchSize: 3,
    channels: 1,
    activation: 'gelu',
    eps: 1e-12,
    qkvBias: true,
    classes: 3,
    labels: ['cat', 'dog', 'emu'],
  });
  t.deepEqual([...weights.names()].sort(), [...vitNames, 'head.bias', 'head.weight'].sort());
  t.deepEqual(weights.ignored, ['vit.pooler.dense.weight']);
  const stored = readWeights(folder);
  const part = (name: string): number[] => [
    ...toFloat32(stored.get(`vit.encoder.layer.0.attention.attention.${name}`)!),
  ];
  t.deepEqual(weights.get('blocks.0.attn.qkv.weight')?.shape, [3 * D, D]);
  for (const kind of ['weight', 'bias']) {
    const expected = [...part(`query.${kind}`), ...part(`key.${kind}`), ...part(`value.${kind}`)];
    t.deepEqual(values(folder, `blocks.0.attn.qkv.${kind}`), expected);
  }
  t.like(weights.origin('blocks.0.norm2.bias'), { name: 'vit.encoder.layer.0.layernorm_after.bias' });
  t.is(weights.get('vit.layernorm.weight'), undefined);
});

test('vit: a bare encoder without prefix or classifier has no classes', (t) => {
  const { config, weights } = openHfFolder(hfFolder(t, { ...vitConfig, id2label: null }, vitTensors('')));
  t.like(config, { classes: 0, labels: undefined });
  t.deepEqual([...weights.names()].sort(), vitNames.toSorted());
});

test('vit: an unknown tensor keeps its name, a block without qkv biases is complete', (t) => {
  const folder = hfFolder(
    t,
    { ...vitConfig, qkv_bias: false },
    {
      ...vitBlock('vit.encoder.layer.0', false),
      'x#query': [1],
    },
  );
  const { config, weights } = openHfFolder(folder);
  t.like(config, { qkvBias: false });
  t.true(weights.names().includes('x#query'));
  t.false(weights.names().includes('blocks.0.attn.qkv.bias'));
  t.true(weights.names().includes('blocks.0.attn.qkv.weight'));
});

test('vit_mae: encoder and decoder get the names of the MAE repository', (t) => {
  const folder = hfFolder(
    t,
    {
      ...vitConfig,
      model_type: 'vit_mae',
      decoder_hidden_size: 4,
      decoder_num_hidden_layers: 1,
      decoder_num_attention_heads: 1,
      decoder_intermediate_size: 6,
      mask_ratio: 0.5,
      norm_pix_loss: true,
    },
    {
      ...vitTensors('vit.'),
      'decoder.mask_token': [1, 1, D],
      'decoder.decoder_pos_embed': [1, 5, D],
      'decoder.decoder_embed.weight': [D, D],
      'decoder.decoder_embed.bias': [D],
      ...vitBlock('decoder.decoder_layers.0'),
      'decoder.decoder_norm.weight': [D],
      'decoder.decoder_norm.bias': [D],
      'decoder.decoder_pred.weight': [9, D],
      'decoder.decoder_pred.bias': [9],
    },
  );
  const { config, weights } = openHfFolder(folder);
  t.like(config, {
    type: 'vit_mae',
    decoder: { layers: 1, width: 4, heads: 1, mlp: 6 },
    maskRatio: 0.5,
    normPixLoss: true,
    hasDecoder: true,
  });
  t.deepEqual(
    [...weights.names()].sort(),
    [
      ...vitNames,
      'mask_token',
      'decoder_pos_embed',
      ...timmBlock('decoder_blocks.0'),
      ...['decoder_embed', 'decoder_norm', 'decoder_pred'].flatMap((layer) => [`${layer}.bias`, `${layer}.weight`]),
    ].sort(),
  );
});

const bertConfig: Config = {
  model_type: 'bert',
  hidden_size: D,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  intermediate_size: M,
  vocab_size: 7,
  max_position_embeddings: 5,
};

test('bert: prefix, TensorFlow norm names, buffers and tied copies are brought to one form', (t) => {
  const embedding = counting([7, D], 1);
  const folder = hfFolder(t, bertConfig, {
    'embeddings.word_embeddings.weight': embedding,
    'embeddings.position_ids': [1, 5],
    'embeddings.LayerNorm.gamma': [D],
    'embeddings.LayerNorm.beta': [D],
    'encoder.layer.0.attention.output.LayerNorm.gamma': [D],
    'encoder.layer.0.attention.self.query.weight': [D, D],
    'pooler.dense.weight': [D, D],
    'cls.predictions.decoder.weight': embedding,
    'cls.predictions.decoder.bias': [7],
    'cls.predictions.transform.dense.weight': [D, D],
    'cls.predictions.transform.LayerNorm.beta': [D],
  });
  const { config, weights } = openHfFolder(folder);
  t.deepEqual(config, {
    type: 'bert',
    layers: 1,
    width: D,
    heads: 1,
    mlp: M,
    vocabulary: 7,
    positions: 5,
    segments: 2,
    activation: 'gelu',
    eps: 1e-12,
    padToken: 0,
    pooler: true,
    maskedLm: true,
    nextSentence: false,
  });
  t.deepEqual([...weights.names()].sort(), [
    'bert.embeddings.LayerNorm.bias',
    'bert.embeddings.LayerNorm.weight',
    'bert.embeddings.word_embeddings.weight',
    'bert.encoder.layer.0.attention.output.LayerNorm.weight',
    'bert.encoder.layer.0.attention.self.query.weight',
    'bert.pooler.dense.weight',
    'cls.predictions.bias',
    'cls.predictions.transform.LayerNorm.bias',
    'cls.predictions.transform.dense.weight',
  ]);
  t.deepEqual([...weights.ignored].sort(), ['cls.predictions.decoder.weight', 'embeddings.position_ids']);
});

const gptConfig: Config = {
  model_type: 'gpt2',
  n_embd: D,
  n_layer: 1,
  n_head: 2,
  n_positions: 5,
  vocab_size: 7,
  n_inner: null,
  eos_token_id: 6,
};

for (const prefix of ['transformer.', '']) {
  test(`gpt2: is read ${prefix === '' ? 'without' : 'with'} its prefix, masks ignored, c_attn.bias kept`, (t) => {
    const wte = counting([7, D]);
    const folder = hfFolder(t, gptConfig, {
      [`${prefix}wte.weight`]: wte,
      [`${prefix}h.0.attn.bias`]: [1, 1, 5, 5],
      [`${prefix}h.0.attn.masked_bias`]: f32([], [-1e4]),
      [`${prefix}h.0.attn.c_attn.bias`]: [3 * D],
      [`${prefix}ln_f.weight`]: [D],
      'lm_head.weight': wte,
    });
    const { config, weights } = openHfFolder(folder);
    t.deepEqual(config, {
      type: 'gpt2',
      layers: 1,
      width: D,
      heads: 2,
      mlp: 4 * D,
      vocabulary: 7,
      positions: 5,
      activation: 'gelu_tanh',
      eps: 1e-5,
      eosToken: 6,
    });
    t.deepEqual([...weights.names()].sort(), [
      'transformer.h.0.attn.c_attn.bias',
      'transformer.ln_f.weight',
      'transformer.wte.weight',
    ]);
  });
}

test('gpt2: an embedding stored only as the output projection is found', (t) => {
  const folder = hfFolder(t, gptConfig, { 'lm_head.weight': counting([7, D], 3) });
  t.is(values(folder, 'transformer.wte.weight')[0], 3);
});

const wrongTensors: readonly (readonly [title: string, config: Config, tensors: Names, message: RegExp])[] = [
  [
    'an output projection of its own',
    gptConfig,
    { 'wte.weight': counting([7, D]), 'lm_head.weight': counting([7, D], 1) },
    /model\.safetensors: "lm_head\.weight" differs from "wte\.weight", to which the architecture ties it/,
  ],
  [
    'a tensor with and without prefix',
    gptConfig,
    { 'wte.weight': [1], 'transformer.wte.weight': [1] },
    /both stand for "transformer\.wte\.weight"/,
  ],
  [
    'a query without key',
    vitConfig,
    { 'vit.encoder.layer.0.attention.attention.query.weight': [D, D] },
    /"vit\.encoder\.layer\.0\.attention\.attention\.query\.weight" has no key and value beside it/,
  ],
];

for (const [title, config, tensors, message] of wrongTensors) {
  test(`weights: refused: ${title}`, (t) => {
    t.regex(
      refusal(t, () => openHfFolder(hfFolder(t, config, tensors)), 'weights'),
      message,
    );
  });
}

test('weights: parts that do not stack are refused when they are read', (t) => {
  const name = (part: string): string => `vit.encoder.layer.0.attention.attention.${part}.weight`;
  const folder = hfFolder(t, vitConfig, { [name('query')]: [D, D], [name('key')]: [D, D], [name('value')]: [D, 3] });
  const { weights } = openHfFolder(folder);
  t.regex(
    refusal(t, () => weights.get('blocks.0.attn.qkv.weight')),
    /value\.weight" is f32\[4, 3\] and ".*query.weight" f32\[4, 4\]/,
  );
});

const wrongConfigs: readonly (readonly [title: string, config: Config | string, message: RegExp])[] = [
  ['not JSON', '{"model_type": vit}', /config\.json: not valid JSON: expected a value \(line 1, column 16\)/],
  ['a list', '[]', /config\.json: "model_type" is missing/],
  ['a repeated field', '{"model_type": "vit", "model_type": "bert"}', /duplicate key "model_type"/],
  [
    'no type',
    {},
    /config\.json: "model_type" is missing or not a string\n {3}help: known types: vit, vit_mae, bert, clip, gpt2/,
  ],
  ['an unknown type', { model_type: 'llama' }, /"model_type" is "llama"/],
  ['a missing size', { ...vitConfig, hidden_size: undefined }, /config\.json: "hidden_size" is missing/],
  ['a null size', { ...vitConfig, patch_size: null }, /"patch_size" is missing/],
  ['a zero size', { ...vitConfig, num_hidden_layers: 0 }, /"num_hidden_layers" is 0, not an integer from 1 to 10000/],
  ['a billion layers', { ...gptConfig, n_layer: 1e9 }, /"n_layer" is 1000000000, not an integer from 1 to 10000/],
  ['a fractional size', { ...vitConfig, intermediate_size: 1.5 }, /"intermediate_size" is 1\.5/],
  ['a text size', { ...bertConfig, vocab_size: '7' }, /"vocab_size" is "7", not an integer/],
  [
    'heads that do not divide',
    { ...vitConfig, num_attention_heads: 3 },
    /"hidden_size" 4 is not a multiple of "num_attention_heads" 3/,
  ],
  ['patches that do not divide', { ...vitConfig, image_size: 7 }, /"image_size" 7 is not a multiple of "patch_size" 3/],
  ['an oblong image', { ...vitConfig, image_size: [6, 9] }, /"image_size" is \[6, 9\]; only squares are supported/],
  [
    'an unknown activation',
    { ...vitConfig, hidden_act: 'mish' },
    /"hidden_act" is "mish"\n {3}help: known activations: gelu/,
  ],
  ['an absurd ε', { ...vitConfig, layer_norm_eps: -1 }, /"layer_norm_eps" is -1, not between 0 and 1/],
  [
    'relative positions',
    { ...bertConfig, position_embedding_type: 'relative_key' },
    /"position_embedding_type" is "relative_key"; only "absolute"/,
  ],
  [
    'scores scaled by layer',
    { ...gptConfig, scale_attn_by_inverse_layer_idx: true },
    /is true; only false is supported/,
  ],
  ['labels with a gap', { ...vitConfig, id2label: { 0: 'a', 2: 'b' } }, /"id2label" has 2 entries but no text for 1/],
  [
    'an untied projection that is absent',
    { ...gptConfig, tie_word_embeddings: false, architectures: ['GPT2LMHeadModel'] },
    /"tie_word_embeddings" is false but the checkpoint holds no lm_head\.weight/,
  ],
];

for (const [title, config, message] of wrongConfigs) {
  test(`config: refused: ${title}`, (t) => {
    t.regex(
      refusal(t, () => openHfFolder(hfFolder(t, config, { w: [1] })), 'config'),
      message,
    );
  });
}

test('config: a missing folder, a missing file and a link that leaves the folder are named', (t) => {
  const folder = hfFolder(t, vitConfig, {});
  t.regex(
    refusal(t, () => openHfFolder(join(folder, 'absent')), 'file'),
    /absent: not a folder/,
  );
  rmSync(join(folder, 'config.json'));
  t.regex(
    refusal(t, () => openHfFolder(folder), 'file'),
    /config\.json: cannot read it: there is no such file/,
  );
  const other = hfFolder(t, vitConfig, {});
  symlinkSync(join(other, 'config.json'), join(folder, 'config.json'));
  t.regex(
    refusal(t, () => openHfFolder(folder), 'weights'),
    /config\.json: a link that leaves the folder/,
  );
});

test('config: a damaged config is read or refused', (t) => {
  const folder = hfFolder(t, vitConfig, vitTensors('vit.'));
  const path = join(folder, 'config.json');
  fc.assert(
    fc.property(damaged(new TextEncoder().encode(JSON.stringify(vitConfig))), (bytes) => {
      writeFileSync(path, bytes);
      survives(t, new Uint8Array(4096), () => openHfFolder(folder));
    }),
    { numRuns: 300 },
  );
  t.pass();
});

test('clip: absent sizes are the usual ones, the old form of the tower configs wins, token 2 means the largest', (t) => {
  const open = (config: Config) => openHfFolder(hfFolder(t, { model_type: 'clip', ...config }, {})).config;
  t.like(open({}), {
    projection: 512,
    image: { layers: 12, width: 768, heads: 12, mlp: 3072, imageSize: 224, patchSize: 32, channels: 3, eps: 1e-5 },
    text: { layers: 12, width: 512, heads: 8, mlp: 2048, vocabulary: 49408, positions: 77, eosToken: 49407 },
  });
  const old = open({ text_config: { hidden_size: 8, eos_token_id: 2 }, text_config_dict: { hidden_size: 16 } });
  t.like(old, { text: { width: 16, eosToken: undefined } });
  const refused = (config: Config) => refusal(t, () => open(config), 'config');
  t.regex(refused({ text_config: 3 }), /"text_config" is 3, not an object/);
  t.regex(
    refused({ vision_config: { patch_size: 30 } }),
    /vision_config: "image_size" 224 is not a multiple of "patch_size" 30/,
  );
  t.regex(refused({ text_config: { num_attention_heads: 7 } }), /text_config: "hidden_size" 512 is not a multiple/);
});

const clipText = {
  layers: 2,
  width: 21,
  heads: 3,
  mlp: 53,
  activation: 'quick_gelu',
  eps: 1e-5,
  vocabulary: 37,
  positions: 11,
  eosToken: 23,
};
const clipImage = {
  layers: 2,
  width: 21,
  heads: 3,
  mlp: 47,
  activation: 'quick_gelu',
  eps: 1e-5,
  imageSize: 15,
  patchSize: 5,
  channels: 3,
};

for (const [name, config, count] of [
  ['vit-hf', { type: 'vit', layers: 2, width: 21, heads: 3, mlp: 45, classes: 5 }, 32],
  ['mae-hf', { type: 'vit_mae', layers: 1, width: 20, decoder: { layers: 1, width: 12, heads: 3, mlp: 29 } }, 38],
  ['bert-hf', { type: 'bert', layers: 2, maskedLm: true, nextSentence: true, pooler: true }, 46],
  ['clip-hf', { type: 'clip', projection: 19, text: clipText, image: clipImage }, 78],
  ['gpt2-hf', { type: 'gpt2', layers: 2, mlp: 84, activation: 'gelu_tanh' }, 28],
] as const) {
  test(`fixtures: ${name}, as transformers saved it, opens with every tensor under a name of ours`, (t) => {
    const model = openHfFolder(join('tests', 'fixtures', 'references', name));
    t.like(model.config, config);
    const names = model.weights.names();
    t.is(names.length, count);
    const ours =
      /^(?:(?:cls|mask)_token|(?:decoder_)?(?:blocks|patch_embed|norm|head|pos_embed|embed|pred)\b|bert\.|cls\.|transformer\.|(?:text|vision)_(?:model|projection)|visual_projection|logit_scale)/;
    t.deepEqual(
      names.filter((candidate) => !ours.test(candidate)),
      [],
    );
    for (const candidate of names) t.truthy(model.weights.get(candidate));
  });
}
