/**
 * Ops on some rows of their result: the same op on those rows of its operands. Everything here is exact, row by row; an op
 * that has no rule is not restricted.
 */
import type { Attrs } from '../ir/core.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxis } from '../ir/ops/check.ts';
import { add, cast } from '../ir/ops/elementwise.ts';
import { matmul } from '../ir/ops/linear.ts';
import { concat, expand, reshape, reshapeGroups, slice, transpose } from '../ir/ops/shape.ts';
import * as s from '../ir/scalar.ts';
import { asExpr, type Dim, dim, sameDim } from '../ir/type.ts';
import { dims, ints } from './facts.ts';
import { restrictAttention } from './restrict-attention.ts';
import type { Label, RowIds } from './row-ids.ts';
import type { RowSets } from './row-sets.ts';

/** What rules build with. */
export interface Rows {
  readonly ids: RowIds;
  readonly sets: RowSets;
  at(value: Value, label?: Label): Value;
}

type Rule = (cx: Rows, value: Value, label: Label) => Value | undefined;

/** The op on the rows of a label; undefined when it does not work row by row. */
export function restrict(cx: Rows, value: Value, label: Label): Value | undefined {
  if (value.type.kind === 'tuple' || value.op.name === 'get' || value.inputs.some((x) => x.type.kind === 'tuple'))
    return undefined;
  const rule = RULES[value.op.name];
  if (rule) return rule(cx, value, label);
  return hasSizes(value) ? undefined : lockstep(cx, value, label);
}

/** Whether an attribute lists the sizes of the result. */
const hasSizes = ({ op }: Value): boolean =>
  Object.values(op.attrs).some((a) => a.kind === 'dim' || a.kind === 'graph');

/** The shape of a value at a label. */
export const shapeAt = (value: Value, { axis, batch, rows }: Label): Dim[] =>
  typeOf(value).shape.map((d, n) => (n === axis ? rows.count : n === batch ? rows.batch! : d));

/** Every operand at the rows that run in lockstep with those of the result. */
function lockstep(cx: Rows, value: Value, label: Label): Value | undefined {
  const inputs = operandsAt(cx, value, label);
  return inputs && rebuilt(value, inputs, value.attrs, label);
}

/**
 * The op on these operands; undefined where it is another than on those rows, or does not take them: of a normalisation the
 * scale runs in lockstep with features that mix.
 */
function rebuilt(value: Value, inputs: readonly Value[], attrs: Attrs, label: Label): Value | undefined {
  if (!takes(value, inputs, attrs)) return undefined;
  const made = makeValue(value.op, inputs, attrs, value);
  const wanted = shapeAt(value, label);
  const { shape } = typeOf(made);
  return shape.length === wanted.length && shape.every((d, n) => sameDim(d, wanted[n]!)) ? made : undefined;
}

function takes({ op }: Value, inputs: readonly Value[], attrs: Attrs): boolean {
  try {
    op.type(inputs.map(typeOf), attrs);
    return true;
  } catch (error) {
    if (error instanceof CompileError) return false;
    throw error;
  }
}

function operandsAt(cx: Rows, value: Value, label: Label): Value[] | undefined {
  const { op, inputs, attrs } = value;
  const axes = op.axes?.(inputs.map(typeOf), attrs);
  if (!axes) return undefined;
  const rank = typeOf(value).shape.length;
  const result: Value[] = [];
  for (const [n, x] of inputs.entries()) {
    const roles = axes[n]!;
    const axis = roles.indexOf(label.axis);
    if (axis < 0) {
      result.push(cx.at(x));
      continue;
    }
    if (label.batch === undefined) {
      result.push(cx.at(x, { axis, batch: undefined, rows: label.rows }));
      continue;
    }
    const batch = roles.indexOf(label.batch);
    if (batch >= 0) result.push(cx.at(x, { axis, batch, rows: label.rows }));
    else {
      // Every entry takes other rows of what they shared.
      const own =
        BROADCASTS.has(op.lower.kind) || op.name === 'matmul' ? stretched(cx, x, axis, label, rank) : undefined;
      if (!own) return undefined;
      result.push(own);
    }
  }
  return result;
}
const BROADCASTS = new Set(['pointwise']);

/** Rows for each entry of an operand that has no entries: axes of a broadcast line up at the last. */
function stretched(cx: Rows, x: Value, axis: number, { batch, rows }: Label, rank: number): Value | undefined {
  const { shape } = typeOf(x);
  const lead = batch! - (rank - shape.length);
  if (lead >= 0) return dim(shape[lead]!) === 1 ? cx.at(x, { axis, batch: lead, rows }) : undefined;
  const more = -lead;
  const wide = reshape([cx.at(x)], { shape: [...Array<number>(more).fill(1), ...shape] });
  return cx.ids.take(wide, rows, { axis: axis + more, batch: 0 });
}

/** A label on the operand of a movement, from where its axes come from. */
const carried = (label: Label, from: (axis: number) => number): Label | undefined => {
  const axis = from(label.axis);
  const batch = label.batch === undefined ? undefined : from(label.batch);
  return axis < 0 || (batch !== undefined && batch < 0) ? undefined : { axis, batch, rows: label.rows };
};

const restrictReshape: Rule = (cx, value, label) => {
  const x = value.inputs[0]!;
  const roles = value.op.axes!([typeOf(x)], value.attrs)[0]!;
  const own = carried(label, (axis) => roles.indexOf(axis));
  if (own) return reshape([cx.at(x, own)], { shape: shapeAt(value, label) });
  return patches(cx, value, label);
};

/**
 * Patches of an image as rows: a convolution whose kernel is its stride, its grid flattened to one axis. Only the pixels of
 * the rows are read.
 */
function patches(cx: Rows, value: Value, label: Label): Value | undefined {
  const x = value.inputs[0]!;
  const linear = patchConv(x);
  if (!linear || label.axis !== 2) return undefined;
  const { pixels, weight, bias } = linear;
  const grid = typeOf(x).shape.slice(2);
  const groups = reshapeGroups(typeOf(x).shape, typeOf(value).shape);
  const merged = groups.find((g) => g.to.length === 1 && g.to[0] === 2);
  if (typeOf(value).shape.length !== 3 || !merged || merged.from.some((n) => n < 2)) return undefined;
  if (label.batch !== undefined && label.batch !== 0) return undefined;
  const [batch, channels] = typeOf(pixels).shape as [Dim, number];
  const [out, , ...kernel] = typeOf(weight).shape as [number, number, ...number[]];
  // [B, C, g, k, …] to [B, g, …, C, k, …], one row a patch.
  const cut = reshape([cx.at(pixels)], { shape: [batch, channels, ...grid.flatMap((g, n) => [g, kernel[n]!])] });
  const order = [0, ...grid.map((_, n) => 2 + 2 * n), 1, ...grid.map((_, n) => 3 + 2 * n)];
  const width = kernel.reduce((n, k) => n * k, channels);
  const places = typeOf(value).shape[2]!;
  const rows = reshape([transpose([cut], { perm: order })], { shape: [batch, places, width] });
  const kept = cx.ids.take(rows, label.rows, { axis: 1, batch: label.batch });
  const matrix = reshape([cx.at(weight)], { shape: [out, width] });
  const product = matmul([kept, matrix], { transposeB: true }, { loc: x.loc });
  const sum = bias ? add([product, cx.at(bias)], {}, { loc: x.loc }) : product;
  return transpose([sum], { perm: [0, 2, 1] });
}

function patchConv(
  v: Value,
): { readonly pixels: Value; readonly weight: Value; readonly bias: Value | undefined } | undefined {
  if (v.op.name !== 'conv') return undefined;
  const [pixels, weight, bias] = v.inputs as [Value, Value, Value?];
  const kernel = typeOf(weight).shape.slice(2);
  const { groups } = v.attrs;
  const [strides, pads, dilations] = [ints(v.attrs, 'strides'), ints(v.attrs, 'pads'), ints(v.attrs, 'dilations')];
  const spatial = typeOf(pixels).shape.slice(2);
  const whole = spatial.every((d, n) => sameDim(d, dim((kernel[n]! as number) * Number(typeOf(v).shape[n + 2]))));
  const cuts = kernel.every((k, n) => (strides[n] ?? 1) === k);
  if (groups !== 1 || !cuts || !whole || pads.some((p) => p !== 0) || dilations.some((d) => d !== 1)) return undefined;
  return { pixels, weight, bias };
}

const restrictExpand: Rule = (cx, value, label) => {
  const x = value.inputs[0]!;
  const skip = typeOf(value).shape.length - typeOf(x).shape.length;
  const shape = shapeAt(value, label);
  const axis = label.axis - skip;
  if (axis < 0 || dim(typeOf(x).shape[axis]!) === 1) return expand([cx.at(x)], { shape });
  const batch = label.batch === undefined ? undefined : label.batch - skip;
  if (batch === undefined || batch >= 0) return expand([cx.at(x, { axis, batch, rows: label.rows })], { shape });
  const rows = stretched(cx, x, axis, label, typeOf(value).shape.length);
  return rows && expand([rows], { shape });
};

const restrictSlice: Rule = (cx, value, label) => {
  const x = value.inputs[0]!;
  const { axis, batch } = label;
  const from = typeOf(x).shape;
  const [starts, stops, steps] = [dims(value.attrs, 'starts'), dims(value.attrs, 'stops'), ints(value.attrs, 'steps')];
  const isWhole = (n: number): boolean => steps[n] === 1 && dim(starts[n]!) === 0 && sameDim(stops[n]!, from[n]!);
  if (steps[axis] !== 1 || (batch !== undefined && !isWhole(batch) && dim(from[batch]!) !== 1)) return undefined;
  // What stands in for a row that does not exist is another row of a longer axis.
  if (!isWhole(axis) && !label.rows.exact) return undefined;
  const rows = isWhole(axis) ? label.rows : cx.sets.shifted(label.rows, starts[axis]!, from[axis]!);
  const own = cx.at(x, { axis, batch, rows });
  const at = (list: readonly Dim[], whole: (n: number) => Dim): Dim[] =>
    list.map((d, n) => (n === axis || n === batch ? whole(n) : d));
  const { shape } = typeOf(own);
  return slice([own], { starts: at(starts, () => 0), stops: at(stops, (n) => shape[n]!), steps });
};

const restrictConcat: Rule = (cx, value, label) => {
  const axis = normalizeAxis(Number(value.attrs.axis), typeOf(value).shape.length);
  if (axis === label.batch) return undefined;
  if (axis !== label.axis) return lockstep(cx, value, label);
  let start: Dim = 0;
  const parts: Value[] = [];
  for (const x of value.inputs) {
    const size = typeOf(x).shape[axis]!;
    const rows = cx.sets.part(label.rows, start, size);
    start = dim(s.add(asExpr(start), size));
    if (rows === undefined) return undefined;
    if (rows === 'none') continue;
    parts.push(
      cx.at(x, rows === 'all' ? undefined : { axis, batch: rows.batch === undefined ? undefined : label.batch, rows }),
    );
  }
  const joined = parts.length === 1 ? parts[0] : concat(parts, { axis });
  return joined && sameDim(typeOf(joined).shape[axis]!, label.rows.count) ? joined : undefined;
};

const restrictIota: Rule = (cx, value, label) => {
  const axis = normalizeAxis(Number(value.attrs.axis), typeOf(value).shape.length);
  const shape = shapeAt(value, label);
  if (axis !== label.axis) return makeValue(value.op, [], { ...value.attrs, shape }, value);
  const ids = cx.ids.ids(label.rows);
  const lined = reshape([ids], {
    shape: shape.map((d, n) => (n === axis || (n === label.batch && label.rows.batch) ? d : 1)),
  });
  return expand([cast([lined], { to: typeOf(value).dtype })], { shape });
};

const RULES: Readonly<Record<string, Rule>> = {
  input: () => undefined,
  param: () => undefined,
  constant: () => undefined,
  reshape: restrictReshape,
  expand: restrictExpand,
  slice: restrictSlice,
  concat: restrictConcat,
  iota: restrictIota,
  attention: (cx, value, label) => restrictAttention(cx, value, label),
};
