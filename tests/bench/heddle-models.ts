/** The benchmark's workloads as heddle models, with the weights that the peers' ONNX files hold. */
import { f32, input, type ModelGraph, matmul, model, param } from '../../frontends/dsl/index.ts';
import { importOnnx } from '../../frontends/onnx/index.ts';
import { bert } from '../../frontends/zoo/bert.ts';
import { vit } from '../../frontends/zoo/vit.ts';
import type { Model } from '../../ir/model.ts';
import type { WeightStore } from '../../ir/weights.ts';
import { type BenchModel, onnxGraph } from './models.ts';
import { bytesOf, SEEDED_WEIGHTS_ID, type WeightSource } from './weights.ts';

export interface HeddleModel {
  readonly model: Model;
  readonly weights: WeightStore;
  /** Sizes fixed at compile time, as the peers' files have them. */
  readonly symbols: Readonly<Record<string, number>>;
}

export function heddleModel(workload: BenchModel, values: WeightSource): HeddleModel {
  const { architecture: it, name } = workload;
  switch (it.kind) {
    case 'vit': {
      const { image: imageSize, patch: patchSize, ...sizes } = it.config;
      const graph = vit({ name, imageSize, patchSize, channels: 3, ...sizes });
      return { model: graph, weights: storeOf(graph, values, ''), symbols: { batch: 1 } };
    }
    case 'bert': {
      const { tokens, int8, ...sizes } = it.config;
      // The zoo has no quantised models: it is read from the file that the peers run.
      if (int8) return { ...importOnnx(onnxGraph(workload).encode(values)), symbols: {} };
      const graph = bert({ name, ...sizes, maskedLm: false, nextSentence: false });
      return { model: graph, weights: storeOf(graph, values, 'bert.'), symbols: { batch: 1, sequence: tokens } };
    }
    case 'matmul': {
      const { batch, m, k, n } = it.config;
      const graph =
        batch === undefined
          ? model(name, { a: input(f32, [m, k]) }, ({ a }) => ({ c: matmul(a, param('weight', [k, n])) }))
          : model(name, { a: input(f32, [batch, m, k]), b: input(f32, [batch, k, n]) }, ({ a, b }) => ({
              c: matmul(a, b),
            }));
      return { model: graph, weights: storeOf(graph, values, ''), symbols: {} };
    }
  }
}

/** The model's parameters under their names, asked of `values` without the prefix that ONNX files leave out. */
function storeOf(graph: ModelGraph, values: WeightSource, prefix: string): WeightStore {
  const shapes = new Map(graph.parameters.map(({ name, shape }) => [name, shape]));
  return {
    source: SEEDED_WEIGHTS_ID,
    names: () => [...shapes.keys()],
    get(name) {
      const shape = shapes.get(name);
      if (shape === undefined) return undefined;
      return { dtype: 'f32', shape, bytes: bytesOf(values(name.slice(prefix.length), shape)) };
    },
  };
}
