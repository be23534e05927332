/**
 * Some rows of an axis, and their way back. `ids` are positions on the axis: i32 or i64, none negative, [K] for all
 * batch entries or [B, K] where each entry has its own. They are what a program keeps when nobody reads the other rows.
 */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import type { Expr } from '../expr.ts';
import { typeOf, type Value } from '../graph.ts';
import { ALL, and, coordinate, type IndexSet, isNone, NONE, where, whereNot } from '../index-set.ts';
import { broadcastOffset, eachIndex, generate, type Nd, nd, rowMajor } from '../nd.ts';
import { moved, needByAxes } from '../need.ts';
import { type AxisMap, defineOp, type NeedContext } from '../op.ts';
import { printType } from '../print.ts';
import * as s from '../scalar.ts';
import { type Dim, dim, sameDim, type TensorType, tensor } from '../type.ts';
import { broadcastShapes, expectSameDtype, normalizeAxis } from './check.ts';
import { f32, given } from './example.ts';
import { scatterElements } from './index.ts';
import { late } from './late.ts';
import { iota, expand as stretch } from './shape.ts';
import { scalar } from './structural.ts';

const rowAttrs = {
  axis: attr.int('axis of the rows'),
  batch: opt.int(0, 'axis of x that runs in lockstep with the first axis of ids, where those have two'),
} as const;
interface RowAttrs {
  readonly axis: number;
  readonly batch: number;
}

/** Checks ids against x, and says which axes they follow. */
function follow(
  x: TensorType,
  ids: TensorType,
  { axis, batch }: RowAttrs,
): { axis: number; batch: number | undefined } {
  if (ids.dtype !== 'i32' && ids.dtype !== 'i64') fail('dtype', `ids must be i32 or i64, not ${ids.dtype}`);
  if (ids.shape.length !== 1 && ids.shape.length !== 2)
    fail('rank', `ids must be [K] or [B, K], not ${printType(ids)}`);
  const at = normalizeAxis(axis, x.shape.length);
  if (at !== axis) fail('attribute', `axis is ${axis}; it must not count from the end`);
  if (ids.shape.length === 1) return { axis, batch: undefined };
  const lead = normalizeAxis(batch, x.shape.length);
  if (lead === axis || lead !== batch) fail('attribute', `batch is ${batch}; it must be another axis than ${axis}`);
  if (dim(x.shape[lead]!) !== 1 && !sameDim(x.shape[lead]!, ids.shape[0]!))
    fail('shape', `ids ${printType(ids)} do not follow axis ${lead} of ${printType(x)}`);
  return { axis, batch: lead };
}
const idsAt = <T>(at: readonly T[], { axis, batch }: { axis: number; batch: number | undefined }): T[] =>
  batch === undefined ? [at[axis]!] : [at[batch]!, at[axis]!];
const flat = (at: readonly number[], strides: readonly number[]): number =>
  at.reduce((n, c, i) => n + c * strides[i]!, 0);
function row(op: string, id: number, size: number, axis: number): number {
  if (id < 0 || id >= size) fail('range', `${op}: row ${id} is outside axis ${axis} of size ${size}`);
  return id;
}

/** Which axes of x and ids follow which of the result. */
function compactRoles([x, ids]: readonly TensorType[], attrs: RowAttrs): AxisMap {
  const { axis, batch } = follow(x!, ids!, attrs);
  const stretched = (i: number): boolean => i === batch && !sameDim(x!.shape[i]!, ids!.shape[0]!);
  return [
    x!.shape.map((_, i) => (i === axis || stretched(i) ? 'mix' : i)),
    batch === undefined ? [axis] : [batch, axis],
  ];
}

/** Rows of x at ids, in their order. */
export const compact = defineOp({
  name: 'compact',
  doc: 'The rows of x at ids along an axis, in the order of ids. Where ids are [B, K], an axis of size 1 before them is stretched to B.',
  inputs: ['x', 'ids'],
  attrs: { ...rowAttrs, distinct: opt.bool(true, 'no row stands twice in ids') },
  type: ([x, ids], attrs) => {
    const { axis, batch } = follow(x!, ids!, attrs);
    return tensor(
      x!.dtype,
      x!.shape.map((d, i) => (i === axis ? ids!.shape.at(-1)! : i === batch ? ids!.shape[0]! : d)),
    );
  },
  axes: (inputs, attrs) => compactRoles(inputs, attrs),
  need: (demand, { attrs, inputs, outs, image }) => {
    const [rows, read] = needByAxes(demand, outs, compactRoles(inputs, attrs)) as [IndexSet, IndexSet];
    const { axis, batch } = follow(inputs[0]!, inputs[1]!, attrs);
    const own = batch !== undefined && sameDim(inputs[0]!.shape[batch]!, inputs[1]!.shape[0]!);
    const at = inputs[1]!.shape.map((d, i, { length }) =>
      i < length - 1 ? (own ? coordinate(batch) : undefined) : dim(d) === 1 ? s.literal(0) : undefined,
    );
    return [and(rows, where(image(1, at, coordinate(axis), inputs[0]!.shape[axis]!))), read];
  },
  eval: ([x, ids], attrs, cx) => {
    const rows = { axis: attrs.axis, batch: ids!.shape.length === 2 ? attrs.batch : undefined };
    const [xs, is] = [rowMajor(x!.shape), rowMajor(ids!.shape)];
    return generate(x!.dtype, cx.types[0]!.shape, (at) => {
      const id = row('compact', ids!.data[flat(idsAt(at, rows), is)]!, x!.shape[attrs.axis]!, attrs.axis);
      return x!.data[
        flat(
          x!.shape.map((n, i) => (i === attrs.axis ? id : n === 1 ? 0 : at[i]!)),
          xs,
        )
      ]!;
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs, inputs: [x, ids] }) => {
      const rows = follow(x!, ids!, attrs);
      const id = clamped(load(1, idsAt(at, rows)), x!.shape[rows.axis]!);
      return load(
        0,
        x!.shape.map((d, i) => (i === rows.axis ? id : dim(d) === 1 ? s.literal(0) : at[i]!)),
      );
    },
  },
  grad: (out, [dy]): (Value | null)[] => {
    const [x, ids] = out.inputs as [Value, Value];
    const { axis, batch, distinct } = out.attrs as unknown as RowAttrs & { readonly distinct: boolean };
    const { shape, dtype } = typeOf(x);
    if (distinct) return [restore([dy!, ids, scalar(0, dtype)], { axis, batch, size: shape[axis]! }), null];
    const places = typeOf(dy!).shape;
    const lines = reshapeIds(ids, places, { axis, batch: typeOf(ids).shape.length === 2 ? batch : undefined });
    const empty = stretch([scalar(0, dtype)], { shape: places.map((d, i) => (i === axis ? shape[axis]! : d)) });
    return [scatterElements([empty, lines, dy!], { axis, reduction: 'add' }), null];
  },
  examples: [
    { inputs: [f32(2, 5, 3), given('i32', [2, 2], [0, 3, 1, 4])], attrs: { axis: 1 } },
    { inputs: [f32(1, 4, 2), given('i64', [3, 2], [0, 3, 1, 2, 0, 1])], attrs: { axis: 1 }, note: 'stretched' },
    { inputs: [f32(2, 3, 4), given('i32', [3], [3, 0, 3])], attrs: { axis: 2, distinct: false } },
    { inputs: [f32(3, 2, 4), given('i32', [2, 1], [2, 0])], attrs: { axis: 0, batch: 1 }, note: 'time first' },
    { inputs: [f32(2, 3), given('i32', [2, 0], [])], attrs: { axis: 1 }, note: 'no rows' },
  ],
});

const clamped = (id: Expr, size: Dim): Expr => s.max(s.min(s.cast(id, 'i32'), s.sub(s.index(size), 1)), 0);

/** Ids as a tensor of the shape of the rows. */
function reshapeIds(ids: Value, shape: readonly Dim[], rows: { axis: number; batch: number | undefined }): Value {
  const kept = shape.map((d, i) => (i === rows.axis || i === rows.batch ? d : 1));
  // [B, K] meets a batch axis behind the rows transposed.
  const turned = rows.batch !== undefined && rows.batch > rows.axis ? late('transpose', [ids], { perm: [1, 0] }) : ids;
  return stretch([late('reshape', [turned], { shape: kept })], { shape });
}

const restoreType = ([x, ids, fill]: readonly TensorType[], attrs: RowAttrs & { readonly size: Dim }): TensorType => {
  const { axis, batch } = follow(x!, ids!, attrs);
  if (!sameDim(x!.shape[axis]!, ids!.shape.at(-1)!))
    fail('shape', `axis ${axis} of ${printType(x!)} has not the rows of ids ${printType(ids!)}`);
  if (batch !== undefined && !sameDim(x!.shape[batch]!, ids!.shape[0]!))
    fail('shape', `axis ${batch} of ${printType(x!)} does not follow ids ${printType(ids!)}`);
  const dtype = expectSameDtype([x!, fill!], 'x and fill');
  const shape = x!.shape.map((d, i) => (i === axis ? attrs.size : d));
  const common = broadcastShapes([shape, fill!.shape]);
  if (common.length !== shape.length || !common.every((d, i) => sameDim(d, shape[i]!)))
    fail('shape', `fill ${printType(fill!)} does not stretch to the result`);
  return tensor(dtype, shape);
};
function restoreRoles([x, ids, fill]: readonly TensorType[], attrs: RowAttrs & { readonly size: Dim }): AxisMap {
  const { axis, batch } = follow(x!, ids!, attrs);
  const skip = x!.shape.length - fill!.shape.length;
  return [
    x!.shape.map((_, i) => (i === axis ? 'mix' : i)),
    batch === undefined ? ['mix'] : [batch, 'mix'],
    fill!.shape.map((d, i) => {
      const full = i + skip === axis ? attrs.size : x!.shape[i + skip]!;
      return dim(d) === 1 && dim(full) !== 1 ? 'mix' : i + skip;
    }),
  ];
}
function restoreNeed(
  demand: readonly IndexSet[],
  { attrs, inputs, outs, element, image }: NeedContext<RowAttrs & { readonly size: Dim }>,
): readonly IndexSet[] {
  const [set] = demand;
  const [, ids] = inputs;
  const rows = follow(inputs[0]!, ids!, attrs);
  const rank = outs[0]!.shape.length;
  const place = Array.from({ length: rank }, (_, n) => coordinate(n));
  const to = s.cast(element(1, idsAt(place, rows)), 'i32');
  const own = moved(set!, (n) => (n === rows.axis ? to : coordinate(n)), rank);
  const at = rows.batch === undefined ? [undefined] : [coordinate(rows.batch), undefined];
  const outside = and(set!, whereNot(image(1, at, coordinate(rows.axis), attrs.size)));
  const [, , fill] = needByAxes([outside], outs, restoreRoles(inputs, attrs));
  return [own, isNone(set!) ? NONE : ALL, fill!];
}

/** Rows back at their places. */
export const restore = defineOp({
  name: 'restore',
  doc: 'A tensor of `size` rows along an axis that has row k of x at ids[k], and fill, broadcast, elsewhere. Ids that stand twice must have equal rows.',
  inputs: ['x', 'ids', 'fill'],
  attrs: { ...rowAttrs, size: attr.dim('rows of the result') },
  type: (inputs, attrs) => restoreType(inputs, attrs),
  axes: (inputs, attrs) => restoreRoles(inputs, attrs),
  need: restoreNeed,
  eval: ([x, ids, fill], attrs, cx) => {
    const rows = { axis: attrs.axis, batch: ids!.shape.length === 2 ? attrs.batch : undefined };
    const { shape } = cx.types[0]!;
    const [fs, is, os] = [rowMajor(fill!.shape), rowMajor(ids!.shape), rowMajor(shape)];
    const out: Nd = generate(x!.dtype, shape, (at) => fill!.data[broadcastOffset(fill!.shape, fs, at)]!);
    eachIndex(x!.shape, (at, n) => {
      const id = row('restore', ids!.data[flat(idsAt(at, rows), is)]!, shape[attrs.axis]!, attrs.axis);
      out.data[flat(at.with(attrs.axis, id), os)] = x!.data[n]!;
    });
    return out;
  },
  lower: {
    kind: 'decompose',
    build: ([x, ids, fill], { axis, batch, size }) =>
      restoreAt([x!, places([ids!], { size }), fill!], { axis, batch, size }),
  },
  grad: (out, [dy]): (Value | null)[] => {
    const [x, ids, fill] = out.inputs as [Value, Value, Value];
    const { axis, batch, size } = out.attrs as unknown as RowAttrs & { readonly size: Dim };
    const { shape, dtype } = typeOf(x);
    const none = stretch([scalar(0, dtype)], { shape });
    return [compact([dy!, ids], { axis, batch }), null, restore([none, ids, dy!], { axis, batch, size })].map((g, n) =>
      n === 2 && typeOf(fill).dtype === 'bool' ? null : g,
    );
  },
  examples: [
    { inputs: [f32(2, 2, 3), given('i32', [2, 2], [0, 3, 1, 4]), f32(1, 1, 3)], attrs: { axis: 1, size: 5 } },
    { inputs: [f32(2, 3, 2), given('i64', [2], [3, 0]), f32(2, 3, 4)], attrs: { axis: 2, size: 4 } },
    { inputs: [f32(1, 2, 4), given('i32', [2, 1], [2, 0]), f32()], attrs: { axis: 0, batch: 1, size: 3 } },
    { inputs: [f32(2, 0), given('i32', [2, 0], []), f32(2, 3)], attrs: { axis: 1, size: 3 }, note: 'no rows' },
  ],
});

/** Where each position of an axis stands among ids. */
export const places = defineOp({
  name: 'places',
  doc: 'For each position of an axis of `size`, the number of an id that names it, or −1: the inverse of ids [K] or [B, K].',
  inputs: ['ids'],
  attrs: { size: attr.dim('positions of the axis') },
  type: ([ids], { size }) => {
    if (ids!.dtype !== 'i32' && ids!.dtype !== 'i64') fail('dtype', `ids must be i32 or i64, not ${ids!.dtype}`);
    if (ids!.shape.length === 0) fail('rank', 'ids need an axis');
    return tensor('i32', [...ids!.shape.slice(0, -1), size]);
  },
  axes: ([ids]) => [ids!.shape.map((_, i) => (i === ids!.shape.length - 1 ? 'mix' : i))],
  eval: ([ids], _, cx) => {
    const { shape } = cx.types[0]!;
    const out = nd('i32', shape);
    out.data.fill(-1);
    const [count, size] = [ids!.shape.at(-1)!, shape.at(-1)!];
    ids!.data.forEach((id, n) => {
      out.data[Math.floor(n / count) * size + row('places', id, size, shape.length - 1)] = n % count;
    });
    return out;
  },
  lower: {
    kind: 'decompose',
    build: ([ids], { size }) => {
      const { shape } = typeOf(ids!);
      const axis = shape.length - 1;
      const none = stretch([scalar(-1, 'i32')], { shape: [...shape.slice(0, -1), size] });
      return scatterElements([none, ids!, iota([], { axis, shape, dtype: 'i32' })], { axis });
    },
  },
  examples: [
    { inputs: [given('i32', [2, 2], [0, 3, 1, 4])], attrs: { size: 5 } },
    { inputs: [given('i64', [3], [2, 0, 1])], attrs: { size: 3 } },
    { inputs: [given('i32', [2, 0], [])], attrs: { size: 2 } },
  ],
});

/** As `restore`, from places instead of ids. */
export const restoreAt = defineOp({
  name: 'restore_at',
  doc: 'Row places[i] of x at position i of an axis, and fill, broadcast, where that is negative. Places are [N] or [B, N].',
  inputs: ['x', 'places', 'fill'],
  attrs: { ...rowAttrs, size: attr.dim('rows of the result: those of places') },
  type: ([x, at, fill], attrs) => {
    const { axis } = follow(x!, at!, attrs);
    if (!sameDim(at!.shape.at(-1)!, attrs.size)) fail('shape', `places ${printType(at!)} have not the size asked for`);
    return restoreType(
      [
        x!,
        tensor(
          'i32',
          at!.shape.map((d, i, { length }) => (i === length - 1 ? x!.shape[axis]! : d)),
        ),
        fill!,
      ],
      attrs,
    );
  },
  axes: ([x, at, fill], attrs) => {
    const [roles, , filled] = restoreRoles([x!, at!, fill!], attrs);
    const { axis, batch } = follow(x!, at!, attrs);
    return [roles!, batch === undefined ? [axis] : [batch, axis], filled!];
  },
  eval: ([x, at, fill], attrs, cx) => {
    const rows = { axis: attrs.axis, batch: at!.shape.length === 2 ? attrs.batch : undefined };
    const [xs, ps, fs] = [rowMajor(x!.shape), rowMajor(at!.shape), rowMajor(fill!.shape)];
    return generate(x!.dtype, cx.types[0]!.shape, (to) => {
      const place = at!.data[flat(idsAt(to, rows), ps)]!;
      return place < 0
        ? fill!.data[broadcastOffset(fill!.shape, fs, to)]!
        : x!.data[flat(to.with(attrs.axis, place), xs)]!;
    });
  },
  lower: {
    kind: 'element',
    element: (to, load, { attrs, inputs: [x, at, fill] }) => {
      const rows = follow(x!, at!, attrs);
      const skip = to.length - fill!.shape.length;
      const other = load(
        2,
        fill!.shape.map((d, i) => (dim(d) === 1 ? s.literal(0) : to[i + skip]!)),
      );
      const count = x!.shape[rows.axis]!;
      if (dim(count) === 0) return other;
      const place = load(1, idsAt(to, rows));
      return s.select(s.lt(place, 0), other, load(0, to.with(rows.axis, clamped(place, count))));
    },
  },
  examples: [
    { inputs: [f32(2, 2, 3), given('i32', [2, 4], [0, -1, 1, -1, 1, 0, -1, -1]), f32(3)], attrs: { axis: 1, size: 4 } },
    { inputs: [f32(3, 2), given('i32', [2], [-1, 1]), f32()], attrs: { axis: 1, size: 2 } },
    { inputs: [f32(0, 2), given('i32', [3], [-1, -1, -1]), f32(3, 2)], attrs: { axis: 0, size: 3 }, note: 'no rows' },
  ],
});
