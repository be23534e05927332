/** Operators that put windows back into images, and where the largest elements of windows stand. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { add, greater, isNaN_, mul, or, select } from '../../ir/ops/elementwise.ts';
import { scatterNd } from '../../ir/ops/index.ts';
import { pad, reshape, slice, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { constant, scalar } from '../../ir/ops/structural.ts';
import { taps, windowAxes, windowCounts } from '../../ir/ops/window.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';
import { counter, filled, product, shapeOf, sizeValue, stretched, sumOf } from './values.ts';

interface PoolAttrs {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly pads: readonly number[];
  readonly ceil: boolean;
}

/**
 * Where the largest element of every window stands in the whole tensor, flat and without padding.
 * @param columnMajor spatial positions count with the first axis fastest
 */
export function poolIndices(x: Value, attrs: PoolAttrs, columnMajor: boolean): Value {
  const { shape, dtype } = typeOf(x);
  const axes = windowAxes(attrs.kernel, attrs);
  const counts = windowCounts(shape, axes, attrs.ceil);
  const spatial = shape.slice(2);
  const rank = shape.length;
  const low = s.lowest(dtype);
  // Padding up to the end of the last window, so that every tap is a strided slice.
  const reach = axes.map((a, i) => dim(s.add(s.mul(s.sub(asExpr(counts[i]!), 1), a.stride), a.reach)));
  const after = axes.map((a, i) => {
    const extra = dim(s.sub(s.sub(asExpr(reach[i]!), spatial[i]!), a.before));
    return typeof extra === 'number' ? Math.max(extra, 0) : a.after + a.stride;
  });
  const wide = pad([x], { before: [0, 0, ...axes.map((a) => a.before)], after: [0, 0, ...after], value: low });
  const strides = spatial.map((_, i) => product(columnMajor ? spatial.slice(0, i) : spatial.slice(i + 1)));
  let best: Value | undefined;
  let where: Value | undefined;
  for (const tap of taps(axes)) {
    const first = tap.map((t, i) => t * axes[i]!.dilation);
    const value = slice([wide], {
      starts: [0, 0, ...first],
      stops: [
        shape[0]!,
        shape[1]!,
        ...counts.map((c, i) => dim(s.add(s.mul(s.sub(asExpr(c), 1), axes[i]!.stride), first[i]! + 1))),
      ],
      steps: [1, 1, ...axes.map((a) => a.stride)],
    });
    const place = axes
      .map((a, i) => {
        const at = mul([counter(counts[i]!, i + 2, rank, 'i64'), scalar(a.stride, 'i64')]);
        const moved = add([at, scalar(first[i]! - a.before, 'i64')]);
        return mul([moved, sizeValue(strides[i]!, 'i64')]);
      })
      .reduce((a, b) => add([a, b]));
    if (!best || !where) [best, where] = [value, stretched(place, shapeOf(value))];
    else {
      const better = or([greater([value, best]), ...(dtype.startsWith('f') ? [isNaN_([value])] : [scalar(0, 'bool')])]);
      where = select([better, place, where]);
      best = select([better, value, best]);
    }
  }
  const image = product(spatial);
  const lead = add([
    mul([counter(shape[0]!, 0, rank, 'i64'), sizeValue(product([shape[1]!, image]), 'i64')]),
    mul([counter(shape[1]!, 1, rank, 'i64'), sizeValue(image, 'i64')]),
  ]);
  return add([where!, lead]);
}

function maxUnpool(n: Node): Value {
  const [x, places] = [n.value(0), n.value(1)];
  const { shape, dtype } = typeOf(x);
  const kernel = n.intList('kernel_shape') ?? n.fail('attribute "kernel_shape" is missing', undefined, 'attribute');
  n.expectRank(0, kernel.length + 2);
  const strides = n.intsFor('strides', kernel.length, 1);
  const pads = n.intsFor('pads', 2 * kernel.length, 0);
  const rank = kernel.length;
  const pooled = kernel.map((k, i) =>
    dim(s.add(s.mul(s.sub(asExpr(shape[i + 2]!), 1), strides[i]!), k - (pads[i] ?? 0) - (pads[rank + i] ?? 0))),
  );
  const sizes = [...shape.slice(0, 2), ...pooled];
  const count = product(shape);
  const flat = scatterNd([
    filled(0, dtype, [product(sizes)]),
    reshape([places], { shape: [count, 1] }),
    reshape([x], { shape: [count] }),
  ]);
  const image = reshape([flat], { shape: sizes });
  const wanted = n.dims(2);
  if (!wanted) return image;
  if (![...wanted, ...sizes].every((d) => typeof d === 'number')) return n.fail('output_shape needs fixed sizes');
  const after = wanted.map((d, i) => (d as number) - (sizes[i] as number));
  return pad([image], { before: after.map(() => 0), after });
}

/** Elements whose places are worked out here. */
const MOST_PLACES = 2 ** 24;

/**
 * Columns of windows added up where they overlap: the adjoint of `im2col`.
 *
 * N images, C channels, K taps, L windows, P pixels.
 */
function col2im(n: Node): Value {
  const x = n.value(0);
  n.expectRank(0, 3);
  const { shape, dtype } = typeOf(x);
  const [images, rows, windows] = shape as [Dim, Dim, Dim];
  const sizes = n.ints(1) ?? n.fail('image_shape is missing');
  const kernel = n.ints(2) ?? n.fail('block_shape is missing');
  const axes = windowAxes(kernel, {
    strides: n.intList('strides') ?? [],
    pads: n.intList('pads') ?? [],
    dilations: n.intList('dilations') ?? [],
  });
  const counts = windowCounts([1, 1, ...sizes], axes) as number[];
  const [k, places, pixels] = [kernel, counts, sizes].map((l) => l.reduce((a, b) => a * b, 1)) as [
    number,
    number,
    number,
  ];
  if (typeof rows !== 'number' || rows % k !== 0 || windows !== places)
    return n.fail(`[${images}, ${rows}, ${windows}] is not ${places} windows of ${k} taps`, undefined, 'shape');
  if (k * places > MOST_PLACES) n.fail(`${places} windows of ${k} taps are too many`, undefined, 'shape');
  // Padding goes into a pixel behind the last, which is dropped.
  const at = new Array<number>(k * places);
  const window = taps(axes);
  for (let t = 0; t < k; t++)
    for (let l = 0; l < places; l++) {
      let [rest, flat, step, outside] = [l, 0, 1, false];
      for (let i = sizes.length - 1; i >= 0; i--) {
        const position = (rest % counts[i]!) * axes[i]!.stride + window[t]![i]! * axes[i]!.dilation - axes[i]!.before;
        outside ||= position < 0 || position >= sizes[i]!;
        flat += position * step;
        step *= sizes[i]!;
        rest = Math.floor(rest / counts[i]!);
      }
      at[t * places + l] = outside ? pixels : flat;
    }
  const channels = rows / k;
  const apart = reshape([x], { shape: [images, channels, k * places] });
  const sums = scatterNd(
    [
      filled(0, dtype, [pixels + 1, images, channels]),
      constant([], { value: nd('i32', [k * places, 1], at) }),
      transpose([apart], { perm: [2, 0, 1] }),
    ],
    { reduction: 'add' },
  );
  const kept = sliceAxis(sums, 0, 0, sumOf(pixels, 0));
  return reshape([transpose([kept], { perm: [1, 2, 0] })], { shape: [images, channels, ...sizes] });
}

export const unpooling: Entries = {
  MaxUnpool: maxUnpool,
  Col2Im: col2im,
};
