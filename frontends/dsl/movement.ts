/** Functions that move elements: reshape, transpose, slice, concat, gather. */
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import * as indexOps from '../../ir/ops/index.ts';
import * as ops from '../../ir/ops/shape.ts';
import { printDim } from '../../ir/print.ts';
import { add as plus } from '../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../ir/type.ts';
import { callSite } from './location.ts';
import type {
  AxisError,
  Check,
  ConcatError,
  DtypeOf,
  HasRank,
  ShapeOf,
  Show,
  SizeAt,
  WithAxis,
  WithNewAxis,
  WithoutAxis,
} from './shapes.ts';
import { apply, call, results, type Shape, type Tensor } from './tensor.ts';

/** The same elements in C order under another shape. Their number is checked while tracing. */
export const reshape = <D extends Scalar, const S extends Shape>(x: Tensor<D>, shape: S): Tensor<D, S> =>
  apply(ops.reshape, [x], { shape });

type PermError<S extends Shape, P extends readonly number[]> =
  HasRank<S> extends false
    ? never
    : number extends P['length']
      ? never
      : P['length'] extends S['length']
        ? never
        : `transpose: ${P['length']} axes in perm for shape ${Show<S>}`;
type Permuted<S extends Shape, P extends readonly number[]> =
  HasRank<S> extends false ? Shape : { readonly [I in keyof P]: SizeAt<S, P[I]> };

/** Axes in another order: axis i of the result is axis `perm[i]` of x. */
export const transpose = <D extends Scalar, S extends Shape, const P extends readonly number[]>(
  x: Tensor<D, S>,
  perm: Check<P, PermError<S, P>>,
): Tensor<D, Permuted<S, P>> => apply(ops.transpose, [x], { perm: perm as readonly number[] });

/** Repeats x along axes of size 1 and along new leading axes. */
export const expand = <D extends Scalar, const S extends Shape>(x: Tensor<D>, shape: S): Tensor<D, S> =>
  apply(ops.expand, [x], { shape });

/** Position `axis` of rank `rank`; negative axes count from the end. */
function axisOf(op: string, axis: number, rank: number): number {
  const at = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(at) || at < 0 || at >= rank)
    fail('rank', `${op}: axis ${axis} does not exist in rank ${rank}`, { loc: callSite() });
  return at;
}

/** A position on an axis of `size`; a negative number counts from the end. */
const fromStart = (position: Dim, size: Dim): Dim =>
  typeof position === 'number' && position < 0 ? dim(plus(asExpr(size), position)) : position;

/**
 * Positions `start ≤ i < stop` of one axis, every `step`-th. Sizes may be symbolic; negative numbers count from the end.
 * @param range.stop the end of the axis when absent
 * @param range.step at least 1
 */
export function slice<D extends Scalar, S extends Shape, const A extends number>(
  x: Tensor<D, S>,
  axis: Check<A, AxisError<'slice', S, A>>,
  range: { readonly start?: Dim; readonly stop?: Dim; readonly step?: number },
): Tensor<D, WithAxis<S, A, Dim>> {
  const at = axisOf('slice', axis as number, x.shape.length);
  const length = x.shape[at]!;
  const { start = 0, stop = length, step = 1 } = range;
  if (!(step >= 1)) fail('attribute', `slice: step ${step} is less than 1`, { loc: callSite() });
  return apply(ops.slice, [x], {
    starts: x.shape.map((_, i) => (i === at ? fromStart(start, length) : 0)),
    stops: x.shape.map((size, i) => (i === at ? fromStart(stop, length) : size)),
    steps: x.shape.map((_, i) => (i === at ? step : 1)),
  });
}

/** One position of an axis, which disappears: `take(x, 1, 0)` is the class token of [B, N, D], `take(x, 1, -1)` the last. */
export function take<D extends Scalar, S extends Shape, const A extends number>(
  x: Tensor<D, S>,
  axis: Check<A, AxisError<'take', S, A>>,
  position: Dim,
): Tensor<D, WithoutAxis<S, A>> {
  const at = axisOf('take', axis as number, x.shape.length);
  const start = fromStart(position, x.shape[at]!);
  const piece: Tensor<D> = slice(x as Tensor<D>, at, { start, stop: dim(plus(asExpr(start), 1)) });
  return reshape(piece, x.shape.toSpliced(at, 1)) as Tensor as never;
}

/** Adds an axis of size 1 in front of `axis`; a negative axis counts from the end of the result. */
export function unsqueeze<D extends Scalar, S extends Shape, const A extends number>(
  x: Tensor<D, S>,
  axis: A,
): Tensor<D, WithNewAxis<S, A>> {
  const at = axisOf('unsqueeze', axis, x.shape.length + 1);
  return reshape(x, x.shape.toSpliced(at, 0, 1)) as Tensor as never;
}

/** Tensors one after another along an axis. Sizes of the other axes must be equal. */
export const concat = <const Xs extends readonly Tensor[], const A extends number>(
  xs: Xs,
  axis: Check<A, ConcatError<Xs, A>>,
): Tensor<DtypeOf<Xs[0]>, WithAxis<ShapeOf<Xs[0]>, A, Dim>> => apply(ops.concat, xs, { axis: axis as number });

/**
 * Consecutive pieces of an axis.
 * @param parts how many equal ones, or the size of each
 */
export function split<D extends Scalar, S extends Shape, const A extends number>(
  x: Tensor<D, S>,
  axis: Check<A, AxisError<'split', S, A>>,
  parts: number | readonly Dim[],
): Tensor<D, WithAxis<S, A, Dim>>[] {
  const at = axisOf('split', axis as number, x.shape.length);
  const size = x.shape[at]!;
  let sizes = typeof parts === 'number' ? [] : parts;
  if (typeof parts === 'number') {
    if (typeof size !== 'number' || size % parts !== 0)
      fail('shape', `split: axis ${at} of size ${printDim(size)} has no ${parts} equal parts`, { loc: callSite() });
    sizes = new Array<number>(parts).fill(size / parts);
  }
  return results(call(ops.split, [x], { axis: at, sizes })) as Tensor[] as never;
}

/** Constant elements around x. */
export const pad = <D extends Scalar>(
  x: Tensor<D>,
  before: readonly number[],
  after: readonly number[],
  value = 0,
): Tensor<D> => apply(ops.pad, [x], { before, after, value });

/** Coordinates along an axis as values. */
export const iota = <D extends Scalar, const S extends Shape>(dtype: D, shape: S, axis = 0): Tensor<D, S> =>
  apply(ops.iota, [], { dtype, shape, axis });

type Gathered<X extends Shape, I extends Shape> = X extends readonly [Dim, ...infer Rest extends Shape]
  ? HasRank<I> extends true
    ? readonly [...I, ...Rest]
    : Shape
  : Shape;
type IndexError<Op extends string, D extends Scalar> = Scalar extends D
  ? never
  : [D] extends ['i64' | 'i32']
    ? never
    : `${Op}: indices are i64 or i32, not ${D}; cast them`;
/** Rows of x at the given positions of its first axis: embeddings. Negative positions count from the end. */
export const gather = <D extends Scalar, X extends Shape, E extends Scalar, I extends Shape>(
  x: Tensor<D, X>,
  indices: Check<Tensor<E, I>, IndexError<'gather', E>>,
): Tensor<D, Gathered<X, I>> => apply(indexOps.gather, [x, indices as Tensor], { axis: 0 });

/** For each entry, its rows at the given positions: x [B, N, …] at [B, P] is [B, P, …]. Negative positions count from the end. */
export function takeRows<D extends Scalar, E extends Scalar>(x: Tensor<D>, positions: Tensor<E>): Tensor<D> {
  const places = reshape(positions as Tensor, [...(positions.shape as Shape), 1]);
  return apply(indexOps.gatherNd, [x, places], { batchDims: 1 });
}

/** For each index, the element of x at the same coordinates except on `axis`, where the index says. */
export const gatherElements = <D extends Scalar, E extends Scalar, I extends Shape>(
  x: Tensor<D>,
  indices: Check<Tensor<E, I>, IndexError<'gatherElements', E>>,
  axis: number,
): Tensor<D, I> => apply(indexOps.gatherElements, [x, indices as Tensor], { axis });
