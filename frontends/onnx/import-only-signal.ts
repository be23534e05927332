/** Signal processing as ONNX spells it: windows, Fourier transforms, mel filters. */
import { isFloat } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { add, cos, div, floorMod, mul, neg, sin, sub } from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { pad, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { constant, scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../ir/type.ts';
import type { Entries, Entry, Node } from './node.ts';
import { counter, quotientOf, shapeOf, sizeValue, stacked, sumOf, times, to, workType } from './values.ts';

/** Σ coefficient[i] · cos(2π · i · n / N): a window of `size` positions. */
const windowed =
  (coefficients: readonly number[]): Entry =>
  (n) => {
    const size = n.dims(0)?.[0] ?? n.fail('the size is missing');
    const out = n.dtype('output_datatype') ?? 'f32';
    const work = isFloat(out) ? workType(out) : 'f64';
    const period = n.int('periodic', 1) !== 0 ? size : sumOf(size, -1);
    const position = counter(size, 0, 1, work);
    const [constantTerm, ...waves] = coefficients as [number, ...number[]];
    const sum = waves.reduce<Value>(
      (total, factor, i) => {
        const angle = div([times(position, 2 * Math.PI * (i + 1)), sizeValue(period, work)]);
        return add([total, times(cos([angle]), factor)]);
      },
      scalar(constantTerm, work),
    );
    return to(sum, out);
  };

/** cos and sin of 2π · row · column / n, [rows, columns]. */
function waves(rows: Dim, columns: Dim, n: Dim): { readonly cos: Value; readonly sin: Value } {
  // The product is reduced modulo n while it is a whole number, so that the angle stays exact.
  const turns = floorMod([mul([counter(rows, 0, 2, 'i64'), counter(columns, 1, 2, 'i64')]), sizeValue(n, 'i64')]);
  const angle = div([times(to(turns, WORK), 2 * Math.PI), sizeValue(n, WORK)]);
  return { cos: cos([angle]), sin: sin([angle]) };
}

/** Sums of a transform cancel to nearly nothing where a signal has no part: they are taken in f64. */
const WORK = 'f64';

interface Transform {
  /** Number of points. */
  readonly n: Dim;
  readonly inverse: boolean;
  readonly onesided: boolean;
}

/**
 * The discrete Fourier transform over the next to last axis.
 * @param x f64[..., points, 1] of real or f64[..., points, 2] of complex numbers
 */
function fourier(node: Node, x: Value, { n, inverse, onesided }: Transform): Value {
  const { shape } = typeOf(x);
  const axis = shape.length - 2;
  const bins = sumOf(quotientOf(n, 2), 1);
  const taken = inverse && onesided ? bins : n;
  const fitted = withSize(node, x, axis, taken);
  const rank = shape.length;
  const part = (i: number): Value =>
    reshape([sliceAxis(fitted, rank - 1, i, i + 1)], { shape: shapeOf(fitted).slice(0, -1) });
  const complex = shape[rank - 1] === 2;
  const re = part(0);
  const im = complex ? part(1) : undefined;
  const pair = (a: Value, b: Value): Value => stacked([a, b], rank - 1);
  if (inverse && onesided) {
    const { cos: c, sin: d } = waves(taken, n, n);
    // Every bin stands for its mirror image too, except the first and, of an even number of points, the last.
    const weights = mirrored(n, taken);
    const sum = matmul([mul([re, weights]), c]);
    const whole = im ? sub([sum, matmul([mul([im, weights]), d])]) : sum;
    return reshape([div([whole, sizeValue(n, WORK)])], { shape: [...shapeOf(whole), 1] });
  }
  const { cos: c, sin: d } = waves(n, onesided ? bins : n, n);
  const [reCos, reSin] = [matmul([re, c]), matmul([re, d])];
  const [imCos, imSin] = im ? [matmul([im, c]), matmul([im, d])] : [undefined, undefined];
  if (!inverse) return pair(imSin ? add([reCos, imSin]) : reCos, imCos ? sub([imCos, reSin]) : neg([reSin]));
  const scaled = (v: Value): Value => div([v, sizeValue(n, WORK)]);
  return pair(scaled(imSin ? sub([reCos, imSin]) : reCos), scaled(imCos ? add([imCos, reSin]) : reSin));
}

/** How often each of `bins` counts in a real signal of n points. */
function mirrored(n: Dim, bins: Dim): Value {
  const bin = counter(bins, 0, 1, 'i64');
  // 2k mod n is 0 for k = 0, and for k = n / 2 where n is even.
  const turned = floorMod([mul([bin, scalar(2, 'i64')]), sizeValue(n, 'i64')]);
  const paired = to(to(turned, 'bool'), WORK);
  return add([paired, scalar(1, WORK)]);
}

/** `x` cut or padded with zeros to `size` positions of an axis. */
function withSize(node: Node, x: Value, axis: number, size: Dim): Value {
  const { shape } = typeOf(x);
  const own = shape[axis]!;
  if (own === size) return x;
  if (typeof own !== 'number' || typeof size !== 'number')
    return node.fail('a transform of another length than its operand needs fixed sizes');
  if (size < own) return sliceAxis(x, axis, 0, size);
  const amounts = (by: number): number[] => shape.map((_, i) => (i === axis ? by : 0));
  return pad([x], { before: amounts(0), after: amounts(size - own) });
}

function dft(n: Node): Value {
  const { shape, dtype } = n.type(0);
  const rank = shape.length;
  const axis = n.axis(n.opset < 20 ? n.int('axis', 1) : (n.number(2) ?? -2), rank);
  const last = shape[rank - 1];
  if (axis === rank - 1 || (last !== 1 && last !== 2))
    n.fail('the last axis must hold real numbers (1) or complex ones (2)', undefined, 'shape');
  const [inverse, onesided] = [n.int('inverse', 0) !== 0, n.int('onesided', 0) !== 0];
  const usual = inverse && onesided ? dim(s.mul(s.sub(asExpr(shape[axis]!), 1), 2)) : shape[axis]!;
  const points = n.dims(1)?.[0] ?? usual;
  const order = shape.map((_, i) => i).filter((i) => i !== axis);
  const perm = order.toSpliced(rank - 2, 0, axis);
  const x = to(n.value(0), WORK);
  const moved = axis === rank - 2 ? x : transpose([x], { perm });
  const out = fourier(n, moved, { n: points, inverse, onesided });
  const back = axis === rank - 2 ? out : transpose([out], { perm: perm.map((_, i) => perm.indexOf(i)) });
  return to(back, dtype);
}

function stft(n: Node): Value {
  n.expectRank(0, 3);
  const { shape, dtype } = n.type(0);
  const [, length, parts] = shape as [Dim, Dim, Dim];
  const step = n.number(1) ?? n.fail('frame_step is missing');
  if (!(step > 0)) n.fail(`frame_step is ${step}`, undefined, 'attribute');
  const window = n.optional(2);
  const width = window ? shapeOf(window)[0]! : undefined;
  const points = n.dims(3)?.[0] ?? width ?? length;
  const size = width ?? points;
  const frames = dim(s.add(s.floordiv(s.sub(asExpr(length), points), step), 1));
  const at = add([times(counter(frames, 0, 2, 'i64'), step), counter(size, 1, 2, 'i64')]);
  const rows = gather([to(n.value(0), WORK), at], { axis: 1 });
  const weighted = window ? mul([rows, reshape([to(window, WORK)], { shape: [size, 1] })]) : rows;
  const onesided = n.int('onesided', 1) !== 0;
  if (onesided && parts === 2) n.fail('onesided needs a real signal', 'set onesided to 0', 'attribute');
  return to(fourier(n, weighted, { n: points, inverse: false, onesided }), dtype);
}

/** Weights of a matrix that is worked out here. */
const MOST_WEIGHTS = 2 ** 24;

/** Triangular filters with equal steps on the mel scale, [bins, bands]. */
function melWeights(n: Node): Value {
  const [bands, points, rate, low, high] = [0, 1, 2, 3, 4].map((i) => n.number(i) ?? n.fail(`operand ${i} is missing`));
  const out = n.dtype('output_datatype') ?? 'f32';
  const bins = Math.floor(points! / 2) + 1;
  if (!(bins >= 1 && bands! >= 0 && rate! > 0 && bins * bands! <= MOST_WEIGHTS))
    n.fail(`${bands} bands over ${points} points at a rate of ${rate}`, undefined, 'attribute');
  const mel = (hertz: number): number => 2595 * Math.log10(1 + hertz / 700);
  const step = (mel(high!) - mel(low!)) / (bands! + 2);
  const edges = Array.from({ length: bands! + 2 }, (_, i) => {
    const hertz = 700 * (10 ** ((i * step + mel(low!)) / 2595) - 1);
    return Math.floor(((points! + 1) * hertz) / rate!);
  });
  const result: Nd = nd(out, [bins, bands!]);
  const set = (bin: number, band: number, weight: number): void => {
    if (bin < 0 || bin >= bins) n.fail(`band ${band} reaches bin ${bin} of ${bins}`, 'lower upper_edge_hertz', 'shape');
    result.data[bin * bands! + band] = isFloat(out) ? weight : Math.trunc(weight);
  };
  for (let band = 0; band < bands!; band++) {
    const [left, centre, right] = edges.slice(band, band + 3) as [number, number, number];
    if (left === centre) set(centre, band, 1);
    else for (let bin = left; bin <= centre; bin++) set(bin, band, (bin - left) / (centre - left));
    for (let bin = centre; bin < right; bin++) set(bin, band, (right - bin) / (right - centre));
  }
  return constant([], { value: result });
}

export const signals: Entries = {
  HannWindow: windowed([0.5, -0.5]),
  HammingWindow: windowed([25 / 46, -21 / 46]),
  BlackmanWindow: windowed([0.42, -0.5, 0.08]),
  DFT: dft,
  STFT: stft,
  MelWeightMatrix: melWeights,
};
