/** Model folders that are wrong: one error each, naming the file and the field or tensor. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { readSafetensors, writeSafetensors } from '../frontends/weights/sharded.ts';
import { modelFromHf } from '../frontends/zoo/hf.ts';
import { countParameters } from '../frontends/zoo/index.ts';
import { countMacs } from '../ir/macs.ts';
import type { WeightTensor } from '../ir/weights.ts';
import { projectRoot } from './support/project.ts';
import { refusal, temporaryFolder } from './weights-kit.ts';

const fixtures = join(projectRoot, 'tests/fixtures');

/** A copy of a fixture's folder with other fields in its config. */
function changed(t: ExecutionContext, name: string, fields: Readonly<Record<string, unknown>>): string {
  const folder = temporaryFolder(t);
  cpSync(join(fixtures, name), folder, { recursive: true });
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object;
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...fields }));
  return folder;
}
/** The same with other tensors. */
function reweighted(t: ExecutionContext, name: string, edit: (tensors: Map<string, WeightTensor>) => void): string {
  const folder = changed(t, name, {});
  const path = join(folder, 'model.safetensors');
  const store = readSafetensors(path);
  const tensors = new Map(store.names().map((key) => [key, store.get(key)!] as const));
  edit(tensors);
  writeSafetensors(path, tensors);
  return folder;
}

test('the trained classifier and autoencoder of the demo load', (t) => {
  const { model } = modelFromHf(join(fixtures, 'digits/vit'));
  t.is(model.name, 'vit');
  t.is(countParameters(model), 117_082);
  // 64 patches of 4 pixels; four blocks over 65 tokens; the classifier.
  const blocks = 4 * (65 * 12 * 48 ** 2 + 2 * 65 * 65 * 48);
  t.is(countMacs(model.entries.main!), 64 * 4 * 48 + blocks + 48 * 10);
  t.is(countParameters(modelFromHf(join(fixtures, 'digits/mae')).model), 217_748);
});

test('options reach the model of a folder', (t) => {
  const { model } = modelFromHf(join(fixtures, 'digits/vit'), { attentionMap: true });
  t.deepEqual([...model.entries.main!.outputs.keys()], ['logits', 'attention']);
  const half = modelFromHf(join(fixtures, 'digits/mae'), { maskRatio: 0.5 }).model;
  t.is(half.config.maskRatio, 0.5);
});

test('a wrong config is refused with the field', (t) => {
  const vit = (fields: Readonly<Record<string, unknown>>): string =>
    refusal(t, () => modelFromHf(changed(t, 'digits/vit', fields)), 'config');
  t.regex(vit({ architecture: 'vgg' }), /config\.json: "architecture" is "vgg"\n +help: known architectures: vit, mae/);
  t.regex(vit({ patch_size: 3 }), /"image_size" 16 is not a multiple of "patch_size" 3/);
  t.regex(vit({ heads: 5 }), /"dim" 48 is not a multiple of "heads" 5/);
  t.regex(vit({ depth: 1.5 }), /"depth" is 1\.5, not a size/);
  t.regex(vit({ classes: null }), /"classes" is not a positive number/);
});

test('weights that do not fit the config are refused with their names', (t) => {
  const load = (folder: string): string => refusal(t, () => modelFromHf(folder), 'weights');
  t.regex(
    load(changed(t, 'digits/vit', { classes: 11 })),
    /shape +"head\.weight" is f32\[10, 48\], the model reads f32\[11, 48\]/,
  );
  t.regex(load(changed(t, 'digits/vit', { depth: 3 })), /extra +"blocks\.3\.attn\.proj\.bias"/);
  t.regex(
    load(reweighted(t, 'digits/vit', (tensors) => tensors.delete('norm.bias'))),
    /missing +"norm\.bias" : f32\[48\]/,
  );
  const broken = new Uint8Array(Float32Array.from({ length: 48 }, (_, i) => (i === 7 ? NaN : 0)).buffer);
  const nan = reweighted(t, 'digits/vit', (tensors) =>
    tensors.set('norm.bias', { dtype: 'f32', shape: [48], bytes: broken }),
  );
  t.regex(load(nan), /NaN +"norm\.bias" at element 7/);
});
