/**
 * Images read between their pixels, at positions that come with the data.
 *
 * N images, C channels, S pixels of all spatial axes together, P positions.
 */
import { typeOf, type Value } from '../../ir/graph.ts';
import {
  abs,
  add,
  and,
  floor,
  floorMod,
  greaterEqual,
  lessEqual,
  maximum,
  minimum,
  mul,
  round,
  select,
  sub,
} from '../../ir/ops/elementwise.ts';
import { gatherNd } from '../../ir/ops/index.ts';
import { reshape, transpose } from '../../ir/ops/shape.ts';
import type { Dim } from '../../ir/type.ts';
import {
  dtypeOf,
  like,
  oneMinus,
  plus,
  product,
  shapeOf,
  sizeValue,
  sumOf,
  times,
  to,
  unsqueezed,
  where,
} from './values.ts';

/** What stands outside of an image. */
export type Outside = 'zeros' | 'border' | 'reflection';

export interface Sampling {
  readonly mode: 'nearest' | 'linear' | 'cubic';
  readonly outside: Outside;
  /** Whether the image ends at the centres of its outermost pixels (where reflections turn) or at their edges. */
  readonly corners: boolean;
}

/** An image of the list with its channels last: [N, S, C]. */
export interface Pixels {
  readonly rows: Value;
  readonly spatial: readonly Dim[];
}

/** @param x [N, C, …] */
export function pixelsOf(x: Value): Pixels {
  const [images, channels, ...spatial] = shapeOf(x) as [Dim, Dim, ...Dim[]];
  const flat = reshape([x], { shape: [images, channels, product(spatial)] });
  return { rows: transpose([flat], { perm: [0, 2, 1] }), spatial };
}

/** The pixels [N, P, C] at whole positions inside the image: one [N, P] of f32, f64 or integers for each axis. */
export function pixelsAt({ rows, spatial }: Pixels, at: readonly Value[]): Value {
  const flat = at
    .map((x) => to(x, 'i64'))
    .reduce((sum, x, axis) => add([mul([sum, sizeValue(spatial[axis]!, 'i64')]), x]));
  return gatherNd([rows, unsqueezed(flat, 2)], { batchDims: 1 });
}

/** A position limited to 0 … size − 1. */
export const inside = (x: Value, size: Dim): Value =>
  minimum([maximum([x, like(x, 0)]), sizeValue(sumOf(size, -1), dtypeOf(x))]);

const isInside = (x: Value, size: Dim): Value =>
  and([greaterEqual([x, like(x, 0)]), lessEqual([x, sizeValue(sumOf(size, -1), dtypeOf(x))])]);

/** A position folded back into the image as often as it takes. */
function reflected(x: Value, size: Dim, corners: boolean): Value {
  const low = corners ? 0 : -0.5;
  const range = sizeValue(corners ? sumOf(size, -1) : size, dtypeOf(x));
  // An image of a single pixel reflects everything onto it.
  const span = corners ? maximum([range, like(x, 1)]) : range;
  const away = floorMod([abs([plus(x, -low)]), times(span, 2)]);
  return inside(plus(minimum([away, sub([times(span, 2), away])]), low), size);
}

/** Distances to the pixels that take part, on one axis: how far each stands from the pixel before, and its weight. */
function weightsOf(
  fraction: Value,
  mode: Sampling['mode'],
): readonly { readonly step: number; readonly weight: Value }[] {
  if (mode === 'linear')
    return [
      { step: 0, weight: oneMinus(fraction) },
      { step: 1, weight: fraction },
    ];
  const a = -0.75;
  const near = (d: Value): Value => plus(mul([mul([plus(times(d, a + 2), -(a + 3)), d]), d]), 1);
  const far = (d: Value): Value => plus(mul([plus(mul([plus(times(d, a), -5 * a), d]), 8 * a), d]), -4 * a);
  const rest = oneMinus(fraction);
  return [
    { step: -1, weight: far(plus(fraction, 1)) },
    { step: 0, weight: near(fraction) },
    { step: 1, weight: near(rest) },
    { step: 2, weight: far(plus(rest, 1)) },
  ];
}

/**
 * The image between its pixels.
 *
 * @param at for each spatial axis a position [N, P] of f32 or f64, in pixels
 * @returns [N, P, C], of the type of the positions
 */
export function sampled(pixels: Pixels, at: readonly Value[], { mode, outside, corners }: Sampling): Value {
  const dtype = dtypeOf(at[0]!);
  const image = { ...pixels, rows: to(pixels.rows, dtype) };
  const sizes = pixels.spatial;
  const folded = (x: Value, axis: number): Value => {
    if (outside === 'zeros') return x;
    return outside === 'border' ? inside(x, sizes[axis]!) : reflected(x, sizes[axis]!, corners);
  };
  /** The pixels at whole positions, those outside as `outside` says. */
  const read = (whole: readonly Value[]): Value => {
    if (outside !== 'zeros') return pixelsAt(image, whole.map(folded));
    const found = pixelsAt(
      image,
      whole.map((x, axis) => inside(x, sizes[axis]!)),
    );
    const within = whole.map((x, axis) => isInside(x, sizes[axis]!)).reduce((a, b) => and([a, b]));
    return where(unsqueezed(within, 2), found, 0);
  };
  if (mode === 'nearest') return read(at.map((x, axis) => folded(round([x]), axis)));
  const axes = at.map((x, axis) => {
    // Cubic weights belong to the place that was asked for, and each pixel is folded by itself (PyTorch, onnxruntime).
    const place = mode === 'cubic' ? x : folded(x, axis);
    const first = floor([place]);
    return weightsOf(sub([place, first]), mode).map(({ step, weight }) => ({ whole: plus(first, step), weight }));
  });
  const corner = (axis: number, chosen: readonly { readonly whole: Value; readonly weight: Value }[]): Value[] => {
    if (axis < axes.length) return axes[axis]!.flatMap((choice) => corner(axis + 1, [...chosen, choice]));
    const weight = chosen.map((c) => c.weight).reduce((a, b) => mul([a, b]));
    return [mul([read(chosen.map((c) => c.whole)), unsqueezed(weight, 2)])];
  };
  return corner(0, []).reduce((a, b) => add([a, b]));
}

/** [N, P, C] as [N, C, …] with the given spatial axes. */
export function asImage(rows: Value, spatial: readonly Dim[]): Value {
  const [images, , channels] = typeOf(rows).kind === 'tensor' ? shapeOf(rows) : [];
  return reshape([transpose([rows], { perm: [0, 2, 1] })], { shape: [images!, channels!, ...spatial] });
}

/** A value that stays as it is where it is finite, else one number: positions must be numbers to be whole. */
export const finite = (x: Value, other: number): Value =>
  select([lessEqual([abs([x]), like(x, 1e9)]), x, like(x, other)]);
