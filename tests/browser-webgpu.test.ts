/** Compiled bundles on WebGPU in headless Chromium, under a strict policy, in a page and in a worker. */
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

/** Largest |got − want| over largest |want|: promised is 1e-4. */
const TOLERANCE = 1e-5;

/** An output as it crosses from the page. */
interface Plain {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

/** What the script below reports. */
interface Report {
  readonly devices: readonly string[];
  readonly adapter: string;
  readonly fallback: string;
  readonly vit: Plain;
  readonly onWasm: Plain;
  /** Logits of a run that was queued behind an aborted one. */
  readonly after: Plain;
  readonly prefill: Plain;
  readonly decode: readonly Plain[];
  readonly progress: readonly Progress[];
  readonly abortedOpen: string;
  readonly abortedRun: string;
  readonly selftest: { readonly ok: boolean; readonly worst: number };
  readonly refused: string;
  readonly disposed: string;
  readonly error?: string;
}

const script = `
import * as vit from '/vit/index.js';
import * as gpt2 from '/gpt2/index.js';

const plain = ({ shape, data }) => ({ shape, data: Array.from(data, Number) });
const report = async () => {
  const inputs = await (await fetch('/inputs.json')).json();
  const image = { data: new Float32Array(inputs.pixels.data), shape: inputs.pixels.shape };
  const out = { devices: [], decode: [], progress: [] };

  const stop = new AbortController();
  const stopped = vit.open({ device: 'webgpu', signal: stop.signal });
  stop.abort();
  out.abortedOpen = await stopped.then(() => 'opened', (error) => error.name);

  const none = { requestAdapter: async () => null };
  const onWasm = await vit.open({ gpu: none, threads: 1 });
  out.fallback = onWasm.fallback;
  out.onWasm = plain((await onWasm.run({ pixel_values: image })).logits);

  const session = await vit.open({ onProgress: (event) => out.progress.push(event) });
  out.devices.push(onWasm.device, session.device);
  out.adapter = session.adapter;
  out.vit = plain((await session.run({ pixel_values: image })).logits);
  const abort = new AbortController();
  const aborted = session.run({ pixel_values: image }, { signal: abort.signal });
  const queued = session.run({ pixel_values: image });
  abort.abort();
  out.abortedRun = await aborted.then(() => 'done', (error) => error.name);
  out.after = plain((await queued).logits);
  out.selftest = await session.selftest();
  out.refused = await session.run({ pixels: image }).then(() => 'done', (error) => error.message);

  // The cache of keys and values stays on the device from token to token.
  const language = await gpt2.open({ device: 'webgpu' });
  out.devices.push(language.device);
  const ids = { data: inputs.ids.data, shape: inputs.ids.shape };
  let cache = await language.runOnDevice({ input_ids: ids }, { entry: 'prefill' });
  out.prefill = plain(await cache.logits.read());
  for (const step of inputs.steps) {
    const given = { input_ids: step };
    for (const [name, tensor] of Object.entries(cache))
      if (name !== 'logits') given[name.replace('present', 'past')] = tensor;
    const next = await language.runOnDevice(given, { entry: 'decode' });
    for (const tensor of Object.values(cache)) tensor.destroy();
    cache = next;
    out.decode.push(plain(await cache.logits.read()));
  }
  for (const each of [onWasm, session, language]) each.dispose();
  out.disposed = await session.run({ pixel_values: image }).then(() => 'done', (error) => error.code);
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
  const report = await valueIn<Report & { readonly error?: string }>(page, 'report', 240);
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
const folder = mkdtempSync(join(tmpdir(), 'heddle-webgpu-'));
test.before(async () => {
  for (const name of ['vit-timm', 'gpt2-hf'] as const) {
    const { model, weights } = modelFromHf(referenceFolder(name));
    const bundle = compile(model, { weights, target: ['wasm', 'webgpu'] });
    const finished = name === 'vit-timm' ? bundle.withSelfTest(await recordSelfTest(bundle)) : bundle;
    await finished.write(join(folder, name));
  }
  browser = await launchBrowser();
});
test.after.always(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

for (const place of ['page', 'worker']) {
  test.serial(`a ViT and GPT-2 run on WebGPU in a ${place}`, async (t) => {
    const server = await serve({
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

    // Without an adapter, the second would be `wasm`: this fails rather than skips.
    t.deepEqual(report.devices, ['wasm', 'webgpu', 'webgpu']);
    t.regex(report.adapter, /\w/);
    t.regex(report.fallback, /no WebGPU adapter/);
    const close = (what: string, got: Plain, want: Recorded, shape = want.shape): void => {
      t.deepEqual(got.shape, shape, what);
      const error = relativeError(got.data, want.data as Float32Array);
      t.true(error <= TOLERANCE, `${what} is off by ${error}`);
    };
    const logits = vit('output.logits');
    close('logits', report.vit, logits);
    close('logits on WebAssembly', report.onWasm, logits);
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
    t.is(report.progress[0]?.phase, 'manifest');
    t.is(report.progress.at(-1)?.phase, 'ready');
    for (const phase of ['kernels', 'weights']) {
      const events = report.progress.filter((event) => event.phase === phase);
      t.true(events.length > 0, phase);
      t.is(events.at(-1)?.loaded, events.at(-1)?.total, phase);
      t.true(
        events.every(({ loaded }, i) => loaded > 0 && loaded >= (events[i - 1]?.loaded ?? 0)),
        phase,
      );
    }
    t.deepEqual(watched.complaints, []);

    const own = ['/index.html', '/script.js', '/inputs.json', '/favicon.ico', '/start.js'];
    const common = ['heddle.js', 'index.js', 'kernels.wgsl', 'manifest.json', 'weights.bin', 'webgpu.js'];
    const wanted = [
      ...[...common, 'kernels.bin', 'wasm.js'].map((name) => `/vit/${name}`),
      ...common.map((name) => `/gpt2/${name}`),
    ];
    const asked = new Set(server.requests.map(({ path }) => path).filter((path) => !own.includes(path)));
    t.deepEqual([...asked].sort(), wanted.sort());
    t.true(server.requests.every(({ status }) => status === 200));
    t.true(watched.urls.every((url) => url.startsWith(`${server.origin}/`)));
  });
}

test('a folder for both devices holds what either needs, and nothing else', (t) => {
  const runtime = ['heddle.js', 'wasm.js', 'webgpu.js', 'worker.js'];
  const kernels = ['kernels.bin', 'kernels.wgsl'];
  const wanted = [...runtime, ...kernels, 'index.d.ts', 'index.js', 'manifest.json', 'weights.bin'];
  t.deepEqual(readdirSync(join(folder, 'vit-timm')).sort(), wanted.sort());
});
