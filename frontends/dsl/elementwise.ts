/** Elementwise functions. Operands broadcast as in numpy; a number takes the dtype of the tensor beside it. */

import type { AttrSpecs } from '../../ir/core.ts';
import type { Scalar } from '../../ir/dtype.ts';
import type { Op } from '../../ir/op.ts';
import * as ops from '../../ir/ops/elementwise.ts';
import type {
  Broadcast,
  BroadcastError,
  Check,
  DtypeOf,
  FirstError,
  FloatError,
  PairError,
  ShapeOf,
} from './shapes.ts';
import { apply, type Operand, type Shape, Tensor, values } from './tensor.ts';

type Pair<A, B> = Tensor<DtypeOf<A, B>, Broadcast<ShapeOf<A>, ShapeOf<B>>>;
type Test<A, B> = Tensor<'bool', Broadcast<ShapeOf<A>, ShapeOf<B>>>;
type NoAttrs = Record<string, never> & AttrSpecs;

type Binary<N extends string> = <const A extends Operand, const B extends Operand>(
  a: A,
  b: Check<B, PairError<N, A, B>>,
) => Pair<A, B>;
type Compare<N extends string> = <const A extends Operand, const B extends Operand>(
  a: A,
  b: Check<B, PairError<N, A, B>>,
) => Test<A, B>;
const binary =
  <N extends string>(_name: N, op: Op<NoAttrs>): Binary<N> =>
  (a, b) =>
    apply(op, [a, b as Operand]);
const compare =
  <N extends string>(_name: N, op: Op<NoAttrs>): Compare<N> =>
  (a, b) =>
    apply(op, [a, b as Operand]);
type Unary = <D extends Scalar, S extends Shape>(x: Tensor<D, S>) => Tensor<D, S>;
const unary =
  (op: Op<NoAttrs>): Unary =>
  (x) =>
    apply(op, [x]);
type FloatUnary<N extends string> = <D extends Scalar, S extends Shape>(
  x: Check<Tensor<D, S>, FloatError<N, D>>,
) => Tensor<D, S>;
const floating =
  <N extends string>(_name: N, op: Op<NoAttrs>): FloatUnary<N> =>
  (x) =>
    apply(op, [x as Tensor]);

export const add = binary('add', ops.add);
export const sub = binary('sub', ops.sub);
export const mul = binary('mul', ops.mul);
/** a / b; integers round towards zero. */
export const div = binary('div', ops.div);
/** The remainder with the sign of a. */
export const rem = binary('rem', ops.rem);
/** ⌊a / b⌋. */
export const floorDiv = binary('floorDiv', ops.floorDiv);
/** a − ⌊a / b⌋ · b: the remainder with the sign of b. */
export const floorMod = binary('floorMod', ops.floorMod);
export const pow = binary('pow', ops.pow);
export const minimum = binary('minimum', ops.minimum);
export const maximum = binary('maximum', ops.maximum);

export const equal = compare('equal', ops.equal);
export const notEqual = compare('notEqual', ops.notEqual);
export const less = compare('less', ops.less);
export const lessEqual = compare('lessEqual', ops.lessEqual);
export const greater = compare('greater', ops.greater);
export const greaterEqual = compare('greaterEqual', ops.greaterEqual);
export const and = compare('and', ops.and);
export const or = compare('or', ops.or);
export const xor = compare('xor', ops.xor);
export const bitAnd = binary('bitAnd', ops.bitAnd);
export const bitOr = binary('bitOr', ops.bitOr);
export const bitXor = binary('bitXor', ops.bitXor);
/** a · 2ᵇ, b taken modulo the width of the type. */
export const shiftLeft = binary('shiftLeft', ops.shiftLeft);
/** ⌊a ÷ 2ᵇ⌋, b taken modulo the width of the type. */
export const shiftRight = binary('shiftRight', ops.shiftRight);
export const not: <S extends Shape>(x: Tensor<'bool', S>) => Tensor<'bool', S> = (x) => apply(ops.not, [x]);

export const neg = unary(ops.neg);
export const abs = unary(ops.abs);
export const sign = unary(ops.sign);
export const exp = floating('exp', ops.exp);
export const log = floating('log', ops.log);
export const sqrt = floating('sqrt', ops.sqrt);
export const rsqrt = floating('rsqrt', ops.rsqrt);
export const reciprocal = floating('reciprocal', ops.reciprocal);
export const tanh = floating('tanh', ops.tanh);
export const sigmoid = floating('sigmoid', ops.sigmoid);
export const erf = floating('erf', ops.erf);
export const sin = floating('sin', ops.sin);
export const cos = floating('cos', ops.cos);
export const floor = floating('floor', ops.floor);
export const ceil = floating('ceil', ops.ceil);
/** To the nearest integer, ties to even. */
export const round = floating('round', ops.round);
export const trunc = floating('trunc', ops.trunc);
export const tan = floating('tan', ops.tan);
export const asin = floating('asin', ops.asin);
export const acos = floating('acos', ops.acos);
export const atan = floating('atan', ops.atan);
export const sinh = floating('sinh', ops.sinh);
export const cosh = floating('cosh', ops.cosh);
export const asinh = floating('asinh', ops.asinh);
export const acosh = floating('acosh', ops.acosh);
export const atanh = floating('atanh', ops.atanh);
export const bitNot = unary(ops.bitNot);
/** The value, through which no gradient flows. */
export const stopGradient = unary(ops.stopGradient);
export const isNan = <S extends Shape>(x: Tensor<Scalar, S>): Tensor<'bool', S> => apply(ops.isNaN_, [x]);
export const isInf = <S extends Shape>(x: Tensor<Scalar, S>): Tensor<'bool', S> => apply(ops.isInf, [x]);
export const relu = unary(ops.relu);
export const silu = floating('silu', ops.silu);
export const quickGelu = floating('quickGelu', ops.quickGelu);
export const softplus = floating('softplus', ops.softplus);
export const softsign = floating('softsign', ops.softsign);
export const mish = floating('mish', ops.mish);
export const hardSwish = floating('hardSwish', ops.hardSwish);

/** x where it is positive, `alpha` · x elsewhere. */
export const leakyRelu = <D extends Scalar, S extends Shape>(x: Tensor<D, S>, alpha = 0.01): Tensor<D, S> =>
  apply(ops.leakyRelu, [x], { alpha });
/** x where it is positive, `alpha` · (eˣ − 1) elsewhere. */
export const elu = <D extends Scalar, S extends Shape>(x: Tensor<D, S>, alpha = 1): Tensor<D, S> =>
  apply(ops.elu, [x], { alpha });
/** `alpha` · x + `beta`, held between 0 and 1. */
export const hardSigmoid = <D extends Scalar, S extends Shape>(
  x: Tensor<D, S>,
  { alpha = 0.2, beta = 0.5 }: { readonly alpha?: number; readonly beta?: number } = {},
): Tensor<D, S> => apply(ops.hardSigmoid, [x], { alpha, beta });
/** x held between `min` and `max`. */
export const clamp = <D extends Scalar, S extends Shape>(
  x: Tensor<D, S>,
  { min = -Infinity, max = Infinity }: { readonly min?: number; readonly max?: number },
): Tensor<D, S> => apply(ops.clamp, [x], { min, max });

/** x·Φ(x), with Φ by erf (`none`) or by the tanh formula. The two are up to 5e-4 apart: use the checkpoint's. */
export const gelu = <D extends Scalar, S extends Shape>(
  x: Check<Tensor<D, S>, FloatError<'gelu', D>>,
  { approximate = 'none' }: { readonly approximate?: 'none' | 'tanh' } = {},
): Tensor<D, S> => apply(ops.gelu, [x as Tensor], { approximate });

/** The value in another element type: floats round to nearest even, integers truncate and saturate, bool is `x ≠ 0`. */
export const cast = <D extends Scalar, S extends Shape>(x: Tensor<Scalar, S>, to: D): Tensor<D, S> =>
  apply(ops.cast, [x], { to });

type SelectError<S extends Shape, A, B> = FirstError<
  PairError<'select', A, B>,
  BroadcastError<'select', S, Broadcast<ShapeOf<A>, ShapeOf<B>>>
>;
/** Elementwise `condition ? a : b`; all three broadcast. */
export const select = <const S extends Shape, const A extends Operand, const B extends Operand>(
  condition: Tensor<'bool', S>,
  a: A,
  b: Check<B, SelectError<S, A, B>>,
): Tensor<DtypeOf<A, B>, Broadcast<S, Broadcast<ShapeOf<A>, ShapeOf<B>>>> => {
  // The condition's dtype must not decide what a number among the others becomes.
  const [x, y] = values([a, b as Operand]).map((value) => new Tensor(value));
  return apply(ops.select, [condition, x!, y!]);
};
