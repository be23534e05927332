/** Damaged checkpoints on the command line: one error that names tensor and file, and nothing written. */
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { fixture, heddle, temporary } from './support/cli.ts';

const checkpoint = readFileSync(fixture('digits', 'vit', 'model.safetensors'));

interface Header {
  [name: string]: { dtype: string; shape: number[]; data_offsets: [number, number] };
}

/** The file again with another header or other data. */
function edited(edit: (header: Header, data: Buffer) => Buffer | undefined): Buffer {
  const length = Number(checkpoint.readBigUInt64LE(0));
  const header = JSON.parse(checkpoint.subarray(8, 8 + length).toString()) as Header;
  const data = Buffer.from(checkpoint.subarray(8 + length));
  const rest = edit(header, data) ?? data;
  const json = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([size, json, rest]);
}

const oversized = Buffer.from(checkpoint);
oversized.writeBigUInt64LE(2n ** 40n);

const damaged: readonly (readonly [string, Buffer, RegExp])[] = [
  ['truncated in its data', checkpoint.subarray(0, -100), /error\[weights\]: \S*model\.safetensors: .*"/],
  ['truncated in its header', checkpoint.subarray(0, 50), /error\[weights\]: \S*model\.safetensors: .*truncated/],
  ['empty', Buffer.alloc(0), /error\[weights\]: \S*model\.safetensors: not a safetensors file/],
  ['with an oversized header', oversized, /error\[weights\]: \S*model\.safetensors: .*header of 1099511627776 bytes/],
  [
    'whose tensors overlap',
    edited((header) => {
      const a = header['blocks.0.attn.qkv.weight']!;
      const b = header['blocks.1.attn.qkv.weight']!;
      b.data_offsets = [...a.data_offsets];
      return undefined;
    }),
    /error\[weights\]: \S*model\.safetensors: .*"blocks\.[01]\.attn\.qkv\.weight"/,
  ],
  [
    'with a NaN',
    edited((header, data) => {
      data.writeFloatLE(Number.NaN, header['blocks.2.mlp.fc1.weight']!.data_offsets[0] + 40);
      return undefined;
    }),
    /NaN +"blocks\.2\.mlp\.fc1\.weight" at element 10 .*model\.safetensors/,
  ],
  [
    'without a tensor that the model reads',
    edited((header) => {
      header.strange = header['norm.weight']!;
      delete header['norm.weight'];
      return undefined;
    }),
    /model\.safetensors does not fit the model: 1 missing, 1 extra.*missing +"norm\.weight".*extra +"strange"/s,
  ],
  [
    'with a tensor of another shape',
    edited((header) => {
      header['head.weight']!.shape.reverse();
      return undefined;
    }),
    /shape +"head\.weight" is f32\[48, 10\], the model reads f32\[10, 48\].*transposed/,
  ],
  [
    'with a type that is not a float',
    edited((header) => {
      header['head.bias']!.dtype = 'I32';
      return undefined;
    }),
    /type +"head\.bias" is i32\[10\], the model reads f32\[10\]/,
  ],
];

for (const [what, bytes, message] of damaged)
  test(`a checkpoint ${what} is one error, and nothing is written`, async (t) => {
    const folder = temporary(t);
    const model = join(folder, 'model');
    mkdirSync(model);
    cpSync(fixture('digits', 'vit', 'config.json'), join(model, 'config.json'));
    writeFileSync(join(model, 'model.safetensors'), bytes);
    const { code, stdout, stderr } = await heddle(['compile', model, '-o', join(folder, 'out')]);
    t.is(code, 1, stderr);
    t.is(stdout, '');
    t.regex(stderr, message);
    t.is(stderr.split('error[').length, 2, stderr);
    t.notRegex(stderr, /\n\s+at /);
    t.deepEqual(readdirSync(folder), ['model']);
  });

const config = JSON.parse(readFileSync(fixture('digits', 'vit', 'config.json'), 'utf8')) as Record<string, unknown>;
const configs: readonly (readonly [string, string, RegExp])[] = [
  ['is no JSON', '{"architecture": "vit"', /error\[config\]: \S*config\.json/],
  [
    'names an unknown architecture',
    JSON.stringify({ ...config, architecture: 'lenet' }),
    /"architecture" is "lenet".*vit, mae/s,
  ],
  [
    'has heads that do not divide the width',
    JSON.stringify({ ...config, heads: 7 }),
    /"dim" 48 is not a multiple of "heads" 7/,
  ],
  ['lacks a size', JSON.stringify({ ...config, depth: undefined }), /"depth" is not a positive number/],
  [
    'disagrees with the weights',
    JSON.stringify({ ...config, depth: 5 }),
    /12 missing, 0 extra.*"blocks\.4\.norm1\.weight"/s,
  ],
];

for (const [what, text, message] of configs)
  test(`a config that ${what} is one error, and nothing is written`, async (t) => {
    const folder = temporary(t);
    const model = join(folder, 'model');
    cpSync(fixture('digits', 'vit'), model, { recursive: true });
    writeFileSync(join(model, 'config.json'), text);
    const { code, stderr } = await heddle(['compile', model, '-o', join(folder, 'out')]);
    t.is(code, 1, stderr);
    t.regex(stderr, message);
    t.is(stderr.split('error[').length, 2, stderr);
    t.deepEqual(readdirSync(folder), ['model']);
  });

test('an older bundle survives a compilation that fails', async (t) => {
  const folder = temporary(t);
  const out = join(folder, 'out');
  await heddle(['compile', fixture('digits', 'vit'), '-o', out, '--no-selftest']);
  const before = readFileSync(join(out, 'manifest.json'));
  const model = join(folder, 'model');
  cpSync(fixture('digits', 'vit'), model, { recursive: true });
  writeFileSync(join(model, 'model.safetensors'), checkpoint.subarray(0, 999));
  t.is((await heddle(['compile', model, '-o', out])).code, 1);
  t.deepEqual(readFileSync(join(out, 'manifest.json')), before);
  t.deepEqual(readdirSync(folder).sort(), ['model', 'out']);
});

test('a folder in the way is refused before the model is read', async (t) => {
  const folder = temporary(t);
  writeFileSync(join(folder, 'notes.txt'), 'mine');
  const { code, stderr } = await heddle(['compile', 'zoo:no-such-model', '-o', folder]);
  t.is(code, 1);
  t.regex(stderr, /error\[file\]: .*holds no heddle bundle/);
  t.deepEqual(readdirSync(folder), ['notes.txt']);
});
