/** Small pieces from which entries are written. */
import type { Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { broadcastShapes } from '../../ir/ops/check.ts';
import { add, cast, mul, select, sub } from '../../ir/ops/elementwise.ts';
import { concat, expand, iota, reshape } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, type Shape } from '../../ir/type.ts';
import { sizesItem } from './item.ts';

export const dtypeOf = (x: Value): Scalar => typeOf(x).dtype;
export const shapeOf = (x: Value): Shape => typeOf(x).shape;

/** `x` as another element type; `x` itself where it has that type. */
export const to = (x: Value, dtype: Scalar): Value => (dtypeOf(x) === dtype ? x : cast([x], { to: dtype }));

/** The type in which values of `dtype` are computed: halves and integers in f32, f64 in itself. */
export const workType = (dtype: Scalar): 'f32' | 'f64' => (dtype === 'f64' ? 'f64' : 'f32');

/** A number of the element type of `x`. */
export const like = (x: Value, value: number): Value => scalar(value, dtypeOf(x));
export const plus = (x: Value, by: number): Value => (by === 0 ? x : add([x, like(x, by)]));
export const times = (x: Value, by: number): Value => (by === 1 ? x : mul([x, like(x, by)]));
export const oneMinus = (x: Value): Value => sub([like(x, 1), x]);

/** A size as a scalar of the graph. */
export const sizeValue = (size: Dim, dtype: Scalar): Value =>
  typeof size === 'number' ? scalar(size, dtype) : to(sizesItem('i64', [], [size]).value(), dtype);

export const product = (dims: readonly Dim[]): Dim => dims.reduce<Dim>((p, d) => dim(s.mul(asExpr(p), d)), 1);
export const sumOf = (a: Dim, b: Dim): Dim => dim(s.add(asExpr(a), b));
export const quotientOf = (a: Dim, b: number): Dim => dim(s.floordiv(asExpr(a), b));

/** 0, 1, … along `axis` of `rank` axes whose others have size 1. */
export function counter(size: Dim, axis: number, rank: number, dtype: Scalar): Value {
  return iota([], { axis, shape: Array.from({ length: rank }, (_, i) => (i === axis ? size : 1)), dtype });
}

/** A vector along `axis` of `rank` axes whose others have size 1. */
export const along = (x: Value, axis: number, rank: number): Value =>
  reshape([x], { shape: Array.from({ length: rank }, (_, i) => (i === axis ? shapeOf(x)[0]! : 1)) });

/** `x` with a new axis of size 1. */
export const unsqueezed = (x: Value, axis: number): Value => reshape([x], { shape: shapeOf(x).toSpliced(axis, 0, 1) });

/** Values of one shape along a new axis. */
export const stacked = (parts: readonly Value[], axis: number): Value =>
  joined(
    parts.map((x) => unsqueezed(x, axis)),
    axis,
  );
export const joined = (parts: readonly Value[], axis: number): Value =>
  parts.length === 1 ? parts[0]! : concat(parts, { axis });

/** A tensor of one number. */
export const filled = (value: number, dtype: Scalar, shape: Shape): Value => expand([scalar(value, dtype)], { shape });

/** `x` where the condition holds, else one number; both sides broadcast. */
export const where = (condition: Value, x: Value, other: number): Value => select([condition, x, like(x, other)]);

/** `x` stretched to what all of these shapes broadcast to. */
export const stretched = (x: Value, ...shapes: readonly Shape[]): Value =>
  expand([x], { shape: broadcastShapes([shapeOf(x), ...shapes]) });
