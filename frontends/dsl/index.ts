/** The vocabulary of models. */

/** Expressions over coordinates, for masks and biases: `expr.le(k, q)`. */
export * as expr from '../../ir/scalar.ts';
export {
  type AttentionOptions,
  attention,
  attentionWeights,
  mergeHeads,
  splitHeads,
} from './attention.ts';
export { compress, nonZero, positionsOf } from './counted.ts';
export * from './elementwise.ts';
export { type Init, init } from './init.ts';
export { einsum, linear, matmul, type Transposes } from './linear.ts';
/** Words for masks: `mask.and(mask.causal(), mask.keep(m))`. */
export * as mask from './mask.ts';
export { causal, type Mask, type Score } from './mask.ts';
export {
  concat,
  expand,
  gather,
  gatherElements,
  iota,
  pad,
  reshape,
  slice,
  split,
  take,
  takeRows,
  transpose,
  unsqueeze,
} from './movement.ts';
export * as nn from './nn.ts';
export {
  type Attributes,
  operator,
  operators,
  type ScorePlace,
  scoreOf,
  scoreTerm,
  subgraph,
} from './operators.ts';
export { type Observed, output } from './output.ts';
export { avgPool, maxPool, type PoolOptions } from './pool.ts';
export {
  all,
  any,
  argMax,
  argSort,
  cumsum,
  type Fold,
  layerNorm,
  logSoftmax,
  max,
  mean,
  min,
  rmsNorm,
  softmax,
  sum,
  topK,
} from './reduce.ts';
export { scan, type Tensors } from './scan.ts';
export type { Broadcast } from './shapes.ts';
export { constant, dim, type Named, named, type Operand, type Shape, sizeOf, Tensor } from './tensor.ts';
export {
  type ConfigValue,
  countParameters,
  type Entry,
  entry,
  type InputPromises,
  type InputSpec,
  type Inputs,
  input,
  type ModelGraph,
  type ModelOptions,
  model,
  type Outputs,
  type Parameter,
  param,
  program,
  scope,
} from './trace.ts';

export { batchNorm, conv, convTranspose, groupNorm, type WindowOptions } from './window.ts';

export const f64 = 'f64';
export const f32 = 'f32';
export const f16 = 'f16';
export const i64 = 'i64';
export const i32 = 'i32';
export const u8 = 'u8';
export const i8 = 'i8';
export const bool = 'bool';
