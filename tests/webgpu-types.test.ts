/** The declarations of bundles that run on WebGPU. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { modelFromHf } from '../frontends/zoo/hf.ts';
import { referenceFolder } from './support/references.ts';
import { tinyModel, tinyWeights } from './support/tiny-model.ts';
import { typeErrors } from './support/type-errors.ts';

const BOTH = ['wasm', 'webgpu'] as const;
const declarations = async (bundle: ReturnType<typeof compile>): Promise<string> =>
  new TextDecoder().decode((await bundle.folder()).get('index.d.ts'));

/** Lines of `use` that are red behind these declarations. */
function wrongLines(source: string, use: string): string[] {
  const [head, all] = [source.split('\n').length, `${source}\n${use}`.split('\n')];
  // What only a declaration file may leave out is red in this one.
  const errors = typeErrors(all.join('\n')).filter(({ line }) => line > head);
  return [...new Set(errors.map(({ line }) => all[line - 1]!.trim()))];
}

test('a bundle for both devices types devices, tensors on them and what sessions tell', async (t) => {
  const types = await declarations(compile(tinyModel(), { weights: tinyWeights(), target: BOTH }));
  const use = `
declare const device: GPUDevice;
declare const buffer: GPUBuffer;
export const session = await open({ device });
export const other = await open({ device: 'webgpu', gpu: navigator.gpu });
export const told: readonly [string, string | undefined, string | undefined] = [
  session.device, session.adapter, session.fallback];
const { y } = await session.run({ x: { buffer, shape: [2, 6] } });
export const numbers: Float32Array = y.data;
const kept = await session.runOnDevice!({ x: new Float32Array(6) });
export const shape: readonly number[] = kept.y.shape;
export const raw: GPUBuffer = kept.y.buffer as GPUBuffer;
export const back = (await kept.y.read()).data.byteLength;
await other.run({ x: kept.y });
kept.y.destroy();
await open({ device: 'gpu' });
await open({ gpu: 1 });
await session.run({ x: { buffer: 1, shape: [2, 6] } });
kept.z.destroy();
`;
  t.deepEqual(wrongLines(types, use), [
    "await open({ device: 'gpu' });",
    'await open({ gpu: 1 });',
    'await session.run({ x: { buffer: 1, shape: [2, 6] } });',
    'kept.z.destroy();',
  ]);
});

test('each entry has its own types on the device, so that a cache goes from one to the next', async (t) => {
  const { model, weights } = modelFromHf(referenceFolder('gpt2-hf'));
  const types = await declarations(compile(model, { weights, target: BOTH }));
  const use = `
const session = await open({ device: 'webgpu' });
const first = await session.runOnDevice!({ input_ids: [1, 2] }, { entry: 'prefill' });
const past = {
  'past.0.key': first['present.0.key'], 'past.0.value': first['present.0.value'],
  'past.1.key': first['present.1.key'], 'past.1.value': first['present.1.value'],
};
const next = await session.runOnDevice!({ input_ids: [3], ...past }, { entry: 'decode' });
export const text = (await next.logits.read()).dtype;
await session.runOnDevice!({ input_ids: [3], ...past }, { entry: 'prefil' });
await session.runOnDevice!({ input_ids: [3] }, { entry: 'decode' });
`;
  t.deepEqual(wrongLines(types, use), [
    "await session.runOnDevice!({ input_ids: [3], ...past }, { entry: 'prefil' });",
    "await session.runOnDevice!({ input_ids: [3] }, { entry: 'decode' });",
  ]);
});

test('a bundle for WebAssembly alone says nothing of GPUs', async (t) => {
  const types = await declarations(compile(tinyModel(), { weights: tinyWeights() }));
  t.notRegex(types.replace(/\/\*\*.*?\*\//gs, ''), /gpu|DeviceTensor|BufferLike|runOnDevice|fallback|adapter/i);
  t.deepEqual(wrongLines(types, "await open({ device: 'webgpu' });"), ["await open({ device: 'webgpu' });"]);
});
