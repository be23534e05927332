/**
 * Recurrent layers of one direction with what ONNX allows beyond the usual: any activation, peepholes, clipping, coupled
 * gates. The usual ones have operators of their own.
 *
 * T steps, B rows, I inputs, H units, G gates.
 */
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { scan } from '../../ir/ops/control.ts';
import {
  add,
  clamp,
  elu,
  greaterEqual,
  hardSigmoid,
  leakyRelu,
  less,
  mul,
  relu,
  select,
  sigmoid,
  softplus,
  softsign,
  sub,
  tanh,
} from '../../ir/ops/elementwise.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { reshape, splitAxis } from '../../ir/ops/shape.ts';
import { projectAll } from '../../ir/ops/structural.ts';
import { type Dim, tensor } from '../../ir/type.ts';
import type { Node } from './node.ts';
import { argument } from './scope.ts';
import { counter, dtypeOf, like, oneMinus, plus, shapeOf, times, where } from './values.ts';

type Activation = (x: Value) => Value;

interface Kind {
  /** Defaults of alpha and beta; fewer where the function has fewer. */
  readonly usual: readonly number[];
  build(x: Value, alpha: number, beta: number): Value;
}

/** By lower-case name: ONNX does not care about case here. */
const KINDS: Readonly<Record<string, Kind>> = {
  relu: { usual: [], build: (x) => relu([x]) },
  tanh: { usual: [], build: (x) => tanh([x]) },
  sigmoid: { usual: [], build: (x) => sigmoid([x]) },
  affine: { usual: [1, 0], build: (x, a, b) => plus(times(x, a), b) },
  leakyrelu: { usual: [0.01], build: (x, alpha) => leakyRelu([x], { alpha }) },
  thresholdedrelu: { usual: [1], build: (x, a) => where(greaterEqual([x, like(x, a)]), x, 0) },
  scaledtanh: { usual: [1, 1], build: (x, a, b) => times(tanh([times(x, b)]), a) },
  hardsigmoid: { usual: [0.2, 0.5], build: (x, alpha, beta) => hardSigmoid([x], { alpha, beta }) },
  elu: { usual: [1], build: (x, alpha) => elu([x], { alpha }) },
  softsign: { usual: [], build: (x) => softsign([x]) },
  softplus: { usual: [], build: (x) => softplus([x]) },
};

/**
 * The functions that a node names, in its order, with their constants: each takes the next alpha, and the next beta, if
 * it has one.
 * @throws CompileError `attribute` for unknown names
 */
export function activationsOf(n: Node, names: readonly string[]): Activation[] {
  const [alphas, betas] = [[...(n.floatList('activation_alpha') ?? [])], [...(n.floatList('activation_beta') ?? [])]];
  return names.map((name) => {
    const known = name.toLowerCase();
    const kind = Object.hasOwn(KINDS, known) ? KINDS[known]! : undefined;
    if (!kind)
      return n.fail(`activation "${name}" is not known`, `known: ${Object.keys(KINDS).join(', ')}`, 'attribute');
    const alpha = kind.usual.length > 0 ? (alphas.shift() ?? kind.usual[0]!) : 0;
    const beta = kind.usual.length > 1 ? (betas.shift() ?? kind.usual[1]!) : 0;
    return (x) => kind.build(x, alpha, beta);
  });
}

export interface Cell {
  readonly gates: number;
  /**
   * New states, of which the first is the output.
   * @param wx products with the input of one step, [B, G·H]
   * @param closed what the layer closes over, as inputs of the step
   */
  step(wx: Value, states: readonly Value[], closed: readonly Value[]): readonly Value[];
}

export interface LayerOptions {
  /** Limit of what reaches an activation; undefined for none. */
  readonly clip: number | undefined;
  readonly activations: readonly Activation[];
}

const clipped = (x: Value, clip: number | undefined): Value =>
  clip === undefined ? x : clamp([x], { min: -clip, max: clip });

/** The gates of [B, G·H]. */
const gatesOf = (x: Value, gates: number, units: Dim): Value[] => splitAxis(x, 1, new Array<Dim>(gates).fill(units));

interface Lstm extends LayerOptions {
  readonly units: Dim;
  /** Whether the closed values are (r, bias of r, peepholes) or lack the peepholes. */
  readonly peepholes: boolean;
  /** Whether the forget gate is what the input gate leaves. */
  readonly coupled: boolean;
}
/** Gates i, o, f, c; peepholes i, o, f. */
export const lstmCell = ({ units, peepholes, coupled, clip, activations }: Lstm): Cell => ({
  gates: 4,
  step: (wx, [h, c], [r, bias, p]) => {
    const [f, g, last] = activations as [Activation, Activation, Activation];
    const sums = add([add([wx, matmul([h!, r!], { transposeB: true })]), bias!]);
    const [i, o, forget, fresh] = gatesOf(sums, 4, units) as [Value, Value, Value, Value];
    const [pi, po, pf] = peepholes ? splitAxis(p!, 0, [units, units, units]) : [];
    const peeking = (gate: Value, weight: Value | undefined, cell: Value): Value =>
      f(clipped(weight ? add([gate, mul([weight, cell])]) : gate, clip));
    const input = peeking(i, pi, c!);
    const keep = coupled ? oneMinus(input) : peeking(forget, pf, c!);
    const cell = add([mul([keep, c!]), mul([input, g(clipped(fresh, clip))])]);
    // The state itself is not clipped: onnxruntime reads "the input of activations" so.
    return [mul([peeking(o, po, cell), last(cell)]), cell];
  },
});

interface Gru extends LayerOptions {
  readonly units: Dim;
  readonly linearBeforeReset: boolean;
}
/** Gates z, r, h; closed values: r of the gates, r of h, and their biases. */
export const gruCell = ({ units, linearBeforeReset, clip, activations }: Gru): Cell => ({
  gates: 3,
  step: (wx, [h], [rGates, rNew, bGates, bNew]) => {
    const [f, g] = activations as [Activation, Activation];
    const [wz, wr, wh] = gatesOf(wx, 3, units) as [Value, Value, Value];
    const sums = add([matmul([h!, rGates!], { transposeB: true }), bGates!]);
    const [rz, rr] = gatesOf(sums, 2, units) as [Value, Value];
    const update = f(clipped(add([wz, rz]), clip));
    const reset = f(clipped(add([wr, rr]), clip));
    const recurrent = (state: Value): Value => add([matmul([state, rNew!], { transposeB: true }), bNew!]);
    const past = linearBeforeReset ? mul([reset, recurrent(h!)]) : recurrent(mul([reset, h!]));
    const fresh = g(clipped(add([wh, past]), clip));
    return [add([mul([sub([like(update, 1), update]), fresh]), mul([update, h!])])];
  },
});

/** One gate; closed values: r and its bias. */
export const rnnCell = ({ clip, activations }: LayerOptions): Cell => ({
  gates: 1,
  step: (wx, [h], [r, bias]) => {
    const sum = add([add([wx, matmul([h!, r!], { transposeB: true })]), bias!]);
    return [activations[0]!(clipped(sum, clip))];
  },
});

export interface Layer {
  /** [T, B, I]. */
  readonly x: Value;
  /** [G·H, I]. */
  readonly w: Value;
  /** [G·H]. */
  readonly bias: Value;
  /** [B, H] each. */
  readonly states: readonly Value[];
  readonly closed: readonly Value[];
  /** [B]. */
  readonly lens: Value | undefined;
  readonly reverse: boolean;
}

/** y[T, B, H], zero past a row's length, and the final states. */
export function runCell(cell: Cell, { x, w, bias, states, closed, lens, reverse }: Layer): Value[] {
  const [steps, rows] = shapeOf(x) as [Dim, Dim, Dim];
  const products = add([matmul([x, w], { transposeB: true }), bias]);
  const old = states.map((v, i) => argument(`state${i}`, typeOf(v)));
  const wx = argument('wx', tensor(dtypeOf(x), shapeOf(products).slice(1)));
  const inner = closed.map((v, i) => argument(`closed${i}`, typeOf(v)));
  let next = cell.step(wx, old, inner);
  let y = next[0]!;
  const [items, xs]: [Value[], Value[]] = [[wx], [products]];
  const [outer, captured]: [Value[], Value[]] = [[...closed], [...inner]];
  if (lens) {
    const time = argument('time', tensor(dtypeOf(lens), []));
    const ends = argument('lens', typeOf(lens));
    const alive = reshape([less([time, ends])], { shape: [rows, 1] });
    next = next.map((v, i) => select([alive, v, old[i]!]));
    y = where(alive, y, 0);
    items.push(time);
    xs.push(counter(steps, 0, 1, dtypeOf(lens)));
    captured.push(ends);
    outer.push(lens);
  }
  const results = [...next.map((v, i) => [`state${i}`, v] as const), ['y', y] as const];
  const out = projectAll(
    scan([...states, ...xs, ...outer], {
      body: graph('step', [...old, ...items, ...captured], results),
      carried: states.length,
      closed: outer.length,
      reverse,
    }),
  );
  return [out.at(-1)!, ...out.slice(0, -1)];
}
