import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { CompileReport } from '../compiler/report.ts';
import { encodeNpy, parseNpy } from '../frontends/npy.ts';
import { writeSafetensors } from '../frontends/weights/sharded.ts';
import { toFloat32 } from '../ir/weights.ts';
import { fixture, heddle, heddleJson, temporary } from './support/cli.ts';

interface Report extends CompileReport {
  readonly out: string;
}

interface Digit {
  readonly file: string;
  readonly logits: readonly number[];
}
const digits = (
  JSON.parse(readFileSync(fixture('digits', 'expected.json'), 'utf8')) as { readonly heldout: readonly Digit[] }
).heldout;

const npy = (shape: readonly number[], values: readonly number[]): Uint8Array =>
  encodeNpy({ dtype: 'f32', shape, bytes: new Uint8Array(Float32Array.from(values).buffer) });

const net = `import { dim, f32, input, model, nn, relu, type Tensor } from 'heddle';
import { width } from './sizes.js';

interface Unused { readonly a: number }
const batch = dim('batch', { max: 8 });
export const net = model('tiny-net', { x: input(f32, [batch, 3], 'features') }, ({ x }) => {
  const hidden = relu(nn.linear('fc1', { in: 3, out: width })(x as Tensor<'f32'>));
  return { y: nn.linear('fc2', { in: width, out: 2 })(hidden) as Tensor };
});
`;

/** A folder with a TypeScript model of two files. */
function project(t: Parameters<typeof temporary>[0]): string {
  const folder = temporary(t);
  writeFileSync(join(folder, 'net.ts'), net);
  writeFileSync(join(folder, 'sizes.ts'), 'export const width: number = 4;\n');
  return folder;
}

test('a folder with weights compiles into a bundle that gives the logits of its training', async (t) => {
  const out = join(temporary(t), 'digits');
  const report = await heddleJson<Report>(t, ['compile', fixture('digits', 'vit'), '-o', out]);
  t.deepEqual(Object.keys(report).sort(), [
    ...['at', 'entries', 'files', 'kernels', 'macs', 'macsAllowed', 'macsCompiled', 'out', 'peakBytes', 'remarks'],
    ...['runtimeGzip', 'target', 'weightsBytes'],
  ]);
  t.like(report, { out, target: 'wasm', at: { batch: 1 } });
  for (const { path, bytes } of report.files) t.is(statSync(join(out, path)).size, bytes, path);
  t.deepEqual(readdirSync(out).sort(), report.files.map(({ path }) => path).sort());
  t.true(report.remarks.length > 0 && report.remarks.every(({ pass, kind, at, why }) => pass && kind && at && why));
  for (const digit of digits.slice(0, 3)) {
    const args = ['run', out, '-i', `pixel_values=${fixture('digits', 'heldout', digit.file)}`];
    const { outputs } = await heddleJson<{ outputs: { logits: { data: number[]; shape: number[] } } }>(t, [
      ...args,
      ...['--mean', '0.3058', '--std', '0.319'],
    ]);
    t.deepEqual(outputs.logits.shape, [1, 10]);
    const apart = digit.logits.map((want, i) => Math.abs(want - outputs.logits.data[i]!));
    t.true(Math.max(...apart) < 1e-5, `${digit.file}: ${Math.max(...apart)}`);
  }
});

test('inspect knows sizes and counts of published models', async (t) => {
  const vit = await heddleJson<Record<string, unknown>>(t, ['inspect', 'zoo:vit-b16']);
  t.like(vit, { name: 'vit-b16', parameters: 86_567_656, macs: 17_563_828_224, unsupported: [], at: { batch: 1 } });
  t.like(vit.inputs, [{ name: 'pixel_values', dtype: 'f32', shape: ['batch', 3, 224, 224] }]);
  const bert = await heddleJson<Record<string, unknown>>(t, ['inspect', 'zoo:bert-base', '--dim', 'sequence=16']);
  t.like(bert, { parameters: 110_106_428, at: { batch: 1, sequence: 16 }, unsupported: [] });
  const { stdout, code } = await heddle(['inspect', 'zoo:gpt2']);
  t.is(code, 0);
  for (const part of ['prefill:', 'decode:', '124,439,808 parameters', 'past.11.value'])
    t.true(stdout.includes(part), part);
});

test('work that depends on data is counted at sample inputs', async (t) => {
  const folder = temporary(t);
  const ids = join(folder, 'ids.json');
  writeFileSync(ids, '[[1, 2, 23, 4, 5], [23, 2, 3, 4, 5]]');
  const compile = (sample: string) => [
    'compile',
    fixture('references', 'clip-hf'),
    '-o',
    join(folder, 'out'),
    '--no-selftest',
    '--sample',
    sample,
  ];
  type Counted = { name: string; at: Record<string, number>; macs: number; pairs: { exact: boolean; allowed: number } };
  const { entries } = await heddleJson<{ entries: Counted[] }>(t, compile(`input_ids=${ids}`));
  const [image, text] = entries as [Counted, Counted];
  t.like(image.at, { images: 1, texts: 1, sequence: 11 });
  t.like(text.at, { texts: 2, sequence: 5 });
  // Two texts of five slots in two blocks, products of q, k, v, the projection and the MLP, then scores; one projection each.
  t.is(text.macs, 2 * (2 * (5 * (4 * 21 ** 2 + 2 * 21 * 53) + 2 * 25 * 21) + 21 * 19));
  t.true(text.pairs.exact);
  for (const [sample, message] of [
    ['ids=lengths:3', /error\[name\].*there is no input "ids"/],
    ['input_ids=lengths:12', /error\[usage\].*12 is no length[\s\S]*lengths are 0 to 11/],
  ] as const) {
    const { code, stderr } = await heddle(compile(sample));
    t.not(code, 0);
    t.regex(stderr, message);
  }
});

test('a TypeScript module compiles, runs from npy and json, and writes both', async (t) => {
  const folder = project(t);
  t.is((await heddle(['compile', 'net.ts', '-o', 'out'], folder)).code, 0);
  writeFileSync(join(folder, 'x.npy'), npy([2, 3], [1, 2, 3, -4, 5, -6]));
  writeFileSync(join(folder, 'x.json'), '[[1, 2, 3], [-4, 5, -6]]');
  writeFileSync(join(folder, 'flat.json'), '{"shape": [2, 3], "data": [1, 2, 3, -4, 5, -6]}');
  for (const name of ['x.npy', 'x.json', 'flat.json']) {
    const { code, stderr } = await heddle(['run', 'out', '-i', `x=${name}`, '-o', 'y=y.npy', '-o', 'y.json'], folder);
    t.is(code, 0, stderr);
    const y = parseNpy(readFileSync(join(folder, 'y.npy')), 'y.npy');
    t.deepEqual(y.shape, [2, 2]);
    const json = JSON.parse(readFileSync(join(folder, 'y.json'), 'utf8')) as { y: { data: number[] } };
    t.deepEqual(Float32Array.from(json.y.data), toFloat32(y));
  }
  const { code, stderr } = await heddle(
    ['compare', 'out', 'ref:net.ts', '-i', 'x=x.npy', '--tolerance', '1e-6'],
    folder,
  );
  t.is(code, 0, stderr);
  const other = await heddle(['compare', 'out', 'ref:net.ts', '--seed', '3', '--tolerance', '1e-6'], folder);
  t.is(other.code, 1);
  t.regex(other.stderr, /error\[range\].*differ by/);
});

test('weights, sizes, storage and seed reach the bundle', async (t) => {
  const folder = project(t);
  const tensor = (shape: readonly number[], value: number) => ({
    dtype: 'f32' as const,
    shape,
    bytes: new Uint8Array(new Float32Array(shape.reduce((n, d) => n * d, 1)).fill(value).buffer),
  });
  writeSafetensors(join(folder, 'w.safetensors'), [
    ['fc1.weight', tensor([4, 3], 1)],
    ['fc1.bias', tensor([4], 0.5)],
    ['fc2.weight', tensor([2, 4], 2)],
    ['fc2.bias', tensor([2], -1)],
  ]);
  const args = [
    'compile',
    'net.ts',
    '-o',
    'out',
    '--weights',
    'w.safetensors',
    '--dim',
    'batch=2',
    '--storage',
    'f16',
    '--json',
  ];
  const { code, stdout, stderr } = await heddle(args, folder);
  t.is(code, 0, stderr);
  t.like(JSON.parse(stdout), { at: { batch: 2 }, macs: 2 * (3 * 4 + 4 * 2) });
  writeFileSync(join(folder, 'x.json'), '[[1, 1, 1], [0, 0, 0]]');
  const ran = await heddle(['run', 'out', '-i', 'x=x.json', '--json'], folder);
  const { outputs } = JSON.parse(ran.stdout) as { outputs: { y: { data: number[] } } };
  t.deepEqual(outputs.y.data, [4 * 3.5 * 2 - 1, 4 * 3.5 * 2 - 1, 4 * 0.5 * 2 - 1, 4 * 0.5 * 2 - 1]);
  const sums = new Set<string>();
  for (const seed of ['0', '0', '1']) {
    await heddle(['compile', 'net.ts', '-o', 'seeded', '--seed', seed], folder);
    sums.add(readFileSync(join(folder, 'seeded', 'weights.bin')).toString('hex'));
  }
  t.is(sums.size, 2);
});

test('a mistake in a model is one error with the line of its TypeScript', async (t) => {
  const folder = project(t);
  writeFileSync(join(folder, 'net.ts'), net.replace('in: width, out: 2', 'in: 5, out: 2'));
  const { code, stderr, stdout } = await heddle(['compile', 'net.ts', '-o', 'out'], folder);
  t.is(code, 1);
  t.is(stdout, '');
  t.regex(stderr, /^error\[shape\]: .*4.*5/);
  t.regex(stderr, /--> net\.ts:8:\d+/);
  t.true(stderr.includes("8 |   return { y: nn.linear('fc2'"), stderr);
  t.deepEqual(readdirSync(folder).sort(), ['net.ts', 'sizes.ts']);
});

test('a module that fails on its own says where', async (t) => {
  const folder = temporary(t);
  const cases: readonly (readonly [string, RegExp])[] = [
    ["const a: string = 'x';\n\nthrow new Error('boom');\n", /error\[file\]: bad\.ts: boom.*bad\.ts:3:/s],
    ['const a: = 3;\n', /error\[file\]: bad\.ts: 1:10: Type expected/],
    ['export const a = 1;\n', /error\[name\]: bad\.ts: exports no model/],
    ["import './absent.js';\n", /error\[file\]: bad\.ts: Cannot find module .*absent/],
  ];
  for (const [source, message] of cases) {
    writeFileSync(join(folder, 'bad.ts'), source);
    const { code, stderr } = await heddle(['inspect', 'bad.ts'], folder);
    t.is(code, 1);
    t.regex(stderr, message);
  }
});

test('of several models one is chosen by name', async (t) => {
  const folder = project(t);
  writeFileSync(
    join(folder, 'two.ts'),
    "export { net as first } from './net.ts';\nexport { net as second } from './net.ts';\n",
  );
  const none = await heddle(['inspect', 'two.ts'], folder);
  t.is(none.code, 2);
  t.regex(none.stderr, /exports 2 models.*--export with one of first, second/s);
  t.is((await heddle(['inspect', 'two.ts', '--export', 'second'], folder)).code, 0);
  const wrong = await heddle(['inspect', 'two.ts', '--export', 'secnd'], folder);
  t.is(wrong.code, 1);
  t.regex(wrong.stderr, /did you mean "second"/);
});

test('a command that cannot be carried out exits with 2 and says what to write', async (t) => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /Usage: heddle/],
    [['frobnicate'], /unknown command/],
    [['compile', 'zoo:vit-s16'], /-o, --out/],
    [['compile', 'zoo:vit-s16', '-o', 'x', '--storage', 'f8'], /error\[usage\]: --storage is "f8".*f32, f16/s],
    [['compile', 'zoo:vit-s16', '-o', 'x', '--target', 'tpu'], /write --target wasm or/],
    [['compile', 'zoo:vit-s16', '-o', 'x', '--dim', 'batch'], /write --dim batch=4/],
    [['compile', 'zoo:vit-s16', '-o', 'x', '--seed', 'two'], /--seed is "two"/],
    [['compile', 'model.pkl', '-o', 'x'], /model\.pkl is not a model/],
    [['dump', 'zoo:vit-s16', '--after', 'canonicalise'], /did you mean "canonicalize"/],
    [['dump', 'zoo:vit-s16', '--emit', 'ptx'], /known: graph, kernel, wat, plan, json/],
    [['run', 'x', '--bogus'], /unknown option/],
  ];
  for (const [args, message] of cases) {
    const { code, stderr } = await heddle(args);
    t.is(code, 2, args.join(' '));
    t.regex(stderr, message);
  }
});

test('what a command names may be at fault: that exits with 1', async (t) => {
  const folder = temporary(t);
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [['compile', 'zoo:vit-b61', '-o', 'x'], /error\[name\].*did you mean vit-b16/s],
    [['compile', 'model.onnx', '-o', 'x'], /error\[file\]: model\.onnx: there is no such file/],
    [['compile', 'absent.ts', '-o', 'x'], /error\[file\]: absent\.ts: there is no such file/],
    [['inspect', 'zoo:vit-b16', '--dim', 'batch=65'], /error\[range\]: size "batch" cannot be 65.*1\.\.64/],
    [['inspect', 'zoo:vit-b16', '--dim', 'bach=1'], /error\[name\].*no size "bach".*did you mean "batch"/s],
    [['run', 'absent'], /error\[file\]: absent: holds no bundle/],
    [['bench', '.'], /error\[file\]: \.: holds no bundle/],
  ];
  for (const [args, message] of cases) {
    const { code, stderr } = await heddle(args, folder);
    t.is(code, 1, args.join(' '));
    t.regex(stderr, message);
  }
  t.deepEqual(readdirSync(folder), []);
});

test('each command explains itself with examples, and piped text has no colour', async (t) => {
  for (const command of ['compile', 'run', 'inspect', 'dump', 'compare', 'bench']) {
    const { code, stdout } = await heddle([command, '--help']);
    t.is(code, 0);
    t.regex(stdout, new RegExp(`Examples:\\n {2}heddle ${command}`));
    t.regex(stdout, /--json/);
  }
  const { stderr } = await heddle(['inspect', 'zoo:nothing']);
  t.false(stderr.includes('\x1b'));
});

test('dump shows every stage', async (t) => {
  const folder = project(t);
  const dump = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout, stderr } = await heddle(['dump', 'net.ts', ...args], folder);
    t.is(code, 0, stderr);
    return stdout;
  };
  const authored = await dump('--after', 'none');
  t.regex(authored, /graph tiny_net\(%x: f32\[batch, 3\].*@ net\.ts:6:/);
  t.regex(authored, /%hidden = relu/);
  t.is(await dump('--stop-after', '0'), authored);
  t.regex(await dump('--emit', 'kernel'), /kernel .*\(/);
  t.regex(await dump('--emit', 'wat', '--plain'), /^\(module/);
  t.like(JSON.parse(await dump('--emit', 'plan')), {
    name: 'tiny-net',
    entries: { main: { inputs: [{ name: 'x' }] } },
  });
  t.like(JSON.parse(await dump('--emit', 'json')), { name: 'tiny-net', graphs: [{ name: 'tiny_net' }] });
  t.regex(await dump('--dim', 'batch=4'), /%x: f32\[4, 3\]/);
  const { stdout } = await heddle(['dump', 'zoo:bert-base', '--remarks', 'merge-projections']);
  t.regex(stdout, /^merge-projections: (applied|missed) at /);
  t.regex((await heddle(['dump', 'zoo:vit-s16', '--remarks', 'integer-products'])).stderr, /no remarks/);
});

test('bench measures each kernel against a ceiling', async (t) => {
  const folder = project(t);
  await heddle(['compile', 'net.ts', '-o', 'out'], folder);
  const bench = await heddleJson<{ ms: number; ceiling: number; kernels: { label: string; calls: number }[] }>(t, [
    ...['bench', join(folder, 'out'), '--runs', '2', '--dim', 'batch=8'],
  ]);
  t.true(bench.ms > 0 && bench.ceiling > 0.1);
  t.true(bench.kernels.length > 0 && bench.kernels.every(({ label, calls }) => label !== '' && calls > 0));
  t.regex((await heddle(['bench', join(folder, 'out')])).stdout, /GFLOP\/s/);
});

test('inputs that do not fit are refused by name before anything runs', async (t) => {
  const folder = project(t);
  await heddle(['compile', 'net.ts', '-o', 'out'], folder);
  const write = (name: string, content: string | Uint8Array): string => {
    writeFileSync(join(folder, name), content);
    return name;
  };
  const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
    [[], 1, /input "x" .* is missing/],
    [['-i', 'x'], 2, /write --input NAME=FILE/],
    [['-i', `y=${write('a.json', '[1]')}`], 1, /no input "y".*the inputs are x/s],
    [['-i', `x=${write('b.json', '[[1, 2], [3]]')}`], 1, /b\.json: .*differ in length/],
    [['-i', `x=${write('c.json', '[["one", 2, 3]]')}`], 1, /c\.json: holds "one"/],
    [['-i', `x=${write('d.json', '[[1, 2, 3')}`], 1, /d\.json: not JSON/],
    [['-i', `x=${write('e.json', '[[1, 2]]')}`], 1, /input "x" .*shape \[1, 2\]/],
    [['-i', `x=${write('f.npy', npy([9, 3], Array(27).fill(0)))}`], 1, /size "batch" is 9/],
    [['-i', `x=${write('g.npy', npy([1, 3], [1, 2, 3]).subarray(0, 100))}`], 1, /g\.npy/],
    [['-i', 'x=absent.npy'], 1, /absent\.npy: cannot read it: there is no such file/],
    [['-i', `x=${write('h.png', 'no image')}`], 1, /h\.png: an image does not fit input "x"/],
    [['-i', `x=${write('i.txt', '1')}`], 2, /inputs are \.npy, \.json or \.png/],
    [['-i', `x=${write('j.json', '[[1, 2, 3]]')}`, '-o', 'z=z.npy'], 1, /no output "z"/],
    [['-i', 'x=j.json', '--entry', 'other'], 2, /no entry "other"/],
  ];
  for (const [args, code, message] of cases) {
    const result = await heddle(['run', 'out', ...args], folder);
    t.is(result.code, code, `${args.join(' ')}: ${result.stderr}`);
    t.regex(result.stderr, message);
  }
  t.false(existsSync(join(folder, 'z.npy')));
});

test('an image of another size or kind is refused', async (t) => {
  const folder = temporary(t);
  const out = join(folder, 'digits');
  await heddle(['compile', fixture('digits', 'vit'), '-o', out, '--no-selftest']);
  const broken = readFileSync(fixture('digits', 'heldout', digits[0]!.file)).subarray(0, 60);
  writeFileSync(join(folder, 'broken.png'), broken);
  const result = await heddle(['run', out, '-i', `pixel_values=${join(folder, 'broken.png')}`]);
  t.is(result.code, 1);
  t.regex(result.stderr, /error\[file\]: .*broken\.png: /);
  const wide = join(folder, 'wide');
  mkdirSync(wide);
  const small = readFileSync(fixture('digits', 'heldout', digits[0]!.file));
  writeFileSync(join(wide, 'digit.png'), small);
  await heddle(['compile', 'zoo:vit-s16', '-o', join(folder, 'vit'), '--no-selftest']);
  const other = await heddle(['run', join(folder, 'vit'), '-i', `pixel_values=${join(wide, 'digit.png')}`]);
  t.is(other.code, 1);
  t.regex(other.stderr, /digit\.png is 16×16, input "pixel_values" takes 224×224/);
});
