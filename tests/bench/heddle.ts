import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import type { Input, OpenOptions, Session } from '../../runtime/api.ts';
import type { Competitor, Preparation } from './competitor.ts';
import { type BenchModel, inputsOf, type Outputs } from './models.ts';
import { cacheFolder } from './paths.ts';

/** Bundles that this process has compiled, or is compiling, by workload. */
const compiled = new Map<string, Promise<Preparation>>();

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
      const loader = pathToFileURL(join(bundleFolder(model), 'index.js')).href;
      const { open }: { open(options: OpenOptions): Promise<Session> } = await import(loader);
      const session = await open({ threads, relaxed });
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

/** In a process of its own, so that its time and memory are the compiler's. */
async function compileBundle(workload: BenchModel): Promise<Preparation> {
  const script = fileURLToPath(new URL('./compile-process.js', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script, workload.name, bundleFolder(workload)]);
  return JSON.parse(stdout) as Preparation;
}
