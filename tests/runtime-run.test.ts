import test from 'ava';
import fc from 'fast-check';
import type { Tensor } from '../runtime/api.ts';
import { open } from '../runtime/index.ts';
import type { EntryPlan } from '../runtime/manifest.ts';
import { addEntry, buffers, handBundle, KERNEL, port, slowEntry, symbol, words } from './support/hand-bundle.ts';

const list = (tensor: Tensor | undefined): unknown[] => Array.from(tensor?.data ?? [], Number);
const ramp = (n: number, step = 1): Float32Array => Float32Array.from({ length: n }, (_, i) => i * step - 3);

/** c[m, n] = a[m, k] · w[k, n], the weights from the file. */
const matmulEntry = (k: number, n: number): Partial<EntryPlan> => ({
  symbols: [symbol('m')],
  inputs: [port('a', 0, ['m', k])],
  outputs: [port('c', 1, ['m', n])],
  buffers: buffers(['*', 'm', 4 * k], ['*', 'm', 4 * n]),
  steps: [
    {
      kernel: KERNEL.matmul,
      args: [{ b: 0 }, { w: 0 }, { b: 1 }],
      params: [k, n],
      grid: 'm',
      chunk: 2,
      label: 'matmul',
    },
  ],
});

/** acc = Σ over t of x[t, :], forwards or backwards, then doubled through the scratch. */
const loopEntry = (reverse: boolean): Partial<EntryPlan> => ({
  symbols: [symbol('t'), symbol('n')],
  inputs: [port('x', 0, ['t', 'n'])],
  outputs: [port('acc', 1, ['n']), port('last', 2, ['n']), port('twice', 3, ['n'])],
  buffers: buffers(['*', ['*', 't', 'n'], 4], words('n'), words('n'), words('n')),
  scratch: 4,
  steps: [
    { kernel: KERNEL.fill, args: [{ b: 1 }], params: [0], grid: 'n', chunk: 3, label: 'zero' },
    {
      loop: 'step',
      trips: 't',
      reverse,
      steps: [
        {
          kernel: KERNEL.accumulate,
          args: [{ b: 0, at: ['*', 'step', ['*', 'n', 4]] }, { b: 1 }],
          params: [],
          grid: 'n',
          chunk: 2,
          label: 'accumulate',
        },
        { from: { b: 0, at: ['*', ['*', 'step', 'n'], 4] }, to: { b: 2 }, bytes: words('n') },
      ],
    },
    {
      kernel: KERNEL.scratch,
      args: [{ b: 1 }, { b: 3 }, { s: 0 }],
      params: [],
      grid: 'n',
      chunk: 1,
      label: 'twice',
    },
  ],
});

const branchEntry: Partial<EntryPlan> = {
  inputs: [port('on', 0, [1], { dtype: 'bool' })],
  outputs: [port('y', 1, [3])],
  buffers: buffers(1, 12),
  steps: [
    {
      if: { b: 0 },
      then: [{ kernel: KERNEL.fill, args: [{ b: 1 }], params: [7], grid: 3, chunk: 1, label: 'then' }],
      else: [{ kernel: KERNEL.fill, args: [{ b: 1 }], params: [-9], grid: 3, chunk: 1, label: 'else' }],
    },
  ],
};

for (const threads of [1, 2, 3]) {
  test(`${threads} threads: an addition takes any length in the range`, async (t) => {
    const session = await open(handBundle({ entries: { main: addEntry } }), { threads });
    t.teardown(() => session.dispose());
    t.is(session.threads, threads);
    for (const n of [1, 3, 4, 5, 1000, 7]) {
      const { z } = await session.run({ x: ramp(n), y: ramp(n, 2) });
      t.deepEqual(z?.shape, [n]);
      t.is(z?.dtype, 'f32');
      t.deepEqual(
        list(z),
        Array.from({ length: n }, (_, i) => 3 * i - 6),
      );
    }
  });

  for (const relaxed of [false, true]) {
    test(`${threads} threads: a matmul reads its weights, ${relaxed ? 'relaxed' : 'plain'} SIMD`, async (t) => {
      const [k, n] = [5, 3];
      const w = ramp(k * n, 0.5);
      const bundle = handBundle({ entries: { main: matmulEntry(k, n) }, weights: new Uint8Array(w.buffer) });
      const session = await open(bundle, { threads, relaxed });
      t.teardown(() => session.dispose());
      t.is(session.relaxed, relaxed);
      for (const m of [1, 7, 64]) {
        const a = ramp(m * k);
        const { c } = await session.run({ a });
        const want = Array.from({ length: m * n }, (_, at) => {
          const [i, j] = [Math.floor(at / n), at % n];
          return Array.from({ length: k }, (_, l) => a[i * k + l]! * w[l * n + j]!).reduce((x, y) => x + y, 0);
        });
        t.deepEqual(list(c), want);
        t.deepEqual(c?.shape, [m, n]);
      }
    });
  }

  for (const reverse of [false, true]) {
    test(`${threads} threads: a loop counts ${reverse ? 'down' : 'up'} and its steps see the count`, async (t) => {
      const session = await open(handBundle({ entries: { main: loopEntry(reverse) } }), { threads });
      t.teardown(() => session.dispose());
      const x = ramp(6 * 5);
      const { acc, last, twice } = await session.run({ x: { data: x, shape: [6, 5] } });
      const sums = [0, 1, 2, 3, 4].map((j) => [0, 1, 2, 3, 4, 5].reduce((sum, i) => sum + x[i * 5 + j]!, 0));
      t.deepEqual(list(acc), sums);
      t.deepEqual(
        list(twice),
        sums.map((sum) => 2 * sum),
      );
      t.deepEqual(list(last), [...(reverse ? x.subarray(0, 5) : x.subarray(25))]);
    });
  }

  test(`${threads} threads: a branch follows the byte`, async (t) => {
    const session = await open(handBundle({ entries: { main: branchEntry } }), { threads });
    t.teardown(() => session.dispose());
    t.deepEqual(list((await session.run({ on: [true] })).y), [7, 7, 7]);
    t.deepEqual(list((await session.run({ on: Uint8Array.of(0) })).y), [-9, -9, -9]);
  });
}

test('a loop of no trips leaves what was there', async (t) => {
  const plan = loopEntry(false);
  const bundle = handBundle({ entries: { main: { ...plan, symbols: [symbol('t', { min: 0 }), symbol('n')] } } });
  const session = await open(bundle);
  t.teardown(() => session.dispose());
  const { acc } = await session.run({ x: { data: [], shape: [0, 3] } });
  t.deepEqual(list(acc), [0, 0, 0]);
});

test('buffers that live at different times share memory, and results stay right', async (t) => {
  // A chain of additions through buffers that each live for two steps.
  const steps = 20;
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [64])],
    outputs: [port('y', steps, [64])],
    buffers: Array.from({ length: steps + 1 }, (_, i) => ({
      bytes: 256,
      first: Math.max(0, i - 1),
      last: i === steps ? 1000 : i,
    })),
    steps: Array.from({ length: steps }, (_, i) => ({
      kernel: KERNEL.add,
      args: [{ b: i }, { b: i }, { b: i + 1 }],
      params: [],
      grid: 64,
      chunk: 16,
      label: `add${i}`,
    })),
  };
  for (const threads of [1, 2]) {
    const session = await open(handBundle({ entries: { main: plan } }), { threads });
    const x = ramp(64);
    const { y } = await session.run({ x });
    t.deepEqual(
      list(y),
      [...x].map((v) => v * 2 ** steps),
    );
    session.dispose();
  }
});

test('functions of Math are supplied to kernels that import them', async (t) => {
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [3])],
    outputs: [port('y', 1, [3])],
    buffers: buffers(12, 12),
    steps: [{ kernel: KERNEL.exp, args: [{ b: 0 }, { b: 1 }], params: [], grid: 3, chunk: 3, label: 'exp' }],
  };
  const session = await open(handBundle({ entries: { main: plan } }));
  t.teardown(() => session.dispose());
  const { y } = await session.run({ x: [0, 1, -2] });
  t.deepEqual(
    list(y),
    [0, 1, -2].map((v) => Math.fround(Math.exp(v))),
  );
});

test('i64 inputs come as BigInt64Array, Int32Array or numbers, and i64 outputs are BigInt64Array', async (t) => {
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [3], { dtype: 'i64' })],
    outputs: [port('y', 1, [3], { dtype: 'i64' })],
    buffers: buffers(24, 24),
    steps: [{ kernel: KERNEL.double, args: [{ b: 0 }, { b: 1 }], params: [], grid: 3, chunk: 3, label: 'double' }],
  };
  const session = await open(handBundle({ entries: { main: plan } }));
  t.teardown(() => session.dispose());
  const big = -(2n ** 60n);
  t.deepEqual((await session.run({ x: BigInt64Array.of(1n, big, 3n) })).y?.data, BigInt64Array.of(2n, 2n * big, 6n));
  t.deepEqual((await session.run({ x: Int32Array.of(1, -2, 3) })).y?.data, BigInt64Array.of(2n, -4n, 6n));
  t.deepEqual((await session.run({ x: [1, -2, 3] })).y?.data, BigInt64Array.of(2n, -4n, 6n));
});

test('bool outputs are bytes', async (t) => {
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [5])],
    outputs: [port('y', 1, [5], { dtype: 'bool' })],
    buffers: buffers(20, 5),
    steps: [{ kernel: KERNEL.positive, args: [{ b: 0 }, { b: 1 }], params: [], grid: 5, chunk: 2, label: 'positive' }],
  };
  const session = await open(handBundle({ entries: { main: plan } }), { threads: 2 });
  t.teardown(() => session.dispose());
  t.deepEqual((await session.run({ x: [1, -1, 0, 2, Number.NaN] })).y?.data, Uint8Array.of(1, 0, 0, 1, 0));
});

test('two entries run in one session, and a larger size grows the memory', async (t) => {
  const bundle = handBundle({
    entries: { small: addEntry, other: { ...addEntry, symbols: [symbol('n', { max: 1_000_000 })] } },
  });
  for (const threads of [1, 2]) {
    const session = await open(bundle, { threads });
    t.deepEqual(Object.keys(session.entries), ['small', 'other']);
    t.deepEqual(
      session.inputs.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
      [
        { name: 'x', dtype: 'f32', shape: ['n'] },
        { name: 'y', dtype: 'f32', shape: ['n'] },
      ],
    );
    const before = session.peakBytes;
    const x = ramp(600_000);
    const { z } = await session.run({ x, y: x }, { entry: 'other' });
    t.is(z?.data.length, 600_000);
    t.is(z?.data[599_999], 2 * x[599_999]!);
    t.true(before <= 65536 && session.peakBytes >= 3 * 2_400_000);
    t.true(session.peakBytes <= 3 * 2_400_000 + 2 * 65536);
    t.deepEqual(list((await session.run({ x: [1], y: [2] })).z), [3]);
    session.dispose();
    t.is(session.peakBytes, 0);
  }
});

test('concurrent runs of one session do not disturb each other, and finish in order', async (t) => {
  for (const threads of [1, 2]) {
    const session = await open(handBundle({ entries: { main: addEntry, slow: slowEntry } }), { threads });
    const order: number[] = [];
    const runs = Array.from({ length: 6 }, async (_, i) => {
      const out =
        i % 2 === 0
          ? await session.run({ x: new Float32Array(512).fill(i) }, { entry: 'slow' })
          : await session.run({ x: [i, i], y: [1, 1] });
      order.push(i);
      return out.z?.data[1];
    });
    t.deepEqual(await Promise.all(runs), [1, 2, 3, 4, 5, 6]);
    t.deepEqual(order, [0, 1, 2, 3, 4, 5]);
    session.dispose();
  }
});

test('two sessions run at once', async (t) => {
  const bundle = handBundle({ entries: { main: slowEntry } });
  const sessions = [await open(bundle, { threads: 2 }), await open(bundle, { threads: 1 })];
  const results = await Promise.all(
    sessions.flatMap((session, i) => [0, 1].map((k) => session.run({ x: new Float32Array(512).fill(10 * i + k) }))),
  );
  t.deepEqual(
    results.map(({ z }) => z?.data[511]),
    [1, 2, 11, 12],
  );
  sessions[0]!.dispose();
  t.is((await sessions[1]!.run({ x: new Float32Array(512) })).z?.data[0], 1);
  sessions[1]!.dispose();
});

test('timers fire while a run computes', async (t) => {
  const session = await open(handBundle({ entries: { main: slowEntry } }), { threads: 1 });
  t.teardown(() => session.dispose());
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  await session.run({ x: new Float32Array(512) });
  clearInterval(timer);
  t.true(turns >= 2, `${turns} turns`);
});

test('a profile adds up the time per label', async (t) => {
  for (const threads of [1, 2]) {
    const session = await open(handBundle({ entries: { main: slowEntry, loop: loopEntry(false) } }), { threads });
    const rows: unknown[] = [];
    await session.run({ x: new Float32Array(512) }, { profile: (given) => rows.push(...given) });
    t.like(rows, [{ label: 'slow', calls: 1 }]);
    t.true((rows[0] as { ms: number }).ms > 1);
    rows.length = 0;
    await session.run(
      { x: { data: new Float32Array(12), shape: [6, 2] } },
      { entry: 'loop', profile: (given) => rows.push(...given) },
    );
    const calls = Object.fromEntries((rows as { label: string; calls: number }[]).map((row) => [row.label, row.calls]));
    t.deepEqual(calls, { zero: 1, accumulate: 6, twice: 1 });
    session.dispose();
  }
});

test('every grid is covered once, whatever the chunk and the number of threads', async (t) => {
  const plan = (chunk: number): Partial<EntryPlan> => ({
    symbols: [symbol('n')],
    inputs: [port('x', 0, ['n']), port('start', 1, ['n'])],
    outputs: [port('start2', 1, ['n'])],
    buffers: buffers(words('n'), words('n')),
    steps: [{ kernel: KERNEL.accumulate, args: [{ b: 0 }, { b: 1 }], params: [], grid: 'n', chunk, label: 'acc' }],
  });
  const chunks = [1, 2, 3, 7, 64, 5000];
  const entries = Object.fromEntries(chunks.map((chunk) => [`c${chunk}`, plan(chunk)]));
  const sessions = await Promise.all([1, 2, 4].map((threads) => open(handBundle({ entries }), { threads })));
  t.teardown(() => {
    for (const session of sessions) session.dispose();
  });
  const covered = fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 1000 }), fc.constantFrom(...chunks), fc.nat(2), async (n, chunk, s) => {
      const out = await sessions[s]!.run({ x: new Float32Array(n).fill(1), start: ramp(n) }, { entry: `c${chunk}` });
      return list(out.start2).every((value, i) => value === i - 2);
    }),
    { numRuns: 300 },
  );
  await t.notThrowsAsync(covered);
});
