/** Recurrent layers: one layer of ours for each direction, with the gates in our order. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { gru, lstm, rnn } from '../../ir/ops/recurrent.ts';
import { concat, expand, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { projectAll, scalar } from '../../ir/ops/structural.ts';
import { index, mul as times } from '../../ir/scalar.ts';
import { type Dim, dim, type Shape } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';

/** Item `n` of axis 0, without that axis. */
function itemAt(x: Value, n: number): Value {
  const one = sliceAxis(x, 0, n, n + 1);
  return reshape([one], { shape: typeOf(one).shape.slice(1) });
}

interface Layer {
  /** Our gate number of each of their gates: `order[i]` is where our gate i stands in the file. */
  readonly order: readonly number[];
  readonly states: number;
  readonly activations: readonly (readonly string[])[];
  build(operands: readonly Value[], reverse: boolean, activation: string): Value;
}

/** Blocks of axis 0, one for each gate, in our order. */
function gatesInOrder(x: Value, order: readonly number[], units: number, blocks = 1): Value {
  if (order.every((g, i) => g === i)) return x;
  const at = Array.from({ length: blocks }, (_, b) => order.map((g) => b * order.length + g)).flat();
  return concat(
    at.map((g) => sliceAxis(x, 0, g * units, (g + 1) * units)),
    { axis: 0 },
  );
}

function recurrentNode(n: Node, layer: Layer): readonly (Value | undefined)[] {
  const units = n.int('hidden_size', n.shape(2)[2] as number);
  const direction = n.string('direction', 'forward');
  const directions = direction === 'bidirectional' ? ['forward', 'reverse'] : [direction];
  const batchFirst = n.int('layout', 0) !== 0;
  if (n.hasAttribute('clip')) n.fail('attribute "clip" is not supported');
  if (n.hasAttribute('activation_alpha') || n.hasAttribute('activation_beta'))
    n.fail('activations with alpha or beta are not supported');
  if (n.int('input_forget', 0) !== 0) n.fail('input_forget is not supported');
  n.ignore('output_sequence');
  const named = n.stringList('activations');
  const perDirection = layer.activations[0]!.length;
  const chosen = directions.map((_, d) => {
    const words = named?.length ? named.slice(d * perDirection, (d + 1) * perDirection) : layer.activations[0]!;
    const lower = words.map((w) => w.toLowerCase());
    if (!layer.activations.some((a) => a.join().toLowerCase() === lower.join()))
      n.fail(`activations ${words.join(', ')} are not supported`);
    return lower;
  });
  const given = n.value(0);
  const x = batchFirst ? transpose([given], { perm: [1, 0, 2] }) : given;
  const { dtype } = typeOf(x);
  const [steps, rows] = typeOf(x).shape as [Dim, Dim, Dim];
  const gates = layer.order.length;
  const zeros = (shape: Shape): Value => expand([scalar(0, dtype)], { shape });
  const state = (i: number, d: number): Value => {
    const all = n.optional(i);
    if (!all) return zeros([rows, units]);
    return itemAt(batchFirst ? transpose([all], { perm: [1, 0, 2] }) : all, d);
  };
  const results = directions.map((way, d) => {
    const w = gatesInOrder(itemAt(n.value(1), d), layer.order, units);
    const r = gatesInOrder(itemAt(n.value(2), d), layer.order, units);
    const b = n.has(3)
      ? gatesInOrder(itemAt(n.value(3), d), layer.order, units, 2)
      : zeros([dim(times(index(2 * gates), units))]);
    const states = Array.from({ length: layer.states }, (_, i) => state(5 + i, d));
    const lens = n.optional(4);
    const operands = [x, w, r, b, ...states, ...(lens ? [lens] : [])];
    return projectAll(layer.build(operands, way === 'reverse', chosen[d]!.at(-1)!));
  });
  const joined = (i: number, axis: number, shape: Shape): Value => {
    const parts = results.map((r) => reshape([r[i]!], { shape }));
    return parts.length === 1 ? parts[0]! : concat(parts, { axis });
  };
  const y = joined(0, 1, [steps, 1, rows, units]);
  const last = Array.from({ length: layer.states }, (_, i) => joined(1 + i, 0, [1, rows, units]));
  if (!batchFirst) return [y, ...last];
  return [transpose([y], { perm: [2, 0, 1, 3] }), ...last.map((h) => transpose([h], { perm: [1, 0, 2] }))];
}

const refuse = (n: Node, i: number, what: string): void => {
  if (n.has(i)) n.fail(`${what} are not supported`);
};

export const recurrent: Entries = {
  LSTM: (n) => {
    refuse(n, 7, 'peephole weights');
    return recurrentNode(n, {
      order: [0, 2, 3, 1],
      states: 2,
      activations: [['Sigmoid', 'Tanh', 'Tanh']],
      build: (operands, reverse) => lstm(operands, { reverse }),
    });
  },
  GRU: (n) => {
    const linearBeforeReset = n.int('linear_before_reset', 0) !== 0;
    return recurrentNode(n, {
      order: [1, 0, 2],
      states: 1,
      activations: [['Sigmoid', 'Tanh']],
      build: (operands, reverse) => gru(operands, { reverse, linearBeforeReset }),
    });
  },
  RNN: (n) =>
    recurrentNode(n, {
      order: [0],
      states: 1,
      activations: [['Tanh'], ['Relu']],
      build: (operands, reverse, activation) =>
        rnn(operands, { reverse, activation: activation === 'relu' ? 'relu' : 'tanh' }),
    }),
};
