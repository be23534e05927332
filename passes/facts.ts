/** Questions about single values that several passes ask. */

import { CompileError } from '../ir/diagnostic.ts';
import type { Scalar } from '../ir/dtype.ts';
import {
  type Attrs,
  type AttrValue,
  type Graph,
  graphValues,
  isGraph,
  readsSizes,
  typeOf,
  type Value,
} from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import type { Op } from '../ir/op.ts';
import { printElement } from '../ir/text.ts';
import { type Dim, dim, staticShape } from '../ir/type.ts';

/** Any defined operator, whatever its attributes. */
export type AnyOp = Pick<Op<Record<never, never>>, 'def'>;

export const is = (value: Value, op: AnyOp): boolean => value.op === op.def;
export const shapeOf = (value: Value): readonly Dim[] => typeOf(value).shape;
export const rankOf = (value: Value): number => typeOf(value).shape.length;
export const isOne = (d: Dim): boolean => dim(d) === 1;

/** Attributes as lists of numbers: perm, axes, steps. */
export const ints = (attrs: Attrs, name: string): readonly number[] => attrs[name] as readonly number[];
export const dims = (attrs: Attrs, name: string): readonly Dim[] => attrs[name] as readonly Dim[];

/** The elements of a constant. */
export const literalOf = (value: Value): Nd | undefined =>
  value.op.name === 'constant' ? (value.attrs.value as Nd) : undefined;

const uniforms = new WeakMap<Nd, number | null>();
const MOVES = new Set(['reshape', 'transpose', 'expand']);

/** The number that every element of a constant is, also when it is stretched or reshaped. */
export function uniformOf(value: Value): number | undefined {
  let v = value;
  while (MOVES.has(v.op.name)) v = v.inputs[0]!;
  const literal = literalOf(v);
  if (!literal) return undefined;
  const known = uniforms.get(literal);
  if (known !== undefined) return known ?? undefined;
  const [first] = literal.data;
  const same = first !== undefined && literal.data.every((x) => Object.is(x, first));
  uniforms.set(literal, same ? first : null);
  return same ? first : undefined;
}

/** The shortest decimal that rounds to `x` in `dtype`: the number that its author wrote. */
export const asWritten = (x: number, dtype: Scalar): number => {
  const text = Number(printElement(x, dtype));
  return Number.isNaN(text) ? x : text;
};

/** Equal up to the rounding of f32 constants. */
export const near = (a: number, b: number, tolerance = 1e-5): boolean =>
  a === b || (Number.isFinite(a - b) && Math.abs(a - b) <= tolerance * Math.max(Math.abs(a), Math.abs(b)));

/** How far a constant of that type may be from the number that its author meant: its rounding, and a little for what is computed. */
export const slackOf = (dtype: Scalar): number => (dtype === 'f16' ? 2 ** -10 : dtype === 'bf16' ? 2 ** -7 : 1e-5);

/**
 * Values that depend on parameters and constants alone and have static sizes: their bytes are known when a bundle is made.
 */
export function staticValues(graph: Graph): ReadonlySet<Value> {
  const found = new Set<Value>();
  for (const v of graphValues(graph)) {
    const known = v.op.name === 'param' || v.op.name === 'constant';
    const computed = v.inputs.length > 0 && !readsSizes(v) && v.inputs.every((x) => found.has(x)) && hasStaticType(v);
    if (known || computed) found.add(v);
  }
  return found;
}
const hasStaticType = (v: Value): boolean => v.type.kind === 'tensor' && staticShape(v.type.shape) !== undefined;

/** Graphs among the attributes of a value, rewritten; the value itself when none changes. */
export function mapBodies(value: Value, f: (body: Graph) => Graph): Value {
  let changed: Record<string, AttrValue> | undefined;
  for (const [name, attr] of Object.entries(value.attrs)) {
    if (!isGraph(attr)) continue;
    const body = f(attr);
    if (body === attr) continue;
    changed ??= { ...value.attrs };
    changed[name] = body;
  }
  return changed ? { ...value, attrs: changed } : value;
}

/** What `build` makes, or undefined where the type rules refuse it. */
export function unlessRefused(build: () => Value): Value | undefined {
  try {
    return build();
  } catch (error) {
    if (error instanceof CompileError && error.code !== 'internal') return undefined;
    throw error;
  }
}
