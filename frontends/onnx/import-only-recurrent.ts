/** Recurrent layers: one layer of ours for each direction, with the gates in our order. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { gru, lstm, rnn } from '../../ir/ops/recurrent.ts';
import { concat, expand, reshape, sliceAxis, splitAxis, transpose } from '../../ir/ops/shape.ts';
import { projectAll, scalar } from '../../ir/ops/structural.ts';
import { index, mul as times } from '../../ir/scalar.ts';
import { type Dim, dim, type Shape } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';
import { activationsOf, type Cell, gruCell, type LayerOptions, lstmCell, rnnCell, runCell } from './recurrent-cells.ts';

/** Item `n` of axis 0, without that axis. */
function itemAt(x: Value, n: number): Value {
  const one = sliceAxis(x, 0, n, n + 1);
  return reshape([one], { shape: typeOf(one).shape.slice(1) });
}

interface Layer {
  /** Our gate number of each of their gates: `order[i]` is where our gate i stands in the file. */
  readonly order: readonly number[];
  readonly states: number;
  /** Activations when the file names none. */
  readonly usual: readonly string[];
  /** The layer as one of our operators; undefined when its activations are not those of the operator. */
  build(operands: readonly Value[], reverse: boolean, activations: readonly string[]): Value | undefined;
  /** The layer as a scan. Weights and biases stand in the file's order; `extra` is the rest of the direction's operands. */
  cell(n: Node, options: CellOptions): { readonly cell: Cell; readonly closed: readonly Value[] };
}
interface CellOptions extends LayerOptions {
  readonly units: Dim;
  /** [G·H, H]. */
  readonly r: Value;
  /** [G·H]. */
  readonly recurrentBias: Value;
  /** [3·H]. */
  readonly peepholes: Value | undefined;
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
  for (const i of [0, 1, 2]) n.expectRank(i, 3);
  const last = n.shape(2)[2]!;
  const units = n.int('hidden_size', typeof last === 'number' ? last : undefined);
  const direction = n.string('direction', 'forward').toLowerCase();
  if (!['forward', 'reverse', 'bidirectional'].includes(direction))
    n.fail(`direction "${direction}" is not known`, 'it is forward, reverse or bidirectional', 'attribute');
  const directions = direction === 'bidirectional' ? ['forward', 'reverse'] : [direction];
  const batchFirst = n.int('layout', 0) !== 0;
  const clip = n.hasAttribute('clip') ? n.float('clip') : undefined;
  n.ignore('output_sequence');
  const count = layer.usual.length;
  const named = n.stringList('activations');
  const names = named?.length ? named : directions.flatMap(() => layer.usual);
  if (names.length !== count * directions.length)
    n.fail(`${names.length} activations for ${directions.length} directions of ${count}`, undefined, 'attribute');
  const functions = activationsOf(n, names);
  const constants = n.hasAttribute('activation_alpha') || n.hasAttribute('activation_beta');
  const plain = clip === undefined && !constants && n.int('input_forget', 0) === 0 && !n.has(7);
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
  const lens = n.optional(4);
  const results = directions.map((way, d) => {
    const states = Array.from({ length: layer.states }, (_, i) => state(5 + i, d));
    const reverse = way === 'reverse';
    const [w, r] = [itemAt(n.value(1), d), itemAt(n.value(2), d)];
    const b = n.has(3) ? itemAt(n.value(3), d) : zeros([dim(times(index(2 * gates), units))]);
    const own = names.slice(d * count, (d + 1) * count);
    const turned = (v: Value, blocks = 1): Value => gatesInOrder(v, layer.order, units, blocks);
    const operands = [x, turned(w), turned(r), turned(b, 2), ...states, ...(lens ? [lens] : [])];
    const known = plain
      ? layer.build(
          operands,
          reverse,
          own.map((word) => word.toLowerCase()),
        )
      : undefined;
    if (known) return projectAll(known);
    const { cell, closed } = layer.cell(n, {
      units,
      r,
      recurrentBias: sliceAxis(b, 0, gates * units, 2 * gates * units),
      peepholes: n.has(7) ? itemAt(n.value(7), d) : undefined,
      clip,
      activations: functions.slice(d * count, (d + 1) * count),
    });
    return runCell(cell, { x, w, bias: sliceAxis(b, 0, 0, gates * units), states, closed, lens, reverse });
  });
  const joined = (i: number, axis: number, shape: Shape): Value => {
    const parts = results.map((r) => reshape([r[i]!], { shape }));
    return parts.length === 1 ? parts[0]! : concat(parts, { axis });
  };
  const y = joined(0, 1, [steps, 1, rows, units]);
  const final = Array.from({ length: layer.states }, (_, i) => joined(1 + i, 0, [1, rows, units]));
  if (!batchFirst) return [y, ...final];
  return [transpose([y], { perm: [2, 0, 1, 3] }), ...final.map((h) => transpose([h], { perm: [1, 0, 2] }))];
}

const named = (words: readonly string[], ...wanted: readonly string[]): boolean => words.join() === wanted.join();

export const recurrent: Entries = {
  LSTM: (n) => {
    const coupled = n.int('input_forget', 0) !== 0;
    return recurrentNode(n, {
      order: [0, 2, 3, 1],
      states: 2,
      usual: ['Sigmoid', 'Tanh', 'Tanh'],
      build: (operands, reverse, words) =>
        named(words, 'sigmoid', 'tanh', 'tanh') ? lstm(operands, { reverse }) : undefined,
      cell: (_, options) => ({
        cell: lstmCell({ ...options, peepholes: options.peepholes !== undefined, coupled }),
        closed: [options.r, options.recurrentBias, ...(options.peepholes ? [options.peepholes] : [])],
      }),
    });
  },
  GRU: (n) => {
    const linearBeforeReset = n.int('linear_before_reset', 0) !== 0;
    return recurrentNode(n, {
      order: [1, 0, 2],
      states: 1,
      usual: ['Sigmoid', 'Tanh'],
      build: (operands, reverse, words) =>
        named(words, 'sigmoid', 'tanh') ? gru(operands, { reverse, linearBeforeReset }) : undefined,
      cell: (_, options) => {
        const { r, recurrentBias, units } = options;
        const two = dim(times(index(2), units));
        return {
          cell: gruCell({ ...options, linearBeforeReset }),
          closed: [...splitAxis(r, 0, [two, units]), ...splitAxis(recurrentBias, 0, [two, units])],
        };
      },
    });
  },
  RNN: (n) =>
    recurrentNode(n, {
      order: [0],
      states: 1,
      usual: ['Tanh'],
      build: (operands, reverse, words) => {
        const activation = words[0] === 'relu' || words[0] === 'tanh' ? words[0] : undefined;
        return activation && rnn(operands, { reverse, activation });
      },
      cell: (_, options) => ({ cell: rnnCell(options), closed: [options.r, options.recurrentBias] }),
    }),
};
