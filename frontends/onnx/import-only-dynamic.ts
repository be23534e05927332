/** ONNX operators whose results have as many elements as the data say. */
import { isFloat } from '../../ir/dtype.ts';
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { scan } from '../../ir/ops/control.ts';
import { positions, unravel } from '../../ir/ops/counted.ts';
import { and, cast, equal, not, notEqual, or, sub } from '../../ir/ops/elementwise.ts';
import { gather, scatterElements } from '../../ir/ops/index.ts';
import { cumsum, topK } from '../../ir/ops/order.ts';
import { reduceAny } from '../../ir/ops/reduce.ts';
import { concat, expand, iota, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { constant, project, scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, elements, type Shape } from '../../ir/type.ts';
import { suppression } from './import-only-suppression.ts';
import type { Entries, Node, Results } from './node.ts';
import { argument } from './scope.ts';

const shapeOf = (v: Value): Shape => typeOf(v).shape;
const flatten = (x: Value): Value => reshape([x], { shape: [dim(elements(shapeOf(x)))] });
const numbers = (count: Dim): Value => iota([], { axis: 0, shape: [count], dtype: 'i64' });
const filled = (value: number, count: Dim): Value => expand([scalar(value, 'i64')], { shape: [count] });
const before = (count: Dim): Dim => dim(s.sub(asExpr(count), 1));

/** Positions of true elements of a line, as many as there are. */
export function trueOnes(n: Node, mask: Value): Value {
  const [ids] = n.counting.once(mask, 'positions', () => {
    const order = positions([mask]);
    return n.cut([project(order, 0)], project(order, 1));
  });
  return ids!;
}

function nonZero(n: Node): Value {
  const x = n.value(0);
  const shape = shapeOf(x).length === 0 ? [1] : shapeOf(x);
  const known = n.item(0).literal ? n.constant(0) : undefined;
  if (known) {
    const found = [...known.data.keys()].filter((i) => known.data[i] !== 0);
    const sizes = shape as readonly number[];
    const strides = sizes.map((_, axis) => sizes.slice(axis + 1).reduce((a, b) => a * b, 1));
    const at = sizes.flatMap((size, axis) => found.map((i) => Math.floor(i / strides[axis]!) % size));
    return constant([], { value: nd('i64', [sizes.length, found.length], at) });
  }
  const [found] = n.counting.once(x, 'coordinates', () => {
    const flat = flatten(x);
    const { dtype } = typeOf(x);
    const mask = dtype === 'bool' ? flat : notEqual([flat, scalar(0, dtype)]);
    return [unravel([trueOnes(n, mask)], { shape })];
  });
  return found!;
}

function compress(n: Node): Value {
  const axis = n.hasAttribute('axis') ? n.axis(n.int('axis'), n.rank(0)) : undefined;
  const x = axis === undefined ? flatten(n.value(0)) : n.value(0);
  return gather([x, trueOnes(n, n.value(1))], { axis: axis ?? 0 });
}

/** Slices of a tensor in order. */
interface Sorted {
  /** i64[N]: which slice stands at each place. */
  readonly order: Value;
  /** bool[N]: whether it differs from the one before. */
  readonly starts: Value;
}

/** Whether two are unequal, where NaN equals NaN. */
function differ(a: Value, b: Value): Value {
  const plain = notEqual([a, b]);
  if (!isFloat(typeOf(a).dtype)) return plain;
  return and([plain, not([and([notEqual([a, a]), notEqual([b, b])])])]);
}

/** Rows of `x: [N, M]` in lexicographic order; equal ones keep theirs. */
function sortRows(x: Value): Sorted {
  const [count, width] = shapeOf(x) as [Dim, Dim];
  const keys = typeOf(x).dtype === 'bool' ? cast([x], { to: 'i32' }) : x;
  const sorted = (line: Value): Value => project(topK([line], { k: count, axis: 0, largest: false }), 1);
  const lastFirst = (): Value => {
    const start = numbers(count);
    const order = argument('order', typeOf(start));
    const column = argument('column', { ...typeOf(keys), shape: [count] });
    const next = gather([order, sorted(gather([column, order]))]);
    // What sorts by a later column leaves the order among equals.
    return scan([start, transpose([keys], { perm: [1, 0] })], {
      body: graph('column', [order, column], [['order', next]]),
      carried: 1,
      reverse: true,
    });
  };
  const order = width === 1 ? sorted(reshape([keys], { shape: [count] })) : lastFirst();
  const rows = gather([keys, order]);
  const above = concat([sliceAxis(rows, 0, 0, 1), sliceAxis(rows, 0, 0, before(count))], { axis: 0 });
  const first = equal([numbers(count), scalar(0, 'i64')]);
  return { order, starts: or([reduceAny([differ(rows, above)], { axes: [1] }), first]) };
}

/** Values, positions of their first occurrences, where each element went, how often each occurs. */
function unique(n: Node): Results {
  const axis = n.hasAttribute('axis') ? n.axis(n.int('axis'), n.rank(0)) : undefined;
  const inOrder = n.int('sorted', 1) !== 0;
  const x = axis === undefined ? flatten(n.value(0)) : n.value(0);
  const at = axis ?? 0;
  const rank = shapeOf(x).length;
  const perm = [at, ...Array.from({ length: rank }, (_, i) => i).filter((i) => i !== at)];
  const front = at === 0 ? x : transpose([x], { perm });
  const count = shapeOf(front)[0]!;
  if (count === 0) n.fail('its operand is empty', 'leave the operator out', 'shape');
  const rows = reshape([front], { shape: [count, dim(elements(shapeOf(front).slice(1)))] });
  const { order, starts } = sortRows(rows);
  const run = sub([cumsum([cast([starts], { to: 'i64' })], { axis: 0 }), scalar(1, 'i64')]);
  // For each place in sorted order, where its run starts: the first occurrence, since equal ones keep their order.
  const placed = positions([starts]);
  const head = gather([order, gather([project(placed, 0), run])]);
  const back = (values: Value): Value => scatterElements([filled(0, count), order, values], { axis: 0 });
  let ids: Value;
  let inverse: Value;
  if (inOrder) {
    const [places] = n.cut([project(placed, 0)], project(placed, 1), { min: 1 });
    ids = gather([order, places!]);
    inverse = back(run);
  } else {
    const first = equal([back(head), numbers(count)]);
    const found = positions([first]);
    ids = cast(n.cut([project(found, 0)], project(found, 1), { min: 1 }), { to: 'i64' });
    const rank = sub([cumsum([cast([first], { to: 'i64' })], { axis: 0 }), scalar(1, 'i64')]);
    inverse = gather([rank, back(head)]);
  }
  const ones = expand([scalar(1, 'i64')], { shape: [count] });
  const sums = expand([scalar(0, 'i64')], { shape: shapeOf(ids) });
  const counts = scatterElements([sums, inverse, ones], { axis: 0, reduction: 'add' });
  return [gather([x, ids], { axis: at }), ids, inverse, counts];
}

export const dynamic: Entries = {
  Compress: compress,
  NonMaxSuppression: suppression,
  NonZero: nonZero,
  Unique: unique,
};
