/** Which operators of a file cannot be imported, all at once. */
import { controlOf } from './control.ts';
import { entryOf } from './mapping.ts';
import { nodeLabel } from './node.ts';
import type { OnnxGraph, OnnxModel, OnnxNode } from './proto.ts';
import { readsSequences } from './sequence.ts';

export interface UnsupportedNode {
  readonly op: string;
  readonly domain: string;
  /** The node with its domain and opset. */
  readonly at: string;
  readonly why: string;
}

export const functionKey = (domain: string, name: string, overload: string): string => `${domain}:${name}:${overload}`;

/** Operators whose results are not tensors, or whose sizes depend on data in ways that are not supported. */
const SIZES_SHAPE = ['Shape', 'Size'];

/** Every node of the graph, of its subgraphs and of the functions it calls for which there is no operator. */
export function unsupportedNodes(model: OnnxModel): UnsupportedNode[] {
  const functions = new Map(model.functions.map((f) => [functionKey(f.domain, f.name, f.overload), f]));
  const seen = new Set<string>();
  const found: UnsupportedNode[] = [];
  const visit = (nodes: readonly OnnxNode[], opsets: ReadonlyMap<string, number>): void => {
    for (const node of nodes) {
      for (const { g } of node.attributes.values()) if (g) visit((g satisfies OnnxGraph).nodes, opsets);
      const key = functionKey(node.domain, node.op, node.overload);
      const callee = functions.get(key);
      if (callee) {
        if (!seen.has(key)) {
          seen.add(key);
          visit(callee.nodes, new Map([...opsets, ...callee.opsets]));
        }
        continue;
      }
      const known =
        entryOf(node.domain, node.op) !== undefined ||
        controlOf(node.domain, node.op) !== undefined ||
        (node.domain === '' && (SIZES_SHAPE.includes(node.op) || readsSequences(node.op)));
      if (known) continue;
      const opset = opsets.get(node.domain);
      const why = opset === undefined ? `domain ${node.domain || 'ai.onnx'} is not imported` : 'no such operator here';
      found.push({ op: node.op, domain: node.domain, at: nodeLabel(node, opset), why });
    }
  };
  visit(model.graph.nodes, model.opsets);
  return found;
}
