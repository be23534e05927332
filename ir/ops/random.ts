/** Random tensors that are functions of (seed, stream, position): pure, order-free, the same on every target. */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { isFloat, type Scalar } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import { typeOf } from '../graph.ts';
import { countOf, type Nd } from '../nd.ts';
import { defineOp } from '../op.ts';
import { normalAt, normalExpr, uniformAt, uniformExpr } from '../random.ts';
import * as s from '../scalar.ts';
import { type Shape, stridesOf, type TensorType, tensor } from '../type.ts';
import { expectDtype, expectRankAtLeast } from './check.ts';
import { add, sub } from './elementwise-binary.ts';
import { cast, log, neg } from './elementwise-unary.ts';
import { f32, given } from './example.ts';
import { late } from './late.ts';
import { scalar } from './structural.ts';

const common = {
  shape: attr.dims('sizes of the result'),
  seed: attr.int('first half of the key; its low 32 bits count'),
  stream: opt.int(0, 'second half of the key: one number for each random op of a model'),
  dtype: attr.dtype('a float type'),
};
function randomType(shape: Shape, dtype: Scalar): TensorType {
  if (!isFloat(dtype)) fail('dtype', `random values are floats, not ${dtype}`, { help: 'cast the result' });
  return tensor(dtype, shape);
}
/** Number of the element at these coordinates, in C order. */
const linear = (at: readonly Expr[], shape: Shape): Expr => {
  const strides = stridesOf(shape);
  return at.reduce<Expr>((n, c, i) => s.add(n, s.mul(c, strides[i]!)), s.literal(0));
};
const wide = (dtype: Scalar): 'f32' | 'f64' => (dtype === 'f64' ? 'f64' : 'f32');
const fillWith = (dtype: Scalar, shape: readonly number[], f: (index: number) => number): Nd => ({
  dtype,
  shape,
  data: Float64Array.from({ length: countOf(shape) }, (_, index) => f(index)),
});

/** Uniform on [low, high). */
export const randomUniform = defineOp({
  name: 'random_uniform',
  doc: 'Uniform on [low, high), from 24 random bits an element.',
  inputs: [],
  attrs: { ...common, low: opt.float(0, 'smallest value'), high: opt.float(1, 'limit that is not reached') },
  type: (_, { shape, dtype }) => randomType(shape, dtype),
  eval: (_, { seed, stream, low, high, dtype }, cx) =>
    fillWith(dtype, cx.types[0]!.shape, (i) => low + (high - low) * uniformAt(seed, stream, i)),
  lower: {
    kind: 'element',
    element: (at, _, { attrs: { seed, stream, low, high }, out }) => {
      const unit = uniformExpr(seed, stream, linear(at, out.shape), wide(out.dtype));
      const scaled = high - low === 1 ? unit : s.mul(unit, high - low);
      return s.cast(low === 0 ? scaled : s.add(scaled, low), out.dtype);
    },
  },
  grad: () => [],
  examples: [
    { inputs: [], attrs: { shape: [3, 5], seed: 42, dtype: 'f32' } },
    { inputs: [], attrs: { shape: [7], seed: 1, stream: 9, low: -2, high: 3, dtype: 'f32' } },
    { inputs: [], attrs: { shape: [0, 2], seed: 1, dtype: 'f32' } },
    { inputs: [], attrs: { shape: [], seed: -1, dtype: 'f64' } },
  ],
});

/** Normal with the given mean and standard deviation. */
export const randomNormal = defineOp({
  name: 'random_normal',
  doc: 'Normal with the given mean and standard deviation, by Box and Muller from 48 random bits an element.',
  inputs: [],
  attrs: { ...common, mean: opt.float(0, 'mean'), std: opt.float(1, 'standard deviation') },
  type: (_, { shape, dtype }) => randomType(shape, dtype),
  eval: (_, { seed, stream, mean, std, dtype }, cx) =>
    fillWith(dtype, cx.types[0]!.shape, (i) => mean + std * normalAt(seed, stream, i)),
  lower: {
    kind: 'element',
    element: (at, _, { attrs: { seed, stream, mean, std }, out }) => {
      const unit = normalExpr(seed, stream, linear(at, out.shape), wide(out.dtype));
      const scaled = std === 1 ? unit : s.mul(unit, std);
      return s.cast(mean === 0 ? scaled : s.add(scaled, mean), out.dtype);
    },
  },
  grad: () => [],
  examples: [
    { inputs: [], attrs: { shape: [3, 5], seed: 42, dtype: 'f32' } },
    { inputs: [], attrs: { shape: [7], seed: 1, stream: 9, mean: 1, std: 0.02, dtype: 'f32' } },
    { inputs: [], attrs: { shape: [0], seed: 1, dtype: 'f32' } },
  ],
});

/** A draw from the distribution that the last axis of the logits describes. */
export const randomCategorical = defineOp({
  name: 'random_categorical',
  doc: 'For each row of logits, one index drawn with probability softmax(logits), by the largest logit plus Gumbel noise.',
  inputs: ['logits'],
  attrs: { seed: common.seed, stream: common.stream },
  type: ([logits]) => {
    expectDtype(logits!, 'float', 'logits');
    expectRankAtLeast(logits!, 1, 'logits');
    if (logits!.shape.at(-1) === 0) fail('shape', 'the last axis is empty: there is nothing to draw');
    return tensor('i64', logits!.shape.slice(0, -1));
  },
  axes: ([logits]) => [logits!.shape.map((_, i) => (i < logits!.shape.length - 1 ? i : 'mix'))],
  eval: ([logits], { seed, stream }) => {
    const shape = logits!.shape.slice(0, -1);
    const width = logits!.shape.at(-1)!;
    return fillWith('i64', shape, (row) => {
      let [best, most] = [0, -Infinity];
      for (let k = 0; k < width; k++) {
        const i = row * width + k;
        // 1 − u lies in (0, 1], so that the inner logarithm is finite.
        const noisy = logits!.data[i]! - Math.log(-Math.log(1 - uniformAt(seed, stream, i)));
        if (noisy > most) [best, most] = [k, noisy];
      }
      return best;
    });
  },
  lower: {
    kind: 'decompose',
    build: ([logits], { seed, stream }) => {
      const { dtype: narrow, shape } = typeOf(logits!);
      const dtype = wide(narrow);
      const scores = narrow === dtype ? logits! : cast([logits!], { to: dtype });
      const u = randomUniform([], { shape, seed, stream, dtype });
      const gumbel = neg([log([neg([log([sub([scalar(1, dtype), u])])])])]);
      return late('arg_max', [add([scores, gumbel])], { axis: -1 });
    },
  },
  grad: () => [null],
  examples: [
    { inputs: [f32(6, 5)], attrs: { seed: 3 } },
    {
      inputs: [given('f32', [2, 3], [-Infinity, 0, -Infinity, 50, 0, 0])],
      attrs: { seed: 3, stream: 1 },
      note: 'certain draws',
    },
    { inputs: [f32(1)], attrs: { seed: 3 } },
    { inputs: [f32(0, 4)], attrs: { seed: 3 } },
  ],
});
