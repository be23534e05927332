/** The zoo: counts that the literature states, names, seeded weights. */
import test from 'ava';
import { lowerModel } from '../compiler/compile.ts';
import { plannedMacs } from '../compiler/report.ts';
import {
  bert,
  countParameters,
  gpt2,
  type ModelGraph,
  mae,
  seededWeights,
  vit,
  zoo,
  zooFromText,
  zooNames,
} from '../frontends/zoo/index.ts';
import { fillNormal, streamOf } from '../frontends/zoo/random.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { type Graph, typeOf } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { verifyGraph } from '../ir/verify.ts';
import { toFloat32 } from '../ir/weights.ts';

const main = (model: ModelGraph): Graph => model.entries.main!;
const base = { layers: 12, width: 768, heads: 12, mlp: 3072 };

/** A stack of blocks over n tokens, every query reading every key: 4 + 2r products of n·D² and two of n²·D. */
const blocks = ({ layers, width, mlp }: { layers: number; width: number; mlp: number }, n: number): number =>
  layers * (n * (4 * width ** 2 + 2 * width * mlp) + 2 * n * n * width);

test('parameters and multiply-accumulates of every model are the published ones', (t) => {
  const counted = zooNames.map((name) => {
    const model = zoo(name);
    return [name, countParameters(model), ...Object.values(model.entries).map((graph) => countMacs(graph))];
  });
  const mlmHead = 24_030_720;
  const smallHeads = 768 ** 2 + 768 * 2;
  t.deepEqual(counted, [
    ['vit-s16', 22_050_664, 4_598_882_304],
    ['vit-b16', 86_567_656, 17_563_828_224],
    ['vit-b32', 88_224_232, 4_409_186_304],
    ['vit-l16', 304_326_632, 61_554_712_576],
    ['mae-b16', 111_907_840, 22_993_577_984],
    ['mae-l16', 329_541_888, 67_010_027_520],
    ['mae-h14', 657_074_508, 174_548_318_208],
    ['bert-base', 110_106_428, 11_173_625_856 + 128 * mlmHead + smallHeads],
    [
      'bert-large',
      336_226_108,
      blocks({ layers: 24, width: 1024, mlp: 4096 }, 128) + 128 * (1024 ** 2 + 1024 * 30522) + 1024 ** 2 + 1024 * 2,
    ],
    ['minilm-l6', 22_713_216, blocks({ layers: 6, width: 384, mlp: 1536 }, 128) + 384 ** 2],
    // Images: 49 patches, 50 tokens; texts: 77 tokens; one image and one text match by 512 products.
    [
      'clip-b32',
      151_277_313,
      49 * 3072 * 768 + blocks(base, 50) + 768 * 512,
      blocks({ layers: 12, width: 512, mlp: 2048 }, 77) + 512 * 512,
      512,
    ],
    [
      'gpt2',
      124_439_808,
      86_973_087_744 + 19_327_352_832 + 1024 * 38_597_376,
      blocks({ layers: 12, width: 768, mlp: 3072 }, 1) + 12 * 2 * 1023 * 768 + 38_597_376,
    ],
  ]);
});

test('BERT counts by sequence length and by heads', (t) => {
  const encoder = bert({ ...base, vocabulary: 30522, maskedLm: false, nextSentence: false, pooler: false });
  t.is(countMacs(main(encoder)), 11_173_625_856);
  t.is(countMacs(main(encoder), { sequence: 512 }), 48_318_382_080);
  t.is(countMacs(main(encoder), { sequence: 512, batch: 3 }), 3 * 48_318_382_080);
  t.is(countParameters(bert({ ...base, vocabulary: 30522, maskedLm: false, nextSentence: false })), 109_482_240);
  t.is(countParameters(bert({ ...base, vocabulary: 30522, pooler: false, nextSentence: false })), 109_514_298);
});

test('a larger image and no classifier count as published', (t) => {
  const options = { patchSize: 16, channels: 3, ...base };
  const large = vit({ ...options, imageSize: 384, classes: 1000 });
  t.is(countParameters(large), 86_859_496);
  t.is(countMacs(main(large)), 576 * 768 ** 2 + blocks(base, 577) + 768 * 1000);
  const trunk = vit({ ...options, imageSize: 224, classes: 0 });
  t.is(countParameters(trunk), 85_798_656);
  t.deepEqual([...main(trunk).outputs.keys()], ['last_hidden_state']);
});

test('every graph of the zoo is well formed', (t) => {
  for (const name of zooNames)
    for (const graph of Object.values(zoo(name).entries)) t.notThrows(() => verifyGraph(graph), name);
});

test('entries of GPT-2 share their weights and name their cache', (t) => {
  const { entries } = gpt2({ layers: 2, width: 12, heads: 3, mlp: 24, vocabulary: 31, positions: 9 });
  t.deepEqual(Object.keys(entries), ['prefill', 'decode']);
  t.deepEqual(
    [...entries.prefill!.outputs.keys()],
    ['logits', 'present.0.key', 'present.0.value', 'present.1.key', 'present.1.value'],
  );
  t.deepEqual(
    entries.decode!.inputs.map((value) => value.attrs.name),
    ['input_ids', 'past.0.key', 'past.0.value', 'past.1.key', 'past.1.value'],
  );
});

test('an unknown model is refused with the nearest name', (t) => {
  const error = t.throws(() => zoo('vit-b61'), { instanceOf: CompileError });
  t.is(error.diagnostic.message, 'zoo: there is no model "vit-b61"');
  t.regex(error.diagnostic.help ?? '', /did you mean vit-b16\?.*gpt2/);
});

test('options stand behind the name of a model', (t) => {
  const last = zooFromText('gpt2:logits=last').entries.prefill!.outputs.get('logits')!;
  t.is(typeOf(last).shape.length, 2);
  t.is(zooFromText('mae-b16:maskRatio=0.5,normPixLoss=true').config.maskRatio, 0.5);
  t.true(main(zooFromText('bert-base:predictionsAt=3')).inputs.some((v) => v.attrs.name === 'masked_positions'));
  t.is(zooFromText('vit-s16').name, 'vit-s16');
  for (const text of [
    'gpt2:logits=first',
    'gpt2:',
    'gpt2:maskRatio=',
    'vit-s16:size=3',
    'vit-s16:a:b',
    'bert-base:predictionsAt=0',
  ])
    t.is(t.throws(() => zooFromText(text), { instanceOf: CompileError }).diagnostic.code, 'usage', text);
});

test('a mask ratio of 1 is refused', (t) => {
  const options = {
    imageSize: 8,
    patchSize: 4,
    channels: 1,
    layers: 1,
    width: 4,
    heads: 1,
    mlp: 4,
    decoder: { layers: 1, width: 4, heads: 1, mlp: 4 },
  };
  t.throws(() => mae({ ...options, maskRatio: 1 }), { instanceOf: CompileError, message: /mask ratio 1 is outside/ });
});

test('an autoencoder without decoder gives the latent of every patch and the mask', (t) => {
  const model = mae({
    imageSize: 8,
    patchSize: 4,
    channels: 1,
    layers: 1,
    width: 8,
    heads: 2,
    mlp: 16,
    decoder: { layers: 1, width: 4, heads: 1, mlp: 4 },
    hasDecoder: false,
  });
  t.deepEqual([...main(model).outputs.keys()], ['latent', 'mask']);
  t.false(model.parameters.some(({ name }) => name.startsWith('decoder')));
});

test('rows that nobody reads are not counted as compiled, to the last digit', (t) => {
  const expected: readonly [string, Parameters<typeof zoo>[1], number, number][] = [
    ['mae-b16', {}, 22_993_577_984, 9_533_609_984],
    ['mae-l16', {}, 67_010_027_520, 20_479_358_976],
    ['mae-h14', {}, 174_548_318_208, 48_210_336_768],
    ['vit-b16', {}, 17_563_828_224, 16_348_465_152],
    ['bert-base', { predictionsAt: 19 }, 14_250_149_376, 10_972_557_312],
  ];
  for (const [name, options, written, compiled] of expected) {
    const model = zoo(name, options);
    const { entries, at } = lowerModel(model, {});
    t.is(countMacs(main(model)), written, name);
    t.is(plannedMacs(entries[0]!.relaxed, at), compiled, name);
  }
});

test('an encoder of which only visible patches are read costs what those cost', (t) => {
  const encoder = mae({
    imageSize: 224,
    patchSize: 16,
    channels: 3,
    layers: 12,
    width: 768,
    heads: 12,
    mlp: 3072,
    decoder: { layers: 8, width: 512, heads: 16, mlp: 2048 },
    hasDecoder: false,
    latents: 'visible',
  });
  const [embed, blocks] = [28_901_376, 4_292_812_800];
  t.is(countMacs(main(encoder)), 115_605_504 + 17_447_454_720);
  t.is(plannedMacs(lowerModel(encoder, {}).entries[0]!.relaxed, {}), embed + blocks);
});

const tiny = () =>
  mae({
    imageSize: 8,
    patchSize: 4,
    channels: 1,
    layers: 2,
    width: 64,
    heads: 4,
    mlp: 128,
    decoder: { layers: 1, width: 32, heads: 2, mlp: 64 },
  });

test('seeded weights do not depend on order, and depend on seed and name', (t) => {
  const model = tiny();
  const read = (seed: number, name: string): number[] => [...toFloat32(seededWeights(model, seed).get(name)!)];
  const [first, second] = ['blocks.0.attn.qkv.weight', 'blocks.1.attn.qkv.weight'] as const;
  const store = seededWeights(model, 7);
  store.get(second);
  t.deepEqual([...toFloat32(store.get(first)!)], read(7, first));
  t.notDeepEqual(read(7, first), read(8, first));
  t.notDeepEqual(read(7, first), read(7, second));
  t.is(store.get('no such weight'), undefined);
  t.deepEqual(
    store.names(),
    model.parameters.map(({ name }) => name),
  );
});

test('seeded weights start as published', (t) => {
  const store = seededWeights(tiny());
  const read = (name: string): Float32Array => toFloat32(store.get(name)!);
  t.true(read('norm.weight').every((v) => v === 1));
  t.true(read('norm.bias').every((v) => v === 0));
  const bound = Math.sqrt(6 / (64 + 192));
  const qkv = read('blocks.0.attn.qkv.weight');
  t.true(qkv.every((v) => Math.abs(v) < bound));
  t.true(qkv.some((v) => v > 0.99 * bound) && qkv.some((v) => v < -0.99 * bound));
  const positions = read('pos_embed');
  t.deepEqual(store.get('pos_embed')!.shape, [1, 5, 64]);
  t.true(positions.subarray(0, 64).every((v) => v === 0));
  // Cell 1 of a 2×2 grid is x = 1, y = 0: sin 1 first, then cos 1, then sin 0 and cos 0.
  t.deepEqual(
    [128, 144, 160, 176].map((i) => positions[i]),
    [Math.fround(Math.sin(1)), Math.fround(Math.cos(1)), 0, 1],
  );
});

test('normal numbers have the moments and tails of a Gaussian, truncated ones stop at two deviations', (t) => {
  const n = 1_000_000;
  const x = new Float32Array(n);
  fillNormal(x, streamOf('x', 1), 1, Infinity);
  const moment = (k: number): number => x.reduce((sum, v) => sum + v ** k, 0) / n;
  // Five standard errors of each sample moment.
  t.true(Math.abs(moment(1)) < 5e-3);
  t.true(Math.abs(moment(2) - 1) < 5 * Math.sqrt(2 / n));
  t.true(Math.abs(moment(3)) < 5 * Math.sqrt(15 / n));
  t.true(Math.abs(moment(4) - 3) < 5 * Math.sqrt(96 / n));
  const beyond = (limit: number): number => x.reduce((count, v) => count + (Math.abs(v) > limit ? 1 : 0), 0) / n;
  t.true(Math.abs(beyond(1) - 0.317311) < 3e-3);
  t.true(Math.abs(beyond(3.442619855899) - 5.7615e-4) < 1.5e-4);
  fillNormal(x, streamOf('x', 1), 1, 2);
  t.true(x.every((v) => Math.abs(v) <= 2));
  t.true(Math.abs(moment(2) - 0.7737) < 5e-3);
});
