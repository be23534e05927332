/** Compiled bundles in headless Chromium, as they are deployed: their folders, a strict policy, nothing else. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import type { Browser, Page } from 'playwright-core';
import { recordSelfTest } from '../compiler/cli/record.ts';
import { compile } from '../compiler/compile.ts';
import { modelFromHf } from '../frontends/zoo/hf.ts';
import type { Progress } from '../runtime/api.ts';
import { closePage, launchBrowser, openPage, valueIn } from './support/chromium.ts';
import { type Recorded, reference, referenceFolder, relativeError } from './support/references.ts';
import { serve } from './support/server.ts';

/** As in `zoo-bundles.test.ts`. */
const TOLERANCE = 1e-5;

/** An output as it crosses from the page. */
interface Plain {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

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

const script = `
import * as vit from '/vit/index.js';
import * as gpt2 from '/gpt2/index.js';

const plain = ({ shape, data }) => ({ shape, data: Array.from(data, Number) });
const report = async () => {
  const inputs = await (await fetch('/inputs.json')).json();
  const image = { data: new Float32Array(inputs.pixels.data), shape: inputs.pixels.shape };
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
  const ids = { data: inputs.ids.data, shape: inputs.ids.shape };
  let cache = await language.run({ input_ids: ids }, { entry: 'prefill' });
  out.prefill = plain(cache.logits);
  for (const step of inputs.steps) {
    const given = { input_ids: step };
    for (const [name, tensor] of Object.entries(cache))
      if (name !== 'logits') given[name.replace('present', 'past')] = tensor;
    cache = await language.run(given, { entry: 'decode' });
    out.decode.push(plain(cache.logits));
  }
  for (const session of [...sessions, language]) session.dispose();
  out.disposed = await first.run({ pixel_values: image }).then(() => 'done', (error) => error.code);
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

async function reportOf(page: Page): Promise<Report> {
  const report = await valueIn<Report & { readonly error?: string }>(page, 'report');
  if (report.error !== undefined) throw new Error(report.error);
  return report;
}

const vit = reference('vit-timm');
const gpt2 = reference('gpt2-hf');

/** What the page feeds, as JSON. */
function inputsJson(): string {
  const plain = ({ data, shape }: Recorded): Plain => ({ data: Array.from(data, Number), shape });
  const decode = plain(gpt2('input.decode_ids'));
  const [batch, count] = decode.shape as [number, number];
  const steps = Array.from({ length: count }, (_, step) => ({
    data: Array.from({ length: batch }, (_, row) => decode.data[row * count + step]),
    shape: [batch, 1],
  }));
  return JSON.stringify({ pixels: plain(vit('input.pixel_values')), ids: plain(gpt2('input.input_ids')), steps });
}

let browser: Browser;
const folder = mkdtempSync(join(tmpdir(), 'heddle-bundles-'));
test.before(async () => {
  const models = ['vit-timm', 'gpt2-hf'] as const;
  for (const name of models) {
    const { model, weights } = modelFromHf(referenceFolder(name));
    const bundle = compile(model, { weights });
    const finished = name === 'vit-timm' ? bundle.withSelfTest(await recordSelfTest(bundle)) : bundle;
    await finished.write(join(folder, name));
  }
  browser = await launchBrowser();
});
test.after.always(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

for (const isolated of [true, false]) {
  for (const place of ['page', 'worker']) {
    test(`a ViT and GPT-2 run in a ${place} ${isolated ? 'with' : 'without'} cross-origin isolation`, async (t) => {
      const server = await serve({
        isolated,
        folders: { '/vit/': join(folder, 'vit-timm'), '/gpt2/': join(folder, 'gpt2-hf') },
        files: {
          '/favicon.ico': '',
          '/index.html': html(place === 'page' ? '/script.js' : '/start.js'),
          '/script.js': script,
          '/start.js': inWorker,
          '/inputs.json': inputsJson(),
        },
      });
      t.teardown(() => server.close());
      const watched = await openPage(browser, `${server.origin}/index.html`);
      t.teardown(() => closePage(watched));
      const report = await reportOf(watched.page);

      t.deepEqual(report.threads, [isolated ? 2 : 1, 1]);
      t.deepEqual(report.relaxed, [true, false]);
      const close = (what: string, got: Plain, want: Recorded, shape = want.shape): void => {
        t.deepEqual(got.shape, shape, what);
        const error = relativeError(got.data, want.data as Float32Array);
        t.true(error <= TOLERANCE, `${what} is off by ${error}`);
      };
      const logits = vit('output.logits');
      for (const [i, got] of report.vit.entries()) close(`logits of session ${i}`, got, logits);
      for (const [i, got] of report.together.entries()) close(`logits of concurrent run ${i}`, got, logits);
      t.is(report.together.length, 3);
      close('logits behind an aborted run', report.after, logits);
      close('logits of the prompt', report.prefill, gpt2('output.prefill.logits'));
      t.is(report.decode.length, 3);
      for (const [i, got] of report.decode.entries()) {
        const want = gpt2(`output.decode.${i}.logits`);
        const [batch, vocabulary] = want.shape as [number, number];
        close(`logits of token ${i}`, got, want, [batch, 1, vocabulary]);
      }

      t.is(report.abortedOpen, 'AbortError');
      t.is(report.abortedRun, 'AbortError');
      t.true(report.selftest.ok, `off by ${report.selftest.worst}`);
      t.regex(report.refused, /pixel_values/);
      t.is(report.disposed, 'disposed');
      checkProgress(report.progress, isolated);

      const warnings = isolated ? [] : [/2 threads need shared memory.*Cross-Origin-Opener-Policy: same-origin/s];
      // Both bundles bring a runtime of their own, and each warns once.
      const expected = [...warnings, ...warnings];
      t.is(watched.complaints.length, expected.length, watched.complaints.join('\n'));
      for (const [i, warning] of expected.entries()) t.regex(watched.complaints[i]!, warning);

      const own = [
        '/index.html',
        '/script.js',
        '/inputs.json',
        '/favicon.ico',
        ...(place === 'worker' ? ['/start.js'] : []),
      ];
      const served = ['heddle.js', 'index.js', 'kernels.bin', 'manifest.json', 'weights.bin'];
      const threaded = isolated ? ['worker.js'] : [];
      const wanted = [
        ...[...served, ...threaded].map((name) => `/vit/${name}`),
        ...[...served, ...threaded].map((name) => `/gpt2/${name}`),
      ];
      const asked = new Set(server.requests.map(({ path }) => path).filter((path) => !own.includes(path)));
      t.deepEqual([...asked].sort(), wanted.sort());
      t.true(server.requests.every(({ status }) => status === 200));
      t.true(watched.urls.every((url) => url.startsWith(`${server.origin}/`)));

      /** Phases come in order, bytes only grow, and the weights end at the size of their file. */
      function checkProgress(events: readonly Progress[], threads: boolean): void {
        t.is(events[0]?.phase, 'manifest');
        t.is(events.at(-1)?.phase, 'ready');
        const bytes = events.filter(({ phase }) => phase === 'weights');
        t.true(bytes.length > 0);
        t.is(bytes.at(-1)?.loaded, bytes.at(-1)?.total);
        t.true(bytes.every(({ loaded }, i) => loaded > 0 && loaded >= (bytes[i - 1]?.loaded ?? 0)));
        t.true(events.some(({ phase }) => phase === 'kernels'));
        t.is(
          events.some(({ phase }) => phase === 'threads'),
          threads,
        );
      }
    });
  }
}

test('a bundle folder holds the loader, its types, the runtime, the kernels and the weights, and nothing else', (t) => {
  const names = ['heddle.js', 'index.d.ts', 'index.js', 'kernels.bin', 'manifest.json'];
  for (const name of ['vit-timm', 'gpt2-hf']) {
    t.deepEqual(readdirSync(join(folder, name)).sort(), [...names, 'weights.bin', 'worker.js']);
  }
});
