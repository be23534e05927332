/** Elementwise ops of one operand: arithmetic, rounding, logic, casts. */
import { attr, opt } from '../attr.ts';
import { isFloat, isInt, isUnsigned, roundHalfEven, roundTo, type Scalar, wrapInt } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import type { Value } from '../graph.ts';
import type { Example } from '../op.ts';
import * as s from '../scalar.ts';
import { erf as erfOf } from '../special.ts';
import { div, mul, select, sub } from './elementwise-binary.ts';
import { type Domain, dtypeOf, unaryOp } from './elementwise-define.ts';
import { bools, f32, given, specials } from './example.ts';
import { scalar } from './structural.ts';

type Plain = Example<Record<never, never>>;
const shapes: readonly Plain[] = [
  { inputs: [f32(3, 5)] },
  { inputs: [f32()], note: 'rank 0' },
  { inputs: [f32(0, 2)], note: 'no elements' },
];
const ints: readonly Plain[] = [
  { inputs: [given('i32', [5], [0, 1, -1, 2147483647, -2147483648])], note: 'the ends of the type' },
  { inputs: [given('i8', [4], [0, 1, 127, -128])] },
];

/** A float op, exercised on its usual range, on no elements, and on special values. */
function floatOp(
  name: string,
  doc: string,
  f: (x: number) => number,
  expr: (x: Expr, dtype: Scalar) => Expr,
  more: {
    readonly onnx?: string;
    readonly since?: number;
    readonly range?: readonly [number, number];
    readonly domain?: Domain;
    readonly grad?: (dy: Value, x: Value, y: Value) => Value | null;
  } = {},
) {
  const { onnx, since = 13, range, grad, domain = 'float' } = more;
  return unaryOp({
    name,
    doc,
    domain,
    f,
    expr: (x, _, dtype) => expr(x, dtype),
    ...(grad && { grad }),
    ...(onnx && { onnx: { op: onnx, since } }),
    examples: [
      ...shapes,
      { inputs: [specials], note: 'zeros, infinities and NaN' },
      ...(range ? [{ inputs: [given('f32', [4, 5], undefined, range)] }] : []),
      ...(domain === 'number' ? ints : []),
    ],
  });
}

const lit = (value: number, like: Value): Value => scalar(value, dtypeOf(like));

export const neg = floatOp('neg', '−x.', (x) => -x, s.neg, {
  onnx: 'Neg',
  domain: 'number',
  grad: (dy) => neg([dy]),
});
export const abs = floatOp('abs', '|x|; the smallest integer stays itself.', Math.abs, s.abs, {
  onnx: 'Abs',
  domain: 'number',
  grad: (dy, x) => mul([dy, sign([x])]),
});
export const sign = floatOp(
  'sign',
  '−1, 0 or 1; keeps zeros, NaN gives NaN.',
  Math.sign,
  (x, dtype) =>
    s.select(s.gt(x, 0), s.one(dtype), isUnsigned(dtype) ? x : s.select(s.lt(x, 0), s.literal(-1, dtype), x)),
  { onnx: 'Sign', domain: 'number', grad: () => null },
);
export const exp = floatOp('exp', 'eˣ.', Math.exp, s.exp, {
  onnx: 'Exp',
  range: [-20, 20],
  grad: (dy, _, y) => mul([dy, y]),
});
export const log = floatOp('log', 'Natural logarithm; NaN below 0.', Math.log, s.log, {
  onnx: 'Log',
  range: [1e-3, 9],
  grad: (dy, x) => div([dy, x]),
});
export const sqrt = floatOp('sqrt', 'Square root; NaN below 0.', Math.sqrt, s.sqrt, {
  onnx: 'Sqrt',
  range: [0, 9],
  grad: (dy, _, y) => div([mul([dy, lit(0.5, y)]), y]),
});
export const rsqrt = floatOp(
  'rsqrt',
  '1 / √x.',
  (x) => 1 / Math.sqrt(x),
  (x) => s.div(1, s.sqrt(x)),
  {
    range: [1e-3, 9],
    grad: (dy, x, y) => div([mul([mul([dy, lit(-0.5, y)]), y]), x]),
  },
);
export const reciprocal = floatOp(
  'reciprocal',
  '1 / x.',
  (x) => 1 / x,
  (x) => s.div(1, x),
  {
    onnx: 'Reciprocal',
    grad: (dy, _, y) => neg([mul([dy, mul([y, y])])]),
  },
);
export const erf = floatOp('erf', 'Error function 2/√π ∫₀ˣ e^(−t²) dt.', erfOf, s.erf, {
  onnx: 'Erf',
  range: [-5, 5],
  grad: (dy, x) => mul([dy, mul([lit(2 / Math.sqrt(Math.PI), x), exp([neg([mul([x, x])])])])]),
});
export const sin = floatOp('sin', 'Sine of radians.', Math.sin, s.sin, {
  onnx: 'Sin',
  range: [-10, 10],
  grad: (dy, x) => mul([dy, cos([x])]),
});
export const cos = floatOp('cos', 'Cosine of radians.', Math.cos, s.cos, {
  onnx: 'Cos',
  range: [-10, 10],
  grad: (dy, x) => neg([mul([dy, sin([x])])]),
});
export const floor = floatOp('floor', 'Largest integer not above x.', Math.floor, s.floor, {
  onnx: 'Floor',
  grad: () => null,
});
export const ceil = floatOp('ceil', 'Smallest integer not below x.', Math.ceil, s.ceil, {
  onnx: 'Ceil',
  grad: () => null,
});
export const round = floatOp('round', 'Nearest integer, halves to even.', roundHalfEven, s.round, {
  onnx: 'Round',
  since: 11,
  grad: () => null,
});
export const trunc = floatOp('trunc', 'Integer part.', Math.trunc, s.trunc, { grad: () => null });

/** Identity whose gradient is zero. */
export const stopGradient = unaryOp({
  name: 'stop_gradient',
  doc: 'x; a constant to whoever differentiates.',
  domain: 'any',
  f: (x) => x,
  expr: (x) => x,
  grad: () => null,
  examples: [...shapes, ...ints, { inputs: [bools(3)] }],
});

export const not = unaryOp({
  name: 'not',
  doc: 'Logical negation.',
  domain: 'bool',
  f: (x) => 1 - x,
  expr: (x) => s.not(x),
  onnx: { op: 'Not', since: 1 },
  examples: [{ inputs: [bools(3, 5)] }, { inputs: [given('bool', [2], [0, 1])] }, { inputs: [bools(0)] }],
});
export const bitNot = unaryOp({
  name: 'bit_not',
  doc: 'Every bit inverted.',
  domain: 'int',
  f: (x) => -x - 1,
  expr: (x) => s.not(x),
  onnx: { op: 'BitwiseNot', since: 18 },
  examples: [...ints, { inputs: [given('u8', [3], [0, 1, 255])] }, { inputs: [given('i32', [0])] }],
});

const predicates: readonly Plain[] = [...shapes, { inputs: [specials] }];
export const isNaN_ = unaryOp({
  name: 'is_nan',
  doc: 'Whether x is not a number.',
  domain: 'float',
  result: 'bool',
  f: (x) => (Number.isNaN(x) ? 1 : 0),
  expr: (x) => s.isNan(x),
  grad: () => null,
  onnx: { op: 'IsNaN', since: 9 },
  examples: predicates,
});
export const isInf = unaryOp({
  name: 'is_inf',
  doc: 'Whether x is +∞ or −∞.',
  domain: 'float',
  result: 'bool',
  f: (x) => (x === Infinity || x === -Infinity ? 1 : 0),
  expr: (x) => s.eq(s.abs(x), Infinity),
  grad: () => null,
  onnx: { op: 'IsInf', since: 10 },
  examples: predicates,
});

/** Conversion between element types. */
export const cast = unaryOp({
  name: 'cast',
  doc:
    'x as another element type: floats round to nearest even; float to integer truncates, saturates, and reads NaN as 0; ' +
    'integer to integer wraps; to bool is x ≠ 0.',
  domain: 'any',
  attrs: { to: attr.dtype('element type of the result') },
  result: ({ to }) => to,
  f: (x, { to }, from) => (isInt(to) && isInt(from) ? wrapInt(to, x) : roundTo(to, x)),
  expr: (x, { to }) => s.cast(x, to),
  grad: (dy, x): Value | null => (isFloat(dtypeOf(x)) ? cast([dy], { to: dtypeOf(x) }) : null),
  onnx: { op: 'Cast', since: 13, attrs: { to: 'to' } },
  examples: [
    { inputs: [f32(3, 5)], attrs: { to: 'i32' } },
    { inputs: [specials], attrs: { to: 'i32' }, note: 'saturates' },
    { inputs: [specials], attrs: { to: 'u8' } },
    { inputs: [specials], attrs: { to: 'f16' }, note: 'overflows to infinity' },
    { inputs: [specials], attrs: { to: 'bf16' } },
    { inputs: [specials], attrs: { to: 'bool' } },
    { inputs: [given('i32', [4], [0, 300, -1, 16777217])], attrs: { to: 'u8' }, note: 'wraps' },
    { inputs: [given('i32', [4], [0, 300, -1, 16777217])], attrs: { to: 'f32' } },
    { inputs: [given('i64', [3], [0, 4294967297, -1])], attrs: { to: 'i32' } },
    { inputs: [bools(5)], attrs: { to: 'f32' } },
    { inputs: [bools(0)], attrs: { to: 'i64' } },
  ],
});

export const clamp = unaryOp({
  name: 'clamp',
  doc: 'x limited to min … max; min wins where they cross; NaN stays NaN.',
  domain: 'number',
  attrs: { min: opt.float(-Infinity, 'lower limit'), max: opt.float(Infinity, 'upper limit') },
  f: (x, { min, max }, dtype) => {
    const [low, high] = [roundTo(dtype, min), roundTo(dtype, max)];
    const below = x > high ? high : x;
    return below < low ? low : below;
  },
  expr: (x, { min, max }) => {
    const below = max === Infinity ? x : s.min(x, max);
    return min === -Infinity ? below : s.max(below, min);
  },
  grad: (dy, x, y) => select([equalTo(x, y), dy, lit(0, dy)]),
  examples: [
    { inputs: [f32(3, 5)], attrs: { min: -0.5, max: 0.75 } },
    { inputs: [specials], attrs: { min: 0, max: 6 } },
    { inputs: [specials], attrs: { max: 1 } },
    { inputs: [specials], attrs: { min: 2, max: 1 }, note: 'crossed limits' },
    { inputs: [given('i32', [4], [-9, 0, 3, 9])], attrs: { min: -2, max: 5 } },
    { inputs: [f32(0)], attrs: {} },
  ],
});

/** 1 where x passed through unchanged; written without `equal` so that a NaN keeps its cotangent. */
const equalTo = (x: Value, y: Value): Value => not([cast([sub([x, y])], { to: 'bool' })]);
