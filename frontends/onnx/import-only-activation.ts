/** ONNX operators on single elements that have no object of their own here, or whose attributes are spelled otherwise. */
import { isFloat, type Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import {
  add,
  and,
  cast,
  clamp,
  div,
  elu,
  exp,
  greater,
  isInf,
  less,
  maximum,
  minimum,
  mul,
  not,
  pow,
  select,
  shiftLeft,
  shiftRight,
  sigmoid,
  sub,
} from '../../ir/ops/elementwise.ts';
import { oneHot } from '../../ir/ops/index.ts';
import { argMax } from '../../ir/ops/order.ts';
import { reshape } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import type { Entries, Node } from './node.ts';
import { product } from './values.ts';

const dtypeOf = (x: Value): Scalar => typeOf(x).dtype;
const like = (x: Value, value: number): Value => scalar(value, dtypeOf(x));

/** Operands combined two by two; a single one is itself. */
const chain =
  (op: (pair: readonly Value[]) => Value) =>
  (n: Node): Value =>
    n.values().reduce((a, b) => op([a, b]));

function mean(n: Node): Value {
  const all = n.values();
  const sum = all.reduce((a, b) => add([a, b]));
  return div([sum, like(sum, all.length)]);
}

function clip(n: Node): Value {
  const x = n.value(0);
  const old = n.opset < 11;
  const known = (i: number, name: string): number | undefined => {
    if (old) return n.hasAttribute(name) ? n.float(name) : undefined;
    return n.items[i]?.literal ? n.number(i) : undefined;
  };
  const [low, high] = [known(1, 'min'), known(2, 'max')];
  const open = !old && [1, 2].some((i) => n.has(i) && !n.items[i]!.literal);
  if (open || (low !== undefined && high !== undefined && low > high)) {
    const above = n.has(1) ? maximum([x, n.value(1)]) : x;
    return n.has(2) ? minimum([above, n.value(2)]) : above;
  }
  if (low === undefined && high === undefined) return x;
  return clamp([x], { min: low ?? -Infinity, max: high ?? Infinity });
}

function power(n: Node): Value {
  const [x, y] = [n.value(0), n.value(1)];
  const own = dtypeOf(x);
  const wide: Scalar = isFloat(own) ? own : 'f64';
  const to = (v: Value): Value => (dtypeOf(v) === wide ? v : cast([v], { to: wide }));
  const result = pow([to(x), to(y)]);
  // Through i64, so that what overflows wraps as integers do.
  return own === wide ? result : cast([cast([result], { to: 'i64' })], { to: own });
}

function swish(n: Node): Value {
  const x = n.value(0);
  const alpha = n.float('alpha', 1);
  return mul([x, sigmoid([alpha === 1 ? x : mul([x, like(x, alpha)])])]);
}

function hardmax(n: Node): Value {
  const x = n.value(0);
  const { shape, dtype } = typeOf(x);
  const axis = n.axis(n.int('axis', n.opset < 13 ? 1 : -1), shape.length);
  if (n.opset >= 13) return oneHot([argMax([x], { axis })], { depth: shape[axis]!, axis, dtype });
  // Before opset 13 the axes from `axis` on are one.
  const [rows, width] = [product(shape.slice(0, axis)), product(shape.slice(axis))];
  const best = argMax([reshape([x], { shape: [rows, width] })], { axis: 1 });
  return reshape([oneHot([best], { depth: width, axis: 1, dtype })], { shape });
}

export const activations: Entries = {
  Max: chain((p) => maximum(p)),
  Min: chain((p) => minimum(p)),
  Sum: chain((p) => add(p)),
  Mean: mean,
  Clip: clip,
  Pow: power,
  PRelu: (n) => {
    const [x, slope] = [n.value(0), n.value(1)];
    return select([less([x, like(x, 0)]), mul([x, slope]), x]);
  },
  Selu: (n) => {
    const x = n.value(0);
    const [alpha, gamma] = [n.float('alpha', 1.6732632423543772), n.float('gamma', 1.0507009873554805)];
    return mul([elu([x], { alpha }), like(x, gamma)]);
  },
  Celu: (n) => {
    const x = n.value(0);
    const alpha = n.float('alpha', 1);
    const below = mul([sub([exp([div([minimum([x, like(x, 0)]), like(x, alpha)])]), like(x, 1)]), like(x, alpha)]);
    return add([maximum([x, like(x, 0)]), below]);
  },
  ThresholdedRelu: (n) => {
    const x = n.value(0);
    return select([greater([x, like(x, n.float('alpha', 1))]), x, like(x, 0)]);
  },
  Shrink: (n) => {
    const x = n.value(0);
    const [lambd, bias] = [n.float('lambd', 0.5), n.float('bias', 0)];
    const high = select([greater([x, like(x, lambd)]), sub([x, like(x, bias)]), like(x, 0)]);
    return select([less([x, like(x, -lambd)]), add([x, like(x, bias)]), high]);
  },
  Swish: swish,
  SwiGLU: (n) => mul([swish(n), n.value(1)]),
  Hardmax: hardmax,
  BitShift: (n) => (n.string('direction') === 'LEFT' ? shiftLeft(n.values()) : shiftRight(n.values())),
  IsInf: (n) => {
    const x = n.value(0);
    const [down, up] = [n.int('detect_negative', 1) !== 0, n.int('detect_positive', 1) !== 0];
    const any = isInf([x]);
    if (down && up) return any;
    if (!down && !up) return and([any, not([any])]);
    const side = up ? greater([x, like(x, 0)]) : less([x, like(x, 0)]);
    return and([any, side]);
  },
};
