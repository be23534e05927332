/** Tensor types: an element type and a shape whose sizes may be symbolic. */
import type { Scalar } from './dtype.ts';
import type { Expr } from './expr.ts';
import { evaluateIndex, index, literal, mul } from './scalar.ts';

/** A size: a number, or an expression over symbols. Constant expressions are always stored as numbers. */
export type Dim = number | Expr;
export type Shape = readonly Dim[];

export interface TensorType {
  readonly kind: 'tensor';
  readonly dtype: Scalar;
  readonly shape: Shape;
}

/** The type of an op with several results; `get` projects one of them. */
export interface TupleType {
  readonly kind: 'tuple';
  readonly items: readonly TensorType[];
}

export type ValueType = TensorType | TupleType;

/** An expression as a size: constants become numbers. */
export const dim = (size: Dim): Dim => (typeof size !== 'number' && size.op === 'const' ? (size.arg as number) : size);
export const tensor = (dtype: Scalar, shape: Shape): TensorType => ({ kind: 'tensor', dtype, shape: shape.map(dim) });
export const tuple = (...items: readonly TensorType[]): TupleType => ({ kind: 'tuple', items });

export const sameDim = (a: Dim, b: Dim): boolean => dim(a) === dim(b);
export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((d, i) => sameDim(d, b[i]!));
export function sameType(a: ValueType, b: ValueType): boolean {
  if (a.kind === 'tuple')
    return b.kind === 'tuple' && a.items.length === b.items.length && a.items.every((t, i) => sameType(t, b.items[i]!));
  if (b.kind === 'tuple') return false;
  return a.dtype === b.dtype && sameShape(a.shape, b.shape);
}

/** Number of elements. */
export const elements = (shape: Shape): Expr => shape.reduce<Expr>((n, d) => mul(n, d), literal(1));
export const staticShape = (shape: Shape): readonly number[] | undefined =>
  shape.every((d) => typeof d === 'number') ? (shape as readonly number[]) : undefined;

/** A size under a binding of symbols; unbound symbols take their default. */
export function sizeAt(size: Dim, bind: (symbol: Expr) => number): number {
  return typeof size === 'number' ? size : evaluateIndex(size, bind);
}

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): readonly Expr[] {
  const strides: Expr[] = new Array(shape.length);
  let step: Expr = literal(1);
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step = mul(step, shape[i]!);
  }
  return strides;
}

export const asExpr = (size: Dim): Expr => index(size);
