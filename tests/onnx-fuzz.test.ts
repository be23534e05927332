/** Damaged files: whatever stands in them, the importer answers with a model or with a CompileError. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { compile } from '../compiler/index.ts';
import { type ImportedModel, importOnnx, unsupportedOps } from '../frontends/onnx/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { encodeModel, floats, int, longs, node, subgraph, value } from './onnx-kit.ts';
import { Damage } from './support/mutate.ts';
import { sharedRoot } from './support/project.ts';

interface Source {
  readonly name: string;
  readonly file: Uint8Array;
}

/** Models of our own, so that there is something to damage without the shared folder. */
const OWN: readonly Source[] = [
  {
    name: 'mlp',
    file: encodeModel({
      nodes: [node('MatMul', ['x', 'w'], ['h']), node('Add', ['h', 'b'], ['z']), node('Softmax', ['z'], ['y'])],
      inputs: [value('x', ['batch', 2])],
      outputs: ['y'],
      initializers: [floats('w', [2, 3], [1, 2, 3, 4, 5, 6]), floats('b', [3], [0, 1, 2])],
    }),
  },
  {
    name: 'shapes',
    file: encodeModel({
      nodes: [
        node('Shape', ['x'], ['s']),
        node('Concat', ['s', 'one'], ['t'], [int('axis', 0)]),
        node('Reshape', ['x', 't'], ['r']),
        node('Slice', ['r', 'zero', 'two'], ['y']),
      ],
      inputs: [value('x', [2, 'n', 4])],
      outputs: ['y'],
      initializers: [longs('one', [1], [1]), longs('zero', [1], [0]), longs('two', [1], [2])],
    }),
  },
  {
    name: 'branch',
    file: encodeModel({
      nodes: [
        node(
          'If',
          ['c'],
          ['y'],
          ['then_branch', 'else_branch'].map((name, i) =>
            subgraph(name, {
              name,
              node: [node(i === 0 ? 'Relu' : 'Neg', ['x'], ['out'])],
              output: [value('out', [2, 3])],
            }),
          ),
        ),
      ],
      inputs: [value('c', [], 9), value('x', [2, 3])],
      outputs: ['y'],
    }),
  },
];

/** Largest file that is damaged: most of the operator tests and many small graphs. */
const SMALL = 6000;

function sharedModels(t: { log(line: string): void }): Source[] {
  return ['onnx-node-tests', 'onnx-graph-tests'].flatMap((folder) => {
    const root = join(sharedRoot, folder);
    if (!existsSync(root)) {
      t.log(`no ${folder} beside the project: only models of our own are damaged`);
      return [];
    }
    return readdirSync(root)
      .sort()
      .map((name) => ({ name, path: join(root, name, 'model.onnx') }))
      .filter(({ path }) => existsSync(path) && statSync(path).size <= SMALL)
      .map(({ name, path }) => ({ name, file: readFileSync(path) }));
  });
}

interface Tally {
  imported: number;
  refused: number;
  compiled: number;
}

/**
 * The model, if the file still holds one.
 * @throws Error naming the source and the seed, for anything but a CompileError that explains itself
 */
function attempt(file: Uint8Array, what: string, tally: Tally): ImportedModel | undefined {
  try {
    unsupportedOps(file);
    const model = importOnnx(file);
    tally.imported++;
    return model;
  } catch (error) {
    refusal(error, what);
    tally.refused++;
    return undefined;
  }
}

/** Passes over an error that blames the file; anything else is a fault of heddle's. */
function refusal(error: unknown, what: string): void {
  if (!(error instanceof CompileError)) throw new Error(`${what}: ${String(error)}`, { cause: error });
  if (error.diagnostic.code === 'internal') throw new Error(`${what}: ${error.message}`, { cause: error });
}

/** Every so many models that still import are compiled too, which takes longer. */
const COMPILED = 40;

for (const [kind, rounds] of [
  ['bytes', 6],
  ['model', 6],
] as const)
  test(`damaged ${kind} give a model or an error that explains itself`, (t) => {
    const sources = [...OWN, ...sharedModels(t)];
    // Without the shared folder our own models take its place.
    const more = Math.ceil((300 * rounds) / sources.length);
    const before = process.memoryUsage.rss();
    const tally: Tally = { imported: 0, refused: 0, compiled: 0 };
    sources.forEach(({ name, file }, n) => {
      for (let round = 0; round < Math.max(rounds, more); round++) {
        const seed = n * 1000 + round;
        const model = attempt(new Damage(seed)[kind](file), `${name}, seed ${seed}`, tally);
        if (!model || tally.imported % COMPILED !== 0) continue;
        try {
          compile(model.model, { weights: model.weights });
          tally.compiled++;
        } catch (error) {
          refusal(error, `${name}, seed ${seed}, compiled`);
        }
      }
    });
    const grown = (process.memoryUsage.rss() - before) / 2 ** 20;
    t.log(`${tally.imported} imported, ${tally.compiled} compiled, ${tally.refused} refused; ${Math.round(grown)} MiB`);
    t.true(tally.refused > 0 && tally.imported > 0);
    // Files have a few kilobytes: gigabytes would mean that a size in one of them was believed.
    t.true(grown < 1024, `memory grew by ${grown} MiB`);
  });
