/**
 * The tensor graph: a value is its producer, a graph is its outputs. Nothing here is ever mutated; a pass rebuilds what
 * it changes, and dead code is whatever the outputs no longer reach.
 */

import type { AttrValue, Graph, Value } from './core.ts';
import { exprNodes } from './expr.ts';
import type { TensorType } from './type.ts';

export type { Attrs, AttrValue, Graph, Value } from './core.ts';

export const graph = (name: string, inputs: readonly Value[], outputs: Iterable<readonly [string, Value]>): Graph => ({
  kind: 'graph',
  name,
  inputs,
  outputs: new Map(outputs),
});

/** The tensor type of a single-result value. @throws TypeError for a tuple: project it with `get` first */
export function typeOf(value: Value): TensorType {
  if (value.type.kind === 'tuple') throw new TypeError(`${value.op.name} has ${value.type.items.length} results`);
  return value.type;
}

export const isGraph = (a: AttrValue): a is Graph => typeof a === 'object' && 'kind' in a && a.kind === 'graph';

/**
 * Whether an attribute mentions a symbolic size, so that the same operands may give another result: `slice` from `past`
 * of a table.
 */
export const readsSizes = ({ attrs }: Value): boolean => Object.values(attrs).some(mentionsSize);
function mentionsSize(attr: AttrValue): boolean {
  if (typeof attr !== 'object') return false;
  if (isGraph(attr)) return graphValues(attr).some(readsSizes);
  if ('lanes' in attr) return exprNodes(attr).some((e) => e.op === 'sym');
  return Array.isArray(attr) && attr.some(mentionsSize);
}

/**
 * Every value the outputs reach, operands first, in a deterministic order. Values of a subgraph are not listed;
 * values of the outer graph that a subgraph would read must be operands (subgraphs are closed).
 */
export function topoOrder(outputs: Iterable<Value>): Value[] {
  const order: Value[] = [];
  const seen = new Set<Value>();
  // An explicit stack: imported graphs can be deeper than the call stack.
  const stack: { value: Value; next: number }[] = [];
  for (const root of outputs) {
    if (seen.has(root)) continue;
    seen.add(root);
    stack.push({ value: root, next: 0 });
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const operand = top.value.inputs[top.next++];
      if (operand === undefined) {
        order.push(top.value);
        stack.pop();
      } else if (!seen.has(operand)) {
        seen.add(operand);
        stack.push({ value: operand, next: 0 });
      }
    }
  }
  return order;
}

export const graphValues = (g: Graph): Value[] => topoOrder(g.outputs.values());

/** How many operands and outputs read each value. */
export function countReaders(g: Graph): Map<Value, number> {
  const readers = new Map<Value, number>();
  const bump = (v: Value): void => void readers.set(v, (readers.get(v) ?? 0) + 1);
  for (const value of graphValues(g)) value.inputs.forEach(bump);
  for (const output of g.outputs.values()) bump(output);
  return readers;
}
