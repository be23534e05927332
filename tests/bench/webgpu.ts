/** `npm run bench -- --device webgpu`: time per kernel on the GPU's clock, against what the device could do at best. */
import { compile } from '../../compiler/compile.ts';
import type { DeviceLike, ProfileRow } from '../../runtime/api.ts';
import { open } from '../../runtime/open.ts';
import { dawnGpu } from '../support/swiftshader.ts';
import { heddleInputs } from './heddle.ts';
import { heddleModel } from './heddle-models.ts';
import type { BenchModel } from './models.ts';
import { type Summary, summarize } from './stats.ts';
import { markdownTable } from './table.ts';
import { type DispatchCost, measureDispatches, renderDispatches } from './webgpu-dispatch.ts';
import { measurePeaks, type Peaks } from './webgpu-floors.ts';
import { type FirstAnswer, measureFirstAnswers } from './webgpu-page.ts';
import { trafficOf } from './webgpu-traffic.ts';
import { seededWeights } from './weights.ts';

/** Timestamps as fine as the driver has them. */
const DAWN = ['disable-dawn-features=timestamp_quantization'];

/** Of next to nothing, to see what a dispatch costs. */
const DISPATCHES = 1000;

export interface KernelRow {
  readonly label: string;
  readonly calls: number;
  readonly ms: number;
  /** Least time for its multiply-adds, and for its bytes, over the time that it took. */
  readonly ofArithmetic: number;
  readonly ofBandwidth: number;
}

export interface GpuMeasurement {
  readonly model: string;
  readonly openMs: number;
  readonly run: Summary;
  readonly gflops: number;
  readonly dispatches: number;
  readonly kernels: readonly KernelRow[];
}

export interface GpuResults {
  readonly adapter: string;
  readonly peaks: Peaks;
  readonly dispatch: DispatchCost;
  readonly models: readonly GpuMeasurement[];
  readonly firstAnswers: readonly FirstAnswer[];
}

/** The machine's own GPU where it has one, else the driver in software. */
async function adapterFor(): Promise<{ readonly adapter: GPUAdapter; readonly software: boolean }> {
  const native = await dawnGpu({ driver: 'native', dawn: DAWN }).requestAdapter();
  if (native !== null) return { adapter: native, software: false };
  const adapter = await dawnGpu({ dawn: DAWN }).requestAdapter();
  if (adapter === null) throw new Error('no WebGPU adapter');
  return { adapter, software: true };
}

const nameOf = ({ vendor, architecture, description }: GPUAdapterInfo): string =>
  [vendor, architecture, description].filter((text) => text !== '').join(' ');

/** @param models  by default all on a GPU, and none that take a driver in software minutes */
export async function benchWebGpu(
  models: { readonly given: readonly BenchModel[] | undefined; readonly all: readonly BenchModel[] },
  runs: number,
  note: (line: string) => void,
): Promise<GpuResults> {
  const { adapter, software } = await adapterFor();
  note(`adapter: ${nameOf(adapter.info)}`);
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredFeatures: [...adapter.features].filter((name) =>
      /^(timestamp-query|shader-f16|subgroups)$/.test(name),
    ) as [],
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
  });
  const peaks = await measurePeaks(device, software);
  const dispatch = await measureDispatches(device, DISPATCHES, Math.max(runs, 5));
  note(renderDispatches(dispatch));
  const small = models.all.filter(({ macs }) => !software || macs < 2e9);
  const measured: GpuMeasurement[] = [];
  for (const workload of models.given ?? small) {
    note(workload.name);
    measured.push(await measureModel(workload, device, peaks, runs));
  }
  device.destroy();
  note('first answers in Chromium');
  const firstAnswers = await measureFirstAnswers(runs);
  return { adapter: nameOf(adapter.info), peaks, dispatch, models: measured, firstAnswers };
}

async function measureModel(
  workload: BenchModel,
  device: GPUDevice,
  peaks: Peaks,
  runs: number,
): Promise<GpuMeasurement> {
  const { model, weights, symbols } = heddleModel(workload, seededWeights);
  const bundle = compile(model, { weights, symbols, target: ['wasm', 'webgpu'] });
  const from = performance.now();
  const session = await open(bundle, { device: device as DeviceLike });
  const openMs = performance.now() - from;
  try {
    const inputs = heddleInputs(workload);
    await session.run(inputs);
    const times: number[] = [];
    for (let i = 0; i < runs; i++) {
      const start = performance.now();
      await session.run(inputs);
      times.push(performance.now() - start);
    }
    let rows: readonly ProfileRow[] = [];
    await session.run(inputs, {
      profile(found) {
        rows = found;
      },
    });
    const { webgpu, weights: info, macs: counted } = bundle.manifest;
    const traffic = trafficOf(webgpu!, webgpu!.entries.main!, info.memory, bundle.at);
    const macs = counted?.main ?? {};
    const run = summarize(times);
    return {
      model: workload.name,
      openMs,
      run,
      gflops: (2 * workload.macs) / run.median / 1e6,
      dispatches: rows.reduce((sum, { calls }) => sum + calls, 0),
      kernels: rows.map(({ label, ms, calls }) => ({
        label,
        calls,
        ms,
        ofArithmetic: (2 * (macs[label] ?? 0)) / (peaks.gflops * 1e6) / ms,
        ofBandwidth: (traffic.get(label) ?? 0) / (peaks.gigabytesPerSecond * 1e6) / ms,
      })),
    };
  } finally {
    session.dispose();
  }
}

/** Kernels of a model that are shown. */
const SHOWN = 20;
const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

/** As Markdown. */
export function renderGpuResults({ adapter, peaks, dispatch, models, firstAnswers }: GpuResults): string {
  const lines = [
    '# WebGPU',
    '',
    `Adapter: ${adapter}. At most ${peaks.gflops.toFixed(0)} GFLOP/s of f32 multiply-adds and ` +
      `${peaks.gigabytesPerSecond.toFixed(1)} GB/s of reads and writes, as measured.`,
    '',
    renderDispatches(dispatch),
    '',
    markdownTable(
      ['model', 'open ms', 'run ms', 'best ms', 'GFLOP/s', 'dispatches'],
      1,
      models.map(({ model, openMs, run, gflops, dispatches }) => [
        model,
        openMs.toFixed(0),
        run.median.toFixed(1),
        run.min.toFixed(1),
        gflops.toFixed(1),
        String(dispatches),
      ]),
    ),
    '',
    'First answer of a tiny model in Chromium, from import:',
    '',
    markdownTable(
      ['device', 'adapter', 'median ms', 'best ms'],
      2,
      firstAnswers.map(({ device, adapter: gpu, times }) => [
        device,
        gpu ?? '–',
        times.median.toFixed(0),
        times.min.toFixed(0),
      ]),
    ),
  ];
  for (const { model, kernels } of models) {
    const rows = kernels
      .slice(0, SHOWN)
      .map(({ label, calls, ms, ofArithmetic, ofBandwidth }) => [
        label,
        String(calls),
        ms.toFixed(3),
        percent(ofArithmetic),
        percent(ofBandwidth),
      ]);
    lines.push('', `## ${model}`, '', 'Least time for the arithmetic and for the bytes, over the time taken.', '');
    lines.push(markdownTable(['kernel', 'calls', 'ms', 'arithmetic', 'bandwidth'], 1, rows));
  }
  return `${lines.join('\n')}\n`;
}
