/** Activation functions. References use stable forms in f64; lowerings are stable in f32. */
import { opt } from '../attr.ts';
import type { Scalar } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import type { Value } from '../graph.ts';
import type { Example } from '../op.ts';
import * as s from '../scalar.ts';
import { erfc } from '../special.ts';
import { add, greater, mul, select, sub } from './elementwise-binary.ts';
import { dtypeOf, unaryOp } from './elementwise-define.ts';
import { expm1, log1p } from './elementwise-stable.ts';
import { erf, exp } from './elementwise-unary.ts';
import { f32, given, specials } from './example.ts';
import { scalar } from './structural.ts';

type Plain = Example<Record<never, never>>;
const examples: readonly Plain[] = [
  { inputs: [f32(3, 5)] },
  { inputs: [f32(0, 2)], note: 'no elements' },
  { inputs: [given('f32', [4, 5], undefined, [-12, 12])] },
  { inputs: [specials], note: 'zeros, infinities and NaN' },
];
const lit = (value: number, like: Value): Value => scalar(value, dtypeOf(like));

export const relu = unaryOp({
  name: 'relu',
  doc: 'max(x, 0); NaN stays NaN.',
  domain: 'number',
  f: (x) => (x < 0 ? 0 : x),
  expr: (x) => s.max(x, 0),
  grad: (dy, x) => select([greater([x, lit(0, x)]), dy, lit(0, dy)]),
  onnx: { op: 'Relu', since: 14 },
  examples: [...examples, { inputs: [given('i32', [3], [-2, 0, 5])] }],
});

export const tanh = unaryOp({
  name: 'tanh',
  doc: 'Hyperbolic tangent.',
  domain: 'float',
  f: Math.tanh,
  expr: (x) => s.tanh(x),
  grad: (dy, _, y) => mul([dy, sub([lit(1, y), mul([y, y])])]),
  onnx: { op: 'Tanh', since: 13 },
  examples,
});

/** 1 / (1 + e^(−x)) without overflow. */
const logistic = (x: number): number => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
export const sigmoid = unaryOp({
  name: 'sigmoid',
  doc: '1 / (1 + e^(−x)).',
  domain: 'float',
  f: logistic,
  expr: (x) => s.div(1, s.add(s.exp(s.neg(x)), 1)),
  grad: (dy, _, y) => mul([dy, mul([y, sub([lit(1, y), y])])]),
  onnx: { op: 'Sigmoid', since: 13 },
  examples,
});

const swish = (x: Expr, rate: number): Expr => s.div(x, s.add(s.exp(s.mul(x, -rate)), 1));
/** d/dx x·σ(rate·x) = σ + rate·y·(1 − σ). */
const swishGrad =
  (rate: number) =>
  (dy: Value, x: Value, y: Value): Value => {
    const gate = sigmoid([mul([x, lit(rate, x)])]);
    return mul([dy, add([gate, mul([mul([y, lit(rate, y)]), sub([lit(1, y), gate])])])]);
  };
export const silu = unaryOp({
  name: 'silu',
  doc: 'x · sigmoid(x).',
  domain: 'float',
  f: (x) => x * logistic(x),
  expr: (x) => swish(x, 1),
  grad: swishGrad(1),
  examples,
});
export const quickGelu = unaryOp({
  name: 'quick_gelu',
  doc: 'x · sigmoid(1.702 x).',
  domain: 'float',
  f: (x) => x * logistic(1.702 * x),
  expr: (x) => swish(x, 1.702),
  grad: swishGrad(1.702),
  examples,
});

export const softplus = unaryOp({
  name: 'softplus',
  doc: 'log(1 + eˣ).',
  domain: 'float',
  f: (x) => (x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x))),
  expr: (x) => s.add(s.max(x, 0), log1p(s.exp(s.neg(s.abs(x))))),
  grad: (dy, x) => mul([dy, sigmoid([x])]),
  onnx: { op: 'Softplus', since: 1 },
  examples,
});

const TANH_SCALE = Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715;
/** 2·√(2/π)·(x + 0.044715 x³), the logit of the tanh approximation: ½(1 + tanh(u)) = sigmoid(2u). */
const tanhLogit = (x: Value): Value =>
  mul([mul([x, lit(2 * TANH_SCALE, x)]), add([lit(1, x), mul([lit(CUBIC, x), mul([x, x])])])]);
export const gelu = unaryOp({
  name: 'gelu',
  doc: 'x · Φ(x), Φ the normal distribution function or its tanh approximation.',
  domain: 'float',
  attrs: { approximate: opt.oneOf(['none', 'tanh'], 'none', 'how Φ is computed') },
  f: (x, { approximate }) =>
    approximate === 'none' ? (x * erfc(-x * Math.SQRT1_2)) / 2 : x * logistic(2 * TANH_SCALE * (x + CUBIC * x ** 3)),
  expr: (x, { approximate }) => {
    if (approximate === 'none') return s.mul(s.mul(x, 0.5), s.add(s.erf(s.mul(x, Math.SQRT1_2)), 1));
    const logit = s.mul(s.mul(x, -2 * TANH_SCALE), s.add(s.mul(s.mul(x, x), CUBIC), 1));
    return s.div(x, s.add(s.exp(logit), 1));
  },
  grad: (dy, x, y, { approximate }) => {
    const [one, half] = [lit(1, x), lit(0.5, x)];
    if (approximate === 'none') {
      const phi = mul([half, add([one, erf([mul([x, lit(Math.SQRT1_2, x)])])])]);
      const density = mul([lit(1 / Math.sqrt(2 * Math.PI), x), exp([mul([mul([x, x]), lit(-0.5, x)])])]);
      return mul([dy, add([phi, mul([x, density])])]);
    }
    const gate = sigmoid([tanhLogit(x)]);
    const slope = mul([lit(2 * TANH_SCALE, x), add([one, mul([lit(3 * CUBIC, x), mul([x, x])])])]);
    return mul([dy, add([gate, mul([mul([y, sub([one, gate])]), slope])])]);
  },
  onnx: { op: 'Gelu', since: 20, attrs: { approximate: 'approximate' } },
  examples: [...examples, ...examples.map((e) => ({ ...e, attrs: { approximate: 'tanh' as const } }))],
});

export const leakyRelu = unaryOp({
  name: 'leaky_relu',
  doc: 'x above 0, alpha·x below.',
  domain: 'float',
  attrs: { alpha: opt.float(0.01, 'slope below 0') },
  f: (x, { alpha }) => (x < 0 ? alpha * x : x),
  expr: (x, { alpha }) => s.select(s.lt(x, 0), s.mul(x, alpha), x),
  grad: (dy, x, _, { alpha }) => select([greater([lit(0, x), x]), mul([dy, lit(alpha, dy)]), dy]),
  onnx: { op: 'LeakyRelu', since: 16, attrs: { alpha: 'alpha' } },
  examples: [...examples, { inputs: [f32(7)], attrs: { alpha: 0.2 } }],
});

export const elu = unaryOp({
  name: 'elu',
  doc: 'x above 0, alpha·(eˣ − 1) below.',
  domain: 'float',
  attrs: { alpha: opt.float(1, 'minus the limit at −∞') },
  f: (x, { alpha }) => (x < 0 ? alpha * Math.expm1(x) : x),
  expr: (x, { alpha }) => s.select(s.lt(x, 0), s.mul(expm1(s.min(x, 0)), alpha), x),
  grad: (dy, x, y, { alpha }) => select([greater([lit(0, x), x]), mul([dy, add([y, lit(alpha, y)])]), dy]),
  onnx: { op: 'Elu', since: 6, attrs: { alpha: 'alpha' } },
  examples: [...examples, { inputs: [f32(7)], attrs: { alpha: 0.5 } }],
});

const clip01 = (x: number): number => (x < 0 ? 0 : x > 1 ? 1 : x);
export const hardSigmoid = unaryOp({
  name: 'hard_sigmoid',
  doc: 'alpha·x + beta, limited to 0 … 1.',
  domain: 'float',
  attrs: { alpha: opt.float(0.2, 'slope'), beta: opt.float(0.5, 'value at 0') },
  f: (x, { alpha, beta }) => clip01(alpha * x + beta),
  expr: (x, { alpha, beta }) => s.max(s.min(s.add(s.mul(x, alpha), beta), 1), 0),
  onnx: { op: 'HardSigmoid', since: 6, attrs: { alpha: 'alpha', beta: 'beta' } },
  examples: [...examples, { inputs: [f32(7)], attrs: { alpha: 1 / 6 } }],
});
export const hardSwish = unaryOp({
  name: 'hard_swish',
  doc: 'x · (x/6 + ½ limited to 0 … 1).',
  domain: 'float',
  f: (x) => x * clip01(x / 6 + 0.5),
  expr: (x) => s.mul(x, s.max(s.min(s.add(s.mul(x, 1 / 6), 0.5), 1), 0)),
  onnx: { op: 'HardSwish', since: 14 },
  examples,
});

/** tanh(log(1 + eˣ)) as a quotient of polynomials in n = e^(−|x|), which never overflows. */
function tanhSoftplus(x: Expr, dtype: Scalar): Expr {
  const n = s.exp(s.neg(s.abs(x)));
  const n2 = s.mul(n, n);
  const twice = s.mul(n, 2);
  const positive = s.le(s.zero(dtype), x);
  const top = s.select(positive, s.add(twice, 1), s.add(n2, twice));
  return s.div(top, s.add(top, s.select(positive, s.mul(n2, 2), s.literal(2, dtype))));
}
export const mish = unaryOp({
  name: 'mish',
  doc: 'x · tanh(softplus(x)).',
  domain: 'float',
  f: (x) => x * Math.tanh(x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x))),
  expr: (x, _, dtype) => s.mul(x, tanhSoftplus(x, dtype)),
  onnx: { op: 'Mish', since: 18 },
  examples,
});

export const softsign = unaryOp({
  name: 'softsign',
  doc: 'x / (1 + |x|).',
  domain: 'float',
  f: (x) => x / (1 + Math.abs(x)),
  expr: (x) => s.div(x, s.add(s.abs(x), 1)),
  grad: (dy, x, y) => {
    const ratio = sub([lit(1, y), select([greater([x, lit(0, x)]), y, sub([lit(0, y), y])])]);
    return mul([dy, mul([ratio, ratio])]);
  },
  onnx: { op: 'Softsign', since: 1 },
  examples,
});
