/** Control flow: subgraphs as attributes. A subgraph is closed: it reads its own inputs, constants, and nothing else. */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { type Graph, graphValues, typeOf } from '../graph.ts';
import { countOf, type Nd, nd } from '../nd.ts';
import { defineOp } from '../op.ts';
import { printDim, printType } from '../print.ts';
import { max } from '../scalar.ts';
import { asExpr, type Dim, dim, sameDim, sameType, type TensorType, tensor, tuple, type ValueType } from '../type.ts';
import { macsOf, macsSum } from './macs.ts';

/** Types of a graph's outputs, in order. */
const resultsOf = (g: Graph): TensorType[] => [...g.outputs.values()].map(typeOf);

/** One result stands for itself; several make a tuple. */
const together = (types: readonly TensorType[]): ValueType => (types.length === 1 ? types[0]! : tuple(...types));

/** A subgraph takes exactly these types, and reads only its inputs. */
function expectTakes(what: string, g: Graph, types: readonly TensorType[], roles: readonly string[]): void {
  if (g.inputs.length !== types.length)
    fail('operand', `${what} has ${g.inputs.length} inputs, but is given ${types.length}`, {
      help: `it is given ${roles.join(', ') || 'nothing'}`,
    });
  for (const [i, type] of types.entries()) expectType(`${what} input ${i}, ${roles[i]},`, type, typeOf(g.inputs[i]!));
  for (const value of graphValues(g)) {
    if (value.op.name === 'input' && !g.inputs.includes(value))
      fail('operand', `${what} reads input "${String(value.attrs.name)}", which is not its own`, {
        help: 'give outer values as operands',
      });
    if (value.op.name === 'param')
      fail('operand', `${what} reads parameter "${String(value.attrs.name)}"`, { help: 'give parameters as operands' });
  }
}
function expectType(what: string, wanted: TensorType, actual: TensorType): void {
  if (!sameType(wanted, actual)) fail('shape', `${what} is ${printType(actual)}, but must be ${printType(wanted)}`);
}

/** Multiply-accumulates of one run of a subgraph. */
function macsIn(g: Graph): Dim {
  const counts = graphValues(g).map(({ op, inputs, attrs, type }) =>
    op.macs && op.name !== 'get' ? op.macs(inputs.map(typeOf), attrs, type) : 0,
  );
  return macsSum(...counts);
}

/** Item `t` along axis 0. */
function itemAt(x: Nd, t: number): Nd {
  const shape = x.shape.slice(1);
  const n = countOf(shape);
  return { dtype: x.dtype, shape, data: x.data.slice(t * n, (t + 1) * n) };
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

export const scan = defineOp({
  name: 'scan',
  doc: 'Runs a body once for each position of axis 0 of the xs. The body takes the carried states, one item of each x, and the closed values whole; it gives the new states, then items that are stacked along axis 0. Results: final states, then stacks, in the order of positions also when reversed.',
  inputs: ['operands...'],
  attrs: {
    body: attr.graph('(states…, items…, closed…) to (states…, items…)'),
    carried: attr.int('how many operands, first, are initial states'),
    closed: opt.int(0, 'how many operands, last, are given whole to each step'),
    reverse: opt.bool(false, 'from the last position to the first'),
  },
  type: (inputs, attrs) => {
    const { body, carried } = attrs;
    const { states, xs, closed } = scanParts(inputs, attrs);
    const steps = xs[0]!.shape[0]!;
    xs.forEach((x, i) => {
      if (!sameDim(x.shape[0]!, steps))
        fail('shape', `x 0 and x ${i} differ in steps, ${printDim(steps)} and ${printDim(x.shape[0]!)}`);
    });
    const items = xs.map((x) => tensor(x.dtype, x.shape.slice(1)));
    expectTakes(
      'the body',
      body,
      [...states, ...items, ...closed],
      [
        ...states.map((_, i) => `state ${i}`),
        ...items.map((_, i) => `item of x ${i}`),
        ...closed.map((_, i) => `closed ${i}`),
      ],
    );
    const results = resultsOf(body);
    if (results.length < carried || results.length === 0)
      fail('operand', `the body gives ${results.length} results for ${carried} states`);
    for (const [i, type] of states.entries()) expectType(`state ${i} after a step`, type, results[i]!);
    return together([...states, ...results.slice(carried).map((t) => tensor(t.dtype, [steps, ...t.shape]))]);
  },
  eval: (operands, attrs, cx) => {
    const { body, carried, reverse } = attrs;
    const { states, xs, closed } = scanParts(operands, attrs);
    const steps = xs[0]!.shape[0]!;
    const stacks = cx.types.slice(carried).map(({ dtype, shape }) => nd(dtype, shape));
    let current: readonly Nd[] = states;
    for (const n of range(steps)) {
      const t = reverse ? steps - 1 - n : n;
      const results = cx.run(body, [...current, ...xs.map((x) => itemAt(x, t)), ...closed]);
      current = results.slice(0, carried);
      stacks.forEach((stack, i) => {
        const { data } = results[carried + i]!;
        stack.data.set(data, t * data.length);
      });
    }
    return [...current, ...stacks];
  },
  lower: { kind: 'structural' },
  macs: (inputs, attrs) => macsOf(scanParts(inputs, attrs).xs[0]!.shape[0]!, macsIn(attrs.body)),
  examples: [],
});

function scanParts<T extends { readonly shape: readonly unknown[] }>(
  operands: readonly T[],
  { carried, closed }: { readonly carried: number; readonly closed: number },
): { readonly states: readonly T[]; readonly xs: readonly T[]; readonly closed: readonly T[] } {
  if (carried < 0 || closed < 0) fail('attribute', `carried is ${carried} and closed is ${closed}; both must be ≥ 0`);
  const end = operands.length - closed;
  if (end - carried < 1)
    fail(
      'operand',
      `${operands.length} operands less ${carried} states and ${closed} closed values leave nothing to scan`,
    );
  const xs = operands.slice(carried, end);
  xs.forEach((x, i) => {
    if (x.shape.length === 0) fail('rank', `x ${i} has no axis to scan`);
  });
  return { states: operands.slice(0, carried), xs, closed: operands.slice(end) };
}

/** One of two subgraphs; both take the operands after the condition. */
export const branch = defineOp({
  name: 'if',
  doc: 'The results of one of two subgraphs, chosen when it runs. Both take the operands that follow the condition and give the same types.',
  inputs: ['condition', 'operands...'],
  attrs: { then: attr.graph('run where the condition is true'), else: attr.graph('run where it is false') },
  type: ([condition, ...operands], graphs) => {
    expectCondition(condition!, 'the condition');
    const roles = operands.map((_, i) => `operand ${i + 1}`);
    expectTakes('the then branch', graphs.then, operands, roles);
    expectTakes('the else branch', graphs.else, operands, roles);
    const [yes, no] = [resultsOf(graphs.then), resultsOf(graphs.else)];
    if (yes.length !== no.length || yes.length === 0)
      fail('operand', `the branches must give equally many results, and some: ${yes.length} and ${no.length}`);
    yes.forEach((type, i) => {
      if (!sameType(type, no[i]!))
        fail('shape', `result ${i} of the branches differs, ${printType(type)} and ${printType(no[i]!)}`);
    });
    return together(yes);
  },
  eval: ([condition, ...operands], graphs, cx) =>
    cx.run(condition!.data[0] !== 0 ? graphs.then : graphs.else, operands),
  lower: { kind: 'structural' },
  // The costlier branch.
  macs: (_, graphs) => larger(macsIn(graphs.then), macsIn(graphs.else)),
  onnx: { op: 'If', since: 16, attrs: { then: 'then_branch', else: 'else_branch' } },
  examples: [],
});
const larger = (a: Dim, b: Dim): Dim => {
  if (typeof a === 'number' && typeof b === 'number') return Math.max(a, b);
  return dim(max(asExpr(macsSum(a)), asExpr(macsSum(b))));
};

function expectCondition(type: TensorType, what: string): void {
  if (type.dtype !== 'bool' || type.shape.length !== 0)
    fail('dtype', `${what} must be one bool, not ${printType(type)}`);
}

export const loop = defineOp({
  name: 'loop',
  doc: 'Runs a body while a condition holds, at most `trips` times (which must not exceed maxTrips). The body takes the trip number (i64, from 0), the condition, the states, and the closed values; it gives the next condition, the new states, then items. Results: final states, then items stacked along a first axis of maxTrips, zeros behind the last trip.',
  inputs: ['trips', 'condition', 'operands...'],
  attrs: {
    body: attr.graph('(trip, condition, states…, closed…) to (condition, states…, items…)'),
    carried: attr.int('how many operands after the condition are initial states; the rest is closed'),
    maxTrips: attr.dim('most trips ever made: the size of the stacks'),
  },
  type: ([trips, condition, ...operands], { body, carried, maxTrips }) => {
    if (trips!.dtype !== 'i64' || trips!.shape.length !== 0)
      fail('dtype', `trips must be one i64, not ${printType(trips!)}`);
    expectCondition(condition!, 'the condition');
    if (carried < 0 || carried > operands.length)
      fail('attribute', `carried is ${carried}, but there are ${operands.length} operands after the condition`);
    const states = operands.slice(0, carried);
    expectTakes(
      'the body',
      body,
      [trips!, condition!, ...operands],
      [
        'the trip number',
        'the condition',
        ...operands.map((_, i) => (i < carried ? `state ${i}` : `closed ${i - carried}`)),
      ],
    );
    const results = resultsOf(body);
    if (results.length < 1 + carried || results.length < 2)
      fail('operand', `the body gives ${results.length} results for a condition and ${carried} states`);
    expectCondition(results[0]!, 'the first result of the body, the next condition,');
    for (const [i, type] of states.entries()) expectType(`state ${i} after a trip`, type, results[1 + i]!);
    return together([...states, ...results.slice(1 + carried).map((t) => tensor(t.dtype, [maxTrips, ...t.shape]))]);
  },
  eval: ([trips, condition, ...operands], { body, carried, maxTrips }, cx) => {
    const most = cx.size(maxTrips);
    const count = trips!.data[0]!;
    const stacks = cx.types.slice(carried).map(({ dtype, shape }) => nd(dtype, shape));
    let going = condition!;
    let states: readonly Nd[] = operands.slice(0, carried);
    for (let t = 0; t < count && going.data[0] !== 0; t++) {
      if (t >= most) fail('range', `loop: runs more than maxTrips = ${most} times`);
      const results = cx.run(body, [nd('i64', [], [t]), going, ...states, ...operands.slice(carried)]);
      going = results[0]!;
      states = results.slice(1, 1 + carried);
      stacks.forEach((stack, i) => {
        const { data } = results[1 + carried + i]!;
        stack.data.set(data, t * data.length);
      });
    }
    return [...states, ...stacks];
  },
  lower: { kind: 'structural' },
  macs: (_, { body, maxTrips }) => macsOf(maxTrips, macsIn(body)),
  examples: [],
});
