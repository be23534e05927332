import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { Project, ts } from 'ts-morph';
import { recordSelfTest } from '../compiler/cli/record.ts';
import { compile } from '../compiler/compile.ts';
import { packManifest } from '../compiler/pack-manifest.ts';
import { dim, entry, f32, i64, input, program, type Tensor } from '../frontends/dsl/index.ts';
import type { OpenOptions, Session } from '../runtime/api.ts';
import { checkManifest } from '../runtime/check.ts';
import type { Manifest } from '../runtime/manifest.ts';
import { open } from '../runtime/open.ts';
import { unpackManifest } from '../runtime/packed.ts';
import { temporary } from './support/cli.ts';
import { tinyModel, tinyWeights } from './support/tiny-model.ts';

const tiny = () => compile(tinyModel(), { weights: tinyWeights() });

interface Loader {
  readonly entries: unknown;
  readonly HeddleError: new (...args: never[]) => Error;
  open(options?: OpenOptions): Promise<Session>;
}

test('a written folder opens by its own index.js, by path and by URL', async (t) => {
  const folder = join(temporary(t), 'deep', 'net');
  const bundle = tiny();
  await bundle.withSelfTest(await recordSelfTest(bundle)).write(folder);
  t.deepEqual(readdirSync(folder).sort(), [...(await bundle.folder()).keys()].sort());
  const loader = (await import(pathToFileURL(join(folder, 'index.js')).href)) as Loader;
  t.deepEqual(loader.entries, { main: { inputs: ['x'], outputs: ['y'] } });
  const x = Float32Array.from({ length: 12 }, (_, i) => i / 7);
  const results: unknown[] = [];
  for (const make of [loader.open, () => open(folder), () => open(pathToFileURL(folder)), () => open(bundle)]) {
    const session = await make();
    results.push(Array.from((await session.run({ x })).y!.data as Float32Array));
    session.dispose();
  }
  for (const result of results) t.deepEqual(result, results[0]);
  const session = await loader.open({ threads: 2 });
  t.like(await session.selftest(), { ok: true });
  await t.throwsAsync(session.run({}), { instanceOf: loader.HeddleError });
  session.dispose();
});

test('the declarations name inputs, outputs, dtypes, sizes and meanings', async (t) => {
  const text = new TextDecoder().decode((await tiny().folder()).get('index.d.ts'));
  for (const part of [
    'interface TinyNetInputs',
    'f32[batch, 6]: features of a row',
    'batch: 1 … 8, default 1',
    'two layers',
  ])
    t.true(text.includes(part), part);
});

/** What TypeScript says about `code` beside the declarations of a bundle. */
function complaints(declarations: string, code: string): string[] {
  const project = new Project({
    useInMemoryFileSystem: true,
    compilerOptions: {
      strict: true,
      exactOptionalPropertyTypes: true,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      target: ts.ScriptTarget.ES2022,
      lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'],
    },
  });
  project.createSourceFile('package.json', '{"type": "module"}');
  project.createSourceFile('index.d.ts', declarations);
  project.createSourceFile('use.ts', code);
  return project
    .getPreEmitDiagnostics()
    .map((each) => ts.flattenDiagnosticMessageText(each.compilerObject.messageText, ' '));
}

test('the declarations type-check, and a wrong use of them does not', async (t) => {
  const declarations = new TextDecoder().decode((await tiny().folder()).get('index.d.ts'));
  const use = (body: string): string[] =>
    complaints(declarations, `import { open, entries, HeddleError } from './index.js';\n${body}\n`);
  const good = `const session = await open({ threads: 2 });
    const { y } = await session.run({ x: new Float32Array(12) }, { signal: new AbortController().signal });
    await session.run({ x: { data: [1, 2, 3, 4, 5, 6], shape: [1, 6] } });
    const data: Float32Array = y.data; const three: 3 = y.shape[1]; const name: 'x' = entries.main.inputs[0];
    try {} catch (error) { if (error instanceof HeddleError) console.log(error.code, data, three, name); }
    export const ok: boolean = (await session.selftest()).ok;`;
  t.deepEqual(use(good), []);
  t.regex(use('await (await open()).run({ z: new Float32Array(6) });').join(), /'z' does not exist/);
  t.regex(use('await (await open()).run({ x: new Int32Array(6) });').join(), /Int32Array/);
  t.regex(use('export const q = (await (await open()).run({ x: [1] })).logits;').join(), /'logits' does not exist/);
});

test('several entries become overloads', async (t) => {
  const n = dim('n', { max: 4 });
  const both = program('two-part', {
    encode: entry({ ids: input(i64, [n], 'numbers') }, ({ ids }) => ({ out: ids as Tensor })),
    'de-code': entry({ 'a.b': input(f32, [n, 2]) }, (given) => ({ out: given['a.b'] as Tensor })),
  });
  const declarations = new TextDecoder().decode(
    (await compile(both, { weights: tinyWeights() }).folder()).get('index.d.ts'),
  );
  const code = `import { open } from './index.js';
    const session = await open();
    const a = await session.run({ ids: [1, 2] });
    const b = await session.run({ 'a.b': [1, 2] }, { entry: 'de-code' });
    export const x: BigInt64Array = a.out.data;
    export const y: Float32Array = b.out.data;`;
  t.deepEqual(complaints(declarations, code), []);
  t.regex(complaints(declarations, code.replace("'de-code'", "'decode'")).join(), /overload/);
});

test('a folder that holds something else is refused and left alone', async (t) => {
  const folder = temporary(t);
  const taken = join(folder, 'taken');
  mkdirSync(taken);
  writeFileSync(join(taken, 'thesis.txt'), 'dear');
  await t.throwsAsync(tiny().write(taken), { message: /error\[file\].*not empty and holds no heddle bundle/ });
  await t.throwsAsync(tiny().write(join(taken, 'thesis.txt')), { message: /error\[file\].*is not a folder/ });
  await t.throwsAsync(tiny().write(join(taken, 'thesis.txt', 'net')), { message: /error\[file\]/ });
  t.deepEqual(readdirSync(folder), ['taken']);
  t.deepEqual(readdirSync(taken), ['thesis.txt']);
});

test('an empty folder is filled, and an older bundle replaced whole', async (t) => {
  const folder = temporary(t);
  const out = join(folder, 'net');
  mkdirSync(out);
  await tiny().write(out);
  writeFileSync(join(out, 'left-over.bin'), 'x');
  await compile(tinyModel(), { weights: tinyWeights(8) }).write(out);
  t.false(existsSync(join(out, 'left-over.bin')));
  t.deepEqual(readdirSync(folder), ['net']);
});

test('a staged bundle that is abandoned leaves nothing', async (t) => {
  const folder = temporary(t);
  const staged = await tiny().stage(join(folder, 'net'));
  await staged.abandon();
  t.deepEqual(readdirSync(folder), []);
});

test('the packed manifest reads back as it was, control flow included', (t) => {
  const { manifest } = tiny();
  const launch = (b: number, w: number) =>
    ({
      kernel: 1,
      args: [{ b }, { w }, { s: 64 }, { w, at: ['*', 't0', 4] }],
      params: ['n'],
      grid: 3,
      chunk: 1,
      label: 'l',
    }) as const;
  const steps = [
    launch(4, 128),
    { loop: 't0', trips: 3, reverse: true, steps: [launch(2, 64), { from: { b: 1 }, to: { b: 2 }, bytes: 4 }] },
    { if: { b: 0 }, then: [launch(0, 0)], else: [launch(7, 4096)] },
    launch(9, 8),
  ] as unknown as Manifest['entries'][string]['steps'];
  const main = { ...manifest.entries.main!, steps };
  const odd = { ...manifest, entries: { ...manifest.entries, odd: main } };
  for (const each of [manifest, odd]) {
    const { packed, ...back } = unpackManifest(JSON.parse(JSON.stringify(packManifest(each)))) as Manifest & {
      packed: boolean;
    };
    t.true(packed);
    t.deepEqual(back, JSON.parse(JSON.stringify(each)));
  }
  t.deepEqual(checkManifest(unpackManifest(manifest)), manifest);
});

test('a malformed packed manifest is refused as such', (t) => {
  const good = packManifest(tiny().manifest) as { entries: Record<string, object> };
  for (const entries of [
    undefined,
    null,
    { main: null },
    { main: { ...good.entries.main, steps: 3 } },
    { main: { ...good.entries.main, buffers: [null] } },
  ])
    t.throws(() => unpackManifest({ ...good, entries }), { code: 'manifest' });
  const wild = { ...good, entries: { main: { ...good.entries.main, steps: [[0, [1e9], [], 1, 1, 'x']] } } };
  t.throws(() => checkManifest(unpackManifest(wild)), { code: 'manifest' });
});

test('halves in the weight file give nearly the same values in half the bytes', async (t) => {
  const whole = tiny();
  const half = compile(tinyModel(), { weights: tinyWeights(), storage: 'f16' });
  t.true(half.manifest.weights.bytes <= whole.manifest.weights.bytes / 2 + 64);
  t.is(half.manifest.weights.memory, whole.manifest.weights.memory);
  t.is(half.manifest.weights.segments.length, 1);
  const x = Float32Array.from({ length: 18 }, (_, i) => Math.cos(i));
  const [a, b] = await Promise.all(
    [whole, half].map(async (bundle) => {
      const session = await open(bundle);
      const { y } = await session.run({ x });
      session.dispose();
      return y!.data as Float32Array;
    }),
  );
  t.notDeepEqual(a, b);
  for (const [i, value] of a!.entries()) t.true(Math.abs(value - b![i]!) < 2e-3 * Math.max(1, Math.abs(value)));
});

test('the same model and weights give the same bytes', async (t) => {
  const [a, b] = await Promise.all([tiny().folder(), tiny().folder()]);
  for (const [name, bytes] of a!) t.deepEqual(bytes, b!.get(name), name);
});

test('a recorded run fails on other weights', async (t) => {
  const bundle = tiny();
  const recorded = await recordSelfTest(bundle);
  t.is(recorded[0]!.outputs[0]!.values.length, 3);
  const other = compile(tinyModel(), { weights: tinyWeights(99) }).withSelfTest(recorded);
  const session = await open(other);
  t.false((await session.selftest()).ok);
  session.dispose();
});

test('the loader asks for nothing but its own files', async (t) => {
  const folder = await tiny().folder();
  for (const name of ['index.js', 'worker.js']) {
    const text = new TextDecoder().decode(folder.get(name));
    for (const [, specifier] of text.matchAll(/from\s*["']([^"']+)["']/g))
      t.true(folder.has(specifier!.replace('./', '')));
    t.notRegex(text, /eval|https?:/);
  }
  t.true(
    readFileSync(join(import.meta.dirname, '..', 'runtime', 'bundle', 'heddle.js')).equals(folder.get('heddle.js')!),
  );
});
