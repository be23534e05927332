/** Compiling a fixture model, through what the package exports. */
import { join } from 'node:path';
import { type Bundle, type CompileReport, compile } from '../../compiler/index.ts';
import { countParameters, modelFromHf } from '../../frontends/zoo/index.ts';
import { digitsRoot } from './digits.ts';

export interface Built {
  readonly folder: string;
  readonly parameters: number;
  /** From the model's folder to the bundle's, in milliseconds. */
  readonly compileMs: number;
  readonly report: CompileReport;
  /** Gzipped bytes of what one engine fetches besides the weights: one variant of the kernels, no types. */
  readonly fetchedGzip: number;
  /** The same model compiled without a single rewrite: what the passes are compared with. */
  readonly asWritten: Bundle;
}

/** Compiles `tests/fixtures/digits/<which>` into `folder`. */
export async function buildDigits(which: 'vit' | 'mae', folder: string): Promise<Built> {
  const begin = performance.now();
  const { model, weights } = modelFromHf(join(digitsRoot, which), which === 'vit' ? { attentionMap: true } : {});
  const bundle = compile(model, { weights });
  await bundle.write(folder);
  const compileMs = performance.now() - begin;
  const report = await bundle.report();
  const fetched = report.files.filter(({ path }) => path !== 'index.d.ts');
  return {
    folder,
    parameters: countParameters(model),
    compileMs,
    report,
    fetchedGzip: fetched.reduce((sum, { gzip }) => sum + (gzip ?? 0), 0),
    asWritten: compile(model, { weights, stopAfter: 0 }),
  };
}
