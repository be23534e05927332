/** Demands at run time: which elements of each value a set names, given what the program computed. */
import { evaluate } from '../../ir/evaluate.ts';
import { evaluateExpr } from '../../ir/evaluate-expr.ts';
import type { Expr, Sym } from '../../ir/expr.ts';
import type { Graph, Value } from '../../ir/graph.ts';
import { coordinate, type IndexSet, isNone, isWhole, toPredicate } from '../../ir/index-set.ts';
import { generate, type Nd, rowMajor } from '../../ir/nd.ts';
import type { TensorType } from '../../ir/type.ts';
import type { Demand } from '../../passes/demand.ts';

export interface Ran {
  readonly outputs: Readonly<Record<string, Nd>>;
  readonly results: ReadonlyMap<Value, Nd>;
}

/** Runs a graph and keeps every value. */
export function runAll(
  graph: Graph,
  inputs: Readonly<Record<string, Nd>>,
  params: (name: string, type: TensorType) => Nd,
): Ran {
  const results = new Map<Value, Nd>();
  const outputs = evaluate(graph, {
    inputs,
    params,
    observe: (value, result) => {
      if ('data' in result) results.set(value, result);
    },
  });
  return { outputs, results };
}

/** 1 for each element of a value of that shape that the set names. */
export function members(set: IndexSet, demand: Demand, shape: readonly number[], { results }: Ran): Nd {
  if (isNone(set) || isWhole(set)) return generate('bool', shape, () => Number(isWhole(set)));
  const e = toPredicate(set);
  const load = (leaf: Expr, at: readonly number[]): number => {
    const source = demand.elements.source(leaf.arg as number);
    const x = results.get(source.value)!;
    const strides = rowMajor(x.shape);
    if (source.kind === 'element') {
      // Loads that a condition guards may lie outside.
      const inside = at.map((c, n) => Math.min(Math.max(c, 0), x.shape[n]! - 1));
      return x.data[inside.reduce((n, c, i) => n + c * strides[i]!, 0)]!;
    }
    const size = typeof source.size === 'number' ? source.size : (source.size.arg as Sym).default;
    let found = 0;
    x.data.forEach((raw, flat) => {
      const place = x.shape.map((n, i) => Math.floor(flat / strides[i]!) % n);
      const fits = source.fixed.every((axis, n) => place[axis] === at[n]);
      if (fits && (raw < 0 ? raw + size : raw) === at.at(-1)) found = 1;
    });
    return found;
  };
  return generate('bool', shape, (place) =>
    evaluateExpr(e, {
      value: (leaf, at) => {
        if (leaf.op === 'operand') return load(leaf, at);
        if (leaf.op === 'sym') return (leaf.arg as Sym).default;
        return place[shape.findIndex((_, n) => coordinate(n) === leaf)]!;
      },
    }),
  );
}
