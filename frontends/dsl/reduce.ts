/** Functions that fold, order or normalise along axes. */
import type { Float, Scalar } from '../../ir/dtype.ts';
import * as normOps from '../../ir/ops/norm.ts';
import * as orderOps from '../../ir/ops/order.ts';
import * as ops from '../../ir/ops/reduce.ts';
import type { Dim } from '../../ir/type.ts';
import type { Agree, AxisError, Check, FloatError, FoldError, Folded, HasRank, Last, Show, ShowDim } from './shapes.ts';
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
type Reduction<N extends string, T extends Scalar> = <
  D extends T,
  S extends Shape,
  const F extends Fold = Record<never, never>,
>(
  x: Tensor<D, S>,
  fold?: Check<F, FoldError<N, S, F>>,
) => Tensor<D, Folded<S, F>>;
const reduction =
  <N extends string, T extends Scalar = Scalar>(_name: N, op: typeof ops.reduceSum): Reduction<N, T> =>
  (x, fold) =>
    apply(op, [x], folded(x, (fold ?? {}) as Fold));
export const sum = reduction('sum', ops.reduceSum);
export const mean = reduction<'mean', Float>('mean', ops.reduceMean);
export const max = reduction('max', ops.reduceMax);
export const min = reduction('min', ops.reduceMin);
export const any = reduction<'any', 'bool'>('any', ops.reduceAny);
export const all = reduction<'all', 'bool'>('all', ops.reduceAll);

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
export const softmax = <D extends Scalar, S extends Shape, const A extends number = -1>(
  x: Check<Tensor<D, S>, FloatError<'softmax', D>>,
  axis?: Check<A, AxisError<'softmax', S, A>>,
): Tensor<D, S> => apply(normOps.softmax, [x as Tensor], { axis: (axis ?? -1) as number });
export const logSoftmax = <D extends Scalar, S extends Shape, const A extends number = -1>(
  x: Check<Tensor<D, S>, FloatError<'logSoftmax', D>>,
  axis?: Check<A, AxisError<'logSoftmax', S, A>>,
): Tensor<D, S> => apply(normOps.logSoftmax, [x as Tensor], { axis: (axis ?? -1) as number });

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
