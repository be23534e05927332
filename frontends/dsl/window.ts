/** Functions of whole images and sequences of channels, whose weights are given; layers that own theirs are in `nn`. */
import type { Float } from '../../ir/dtype.ts';
import * as convOps from '../../ir/ops/conv.ts';
import * as normOps from '../../ir/ops/norm.ts';
import type { Dim } from '../../ir/type.ts';
import { apply, type Shape, type Tensor } from './tensor.ts';

export interface WindowOptions {
  /** Distance between windows on each spatial axis. Default 1. */
  readonly strides?: readonly number[];
  /** Before each axis, then after each axis. Default 0. */
  readonly pads?: readonly number[];
  /** Distance between the elements of a window. Default 1. */
  readonly dilations?: readonly number[];
  /** Groups of channels that do not see each other. Default 1. */
  readonly groups?: number;
}

/** Cross-correlation of x[B, C, …] with weights [O, C ÷ groups, k…], plus a bias [O]. */
export const conv = <D extends Float>(
  x: Tensor<D>,
  weight: Tensor<D>,
  bias?: Tensor<D>,
  options: WindowOptions = {},
): Tensor<D, readonly Dim[]> => apply(convOps.conv, bias ? [x, weight, bias] : [x, weight], options);

/** The transpose of a convolution: x[B, C, …] spread by weights [C, O ÷ groups, k…], plus a bias [O]. */
export const convTranspose = <D extends Float>(
  x: Tensor<D>,
  weight: Tensor<D>,
  bias?: Tensor<D>,
  options: WindowOptions & { readonly outputPadding?: readonly number[] } = {},
): Tensor<D, readonly Dim[]> => apply(convOps.convTranspose, bias ? [x, weight, bias] : [x, weight], options);

/** (x − mean) / √(variance + eps) · scale + bias for each channel of x[B, C, …], with given statistics. */
export const batchNorm = <D extends Float, S extends Shape>(
  x: Tensor<D, S>,
  scale: Tensor<D>,
  bias: Tensor<D>,
  mean: Tensor<D>,
  variance: Tensor<D>,
  eps = 1e-5,
): Tensor<D, S> => apply(normOps.batchNorm, [x, scale, bias, mean, variance], { eps });

/** Normalises x[B, C, …] over groups of neighbouring channels and all positions, then scale and bias for each channel. */
export const groupNorm = <D extends Float, S extends Shape>(
  x: Tensor<D, S>,
  scale: Tensor<D>,
  bias: Tensor<D>,
  { groups, eps = 1e-5 }: { readonly groups: number; readonly eps?: number },
): Tensor<D, S> => apply(normOps.groupNorm, [x, scale, bias], { groups, eps });
