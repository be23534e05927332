/** Products, windows and recurrent layers in ONNX. */
import { typeOf, type Value } from '../../ir/graph.ts';
import type { Dim } from '../../ir/type.ts';
import { type ExportEntries, type ExportEntry, slotAttributes } from './export-ops.ts';
import { typed } from './export-types.ts';
import { type GraphWriter, int, ints, string } from './export-writer.ts';

const matmul: ExportEntry = (v, { w, inputs }) => {
  const { dtype } = typeOf(v);
  const ranks = v.inputs.map((x) => typeOf(x).shape.length);
  const flags = [v.attrs.transposeA === true, v.attrs.transposeB === true];
  const dtypes = v.inputs.map(() => dtype);
  if (flags.some(Boolean) && ranks.every((rank) => rank === 2)) {
    const [transA, transB] = flags.map((f) => int(f ? 1 : 0)) as [ReturnType<typeof int>, ReturnType<typeof int>];
    return typed(w, 'Gemm', inputs, dtypes, dtype, { transA, transB });
  }
  const turned = inputs.map((x, i) => {
    if (!flags[i]) return x;
    const perm = Array.from({ length: ranks[i]! }, (_, axis) => axis);
    return w.transpose(x, [...perm.slice(0, -2), ranks[i]! - 1, ranks[i]! - 2]);
  });
  return typed(w, 'MatMul', turned, dtypes, dtype);
};

/** Pooling whose result differs from ONNX's where a last window may start in the padding, or where the opset lacks it. */
const pool =
  (op: string): ExportEntry =>
  (v, { w, inputs }) => {
    const { dtype } = typeOf(v);
    const attributes = slotAttributes(v);
    if (op === 'AveragePool' && w.opset < 19) {
      if ((v.attrs.dilations as readonly number[]).some((d) => d !== 1) || v.attrs.ceil === true) return undefined;
      delete attributes.dilations;
    }
    return typed(w, op, inputs, [dtype], dtype, attributes);
  };

/** Rows of axis 0 in blocks, taken in another order. */
function blocks(w: GraphWriter, x: string, size: number, order: readonly number[]): string {
  if (order.every((g, i) => g === i)) return x;
  const rows = order.flatMap((g) => Array.from({ length: size }, (_, i) => g * size + i));
  return w.node('Gather', [x, w.longs(rows)], { axis: int(0) });
}

interface Layer {
  readonly op: string;
  /** Our gate that stands at each place of theirs. */
  readonly order: readonly number[];
  readonly states: number;
}

const recurrent =
  (
    { op, order, states }: Layer,
    attributesOf: (v: Value) => Record<string, ReturnType<typeof int | typeof string>>,
  ): ExportEntry =>
  (v, { w, inputs }) => {
    const [, , r, b] = v.inputs.map((x) => typeOf(x)) as [
      unknown,
      unknown,
      { shape: readonly Dim[] },
      { shape: readonly Dim[] },
    ];
    const units = r.shape[1];
    if (typeof units !== 'number') return undefined;
    const gates = order.length;
    const first = w.long(0);
    const one = (x: string): string => w.node('Unsqueeze', [x, first]);
    const { dtype } = typeOf(v.inputs[0]!);
    const bias = blocks(
      w,
      inputs[3]!,
      units,
      b.shape[0] === gates * units ? order : [...order, ...order.map((g) => g + gates)],
    );
    const whole =
      b.shape[0] === gates * units
        ? w.node('Pad', [bias, w.longs([0, gates * units])], { mode: string('constant') })
        : bias;
    const lens = inputs[4 + states];
    const operands = [
      inputs[0]!,
      one(blocks(w, inputs[1]!, units, order)),
      one(blocks(w, inputs[2]!, units, order)),
      one(whole),
      lens ? w.cast(lens, typeOf(v.inputs[4 + states]!).dtype, 'i32') : '',
      ...inputs.slice(4, 4 + states).map(one),
    ];
    const direction = v.attrs.reverse === true ? 'reverse' : 'forward';
    const attributes = { hidden_size: int(units), direction: string(direction), ...attributesOf(v) };
    if (dtype === 'bf16') return undefined;
    const [y, ...finals] = w.many(op, operands, 1 + states, attributes);
    return [w.node('Squeeze', [y!, w.long(1)]), ...finals.map((s) => w.node('Squeeze', [s, first]))];
  };

export const layers: ExportEntries = {
  matmul,
  max_pool: pool('MaxPool'),
  avg_pool: pool('AveragePool'),
  depthwise_conv: (v, { w, inputs }) => {
    const { strides, pads, dilations, groups } = v.attrs as Record<string, readonly number[] | number>;
    const listed = Object.entries({ strides, pads, dilations }).filter(
      ([, list]) => (list as readonly number[]).length > 0,
    );
    const attributes = Object.fromEntries(listed.map(([name, list]) => [name, ints(list as readonly number[])]));
    const { dtype } = typeOf(v);
    return typed(
      w,
      'Conv',
      inputs,
      v.inputs.map(() => dtype),
      dtype,
      { ...attributes, group: int(groups as number) },
    );
  },
  lstm: recurrent({ op: 'LSTM', order: [0, 3, 1, 2], states: 2 }, () => ({})),
  gru: recurrent({ op: 'GRU', order: [1, 0, 2], states: 1 }, (v) => ({
    linear_before_reset: int(v.attrs.linearBeforeReset === true ? 1 : 0),
  })),
  rnn: (v, cx) => {
    const activation = v.attrs.activation === 'relu' ? 'Relu' : 'Tanh';
    const entry = recurrent(
      { op: 'RNN', order: [0], states: 1 },
      () => ({ activations: { strings: [activation] } }) as never,
    );
    return entry(v, cx);
  },
};
