/** Sliding windows without weights; with weights they are `nn.conv`. */
import type { Float, Scalar } from '../../ir/dtype.ts';
import * as ops from '../../ir/ops/pool.ts';
import type { WithPool } from './shapes.ts';
import { apply, type Shape, type Tensor } from './tensor.ts';

export interface PoolOptions {
  /** Size of the window on each spatial axis. */
  readonly kernel: readonly number[];
  /** Default: the kernel, so that windows touch. */
  readonly strides?: readonly number[];
  /** Before each axis, then after each axis. Default 0. */
  readonly pads?: readonly number[];
  /** Keep windows that end outside. Default false. */
  readonly ceil?: boolean;
}
const attrs = ({ kernel, strides = kernel, pads = [], ceil = false }: PoolOptions) => ({ kernel, strides, pads, ceil });

/** Largest element of each window of [B, C, …]; padding never wins. */
export const maxPool = <D extends Scalar, S extends Shape>(
  x: Tensor<D, S>,
  options: PoolOptions,
): Tensor<D, WithPool<S>> => apply(ops.maxPool, [x], attrs(options));

/** Mean of each window of [B, C, …] over the elements inside x, or with `countIncludePad` over padding too. */
export const avgPool = <D extends Float, S extends Shape>(
  x: Tensor<D, S>,
  options: PoolOptions & { readonly countIncludePad?: boolean },
): Tensor<D, WithPool<S>> =>
  apply(ops.avgPool, [x], { ...attrs(options), countIncludePad: options.countIncludePad ?? false });
