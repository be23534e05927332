/** Sizes that a plan reads from memory while it runs: bound for later steps and for outputs, checked, and malformed ones refused. */
import test from 'ava';
import type { EntryPlan, Step } from '../runtime/manifest.ts';
import { open } from '../runtime/open.ts';
import { buffers, handBundle, KERNEL, port, symbol, words } from './support/hand-bundle.ts';

/** `many` sevens, as the input `many` says, out of room for n. */
const counting = (more: Partial<EntryPlan> = {}): Partial<EntryPlan> => ({
  symbols: [symbol('n')],
  inputs: [port('many', 0, [1], { dtype: 'i32' }), port('x', 1, ['n'])],
  outputs: [port('sevens', 2, ['k']), port('double', 3, ['k', 2])],
  buffers: buffers(4, words('n'), words('n'), words(['*', 'n', 2])),
  steps: [
    { count: 'k', at: { b: 0 }, min: 1, max: 'n' },
    { kernel: KERNEL.fill, args: [{ b: 2 }], params: [7], grid: 'k', chunk: 2, label: 'sevens' },
    { kernel: KERNEL.fill, args: [{ b: 3 }], params: ['k'], grid: ['*', 'k', 2], chunk: 'k', label: 'double' },
  ],
  ...more,
});
const steps = counting().steps!;

test('a count binds a size for parameters, grids, chunks and outputs, anew in each run', async (t) => {
  for (const threads of [1, 3]) {
    const session = await open(handBundle({ entries: { main: counting() } }), { threads });
    for (const [n, many] of [
      [5, 3],
      [5, 5],
      [9, 1],
      [5, 2],
    ] as const) {
      const { sevens, double } = await session.run({ many: Int32Array.of(many), x: new Float32Array(n) });
      t.deepEqual(sevens!.shape, [many]);
      t.deepEqual([...(sevens!.data as Float32Array)], Array(many).fill(7));
      t.deepEqual(double!.shape, [many, 2]);
      t.deepEqual([...(double!.data as Float32Array)], Array(2 * many).fill(many));
    }
    session.dispose();
  }
});

test('shapes that were handed out stay when the next run counts another size', async (t) => {
  const session = await open(handBundle({ entries: { main: counting() } }), { threads: 1 });
  const first = await session.run({ many: Int32Array.of(4), x: new Float32Array(5) });
  await session.run({ many: Int32Array.of(2), x: new Float32Array(5) });
  t.deepEqual(first.sevens!.shape, [4]);
  session.dispose();
});

test('a count outside its bounds ends the run, and the session goes on', async (t) => {
  const session = await open(handBundle({ entries: { main: counting() } }), { threads: 1 });
  for (const many of [0, -1, 6, 2 ** 31 - 1, -(2 ** 31)])
    await t.throwsAsync(session.run({ many: Int32Array.of(many), x: new Float32Array(5) }), {
      message: `heddle: size "k" is ${many} by the data; the bundle takes 1 … 5.`,
    });
  const { sevens } = await session.run({ many: Int32Array.of(5), x: new Float32Array(5) });
  t.is(sevens!.data.length, 5);
  session.dispose();
});

test('a count inside a loop is read in each trip', async (t) => {
  const loop: Step = {
    loop: 't',
    trips: 'n',
    reverse: false,
    steps: [
      { count: 'k', at: { b: 0, at: ['*', 't', 4] }, min: 0, max: 'n' },
      { kernel: KERNEL.fill, args: [{ b: 1, at: ['*', 't', 4] }], params: ['k'], grid: 1, chunk: 1, label: 'fill' },
    ],
  };
  const entry: Partial<EntryPlan> = {
    symbols: [symbol('n')],
    inputs: [port('many', 0, ['n'], { dtype: 'i32' })],
    outputs: [port('seen', 1, ['n'])],
    buffers: buffers(words('n'), words('n')),
    steps: [loop],
  };
  const session = await open(handBundle({ entries: { main: entry } }), { threads: 1 });
  const { seen } = await session.run({ many: Int32Array.of(4, 0, 2, 1) });
  t.deepEqual([...(seen!.data as Float32Array)], [4, 0, 2, 1]);
  session.dispose();
});

test('malformed counts are refused before anything is allocated', async (t) => {
  const [count, ...rest] = steps as [Step, ...Step[]];
  const cases: readonly (readonly [plan: Partial<EntryPlan>, message: RegExp])[] = [
    [counting({ steps: [count, count, ...rest] }), /steps\[1\]\.count is "k", not a new symbol/],
    [counting({ steps: [{ ...count, count: 'n' } as Step, ...rest] }), /count is "n", not a new symbol/],
    [counting({ steps: [...rest, count] }), /grid is "k", not a declared symbol/],
    [counting({ steps: rest }), /is "k", not a declared symbol/],
    [counting({ steps: [{ ...count, at: { b: 9 } } as Step, ...rest] }), /at\.b is 9, not an integer in 0 … 3/],
    [counting({ steps: [{ ...count, max: 'm' } as Step, ...rest] }), /max is "m", not a declared symbol/],
    [counting({ steps: [{ count: 3 } as unknown as Step, ...rest] }), /count is 3, not a string/],
    [counting({ inputs: [port('many', 0, ['k'], { dtype: 'i32' })] }), /is "k", not a declared symbol/],
    [counting({ buffers: buffers(4, 4, words('k'), 4) }), /bytes.* is "k", not a declared symbol/],
    [counting({ steps: [{ if: { b: 0 }, then: [count], else: [] }, ...rest] }), /grid is "k", not a declared symbol/],
  ];
  for (const [plan, message] of cases)
    await t.throwsAsync(open(handBundle({ entries: { main: plan } }), { threads: 1 }), { message });
});

test('a count that leads outside of a buffer is caught when it runs', async (t) => {
  const far: Partial<EntryPlan> = counting({ buffers: buffers(4, words('n'), 4, words(['*', 'n', 2])) });
  const session = await open(handBundle({ entries: { main: far } }), { threads: 1 });
  await t.throwsAsync(session.run({ many: Int32Array.of(3), x: new Float32Array(5) }), {
    message: /manifest: the size of sevens is 12, outside 0 … 4/,
  });
  session.dispose();
});
