import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import type { Browser, Page } from 'playwright-core';
import { closePage, launchBrowser, openPage, valueIn } from './support/chromium.ts';
import { addEntry, handBundle, slowEntry, writeBundle } from './support/hand-bundle.ts';
import { serve } from './support/server.ts';

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
const answer = await report().catch((error) => ({ error: String(error && error.stack || error) }));
if (typeof document === 'undefined') postMessage(answer);
else globalThis.report = answer;
`;

const inWorker = `
const worker = new Worker('/script.js', { type: 'module' });
worker.onmessage = (event) => { globalThis.report = event.data; };
worker.onerror = (event) => { globalThis.report = { error: event.message }; };
`;

const html = (src: string): string => `<!doctype html><script type="module" src="${src}"></script>`;

const reportOf = (page: Page): Promise<Report> => valueIn(page, 'report');

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
  for (const place of ['page', 'worker']) {
    test(`a bundle runs in a ${place} ${isolated ? 'with' : 'without'} cross-origin isolation`, async (t) => {
      const server = await serve({
        isolated,
        folders: { '/bundle/': join(folder, 'good'), '/spoiled/': join(folder, 'spoiled') },
        files: {
          '/favicon.ico': '',
          '/index.html': html(place === 'page' ? '/script.js' : '/start.js'),
          '/script.js': script,
          '/start.js': inWorker,
        },
      });
      t.teardown(() => server.close());
      const watched = await openPage(browser, `${server.origin}/index.html`);
      const { turns, spoiled, ...report } = await reportOf(watched.page);
      await closePage(watched);
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
      t.is(watched.complaints.length, warnings.length, watched.complaints.join('\n'));
      for (const [i, warning] of warnings.entries()) t.regex(watched.complaints[i]!, warning);

      const own = ['heddle.js', 'index.js', 'kernels.bin', 'manifest.json', 'weights.bin'];
      const asked = new Set(server.requests.map(({ path }) => path).filter((path) => path.startsWith('/bundle/')));
      const expected = [...own, ...(isolated ? ['worker.js'] : [])].map((name) => `/bundle/${name}`);
      t.deepEqual([...asked].sort(), expected.sort());
      t.true(server.requests.every(({ status }) => status === 200));
      t.true(watched.urls.every((url) => url.startsWith(server.origin)));
    });
  }
}
