/** Subgraphs of control ops, ready to be partitioned: operands known when the bundle is made take their inputs' places. */
import { type Graph, graph, graphValues, isGraph, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { project } from '../ir/ops/structural.ts';
import type { Region } from './region.ts';

export const isControl = (v: Value): boolean => Object.values(v.attrs).some(isGraph);

export interface ControlBody {
  readonly graph: Graph;
  /** The subgraph's inputs by position; undefined where a static operand took the input's place. */
  readonly inputs: readonly (Value | undefined)[];
}

export function controlBodies({ root }: Region, isStatic: (v: Value) => boolean): ControlBody[] {
  return Object.values(root.attrs)
    .filter(isGraph)
    .map((body) => bind(body, constantOperands(root, body, isStatic)));
}

/** By input position: the static operand that every run of the body sees there. */
function constantOperands(root: Value, body: Graph, isStatic: (v: Value) => boolean): readonly (Value | undefined)[] {
  const closed = root.op.name === 'scan' ? Number(root.attrs.closed) : 0;
  const whole = (position: number): Value | undefined => {
    switch (root.op.name) {
      case 'scan':
        return position >= body.inputs.length - closed
          ? root.inputs[root.inputs.length - body.inputs.length + position]
          : undefined;
      case 'loop':
        return position >= 2 + Number(root.attrs.carried) ? root.inputs[position] : undefined;
      default:
        return root.inputs[position + 1];
    }
  };
  return body.inputs.map((_, i) => {
    const operand = whole(i);
    return operand && isStatic(operand) ? operand : undefined;
  });
}

function bind(body: Graph, constants: readonly (Value | undefined)[]): ControlBody {
  const done = new Map<Value, Value>();
  body.inputs.forEach((v, i) => {
    done.set(v, constants[i] ?? v);
  });
  for (const v of graphValues(body)) {
    if (done.has(v)) continue;
    const inputs = v.inputs.map((x) => done.get(x)!);
    const same = inputs.every((x, i) => x === v.inputs[i]);
    done.set(
      v,
      same
        ? v
        : v.op.name === 'get'
          ? project(inputs[0]!, Number(v.attrs.index), v)
          : makeValue(v.op, inputs, v.attrs, v),
    );
  }
  const inputs = body.inputs.map((v, i) => (constants[i] ? undefined : v));
  return {
    graph: graph(
      body.name,
      inputs.filter((v) => v !== undefined),
      [...body.outputs].map(([name, v]) => [name, done.get(v)!]),
    ),
    inputs,
  };
}
