/**
 * `node dist/tests/bench/onnx-import.js FILE [--write NAME] [--bundle FOLDER]`: how long importing and compiling an ONNX
 * file takes and how much memory, as one line of JSON. With --write the file is made first, of a model of the benchmark
 * with seeded weights (`vit-b16`: 346 MB), in a process of its own, so that making it does not count.
 *
 * `ratio` is the peak of resident memory beyond what the program itself takes, over the size of the file.
 */
import { spawnSync } from 'node:child_process';
import { statSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { compile } from '../../compiler/compile.ts';
import { importOnnx } from '../../frontends/onnx/index.ts';
import { findModel, onnxGraph } from './models.ts';
import { peakRss } from './peak-rss.ts';
import { seededWeights } from './weights.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { write: { type: 'string' }, bundle: { type: 'string' }, only: { type: 'boolean' } },
});
const [file] = positionals;
if (!file) {
  console.error('usage: onnx-import.js FILE [--write NAME] [--bundle FOLDER]');
  process.exit(2);
}
if (values.write && values.only) writeFileSync(file, onnxGraph(findModel(values.write)).encode(seededWeights));
else {
  if (values.write)
    spawnSync(process.execPath, [import.meta.filename, file, '--write', values.write, '--only'], { stdio: 'inherit' });
  const before = peakRss();
  const start = performance.now();
  const { model, weights } = importOnnx(file);
  const imported = performance.now();
  const bundle = compile(model, { weights });
  const compiled = performance.now();
  if (values.bundle) await bundle.write(values.bundle);
  const bytes = statSync(file).size;
  console.log(
    JSON.stringify({
      bytes,
      importMs: Math.round(imported - start),
      compileMs: Math.round(compiled - imported),
      writeMs: Math.round(performance.now() - compiled),
      peakBytes: peakRss(),
      ratio: Math.round((100 * (peakRss() - before)) / bytes) / 100,
    }),
  );
}
