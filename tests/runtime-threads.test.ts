import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { open } from '../runtime/index.ts';
import type { EntryPlan } from '../runtime/manifest.ts';
import type { LaunchOp } from '../runtime/program.ts';
import { controlWords, Leader } from '../runtime/team.ts';
import { addEntry, buffers, handBundle, KERNEL, port, writeBundle } from './support/hand-bundle.ts';

// This and the next test also show that the work is shared: each trap is in a thread that has to take a part of it.
test('a trap in another thread rejects the run and closes the session', async (t) => {
  const bundle = (first: number): ReturnType<typeof handBundle> => {
    const away: Partial<EntryPlan> = {
      scratch: 64,
      buffers: buffers(64),
      steps: [{ kernel: KERNEL.trapAway, args: [{ s: 0 }], params: [first], grid: 200, chunk: 1, label: 'away' }],
    };
    return handBundle({ entries: { main: away } });
  };
  // 64 reserved bytes, no weights, an arena of 64: the leader's scratch is at 128.
  const session = await open(bundle(128), { threads: 2 });
  await t.throwsAsync(session.run({}), { code: 'kernel', message: /a thread failed in away/ });
  await t.throwsAsync(session.run({}), { code: 'disposed' });
  const alone = await open(bundle(128), { threads: 1 });
  t.deepEqual(await alone.run({}), {});
  alone.dispose();
});

test('a trap of the leader ends the run when the others are done', async (t) => {
  const away: Partial<EntryPlan> = {
    scratch: 64,
    buffers: buffers(64),
    steps: [{ kernel: KERNEL.trapAway, args: [{ s: 0 }], params: [192], grid: 200, chunk: 1, label: 'away' }],
  };
  const session = await open(handBundle({ entries: { main: away, add: addEntry } }), { threads: 2 });
  await t.throwsAsync(session.run({}), { code: 'kernel', message: /kernel away stopped/ });
  const { z } = await session.run({ x: new Float32Array(100).fill(1), y: new Float32Array(100) }, { entry: 'add' });
  t.true((z!.data as Float32Array).every((v) => v === 1));
  session.dispose();
});

test('shares tile the grid, in whole chunks that never grow, and end short', (t) => {
  for (const followers of [1, 2, 7])
    for (const chunk of [1, 3, 50])
      for (const grid of [1, 2, 97, 1000, 12_345]) {
        const op: LaunchOp = { kind: 'launch', label: '', kernel: 0, args: [0, 0], late: [], strides: [], grid, chunk };
        const leader = new Leader(new Int32Array(new SharedArrayBuffer(4 * controlWords(2))), followers);
        leader.begin(op, grid, chunk, Math.ceil(grid / chunk));
        const sizes: number[] = [];
        let at = 0;
        for (let [from, to] = leader.take(); from < grid; [from, to] = leader.take()) {
          t.is(from, at);
          sizes.push(to - from);
          at = to;
        }
        t.is(at, grid);
        const whole = sizes.slice(0, -1);
        t.true(whole.every((size, i) => size % chunk === 0 && size <= (sizes[i - 1] ?? 8 * chunk)));
        t.true((sizes.at(-1) ?? 0) <= chunk);
        leader.stop();
        t.true(leader.take()[0] >= grid);
      }
});

test('thousands of small launches with many threads stay right', async (t) => {
  const steps = 2000;
  const plan: Partial<EntryPlan> = {
    inputs: [port('x', 0, [40]), port('acc', 1, [40])],
    outputs: [port('sum', 1, [40])],
    buffers: buffers(160, 160),
    steps: [
      {
        loop: 'i',
        trips: steps,
        reverse: false,
        steps: [
          { kernel: KERNEL.accumulate, args: [{ b: 0 }, { b: 1 }], params: [], grid: 40, chunk: 3, label: 'acc' },
        ],
      },
    ],
  };
  const session = await open(handBundle({ entries: { main: plan } }), { threads: 4 });
  t.teardown(() => session.dispose());
  for (let round = 0; round < 5; round++) {
    const { sum } = await session.run({ x: new Float32Array(40).fill(1), acc: new Float32Array(40) });
    t.deepEqual([...(sum!.data as Float32Array)], new Array(40).fill(steps));
  }
});

test('a thread that cannot start leaves one thread and a warning', async (t) => {
  const warnings: unknown[] = [];
  const warn = console.warn;
  console.warn = (text: unknown) => warnings.push(text);
  try {
    const session = await open(handBundle({ entries: { main: addEntry } }), {
      threads: 2,
      workerUrl: new URL('./no-such-worker.js', import.meta.url),
    });
    t.is(session.threads, 1);
    t.is((await session.run({ x: [1], y: [2] })).z?.data[0], 3);
    session.dispose();
  } finally {
    console.warn = warn;
  }
  t.is(warnings.length, 1);
  t.regex(String(warnings[0]), /a thread does not start: .*; running on one thread/);
});

test('a process ends by itself with an open session, and a tiny model has one thread', (t) => {
  const path = mkdtempSync(join(tmpdir(), 'heddle-threads-'));
  t.teardown(() => rmSync(path, { recursive: true }));
  writeBundle(handBundle({ entries: { main: addEntry } }), path);
  const script = `
    import { open } from ${JSON.stringify(pathToFileURL(join(path, 'index.js')).href)};
    const tiny = await open();
    const session = await open({ threads: 3 });
    const { z } = await session.run({ x: new Float32Array(50).fill(1), y: new Float32Array(50).fill(2) });
    console.log(tiny.threads, session.threads, session.relaxed, z.data[49]);`;
  writeFileSync(join(path, 'main.mjs'), script);
  const out = execFileSync(process.execPath, [join(path, 'main.mjs')], { timeout: 20_000, encoding: 'utf8' });
  t.is(out.trim(), '1 3 true 3');
});
