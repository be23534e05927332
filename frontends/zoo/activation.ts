import { gelu, quickGelu, relu, silu, type Tensor } from '../dsl/index.ts';
import type { Activation } from '../weights/hf-config.ts';

/** The activation that a config names. */
export function activate(activation: Activation, x: Tensor<'f32'>): Tensor<'f32'> {
  switch (activation) {
    case 'gelu':
      return gelu(x);
    case 'gelu_tanh':
      return gelu(x, { approximate: 'tanh' });
    case 'quick_gelu':
      return quickGelu(x);
    case 'relu':
      return relu(x);
    case 'silu':
      return silu(x);
  }
}
