/**
 * Models as exporters write them (tests/fixtures/make_onnx.py): they compute what PyTorch computed, and after import they
 * are the same kernels as the zoo's own models.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { optimise } from '../compiler/compile.ts';
import { decompose } from '../compiler/decompose.ts';
import { partition } from '../compiler/partition.ts';
import type { Region } from '../compiler/region.ts';
import { type ImportOptions, importOnnx } from '../frontends/onnx/index.ts';
import { bert, gpt2, vit } from '../frontends/zoo/index.ts';
import type { Graph } from '../ir/graph.ts';
import type { Remark } from '../passes/pass.ts';
import { runTest } from './conformance/suite.ts';
import { projectRoot } from './support/project.ts';

const root = join(projectRoot, 'tests', 'fixtures', 'onnx');
const names = readdirSync(root).sort();
const TOLERANCE = { atol: 2e-5, rtol: 1e-4 };

for (const name of names)
  test(`${name}: the interpreter and WebAssembly compute what was recorded`, async (t) => {
    const outcomes = await runTest(join(root, name), ['interpreter', 'wasm'], TOLERANCE);
    for (const [device, { status, reason }] of Object.entries(outcomes)) t.is(status, 'pass', `${device}: ${reason}`);
  });

interface Compiled {
  readonly regions: readonly Region[];
  readonly remarks: readonly Remark[];
}
function compiled(graph: Graph): Compiled {
  const { optimised, remarks } = optimise('main', graph, {});
  return { regions: partition(decompose(optimised)).regions, remarks };
}
const imported = (name: string, options: ImportOptions = {}): Compiled =>
  compiled(importOnnx(join(root, name, 'model.onnx'), options).model.entries.main!);

const isMovement = (op: string): boolean => op === 'reshape' || op === 'transpose';
/** What a region computes: its kind, its op, and what is fused behind it; movement costs nothing there. */
const line = ({ kind, root: { op }, epilogue }: Region): string =>
  [`${kind} ${op.name}`, ...epilogue.map((v) => v.op.name).filter((n) => !isMovement(n))].join(' ');
/** Kernels in order; a value that is only moved into an output of the model (keys for a cache) is left out. */
const kernelsOf = ({ regions }: Compiled): string[] =>
  regions.filter((r) => !(r.kind === 'element' && isMovement(r.root.op.name))).map(line);

const stack = { layers: 2, width: 24, heads: 3, mlp: 40 } as const;
const zoo = {
  bert: bert({ ...stack, vocabulary: 41, positions: 16, pooler: false, maskedLm: false, nextSentence: false }),
  gpt2: gpt2({ ...stack, mlp: 96, vocabulary: 41, positions: 16 }),
  vit: vit({ ...stack, imageSize: 12, patchSize: 4, channels: 3, classes: 5, eps: 1e-12 }),
} as const;
type Kind = keyof typeof zoo;

for (const kind of Object.keys(zoo) as Kind[])
  for (const name of names.filter((n) => n.startsWith(`torch-${kind}-`)))
    test(`${name}: the kernels are those of the zoo's ${kind}`, (t) => {
      const want = kernelsOf(compiled(Object.values(zoo[kind].entries)[0]!));
      const got = kernelsOf(imported(name));
      t.deepEqual(got.toSorted(), want.toSorted());
    });

const BLOCK = ['matmul matmul add', 'norm rms_norm', 'matmul matmul silu', 'matmul matmul mul', 'matmul matmul add'];
/** What models that the zoo lacks compile to, whichever exporter wrote them. */
const KERNELS: Readonly<Record<string, readonly string[]>> = {
  // One projection, angles, cosines, sines, a turn of the queries and one of the keys; no half of a head is stored.
  llama: [
    'element gather',
    'norm rms_norm',
    'matmul matmul',
    'element cast',
    'element mul',
    'element cos',
    'element sin',
    'element add',
    'element add',
    'attention attention',
    ...BLOCK,
    'norm rms_norm',
    'matmul matmul',
  ],
  // A table of angles; the part of a head that does not turn is joined to the part that does.
  gptj: [
    'element gather',
    'norm layer_norm',
    'matmul matmul',
    'element gather_elements',
    ...['element add', 'element concat', 'element add', 'element concat'],
    'attention attention',
    'matmul matmul',
    'matmul matmul add gelu',
    'matmul matmul add add add',
    'norm layer_norm',
    'matmul matmul add',
  ],
  rotary: [
    'matmul matmul add',
    ...['element cast', 'element mul', 'element cos', 'element sin', 'element add', 'element add'],
    'attention attention',
  ],
  // Every normalisation stands in the weights: what is left of it is the bias of a convolution.
  net: [
    ...['element im2col', 'matmul matmul', 'element hard_swish', 'matmul matmul add silu'],
    ...['element pad', 'element pad', 'element im2col', 'matmul matmul', 'element add'],
  ],
};
for (const [kind, want] of Object.entries(KERNELS))
  for (const name of names.filter((n) => n.startsWith(`torch-${kind}-`)))
    test(`${name}: rotary embedding and normalisations leave no kernels of their own`, (t) => {
      t.deepEqual(kernelsOf(imported(name)).toSorted(), want.toSorted());
    });

test('a mask that nobody declares to be one stays a number in the scores, and a remark says so', (t) => {
  const { regions, remarks } = imported('torch-bert-eager-torchscript', { binary: [] });
  t.true(regions.some((r) => r.kind === 'element' && r.root.op.name === 'mul'));
  t.regex(
    remarks
      .filter((r) => r.kind === 'missed')
      .map((r) => r.why)
      .join('\n'),
    /%attention_mask holds numbers, and nobody declares that they are 0 and 1/,
  );
});

test('every linear map of a quantised BERT is a product of bytes', (t) => {
  for (const name of names.filter((n) => n.startsWith('int8-bert'))) {
    const { regions } = imported(name);
    const products = regions.filter((r) => r.kind === 'matmul-int8');
    t.is(regions.filter((r) => r.kind === 'matmul').length, 0, name);
    // Queries, keys and values are one, and three more a layer; where activations are quantised on both sides of an
    // attention, its two products as well.
    t.is(products.length, name.includes('qdq') ? 12 : 8, name);
    t.is(regions.filter((r) => r.kind === 'attention').length, name.includes('qdq') ? 0 : 2, name);
    // Scales, biases, activations and residuals are finished in the products.
    for (const { epilogue } of products) t.true(epilogue.some((v) => v.op.name === 'mul'));
    t.is(products.filter((r) => r.epilogue.some((v) => v.op.name === 'gelu')).length, 2, name);
  }
});

test('every convolution and linear map of a quantised net is a product of bytes', (t) => {
  for (const name of ['int8-net-qdq', 'int8-net-qoperator']) {
    const { regions } = imported(name);
    // The stem, the wide convolution and the head; the depthwise one has no contraction.
    t.is(regions.filter((r) => r.kind === 'matmul-int8').length, 3, name);
    t.is(regions.filter((r) => r.kind === 'matmul').length, 0, name);
  }
});
