/** Operators that read images at positions that come with the data. */
import { isFloat } from '../../ir/dtype.ts';
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { loop } from '../../ir/ops/control.ts';
import {
  add,
  and,
  ceil,
  div,
  equal,
  floor,
  floorMod,
  greaterEqual,
  less,
  lessEqual,
  maximum,
  mul,
  select,
  sub,
} from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { reduceMax } from '../../ir/ops/reduce.ts';
import { expand, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { project, scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../ir/type.ts';
import { windowOf } from './import-only-window.ts';
import type { Entries, Node } from './node.ts';
import { asImage, finite, inside, type Outside, pixelsAt, pixelsOf, type Sampling, sampled } from './sampling.ts';
import { argument } from './scope.ts';
import {
  along,
  counter,
  dtypeOf,
  filled,
  joined,
  like,
  plus,
  product,
  shapeOf,
  sizeValue,
  stretched,
  sumOf,
  times,
  to,
  unsqueezed,
  where,
  workType,
} from './values.ts';

const MODES: Readonly<Record<string, Sampling['mode']>> = {
  nearest: 'nearest',
  linear: 'linear',
  bilinear: 'linear',
  cubic: 'cubic',
  bicubic: 'cubic',
};
const OUTSIDE: readonly Outside[] = ['zeros', 'border', 'reflection'];

function gridSample(n: Node): Value {
  const [x, grid] = [n.value(0), n.value(1)];
  const { shape, dtype } = typeOf(x);
  const spatial = shape.slice(2);
  const rank = spatial.length;
  if (rank < 1) n.fail(`operand 0 has rank ${shape.length}, so no spatial axes`, undefined, 'rank');
  n.expectRank(1, rank + 2);
  if (shapeOf(grid).at(-1) !== rank)
    n.fail(`positions of a grid must have ${rank} coordinates, one for each spatial axis`, undefined, 'shape');
  const word = n.string('mode', 'linear');
  const mode = MODES[word] ?? n.fail(`mode "${word}" is not known`, undefined, 'attribute');
  const edge = n.string('padding_mode', 'zeros');
  const outside =
    OUTSIDE.find((o) => o === edge) ?? n.fail(`padding_mode "${edge}" is not known`, undefined, 'attribute');
  const corners = n.int('align_corners', 0) !== 0;
  const images = shape[0]!;
  const results = shapeOf(grid).slice(1, -1);
  const flat = reshape([to(grid, workType(dtypeOf(grid)))], { shape: [images, product(results), rank] });
  // The coordinates of a position stand from the innermost axis to the outermost.
  const at = spatial.map((size, axis) => {
    const last = rank - 1 - axis;
    const share = finite(reshape([sliceAxis(flat, 2, last, last + 1)], { shape: [images, product(results)] }), -1e9);
    const extent = sizeValue(corners ? sumOf(size, -1) : size, dtypeOf(share));
    const pixels = times(mul([plus(share, 1), extent]), 0.5);
    return corners ? pixels : plus(pixels, -0.5);
  });
  return to(asImage(sampled(pixelsOf(x), at, { mode, outside, corners }), results), dtype);
}

function affineGrid(n: Node): Value {
  const theta = n.value(0);
  const { dtype } = typeOf(theta);
  const sizes = (n.dims(1) ?? n.fail('the size is missing')).slice(2);
  const rank = sizes.length;
  n.expectRank(0, 3);
  const corners = n.int('align_corners', 0) !== 0;
  const images = shapeOf(theta)[0]!;
  const work = workType(dtype);
  const share = (axis: number): Value => {
    const size = sizes[axis]!;
    const at = counter(size, axis, rank, work);
    if (!corners) return plus(div([plus(times(at, 2), 1), sizeValue(size, work)]), -1);
    return size === 1 ? times(at, 0) : plus(div([times(at, 2), sizeValue(sumOf(size, -1), work)]), -1);
  };
  const ones = filled(1, work, sizes);
  const columns = [...sizes.keys()].reverse().map((axis) => expand([share(axis)], { shape: sizes }));
  const places = [...columns, ones].map((x) => reshape([x], { shape: [1, product(sizes)] }));
  const turned = matmul([to(theta, work), joined(places, 0)]);
  const grid = reshape([transpose([turned], { perm: [0, 2, 1] })], { shape: [images, ...sizes, rank] });
  return to(grid, dtype);
}

/**
 * Deformable convolution: every tap of every window reads its own place.
 *
 * G offset groups, K taps, P windows, r spatial axes.
 */
function deformConv(n: Node): Value {
  const [x, w, offset] = [n.value(0), n.value(1), n.value(2)];
  const { shape, dtype } = typeOf(x);
  for (const i of [1, 2]) n.expectRank(i, shape.length);
  const [images, channels, ...spatial] = shape as [Dim, Dim, ...Dim[]];
  const [out, perGroup, ...kernel] = shapeOf(w) as [Dim, Dim, ...number[]];
  if (typeof channels !== 'number' || [out, perGroup, ...kernel].some((d) => typeof d !== 'number'))
    return n.fail('channels and weights need fixed sizes', undefined, 'shape');
  n.ignore('kernel_shape');
  const { strides, dilations, pads } = windowOf(n, kernel);
  const [groups, parts] = [n.int('group', 1), n.int('offset_group', 1)];
  if (channels % parts !== 0 || channels % groups !== 0 || (out as number) % groups !== 0)
    n.fail(`${channels} channels do not form ${groups} groups and ${parts} offset groups`, undefined, 'shape');
  const counts = shapeOf(offset).slice(2);
  const [rank, taps, places] = [spatial.length, product(kernel), product(counts)];
  const work = workType(dtype);
  const lead = dim(s.mul(asExpr(images), parts));
  const moves = reshape([to(offset, work)], { shape: [lead, ...kernel, rank, ...counts] });
  const total = 1 + 2 * rank;
  const at = kernel.map((_, axis) => {
    const own = reshape([sliceAxis(moves, 1 + rank, axis, axis + 1)], { shape: [lead, ...kernel, ...counts] });
    const start = plus(times(counter(counts[axis]!, 1 + rank + axis, total, work), strides[axis]!), -(pads[axis] ?? 0));
    const tap = times(counter(kernel[axis]!, 1 + axis, total, work), dilations[axis]!);
    return reshape([finite(add([own, add([start, tap])]), -1e9)], {
      shape: [lead, dim(s.mul(asExpr(taps), places))],
    });
  });
  const image = reshape([x], { shape: [lead, channels / parts, ...spatial] });
  const found = sampled(pixelsOf(image), at, { mode: 'linear', outside: 'zeros', corners: true });
  const mask = n.optional(4);
  const weighted = mask
    ? mul([found, reshape([to(mask, work)], { shape: [lead, dim(s.mul(asExpr(taps), places)), 1] })])
    : found;
  // [N · G, K · P, C / G] to rows of channels and taps, which is how weights stand.
  const apart = reshape([weighted], { shape: [lead, taps, places, channels / parts] });
  const columns = reshape([transpose([apart], { perm: [0, 3, 1, 2] })], {
    shape: [images, groups, dim(s.mul(asExpr(taps), channels / groups)), places],
  });
  const weights = reshape([to(w, work)], {
    shape: [groups, (out as number) / groups, dim(s.mul(asExpr(taps), perGroup))],
  });
  const sums = reshape([matmul([weights, columns])], { shape: [images, out, ...counts] });
  const bias = n.optional(3);
  return to(bias ? add([sums, along(to(bias, work), 1, rank + 2)]) : sums, dtype);
}

/** Most samples in one bin of a region of interest: 256 along each side. */
const MAX_SAMPLES = 65536;

/**
 * Mean (or largest) bilinear sample of every bin. The number of samples may differ from region to region, so a loop
 * adds one to each bin and trip, and regions with fewer are left out of the last trips.
 *
 * R regions, H × W bins.
 */
function roiAlign(n: Node): Value {
  const [x, rois, batch] = [n.value(0), n.value(1), n.value(2)];
  const { shape, dtype } = typeOf(x);
  n.expectRank(0, 4);
  n.expectRank(1, 2);
  n.expectRank(2, 1);
  const [, channels, ...spatial] = shape as [Dim, Dim, Dim, Dim];
  const regions = shapeOf(rois)[0]!;
  const word = n.string('mode', 'avg').toLowerCase();
  if (word !== 'avg' && word !== 'max') n.fail(`mode "${word}" is not known`, undefined, 'attribute');
  const half = n.opset >= 16 && n.string('coordinate_transformation_mode', 'half_pixel') === 'half_pixel';
  const bins = [n.int('output_height', 1), n.int('output_width', 1)] as const;
  const ratio = n.int('sampling_ratio', 0);
  const scale = n.float('spatial_scale', 1);
  const work = workType(dtype);
  const column = (i: number): Value => reshape([sliceAxis(to(rois, work), 1, i, i + 1)], { shape: [regions] });
  /** Start, size of a bin, and samples in it, along one axis. */
  const sides = ([1, 0] as const).map((first, axis) => {
    const edge = (i: number): Value => plus(times(column(i), scale), half ? -0.5 : 0);
    const start = edge(first);
    const whole = sub([edge(first + 2), start]);
    const bin = times(half ? whole : maximum([whole, like(whole, 1)]), 1 / bins[axis]!);
    const samples = ratio > 0 ? filled(ratio, work, [regions]) : maximum([ceil([bin]), like(bin, 0)]);
    return { start, bin, samples };
  });
  const [rows, columns] = sides as [(typeof sides)[0], (typeof sides)[0]];
  const many = mul([rows.samples, columns.samples]);
  const trips = to(reduceMax([many], { axes: [0] }), 'i64');
  const closed = [x, batch, rows.start, rows.bin, rows.samples, columns.start, columns.bin, columns.samples];
  const inner = closed.map((v, i) => argument(`closed${i}`, typeOf(v)));
  const [trip, going] = [argument('trip', typeOf(trips)), argument('going', typeOf(scalar(1, 'bool')))];
  const sums = filled(word === 'avg' ? 0 : -Infinity, work, [regions, channels, ...bins]);
  const sum = argument('sum', typeOf(sums));
  const step = sampleStep(inner, to(trip, work), spatial, bins, word === 'max');
  const next =
    word === 'avg'
      ? add([sum, where(step.taken, step.value, 0)])
      : maximum([sum, where(step.taken, step.value, -Infinity)]);
  const result = loop([trips, scalar(1, 'bool'), sums, ...closed], {
    body: graph(
      'sample',
      [trip, going, sum, ...inner],
      [
        ['going', going],
        ['sum', next],
      ],
    ),
    carried: 1,
    maxTrips: ratio > 0 ? ratio * ratio : MAX_SAMPLES,
  });
  const final = project(result, 0);
  const empty = reshape([less([many, like(many, 0.5)])], { shape: [regions, 1, 1, 1] });
  const count = reshape([maximum([many, like(many, 1)])], { shape: [regions, 1, 1, 1] });
  return to(word === 'avg' ? div([final, count]) : select([empty, like(final, 0), final]), dtype);
}

/** Sample number `trip` of every bin, [R, C, H, W], and which regions have one. */
function sampleStep(
  [x, batch, ...sides]: readonly Value[],
  trip: Value,
  spatial: readonly Dim[],
  bins: readonly number[],
  largest: boolean,
): { readonly value: Value; readonly taken: Value } {
  const [rowStart, rowBin, rowSamples, columnStart, columnBin, columnSamples] = sides as [
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
  ];
  const regions = shapeOf(rowStart)[0]!;
  const taken = less([trip, mul([rowSamples, columnSamples])]);
  const width = maximum([columnSamples, like(columnSamples, 1)]);
  const line = floor([div([trip, width])]);
  const place = (start: Value, bin: Value, samples: Value, at: Value, axis: number): Value => {
    const wide = (v: Value): Value => along(v, 0, 3);
    const within = div([plus(at, 0.5), maximum([samples, like(samples, 1)])]);
    const steps = add([counter(bins[axis]!, 1 + axis, 3, dtypeOf(start)), wide(within)]);
    return add([wide(start), mul([steps, wide(bin)])]);
  };
  const all = [regions, ...bins];
  const flat = (v: Value): Value => reshape([stretched(v, all)], { shape: [regions, product(bins)] });
  const at = [
    place(rowStart, rowBin, rowSamples, line, 0),
    place(columnStart, columnBin, columnSamples, floorMod([trip, width]), 1),
  ].map((v) => finite(flat(v), -1e9));
  const pixels = pixelsOf(gather([x!, batch!], { axis: 0 }));
  const image = { ...pixels, rows: to(pixels.rows, dtypeOf(rowStart)) };
  // Up to one pixel outside counts as the border; farther out there is nothing.
  const near = at
    .map((v, axis) => and([greaterEqual([v, like(v, -1)]), lessEqual([v, sizeValue(spatial[axis]!, dtypeOf(v))])]))
    .reduce((a, b) => and([a, b]));
  const corners = at.map((v, axis) => {
    const limited = inside(v, spatial[axis]!);
    const low = floor([limited]);
    const fraction = sub([limited, low]);
    return [
      { whole: low, weight: sub([like(fraction, 1), fraction]) },
      { whole: inside(plus(low, 1), spatial[axis]!), weight: fraction },
    ];
  });
  const terms = corners[0]!.flatMap((row) =>
    corners[1]!.map((column) => {
      const weight = where(near, mul([row.weight, column.weight]), 0);
      return mul([pixelsAt(image, [row.whole, column.whole]), unsqueezed(weight, 2)]);
    }),
  );
  // The largest of a sample's four terms, not of samples: so the operator is defined.
  const value = asImage(
    terms.reduce((a, b) => (largest ? maximum([a, b]) : add([a, b]))),
    bins,
  );
  return { value, taken: reshape([taken], { shape: [regions, 1, 1, 1] }) };
}

/** Largest pixel of every bin of a region whose edges are whole pixels. */
function maxRoiPool(n: Node): Value {
  const [x, rois] = [n.value(0), n.value(1)];
  const { dtype } = typeOf(x);
  const bins = n.intsFor('pooled_shape', 2, 1);
  n.expectRank(0, 4);
  n.expectRank(1, 2);
  const scale = n.float('spatial_scale', 1);
  const regions = shapeOf(rois)[0]!;
  const work = workType(dtype);
  const column = (i: number): Value => reshape([sliceAxis(to(rois, work), 1, i, i + 1)], { shape: [regions] });
  const edge = (i: number): Value => floor([plus(times(column(i), scale), 0.5)]);
  let pooled = gather([to(x, work), to(column(0), 'i64')], { axis: 0 });
  // One axis after the other: the bins of an axis replace its positions.
  ([3, 2] as const).forEach((axis) => {
    const count = bins[axis - 2]!;
    const first = axis === 3 ? 1 : 2;
    const start = edge(first);
    const size = maximum([plus(sub([edge(first + 2), start]), 1), like(start, 1)]);
    const bin = along(times(size, 1 / count), 0, 2);
    const number = counter(count, 1, 2, work);
    const low = add([along(start, 0, 2), floor([mul([number, bin])])]);
    const high = add([along(start, 0, 2), ceil([mul([plus(number, 1), bin])])]);
    const extent = shapeOf(pooled)[axis]!;
    // [R, bins, positions]
    const at = counter(extent, 2, 3, work);
    const taken = and([greaterEqual([at, unsqueezed(low, 2)]), less([at, unsqueezed(high, 2)])]);
    const [r, c, h, w] = shapeOf(pooled) as [Dim, Dim, Dim, Dim];
    const spread = axis === 3 ? [r, c, h, 1, w] : [r, c, 1, h, w];
    const mask = reshape([taken], { shape: axis === 3 ? [r, 1, 1, count, w] : [r, 1, count, h, 1] });
    const values = select([mask, reshape([pooled], { shape: spread }), scalar(-Infinity, work)]);
    pooled = reduceMax([values], { axes: [axis === 3 ? 4 : 3] });
  });
  const nothing = equal([pooled, like(pooled, -Infinity)]);
  return to(select([nothing, like(pooled, 0), pooled]), isFloat(dtype) ? dtype : 'f32');
}

export const samples: Entries = {
  GridSample: gridSample,
  AffineGrid: affineGrid,
  DeformConv: deformConv,
  RoiAlign: roiAlign,
  MaxRoiPool: maxRoiPool,
};
