/**
 * Elements of values as scalar expressions. A materialised value is a load from its buffer; any other is expanded
 * through its op's lowering, so that producers and consumers fuse by substitution.
 */
import type { Scalar } from '../ir/dtype.ts';
import type { Buffer, Expr } from '../ir/expr.ts';
import { BINARY, type Lanes, makeExpr, TERNARY, UNARY } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import type { LowerContext } from '../ir/op.ts';
import { add, floordiv, floormod, literal, load, mul, splat, sub, vec } from '../ir/scalar.ts';
import { asExpr, dim, type Shape, stridesOf } from '../ir/type.ts';

export interface Sources {
  /** The buffer of a materialised value. */
  bufferOf(value: Value): Buffer | undefined;
  /** Flat index of an element of a materialised value; row-major when absent. */
  addressOf?(value: Value, at: readonly Expr[]): Expr;
  /** The element of a value that is being computed right now, held in registers. */
  held?(value: Value): Expr | undefined;
}

/** Flat row-major position of `at`. */
export const flatten = (shape: Shape, at: readonly Expr[]): Expr =>
  stridesOf(shape).reduce<Expr>((sum, stride, axis) => add(sum, mul(at[axis]!, stride)), literal(0));

/** Coordinates of an operand of `shape` read at result coordinates `at`, by numpy broadcasting. */
export function broadcastAt(shape: Shape, at: readonly Expr[]): Expr[] {
  const skip = at.length - shape.length;
  return shape.map((d, axis) => (dim(d) === 1 ? literal(0) : at[skip + axis]!));
}

export const lowerContext = (value: Value): LowerContext<Value['attrs']> => ({
  attrs: value.attrs,
  inputs: value.inputs.map(typeOf),
  out: typeOf(value),
});

/** The one datum of a constant whose elements are all equal. */
export function uniformConstant(value: Value): number | undefined {
  if (value.op.name !== 'constant') return undefined;
  const { data } = value.attrs.value as Nd;
  const first = data[0];
  if (first === undefined) return undefined;
  let known = uniform.get(data);
  if (known === undefined) {
    known = data.every((x) => Object.is(x, first));
    uniform.set(data, known);
  }
  return known ? first : undefined;
}
/** Whether all numbers of a constant are the same: asked for every element that is expanded. */
const uniform = new WeakMap<Float64Array, boolean>();

/** Element of `value` at coordinates `at` (one i32 expression an axis). */
export function elementOf(value: Value, at: readonly Expr[], sources: Sources): Expr {
  const held = sources.held?.(value);
  if (held) return held;
  const type = typeOf(value);
  const buffer = sources.bufferOf(value);
  if (buffer) return load(buffer, sources.addressOf?.(value, at) ?? flatten(type.shape, at));
  const uniform = uniformConstant(value);
  if (uniform !== undefined) return literal(uniform, type.dtype);
  const cx = lowerContext(value);
  const { lower } = value.op;
  switch (lower.kind) {
    case 'pointwise':
      return lower.expr(
        value.inputs.map((x) => elementOf(x, broadcastAt(typeOf(x).shape, at), sources)),
        cx,
      );
    case 'view':
      return elementOf(value.inputs[0]!, lower.from(at, cx), sources);
    case 'element':
      return lower.element(at, (n, to) => elementOf(value.inputs[n]!, to, sources), cx);
    default:
      throw new Error(`${value.op.name} (${lower.kind}) cannot be computed inside another kernel`);
  }
}

/**
 * Carries an element of a region's root through its epilogue: pointwise ops change the expression, bijective views the
 * coordinates.
 * @returns coordinates in the last value's shape and the element to store there
 */
export function applyEpilogue(
  root: Value,
  epilogue: readonly Value[],
  at: readonly Expr[],
  element: Expr,
  sources: Sources,
): { readonly at: readonly Expr[]; readonly element: Expr } {
  let previous = root;
  for (const value of epilogue) {
    const { lower } = value.op;
    if (lower.kind === 'view') {
      if (!lower.to) throw new Error(`${value.op.name} is not a bijection`);
      at = lower.to(at, lowerContext(value));
    } else if (lower.kind === 'pointwise') {
      const here = at;
      const args = value.inputs.map((x) =>
        x === previous ? element : elementOf(x, broadcastAt(typeOf(x).shape, here), sources),
      );
      element = lower.expr(args, lowerContext(value));
    }
    previous = value;
  }
  return { at, element };
}

/** Coordinates of a flat index; the last axis varies fastest. */
export function unflatten(shape: Shape, flat: Expr): Expr[] {
  const at = new Array<Expr>(shape.length);
  let rest = flat;
  for (let axis = shape.length - 1; axis > 0; axis--) {
    const size = asExpr(shape[axis]!);
    at[axis] = floormod(rest, size);
    rest = floordiv(rest, size);
  }
  if (shape.length > 0) at[0] = rest;
  return at;
}

/** Element types that stand in the four lanes of a vector register; others are computed one by one. */
export const fillsLanes = (dtype: Scalar): boolean => dtype === 'f32' || dtype === 'i32' || dtype === 'u32';

/** Element types of which four also fit a register, each in a lane of 32 bits, while they are computed with. */
export const widensToLanes = (dtype: Scalar): boolean =>
  fillsLanes(dtype) || dtype === 'i8' || dtype === 'u8' || dtype === 'i16' || dtype === 'u16';

/** Operators that compute each lane on its own. */
const LANEWISE = new Set<Expr['op']>([...UNARY, ...BINARY, ...TERNARY]);
for (const across of ['splat', 'extract'] as const) LANEWISE.delete(across);

/**
 * One vector expression for several scalar ones that differ only in their lane: equal parts become splats, loads from
 * consecutive addresses one vector load, anything irregular a vector of scalars.
 */
export function packLanes(lanes: readonly Expr[]): Expr {
  const memo = new Map<string, Expr>();
  const n = lanes.length as Lanes;
  const pack = (es: readonly Expr[]): Expr => {
    const first = es[0]!;
    if (es.every((e) => e === first)) return splat(first, n);
    const whole = first.op === 'extract' ? first.args[0]! : undefined;
    if (whole?.lanes === n && es.every((e, i) => e.op === 'extract' && e.args[0] === whole && e.arg === i))
      return whole;
    const key = es.map((e) => e.id).join(',');
    const known = memo.get(key);
    if (known) return known;
    const result = build(es, first);
    memo.set(key, result);
    return result;
  };
  const build = (es: readonly Expr[], first: Expr): Expr => {
    if (
      !es.every(
        (e) =>
          e.op === first.op && e.arg === first.arg && e.dtype === first.dtype && e.args.length === first.args.length,
      )
    )
      return vec(es);
    if (![first, ...first.args].every((e) => widensToLanes(e.dtype) || (e.dtype === 'bool' && first.op !== 'load')))
      return vec(es);
    if (first.op === 'load') {
      const base = first.args[0]!;
      const consecutive = es.every((e, i) => sub(e.args[0]!, base) === literal(i));
      return consecutive ? load(first.arg as Buffer, base, n) : vec(es);
    }
    if (!LANEWISE.has(first.op)) return vec(es);
    return makeExpr(
      first.op,
      first.dtype,
      n,
      first.args.map((_, i) => pack(es.map((e) => e.args[i]!))),
      first.arg,
    );
  };
  return pack(lanes);
}
