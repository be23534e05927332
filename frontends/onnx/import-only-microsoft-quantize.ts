/** Quantised operators of `com.microsoft`. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { add, bitAnd, cast, leakyRelu, mul, shiftRight, sigmoid, sub } from '../../ir/ops/elementwise.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { softmax } from '../../ir/ops/norm.ts';
import { dequantize, dynamicQuantize, quantize } from '../../ir/ops/quantize.ts';
import { reduceMean } from '../../ir/ops/reduce.ts';
import { concat, expand, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { projectAll, scalar } from '../../ir/ops/structural.ts';
import { withProjection } from './import-only-microsoft-attention.ts';
import { along, integerProduct } from './import-only-quantize.ts';
import type { Entries, Entry, Node } from './node.ts';

const toFloat = (whole: Value, left: Value, right: Value): Value =>
  mul([cast([whole], { to: 'f32' }), mul([along(left, -2), along(right, -1)])]);

function dynamicMatmul(n: Node): Value {
  const [x, scale, zero] = projectAll(dynamicQuantize([n.value(0)])) as [Value, Value, Value];
  const out = toFloat(integerProduct(x, n.value(1), zero, n.optional(3)), scale, n.value(2));
  const bias = n.optional(4);
  return bias ? add([out, bias]) : out;
}

function matmulToFloat(n: Node): Value {
  const whole = integerProduct(n.value(0), n.value(1), n.optional(4), n.optional(5));
  const out = toFloat(whole, n.value(2), n.value(3));
  const bias = n.optional(6);
  return bias ? add([out, bias]) : out;
}

function attention(n: Node): readonly (Value | undefined)[] {
  const whole = integerProduct(n.value(0), n.value(1), n.optional(6), n.optional(7));
  const projected = add([toFloat(whole, n.value(3), n.value(4)), n.value(2)]);
  return withProjection(n, projected, n.optional(5), n.optional(8));
}

/** The product of quantised matrices, scaled; quantised again where a scale for that is given. */
function gemm(n: Node): Value {
  const turned = (v: Value, turn: number): Value => (turn !== 0 ? transpose([v], { perm: [1, 0] }) : v);
  const [a, b] = [turned(n.value(0), n.int('transA', 0)), turned(n.value(3), n.int('transB', 0))];
  const alpha = n.float('alpha', 1);
  const whole = integerProduct(a, b, n.optional(2), n.optional(5));
  const bias = n.optional(6);
  const real = toFloat(bias ? add([whole, bias]) : whole, n.value(1), n.value(4));
  const scaled = alpha === 1 ? real : mul([real, scalar(alpha, 'f32')]);
  return n.has(7) ? quantizedAs(n, scaled, 7) : scaled;
}

// Operators on quantised tensors, by way of floats.

const one = (v: Value): Value => reshape([v], { shape: [] });
/** The tensor at operand `i`, whose scale and zero point follow it. */
const realAt = (n: Node, i: number): Value => {
  const zero = n.optional(i + 2);
  return dequantize([n.value(i), one(n.value(i + 1)), ...(zero ? [one(zero)] : [])]);
};
/** Quantised with the scale at operand `i` and the zero point behind it. */
function quantizedAs(n: Node, x: Value, i: number): Value {
  const zero = n.optional(i + 1);
  const to = zero ? typeOf(zero).dtype : typeOf(n.value(0)).dtype;
  return quantize([x, one(n.value(i)), ...(zero ? [one(zero)] : [])], { to });
}

const both =
  (op: typeof add): Entry =>
  (n) =>
    quantizedAs(n, op([realAt(n, 0), realAt(n, 3)]), 6);
const each =
  (op: (x: Value, n: Node) => Value): Entry =>
  (n) =>
    quantizedAs(n, op(realAt(n, 0), n), 3);

function average(x: Value, n: Node): Value {
  const rank = typeOf(x).shape.length;
  const first = n.int('channels_last', 0) !== 0 ? 1 : 2;
  return reduceMean([x], { axes: Array.from({ length: rank - 2 }, (_, i) => first + i), keepdims: true });
}

function joinedParts(n: Node): Value {
  const parts = Array.from({ length: (n.items.length - 2) / 3 }, (_, i) => realAt(n, 2 + 3 * i));
  const axis = n.axis(n.int('axis'), typeOf(parts[0]!).shape.length);
  const zero = n.optional(1);
  const to = zero ? typeOf(zero).dtype : 'u8';
  return quantize([concat(parts, { axis }), one(n.value(0)), ...(zero ? [one(zero)] : [])], { to });
}

// Weights of 2, 4 or 8 bits

/** The numbers of `bits` each that bytes hold along the last axis, lowest first. */
function unpacked(bytes: Value, bits: number): Value {
  if (bits === 8) return bytes;
  const { shape } = typeOf(bytes);
  const size = shape.at(-1) as number;
  const apart = reshape([bytes], { shape: [...shape, 1] });
  const parts = Array.from({ length: 8 / bits }, (_, i) => {
    const low = i === 0 ? apart : shiftRight([apart, scalar(i * bits, 'u8')]);
    return bitAnd([low, scalar(2 ** bits - 1, 'u8')]);
  });
  return reshape([concat(parts, { axis: shape.length })], { shape: [...shape.slice(0, -1), (size * 8) / bits] });
}

/** A · Bᵀ with B[N, K] in blocks of few bits, each with a scale and a zero point. It becomes a float weight of the bundle. */
function matmulBits(n: Node): Value {
  const [rows, k, bits, block] = [n.int('N'), n.int('K'), n.int('bits', 4), n.int('block_size')];
  n.ignore('accuracy_level', 'weight_prepacked');
  if (n.has(4)) n.fail('g_idx, operand 4, is not supported', 'export without reordered channels');
  if (![2, 4, 8].includes(bits)) n.fail(`${bits} bits are not supported`, 'quantise to 2, 4 or 8 bits');
  const x = n.value(0);
  const { dtype } = typeOf(x);
  const blocks = Math.ceil(k / block);
  const whole = unpacked(reshape([n.value(1)], { shape: [rows, blocks * ((block * bits) / 8)] }), bits);
  const scales = reshape([n.value(2)], { shape: [rows, blocks] });
  const zero = n.optional(3);
  const place = { axis: 1, block } as const;
  let weight: Value;
  if (zero && typeOf(zero).dtype !== 'u8') {
    // Zero points that are floats.
    const wide = (v: Value): Value =>
      reshape([expand([reshape([v], { shape: [rows, blocks, 1] })], { shape: [rows, blocks, block] })], {
        shape: [rows, blocks * block],
      });
    const moved = sub([cast([whole], { to: dtype }), wide(reshape([zero], { shape: [rows, blocks] }))]);
    weight = mul([moved, wide(scales)]);
  } else {
    const bytes = Math.ceil((blocks * bits) / 8);
    const given = zero && unpacked(reshape([zero], { shape: [rows, bytes] }), bits);
    const points = given
      ? sliceAxis(given, 1, 0, blocks)
      : expand([scalar(2 ** (bits - 1), 'u8')], { shape: [rows, blocks] });
    weight = dequantize([whole, scales, points], place);
  }
  const exact = blocks * block === k ? weight : sliceAxis(weight, 1, 0, k);
  const rank = typeOf(x).shape.length;
  const left = rank === 1 ? reshape([x], { shape: [1, k] }) : x;
  const product = matmul([left, exact], { transposeB: true });
  const out = rank === 1 ? reshape([product], { shape: [rows] }) : product;
  const bias = n.optional(5);
  return bias ? add([out, bias]) : out;
}

export const microsoftQuantized: Entries = {
  'com.microsoft:DynamicQuantizeMatMul': dynamicMatmul,
  'com.microsoft:MatMulIntegerToFloat': matmulToFloat,
  'com.microsoft:MatMulNBits': matmulBits,
  'com.microsoft:QAttention': attention,
  'com.microsoft:QGemm': gemm,
  'com.microsoft:QLinearAdd': both(add),
  'com.microsoft:QLinearMul': both(mul),
  'com.microsoft:QLinearSigmoid': each((x) => sigmoid([x])),
  'com.microsoft:QLinearLeakyRelu': each((x, n) => leakyRelu([x], { alpha: n.float('alpha', 0.01) })),
  'com.microsoft:QLinearGlobalAveragePool': each(average),
  'com.microsoft:QLinearSoftmax': each((x, n) => {
    n.ignore('opset');
    return softmax([x], { axis: n.int('axis', -1) });
  }),
  'com.microsoft:QLinearConcat': joinedParts,
};
