/** What a dispatch costs that computes next to nothing: in a run, encoded by hand, and in the runtime's own code. */
import type { DeviceLike, Session } from '../../runtime/api.ts';
import type { EntryPlan } from '../../runtime/manifest.ts';
import { open } from '../../runtime/open.ts';
import { fakeDevice } from '../support/fake-gpu.ts';
import { buffers, port, words } from '../support/hand-bundle.ts';
import { GPU_KERNEL, handGpuBundle } from '../support/hand-wgsl.ts';
import { summarize } from './stats.ts';

/** Microseconds, each the median of runs. */
export interface DispatchCost {
  readonly dispatches: number;
  /** One of a run, from `run` to its answer. */
  readonly run: number;
  /** One of as many that are encoded in one pass by hand, and waited for. */
  readonly bare: number;
  /** One in the runtime's own code: on a device that does nothing. */
  readonly own: number;
}

/** Elements: one workgroup. */
const N = 64;

/** As many additions, each of what the one before gave. */
export function chain(dispatches: number): Partial<EntryPlan> {
  return {
    inputs: [port('x', 0, [N]), port('y', 1, [N])],
    outputs: [port('z', 2 + ((dispatches - 1) % 2), [N])],
    buffers: buffers(words(N), words(N), words(N), words(N)),
    steps: Array.from({ length: dispatches }, (_, i) => ({
      kernel: GPU_KERNEL.add,
      args: [{ b: i === 0 ? 0 : 2 + ((i - 1) % 2) }, { b: 1 }, { b: 2 + (i % 2) }],
      params: [N],
      grid: 1,
      chunk: 1,
      label: 'add',
    })),
  };
}

async function timeRuns(session: Session, runs: number): Promise<number> {
  const x = new Float32Array(N);
  const times: number[] = [];
  for (let i = 0; i <= runs; i++) {
    const from = performance.now();
    await session.run({ x, y: x });
    if (i > 0) times.push(performance.now() - from);
  }
  return summarize(times).median;
}

async function timeBare(device: GPUDevice, dispatches: number, runs: number): Promise<number> {
  const code = `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
    @compute @workgroup_size(${N}) fn main(@builtin(local_invocation_index) i: u32) { x[i] += 1; }`;
  const pipeline = await device.createComputePipelineAsync({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }), entryPoint: 'main' },
  });
  const buffer = device.createBuffer({ size: 4 * N, usage: GPUBufferUsage.STORAGE });
  const entries = [{ binding: 0, resource: { buffer } }];
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  const times: number[] = [];
  for (let i = 0; i <= runs; i++) {
    const from = performance.now();
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let n = 0; n < dispatches; n++) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(1);
    }
    pass.end();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    if (i > 0) times.push(performance.now() - from);
  }
  buffer.destroy();
  return summarize(times).median;
}

export async function measureDispatches(device: GPUDevice, dispatches: number, runs: number): Promise<DispatchCost> {
  const bundle = handGpuBundle({ gpu: { main: chain(dispatches) } });
  const each = async (on: GPUDevice): Promise<number> => {
    const session = await open(bundle, { device: on as DeviceLike });
    try {
      return ((await timeRuns(session, runs)) / dispatches) * 1000;
    } finally {
      session.dispose();
    }
  };
  return {
    dispatches,
    run: await each(device),
    bare: ((await timeBare(device, dispatches, runs)) / dispatches) * 1000,
    own: await each(fakeDevice().device),
  };
}

/** As one line. */
export const renderDispatches = ({ dispatches, run, bare, own }: DispatchCost): string =>
  `A dispatch of next to nothing, of ${dispatches} in a run: ${run.toFixed(2)} µs; encoded by hand in one pass ` +
  `${bare.toFixed(2)} µs; in the runtime's own code, on a device that does nothing, ${own.toFixed(2)} µs.`;
