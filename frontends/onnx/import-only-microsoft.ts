/** Operators of `com.microsoft` that exporters and onnxruntime's optimiser emit; attentions and quantised ones stand apart. */
import { isFloat } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { conv } from '../../ir/ops/conv.ts';
import {
  add,
  cast,
  clamp,
  gelu,
  greater,
  hardSigmoid,
  leakyRelu,
  mul,
  relu,
  sigmoid,
  tanh,
} from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { layerNorm, rmsNorm } from '../../ir/ops/norm.ts';
import { reduceSum } from '../../ir/ops/reduce.ts';
import { expand, iota, transpose } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import { microsoftAttention } from './import-only-microsoft-attention.ts';
import { microsoftQuantized } from './import-only-microsoft-quantize.ts';
import { quantization } from './import-only-quantize.ts';
import { windowOf } from './import-only-window.ts';
import type { Entries, Node } from './node.ts';

const biased = (n: Node, i: number): Value => {
  const bias = n.optional(i);
  return bias ? add([n.value(0), bias]) : n.value(0);
};

/** x + skip (+ bias), then a norm; the sum is result 3. */
function skipNorm(n: Node, norm: (sum: Value, eps: number) => Value, bias: number): readonly (Value | undefined)[] {
  const eps = n.float('epsilon', 1e-12);
  const both = add([n.value(0), n.value(1)]);
  const extra = n.optional(bias);
  const sum = extra ? add([both, extra]) : both;
  return [norm(sum, eps), undefined, undefined, sum].slice(0, n.outputs);
}

/** Sum of embeddings, normalised; the number of tokens that are no padding; the sum itself. */
function embed(n: Node): readonly (Value | undefined)[] {
  const ids = n.value(0);
  const [batch, rows] = typeOf(ids).shape as [number, number];
  const segments = n.optional(1);
  const places = n.optional(8);
  n.ignore('mask_index_type');
  const words = gather([n.value(2), ids]);
  const own = iota([], { shape: [rows], axis: 0, dtype: 'i32' });
  const positions = gather([n.value(3), places ?? own]);
  let sum = add([words, positions]);
  if (segments) sum = add([sum, gather([n.value(4), segments])]);
  const normed = layerNorm([sum, n.value(5), n.value(6)], { eps: n.float('epsilon', 1e-12) });
  const mask = n.optional(7);
  const count = mask
    ? reduceSum([cast([greater([mask, scalar(0, typeOf(mask).dtype)])], { to: 'i32' })], { axes: [1] })
    : expand([scalar(0, 'i32')], { shape: [batch] });
  return [normed, count, sum].slice(0, n.outputs);
}

/** α · A · B with axes exchanged. `transBatch` moves the first axis behind the batch: [M, batch…, K]. */
function fusedMatmul(n: Node): Value {
  const turned = (v: Value, flag: string): Value => {
    if (n.int(flag, 0) === 0) return v;
    const rank = typeOf(v).shape.length;
    return transpose([v], { perm: [...Array.from({ length: rank - 2 }, (_, i) => i + 1), 0, rank - 1] });
  };
  const [a, b] = [turned(n.value(0), 'transBatchA'), turned(n.value(1), 'transBatchB')];
  const out = matmul([a, b], { transposeA: n.int('transA', 0) !== 0, transposeB: n.int('transB', 0) !== 0 });
  const alpha = n.float('alpha', 1);
  return alpha === 1 || !isFloat(typeOf(a).dtype) ? out : mul([out, scalar(alpha, typeOf(a).dtype)]);
}

/** What a fused operator applies to its result. */
function activated(n: Node, x: Value): Value {
  const name = n.string('activation', '');
  const params = n.floatList('activation_params') ?? [];
  switch (name) {
    case '':
      return x;
    case 'Relu':
      return relu([x]);
    case 'Tanh':
      return tanh([x]);
    case 'Sigmoid':
      return sigmoid([x]);
    case 'LeakyRelu':
      return leakyRelu([x], { alpha: params[0] ?? n.float('activation_alpha', 0.01) });
    case 'Clip':
      return clamp([x], { min: params[0] ?? -Infinity, max: params[1] ?? Infinity });
    case 'HardSigmoid':
      return hardSigmoid([x], { alpha: params[0] ?? 0.2, beta: params[1] ?? 0.5 });
    default:
      return n.fail(`activation "${name}" is not supported`);
  }
}

function fusedConv(n: Node): Value {
  const [x, w, bias, skip] = [n.value(0), n.value(1), n.optional(2), n.optional(3)];
  n.ignore('kernel_shape');
  const kernel = typeOf(w).shape.slice(2) as readonly number[];
  const out = conv([x, w, ...(bias ? [bias] : [])], { ...windowOf(n, kernel), groups: n.int('group', 1) });
  return activated(n, skip ? add([out, skip]) : out);
}

function fusedGemm(n: Node): Value {
  const [a, b] = [n.value(0), n.value(1)];
  const scaled = (x: Value, by: number): Value => (by === 1 ? x : mul([x, scalar(by, typeOf(x).dtype)]));
  const product = matmul([a, b], { transposeA: n.int('transA', 0) !== 0, transposeB: n.int('transB', 0) !== 0 });
  const out = scaled(product, n.float('alpha', 1));
  const c = n.optional(2);
  const beta = n.float('beta', 1);
  return activated(n, c && beta !== 0 ? add([out, scaled(c, beta)]) : out);
}

const layer = (n: Node): readonly (Value | undefined)[] =>
  skipNorm(n, (sum, eps) => layerNorm([sum, n.value(2), ...(n.has(3) ? [n.value(3)] : [])], { eps }), 4);

export const microsoft: Entries = {
  ...microsoftAttention,
  ...microsoftQuantized,
  'com.microsoft:BiasGelu': (n) => gelu([biased(n, 1)]),
  'com.microsoft:DequantizeLinear': quantization.DequantizeLinear!,
  'com.microsoft:EmbedLayerNormalization': embed,
  'com.microsoft:FastGelu': (n) => gelu([biased(n, 1)], { approximate: 'tanh' }),
  'com.microsoft:FusedConv': fusedConv,
  'com.microsoft:FusedGemm': fusedGemm,
  'com.microsoft:FusedMatMul': fusedMatmul,
  'com.microsoft:Gelu': (n) => gelu([n.value(0)]),
  'com.microsoft:QuantizeLinear': quantization.QuantizeLinear!,
  'com.microsoft:QuickGelu': (n) => {
    const x = n.value(0);
    return mul([x, sigmoid([mul([x, scalar(n.float('alpha', 1.702), typeOf(x).dtype)])])]);
  },
  'com.microsoft:SkipLayerNormalization': layer,
  'com.microsoft:SkipSimplifiedLayerNormalization': (n) =>
    skipNorm(n, (sum, eps) => rmsNorm([sum, n.value(2)], { eps }), 3),
  'com.microsoft:TransposeMatMul': fusedMatmul,
};
