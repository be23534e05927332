/**
 * Recurrent layers in one direction, written as a `scan`.
 *
 * T steps, B rows, I inputs, H units, G gates: x[T, B, I], w[G·H, I], r[G·H, H]. The products with w of all steps are one
 * matrix product outside the scan; only those with r are inside.
 */
import { opt } from '../attr.ts';
import type { NeedContext } from '../core.ts';
import { fail } from '../diagnostic.ts';
import { graph, typeOf, type Value } from '../graph.ts';
import { type IndexSet, or } from '../index-set.ts';
import { type Nd, nd } from '../nd.ts';
import { needByAxes } from '../need.ts';
import { type AxisMap, defineOp, type ExampleInput } from '../op.ts';
import { printType } from '../print.ts';
import { index, add as plus, mul as times } from '../scalar.ts';
import { type Dim, dim, sameType, type TensorType, tensor, tuple } from '../type.ts';
import { expectDtype, expectRank, expectSameDtype, expectShape, typeAt } from './check.ts';
import { scan } from './control.ts';
import { add, less, mul, relu, select, sigmoid, sub, tanh } from './elementwise.ts';
import { f32, given } from './example.ts';
import { matmul } from './linear.ts';
import { macsOf } from './macs.ts';
import { concat, expand, iota, reshape, splitAxis } from './shape.ts';
import { input, projectAll, scalar } from './structural.ts';

interface Sizes {
  readonly steps: Dim;
  readonly rows: Dim;
  readonly inputs: Dim;
  readonly units: Dim;
}
const sizesOf = (inputs: readonly TensorType[]): Sizes => {
  const [steps, rows, width] = typeAt(inputs, 0).shape as [Dim, Dim, Dim];
  return { steps, rows, inputs: width, units: typeAt(inputs, 2).shape[1]! };
};
const gatesTimes = (gates: number, units: Dim): Dim => dim(times(index(units), gates));

/** Checks (x, w, r, b, states…, lens?) and gives the types of (y, final states…). */
function layerType(
  inputs: readonly TensorType[],
  gates: number,
  states: readonly string[],
  biases: readonly number[],
): TensorType[] {
  const [x, w, r, b] = [0, 1, 2, 3].map((n) => typeAt(inputs, n)) as [TensorType, TensorType, TensorType, TensorType];
  expectRank(x, 3, 'x');
  expectRank(r, 2, 'r');
  expectDtype(x, 'float', 'x');
  const lens = inputs[4 + states.length];
  expectSameDtype(inputs.slice(0, 4 + states.length));
  const { steps, rows, inputs: width, units } = sizesOf(inputs);
  expectShape('w', w, [gatesTimes(gates, units), width]);
  expectShape('r', r, [gatesTimes(gates, units), units]);
  const admissible = biases.map((n) => tensor(b.dtype, [gatesTimes(n, units)]));
  if (!admissible.some((t) => sameType(t, b)))
    fail('shape', `b must be ${admissible.map(printType).join(' or ')}, not ${printType(b)}`);
  for (const [i, name] of states.entries()) expectShape(name, typeAt(inputs, 4 + i), [rows, units]);
  if (lens) {
    expectShape('lens', lens, [rows]);
    if (lens.dtype !== 'i32' && lens.dtype !== 'i64') fail('dtype', `lens must be i32 or i64, not ${lens.dtype}`);
  }
  const state = tensor(x.dtype, [rows, units]);
  return [tensor(x.dtype, [steps, rows, units]), ...states.map(() => state)];
}

/** Rows run in lockstep; steps, widths and weights mix. Roles are those of the first result, [T, B, H]. */
function layerRoles(inputs: readonly TensorType[], states: number): AxisMap {
  const mixed = (t: TensorType): 'mix'[] => t.shape.map(() => 'mix');
  return inputs.map((t, n) => (n === 0 ? ['mix', 1, 'mix'] : n < 4 ? mixed(t) : n < 4 + states ? [1, 'mix'] : [1]));
}

/** Rows of any result are read at all steps. Final states are [B, H], so their rows stand on another axis than those of y. */
const layerNeed =
  (states: number) =>
  (demand: readonly IndexSet[], { inputs, outs }: NeedContext<unknown>): readonly IndexSet[] => {
    const roles = layerRoles(inputs, states);
    const ofStates = roles.map((own) => own.map((role) => (role === 1 ? 0 : role)));
    const byStates = needByAxes(demand.slice(1), outs.slice(1), ofStates);
    return needByAxes(demand.slice(0, 1), outs.slice(0, 1), roles).map((set, n) => or(set, byStates[n]!));
  };

/** One row at one step: products with the weights are at hand, the cell does the rest. */
interface CellInput {
  /** Gate g, unit j of w · x + its bias. */
  wx(g: number, j: number): number;
  /** Gate g, unit j of r · h, without a bias. */
  rh(g: number, j: number, h: readonly number[]): number;
  /** Recurrent bias of gate g, unit j. */
  rb(g: number, j: number): number;
}
type Cell = (at: CellInput, states: readonly (readonly number[])[]) => readonly (readonly number[])[];

/** The reference: step by step, row by row, from the definition. */
function runLayer(operands: readonly Nd[], gates: number, count: number, reverse: boolean, cell: Cell): Nd[] {
  const [x, w, r, b] = operands as [Nd, Nd, Nd, Nd];
  const [steps, rows, width] = x.shape as [number, number, number];
  const units = r.shape[1]!;
  const lens = operands[4 + count];
  const apart = b.data.length === 2 * gates * units;
  const y = nd(x.dtype, [steps, rows, units]);
  const finals = operands.slice(4, 4 + count).map((s) => ({ ...s, data: s.data.slice() }));
  for (let n = 0; n < steps; n++) {
    const t = reverse ? steps - 1 - n : n;
    for (let row = 0; row < rows; row++) {
      if (lens && t >= lens.data[row]!) continue;
      const states = finals.map((s) => Array.from(s.data.subarray(row * units, (row + 1) * units)));
      const next = cell(
        {
          wx: (g, j) => {
            let sum = b.data[g * units + j]!;
            for (let i = 0; i < width; i++)
              sum += w.data[(g * units + j) * width + i]! * x.data[(t * rows + row) * width + i]!;
            return sum;
          },
          rh: (g, j, h) => {
            let sum = 0;
            for (let i = 0; i < units; i++) sum += r.data[(g * units + j) * units + i]! * h[i]!;
            return sum;
          },
          rb: (g, j) => (apart ? b.data[(gates + g) * units + j]! : 0),
        },
        states,
      );
      for (const [i, s] of next.entries()) finals[i]!.data.set(s, row * units);
      y.data.set(next[0]!, (t * rows + row) * units);
    }
  }
  return [y, ...finals];
}
const logistic = (v: number): number => 1 / (1 + Math.exp(-v));

interface Step {
  /** Products with w of one step, biases added: [B, G·H]. */
  readonly wx: Value;
  readonly states: readonly Value[];
  readonly closed: readonly Value[];
}

/**
 * The layer as a scan.
 * @param step new states from the old ones, of which the first is the output
 */
function buildLayer(
  x: Value,
  w: Value,
  bias: Value,
  states: readonly Value[],
  lens: Value | undefined,
  reverse: boolean,
  closed: readonly Value[],
  step: (at: Step) => readonly Value[],
): Value[] {
  const { dtype } = typeOf(x);
  const [steps, rows] = typeOf(x).shape as [Dim, Dim, Dim];
  const all = add([matmul([x, w], { transposeB: true }), bias]);
  const argument = (name: string, like: TensorType): Value =>
    input([], { name, dtype: like.dtype, shape: like.shape }, { name });
  const old = states.map((s, i) => argument(`state${i}`, typeOf(s)));
  const wx = argument('wx', tensor(dtype, typeOf(all).shape.slice(1)));
  const whole = closed.map((c, i) => argument(`closed${i}`, typeOf(c)));
  let next = step({ wx, states: old, closed: whole });
  let y = next[0]!;
  const timed: { readonly items: Value[]; readonly xs: Value[]; readonly closed: Value[]; readonly whole: Value[] } = {
    items: [],
    xs: [],
    closed: [],
    whole: [],
  };
  if (lens) {
    const time = argument('time', tensor(typeOf(lens).dtype, []));
    const ends = argument('lens', typeOf(lens));
    const alive = reshape([less([time, ends])], { shape: [rows, 1] });
    next = next.map((s, i) => select([alive, s, old[i]!]));
    y = select([alive, y, scalar(0, dtype)]);
    timed.items.push(time);
    timed.xs.push(iota([], { axis: 0, shape: [steps], dtype: typeOf(lens).dtype }));
    timed.closed.push(lens);
    timed.whole.push(ends);
  }
  const results = [...next.map((s, i) => [`state${i}`, s] as const), ['y', y] as const];
  const body = graph('step', [...old, wx, ...timed.items, ...whole, ...timed.whole], results);
  const out = projectAll(
    scan([...states, all, ...timed.xs, ...closed, ...timed.closed], {
      body,
      carried: states.length,
      closed: closed.length + timed.closed.length,
      reverse,
    }),
  );
  return [out.at(-1)!, ...out.slice(0, -1)];
}

/** The products with r of one step, a value a gate. */
const gatesOf = (product: Value, gates: number, units: Dim): Value[] =>
  splitAxis(product, 1, new Array<Dim>(gates).fill(units));
/** b as one bias a gate: the sum of both halves where it has two. */
function summedBias(b: Value, gates: number, units: Dim): Value {
  const size = gatesTimes(gates, units);
  if (dim(typeOf(b).shape[0]!) === size) return b;
  const [wb, rb] = splitAxis(b, 0, [size, size]);
  return add([wb!, rb!]);
}

const directed = { reverse: opt.bool(false, 'from the last step of each row to the first') } as const;
const lensOf = (...lens: readonly number[]): ExampleInput => given('i32', [lens.length], lens);
const layerDoc = "Past a row's length y is 0 and the state is kept.";

export const lstm = defineOp({
  name: 'lstm',
  doc: `LSTM over x[T, B, I]: gates i, f, g, o = w·x + r·h + b (w[4H, I], r[4H, H], b[4H] or w's and r's biases [8H]); c ← σ(f)·c + σ(i)·tanh(g), h ← σ(o)·tanh(c). Results y[T, B, H], h, c. ${layerDoc}`,
  inputs: ['x', 'w', 'r', 'b', 'h0', 'c0', 'lens?'],
  attrs: directed,
  type: (inputs) => tuple(...layerType(inputs, 4, ['h0', 'c0'], [4, 8])),
  axes: (inputs) => layerRoles(inputs, 2),
  need: layerNeed(2),
  eval: (operands, { reverse }) =>
    runLayer(operands, 4, 2, reverse, ({ wx, rh, rb }, [h, c]) => {
      const gate = (g: number, j: number): number => wx(g, j) + rh(g, j, h!) + rb(g, j);
      const cell = c!.map((old, j) => logistic(gate(1, j)) * old + logistic(gate(0, j)) * Math.tanh(gate(2, j)));
      return [cell.map((v, j) => logistic(gate(3, j)) * Math.tanh(v)), cell];
    }),
  lower: {
    kind: 'decompose',
    build: ([x, w, r, b, h0, c0, lens], { reverse }) => {
      const units = typeOf(r!).shape[1]!;
      return buildLayer(
        x!,
        w!,
        summedBias(b!, 4, units),
        [h0!, c0!],
        lens,
        reverse,
        [r!],
        ({ wx, states: [h, c], closed }) => {
          const [i, f, g, o] = gatesOf(add([wx, matmul([h!, closed[0]!], { transposeB: true })]), 4, units);
          const cell = add([mul([sigmoid([f!]), c!]), mul([sigmoid([i!]), tanh([g!])])]);
          return [mul([sigmoid([o!]), tanh([cell])]), cell];
        },
      );
    },
  },
  macs: (inputs) => layerMacs(inputs),
  examples: [
    { inputs: [f32(5, 3, 2), f32(16, 2), f32(16, 4), f32(32), f32(3, 4), f32(3, 4)] },
    {
      inputs: [f32(4, 3, 2), f32(12, 2), f32(12, 3), f32(12), f32(3, 3), f32(3, 3), lensOf(4, 1, 0)],
      attrs: { reverse: true },
    },
    { inputs: [f32(4, 2, 3), f32(4, 3), f32(4, 1), f32(8), f32(2, 1), f32(2, 1), lensOf(2, 4)] },
    { inputs: [f32(0, 2, 3), f32(8, 3), f32(8, 2), f32(8), f32(2, 2), f32(2, 2)], note: 'no steps' },
  ],
});

export const gru = defineOp({
  name: 'gru',
  doc: `GRU over x[T, B, I]: gates r, z, n with w[3H, I], r[3H, H] and both biases [6H]; h ← (1 − z)·n + z·h. n = tanh(w·x + r ⊙ (r·h + b)) with linearBeforeReset, else tanh(w·x + r·(r ⊙ h) + b). Results y[T, B, H], h. ${layerDoc}`,
  inputs: ['x', 'w', 'r', 'b', 'h0', 'lens?'],
  attrs: {
    ...directed,
    linearBeforeReset: opt.bool(true, 'reset the product with the state (cuDNN, PyTorch), not the state'),
  },
  type: (inputs) => tuple(...layerType(inputs, 3, ['h0'], [6])),
  axes: (inputs) => layerRoles(inputs, 1),
  need: layerNeed(1),
  eval: (operands, { reverse, linearBeforeReset }) =>
    runLayer(operands, 3, 1, reverse, ({ wx, rh, rb }, [h]) => {
      const gate = (g: number, j: number): number => logistic(wx(g, j) + rh(g, j, h!) + rb(g, j));
      const reset = h!.map((_, j) => gate(0, j));
      const shrunk = h!.map((v, j) => v * reset[j]!);
      const fresh = h!.map((_, j) =>
        Math.tanh(wx(2, j) + (linearBeforeReset ? reset[j]! * (rh(2, j, h!) + rb(2, j)) : rh(2, j, shrunk) + rb(2, j))),
      );
      return [h!.map((old, j) => (1 - gate(1, j)) * fresh[j]! + gate(1, j) * old)];
    }),
  lower: {
    kind: 'decompose',
    build: ([x, w, r, b, h0, lens], { reverse, linearBeforeReset }) => {
      const { dtype, shape } = typeOf(r!);
      const units = shape[1]!;
      const all = gatesTimes(3, units);
      const two = gatesTimes(2, units);
      const [wb, rb] = splitAxis(b!, 0, [all, all]);
      const [rbGates, rbNew] = splitAxis(rb!, 0, [two, units]);
      // Behind the reset, the recurrent bias of n belongs to the product with the state.
      const inside = linearBeforeReset ? expandZero(rbGates!, units, dtype) : rb!;
      const [rGates, rNew] = splitAxis(r!, 0, [two, units]);
      return buildLayer(
        x!,
        w!,
        add([wb!, inside]),
        [h0!],
        lens,
        reverse,
        [rGates!, rNew!, rbNew!],
        ({ wx, states: [h], closed }) => {
          const [wr, wz, wn] = gatesOf(wx, 3, units);
          const [hr, hz] = gatesOf(matmul([h!, closed[0]!], { transposeB: true }), 2, units);
          const reset = sigmoid([add([wr!, hr!])]);
          const keep = sigmoid([add([wz!, hz!])]);
          const recurrent = (state: Value): Value => matmul([state, closed[1]!], { transposeB: true });
          const past = linearBeforeReset ? mul([reset, add([recurrent(h!), closed[2]!])]) : recurrent(mul([reset, h!]));
          const fresh = tanh([add([wn!, past])]);
          return [add([mul([sub([scalar(1, dtype), keep]), fresh]), mul([keep, h!])])];
        },
      );
    },
  },
  macs: (inputs) => layerMacs(inputs),
  examples: [
    { inputs: [f32(5, 3, 2), f32(12, 2), f32(12, 4), f32(24), f32(3, 4)] },
    {
      inputs: [f32(4, 3, 2), f32(9, 2), f32(9, 3), f32(18), f32(3, 3), lensOf(4, 1, 0)],
      attrs: { linearBeforeReset: false },
    },
    { inputs: [f32(3, 2, 1), f32(3, 1), f32(3, 1), f32(6), f32(2, 1), lensOf(1, 3)], attrs: { reverse: true } },
  ],
});

/** A bias of two gates, followed by zeros for the third. */
const expandZero = (gates: Value, units: Dim, dtype: TensorType['dtype']): Value =>
  concat([gates, expand([scalar(0, dtype)], { shape: [units] })], { axis: 0 });

export const rnn = defineOp({
  name: 'rnn',
  doc: `Elman layer over x[T, B, I]: h ← f(w·x + r·h + b) with w[H, I], r[H, H], b[H] or w's and r's biases [2H]. Results y[T, B, H], h. ${layerDoc}`,
  inputs: ['x', 'w', 'r', 'b', 'h0', 'lens?'],
  attrs: { ...directed, activation: opt.oneOf(['tanh', 'relu'], 'tanh', 'f') },
  type: (inputs) => tuple(...layerType(inputs, 1, ['h0'], [1, 2])),
  axes: (inputs) => layerRoles(inputs, 1),
  need: layerNeed(1),
  eval: (operands, { reverse, activation }) =>
    runLayer(operands, 1, 1, reverse, ({ wx, rh, rb }, [h]) => [
      h!.map((_, j) => {
        const sum = wx(0, j) + rh(0, j, h!) + rb(0, j);
        return activation === 'tanh' ? Math.tanh(sum) : Math.max(sum, 0);
      }),
    ]),
  lower: {
    kind: 'decompose',
    build: ([x, w, r, b, h0, lens], { reverse, activation }) =>
      buildLayer(
        x!,
        w!,
        summedBias(b!, 1, typeOf(r!).shape[1]!),
        [h0!],
        lens,
        reverse,
        [r!],
        ({ wx, states: [h], closed }) => {
          const sum = add([wx, matmul([h!, closed[0]!], { transposeB: true })]);
          return [activation === 'tanh' ? tanh([sum]) : relu([sum])];
        },
      ),
  },
  macs: (inputs) => layerMacs(inputs),
  examples: [
    { inputs: [f32(5, 3, 2), f32(4, 2), f32(4, 4), f32(8), f32(3, 4)] },
    { inputs: [f32(4, 3, 2), f32(3, 2), f32(3, 3), f32(3), f32(3, 3), lensOf(4, 1, 0)], attrs: { activation: 'relu' } },
    { inputs: [f32(1, 1, 1), f32(1, 1), f32(1, 1), f32(1), f32(1, 1)], attrs: { reverse: true } },
  ],
});

/** Every step and row multiplies all of w and r. */
function layerMacs(inputs: readonly TensorType[]): Dim {
  const { steps, rows, inputs: width, units } = sizesOf(inputs);
  return macsOf(steps, rows, typeAt(inputs, 1).shape[0]!, dim(plus(index(width), units)));
}
