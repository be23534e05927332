/** Compiled bundles in headless Chromium, as they are deployed: their folders, a strict policy, nothing else. */
import { readdirSync } from 'node:fs';
import test from 'ava';
import type { Browser } from 'playwright-core';
import type { Progress } from '../runtime/api.ts';
import { launchBrowser } from './support/chromium.ts';
import { reportFrom } from './support/report-page.ts';
import {
  checkImage,
  checkProgress,
  checkText,
  type Plain,
  writeZooSite,
  type ZooSite,
  zooFiles,
  zooScript,
} from './support/zoo-page.ts';

/** What the script below reports. */
interface Report {
  readonly threads: readonly number[];
  readonly relaxed: readonly boolean[];
  readonly vit: readonly Plain[];
  /** The ViT's logits of a run that was queued behind an aborted one. */
  readonly after: Plain;
  readonly prefill: Plain;
  readonly decode: readonly Plain[];
  readonly together: readonly Plain[];
  readonly progress: readonly Progress[];
  readonly abortedOpen: string;
  readonly abortedRun: string;
  readonly selftest: { readonly ok: boolean; readonly worst: number };
  readonly refused: string;
  readonly disposed: string;
}

const script = `${zooScript}
const report = async () => {
  const { image, ids, steps } = await fed();
  const out = { threads: [], relaxed: [], vit: [], decode: [], progress: [] };

  const stop = new AbortController();
  const stopped = vit.open({ signal: stop.signal });
  stop.abort();
  out.abortedOpen = await stopped.then(() => 'opened', (error) => error.name);

  const onProgress = (event) => out.progress.push(event);
  const sessions = [await vit.open({ threads: 2, onProgress }), await vit.open({ threads: 1, relaxed: false })];
  for (const session of sessions) {
    out.threads.push(session.threads);
    out.relaxed.push(session.relaxed);
    out.vit.push(plain((await session.run({ pixel_values: image })).logits));
  }
  const [first, second] = sessions;
  const both = await Promise.all([first, second, first].map((s) => s.run({ pixel_values: image })));
  out.together = both.map(({ logits }) => plain(logits));

  const abort = new AbortController();
  const aborted = first.run({ pixel_values: image }, { signal: abort.signal });
  const queued = first.run({ pixel_values: image });
  abort.abort();
  out.abortedRun = await aborted.then(() => 'done', (error) => error.name);
  out.after = plain((await queued).logits);
  out.selftest = await first.selftest();
  out.refused = await first.run({ pixels: image }).then(() => 'done', (error) => error.message);

  const language = await gpt2.open({ threads: 2 });
  let cache = await language.run({ input_ids: ids }, { entry: 'prefill' });
  out.prefill = plain(cache.logits);
  for (const step of steps) {
    cache = await language.run(following(cache, step), { entry: 'decode' });
    out.decode.push(plain(cache.logits));
  }
  for (const session of [...sessions, language]) session.dispose();
  out.disposed = await first.run({ pixel_values: image }).then(() => 'done', (error) => error.code);
  return out;
};
`;

let browser: Browser;
let site: ZooSite;
test.before(async () => {
  site = await writeZooSite('wasm');
  browser = await launchBrowser();
});
test.after.always(async () => {
  await browser?.close();
  site?.remove();
});

for (const isolated of [true, false]) {
  for (const place of ['page', 'worker'] as const) {
    test(`a ViT and GPT-2 run in a ${place} ${isolated ? 'with' : 'without'} cross-origin isolation`, async (t) => {
      const options = { isolated, folders: site.folders, files: zooFiles(), script };
      const { report, ...visit } = await reportFrom<Report>(browser, place, options);

      t.deepEqual(report.threads, [isolated ? 2 : 1, 1]);
      t.deepEqual(report.relaxed, [true, false]);
      for (const [i, got] of report.vit.entries()) checkImage(t, `logits of session ${i}`, got);
      for (const [i, got] of report.together.entries()) checkImage(t, `logits of concurrent run ${i}`, got);
      t.is(report.together.length, 3);
      checkImage(t, 'logits behind an aborted run', report.after);
      checkText(t, report.prefill, report.decode);
      t.is(report.abortedOpen, 'AbortError');
      t.is(report.abortedRun, 'AbortError');
      t.true(report.selftest.ok, `off by ${report.selftest.worst}`);
      t.regex(report.refused, /pixel_values/);
      t.is(report.disposed, 'disposed');
      checkProgress(t, report.progress);
      const startsThreads = report.progress.some(({ phase }) => phase === 'threads');
      t.is(startsThreads, isolated);

      const warnings = isolated ? [] : [/2 threads need shared memory.*Cross-Origin-Opener-Policy: same-origin/s];
      // Both bundles bring a runtime of their own, and each warns once.
      const expected = [...warnings, ...warnings];
      t.is(visit.complaints.length, expected.length, visit.complaints.join('\n'));
      for (const [i, warning] of expected.entries()) t.regex(visit.complaints[i]!, warning);

      const served = ['heddle.js', 'index.js', 'kernels.bin', 'manifest.json', 'weights.bin'];
      const own = [...served, ...(isolated ? ['worker.js'] : [])];
      t.deepEqual(visit.asked, [...own.map((name) => `/gpt2/${name}`), ...own.map((name) => `/vit/${name}`)]);
      t.true(visit.requests.every(({ status }) => status === 200));
      t.deepEqual(visit.foreign, []);
    });
  }
}

test('a bundle folder holds the loader, its types, the runtime, the kernels and the weights, and nothing else', (t) => {
  const names = ['heddle.js', 'index.d.ts', 'index.js', 'kernels.bin', 'manifest.json'];
  for (const folder of Object.values(site.folders))
    t.deepEqual(readdirSync(folder).sort(), [...names, 'weights.bin', 'worker.js']);
});
