/** Elementwise ops of two or three operands, broadcast as in numpy. */
import { isFloat, isInt, isUnsigned, mulInt, type Scalar, sizeOf } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import type { Value } from '../graph.ts';
import { defineOp, type Example } from '../op.ts';
import * as s from '../scalar.ts';
import { powC } from '../special.ts';
import { tensor } from '../type.ts';
import { broadcastShapes, expectDtype, expectSameDtype } from './check.ts';
import { binaryOp, broadcastAxes, dtypeOf, mapBroadcast } from './elementwise-define.ts';
import { bools, f32, given, i32, SPECIAL, specials } from './example.ts';
import { selectNeed } from './movement-need.ts';
import { scalar } from './structural.ts';

type Plain = Example<Record<never, never>>;
const floats: readonly Plain[] = [
  { inputs: [f32(3, 5), f32(3, 5)] },
  { inputs: [f32(2, 1, 7), f32(3, 1)], note: 'both operands stretch' },
  { inputs: [f32(), f32(4)], note: 'a scalar stretches' },
  { inputs: [f32(0, 3), f32(1, 3)], note: 'no elements' },
  { inputs: [given('f32', [SPECIAL.length, 1], SPECIAL), specials], note: 'zeros, infinities and NaN' },
];
const EXTREMES = [0, 1, -1, 7, -7, 2147483647, -2147483648, 65537];
const ints: readonly Plain[] = [
  { inputs: [given('i32', [EXTREMES.length, 1], EXTREMES), given('i32', [EXTREMES.length], EXTREMES)], note: 'wraps' },
  { inputs: [given('u8', [5, 1], [0, 1, 7, 128, 255]), given('u8', [4], [0, 1, 16, 255])], note: 'wraps at 256' },
  { inputs: [given('i8', [4, 1], [0, -1, 127, -128]), given('i8', [4], [1, -1, 127, -128])], note: 'wraps at 8 bits' },
  { inputs: [given('i64', [3], [5, -5, 2 ** 40]), given('i64', [3], [3, 3, 3])] },
];
const logical: readonly Plain[] = [
  { inputs: [bools(3, 5), bools(3, 5)] },
  { inputs: [given('bool', [2, 1], [0, 1]), given('bool', [2], [0, 1])], note: 'the truth table' },
  { inputs: [bools(0), bools(1)] },
];
const allNumbers = [...floats, ...ints];

export const add = binaryOp({
  name: 'add',
  doc: 'a + b.',
  domain: 'number',
  f: (a, b) => a + b,
  expr: (a, b) => s.add(a, b),
  grad: (dy) => [dy, dy],
  onnx: { op: 'Add', since: 7 },
  examples: allNumbers,
});

export const sub = binaryOp({
  name: 'sub',
  doc: 'a − b.',
  domain: 'number',
  f: (a, b) => a - b,
  expr: (a, b) => s.sub(a, b),
  grad: (dy, a) => [dy, sub([scalar(0, dtypeOf(a)), dy])],
  onnx: { op: 'Sub', since: 7 },
  examples: allNumbers,
});

export const mul = binaryOp({
  name: 'mul',
  doc: 'a · b.',
  domain: 'number',
  f: (a, b, dtype) => (isInt(dtype) ? mulInt(dtype, a, b) : a * b),
  expr: (a, b) => s.mul(a, b),
  grad: (dy, a, b) => [mul([dy, b]), mul([dy, a])],
  onnx: { op: 'Mul', since: 7 },
  examples: allNumbers,
});

/**
 * Integer quotient and remainder that no target traps on: a divisor of zero gives zero, and −1 negates, so that
 * dividing the smallest integer by it wraps. `op` sees divisors other than these.
 */
function divideInt(op: 'div' | 'rem' | 'floordiv' | 'floormod', a: Expr, b: Expr, dtype: Scalar): Expr {
  const zero = s.eq(b, 0);
  if (isUnsigned(dtype)) return s.select(zero, s.zero(dtype), s.binary(op, a, s.select(zero, s.one(dtype), b)));
  const minus = s.eq(b, -1);
  const quotient = op === 'div' || op === 'floordiv';
  const safe = s.select(s.or(zero, minus), s.one(dtype), b);
  const special = quotient ? s.select(minus, s.neg(a), s.zero(dtype)) : s.zero(dtype);
  return s.select(s.or(zero, minus), special, s.binary(op, a, safe));
}

export const div = binaryOp({
  name: 'div',
  doc: 'a ÷ b; on integers towards zero, and 0 for a divisor of 0.',
  domain: 'number',
  f: (a, b, dtype) => (isFloat(dtype) ? a / b : b === 0 ? 0 : Math.trunc(a / b)),
  expr: (a, b, dtype) => (isFloat(dtype) ? s.div(a, b) : divideInt('div', a, b, dtype)),
  grad: (dy, a, b) => {
    const da = div([dy, b]);
    return [da, sub([scalar(0, dtypeOf(a)), div([mul([da, a]), b])])];
  },
  onnx: { op: 'Div', since: 7 },
  examples: allNumbers,
});

export const rem = binaryOp({
  name: 'rem',
  doc: 'Remainder with the sign of a (C fmod); on integers 0 for a divisor of 0.',
  domain: 'number',
  f: (a, b, dtype) => (isFloat(dtype) ? a % b : b === 0 ? 0 : a % b),
  expr: (a, b, dtype) => (isFloat(dtype) ? s.rem(a, b) : divideInt('rem', a, b, dtype)),
  examples: allNumbers,
});

export const floorDiv = binaryOp({
  name: 'floor_div',
  doc: '⌊a ÷ b⌋ of the rounded quotient; on integers 0 for a divisor of 0.',
  domain: 'number',
  f: (a, b, dtype) => (isFloat(dtype) ? Math.floor(a / b) : b === 0 ? 0 : Math.floor(a / b)),
  expr: (a, b, dtype) => (isFloat(dtype) ? s.floor(s.div(a, b)) : divideInt('floordiv', a, b, dtype)),
  examples: [
    ...floats.slice(0, 4),
    ...ints,
    {
      inputs: [
        given('f32', [8, 1], [0, -0, 1, -7, 2.5, Infinity, -Infinity, NaN]),
        given('f32', [5], [0, 2, -2, Infinity, NaN]),
      ],
    },
  ],
});

export const floorMod = binaryOp({
  name: 'floor_mod',
  doc: 'Remainder with the sign of b (Python %); on integers 0 for a divisor of 0.',
  domain: 'number',
  f: (a, b, dtype) => {
    if (b === 0 && !isFloat(dtype)) return 0;
    const r = a % b;
    return r !== 0 && r < 0 !== b < 0 ? r + b : r;
  },
  expr: (a, b, dtype) => {
    if (!isFloat(dtype)) return divideInt('floormod', a, b, dtype);
    const r = s.rem(a, b);
    return s.select(s.and(s.ne(r, 0), s.xor(s.lt(r, 0), s.lt(b, 0))), s.add(r, b), r);
  },
  examples: allNumbers,
});

export const pow = binaryOp({
  name: 'pow',
  doc: 'a to the power b, as C pow. Cast integers first.',
  domain: 'float',
  f: powC,
  expr: (a, b) => s.pow(a, b),
  grad: (dy, a, b) => [mul([dy, mul([b, pow([a, sub([b, scalar(1, dtypeOf(b))])])])]), null],
  onnx: { op: 'Pow', since: 13 },
  examples: [
    { inputs: [given('f32', [3, 5], undefined, [0.1, 4]), f32(3, 5)] },
    { inputs: [given('f32', [2, 1, 7], undefined, [0.1, 2]), f32(3, 1)] },
    { inputs: [f32(4, 1), given('f32', [5], [-2, -1, 0, 2, 3])], note: 'whole powers of negative numbers' },
    { inputs: [given('f32', [SPECIAL.length, 1], SPECIAL), specials] },
  ],
});

const propagate =
  (pick: (a: number, b: number) => number) =>
  (a: number, b: number): number =>
    Number.isNaN(a) || Number.isNaN(b) ? NaN : pick(a, b);
export const minimum = binaryOp({
  name: 'minimum',
  doc: 'The smaller operand; NaN if either is NaN.',
  domain: 'number',
  f: propagate((a, b) => (b < a ? b : a)),
  expr: (a, b) => s.min(a, b),
  grad: (dy, a, b) => {
    const none = scalar(0, dtypeOf(a));
    const first = lessEqual([a, b]);
    return [select([first, dy, none]), select([first, none, dy])];
  },
  onnx: { op: 'Min', since: 13 },
  examples: allNumbers,
});
export const maximum = binaryOp({
  name: 'maximum',
  doc: 'The larger operand; NaN if either is NaN.',
  domain: 'number',
  f: propagate((a, b) => (b > a ? b : a)),
  expr: (a, b) => s.max(a, b),
  grad: (dy, a, b) => {
    const none = scalar(0, dtypeOf(a));
    const first = greaterEqual([a, b]);
    return [select([first, dy, none]), select([first, none, dy])];
  },
  onnx: { op: 'Max', since: 13 },
  examples: allNumbers,
});

const compare = (
  name: string,
  doc: string,
  onnx: string,
  since: number,
  f: (a: number, b: number) => boolean,
  expr: (a: Expr, b: Expr) => Expr,
  domain: 'any' | 'number' = 'number',
) =>
  binaryOp({
    name,
    doc: `${doc}; IEEE: NaN compares false, and unequal to everything.`,
    domain,
    result: 'bool',
    f: (a, b) => (f(a, b) ? 1 : 0),
    expr,
    onnx: { op: onnx, since },
    grad: () => [null, null],
    examples: domain === 'any' ? [...allNumbers, ...logical] : allNumbers,
  });
export const equal = compare('equal', 'a = b', 'Equal', 7, (a, b) => a === b, s.eq, 'any');
export const less = compare('less', 'a < b', 'Less', 7, (a, b) => a < b, s.lt);
export const lessEqual = compare('less_equal', 'a ≤ b', 'LessOrEqual', 12, (a, b) => a <= b, s.le);
export const greater = compare('greater', 'a > b', 'Greater', 7, (a, b) => a > b, s.gt);
export const greaterEqual = compare('greater_equal', 'a ≥ b', 'GreaterOrEqual', 12, (a, b) => a >= b, s.ge);
export const notEqual = binaryOp({
  name: 'not_equal',
  doc: 'a ≠ b; NaN is unequal to everything.',
  domain: 'any',
  result: 'bool',
  f: (a, b) => (a !== b ? 1 : 0),
  expr: (a, b) => s.ne(a, b),
  grad: () => [null, null],
  examples: [...allNumbers, ...logical],
});

const logic = (
  name: string,
  doc: string,
  onnx: string,
  f: (a: boolean, b: boolean) => boolean,
  expr: (a: Expr, b: Expr) => Expr,
) =>
  binaryOp({
    name,
    doc,
    domain: 'bool',
    f: (a, b) => (f(a !== 0, b !== 0) ? 1 : 0),
    expr,
    onnx: { op: onnx, since: 7 },
    examples: logical,
  });
export const and = logic('and', 'Both.', 'And', (a, b) => a && b, s.and);
export const or = logic('or', 'Either or both.', 'Or', (a, b) => a || b, s.or);
export const xor = logic('xor', 'Exactly one.', 'Xor', (a, b) => a !== b, s.xor);

const bits = (
  name: string,
  doc: string,
  onnx: string,
  f: (a: bigint, b: bigint) => bigint,
  expr: (a: Expr, b: Expr) => Expr,
) =>
  binaryOp({
    name,
    doc,
    domain: 'int',
    f: (a, b) => Number(f(BigInt(a), BigInt(b))),
    expr,
    onnx: { op: onnx, since: 18 },
    examples: ints,
  });
export const bitAnd = bits('bit_and', 'Bits set in both.', 'BitwiseAnd', (a, b) => a & b, s.and);
export const bitOr = bits('bit_or', 'Bits set in either.', 'BitwiseOr', (a, b) => a | b, s.or);
export const bitXor = bits('bit_xor', 'Bits set in exactly one.', 'BitwiseXor', (a, b) => a ^ b, s.xor);

/** Shift distances count modulo the width of the type, as machines do. */
const distance = (b: number, dtype: Scalar): number => {
  const width = 8 * sizeOf(dtype);
  return ((b % width) + width) % width;
};
const shifts: readonly Plain[] = [
  ...ints,
  { inputs: [given('u32', [3, 1], [1, 0x80000000, 0xdeadbeef]), given('u32', [5], [0, 1, 13, 31, 32])] },
];
export const shiftLeft = binaryOp({
  name: 'shift_left',
  doc: 'a · 2^b, b taken modulo the width of the type.',
  domain: 'int',
  f: (a, b, dtype) => (isInt(dtype) ? mulInt(dtype, a, 2 ** distance(b, dtype)) : NaN),
  expr: (a, b, dtype) => s.shl(a, s.and(b, 8 * sizeOf(dtype) - 1)),
  examples: shifts,
});
export const shiftRight = binaryOp({
  name: 'shift_right',
  doc: '⌊a ÷ 2^b⌋ (keeps the sign of signed types), b taken modulo the width of the type.',
  domain: 'int',
  f: (a, b, dtype) => Math.floor(a / 2 ** distance(b, dtype)),
  expr: (a, b, dtype) => s.shr(a, s.and(b, 8 * sizeOf(dtype) - 1)),
  examples: shifts,
});

/** Chooses between two operands by a condition. */
export const select = defineOp({
  name: 'select',
  doc: 'a where the condition holds, b elsewhere; neither side is changed by the other.',
  inputs: ['condition', 'a', 'b'],
  attrs: {},
  type: ([condition, a, b]) => {
    expectDtype(condition!, 'bool', 'condition');
    return tensor(expectSameDtype([a!, b!], 'branches'), broadcastShapes([condition!.shape, a!.shape, b!.shape]));
  },
  axes: broadcastAxes,
  need: selectNeed,
  eval: (inputs) => mapBroadcast(inputs[1]!.dtype, inputs, (c, a, b) => (c !== 0 ? a : b)),
  lower: { kind: 'pointwise', expr: ([c, a, b]) => s.select(c!, a!, b!) },
  grad: ({ inputs: [condition, a] }, [dy]): readonly (Value | null)[] => {
    const none = scalar(0, dtypeOf(a!));
    return [null, select([condition!, dy!, none]), select([condition!, none, dy!])];
  },
  onnx: { op: 'Where', since: 9 },
  examples: [
    { inputs: [bools(3, 5), f32(3, 5), f32(3, 5)] },
    { inputs: [bools(2, 1, 5), f32(3, 1), f32()], note: 'all three stretch' },
    { inputs: [given('bool', [2], [1, 0]), given('f32', [2], [1, NaN]), given('f32', [2], [NaN, -Infinity])] },
    { inputs: [bools(4), i32(4), i32(1)] },
    { inputs: [bools(0), bools(0), bools(0)] },
  ],
});
