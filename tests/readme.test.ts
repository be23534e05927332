import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { projectRoot } from './support/project.ts';

const readme = readFileSync(join(projectRoot, 'README.md'), 'utf8');
const examples = [...readme.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match) => match[1]!);

/** Below the project's root, so that `heddle` is the package itself as it was built. */
const folder = join(projectRoot, 'dist', 'readme');
test.before(() => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
});
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

test('the examples of the README type-check against the package, and the first one runs', (t) => {
  t.true(examples.length >= 3);
  const names = examples.map((example, i) => {
    writeFileSync(join(folder, `example-${i}.ts`), `${example}export {};\n`);
    return `example-${i}.ts`;
  });
  const compiler = join(projectRoot, 'node_modules', 'typescript', 'bin', 'tsc');
  const flags = '--strict --noUncheckedIndexedAccess --exactOptionalPropertyTypes --target es2022 --module nodenext';
  const command = [compiler, ...flags.split(' '), '--types', 'node', '--ignoreConfig', ...names];
  const checked = spawnSync(process.execPath, command, { cwd: folder, encoding: 'utf8' });
  t.is(checked.status, 0, checked.stdout + checked.stderr);

  const run = spawnSync(process.execPath, ['example-0.js'], { cwd: folder, encoding: 'utf8' });
  t.is(run.status, 0, run.stderr);
  // Two images that are equal get equal probabilities, which sum to one.
  const [, shape, values] = /^(\[.*?\]) Float32Array\(20\) \[([\s\S]*)\]\s*$/.exec(run.stdout) ?? [];
  t.is(shape, '[ 2, 10 ]', run.stdout);
  const numbers = values!.split(',').map(Number);
  t.deepEqual(numbers.slice(0, 10), numbers.slice(10));
  t.true(Math.abs(numbers.reduce((sum, x) => sum + x, 0) - 2) < 1e-5);
  for (const name of ['index.js', 'index.d.ts', 'manifest.json', 'weights.bin'])
    t.true(existsSync(join(folder, 'digits-bundle', name)), `digits-bundle/${name} was not written`);
});

test('the commands of the README run, in their order, on what it names', (t) => {
  const block = /^<!-- cli:begin -->\n```sh\n([\s\S]*?)^```$/m.exec(readme)![1]!;
  const lines = block.trimEnd().split('\n');
  t.true(lines.length >= 6);
  for (const line of lines) {
    const [program, ...words] = line.replace(/ +#.*$/, '').split(' ');
    t.is(program, 'heddle');
    const main = join(projectRoot, 'dist', 'compiler', 'cli', 'main.js');
    const command = words.map((word) => word.replace('.demo', folder));
    const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...command], {
      cwd: projectRoot,
      encoding: 'utf8',
    });
    t.is(status, 0, `${line}\n${stdout}${stderr}`);
    if (words[0] === 'run') t.regex(stdout, /^logits f32\[1, 10\].*largest \[4\]/m);
  }
});

test('every path and every npm script that the README names is there', (t) => {
  const text = readme.replace(/^```[\s\S]*?^```$/gm, '');
  const paths = [...text.matchAll(/`((?:ir|passes|compiler|runtime|frontends|tests)\/[\w./-]*)`/g)].map((m) => m[1]!);
  t.true(paths.length > 30, `${paths.length} paths`);
  const written = new Set(['tests/bench/results.md']);
  const missing = paths.filter((path) => !/\bNAME\b/.test(path) && !written.has(path));
  t.deepEqual(
    missing.filter((path) => !existsSync(join(projectRoot, path))),
    [],
  );
  const { scripts } = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as {
    readonly scripts: Readonly<Record<string, string>>;
  };
  const named = new Set([...readme.matchAll(/\bnpm run (\w+)/g)].map((m) => m[1]!));
  t.deepEqual(
    [...named].filter((name) => scripts[name] === undefined),
    [],
  );
});
