/** Softmax and normalisations as ONNX spells them. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { abs, add, div, maximum, mul, pow, reciprocal, sqrt, sub } from '../../ir/ops/elementwise.ts';
import { batchNorm, groupNorm, layerNorm, logSoftmax, rmsNorm, softmax } from '../../ir/ops/norm.ts';
import { reduceMean, reduceSum } from '../../ir/ops/reduce.ts';
import { expand, pad, reshape, sliceAxis } from '../../ir/ops/shape.ts';
import { add as plus } from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, elements, type Shape, sameShape } from '../../ir/type.ts';
import { computed } from './item.ts';
import type { Entries, Entry, Node } from './node.ts';
import { like, to, workType } from './values.ts';

const count = (shape: Shape): Dim => dim(elements(shape));

/** Before opset 13 the axes from `axis` on are one. */
const normalised =
  (op: typeof softmax | typeof logSoftmax): Entry =>
  (n) => {
    const x = n.value(0);
    const { shape } = typeOf(x);
    if (n.opset >= 13) return op([x], { axis: n.int('axis', -1) });
    const axis = n.axis(n.int('axis', 1), shape.length);
    if (axis === shape.length - 1) return op([x], { axis: -1 });
    const flat = reshape([x], { shape: [count(shape.slice(0, axis)), count(shape.slice(axis))] });
    return reshape([op([flat], { axis: -1 })], { shape });
  };

/** Normalises the axes from `axis` on as one line, with a scale and a bias of those axes. */
function overLast(
  n: Node,
  scale: Value | undefined,
  bias: Value | undefined,
  line: (operands: readonly Value[]) => Value,
): Value {
  const x = n.value(0);
  const { shape } = typeOf(x);
  const axis = n.axis(n.int('axis', -1), shape.length);
  const last = shape.slice(axis);
  const one = axis === shape.length - 1;
  const flat = one ? x : reshape([x], { shape: [...shape.slice(0, axis), count(last)] });
  const fits = [scale, bias].every((v) => !v || sameShape(typeOf(v).shape, last));
  if (fits && (scale || !bias)) {
    const vectors = [scale, bias].flatMap((v) => (v ? [one ? v : reshape([v], { shape: [count(last)] })] : []));
    const out = line([flat, ...vectors]);
    return one ? out : reshape([out], { shape });
  }
  const unit = line([flat]);
  const whole = one ? unit : reshape([unit], { shape });
  const scaled = scale ? mul([whole, scale]) : whole;
  return bias ? add([scaled, bias]) : scaled;
}

function layerNormalization(n: Node): readonly (Value | undefined)[] {
  const x = n.value(0);
  const eps = n.float('epsilon', 1e-5);
  const stash = n.int('stash_type', 1) === 16 ? 'bf16' : 'f32';
  const out = overLast(n, n.optional(1), n.optional(2), (operands) => layerNorm(operands, { eps }));
  if (!n.wants(1) && !n.wants(2)) return [out];
  const { dtype, shape } = typeOf(x);
  const axis = n.axis(n.int('axis', -1), shape.length);
  const attrs = { axes: shape.map((_, i) => i).slice(axis), keepdims: true };
  const wide = to(x, workType(dtype));
  const middle = reduceMean([wide], attrs);
  const away = sub([wide, middle]);
  const variance = reduceMean([mul([away, away])], attrs);
  // What is kept for training has the type in which it is stashed.
  return [out, to(middle, stash), to(reciprocal([sqrt([add([variance, like(wide, eps)])])]), stash)];
}

function batchNormalization(n: Node): readonly (Value | undefined)[] {
  n.ignore('spatial', 'is_test', 'consumed_inputs');
  const { dtype: own, shape } = n.type(0);
  // Halves with statistics of another type are computed as floats.
  const dtype = [1, 2, 3, 4].every((i) => n.type(i).dtype === own) ? own : workType(own);
  const x = to(n.value(0), dtype);
  const eps = n.float('epsilon', 1e-5);
  const momentum = n.float('momentum', 0.9);
  const [scale, bias, middle, variance] = [1, 2, 3, 4].map((i) => to(n.value(i), dtype)) as [
    Value,
    Value,
    Value,
    Value,
  ];
  if (n.int('training_mode', 0) === 0) return [to(batchNorm([x, scale, bias, middle, variance], { eps }), own)];
  // With the statistics of this batch, which also move the running ones.
  const axes = shape.map((_, i) => i).filter((i) => i !== 1);
  const away = sub([x, reduceMean([x], { axes, keepdims: true })]);
  const [now, spread] = [reduceMean([x], { axes }), reduceMean([mul([away, away])], { axes })];
  const moved = (i: number, old: Value, now: Value): Value =>
    to(add([mul([old, like(old, momentum)]), mul([now, like(now, 1 - momentum)])]), n.type(i).dtype);
  const out = to(batchNorm([x, scale, bias, now, spread], { eps }), own);
  return [out, moved(3, middle, now), moved(4, variance, spread)].slice(0, Math.max(1, n.outputs));
}

function groupNormalization(n: Node): Value {
  const groups = n.int('num_groups');
  n.ignore('stash_type');
  const x = n.value(0);
  const channels = typeOf(x).shape[1]!;
  const perChannel = (v: Value): Value => {
    if (n.opset >= 21 || typeof channels !== 'number') return v;
    // Before opset 21, one for each group.
    const wide = expand([reshape([v], { shape: [groups, 1] })], { shape: [groups, channels / groups] });
    return reshape([wide], { shape: [channels] });
  };
  return groupNorm([x, perChannel(n.value(1)), perChannel(n.value(2))], { groups, eps: n.float('epsilon', 1e-5) });
}

/** An entry of halves that is computed in floats, whose steps would not fit halves. */
const inFloats =
  (f: (n: Node, x: Value) => Value): Entry =>
  (n) => {
    const { dtype } = n.type(0);
    return to(f(n, to(n.value(0), workType(dtype))), dtype);
  };

/** Channels that one response looks at. */
const MOST_NEIGHBOURS = 4096;

function localResponse(n: Node, x: Value): Value {
  const { shape } = typeOf(x);
  const size = n.int('size');
  if (size < 1 || size > MOST_NEIGHBOURS) n.fail(`its size is ${size}`, `it is 1 to ${MOST_NEIGHBOURS}`, 'attribute');
  const [alpha, beta, bias] = [n.float('alpha', 1e-4), n.float('beta', 0.75), n.float('bias', 1)];
  const before = Math.floor((size - 1) / 2);
  const amounts = (by: number): number[] => shape.map((_, i) => (i === 1 ? by : 0));
  const wide = pad([mul([x, x])], { before: amounts(before), after: amounts(size - 1 - before) });
  const parts = Array.from({ length: size }, (_, i) => sliceAxis(wide, 1, i, dim(plus(asExpr(shape[1]!), i))));
  const sum = parts.reduce((a, b) => add([a, b]));
  return div([x, pow([add([mul([sum, like(x, alpha / size)]), like(x, bias)]), like(x, beta)])]);
}

function lpNormalization(n: Node, x: Value): Value {
  const attrs = { axes: [n.axis(n.int('axis', -1), typeOf(x).shape.length)], keepdims: true };
  const norm = n.int('p', 2) === 1 ? reduceSum([abs([x])], attrs) : sqrt([reduceSum([mul([x, x])], attrs)]);
  // A line of zeros stays zero.
  return div([x, maximum([norm, like(x, 1e-30)])]);
}

function meanVariance(n: Node, x: Value): Value {
  const attrs = { axes: n.intList('axes') ?? [0, 2, 3], keepdims: true };
  const away = sub([x, reduceMean([x], attrs)]);
  const deviation = sqrt([reduceMean([mul([away, away])], attrs)]);
  return div([away, add([deviation, like(x, 1e-9)])]);
}

function rms(n: Node): Value {
  const eps = n.float('epsilon', 1e-5);
  n.ignore('stash_type');
  const scale = n.optional(1);
  if (scale && typeOf(scale).dtype !== n.type(0).dtype) {
    // The scale's type is that of the result.
    const unit = overLast(n.on([computed(to(n.value(0), 'f32'))]), undefined, undefined, (x) => rmsNorm(x, { eps }));
    n.ignore('axis');
    return mul([to(unit, typeOf(scale).dtype), scale]);
  }
  return overLast(n, n.optional(1), undefined, (operands) => rmsNorm(operands, { eps }));
}

export const normalization: Entries = {
  Softmax: normalised(softmax),
  LogSoftmax: normalised(logSoftmax),
  LayerNormalization: layerNormalization,
  RMSNormalization: rms,
  SimplifiedLayerNormalization: rms,
  BatchNormalization: batchNormalization,
  InstanceNormalization: (n) => {
    const channels = n.shape(0)[1];
    if (typeof channels !== 'number') return n.fail('the channel axis must have a fixed size');
    n.ignore('consumed_inputs');
    return groupNorm([n.value(0), n.value(1), n.value(2)], { groups: channels, eps: n.float('epsilon', 1e-5) });
  },
  GroupNormalization: groupNormalization,
  LRN: inFloats(localResponse),
  LpNormalization: inFloats(lpNormalization),
  MeanVarianceNormalization: inFloats(meanVariance),
};
