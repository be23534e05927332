/** Quantised operators, written out in the arithmetic that ONNX defines them by. */
import { intRange, isInt, type Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { conv } from '../../ir/ops/conv.ts';
import { add, cast, clamp, div, maximum, minimum, mul, round, sub } from '../../ir/ops/elementwise.ts';
import { reduceMax, reduceMin } from '../../ir/ops/reduce.ts';
import { expand, reshape } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import { mul as times } from '../../ir/scalar.ts';
import type { Dim, Shape } from '../../ir/type.ts';
import { asExpr, dim } from '../../ir/type.ts';
import { centred, product } from './import-only-linear.ts';
import { windowOf } from './import-only-window.ts';
import type { Entries, Node } from './node.ts';

const to = (x: Value, dtype: Scalar): Value => (typeOf(x).dtype === dtype ? x : cast([x], { to: dtype }));

/** A scale or zero point in a shape that broadcasts against x: one number, one for each position of the axis, or blocks. */
function placed(n: Node, v: Value, x: Shape, axis: number, block: number): Value {
  const { shape } = typeOf(v);
  if (shape.length === 0 || (shape.length === 1 && shape[0] === 1 && block === 0)) return reshape([v], { shape: [] });
  const at = n.axis(axis, x.length);
  if (block === 0) {
    if (shape.length !== 1)
      n.fail('scales must be one number or one for each position of the axis', undefined, 'shape');
    return reshape([v], { shape: x.map((_, i) => (i === at ? shape[0]! : 1)) });
  }
  // Every entry stands for `block` positions.
  const apart = reshape([v], { shape: shape.toSpliced(at + 1, 0, 1) });
  const wide = expand([apart], { shape: shape.toSpliced(at + 1, 0, block) });
  return reshape([wide], { shape: shape.map((d: Dim, i) => (i === at ? dim(times(asExpr(d), block)) : d)) });
}

/** round(x / scale) + zero point, saturated. */
function quantized(x: Value, scale: Value, zero: Value | undefined, dtype: Scalar): Value {
  const whole = round([div([x, scale])]);
  const { dtype: float } = typeOf(whole);
  const moved = zero ? add([whole, to(zero, float)]) : whole;
  if (!isInt(dtype)) return to(moved, dtype);
  const [low, high] = intRange(dtype);
  return cast([clamp([moved], { min: low, max: high })], { to: dtype });
}

function quantizeLinear(n: Node): Value {
  const [x, scale] = [n.value(0), n.value(1)];
  const zero = n.optional(2);
  n.ignore('saturate', 'precision');
  const dtype = zero
    ? typeOf(zero).dtype
    : n.hasAttribute('output_dtype') && n.int('output_dtype') !== 0
      ? n.dtype('output_dtype')!
      : 'u8';
  const [axis, block] = [n.int('axis', 1), n.int('block_size', 0)];
  const { shape, dtype: own } = typeOf(x);
  const float = isInt(own) ? 'f32' : own;
  const place = (v: Value): Value => placed(n, v, shape, axis, block);
  return quantized(to(x, float), to(place(scale), float), zero && place(zero), dtype);
}

function dequantizeLinear(n: Node): Value {
  const [x, scale] = [n.value(0), n.value(1)];
  const [axis, block] = [n.int('axis', 1), n.int('block_size', 0)];
  const { shape } = typeOf(x);
  const out =
    n.hasAttribute('output_dtype') && n.int('output_dtype') !== 0 ? n.dtype('output_dtype')! : typeOf(scale).dtype;
  const place = (v: Value): Value => placed(n, v, shape, axis, block);
  const zero = n.optional(2);
  const wide = to(x, 'i32');
  const difference = zero ? sub([wide, to(place(zero), 'i32')]) : wide;
  return to(mul([to(difference, typeOf(scale).dtype), place(scale)]), out);
}

function dynamicQuantize(n: Node): readonly Value[] {
  const x = n.value(0);
  const all = { axes: typeOf(x).shape.map((_, i) => i) };
  const zero = scalar(0, 'f32');
  const [low, high] = [minimum([reduceMin([x], all), zero]), maximum([reduceMax([x], all), zero])];
  const scale = div([sub([high, low]), scalar(255, 'f32')]);
  const point = clamp([round([div([sub([zero, low]), scale])])], { min: 0, max: 255 });
  const zeroPoint = cast([point], { to: 'u8' });
  return [quantized(x, scale, zeroPoint, 'u8'), scale, zeroPoint];
}

function qlinearMatmul(n: Node): Value {
  const [a, as, az, b, bs, bz, ys, yz] = Array.from({ length: 8 }, (_, i) => n.value(i)) as [
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
  ];
  const whole = product(centred(a, az, 'i32', -2), centred(b, bz, 'i32', -1));
  const rank = typeOf(whole).shape.length;
  const spread = (v: Value, axis: number): Value => {
    const { shape } = typeOf(v);
    if (shape.length !== 1) return v;
    if (shape[0] === 1) return reshape([v], { shape: [] });
    return reshape([v], { shape: Array.from({ length: rank }, (_, i) => (i === rank + axis ? shape[0]! : 1)) });
  };
  const scale = div([mul([to(spread(as, -2), 'f32'), to(spread(bs, -1), 'f32')]), to(spread(ys, -2), 'f32')]);
  const real = mul([cast([whole], { to: 'f32' }), scale]);
  return quantized(real, scalar(1, 'f32'), spread(yz, -2), typeOf(yz).dtype);
}

/** An integer convolution in f64, whose sums are exact up to 2^53. */
function wholeConv(n: Node, x: Value, w: Value, xz: Value | undefined, wz: Value | undefined): Value {
  const attrs = { ...windowOf(n, typeOf(w).shape.slice(2) as readonly number[]), groups: n.int('group', 1) };
  n.ignore('kernel_shape');
  return conv([centred(x, xz, 'f64', 1), centred(w, wz, 'f64', 0)], attrs);
}

function qlinearConv(n: Node): Value {
  const [x, xs, xz, w, ws, wz, ys, yz] = Array.from({ length: 8 }, (_, i) => n.value(i)) as [
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
  ];
  const rank = n.rank(0);
  const perChannel = (v: Value): Value => {
    const { shape } = typeOf(v);
    return shape.length === 1 && shape[0] !== 1
      ? reshape([v], { shape: Array.from({ length: rank }, (_, i) => (i === 1 ? shape[0]! : 1)) })
      : reshape([v], { shape: [] });
  };
  const sums = wholeConv(n, x, w, xz, wz);
  const bias = n.optional(8);
  const biased = bias ? add([sums, cast([perChannel(bias)], { to: 'f64' })]) : sums;
  const scale = div([mul([perChannel(xs), perChannel(ws)]), perChannel(ys)]);
  const real = mul([cast([biased], { to: 'f32' }), scale]);
  return quantized(real, scalar(1, 'f32'), perChannel(yz), typeOf(yz).dtype);
}

export const quantization: Entries = {
  QuantizeLinear: quantizeLinear,
  DequantizeLinear: dequantizeLinear,
  DynamicQuantizeLinear: dynamicQuantize,
  QLinearMatMul: qlinearMatmul,
  QLinearConv: qlinearConv,
  ConvInteger: (n) => cast([wholeConv(n, n.value(0), n.value(1), n.optional(2), n.optional(3))], { to: 'i32' }),
};
