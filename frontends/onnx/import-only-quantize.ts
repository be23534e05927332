/** Quantised operators. */
import type { Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { add, cast, div, mul, round } from '../../ir/ops/elementwise.ts';
import { dequantize, dynamicQuantize, integerConv, integerMatmul, quantize } from '../../ir/ops/quantize.ts';
import { reshape } from '../../ir/ops/shape.ts';
import { projectAll, scalar } from '../../ir/ops/structural.ts';
import { centred, product } from './import-only-linear.ts';
import { windowOf } from './import-only-window.ts';
import { precisionOf } from './narrow-nodes.ts';
import type { Entries, Node } from './node.ts';
import { to } from './values.ts';

/** round(x) + zero point, saturated; x is divided by its scale already. */
function saturated(x: Value, zero: Value | undefined, dtype: Scalar): Value {
  const whole = round([x]);
  return to(zero ? add([whole, to(zero, typeOf(whole).dtype)]) : whole, dtype);
}

const outputType = (n: Node, otherwise: Scalar): Scalar =>
  n.hasAttribute('output_dtype') && n.int('output_dtype') !== 0 ? n.dtype('output_dtype')! : otherwise;

function quantizeLinear(n: Node): Value {
  const [x, scale] = [n.value(0), n.value(1)];
  const zero = n.optional(2);
  n.ignore('saturate');
  const float = precisionOf(n);
  return quantize([to(x, float), to(scale, float), ...(zero ? [zero] : [])], {
    axis: n.int('axis', 1),
    block: n.int('block_size', 0),
    to: zero ? typeOf(zero).dtype : outputType(n, 'u8'),
  });
}

function dequantizeLinear(n: Node): Value {
  const zero = n.optional(2);
  const scale = n.value(1);
  const out = outputType(n, typeOf(scale).dtype);
  return dequantize([n.value(0), to(scale, out), ...(zero ? [zero] : [])], {
    axis: n.int('axis', 1),
    block: n.int('block_size', 0),
  });
}

/** A vector along an axis of a matrix product, counted from its end, in a shape that broadcasts; else as it is. */
export function along(v: Value, axis: -1 | -2): Value {
  const { shape } = typeOf(v);
  if (shape.length !== 1) return v;
  if (shape[0] === 1) return reshape([v], { shape: [] });
  return axis === -1 ? v : reshape([v], { shape: [shape[0]!, 1] });
}

const isByte = (dtype: Scalar): boolean => dtype === 'i8' || dtype === 'u8';

/** Σ (a − za)(b − zb), as numpy's matmul takes its operands. Zero points: one number, one a row of a, one a column of b. */
export function integerProduct(a: Value, b: Value, za: Value | undefined, zb: Value | undefined): Value {
  const [as, bs] = [typeOf(a), typeOf(b)];
  if (!isByte(as.dtype) || !isByte(bs.dtype)) return product(centred(a, za, 'i32', -2), centred(b, zb, 'i32', -1));
  const left = as.shape.length === 1 ? reshape([a], { shape: [1, as.shape[0]!] }) : a;
  const right = bs.shape.length === 1 ? reshape([b], { shape: [bs.shape[0]!, 1] }) : b;
  const zeros = zb ? [along(za ?? scalar(0, as.dtype), -2), along(zb, -1)] : za ? [along(za, -2)] : [];
  const out = integerMatmul([left, right, ...zeros]);
  if (left === a && right === b) return out;
  const { shape } = typeOf(out);
  const rows = left === a ? shape : shape.toSpliced(-2, 1);
  return reshape([out], { shape: right === b ? rows : rows.slice(0, -1) });
}

type Eight<T> = readonly [T, T, T, T, T, T, T, T];
const eight = (n: Node): Eight<Value> => [0, 1, 2, 3, 4, 5, 6, 7].map((i) => n.value(i)) as unknown as Eight<Value>;

function qlinearMatmul(n: Node): Value {
  const [a, as, az, b, bs, bz, ys, yz] = eight(n);
  const whole = integerProduct(a, b, az, bz);
  const scale = div([mul([to(along(as, -2), 'f32'), to(along(bs, -1), 'f32')]), to(along(ys, -2), 'f32')]);
  return saturated(mul([cast([whole], { to: 'f32' }), scale]), along(yz, -2), typeOf(yz).dtype);
}

function wholeConv(n: Node, x: Value, w: Value, xz: Value | undefined, wz: Value | undefined): Value {
  const attrs = { ...windowOf(n, typeOf(w).shape.slice(2) as readonly number[]), groups: n.int('group', 1) };
  n.ignore('kernel_shape');
  const one = (v: Value): Value =>
    typeOf(v).shape.length === 1 && typeOf(v).shape[0] === 1 ? reshape([v], { shape: [] }) : v;
  const zeros = wz ? [one(xz ?? scalar(0, typeOf(x).dtype)), one(wz)] : xz ? [one(xz)] : [];
  return integerConv([x, w, ...zeros], attrs);
}

function qlinearConv(n: Node): Value {
  const [x, xs, xz, w, ws, wz, ys, yz] = eight(n);
  const rank = n.rank(0);
  const perChannel = (v: Value): Value => {
    const { shape } = typeOf(v);
    return shape.length === 1 && shape[0] !== 1
      ? reshape([v], { shape: Array.from({ length: rank }, (_, i) => (i === 1 ? shape[0]! : 1)) })
      : reshape([v], { shape: [] });
  };
  const sums = wholeConv(n, x, w, xz, wz);
  const bias = n.optional(8);
  const biased = bias ? add([sums, perChannel(bias)]) : sums;
  const scale = div([mul([perChannel(xs), perChannel(ws)]), perChannel(ys)]);
  return saturated(mul([cast([biased], { to: 'f32' }), scale]), perChannel(yz), typeOf(yz).dtype);
}

export const quantization: Entries = {
  QuantizeLinear: quantizeLinear,
  DequantizeLinear: dequantizeLinear,
  'com.microsoft:QuantizeLinear': quantizeLinear,
  'com.microsoft:DequantizeLinear': dequantizeLinear,
  DynamicQuantizeLinear: (n) => projectAll(dynamicQuantize([n.value(0)])),
  MatMulInteger: (n) => integerProduct(n.value(0), n.value(1), n.optional(2), n.optional(3)),
  QLinearMatMul: qlinearMatmul,
  QLinearConv: qlinearConv,
  ConvInteger: (n) => wholeConv(n, n.value(0), n.value(1), n.optional(2), n.optional(3)),
};
