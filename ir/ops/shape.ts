/** Ops that move elements without computing: the result's type says nearly everything. */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import type { Expr } from '../expr.ts';
import { typeOf, type Value } from '../graph.ts';
import { broadcastOffset, generate, type Nd, rowMajor } from '../nd.ts';
import { defineOp, type EvalContext } from '../op.ts';
import { equalElements } from '../polynomial.ts';
import { printDim } from '../print.ts';
import * as s from '../scalar.ts';
import { boundsOf } from '../simplify.ts';
import { asExpr, type Dim, dim, type Shape, sameDim, tensor, tuple } from '../type.ts';
import { broadcastShapes, expectRank, expectSameDim, expectSameDtype, normalizeAxis, typeAt } from './check.ts';
import { bools, f32, given, i32 } from './example.ts';
import { late } from './late.ts';
import { concatNeed, padNeed, reshapeNeed, sliceNeed } from './movement-need.ts';
import { project, scalar } from './structural.ts';

const list = (shape: Shape): string => `[${shape.map(printDim).join(', ')}]`;
const zeros = (dtype: Nd['dtype'], shape: Shape): Value => expand([scalar(0, dtype)], { shape });
/** Elements of `x` picked by `from`, which maps result coordinates to its own. */
function move(x: Nd, shape: readonly number[], from: (at: readonly number[]) => readonly number[]): Nd {
  const strides = rowMajor(x.shape);
  return generate(x.dtype, shape, (at) => x.data[from(at).reduce((n, c, i) => n + c * strides[i]!, 0)]!);
}
const shapeOf = (cx: EvalContext, n = 0): readonly number[] => cx.types[n]!.shape;

interface AxisGroup {
  readonly from: readonly number[];
  readonly to: readonly number[];
}

/**
 * The finest cut of two shapes with equally many elements into runs of axes that hold the same elements. Axes of size 1
 * belong to no run. `[B, 197, 768]` to `[B, 197, 12, 64]` is {B→B}, {197→197}, {768→12, 64}.
 */
export function reshapeGroups(from: Shape, to: Shape): AxisGroup[] {
  const real = (shape: Shape): number[] => shape.flatMap((d, i) => (dim(d) === 1 ? [] : [i]));
  const [a, b] = [real(from), real(to)];
  const groups: AxisGroup[] = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    let found: AxisGroup | undefined;
    // The nearest cut first: runs of `size` axes in all.
    for (let size = 2; !found && size <= a.length - i + b.length - j; size++)
      for (let n = 1; n < size && !found; n++) {
        const [left, right] = [a.slice(i, i + n), b.slice(j, j + size - n)];
        if (left.length < n || right.length < size - n) continue;
        if (
          equalElements(
            left.map((k) => from[k]!),
            right.map((k) => to[k]!),
          )
        )
          found = { from: left, to: right };
      }
    found ??= { from: a.slice(i), to: b.slice(j) };
    groups.push(found);
    i += found.from.length;
    j += found.to.length;
  }
  return groups;
}

/** Coordinates in `from` of the element at `at` in `to`: both count the same elements in C order. */
function reindex(at: readonly Expr[], to: Shape, from: Shape): Expr[] {
  const result: Expr[] = from.map(() => s.literal(0));
  if ([...from, ...to].some((d) => dim(d) === 0)) return result;
  for (const group of reshapeGroups(from, to)) {
    const flat = group.to.reduce<Expr>((n, axis) => s.add(s.mul(n, to[axis]!), at[axis]!), s.literal(0));
    let stride: Expr = s.literal(1);
    for (const axis of group.from.toReversed()) {
      const above = s.floordiv(flat, stride);
      result[axis] = axis === group.from[0] ? above : s.floormod(above, from[axis]!);
      stride = s.mul(stride, from[axis]!);
    }
  }
  return result;
}

/** The same elements in C order under another shape. */
export const reshape = defineOp({
  name: 'reshape',
  doc: 'The same elements in C order under another shape.',
  inputs: ['x'],
  attrs: { shape: attr.dims('sizes of the result') },
  type: ([x], { shape }) => {
    for (const d of shape) if (typeof d === 'number' && d < 0) fail('attribute', `size ${d} in shape ${list(shape)}`);
    if (!equalElements(x!.shape, shape))
      fail('shape', `element counts differ, ${list(x!.shape)} and ${list(shape)}`, {
        help: 'the products of the sizes must be equal for every value of their symbols',
      });
    return tensor(x!.dtype, shape);
  },
  axes: ([x], { shape }) => {
    const roles: (number | 'mix')[] = x!.shape.map(() => 'mix');
    for (const { from, to } of reshapeGroups(x!.shape, shape))
      if (from.length === 1 && to.length === 1) roles[from[0]!] = to[0]!;
    return [roles];
  },
  need: reshapeNeed(reindex),
  eval: ([x], _, cx) => ({ dtype: x!.dtype, shape: shapeOf(cx), data: x!.data }),
  lower: {
    kind: 'view',
    from: (at, { inputs, out }) => reindex(at, out.shape, inputs[0]!.shape),
    to: (at, { inputs, out }) => reindex(at, inputs[0]!.shape, out.shape),
  },
  grad: ({ inputs: [x] }, [dy]): Value[] => [reshape([dy!], { shape: typeOf(x!).shape })],
  examples: [
    { inputs: [f32(2, 3, 5)], attrs: { shape: [6, 5] } },
    { inputs: [f32(2, 15)], attrs: { shape: [2, 3, 5] }, note: 'leading axis kept' },
    { inputs: [f32(4, 6)], attrs: { shape: [3, 8] }, note: 'no axis kept' },
    { inputs: [f32(1, 7, 1)], attrs: { shape: [7] } },
    { inputs: [f32(1)], attrs: { shape: [] } },
    { inputs: [f32(0, 3)], attrs: { shape: [5, 0] } },
  ],
});

/** Axes in another order: axis i of the result is axis perm[i] of x. */
export const transpose = defineOp({
  name: 'transpose',
  doc: 'Axes in another order: axis i of the result is axis perm[i] of x.',
  inputs: ['x'],
  attrs: { perm: attr.ints('for each result axis, the axis of x') },
  type: ([x], { perm }) => {
    const rank = x!.shape.length;
    if (perm.length !== rank || [...perm].sort((a, b) => a - b).some((p, i) => p !== i))
      fail('attribute', `perm [${perm.join(', ')}] is no permutation of 0..${rank - 1}`);
    return tensor(
      x!.dtype,
      perm.map((p) => x!.shape[p]!),
    );
  },
  axes: (_, { perm }) => [perm.map((_, axis) => perm.indexOf(axis))],
  eval: ([x], { perm }, cx) => move(x!, shapeOf(cx), (at) => perm.map((_, axis) => at[perm.indexOf(axis)]!)),
  lower: {
    kind: 'view',
    from: (at, { attrs: { perm } }) => perm.map((_, axis) => at[perm.indexOf(axis)]!),
    to: (at, { attrs: { perm } }) => perm.map((axis) => at[axis]!),
  },
  grad: (out, [dy]): Value[] => {
    const perm = out.attrs.perm as readonly number[];
    return [transpose([dy!], { perm: perm.map((_, axis) => perm.indexOf(axis)) })];
  },
  onnx: { op: 'Transpose', since: 13, attrs: { perm: 'perm' } },
  examples: [
    { inputs: [f32(2, 3, 5)], attrs: { perm: [2, 0, 1] } },
    { inputs: [f32(3, 5)], attrs: { perm: [1, 0] } },
    { inputs: [f32(2, 1, 0)], attrs: { perm: [1, 2, 0] } },
    { inputs: [f32()], attrs: { perm: [] } },
    { inputs: [bools(2, 3, 1, 4)], attrs: { perm: [0, 2, 1, 3] } },
  ],
});

/** Stretches axes of size 1, and adds leading axes. */
export const expand = defineOp({
  name: 'expand',
  doc: 'Repeats x along axes of size 1, and along new leading axes, as numpy broadcast_to.',
  inputs: ['x'],
  attrs: { shape: attr.dims('sizes of the result') },
  type: ([x], { shape }) => {
    const common = broadcastShapes([x!.shape, shape]);
    if (common.length !== shape.length || !common.every((d, i) => sameDim(d, shape[i]!)))
      fail('shape', `${list(x!.shape)} does not stretch to ${list(shape)}`);
    return tensor(x!.dtype, shape);
  },
  axes: ([x], { shape }) => [
    x!.shape.map((d, i) => {
      const axis = i + shape.length - x!.shape.length;
      return sameDim(d, shape[axis]!) ? axis : 'mix';
    }),
  ],
  eval: ([x], _, cx) => {
    const strides = rowMajor(x!.shape);
    return generate(x!.dtype, shapeOf(cx), (at) => x!.data[broadcastOffset(x!.shape, strides, at)]!);
  },
  lower: {
    kind: 'view',
    from: (at, { inputs, out }) => {
      const skip = out.shape.length - inputs[0]!.shape.length;
      return inputs[0]!.shape.map((d, i) => (dim(d) === 1 ? s.literal(0) : at[i + skip]!));
    },
  },
  grad: ({ inputs: [x] }, [dy]): Value[] => {
    const from = typeOf(x!).shape;
    const to = typeOf(dy!).shape;
    const skip = to.length - from.length;
    const axes = to.flatMap((d, i) => (i < skip || (dim(from[i - skip]!) === 1 && dim(d) !== 1) ? [i] : []));
    return [reshape([axes.length > 0 ? late('reduce_sum', [dy!], { axes, keepdims: true }) : dy!], { shape: from })];
  },
  examples: [
    { inputs: [f32(3, 1)], attrs: { shape: [2, 3, 5] } },
    { inputs: [f32()], attrs: { shape: [4] } },
    { inputs: [f32(1)], attrs: { shape: [0] } },
    { inputs: [i32(2, 3)], attrs: { shape: [2, 3] } },
  ],
});

/** Number of elements that a slice keeps on one axis. */
function sliceSize(start: Dim, stop: Dim, step: number): Dim {
  if (step === 0) fail('attribute', 'a step of 0');
  const span = step > 0 ? s.sub(asExpr(stop), start) : s.sub(asExpr(start), stop);
  const size = dim(s.ceildiv(span, Math.abs(step)));
  return typeof size === 'number' ? Math.max(0, size) : size;
}
function checkSlice(size: Dim, start: Dim, stop: Dim, step: number, axis: number): void {
  const [low, high] = step > 0 ? [start, stop] : [stop, start];
  // Negative steps stop before the first element at −1, and start no later than the last.
  const [least, most] = step > 0 ? [0, dim(size)] : [-1, dim(s.sub(asExpr(size), 1))];
  const empty = boundsOf(s.sub(asExpr(high), low))[1] <= 0;
  if (!empty && (boundsOf(asExpr(low))[1] < least || boundsOf(s.sub(asExpr(most), high))[1] < 0))
    fail('range', `axis ${axis} has size ${printDim(size)}, but ${printDim(start)}..${printDim(stop)} was asked for`);
}

/** Every step-th element between start and stop, on each axis. */
export const slice = defineOp({
  name: 'slice',
  doc: 'On each axis, the elements start, start + step, … before stop; a negative step counts down and may stop at −1.',
  inputs: ['x'],
  attrs: {
    starts: attr.dims('first position on each axis, 0 ≤ start'),
    stops: attr.dims('position to stop before'),
    steps: attr.ints('distance between positions, not 0'),
  },
  type: ([x], { starts, stops, steps }) => {
    const rank = x!.shape.length;
    if (starts.length !== rank || stops.length !== rank || steps.length !== rank)
      fail('attribute', `needs a start, stop and step for each of ${rank} axes`);
    for (const [i, d] of x!.shape.entries()) checkSlice(d, starts[i]!, stops[i]!, steps[i]!, i);
    return tensor(
      x!.dtype,
      x!.shape.map((_, i) => sliceSize(starts[i]!, stops[i]!, steps[i]!)),
    );
  },
  axes: ([x], { starts, stops, steps }) => [
    x!.shape.map((d, i) => (dim(starts[i]!) === 0 && steps[i] === 1 && sameDim(stops[i]!, d) ? i : 'mix')),
  ],
  need: sliceNeed,
  eval: ([x], { starts, steps }, cx) => {
    const first = starts.map(cx.size);
    const shape = shapeOf(cx);
    shape.forEach((n, i) => {
      const last = first[i]! + (n - 1) * steps[i]!;
      if (n < 0 || (n > 0 && (Math.min(first[i]!, last) < 0 || Math.max(first[i]!, last) >= x!.shape[i]!)))
        fail('range', `slice: axis ${i} has size ${x!.shape[i]}, but ${n} elements from ${first[i]} were asked for`);
    });
    return move(x!, shape, (at) => at.map((c, i) => first[i]! + c * steps[i]!));
  },
  lower: {
    kind: 'view',
    from: (at, { attrs: { starts, steps } }) => at.map((c, i) => s.add(s.mul(c, steps[i]!), starts[i]!)),
  },
  grad: (out, [dy]): Value[] => {
    const { shape } = typeOf(out.inputs[0]!);
    const [starts, steps] = [out.attrs.starts as readonly Dim[], out.attrs.steps as readonly number[]];
    return [shape.reduce<Value>((g, size, axis) => spread(g, axis, size, starts[axis]!, steps[axis]!), dy!)];
  },
  examples: [
    { inputs: [f32(5, 7)], attrs: { starts: [1, 0], stops: [4, 7], steps: [1, 1] } },
    { inputs: [f32(5, 7)], attrs: { starts: [0, 1], stops: [5, 7], steps: [2, 3] }, note: 'strided' },
    { inputs: [f32(5)], attrs: { starts: [4], stops: [-1], steps: [-1] }, note: 'reversed' },
    { inputs: [f32(7)], attrs: { starts: [5], stops: [0], steps: [-2] } },
    { inputs: [f32(3, 2)], attrs: { starts: [3, 0], stops: [3, 2], steps: [1, 1] }, note: 'nothing left' },
    { inputs: [f32()], attrs: { starts: [], stops: [], steps: [] } },
  ],
});

/** Keeps start ≤ position < stop on one axis. */
export function sliceAxis(x: Value, axis: number, start: Dim, stop: Dim, step = 1): Value {
  const { shape } = typeOf(x);
  return slice([x], {
    starts: shape.map((_, i) => (i === axis ? start : 0)),
    stops: shape.map((d, i) => (i === axis ? stop : d)),
    steps: shape.map((_, i) => (i === axis ? step : 1)),
  });
}

/** The transpose of slicing: `g` at start, start + step, … of an axis of `size`, zeros between. */
function spread(g: Value, axis: number, size: Dim, start: Dim, step: number): Value {
  const { shape, dtype } = typeOf(g);
  const count = shape[axis]!;
  const withSize = (d: Dim): Dim[] => shape.map((old, i) => (i === axis ? dim(d) : old));
  if (count === 0) return zeros(dtype, withSize(size));
  if (step < 0) {
    const first = s.add(s.mul(s.sub(asExpr(count), 1), step), start);
    return spread(sliceAxis(g, axis, dim(s.sub(asExpr(count), 1)), -1, -1), axis, size, dim(first), -step);
  }
  let wide = g;
  if (step > 1) {
    const apart = reshape([g], { shape: shape.toSpliced(axis + 1, 0, 1) });
    const after = [...shape, 1].map((_, i) => (i === axis + 1 ? step - 1 : 0));
    const padded = pad([apart], { before: after.map(() => 0), after });
    wide = sliceAxis(
      reshape([padded], { shape: withSize(s.mul(asExpr(count), step)) }),
      axis,
      0,
      dim(s.add(s.mul(s.sub(asExpr(count), 1), step), 1)),
    );
  }
  const rest = dim(s.sub(s.sub(asExpr(size), typeOf(wide).shape[axis]!), start));
  const parts = [
    ...(dim(start) === 0 ? [] : [zeros(dtype, withSize(start))]),
    wide,
    ...(rest === 0 ? [] : [zeros(dtype, withSize(rest))]),
  ];
  return parts.length === 1 ? wide : concat(parts, { axis });
}

/** Sizes of `inputs` on one axis, added up: `[0, n₀, n₀ + n₁, …]`. */
function offsets(sizes: readonly Dim[]): Dim[] {
  const sums: Dim[] = [0];
  for (const d of sizes) {
    const last = sums.at(-1)!;
    sums.push(typeof last === 'number' && typeof d === 'number' ? last + d : dim(s.add(asExpr(last), d)));
  }
  return sums;
}
/** A coordinate forced into 0 … size − 1, so that the side of a select that is not taken reads inside its operand. */
export const clampIndex = (at: Expr, size: Dim): Expr => s.max(s.min(at, s.sub(asExpr(size), 1)), 0);

/** Operands one after another along an axis. */
export const concat = defineOp({
  name: 'concat',
  doc: 'Operands one after another along an axis.',
  inputs: ['xs...'],
  attrs: { axis: attr.int('axis to join along; negative counts from the end') },
  type: (inputs, attrs) => {
    if (inputs.length === 0) fail('operand', 'needs at least one operand');
    const dtype = expectSameDtype(inputs);
    const { shape } = typeAt(inputs, 0);
    const axis = normalizeAxis(attrs.axis, shape.length);
    for (const t of inputs) {
      expectRank(t, shape.length, 'every operand');
      t.shape.forEach((d, i) => {
        if (i !== axis) expectSameDim(d, shape[i]!, `sizes differ on axis ${i}`);
      });
    }
    return tensor(
      dtype,
      shape.map((d, i) => (i === axis ? offsets(inputs.map((t) => t.shape[axis]!)).at(-1)! : d)),
    );
  },
  axes: (inputs, { axis }) =>
    inputs.map(({ shape }) => shape.map((_, i) => (i === normalizeAxis(axis, shape.length) ? 'mix' : i))),
  need: concatNeed,
  eval: (inputs, attrs, cx) => {
    const axis = normalizeAxis(attrs.axis, shapeOf(cx).length);
    return generate(inputs[0]!.dtype, shapeOf(cx), (at) => {
      let position = at[axis]!;
      let n = 0;
      while (position >= inputs[n]!.shape[axis]!) position -= inputs[n++]!.shape[axis]!;
      const x = inputs[n]!;
      return x.data[x.shape.reduce((sum, d, i) => sum * d + (i === axis ? position : at[i]!), 0)]!;
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs, inputs, out }) => {
      const axis = normalizeAxis(attrs.axis, out.shape.length);
      const starts = offsets(inputs.map((t) => t.shape[axis]!));
      const present = inputs.flatMap((t, n) => (dim(t.shape[axis]!) === 0 ? [] : [n]));
      const read = (n: number): Expr =>
        load(
          n,
          at.map((c, i) => (i === axis ? clampIndex(s.sub(c, starts[n]!), inputs[n]!.shape[axis]!) : c)),
        );
      if (present.length === 0) return s.zero(out.dtype);
      return present
        .slice(0, -1)
        .reduceRight((rest, n) => s.select(s.lt(at[axis]!, starts[n + 1]!), read(n), rest), read(present.at(-1)!));
    },
  },
  grad: (out, [dy]): Value[] => {
    const axis = normalizeAxis(out.attrs.axis as number, typeOf(out).shape.length);
    const starts = offsets(out.inputs.map((x) => typeOf(x).shape[axis]!));
    return out.inputs.map((_, n) => sliceAxis(dy!, axis, starts[n]!, starts[n + 1]!));
  },
  onnx: { op: 'Concat', since: 13, attrs: { axis: 'axis' } },
  examples: [
    { inputs: [f32(2, 3), f32(2, 5), f32(2, 1)], attrs: { axis: 1 } },
    { inputs: [f32(2, 3), f32(1, 3)], attrs: { axis: -2 } },
    { inputs: [f32(2, 0), f32(2, 3)], attrs: { axis: 1 }, note: 'an empty operand' },
    { inputs: [i32(4)], attrs: { axis: 0 } },
  ],
});

/** Consecutive pieces of an axis, one result each. */
export const split = defineOp({
  name: 'split',
  doc: 'Consecutive pieces of an axis, one result each.',
  inputs: ['x'],
  attrs: { axis: attr.int('axis to cut'), sizes: attr.dims('size of each piece') },
  type: ([x], attrs) => {
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    if (attrs.sizes.length === 0) fail('attribute', 'needs at least one piece');
    expectSameDim(offsets(attrs.sizes).at(-1)!, x!.shape[axis]!, `pieces do not add up to axis ${axis}`);
    return tuple(
      ...attrs.sizes.map((size) =>
        tensor(
          x!.dtype,
          x!.shape.map((d, i) => (i === axis ? size : d)),
        ),
      ),
    );
  },
  axes: ([x], { axis }) => [x!.shape.map((_, i) => (i === normalizeAxis(axis, x!.shape.length) ? 'mix' : i))],
  eval: ([x], attrs, cx) => {
    const axis = normalizeAxis(attrs.axis, x!.shape.length);
    let start = 0;
    return cx.types.map(({ shape }) => {
      const first = start;
      start += shape[axis]!;
      return move(x!, shape, (at) => at.map((c, i) => (i === axis ? c + first : c)));
    });
  },
  lower: {
    kind: 'decompose',
    build: ([x], { axis, sizes }) => {
      const at = normalizeAxis(axis, typeOf(x!).shape.length);
      const starts = offsets(sizes);
      return sizes.map((_, n) => sliceAxis(x!, at, starts[n]!, starts[n + 1]!));
    },
  },
  grad: (out, douts): Value[] => [concat(douts, { axis: out.attrs.axis as number })],
  examples: [
    { inputs: [f32(2, 9)], attrs: { axis: 1, sizes: [3, 5, 1] } },
    { inputs: [f32(4, 2)], attrs: { axis: -2, sizes: [4] } },
    { inputs: [i32(3)], attrs: { axis: 0, sizes: [0, 3] }, note: 'an empty piece' },
  ],
});

/** Position inside 0 … n − 1 that a padded coordinate shows, by mode. */
function padIndex(c: Expr, n: Dim, mode: string): Expr {
  const size = asExpr(n);
  if (mode === 'wrap') return s.floormod(c, size);
  if (mode !== 'reflect') return clampIndex(c, n);
  const last = s.sub(size, 1);
  const period = s.max(s.mul(last, 2), 1);
  const m = s.floormod(c, period);
  return s.min(m, s.sub(s.mul(last, 2), m));
}
function padPosition(c: number, n: number, mode: string): number {
  if (c >= 0 && c < n) return c;
  if (mode === 'edge') return c < 0 ? 0 : n - 1;
  if (mode === 'wrap') return ((c % n) + n) % n;
  if (n === 1) return 0;
  // Reflection about both ends, as often as it takes.
  return padPosition(c < 0 ? -c : 2 * (n - 1) - c, n, mode);
}

/** Elements before and after each axis; negative amounts cut. */
export const pad = defineOp({
  name: 'pad',
  doc: 'Adds elements before and after each axis (negative amounts cut): a constant, the edge, its mirror image, or the other end.',
  inputs: ['x'],
  attrs: {
    before: attr.ints('elements added before each axis'),
    after: attr.ints('elements added after each axis'),
    value: opt.float(0, 'the constant'),
    mode: opt.oneOf(['constant', 'edge', 'reflect', 'wrap'], 'constant', 'what the added elements show'),
  },
  type: ([x], { before, after, mode }) => {
    const rank = x!.shape.length;
    if (before.length !== rank || after.length !== rank) fail('attribute', `needs amounts for each of ${rank} axes`);
    const shape = x!.shape.map((d, i) => dim(s.add(asExpr(d), before[i]! + after[i]!)));
    shape.forEach((d, i) => {
      if (typeof d === 'number' && d < 0)
        fail('shape', `axis ${i} of size ${printDim(x!.shape[i]!)} loses ${-before[i]! - after[i]!}`);
      if (mode !== 'constant' && x!.shape[i] === 0 && d !== 0)
        fail('shape', `axis ${i} is empty: ${mode} has nothing to show`);
    });
    return tensor(x!.dtype, shape);
  },
  axes: (_, { before, after }) => [before.map((n, i) => (n === 0 && after[i] === 0 ? i : 'mix'))],
  need: padNeed,
  eval: ([x], { before, value, mode }, cx) => {
    const fill = x!.dtype === 'bool' ? Number(value !== 0) : value;
    return generate(x!.dtype, shapeOf(cx), (at) => {
      let offset = 0;
      for (const [i, n] of x!.shape.entries()) {
        const c = at[i]! - before[i]!;
        if (mode === 'constant' && (c < 0 || c >= n)) return fill;
        offset = offset * n + padPosition(c, n, mode);
      }
      return x!.data[offset]!;
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs: { before, after, value, mode }, inputs: [x], out }) => {
      if (x!.shape.some((d) => dim(d) === 0)) return s.literal(value, out.dtype);
      const inside = at.map((c, i) => s.sub(c, before[i]!));
      const read = load(
        0,
        inside.map((c, i) => (before[i] === 0 && after[i] === 0 ? c : padIndex(c, x!.shape[i]!, mode))),
      );
      if (mode !== 'constant') return read;
      const ok = inside.reduce<Expr>((all, c, i) => {
        const low = before[i]! > 0 ? s.and(all, s.le(0, c)) : all;
        return after[i]! > 0 ? s.and(low, s.lt(c, x!.shape[i]!)) : low;
      }, s.bool(true));
      return s.select(ok, read, s.literal(value, out.dtype));
    },
  },
  grad: (out, [dy]): Value[] => {
    const [before, after] = [out.attrs.before as readonly number[], out.attrs.after as readonly number[]];
    if (out.attrs.mode !== 'constant')
      fail('unsupported', `pad: mode "${String(out.attrs.mode)}" has no gradient`, { help: 'pad with a constant' });
    return [pad([dy!], { before: before.map((n) => 0 - n), after: after.map((n) => 0 - n) })];
  },
  examples: [
    { inputs: [f32(3, 5)], attrs: { before: [1, 0], after: [2, 3], value: -1.5 } },
    { inputs: [f32(3, 5)], attrs: { before: [-1, 2], after: [0, -2] }, note: 'negative amounts cut' },
    { inputs: [f32(2, 3)], attrs: { before: [1, 2], after: [1, 4], mode: 'edge' } },
    { inputs: [f32(3, 4)], attrs: { before: [2, 3], after: [2, 7], mode: 'reflect' }, note: 'reflects more than once' },
    { inputs: [f32(1, 3)], attrs: { before: [2, 4], after: [1, 5], mode: 'wrap' } },
    { inputs: [f32(1)], attrs: { before: [2], after: [2], mode: 'reflect' }, note: 'a single element' },
    { inputs: [f32(0)], attrs: { before: [1], after: [1], value: 7 } },
    { inputs: [bools(2)], attrs: { before: [1], after: [0], value: 1 } },
  ],
});

/** Coordinates as values. */
export const iota = defineOp({
  name: 'iota',
  doc: 'Each element is its own coordinate on one axis.',
  inputs: [],
  attrs: { axis: attr.int('the axis that counts'), shape: attr.dims('sizes'), dtype: attr.dtype('element type') },
  type: (_, { axis, shape, dtype }) => {
    normalizeAxis(axis, shape.length);
    if (dtype === 'bool') fail('dtype', 'bool does not count');
    return tensor(dtype, shape);
  },
  eval: (_, { axis, dtype }, cx) => {
    const at0 = normalizeAxis(axis, shapeOf(cx).length);
    return generate(dtype, shapeOf(cx), (at) => at[at0]!);
  },
  lower: {
    kind: 'element',
    element: (at, _, { attrs: { axis }, out }) => s.cast(at[normalizeAxis(axis, at.length)]!, out.dtype),
  },
  grad: () => [],
  examples: [
    { inputs: [], attrs: { axis: 0, shape: [5], dtype: 'i64' } },
    { inputs: [], attrs: { axis: -1, shape: [2, 3], dtype: 'f32' } },
    { inputs: [], attrs: { axis: 1, shape: [2, 0], dtype: 'i32' } },
  ],
});

/** One triangle of each matrix; the rest is zero. */
export const trilu = defineOp({
  name: 'trilu',
  doc: 'One triangle of the last two axes, zero elsewhere: upper keeps column − row ≥ k, lower keeps column − row ≤ k.',
  inputs: ['x'],
  attrs: { upper: opt.bool(true, 'which triangle'), k: opt.int(0, 'diagonal it ends at, 0 the main one') },
  type: ([x]) => {
    if (x!.shape.length < 2) fail('rank', `needs rank ≥ 2, not ${x!.shape.length}`);
    return x!;
  },
  axes: ([x]) => [x!.shape.map((_, i) => i)],
  eval: ([x], { upper, k }) => {
    const strides = rowMajor(x!.shape);
    return generate(x!.dtype, x!.shape, (at) => {
      const diagonal = at.at(-1)! - at.at(-2)!;
      return (upper ? diagonal >= k : diagonal <= k) ? x!.data[broadcastOffset(x!.shape, strides, at)]! : 0;
    });
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs: { upper, k }, out }) => {
      const [row, column] = [at.at(-2)!, at.at(-1)!];
      const edge = s.add(row, k);
      return s.select(upper ? s.le(edge, column) : s.le(column, edge), load(0, at), s.zero(out.dtype));
    },
  },
  grad: (out, [dy]): Value[] => [trilu([dy!], { upper: out.attrs.upper as boolean, k: out.attrs.k as number })],
  onnx: { op: 'Trilu', since: 14, attrs: { upper: 'upper' }, operands: { k: 1 } },
  examples: [
    { inputs: [f32(3, 5)], attrs: {} },
    { inputs: [f32(2, 5, 3)], attrs: { upper: false, k: -1 } },
    { inputs: [given('i32', [1, 4], [1, 2, 3, 4])], attrs: { upper: true, k: 2 } },
    { inputs: [f32(0, 3)], attrs: {} },
  ],
});

/** Results of `split` as values. */
export const splitAxis = (x: Value, axis: number, sizes: readonly Dim[]): Value[] => {
  const pieces = split([x], { axis, sizes });
  return sizes.map((_, i) => project(pieces, i));
};
