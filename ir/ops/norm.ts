/** Softmax and normalisations. */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { type Attrs, typeOf, type Value } from '../graph.ts';
import { type Nd, nd } from '../nd.ts';
import { type AxisMap, defineOp } from '../op.ts';
import { floordiv } from '../scalar.ts';
import { type Dim, dim, elements, type Shape, type TensorType, tensor } from '../type.ts';
import { expectDtype, expectRankAtLeast, expectSameDtype, expectShape, normalizeAxis, typeAt } from './check.ts';
import { add, div, exp, maximum, mul, sqrt, sub } from './elementwise.ts';
import { f32, given } from './example.ts';
import { eachLine } from './order.ts';
import { reduceMean, reduceSum, sumTo } from './reduce.ts';
import { reshape, transpose } from './shape.ts';
import { scalar } from './structural.ts';

/** Applies `f` to every line along `axis`. */
function mapLines(x: Nd, axis: number, f: (line: readonly number[]) => readonly number[]): Nd {
  const at = normalizeAxis(axis, x.shape.length);
  const out = nd(x.dtype, x.shape);
  eachLine(x.shape, at, (start, step) => {
    const line = Array.from({ length: x.shape[at]! }, (_, i) => x.data[start + i * step]!);
    f(line).forEach((v, i) => {
      out.data[start + i * step] = v;
    });
  });
  return out;
}
const sum = (xs: readonly number[]): number => xs.reduce((acc, x) => acc + x, 0);
const mean = (xs: readonly number[]): number => sum(xs) / xs.length;

/** Lines along `axis` mix, all other axes run in lockstep; per-line vectors follow that axis. */
function lineRoles([x, ...vectors]: readonly TensorType[], axis: number): AxisMap {
  const at = normalizeAxis(axis, x!.shape.length);
  return [x!.shape.map((_, i) => (i === at ? 'mix' : i)), ...vectors.map(() => [at])];
}

/**
 * The op on the last axis between two transposes, for schedules that only take the last axis;
 * undefined when `axis` is that axis already.
 */
function viaLastAxis(x: Value, axis: number, op: (x: Value) => Value): Value | undefined {
  const rank = typeOf(x).shape.length;
  const at = normalizeAxis(axis, rank);
  if (at === rank - 1) return undefined;
  const perm = Array.from({ length: rank }, (_, i) => (i === at ? rank - 1 : i === rank - 1 ? at : i));
  // The permutation exchanges two axes, so it is its own inverse.
  return transpose([op(transpose([x], { perm }))], { perm });
}

const axisAttr = { axis: opt.int(-1, 'axis normalised') } as const;
function floatType(inputs: readonly TensorType[], axis: number): TensorType {
  const x = typeAt(inputs, 0);
  expectDtype(x, 'float', 'x');
  normalizeAxis(axis, x.shape.length);
  return x;
}
const axisOf = (v: Value): number => normalizeAxis(Number(v.attrs.axis), typeOf(v).shape.length);

const lineExamples = [
  { inputs: [f32(3, 5)] },
  { inputs: [f32(2, 3, 5)], attrs: { axis: 1 } },
  { inputs: [f32(4, 1)], note: 'one element' },
  { inputs: [f32(0, 3)] },
  { inputs: [f32(2, 0)], note: 'empty lines' },
  { inputs: [given('f32', [2, 3], [1000, 1001, 999, -1000, -1000, -1001])], note: 'would overflow without a shift' },
  { inputs: [given('f32', [3, 2], [-Infinity, 0, -Infinity, -Infinity, NaN, 1])], note: 'a line of −∞ only is NaN' },
] as const;

export const softmax = defineOp({
  name: 'softmax',
  doc: 'exp(x) / Σ exp(x) along an axis, shifted by the maximum. A line of −∞ only gives NaN.',
  inputs: ['x'],
  attrs: axisAttr,
  type: (inputs, { axis }) => floatType(inputs, axis),
  axes: (inputs, { axis }) => lineRoles(inputs, axis),
  eval: ([x], { axis }) =>
    mapLines(x!, axis, (line) => {
      const top = Math.max(...line);
      const weights = line.map((v) => Math.exp(v - top));
      const total = sum(weights);
      return weights.map((w) => w / total);
    }),
  lower: {
    kind: 'schedule',
    name: 'softmax',
    adapt: ([x], { axis }): Value | undefined => viaLastAxis(x!, axis, (t): Value => softmax([t])),
  },
  grad: (out, [dout]) => {
    const axes = [axisOf(out)];
    return [mul([out, sub([dout!, reduceSum([mul([dout!, out])], { axes, keepdims: true })])])];
  },
  onnx: { op: 'Softmax', since: 13, attrs: { axis: 'axis' } },
  examples: lineExamples,
});

export const logSoftmax = defineOp({
  name: 'log_softmax',
  doc: 'x − log Σ exp(x) along an axis, shifted by the maximum.',
  inputs: ['x'],
  attrs: axisAttr,
  type: (inputs, { axis }) => floatType(inputs, axis),
  axes: (inputs, { axis }) => lineRoles(inputs, axis),
  eval: ([x], { axis }) =>
    mapLines(x!, axis, (line) => {
      const top = Math.max(...line);
      const total = Math.log(sum(line.map((v) => Math.exp(v - top))));
      return line.map((v) => v - top - total);
    }),
  lower: {
    kind: 'schedule',
    name: 'softmax',
    adapt: ([x], { axis }): Value | undefined => viaLastAxis(x!, axis, (t): Value => logSoftmax([t])),
  },
  grad: (out, [dout]) => {
    const axes = [axisOf(out)];
    return [sub([dout!, mul([exp([out]), reduceSum([dout!], { axes, keepdims: true })])])];
  },
  onnx: { op: 'LogSoftmax', since: 13, attrs: { axis: 'axis' } },
  examples: lineExamples,
});

export const l2Normalize = defineOp({
  name: 'l2_normalize',
  doc: 'x / max(‖x‖₂, eps) along an axis.',
  inputs: ['x'],
  attrs: { ...axisAttr, eps: opt.float(1e-12, 'least divisor') },
  type: (inputs, { axis }) => floatType(inputs, axis),
  axes: (inputs, { axis }) => lineRoles(inputs, axis),
  eval: ([x], { axis, eps }) =>
    mapLines(x!, axis, (line) => {
      const norm = Math.max(Math.sqrt(sum(line.map((v) => v * v))), eps);
      return line.map((v) => v / norm);
    }),
  lower: {
    kind: 'decompose',
    build: ([x], { axis, eps }) => {
      const { dtype, shape } = typeOf(x!);
      const axes = [normalizeAxis(axis, shape.length)];
      const norm = sqrt([reduceSum([mul([x!, x!])], { axes, keepdims: true })]);
      return div([x!, maximum([norm, scalar(eps, dtype)])]);
    },
  },
  examples: [
    { inputs: [f32(3, 5)] },
    { inputs: [f32(2, 3, 5)], attrs: { axis: 1, eps: 1e-6 } },
    { inputs: [given('f32', [2, 2], [0, 0, 3, -4])], note: 'a zero line stays zero' },
    { inputs: [f32(2, 0)] },
  ],
});

/** The last axis of `x`, and vectors of its size and dtype. */
function affineType(inputs: readonly TensorType[], names: readonly string[]): TensorType {
  const x = typeAt(inputs, 0);
  expectDtype(x, 'float', 'x');
  expectRankAtLeast(x, 1, 'x');
  expectSameDtype(inputs);
  for (const [i, t] of inputs.slice(1).entries()) expectShape(names[i]!, t, [x.shape.at(-1)!]);
  return x;
}
const epsOf = (attrs: Attrs, dtype: TensorType['dtype']): Value => scalar(Number(attrs.eps), dtype);

export const layerNorm = defineOp({
  name: 'layer_norm',
  doc: '(x − mean) / √(variance + eps) · scale + bias over the last axis; the variance is that of the whole line (not n − 1).',
  inputs: ['x', 'scale?', 'bias?'],
  attrs: { eps: opt.float(1e-5, 'added to the variance before the root') },
  type: (inputs) => affineType(inputs, ['scale', 'bias']),
  axes: (inputs) => lineRoles(inputs, -1),
  eval: ([x, scale, bias], { eps }) =>
    mapLines(x!, -1, (line) => {
      const middle = mean(line);
      const deviation = Math.sqrt(mean(line.map((v) => (v - middle) ** 2)) + eps);
      return line.map((v, i) => ((v - middle) / deviation) * (scale?.data[i] ?? 1) + (bias?.data[i] ?? 0));
    }),
  lower: { kind: 'schedule', name: 'norm' },
  grad: (out, [dout]) => {
    const [x, scale, bias] = out.inputs;
    const { dtype, shape } = typeOf(x!);
    const last = { axes: [shape.length - 1], keepdims: true } as const;
    const centred = sub([x!, reduceMean([x!], last)]);
    const deviation = sqrt([add([reduceMean([mul([centred, centred])], last), epsOf(out.attrs, dtype)])]);
    const unit = div([centred, deviation]);
    const dunit = scale ? mul([dout!, scale]) : dout!;
    const along = reduceMean([mul([dunit, unit])], last);
    const dx = div([sub([sub([dunit, reduceMean([dunit], last)]), mul([unit, along])]), deviation]);
    return [
      dx,
      ...(scale ? [sumTo(mul([dout!, unit]), typeOf(scale).shape)] : []),
      ...(bias ? [sumTo(dout!, typeOf(bias).shape)] : []),
    ];
  },
  onnx: { op: 'LayerNormalization', since: 17, attrs: { eps: 'epsilon' } },
  examples: [
    { inputs: [f32(3, 5, 7), f32(7), f32(7)] },
    { inputs: [f32(3, 5), f32(5)], attrs: { eps: 1e-12 } },
    { inputs: [f32(3, 5)] },
    { inputs: [f32(2, 1), f32(1), f32(1)], note: 'one element: the bias' },
    { inputs: [f32(0, 3), f32(3), f32(3)] },
    { inputs: [given('f32', [1, 3], [1e4, 1e4 + 1, 1e4 + 2])], note: 'a mean far above the deviation' },
  ],
});

export const rmsNorm = defineOp({
  name: 'rms_norm',
  doc: 'x / √(mean of squares + eps) · scale over the last axis.',
  inputs: ['x', 'scale?'],
  attrs: { eps: opt.float(1e-6, 'added to the mean square before the root') },
  type: (inputs) => affineType(inputs, ['scale']),
  axes: (inputs) => lineRoles(inputs, -1),
  eval: ([x, scale], { eps }) =>
    mapLines(x!, -1, (line) => {
      const rms = Math.sqrt(mean(line.map((v) => v * v)) + eps);
      return line.map((v, i) => (v / rms) * (scale?.data[i] ?? 1));
    }),
  lower: { kind: 'schedule', name: 'norm' },
  grad: (out, [dout]) => {
    const [x, scale] = out.inputs;
    const { dtype, shape } = typeOf(x!);
    const last = { axes: [shape.length - 1], keepdims: true } as const;
    const rms = sqrt([add([reduceMean([mul([x!, x!])], last), epsOf(out.attrs, dtype)])]);
    const unit = div([x!, rms]);
    const dunit = scale ? mul([dout!, scale]) : dout!;
    const dx = div([sub([dunit, mul([unit, reduceMean([mul([dunit, unit])], last)])]), rms]);
    return [dx, ...(scale ? [sumTo(mul([dout!, unit]), typeOf(scale).shape)] : [])];
  },
  onnx: { op: 'RMSNormalization', since: 23, attrs: { eps: 'epsilon' } },
  examples: [
    { inputs: [f32(3, 5, 7), f32(7)] },
    { inputs: [f32(3, 5)], attrs: { eps: 1e-3 } },
    { inputs: [f32(1, 1), f32(1)] },
    { inputs: [f32(0, 3), f32(3)] },
    { inputs: [given('f32', [2, 2], [0, 0, 3, -4])] },
  ],
});

/** A per-channel vector [C] in a shape that broadcasts against [N, C, …]. */
const perChannel = (v: Value, rank: number): Value =>
  reshape([v], { shape: [typeOf(v).shape[0]!, ...new Array<Dim>(rank - 2).fill(1)] });

function channelType(inputs: readonly TensorType[], names: readonly string[]): TensorType {
  const x = typeAt(inputs, 0);
  expectDtype(x, 'float', 'x');
  expectRankAtLeast(x, 2, 'x');
  expectSameDtype(inputs);
  for (const [i, t] of inputs.slice(1).entries()) expectShape(names[i]!, t, [x.shape[1]!]);
  return x;
}
/** Number of the channel of a flat position in [N, C, …]. */
const channelAt = (shape: readonly number[], flat: number): number =>
  Math.floor(flat / shape.slice(2).reduce((n, d) => n * d, 1)) % shape[1]!;

export const batchNorm = defineOp({
  name: 'batch_norm',
  doc: 'Inference batch normalisation of [N, C, …]: (x − mean) / √(var + eps) · scale + bias per channel, with given statistics.',
  inputs: ['x', 'scale', 'bias', 'mean', 'var'],
  attrs: { eps: opt.float(1e-5, 'added to the variance before the root') },
  type: (inputs) => channelType(inputs, ['scale', 'bias', 'mean', 'var']),
  axes: ([x, ...vectors]) => [x!.shape.map((_, i) => i), ...vectors.map(() => [1])],
  eval: ([x, scale, bias, middle, variance], { eps }) => ({
    ...x!,
    data: x!.data.map((v, flat) => {
      const c = channelAt(x!.shape, flat);
      const unit = (v - middle!.data[c]!) / Math.sqrt(variance!.data[c]! + eps);
      return unit * scale!.data[c]! + bias!.data[c]!;
    }),
  }),
  lower: {
    kind: 'decompose',
    build: ([x, scale, bias, middle, variance], { eps }) => {
      const { dtype, shape } = typeOf(x!);
      // The vectors come first so that they fold into one slope and one offset when they are parameters.
      const slope = div([scale!, sqrt([add([variance!, scalar(eps, dtype)])])]);
      const offset = sub([bias!, mul([middle!, slope])]);
      return add([mul([x!, perChannel(slope, shape.length)]), perChannel(offset, shape.length)]);
    },
  },
  onnx: { op: 'BatchNormalization', since: 15, attrs: { eps: 'epsilon' } },
  examples: [
    { inputs: [f32(2, 3, 5, 4), f32(3), f32(3), f32(3), given('f32', [3], undefined, [0.1, 2])] },
    { inputs: [f32(2, 3), f32(3), f32(3), f32(3), given('f32', [3], undefined, [0.1, 2])], attrs: { eps: 1e-3 } },
    { inputs: [f32(0, 1, 2), f32(1), f32(1), f32(1), given('f32', [1], undefined, [0.1, 2])] },
  ],
});

export const groupNorm = defineOp({
  name: 'group_norm',
  doc: 'Normalises [N, C, …] over each group of C / groups neighbouring channels and all positions, then scale and bias per channel. groups = C is instance normalisation.',
  inputs: ['x', 'scale', 'bias'],
  attrs: {
    groups: attr.int('number of groups; divides C'),
    eps: opt.float(1e-5, 'added to the variance before the root'),
  },
  type: (inputs, { groups }) => {
    const x = channelType(inputs, ['scale', 'bias']);
    const channels = x.shape[1];
    if (typeof channels !== 'number') fail('shape', 'the channel axis must have a static size');
    if (groups < 1 || channels % groups !== 0) fail('attribute', `${channels} channels do not form ${groups} groups`);
    return tensor(x.dtype, x.shape);
  },
  axes: ([x]) => [x!.shape.map((_, i) => (i === 0 ? 0 : 'mix')), [1], [1]],
  eval: ([x, scale, bias], { groups, eps }) => {
    const per = x!.shape.slice(1).reduce((n, d) => n * d, 1) / groups;
    const lines = mapLines({ ...x!, shape: [x!.shape[0]! * groups, per] }, -1, (line) => {
      const middle = mean(line);
      const deviation = Math.sqrt(mean(line.map((v) => (v - middle) ** 2)) + eps);
      return line.map((v) => (v - middle) / deviation);
    });
    const data = lines.data.map((v, flat) => {
      const c = channelAt(x!.shape, flat);
      return v * scale!.data[c]! + bias!.data[c]!;
    });
    return { ...x!, data };
  },
  lower: {
    kind: 'decompose',
    build: ([x, scale, bias], { groups, eps }) => {
      const { shape } = typeOf(x!);
      const lines = reshape([x!], { shape: [shape[0]!, groups, perGroup(shape, groups)] });
      const unit = reshape([layerNorm([lines], { eps })], { shape });
      return add([mul([unit, perChannel(scale!, shape.length)]), perChannel(bias!, shape.length)]);
    },
  },
  onnx: { op: 'GroupNormalization', since: 21, attrs: { groups: 'num_groups', eps: 'epsilon' } },
  examples: [
    { inputs: [f32(2, 6, 3, 5), f32(6), f32(6)], attrs: { groups: 3 } },
    { inputs: [f32(2, 3, 4), f32(3), f32(3)], attrs: { groups: 3 }, note: 'instance normalisation' },
    { inputs: [f32(1, 4), f32(4), f32(4)], attrs: { groups: 1, eps: 1e-3 } },
  ],
});

/** Elements of one group, also where positions are symbolic: (C ÷ groups) · positions. */
const perGroup = (shape: Shape, groups: number): Dim =>
  dim(elements([dim(floordiv(elements([shape[1]!]), groups)), ...shape.slice(2)]));
