/** Compiling a fixture model to a folder, and what that cost. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { compile } from '../../compiler/compile.ts';
import { modelFromHf } from '../../frontends/zoo/hf.ts';
import { countMacs } from '../../ir/macs.ts';
import { digitsRoot } from './digits.ts';

export interface Built {
  readonly folder: string;
  readonly parameters: number;
  /** Reading, compiling and writing, in milliseconds. */
  readonly compileMs: number;
  /** Multiply-accumulates of one image: of the model as written, and of the graph that was compiled. */
  readonly macsWritten: number;
  readonly macsCompiled: number;
  readonly weightBytes: number;
  /** Everything but the weights. */
  readonly runtimeBytes: number;
  /** The same, each file gzipped at level 9. */
  readonly runtimeGzip: number;
}

/** Compiles `tests/fixtures/digits/<which>` into `folder`. */
export async function buildDigits(which: 'vit' | 'mae', folder: string): Promise<Built> {
  const begin = performance.now();
  const { model, weights } = modelFromHf(join(digitsRoot, which), which === 'vit' ? { attentionMap: true } : {});
  const bundle = await compile(model, { weights });
  await bundle.write(folder);
  const compileMs = performance.now() - begin;
  const weightFile = bundle.manifest.weights.file;
  const files = readdirSync(folder).map((name) => ({ name, bytes: readFileSync(join(folder, name)) }));
  const runtime = files.filter(({ name }) => name !== weightFile).map(({ bytes }) => bytes);
  const total = (of: (bytes: Uint8Array) => number): number => runtime.reduce((sum, bytes) => sum + of(bytes), 0);
  return {
    folder,
    parameters: model.parameters.reduce((sum, { shape }) => sum + shape.reduce((n, d) => n * d, 1), 0),
    compileMs,
    macsWritten: countMacs(model.entries.main!),
    macsCompiled: bundle.entries.reduce((sum, { optimised }) => sum + countMacs(optimised), 0),
    weightBytes: bundle.manifest.weights.bytes,
    runtimeBytes: total((bytes) => bytes.length),
    runtimeGzip: total((bytes) => gzipSync(bytes, { level: 9 }).length),
  };
}
