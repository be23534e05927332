import test from 'ava';
import type { EntryPlan, Launch, WebGpuPart } from '../../runtime/manifest.ts';
import { vit } from './models.ts';
import { benchWebGpu, renderGpuResults } from './webgpu.ts';
import { trafficOf } from './webgpu-traffic.ts';

test('traffic counts what launches bind, once a trip', (t) => {
  const launch = (args: Launch['args'], label = 'add'): Launch => ({
    ...{ kernel: 0, args, params: [], grid: 1, chunk: 1, label },
  });
  const plan: EntryPlan = {
    symbols: [],
    inputs: [],
    outputs: [],
    buffers: [
      { bytes: 400, first: 0, last: 9 },
      { bytes: ['*', 'n', 4], first: 0, last: 9 },
    ],
    scratch: 0,
    steps: [
      launch([{ b: 0 }, { w: 256 }, { b: 1 }]),
      { loop: 't', trips: 3, reverse: false, steps: [launch([{ b: 1 }], 'again')] },
      { if: { b: 0 }, then: [launch([{ b: 0 }])], else: [launch([{ b: 0 }], 'never')] },
    ],
  };
  const part: WebGpuPart = {
    entries: { main: plan },
    kernels: [{ workgroup: [64, 1, 1], bindings: [{ arg: 0 }, { arg: 1 }, { arg: 2 }], params: 0 }],
    limits: {},
    wgsl: [],
  };
  t.deepEqual(
    [...trafficOf(part, plan, 1024, { n: 10 })],
    [
      ['add', 400 + 768 + 40 + 400],
      ['again', 3 * 40],
    ],
  );
});

test('a benchmark on WebGPU measures models, kernels, floors and pages, and tells the adapter', async (t) => {
  const tiny = vit('tiny-vit', { image: 6, patch: 2, width: 12, layers: 2, heads: 3, mlp: 20, classes: 5 });
  const results = await benchWebGpu({ given: [tiny], all: [] }, 1, () => {});
  t.regex(results.adapter, /\w/);
  t.true(results.peaks.gflops > 0 && results.peaks.gigabytesPerSecond > 0);
  const { dispatches, ...costs } = results.dispatch;
  t.is(dispatches, 1000);
  t.true(Object.values(costs).every((microseconds) => microseconds > 0));
  const [measured] = results.models;
  t.is(measured!.model, 'tiny-vit');
  t.true(measured!.dispatches >= measured!.kernels.length);
  t.true(measured!.kernels.some(({ ofArithmetic }) => ofArithmetic > 0));
  t.true(measured!.kernels.every(({ ms, ofBandwidth }) => ms >= 0 && ofBandwidth >= 0));
  t.deepEqual(
    results.firstAnswers.map(({ device }) => device),
    ['webgpu', 'wasm'],
  );
  const text = renderGpuResults(results);
  t.true(text.includes(`Adapter: ${results.adapter}`));
  t.regex(text, /A dispatch of next to nothing, of 1000 in a run/);
  t.regex(text, /\| tiny-vit \|/);
});
