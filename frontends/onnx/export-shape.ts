/** Operators that move elements, in ONNX. */
import type { Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { normalizeAxis } from '../../ir/ops/check.ts';
import { sub } from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, dim, type Shape, sameDim } from '../../ir/type.ts';
import { axisOf, type ExportEntries, type ExportEntry } from './export-ops.ts';
import { takes } from './export-types.ts';
import { type GraphWriter, int, ints, string } from './export-writer.ts';

/**
 * A shape for Reshape: sizes that are the operand's are copied (0) and one more open size is left to be computed (−1),
 * so that a graph over symbolic sizes needs no arithmetic on shapes.
 */
function targetShape(w: GraphWriter, from: Shape, to: Shape): { readonly name: string; readonly zeros: boolean } {
  if (to.some((d) => d === 0)) return { name: w.sizes(to), zeros: true };
  const copied = to.map((d, i) => typeof d !== 'number' && i < from.length && sameDim(d, from[i]!));
  const open = to.flatMap((d, i) => (typeof d !== 'number' && !copied[i] ? [i] : []));
  // −1 cannot be computed where another size may be 0.
  const empty = [...from, ...to].some((d) => boundsOf(asExpr(d))[0] === 0);
  if (open.length > 1 || (open.length === 1 && empty)) return { name: w.sizes(to), zeros: false };
  const sizes = to.map((d, i) => (typeof d === 'number' ? d : copied[i] ? 0 : -1));
  return { name: w.longs(sizes), zeros: false };
}

export function reshaped(w: GraphWriter, x: string, from: Shape, to: Shape): string {
  const { name, zeros } = targetShape(w, from, to);
  return w.node('Reshape', [x, name], zeros ? { allowzero: int(1) } : {});
}

/** What ONNX reads as "to the end", and as "through the first" counting down. */
const END = 2 ** 31 - 1;
const START = -END;

const slice: ExportEntry = (v, { w, inputs }) => {
  const { shape } = typeOf(v.inputs[0]!);
  const { starts, stops, steps } = v.attrs as {
    starts: readonly Dim[];
    stops: readonly Dim[];
    steps: readonly number[];
  };
  const axes = shape.flatMap((d, i) => (dim(starts[i]!) === 0 && steps[i] === 1 && sameDim(stops[i]!, d) ? [] : [i]));
  if (axes.length === 0) return w.node('Identity', inputs);
  const place = (at: Dim, axis: number): Dim => {
    if (typeof at === 'number') return at;
    // A fixed distance from the end is a negative position.
    const back = dim(sub(at, shape[axis]!));
    return typeof back === 'number' && back < 0 ? back : at;
  };
  const from = axes.map((i) => place(starts[i]!, i));
  const to = axes.map((i) => {
    if (steps[i]! > 0) return sameDim(stops[i]!, shape[i]!) ? END : place(stops[i]!, i);
    return stops[i] === -1 ? START : place(stops[i]!, i);
  });
  const same = axes.every((i) => steps[i] === 1);
  return w.node('Slice', [
    inputs[0]!,
    w.sizes(from),
    w.sizes(to),
    w.longs(axes),
    ...(same ? [] : [w.longs(axes.map((i) => steps[i]!))]),
  ]);
};

const pad: ExportEntry = (v, { w, inputs }) => {
  const { before, after, value, mode } = v.attrs as {
    before: readonly number[];
    after: readonly number[];
    value: number;
    mode: string;
  };
  if (mode === 'wrap' && w.opset < 19) return undefined;
  // Runtimes refuse to go round, or to reflect, more than once.
  const { shape } = typeOf(v.inputs[0]!);
  const room = (d: Dim): number => boundsOf(asExpr(d))[0] - (mode === 'reflect' ? 1 : 0);
  if (mode === 'reflect' || mode === 'wrap')
    if (shape.some((d, i) => Math.max(before[i]!, after[i]!) > Math.max(0, room(d)))) return undefined;
  const { dtype } = typeOf(v);
  const operands = [inputs[0]!, w.longs([...before, ...after])];
  if (mode === 'constant' && value !== 0) operands.push(w.scalar(value, dtype));
  return w.node('Pad', operands, { mode: string(mode) });
};

/** A shape for Expand: 1 leaves the operand's size. */
function stretch(w: GraphWriter, x: string, from: Shape, to: Shape): string {
  const skip = to.length - from.length;
  return w.node('Expand', [x, w.sizes(to.map((d, i) => (i >= skip && sameDim(d, from[i - skip]!) ? 1 : d)))]);
}

const iota: ExportEntry = (v, { w }) => {
  const { dtype, shape } = typeOf(v);
  const axis = normalizeAxis(v.attrs.axis as number, shape.length);
  const own: Scalar = takes('Range', dtype) ? dtype : 'i32';
  const size = shape[axis]!;
  const count = typeof size === 'number' ? w.scalar(size, own) : w.cast(w.file.size(size), 'i64', own);
  const range = w.cast(w.node('Range', [w.scalar(0, own), count, w.scalar(1, own)]), own, dtype);
  if (shape.length === 1) return range;
  const after = shape.length - axis - 1;
  const column = after === 0 ? range : w.node('Reshape', [range, w.longs([-1, ...new Array<number>(after).fill(1)])]);
  return w.node('Expand', [column, w.sizes(shape.map((d, i) => (i === axis ? 1 : d)))]);
};

/** Positions as i64, where ONNX takes nothing else. */
const positions = (w: GraphWriter, v: Value, name: string): string => w.cast(name, typeOf(v.inputs[1]!).dtype, 'i64');

const scatterReduction = (v: Value, w: GraphWriter): Record<string, ReturnType<typeof string>> | undefined => {
  const reduction = v.attrs.reduction as string;
  if (reduction === 'none') return {};
  return w.opset >= (reduction === 'min' || reduction === 'max' ? 18 : 16)
    ? { reduction: string(reduction) }
    : undefined;
};

/** The first elements of an axis, as many as a value says; from then on the number has the name of a size. */
const counted: ExportEntry = (v, { w, inputs }) => {
  const { axis, size } = v.attrs as { axis: number; size: Dim };
  if (typeof size !== 'number') w.file.define(size, inputs[1]!);
  const known = typeof size === 'number' ? w.cast(inputs[1]!, 'i32', 'i64') : w.file.size(size);
  const count = w.node('Reshape', [known, w.long(1)]);
  return w.node('Slice', [inputs[0]!, w.long(0), count, w.long(axis)]);
};

/** True positions first: sorted by a key that is larger for them, and for earlier ones. */
const truePositions: ExportEntry = (v, { w, inputs }) => {
  const { shape } = typeOf(v.inputs[0]!);
  const last = shape.at(-1)!;
  const width = typeof last === 'number' ? w.scalar(last, 'i64') : w.file.size(last);
  const back = w.node('Sub', [width, w.node('Range', [w.scalar(0, 'i64'), width, w.scalar(1, 'i64')])]);
  const key = w.node('Add', [w.node('Mul', [w.cast(inputs[0]!, 'bool', 'i64'), width]), back]);
  const all = { axis: int(-1), largest: int(1), sorted: int(1) };
  const [, order] = w.many('TopK', [key, w.node('Reshape', [width, w.long(1)])], 2, all) as [string, string];
  const ones = w.cast(inputs[0]!, 'bool', 'i32');
  const count = w.node('ReduceSum', [ones, w.long(-1)], { keepdims: int(0) });
  return [w.cast(order, 'i64', 'i32'), count];
};

export const movement: ExportEntries = {
  counted,
  positions: truePositions,
  reshape: (v, { w, inputs }) => reshaped(w, inputs[0]!, typeOf(v.inputs[0]!).shape, typeOf(v).shape),
  expand: (v, { w, inputs }) => stretch(w, inputs[0]!, typeOf(v.inputs[0]!).shape, typeOf(v).shape),
  slice,
  pad,
  iota,
  split: (v, { w, inputs }) => {
    const sizes = v.attrs.sizes as readonly Dim[];
    return w.many('Split', [inputs[0]!, w.sizes(sizes)], sizes.length, { axis: int(axisOf(v)) });
  },
  gather_nd: (v, { w, inputs }) =>
    w.node('GatherND', [inputs[0]!, positions(w, v, inputs[1]!)], { batch_dims: int(v.attrs.batchDims as number) }),
  scatter_nd: (v, { w, inputs }) => {
    const reduction = scatterReduction(v, w);
    return reduction && w.node('ScatterND', [inputs[0]!, positions(w, v, inputs[1]!), inputs[2]!], reduction);
  },
  scatter_elements: (v, { w, inputs }) => {
    const reduction = scatterReduction(v, w);
    return reduction && w.node('ScatterElements', inputs, { axis: int(v.attrs.axis as number), ...reduction });
  },
  one_hot: (v, { w, inputs }) => {
    const { dtype } = typeOf(v);
    // OneHot takes no single index.
    if (typeOf(v.inputs[0]!).shape.length === 0) return undefined;
    const { depth, axis, on, off } = v.attrs as { depth: Dim; axis: number; on: number; off: number };
    const levels = w.constant(nd(dtype, [2], [off, on]));
    return w.node('OneHot', [inputs[0]!, w.sizes([depth]), levels], { axis: int(axis) });
  },
  concat: (v, { w, inputs }) => w.node('Concat', inputs, { axis: int(axisOf(v)) }),
  transpose: (v, { w, inputs }) => w.node('Transpose', inputs, { perm: ints(v.attrs.perm as readonly number[]) }),
};
