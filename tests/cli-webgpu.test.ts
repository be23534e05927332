/** The command line on WebGPU: Dawn's package in Node, SwiftShader's driver. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { fixture, heddle, heddleJson, temporary } from './support/cli.ts';
import { useSwiftShader } from './support/swiftshader.ts';
import { hasPackedBrowser, unpack } from './support/unpack.ts';

// Children find the driver by these; a machine without the packed one uses its own.
if (hasPackedBrowser) {
  useSwiftShader();
  process.env.LD_LIBRARY_PATH = unpack('swiftshader');
}

interface Ran {
  readonly device: string;
  readonly fallback?: string;
  readonly outputs: { readonly logits: { readonly data: readonly number[] } };
}

test('a folder compiles for both devices and runs and is measured on either', async (t) => {
  const out = join(temporary(t), 'digits');
  const args = ['compile', fixture('digits', 'vit'), '-o', out, '--target', 'wasm,webgpu'];
  const report = await heddleJson<{ target: string; files: readonly { path: string }[] }>(t, args);
  t.is(report.target, 'wasm,webgpu');
  t.deepEqual(readdirSync(out).sort(), report.files.map(({ path }) => path).sort());
  t.true(readdirSync(out).includes('kernels.wgsl'));

  const [digit] = readdirSync(fixture('digits', 'heldout')).filter((name) => name.endsWith('.png'));
  const image = ['-i', `pixel_values=${fixture('digits', 'heldout', digit!)}`, '--mean', '0.3058', '--std', '0.319'];
  const runs = [];
  for (const device of ['webgpu', 'wasm', 'auto']) {
    runs.push(await heddleJson<Ran>(t, ['run', out, ...image, '--device', device]));
  }
  t.deepEqual(
    runs.map(({ device }) => device),
    ['webgpu', 'wasm', 'webgpu'],
  );
  const [gpu, wasm] = runs.map(({ outputs }) => outputs.logits.data) as [number[], number[]];
  for (const [i, want] of wasm.entries()) t.true(Math.abs(gpu[i]! - want) <= 1e-4, `logit ${i}: ${gpu[i]} and ${want}`);

  const bench = await heddleJson<{ device: string; adapter: string; kernels: readonly { ms: number }[] }>(t, [
    ...['bench', out, '--device', 'webgpu', '--runs', '1'],
  ]);
  t.is(bench.device, 'webgpu');
  t.regex(bench.adapter, /\w/);
  t.true(bench.kernels.length > 3 && bench.kernels.every(({ ms }) => ms >= 0));
  const { stdout } = await heddle(['bench', out, '--device', 'webgpu', '--runs', '1']);
  t.regex(stdout, /WebGPU on \w/);
});

test('targets and devices that do not exist are refused with those that do', async (t) => {
  const out = join(temporary(t), 'digits');
  for (const target of ['webgpu', 'wasm,cuda', '']) {
    const { code, stderr } = await heddle(['compile', fixture('digits', 'vit'), '-o', out, '--target', target]);
    t.is(code, 2);
    t.regex(stderr, /--target wasm or --target wasm,webgpu/);
  }
  const { code, stderr } = await heddle(['run', out, '--device', 'gpu']);
  t.is(code, 2);
  t.regex(stderr, /known: auto, wasm, webgpu/);
});

test('a bundle for WebAssembly alone is refused where WebGPU is asked for', async (t) => {
  const out = join(temporary(t), 'digits');
  t.is((await heddle(['compile', fixture('digits', 'vit'), '-o', out])).code, 0);
  const { code, stderr } = await heddle(['bench', out, '--device', 'webgpu']);
  t.is(code, 2);
  t.regex(stderr, /has no WebGPU kernels/);
});
