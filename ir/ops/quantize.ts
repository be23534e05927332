/**
 * Numbers as scaled integers, and products of such integers.
 *
 * A quantised tensor q stands for (q − zero) · scale. Scales and zero points are one number, one for each position of an
 * axis, or one for each block of positions.
 */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { intRange, isFloat, isInt, roundHalfEven, roundTo, type Scalar } from '../dtype.ts';
import { typeOf, type Value } from '../graph.ts';
import { eachIndex, type Nd, nd } from '../nd.ts';
import { defineOp } from '../op.ts';
import { printDim, printType } from '../print.ts';
import { floordiv, mul as times } from '../scalar.ts';
import { asExpr, type Dim, dim, type Shape, sameDim, type TensorType, tensor } from '../type.ts';
import { broadcastShapes, expectDtype, expectRankAtLeast, normalizeAxis, typeAt } from './check.ts';
import { conv, depthwiseConv, im2col } from './conv.ts';
import { add, cast, div, maximum, minimum, mul, round, sub } from './elementwise.ts';
import { f32, given } from './example.ts';
import { macsOf } from './macs.ts';
import { reduceMax, reduceMin } from './reduce.ts';
import { expand, reshape, sliceAxis, transpose } from './shape.ts';
import { scalar } from './structural.ts';
import { windowAttrs, windowAxes, windowCounts } from './window.ts';

const as = (x: Value, dtype: Scalar): Value => (typeOf(x).dtype === dtype ? x : cast([x], { to: dtype }));

// Scales beside x.

interface Placement {
  readonly axis: number;
  readonly block: number;
}

/** Refuses a scale or zero point that does not fit x. */
function expectPlaced(what: string, v: TensorType, x: TensorType, { axis, block }: Placement): void {
  const { shape } = v;
  if (block === 0) {
    if (shape.length === 0 || (shape.length === 1 && dim(shape[0]!) === 1)) return;
    const at = normalizeAxis(axis, x.shape.length);
    if (shape.length !== 1 || !sameDim(shape[0]!, x.shape[at]!))
      fail('shape', `${what} must be one number or [${printDim(x.shape[at]!)}], not ${printType(v)}`);
    return;
  }
  const at = normalizeAxis(axis, x.shape.length);
  const fits = shape.length === x.shape.length && x.shape.every((d, i) => i === at || sameDim(d, shape[i]!));
  const blocks = dim(floordiv(times(1, asExpr(x.shape[at] ?? 1)), block));
  const last = fits && dim(times(asExpr(shape[at]!), block));
  if (!fits || block < 0 || (typeof last === 'number' && typeof blocks === 'number' && last < blocks * block))
    fail('shape', `${what} must have one entry for each ${block} positions of axis ${at}, not ${printType(v)}`);
}

/** The scale or zero point in a shape that broadcasts against x. */
export function placed(v: Value, x: Shape, { axis, block }: Placement): Value {
  const { shape } = typeOf(v);
  if (block === 0) {
    if (shape.length === 0) return v;
    if (dim(shape[0]!) === 1) return reshape([v], { shape: [] });
    const at = normalizeAxis(axis, x.length);
    return reshape([v], { shape: x.map((_, i) => (i === at ? shape[0]! : 1)) });
  }
  const at = normalizeAxis(axis, x.length);
  const apart = reshape([v], { shape: shape.toSpliced(at + 1, 0, 1) });
  const wide = expand([apart], { shape: shape.toSpliced(at + 1, 0, block) });
  const all = reshape([wide], { shape: shape.map((d: Dim, i) => (i === at ? dim(times(asExpr(d), block)) : d)) });
  // The last block may be cut short.
  return sameDim(typeOf(all).shape[at]!, x[at]!) ? all : sliceAxis(all, at, 0, x[at]!);
}

/** For each element of x the number of its scale. */
function scaleIndex(x: Nd, scale: Nd, { axis, block }: Placement): (at: readonly number[]) => number {
  if (block === 0) {
    if (scale.data.length === 1) return () => 0;
    const i = normalizeAxis(axis, x.shape.length);
    return (at) => at[i]!;
  }
  const i = normalizeAxis(axis, x.shape.length);
  return (at) => at.reduce((flat, n, k) => flat * scale.shape[k]! + (k === i ? Math.floor(n / block) : n), 0);
}

const placement = {
  axis: opt.int(1, 'axis along which scales differ, where there are several'),
  block: opt.int(0, 'positions of the axis that share a scale; 0: one position, scales are a vector'),
} as const;

export const quantize = defineOp({
  name: 'quantize',
  doc: 'round(x ÷ scale) + zero in an integer type: the quotient is taken in the type of x, ties go to even, what does not fit saturates.',
  inputs: ['x', 'scale', 'zero?'],
  attrs: { ...placement, to: attr.dtype('integer type of the result, and of the zero point') },
  type: (inputs, attrs) => {
    const [x, scale, zero] = [typeAt(inputs, 0), typeAt(inputs, 1), inputs[2]];
    expectDtype(x, 'float', 'x');
    if (scale.dtype !== x.dtype) fail('dtype', `x is ${x.dtype}, its scale ${scale.dtype}`);
    if (!isInt(attrs.to)) fail('dtype', `the result must be an integer, not ${attrs.to}`);
    expectPlaced('the scale', scale, x, attrs);
    if (zero) {
      expectPlaced('the zero point', zero, x, attrs);
      if (zero.dtype !== attrs.to) fail('dtype', `the zero point must be ${attrs.to}, not ${zero.dtype}`);
    }
    return tensor(attrs.to, x.shape);
  },
  axes: ([x]) => [x!.shape.map((_, i) => i)],
  eval: ([x, scale, zero], attrs) => {
    const out = nd(attrs.to, x!.shape);
    const [low, high] = isInt(attrs.to) ? intRange(attrs.to) : [0, 0];
    const scaleOf = scaleIndex(x!, scale!, attrs);
    const zeroOf = zero && scaleIndex(x!, zero, attrs);
    eachIndex(x!.shape, (at, flat) => {
      const quotient = roundTo(x!.dtype, x!.data[flat]! / scale!.data[scaleOf(at)]!);
      // The sum is rounded as the type of x adds, which matters for very large quotients only.
      const q = roundTo(x!.dtype, roundHalfEven(quotient) + (zeroOf ? zero.data[zeroOf(at)]! : 0));
      out.data[flat] = Number.isNaN(q) ? 0 : Math.min(high, Math.max(low, q)) + 0;
    });
    return out;
  },
  lower: {
    kind: 'decompose',
    build: ([x, scale, zero], attrs) => {
      const { shape, dtype } = typeOf(x!);
      const whole = round([div([x!, placed(scale!, shape, attrs)])]);
      // A cast of a float to an integer saturates.
      return cast([zero ? add([whole, as(placed(zero, shape, attrs), dtype)]) : whole], { to: attrs.to });
    },
  },
  examples: [
    { inputs: [f32(3, 5), given('f32', [], [0.25]), given('u8', [], [128])], attrs: { to: 'u8' } },
    {
      inputs: [given('f32', [2, 3], [-3, 0.5, 1.5, 2.5, 300, -300]), given('f32', [3], [1, 1, 2])],
      attrs: { to: 'i8' },
      note: 'ties go to even, the rest saturates',
    },
    {
      inputs: [f32(2, 3, 4), given('f32', [2, 3, 2], undefined, [0.25, 1]), given('i8', [2, 3, 2])],
      attrs: { axis: 2, block: 2, to: 'i8' },
      note: 'blocks',
    },
    { inputs: [given('f32', [3], [NaN, Infinity, -Infinity]), given('f32', [1], [1])], attrs: { to: 'i16' } },
    {
      inputs: [f32(3, 2), given('f32', [2], [0.5, 0.25]), given('u8', [], [130])],
      attrs: { to: 'u8' },
      note: 'a scale a column, one zero point',
    },
  ],
});

export const dequantize = defineOp({
  name: 'dequantize',
  doc: '(x − zero) · scale in the type of the scale.',
  inputs: ['x', 'scale', 'zero?'],
  attrs: placement,
  type: (inputs, attrs) => {
    const [x, scale, zero] = [typeAt(inputs, 0), typeAt(inputs, 1), inputs[2]];
    expectDtype(x, 'int', 'x');
    expectDtype(scale, 'float', 'the scale');
    expectPlaced('the scale', scale, x, attrs);
    if (zero) {
      expectPlaced('the zero point', zero, x, attrs);
      if (zero.dtype !== x.dtype) fail('dtype', `the zero point must be ${x.dtype}, not ${zero.dtype}`);
    }
    return tensor(scale.dtype, x.shape);
  },
  axes: ([x]) => [x!.shape.map((_, i) => i)],
  eval: ([x, scale, zero], attrs) => {
    const out = nd(scale!.dtype, x!.shape);
    const scaleOf = scaleIndex(x!, scale!, attrs);
    const zeroOf = zero && scaleIndex(x!, zero, attrs);
    eachIndex(x!.shape, (at, flat) => {
      out.data[flat] = (x!.data[flat]! - (zeroOf ? zero.data[zeroOf(at)]! : 0)) * scale!.data[scaleOf(at)]!;
    });
    return out;
  },
  lower: {
    kind: 'decompose',
    build: ([x, scale, zero], attrs) => {
      const { shape } = typeOf(x!);
      const wide = as(x!, 'i32');
      const moved = zero ? sub([wide, as(placed(zero, shape, attrs), 'i32')]) : wide;
      return mul([as(moved, typeOf(scale!).dtype), placed(scale!, shape, attrs)]);
    },
  },
  examples: [
    { inputs: [given('u8', [3, 5], undefined, [0, 255]), given('f32', [], [0.125]), given('u8', [], [117])] },
    { inputs: [given('i8', [2, 3, 4], undefined, [-128, 127]), f32(3), given('i8', [3])], note: 'a scale a channel' },
    { inputs: [given('i32', [2, 3]), given('f32', [1], [0.5])], attrs: { axis: 0 }, note: 'a bias' },
    { inputs: [given('u8', [3, 2]), given('f32', [], [0.5]), given('u8', [2], [1, 3])], note: 'a zero point a column' },
    { inputs: [given('i8', [4, 3]), f32(2, 3), given('i8', [2, 3])], attrs: { axis: 0, block: 2 }, note: 'blocks' },
  ],
});

export const dynamicQuantize = defineOp({
  name: 'dynamic_quantize',
  doc: 'x as u8 with the one scale and zero point for which its range, stretched to hold 0, fills 0 … 255: (quantised, scale, zero).',
  inputs: ['x'],
  attrs: {},
  type: ([x]) => {
    if (x!.dtype !== 'f32') fail('dtype', `x must be f32, not ${x!.dtype}`);
    return { kind: 'tuple', items: [tensor('u8', x!.shape), tensor('f32', []), tensor('u8', [])] };
  },
  eval: ([x]) => {
    const f = Math.fround;
    const low = x!.data.reduce((least, v) => Math.min(least, v), 0);
    const high = x!.data.reduce((most, v) => Math.max(most, v), 0);
    const scale = f(f(high - low) / 255);
    const point = (v: number): number => (Number.isNaN(v) ? 0 : Math.min(255, Math.max(0, v)) + 0);
    const zero = point(roundHalfEven(f(f(0 - low) / scale)));
    const q = x!.data.map((v) => point(roundHalfEven(f(v / scale)) + zero));
    return [nd('u8', x!.shape, q), nd('f32', [], [scale]), nd('u8', [], [zero])];
  },
  lower: {
    kind: 'decompose',
    build: ([x]) => {
      const zero = scalar(0, 'f32');
      const [low, high] = [minimum([extreme(reduceMin, x!), zero]), maximum([extreme(reduceMax, x!), zero])];
      const scale = div([sub([high, low]), scalar(255, 'f32')]);
      const point = cast([round([div([sub([zero, low]), scale])])], { to: 'u8' });
      return [quantize([x!, scale, point], { to: 'u8' }), scale, point];
    },
  },
  examples: [
    { inputs: [given('f32', [2, 4], [0, 0.9921875, -1, -0.8, 0.45, 0.17, -0.33, 0.7])] },
    { inputs: [given('f32', [4], [1.1, 2, 3, 63.75])], note: 'all positive: the range is stretched to 0' },
    { inputs: [given('f32', [2, 1], [-1, -255])], note: 'all negative' },
  ],
});

/** The largest or smallest element: along lines first, which several threads share. */
function extreme(fold: typeof reduceMin, x: Value): Value {
  const { shape } = typeOf(x);
  if (shape.length === 0) return x;
  const lines = fold([x], { axes: [shape.length - 1] });
  return shape.length === 1 ? lines : fold([lines], { axes: shape.slice(1).map((_, i) => i) });
}

// Products.

interface Sides {
  readonly transposeB: boolean;
}
function productOf(inputs: readonly TensorType[], { transposeB }: Sides) {
  const [a, b] = [typeAt(inputs, 0).shape, typeAt(inputs, 1).shape];
  const [inner, columns] = transposeB ? [b.at(-1)!, b.at(-2)!] : [b.at(-2)!, b.at(-1)!];
  return { batch: [a.slice(0, -2), b.slice(0, -2)] as const, rows: a.at(-2)!, k: a.at(-1)!, inner, columns };
}

/** Refuses a zero point that differs along the inner axis or does not broadcast. */
function expectZero(what: string, zero: TensorType | undefined, of: TensorType, allowed: Shape): void {
  if (!zero) return;
  if (zero.dtype !== of.dtype) fail('dtype', `${what} must be ${of.dtype}, not ${zero.dtype}`);
  const offset = allowed.length - zero.shape.length;
  if (offset < 0 || !zero.shape.every((d, i) => dim(d) === 1 || sameDim(d, allowed[i + offset]!)))
    fail('shape', `${what} must broadcast to [${allowed.map(printDim).join(', ')}], not ${printType(zero)}`);
}

/**
 * Product of 8-bit integers in 32 bits.
 *
 * A[…, M, K] · B[…, K, N] = i32[…, M, N]; the zero point of A broadcasts to […, M, 1], that of B to […, 1, N].
 */
export const integerMatmul = defineOp({
  name: 'integer_matmul',
  doc: 'Σ (a − aZero) · (b − bZero) over the inner axis, modulo 2^32; leading axes broadcast. Zero points: one number, one a row of a, one a column of b.',
  inputs: ['a', 'b', 'aZero?', 'bZero?'],
  attrs: { transposeB: opt.bool(false, 'b is stored [..., N, K]') },
  type: (inputs, attrs) => {
    const [a, b, az, bz] = [typeAt(inputs, 0), typeAt(inputs, 1), inputs[2], inputs[3]];
    expectRankAtLeast(a, 2, 'a');
    expectRankAtLeast(b, 2, 'b');
    if (a.dtype !== 'i8' && a.dtype !== 'u8' && a.dtype !== 'i16')
      fail('dtype', `a must be i8, u8, or i16 that is centred already, not ${a.dtype}`);
    if (b.dtype !== 'i8' && b.dtype !== 'u8') fail('dtype', `b must be i8 or u8, not ${b.dtype}`);
    const { batch, rows, k, inner, columns } = productOf(inputs, attrs);
    if (!sameDim(k, inner)) fail('shape', `inner sizes differ, ${printDim(k)} and ${printDim(inner)}`);
    const zeroOfA = a.dtype === 'i16' ? { ...a, dtype: 'u8' as const } : a;
    expectZero('the zero point of a', az, zeroOfA, [...a.shape.slice(0, -1), 1]);
    expectZero('the zero point of b', bz, b, [...b.shape.slice(0, -2), 1, columns]);
    return tensor('i32', [...broadcastShapes(batch), rows, columns]);
  },
  eval: ([a, b, az, bz], { transposeB }, cx) => {
    const { shape } = cx.types[0]!;
    const out = nd('i32', shape);
    const k = a!.shape.at(-1)!;
    const element = (x: Nd | undefined, at: readonly number[]): number => {
      if (!x) return 0;
      const skip = at.length - x.shape.length;
      return x.data[x.shape.reduce((flat, d, i) => flat * d + (d === 1 ? 0 : at[i + skip]!), 0)]!;
    };
    eachIndex(shape, (at, flat) => {
      const [lead, m, n] = [at.slice(0, -2), at.at(-2)!, at.at(-1)!];
      const [za, zb] = [element(az, [...lead, m, 0]), element(bz, [...lead, 0, n])];
      let sum = 0;
      for (let i = 0; i < k; i++) {
        const x = element(a, [...lead, m, i]) - za;
        const y = element(b, transposeB ? [...lead, n, i] : [...lead, i, n]) - zb;
        sum = (sum + x * y) | 0;
      }
      out.data[flat] = sum;
    });
    return out;
  },
  lower: { kind: 'schedule', name: 'matmul-int8' },
  macs: (inputs, attrs) => {
    const { batch, rows, inner, columns } = productOf(inputs, attrs);
    return macsOf(...broadcastShapes(batch), rows, inner, columns);
  },
  onnx: { op: 'MatMulInteger', since: 10 },
  examples: [
    { inputs: [given('u8', [3, 5], undefined, [0, 255]), given('i8', [5, 7], undefined, [-128, 127])] },
    {
      inputs: [
        given('u8', [2, 3, 19], undefined, [0, 255]),
        given('u8', [19, 21], undefined, [0, 255]),
        given('u8', [], [117]),
        given('u8', [], [131]),
      ],
      note: 'unsigned on both sides',
    },
    {
      inputs: [
        given('i8', [7, 34], undefined, [-128, 127]),
        given('i8', [5, 34], undefined, [-128, 127]),
        given('i8', [7, 1], undefined, [-128, 127]),
        given('i8', [5], undefined, [-128, 127]),
      ],
      attrs: { transposeB: true },
      note: 'a zero point a row, and a column',
    },
    {
      inputs: [given('u8', [2, 1, 3, 4]), given('i8', [3, 4, 2]), given('u8', [2, 1, 3, 1]), given('i8', [3, 1, 2])],
      note: 'batch axes broadcast',
    },
    { inputs: [given('i16', [9, 3], undefined, [-255, 255]), given('i8', [3, 17]), given('u8', []), given('i8', [])] },
    { inputs: [given('i8', [1, 1], [-128]), given('i8', [1, 1], [-128])] },
    { inputs: [given('u8', [2, 0]), given('i8', [0, 3])], note: 'an empty inner axis gives zeros' },
  ],
});

const convAttrs = { ...windowAttrs, groups: opt.int(1, 'number of groups of channels that do not see each other') };
/** Sums of so many products of centred 8-bit integers are exact in f32. */
const EXACT_TAPS = 256;

export const integerConv = defineOp({
  name: 'integer_conv',
  doc: 'Convolution of 8-bit integers in 32 bits: x[N, C, …] less its zero point, w[O, C/groups, k…] less one zero point or one for each of its O filters; padding adds nothing.',
  inputs: ['x', 'w', 'xZero?', 'wZero?'],
  attrs: convAttrs,
  type: (inputs, attrs) => {
    const [x, w, xz, wz] = [typeAt(inputs, 0), typeAt(inputs, 1), inputs[2], inputs[3]];
    for (const t of [x, w])
      if (t.dtype !== 'i8' && t.dtype !== 'u8') fail('dtype', `operands must be i8 or u8, not ${t.dtype}`);
    const type = conv.def.type([tensor('f32', x.shape), tensor('f32', w.shape)], attrs);
    if (type.kind === 'tuple') return fail('internal', 'a convolution has one result');
    expectZero('the zero point of x', xz, x, []);
    expectZero('the zero point of w', wz, w, [w.shape[0]!]);
    return tensor('i32', type.shape);
  },
  eval: ([x, w, xz, wz], attrs, cx) => {
    const { shape } = cx.types[0]!;
    const taps = w!.data.length / w!.shape[0]!;
    const centred = (t: Nd, zero: (flat: number) => number): Nd => ({
      ...t,
      dtype: 'f64',
      data: Float64Array.from(t.data, (v, i) => v - zero(i)),
    });
    const floats = [
      centred(x!, () => xz?.data[0] ?? 0),
      centred(w!, (i) => (wz ? wz.data[wz.data.length === 1 ? 0 : Math.floor(i / taps)]! : 0)),
    ];
    const sums = conv.def.eval(floats, attrs, { ...cx, types: [{ dtype: 'f64', shape }] }) as Nd;
    return nd(
      'i32',
      shape,
      Float64Array.from(sums.data, (v) => v | 0),
    );
  },
  lower: {
    kind: 'decompose',
    build: ([x, w, xz, wz], attrs) => {
      const ws = typeOf(w!).shape as readonly number[];
      const [out, perGroup, ...kernel] = ws as [number, number, ...number[]];
      const size = kernel.reduce((n, k) => n * k, 1);
      const { groups } = attrs;
      const less = (v: Value, zero: Value | undefined, to: Scalar): Value =>
        zero ? sub([as(v, to), as(zero, to)]) : as(v, to);
      const filters = (v: Value, rank: number): Value =>
        typeOf(v).shape.length === 0 ? v : reshape([v], { shape: [dim(typeOf(v).shape[0]!), ...ones(rank - 1)] });
      if (groups > 1 && perGroup === 1 && size <= EXACT_TAPS) {
        const weights = less(w!, wz && filters(wz, ws.length), 'f32');
        const op = size <= 64 ? depthwiseConv : conv;
        return cast([op([less(x!, xz, 'f32'), weights], attrs)], { to: 'i32' });
      }
      const xs = typeOf(x!).shape;
      const counts = windowCounts(xs, windowAxes(kernel, attrs));
      const lead = groups === 1 ? xs[0]! : dim(times(asExpr(xs[0]!), groups));
      // Centred values take 9 bits; padding is 0 among them.
      const whole = less(x!, xz, 'i16');
      const images = groups === 1 ? whole : reshape([whole], { shape: [lead, perGroup, ...xs.slice(2)] });
      const { strides, pads, dilations } = attrs;
      const windows = im2col([images], { kernel, strides, pads, dilations });
      const inner = perGroup * size;
      const places = typeOf(windows).shape[1]!;
      const rows = groups === 1 ? windows : reshape([windows], { shape: [xs[0]!, groups, places, inner] });
      const lines = groups === 1 ? [out] : [groups, out / groups];
      const zero = wz && typeOf(wz).shape.length === 1 && dim(typeOf(wz).shape[0]!) !== 1;
      const weights = reshape([w!], { shape: [...lines, inner] });
      const zeros = zero
        ? [reshape([wz], { shape: groups === 1 ? [1, out] : [groups, 1, out / groups] })]
        : wz
          ? [reshape([wz], { shape: [] })]
          : [];
      const product = integerMatmul([rows, weights, ...(zeros.length > 0 ? [scalar(0, 'u8'), ...zeros] : [])], {
        transposeB: true,
      });
      const columns = transpose([product], { perm: groups === 1 ? [0, 2, 1] : [0, 1, 3, 2] });
      return reshape([columns], { shape: [xs[0]!, out, ...counts] });
    },
  },
  macs: (inputs, _, out) => {
    const [, ...perOutput] = typeAt(inputs, 1).shape;
    return out.kind === 'tensor' ? macsOf(...out.shape, ...perOutput) : 0;
  },
  onnx: {
    op: 'ConvInteger',
    since: 10,
    attrs: { strides: 'strides', pads: 'pads', dilations: 'dilations', groups: 'group' },
  },
  examples: [
    {
      inputs: [
        given('u8', [2, 3, 7, 5], undefined, [0, 255]),
        given('i8', [4, 3, 3, 2], undefined, [-128, 127]),
        given('u8', [], [119]),
      ],
      attrs: { pads: [1, 0, 1, 1] },
    },
    {
      inputs: [given('u8', [2, 4, 9]), given('u8', [6, 2, 3]), given('u8', [], [3]), given('u8', [6])],
      attrs: { groups: 2, strides: [2], dilations: [2], pads: [2, 1] },
      note: 'groups, and a zero point a filter',
    },
    {
      inputs: [given('i8', [1, 3, 5, 5]), given('i8', [3, 1, 3, 3]), given('i8', []), given('i8', [3])],
      attrs: { groups: 3, pads: [1, 1, 1, 1] },
      note: 'depthwise',
    },
    { inputs: [given('u8', [2, 5, 3, 4]), given('i8', [6, 5, 1, 1])], note: 'position-wise' },
  ],
});
const ones = (n: number): number[] => new Array<number>(n).fill(1);

/** Types that `quantize` and the products above deal in. */
export const isQuantized = (dtype: Scalar): boolean => !isFloat(dtype) && (dtype === 'i8' || dtype === 'u8');
