/** Multiply-accumulates of a whole graph. */
import { countedIn, withCapacities } from './counts.ts';
import type { Sym } from './expr.ts';
import { type Graph, graphValues, typeOf } from './graph.ts';
import { sizeAt } from './type.ts';

/**
 * Multiply-accumulates of the contractions (products, convolutions, attention) in one execution as written: the sum of
 * every op's `macs`, bodies of control flow included.
 *
 * @param given sizes of symbols by name; a symbol that is not named takes its default, a size that is counted at run time the
 *   most that it can be
 * @returns an exact integer
 */
export function countMacs(graph: Graph, given: Readonly<Record<string, number>> = {}): number {
  const sizes = withCapacities(countedIn(graph), given);
  const bind = (symbol: { readonly arg: unknown }): number => {
    const { name, default: usual } = symbol.arg as Sym;
    return Object.hasOwn(sizes, name) ? sizes[name]! : usual;
  };
  let total = 0;
  for (const { op, inputs, attrs, type } of graphValues(graph))
    if (op.macs) total += sizeAt(op.macs(inputs.map(typeOf), attrs, type), bind);
  return total;
}
