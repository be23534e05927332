/** Matrix products and what is made of them. */
import type { Float, Scalar } from '../../ir/dtype.ts';
import { einsum as einsumOp } from '../../ir/ops/einsum.ts';
import { matmul as matmulOp } from '../../ir/ops/linear.ts';
import type { Dim } from '../../ir/type.ts';
import { add } from './elementwise.ts';
import type {
  Agree,
  Broadcast,
  BroadcastError,
  Check,
  DtypeError,
  DtypeOf,
  HasRank,
  Last,
  ShapeOf,
  Show,
  ShowDim,
  WithLast,
} from './shapes.ts';
import { apply, type Shape, type Tensor } from './tensor.ts';

type Lead<S extends Shape> = S extends readonly [...infer L extends Shape, Dim, Dim] ? L : Shape;
type Rows<S extends Shape, T> = S extends readonly [...Shape, infer M extends Dim, infer K extends Dim]
  ? T extends true
    ? K
    : M
  : Dim;
type Columns<S extends Shape, T> = Rows<S, T extends true ? false : true>;

/** Which operands are stored transposed. */
export interface Transposes {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}
type TA<O> = O extends { readonly transposeA: infer T } ? T : false;
type TB<O> = O extends { readonly transposeB: infer T } ? T : false;

type RankError<Op extends string, S extends Shape> =
  HasRank<S> extends false
    ? never
    : S extends readonly [Dim, Dim, ...Shape]
      ? never
      : `${Op}: operands have rank 2 or more, not shape ${Show<S>}`;
type InnerError<Op extends string, K1, K2> =
  Agree<K1, K2> extends true ? never : `${Op}: inner sizes differ, ${ShowDim<K1>} and ${ShowDim<K2>}`;
type MatmulError<A, B, O, SA extends Shape = ShapeOf<A>, SB extends Shape = ShapeOf<B>> = [
  RankError<'matmul', SA> | RankError<'matmul', SB> | DtypeError<'matmul', A, B>,
] extends [never]
  ? InnerError<'matmul', Columns<SA, TA<O>>, Rows<SB, TB<O>>> | BroadcastError<'matmul', Lead<SA>, Lead<SB>>
  : RankError<'matmul', SA> | RankError<'matmul', SB> | DtypeError<'matmul', A, B>;
type Product<A extends Shape, B extends Shape, O> =
  HasRank<A> extends false
    ? Shape
    : HasRank<B> extends false
      ? Shape
      : readonly [...Broadcast<Lead<A>, Lead<B>>, Rows<A, TA<O>>, Columns<B, TB<O>>];

/**
 * Matrix product of the last two axes; leading axes broadcast.
 *
 * A[…, M, K] · B[…, K, N] = [..., M, N].
 *
 * @param options.transposeB b is stored [..., N, K], as PyTorch stores the weights of a linear layer
 * @throws CompileError `shape` when inner sizes differ, `rank` below rank 2, `dtype` when the operands' differ
 */
export const matmul = <A extends Tensor, B extends Tensor, const O extends Transposes = Record<never, never>>(
  a: A,
  b: Check<B, MatmulError<A, B, O>>,
  options?: O,
): Tensor<DtypeOf<A, B>, Product<ShapeOf<A>, ShapeOf<B>, O>> => apply(matmulOp, [a, b as Tensor], options ?? {});

type WeightError<S extends Shape, W extends Shape> =
  HasRank<W> extends false
    ? never
    : W extends readonly [Dim, infer K]
      ? Agree<Last<S>, K> extends true
        ? never
        : `linear: inner sizes differ, ${ShowDim<Last<S>>} and ${ShowDim<K>}`
      : `linear: the weight is [out, in], not ${Show<W>}`;
type BiasError<W extends Shape, C extends Shape> = W extends readonly [infer N, Dim]
  ? C extends readonly [infer M]
    ? Agree<N, M> extends true
      ? never
      : `linear: the bias has size ${ShowDim<M>}, the weight has ${ShowDim<N>} rows`
    : never
  : never;

/** x · weightᵀ + bias for x[…, in], weight[out, in], bias[out]. */
export const linear = <D extends Float, S extends Shape, W extends Shape, C extends Shape = readonly [number]>(
  x: Tensor<D, S>,
  weight: Check<Tensor<D, W>, WeightError<S, W>>,
  bias?: Check<Tensor<D, C>, BiasError<W, C>>,
): Tensor<D, WithLast<S, W extends readonly [infer N extends Dim, Dim] ? N : Dim>> => {
  const product: Tensor = apply(matmulOp, [x, weight as Tensor], { transposeB: true });
  return (bias === undefined ? product : add(product, bias as Tensor)) as Tensor as never;
};

/** Sums of products named by subscripts: `einsum('bqd,bkd->bqk', q, k)`. Checked while tracing. */
export const einsum = <D extends Scalar>(equation: string, ...xs: readonly Tensor<D>[]): Tensor<D> =>
  apply(einsumOp, xs, { equation });
