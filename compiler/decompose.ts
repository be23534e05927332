/** Rewrites ops that are defined by simpler ones until only ops with kernels of their own are left. */
import { type Graph, graphValues, isGraph, graph as makeGraph, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { concat } from '../ir/ops/shape.ts';
import { project } from '../ir/ops/structural.ts';

/** Operands of one concatenation: a kernel chooses between them one by one, and a function takes no more than 1000. */
const MOST_JOINED = 128;

export function decompose(graph: Graph): Graph {
  const done = new Map<Value, Value | readonly Value[]>();
  for (const value of graphValues(graph)) done.set(value, expand(value, done));
  const single = (v: Value): Value => {
    const result = done.get(v)!;
    if (Array.isArray(result)) throw new Error(`${v.op.name} has several results; project one`);
    return result as Value;
  };
  return makeGraph(
    graph.name,
    graph.inputs,
    [...graph.outputs].map(([name, v]) => [name, single(v)]),
  );
}

function expand(value: Value, done: Map<Value, Value | readonly Value[]>): Value | readonly Value[] {
  const inputs = value.inputs.map((x) => done.get(x)!);
  if (value.op.name === 'get') {
    const index = Number(value.attrs.index);
    const source = inputs[0]!;
    return Array.isArray(source) ? named(source[index]! as Value, value) : project(source as Value, index, value);
  }
  const operands = inputs as readonly Value[];
  if (value.op === concat.def && operands.length > MOST_JOINED) return joined(operands, value);
  const { lower } = value.op;
  const simpler =
    lower.kind === 'decompose'
      ? lower.build(operands, value.attrs)
      : lower.kind === 'schedule'
        ? lower.adapt?.(operands, value.attrs)
        : undefined;
  if (simpler !== undefined) {
    const results = (Array.isArray(simpler) ? simpler : [simpler]) as readonly Value[];
    const expanded = decomposeValues(results, operands).map((v) => named(v, value));
    return value.type.kind === 'tuple' ? expanded : expanded[0]!;
  }
  const attrs = Object.values(value.attrs).some(isGraph)
    ? Object.fromEntries(Object.entries(value.attrs).map(([k, a]) => [k, isGraph(a) ? decompose(a) : a]))
    : value.attrs;
  if (attrs === value.attrs && operands.every((x, i) => x === value.inputs[i])) return value;
  return makeValue(value.op, operands, attrs, value);
}

/** Results of a decomposition, decomposed in turn; `leaves` are done already. */
function decomposeValues(results: readonly Value[], leaves: readonly Value[]): readonly Value[] {
  const done = new Map<Value, Value | readonly Value[]>(leaves.map((v) => [v, v]));
  const visit = (v: Value): Value => {
    const known = done.get(v);
    if (known) return known as Value;
    for (const x of v.inputs) visit(x);
    const result = expand(v, done);
    done.set(v, result);
    return result as Value;
  };
  return results.map(visit);
}

/** A concatenation of concatenations; `partition` stores the inner ones where they are too many for one kernel. */
function joined(parts: readonly Value[], like: Value): Value {
  const size = Math.max(MOST_JOINED, Math.ceil(parts.length / MOST_JOINED));
  const count = Math.ceil(parts.length / size);
  const groups = Array.from({ length: count }, (_, i) => parts.slice(i * size, (i + 1) * size));
  return makeValue(
    like.op,
    groups.map((group) => (group.length > MOST_JOINED ? joined(group, like) : makeValue(like.op, group, like.attrs))),
    like.attrs,
    like,
  );
}

/** A name and position for a value that was built without one. */
const named = (v: Value, like: Value): Value =>
  v.name === undefined && v.loc === undefined && v.op.name !== 'input' && v.op.name !== 'param'
    ? { ...v, name: like.name ?? like.op.name, loc: like.loc }
    : v;
