/** Bundles for WebGPU in Node, through Dawn, as a page would open them: every operator and every recorded model. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Bundle } from '../compiler/bundle.ts';
import { recordSelfTest } from '../compiler/cli/record.ts';
import { compile } from '../compiler/compile.ts';
import { modelFromHf } from '../frontends/zoo/hf.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { allOps, type Example, type OpDef } from '../ir/op.ts';
import { exampleGraph, exampleInput, exampleValues } from '../ir/ops/example.ts';
import type { WeightStore } from '../ir/weights.ts';
import type { DeviceLike, Session, Tensor } from '../runtime/api.ts';
import { HeddleError } from '../runtime/error.ts';
import { open } from '../runtime/open.ts';
import { bytesFrom, numbersFrom } from './support/elements.ts';
import { CLOSE, gpuDevice, gpuDifference } from './support/gpu-check.ts';
import {
  columnsOf,
  type Recorded,
  type ReferenceName,
  reference,
  referenceFolder,
  relativeError,
  rowsOf,
} from './support/references.ts';
import '../ir/ops/all.ts';

/** Largest |got − want| over largest |want| of one output: promised is 1e-4. */
const TOLERANCE = 1e-5;
const BOTH = ['wasm', 'webgpu'] as const;
const NO_WEIGHTS: WeightStore = { source: 'no weights', names: () => [], get: () => undefined };

async function opened(t: ExecutionContext, bundle: Bundle): Promise<Session> {
  const session = await open(bundle, { device: (await gpuDevice()) as DeviceLike });
  t.teardown(() => session.dispose());
  return session;
}

// Operators

const dtypesOf = (g: Graph): readonly string[] =>
  [...g.inputs, ...g.outputs.values()].flatMap((v) => (v.type.kind === 'tensor' ? [v.type.dtype] : []));

/** WGSL's own sine, beyond this angle, promises nothing. */
const FARTHEST_ANGLE = 12800;
const PERIODIC = new Set(['sin', 'cos', 'tan']);

const valuesOf = (def: OpDef, example: Example): Nd[] =>
  exampleValues(example).map((x) => ({
    ...x,
    data: PERIODIC.has(def.name) ? x.data.map((v) => (Math.abs(v) > FARTHEST_ANGLE ? 0.5 : v)) : x.data,
  }));

/** Whether a 64-bit integer is given that no word of the GPU holds; of u64 half the range of i32 is lost too. */
const isLong = ({ dtype, data }: Nd): boolean =>
  (dtype === 'i64' && data.some((x) => x > 2 ** 31 - 1 || x < -(2 ** 31))) ||
  (dtype === 'u64' && data.some((x) => x > 2 ** 32 - 1));

for (const def of allOps().filter((o) => o.examples.length > 0))
  test(`${def.name}: a bundle computes it on WebGPU`, async (t) => {
    for (const [n, example] of def.examples.entries()) {
      const what = `example ${n}${example.note ? ` (${example.note})` : ''}`;
      const graph = exampleGraph(def, example);
      const build = (): Bundle =>
        compile({ name: def.name, entries: { main: graph } }, { weights: NO_WEIGHTS, target: BOTH });
      if (dtypesOf(graph).includes('f64')) {
        const error = t.throws(build, { instanceOf: CompileError }, what);
        t.is(error?.diagnostic.code, 'unsupported', what);
        continue;
      }
      const values = valuesOf(def, example);
      const given = Object.fromEntries(
        values.map(({ dtype, shape, data }, i) => [exampleInput(i), { data: bytesFrom(dtype, data), shape }]),
      );
      const session = await open(build(), { device: (await gpuDevice()) as DeviceLike });
      try {
        if (values.some(isLong)) {
          const error = await t.throwsAsync(session.run(given), { instanceOf: HeddleError }, what);
          t.is(error?.code, 'input', what);
          continue;
        }
        const got = await session.run(given);
        const want = evaluate(graph, { inputs: Object.fromEntries(values.map((x, i) => [exampleInput(i), x])) });
        for (const [name, expected] of Object.entries(want)) {
          const { dtype, shape, data } = got[name]!;
          const wrong = gpuDifference({ dtype, shape, data: numbersFrom(dtype, data) }, expected, CLOSE);
          t.is(wrong, undefined, `${what}, ${name}`);
        }
      } finally {
        session.dispose();
      }
    }
  });

// Models

interface Case {
  readonly name: ReferenceName;
  readonly inputs: readonly string[];
  /** Output of the model → recorded tensor. */
  readonly outputs: Readonly<Record<string, string>>;
}
const mae = { inputs: ['pixel_values', 'noise'] };
const CASES: readonly Case[] = [
  { name: 'vit-timm', inputs: ['pixel_values'], outputs: { logits: 'logits' } },
  { name: 'vit-hf', inputs: ['pixel_values'], outputs: { logits: 'logits' } },
  { name: 'mae-fb', ...mae, outputs: { pred: 'pred', mask: 'mask', loss: 'loss' } },
  { name: 'mae-hf', ...mae, outputs: { pred: 'logits', mask: 'mask', loss: 'loss' } },
  {
    name: 'bert-hf',
    inputs: ['input_ids', 'attention_mask', 'token_type_ids'],
    outputs: { prediction_logits: 'prediction_logits', seq_relationship_logits: 'seq_relationship_logits' },
  },
];

const compiled = new Map<string, Bundle>();
function bundleOf(name: ReferenceName, storage: 'f32' | 'f16' = 'f32'): Bundle {
  const key = `${name} ${storage}`;
  let bundle = compiled.get(key);
  if (bundle === undefined) {
    const { model, weights } = modelFromHf(referenceFolder(name));
    bundle = compile(model, { weights, storage, target: BOTH });
    compiled.set(key, bundle);
  }
  return bundle;
}

function close(t: ExecutionContext, what: string, got: Tensor | undefined, want: Pick<Tensor, 'shape' | 'data'>): void {
  if (got === undefined) {
    t.fail(`${what} is not an output`);
    return;
  }
  t.deepEqual(got.shape, want.shape, what);
  const error = relativeError(got.data as Float32Array, want.data as Float32Array);
  t.true(error <= TOLERANCE, `${what} is off by ${error}`);
}

const inputsOf = (
  { name, inputs }: Case,
  change: (recorded: Recorded) => Recorded = (it) => it,
): Record<string, Recorded> =>
  Object.fromEntries(inputs.map((input) => [input, change(reference(name)(`input.${input}`))]));

for (const each of CASES) {
  test(`${each.name} gives on WebGPU what PyTorch recorded, at every batch, on one set of pipelines`, async (t) => {
    const session = await opened(t, bundleOf(each.name));
    const got = await session.run(inputsOf(each));
    for (const [output, tensor] of Object.entries(each.outputs))
      close(t, output, got[output], reference(each.name)(`output.${tensor}`));
    const wasm = await open(bundleOf(each.name), { device: 'wasm' });
    for (const rows of [[1], [0, 1, 0], [1, 1, 0, 0, 1]]) {
      const inputs = inputsOf(each, (recorded) => rowsOf(recorded, rows));
      const [here, there] = [await session.run(inputs), await wasm.run(inputs)];
      for (const [name, want] of Object.entries(there)) close(t, `${name} of ${rows.length} rows`, here[name], want);
    }
    wasm.dispose();
  });
}

test('BERT takes every length on WebGPU', async (t) => {
  const [each] = CASES.filter(({ name }) => name === 'bert-hf') as [Case];
  const session = await opened(t, bundleOf('bert-hf'));
  const wasm = await open(bundleOf('bert-hf'), { device: 'wasm' });
  for (const length of [1, 2, 5, 10]) {
    const inputs = inputsOf(each, (recorded) => columnsOf(recorded, 0, length));
    const [here, there] = [await session.run(inputs), await wasm.run(inputs)];
    for (const [name, want] of Object.entries(there)) close(t, `${name} of ${length} tokens`, here[name], want);
  }
  wasm.dispose();
});

test('GPT-2 generates on WebGPU with its cache on the device', async (t) => {
  const session = await opened(t, bundleOf('gpt2-hf'));
  const recorded = reference('gpt2-hf');
  let cache = await session.runOnDevice!({ input_ids: recorded('input.input_ids') }, { entry: 'prefill' });
  close(t, 'logits of the prompt', await cache.logits!.read(), recorded('output.prefill.logits'));
  const ids = recorded('input.decode_ids');
  for (let step = 0; step < 3; step++) {
    const past = Object.entries(cache).filter(([name]) => name !== 'logits');
    const given = Object.fromEntries(past.map(([name, tensor]) => [name.replace('present', 'past'), tensor]));
    const next = await session.runOnDevice!(
      { input_ids: columnsOf(ids, step, step + 1), ...given },
      { entry: 'decode' },
    );
    for (const tensor of Object.values(cache)) tensor.destroy();
    cache = next;
    const want = recorded(`output.decode.${step}.logits`);
    const [batch, vocabulary] = want.shape as [number, number];
    close(t, `logits of token ${step}`, await cache.logits!.read(), { ...want, shape: [batch, 1, vocabulary] });
  }
  for (const tensor of Object.values(cache)) tensor.destroy();
});

test('weights stored as halves give the same on both devices', async (t) => {
  const [each] = CASES as [Case];
  const bundle = bundleOf(each.name, 'f16');
  const session = await opened(t, bundle);
  const wasm = await open(bundle, { device: 'wasm' });
  close(t, 'logits', (await session.run(inputsOf(each))).logits, (await wasm.run(inputsOf(each))).logits!);
  wasm.dispose();
});

test('a folder for both devices is opened on WebGPU in Node, and its recorded run holds there', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-both-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const bundle = bundleOf('vit-timm');
  await bundle.withSelfTest(await recordSelfTest(bundle)).write(join(folder, 'vit'));
  const session = await open(join(folder, 'vit'), { device: (await gpuDevice()) as DeviceLike });
  t.teardown(() => session.dispose());
  t.is(session.device, 'webgpu');
  const { ok, worst } = await session.selftest();
  t.true(ok, `off by ${worst}`);
});

test('both devices share one weight file, which a bundle for WebAssembly alone does not pay for', async (t) => {
  const { model, weights } = modelFromHf(referenceFolder('vit-timm'));
  const [alone, both] = [compile(model, { weights }), bundleOf('vit-timm')];
  t.false([...(await alone.folder()).keys()].some((name) => /webgpu|wgsl/.test(name)));
  t.false('webgpu' in alone.manifest);
  const per = both.manifest.weights.segments.length;
  t.is(per, alone.manifest.weights.segments.length);
  const tensors = weights.names().length;
  t.true(both.manifest.weights.bytes <= alone.manifest.weights.bytes + 256 * tensors);
});

test('targets are checked', (t) => {
  const { model, weights } = modelFromHf(referenceFolder('vit-timm'));
  for (const [target, message] of [
    [['webgpu'], /a bundle for WebGPU alone/],
    [['wasm', 'cuda'], /target "cuda" is not known/],
    [[], /is not known/],
  ] as const) {
    const error = t.throws(() => compile(model, { weights, target: target as never }), { instanceOf: CompileError });
    t.regex(error!.message, message);
  }
});
