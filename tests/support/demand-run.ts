/** Demands at run time: which elements of each value a set names, given what the program computed. */
import { evaluateExpr } from '../../ir/evaluate-expr.ts';
import type { Expr } from '../../ir/expr.ts';
import type { Value } from '../../ir/graph.ts';
import { coordinate, type IndexSet, isNone, isWhole, toPredicate } from '../../ir/index-set.ts';
import { generate, type Nd, rowMajor } from '../../ir/nd.ts';
import { sizeAt } from '../../ir/type.ts';
import type { Elements } from '../../passes/elements.ts';

/** What sets are evaluated in: the result of every value that they load from, and sizes. */
export interface Ran {
  of(value: Value): Nd;
  size(symbol: Expr): number;
}

/** 1 for each element of a value of that shape that the set names. */
export function members(set: IndexSet, elements: Elements, shape: readonly number[], ran: Ran): Nd {
  if (isNone(set) || isWhole(set)) return generate('bool', shape, () => Number(isWhole(set)));
  const e = toPredicate(set);
  const load = (leaf: Expr, at: readonly number[]): number => {
    const source = elements.source(leaf.arg as number);
    const x = ran.of(source.value);
    const strides = rowMajor(x.shape);
    if (source.kind === 'element') {
      // Loads that a condition guards may lie outside.
      const inside = at.map((c, n) => Math.min(Math.max(c, 0), x.shape[n]! - 1));
      return x.data[inside.reduce((n, c, i) => n + c * strides[i]!, 0)]!;
    }
    const size = sizeAt(source.size, ran.size);
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
        if (leaf.op === 'sym') return ran.size(leaf);
        return place[shape.findIndex((_, n) => coordinate(n) === leaf)]!;
      },
    }),
  );
}
