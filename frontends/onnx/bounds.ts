/**
 * What is known of whole numbers that are computed at run time: the sizes that they are after all, or a range. Sizes that
 * the data decide need room for the most that they can be, and often the graph itself says how much that is.
 */
import { isInt, type Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { countOf, type Nd } from '../../ir/nd.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, dim, elements, sameDim, staticShape } from '../../ir/type.ts';

/** Least and most, both included. */
export type Range = readonly [low: number, high: number];

const ANY: Range = [-Infinity, Infinity];
const known = (x: number): Range => [x, x];
const union = ([a, b]: Range, [c, d]: Range): Range => [Math.min(a, c), Math.max(b, d)];

/** Types whose own range is small enough to mean something. */
const OF_TYPE: Readonly<Partial<Record<Scalar, Range>>> = {
  bool: [0, 1],
  i8: [-128, 127],
  u8: [0, 255],
  i16: [-32768, 32767],
  u16: [0, 65535],
};

/** Operators that a range is followed through; a chain longer than this says nothing. */
const DEPTH = 64;

/** What the elements of `v`, or its element `i` in C order, can be. */
export function rangeOf(v: Value, i?: number, depth = DEPTH): Range {
  if (v.type.kind === 'tuple' || depth === 0) return ANY;
  const { dtype } = v.type;
  const own = OF_TYPE[dtype] ?? ANY;
  const found = RULES[v.op.name]?.(v, i, (x, at) => rangeOf(x, at, depth - 1)) ?? ANY;
  // Types of few bits wrap, so what goes beyond them can be anything in them.
  return found[0] >= own[0] && found[1] <= own[1] ? found : own;
}

const sizeOf = (v: Value): Dim => dim(elements(typeOf(v).shape));

type Follow = (x: Value, i?: number) => Range;
type Rule = (v: Value, i: number | undefined, range: Follow) => Range | undefined;

/** An elementwise operator of ranges: an operand of one element serves every element. */
const each =
  (f: (...ranges: readonly Range[]) => Range | undefined): Rule =>
  (v, i, range) => {
    const count = sizeOf(v);
    return f(
      ...v.inputs.map((x) => {
        const own = sizeOf(x);
        if (own === 1) return range(x, 0);
        return sameDim(own, count) ? range(x, i) : range(x);
      }),
    );
  };
const corners = ([a, b]: Range, [c, d]: Range, f: (x: number, y: number) => number): Range => {
  const all = [f(a, c), f(a, d), f(b, c), f(b, d)].map((x) => (Number.isNaN(x) ? 0 : x));
  return [Math.min(...all), Math.max(...all)];
};
/** The same elements in the same order. */
const same: Rule = (v, i, range) => range(v.inputs[0]!, i);
/** Some of the elements of the first operand. */
const among: Rule = (v, _, range) => range(v.inputs[0]!);
const first = (v: Value): number => staticShape(typeOf(v).shape)?.[0] ?? 0;

function concatenated(v: Value, i: number | undefined, range: Follow): Range {
  if (i === undefined || typeOf(v).shape.length !== 1) return v.inputs.map((x) => range(x)).reduce(union);
  let at = i;
  for (const x of v.inputs) {
    if (typeof typeOf(x).shape[0] !== 'number') return v.inputs.map((part) => range(part)).reduce(union);
    if (at < first(x)) return range(x, at);
    at -= first(x);
  }
  return ANY;
}

/** The size that a value is: so many ones, added up. */
function countedOnes(v: Value): Dim | undefined {
  const [x] = v.inputs;
  if (v.op.name !== 'reduce_sum' || x?.op.name !== 'expand' || typeOf(v).shape.length > 0) return undefined;
  const [one] = x.inputs;
  const isOne =
    one?.op.name === 'constant' &&
    (one.attrs.value as Nd).data[0] === 1 &&
    countOf((one.attrs.value as Nd).shape) === 1;
  return isOne && typeOf(x).shape.length === 1 ? typeOf(x).shape[0] : undefined;
}

function sum(v: Value, _: number | undefined, range: Follow): Range {
  const size = countedOnes(v);
  if (size !== undefined) return boundsOf(asExpr(size)) as Range;
  const x = v.inputs[0]!;
  const most = boundsOf(elements(typeOf(x).shape))[1];
  const [low, high] = range(x);
  return [Math.min(0, low * most) || 0, Math.max(0, high * most) || 0];
}

function sliced(v: Value, i: number | undefined, range: Follow): Range {
  const [starts, steps] = [v.attrs.starts as readonly Dim[], v.attrs.steps as readonly number[] | undefined];
  const [start] = starts;
  if (i === undefined || starts.length !== 1 || typeof start !== 'number') return range(v.inputs[0]!);
  return range(v.inputs[0]!, start + i * (steps?.[0] ?? 1));
}

/** Positions along an axis. */
const positionsOf = (x: Value, axis: number): Range => [0, boundsOf(asExpr(typeOf(x).shape.at(axis) ?? 1))[1] - 1];

const RULES: Readonly<Record<string, Rule>> = {
  constant: (v, i) => {
    const { data } = v.attrs.value as Nd;
    if (i !== undefined) return known(data[i] ?? Number.NaN);
    return data.length === 0 || data.length > 65536 ? ANY : [Math.min(...data), Math.max(...data)];
  },
  cast: (v, i, range) => {
    const [low, high] = range(v.inputs[0]!, i);
    return isInt(typeOf(v).dtype) ? [Math.trunc(low), Math.trunc(high)] : [low, high];
  },
  reshape: same,
  counted: (v, i, range) => (typeOf(v).shape.length === 1 ? range(v.inputs[0]!, i) : range(v.inputs[0]!)),
  concat: concatenated,
  slice: sliced,
  transpose: among,
  gather: among,
  gather_elements: among,
  gather_nd: among,
  expand: (v, _, range) => range(v.inputs[0]!, sizeOf(v.inputs[0]!) === 1 ? 0 : undefined),
  iota: (v) => positionsOf(v, Number(v.attrs.axis)),
  add: each((a, b) => [a![0] + b![0], a![1] + b![1]]),
  sub: each((a, b) => [a![0] - b![1], a![1] - b![0]]),
  mul: each((a, b) => corners(a!, b!, (x, y) => x * y)),
  floor_div: each((a, b) => (b![0] > 0 ? corners(a!, b!, (x, y) => Math.floor(x / y)) : undefined)),
  floor_mod: each((_, b) => (b![0] > 0 ? [0, b![1] - 1] : undefined)),
  minimum: each((a, b) => [Math.min(a![0], b![0]), Math.min(a![1], b![1])]),
  maximum: each((a, b) => [Math.max(a![0], b![0]), Math.max(a![1], b![1])]),
  clamp: (v, i, range) => {
    const [low, high] = range(v.inputs[0]!, i);
    const [least, most] = [Number(v.attrs.min ?? -Infinity), Number(v.attrs.max ?? Infinity)];
    return [Math.min(Math.max(low, least), most), Math.min(Math.max(high, least), most)];
  },
  select: (v, i, range) => each((_, a, b) => union(a!, b!))(v, i, range),
  abs: each((a) => [a![0] > 0 ? a![0] : 0, Math.max(Math.abs(a![0]), Math.abs(a![1]))]),
  floor: each((a) => [Math.floor(a![0]), Math.floor(a![1])]),
  ceil: each((a) => [Math.ceil(a![0]), Math.ceil(a![1])]),
  round: each((a) => [Math.floor(a![0]), Math.ceil(a![1])]),
  reduce_sum: sum,
  reduce_max: among,
  reduce_min: among,
  arg_max: (v) => positionsOf(v.inputs[0]!, Number(v.attrs.axis ?? 0)),
  arg_min: (v) => positionsOf(v.inputs[0]!, Number(v.attrs.axis ?? 0)),
  get: (v) => {
    const [from] = v.inputs;
    if (from?.op.name !== 'positions') return undefined;
    const [low, high] = positionsOf(from.inputs[0]!, -1);
    return Number(v.attrs.index) === 0 ? [low, high] : [0, high + 1];
  },
};

/** The size that element `i` is where it is one after all: a number, or a size of the graph. */
export function sizeAtElement(v: Value, i: number, depth = DEPTH): Dim | undefined {
  if (v.type.kind === 'tuple' || depth === 0) return undefined;
  const size = countedOnes(v);
  if (size !== undefined) return size;
  const [x] = v.inputs;
  switch (v.op.name) {
    case 'cast':
    case 'reshape':
      return x && isInt(typeOf(x).dtype) ? sizeAtElement(x, i, depth - 1) : undefined;
    case 'concat': {
      let at = i;
      for (const part of v.inputs) {
        if (typeof typeOf(part).shape[0] !== 'number') return undefined;
        if (at < first(part)) return sizeAtElement(part, at, depth - 1);
        at -= first(part);
      }
      return undefined;
    }
    default: {
      const [low, high] = rangeOf(v, i);
      return low === high && Number.isSafeInteger(low) ? low : undefined;
    }
  }
}
