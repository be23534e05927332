/**
 * The promise that a bundle of ViT or BERT is small: everything but the weights, gzipped, at the model's own symbolic
 * sizes. Run by `npm run check`; exits with 1 when a bundle has outgrown its limit.
 */
import { compile } from '../../compiler/compile.ts';
import type { FileReport } from '../../compiler/report.ts';
import { type ModelGraph, zoo } from '../../frontends/zoo/index.ts';
import { sizeOf } from '../../ir/dtype.ts';
import type { WeightStore } from '../../ir/weights.ts';

/** Bytes. */
const LIMIT = 30_000;
/** The same of what a page on WebGPU loads of a bundle for both devices, whose manifest holds both plans. */
const GPU_LIMIT = 30_000;
const MODELS = ['vit-b16', 'bert-base'] as const;

/** Sizes do not depend on what the weights are. */
function zeros(model: ModelGraph): WeightStore {
  const parameters = new Map(model.parameters.map((p) => [p.name, p]));
  return {
    source: 'zeros',
    names: () => [...parameters.keys()],
    get(name) {
      const p = parameters.get(name);
      if (!p) return undefined;
      const count = p.shape.reduce((n, d) => n * d, 1);
      return { dtype: p.dtype, shape: p.shape, bytes: new Uint8Array(count * sizeOf(p.dtype)) };
    },
  };
}

let failed = false;
for (const name of MODELS) {
  const model = zoo(name);
  const weights = zeros(model);
  const alone = await compile(model, { weights }).report();
  gate(name, alone.files, LIMIT);
  const both = await compile(model, { weights, target: ['wasm', 'webgpu'] }).report();
  // What a page loads that computes on WebGPU: of the kernels for different devices one file, here the largest.
  const bySize = [...both.files].sort((a, b) => (b.gzip ?? 0) - (a.gzip ?? 0));
  const largest = bySize.find(({ path }) => path.endsWith('.wgsl'));
  const onGpu = both.files.filter(
    (f) => f === largest || !/^(kernels\.bin|wasm\.js|worker\.js|.*\.wgsl)$/.test(f.path),
  );
  gate(`${name} on WebGPU`, onGpu, GPU_LIMIT);
}

function gate(what: string, all: readonly FileReport[], limit: number): void {
  const files = all.filter((file) => file.gzip !== null);
  const size = files.reduce((sum, { gzip }) => sum + gzip!, 0);
  const parts = files.map(({ path, gzip }) => `${path} ${gzip}`);
  console.log(`${what}: ${size} of ${limit} bytes gzipped (${parts.join(', ')})`);
  if (size <= limit) return;
  console.error(`${what} is ${size - limit} bytes too large`);
  failed = true;
}

if (failed) process.exitCode = 1;
