/** Attention with masks and biases written as expressions over the coordinates of a score. */
import type { Float } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import * as ops from '../../ir/ops/attention.ts';
import { type Num, operand } from '../../ir/scalar.ts';
import type { Dim } from '../../ir/type.ts';
import type { Mask, Score } from './mask.ts';
import { reshape, transpose } from './movement.ts';
import type { Agree, Check, HasRank, Show, ShowDim, SizeAt } from './shapes.ts';
import { apply, type Shape, type Tensor } from './tensor.ts';

export interface AttentionOptions {
  /** Which scores count; all when absent. A word of `mask`, or an expression: `({ q, k }) => expr.le(k, q)` is causal. */
  readonly mask?: Mask;
  /** An f32 term added to each scaled score. */
  readonly bias?: (score: Score) => Expr;
  /** Multiplies the scores; 1 / √D when absent. */
  readonly scale?: number;
  /** Weights of a query that may read no key: all 0, NaN, 1/K each, or as if there were no mask. Default `zero`. */
  readonly emptyRow?: ops.EmptyRow;
  /** c > 0: a scaled score s becomes c · tanh(s / c) before bias and mask. */
  readonly softcap?: number;
}

/** Attributes, and the tensors that the mask and bias read, numbered from `first`. */
function scoreAttrs({ mask, bias, scale, emptyRow = 'zero', softcap = 0 }: AttentionOptions, first: number) {
  const operands: Tensor[] = [];
  const read = (tensor: Tensor, ...at: readonly Num[]): Expr => {
    const known = operands.findIndex((x) => x.value === tensor.value);
    const n = known < 0 ? operands.push(tensor) - 1 : known;
    return operand(first + n, tensor.dtype, at);
  };
  const score: Score = { ...ops.coords, read };
  const said = mask?.(score);
  // A mask that is true everywhere is none.
  const always = said?.op === 'const' && said.arg === 1;
  return { attrs: { mask: always ? undefined : said, bias: bias?.(score), scale, emptyRow, softcap }, operands };
}

type AxisError<What extends string, A extends Shape, B extends Shape, I extends number> =
  Agree<A[I], B[I]> extends true ? never : `attention: ${What} differ, ${ShowDim<A[I]>} and ${ShowDim<B[I]>}`;
type RankError<S extends Shape> =
  HasRank<S> extends false
    ? never
    : S['length'] extends 4
      ? never
      : `attention: q, k and v are [batch, heads, sequence, width], not ${Show<S>}`;
type KeyError<Q extends Shape, K extends Shape> = [RankError<Q> | RankError<K>] extends [never]
  ? AxisError<'batch sizes of q and k', Q, K, 0> | AxisError<'widths of q and k', Q, K, 3>
  : RankError<Q> | RankError<K>;
type ValueError<K extends Shape, V extends Shape> = [RankError<K> | RankError<V>] extends [never]
  ? AxisError<'heads of k and v', K, V, 1> | AxisError<'numbers of keys and values', K, V, 2>
  : RankError<K> | RankError<V>;
type Axis<S extends Shape, I extends number> = HasRank<S> extends true ? SizeAt<S, I> : Dim;

/**
 * softmax(scale · q·kᵀ + bias, over the keys that the mask allows) · v.
 *
 * B batch, H heads, G heads of k and v (H is a multiple of G), Q queries, K keys, D width of a query, E of a value.
 *
 * @param q f32[B, H, Q, D]
 * @param k f32[B, G, K, D]
 * @param v f32[B, G, K, E]
 * @returns f32[B, H, Q, E]
 * @throws CompileError `shape` when sizes disagree, `dtype` when the three types differ
 */
export function attention<D extends Float, Q extends Shape, K extends Shape, V extends Shape>(
  q: Tensor<D, Q>,
  k: Check<Tensor<D, K>, KeyError<Q, K>>,
  v: Check<Tensor<D, V>, ValueError<K, V>>,
  options: AttentionOptions = {},
): Tensor<D, readonly [Axis<Q, 0>, Axis<Q, 1>, Axis<Q, 2>, Axis<V, 3>]> {
  const { attrs, operands } = scoreAttrs(options, 3);
  return apply(ops.attention, [q, k as Tensor, v as Tensor, ...operands], attrs);
}

/** The weights that `attention` multiplies v with, f32[B, H, Q, K]: attention maps. */
export function attentionWeights<D extends Float, Q extends Shape, K extends Shape>(
  q: Tensor<D, Q>,
  k: Check<Tensor<D, K>, KeyError<Q, K>>,
  options: AttentionOptions = {},
): Tensor<D, readonly [Axis<Q, 0>, Axis<Q, 1>, Axis<Q, 2>, Axis<K, 2>]> {
  const { attrs, operands } = scoreAttrs(options, 2);
  return apply(ops.attentionWeights, [q, k as Tensor, ...operands], attrs);
}

/** [B, S, H·E] to [B, H, S, E]. */
export function splitHeads<D extends Float, S extends Shape>(
  x: Tensor<D, S>,
  heads: number,
): Tensor<D, readonly [Axis<S, 0>, number, Axis<S, 1>, number]> {
  const [batch, tokens, width] = x.shape as Shape as readonly [Dim, Dim, number];
  return transpose(reshape(x, [batch, tokens, heads, width / heads]), [0, 2, 1, 3]) as Tensor as never;
}
/** [B, H, S, E] to [B, S, H·E]. */
export function mergeHeads<D extends Float, S extends Shape>(
  x: Tensor<D, S>,
): Tensor<D, readonly [Axis<S, 0>, Axis<S, 2>, number]> {
  const [batch, heads, tokens, width] = x.shape as Shape as readonly [Dim, number, Dim, number];
  return reshape(transpose(x as Tensor, [0, 2, 1, 3]), [batch, tokens, heads * width]) as Tensor as never;
}
