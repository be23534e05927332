/**
 * One spelling for each computation. Every identity here is exact in every element type, up to the sign of a NaN; nothing
 * is reassociated. Later passes match canonical forms only.
 */
import { isFloat, isInt, isUnsigned, roundTo, type Scalar, sizeOf } from '../ir/dtype.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxis } from '../ir/ops/check.ts';
import { add, mul, select } from '../ir/ops/elementwise-binary.ts';
import { cast, reciprocal, rsqrt } from '../ir/ops/elementwise-unary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { concat, expand, reshape, slice, sliceAxis, transpose } from '../ir/ops/shape.ts';
import { constant, scalar } from '../ir/ops/structural.ts';
import * as s from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, type Dim, dim, type Shape, sameDim, sameShape, sameType } from '../ir/type.ts';
import { dims, ints, isOne, literalOf, rankOf, shapeOf, uniformOf, unlessRefused } from './facts.ts';
import { folded } from './fold-constants.ts';
import { withAxesKept } from './folds.ts';
import { type Identity, simplifyPass } from './rewrite.ts';
import { combined, sameEverywhere, spacedOf } from './spaced.ts';

const dtypeOf = (v: Value): Scalar => typeOf(v).dtype;
const isFloatValue = (v: Value): boolean => v.type.kind === 'tensor' && isFloat(v.type.dtype);
const operand = (v: Value, n = 0): Value => v.inputs[n]!;

/** `x` when it has the type of the value it would stand for. */
const ifSameType = (x: Value, v: Value): Value | undefined => (sameType(x.type, v.type) ? x : undefined);
/** Operand `n` when the rest of an elementwise op, a constant, does not stretch it. */
const only = (v: Value, n = 0): Value | undefined => ifSameType(operand(v, n), v);

// Movement.

/** Where each axis of a transposed value comes from, axes of size 1 left out. */
const moved = (perm: readonly number[], shape: Shape): number[] => perm.filter((axis) => !isOne(shape[axis]!));
const isAscending = (xs: readonly number[]): boolean => xs.every((x, i) => i === 0 || xs[i - 1]! < x);
const swapLast = (perm: readonly number[]): number[] => [...perm.slice(0, -2), perm.at(-1)!, perm.at(-2)!];

const isWhole = (starts: Shape, stops: Shape, steps: readonly number[], shape: Shape): boolean =>
  shape.every((d, i) => dim(starts[i]!) === 0 && sameDim(stops[i]!, d) && steps[i] === 1);
const sliceOf = (v: Value) => ({
  starts: dims(v.attrs, 'starts'),
  stops: dims(v.attrs, 'stops'),
  steps: ints(v.attrs, 'steps'),
});
const plus = (a: Dim, b: Dim): Dim => dim(s.add(asExpr(a), b));

function sliceOfSlice(v: Value): Value | undefined {
  const inner = operand(v);
  if (inner.op !== slice.def) return undefined;
  const [a, b] = [sliceOf(inner), sliceOf(v)];
  if (a.steps.some((n) => n !== 1)) return undefined;
  const shift = (at: readonly Dim[]): Dim[] => at.map((d, i) => plus(d, a.starts[i]!));
  return unlessRefused(() =>
    slice([operand(inner)], { starts: shift(b.starts), stops: shift(b.stops), steps: b.steps }),
  );
}

/** A slice that lies within one operand of a concatenation. */
function sliceOfConcat(v: Value): Value | undefined {
  const joined = operand(v);
  if (joined.op !== concat.def) return undefined;
  const axis = concatAxis(joined);
  const { starts, stops, steps } = sliceOf(v);
  const [from, to] = [starts[axis], stops[axis]];
  if (typeof from !== 'number' || typeof to !== 'number' || steps[axis]! < 1) return undefined;
  let start = 0;
  for (const part of joined.inputs) {
    const size = shapeOf(part)[axis];
    if (typeof size !== 'number') return undefined;
    if (from >= start && to <= start + size) {
      const at = (list: readonly Dim[], by: number): Dim[] => list.map((d, i) => (i === axis ? by : d));
      return slice([part], { starts: at(starts, from - start), stops: at(stops, to - start), steps });
    }
    start += size;
  }
  return undefined;
}

const concatAxis = (v: Value): number => normalizeAxis(Number(v.attrs.axis), rankOf(v));

/** Operands of a concatenation without nesting, without empty ones, neighbouring slices joined. */
function concatParts(v: Value): Value[] {
  const axis = concatAxis(v);
  const parts = v.inputs.flatMap((x) => (x.op === concat.def && concatAxis(x) === axis ? x.inputs : [x]));
  const present = parts.filter((x) => dim(shapeOf(x)[axis]!) !== 0);
  const joined: Value[] = [];
  for (const part of present.length > 0 ? present : parts.slice(0, 1)) {
    const last = joined.at(-1);
    const both = last && joinSlices(last, part, axis);
    if (both) joined[joined.length - 1] = both;
    else joined.push(part);
  }
  return joined;
}

/** One slice for two that follow each other on an axis and agree on the others. */
function joinSlices(a: Value, b: Value, axis: number): Value | undefined {
  if (a.op !== slice.def || b.op !== slice.def || operand(a) !== operand(b)) return undefined;
  const [x, y] = [sliceOf(a), sliceOf(b)];
  if (x.steps[axis] !== 1 || y.steps[axis] !== 1 || !sameDim(x.stops[axis]!, y.starts[axis]!)) return undefined;
  const agrees = x.starts.every(
    (d, i) =>
      i === axis || (sameDim(d, y.starts[i]!) && sameDim(x.stops[i]!, y.stops[i]!) && x.steps[i] === y.steps[i]),
  );
  if (!agrees) return undefined;
  const stops = x.stops.map((d, i) => (i === axis ? y.stops[i]! : d));
  return unlessRefused(() => slice([operand(a)], { starts: x.starts, stops, steps: x.steps }));
}

function shorterConcat(v: Value): Value | undefined {
  const parts = concatParts(v);
  if (parts.length === 1) return parts[0]!;
  const same = parts.length === v.inputs.length && parts.every((x, i) => x === v.inputs[i]);
  return same ? undefined : concat(parts, { axis: concatAxis(v) });
}

/** Positions `first`, `first + step`, … of which there are `count`, in C order; they stand along one axis. */
interface Run {
  readonly first: Dim;
  readonly step: number;
  readonly count: Dim;
}

/** The run that indices are: evenly spaced constants, an iota, or a part of either; undefined for anything else. */
function runOf(v: Value): Run | undefined {
  const long = shapeOf(v).filter((d) => !isOne(d));
  if (long.length > 1) return undefined;
  const count = long[0] ?? 1;
  const literal = literalOf(v);
  if (literal) {
    const [first, second = first! + 1] = literal.data as unknown as [number?, number?];
    if (first === undefined) return undefined;
    const step = second - first;
    return step !== 0 && literal.data.every((x, n) => x === first + n * step) ? { first, step, count } : undefined;
  }
  const [x, by] = v.inputs;
  switch (v.op.name) {
    case 'iota':
      return long.length === 0 || !isOne(shapeOf(v)[normalizeAxis(Number(v.attrs.axis), rankOf(v))]!)
        ? { first: 0, step: 1, count }
        : undefined;
    case 'cast':
      return dtypeOf(v) === 'i64' || dtypeOf(v) === 'i32' ? runOf(x!) : undefined;
    case 'reshape': {
      const run = runOf(x!);
      return run && sameDim(run.count, count) ? run : undefined;
    }
    case 'expand': {
      const run = runOf(x!);
      return run && sameDim(run.count, count) ? run : undefined;
    }
    case 'add': {
      const [run, more] = [runOf(x!), uniformOf(by!)];
      return run && more !== undefined ? { ...run, first: dim(s.add(asExpr(run.first), more)), count } : undefined;
    }
    case 'slice': {
      const run = runOf(x!);
      const axis = shapeOf(x!).findIndex((d) => !isOne(d));
      if (!run || axis < 0 || ints(v.attrs, 'steps')[axis] !== 1) return undefined;
      const start = dims(v.attrs, 'starts')[axis]!;
      return { first: dim(s.add(asExpr(run.first), s.mul(asExpr(start), run.step))), step: run.step, count };
    }
    default:
      return undefined;
  }
}

/** Rows at positions that are evenly spaced: a slice, in the shape that the indices give it. */
function gatheredSlice(v: Value): Value | undefined {
  const [x, indices] = [operand(v), operand(v, 1)];
  const axis = normalizeAxis(Number(v.attrs.axis), rankOf(x));
  const size = shapeOf(x)[axis]!;
  const run = runOf(indices);
  if (!run || typeof size !== 'number') return undefined;
  const { step, count } = run;
  let { first } = run;
  let rows: Value;
  if (typeof first === 'number' && typeof count === 'number') {
    const last = first + (count - 1) * step;
    if (first < 0 && last < 0) first += size;
    const end = first + (count - 1) * step;
    if ([first, end].some((at) => at < 0 || at >= size)) return undefined;
    rows = sliceAxis(x, axis, first, end + Math.sign(step), step);
  } else {
    // Rows that are counted when it runs: the range of the size shrinks to those that the table has.
    if (step !== 1 || boundsOf(asExpr(first))[0] < 0) return undefined;
    rows = sliceAxis(x, axis, first, dim(s.add(asExpr(first), asExpr(count))));
  }
  return sameShape(shapeOf(rows), shapeOf(v)) ? rows : reshape([rows], { shape: shapeOf(v) });
}

/** A result of `split` as the slice that it is. */
function pieceOfSplit(v: Value): Value | undefined {
  const from = operand(v);
  if (from.op.name !== 'split' || from.op.lower.kind !== 'decompose') return undefined;
  let pieces = piecesOf.get(from);
  if (!pieces) {
    pieces = from.op.lower.build(from.inputs, from.attrs) as readonly Value[];
    piecesOf.set(from, pieces);
  }
  return pieces[Number(v.attrs.index)];
}
/** All pieces of a split are built at once, and asked for one by one. */
const piecesOf = new WeakMap<Value, readonly Value[]>();

/** An elementwise op on unstretched operands where broadcasting gives the same type, and on plain numbers for constants. */
function unstretched(v: Value): Value | undefined {
  if (v.inputs.length < 2 || v.op.lower.kind !== 'pointwise') return undefined;
  const inputs = v.inputs.map((x) => {
    const from = x.op === expand.def ? operand(x) : x;
    const constant_ = rankOf(from) > 0 ? uniformOf(from) : undefined;
    return constant_ === undefined ? from : scalar(constant_, dtypeOf(from));
  });
  if (inputs.every((x, i) => x === v.inputs[i])) return undefined;
  const whole = unlessRefused(() => makeValue(v.op, inputs, v.attrs));
  if (whole && sameType(whole.type, v.type)) return whole;
  // Some operand carries the shape: try them one at a time.
  for (const [i, x] of inputs.entries()) {
    if (x === v.inputs[i]) continue;
    const one = unlessRefused(() => makeValue(v.op, v.inputs.with(i, x), v.attrs));
    if (one && sameType(one.type, v.type)) return one;
  }
  return undefined;
}

/** Folds that drop axes which a reshape puts back with size 1, and arithmetic on such folds, keep them instead. */
const keptFold = (v: Value): Value | undefined => withAxesKept(operand(v), shapeOf(v));

/**
 * A right operand that is transposed so that its inner axis comes next to last: the product reads the stored order. For a
 * permutation of more than two axes only the last two are taken out.
 */
function readTransposed(v: Value): Value | undefined {
  const [a, b] = [operand(v), operand(v, 1)];
  if (b.op !== transpose.def) return undefined;
  const perm = ints(b.attrs, 'perm');
  if (perm.at(-2) !== perm.length - 1) return undefined;
  const attrs = { transposeA: v.attrs.transposeA === true, transposeB: v.attrs.transposeB !== true };
  return matmul([a, transpose([operand(b)], { perm: swapLast(perm) })], attrs);
}

// Arithmetic.

const COMMUTATIVE = new Set([
  'add',
  'mul',
  'minimum',
  'maximum',
  'and',
  'or',
  'xor',
  'equal',
  'not_equal',
  'bit_and',
  'bit_or',
  'bit_xor',
]);
const isConstant = (v: Value): boolean => uniformOf(v) !== undefined || literalOf(v) !== undefined;
const constantRight: Identity = {
  why: 'constant to the right',
  simplify: (v) =>
    isConstant(operand(v)) && !isConstant(operand(v, 1)) ? makeValue(v.op, v.inputs.toReversed(), v.attrs) : undefined,
};

/** x op c = x for constants c that satisfy `neutral`. */
const neutral = (why: string, holds: (c: number, v: Value) => boolean): Identity => ({
  why,
  simplify: (v) => {
    const c = uniformOf(operand(v, 1));
    return c !== undefined && holds(c, v) ? only(v) : undefined;
  },
});

/** Whether 1 / c is exact: c is a power of two whose reciprocal is a normal number of the type. */
const hasExactReciprocal = (c: number, dtype: Scalar): boolean => {
  const r = 1 / c;
  const least = { f64: -1022, f32: -126, bf16: -126, f16: -14 }[dtype as 'f64'];
  const exponent = Math.log2(Math.abs(c));
  return Number.isInteger(exponent) && -exponent >= least && exponent >= least && roundTo(dtype, r) === r;
};

/** A function whose second application changes nothing. */
const idempotent: Identity = {
  why: 'applied twice',
  simplify: (v) => (operand(v).op === v.op ? operand(v) : undefined),
};
/** A function that undoes itself. */
const involution: Identity = {
  why: 'undone',
  simplify: (v) => (operand(v).op === v.op ? operand(operand(v)) : undefined),
};

/** Casts that lose nothing and can be skipped before another cast. */
function passesThrough(from: Scalar, by: Scalar): boolean {
  if (from === 'bool') return true;
  if (isFloat(from) && isFloat(by)) {
    if (by === 'f64') return true;
    return by === 'f32' && from !== 'f64';
  }
  if (!isInt(from) || !isInt(by)) return false;
  if (isUnsigned(from) === isUnsigned(by)) return sizeOf(by) >= sizeOf(from);
  return isUnsigned(from) && sizeOf(by) > sizeOf(from);
}

/** −c as an element of the type; undefined where it is not one. */
function negated(c: number, dtype: Scalar): number | undefined {
  if (isUnsigned(dtype) || dtype === 'bool') return undefined;
  const minus = isInt(dtype) ? 0 - c : -c;
  return roundTo(dtype, minus) === minus || Number.isNaN(minus) ? minus : undefined;
}

/** A value of one number everywhere, in the shape and type of `v`. */
const filled = (v: Value, x: number): Value => expandTo(scalar(x, dtypeOf(v)), shapeOf(v));

/** Functions of constants that are stretched: the function of the numbers, stretched. */
const OF_NUMBERS: Identity = {
  why: 'one number everywhere',
  simplify: (v) => {
    if (v.op.lower.kind !== 'pointwise' || v.inputs.every((x) => literalOf(x))) return undefined;
    const numbers = v.inputs.map((x) => {
      const c = uniformOf(x);
      return c === undefined ? undefined : scalar(c, dtypeOf(x));
    });
    if (!numbers.every((x) => x !== undefined)) return undefined;
    const one = makeValue(v.op, numbers, v.attrs);
    return expandTo(folded(one) ?? one, shapeOf(v));
  },
};
/** Sums of evenly spaced integers that are the same at every position: the distance of neighbours. */
const SAME_SUM: Identity = {
  why: 'the same at every position',
  simplify: (v) => {
    const c = uniformOf(v) === undefined ? sameEverywhere(spacedOf(v)) : undefined;
    return c === undefined ? undefined : filled(v, c);
  },
};
const COMPARED: Readonly<Record<string, (difference: number) => boolean>> = {
  equal: (d) => d === 0,
  not_equal: (d) => d !== 0,
  less: (d) => d < 0,
  less_equal: (d) => d <= 0,
  greater: (d) => d > 0,
  greater_equal: (d) => d >= 0,
};
/** Evenly spaced integers whose distance is the same at every position. */
const SAME_DISTANCE: Identity = {
  why: 'the same answer at every position',
  simplify: (v) => {
    const [a, b] = v.inputs as [Value, Value];
    if (!isInt(dtypeOf(a)) || literalOf(a)) return undefined;
    const d = sameEverywhere(combined(a, b, -1, rankOf(v)));
    return d === undefined ? undefined : filled(v, COMPARED[v.op.name]!(d) ? 1 : 0);
  },
};

const STRETCH: Identity = { why: 'broadcasting stretches the operand anyway', simplify: unstretched };
const NO_AXES: Identity = {
  why: 'fold over no axis',
  simplify: (v) => (ints(v.attrs, 'axes').length === 0 ? only(v) : undefined),
};
const SAME_OPERANDS: Identity = {
  why: 'both operands are the same',
  simplify: (v) => (operand(v) === operand(v, 1) ? operand(v) : undefined),
};

/** Identities by op, one a line, most effective first. */
const IDENTITIES: Readonly<Record<string, readonly Identity[]>> = {
  reshape: [
    { why: 'reshape to the same shape', simplify: (v) => only(v) },
    {
      why: 'reshape of a reshape',
      simplify: (v) =>
        operand(v).op === reshape.def ? reshape([operand(operand(v))], { shape: shapeOf(v) }) : undefined,
    },
    { why: 'reshape puts folded axes back', simplify: keptFold },
  ],
  transpose: [
    {
      why: 'transpose keeps the order',
      simplify: (v) => (isAscending(ints(v.attrs, 'perm')) ? operand(v) : undefined),
    },
    {
      why: 'transpose of a transpose',
      simplify: (v) => {
        const x = operand(v);
        if (x.op !== transpose.def) return undefined;
        const inner = ints(x.attrs, 'perm');
        return transpose([operand(x)], { perm: ints(v.attrs, 'perm').map((axis) => inner[axis]!) });
      },
    },
    {
      why: 'only axes of size 1 move',
      simplify: (v) =>
        isAscending(moved(ints(v.attrs, 'perm'), shapeOf(operand(v))))
          ? reshape([operand(v)], { shape: shapeOf(v) })
          : undefined,
    },
  ],
  expand: [
    { why: 'expand to the same shape', simplify: (v) => only(v) },
    {
      why: 'expand of an expand',
      simplify: (v) =>
        operand(v).op === expand.def ? expand([operand(operand(v))], { shape: shapeOf(v) }) : undefined,
    },
  ],
  slice: [
    {
      why: 'slice of everything',
      simplify: (v) => {
        const { starts, stops, steps } = sliceOf(v);
        return isWhole(starts, stops, steps, shapeOf(operand(v))) ? operand(v) : undefined;
      },
    },
    { why: 'slice of a slice', simplify: sliceOfSlice },
    { why: 'slice of one part', simplify: sliceOfConcat },
  ],
  concat: [{ why: 'fewer parts', simplify: shorterConcat }],
  gather: [{ why: 'rows at known positions are a slice', simplify: gatheredSlice }],
  get: [{ why: 'a piece is a slice', simplify: pieceOfSplit }],
  pad: [
    {
      why: 'pad by nothing',
      simplify: (v) =>
        [...ints(v.attrs, 'before'), ...ints(v.attrs, 'after')].every((n) => n === 0) ? operand(v) : undefined,
    },
  ],
  einsum: [
    {
      why: 'sum of products written as matrix products',
      simplify: (v) => (v.op.lower.kind === 'decompose' ? (v.op.lower.build(v.inputs, v.attrs) as Value) : undefined),
    },
  ],
  matmul: [{ why: 'transposed operand read as stored', simplify: readTransposed }],

  add: [neutral('x + 0', (c, v) => (isFloatValue(v) ? Object.is(c, -0) : c === 0))],
  sub: [
    {
      why: 'x − c is x + (−c)',
      simplify: (v) => {
        const c = uniformOf(operand(v, 1));
        const minus = c === undefined ? undefined : negated(c, dtypeOf(v));
        return minus === undefined ? undefined : add([operand(v), literal(operand(v, 1), minus)]);
      },
    },
  ],
  mul: [neutral('x · 1', (c) => c === 1)],
  div: [
    neutral('x ÷ 1', (c) => c === 1),
    {
      why: 'x ÷ c is x · (1 ÷ c)',
      simplify: (v) => {
        const c = uniformOf(operand(v, 1));
        return c !== undefined && isFloatValue(v) && hasExactReciprocal(c, dtypeOf(v))
          ? mul([operand(v), literal(operand(v, 1), 1 / c)])
          : undefined;
      },
    },
    {
      why: '1 ÷ x is a reciprocal',
      simplify: (v) => {
        if (!isFloatValue(v) || uniformOf(operand(v)) !== 1) return undefined;
        return ifSameType(reciprocal([operand(v, 1)]), v);
      },
    },
  ],
  reciprocal: [
    {
      why: 'reciprocal of a root',
      simplify: (v) => (operand(v).op.name === 'sqrt' ? rsqrt([operand(operand(v))]) : undefined),
    },
  ],
  pow: [
    neutral('x to the power 1', (c) => c === 1),
    {
      why: 'square',
      simplify: (v) => (uniformOf(operand(v, 1)) === 2 ? ifSameType(mul([operand(v), operand(v)]), v) : undefined),
    },
  ],
  neg: [involution],
  not: [involution],
  abs: [idempotent],
  relu: [idempotent],
  floor: [idempotent],
  ceil: [idempotent],
  trunc: [idempotent],
  round: [idempotent],
  cumsum: [{ why: 'a sum of zeros', simplify: (v) => (uniformOf(operand(v)) === 0 ? only(v) : undefined) }],
  clamp: [
    {
      why: 'no limits',
      simplify: (v) => (v.attrs.min === -Infinity && v.attrs.max === Infinity ? operand(v) : undefined),
    },
  ],
  cast: [
    { why: 'cast to the same type', simplify: (v) => only(v) },
    {
      why: 'cast of a lossless cast',
      simplify: (v) => {
        const x = operand(v);
        if (x.op !== cast.def || !passesThrough(dtypeOf(operand(x)), dtypeOf(x))) return undefined;
        return cast([operand(x)], { to: dtypeOf(v) });
      },
    },
  ],
  and: [neutral('x and true', (c) => c !== 0), SAME_OPERANDS],
  or: [neutral('x or false', (c) => c === 0), SAME_OPERANDS],
  minimum: [SAME_OPERANDS],
  maximum: [SAME_OPERANDS],
  select: [
    {
      why: 'known condition',
      simplify: (v) => {
        const c = uniformOf(operand(v));
        return c === undefined ? undefined : only(v, c === 0 ? 2 : 1);
      },
    },
    { why: 'both sides are the same', simplify: (v) => (operand(v, 1) === operand(v, 2) ? only(v, 1) : undefined) },
    {
      why: 'negated condition',
      simplify: (v) =>
        operand(v).op.name === 'not' ? select([operand(operand(v)), operand(v, 2), operand(v, 1)]) : undefined,
    },
  ],
};

/** A constant of the shape and type of another. */
const literal = (like: Value, value: number): Value => {
  const known = literalOf(like);
  if (!known) return expandTo(scalar(value, dtypeOf(like)), shapeOf(like));
  return constant([], {
    value: nd(
      known.dtype,
      known.shape,
      known.data.map(() => value),
    ),
  });
};
const expandTo = (x: Value, shape: Shape): Value => (sameShape(shapeOf(x), shape) ? x : expand([x], { shape }));

const cache = new Map<string, readonly Identity[]>();
function identitiesOf(v: Value): readonly Identity[] {
  const { name } = v.op;
  let list = cache.get(name);
  if (!list) {
    const own = IDENTITIES[name] ?? [];
    const isFold = name.startsWith('reduce_');
    list = [
      ...(COMMUTATIVE.has(name) ? [constantRight] : []),
      ...own,
      ...(v.op.lower.kind === 'pointwise' ? [OF_NUMBERS] : []),
      ...(v.op.lower.kind === 'pointwise' && v.op.inputs.length > 1 ? [STRETCH] : []),
      ...(name === 'add' || name === 'sub' ? [SAME_SUM] : []),
      ...(name in COMPARED ? [SAME_DISTANCE] : []),
      ...(isFold ? [NO_AXES] : []),
    ];
    cache.set(name, list);
  }
  return list;
}

export const canonicalize = simplifyPass({
  name: 'canonicalize',
  doc: 'One spelling for each computation: identities removed, movement composed, constants to the right, equal values merged.',
  merge: true,
  identities: identitiesOf,
});
