/** Checks that type rules share. Each failure says which two facts disagree; `makeValue` adds the op and its operands. */

import { fail } from '../diagnostic.ts';
import { isFloat, isInt, type Scalar } from '../dtype.ts';
import { printDim, printType } from '../print.ts';
import { boundsOf } from '../simplify.ts';
import { asExpr, type Dim, dim, type Shape, sameDim, type TensorType } from '../type.ts';

export const typeAt = (inputs: readonly TensorType[], n: number): TensorType => inputs[n]!;

/** An axis counted from the end when negative, checked against `rank`. */
export function normalizeAxis(axis: number, rank: number): number {
  const at = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || at < 0 || at >= rank) fail('rank', `axis ${axis} does not exist in rank ${rank}`);
  return at;
}
export function normalizeAxes(axes: readonly number[], rank: number): number[] {
  const at = axes.map((a) => normalizeAxis(a, rank));
  if (new Set(at).size !== at.length) fail('attribute', `axes [${axes.join(', ')}] name one axis twice`);
  return at;
}

export function expectRank(type: TensorType, rank: number, what: string): void {
  if (type.shape.length !== rank) fail('rank', `${what} must have rank ${rank}, not ${printType(type)}`);
}
export function expectRankAtLeast(type: TensorType, rank: number, what: string): void {
  if (type.shape.length < rank) fail('rank', `${what} must have rank ≥ ${rank}, not ${printType(type)}`);
}
export function expectShape(what: string, type: TensorType, shape: Shape): void {
  if (type.shape.length !== shape.length || !type.shape.every((d, i) => sameDim(d, shape[i]!)))
    fail('shape', `${what} must be [${shape.map(printDim).join(', ')}], not ${printType(type)}`, {
      sizes: type.shape.length === shape.length ? type.shape.map((d, i) => [d, shape[i]!] as const) : [],
    });
}
export function expectSameDim(a: Dim, b: Dim, what: string): void {
  if (!sameDim(a, b)) fail('shape', `${what}, ${printDim(a)} and ${printDim(b)}`, { sizes: [[a, b]] });
}
export function expectSameDtype(inputs: readonly TensorType[], what = 'operands'): Scalar {
  const first = inputs[0]!.dtype;
  for (const t of inputs)
    if (t.dtype !== first)
      fail('dtype', `${what} differ in dtype, ${first} and ${t.dtype}`, { help: 'cast one of them explicitly' });
  return first;
}
export function expectDtype(type: TensorType, allowed: 'float' | 'int' | 'number' | 'bool', what: string): void {
  const { dtype } = type;
  const ok =
    allowed === 'float'
      ? isFloat(dtype)
      : allowed === 'int'
        ? isInt(dtype)
        : allowed === 'bool'
          ? dtype === 'bool'
          : dtype !== 'bool';
  if (!ok) fail('dtype', `${what} must be ${allowed === 'number' ? 'numeric' : allowed}, not ${dtype}`);
}

/** The common shape of operands under numpy broadcasting: trailing axes align, size 1 stretches. */
export function broadcastShapes(shapes: readonly Shape[]): Dim[] {
  const rank = Math.max(0, ...shapes.map((s) => s.length));
  return Array.from({ length: rank }, (_, axis) => {
    let size: Dim = 1;
    for (const shape of shapes) {
      const d = dim(shape[axis - rank + shape.length] ?? 1);
      if (d === 1 || sameDim(d, size)) continue;
      if (size !== 1)
        fail('shape', `sizes ${printDim(size)} and ${printDim(d)} do not broadcast (axis ${axis - rank})`, {
          help: 'operands align at the last axis; insert size-1 axes with reshape or unsqueeze',
          sizes: [[d, size]],
        });
      size = d;
    }
    return size;
  });
}

/** `lo ≤ size ≤ hi` for every binding of its symbols. */
export function sizeWithin(size: Dim, lo: number, hi: number): boolean {
  const [least, most] = boundsOf(asExpr(size));
  return least >= lo && most <= hi;
}
