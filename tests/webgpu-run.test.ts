import test from 'ava';
import type { Session, Tensor } from '../runtime/api.ts';
import type { EntryPlan, Launch, Step } from '../runtime/manifest.ts';
import { open } from '../runtime/open.ts';
import { countedGpu } from './support/counted-gpu.ts';
import { buffers, port, symbol, words } from './support/hand-bundle.ts';
import { addOnGpu, GPU_KERNEL, groups, type HandGpuOptions, handGpuBundle, PIECE } from './support/hand-wgsl.ts';

const counted = countedGpu();
const openOnGpu = (options: HandGpuOptions): Promise<Session> =>
  open(handGpuBundle(options), { device: 'webgpu', gpu: counted.gpu });
const launch = (
  kernel: keyof typeof GPU_KERNEL,
  args: Launch['args'],
  params: Launch['params'],
  grid: Launch['grid'] = 1,
): Launch => ({ kernel: GPU_KERNEL[kernel], args, params, grid, chunk: 1, label: kernel });
const values = (tensor: Tensor | undefined): (number | bigint)[] => Array.from(tensor!.data as ArrayLike<number>);

test('a launch adds, sizes change without another pipeline, and the arena grows', async (t) => {
  const session = await openOnGpu({ gpu: { main: addOnGpu } });
  t.is(session.device, 'webgpu');
  t.regex(session.adapter!, /\w/);
  const { pipelines } = counted.devices.at(-1)!;
  const { z } = await session.run({ x: [1, 2, 3], y: [4, 5, 6] });
  t.deepEqual([z!.dtype, z!.shape, values(z)], ['f32', [3], [5, 7, 9]]);
  const before = session.peakBytes;
  for (const n of [1, 1000, 100_001, 7, 100_001]) {
    const x = Float32Array.from({ length: n }, (_, i) => i);
    const got = (await session.run({ x, y: x })).z!.data as Float32Array;
    t.is(got.length, n);
    t.true(
      got.every((value, i) => value === 2 * i),
      `n = ${n}`,
    );
  }
  t.true(session.peakBytes >= before + 3 * 400_000);
  t.is(counted.devices.at(-1)!.pipelines, pipelines);
  session.dispose();
});

test('more workgroups than a row of a dispatch holds, and elements that stand as narrower or wider words', async (t) => {
  const n = 70_001;
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [n], { dtype: 'i64' })],
    outputs: [port('y', 1, [n], { dtype: 'i64' })],
    buffers: buffers(4 * n, 4 * n),
    steps: [launch('double', [{ b: 0 }, { b: 1 }], [], n)],
  };
  const session = await openOnGpu({ gpu: { main: plan } });
  const x = BigInt64Array.from({ length: n }, (_, i) => BigInt(i - 5));
  const { y } = await session.run({ x });
  t.true((y!.data as BigInt64Array).every((value, i) => value === 2n * x[i]!));
  x[3] = 2n ** 31n;
  await t.throwsAsync(session.run({ x }), { code: 'input', message: /"x".* has 2147483648 at \[3\].*64-bit/ } as never);
  t.is(((await session.run({ x: x.fill(1n) })).y!.data as BigInt64Array)[n - 1], 2n);
  session.dispose();
});

test('every element type comes out as it went in', async (t) => {
  const given = {
    f64: Float64Array.of(0.5, -2, 1e30),
    f32: Float32Array.of(0.1, -0, Number.NaN),
    f16: Uint16Array.of(0x3c00, 0x8001, 0x7bff),
    bf16: Uint16Array.of(0x3f80, 0xc000, 0x0001),
    i64: BigInt64Array.of(-1n, 2n ** 31n - 1n, -(2n ** 31n)),
    i32: Int32Array.of(-1, 2 ** 31 - 1, -(2 ** 31)),
    i16: Int16Array.of(-1, 32767, -32768),
    i8: Int8Array.of(-1, 127, -128),
    u64: BigUint64Array.of(0n, 1n, 2n ** 32n - 1n),
    u32: Uint32Array.of(0, 1, 2 ** 32 - 1),
    u16: Uint16Array.of(0, 1, 65535),
    u8: Uint8Array.of(0, 1, 255),
    bool: Uint8Array.of(0, 1, 0),
  } as const;
  const types = Object.keys(given) as (keyof typeof given)[];
  const plan: Partial<EntryPlan> = {
    inputs: types.map((dtype, i) => port(dtype, i, [3], { dtype })),
    outputs: types.map((dtype, i) => port(dtype, i, [3], { dtype })),
    buffers: buffers(...types.map(() => 12)),
  };
  const session = await openOnGpu({ gpu: { main: plan } });
  const got = await session.run(given);
  for (const dtype of types) {
    if (dtype === 'f64') t.deepEqual(values(got[dtype]), [0.5, -2, Math.fround(1e30)]);
    else t.deepEqual(got[dtype]!.data, given[dtype] as never, dtype);
  }
  session.dispose();
});

test('weights stand where kernels look: as in their file, whole, in pieces, beside the whole arena', async (t) => {
  const count = 2 * PIECE;
  // A file may end within a word.
  const file = new Uint8Array(256 + 4 * count + 3);
  const floats = Float32Array.from({ length: count }, (_, i) => i / 4 - 50);
  file.set(new Uint8Array(Float32Array.of(1, -2).buffer), 0);
  file.set(new Uint8Array(floats.buffer), 256);
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [2])],
    outputs: [port('y', 1, [2]), port('w', 2, [count]), port('e', 3, [2])],
    buffers: buffers(8, 8, 4 * count, 8),
    steps: [
      launch('scale', [{ b: 0 }, { w: 0 }, { b: 1 }], [2]),
      launch('pieces', [{ w: 256 }, { b: 2 }], [count], groups(count)),
      launch('everywhere', [{ b: 0 }, { b: 1 }, { w: 256 }, { b: 3 }], [2]),
    ],
  };
  // Where WebAssembly has them is of no interest here.
  const segments = [{ from: 0, bytes: 8, to: 512, stored: 'raw' as const }];
  const options = { weights: file, segments, memory: 1024, block: 64 };
  const session = await openOnGpu({ gpu: { main: plan }, ...options });
  const { y, w, e } = await session.run({ x: [3, 5] });
  t.deepEqual(values(y), [3, -10]);
  t.deepEqual(w!.data, floats);
  t.deepEqual(values(e), [3 - 3 - 50, 5 + 10 - 49.75]);
  session.dispose();
});

test('a weight without elements is bound all the same', async (t) => {
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [2])],
    outputs: [port('y', 1, [2])],
    buffers: buffers(8, 8),
    steps: [launch('fill', [{ b: 1 }], [2, 5]), launch('scale', [{ b: 0 }, { w: 0 }, { b: 1 }], [0])],
  };
  const session = await openOnGpu({ gpu: { main: plan } });
  t.deepEqual(values((await session.run({ x: [3, 4] })).y), [5, 5]);
  session.dispose();
});

test('loops count up and down with parameters of their own, more of them than fit one submission', async (t) => {
  const loop = (reverse: boolean, trips: Launch['grid']): Step => ({
    loop: reverse ? 't1' : 't0',
    trips,
    reverse,
    steps: [launch('accumulate', [{ b: 0 }, { b: 1 }], ['n', reverse ? 't1' : 't0'])],
  });
  const plan: Partial<EntryPlan> = {
    symbols: [symbol('n'), symbol('trips')],
    inputs: [port('x', 0, ['n']), port('rounds', 2, ['trips'])],
    outputs: [port('acc', 1, ['n'])],
    buffers: buffers(words('n'), words('n'), words('trips')),
    steps: [launch('fill', [{ b: 1 }], ['n', 7]), loop(false, 'trips'), loop(true, 3), loop(false, 0)],
  };
  // Loops may not share a symbol with a loop around, but may with one before.
  const session = await openOnGpu({ gpu: { main: plan } });
  for (const rounds of [1, 300, 1000]) {
    const { acc } = await session.run({ x: [1, 2], rounds: new Float32Array(rounds) });
    const sum = (rounds * (rounds + 1)) / 2 + 6;
    t.deepEqual(values(acc), [7 + sum, 7 + 2 * sum], `${rounds} rounds`);
  }
  session.dispose();
});

test('a branch looks at a word of the arena, also in a loop', async (t) => {
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [1])],
    outputs: [port('z', 2, [1])],
    buffers: buffers(4, 4, 4),
    steps: [
      launch('positive', [{ b: 0 }, { b: 1 }], [1]),
      {
        if: { b: 1 },
        then: [launch('fill', [{ b: 2 }], [1, 10])],
        else: [launch('fill', [{ b: 2 }], [1, 20])],
      },
      {
        loop: 't',
        trips: 3,
        reverse: false,
        steps: [{ if: { b: 1 }, then: [launch('accumulate', [{ b: 0 }, { b: 2 }], [1, 't'])], else: [] }],
      },
    ],
  };
  const session = await openOnGpu({ gpu: { main: plan } });
  t.deepEqual(values((await session.run({ x: [1] })).z), [16]);
  t.deepEqual(values((await session.run({ x: [-1] })).z), [20]);
  session.dispose();
});

test('a counted size binds launches after it and the shape of an output', async (t) => {
  const plan: Partial<EntryPlan> = {
    symbols: [symbol('n')],
    inputs: [port('x', 0, ['n'])],
    outputs: [port('z', 2, ['k'])],
    buffers: buffers(words('n'), 4, words('n')),
    steps: [
      launch('count', [{ b: 0 }, { b: 1 }], ['n']),
      { count: 'k', at: { b: 1 }, min: 1, max: 'n' },
      launch('fill', [{ b: 2 }], ['k', 'k'], groups('k')),
    ],
  };
  const session = await openOnGpu({ gpu: { main: plan } });
  const { z } = await session.run({ x: [1, -1, 2, 0, 3] });
  t.deepEqual([z!.shape, values(z)], [[3], [3, 3, 3]]);
  await t.throwsAsync(session.run({ x: [-1] }), { code: 'input', message: /"k" is 0 by the data/ } as never);
  t.deepEqual((await session.run({ x: [1] })).z!.shape, [1]);
  session.dispose();
});

test('runs queue, entries share the arena, and buffers that live at different times share memory', async (t) => {
  const chain: Partial<EntryPlan> = {
    inputs: [port('x', 0, [1000])],
    outputs: [port('z', 3, [1000])],
    buffers: [
      { bytes: 4000, first: 0, last: 0 },
      { bytes: 4000, first: 0, last: 1 },
      { bytes: 4000, first: 1, last: 2 },
      { bytes: 4000, first: 2, last: 3 },
    ],
    steps: [
      launch('slow', [{ b: 0 }, { b: 1 }], [1000, 1], groups(1000)),
      launch('slow', [{ b: 1 }, { b: 2 }], [1000, 1], groups(1000)),
      launch('slow', [{ b: 2 }, { b: 3 }], [1000, 1], groups(1000)),
    ],
  };
  const session = await openOnGpu({ gpu: { main: addOnGpu, chain } });
  const runs = Array.from({ length: 12 }, async (_, i) => {
    const x = new Float32Array(1000).fill(i);
    if (i % 2 === 0) return values((await session.run({ x }, { entry: 'chain' })).z);
    return values((await session.run({ x, y: new Float32Array(1000).fill(3) })).z);
  });
  for (const [i, got] of (await Promise.all(runs)).entries()) t.true(got.every((value) => value === i + 3));
  t.true(session.peakBytes < 4000 * 8);
  session.dispose();
});

test('a profile adds up the time per label, with the GPU’s clock and without', async (t) => {
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [64])],
    outputs: [port('z', 1, [64])],
    buffers: buffers(256, 256),
    steps: [
      { loop: 't', trips: 150, reverse: false, steps: [launch('slow', [{ b: 0 }, { b: 1 }], [64, 1000])] },
      launch('fill', [{ b: 1 }], [64, 2]),
    ],
  };
  for (const without of [[], ['timestamp-query']]) {
    const { gpu } = countedGpu({ without });
    const session = await open(handGpuBundle({ gpu: { main: plan } }), { device: 'webgpu', gpu });
    const rows: { label: string; calls: number; ms: number }[] = [];
    const { z } = await session.run({ x: new Float32Array(64) }, { profile: (found) => rows.push(...found) });
    t.true(values(z).every((value) => value === 2));
    t.deepEqual(
      rows.map(({ label, calls }) => [label, calls]),
      [
        ['slow', 150],
        ['fill', 1],
      ],
    );
    t.true(rows.every(({ ms }) => Number.isFinite(ms) && ms >= 0));
    session.dispose();
  }
});

test('the recorded self-test runs on the device', async (t) => {
  const bundle = handGpuBundle({
    gpu: { main: addOnGpu },
    selftest: [{ entry: 'main', symbols: { n: 3 }, outputs: [{ name: 'z', at: [0], values: [5] }], tolerance: 1e-6 }],
  });
  const session = await open(bundle, { device: 'webgpu', gpu: counted.gpu });
  const result = await session.selftest();
  t.false(result.ok);
  t.true(result.worst > 0.1);
  session.dispose();
});
