/** The zoo's models compiled to bundles and run in Node, against what PyTorch computed of the same weights. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Bundle } from '../compiler/bundle.ts';
import { compile } from '../compiler/compile.ts';
import { openHfFolder } from '../frontends/weights/hf.ts';
import { type FolderOptions, graphOfConfig, type LoadedModel, modelFromHf } from '../frontends/zoo/hf.ts';
import type { OpenOptions, Session, Tensor } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';
import {
  columnsOf,
  type Recorded,
  type ReferenceName,
  reference,
  referenceFolder,
  relativeError,
  rowsOf,
} from './support/references.ts';

/** Largest |got − want| over largest |want| of one output. Promised is 1e-4; sums in another order cost about 1e-6. */
const TOLERANCE = 1e-5;
/** The same with weights stored as f16, each within 2^-11 of its value: what that makes of these models' outputs. */
const TOLERANCE_F16 = 4e-3;

/** A fixture under one setting of its builder. */
interface Case {
  readonly title: string;
  readonly name: ReferenceName;
  load(): LoadedModel;
  readonly inputs: readonly string[];
  /** Output of the model → recorded tensor. */
  readonly outputs: Readonly<Record<string, string>>;
}

const folder = (name: ReferenceName, options?: FolderOptions) => (): LoadedModel =>
  modelFromHf(referenceFolder(name), options);

/** BERT without heads: the encoder that sentence embeddings are made of. */
function bertEncoder(): LoadedModel {
  const { config, weights } = openHfFolder(referenceFolder('bert-hf'));
  if (config.type !== 'bert') throw new Error(`the fixture is a ${config.type}`);
  return { model: graphOfConfig({ ...config, maskedLm: false, nextSentence: false }, 'encoder'), weights };
}

const text = ['input_ids', 'attention_mask', 'token_type_ids'];
const CASES: readonly Case[] = [
  {
    title: 'ViT in timm names',
    name: 'vit-timm',
    load: folder('vit-timm'),
    inputs: ['pixel_values'],
    outputs: { logits: 'logits' },
  },
  {
    title: 'ViT of the transformers library',
    name: 'vit-hf',
    load: folder('vit-hf'),
    inputs: ['pixel_values'],
    outputs: { logits: 'logits' },
  },
  {
    title: 'MAE of the official code',
    name: 'mae-fb',
    load: folder('mae-fb'),
    inputs: ['pixel_values', 'noise'],
    outputs: { pred: 'pred', mask: 'mask', loss: 'loss' },
  },
  {
    title: 'MAE with a loss on normalised pixels',
    name: 'mae-fb',
    load: folder('mae-fb', { normPixLoss: true }),
    inputs: ['pixel_values', 'noise'],
    outputs: { pred: 'pred', mask: 'mask', loss: 'loss_norm_pix' },
  },
  {
    title: 'MAE of the transformers library',
    name: 'mae-hf',
    load: folder('mae-hf'),
    inputs: ['pixel_values', 'noise'],
    outputs: { pred: 'logits', mask: 'mask', loss: 'loss' },
  },
  {
    title: 'BERT with both heads',
    name: 'bert-hf',
    load: folder('bert-hf'),
    inputs: text,
    outputs: { prediction_logits: 'prediction_logits', seq_relationship_logits: 'seq_relationship_logits' },
  },
  {
    title: 'BERT as an encoder',
    name: 'bert-hf',
    load: bertEncoder,
    inputs: text,
    outputs: { last_hidden_state: 'last_hidden_state', pooler_output: 'pooler_output' },
  },
];

const compiled = new Map<string, Bundle>();

/** Each bundle is compiled once for all tests. */
function bundleOf(title: string, load: () => LoadedModel, storage: 'f32' | 'f16' = 'f32'): Bundle {
  const key = `${title}, ${storage}`;
  let bundle = compiled.get(key);
  if (bundle === undefined) {
    const { model, weights } = load();
    bundle = compile(model, { weights, storage });
    compiled.set(key, bundle);
  }
  return bundle;
}

const caseNamed = (title: string): Case => {
  const found = CASES.find((it) => it.title === title);
  if (found === undefined) throw new Error(`no case "${title}"`);
  return found;
};

async function opened(t: ExecutionContext, bundle: Bundle, options: OpenOptions = {}): Promise<Session> {
  const session = await open(bundle, options);
  t.teardown(() => session.dispose());
  return session;
}

function inputsOf(
  { name, inputs }: Case,
  change: (recorded: Recorded) => Recorded = (it) => it,
): Record<string, Recorded> {
  const recorded = reference(name);
  return Object.fromEntries(inputs.map((input) => [input, change(recorded(`input.${input}`))]));
}

function close(t: ExecutionContext, what: string, got: Tensor | undefined, want: Recorded, bound = TOLERANCE): void {
  if (got === undefined) {
    t.fail(`${what} is not an output`);
    return;
  }
  t.deepEqual(got.shape, want.shape, what);
  const error = relativeError(got.data as Float32Array, want.data as Float32Array);
  t.true(error <= bound, `${what} is off by ${error} of its largest value, where ${bound} is allowed`);
}

async function agrees(t: ExecutionContext, each: Case, session: Session, bound = TOLERANCE): Promise<void> {
  const recorded = reference(each.name);
  const outputs = await session.run(inputsOf(each));
  t.deepEqual(Object.keys(outputs).sort(), Object.keys(each.outputs).sort());
  for (const [name, tensor] of Object.entries(each.outputs)) {
    close(t, name, outputs[name], recorded(`output.${tensor}`), name === 'mask' ? 0 : bound);
  }
}

const SETTINGS = [true, false].flatMap((relaxed) => [1, 2].map((threads) => ({ relaxed, threads })));
const inWords = ({ relaxed, threads }: { relaxed: boolean; threads: number }): string =>
  `${relaxed ? 'relaxed' : 'plain'} SIMD, ${threads} thread${threads === 1 ? '' : 's'}`;

for (const setting of SETTINGS) {
  for (const each of CASES) {
    test(`${each.title} gives what PyTorch gives: ${inWords(setting)}`, async (t) => {
      const session = await opened(t, bundleOf(each.title, each.load), setting);
      t.is(session.threads, setting.threads);
      t.is(session.relaxed, setting.relaxed);
      await agrees(t, each, session);
    });
  }

  test(`GPT-2 gives what PyTorch gives, token by token from its cache: ${inWords(setting)}`, async (t) => {
    const recorded = reference('gpt2-hf');
    const session = await opened(t, bundleOf('GPT-2', folder('gpt2-hf')), setting);
    const prefill = await session.run({ input_ids: recorded('input.input_ids') }, { entry: 'prefill' });
    close(t, 'logits', prefill.logits, recorded('output.prefill.logits'));
    let present = cacheOf(prefill);
    t.is(present.length, 4);
    for (const [name, tensor] of present) close(t, name, tensor, recorded(`output.prefill.${name}`));

    const ids = recorded('input.decode_ids');
    t.is(ids.shape[1], 3);
    for (let step = 0; step < 3; step++) {
      const past = present.map(([name, tensor]) => [name.replace('present', 'past'), tensor] as const);
      const inputs = { input_ids: columnsOf(ids, step, step + 1), ...Object.fromEntries(past) };
      const outputs = await session.run(inputs, { entry: 'decode' });
      const want = recorded(`output.decode.${step}.logits`);
      const [batch, vocabulary] = want.shape as [number, number];
      close(t, `logits of step ${step}`, outputs.logits, { ...want, shape: [batch, 1, vocabulary] });
      present = cacheOf(outputs);
    }
    for (const [name, tensor] of present) close(t, `${name} after decoding`, tensor, recorded(`output.${name}`));
  });

  test(`CLIP gives what PyTorch gives, tower by tower: ${inWords(setting)}`, async (t) => {
    const recorded = reference('clip-hf');
    const session = await opened(t, bundleOf('CLIP', folder('clip-hf')), setting);
    const { image_embeds } = await session.run({ pixel_values: recorded('input.pixel_values') }, { entry: 'image' });
    const { text_embeds } = await session.run({ input_ids: recorded('input.input_ids') }, { entry: 'text' });
    close(t, 'image_embeds', image_embeds, recorded('output.image_embeds'));
    close(t, 'text_embeds', text_embeds, recorded('output.text_embeds'));
    const matched = await session.run({ image_embeds: image_embeds!, text_embeds: text_embeds! }, { entry: 'match' });
    for (const name of ['logits_per_image', 'logits_per_text'])
      close(t, name, matched[name], recorded(`output.${name}`));
    // What stands behind the end of a text changes nothing.
    const ids = recorded('input.input_ids');
    for (const row of [1, 3]) {
      const cut = columnsOf(rowsOf(ids, [row]), 0, row === 1 ? 4 : 1);
      const short = await session.run({ input_ids: cut }, { entry: 'text' });
      close(t, `text ${row} alone`, short.text_embeds, rowsOf(recorded('output.text_embeds'), [row]));
    }
  });

  test(`weights stored as f16 change little: ${inWords(setting)}`, async (t) => {
    for (const each of CASES) {
      const [full, half] = (['f32', 'f16'] as const).map((storage) => bundleOf(each.title, each.load, storage));
      const bytes = [full, half].map((bundle) => bundle?.files.get('weights.bin')?.length ?? 0);
      t.true(bytes[1]! < 0.6 * bytes[0]!, `${each.title}: ${bytes[1]} bytes of ${bytes[0]}`);
      await agrees(t, each, await opened(t, half!, setting), TOLERANCE_F16);
    }
  });

  test(`one bundle takes every batch: ${inWords(setting)}`, async (t) => {
    for (const title of ['ViT in timm names', 'BERT with both heads', 'MAE with a loss on normalised pixels']) {
      const each = caseNamed(title);
      const session = await opened(t, bundleOf(title, each.load), setting);
      for (const rows of [[0], [1, 0, 1], [0, 1], [1, 1, 0, 1, 0, 1, 1], [0]]) {
        const outputs = await session.run(inputsOf(each, (it) => rowsOf(it, rows)));
        for (const [name, tensor] of Object.entries(each.outputs)) {
          // The loss is one number for the whole batch.
          if (name === 'loss') continue;
          close(t, `${title}, ${name}, ${rows}`, outputs[name], rowsOf(reference(each.name)(`output.${tensor}`), rows));
        }
      }
    }
  });
}

const cacheOf = (outputs: Record<string, Tensor>): [string, Tensor][] =>
  Object.entries(outputs).filter(([name]) => name.startsWith('present.'));

test('the attention map of the class token is what PyTorch attends with', async (t) => {
  const recorded = reference('vit-timm');
  const bundle = bundleOf('ViT with its map', folder('vit-timm', { attentionMap: true }));
  const weights = recorded('inner.attention.last');
  const [batch, heads, queries, keys] = weights.shape as [number, number, number, number];
  // Row 0 of the queries, without the class token itself.
  const map = Float32Array.from({ length: batch * heads * (keys - 1) }, (_, i) => {
    const head = Math.floor(i / (keys - 1));
    return Number(weights.data[head * queries * keys + 1 + (i % (keys - 1))]);
  });
  for (const setting of SETTINGS) {
    const session = await opened(t, bundle, setting);
    const { attention, logits } = await session.run({ pixel_values: recorded('input.pixel_values') });
    close(t, 'attention', attention, { data: map, shape: [batch, heads, keys - 1] });
    close(t, 'logits', logits, recorded('output.logits'));
  }
});

test('one GPT-2 bundle takes every length: a causal prefix gives the prefix of the logits', async (t) => {
  const recorded = reference('gpt2-hf');
  const session = await opened(t, bundleOf('GPT-2', folder('gpt2-hf')));
  const ids = recorded('input.input_ids');
  for (const length of [1, 4, 7, 6, 2]) {
    const outputs = await session.run({ input_ids: columnsOf(ids, 0, length) }, { entry: 'prefill' });
    close(t, `${length} tokens`, outputs.logits, columnsOf(recorded('output.prefill.logits'), 0, length));
  }
});

test('one BERT bundle takes every length: padding at the end may as well be left out', async (t) => {
  const recorded = reference('bert-hf');
  const session = await opened(t, bundleOf('BERT as an encoder', bertEncoder));
  const mask = recorded('input.attention_mask');
  const [batch, tokens] = mask.shape as [number, number];
  const lengths = Array.from({ length: batch }, (_, row) => {
    const kept = [...mask.data.subarray(row * tokens, (row + 1) * tokens)].map(Number);
    return kept.lastIndexOf(1) + 1;
  });
  t.true(
    lengths.some((length) => length < tokens),
    `lengths ${lengths}`,
  );
  for (const [row, length] of lengths.entries()) {
    const cut = (it: Recorded): Recorded => columnsOf(rowsOf(it, [row]), 0, length);
    const inputs = Object.fromEntries(text.map((name) => [name, cut(recorded(`input.${name}`))]));
    const { last_hidden_state: states, pooler_output: pooled } = await session.run(inputs);
    close(t, `states of row ${row}`, states, cut(recorded('output.last_hidden_state')));
    close(t, `pooled row ${row}`, pooled, rowsOf(recorded('output.pooler_output'), [row]));
  }
});

test('sizes fixed at compile time give the same results, and no other size is taken', async (t) => {
  const each = caseNamed('ViT in timm names');
  const { model, weights } = each.load();
  const session = await opened(t, compile(model, { weights, symbols: { batch: 2 } }));
  await agrees(t, each, session);
  await t.throwsAsync(session.run(inputsOf(each, (it) => rowsOf(it, [0]))), { name: 'HeddleError' });
});

test('sessions and concurrent runs do not disturb each other', async (t) => {
  const each = caseNamed('MAE of the official code');
  const bundle = bundleOf(each.title, each.load);
  const sessions = await Promise.all(SETTINGS.map((setting) => opened(t, bundle, setting)));
  const want = reference(each.name)('output.pred');
  const batches = [[0], [1], [1, 0], [0, 0, 1], [1, 1]];
  const runs = sessions.flatMap((session) =>
    batches.map(async (rows) => {
      const { pred } = await session.run(inputsOf(each, (it) => rowsOf(it, rows)));
      close(t, `batch ${rows}`, pred, rowsOf(want, rows));
    }),
  );
  await Promise.all(runs);
});

for (const threads of [1, 2]) {
  test(`an aborted run leaves the session usable, ${threads} threads`, async (t) => {
    const each = caseNamed('MAE of the official code');
    const session = await opened(t, bundleOf(each.title, each.load), { threads });
    const large = inputsOf(each, (it) =>
      rowsOf(
        it,
        Array.from({ length: 64 }, (_, i) => i % 2),
      ),
    );
    const abort = new AbortController();
    // The run lets the event loop turn after some milliseconds, well before it is done.
    setImmediate(() => abort.abort(new Error('enough')));
    const first = session.run(large, { signal: abort.signal });
    const second = session.run(inputsOf(each));
    const refused = session.run(large, { signal: AbortSignal.abort(new Error('before')) });
    await t.throwsAsync(first, { message: 'enough' });
    await t.throwsAsync(refused, { message: 'before' });
    close(t, 'the run queued behind it', (await second).pred, reference(each.name)('output.pred'));
    await agrees(t, each, session);
  });
}

test('a bundle runs from the folder that it was written to', async (t) => {
  const parent = mkdtempSync(join(tmpdir(), 'heddle-zoo-'));
  t.teardown(() => rmSync(parent, { recursive: true }));
  for (const [i, each] of CASES.entries()) {
    const target = join(parent, String(i));
    await bundleOf(each.title, each.load).write(target);
    const session = await open(target);
    t.teardown(() => session.dispose());
    await agrees(t, each, session);
  }
});
