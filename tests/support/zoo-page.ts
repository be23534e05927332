/** A ViT and GPT-2 as bundles on a site: what pages are fed, and what they must answer. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { recordSelfTest } from '../../compiler/cli/record.ts';
import { type CompileOptions, compile } from '../../compiler/compile.ts';
import { modelFromHf } from '../../frontends/zoo/hf.ts';
import type { Progress } from '../../runtime/api.ts';
import { type Recorded, reference, referenceFolder, relativeError } from './references.ts';

/** Largest |got − want| over largest |want|; promised is 1e-4. */
const TOLERANCE = 1e-5;

const vit = reference('vit-timm');
const gpt2 = reference('gpt2-hf');

/** An output as it crosses from the page. */
export interface Plain {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

/** The bundles in folders that a server can be given. */
export interface ZooSite {
  readonly folders: Readonly<Record<'/vit/' | '/gpt2/', string>>;
  remove(): void;
}

/** Compiles both models and writes their bundles; the ViT's has a recorded self-test. */
export async function writeZooSite(target: CompileOptions['target']): Promise<ZooSite> {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-site-'));
  for (const name of ['vit-timm', 'gpt2-hf'] as const) {
    const { model, weights } = modelFromHf(referenceFolder(name));
    const bundle = compile(model, { weights, target });
    const finished = name === 'vit-timm' ? bundle.withSelfTest(await recordSelfTest(bundle)) : bundle;
    await finished.write(join(folder, name));
  }
  return {
    folders: { '/vit/': join(folder, 'vit-timm'), '/gpt2/': join(folder, 'gpt2-hf') },
    remove: () => rmSync(folder, { recursive: true }),
  };
}

/**
 * What scripts on the site begin with: both bundles, `plain(tensor)`, and `fed()`, which loads what the models are fed: the
 * ViT's `image`, the `ids` of a prompt and the `steps` that follow it, one token each.
 */
export const zooScript = `
import * as vit from '/vit/index.js';
import * as gpt2 from '/gpt2/index.js';

const plain = ({ shape, data }) => ({ shape, data: Array.from(data, Number) });
const fed = async () => {
  const { pixels, ids, steps } = await (await fetch('/inputs.json')).json();
  return { image: { data: new Float32Array(pixels.data), shape: pixels.shape }, ids, steps };
};
/** The inputs of the next decoding step, from the outputs of the one before. */
const following = (outputs, input_ids) => {
  const given = { input_ids };
  for (const [name, tensor] of Object.entries(outputs))
    if (name !== 'logits') given[name.replace('present', 'past')] = tensor;
  return given;
};
`;

/** The files that `fed()` loads. */
export function zooFiles(): Readonly<Record<string, string>> {
  const plain = ({ data, shape }: Recorded): Plain => ({ data: Array.from(data, Number), shape });
  const decode = plain(gpt2('input.decode_ids'));
  const [batch, count] = decode.shape as [number, number];
  const steps = Array.from({ length: count }, (_, step) => ({
    data: Array.from({ length: batch }, (_, row) => decode.data[row * count + step]),
    shape: [batch, 1],
  }));
  const inputs = { pixels: plain(vit('input.pixel_values')), ids: plain(gpt2('input.input_ids')), steps };
  return { '/inputs.json': JSON.stringify(inputs) };
}

/** Checks logits of the ViT against the recorded ones. */
export function checkImage(t: ExecutionContext, what: string, got: Plain): void {
  close(t, what, got, vit('output.logits'));
}

/** Checks logits of a prompt and of the tokens after it against the recorded ones. */
export function checkText(t: ExecutionContext, prefill: Plain, decode: readonly Plain[]): void {
  close(t, 'logits of the prompt', prefill, gpt2('output.prefill.logits'));
  t.is(decode.length, 3);
  for (const [i, got] of decode.entries()) {
    const want = gpt2(`output.decode.${i}.logits`);
    const [batch, vocabulary] = want.shape as [number, number];
    close(t, `logits of token ${i}`, got, want, [batch, 1, vocabulary]);
  }
}

function close(t: ExecutionContext, what: string, got: Plain, want: Recorded, shape = want.shape): void {
  t.deepEqual(got.shape, shape, what);
  const error = relativeError(got.data, want.data as Float32Array);
  t.true(error <= TOLERANCE, `${what} is off by ${error}`);
}

/** Phases come in order, and what a phase has loaded only grows and ends at its total. */
export function checkProgress(t: ExecutionContext, events: readonly Progress[]): void {
  t.is(events[0]?.phase, 'manifest');
  t.is(events.at(-1)?.phase, 'ready');
  for (const phase of ['kernels', 'weights']) {
    const of = events.filter((event) => event.phase === phase);
    t.true(of.length > 0, phase);
    t.is(of.at(-1)?.loaded, of.at(-1)?.total, phase);
    t.true(
      of.every(({ loaded }, i) => loaded >= (of[i - 1]?.loaded ?? 0)),
      phase,
    );
  }
}
