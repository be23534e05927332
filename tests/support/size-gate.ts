/**
 * The promise that a bundle of ViT or BERT is small: everything but the weights, gzipped, at the model's own symbolic
 * sizes. Run by `npm run check`; exits with 1 when a bundle has outgrown its limit.
 */
import { compile } from '../../compiler/compile.ts';
import { type ModelGraph, zoo } from '../../frontends/zoo/index.ts';
import { sizeOf } from '../../ir/dtype.ts';
import type { WeightStore } from '../../ir/weights.ts';

/** Bytes. */
const LIMIT = 30_000;
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
  const { files, runtimeGzip } = await compile(model, { weights: zeros(model) }).report();
  const parts = files.filter((f) => f.gzip !== null).map((f) => `${f.path} ${f.gzip}`);
  console.log(`${name}: ${runtimeGzip} of ${LIMIT} bytes gzipped (${parts.join(', ')})`);
  if (runtimeGzip <= LIMIT) continue;
  console.error(`${name} is ${runtimeGzip - LIMIT} bytes too large`);
  failed = true;
}
if (failed) process.exitCode = 1;
