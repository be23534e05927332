/** ONNX operators on shapes and positions that have no object of their own here. */
import type { Scalar } from '../../ir/dtype.ts';
import type { Sym } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { broadcastShapes } from '../../ir/ops/check.ts';
import {
  add,
  cast,
  ceil,
  div,
  equal,
  floorDiv,
  floorMod,
  less,
  maximum,
  minimum,
  mul,
  rem,
  select,
  sub,
} from '../../ir/ops/elementwise.ts';
import { gather, gatherElements, oneHot, scatterElements, scatterNd } from '../../ir/ops/index.ts';
import { topK } from '../../ir/ops/order.ts';
import { concat, expand, iota, reshape, slice, sliceAxis, split, transpose } from '../../ir/ops/shape.ts';
import { constant, projectAll, scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, dim, elements, type Shape, sameDim } from '../../ir/type.ts';
import { type Range, rangeOf } from './bounds.ts';
import type { Entries, Node, Results } from './node.ts';
import { sizeValue, to } from './values.ts';

/** Axes from operand `i`, or the attribute of older opsets, counted from the start. */
export function axesOf(n: Node, i: number, rank: number): number[] | undefined {
  const given = n.has(i) ? n.ints(i) : n.intList('axes');
  return given?.map((axis) => n.axis(axis, rank));
}

/** A product of sizes over another: common factors cancel, so that the quotient stays in terms of the symbols. */
function quotient(n: Node, all: Shape, some: Shape): Dim {
  const factors = (shape: Shape): { count: number; open: Dim[] } => {
    let count = 1;
    const open: Dim[] = [];
    const visit = (d: Dim): void => {
      if (typeof d === 'number') count *= d;
      else if (d.op === 'const') count *= d.arg as number;
      else if (d.op === 'mul') d.args.forEach(visit);
      else open.push(d);
    };
    shape.forEach(visit);
    return { count, open };
  };
  const [top, bottom] = [factors(all), factors(some)];
  for (const d of [...bottom.open]) {
    const at = top.open.indexOf(d);
    if (at < 0) continue;
    top.open.splice(at, 1);
    bottom.open.splice(bottom.open.indexOf(d), 1);
  }
  const shape = `[${all.map((d) => (typeof d === 'number' ? d : '?')).join(', ')}]`;
  if (bottom.count === 0)
    return n.fail(`the open size of a reshape of ${shape} is divided by zero`, undefined, 'shape');
  const product = [...top.open].reduce<Dim>((p, d) => dim(s.mul(asExpr(p), d)), 1);
  const rest = bottom.open.reduce<Dim>((p, d) => dim(s.mul(asExpr(p), d)), 1);
  if (rest === 1 && top.count % bottom.count === 0) return dim(s.mul(asExpr(product), top.count / bottom.count));
  if (rest === 1 && product === 1)
    return n.fail(`${top.count} elements do not form rows of ${bottom.count}`, undefined, 'shape');
  return dim(s.floordiv(s.mul(asExpr(product), top.count), s.mul(asExpr(rest), bottom.count)));
}

function reshapeNode(n: Node): Value {
  const x = n.value(0);
  const from = typeOf(x).shape;
  const keepZero = n.int('allowzero', 0) !== 0;
  const wanted = n.opset < 5 ? (n.intList('shape') ?? n.fail('attribute "shape" is missing')) : (n.dims(1) ?? []);
  const sizes = wanted.map((d, i) =>
    d === 0 && !keepZero ? (from[i] ?? n.fail(`size ${i} copies an axis that is not there`)) : d,
  );
  const open = sizes.indexOf(-1);
  const shape = open < 0 ? sizes : sizes.with(open, quotient(n, from, sizes.toSpliced(open, 1)));
  return shape.some(isCounted) && !sameDim(dim(elements(from)), dim(elements(shape)))
    ? rearranged(x, shape)
    : reshape([x], { shape });
}

const isCounted = (d: Dim): boolean => typeof d !== 'number' && s.symbolsOf(d).some((e) => (e.arg as Sym).counted);

/** A reshape to sizes that the data decide, of which nothing but the file says that they hold the elements of `x`. */
function rearranged(x: Value, shape: Shape): Value {
  const flat = reshape([x], { shape: [dim(elements(typeOf(x).shape))] });
  const rank = shape.length;
  const places = shape.map((d, axis) => {
    const along = iota([], { axis, shape: shape.map((_, i) => (i === axis ? d : 1)), dtype: 'i64' });
    if (axis === rank - 1) return along;
    return mul([along, sizeValue(dim(elements(shape.slice(axis + 1))), 'i64')]);
  });
  return gather([flat, expand([places.reduce((a, b) => add([a, b]))], { shape })], { axis: 0 });
}

/** A position of a slice limited to `low … size − high`, from the end when negative. */
function position(at: Dim, size: Dim, low: number, high: number): Dim {
  const [least, most] = boundsOf(asExpr(at));
  const up = most < 0 ? dim(s.add(asExpr(size), at)) : at;
  if (most >= 0 && least < 0) return dim(s.max(s.min(asExpr(up), s.sub(asExpr(size), high)), low));
  if (typeof up === 'number' && typeof size === 'number') return Math.max(low, Math.min(up, size - high));
  const [smallest] = boundsOf(s.sub(s.sub(asExpr(size), high), up));
  const top = smallest >= 0 ? up : dim(s.min(asExpr(up), s.sub(asExpr(size), high)));
  return boundsOf(asExpr(top))[0] >= low ? top : dim(s.max(asExpr(top), low));
}

function sliceNode(n: Node): Value {
  const x = n.value(0);
  const { shape } = typeOf(x);
  const old = n.opset < 10;
  const open = !old && [1, 2].some((i) => n.has(i) && !isKnown(n, i));
  if (open && (n.ints(4) ?? []).every((step) => step > 0)) return slicedByData(n);
  const starts = (old ? n.intList('starts') : n.dims(1)) ?? n.fail('starts are missing');
  const ends = (old ? n.intList('ends') : n.dims(2)) ?? n.fail('ends are missing');
  const axes = (old ? n.intList('axes') : n.ints(3)) ?? starts.map((_, i) => i);
  const steps = (old ? undefined : n.ints(4)) ?? starts.map(() => 1);
  if (ends.length !== starts.length || axes.length !== starts.length || steps.length < starts.length)
    n.fail(
      `${starts.length} starts, ${ends.length} ends and ${axes.length} axes do not go together`,
      undefined,
      'shape',
    );
  if (steps.some((step) => step === 0 || !Number.isInteger(step)))
    n.fail('its steps must be whole and not 0', undefined, 'shape');
  const attrs = { starts: shape.map((): Dim => 0), stops: [...shape], steps: shape.map(() => 1) };
  axes.forEach((axis, i) => {
    const at = n.axis(axis, shape.length);
    const [size, step] = [shape[at]!, steps[i] ?? 1];
    const back = step < 0;
    const [start, end] = [saturated(starts[i]!), saturated(ends[i]!)];
    attrs.steps[at] = step;
    attrs.starts[at] = position(start, size, 0, back ? 1 : 0);
    // Counting down, an end far below zero means "through the first".
    attrs.stops[at] =
      back && typeof end === 'number' && end <= -FAR ? -1 : position(end, size, back ? -1 : 0, back ? 1 : 0);
    if (!back && typeof end === 'number' && end >= FAR) attrs.stops[at] = size;
    const [from, to] = [attrs.starts[at]!, attrs.stops[at]!];
    const span = back ? s.sub(asExpr(from), to) : s.sub(asExpr(to), from);
    if (boundsOf(span)[1] <= 0) attrs.stops[at] = from;
    else if (boundsOf(span)[0] < 0)
      attrs.stops[at] = back ? dim(s.min(asExpr(to), from)) : dim(s.max(asExpr(to), from));
  });
  return slice([x], attrs);
}
/** Whether the elements of an operand follow from the file and from shapes. */
const isKnown = (n: Node, i: number): boolean => n.item(i).dims !== undefined || n.item(i).constant() !== undefined;

/** A slice whose ends come with the data: as many elements as they turn out to leave. */
function slicedByData(n: Node): Value {
  const [starts, ends] = [to(n.value(1), 'i64'), to(n.value(2), 'i64')];
  const count = typeOf(starts).shape[0]!;
  const axes = n.ints(3) ?? Array.from({ length: n.rank(0) }, (_, i) => i).slice(0, count as number);
  if (axes.length !== count) return n.fail('it needs a known number of axes', 'make the axes a constant');
  const steps = n.ints(4) ?? axes.map(() => 1);
  return axes.reduce((x, given, i) => {
    const axis = n.axis(given, n.rank(0));
    const step = steps[i]!;
    const size = typeOf(x).shape[axis]!;
    const extent = sizeValue(size, 'i64');
    const at = (ends: Value): Value => {
      const own = reshape([sliceAxis(ends, 0, i, i + 1)], { shape: [] });
      const up = select([less([own, scalar(0, 'i64')]), add([own, extent]), own]);
      return minimum([maximum([up, scalar(0, 'i64')]), extent]);
    };
    const [first, last] = [at(starts), at(ends)];
    const places = iota([], { axis: 0, shape: [size], dtype: 'i64' });
    // Places behind the end of the axis are read at its end; they are cut off.
    const most = sub([extent, scalar(1, 'i64')]);
    const rows = gather([x, minimum([add([first, mulBy(places, step, 'i64')]), most])], { axis });
    const span = maximum([sub([last, first]), scalar(0, 'i64')]);
    const left = floorDiv([add([span, scalar(step - 1, 'i64')]), scalar(step, 'i64')]);
    return n.cut([rows], to(left, 'i32'), { axis })[0]!;
  }, n.value(0));
}

/** What exporters write for "to the end". */
const FAR = 2 ** 31 - 1;
const saturated = (d: Dim): Dim => (typeof d === 'number' ? Math.max(-FAR, Math.min(FAR, d)) : d);

/** Parts of one split. */
const MOST_PARTS = 2 ** 16;

function splitNode(n: Node): Results {
  const x = n.value(0);
  const { shape } = typeOf(x);
  const axis = n.axis(n.int('axis', 0), shape.length);
  const count = n.int('num_outputs', n.outputs);
  if (count < n.outputs || count > MOST_PARTS)
    n.fail(`num_outputs is ${count}, but it has ${n.outputs} results`, undefined, 'attribute');
  const given = n.has(1) ? n.dims(1) : n.intList('split');
  if (given) return split([x], { axis, sizes: given });
  const size = shape[axis]!;
  if (typeof size !== 'number') {
    const part = dim(s.floordiv(size, count));
    return split([x], {
      axis,
      sizes: [...new Array<Dim>(count - 1).fill(part), dim(s.sub(size, s.mul(asExpr(part), count - 1)))],
    });
  }
  const part = Math.ceil(size / count);
  const sizes = Array.from({ length: count }, (_, i) => Math.max(0, Math.min(part, size - i * part)));
  return split([x], { axis, sizes });
}

function tileNode(n: Node): Value {
  const x = n.value(0);
  const repeats = n.dims(1) ?? [];
  const { shape } = typeOf(x);
  if (repeats.length !== shape.length) n.fail(`${repeats.length} repeats for rank ${shape.length}`, undefined, 'shape');
  const apart = reshape([x], { shape: shape.flatMap((d) => [1, d]) });
  const wide = expand([apart], { shape: shape.flatMap((d, i) => [repeats[i]!, d]) });
  return reshape([wide], { shape: shape.map((d, i) => dim(s.mul(asExpr(d), repeats[i]!))) });
}

function constantNode(n: Node): Value {
  const literal = (dtype: Scalar, values: readonly number[], shape: readonly number[]): Value =>
    constant([], { value: nd(dtype, shape, values) });
  if (n.hasAttribute('value_float')) return literal('f32', [n.float('value_float')], []);
  if (n.hasAttribute('value_int')) return literal('i64', [n.int('value_int')], []);
  const floats = n.floatList('value_floats');
  if (floats) return literal('f32', floats, [floats.length]);
  const ints = n.intList('value_ints');
  if (ints) return literal('i64', ints, [ints.length]);
  return n.fail('only tensors, numbers and lists of numbers are supported as constants');
}

function rangeNode(n: Node): Value {
  const { dtype } = n.type(0);
  const [from, to] = [0, 1].map((i) => n.items[i]?.dims?.[0] ?? n.item(i).constant()?.data[0]) as (Dim | undefined)[];
  const step = n.item(2).constant() ? n.number(2)! : undefined;
  if (step === 0) n.fail('its step is 0', undefined, 'attribute');
  const whole = [from, to, step].every((d) => typeof d !== 'number' || Number.isSafeInteger(d));
  if (from !== undefined && to !== undefined && step !== undefined) {
    if (!whole && typeof from === 'number' && typeof to === 'number')
      return counting(n.value(0), Math.max(0, Math.ceil((to - from) / step)), step, dtype, from === 0);
    if (whole) {
      const span = step > 0 ? s.sub(asExpr(to), from) : s.sub(asExpr(from), to);
      const count = dim(s.max(s.ceildiv(span, Math.abs(step)), 0));
      return counting(n.value(0), count, step, dtype, from === 0);
    }
  }
  // Ends whose range is stated are sizes.
  if (from === 0 && step === 1 && to === undefined) {
    const size = n.counting.stated(n.value(1), n.proto.inputs[1] ?? '');
    if (size !== undefined) return counting(n.value(0), size, step, dtype, true);
  }
  return rangeOfData(n, dtype);
}

/** A range of which something comes with the data: as many of the numbers that there is room for as it asks for. */
function rangeOfData(n: Node, dtype: Scalar): Value {
  const [from, end, step] = [0, 1, 2].map((i) => reshape([n.value(i)], { shape: [] })) as [Value, Value, Value];
  const [[least], [, most], [slow, fast]] = [from, end, step].map((v) => rangeOf(v, 0)) as [Range, Range, Range];
  const [, top] = rangeOf(from, 0);
  const [bottom] = rangeOf(end, 0);
  const bound = slow > 0 ? (most - least) / slow : fast < 0 ? (top - bottom) / -fast : Infinity;
  const room = n.counting.room(n.proto.outputs[0] ?? '', Math.max(0, Math.ceil(bound)));
  const exact = dtype === 'f64' || dtype === 'i64' ? 'f64' : dtype === 'i32' ? 'f64' : 'f32';
  const steps = ceil([div([sub([to(end, exact), to(from, exact)]), to(step, exact)])]);
  const count = minimum([maximum([steps, scalar(0, exact)]), scalar(2 ** 30, exact)]);
  const places = iota([], { axis: 0, shape: [room], dtype });
  return n.cut([add([mul([places, step]), from])], to(count, 'i32'))[0]!;
}

function counting(from: Value, count: Dim, step: number, dtype: Scalar, fromZero: boolean): Value {
  const whole = iota([], { axis: 0, shape: [count], dtype });
  const scaled = step === 1 ? whole : mulBy(whole, step, dtype);
  return fromZero ? scaled : add([scaled, reshape([from], { shape: [] })]);
}
const mulBy = (x: Value, by: number, dtype: Scalar): Value => mul([x, scalar(by, dtype)]);

function oneHotNode(n: Node): Value {
  const indices = n.value(0);
  const { dtype } = typeOf(indices);
  const depth = n.dims(1)?.[0] ?? n.fail('the depth is missing');
  if (!n.has(2)) n.fail('the values are missing', undefined, 'operand');
  const values = n.item(2).constant();
  if (dim(elements(n.shape(2))) !== 2) n.fail('it takes two values', undefined, 'shape');
  const whole = dtype === 'i32' || dtype === 'i64' ? indices : cast([indices], { to: 'i64' });
  if (isCounted(depth) || !values) {
    const rank = n.rank(0) + 1;
    const at = n.axis(n.int('axis', -1), rank);
    const place = to(whole, 'i64');
    const up = select([less([place, scalar(0, 'i64')]), add([place, sizeValue(depth, 'i64')]), place]);
    const beside = reshape([up], { shape: n.shape(0).toSpliced(at, 0, 1) });
    const ids = iota([], { axis: at, shape: new Array<Dim>(rank).fill(1).with(at, depth), dtype: 'i64' });
    const value = (i: number): Value => reshape([sliceAxis(n.value(2), 0, i, i + 1)], { shape: [] });
    return select([equal([beside, ids]), value(1), value(0)]);
  }
  const [off, on] = values.data as unknown as [number, number];
  return oneHot([whole], { depth, axis: n.int('axis', -1), on, off, dtype: values.dtype });
}

/** Bits add and have a maximum by `or`, multiply and have a minimum by `and`. */
const OF_BITS: Readonly<Record<string, 'max' | 'min'>> = { add: 'max', max: 'max', mul: 'min', min: 'min' };
const REDUCTIONS = ['none', 'add', 'mul', 'min', 'max'] as const;

function scattered(
  n: Node,
  scatter: (operands: readonly Value[], how: { readonly reduction: (typeof REDUCTIONS)[number] }) => Value,
): Value {
  const word = n.string('reduction', 'none');
  const reduction = REDUCTIONS.find((r) => r === word) ?? n.fail(`reduction "${word}" is not known`);
  const [x, at, updates] = [n.value(0), n.value(1), n.value(2)];
  const ofBits = typeOf(x).dtype === 'bool' ? OF_BITS[reduction] : undefined;
  if (!ofBits) return scatter([x, at, updates], { reduction });
  return to(scatter([to(x, 'u8'), at, to(updates, 'u8')], { reduction: ofBits }), 'bool');
}

function spaceDepth(n: Node, toSpace: boolean): Value {
  const x = n.value(0);
  n.expectRank(0, 4);
  const [batch, channels, h, w] = typeOf(x).shape as [Dim, number, Dim, Dim];
  if (typeof channels !== 'number') n.fail('the channel axis must have a fixed size', undefined, 'shape');
  const b = n.int('blocksize');
  if (b < 1 || (toSpace && channels % (b * b) !== 0))
    n.fail(`${channels} channels do not form blocks of ${b} × ${b}`, undefined, 'attribute');
  const times = (d: Dim, by: number): Dim => dim(s.mul(asExpr(d), by));
  const over = (d: Dim): Dim => dim(s.floordiv(asExpr(d), b));
  if (!toSpace) {
    const apart = reshape([x], { shape: [batch, channels, over(h), b, over(w), b] });
    const turned = transpose([apart], { perm: [0, 3, 5, 1, 2, 4] });
    return reshape([turned], { shape: [batch, channels * b * b, over(h), over(w)] });
  }
  const rows = n.string('mode', 'DCR') === 'CRD';
  const out = channels / (b * b);
  const apart = reshape([x], { shape: rows ? [batch, out, b, b, h, w] : [batch, b, b, out, h, w] });
  const turned = transpose([apart], { perm: rows ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2] });
  return reshape([turned], { shape: [batch, out, times(h, b), times(w, b)] });
}

function reverseSequence(n: Node): Value {
  const x = n.value(0);
  const { shape } = typeOf(x);
  const [time, batch] = [n.int('time_axis', 0), n.int('batch_axis', 1)];
  const lens = n.value(1);
  const at = iota([], { axis: time, shape, dtype: 'i64' });
  const ends = expand([reshape([lens], { shape: shape.map((d, i) => (i === batch ? d : 1)) })], { shape });
  const back = sub([sub([ends, scalar(1, 'i64')]), at]);
  return gatherElements([x, select([less([at, ends]), back, at])], { axis: time });
}

function eyeLike(n: Node): Value {
  const { shape, dtype } = n.type(0);
  const k = n.int('k', 0);
  const [rows, columns] = [0, 1].map((axis) => iota([], { axis, shape, dtype: 'i32' }));
  return cast([equal([columns!, add([rows!, scalar(k, 'i32')])])], { to: n.dtype('dtype') ?? dtype });
}

function unsqueezeNode(n: Node): Value {
  const { shape } = n.type(0);
  const given = (n.has(1) ? n.ints(1) : n.intList('axes')) ?? n.fail('axes are missing');
  const rank = shape.length + given.length;
  const at = new Set(given.map((a) => n.axis(a, rank)));
  if (at.size !== given.length) n.fail(`axes [${given.join(', ')}] name one axis twice`, undefined, 'attribute');
  const rest = [...shape];
  return reshape([n.value(0)], { shape: Array.from({ length: rank }, (_, i) => (at.has(i) ? 1 : rest.shift()!)) });
}

function squeezeNode(n: Node): Value {
  const { shape } = n.type(0);
  const axes = axesOf(n, 1, shape.length) ?? shape.flatMap((d, i) => (d === 1 ? [i] : []));
  let x = n.value(0);
  for (const axis of axes) {
    if (sameDim(shape[axis]!, 1)) continue;
    const [least, most] = boundsOf(asExpr(shape[axis]!));
    if (least > 1 || most < 1) n.fail(`axis ${axis} of the operand does not have size 1`, undefined, 'shape');
    // A size that follows from those of the inputs: it is 1 wherever the file may run.
    x = sliceAxis(x, axis, 0, 1);
  }
  return reshape([x], { shape: shape.filter((_, i) => !axes.includes(i)) });
}

function expandNode(n: Node): Value {
  const x = n.value(0);
  const { shape } = typeOf(x);
  const wanted = n.dims(1) ?? [];
  // A size that comes with the data is 1 or the axis's own where that is more than 1.
  const target = wanted.map((d, i) => {
    const own = shape[shape.length - wanted.length + i];
    return isCounted(d) && own !== undefined && boundsOf(asExpr(own))[0] > 1 ? own : d;
  });
  return expand([x], { shape: broadcastShapes([shape, target]) });
}

export const shapes: Entries = {
  Identity: (n) => n.value(0),
  Constant: constantNode,
  Dropout: (n) => {
    n.ignore('ratio', 'seed', 'is_test');
    const training = n.opset >= 12 && n.has(2) && n.number(2) !== 0;
    if (training && (n.number(1) ?? 0.5) !== 0) n.fail('training_mode is true', 'export the model in evaluation mode');
    const x = n.value(0);
    return [x, expand([scalar(1, 'bool')], { shape: typeOf(x).shape })];
  },
  Cast: (n) => {
    n.ignore('saturate', 'round_mode');
    return cast([n.value(0)], { to: n.dtype('to') ?? n.fail('attribute "to" is missing') });
  },
  CastLike: (n) => {
    n.ignore('saturate', 'round_mode');
    return cast([n.value(0)], { to: n.type(1).dtype });
  },
  Reshape: reshapeNode,
  Flatten: (n) => {
    const { shape } = n.type(0);
    const given = n.int('axis', 1);
    const axis = given < 0 ? given + shape.length : given;
    const count = (part: Shape): Dim => part.reduce<Dim>((p, d) => dim(s.mul(asExpr(p), d)), 1);
    return reshape([n.value(0)], { shape: [count(shape.slice(0, axis)), count(shape.slice(axis))] });
  },
  Squeeze: squeezeNode,
  Unsqueeze: unsqueezeNode,
  Transpose: (n) => {
    const rank = n.rank(0);
    return transpose([n.value(0)], { perm: n.intList('perm') ?? Array.from({ length: rank }, (_, i) => rank - 1 - i) });
  },
  Split: splitNode,
  Slice: sliceNode,
  Expand: expandNode,
  Tile: tileNode,
  ConstantOfShape: (n) => {
    const value = n.tensor('value') ?? nd('f32', [1], [0]);
    return expand([scalar(value.data[0] ?? 0, value.dtype)], { shape: n.dims(0) ?? [] });
  },
  Range: rangeNode,
  OneHot: oneHotNode,
  TopK: (n) => {
    n.ignore('sorted');
    const axis = n.axis(n.int('axis', -1), n.rank(0));
    const order = { axis, largest: n.int('largest', 1) !== 0 };
    if (n.opset < 10 || isKnown(n, 1)) {
      const k = n.opset < 10 ? n.int('k') : (n.dims(1)?.[0] ?? n.fail('k is missing'));
      return topK([n.value(0)], { k, ...order });
    }
    // All in order, of which the first k count.
    const all = projectAll(topK([n.value(0)], { k: n.shape(0)[axis]!, ...order }));
    return n.cut(all, to(reshape([n.value(1)], { shape: [] }), 'i32'), { axis });
  },
  Scatter: (n) => scatterElements(n.values(), { axis: n.int('axis', 0) }),
  ScatterElements: (n) =>
    scattered(n, (operands, how) => scatterElements(operands, { axis: n.int('axis', 0), ...how })),
  ScatterND: (n) => scattered(n, (operands, how) => scatterNd(operands, how)),
  DepthToSpace: (n) => spaceDepth(n, true),
  SpaceToDepth: (n) => spaceDepth(n, false),
  ReverseSequence: reverseSequence,
  EyeLike: eyeLike,
  Mod: (n) => (n.int('fmod', 0) !== 0 ? rem(n.values()) : floorMod(n.values())),
  Concat: (n) => {
    const axis = n.int('axis', n.opset < 4 ? 1 : undefined);
    return concat(n.values(), { axis });
  },
};
