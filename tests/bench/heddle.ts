import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Input } from '../../runtime/api.ts';
import type { Competitor } from './competitor.ts';
import { type BenchModel, inputsOf, type Outputs } from './models.ts';
import { cacheFolder } from './paths.ts';
import { seededWeights } from './weights.ts';

/** Bundles that this process has compiled, or is compiling, by workload. */
const compiled = new Map<string, Promise<void>>();

/** heddle's bundle on the kernels with fused multiply-add. */
export const heddleRelaxed: Competitor = variant('heddle relaxed', true);

/** heddle's bundle on the kernels of plain SIMD: what engines without relaxed SIMD run. */
export const heddlePlain: Competitor = variant('heddle plain', false);

function variant(name: string, relaxed: boolean): Competitor {
  return {
    name,
    nodeFlags: [],
    // The variants share one bundle, compiled anew in each benchmark: the compiler may have changed.
    prepare(model) {
      const running = compiled.get(model.name) ?? compileBundle(model);
      compiled.set(model.name, running);
      return running;
    },
    async open(model, threads) {
      const { open } = await import('../../runtime/index.ts');
      const session = await open(bundleFolder(model), { threads, relaxed });
      if (session.threads !== threads) throw new Error(`${name}: runs on ${session.threads} threads, not ${threads}`);
      const inputs = heddleInputs(model);
      return {
        get plannedBytes() {
          return session.peakBytes;
        },
        async run(): Promise<Outputs> {
          const outputs: Record<string, Float32Array> = {};
          for (const [key, { data }] of Object.entries(await session.run(inputs))) {
            if (!(data instanceof Float32Array)) throw new Error(`${model.name}: output ${key} is not f32`);
            outputs[key] = data;
          }
          return outputs;
        },
      };
    },
    deployedGzip(model) {
      const folder = bundleFolder(model);
      const files = readdirSync(folder).filter((file) => !file.endsWith('.d.ts') && file !== 'weights.bin');
      return files.reduce((sum, file) => sum + gzipSync(readFileSync(join(folder, file)), { level: 9 }).length, 0);
    },
  };
}

/** The workload's inputs under the zoo's names. */
export function heddleInputs(model: BenchModel): Record<string, Input> {
  const renamed: Readonly<Record<string, string>> = { image: 'pixel_values' };
  return Object.fromEntries(Object.entries(inputsOf(model)).map(([name, input]) => [renamed[name] ?? name, input]));
}

function bundleFolder(model: BenchModel): string {
  return join(cacheFolder('bundles'), model.name);
}

/** The compiler is loaded here only, so that the processes that are measured do without it. */
async function compileBundle(workload: BenchModel): Promise<void> {
  const [{ compile }, { heddleModel }] = await Promise.all([
    import('../../compiler/compile.ts'),
    import('./heddle-models.ts'),
  ]);
  const { model, weights, symbols } = heddleModel(workload, seededWeights);
  const bundle = compile(model, { weights, symbols });
  await bundle.write(bundleFolder(workload));
}
