/** Convolution, pooling and resizing as ONNX spells them. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { conv, convTranspose } from '../../ir/ops/conv.ts';
import { abs, mul, pow } from '../../ir/ops/elementwise.ts';
import { avgPool, maxPool } from '../../ir/ops/pool.ts';
import { reduceMax, reduceMean, reduceSum } from '../../ir/ops/reduce.ts';
import { pad, sliceAxis } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import { windowAxes, windowCounts } from '../../ir/ops/window.ts';
import { poolIndices } from './import-only-unpool.ts';
import type { Entries, Entry, Node } from './node.ts';

interface Window {
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly pads: readonly number[];
}

/** Strides, dilations, and pads in numbers, `auto_pad` worked out. */
export function windowOf(n: Node, kernel: readonly number[]): Window {
  n.expectRank(0, kernel.length + 2);
  const strides = n.intsFor('strides', kernel.length, 1);
  const dilations = n.intsFor('dilations', kernel.length, 1);
  const mode = n.string('auto_pad', 'NOTSET');
  const given = n.intsFor('pads', 2 * kernel.length, 0);
  if (mode === 'NOTSET') return { strides, dilations, pads: given };
  if (mode === 'VALID') return { strides, dilations, pads: [] };
  const totals = kernel.map((k, i) => {
    const reach = dilations[i]! * (k - 1) + 1;
    if (strides[i] === 1) return reach - 1;
    const size = n.shape(0)[i + 2]!;
    if (typeof size !== 'number') return n.fail(`auto_pad ${mode} with a stride needs a fixed size on axis ${i + 2}`);
    return Math.max((Math.ceil(size / strides[i]!) - 1) * strides[i]! + reach - size, 0);
  });
  return { strides, dilations, pads: halves(totals, mode === 'SAME_LOWER') };
}
/** Amounts before, then after; the odd one goes behind, or with `low` before. */
const halves = (totals: readonly number[], low: boolean): number[] => [
  ...totals.map((t) => (low ? Math.ceil(t / 2) : Math.floor(t / 2))),
  ...totals.map((t) => (low ? Math.floor(t / 2) : Math.ceil(t / 2))),
];

/** The kernel's sizes from the weights, which must agree with the attribute. */
function kernelOf(n: Node): readonly number[] {
  const sizes = n.shape(1).slice(2);
  n.ignore('kernel_shape');
  if (!sizes.every((d) => typeof d === 'number')) return n.fail('the weights need a fixed shape');
  return sizes as readonly number[];
}

function convTransposeNode(n: Node): Value {
  const kernel = kernelOf(n);
  const spatial = n.shape(0).slice(2);
  n.expectRank(0, kernel.length + 2);
  const strides = n.intsFor('strides', kernel.length, 1);
  const dilations = n.intsFor('dilations', kernel.length, 1);
  const wanted = n.intList('output_shape')?.slice(-kernel.length);
  const mode = n.string('auto_pad', 'NOTSET');
  let outputPadding = n.intList('output_padding') ?? [];
  let pads = n.intList('pads') ?? [];
  if (wanted || mode.startsWith('SAME')) {
    const totals = kernel.map((k, i) => {
      const size = spatial[i]!;
      if (typeof size !== 'number') return n.fail('an output shape needs fixed sizes');
      const out = wanted?.[i] ?? size * strides[i]!;
      return strides[i]! * (size - 1) + (outputPadding[i] ?? 0) + (k - 1) * dilations[i]! + 1 - out;
    });
    // A window that does not reach the wanted size is followed by padding.
    outputPadding = totals.map((t, i) => (outputPadding[i] ?? 0) + Math.max(0, -t));
    pads = halves(
      totals.map((t) => Math.max(0, t)),
      mode !== 'SAME_UPPER',
    );
  } else if (mode === 'VALID') pads = [];
  const attrs = { strides, dilations, pads, outputPadding, groups: n.int('group', 1) };
  return convTranspose(n.values(), attrs);
}

function maxPoolNode(n: Node): readonly (Value | undefined)[] {
  const kernel = n.intList('kernel_shape') ?? n.fail('attribute "kernel_shape" is missing');
  const columnMajor = n.int('storage_order', 0) !== 0;
  const attrs = { kernel, ceil: n.int('ceil_mode', 0) !== 0, ...windowOf(n, kernel) };
  const x = n.value(0);
  return [maxPool([x], attrs), ...(n.wants(1) ? [poolIndices(x, attrs, columnMajor)] : [])];
}

function avgPoolNode(n: Node): Value {
  const kernel = n.intList('kernel_shape') ?? n.fail('attribute "kernel_shape" is missing');
  const countIncludePad = n.int('count_include_pad', 0) !== 0;
  return avgPool([n.value(0)], { kernel, ceil: n.int('ceil_mode', 0) !== 0, countIncludePad, ...windowOf(n, kernel) });
}

function lpPool(n: Node): Value {
  const kernel = n.intList('kernel_shape') ?? n.fail('attribute "kernel_shape" is missing');
  const p = n.int('p', 2);
  const x = n.value(0);
  const like = (v: number): Value => scalar(v, typeOf(x).dtype);
  const { strides, dilations, pads } = windowOf(n, kernel);
  const rank = kernel.length;
  const before = [0, 0, ...kernel.map((_, i) => pads[i] ?? 0)];
  const ceil = n.int('ceil_mode', 0) !== 0;
  // A last window that starts inside may end up to a stride behind the padding; what it finds there is nothing.
  const after = [0, 0, ...kernel.map((_, i) => (pads[rank + i] ?? 0) + (ceil ? strides[i]! - 1 : 0))];
  const powers = pad([p === 1 ? abs([x]) : pow([abs([x]), like(p)])], { before, after });
  const means = avgPool([powers], { kernel, strides, dilations });
  const counts = windowCounts(typeOf(x).shape, windowAxes(kernel, { strides, dilations, pads }), ceil);
  const mean = counts.reduce<Value>((v, count, i) => (ceil ? sliceAxis(v, i + 2, 0, count) : v), means);
  const sum = mul([mean, like(kernel.reduce((a, b) => a * b, 1))]);
  return p === 1 ? sum : pow([sum, like(1 / p)]);
}

/** Over all positions of each channel. */
const global =
  (fold: (x: Value, axes: readonly number[], n: Node) => Value): Entry =>
  (n) => {
    const axes = n.shape(0).map((_, i) => i);
    return fold(n.value(0), axes.slice(2), n);
  };

/** The p-norm of each channel. */
function globalNorm(x: Value, axes: readonly number[], n: Node): Value {
  const p = n.int('p', 2);
  const like = (v: number): Value => scalar(v, typeOf(x).dtype);
  const sum = reduceSum([p === 1 ? abs([x]) : pow([abs([x]), like(p)])], { axes, keepdims: true });
  return p === 1 ? sum : pow([sum, like(1 / p)]);
}

export const windows: Entries = {
  Conv: (n) => conv(n.values(), { ...windowOf(n, kernelOf(n)), groups: n.int('group', 1) }),
  ConvTranspose: convTransposeNode,
  MaxPool: maxPoolNode,
  AveragePool: avgPoolNode,
  LpPool: lpPool,
  GlobalLpPool: global(globalNorm),
  GlobalAveragePool: global((x, axes) => reduceMean([x], { axes, keepdims: true })),
  GlobalMaxPool: global((x, axes) => reduceMax([x], { axes, keepdims: true })),
};
