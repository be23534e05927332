/** Loops over an axis, written as a function of one step. */
import { fail } from '../../ir/diagnostic.ts';
import { type Graph, graph, topoOrder, typeOf, type Value } from '../../ir/graph.ts';
import { makeValue } from '../../ir/op.ts';
import { scan as scanOp } from '../../ir/ops/control.ts';
import { input as inputOp, projectAll } from '../../ir/ops/structural.ts';
import { tensor } from '../../ir/type.ts';
import { callSite } from './location.ts';
import { type Shape, Tensor } from './tensor.ts';

export type Tensors = Readonly<Record<string, Tensor>>;
/** One position of axis 0: that axis is gone. */
type ItemOf<T> =
  T extends Tensor<infer D, infer S>
    ? Tensor<D, S extends readonly [unknown, ...infer R extends Shape] ? R : Shape>
    : never;
type ItemsOf<X extends Tensors> = { readonly [K in keyof X]: ItemOf<X[K]> };
type Loose<T extends Tensors> = { readonly [K in keyof T]: T[K] extends Tensor<infer D> ? Tensor<D> : never };

/**
 * Runs `step` once for each position of axis 0 of the items, in order: recurrent layers.
 *
 * ```ts
 * const { states, outputs } = scan({ h }, { x: sequence }, ({ h, x }) => {
 *   const next = tanh(add(linear(x, wx, b), linear(h, wh)));
 *   return { states: { h: next }, outputs: { y: next } };
 * });
 * ```
 *
 * The step may read every tensor around it; what does not change from step to step is computed once, outside.
 *
 * @param states the first step's states
 * @param items tensors that are read one position of axis 0 at a time; axis 0 has one size in all of them
 * @returns the last step's states, and each output stacked along a new axis 0
 * @throws CompileError `shape` when a state changes its shape or axes 0 differ, `name` when states are missing or two
 *   things share a name
 */
export function scan<const S extends Tensors, const X extends Tensors, O extends Tensors = Record<never, never>>(
  states: S,
  items: X,
  step: (at: S & ItemsOf<X>) => { readonly states: Loose<S>; readonly outputs?: O },
  { reverse = false }: { readonly reverse?: boolean } = {},
): { readonly states: S; readonly outputs: Loose<O> } {
  const loc = callSite();
  const clash = Object.keys(items).find((name) => Object.hasOwn(states, name));
  if (clash !== undefined) fail('name', `scan: "${clash}" is both a state and an item`, { loc });
  const own: readonly (readonly [string, Value])[] = [
    ...Object.entries(states).map(([name, x]) => [name, inner(name, x.value, 0)] as const),
    ...Object.entries(items).map(([name, x]) => [name, inner(name, x.value, 1)] as const),
  ];
  const result = step(Object.fromEntries(own.map(([name, value]) => [name, new Tensor(value)])) as never);
  const next = Object.keys(states).map((name) => {
    const state: Tensor | undefined = Object.hasOwn(result.states, name) ? result.states[name] : undefined;
    return [name, state?.value ?? fail('name', `scan: the step does not give state "${name}"`, { loc })] as const;
  });
  const outputs = Object.entries(result.outputs ?? {}).map(([name, x]) => [name, x.value] as const);
  const inputs = own.map(([, value]) => value);
  const { body, closed } = close(inputs, [
    ...next,
    ...outputs.map(([name, value]) => [`${name}.item`, value] as const),
  ]);
  const operands = [...Object.values(states), ...Object.values(items)].map((x) => x.value);
  const value = makeValue(
    scanOp.def,
    [...operands, ...closed],
    { body, carried: next.length, closed: closed.length, reverse },
    { loc },
  );
  const all = projectAll(value).map((x) => new Tensor(x));
  const named = (names: readonly string[], from: number) =>
    Object.fromEntries(names.map((name, i) => [name, all[from + i]!]));
  return {
    states: named(Object.keys(states), 0) as Tensors as S,
    outputs: named(
      outputs.map(([name]) => name),
      next.length,
    ) as Tensors as Loose<O>,
  };
}

/** A body input for an operand, without its first `drop` axes. */
function inner(name: string, { type }: Value, drop: 0 | 1): Value {
  if (type.kind === 'tuple') fail('internal', 'a tensor has one result');
  return makeValue(inputOp.def, [], { name, dtype: type.dtype, shape: type.shape.slice(drop) }, { name });
}

/**
 * The subgraph of a step. It must be closed, so the values around it that it reads become inputs: the ones nearest to it
 * that depend on no state and no item.
 */
function close(
  inputs: readonly Value[],
  results: readonly (readonly [string, Value])[],
): { body: Graph; closed: Value[] } {
  const varying = new Set(inputs);
  const order = topoOrder(results.map(([, value]) => value));
  for (const value of order) if (value.inputs.some((operand) => varying.has(operand))) varying.add(value);
  const closed: Value[] = [];
  const replaced = new Map<Value, Value>(inputs.map((value) => [value, value]));
  const enter = (value: Value): Value => {
    const known = replaced.get(value);
    if (known) return known;
    // Scalars of the source stay in the step, where they read as numbers.
    if (value.op.name === 'constant' && typeOf(value).shape.length === 0) return value;
    const { dtype, shape } = tensor(typeOf(value).dtype, typeOf(value).shape);
    const outer = makeValue(inputOp.def, [], { name: `closed.${closed.length}`, dtype, shape });
    closed.push(value);
    replaced.set(value, outer);
    return outer;
  };
  for (const value of order)
    if (varying.has(value) && !replaced.has(value)) replaced.set(value, { ...value, inputs: value.inputs.map(enter) });
  const outputs = results.map(([name, value]) => [name, enter(value)] as const);
  const added = closed.map((value) => replaced.get(value)!);
  return { body: graph('step', [...inputs, ...added], outputs), closed };
}
