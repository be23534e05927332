/** What a name of an ONNX graph stands for while the graph is read. */
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import type { Sym } from '../../ir/expr.ts';
import type { Value } from '../../ir/graph.ts';
import { typeOf } from '../../ir/graph.ts';
import { countOf, type Nd, nd } from '../../ir/nd.ts';
import type { Origin } from '../../ir/op.ts';
import { add, cast, floorDiv, floorMod, maximum, minimum, mul, sub as subtract } from '../../ir/ops/elementwise.ts';
import { reduceSum } from '../../ir/ops/reduce.ts';
import { concat, expand, reshape } from '../../ir/ops/shape.ts';
import { constant, scalar } from '../../ir/ops/structural.ts';
import { sub, symbolsOf } from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, dim, type TensorType, tensor } from '../../ir/type.ts';
import type { Narrow } from './narrow.ts';

/**
 * A tensor that has a value in the graph, or elements that are known while importing (numbers, or sizes over symbols),
 * or both. Values of known elements are only made when an operator reads them at run time.
 */
export interface Item {
  readonly type: TensorType;
  /** Elements of a small integer tensor of static shape as sizes, in C order. */
  readonly dims: readonly Dim[] | undefined;
  /** Whether every element is a literal of the graph, so that operators on it fold. */
  readonly literal: boolean;
  /** The tensors of a sequence, which is no tensor itself: its type and its value refuse. */
  readonly list?: readonly Item[];
  /** Its elements are those of a format without a type of its own; `wide` holds them, and `value` refuses. */
  readonly narrow?: { readonly format: Narrow; readonly wide: Item };
  /** The elements, where they are known: literals, and initializers of moderate size. */
  constant(): Nd | undefined;
  value(): Value;
}

const once = <T>(make: () => T): (() => T) => {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
};

/** A value computed at run time. */
export const computed = (value: Value): Item => ({
  type: typeOf(value),
  dims: undefined,
  literal: false,
  constant: () => undefined,
  value: () => value,
});

/** A stored tensor that keeps its name. */
export const stored = (value: Value, elements: () => Nd): Item => ({
  ...computed(value),
  constant: once(elements),
});

/** Most elements that are tracked one by one as sizes. */
const MAX_DIMS = 1024;

/** @param origin what the value is called and where it comes from, should the graph need it */
export function literalItem(value: Nd, origin: Origin = {}): Item {
  const whole = value.data.length <= MAX_DIMS && value.data.every(Number.isInteger);
  return {
    type: tensor(value.dtype, value.shape),
    dims: whole && value.dtype !== 'bool' ? Array.from(value.data) : undefined,
    literal: true,
    constant: () => value,
    value: once(() => constant([], { value }, origin)),
  };
}

/** Elements known as sizes; a literal when all are numbers. */
export function sizesItem(dtype: Scalar, shape: readonly number[], given: readonly Dim[]): Item {
  const dims = given.map(dim);
  if (dims.length !== countOf(shape)) fail('internal', `${dims.length} sizes for shape [${shape.join(', ')}]`);
  if (dims.every((d) => typeof d === 'number')) return literalItem(nd(dtype, shape, dims));
  return {
    type: tensor(dtype, shape),
    dims,
    literal: false,
    constant: () => undefined,
    value: once(() => {
      const parts = dims.map((d) => reshape([sizeValue(d, dtype)], { shape: [1] }));
      return reshape([parts.length === 1 ? parts[0]! : concat(parts, { axis: 0 })], { shape });
    }),
  };
}

const ARITHMETIC: Readonly<Record<string, (operands: readonly Value[]) => Value>> = {
  add: (x) => add(x),
  sub: (x) => subtract(x),
  mul: (x) => mul(x),
  div: (x) => floorDiv(x),
  floordiv: (x) => floorDiv(x),
  rem: (x) => floorMod(x),
  floormod: (x) => floorMod(x),
  min: (x) => minimum(x),
  max: (x) => maximum(x),
};

/** A size as a scalar that kernels can read: so many ones, added up. */
function sizeValue(size: Dim, dtype: Scalar): Value {
  if (typeof size === 'number') return scalar(size, dtype);
  const arithmetic = ARITHMETIC[size.op];
  // Sizes that the data decide are asked for one by one, so that what counts them can be found.
  if (arithmetic && symbolsOf(size).some((s) => (s.arg as Sym).counted)) {
    const [a, b] = size.args.map((e) => sizeValue(dim(e), 'i64')) as [Value, Value];
    const value = arithmetic([a, b]);
    return dtype === 'i64' ? value : cast([value], { to: dtype });
  }
  const least = boundsOf(asExpr(size))[0];
  const count = least < 0 ? dim(sub(asExpr(size), least)) : size;
  const sum = reduceSum([expand([scalar(1, 'i64')], { shape: [count] })], { axes: [0] });
  const whole = least < 0 ? add([sum, scalar(least, 'i64')]) : sum;
  return dtype === 'i64' ? whole : cast([whole], { to: dtype });
}
