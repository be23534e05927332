/**
 * Tensors as large as the data say. Their size has a name, like any other, and is known when the model runs: bundles keep room
 * for the most that there can be.
 */
import { countedSize } from '../../ir/counts.ts';
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import * as countedOps from '../../ir/ops/counted.ts';
import { notEqual } from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { type Dim, dim, elements } from '../../ir/type.ts';
import { callSite } from './location.ts';
import { reshape } from './movement.ts';
import { apply, call, type Named, results, type Shape, type Tensor } from './tensor.ts';

/**
 * The positions of true elements, ascending: i32 [K].
 *
 * ```ts
 * const ids = positionsOf(greater(scores, 0.85), 'found');
 * const boxes = gather(all, ids); // [found, 4]
 * ```
 *
 * @param mask bool [N]
 * @param name what K is called in types, errors and the bundle's declarations; no other size of the model has it
 * @throws CompileError `rank` unless mask has one axis
 */
export function positionsOf<const N extends string>(mask: Tensor<'bool'>, name: N): Tensor<'i32', readonly [Named<N>]> {
  if (mask.shape.length !== 1)
    fail('rank', `positionsOf: mask has one axis, not ${mask.shape.length}`, { loc: callSite(), help: 'reshape it' });
  const [order, count] = results(call(countedOps.positions, [mask])) as [Tensor, Tensor];
  const size = countedSize(name, mask.shape[0]!);
  return apply(countedOps.counted, [order, count], { axis: 0, size });
}

/**
 * Coordinates of the elements that are not zero, a row for each axis, in C order: i64 [rank, K]. NaN is not zero.
 * @param name of K; see `positionsOf`
 */
export function nonZero<const N extends string>(x: Tensor, name: N): Tensor<'i64', readonly [number, Named<N>]> {
  const flat = reshape(x, [dim(elements(x.shape))]);
  const mask: Tensor<'bool'> = x.dtype === 'bool' ? (flat as Tensor<'bool'>) : apply(notEqual, [flat, 0]);
  return apply(countedOps.unravel, [positionsOf(mask, name)], { shape: x.shape.length > 0 ? x.shape : [1] });
}

/**
 * The slices of x where a mask is true, in order: [N, …] by bool [N] is [K, …].
 * @param name of K; see `positionsOf`
 * @param options.axis the axis of the slices, default 0
 */
export function compress<D extends Scalar>(
  x: Tensor<D>,
  mask: Tensor<'bool'>,
  name: string,
  { axis = 0 }: { readonly axis?: number } = {},
): Tensor<D> {
  const [size, own]: readonly (Dim | undefined)[] = [(x.shape as Shape).at(axis), (mask.shape as Shape)[0]];
  if (size === undefined || own === undefined || dim(size) !== dim(own))
    fail('shape', `compress: mask and axis ${axis} of x differ in size`, { loc: callSite() });
  return apply(gather, [x, positionsOf(mask, name)], { axis });
}
