/** Reductions: axes as an attribute or an operand, and those that are sums of something. */
import { isFloat, isInt, type Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { abs, cast, div, log, mul, sqrt } from '../../ir/ops/elementwise.ts';
import { argMax, argMin } from '../../ir/ops/order.ts';
import {
  foldCount,
  logSumExp,
  reduceAll,
  reduceAny,
  reduceMax,
  reduceMean,
  reduceMin,
  reduceProd,
  reduceSum,
} from '../../ir/ops/reduce.ts';
import { axesOf } from './import-only-shape.ts';
import type { Entries, Entry, Node } from './node.ts';

interface FoldAttrs {
  readonly axes: readonly number[];
  readonly keepdims: boolean;
}

/** A reduction from what it does to x and the axes. */
const fold =
  (build: (x: Value, attrs: FoldAttrs) => Value): Entry =>
  (n) => {
    const rank = n.rank(0);
    const given = axesOf(n, 1, rank);
    const noop = n.int('noop_with_empty_axes', 0) !== 0;
    const all = given === undefined || given.length === 0;
    const axes = all ? (noop ? [] : Array.from({ length: rank }, (_, i) => i)) : given;
    return build(n.value(0), { axes, keepdims: n.int('keepdims', 1) !== 0 });
  };

/** Integers as f64 while `f` runs: its result is rounded towards zero. */
function inFloat(x: Value, f: (x: Value) => Value): Value {
  const { dtype } = typeOf(x);
  return isFloat(dtype) ? f(x) : cast([f(cast([x], { to: 'f64' }))], { to: dtype });
}
const squared = (x: Value): Value => mul([x, x]);

const arg = (op: typeof argMax): Entry => {
  return (n: Node) =>
    op([n.value(0)], {
      axis: n.int('axis', 0),
      keepdims: n.int('keepdims', 1) !== 0,
      last: n.int('select_last_index', 0) !== 0,
    });
};
const isBool = (dtype: Scalar): boolean => dtype === 'bool';

export const reductions: Entries = {
  ReduceSum: fold((x, a) => reduceSum([x], a)),
  ReduceMean: fold((x, a) => {
    const { dtype } = typeOf(x);
    return isInt(dtype) ? div([reduceSum([x], a), foldCount(typeOf(x), a.axes)]) : reduceMean([x], a);
  }),
  ReduceMax: fold((x, a) => (isBool(typeOf(x).dtype) ? reduceAny([x], a) : reduceMax([x], a))),
  ReduceMin: fold((x, a) => (isBool(typeOf(x).dtype) ? reduceAll([x], a) : reduceMin([x], a))),
  ReduceProd: fold((x, a) => reduceProd([x], a)),
  ReduceSumSquare: fold((x, a) => reduceSum([squared(x)], a)),
  ReduceL1: fold((x, a) => reduceSum([abs([x])], a)),
  ReduceL2: fold((x, a) => inFloat(x, (v) => sqrt([reduceSum([squared(v)], a)]))),
  ReduceLogSum: fold((x, a) => inFloat(x, (v) => log([reduceSum([v], a)]))),
  ReduceLogSumExp: fold((x, a) => inFloat(x, (v) => logSumExp([v], a))),
  ArgMax: arg(argMax),
  ArgMin: arg(argMin),
};
