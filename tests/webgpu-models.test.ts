/** Whole models on WebGPU: every fixture of a published model against what PyTorch recorded. */
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { decompose } from '../compiler/decompose.ts';
import { GpuKernelList } from '../compiler/gpu-kernels.ts';
import { WEBGPU, WEBGPU_SUBGROUPS } from '../compiler/gpu-target.ts';
import { partition } from '../compiler/partition.ts';
import { scheduleProgram } from '../compiler/schedule-regions.ts';
import { readSafetensors } from '../frontends/weights/sharded.ts';
import { modelFromHf } from '../frontends/zoo/hf.ts';
import { zoo } from '../frontends/zoo/index.ts';
import type { Graph } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { toFloat32, type WeightTensor } from '../ir/weights.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { gpuDevice } from './support/gpu-check.ts';
import { projectRoot } from './support/project.ts';
import { compileForGpu, type GpuProgram } from './support/run-webgpu.ts';

/** Largest |got − want| over the largest |want| of an output. */
const TOLERANCE = 1e-5;

const folderOf = (name: string): string => join(projectRoot, 'tests/fixtures/references', name);

function toNd(tensor: WeightTensor): Nd {
  const { dtype, shape, bytes } = tensor;
  if (dtype !== 'i64') return { dtype, shape, data: Float64Array.from(toFloat32(tensor)) };
  return { dtype, shape, data: Float64Array.from(new BigInt64Array(bytes.slice().buffer), Number) };
}

function recordOf(name: string): (tensor: string) => Nd {
  const store = readSafetensors(join(folderOf(name), 'case.safetensors'));
  return (tensor) => toNd(store.get(tensor)!);
}

function close(t: ExecutionContext, what: string, got: Nd | undefined, want: Nd): void {
  if (!got) {
    t.fail(`${what} was not computed`);
    return;
  }
  t.deepEqual(got.shape, want.shape, what);
  const most = want.data.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const worst = want.data.reduce((m, v, i) => Math.max(m, Math.abs(v - got.data[i]!)), 0);
  t.false(got.data.some(Number.isNaN), `${what} holds NaN`);
  t.true(worst <= TOLERANCE * most, `${what} differs by ${worst} where the largest is ${most}`);
}

function compiled(name: string): Record<string, GpuProgram> {
  const { model, weights } = modelFromHf(folderOf(name));
  const programs = Object.entries(model.entries as Readonly<Record<string, Graph>>).map(
    ([entry, graph]) => [entry, compileForGpu(runPasses(graph, pipelineFor('wasm')), { store: weights })] as const,
  );
  return Object.fromEntries(programs);
}

test('ViT gives the recorded logits', async (t) => {
  for (const name of ['vit-timm', 'vit-hf']) {
    const record = recordOf(name);
    const inputs = { pixel_values: record('input.pixel_values') };
    const { main } = compiled(name);
    close(t, name, (await main!.device(await gpuDevice(), inputs)).logits, record('output.logits'));
    if (name === 'vit-hf') close(t, `${name}, interpreted`, main!.host(inputs).logits, record('output.logits'));
  }
});

test('MAE gives the recorded prediction, mask and loss', async (t) => {
  for (const [name, pred] of [
    ['mae-fb', 'output.pred'],
    ['mae-hf', 'output.logits'],
  ] as const) {
    const record = recordOf(name);
    const inputs = { pixel_values: record('input.pixel_values'), noise: record('input.noise') };
    const outputs = await compiled(name).main!.device(await gpuDevice(), inputs);
    close(t, `${name} pred`, outputs.pred, record(pred));
    t.deepEqual(outputs.mask?.data, record('output.mask').data);
    close(t, `${name} loss`, outputs.loss, record('output.loss'));
  }
});

test('BERT gives the recorded heads', async (t) => {
  const record = recordOf('bert-hf');
  const names = ['input_ids', 'attention_mask', 'token_type_ids'];
  const inputs = Object.fromEntries(names.map((name) => [name, record(`input.${name}`)]));
  const outputs = await compiled('bert-hf').main!.device(await gpuDevice(), inputs);
  for (const name of ['prediction_logits', 'seq_relationship_logits'])
    close(t, name, outputs[name], record(`output.${name}`));
});

test('GPT-2 gives the recorded prefill, and decodes from its cache', async (t) => {
  const record = recordOf('gpt2-hf');
  const { prefill, decode } = compiled('gpt2-hf');
  const device = await gpuDevice();
  const first = await prefill!.device(device, { input_ids: record('input.input_ids') });
  close(t, 'logits', first.logits, record('output.prefill.logits'));
  let present = Object.entries(first).filter(([name]) => name.startsWith('present.'));
  const columns = record('input.decode_ids');
  const [batch, steps] = columns.shape as [number, number];
  for (let step = 0; step < steps; step++) {
    const data = Float64Array.from({ length: batch }, (_, b) => columns.data[b * steps + step]!);
    const past = present.map(([name, value]) => [name.replace('present', 'past'), value] as const);
    const input_ids: Nd = { dtype: 'i64', shape: [batch, 1], data };
    const outputs = await decode!.device(device, { input_ids, ...Object.fromEntries(past) });
    const { logits } = outputs;
    close(
      t,
      `step ${step}`,
      logits && { ...logits, shape: [batch, logits.shape[2]!] },
      record(`output.decode.${step}.logits`),
    );
    present = Object.entries(outputs).filter(([name]) => name.startsWith('present.'));
  }
});

test('published models at full size become small shaders that the device takes', async (t) => {
  const device = await gpuDevice();
  for (const name of ['vit-b16', 'mae-b16', 'bert-base', 'gpt2']) {
    const list = new GpuKernelList();
    for (const graph of Object.values(zoo(name).entries as Readonly<Record<string, Graph>>)) {
      const program = partition(decompose(runPasses(graph, pipelineFor('wasm'))));
      list.add([WEBGPU, WEBGPU_SUBGROUPS].map((target) => scheduleProgram(program, target)));
    }
    const { sets, kernels } = list.print();
    t.deepEqual(
      sets.map(({ features }) => [...features]),
      [[], ['subgroups']],
    );
    for (const { sources } of sets) {
      for (const code of sources) {
        const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
        t.deepEqual(
          [...messages].map((m) => m.message),
          [],
          name,
        );
      }
      const bytes = gzipSync(sources.join('')).length;
      t.true(bytes <= 12_000, `the shaders of ${name} are ${bytes} bytes, gzipped`);
    }
    // The embedding of GPT-2 is larger than a binding may be.
    t.is(
      kernels.some((k) => k.bindings.some((b) => 'from' in b)),
      name === 'gpt2',
      name,
    );
  }
});
