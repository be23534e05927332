/** ONNX models as TypeScript: what is written traces to the same graph, type-checks, and reads like a model. */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { importTypeScript } from '../compiler/cli/typescript.ts';
import { decompile, exportOnnx, importOnnx } from '../frontends/onnx/index.ts';
import { bert, gpt2, mae, vit, zoo } from '../frontends/zoo/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { type Graph, graph, graphValues } from '../ir/graph.ts';
import type { Model } from '../ir/model.ts';
import { allOps } from '../ir/op.ts';
import { exampleGraph } from '../ir/ops/example.ts';
import { parseGraph } from '../ir/parse.ts';
import { bareText, goldenGraphs } from './onnx-export-kit.ts';
import { goldenNames } from './support/golden.ts';
import { projectRoot, sharedRoot } from './support/project.ts';
import { randomGraph, recipes } from './support/random-graph.ts';
import { typeErrors } from './support/type-errors.ts';

const folder = join(projectRoot, '.cache', `decompiled-${process.pid}`);
test.before(() => mkdirSync(folder, { recursive: true }));
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
/** The models that a source exports. */
async function traced(source: string): Promise<Model> {
  const path = join(folder, `model-${files++}.ts`);
  writeFileSync(path, source);
  const exported = Object.values(await importTypeScript(pathToFileURL(path).href)) as Model[];
  return exported.at(-1)!;
}
const text = (g: Graph): string => bareText(g, { locs: false });
const asModel = (g: Graph): Model => ({ name: g.name, entries: { main: g } });

async function checkModel(t: ExecutionContext, model: Model): Promise<string> {
  const source = await decompile(model);
  const back = await traced(source);
  for (const [entry, g] of Object.entries(model.entries))
    t.is(text(back.entries[entry]!), text(g), `${model.name} ${entry}`);
  return source;
}
/** Type-checks sources against the DSL of the checkout. */
function checkTypes(t: ExecutionContext, sources: readonly string[]): void {
  for (const source of sources)
    t.deepEqual(typeErrors(source.replace("from 'heddle'", "from '../frontends/dsl/index.ts'")), []);
}

test('twelve layers become one function and a loop, under the names of their parameters', async (t) => {
  for (const name of ['vit-b16', 'bert-base', 'gpt2', 'mae-b16'] as const) {
    const source = await checkModel(t, zoo(name));
    t.regex(source, /^function block\(/m, name);
    t.regex(source, /for \(let i = 0; i < 12; i\+\+\) \{/, name);
    t.regex(source, /param\(`[a-z.]*\$\{i\}\.[a-z_0-9.]*weight`, \[768\]\)/i, name);
    const values = Object.values(zoo(name).entries).reduce((n, g) => n + graphValues(g).length, 0);
    t.true(source.split('\n').length < values / 3, name);
  }
});

test('small models of the zoo are written so that they type-check', async (t) => {
  t.timeout(5 * 60_000);
  const sizes = { layers: 3, width: 12, heads: 3, mlp: 16 };
  const image = { imageSize: 8, patchSize: 4, channels: 3 };
  const sources: string[] = [];
  for (const of of [
    vit({ ...sizes, ...image, classes: 5, attentionMap: true }),
    mae({ ...sizes, ...image, decoder: { layers: 2, width: 8, heads: 2, mlp: 12 }, maskRatio: 0.5 }),
    bert({ ...sizes, vocabulary: 11 }),
    gpt2({ ...sizes, vocabulary: 11 }),
  ])
    sources.push(await checkModel(t, of));
  checkTypes(t, sources);
});

/** One graph of many, whose inputs and outputs are numbered. */
function together(graphs: readonly Graph[], name: string): Graph {
  const inputs: Graph['inputs'][number][] = [];
  const outputs: (readonly [string, Graph['inputs'][number]])[] = [];
  graphs.forEach((g, n) => {
    const copies = new Map<Graph['inputs'][number], Graph['inputs'][number]>();
    for (const v of [...g.inputs, ...graphValues(g)]) {
      if (copies.has(v)) continue;
      const attrs = v.op.name === 'input' ? { ...v.attrs, name: `${String(v.attrs.name)}_${n}` } : v.attrs;
      const copy = { ...v, attrs, name: undefined, inputs: v.inputs.map((x) => copies.get(x)!) };
      copies.set(v, copy);
      if (v.op.name === 'input') inputs.push(copy);
    }
    for (const [key, v] of g.outputs) outputs.push([`${key}_${n}`, copies.get(v)!]);
  });
  return graph(name, inputs, outputs);
}

test('every example of every operator is written so that it type-checks and traces to itself', async (t) => {
  t.timeout(5 * 60_000);
  const sources: string[] = [];
  const all = allOps().flatMap((op) => op.examples.map((example) => exampleGraph(op, example)));
  for (let at = 0; at < all.length; at += 60)
    sources.push(await checkModel(t, asModel(together(all.slice(at, at + 60), `examples${at}`))));
  checkTypes(t, sources);
});

test('goldens and random graphs are written so that they trace to themselves', async (t) => {
  t.timeout(5 * 60_000);
  for (const name of goldenNames()) {
    for (const g of goldenGraphs(name)) {
      if (/\W/.test(g.name)) continue;
      await checkModel(t, asModel(g));
    }
  }
  await fc.assert(
    fc.asyncProperty(recipes, async (recipe) => {
      const g = randomGraph(recipe);
      const back = await traced(await decompile(asModel(g)));
      return text(back.entries.main!) === text(g);
    }),
    { seed: 9, numRuns: 60, endOnFailure: true },
  );
  t.pass();
});

test('rounds that pass several values, give one each to the outside, or take one each from it', async (t) => {
  const rounds = (n: number, line: (i: number) => string): string =>
    Array.from({ length: n }, (_, i) => line(i)).join('\n');
  const g =
    parseGraph(`graph g(%x: f32[4], %y: f32[4], %k: f32[4], ${Array.from({ length: 8 }, (_, i) => `%past${i}: f32[4]`).join(', ')}) {
${rounds(
  8,
  (i) => `  %w${i} = param {name = "layer.${i}.w"} : f32[4]
  %odd${i} = param {name = "odd${'abcdefgh'[i]}"} : f32[4]
  %a${i} = mul ${i === 0 ? '%x' : `%e${i - 1}`}, %w${i} : f32[4]
  %b${i} = add %a${i}, %odd${i} : f32[4]
  %c${i} = sub ${i === 0 ? '%y' : `%d${i - 1}`}, %k : f32[4]
  %d${i} = maximum %c${i}, %past${i} : f32[4]
  %f${i} = mul %b${i}, %d${i} : f32[4]
  %e${i} = tanh %f${i} : f32[4]`,
)}
  return ${Array.from({ length: 8 }, (_, i) => `present${i}: %b${i}`).join(', ')}, out: %e7, also: %d7
}`);
  const source = await checkModel(t, asModel(g));
  t.regex(source, /function block\(/);
  t.regex(source, /i < 8; i\+\+/);
  t.regex(source, /\$\{i\}/);
  t.regex(source, /'oddc'/);
  checkTypes(t, [source]);
});

test('blocks that differ in more than parameters are written out', async (t) => {
  const lines = Array.from({ length: 4 }, (_, i) =>
    ['mul', 'add', 'sub', i === 2 ? 'minimum' : 'maximum', 'add']
      .map((op, j) => `  %v${i * 5 + j + 1} = ${op} %v${i * 5 + j}, %x : f32[4]`)
      .join('\n'),
  );
  const g = parseGraph(`graph g(%x: f32[4], %v0: f32[4]) {\n${lines.join('\n')}\n  return y: %v20\n}`);
  const source = await checkModel(t, asModel(g));
  t.is(source.match(/minimum\(/g)?.length, 1);
});

test('docs, promises and sizes are kept, and names that are words of TypeScript are not variables', async (t) => {
  const g = parseGraph(`symbols batch_size in 2..8 step 2 default 4, add in 1..3
graph g(
    %"class": i64[batch_size, 3] {doc = "it's a mask", binary = true},
    %new: f32[batch_size * 2, add]
) {
  %0 = cast %"class" {to = f32} : f32[batch_size, 3]
  %1 = reduce_sum %new {axes = [0, 1]} : f32
  %2 = add %0, %1 : f32[batch_size, 3]
  return "the result": %2
}`);
  const source = await checkModel(t, { ...asModel(g), doc: 'one line' });
  t.regex(source, /\/\*\* one line \*\/\nexport const g = model\('g'/);
  t.regex(source, /dim\('batch_size', \{ min: 2, max: 8, multipleOf: 2, default: 4 \}\)/);
  t.regex(source, /class: input\('i64', \[batchSize, 3\], 'it\\'s a mask', \{ binary: true \}\)/);
  checkTypes(t, [source]);
});

test('models beside the checkout are written so that they type-check and trace to themselves', async (t) => {
  t.timeout(10 * 60_000);
  const models = join(sharedRoot, 'models');
  if (!existsSync(models)) {
    t.log('not run: there is no models beside the checkout');
    t.pass();
    return;
  }
  const unread: string[] = [];
  for (const name of readdirSync(models)) {
    const path = join(models, name, 'model.onnx');
    if (!existsSync(path)) continue;
    let model: Model;
    try {
      model = importOnnx(path).model;
    } catch (error) {
      if (!(error instanceof CompileError)) throw error;
      unread.push(name);
      continue;
    }
    checkTypes(t, [await checkModel(t, model)]);
  }
  t.log(`not importable: ${unread.join(', ') || 'none'}`);
});

test('an ONNX file that was written here and read again is written as the same source', async (t) => {
  const of = vit({ layers: 2, width: 12, heads: 3, mlp: 16, imageSize: 8, patchSize: 4, channels: 3, classes: 5 });
  const { seededWeights } = await import('../frontends/zoo/index.ts');
  const bytes = exportOnnx(of, { weights: seededWeights(of) }).entries.main!.bytes();
  const source = await checkModel(t, importOnnx(bytes).model);
  t.regex(source, /function block\(/);
});
