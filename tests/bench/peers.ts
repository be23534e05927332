import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { projectRoot } from '../support/project.ts';
import type { Competitor, Runner } from './competitor.ts';
import { type BenchModel, inputsOf, type Outputs, onnxGraph } from './models.ts';
import { cacheFolder } from './paths.ts';
import { SEEDED_WEIGHTS_ID, seededWeights } from './weights.ts';

/** What the two packages have in common; each brings its own `Tensor` and `InferenceSession` classes. */
interface OrtTensor {
  readonly data: unknown;
}
interface OrtSession<T> {
  run(feeds: Record<string, T>): Promise<Readonly<Record<string, OrtTensor>>>;
}

/** Path of the model's `.onnx` file, written on the first call. */
export function onnxFile(model: BenchModel): string {
  const file = join(cacheFolder('onnx'), `${model.name}-${SEEDED_WEIGHTS_ID}.onnx`);
  if (!existsSync(file)) {
    const unfinished = `${file}.${process.pid}`;
    writeFileSync(unfinished, onnxGraph(model).encode(seededWeights));
    renameSync(unfinished, file);
  }
  return file;
}

/**
 * onnxruntime-web on WebAssembly, its fixed-width SIMD build (the package carries no other), on the calling thread as
 * in a worker of its own. Reads the file into memory first, as a page that fetched it would hold it.
 */
export const ortWeb: Competitor = {
  name: 'onnxruntime-web',
  nodeFlags: [],
  async prepare(model) {
    onnxFile(model);
    return undefined;
  },
  async open(model, threads) {
    const ort = await import('onnxruntime-web');
    Object.assign(ort.env.wasm, { numThreads: threads, simd: 'fixed', proxy: false });
    const session = await ort.InferenceSession.create(await readFile(onnxFile(model)), {
      executionProviders: ['wasm'],
      graphOptimizationLevel: 'all',
    });
    return runner(model, session, (data, shape) =>
      data instanceof Float32Array ? new ort.Tensor('float32', data, shape) : new ort.Tensor('int64', data, shape),
    );
  },
  deployedGzip: () => ortWebGzip(),
};

const ortWebGzip = once(() => {
  const folder = join(projectRoot, 'node_modules', 'onnxruntime-web', 'dist');
  const files = ['ort-wasm-simd-threaded.wasm', 'ort-wasm-simd-threaded.mjs', 'ort.wasm.min.mjs'];
  return files.reduce((sum, file) => sum + gzipSync(readFileSync(join(folder, file)), { level: 9 }).length, 0);
});

/** onnxruntime-node's native CPU provider; the reference for the others' outputs. */
export const ortNode: Competitor = {
  name: 'onnxruntime-node',
  nodeFlags: [],
  async prepare(model) {
    onnxFile(model);
    return undefined;
  },
  async open(model, threads) {
    const ort = (await import('onnxruntime-node')).default;
    const session = await ort.InferenceSession.create(onnxFile(model), {
      executionProviders: ['cpu'],
      graphOptimizationLevel: 'all',
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
    });
    return runner(model, session, (data, shape) =>
      data instanceof Float32Array ? new ort.Tensor('float32', data, shape) : new ort.Tensor('int64', data, shape),
    );
  },
};

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

function runner<T>(
  model: BenchModel,
  session: OrtSession<T>,
  tensor: (data: Float32Array | BigInt64Array, shape: readonly number[]) => T,
): Runner {
  const feeds: Record<string, T> = {};
  for (const [name, { data, shape }] of Object.entries(inputsOf(model))) feeds[name] = tensor(data, shape);
  return {
    async run(): Promise<Outputs> {
      const outputs: Record<string, Float32Array> = {};
      for (const [name, { data }] of Object.entries(await session.run(feeds))) {
        if (!(data instanceof Float32Array)) throw new Error(`${model.name}: output ${name} is not f32`);
        outputs[name] = data;
      }
      return outputs;
    },
  };
}
