import test from 'ava';
import type { DeviceLike, OpenOptions, Progress, Session } from '../runtime/api.ts';
import type { HeddleError } from '../runtime/error.ts';
import type { EntryPlan, Launch, Manifest } from '../runtime/manifest.ts';
import { open } from '../runtime/open.ts';
import { cutWeights } from '../runtime/webgpu-weights.ts';
import { type Counted, countDevice, countedGpu, type Pretence } from './support/counted-gpu.ts';
import { addEntry, buffers, handBundle, port, symbol, words } from './support/hand-bundle.ts';
import {
  addOnGpu,
  GPU_KERNEL,
  groups,
  type HandGpuOptions,
  handGpuBundle,
  PIECE,
  slowOnGpu,
  TEST_FEATURE,
} from './support/hand-wgsl.ts';

const openOn = (options: HandGpuOptions, pretence: Pretence = {}, more: OpenOptions = {}): Promise<Session> =>
  open(handGpuBundle(options), { device: 'webgpu', gpu: countedGpu(pretence).gpu, ...more });
const launch = (kernel: keyof typeof GPU_KERNEL, args: Launch['args'], params: Launch['params'] = []): Launch => ({
  kernel: GPU_KERNEL[kernel],
  args,
  params,
  grid: 1,
  chunk: 1,
  label: `${kernel} of a test`,
});
const single = (kernel: keyof typeof GPU_KERNEL): HandGpuOptions => ({
  gpu: {
    main: { outputs: [port('y', 0, [1])], buffers: buffers(16), steps: [launch(kernel, [{ b: 0 }])] },
  },
});
const fails = (code: HeddleError['code'], message: RegExp): never => ({ code, message }) as never;
const sum = async (session: Session): Promise<number> => Number((await session.run({ x: [1], y: [2] })).z!.data[0]);
const heldBy = ({ made, destroyed }: Counted): number => made.filter((buffer) => !destroyed.includes(buffer)).length;
/** Both devices compute the same. */
const both: HandGpuOptions = {
  gpu: { main: addOnGpu },
  entries: { main: { ...addEntry, symbols: addOnGpu.symbols! } },
};

test('auto takes WebGPU where it can, and WebAssembly with a reason where it cannot', async (t) => {
  const { gpu } = countedGpu();
  const best = await open(handGpuBundle(both), { gpu });
  t.deepEqual([best.device, best.fallback, await sum(best)], ['webgpu', undefined, 3]);
  best.dispose();
  const reasons: readonly (readonly [Pretence, Partial<HandGpuOptions>, RegExp])[] = [
    [{ none: true }, {}, /no WebGPU adapter/],
    [{}, { limits: { maxComputeInvocationsPerWorkgroup: 1 << 20 } }, /maxComputeInvocationsPerWorkgroup.*1048576/],
    [
      {},
      { gpu: { main: { ...addOnGpu, steps: [launch('broken', [{ b: 0 }])] } } },
      /broken of a test does not compile/,
    ],
    [{}, { files: ['better'] }, /lacks heddle-test-feature, which kernels of this bundle need/],
  ];
  for (const [pretence, more, reason] of reasons) {
    const session = await open(handGpuBundle({ ...both, ...more }), { gpu: countedGpu(pretence).gpu });
    t.is(session.device, 'wasm');
    t.regex(session.fallback!, reason);
    t.is(await sum(session), 3);
    session.dispose();
  }
  const plain = await open(handBundle({ entries: { main: addEntry } }), { gpu });
  t.deepEqual([plain.device, plain.fallback], ['wasm', undefined]);
  plain.dispose();
  const chosen = await open(handGpuBundle(both), { device: 'wasm', gpu: countedGpu({ none: true }).gpu });
  t.deepEqual([chosen.device, chosen.fallback], ['wasm', undefined]);
  chosen.dispose();
});

test('auto does not hide what the files or the caller are at fault for', async (t) => {
  const { gpu } = countedGpu();
  const bundle = handGpuBundle(both);
  const wgsl = bundle.files.get('kernels.wgsl') as Uint8Array;
  wgsl[9]! ^= 1;
  await t.throwsAsync(open(bundle, { gpu }), fails('integrity', /kernels\.wgsl.*hash/));
  bundle.files.delete('kernels.wgsl');
  await t.throwsAsync(open(bundle, { gpu }), fails('source', /kernels\.wgsl/));
  await t.throwsAsync(open(bundle, { device: 'gpu' as 'auto' }), fails('option', /"gpu" is not known/));
  const plain = handBundle({ entries: { main: addEntry } });
  await t.throwsAsync(open(plain, { device: 'webgpu', gpu }), fails('option', /Compile it with target wasm,webgpu/));
});

test('where WebGPU is asked for and cannot be, one error says why and nothing is held', async (t) => {
  await t.throwsAsync(openOn(both, { none: true }), fails('support', /no WebGPU adapter/));
  const wants = { ...both, limits: { maxStorageBuffersPerShaderStage: 1000 } };
  await t.throwsAsync(openOn(wants), fails('support', /has maxStorageBuffersPerShaderStage \d+;.* need 1000/));
  const { gpu, devices } = countedGpu();
  await t.throwsAsync(
    open(handGpuBundle({ ...single('broken'), weights: new Uint8Array(512) }), { device: 'webgpu', gpu }),
    fails('support', /broken of a test does not compile on .*unresolved call target 'nonsense'/),
  );
  t.is(heldBy(devices[0]!), 0);
  t.is((await devices[0]!.device.lost).reason, 'destroyed');
});

test('of the kernels for devices of different features one file is loaded: the first that the device can run', async (t) => {
  for (const [also, file, value] of [
    [[], 'kernels.wgsl', 1],
    [[TEST_FEATURE], `kernels.${TEST_FEATURE}.wgsl`, 2],
  ] as const) {
    const bundle = handGpuBundle(single('choice'));
    for (const name of bundle.files.keys()) if (name.endsWith('.wgsl') && name !== file) bundle.files.delete(name);
    const { gpu } = countedGpu({ also });
    const session = await open(bundle, { device: 'webgpu', gpu });
    t.is((await session.run({})).y!.data[0], value);
    session.dispose();
  }
});

test('a device of the caller runs the kernels that it can, whatever its adapter could', async (t) => {
  const device = await (await countedGpu().gpu.requestAdapter())!.requestDevice();
  const session = await open(handGpuBundle(single('choice')), { device });
  t.is((await session.run({})).y!.data[0], 1);
  session.dispose();
  const needy = handGpuBundle({ ...single('choice'), files: ['better'] });
  await t.throwsAsync(open(needy, { device }), fails('support', /lacks heddle-test-feature/));
  device.destroy();
});

test('plans that make no sense are refused before a device is asked for', async (t) => {
  const refuse = async (change: (part: NonNullable<Manifest['webgpu']>) => unknown, message: RegExp): Promise<void> => {
    const bundle = handGpuBundle(both);
    const webgpu = { ...bundle.manifest.webgpu!, ...(change(bundle.manifest.webgpu!) as object) };
    const spoiled = { ...bundle, manifest: { ...bundle.manifest, webgpu } };
    const none = { requestAdapter: () => Promise.reject(new Error('asked')) };
    await t.throwsAsync(open(spoiled, { device: 'webgpu', gpu: none }), fails('manifest', message));
  };
  const withSteps = (steps: readonly unknown[], more: Partial<EntryPlan> = {}): object => ({
    entries: { main: { ...both.gpu.main, scratch: 64, ...more, steps } },
  });
  const step = launch('add', [{ b: 0 }, { b: 1 }, { b: 2 }], ['n']);
  await refuse(() => ({ entries: {} }), /webgpu\.entries\.main/);
  await refuse(() => withSteps([], { outputs: [] }), /the entry of the same ports/);
  await refuse(() => withSteps([{ ...step, kernel: 99 }]), /99, not a kernel of this bundle/);
  await refuse(() => withSteps([{ ...step, params: [] }]), /0, not 1 parameters/);
  await refuse(() => withSteps([{ ...step, args: step.args.slice(1) }]), /not what the kernel binds/);
  await refuse(
    () => withSteps([{ ...step, args: [{ b: 0, at: 4 }, { b: 1 }, { b: 2 }] }]),
    /without scratch or offset/,
  );
  await refuse(() => withSteps([{ ...step, args: [{ s: 0 }, { b: 1 }, { b: 2 }] }]), /without scratch or offset/);
  await refuse(() => withSteps([{ from: { b: 0 }, to: { b: 1 }, bytes: 4 }]), /a step that WebGPU has/);
  await refuse(({ wgsl }) => ({ wgsl: wgsl[0] }), /webgpu\.wgsl is .*, not a list/);
  await refuse(({ wgsl }) => ({ wgsl: [{ ...wgsl[0], features: [1] }] }), /features\[0\] is 1/);
  await refuse(({ wgsl }) => ({ wgsl: [{ ...wgsl[0], file: '../x' }] }), /the name of a file/);
  await refuse(({ kernels }) => ({ kernels: [{ ...kernels[0], params: -1 }] }), /params is -1/);
  await refuse(
    ({ kernels }) => ({ kernels: [{ ...kernels[0], bindings: [{ arg: 0, from: 4, bytes: 4 }] }] }),
    /from is 4, not a multiple of 256/,
  );
  const twice = launch('add', [{ b: 0 }, { b: 0 }, { b: 2 }], ['n']);
  const session = await openOn({ gpu: { main: { ...addOnGpu, steps: [twice] } } });
  await t.throwsAsync(session.run({ x: [1], y: [2] }), fails('manifest', /binds the same bytes twice/));
  session.dispose();
});

test('progress names the phases in order and counts pipelines and bytes', async (t) => {
  const events: Progress[] = [];
  const weights = new Uint8Array(5000);
  const onProgress = (event: Progress): void => void events.push(event);
  const plan = { ...addOnGpu, steps: [...addOnGpu.steps!, launch('fill', [{ b: 2 }], [1, 1])] };
  const session = await openOn({ gpu: { main: plan }, weights }, {}, { onProgress });
  session.dispose();
  t.is(events[0]?.phase, 'manifest');
  t.deepEqual(events.at(-1), { phase: 'ready', loaded: 5000, total: 5000 });
  const of = (phase: string): [number, number][] =>
    events.filter((event) => event.phase === phase).map(({ loaded, total }) => [loaded, total]);
  t.deepEqual(of('kernels'), [
    [1, 2],
    [2, 2],
  ]);
  t.deepEqual(of('weights').at(-1), [5000, 5000]);
});

test('dispose gives every buffer back, whatever was run, and may come twice or in the middle of a run', async (t) => {
  const { gpu, devices } = countedGpu();
  const options = { gpu: { main: addOnGpu, slow: slowOnGpu }, weights: new Uint8Array(10_000) };
  const session = await open(handGpuBundle(options), { device: 'webgpu', gpu });
  for (const n of [3, 5000, 4, 70_000]) {
    const x = new Float32Array(n);
    await session.run({ x, y: x });
    await session.run({ x, y: x }, { profile: () => {} });
  }
  for (let n = 1; n < 12; n++) await session.run({ x: new Float32Array(n), y: new Float32Array(n) });
  const kept = await session.runOnDevice!({ x: [1], y: [2] });
  t.is(Number((await kept.z!.read()).data[0]), 3);
  kept.z!.destroy();
  t.true(session.peakBytes > 3 * 280_000);
  const running = session.run({ x: new Float32Array(512) }, { entry: 'slow' });
  const queued = session.run({ x: [1], y: [1] });
  await new Promise((done) => setTimeout(done, 20));
  session.dispose();
  session.dispose();
  await t.throwsAsync(running, fails('disposed', /disposed/));
  await t.throwsAsync(queued, fails('disposed', /disposed/));
  await t.throwsAsync(session.run({ x: [1], y: [1] }), fails('disposed', /disposed/));
  t.is(session.peakBytes, 0);
  t.true(devices[0]!.made.length > 5);
  t.is(heldBy(devices[0]!), 0);
  t.is((await devices[0]!.device.lost).reason, 'destroyed');
});

test('a run is aborted while it waits or between submissions, and the session stays usable', async (t) => {
  const { gpu, devices } = countedGpu();
  const session = await open(handGpuBundle({ gpu: { main: addOnGpu, slow: slowOnGpu } }), { device: 'webgpu', gpu });
  const abort = new AbortController();
  const x = new Float32Array(512);
  const running = session.run({ x }, { entry: 'slow', signal: abort.signal });
  const waiting = session.run({ x: [1], y: [2] }, { signal: abort.signal });
  setTimeout(() => abort.abort(), 10);
  await t.throwsAsync(running, { any: true, name: 'AbortError' });
  await t.throwsAsync(waiting, { any: true, name: 'AbortError' });
  t.true(devices[0]!.submissions < 4, `${devices[0]!.submissions} submissions`);
  await t.throwsAsync(session.run({ x: [1], y: [2] }, { signal: AbortSignal.abort() }), {
    any: true,
    name: 'AbortError',
  });
  t.is(await sum(session), 3);
  session.dispose();
});

test('an aborted open gives the device back', async (t) => {
  const abort = new AbortController();
  const { gpu, devices } = countedGpu({ onDevice: () => abort.abort() });
  const bundle = handGpuBundle({ gpu: { main: addOnGpu }, weights: new Uint8Array(1 << 20) });
  await t.throwsAsync(open(bundle, { device: 'webgpu', gpu, signal: abort.signal }), { any: true, name: 'AbortError' });
  await t.throwsAsync(open(bundle, { gpu, signal: abort.signal }), { any: true, name: 'AbortError' });
  t.is(devices.length, 1);
  t.is((await devices[0]!.device.lost).reason, 'destroyed');
  t.is(heldBy(devices[0]!), 0);
});

test('models chain on one device without a way back to the host', async (t) => {
  const adapter = await countedGpu().gpu.requestAdapter();
  const counted = countDevice(await adapter!.requestDevice());
  const { device } = counted;
  const on = { device: device as DeviceLike };
  const [first, second] = [await open(handGpuBundle(both), on), await open(handGpuBundle(both), on)];
  t.is(first.device, 'webgpu');
  const { z } = await first.runOnDevice!({ x: [1, 2, 3], y: [10, 20, 30] });
  t.deepEqual([z!.dtype, z!.shape], ['f32', [3]]);
  const next = await second.runOnDevice!({ x: z!, y: { buffer: z!.buffer, shape: [3] } });
  const { z: last } = await first.run({ x: next.z!, y: [1, 1, 1] });
  t.deepEqual([...(last!.data as Float32Array)], [23, 45, 67]);
  t.deepEqual((await next.z!.read()).data, Float32Array.of(22, 44, 66));

  const small = device.createBuffer({ size: 8, usage: 0x4 });
  await t.throwsAsync(second.run({ x: { buffer: small, shape: [3] }, y: [1, 2, 3] }), fails('input', /needs 12 bytes/));
  const mute = device.createBuffer({ size: 64, usage: 0x8 });
  await t.throwsAsync(second.run({ x: { buffer: mute, shape: [3] }, y: [1, 2, 3] }), fails('input', /COPY_SRC/));
  await t.throwsAsync(second.run({ x: z!, y: [1, 2] }), fails('input', /"y".*2 elements/));
  small.destroy();
  mute.destroy();
  first.dispose();
  // The caller's tensors and device outlive the session.
  t.deepEqual((await second.run({ x: z!, y: z! })).z!.shape, [3]);
  second.dispose();
  z!.destroy();
  next.z!.destroy();
  t.is(heldBy(counted), 0);
  const alive = await Promise.race([device.lost, new Promise((done) => setTimeout(done, 50, 'alive'))]);
  t.is(alive, 'alive');
  device.destroy();
});

test.serial(
  'a lost device is replaced once, with the weights loaded again; the second loss ends the session',
  async (t) => {
    const { gpu, devices } = countedGpu();
    const warn = console.warn;
    const warnings: string[] = [];
    console.warn = (text: string) => void warnings.push(text);
    t.teardown(() => {
      console.warn = warn;
    });
    const weights = new Uint8Array(new Float32Array(64).fill(2).buffer);
    const scaled: Partial<EntryPlan> = {
      symbols: [symbol('n')],
      inputs: [port('x', 0, ['n'])],
      outputs: [port('y', 1, ['n'])],
      buffers: buffers(words('n'), words('n')),
      steps: [launch('scale', [{ b: 0 }, { w: 0 }, { b: 1 }], ['n'])],
    };
    const bundle = handGpuBundle({ gpu: { main: scaled, slow: slowOnGpu }, weights });
    const session = await open(bundle, { device: 'webgpu', gpu });
    const doubled = async (): Promise<number[]> => [...((await session.run({ x: [3, 4] })).y!.data as Float32Array)];
    t.deepEqual(await doubled(), [6, 8]);
    const running = session.run({ x: new Float32Array(512) }, { entry: 'slow' });
    setTimeout(() => devices[0]!.device.destroy(), 5);
    t.is((await running).z!.data[0], 1);
    t.deepEqual(await doubled(), [6, 8]);
    t.is(devices.length, 2);
    t.is(warnings.length, 1);
    t.regex(warnings[0]!, /the GPU device was lost.*a new one/);
    devices[1]!.device.destroy();
    await devices[1]!.device.lost;
    await t.throwsAsync(doubled(), fails('device', /lost/));
    await t.throwsAsync(doubled(), fails('disposed', /disposed/));
    for (const counted of devices) t.is(heldBy(counted), 0);
  },
);

test("the loss of the caller's device ends the session", async (t) => {
  const adapter = await countedGpu().gpu.requestAdapter();
  const device = await adapter!.requestDevice();
  const session = await open(handGpuBundle(both), { device: device as DeviceLike });
  t.is(await sum(session), 3);
  device.destroy();
  await device.lost;
  await t.throwsAsync(sum(session), fails('device', /lost.*Open the bundle again/));
  await t.throwsAsync(sum(session), fails('disposed', /disposed/));
});

test('sizes beyond the device are refused with how much they need, and smaller ones still run', async (t) => {
  const main: Partial<EntryPlan> = {
    ...addOnGpu,
    symbols: [symbol('n', { max: 2 ** 31 - 1 })],
    buffers: buffers(words('n'), words('n'), ['*', 4096, 'n']),
  };
  const session = await openOn({ gpu: { main } });
  const x = new Float32Array(1 << 20);
  await t.throwsAsync(session.run({ x, y: x }), fails('memory', /need \d+ MiB of GPU memory/));
  t.is(await sum(session), 3);
  session.dispose();
});

test('what the device refuses rejects the run', async (t) => {
  const session = await openOn({ gpu: { main: addOnGpu } });
  const adapter = await countedGpu().gpu.requestAdapter();
  const other = await adapter!.requestDevice();
  const foreign = other.createBuffer({ size: 16, usage: 0x84 });
  const error = await t.throwsAsync(session.run({ x: { buffer: foreign, shape: [1] }, y: [1] }));
  t.regex(error!.message, /the GPU refused the run/);
  t.is(await sum(session), 3);
  session.dispose();
  other.destroy();
});

test('an error that no scope caught ends the next run', async (t) => {
  const { gpu, devices } = countedGpu();
  const session = await open(handGpuBundle(both), { device: 'webgpu', gpu });
  devices[0]!.device.createBuffer({ size: 4, usage: 0xffff });
  await new Promise((done) => setTimeout(done, 50));
  await t.throwsAsync(sum(session), fails('kernel', /GPUBufferUsage|BufferUsage/));
  t.is(await sum(session), 3);
  session.dispose();
});

test('weights are cut into buffers where bindings start', (t) => {
  t.deepEqual(cutWeights([0, 256, 768, 1024], 1 << 20), [{ from: 0, bytes: 1024 }]);
  t.deepEqual(cutWeights([0, 256, 768, 1024], 768), [
    { from: 0, bytes: 768 },
    { from: 768, bytes: 256 },
  ]);
  t.deepEqual(cutWeights([0, 256, 768, 1024], 512), [
    { from: 0, bytes: 256 },
    { from: 256, bytes: 512 },
    { from: 768, bytes: 256 },
  ]);
  t.deepEqual(cutWeights([0], 512), []);
  t.throws(() => cutWeights([0, 256, 1024], 512), fails('memory', /a weight of 768 bytes/));
});

test('a weight beyond one buffer is bound in pieces from two', async (t) => {
  const count = 2 * PIECE;
  const floats = Float32Array.from({ length: count }, (_, i) => i);
  const { gpu, devices } = countedGpu({
    // A device that tells of no more than one piece.
    onDevice: ({ device }) => {
      const { limits } = device;
      const maxBufferSize = 4 * PIECE;
      Object.defineProperty(device, 'limits', {
        value: { maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize, maxBufferSize },
      });
    },
  });
  const main: Partial<EntryPlan> = {
    outputs: [port('y', 0, [PIECE / 2])],
    buffers: buffers(2 * PIECE),
    steps: [{ ...launch('pieces', [{ w: 0 }, { b: 0 }], [PIECE / 2]), grid: groups(PIECE / 2) }],
  };
  const bundle = handGpuBundle({ gpu: { main }, weights: new Uint8Array(floats.buffer) });
  const session = await open(bundle, { device: 'webgpu', gpu });
  t.deepEqual((await session.run({})).y!.data, floats.slice(0, PIECE / 2));
  t.is(devices[0]!.made.filter(({ label }) => label === 'the weights').length, 2);
  session.dispose();
});
