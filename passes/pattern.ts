/**
 * Patterns over values, made from the ops they match: `p.matmul(p.softmax(any('scores')), any('v'))`.
 *
 * Operands of commutative ops match in either order, with backtracking. A name captured twice must stand for the same
 * value; graphs are in canonical form, so equal values are one object.
 */
import type { OpDef, Value } from '../ir/core.ts';
import { typeOf } from '../ir/graph.ts';
import { hardSigmoid, relu, sigmoid, softplus, tanh } from '../ir/ops/elementwise-activation.ts';
import { add, div, equal, maximum, minimum, mul, pow, select, sub } from '../ir/ops/elementwise-binary.ts';
import { clamp, erf, exp, log, neg, reciprocal, rsqrt, sqrt } from '../ir/ops/elementwise-unary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { rmsNorm, softmax } from '../ir/ops/norm.ts';
import { reduceMax, reduceMean, reduceSum } from '../ir/ops/reduce.ts';
import { concat, expand, reshape, slice, transpose } from '../ir/ops/shape.ts';
import { type AnyOp, near, slackOf, uniformOf } from './facts.ts';

/** What has been captured so far, and the values that the pattern itself covers. */
export class Matching {
  readonly bound = new Map<string, Value | number>();
  /** Values matched by an op, the root included; operands that only carry constants are not listed. */
  readonly inner: Value[] = [];

  /** Binds a name for the rest of the match, and unbinds it when that fails. */
  bind(name: string, to: Value | number, next: () => boolean): boolean {
    const known = this.bound.get(name);
    if (known !== undefined) return known === to && next();
    this.bound.set(name, to);
    if (next()) return true;
    this.bound.delete(name);
    return false;
  }

  cover(value: Value, next: () => boolean): boolean {
    this.inner.push(value);
    if (next()) return true;
    this.inner.pop();
    return false;
  }
}

/** `C` names what a match captures: values, and numbers where constants stood. */
export interface Pattern<C = unknown> {
  /** The op of every value it can match; undefined for any. */
  readonly ops: readonly OpDef[] | undefined;
  /** Whether the value matches and the rest of the match, `next`, succeeds. */
  match(value: Value, m: Matching, next: () => boolean): boolean;
  /** Only a type. */
  readonly captures?: C;
}

/** Captures nothing. `unknown` would swallow what the patterns beside it capture. */
type Nothing = Record<never, never>;
type CapturesOf<P> = P extends Pattern<infer C> ? C : never;
type Intersect<U> = (U extends unknown ? (x: U) => void : never) extends (x: infer I) => void ? I : never;
type All<A extends readonly Pattern[]> = A extends readonly [] ? Nothing : Intersect<CapturesOf<A[number]>>;

/** Any value, captured. */
export const any = <N extends string>(name: N): Pattern<Readonly<Record<N, Value>>> => ({
  ops: undefined,
  match: (value, m, next) => m.bind(name, value, next),
});

/** A constant whose elements are all one number, captured as that number. */
export const number = <N extends string>(name: N): Pattern<Readonly<Record<N, number>>> => ({
  ops: undefined,
  match: (value, m, next) => {
    const x = uniformOf(value);
    return x !== undefined && m.bind(name, x, next);
  },
});

/** A constant of that number, up to the rounding of its type. */
export const exactly = (x: number): Pattern<Nothing> => ({
  ops: undefined,
  match: (value, _, next) => {
    const found = uniformOf(value);
    return found !== undefined && near(found, x, slackIn(value)) && next();
  },
});

const slackIn = (v: Value): number => slackOf(typeOf(v).dtype);

/** The first of several patterns that lets the whole match succeed. */
export const oneOf = <A extends readonly Pattern[]>(...choices: A): Pattern<CapturesOf<A[number]>> => ({
  ops: choices.every((c) => c.ops) ? choices.flatMap((c) => c.ops!) : undefined,
  match: (value, m, next) => choices.some((c) => c.match(value, m, next)),
});

/** A pattern with a condition on the value itself. */
export const where = <C>(pattern: Pattern<C>, holds: (value: Value) => boolean): Pattern<C> => ({
  ops: pattern.ops,
  match: (value, m, next) => (pattern.ops?.includes(value.op) ?? true) && holds(value) && pattern.match(value, m, next),
});

const COMMUTATIVE = new Set<OpDef>([add.def, mul.def, maximum.def, minimum.def, equal.def]);

/** Calls of an op as patterns. */
const of =
  (op: AnyOp) =>
  <const A extends readonly Pattern[]>(...operands: A): Pattern<All<A>> => {
    const { def } = op;
    const from = (value: Value, order: readonly Pattern[], n: number, m: Matching, next: () => boolean): boolean =>
      n === order.length || n === value.inputs.length
        ? n === order.length && n === value.inputs.length && next()
        : order[n]!.match(value.inputs[n]!, m, () => from(value, order, n + 1, m, next));
    const orders = COMMUTATIVE.has(def) ? [operands, operands.toReversed()] : [operands];
    return {
      ops: [def],
      match: (value, m, next) =>
        value.op === def && m.cover(value, () => orders.some((order) => from(value, order, 0, m, next))),
    };
  };

/** Calls of ops. */
export const p = {
  add: of(add),
  sub: of(sub),
  mul: of(mul),
  div: of(div),
  pow: of(pow),
  maximum: of(maximum),
  minimum: of(minimum),
  select: of(select),
  neg: of(neg),
  exp: of(exp),
  log: of(log),
  erf: of(erf),
  tanh: of(tanh),
  sigmoid: of(sigmoid),
  hardSigmoid: of(hardSigmoid),
  softplus: of(softplus),
  relu: of(relu),
  clamp: of(clamp),
  sqrt: of(sqrt),
  rsqrt: of(rsqrt),
  reciprocal: of(reciprocal),
  matmul: of(matmul),
  softmax: of(softmax),
  rmsNorm: of(rmsNorm),
  reduceSum: of(reduceSum),
  reduceMean: of(reduceMean),
  reduceMax: of(reduceMax),
  reshape: of(reshape),
  transpose: of(transpose),
  expand: of(expand),
  slice: of(slice),
  concat: of(concat),
} as const;

/**
 * A product of factors in any order and association, times a constant: `product(0.5, x, y)` matches `(x · 0.5) · y`,
 * `x · (y ÷ 2)`, and so on. Name the most particular factor first.
 *
 * @param constant the number, or a name under which the number that stands there is captured
 */
export function product<const A extends readonly Pattern[]>(constant: number, ...factors: A): Pattern<All<A>>;
export function product<N extends string, const A extends readonly Pattern[]>(
  constant: N,
  ...factors: A
): Pattern<All<A> & Readonly<Record<N, number>>>;
export function product(constant: number | string, ...factors: readonly Pattern[]): Pattern {
  const settles = (scale: number, slack: number, m: Matching, next: () => boolean): boolean =>
    typeof constant === 'string' ? m.bind(constant, scale, next) : near(scale, constant, slack) && next();
  const walk = (
    todo: readonly Value[],
    left: readonly Pattern[],
    scale: number,
    slack: number,
    m: Matching,
    next: () => boolean,
  ): boolean => {
    const [value, ...rest] = todo;
    if (!value) return left.length === 0 && settles(scale, slack, m, next);
    const x = uniformOf(value);
    if (x !== undefined) return walk(rest, left, scale * x, Math.max(slack, slackIn(value)), m, next);
    // Every value that is no constant needs a factor of its own.
    if (todo.filter((v) => uniformOf(v) === undefined).length > left.length) return false;
    // A constant that is asked for is taken out before the rest of a product passes for a factor.
    if (typeof constant === 'string' && apart(value, rest, left, scale, slack, m, next)) return true;
    for (const [i, factor] of left.entries())
      if (factor.match(value, m, () => walk(rest, left.toSpliced(i, 1), scale, slack, m, next))) return true;
    return apart(value, rest, left, scale, slack, m, next);
  };
  const apart = (
    value: Value,
    rest: readonly Value[],
    left: readonly Pattern[],
    scale: number,
    slack: number,
    m: Matching,
    next: () => boolean,
  ): boolean => {
    if (value.op === mul.def)
      return m.cover(value, () => walk([...value.inputs, ...rest], left, scale, slack, m, next));
    if (value.op !== div.def) return false;
    const [over, by] = value.inputs as [Value, Value];
    const divisor = uniformOf(by);
    const wider = Math.max(slack, slackIn(by));
    return divisor !== undefined && m.cover(value, () => walk([over, ...rest], left, scale / divisor, wider, m, next));
  };
  return {
    ops: [mul.def, div.def],
    match: (value, m, next) =>
      (value.op === mul.def || value.op === div.def) && walk([value], factors, 1, slackOf('f32'), m, next),
  };
}

/** Matches a value; undefined when it does not. */
export function matchValue(pattern: Pattern, value: Value): Matching | undefined {
  if (pattern.ops && !pattern.ops.includes(value.op)) return undefined;
  const m = new Matching();
  return pattern.match(value, m, () => true) ? m : undefined;
}
