/** Operators of `com.microsoft` that exporters and onnxruntime's optimiser emit. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { add, gelu, mul, sigmoid } from '../../ir/ops/elementwise.ts';
import { layerNorm, rmsNorm } from '../../ir/ops/norm.ts';
import { scalar } from '../../ir/ops/structural.ts';
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

export const microsoft: Entries = {
  'com.microsoft:Gelu': (n) => gelu([n.value(0)]),
  'com.microsoft:BiasGelu': (n) => gelu([biased(n, 1)]),
  'com.microsoft:FastGelu': (n) => gelu([biased(n, 1)], { approximate: 'tanh' }),
  'com.microsoft:QuickGelu': (n) => {
    const x = n.value(0);
    return mul([x, sigmoid([mul([x, scalar(n.float('alpha', 1.702), typeOf(x).dtype)])])]);
  },
  'com.microsoft:SkipLayerNormalization': (n) =>
    skipNorm(n, (sum, eps) => layerNorm([sum, n.value(2), ...(n.has(3) ? [n.value(3)] : [])], { eps }), 4),
  'com.microsoft:SkipSimplifiedLayerNormalization': (n) =>
    skipNorm(n, (sum, eps) => rmsNorm([sum, n.value(2)], { eps }), 3),
};
