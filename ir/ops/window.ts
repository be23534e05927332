/** Sliding windows over the spatial axes of [N, C, …]: what convolution, im2col and pooling share. */
import { opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import type { Expr } from '../expr.ts';
import { eachIndex } from '../nd.ts';
import type { Load } from '../op.ts';
import { printDim } from '../print.ts';
import * as sc from '../scalar.ts';
import { boundsOf } from '../simplify.ts';
import { asExpr, type Dim, dim, type Shape } from '../type.ts';

export const windowAttrs = {
  strides: opt.ints([], 'distance between neighbouring windows on each spatial axis; empty: 1'),
  pads: opt.ints([], 'positions added before each spatial axis, then after each; empty: 0'),
  dilations: opt.ints([], 'distance between neighbouring taps of one window; empty: 1'),
} as const;
export interface WindowAttrs {
  readonly strides: readonly number[];
  readonly pads: readonly number[];
  readonly dilations: readonly number[];
}

/** One spatial axis of a window. */
export interface WindowAxis {
  readonly kernel: number;
  readonly stride: number;
  readonly before: number;
  readonly after: number;
  readonly dilation: number;
  /** Positions from the first tap to the last, both counted. */
  readonly reach: number;
}

/** Checks the attributes against the number of spatial axes and fills in defaults. */
export function windowAxes(kernel: readonly number[], given: WindowAttrs): WindowAxis[] {
  const rank = kernel.length;
  const list = (
    what: string,
    values: readonly number[],
    length: number,
    usual: number,
    least: number,
  ): readonly number[] => {
    if (values.length === 0) return new Array<number>(length).fill(usual);
    if (values.length !== length)
      fail('attribute', `${what} has ${values.length} items for ${rank} spatial axes; it needs ${length}`);
    for (const v of values) if (v < least) fail('attribute', `${what} [${values.join(', ')}] must be ≥ ${least}`);
    return values;
  };
  const strides = list('strides', given.strides, rank, 1, 1);
  const pads = list('pads', given.pads, 2 * rank, 0, 0);
  const dilations = list('dilations', given.dilations, rank, 1, 1);
  list('kernel', kernel, rank, 1, 1);
  return kernel.map((k, i) => ({
    kernel: k,
    stride: strides[i]!,
    before: pads[i]!,
    after: pads[rank + i]!,
    dilation: dilations[i]!,
    reach: dilations[i]! * (k - 1) + 1,
  }));
}

/**
 * Number of windows along an axis of `size`.
 * @param ceil also count a last window that starts inside the input or its leading pad but ends behind the padding
 */
export function windowCount(size: Dim, axis: WindowAxis, ceil = false): Dim {
  const { stride, before, after, reach } = axis;
  const room = sc.add(asExpr(size), before + after - reach);
  if (boundsOf(room)[1] < 0)
    fail(
      'shape',
      `a window of ${reach} positions does not fit into ${printDim(size)} with padding ${before} and ${after}`,
    );
  if (!ceil) return dim(sc.add(sc.floordiv(room, stride), 1));
  const started = sc.floordiv(sc.add(asExpr(size), before - 1), stride);
  return dim(sc.add(sc.min(sc.floordiv(sc.add(room, stride - 1), stride), started), 1));
}

export const windowCounts = (shape: Shape, axes: readonly WindowAxis[], ceil = false): Dim[] =>
  axes.map((axis, i) => windowCount(shape[i + 2]!, axis, ceil));

/** Taps that are written out one by one. */
const MOST_TAPS = 2 ** 16;

/** Every tap of a window, in C order. @throws CompileError `attribute` when they are too many */
export function taps(axes: readonly WindowAxis[]): number[][] {
  const all: number[][] = [];
  const count = axes.reduce((n, a) => n * a.kernel, 1);
  if (count > MOST_TAPS)
    fail('attribute', `a window of ${axes.map((a) => a.kernel).join(' × ')} has more than ${MOST_TAPS} taps`, {
      help: 'reduce over the axes instead',
    });
  eachIndex(
    axes.map((a) => a.kernel),
    (at) => all.push([...at]),
  );
  return all;
}

/** Where a tap reads: one expression a spatial axis, and whether all lie inside; `true` where that is known. */
export interface TapPlace {
  readonly at: readonly Expr[];
  readonly inside: Expr;
}

/** @param window number of the window, one expression an axis @param tap likewise within the window */
export function tapPlace(
  axes: readonly WindowAxis[],
  shape: Shape,
  window: readonly Expr[],
  tap: readonly (Expr | number)[],
): TapPlace {
  let inside = sc.bool(true);
  const at = axes.map(({ stride, before, after, dilation }, i) => {
    const place = sc.add(sc.add(sc.mul(window[i]!, stride), sc.mul(sc.index(tap[i]!), dilation)), -before);
    if (before > 0) inside = sc.and(inside, sc.le(0, place));
    if (after > 0) inside = sc.and(inside, sc.lt(place, shape[i + 2]!));
    return place;
  });
  return { at, inside };
}

/**
 * The element a tap reads, or `outside` where it lies in the padding. Both sides of a `select` may be evaluated, so the
 * coordinates are clamped into the input.
 */
export function loadTap(
  load: Load,
  lead: readonly Expr[],
  { at, inside }: TapPlace,
  shape: Shape,
  outside: Expr,
): Expr {
  if (inside.op === 'const' && inside.arg === 1) return load(0, [...lead, ...at]);
  const clamped = at.map((e, i) => sc.max(sc.min(e, sc.sub(asExpr(shape[i + 2]!), 1)), 0));
  const x = load(0, [...lead, ...clamped]);
  return sc.select(inside, x, outside);
}

/** The plain-number twin of `tapPlace`: flat offset in one image of `shape`, or −1 in the padding. */
export function tapOffset(
  axes: readonly WindowAxis[],
  spatial: readonly number[],
  window: readonly number[],
  tap: readonly number[],
): number {
  let flat = 0;
  for (let i = 0; i < axes.length; i++) {
    const { stride, before, dilation } = axes[i]!;
    const place = window[i]! * stride + tap[i]! * dilation - before;
    if (place < 0 || place >= spatial[i]!) return -1;
    flat = flat * spatial[i]! + place;
  }
  return flat;
}
