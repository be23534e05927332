/** Folds over axes: sums, products, extrema, and the logical ones. Arg-reductions and scans are in `order.ts`. */
import { attr, opt } from '../attr.ts';
import { intRange, isInt, type Scalar } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import { typeOf, type Value } from '../graph.ts';
import { eachIndex, type Nd, nd, rowMajor } from '../nd.ts';
import { type AxisMap, defineOp, type Example, type LowerContext, type Op, type OpSpec } from '../op.ts';
import * as sc from '../scalar.ts';
import { type Dim, type Shape, staticShape, type TensorType, tensor } from '../type.ts';
import { expectDtype, normalizeAxes, typeAt } from './check.ts';
import { add, cast, div, equal, exp, isInf, log, mul, select, sub } from './elementwise.ts';
import { addAs, mulAs } from './exact.ts';
import { bools, f32, given } from './example.ts';
import { sumNeed } from './movement-need.ts';
import { expand, reshape } from './shape.ts';
import { scalar } from './structural.ts';

const foldAttrs = {
  axes: attr.ints('axes that disappear, negative ones counted from the end; none: the value itself'),
  keepdims: opt.bool(false, 'leave folded axes in place with size 1'),
} as const;
interface FoldAttrs {
  readonly axes: readonly number[];
  readonly keepdims: boolean;
}

/** The shape that remains. */
export function foldedShape(shape: Shape, axes: readonly number[], keepdims: boolean): Dim[] {
  const gone = new Set(normalizeAxes(axes, shape.length));
  return keepdims ? shape.map((d, i) => (gone.has(i) ? 1 : d)) : shape.filter((_, i) => !gone.has(i));
}

/** Axis roles of a fold: folded axes mix, the others run in lockstep with what remains. */
export function foldRoles(rank: number, axes: readonly number[], keepdims: boolean): AxisMap {
  const gone = new Set(normalizeAxes(axes, rank));
  let next = 0;
  return [
    Array.from({ length: rank }, (_, i) => {
      if (!gone.has(i)) return next++;
      if (keepdims) next++;
      return 'mix' as const;
    }),
  ];
}

/** Folds `x` in C order, so that every result sees its elements first to last. */
function fold(
  x: Nd,
  axes: readonly number[],
  shape: readonly number[],
  init: number,
  step: (acc: number, x: number) => number,
  finish = (acc: number, _count: number): number => acc,
): Nd {
  const gone = new Set(normalizeAxes(axes, x.shape.length));
  const kept = x.shape.map((_, i) => i).filter((i) => !gone.has(i));
  const strides = rowMajor(kept.map((i) => x.shape[i]!));
  const out = nd(x.dtype, shape);
  out.data.fill(init);
  eachIndex(x.shape, (at, flat) => {
    let to = 0;
    for (let i = 0; i < kept.length; i++) to += at[kept[i]!]! * strides[i]!;
    out.data[to] = step(out.data[to]!, x.data[flat]!);
  });
  const count = [...gone].reduce((n, i) => n * x.shape[i]!, 1);
  for (let i = 0; i < out.data.length; i++) out.data[i] = finish(out.data[i]!, count);
  return out;
}

interface Fold {
  readonly name: string;
  readonly doc: string;
  readonly takes: 'float' | 'number' | 'bool';
  init(dtype: Scalar): number;
  /** The reference, in doubles. */
  step(dtype: Scalar): (acc: number, x: number) => number;
  finish?(acc: number, count: number): number;
  /** The same in generated code. */
  stepExpr(acc: Expr, x: Expr): Expr;
  finishExpr?(acc: Expr, count: Expr): Expr;
  readonly need?: OpSpec<typeof foldAttrs>['need'];
  readonly onnx?: { readonly op: string; readonly since: number };
  grad?(out: Value, dout: Value): Value;
  readonly examples: readonly Example<typeof foldAttrs>[];
}

function defineFold(f: Fold): Op<typeof foldAttrs> {
  const { finishExpr, grad, need } = f;
  return defineOp({
    name: f.name,
    doc: f.doc,
    inputs: ['x'],
    attrs: foldAttrs,
    type: (inputs, { axes, keepdims }) => {
      const x = typeAt(inputs, 0);
      expectDtype(x, f.takes, 'x');
      return tensor(x.dtype, foldedShape(x.shape, axes, keepdims));
    },
    axes: ([x], { axes, keepdims }) => foldRoles(x!.shape.length, axes, keepdims),
    ...(need && { need }),
    eval: ([x], { axes }, cx) => fold(x!, axes, cx.types[0]!.shape, f.init(x!.dtype), f.step(x!.dtype), f.finish),
    lower: {
      kind: 'reduce',
      axes: ({ attrs, inputs }: LowerContext<FoldAttrs>) => normalizeAxes(attrs.axes, typeAt(inputs, 0).shape.length),
      keep: ({ attrs }: LowerContext<FoldAttrs>) => attrs.keepdims,
      init: ({ inputs }: LowerContext<FoldAttrs>) => f.init(typeAt(inputs, 0).dtype),
      step: f.stepExpr,
      ...(finishExpr && { finish: (acc: Expr, count: Expr) => finishExpr(acc, count) }),
    },
    ...(grad && { grad: (out: Value, dout: readonly Value[]) => [grad(out, dout[0]!)] }),
    ...(f.onnx && { onnx: { ...f.onnx, attrs: { keepdims: 'keepdims' }, operands: { axes: 1 } } }),
    examples: f.examples,
  });
}

const foldOf = (v: Value): FoldAttrs => v.attrs as unknown as FoldAttrs;

/** A folded value, stretched back over the axes it was folded along. */
export function unfold(folded: Value, x: TensorType, axes: readonly number[]): Value {
  const kept = reshape([folded], { shape: foldedShape(x.shape, axes, true) });
  return expand([kept], { shape: x.shape });
}

/** How many elements are folded into one, as a scalar value of `dtype` also where sizes are symbolic. */
export function foldCount(x: TensorType, axes: readonly number[]): Value {
  const sizes = normalizeAxes(axes, x.shape.length).map((i) => x.shape[i]!);
  const known = staticShape(sizes);
  if (known)
    return scalar(
      known.reduce((n, d) => n * d, 1),
      x.dtype,
    );
  const ones = expand([scalar(1, x.dtype)], { shape: sizes });
  return reduceSum([ones], { axes: sizes.map((_, i) => i) });
}

/**
 * Sums a cotangent of a broadcast result over the axes along which an operand of `shape` was stretched.
 * The result has exactly that shape.
 */
export function sumTo(x: Value, shape: Shape): Value {
  const from = typeOf(x).shape;
  const skip = from.length - shape.length;
  const axes = from.map((_, i) => i).filter((i) => i < skip || (shape[i - skip] === 1 && from[i] !== 1));
  if (axes.length === 0) return x;
  return reshape([reduceSum([x], { axes, keepdims: true })], { shape });
}

/** Gradient of an extremum: shared equally among the elements that attain it. */
function extremumGrad(out: Value, dout: Value): Value {
  const x = out.inputs[0]!;
  const { axes } = foldOf(out);
  const type = typeOf(x);
  const attains = cast([equal([x, unfold(out, type, axes)])], { to: type.dtype });
  const ties = reduceSum([attains], { axes, keepdims: true });
  return mul([div([attains, ties]), unfold(dout, type, axes)]);
}

const shapes: readonly Example<typeof foldAttrs>[] = [
  { inputs: [f32(3, 5, 7)], attrs: { axes: [1] } },
  { inputs: [f32(3, 5, 7)], attrs: { axes: [-1, 0], keepdims: true } },
  { inputs: [f32(2, 3)], attrs: { axes: [] }, note: 'no axis: the value itself' },
  { inputs: [f32(3, 0)], attrs: { axes: [1] }, note: 'an empty fold gives the initial value' },
  { inputs: [f32(1, 1)], attrs: { axes: [0, 1] } },
];

export const reduceSum = defineFold({
  name: 'reduce_sum',
  doc: 'Sum over axes. Integers wrap modulo 2^bits; an empty sum is 0.',
  takes: 'number',
  init: () => 0,
  step: (dtype) => (acc, x) => addAs(dtype, acc, x),
  stepExpr: (acc, x) => sc.add(acc, x),
  need: sumNeed,
  onnx: { op: 'ReduceSum', since: 13 },
  grad: (out, dout) => unfold(dout, typeOf(out.inputs[0]!), foldOf(out).axes),
  examples: [...shapes, { inputs: [given('i8', [3], [100, 100, 1])], attrs: { axes: [0] }, note: 'wraps to −55' }],
});

export const reduceMean = defineFold({
  name: 'reduce_mean',
  doc: 'Arithmetic mean over axes; the mean of nothing is NaN.',
  takes: 'float',
  init: () => 0,
  step: () => (acc, x) => acc + x,
  finish: (acc, count) => acc / count,
  stepExpr: (acc, x) => sc.add(acc, x),
  finishExpr: (acc, count) => sc.div(acc, sc.cast(count, acc.dtype)),
  onnx: { op: 'ReduceMean', since: 18 },
  grad: (out, dout) => {
    const [x, { axes }] = [typeOf(out.inputs[0]!), foldOf(out)];
    return unfold(div([dout, foldCount(x, axes)]), x, axes);
  },
  examples: shapes,
});

/** The largest value of a type, or for 64-bit integers the largest double below 2^63 or 2^64. */
function highest(dtype: Scalar): number {
  if (!isInt(dtype)) return Infinity;
  if (dtype === 'i64') return 2 ** 63 - 1024;
  return dtype === 'u64' ? 2 ** 64 - 2048 : intRange(dtype)[1];
}

const nans: readonly Example<typeof foldAttrs>[] = [
  { inputs: [given('f32', [2, 3], [1, NaN, 3, -Infinity, 4, Infinity])], attrs: { axes: [1] }, note: 'NaN wins' },
  { inputs: [given('i32', [2, 2], [-7, 3, 5, -9])], attrs: { axes: [0] } },
];

export const reduceMax = defineFold({
  name: 'reduce_max',
  doc: 'Largest element over axes; NaN when there is one. Of nothing: −∞, or the smallest integer.',
  takes: 'number',
  init: sc.lowest,
  step: () => (acc, x) => Math.max(acc, x),
  stepExpr: (acc, x) => sc.max(acc, x),
  onnx: { op: 'ReduceMax', since: 18 },
  grad: extremumGrad,
  examples: [...shapes, ...nans],
});

export const reduceMin = defineFold({
  name: 'reduce_min',
  doc: 'Smallest element over axes; NaN when there is one. Of nothing: +∞, or the largest integer.',
  takes: 'number',
  init: highest,
  step: () => (acc, x) => Math.min(acc, x),
  stepExpr: (acc, x) => sc.min(acc, x),
  onnx: { op: 'ReduceMin', since: 18 },
  grad: extremumGrad,
  examples: [...shapes, ...nans],
});

export const reduceProd = defineFold({
  name: 'reduce_prod',
  doc: 'Product over axes. Integers wrap modulo 2^bits; an empty product is 1. Its gradient is defined where no element is 0.',
  takes: 'number',
  init: () => 1,
  step: (dtype) => (acc, x) => mulAs(dtype, acc, x),
  stepExpr: (acc, x) => sc.mul(acc, x),
  onnx: { op: 'ReduceProd', since: 18 },
  grad: (out, dout) => {
    const x = out.inputs[0]!;
    return div([unfold(mul([dout, out]), typeOf(x), foldOf(out).axes), x]);
  },
  examples: [...shapes, { inputs: [given('i32', [2], [65537, 65537])], attrs: { axes: [0] }, note: 'wraps' }],
});

const logical: readonly Example<typeof foldAttrs>[] = [
  { inputs: [given('bool', [2, 3], [1, 1, 1, 0, 1, 0])], attrs: { axes: [1] } },
  { inputs: [bools(3, 1, 5)], attrs: { axes: [0, -1], keepdims: true } },
  { inputs: [bools(0, 2)], attrs: { axes: [0] }, note: 'an empty fold gives the initial value' },
];

export const reduceAll = defineFold({
  name: 'reduce_all',
  doc: 'True where every element over axes is; true of nothing.',
  takes: 'bool',
  init: () => 1,
  step: () => (acc, x) => (acc !== 0 && x !== 0 ? 1 : 0),
  stepExpr: (acc, x) => sc.and(acc, x),
  examples: logical,
});

export const reduceAny = defineFold({
  name: 'reduce_any',
  doc: 'True where some element over axes is; false of nothing.',
  takes: 'bool',
  init: () => 0,
  step: () => (acc, x) => (acc !== 0 || x !== 0 ? 1 : 0),
  stepExpr: (acc, x) => sc.or(acc, x),
  examples: logical,
});

/** log Σ exp(x) over axes, without overflow; of nothing, or of −∞ only, −∞. */
export const logSumExp = defineOp({
  name: 'log_sum_exp',
  doc: 'Logarithm of the sum of exponentials over axes, shifted by the maximum so that it does not overflow.',
  inputs: ['x'],
  attrs: foldAttrs,
  type: (inputs, { axes, keepdims }) => {
    const x = typeAt(inputs, 0);
    expectDtype(x, 'float', 'x');
    return tensor(x.dtype, foldedShape(x.shape, axes, keepdims));
  },
  axes: ([x], { axes, keepdims }) => foldRoles(x!.shape.length, axes, keepdims),
  eval: ([x], { axes }, cx) => {
    const { shape } = cx.types[0]!;
    const top = fold(x!, axes, shape, -Infinity, (acc, v) => Math.max(acc, v));
    const shift = unfoldNd(top, x!, axes);
    const terms = {
      ...x!,
      data: x!.data.map((v, i) => (Number.isFinite(shift[i]!) ? Math.exp(v - shift[i]!) : Math.exp(v))),
    };
    const sums = fold(terms, axes, shape, 0, (acc, v) => acc + v);
    return {
      ...sums,
      data: sums.data.map((s, i) => (Number.isFinite(top.data[i]!) ? Math.log(s) + top.data[i]! : Math.log(s))),
    };
  },
  lower: {
    kind: 'decompose',
    build: ([x], { axes, keepdims }) => {
      const { dtype, shape } = typeOf(x!);
      const top = reduceMax([x!], { axes, keepdims: true });
      // An infinite maximum would make ∞ − ∞; the sum is then 0 or ∞ without a shift.
      const shift = select([isInf([top]), scalar(0, dtype), top]);
      const sum = reduceSum([exp([sub([x!, shift])])], { axes, keepdims: true });
      const out = add([log([sum]), shift]);
      return keepdims ? out : reshape([out], { shape: foldedShape(shape, axes, false) });
    },
  },
  grad: (out, [dout]) => {
    const x = out.inputs[0]!;
    const { axes } = foldOf(out);
    const weight = exp([sub([x, unfold(out, typeOf(x), axes)])]);
    return [mul([weight, unfold(dout!, typeOf(x), axes)])];
  },
  onnx: { op: 'ReduceLogSumExp', since: 18, attrs: { keepdims: 'keepdims' }, operands: { axes: 1 } },
  examples: [
    ...shapes,
    { inputs: [given('f32', [3, 2], [100, 101, -Infinity, -Infinity, Infinity, 0])], attrs: { axes: [1] } },
  ],
});

/** For each element of `x`, the element of `folded` it was folded into. */
function unfoldNd(folded: Nd, x: Nd, axes: readonly number[]): Float64Array {
  const gone = new Set(normalizeAxes(axes, x.shape.length));
  const kept = x.shape.map((d, i) => (gone.has(i) ? 1 : d));
  const strides = rowMajor(kept);
  const out = new Float64Array(x.data.length);
  eachIndex(x.shape, (at, flat) => {
    let from = 0;
    for (let i = 0; i < at.length; i++) if (!gone.has(i)) from += at[i]! * strides[i]!;
    out[flat] = folded.data[from]!;
  });
  return out;
}
