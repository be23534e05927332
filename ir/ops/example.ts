/** Examples of ops as data: how their operands are filled, and the graph that runs one. */
import { isFloat, isUnsigned, type Scalar } from '../dtype.ts';
import { type Attrs, type Graph, graph, type Value } from '../graph.ts';
import { countOf, type Nd, nd } from '../nd.ts';
import { type Example, type ExampleInput, makeValue, type OpDef } from '../op.ts';
import { input, projectAll } from './structural.ts';

/** An operand of the given dtype: explicit data, or a fill. */
export const given = (
  dtype: Scalar,
  shape: readonly number[],
  data?: readonly number[],
  range?: readonly [number, number],
): ExampleInput => ({ dtype, shape, ...(data && { data }), ...(range && { range }) });
/** A filled operand of that dtype: `f32(3, 5)`. */
export const f32 = (...shape: number[]): ExampleInput => given('f32', shape);
export const i32 = (...shape: number[]): ExampleInput => given('i32', shape);
export const bools = (...shape: number[]): ExampleInput => given('bool', shape);

/** Floats where functions change character: signed zeros, ones, halves, both ends of f32, infinities and NaN. */
export const SPECIAL = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  -1.5,
  2.5,
  1e-30,
  -1e-30,
  30,
  -30,
  1e4,
  -1e4,
  3e38,
  -3e38,
  Infinity,
  -Infinity,
  NaN,
] as const;
export const specials = given('f32', [SPECIAL.length], SPECIAL);

/** A reproducible stream of doubles in [0, 1) (Weyl sequence through a 32-bit mix). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** The operand that an example describes; the same `seed` always gives the same elements. */
export function exampleValue(from: ExampleInput, seed: number): Nd {
  const { dtype, shape, data, range } = from;
  if (data) return nd(dtype, shape, data);
  const next = seeded(seed);
  const [low, high] =
    range ?? (isFloat(dtype) ? [-2, 2] : dtype === 'bool' ? [0, 1] : isUnsigned(dtype) ? [0, 5] : [-5, 5]);
  const draw = (): number =>
    isFloat(dtype) ? low + (high - low) * next() : low + Math.floor(next() * (high - low + 1));
  return nd(dtype, shape, Float64Array.from({ length: countOf(shape) }, draw));
}

/** Operands of an example, each filled from its own seed. */
export const exampleValues = (example: Example): Nd[] =>
  example.inputs.map((from, i) => exampleValue(from, 1000 + 77 * i));

/** Name of operand number `n` in the graph of an example. */
export const exampleInput = (n: number): string => `in${n}`;

/** A graph of one op: inputs `in0`, `in1`, …, outputs `out0`, `out1`, … */
export function exampleGraph(op: OpDef, example: Example): Graph {
  const inputs: Value[] = example.inputs.map(({ dtype, shape }, i) =>
    input([], { name: exampleInput(i), dtype, shape }, { name: exampleInput(i) }),
  );
  const value = makeValue(op, inputs, (example.attrs ?? {}) as Attrs);
  return graph(
    op.name,
    inputs,
    projectAll(value).map((v, i) => [`out${i}`, v] as const),
  );
}
