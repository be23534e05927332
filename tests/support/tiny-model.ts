/** A model small enough for any test: two layers over a symbolic batch. */
import { dim, input, type ModelGraph, model, nn, relu, type Tensor } from '../../frontends/dsl/index.ts';
import { seededWeights } from '../../frontends/zoo/index.ts';
import type { WeightStore } from '../../ir/weights.ts';

export const tinyModel = (): ModelGraph =>
  model(
    'tiny-net',
    { x: input('f32', [dim('batch', { max: 8 }), 6], 'features of a row') },
    ({ x }) => {
      const hidden = relu(nn.linear('fc1', { in: 6, out: 5 })(x as Tensor<'f32'>));
      return { y: nn.linear('fc2', { in: 5, out: 3 })(hidden) as Tensor };
    },
    { doc: 'two layers' },
  );

export const tinyWeights = (seed = 7): WeightStore => seededWeights(tinyModel(), seed);
