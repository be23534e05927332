/**
 * Ops that read or write at positions given as data. Indices are i32 or i64; negative ones count from the end. An index
 * outside its axis is an error in the reference; kernels clamp it into the axis when reading and drop it when writing.
 */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { isInt, mulInt } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import { typeOf, type Value } from '../graph.ts';
import { eachIndex, generate, type Nd, rowMajor } from '../nd.ts';
import { defineOp } from '../op.ts';
import * as s from '../scalar.ts';
import { asExpr, type Dim, sameShape, type TensorType, tensor } from '../type.ts';
import { expectRank, expectRankAtLeast, expectSameDim, expectSameDtype, expectShape, normalizeAxis } from './check.ts';
import { member } from './elementwise-define.ts';
import { f32, given, i32 } from './example.ts';
import { gatherElementsNeed, gatherNdNeed, gatherNeed, scatterElementsNeed, scatterNdNeed } from './movement-need.ts';
import { expand, reshape, transpose } from './shape.ts';
import { scalar } from './structural.ts';

const expectIndices = (type: TensorType): void => {
  if (type.dtype !== 'i32' && type.dtype !== 'i64')
    fail('dtype', `indices must be i32 or i64, not ${type.dtype}`, { help: 'cast them' });
};
/** A position on an axis of `size`. @throws CompileError `range` */
function position(op: string, index: number, size: number, axis: number): number {
  const at = index < 0 ? index + size : index;
  if (at < 0 || at >= size) fail('range', `${op}: index ${index} is outside axis ${axis} of size ${size}`);
  return at;
}
/** A loaded index as an i32 position inside 0 … size − 1. */
export function wrapIndex(index: Expr, size: Dim): Expr {
  const i = s.cast(index, 'i32');
  const at = s.select(s.lt(i, 0), s.add(i, size), i);
  return s.max(s.min(at, s.sub(asExpr(size), 1)), 0);
}
const flat = (at: readonly number[], strides: readonly number[]): number =>
  at.reduce((n, c, i) => n + c * strides[i]!, 0);

/** Rows of x: the axis is replaced by the axes of the indices. */
export const gather = defineOp({
  name: 'gather',
  doc: 'Rows of x along an axis, which is replaced by the axes of the indices; negative indices count from the end.',
  inputs: ['x', 'indices'],
  attrs: { axis: opt.int(0, 'axis to read along; negative counts from the end') },
  type: ([x, indices], attrs) => {
    expectIndices(indices!);
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    return tensor(x!.dtype, x!.shape.toSpliced(axis, 1, ...indices!.shape));
  },
  axes: ([x, indices], attrs) => {
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    const shift = indices!.shape.length - 1;
    return [
      x!.shape.map((_, i) => (i === axis ? 'mix' : i < axis ? i : i + shift)),
      indices!.shape.map((_, i) => axis + i),
    ];
  },
  need: gatherNeed,
  eval: ([x, indices], attrs, cx) => {
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    const [xs, is, rank] = [rowMajor(x!.shape), rowMajor(indices!.shape), indices!.shape.length];
    return generate(x!.dtype, cx.types[0]!.shape, (at) => {
      const index = indices!.data[flat(at.slice(axis, axis + rank), is)]!;
      return x!.data[flat(at.toSpliced(axis, rank, position('gather', index, x!.shape[axis]!, axis)), xs)]!;
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs, inputs: [x, indices] }) => {
      const axis = normalizeAxis(attrs.axis, x!.shape.length);
      const rank = indices!.shape.length;
      const row = wrapIndex(load(1, at.slice(axis, axis + rank)), x!.shape[axis]!);
      return load(0, at.toSpliced(axis, rank, row));
    },
  },
  grad: (out, [dy]): (Value | null)[] => {
    const [x, indices] = out.inputs as [Value, Value];
    const [xt, it] = [typeOf(x), typeOf(indices)];
    const axis = normalizeAxis(out.attrs.axis as number, xt.shape.length);
    // With the axis in front, rows are addressed by their first coordinate: one index column.
    const front = [axis, ...xt.shape.keys()].filter((a, i) => i === 0 || a !== axis);
    const rank = it.shape.length;
    const rows = Array.from({ length: xt.shape.length - 1 + rank }, (_, i) => i);
    const rowsFirst = [...rows.slice(axis, axis + rank), ...rows.slice(0, axis), ...rows.slice(axis + rank)];
    const empty = expand([scalar(0, xt.dtype)], { shape: front.map((a) => xt.shape[a]!) });
    const column = reshape([indices], { shape: [...it.shape, 1] });
    const sums = scatterNd([empty, column, transpose([dy!], { perm: rowsFirst })], { reduction: 'add' });
    return [transpose([sums], { perm: front.map((_, i) => front.indexOf(i)) }), null];
  },
  onnx: { op: 'Gather', since: 13, attrs: { axis: 'axis' } },
  examples: [
    { inputs: [f32(5, 3), given('i64', [2, 2], [0, 4, -1, 2])] },
    { inputs: [f32(2, 5, 3), given('i32', [], [3])], attrs: { axis: 1 }, note: 'a scalar index drops the axis' },
    { inputs: [f32(2, 5), given('i32', [3], [-5, 0, 4])], attrs: { axis: -1 } },
    { inputs: [f32(4, 2), given('i64', [0], [])] },
  ],
});

/** One element of x for each index: all other coordinates are the index's own. */
export const gatherElements = defineOp({
  name: 'gather_elements',
  doc: 'For each index, the element of x at the same coordinates except on the axis, where the index says.',
  inputs: ['x', 'indices'],
  attrs: { axis: opt.int(0, 'axis that the indices address') },
  type: ([x, indices], attrs) => {
    expectIndices(indices!);
    expectRankAtLeast(x!, 1, 'x');
    expectRank(indices!, x!.shape.length, 'indices');
    normalizeAxis(attrs.axis, x!.shape.length);
    return tensor(x!.dtype, indices!.shape);
  },
  axes: ([x, indices], attrs) => {
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    return [
      x!.shape.map((d, i) => (i !== axis && sameShape([d], [indices!.shape[i]!]) ? i : 'mix')),
      indices!.shape.map((_, i) => i),
    ];
  },
  need: gatherElementsNeed,
  eval: ([x, indices], attrs) => {
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    const strides = rowMajor(x!.shape);
    let next = 0;
    return generate(x!.dtype, indices!.shape, (at) => {
      const row = position('gather_elements', indices!.data[next++]!, x!.shape[axis]!, axis);
      return x!.data[flat(at.with(axis, row), strides)]!;
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs, inputs: [x] }) => {
      const axis = normalizeAxis(attrs.axis, x!.shape.length);
      return load(0, at.with(axis, wrapIndex(load(1, at), x!.shape[axis]!)));
    },
  },
  grad: (out, [dy]): (Value | null)[] => {
    const [x, indices] = out.inputs as [Value, Value];
    const { dtype, shape } = typeOf(x);
    const empty = expand([scalar(0, dtype)], { shape });
    return [scatterElements([empty, indices, dy!], { axis: out.attrs.axis as number, reduction: 'add' }), null];
  },
  onnx: { op: 'GatherElements', since: 13, attrs: { axis: 'axis' } },
  examples: [
    { inputs: [f32(3, 4), given('i64', [2, 4], [0, 1, 2, -1, 2, 2, 0, -3])] },
    { inputs: [f32(3, 4), given('i32', [3, 2], [0, 3, -1, 2, 1, 1])], attrs: { axis: -1 } },
    { inputs: [f32(3), given('i32', [0], [])] },
  ],
});

/** Number of x axes that the last axis of the indices addresses; it must be known. */
function indexDepth(indices: TensorType): number {
  const depth = indices.shape.at(-1);
  if (typeof depth !== 'number') fail('shape', 'the last axis of the indices needs a static size');
  return depth;
}

/** Slices of x at coordinate tuples. */
export const gatherNd = defineOp({
  name: 'gather_nd',
  doc: 'Slices of x at coordinate tuples: the last axis of the indices holds the first coordinates after the batch axes.',
  inputs: ['x', 'indices'],
  attrs: { batchDims: opt.int(0, 'leading axes that x and indices share') },
  type: ([x, indices], { batchDims }) => {
    expectIndices(indices!);
    expectRankAtLeast(indices!, batchDims + 1, 'indices');
    const depth = indexDepth(indices!);
    expectRankAtLeast(x!, batchDims + depth, 'x');
    for (let i = 0; i < batchDims; i++) expectSameDim(x!.shape[i]!, indices!.shape[i]!, `batch axis ${i} differs`);
    return tensor(x!.dtype, [...indices!.shape.slice(0, -1), ...x!.shape.slice(batchDims + depth)]);
  },
  axes: ([x, indices], { batchDims }) => {
    const rank = indices!.shape.length - 1;
    const depth = indexDepth(indices!);
    return [
      x!.shape.map((_, i) => (i < batchDims ? i : i < batchDims + depth ? 'mix' : i - batchDims - depth + rank)),
      indices!.shape.map((_, i) => (i < rank ? i : 'mix')),
    ];
  },
  need: gatherNdNeed,
  eval: ([x, indices], { batchDims }, cx) => {
    const rank = indices!.shape.length - 1;
    const depth = indices!.shape[rank]!;
    const [xs, is] = [rowMajor(x!.shape), rowMajor(indices!.shape)];
    return generate(x!.dtype, cx.types[0]!.shape, (at) => {
      const tuple = Array.from({ length: depth }, (_, i) =>
        position(
          'gather_nd',
          indices!.data[flat([...at.slice(0, rank), i], is)]!,
          x!.shape[batchDims + i]!,
          batchDims + i,
        ),
      );
      return x!.data[flat([...at.slice(0, batchDims), ...tuple, ...at.slice(rank)], xs)]!;
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs: { batchDims }, inputs: [x, indices] }) => {
      const rank = indices!.shape.length - 1;
      const tuple = Array.from({ length: indexDepth(indices!) }, (_, i) =>
        wrapIndex(load(1, [...at.slice(0, rank), s.literal(i)]), x!.shape[batchDims + i]!),
      );
      return load(0, [...at.slice(0, batchDims), ...tuple, ...at.slice(rank)]);
    },
  },
  onnx: { op: 'GatherND', since: 13, attrs: { batchDims: 'batch_dims' } },
  examples: [
    { inputs: [f32(3, 4, 5), given('i64', [2, 2], [0, 1, -1, 3])] },
    { inputs: [f32(2, 3, 4), given('i64', [2, 1], [1, -1])], attrs: { batchDims: 1 } },
    { inputs: [f32(3, 4), given('i64', [2, 2], [0, 1, 2, 3])], note: 'scalars' },
    { inputs: [f32(3, 4), given('i32', [0, 1], [])] },
  ],
});

const REDUCTIONS = ['none', 'add', 'mul', 'min', 'max'] as const;
type Reduction = (typeof REDUCTIONS)[number];
/** `old` after an update arrives. */
function combine(reduction: Reduction, dtype: Nd['dtype'], old: number, update: number): number {
  switch (reduction) {
    case 'none':
      return update;
    case 'add':
      return member(dtype, old + update);
    case 'mul':
      return isInt(dtype) ? mulInt(dtype, old, update) : old * update;
    case 'min':
      return Math.min(old, update);
    case 'max':
      return Math.max(old, update);
  }
}
function checkUpdates(x: TensorType, updates: TensorType, reduction: Reduction): void {
  expectSameDtype([x, updates], 'x and updates');
  if (reduction !== 'none' && x.dtype === 'bool') fail('dtype', `bool does not ${reduction}`);
}

/** A copy of x with some elements replaced or combined. */
export const scatterElements = defineOp({
  name: 'scatter_elements',
  doc: 'x with each update applied at its own coordinates except on the axis, where its index says; updates apply in C order.',
  inputs: ['x', 'indices', 'updates'],
  attrs: {
    axis: opt.int(0, 'axis that the indices address'),
    reduction: opt.oneOf(REDUCTIONS, 'none', 'how an update joins'),
  },
  type: ([x, indices, updates], { axis, reduction }) => {
    expectIndices(indices!);
    expectRankAtLeast(x!, 1, 'x');
    expectRank(indices!, x!.shape.length, 'indices');
    expectShape('updates', updates!, indices!.shape);
    normalizeAxis(axis, x!.shape.length);
    checkUpdates(x!, updates!, reduction);
    return x!;
  },
  need: scatterElementsNeed,
  eval: ([x, indices, updates], attrs) => {
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    const strides = rowMajor(x!.shape);
    const data = x!.data.slice();
    eachIndex(indices!.shape, (at, n) => {
      for (const [i, c] of at.entries()) if (i !== axis) position('scatter_elements', c, x!.shape[i]!, i);
      const to = flat(at.with(axis, position('scatter_elements', indices!.data[n]!, x!.shape[axis]!, axis)), strides);
      data[to] = combine(attrs.reduction, x!.dtype, data[to]!, updates!.data[n]!);
    });
    return { dtype: x!.dtype, shape: x!.shape, data };
  },
  lower: { kind: 'schedule', name: 'scatter' },
  grad: (out, [dy]): (Value | null)[] => {
    const { axis, reduction } = out.attrs as { axis: number; reduction: Reduction };
    if (reduction !== 'add') fail('unsupported', `scatter_elements: reduction "${reduction}" has no gradient`);
    return [dy!, null, gatherElements([dy!, out.inputs[1]!], { axis })];
  },
  onnx: { op: 'ScatterElements', since: 18, attrs: { axis: 'axis', reduction: 'reduction' } },
  examples: [
    { inputs: [f32(3, 4), given('i64', [2, 4], [0, 1, 2, -1, 2, 2, 0, 0]), f32(2, 4)] },
    { inputs: [f32(3, 4), given('i32', [3, 2], [0, 0, 1, -1, 2, 2]), f32(3, 2)], attrs: { axis: 1, reduction: 'add' } },
    { inputs: [i32(5), given('i32', [4], [0, 0, 4, 4]), i32(4)], attrs: { reduction: 'mul' } },
    { inputs: [f32(5), given('i32', [4], [0, 0, 4, 4]), f32(4)], attrs: { reduction: 'max' } },
    { inputs: [f32(5), given('i32', [4], [0, 0, 4, 4]), f32(4)], attrs: { reduction: 'min' } },
    { inputs: [f32(2), given('i32', [0], []), f32(0)], note: 'no updates' },
  ],
});

/** A copy of x with slices at coordinate tuples replaced or combined. */
export const scatterNd = defineOp({
  name: 'scatter_nd',
  doc: 'x with slices at coordinate tuples (the last axis of the indices) replaced or combined; updates apply in C order.',
  inputs: ['x', 'indices', 'updates'],
  attrs: { reduction: opt.oneOf(REDUCTIONS, 'none', 'how an update joins') },
  type: ([x, indices, updates], { reduction }) => {
    expectIndices(indices!);
    expectRankAtLeast(indices!, 1, 'indices');
    const depth = indexDepth(indices!);
    expectRankAtLeast(x!, depth, 'x');
    expectShape('updates', updates!, [...indices!.shape.slice(0, -1), ...x!.shape.slice(depth)]);
    checkUpdates(x!, updates!, reduction);
    return x!;
  },
  need: scatterNdNeed,
  eval: ([x, indices, updates], { reduction }) => {
    const rank = indices!.shape.length - 1;
    const depth = indices!.shape[rank]!;
    const [xs, is] = [rowMajor(x!.shape), rowMajor(indices!.shape)];
    const data = x!.data.slice();
    eachIndex(updates!.shape, (at, n) => {
      const tuple = Array.from({ length: depth }, (_, i) =>
        position('scatter_nd', indices!.data[flat([...at.slice(0, rank), i], is)]!, x!.shape[i]!, i),
      );
      const to = flat([...tuple, ...at.slice(rank)], xs);
      data[to] = combine(reduction, x!.dtype, data[to]!, updates!.data[n]!);
    });
    return { dtype: x!.dtype, shape: x!.shape, data };
  },
  lower: { kind: 'schedule', name: 'scatter' },
  grad: (out, [dy]): (Value | null)[] => {
    const { reduction } = out.attrs as { reduction: Reduction };
    if (reduction !== 'add') fail('unsupported', `scatter_nd: reduction "${reduction}" has no gradient`);
    return [dy!, null, gatherNd([dy!, out.inputs[1]!])];
  },
  onnx: { op: 'ScatterND', since: 18, attrs: { reduction: 'reduction' } },
  examples: [
    { inputs: [f32(5, 3), given('i64', [2, 1], [4, -5]), f32(2, 3)] },
    { inputs: [f32(3, 4), given('i32', [3, 2], [0, 0, 2, 3, 0, 0]), f32(3)], attrs: { reduction: 'add' } },
    { inputs: [i32(3, 2), given('i32', [2, 1], [1, 1]), i32(2, 2)], attrs: { reduction: 'min' } },
    { inputs: [f32(3, 2), given('i32', [2, 1], [1, 1]), f32(2, 2)], attrs: { reduction: 'max' } },
    { inputs: [f32(3, 2), given('i32', [0, 1], []), f32(0, 2)], note: 'no updates' },
  ],
});

/** A 1 at each index, on a new axis. */
export const oneHot = defineOp({
  name: 'one_hot',
  doc: 'On a new axis, `on` at the index (negative counts from the end) and `off` elsewhere; an index outside gives only `off`.',
  inputs: ['indices'],
  attrs: {
    depth: attr.dim('size of the new axis'),
    axis: opt.int(-1, 'position of the new axis in the result'),
    on: opt.float(1, 'value at the index'),
    off: opt.float(0, 'value elsewhere'),
    dtype: attr.dtype('element type of the result'),
  },
  type: ([indices], { depth, axis, dtype }) => {
    expectIndices(indices!);
    return tensor(dtype, indices!.shape.toSpliced(normalizeAxis(axis, indices!.shape.length + 1), 0, depth));
  },
  axes: ([indices], { axis }) => {
    const at = normalizeAxis(axis, indices!.shape.length + 1);
    return [indices!.shape.map((_, i) => (i < at ? i : i + 1))];
  },
  eval: ([indices], { axis, on, off, dtype }, cx) => {
    const { shape } = cx.types[0]!;
    const at0 = normalizeAxis(axis, shape.length);
    const strides = rowMajor(indices!.shape);
    return generate(dtype, shape, (at) => {
      const index = indices!.data[flat(at.toSpliced(at0, 1), strides)]!;
      return member(dtype, at[at0] === (index < 0 ? index + shape[at0]! : index) ? on : off);
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs: { depth, axis, on, off, dtype } }) => {
      const at0 = normalizeAxis(axis, at.length);
      const i = s.cast(load(0, at.toSpliced(at0, 1)), 'i32');
      const hit = s.eq(at[at0]!, s.select(s.lt(i, 0), s.add(i, depth), i));
      return s.select(hit, s.literal(on, dtype), s.literal(off, dtype));
    },
  },
  grad: () => [null],
  examples: [
    { inputs: [given('i64', [3], [0, 2, -1])], attrs: { depth: 4, dtype: 'f32' } },
    {
      inputs: [given('i32', [2, 2], [0, 1, 2, 5])],
      attrs: { depth: 3, axis: 0, on: 5, off: -1, dtype: 'i32' },
      note: '5 is outside',
    },
    { inputs: [given('i32', [], [1])], attrs: { depth: 2, dtype: 'bool' } },
    { inputs: [given('i32', [0], [])], attrs: { depth: 2, dtype: 'f32' } },
  ],
});
