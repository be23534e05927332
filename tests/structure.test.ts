import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { projectRoot } from './support/project.ts';
import { checkStructure, type PackageFacts } from './support/structure.ts';

const folders = ['ir', 'passes', 'compiler', 'runtime', 'frontends', 'tests'];

/** What `package.json` says that the checks below read. */
interface Manifest {
  readonly name: string;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly peerDependencies: Readonly<Record<string, string>>;
}

function readTree(): Map<string, string> {
  const tree = new Map<string, string>();
  for (const folder of folders) {
    for (const name of readdirSync(join(projectRoot, folder), { recursive: true, encoding: 'utf8' })) {
      const path = `${folder}/${name.replaceAll('\\', '/')}`;
      if (path.endsWith('.ts') && !path.startsWith('tests/fixtures/')) {
        tree.set(path, readFileSync(join(projectRoot, path), 'utf8'));
      }
    }
  }
  return tree;
}

function readFacts(): PackageFacts {
  const manifest = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as Manifest;
  const dependencies = [...Object.keys(manifest.dependencies), ...Object.keys(manifest.peerDependencies)];
  return { name: manifest.name, dependencies };
}

function check(files: Record<string, string>): string[] {
  const facts = { name: 'heddle', dependencies: ['ts-morph', 'webgpu'] };
  return checkStructure(new Map(Object.entries(files)), facts);
}

test('the tree keeps its import rules, has no cycle, no long file and kebab-case names', (t) => {
  const tree = readTree();
  const empty = folders.filter((folder) => ![...tree.keys()].some((path) => path.startsWith(`${folder}/`)));
  const violations = [...empty.map((folder) => `${folder}/: has no source file`), ...checkStructure(tree, readFacts())];
  t.is(violations.length, 0, `\n${violations.join('\n')}`);
});

test('an import against the arrows is reported with file and line', (t) => {
  const found = check({
    'ir/expr.ts': "// one\nimport { run } from '../passes/pass.ts';\nrun();\n",
    'passes/pass.ts': "import type { M } from '../runtime/manifest.ts';\nexport const run = (m?: M) => m;\n",
    'runtime/manifest.ts': 'export type M = number;\n',
    'runtime/session.ts': "export { a } from '../compiler/a.ts';\n",
    'compiler/a.ts': "import '../runtime/session.ts';\nimport '../runtime/manifest.ts';\nexport const a = 1;\n",
  });
  t.deepEqual(found, [
    'compiler/a.ts:1: imports runtime/session.ts; compiler/ may import ir/, passes/, runtime/manifest.ts, runtime/arena.ts',
    'ir/expr.ts:2: imports passes/pass.ts; ir/ may import nothing outside itself',
    'passes/pass.ts:1: imports runtime/manifest.ts; passes/ may import ir/',
    'runtime/session.ts:1: imports compiler/a.ts; runtime/ may import nothing outside itself',
    'compiler/a.ts:1: import cycle: compiler/a.ts → runtime/session.ts → compiler/a.ts',
  ]);
});

test('frontends are reached from the entry and the command line only', (t) => {
  const use = "export * from '../frontends/dsl/index.ts';\n";
  const found = check({
    'frontends/dsl/index.ts': 'export const model = 1;\n',
    'compiler/index.ts': use,
    'compiler/cli/main.ts': use.replace('..', '../..'),
    'compiler/compile.ts': use,
    'passes/pass.ts': "const later = () => import('../frontends/dsl/index.ts');\nlater();\n",
  });
  t.deepEqual(
    found.map((line) => line.split('; ')[0]),
    ['compiler/compile.ts:1: imports frontends/dsl/index.ts', 'passes/pass.ts:1: imports frontends/dsl/index.ts'],
  );
});

test('type imports make cycles too', (t) => {
  const found = check({
    'ir/a.ts': "import type { B } from './b.ts';\nexport type A = B;\n",
    'ir/b.ts': "export type B = import('./c.ts').C;\n",
    'ir/c.ts': "import type { A } from './a.ts';\nexport type C = A;\n",
    'ir/d.ts': "import { d } from './d.ts';\nexport { d };\n",
  });
  t.deepEqual(found, [
    'ir/a.ts:1: import cycle: ir/a.ts → ir/b.ts → ir/c.ts → ir/a.ts',
    'ir/d.ts:1: import cycle: ir/d.ts → ir/d.ts',
  ]);
});

test('packages and node modules stand in their named files only', (t) => {
  const found = check({
    'compiler/loader.ts': "import { Project } from 'ts-morph';\n",
    'compiler/plan.ts': "import { Project } from 'ts-morph';\nimport 'left-pad';\nimport 'heddle/runtime';\n",
    'frontends/onnx/proto.ts': "import 'onnx-proto';\n",
    'ir/expr.ts': "import type { Hash } from 'node:crypto';\n",
    'runtime/worker.ts': "import 'node:fs';\nconst threads = await import('node:worker_threads');\n",
  });
  t.deepEqual(found, [
    'compiler/plan.ts:1: imports package ts-morph; only frontends/dsl/source.ts, frontends/onnx/decompile.ts, compiler/loader.ts, compiler/cli/ may',
    'compiler/plan.ts:2: imports package left-pad; no file may',
    'compiler/plan.ts:3: imports its own package by name ("heddle/runtime"); use a relative path',
    'frontends/onnx/proto.ts:1: imports package onnx-proto, which is not under dependencies or peerDependencies',
    'ir/expr.ts:1: type import of node:crypto; ir/ may not',
    'runtime/worker.ts:1: static import of node:fs; runtime/ may not',
  ]);
});

test('missing targets, wrong endings, long files and camel-case names are reported', (t) => {
  const found = check({
    'ir/camelCase.ts': "import './missing.ts';\nimport './type.js';\n",
    'ir/long.ts': '\n'.repeat(601),
    'ir/longest-allowed.ts': '\n'.repeat(600),
    'tests/ops/rms-norm.test.ts': '\n'.repeat(700),
  });
  t.deepEqual(found, [
    'ir/camelCase.ts:1: name is not kebab-case',
    'ir/camelCase.ts:1: imports ir/missing.ts, which does not exist',
    'ir/camelCase.ts:2: relative import "./type.js" does not end in .ts',
    'ir/long.ts:601: 601 lines; the ceiling is 600',
  ]);
});

test('an import inside a string or a comment is no import', (t) => {
  t.deepEqual(check({ 'ir/text.ts': "// import '../passes/a.ts'\nexport const s = `import '../passes/a.ts'`;\n" }), []);
});
