/** A value being traced, with its element type and shape in the TypeScript type. */

import type { AttrArgs, AttrSpecs } from '../../ir/attr.ts';
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { type Attrs, typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { makeValue, type Op } from '../../ir/op.ts';
import { constant as constantOp, projectAll, scalar } from '../../ir/ops/structural.ts';
import { symbol } from '../../ir/scalar.ts';
import type { Dim } from '../../ir/type.ts';
import { callSite } from './location.ts';

export type Shape = readonly Dim[];
/** What an op takes: a tensor, or a number that takes the dtype of the tensor beside it. */
export type Operand = Tensor | number;

declare const dimName: unique symbol;
/** A size with a name, bound when the model runs: two of them are equal exactly when their names are. */
export interface Named<N extends string> extends Expr {
  readonly [dimName]: N;
}

/**
 * A named size. `default` is used for counts, `max` is what memory is planned for. A `counted` one comes from no input: an
 * operator of the model finds it when it runs.
 *
 * @throws RangeError when the bounds leave no size
 */
export function dim<const N extends string>(
  name: N,
  bounds: {
    readonly min?: number;
    readonly max: number;
    readonly multipleOf?: number;
    readonly default?: number;
    readonly counted?: boolean;
  },
): Named<N> {
  return symbol(name, bounds) as Expr as Named<N>;
}

/**
 * A tensor of a model: `Tensor<'f32', readonly [Named<'batch'>, 197, 768]>`. Sizes that TypeScript cannot know are
 * `number` (or `Dim`); they are checked when the model is traced.
 *
 * A helper that serves many shapes takes `Tensor<'f32'>`, whose shape is unknown and agrees with every other. A helper
 * generic in its shape (`<S extends Shape>(x: Tensor<'f32', S>)`) cannot be checked until S is known, so calls inside
 * it do not compile.
 */
export class Tensor<out D extends Scalar = Scalar, out S extends Shape = Shape> {
  /** What the graph holds. */
  readonly value: Value;

  constructor(value: Value) {
    typeOf(value);
    this.value = value;
  }

  get dtype(): D {
    return typeOf(this.value).dtype as D;
  }
  get shape(): S {
    return typeOf(this.value).shape as Shape as S;
  }
}

/** Size of one axis; a negative axis counts from the end. */
export const sizeOf = (x: Tensor, axis: number): Dim => {
  const size = x.shape.at(axis);
  if (size === undefined) throw new RangeError(`axis ${axis} does not exist in rank ${x.shape.length}`);
  return size;
};

/** Operands as values; a number becomes a constant of the dtype that the tensors beside it have. */
export function values(operands: readonly Operand[]): Value[] {
  const dtype = operands.find((x) => typeof x !== 'number')?.dtype ?? 'f32';
  return operands.map((x) => (typeof x === 'number' ? scalar(x, dtype) : x.value));
}

/** Calls an op for the author: the value knows the line of the author's file that asked for it. */
export function call<S extends AttrSpecs>(op: Op<S>, operands: readonly Operand[], attrs?: AttrArgs<S>): Value {
  return makeValue(op.def, values(operands), (attrs ?? {}) as Attrs, { loc: callSite() });
}

/** The same, as the tensor type that the caller's signature promises; the op's own type rule has checked it. */
export function apply<T extends Tensor, S extends AttrSpecs>(
  op: Op<S>,
  operands: readonly Operand[],
  attrs?: AttrArgs<S>,
): T {
  return new Tensor(call(op, operands, attrs)) as Tensor as T;
}

export const results = (value: Value): Tensor[] => projectAll(value).map((result) => new Tensor(result));

/** The same tensor under a name, for people: dumps, `--observe`, comparisons of inner values. */
export function named<T extends Tensor>(name: string, x: T): T {
  return new Tensor({ ...x.value, name }) as Tensor as T;
}

/** A literal tensor, elements in C order: `constant(bool, [1, 1], [1])`. */
export function constant<D extends Scalar, const S extends readonly number[]>(
  dtype: D,
  shape: S,
  elements: readonly number[],
): Tensor<D, S> {
  const count = shape.reduce((n, size) => n * size, 1);
  if (elements.length !== count)
    fail('shape', `constant: ${elements.length} elements for shape [${shape.join(', ')}]`, { loc: callSite() });
  return apply(constantOp, [], { value: nd(dtype, shape, elements) });
}
