import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import type { Browser } from 'playwright-core';
import { launchBrowser } from './support/chromium.ts';
import { addEntry, handBundle, slowEntry, writeBundle } from './support/hand-bundle.ts';
import { reportFrom } from './support/report-page.ts';

/** What the script below reports. */
interface Report {
  readonly asked: string;
  readonly threads: number;
  readonly relaxed: boolean;
  readonly sum: string;
  readonly large: number;
  readonly slow: string;
  readonly together: string;
  readonly aborted: string;
  readonly turns: number;
  readonly selftest: boolean;
  readonly spoiled: string;
  readonly under: string;
  readonly disposed: string;
}

const script = `
import { open } from '/bundle/index.js';
const report = async () => {
  const out = { asked: new URL(import.meta.url).search };
  const session = await open({ threads: 2 });
  out.threads = session.threads;
  out.relaxed = session.relaxed;
  out.sum = String((await session.run({ x: [1, 2, 3], y: [4, 5, 6] })).z.data);
  const n = 1000;
  for (let i = 0; i < 200; i++) {
    const { z } = await session.run({ x: new Float32Array(n).fill(i), y: new Float32Array(n).fill(1) });
    if (z.data.some((v) => v !== i + 1)) throw new Error('round ' + i);
    out.large = z.data[n - 1];
  }
  const x = new Float32Array(512);
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  out.slow = String((await session.run({ x }, { entry: 'slow' })).z.data[511]);
  clearInterval(timer);
  out.turns = turns;
  const second = await open({ threads: 1, relaxed: false });
  const both = await Promise.all([session, second].map((each, i) => each.run({ x: x.map(() => i) }, { entry: 'slow' })));
  out.together = both.map(({ z }) => z.data[0]).join();
  const abort = new AbortController();
  setTimeout(() => abort.abort(), 5);
  out.aborted = await session.run({ x }, { entry: 'slow', signal: abort.signal }).then(() => 'done', (e) => e.name);
  out.selftest = (await session.selftest()).ok;
  out.spoiled = await import('/spoiled/index.js').then((b) => b.open()).then(() => 'opened', (e) => e.message);
  second.dispose();
  const under = session.run({ x }, { entry: 'slow' }).then(() => 'done', (e) => e.code);
  setTimeout(() => session.dispose(), 5);
  out.under = await under;
  out.disposed = await session.run({ x }).then(() => 'done', (e) => e.code);
  return out;
};
`;

let browser: Browser;
const folder = mkdtempSync(join(tmpdir(), 'heddle-browser-'));
test.before(async () => {
  const weights = Uint8Array.from({ length: 5000 }, (_, i) => i);
  const bundle = handBundle({
    entries: { main: addEntry, slow: slowEntry },
    weights,
    selftest: [{ entry: 'main', symbols: { n: 3 }, outputs: [], tolerance: 0 }],
  });
  writeBundle(bundle, join(folder, 'good'));
  bundle.files.set(
    'weights.bin',
    weights.map((byte, i) => (i === 4999 ? byte ^ 1 : byte)),
  );
  writeBundle(bundle, join(folder, 'spoiled'));
  browser = await launchBrowser();
});
test.after.always(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

for (const isolated of [true, false]) {
  for (const place of ['page', 'worker'] as const) {
    test(`a bundle runs in a ${place} ${isolated ? 'with' : 'without'} cross-origin isolation`, async (t) => {
      const folders = { '/bundle/': join(folder, 'good'), '/spoiled/': join(folder, 'spoiled') };
      const visit = await reportFrom<Report>(browser, place, { isolated, folders, script });
      const { turns, spoiled, ...report } = visit.report;
      t.deepEqual(report as Partial<Report>, {
        asked: '',
        threads: isolated ? 2 : 1,
        relaxed: true,
        sum: '5,7,9',
        large: 200,
        slow: '1',
        together: '1,2',
        aborted: 'AbortError',
        selftest: true,
        under: 'disposed',
        disposed: 'disposed',
      });
      t.true(turns >= 1, `${turns} turns of the event loop`);
      t.regex(String(spoiled), /weights\.bin: the bytes do not have the hash in the manifest/);

      const warnings = isolated ? [] : [/2 threads need shared memory.*Cross-Origin-Opener-Policy: same-origin/s];
      t.is(visit.complaints.length, warnings.length, visit.complaints.join('\n'));
      for (const [i, warning] of warnings.entries()) t.regex(visit.complaints[i]!, warning);

      const own = ['heddle.js', 'index.js', 'kernels.bin', 'manifest.json', 'weights.bin'];
      const asked = visit.asked.filter((path) => path.startsWith('/bundle/'));
      const expected = [...own, ...(isolated ? ['worker.js'] : [])].map((name) => `/bundle/${name}`);
      t.deepEqual(asked, expected.sort());
      t.true(visit.requests.every(({ status }) => status === 200));
      t.deepEqual(visit.foreign, []);
    });
  }
}
