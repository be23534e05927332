import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { build } from 'esbuild';
import { CompileError } from '../ir/diagnostic.ts';
import { projectRoot } from './support/project.ts';

test('the package shares its graph language with the modules that it was built from', async (t) => {
  const heddle = await import('heddle');
  t.is(heddle.CompileError, CompileError);
});

/** What a bundler drops as free of side effects must not be missed: operators register themselves. */
test('a program that a bundler put into one file compiles and runs a model', async (t) => {
  const folder = mkdtempSync(join(projectRoot, 'dist', 'package-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const [source, outfile] = [join(folder, 'program.js'), join(folder, 'out.mjs')];
  writeFileSync(
    source,
    `import { compile, f32, input, model, softmax } from 'heddle';
     import { seededWeights } from 'heddle/zoo';
     const twice = model('twice', { x: input(f32, [3]) }, ({ x }) => ({ y: softmax(x) }));
     const report = await compile(twice, { weights: seededWeights(twice) }).report();
     console.log(report.kernels > 0);`,
  );
  const common = { bundle: true, format: 'esm', platform: 'node', logLevel: 'silent' } as const;
  const { warnings } = await build({
    ...common,
    entryPoints: [source],
    outfile,
    external: ['ts-morph', 'webgpu', 'protobufjs', 'onnx-proto'],
  });
  t.deepEqual(warnings, []);
  const { stdout } = await promisify(execFile)(process.execPath, [outfile]);
  t.is(stdout.trim(), 'true');
});
