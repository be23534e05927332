/** Operators whose steps depend on the step before, written as scans. */
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { scan } from '../../ir/ops/control.ts';
import { abs, and, div, equal, greater, greaterEqual, mul, notEqual, select, sub } from '../../ir/ops/elementwise.ts';
import { argMax } from '../../ir/ops/order.ts';
import { reduceSum } from '../../ir/ops/reduce.ts';
import { reshape, transpose } from '../../ir/ops/shape.ts';
import { projectAll } from '../../ir/ops/structural.ts';
import { type Dim, sameDim, tensor } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';
import { argument } from './scope.ts';
import { counter, filled, like, product, to, where, workType } from './values.ts';

function cumulativeProduct(n: Node): Value {
  const x = n.value(0);
  const { shape, dtype } = typeOf(x);
  const axis = n.axis(n.number(1) ?? n.fail('the axis is missing'), shape.length);
  const perm = [axis, ...shape.map((_, i) => i).filter((i) => i !== axis)];
  const first = axis === 0 ? x : transpose([x], { perm });
  const line = perm.slice(1).map((i) => shape[i]!);
  const state = argument('product', tensor(dtype, line));
  const item = argument('item', tensor(dtype, line));
  const next = mul([state, item]);
  const exclusive = n.int('exclusive', 0) !== 0;
  const results = scan([filled(1, dtype, line), first], {
    body: graph(
      'step',
      [state, item],
      [
        ['product', next],
        ['out', exclusive ? state : next],
      ],
    ),
    carried: 1,
    reverse: n.int('reverse', 0) !== 0,
  });
  const out = projectAll(results)[1]!;
  return axis === 0 ? out : transpose([out], { perm: perm.map((_, i) => perm.indexOf(i)) });
}

/**
 * The determinant by elimination, one column a step; the row with the largest element leads.
 *
 * B matrices of M × M.
 */
function determinant(n: Node): Value {
  const x = n.value(0);
  const { shape, dtype } = typeOf(x);
  const [size, columns] = [shape.at(-2), shape.at(-1)];
  if (size === undefined || columns === undefined || !sameDim(size, columns))
    return n.fail('its operand must be square matrices', undefined, 'shape');
  const lead = shape.slice(0, -2);
  const count = product(lead);
  const work = workType(dtype);
  const matrices = reshape([to(x, work)], { shape: [count, size, size] });
  const old = argument('matrices', tensor(work, [count, size, size]));
  const det = argument('determinant', tensor(work, [count]));
  const k = argument('column', tensor('i64', []));
  const [row, column] = [counter(size, 1, 3, 'i64'), counter(size, 2, 3, 'i64')];
  const only = (taken: Value, values: Value, axis: number): Value =>
    reduceSum([where(taken, values, 0)], { axes: [axis], keepdims: true });
  const inColumn = equal([column, k]);
  const below = greaterEqual([row, k]);
  const candidates = where(below, abs([only(inColumn, old, 2)]), -1);
  const leading = argMax([reshape([candidates], { shape: [count, size] })], { axis: 1 });
  const chosen = equal([row, reshape([leading], { shape: [count, 1, 1] })]);
  const own = equal([row, k]);
  const [pivotRow, kRow] = [only(chosen, old, 1), only(own, old, 1)];
  const swapped = select([own, pivotRow, select([chosen, kRow, old])]);
  const pivot = only(inColumn, pivotRow, 2);
  const eliminating = and([greater([row, k]), notEqual([pivot, like(pivot, 0)])]);
  const factor = where(eliminating, div([only(inColumn, swapped, 2), pivot]), 0);
  const next = sub([swapped, mul([factor, pivotRow])]);
  const sign = where(equal([leading, k]), filled(1, work, [count]), -1);
  const results = scan([matrices, filled(1, work, [count]), counter(size, 0, 1, 'i64')], {
    body: graph(
      'eliminate',
      [old, det, k],
      [
        ['matrices', next],
        ['determinant', mul([det, mul([reshape([pivot], { shape: [count] }), sign])])],
      ],
    ),
    carried: 2,
  });
  return to(reshape([projectAll(results)[1]!], { shape: lead satisfies readonly Dim[] }), dtype);
}

export const scans: Entries = {
  CumProd: cumulativeProduct,
  Det: determinant,
};
