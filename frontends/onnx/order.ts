/** The nodes of a graph in an order in which each follows what it reads. */
import { fail } from '../../ir/diagnostic.ts';
import { nodeLabel } from './node.ts';
import type { OnnxGraph, OnnxNode } from './proto.ts';

interface Nodes {
  readonly nodes: readonly OnnxNode[];
  readonly outputs: readonly string[];
  readonly opsets: ReadonlyMap<string, number>;
  /** What to call the graph in messages. */
  readonly what: string;
}

/**
 * The nodes that the outputs need. Files may hold them in any order.
 * @throws CompileError `name` for a name that two nodes give, `verify` for nodes that need each other
 */
export function orderedNodes({ nodes, outputs, opsets, what }: Nodes): OnnxNode[] {
  const label = (node: OnnxNode): string => nodeLabel(node, opsets.get(node.domain));
  const makers = new Map<string, OnnxNode>();
  for (const node of nodes)
    for (const name of node.outputs) {
      if (name === '') continue;
      const other = makers.get(name);
      if (other)
        fail('name', `${what}: "${name}" is given by ${label(other)} and again by ${label(node)}`, {
          help: 'every value of a graph needs a name of its own; export the model again',
        });
      makers.set(name, node);
    }
  const order: OnnxNode[] = [];
  const state = new Map<OnnxNode, 'open' | 'done'>();
  const stack: { readonly node: OnnxNode; readonly needs: readonly string[]; next: number }[] = [];
  const open = (name: string): void => {
    const node = makers.get(name);
    if (!node || state.get(node) === 'done') return;
    if (state.get(node) === 'open')
      fail('verify', `${what}: ${label(node)} needs its own result "${name}"`, {
        notes: stack.slice(-8).map((entry) => label(entry.node)),
        help: 'a graph may not have cycles; use Loop or Scan',
      });
    state.set(node, 'open');
    stack.push({ node, needs: readsOf(node), next: 0 });
  };
  for (const output of outputs) {
    open(output);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const name = top.needs[top.next++];
      if (name !== undefined) open(name);
      else {
        state.set(top.node, 'done');
        order.push(top.node);
        stack.pop();
      }
    }
  }
  return order;
}

/** Names that a node reads, those of its subgraphs included (a subgraph's own names do no harm). */
export function readsOf(node: OnnxNode): string[] {
  const names = [...node.inputs];
  for (const { g } of node.attributes.values()) if (g) collect(g, names);
  // Should the group be read node by node, what its nodes read must have been read before.
  for (const inner of node.restored?.nodes ?? []) names.push(...readsOf(inner));
  return names;
}
function collect(g: OnnxGraph, into: string[]): void {
  const own = new Set<string>([...g.inputs.map((v) => v.name), ...g.initializers.map((t) => t.name)]);
  for (const node of g.nodes) for (const name of node.outputs) own.add(name);
  const free: string[] = [];
  for (const node of g.nodes) free.push(...readsOf(node));
  free.push(...g.outputs.map((v) => v.name));
  for (const name of free) if (!own.has(name)) into.push(name);
}
