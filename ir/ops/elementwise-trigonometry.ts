/** Trigonometric and hyperbolic functions beyond what targets have, written with exp, log, sin, cos and sqrt. */
import type { Scalar } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import type { Value } from '../graph.ts';
import * as s from '../scalar.ts';
import { add, div, mul, sub } from './elementwise-binary.ts';
import { dtypeOf, unaryOp } from './elementwise-define.ts';
import { atanPositive, expm1, log1p, withSign } from './elementwise-stable.ts';
import { sqrt } from './elementwise-unary.ts';
import { f32, given, specials } from './example.ts';
import { scalar } from './structural.ts';

function curve(
  name: string,
  doc: string,
  onnx: string,
  since: number,
  f: (x: number) => number,
  expr: (x: Expr, dtype: Scalar) => Expr,
  range: readonly [number, number],
  slope: (x: Value, y: Value, one: Value) => Value,
) {
  return unaryOp({
    name,
    doc,
    domain: 'float',
    f,
    expr: (x, _, dtype) => expr(x, dtype),
    grad: (dy, x, y) => mul([dy, slope(x, y, scalar(1, dtypeOf(x)))]),
    onnx: { op: onnx, since },
    examples: [
      { inputs: [given('f32', [5, 7], undefined, range)] },
      { inputs: [f32(0)], note: 'no elements' },
      {
        inputs: [given('f32', [2, 3], undefined, [range[0] / 64, range[1] / 64])],
        note: 'near the start of its range',
      },
      { inputs: [given('f64', [7], undefined, range)] },
      { inputs: [specials], note: 'zeros, infinities and NaN' },
    ],
  });
}
const square = (x: Value): Value => mul([x, x]);

export const tan = curve(
  'tan',
  'Tangent of radians.',
  'Tan',
  7,
  Math.tan,
  (x) => s.div(s.sin(x), s.cos(x)),
  [-1.4, 1.4],
  (_, y, one) => add([one, square(y)]),
);
export const asin = curve(
  'asin',
  'Arc sine; NaN outside −1 … 1.',
  'Asin',
  7,
  Math.asin,
  (x, dtype) => {
    const a = s.abs(x);
    return withSign(atanPositive(s.div(a, s.sqrt(s.mul(s.sub(1, a), s.add(a, 1)))), dtype), x);
  },
  [-1, 1],
  (x, _, one) => div([one, sqrt([sub([one, square(x)])])]),
);
export const acos = curve(
  'acos',
  'Arc cosine; NaN outside −1 … 1.',
  'Acos',
  7,
  Math.acos,
  (x, dtype) => s.mul(atanPositive(s.sqrt(s.div(s.sub(1, x), s.add(x, 1))), dtype), 2),
  [-1, 1],
  (x, _, one) => sub([scalar(0, dtypeOf(x)), div([one, sqrt([sub([one, square(x)])])])]),
);
export const atan = curve(
  'atan',
  'Arc tangent.',
  'Atan',
  7,
  Math.atan,
  (x, dtype) => withSign(atanPositive(s.abs(x), dtype), x),
  [-6, 6],
  (x, _, one) => div([one, add([one, square(x)])]),
);

export const cosh = curve(
  'cosh',
  'Hyperbolic cosine.',
  'Cosh',
  9,
  Math.cosh,
  (x) => s.add(s.mul(s.exp(x), 0.5), s.mul(s.exp(s.neg(x)), 0.5)),
  [-6, 6],
  (x) => sinh([x]),
);
export const sinh = curve(
  'sinh',
  'Hyperbolic sine.',
  'Sinh',
  9,
  Math.sinh,
  (x) => {
    const a = s.abs(x);
    const n = expm1(s.neg(a));
    return withSign(s.mul(s.mul(s.mul(n, -0.5), s.add(n, 2)), s.exp(a)), x);
  },
  [-6, 6],
  (x) => cosh([x]),
);

/** Where log(2x) is the inverse hyperbolic sine and cosine to the precision of the type. */
const large = (dtype: Scalar): number => (dtype === 'f64' ? 2 ** 28 : 2 ** 13);
export const asinh = curve(
  'asinh',
  'Inverse hyperbolic sine.',
  'Asinh',
  9,
  Math.asinh,
  (x, dtype) => {
    const a = s.abs(x);
    const bounded = s.min(a, large(dtype));
    const square = s.mul(bounded, bounded);
    const near = log1p(s.add(bounded, s.div(square, s.add(s.sqrt(s.add(square, 1)), 1))));
    return withSign(s.select(s.lt(large(dtype), a), s.add(s.log(a), Math.LN2), near), x);
  },
  [-9, 9],
  (x, _, one) => div([one, sqrt([add([one, square(x)])])]),
);
export const acosh = curve(
  'acosh',
  'Inverse hyperbolic cosine; NaN below 1.',
  'Acosh',
  9,
  Math.acosh,
  (x, dtype) => {
    const t = s.sub(s.min(x, large(dtype)), 1);
    const near = log1p(s.add(t, s.sqrt(s.mul(t, s.add(t, 2)))));
    return s.select(
      s.lt(x, 1),
      s.literal(NaN, dtype),
      s.select(s.lt(large(dtype), x), s.add(s.log(x), Math.LN2), near),
    );
  },
  [1, 9],
  (x, _, one) => div([one, sqrt([sub([square(x), one])])]),
);
export const atanh = curve(
  'atanh',
  'Inverse hyperbolic tangent; NaN outside −1 … 1.',
  'Atanh',
  9,
  Math.atanh,
  (x) => {
    const a = s.abs(x);
    return withSign(s.mul(log1p(s.div(s.mul(a, 2), s.sub(1, a))), 0.5), x);
  },
  [-1, 1],
  (x, _, one) => div([one, sub([one, square(x)])]),
);
