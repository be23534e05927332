/** Every reference fixture through the reference interpreter: f64 against PyTorch's f64, rounded once to f32. */
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { openHfFolder } from '../frontends/weights/hf.ts';
import { readSafetensors } from '../frontends/weights/sharded.ts';
import { graphOfConfig, type LoadedModel, modelFromHf } from '../frontends/zoo/hf.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { toFloat32, type WeightStore, type WeightTensor } from '../ir/weights.ts';
import { projectRoot } from './support/project.ts';

const folderOf = (name: string): string => join(projectRoot, 'tests/fixtures/references', name);

function toNd(tensor: WeightTensor): Nd {
  const { dtype, shape, bytes } = tensor;
  if (dtype !== 'i64') return { dtype, shape, data: Float64Array.from(toFloat32(tensor)) };
  const words = new BigInt64Array(bytes.slice().buffer);
  return { dtype, shape, data: Float64Array.from(words, Number) };
}

/** The recorded tensors of a fixture: `case('output.logits')`. */
function caseOf(name: string): (tensor: string) => Nd {
  const store = readSafetensors(join(folderOf(name), 'case.safetensors'));
  return (tensor) => {
    const found = store.get(tensor);
    if (!found) throw new Error(`${name} records no ${tensor}`);
    return toNd(found);
  };
}

const paramsOf =
  (weights: WeightStore) =>
  (name: string): Nd => {
    const tensor = weights.get(name);
    if (!tensor) throw new Error(`no weight ${name}`);
    return toNd(tensor);
  };

interface Run {
  readonly outputs: Readonly<Record<string, Nd>>;
  /** Results of named values. */
  readonly inner: ReadonlyMap<string, Nd>;
}

function run({ model, weights }: LoadedModel, inputs: Readonly<Record<string, Nd>>, entry = 'main'): Run {
  const inner = new Map<string, Nd>();
  const outputs = evaluate(model.entries[entry] as Graph, {
    inputs,
    params: paramsOf(weights),
    observe: (value, result) => {
      if (value.name !== undefined && 'data' in result) inner.set(value.name, result);
    },
  });
  return { outputs, inner };
}

/** Largest difference, relative to the largest magnitude of the recorded tensor. */
function close(t: ExecutionContext, what: string, found: Nd | undefined, recorded: Nd): void {
  if (!found) {
    t.fail(`${what} was not computed`);
    return;
  }
  t.deepEqual(found.shape, recorded.shape, `${what}: shape`);
  let most = 0;
  let worst = 0;
  recorded.data.forEach((v, i) => {
    most = Math.max(most, Math.abs(v));
    const error = Math.abs(found.data[i]! - v);
    worst = error <= worst ? worst : error;
  });
  t.true(most > 0, `${what}: the record is all zero`);
  t.true(worst / most <= 1e-6, `${what} differs by ${worst} where the largest value is ${most}`);
  t.false(found.data.some(Number.isNaN), `${what} holds NaN`);
}

/** Rows of axis 1 of a [B, N, D] value, by numbers [B, K]. */
function rowsAt(x: Nd, rows: Nd, shift: number): Nd {
  const [, tokens, width] = x.shape as [number, number, number];
  const [batch, count] = rows.shape as [number, number];
  const data = new Float64Array(batch * count * width);
  rows.data.forEach((row, i) => {
    const from = (Math.floor(i / count) * tokens + row + shift) * width;
    data.set(x.data.subarray(from, from + width), i * width);
  });
  return { dtype: x.dtype, shape: [batch, count, width], data };
}

/** Row 0 of the queries without key 0: what the class token reads of the patches. */
function classMap(weights: Nd): Nd {
  const [batch, heads, queries, keys] = weights.shape as [number, number, number, number];
  const data = new Float64Array(batch * heads * (keys - 1));
  for (let i = 0; i < batch * heads; i++)
    data.set(weights.data.subarray(i * queries * keys + 1, i * queries * keys + keys), i * (keys - 1));
  return { dtype: weights.dtype, shape: [batch, heads, keys - 1], data };
}

test('ViT in timm names gives the recorded logits, tokens, blocks and class map', (t) => {
  const record = caseOf('vit-timm');
  const { outputs, inner } = run(modelFromHf(folderOf('vit-timm'), { attentionMap: true }), {
    pixel_values: record('input.pixel_values'),
  });
  close(t, 'logits', outputs.logits, record('output.logits'));
  close(t, 'tokens', inner.get('tokens'), record('inner.tokens'));
  for (const block of ['blocks.0', 'blocks.1']) close(t, block, inner.get(block), record(`inner.${block}`));
  close(t, 'attention', outputs.attention, classMap(record('inner.attention.last')));
});

test('ViT of the transformers library gives the recorded logits and inner values', (t) => {
  const record = caseOf('vit-hf');
  const { outputs, inner } = run(modelFromHf(folderOf('vit-hf')), { pixel_values: record('input.pixel_values') });
  close(t, 'logits', outputs.logits, record('output.logits'));
  close(t, 'tokens', inner.get('tokens'), record('inner.embeddings'));
  close(t, 'blocks.0', inner.get('blocks.0'), record('inner.layer.0'));
});

test('MAE written naively gives what the official code gives with dropped patches', (t) => {
  const record = caseOf('mae-fb');
  const inputs = { pixel_values: record('input.pixel_values'), noise: record('input.noise') };
  const { outputs, inner } = run(modelFromHf(folderOf('mae-fb')), inputs);
  close(t, 'pred', outputs.pred, record('output.pred'));
  t.deepEqual(outputs.mask?.data, record('output.mask').data);
  close(t, 'loss', outputs.loss, record('output.loss'));
  close(t, 'target', inner.get('target'), record('inner.target'));
  const kept = record('inner.ids_keep');
  const latent = record('output.latent');
  const zero: Nd = { ...kept, shape: [kept.shape[0]!, 1], data: new Float64Array(kept.shape[0]!) };
  const patches = Float64Array.from({ length: kept.data.length }, (_, i) => 1 + (i % kept.shape[1]!));
  close(t, 'latent of the class token', rowsAt(inner.get('latent')!, zero, 0), rowsAt(latent, zero, 0));
  close(
    t,
    'latent of the patches',
    rowsAt(inner.get('latent')!, kept, 1),
    rowsAt(latent, { ...kept, data: patches }, 0),
  );

  const normalised = run(modelFromHf(folderOf('mae-fb'), { normPixLoss: true }), inputs);
  close(t, 'loss with normalised pixels', normalised.outputs.loss, record('output.loss_norm_pix'));
});

test('MAE of the transformers library gives the recorded prediction, mask and loss', (t) => {
  const record = caseOf('mae-hf');
  const { outputs } = run(modelFromHf(folderOf('mae-hf')), {
    pixel_values: record('input.pixel_values'),
    noise: record('input.noise'),
  });
  close(t, 'pred', outputs.pred, record('output.logits'));
  t.deepEqual(outputs.mask?.data, record('output.mask').data);
  close(t, 'loss', outputs.loss, record('output.loss'));
});

test('BERT gives the recorded heads, hidden states and attention', async (t) => {
  const record = caseOf('bert-hf');
  const loaded = modelFromHf(folderOf('bert-hf'));
  const inputs = Object.fromEntries(
    ['input_ids', 'attention_mask', 'token_type_ids'].map((name) => [name, record(`input.${name}`)]),
  );
  const { outputs, inner } = run(loaded, inputs);
  close(t, 'prediction_logits', outputs.prediction_logits, record('output.prediction_logits'));
  close(t, 'seq_relationship_logits', outputs.seq_relationship_logits, record('output.seq_relationship_logits'));
  close(t, 'embeddings', inner.get('embeddings'), record('inner.embeddings'));
  close(t, 'layer.0', inner.get('layer.0'), record('inner.layer.0'));
  close(t, 'layer.0.attention', inner.get('layer.0.attention'), record('inner.layer.0.attention'));
  const mask = record('input.attention_mask');
  close(
    t,
    'attention.1',
    softmaxOf(inner.get('layer.1.query')!, inner.get('layer.1.key')!, mask),
    record('inner.attention.1'),
  );

  const { config, weights } = openHfFolder(folderOf('bert-hf'));
  if (config.type !== 'bert') throw new Error(`the fixture is a ${config.type}`);
  const model = graphOfConfig({ ...config, maskedLm: false, nextSentence: false }, 'encoder');
  const encoder = run({ model, weights }, inputs).outputs;
  close(t, 'last_hidden_state', encoder.last_hidden_state, record('output.last_hidden_state'));
  close(t, 'pooler_output', encoder.pooler_output, record('output.pooler_output'));
});

/** Attention weights [B, H, Q, K] over the keys whose mask [B, K] is not 0. */
function softmaxOf(q: Nd, k: Nd, mask: Nd): Nd {
  const [batch, heads, tokens, width] = q.shape as [number, number, number, number];
  const data = new Float64Array(batch * heads * tokens * tokens);
  for (let row = 0; row < batch * heads * tokens; row++) {
    const head = Math.floor(row / tokens);
    const b = Math.floor(head / heads);
    const line = data.subarray(row * tokens, (row + 1) * tokens);
    for (let key = 0; key < tokens; key++) {
      let dot = 0;
      for (let d = 0; d < width; d++) dot += q.data[row * width + d]! * k.data[(head * tokens + key) * width + d]!;
      line[key] = mask.data[b * tokens + key] === 0 ? 0 : Math.exp(dot / Math.sqrt(width));
    }
    const total = line.reduce((sum, v) => sum + v, 0);
    line.forEach((v, i) => {
      line[i] = v / total;
    });
  }
  return { dtype: q.dtype, shape: [batch, heads, tokens, tokens], data };
}

test('CLIP gives the recorded embeddings of images and texts, and how they match', (t) => {
  const record = caseOf('clip-hf');
  const loaded = modelFromHf(folderOf('clip-hf'));
  const ids = { input_ids: record('input.input_ids') };
  const image = run(loaded, { pixel_values: record('input.pixel_values') }, 'image');
  const text = run(loaded, ids, 'text');
  for (const [tower, { inner }] of [
    ['image', image],
    ['text', text],
  ] as const)
    for (const name of [`${tower}.embeddings`, `${tower}.layer.0`])
      close(t, name, inner.get(name), record(`inner.${name}`));
  const embeddings = { ...image.outputs, ...text.outputs };
  const { outputs } = run(loaded, embeddings, 'match');
  for (const [name, found] of Object.entries({ ...embeddings, ...outputs }))
    close(t, name, found, record(`output.${name}`));
  t.is(Object.keys(outputs).length, 2);

  const { config, weights } = openHfFolder(folderOf('clip-hf'));
  if (config.type !== 'clip') throw new Error(`the fixture is a ${config.type}`);
  const model = graphOfConfig({ ...config, text: { ...config.text, eosToken: undefined } }, 'largest');
  const largest = run({ model, weights }, ids, 'text').outputs.text_embeds;
  close(t, 'read at the largest token', largest, record('output.text_embeds_largest'));
});

test('GPT-2 gives the recorded prefill, and decoding goes on from its cache', (t) => {
  const record = caseOf('gpt2-hf');
  const loaded = modelFromHf(folderOf('gpt2-hf'));
  const prefill = run(loaded, { input_ids: record('input.input_ids') }, 'prefill');
  close(t, 'logits', prefill.outputs.logits, record('output.prefill.logits'));
  close(t, 'h.0', prefill.inner.get('h.0'), record('inner.h.0'));
  let present = Object.entries(prefill.outputs).filter(([name]) => name.startsWith('present.'));
  t.is(present.length, 4);
  for (const [name, value] of present) close(t, name, value, record(`output.prefill.${name}`));

  const columns = record('input.decode_ids');
  for (let step = 0; step < columns.shape[1]!; step++) {
    const ids = Float64Array.from({ length: columns.shape[0]! }, (_, b) => columns.data[b * columns.shape[1]! + step]!);
    const past = present.map(([name, value]) => [name.replace('present', 'past'), value] as const);
    const input_ids: Nd = { dtype: 'i64', shape: [ids.length, 1], data: ids };
    const { outputs } = run(loaded, { input_ids, ...Object.fromEntries(past) }, 'decode');
    const logits = outputs.logits!;
    t.is(logits.shape[1], 1);
    close(
      t,
      `step ${step}`,
      { ...logits, shape: [logits.shape[0]!, logits.shape[2]!] },
      record(`output.decode.${step}.logits`),
    );
    present = Object.entries(outputs).filter(([name]) => name.startsWith('present.'));
  }
  for (const [name, value] of present) close(t, `after decoding, ${name}`, value, record(`output.${name}`));
});
