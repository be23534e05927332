/** Compiled bundles on WebGPU in headless Chromium, under a strict policy, in a page and in a worker. */
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
}

const script = `${zooScript}
const report = async () => {
  const { image, ids, steps } = await fed();
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
  let cache = await language.runOnDevice({ input_ids: ids }, { entry: 'prefill' });
  out.prefill = plain(await cache.logits.read());
  for (const step of steps) {
    const next = await language.runOnDevice(following(cache, step), { entry: 'decode' });
    for (const tensor of Object.values(cache)) tensor.destroy();
    cache = next;
    out.decode.push(plain(await cache.logits.read()));
  }
  for (const each of [onWasm, session, language]) each.dispose();
  out.disposed = await session.run({ pixel_values: image }).then(() => 'done', (error) => error.code);
  return out;
};
`;

let browser: Browser;
let site: ZooSite;
test.before(async () => {
  site = await writeZooSite(['wasm', 'webgpu']);
  browser = await launchBrowser();
});
test.after.always(async () => {
  await browser?.close();
  site?.remove();
});

for (const place of ['page', 'worker'] as const) {
  test.serial(`a ViT and GPT-2 run on WebGPU in a ${place}`, async (t) => {
    const options = { folders: site.folders, files: zooFiles(), script, seconds: 240 };
    const { report, ...visit } = await reportFrom<Report>(browser, place, options);

    // Without an adapter, the second would be `wasm`: this fails rather than skips.
    t.deepEqual(report.devices, ['wasm', 'webgpu', 'webgpu']);
    t.regex(report.adapter, /\w/);
    t.regex(report.fallback, /no WebGPU adapter/);
    checkImage(t, 'logits', report.vit);
    checkImage(t, 'logits on WebAssembly', report.onWasm);
    checkImage(t, 'logits behind an aborted run', report.after);
    checkText(t, report.prefill, report.decode);
    t.is(report.abortedOpen, 'AbortError');
    t.is(report.abortedRun, 'AbortError');
    t.true(report.selftest.ok, `off by ${report.selftest.worst}`);
    t.regex(report.refused, /pixel_values/);
    t.is(report.disposed, 'disposed');
    checkProgress(t, report.progress);

    t.deepEqual(visit.complaints, []);
    // SwiftShader has subgroups: the kernels for devices without are not loaded.
    const common = ['heddle.js', 'index.js', 'kernels.subgroups.wgsl', 'manifest.json', 'weights.bin', 'webgpu.js'];
    const wanted = [
      ...[...common, 'kernels.bin', 'wasm.js'].map((name) => `/vit/${name}`),
      ...common.map((name) => `/gpt2/${name}`),
    ];
    t.deepEqual(visit.asked, wanted.sort());
    t.true(visit.requests.every(({ status }) => status === 200));
    t.deepEqual(visit.foreign, []);
  });
}

test('a folder for both devices holds what either needs, and nothing else', (t) => {
  const runtime = ['heddle.js', 'wasm.js', 'webgpu.js', 'worker.js'];
  const kernels = ['kernels.bin', 'kernels.subgroups.wgsl', 'kernels.wgsl'];
  const wanted = [...runtime, ...kernels, 'index.d.ts', 'index.js', 'manifest.json', 'weights.bin'];
  t.deepEqual(readdirSync(site.folders['/vit/']).sort(), wanted.sort());
});
