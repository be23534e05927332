/** NonMaxSuppression: boxes from the best score down, those left out that overlap one taken before. */
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { scan } from '../../ir/ops/control.ts';
import { positions, unravel } from '../../ir/ops/counted.ts';
import {
  add,
  and,
  cast,
  div,
  equal,
  greater,
  less,
  maximum,
  minimum,
  mul,
  not,
  select,
  sub,
} from '../../ir/ops/elementwise.ts';
import { gather, gatherNd } from '../../ir/ops/index.ts';
import { topK } from '../../ir/ops/order.ts';
import { reduceAny } from '../../ir/ops/reduce.ts';
import { concat, expand, iota, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { project, scalar } from '../../ir/ops/structural.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, dim, elements, type Shape } from '../../ir/type.ts';
import type { Node } from './node.ts';
import { argument } from './scope.ts';

const shapeOf = (v: Value): Shape => typeOf(v).shape;
const half = scalar(0.5);

/** [low y, low x, high y, high x] along the last axis, from two corners in any order or from centre and extent. */
function corners(boxes: Value, centred: boolean): Value {
  const part = (from: number): Value => sliceAxis(boxes, 2, from, from + 2);
  const [a, b] = [part(0), part(2)];
  if (!centred) return concat([minimum([a, b]), maximum([a, b])], { axis: 2 });
  const reach = mul([b, half]);
  return concat([sub([a, reach]), add([a, reach])], { axis: 2 });
}

const area = (box: Value, axis: number): Value => {
  const side = sub([sliceAxis(box, axis, 2, 4), sliceAxis(box, axis, 0, 2)]);
  return mul([sliceAxis(side, axis, 0, 1), sliceAxis(side, axis, 1, 2)]);
};

/** Whether boxes overlap by more than a fraction of what they cover together; [B, C, P, 1] for [B, C, P, 4] and [B, C, 1, 4]. */
function overlaps(taken: Value, box: Value, limit: Value): Value {
  const pair = (x: Value, from: number): Value => sliceAxis(x, 3, from, from + 2);
  const low = maximum([pair(taken, 0), pair(box, 0)]);
  const side = maximum([sub([minimum([pair(taken, 2), pair(box, 2)]), low]), scalar(0)]);
  const common = mul([sliceAxis(side, 3, 0, 1), sliceAxis(side, 3, 1, 2)]);
  const both = sub([add([area(taken, 3), area(box, 3)]), common]);
  return and([greater([common, scalar(0)]), greater([div([common, both]), limit])]);
}

const scalarOperand = (n: Node, i: number, usual: number): Value => {
  const given = n.optional(i);
  if (!given) return scalar(usual);
  return shapeOf(given).length === 0 ? given : reshape([given], { shape: [] });
};

/**
 * B batch, C classes, N boxes, P most boxes of one class.
 * @returns [K, 3]: batch, class and box, in order of batch and class, then from the best score down
 */
export function suppression(n: Node): Value {
  const [batch, classes, boxes] = shapeOf(n.value(1)) as [Dim, Dim, Dim];
  const fixed = n.has(2) && n.item(2).constant() === undefined ? undefined : Math.max(0, n.number(2) ?? 0);
  // A number that comes with the data takes as many as there are boxes.
  const most = fixed === undefined ? scalarOperand(n, 2, 0) : scalar(fixed, 'i64');
  const limit = scalarOperand(n, 3, 0);
  const least = n.optional(4) && scalarOperand(n, 4, 0);
  const places = Math.max(1, Math.min(fixed ?? Infinity, boundsOf(asExpr(boxes))[1]));
  const sorted = topK([n.value(1)], { k: boxes, axis: 2, largest: true });
  const [scores, order] = [project(sorted, 0), project(sorted, 1)];
  const rows = dim(elements([classes, boxes]));
  const all = corners(n.value(0), n.int('center_point_box', 0) !== 0);
  const inOrder = gatherNd([all, reshape([order], { shape: [batch, rows, 1] })], { batchDims: 1 });
  const items = transpose([reshape([inOrder], { shape: [batch, classes, boxes, 4] })], { perm: [2, 0, 1, 3] });
  const fit = least ? greater([scores, least]) : expand([scalar(1, 'bool')], { shape: shapeOf(scores) });
  const fits = transpose([fit], { perm: [2, 0, 1] });

  const taken = argument('taken', { kind: 'tensor', dtype: 'f32', shape: [batch, classes, places, 4] });
  const count = argument('count', { kind: 'tensor', dtype: 'i32', shape: [batch, classes, 1, 1] });
  const box = argument('box', { kind: 'tensor', dtype: 'f32', shape: [batch, classes, 4] });
  const ok = argument('fits', { kind: 'tensor', dtype: 'bool', shape: [batch, classes] });
  const bound = argument('limit', typeOf(limit));
  const one = reshape([box], { shape: [batch, classes, 1, 4] });
  const place = iota([], { axis: 2, shape: [1, 1, places, 1], dtype: 'i32' });
  const hit = reduceAny([and([less([place, count]), overlaps(taken, one, bound)])], { axes: [2], keepdims: true });
  const enough = argument('enough', typeOf(most));
  const room = less([cast([count], { to: 'i64' }), enough]);
  const takes = and([and([reshape([ok], { shape: [batch, classes, 1, 1] }), not([hit])]), room]);
  const here = and([takes, equal([place, count])]);
  const body = graph(
    'box',
    [taken, count, box, ok, bound, enough],
    [
      ['taken', select([here, one, taken])],
      ['count', add([count, cast([takes], { to: 'i32' })])],
      ['takes', reshape([takes], { shape: [batch, classes] })],
    ],
  );
  const nothing = expand([scalar(0)], { shape: shapeOf(taken) });
  const none = expand([scalar(0, 'i32')], { shape: shapeOf(count) });
  const walked = scan([nothing, none, items, fits, limit, most], { body, carried: 2, closed: 2 });

  const flags = transpose([project(walked, 2)], { perm: [1, 2, 0] });
  const flat = (x: Value): Value => reshape([x], { shape: [dim(elements([batch, classes, boxes]))] });
  const found = positions([flat(flags)]);
  const [ids] = n.cut([project(found, 0)], project(found, 1));
  const at = unravel([ids!], { shape: [batch, classes, boxes] });
  const size = shapeOf(ids!)[0]!;
  const which = reshape([gather([flat(order), ids!])], { shape: [1, size] });
  return transpose([concat([sliceAxis(at, 0, 0, 2), which], { axis: 0 })], { perm: [1, 0] });
}
