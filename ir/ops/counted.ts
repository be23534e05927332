/**
 * Sizes that the data decide. What has such a size is computed with room for the most that there can be, next to the
 * number of elements that count; `counted` cuts it to those and names the number, and from there on it is a size like any.
 */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { isInt } from '../dtype.ts';
import type { Expr, Sym } from '../expr.ts';
import { generate, type Nd, nd, rowMajor } from '../nd.ts';
import { defineOp } from '../op.ts';
import { printDim, printType } from '../print.ts';
import * as s from '../scalar.ts';
import { boundsOf } from '../simplify.ts';
import { asExpr, type Dim, stridesOf, tensor, tuple } from '../type.ts';
import { expectDtype, normalizeAxis, typeAt } from './check.ts';
import { member } from './elementwise-define.ts';
import { bools, f32, given } from './example.ts';

export const counted = defineOp({
  name: 'counted',
  doc: 'The first elements of x along an axis, as many as `count` says when it runs. `size` is the name of that number in this type and in all others; running fails where the count is not in its range or more than x has.',
  inputs: ['x', 'count'],
  attrs: {
    axis: opt.int(0, 'axis that is cut, from the start'),
    size: attr.dim('a symbol of its own; a number where the size is known after all'),
    all: opt.bool(false, 'all elements of x must count: a size that is known in another way gets this name'),
  },
  type: ([x, count], { axis, size }) => {
    if (count!.dtype !== 'i32' || count!.shape.length !== 0)
      fail('dtype', `the count must be one i32, not ${printType(count!)}`);
    const at = normalizeAxis(axis, x!.shape.length);
    if (at !== axis) fail('attribute', `axis is ${axis}; it must not count from the end`);
    if (typeof size !== 'number' && !(size.op === 'sym' && (size.arg as Sym).counted))
      fail('attribute', `size is ${printDim(size)}, which is no symbol declared as counted`);
    const capacity = asExpr(x!.shape[at]!);
    if (boundsOf(asExpr(size))[0] > boundsOf(capacity)[1])
      fail('shape', `at least ${boundsOf(asExpr(size))[0]} of ${printDim(capacity)} elements cannot count`);
    return tensor(
      x!.dtype,
      x!.shape.map((d, i) => (i === at ? size : d)),
    );
  },
  axes: ([x]) => [x!.shape.map((_, i) => i), []],
  eval: ([x, count], { axis, size, all }, cx) => {
    const { shape } = cx.types[0]!;
    if (count!.data[0] !== shape[axis])
      fail('range', `counted: ${printDim(size)} is ${shape[axis]}, but ${count!.data[0]} elements count`);
    if (shape[axis]! > x!.shape[axis]! || (all && shape[axis]! < x!.shape[axis]!))
      fail('range', `counted: ${shape[axis]} elements count of the ${x!.shape[axis]} that there are`);
    const strides = rowMajor(x!.shape);
    return generate(x!.dtype, shape, (at) => x!.data[at.reduce((n, c, i) => n + c * strides[i]!, 0)]!);
  },
  lower: { kind: 'view', from: (at) => at },
  examples: [
    { inputs: [f32(5, 3), given('i32', [], [2])], attrs: { size: 2 }, note: 'a size that is known' },
    { inputs: [f32(2, 4), given('i32', [], [0])], attrs: { axis: 1, size: 0 } },
    { inputs: [bools(3), given('i32', [], [3])], attrs: { size: 3 }, note: 'all of them' },
  ],
});

export const extend = defineOp({
  name: 'extend',
  doc: 'x with a constant behind it along an axis, up to a size: makes room again for what was counted.',
  inputs: ['x'],
  attrs: {
    axis: opt.int(0, 'axis that grows'),
    size: attr.dim('size of the axis afterwards, at least what it is'),
    value: opt.float(0, 'the constant'),
  },
  type: ([x], { axis, size }) => {
    const at = normalizeAxis(axis, x!.shape.length);
    const own = x!.shape[at]!;
    if (boundsOf(asExpr(own))[0] > boundsOf(asExpr(size))[1])
      fail('shape', `axis ${axis} has ${printDim(own)} elements, more than ${printDim(size)}`);
    return tensor(
      x!.dtype,
      x!.shape.map((d, i) => (i === at ? size : d)),
    );
  },
  axes: ([x], { axis }) => {
    const at = normalizeAxis(axis, x!.shape.length);
    return [x!.shape.map((_, i) => (i === at ? 'mix' : i))];
  },
  eval: ([x], { axis, value }, cx) => {
    const at0 = normalizeAxis(axis, x!.shape.length);
    const [strides, fill] = [rowMajor(x!.shape), member(x!.dtype, value)];
    if (cx.types[0]!.shape[at0]! < x!.shape[at0]!)
      fail('range', `extend: axis ${axis} has ${x!.shape[at0]} elements, more than ${cx.types[0]!.shape[at0]}`);
    return generate(x!.dtype, cx.types[0]!.shape, (at) =>
      at[at0]! < x!.shape[at0]! ? x!.data[at.reduce((n, c, i) => n + c * strides[i]!, 0)]! : fill,
    );
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs: { axis, value }, inputs: [x], out }) => {
      const at0 = normalizeAxis(axis, at.length);
      const own = asExpr(x!.shape[at0]!);
      const fill = s.literal(member(out.dtype, value), out.dtype);
      if (boundsOf(own)[1] === 0) return fill;
      // Both sides of a choice may be evaluated, so the position stays inside.
      const inside = s.max(s.min(at[at0]!, s.sub(own, 1)), 0);
      return s.select(s.lt(at[at0]!, own), load(0, at.with(at0, inside)), fill);
    },
  },
  examples: [
    { inputs: [f32(2, 3)], attrs: { axis: 1, size: 5, value: -1 } },
    { inputs: [given('i64', [0])], attrs: { size: 3, value: 7 } },
    { inputs: [f32(3)], attrs: { size: 3 } },
  ],
});

export const positions = defineOp({
  name: 'positions',
  doc: 'The positions along the last axis, those of true elements first, then those of false ones, both ascending; and how many are true.',
  inputs: ['mask'],
  attrs: {},
  type: (inputs) => {
    const mask = typeAt(inputs, 0);
    expectDtype(mask, 'bool', 'mask');
    if (mask.shape.length === 0) fail('rank', 'mask needs an axis');
    return tuple(tensor('i32', mask.shape), tensor('i32', mask.shape.slice(0, -1)));
  },
  axes: ([mask]) => [mask!.shape.map((_, i) => (i === mask!.shape.length - 1 ? 'mix' : i))],
  eval: ([mask]) => {
    const width = mask!.shape.at(-1)!;
    const outer = mask!.shape.slice(0, -1);
    const rows = outer.reduce((n, d) => n * d, 1);
    const [order, counts] = [nd('i32', mask!.shape), nd('i32', outer)];
    for (let row = 0; row < rows; row++) {
      const line = Array.from({ length: width }, (_, i) => i);
      const isTrue = (i: number): boolean => mask!.data[row * width + i] !== 0;
      const kept = line.filter(isTrue);
      order.data.set([...kept, ...line.filter((i) => !isTrue(i))], row * width);
      counts.data[row] = kept.length;
    }
    return [order, counts];
  },
  lower: { kind: 'schedule', name: 'positions' },
  examples: [
    { inputs: [bools(3, 7)] },
    { inputs: [given('bool', [5], [1, 1, 1, 1, 1])], note: 'all' },
    { inputs: [given('bool', [2, 3], [0, 0, 0, 0, 0, 1])], note: 'none, and one' },
    { inputs: [bools(2, 0)] },
    { inputs: [bools(1, 1)] },
  ],
});

/** Coordinates of positions in a row-major tensor, one row for each axis. */
export const unravel = defineOp({
  name: 'unravel',
  doc: 'The coordinates of flat positions in a row-major tensor: a row for each of its axes.',
  inputs: ['positions'],
  attrs: { shape: attr.dims('shape of that tensor'), dtype: opt.oneOf(['i64', 'i32'], 'i64', 'element type') },
  type: ([flat], { shape, dtype }) => {
    if (!isInt(flat!.dtype)) fail('dtype', `positions must be integers, not ${flat!.dtype}`);
    return tensor(dtype, [shape.length, ...flat!.shape]);
  },
  axes: ([flat]) => [flat!.shape.map((_, i) => i + 1)],
  eval: ([flat], { dtype, shape }, cx): Nd => {
    const sizes = shape.map((d) => cx.size(d));
    const strides = rowMajor(sizes);
    const count = flat!.data.length;
    const data = Array.from({ length: sizes.length * count }, (_, i) => {
      const axis = Math.floor(i / count);
      return Math.floor(flat!.data[i % count]! / strides[axis]!) % sizes[axis]!;
    });
    return nd(dtype, cx.types[0]!.shape, data);
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs: { shape }, out }) => {
      const flat = s.cast(load(0, at.slice(1)), 'i32');
      const strides = stridesOf(shape);
      // A tensor without elements has no positions; its sizes still may not divide.
      const some = (d: Dim): Expr => s.max(asExpr(d), 1);
      const coordinates = shape.map((d, i) =>
        i === 0 ? s.floordiv(flat, some(strides[0]!)) : s.floormod(s.floordiv(flat, some(strides[i]!)), some(d)),
      );
      const chosen = coordinates.reduceRight<Expr>((rest, c, i) => s.select(s.eq(at[0]!, i), c, rest), s.literal(0));
      return s.cast(chosen, out.dtype);
    },
  },
  examples: [
    { inputs: [given('i32', [4], [0, 7, 23, 11])], attrs: { shape: [2, 3, 4] } },
    { inputs: [given('i64', [2, 2], [0, 4, 2, 3])], attrs: { shape: [5], dtype: 'i32' } },
    { inputs: [given('i32', [0], [])], attrs: { shape: [3, 0] } },
  ],
});
