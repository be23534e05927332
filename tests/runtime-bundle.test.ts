import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import test from 'ava';
import { runtimeFolder } from './support/hand-bundle.ts';
import { typeErrors } from './support/type-errors.ts';

const read = (name: string): string => readFileSync(join(runtimeFolder, name), 'utf8');

test('the bundled runtime is small and imports nothing', (t) => {
  const code = read('heddle.js');
  const size = gzipSync(code, { level: 9 }).length + gzipSync(read('worker.js'), { level: 9 }).length;
  t.true(size <= 14_700, `${size} bytes gzipped`);
  for (const never of [
    /\bimport\s*[("{*]/,
    /\bfrom\s*["']/,
    /\beval\(/,
    /\bFunction\(/,
    /createObjectURL|\bBlob\b/,
    /https?:/,
  ]) {
    t.is(never.exec(code)?.[0], undefined);
  }
});

test('the runtime for both devices loads the one that is wanted', async (t) => {
  const names = ['heddle.js', 'wasm.js', 'webgpu.js', 'worker.js'];
  const [main, wasm, gpu] = names.map((name) => read(`webgpu/${name}`)) as [string, string, string];
  const gzip = (...codes: readonly string[]): number =>
    codes.reduce((sum, code) => sum + gzipSync(code, { level: 9 }).length, 0);
  t.true(gzip(main, gpu) <= 20_500, `${gzip(main, gpu)} bytes gzipped on WebGPU`);
  t.true(gzip(main, wasm, gpu) <= 30_000, `${gzip(main, wasm, gpu)} bytes gzipped in all`);
  const imports = (code: string): string[] =>
    [...code.matchAll(/(?:\}from|\bimport)\(?["']([^"']*)["']/g)].map((match) => match[1]!);
  t.deepEqual(new Set(imports(main)), new Set(['./wasm.js', './webgpu.js']));
  t.deepEqual(new Set([...imports(gpu), ...imports(wasm)]), new Set(['./heddle.js']));
  // Dawn in Node goes by a name that no bundler follows.
  t.is(gpu.match(/\bimport\(/g)?.length, 1);
  for (const code of [main, wasm, gpu]) t.notRegex(code, /\beval\(|\bFunction\(|createObjectURL|\bBlob\b|https?:/);
  t.notRegex(main, /WebAssembly\.|createComputePipeline/);
  t.notRegex(read('heddle.js'), /webgpu\.js|createComputePipeline/);
  const exported = async (name: string): Promise<string[]> =>
    Object.keys((await import(pathToFileURL(join(runtimeFolder, 'webgpu', name)).href)) as object);
  for (const name of ['HeddleError', 'open']) t.true((await exported('heddle.js')).includes(name), name);
  t.deepEqual(await exported('wasm.js'), ['loadWasm', 'serveThread']);
  t.deepEqual(await exported('webgpu.js'), ['loadWebGpu']);
});

test('the bundled runtime exports what its declarations say', async (t) => {
  const runtime: object = await import(pathToFileURL(join(runtimeFolder, 'heddle.js')).href);
  t.deepEqual(Object.keys(runtime).sort(), ['HeddleError', 'open', 'serveThread']);
  const values = [...read('heddle.d.ts').matchAll(/^export declare (?:const|function|class) (\w+)/gm)];
  t.deepEqual(values.map(([, name]) => name).sort(), ['HeddleError', 'open']);
});

test('the declarations stand alone and type a session', (t) => {
  const use = `
interface MyInputs { readonly image: Float32Array }
interface MyOutputs { readonly logits: Tensor }
declare const session: Session<MyInputs, MyOutputs>;
export const { logits } = await session.run({ image: new Float32Array(3) }, { profile: (rows) => rows[0]?.ms.toFixed() });
export const anyway = await (await open('x', { threads: 2, signal: AbortSignal.timeout(1) })).run({ ids: [1n, 2n] });
export const first: Tensor | undefined = anyway['y'];
export const code: ErrorCode = new HeddleError('input', 'x').code;
session.run({ image: [1] });
`;
  const source = read('heddle.d.ts') + use;
  const wrong = source.split('\n').indexOf('session.run({ image: [1] });') + 1;
  t.deepEqual(
    typeErrors(source).map(({ line }) => line),
    [wrong],
  );
});
