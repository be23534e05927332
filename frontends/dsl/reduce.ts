/** Functions that fold, order or normalise along axes. */
import type { Float, Scalar } from '../../ir/dtype.ts';
import * as normOps from '../../ir/ops/norm.ts';
import * as orderOps from '../../ir/ops/order.ts';
import * as ops from '../../ir/ops/reduce.ts';
import type { Dim } from '../../ir/type.ts';
import type { Agree, Check, HasRank, Last, Show, ShowDim } from './shapes.ts';
import { apply, call, results, type Shape, type Tensor } from './tensor.ts';

export interface Fold {
  /** Axes folded, negative ones counted from the end; all when absent. */
  readonly axes?: number | readonly number[];
  /** Leave the folded axes in place with size 1. */
  readonly keepdims?: boolean;
}
const folded = (x: Tensor, { axes, keepdims = false }: Fold): { axes: readonly number[]; keepdims: boolean } => ({
  axes: axes === undefined ? x.shape.map((_, i) => i) : typeof axes === 'number' ? [axes] : axes,
  keepdims,
});
export const sum = <D extends Scalar>(x: Tensor<D>, fold: Fold = {}): Tensor<D> =>
  apply(ops.reduceSum, [x], folded(x, fold));
export const mean = <D extends Float>(x: Tensor<D>, fold: Fold = {}): Tensor<D> =>
  apply(ops.reduceMean, [x], folded(x, fold));
export const max = <D extends Scalar>(x: Tensor<D>, fold: Fold = {}): Tensor<D> =>
  apply(ops.reduceMax, [x], folded(x, fold));
export const min = <D extends Scalar>(x: Tensor<D>, fold: Fold = {}): Tensor<D> =>
  apply(ops.reduceMin, [x], folded(x, fold));
export const any = (x: Tensor<'bool'>, fold: Fold = {}): Tensor<'bool'> => apply(ops.reduceAny, [x], folded(x, fold));
export const all = (x: Tensor<'bool'>, fold: Fold = {}): Tensor<'bool'> => apply(ops.reduceAll, [x], folded(x, fold));

/** Position of the largest element; the first among equals. */
export const argMax = (x: Tensor, axis = -1): Tensor<'i64'> => apply(orderOps.argMax, [x], { axis });

/** The k largest (or smallest) elements along an axis in order, and their positions; equal ones by position. */
export function topK<D extends Scalar>(
  x: Tensor<D>,
  k: Dim,
  { axis = -1, largest = true }: { readonly axis?: number; readonly largest?: boolean } = {},
): { readonly values: Tensor<D>; readonly indices: Tensor<'i64'> } {
  const [values, indices] = results(call(orderOps.topK, [x], { k, axis, largest }));
  return { values: values as Tensor<D>, indices: indices as Tensor<'i64'> };
}
/** Positions that would sort each line of the last axis, smallest first; stable. */
export const argSort = <S extends Shape>(x: Tensor<Scalar, S>): Tensor<'i64', S> =>
  topK(x, x.shape.at(-1) ?? 1, { largest: false }).indices as Tensor as Tensor<'i64', S>;

export const cumsum = <D extends Scalar, S extends Shape>(x: Tensor<D, S>, axis: number): Tensor<D, S> =>
  apply(orderOps.cumsum, [x], { axis });

/** exp(x) / Σ exp(x) along an axis. */
export const softmax = <D extends Float, S extends Shape>(x: Tensor<D, S>, axis = -1): Tensor<D, S> =>
  apply(normOps.softmax, [x], { axis });
export const logSoftmax = <D extends Float, S extends Shape>(x: Tensor<D, S>, axis = -1): Tensor<D, S> =>
  apply(normOps.logSoftmax, [x], { axis });

type VectorError<Op extends string, What extends string, S extends Shape, V extends Shape> =
  HasRank<V> extends false
    ? never
    : V extends readonly [infer N]
      ? Agree<N, Last<S>> extends true
        ? never
        : `${Op}: ${What} has size ${ShowDim<N>}, the last axis has size ${ShowDim<Last<S>>}`
      : `${Op}: ${What} must have rank 1, not shape ${Show<V>}`;

/** (x − mean) / √(variance + eps) · scale + bias over the last axis. */
export const layerNorm = <D extends Float, S extends Shape, V extends Shape, W extends Shape>(
  x: Tensor<D, S>,
  scale: Check<Tensor<D, V>, VectorError<'layerNorm', 'scale', S, V>>,
  bias: Check<Tensor<D, W>, VectorError<'layerNorm', 'bias', S, W>>,
  eps = 1e-5,
): Tensor<D, S> => apply(normOps.layerNorm, [x, scale as Tensor, bias as Tensor], { eps });

/** x / √(mean of squares + eps) · scale over the last axis. */
export const rmsNorm = <D extends Float, S extends Shape, V extends Shape>(
  x: Tensor<D, S>,
  scale: Check<Tensor<D, V>, VectorError<'rmsNorm', 'scale', S, V>>,
  eps = 1e-6,
): Tensor<D, S> => apply(normOps.rmsNorm, [x, scale as Tensor], { eps });
