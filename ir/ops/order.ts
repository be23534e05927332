/** Ops that depend on order along one axis: positions of extrema, the k largest, running sums. */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import type { Value } from '../graph.ts';
import { type Nd, nd } from '../nd.ts';
import { defineOp, type Op } from '../op.ts';
import { printDim } from '../print.ts';
import { boundsOf } from '../simplify.ts';
import { asExpr, type Dim, tensor, tuple } from '../type.ts';
import { expectDtype, normalizeAxis, typeAt } from './check.ts';
import { addAs } from './exact.ts';
import { f32, given } from './example.ts';
import { runningNeed } from './movement-need.ts';

/** Calls `visit` for every line along `axis`: flat position of its first element, distance of neighbours, line number. */
export function eachLine(
  shape: readonly number[],
  axis: number,
  visit: (start: number, step: number, line: number) => void,
): void {
  const step = shape.slice(axis + 1).reduce((n, d) => n * d, 1);
  const outer = shape.slice(0, axis).reduce((n, d) => n * d, 1);
  for (let o = 0; o < outer; o++) for (let i = 0; i < step; i++) visit(o * shape[axis]! * step + i, step, o * step + i);
}

const argAttrs = {
  axis: attr.int('axis searched, negative counted from the end'),
  keepdims: opt.bool(false, 'leave the axis in place with size 1'),
  last: opt.bool(false, 'among equal elements take the last instead of the first'),
  dtype: opt.oneOf(['i64', 'i32'], 'i64', 'element type of the positions'),
} as const;

function defineArg(
  name: string,
  doc: string,
  onnx: string,
  beats: (x: number, best: number) => boolean,
): Op<typeof argAttrs> {
  return defineOp({
    name,
    doc,
    inputs: ['x'],
    attrs: argAttrs,
    type: (inputs, { axis, keepdims, dtype }) => {
      const x = typeAt(inputs, 0);
      expectDtype(x, 'number', 'x');
      const at = normalizeAxis(axis, x.shape.length);
      if (x.shape[at] === 0) fail('shape', `axis ${axis} is empty, so it has no extremum`);
      return tensor(dtype, keepdims ? x.shape.map((d, i) => (i === at ? 1 : d)) : x.shape.filter((_, i) => i !== at));
    },
    axes: ([x], { axis, keepdims }) => {
      const at = normalizeAxis(axis, x!.shape.length);
      return [x!.shape.map((_, i) => (i === at ? 'mix' : i > at && !keepdims ? i - 1 : i))];
    },
    eval: ([x], { axis, last, dtype }, cx) => {
      const at = normalizeAxis(axis, x!.shape.length);
      const size = x!.shape[at]!;
      if (size === 0) fail('range', `${name}: axis ${axis} is empty`);
      const out = nd(dtype, cx.types[0]!.shape);
      eachLine(x!.shape, at, (start, step, line) => {
        let best = 0;
        for (let i = 1; i < size; i++) {
          const [v, top] = [x!.data[start + i * step]!, x!.data[start + best * step]!];
          if (sameRank(v, top) ? last : beats(v, top)) best = i;
        }
        out.data[line] = best;
      });
      return out;
    },
    lower: { kind: 'schedule', name: 'arg-reduce' },
    onnx: { op: onnx, since: 13, attrs: { axis: 'axis', keepdims: 'keepdims', last: 'select_last_index' } },
    examples: [
      { inputs: [f32(3, 5, 7)], attrs: { axis: 1 } },
      { inputs: [given('f32', [2, 4], [3, 1, 3, 1, -0, 0, 0, -0])], attrs: { axis: -1, keepdims: true }, note: 'ties' },
      { inputs: [given('f32', [2, 4], [3, 1, 3, 1, -0, 0, 0, -0])], attrs: { axis: -1, last: true, dtype: 'i32' } },
      { inputs: [given('f32', [3], [1, NaN, Infinity])], attrs: { axis: 0 }, note: 'the first NaN wins' },
      { inputs: [given('i32', [1, 4])], attrs: { axis: 0 } },
    ],
  });
}
const sameRank = (a: number, b: number): boolean => a === b || (Number.isNaN(a) && Number.isNaN(b));

export const argMax = defineArg(
  'arg_max',
  'Position of the largest element along an axis; a NaN counts as larger than every number.',
  'ArgMax',
  (x, best) => x > best || (Number.isNaN(x) && !Number.isNaN(best)),
);
export const argMin = defineArg(
  'arg_min',
  'Position of the smallest element along an axis; a NaN counts as smaller than every number.',
  'ArgMin',
  (x, best) => x < best || (Number.isNaN(x) && !Number.isNaN(best)),
);

/** −1 when `a` comes before `b` from large to small; NaN is largest, and −0 equals 0. */
function descending(a: number, b: number): number {
  if (sameRank(a, b)) return 0;
  if (Number.isNaN(a)) return -1;
  return Number.isNaN(b) || a < b ? 1 : -1;
}

export const topK = defineOp({
  name: 'top_k',
  doc: 'The k largest (or smallest) elements along an axis in order, and their positions as i64; among equal elements the lowest position comes first. NaN is larger than every number.',
  inputs: ['x'],
  attrs: {
    k: attr.dim('how many, at most the size of the axis'),
    axis: opt.int(-1, 'axis searched'),
    largest: opt.bool(true, 'from the largest down; false: from the smallest up'),
  },
  type: (inputs, { k, axis }) => {
    const x = typeAt(inputs, 0);
    expectDtype(x, 'number', 'x');
    const at = normalizeAxis(axis, x.shape.length);
    expectAtMost(k, x.shape[at]!);
    const shape = x.shape.map((d, i) => (i === at ? k : d));
    return tuple(tensor(x.dtype, shape), tensor('i64', shape));
  },
  axes: ([x], { axis }) => {
    const at = normalizeAxis(axis, x!.shape.length);
    return [x!.shape.map((_, i) => (i === at ? 'mix' : i))];
  },
  eval: ([x], { k, axis, largest }, cx) => {
    const at = normalizeAxis(axis, x!.shape.length);
    const [size, many] = [x!.shape[at]!, cx.size(k)];
    if (many > size) fail('range', `top_k: k = ${many} of an axis of size ${size}`);
    const values = nd(x!.dtype, cx.types[0]!.shape);
    const positions = nd('i64', cx.types[1]!.shape);
    const starts: number[] = [];
    eachLine(values.shape, at, (start) => starts.push(start));
    eachLine(x!.shape, at, (start, step, line) => {
      const valueAt = (i: number): number => x!.data[start + i * step]!;
      const order = Array.from({ length: size }, (_, i) => i).sort(
        (i, j) => (largest ? 1 : -1) * descending(valueAt(i), valueAt(j)) || i - j,
      );
      order.slice(0, many).forEach((from, i) => {
        values.data[starts[line]! + i * step] = valueAt(from);
        positions.data[starts[line]! + i * step] = from;
      });
    });
    return [values, positions];
  },
  lower: { kind: 'schedule', name: 'top-k' },
  examples: [
    { inputs: [f32(3, 7)], attrs: { k: 4 } },
    { inputs: [f32(3, 5, 2)], attrs: { k: 5, axis: 1, largest: false }, note: 'a full sort' },
    {
      inputs: [given('f32', [6], [2, NaN, 2, -Infinity, Infinity, 2])],
      attrs: { k: 5, axis: 0 },
      note: 'ties and NaN',
    },
    { inputs: [f32(2, 3)], attrs: { k: 0 } },
    { inputs: [given('i32', [5], [4, -1, 4, 0, 9])], attrs: { k: 3 } },
  ],
});

function expectAtMost(k: Dim, size: Dim): void {
  if (boundsOf(asExpr(k))[0] > boundsOf(asExpr(size))[1])
    fail('attribute', `k is ${printDim(k)}, more than the ${printDim(size)} elements of the axis`);
  if (boundsOf(asExpr(k))[1] < 0) fail('attribute', `k is ${printDim(k)}, a negative count`);
}

export const cumsum = defineOp({
  name: 'cumsum',
  doc: 'Running sum along an axis.',
  inputs: ['x'],
  attrs: {
    axis: attr.int('axis summed along'),
    exclusive: opt.bool(false, 'leave the element itself out, so that the first sum is 0'),
    reverse: opt.bool(false, 'sum from the end'),
  },
  type: (inputs, { axis }) => {
    const x = typeAt(inputs, 0);
    expectDtype(x, 'number', 'x');
    normalizeAxis(axis, x.shape.length);
    return x;
  },
  axes: ([x], { axis }) => {
    const at = normalizeAxis(axis, x!.shape.length);
    return [x!.shape.map((_, i) => (i === at ? 'mix' : i))];
  },
  need: runningNeed,
  eval: ([x], { axis, exclusive, reverse }) => runningSum(x!, axis, exclusive, reverse),
  lower: { kind: 'schedule', name: 'cumulative' },
  grad: (out, [dout]): Value[] => [cumsum([dout!], { ...cumsumAttrs(out.attrs), reverse: out.attrs.reverse !== true })],
  onnx: { op: 'CumSum', since: 14, attrs: { exclusive: 'exclusive', reverse: 'reverse' }, operands: { axis: 1 } },
  examples: [
    { inputs: [f32(3, 5, 7)], attrs: { axis: 1 } },
    { inputs: [f32(3, 5)], attrs: { axis: -1, exclusive: true } },
    { inputs: [f32(3, 5)], attrs: { axis: 0, reverse: true } },
    { inputs: [given('i64', [4])], attrs: { axis: 0, exclusive: true, reverse: true } },
    { inputs: [f32(2, 0)], attrs: { axis: 1 } },
  ],
});

const cumsumAttrs = (attrs: Readonly<Record<string, unknown>>): { axis: number; exclusive: boolean } => ({
  axis: Number(attrs.axis),
  exclusive: attrs.exclusive === true,
});

function runningSum(x: Nd, axis: number, exclusive: boolean, reverse: boolean): Nd {
  const at = normalizeAxis(axis, x.shape.length);
  const size = x.shape[at]!;
  const out = nd(x.dtype, x.shape);
  eachLine(x.shape, at, (start, step) => {
    let sum = 0;
    for (let n = 0; n < size; n++) {
      const i = start + (reverse ? size - 1 - n : n) * step;
      const next = addAs(x.dtype, sum, x.data[i]!);
      out.data[i] = exclusive ? sum : next;
      sum = next;
    }
  });
  return out;
}
