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
  t.true(size <= 14_200, `${size} bytes gzipped`);
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
