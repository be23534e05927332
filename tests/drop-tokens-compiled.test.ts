/**
 * Kernels of models of which rows are dropped, in memory that is full of NaN before the first of them runs: whoever reads a
 * row that nobody computed shows it. Where all rows are put back, those that nobody reads hold a large number.
 */
import test, { type ExecutionContext } from 'ava';
import { clip } from '../frontends/zoo/clip.ts';
import { gpt2 } from '../frontends/zoo/gpt2.ts';
import { vit } from '../frontends/zoo/vit.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, typeOf } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { sizeAt } from '../ir/type.ts';
import { dropTokensPass } from '../passes/drop-tokens.ts';
import { packRowsPass } from '../passes/pack-rows.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import type { Tensors } from './support/replay.ts';
import { compileGraph, type Engine } from './support/run-graph.ts';
import { modelParams, modelWeights, TOKEN_MODELS } from './support/token-models.ts';

/** The pipeline, but what pays on models of a few rows is dropped too. */
const passes = pipelineFor().map((pass) =>
  pass.name === 'drop-tokens'
    ? dropTokensPass({ macsPerElement: 0, share: 0.999, fill: 1e4 })
    : pass.name === 'pack-rows'
      ? packRowsPass(0)
      : pass,
);
const ENGINES: readonly Engine[] = ['host plain', 'wasm relaxed'];
/** Largest |got − want| over the largest |want| of an output. */
const TOLERANCE = 2e-5;

/** How many rewrites dropped or packed rows of the graph, whose kernels give what the graph as written gives. */
function runs(t: ExecutionContext, graph: Graph, inputs: Tensors): number {
  let dropped = 0;
  const optimised = runPasses(graph, passes, {
    remark: ({ pass, kind }) => {
      if (kind === 'applied' && (pass === 'drop-tokens' || pass === 'pack-rows')) dropped++;
    },
  });
  const want = evaluate(graph, { inputs, params: modelParams });
  const compiled = compileGraph(optimised, modelWeights(graph));
  for (const engine of ENGINES) {
    const got = compiled.run(engine, inputs);
    for (const [name, { data }] of Object.entries(want)) {
      const scale = data.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
      const at = data.findIndex((x, i) => !(Math.abs(got[name]!.data[i]! - x) <= TOLERANCE * scale));
      t.is(at, -1, `${engine}: ${name}[${at}] is ${got[name]!.data[at]}, not ${data[at]}`);
    }
  }
  return dropped;
}

for (const [name, make] of Object.entries(TOKEN_MODELS))
  test(`${name}: kernels read no row that is dropped`, (t) => {
    const { graph, inputs, kept } = make();
    t.is(runs(t, graph, inputs) === 0, kept !== undefined, kept ?? 'nothing is dropped');
  });

const stack = { layers: 2, width: 4, heads: 2, mlp: 8 } as const;
const patches = { imageSize: 6, patchSize: 2, channels: 1 } as const;
const { image, match } = clip({
  image: { ...stack, ...patches },
  text: { ...stack, vocabulary: 9, positions: 5 },
  projection: 3,
}).entries;
/** The other entries of the zoo. */
const ENTRIES: Readonly<Record<string, Graph>> = {
  'CLIP, images': image!,
  'CLIP, match': match!,
  'GPT-2, decode': gpt2({ ...stack, vocabulary: 7, positions: 6 }).entries.decode!,
  'ViT with an attention map': vit({ ...stack, ...patches, classes: 3, attentionMap: true }).entries.main!,
};
for (const [name, graph] of Object.entries(ENTRIES))
  test(`${name}: kernels agree with the graph as written`, (t) => {
    runs(t, graph, seededInputs(graph));
    t.pass();
  });

/** Elements for every input; symbols take small sizes. */
function seededInputs(graph: Graph): Tensors {
  return Object.fromEntries(
    graph.inputs.map((v, n): [string, Nd] => {
      const { dtype, shape } = typeOf(v);
      const next = seeded(n + 1);
      const sizes = shape.map((d) => sizeAt(d, () => 2));
      const draw = (): number => (dtype === 'f32' ? next() * 2 - 1 : Math.floor(next() * 5));
      return [String(v.attrs.name), nd(dtype, sizes, Array.from({ length: countOf(sizes) }, draw))];
    }),
  );
}
