/**
 * Convolutions over [N, C, …] with weights [O, C/groups, k…], in one to three spatial axes. Pooling is in `pool.ts`.
 *
 * Lowering: windows become rows of a matrix (`im2col`), which is multiplied with the weights as the right operand,
 * W[O, C·k] read transposed: weights are constant, so they are the side that is packed once at compile time, and the
 * rows of one product are the many positions of an image. The product [N, P, O] is transposed into [N, O, P], a view.
 * Two cases skip `im2col`: a 1×1 convolution without stride or padding is W · x[N, C, P], which needs no transposition,
 * and a depthwise one has no contraction over channels to win anything from.
 */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { typeOf, type Value } from '../graph.ts';
import { and, coordinate, exists, type IndexSet, where } from '../index-set.ts';
import { eachIndex, type Nd, nd } from '../nd.ts';
import { moved, needByAxes } from '../need.ts';
import { type AxisMap, defineOp } from '../op.ts';
import { printDim, printType } from '../print.ts';
import * as sc from '../scalar.ts';
import { type Dim, dim, elements, type Shape, staticShape, type TensorType, tensor } from '../type.ts';
import { expectDtype, expectSameDtype, expectShape, typeAt } from './check.ts';
import { add } from './elementwise.ts';
import { f32 } from './example.ts';
import { matmul } from './linear.ts';
import { macsOf } from './macs.ts';
import { pad, reshape, slice, transpose } from './shape.ts';
import {
  loadTap,
  tapOffset,
  tapPlace,
  taps,
  type WindowAttrs,
  type WindowAxis,
  windowAttrs,
  windowAxes,
  windowCounts,
} from './window.ts';

const convAttrs = {
  ...windowAttrs,
  groups: opt.int(1, 'number of groups of channels that do not see each other'),
} as const;
interface ConvAttrs extends WindowAttrs {
  readonly groups: number;
}

/** Rank and dtype of x and weights, and the sizes of the weights, which must be static. */
function operandsOf(inputs: readonly TensorType[]): { x: TensorType; weights: readonly number[] } {
  const [x, w] = [typeAt(inputs, 0), typeAt(inputs, 1)];
  expectDtype(x, 'float', 'x');
  expectSameDtype(inputs);
  const rank = x.shape.length;
  if (rank < 3 || rank > 5) fail('rank', `x must be [N, C, …] with 1 to 3 spatial axes, not ${printType(x)}`);
  if (w.shape.length !== rank) fail('rank', `weights must have the rank of x, ${rank}, not ${printType(w)}`);
  const weights = staticShape(w.shape);
  if (!weights) fail('shape', `weights must have a static shape, not ${printType(w)}`);
  return { x, weights };
}

function convType(inputs: readonly TensorType[], attrs: ConvAttrs): TensorType {
  const { x, weights } = operandsOf(inputs);
  const [out, perGroup, ...kernel] = weights as [number, number, ...number[]];
  const { groups } = attrs;
  if (groups < 1 || out % groups !== 0) fail('attribute', `${out} output channels do not form ${groups} groups`);
  if (x.shape[1] !== perGroup * groups)
    fail(
      'shape',
      `x has ${printDim(x.shape[1]!)} channels, but the weights take ${perGroup} in each of ${groups} groups`,
    );
  if (inputs[2]) expectShape('bias', inputs[2], [out]);
  return tensor(x.dtype, [x.shape[0]!, out, ...windowCounts(x.shape, windowAxes(kernel, attrs))]);
}

/** Spatial axes whose windows are single positions run in lockstep; all others are neighbourhoods. */
const spatialRoles = (axes: readonly WindowAxis[]): (number | 'stencil')[] =>
  axes.map((a, i) => (a.reach === 1 && a.stride === 1 && a.before === 0 && a.after === 0 ? i + 2 : 'stencil'));

/** The sum over taps and channels, at every position. */
function convolve(x: Nd, w: Nd, bias: Nd | undefined, attrs: ConvAttrs, shape: readonly number[]): Nd {
  const [outs, perGroup, ...kernel] = w.shape as [number, number, ...number[]];
  const axes = windowAxes(kernel, attrs);
  const spatial = x.shape.slice(2);
  const image = spatial.reduce((n, d) => n * d, 1);
  const window = taps(axes);
  const out = nd(x.dtype, shape);
  const channels = x.shape[1]!;
  eachIndex(shape, ([n, o, ...at], flat) => {
    const group = Math.floor(o! / (outs / attrs.groups));
    let sum = 0;
    for (let c = 0; c < perGroup; c++)
      window.forEach((tap, t) => {
        const from = tapOffset(axes, spatial, at, tap);
        if (from < 0) return;
        const channel = n! * channels + group * perGroup + c;
        sum += x.data[channel * image + from]! * w.data[(o! * perGroup + c) * window.length + t]!;
      });
    out.data[flat] = sum + (bias?.data[o!] ?? 0);
  });
  return out;
}

function convRoles(inputs: readonly TensorType[], attrs: ConvAttrs): AxisMap {
  const axes = windowAxes((typeAt(inputs, 1).shape as readonly number[]).slice(2), attrs);
  const roles = [
    [0, 'mix', ...spatialRoles(axes)],
    [1, 'mix', ...axes.map(() => 'mix' as const)],
  ] as const;
  return inputs[2] ? [...roles, [1]] : roles;
}

/** Positions that some demanded window covers, of every channel. */
function windowNeed(demand: IndexSet, shape: Shape, axes: readonly WindowAxis[]): IndexSet {
  let set = exists(demand, coordinate(1), shape[1]!);
  for (const [n, { reach, stride, before, after }] of axes.entries()) {
    const at = coordinate(n + 2);
    const to = (e: sc.Num): IndexSet =>
      moved(set, (axis) => (axis === n + 2 ? sc.index(e) : coordinate(axis)), shape.length);
    if (reach === stride && before === 0 && after === 0) set = to(sc.floordiv(at, stride));
    else {
      const window = sc.variable('window', 'i32', 1, { from: 0, to: 2 ** 30 });
      const first = sc.sub(sc.mul(window, stride), before);
      const covers = and(where(sc.le(first, at)), where(sc.lt(at, sc.add(first, reach))));
      set = exists(and(to(window), covers), window, shape[n + 2]!);
    }
  }
  return set;
}

/** More taps than this are not written out one by one. */
const MAX_TAPS = 64;

export const conv = defineOp({
  name: 'conv',
  doc: 'Cross-correlation of [N, C, …] with weights [O, C/groups, k…], plus a bias [O]; positions outside x count as 0.',
  inputs: ['x', 'w', 'bias?'],
  attrs: convAttrs,
  type: convType,
  axes: convRoles,
  need: (demand, { attrs, inputs, outs }) => {
    const axes = windowAxes((typeAt(inputs, 1).shape as readonly number[]).slice(2), attrs);
    const own = needByAxes(demand, outs, convRoles(inputs, attrs));
    return own.with(0, windowNeed(demand[0]!, outs[0]!.shape, axes));
  },
  eval: ([x, w, bias], attrs, cx) => convolve(x!, w!, bias, attrs, cx.types[0]!.shape),
  lower: { kind: 'decompose', build: (inputs, attrs) => buildConv(inputs, attrs) },
  macs: (inputs, _, out) => {
    const [, ...perOutput] = typeAt(inputs, 1).shape;
    return out.kind === 'tensor' ? macsOf(...out.shape, ...perOutput) : 0;
  },
  onnx: {
    op: 'Conv',
    since: 11,
    attrs: { strides: 'strides', pads: 'pads', dilations: 'dilations', groups: 'group' },
  },
  examples: [
    { inputs: [f32(2, 3, 7, 5), f32(4, 3, 3, 2), f32(4)], attrs: { pads: [1, 0, 1, 1] } },
    { inputs: [f32(1, 3, 8, 12), f32(5, 3, 4, 4), f32(5)], attrs: { strides: [4, 4] }, note: 'patches' },
    { inputs: [f32(2, 4, 9), f32(6, 2, 3)], attrs: { groups: 2, strides: [2], dilations: [2], pads: [2, 1] } },
    { inputs: [f32(1, 3, 5, 5), f32(3, 1, 3, 3), f32(3)], attrs: { groups: 3, pads: [1, 1, 1, 1] }, note: 'depthwise' },
    { inputs: [f32(2, 3, 4, 5), f32(6, 1, 2, 2)], attrs: { groups: 3 }, note: 'depthwise with two results a channel' },
    { inputs: [f32(2, 5, 3, 4), f32(6, 5, 1, 1), f32(6)], note: 'position-wise' },
    { inputs: [f32(1, 2, 3, 4, 5), f32(2, 2, 2, 2, 2)] },
    { inputs: [f32(1, 1, 1), f32(1, 1, 1)] },
    { inputs: [f32(0, 2, 3), f32(2, 2, 2)], note: 'no images' },
  ],
});

function buildConv([x, w, bias]: readonly Value[], attrs: ConvAttrs): Value {
  const [xs, ws] = [typeOf(x!).shape, typeOf(w!).shape as readonly number[]];
  const [out, perGroup, ...kernel] = ws as [number, number, ...number[]];
  const axes = windowAxes(kernel, attrs);
  const { groups } = attrs;
  const size = kernel.reduce((n, k) => n * k, 1);
  if (groups > 1 && perGroup === 1 && size <= MAX_TAPS) return depthwiseConv([x!, w!, ...(bias ? [bias] : [])], attrs);
  const batch = xs[0]!;
  const counts = windowCounts(xs, axes);
  const places = dim(elements(counts));
  const result: Shape = [batch, out, ...counts];
  let product: Value;
  if (groups === 1 && spatialRoles(axes).every((r) => r !== 'stencil')) {
    product = matmul([reshape([w!], { shape: [out, perGroup] }), reshape([x!], { shape: [batch, perGroup, places] })]);
  } else {
    const lead = groups === 1 ? batch : dim(sc.mul(sc.index(batch), groups));
    const images = groups === 1 ? x! : reshape([x!], { shape: [lead, perGroup, ...xs.slice(2)] });
    const windows = im2col([images], { kernel, ...windowOf(attrs) });
    const rows = groups === 1 ? windows : reshape([windows], { shape: [batch, groups, places, perGroup * size] });
    const weights = reshape([w!], {
      shape: groups === 1 ? [out, perGroup * size] : [groups, out / groups, perGroup * size],
    });
    const columns = matmul([rows, weights], { transposeB: true });
    product = transpose([columns], { perm: groups === 1 ? [0, 2, 1] : [0, 1, 3, 2] });
  }
  const image = reshape([product], { shape: result });
  return bias ? add([image, reshape([bias], { shape: [out, ...counts.map(() => 1)] })]) : image;
}
const windowOf = ({ strides, pads, dilations }: WindowAttrs): WindowAttrs => ({ strides, pads, dilations });

/** Coordinates in `sizes` of a flat position, in C order. */
function unflatten(flat: sc.Num, sizes: readonly Dim[]): ReturnType<typeof sc.index>[] {
  const at: ReturnType<typeof sc.index>[] = [];
  let rest = sc.index(flat);
  for (let i = sizes.length - 1; i > 0; i--) {
    at[i] = sc.floormod(rest, sizes[i]!);
    rest = sc.floordiv(rest, sizes[i]!);
  }
  at[0] = rest;
  return at;
}

export const im2col = defineOp({
  name: 'im2col',
  doc: 'Windows as rows: [N, C, …] to [N, windows, C · taps], window and tap positions in C order, 0 where a tap lies in the padding.',
  inputs: ['x'],
  attrs: { kernel: attr.ints('taps along each spatial axis'), ...windowAttrs },
  type: (inputs, attrs) => {
    const x = typeAt(inputs, 0);
    if (x.shape.length !== attrs.kernel.length + 2)
      fail('rank', `x must be [N, C, …] with ${attrs.kernel.length} spatial axes, not ${printType(x)}`);
    const counts = windowCounts(x.shape, windowAxes(attrs.kernel, attrs));
    const size = attrs.kernel.reduce((n, k) => n * k, 1);
    return tensor(x.dtype, [x.shape[0]!, dim(elements(counts)), dim(sc.mul(sc.index(x.shape[1]!), size))]);
  },
  axes: ([x]) => [x!.shape.map((_, i) => (i === 0 ? 0 : i === 1 ? 'mix' : 'stencil'))],
  eval: ([x], attrs, cx) => {
    const axes = windowAxes(attrs.kernel, attrs);
    const spatial = x!.shape.slice(2);
    const image = spatial.reduce((n, d) => n * d, 1);
    const counts = windowCounts(x!.shape, axes) as number[];
    const window = taps(axes);
    const out = nd(x!.dtype, cx.types[0]!.shape);
    eachIndex([x!.shape[0]!, ...counts, x!.shape[1]!, window.length], (at, flat) => {
      const [n, c, t] = [at[0]!, at.at(-2)!, at.at(-1)!];
      const from = tapOffset(axes, spatial, at.slice(1, -2), window[t]!);
      out.data[flat] = from < 0 ? 0 : x!.data[(n * x!.shape[1]! + c) * image + from]!;
    });
    return out;
  },
  lower: {
    kind: 'element',
    element: ([n, place, column], load, { attrs, inputs }) => {
      const { shape, dtype } = typeAt(inputs, 0);
      const axes = windowAxes(attrs.kernel, attrs);
      const [channel, ...tap] = unflatten(column!, [shape[1]!, ...attrs.kernel]);
      const at = tapPlace(axes, shape, unflatten(place!, windowCounts(shape, axes)), tap);
      return loadTap(load, [n!, channel!], at, shape, sc.zero(dtype));
    },
  },
  examples: [
    { inputs: [f32(2, 3, 5, 4)], attrs: { kernel: [3, 2], pads: [1, 0, 1, 1], strides: [2, 1] } },
    { inputs: [f32(1, 2, 6, 4)], attrs: { kernel: [3, 2], strides: [3, 2] }, note: 'patches' },
    { inputs: [f32(2, 3, 9)], attrs: { kernel: [3], dilations: [3], pads: [2, 0] } },
    { inputs: [f32(1, 1, 1)], attrs: { kernel: [1] } },
  ],
});

/** A convolution in which every result reads one channel; its taps are written out. */
export const depthwiseConv = defineOp({
  name: 'depthwise_conv',
  doc: 'Convolution whose groups have one input channel each: x[N, C, …], w[C · m, 1, k…], groups = C. Taps are unrolled.',
  inputs: ['x', 'w', 'bias?'],
  attrs: convAttrs,
  type: (inputs, attrs) => {
    if (inputs[1]?.shape[1] !== 1) fail('shape', 'weights must have one input channel a group');
    return convType(inputs, attrs);
  },
  axes: (inputs, attrs) => {
    const w = typeAt(inputs, 1).shape as readonly number[];
    const axes = windowAxes(w.slice(2), attrs);
    const channel = w[0] === attrs.groups ? 1 : ('mix' as const);
    const roles = [
      [0, channel, ...spatialRoles(axes)],
      [1, 'mix', ...axes.map(() => 'mix' as const)],
    ] as const;
    return inputs[2] ? [...roles, [1]] : roles;
  },
  eval: ([x, w, bias], attrs, cx) => convolve(x!, w!, bias, attrs, cx.types[0]!.shape),
  lower: {
    kind: 'element',
    element: ([n, o, ...at], load, { attrs, inputs }) => {
      const { shape, dtype } = typeAt(inputs, 0);
      const weights = typeAt(inputs, 1).shape as readonly number[];
      const axes = windowAxes(weights.slice(2), attrs);
      const channel = sc.floordiv(o!, weights[0]! / attrs.groups);
      let sum = inputs[2] ? load(2, [o!]) : sc.zero(dtype);
      for (const tap of taps(axes)) {
        const x = loadTap(load, [n!, channel], tapPlace(axes, shape, at, tap), shape, sc.zero(dtype));
        sum = sc.add(sum, sc.mul(x, load(1, [o!, sc.index(0), ...tap.map(sc.index)])));
      }
      return sum;
    },
  },
  macs: (inputs, _, out) => {
    const [, ...perOutput] = typeAt(inputs, 1).shape;
    return out.kind === 'tensor' ? macsOf(...out.shape, ...perOutput) : 0;
  },
  examples: [
    { inputs: [f32(1, 3, 5, 4), f32(3, 1, 3, 3), f32(3)], attrs: { groups: 3, pads: [1, 1, 1, 1], strides: [2, 1] } },
    { inputs: [f32(2, 2, 7), f32(4, 1, 2)], attrs: { groups: 2, dilations: [3] } },
    { inputs: [f32(1, 1, 1), f32(1, 1, 1), f32(1)] },
  ],
});

export const convTranspose = defineOp({
  name: 'conv_transpose',
  doc: 'The adjoint of a convolution: x[N, C, …], weights [C, O/groups, k…], bias [O]. Size (n − 1) · stride − pads + dilation · (k − 1) + 1 + outputPadding.',
  inputs: ['x', 'w', 'bias?'],
  attrs: { ...convAttrs, outputPadding: opt.ints([], 'positions added behind each spatial axis; empty: 0') },
  type: (inputs, attrs) => {
    const { x, weights } = operandsOf(inputs);
    const { groups } = attrs;
    const [channels, perGroup, ...kernel] = weights as [number, number, ...number[]];
    if (x.shape[1] !== channels)
      fail('shape', `x has ${printDim(x.shape[1]!)} channels, but the weights take ${channels}`);
    if (groups < 1 || channels % groups !== 0) fail('attribute', `${channels} channels do not form ${groups} groups`);
    if (inputs[2]) expectShape('bias', inputs[2], [perGroup * groups]);
    const axes = windowAxes(kernel, attrs);
    const extra = extraOf(attrs.outputPadding, axes);
    const sizes = axes.map((a, i) =>
      dim(sc.add(sc.mul(sc.add(sc.index(x.shape[i + 2]!), -1), a.stride), a.reach - a.before - a.after + extra[i]!)),
    );
    sizes.forEach((d, i) => {
      if (typeof d === 'number' && d < 0) fail('shape', `padding leaves ${d} positions on spatial axis ${i}`);
    });
    return tensor(x.dtype, [x.shape[0]!, perGroup * groups, ...sizes]);
  },
  eval: ([x, w, bias], attrs, cx) => {
    const { shape } = cx.types[0]!;
    const [channels, perGroup, ...kernel] = w!.shape as [number, number, ...number[]];
    const axes = windowAxes(kernel, attrs);
    const sizes = shape.slice(2);
    const image = sizes.reduce((n, d) => n * d, 1);
    const window = taps(axes);
    const out = nd(x!.dtype, shape);
    eachIndex(shape, ([, o], flat) => {
      out.data[flat] = bias?.data[o!] ?? 0;
    });
    // Every element of x is spread over the window that starts at its place in the result.
    eachIndex(x!.shape, ([n, c, ...at], flat) => {
      const group = Math.floor(c! / (channels / attrs.groups));
      window.forEach((tap, t) => {
        const to = tapOffset(axes, sizes, at, tap);
        if (to < 0) return;
        for (let o = 0; o < perGroup; o++) {
          const plane = n! * shape[1]! + group * perGroup + o;
          out.data[plane * image + to]! += x!.data[flat]! * w!.data[(c! * perGroup + o) * window.length + t]!;
        }
      });
    });
    return out;
  },
  lower: {
    kind: 'decompose',
    build: ([x, w, bias], attrs) => {
      const [xs, ws] = [typeOf(x!).shape, typeOf(w!).shape as readonly number[]];
      const [channels, perGroup, ...kernel] = ws as [number, number, ...number[]];
      const axes = windowAxes(kernel, attrs);
      const extra = extraOf(attrs.outputPadding, axes);
      // stride − 1 zeros follow every element, the last one too, so the trailing pad is that much shorter.
      const spread = spreadOut(x!, xs, axes);
      const before = axes.map((a) => a.reach - 1 - a.before);
      const after = axes.map((a, i) => a.reach - 1 - a.after + extra[i]! - (a.stride - 1));
      const padded = pad([spread], { before: [0, 0, ...before], after: [0, 0, ...after] });
      const { groups, dilations } = attrs;
      const flipped = slice([w!], {
        starts: [0, 0, ...kernel.map((k) => k - 1)],
        stops: [channels, perGroup, ...kernel.map(() => -1)],
        steps: [1, 1, ...kernel.map(() => -1)],
      });
      const apart = reshape([flipped], { shape: [groups, channels / groups, perGroup, ...kernel] });
      const turned = transpose([apart], { perm: [0, 2, 1, ...kernel.map((_, i) => i + 3)] });
      const weights = reshape([turned], { shape: [groups * perGroup, channels / groups, ...kernel] });
      return conv([padded, weights, ...(bias ? [bias] : [])], { groups, dilations });
    },
  },
  macs: (inputs) => {
    // Every element of x meets every tap of its group's weights once.
    const [, ...perElement] = typeAt(inputs, 1).shape;
    return macsOf(...typeAt(inputs, 0).shape, ...perElement);
  },
  onnx: {
    op: 'ConvTranspose',
    since: 11,
    attrs: {
      strides: 'strides',
      pads: 'pads',
      dilations: 'dilations',
      groups: 'group',
      outputPadding: 'output_padding',
    },
  },
  examples: [
    {
      inputs: [f32(2, 3, 4, 3), f32(3, 2, 3, 3), f32(2)],
      attrs: { strides: [2, 2], pads: [1, 1, 1, 1], outputPadding: [1, 0] },
    },
    { inputs: [f32(1, 4, 5), f32(4, 3, 2)], attrs: { groups: 2, strides: [3] } },
    { inputs: [f32(1, 2, 4), f32(2, 1, 3)], attrs: { dilations: [2], pads: [3, 2] } },
    {
      inputs: [f32(1, 2, 4), f32(2, 1, 1)],
      attrs: { strides: [2], pads: [1, 0] },
      note: 'padding cuts more than the window adds',
    },
    { inputs: [f32(1, 1, 1), f32(1, 1, 1)] },
  ],
});

function extraOf(outputPadding: readonly number[], axes: readonly WindowAxis[]): readonly number[] {
  if (outputPadding.length !== 0 && outputPadding.length !== axes.length)
    fail('attribute', `outputPadding has ${outputPadding.length} items for ${axes.length} spatial axes`);
  return outputPadding.length === 0 ? axes.map(() => 0) : outputPadding;
}

/** Every spatial element followed by stride − 1 zeros. */
function spreadOut(x: Value, shape: Shape, axes: readonly WindowAxis[]): Value {
  if (axes.every((a) => a.stride === 1)) return x;
  const lead = shape.slice(0, 2);
  const apart = axes.flatMap((_, i) => [shape[i + 2]!, 1]);
  const zeros = [0, 0, ...axes.flatMap((a) => [0, a.stride - 1])];
  const spread = pad([reshape([x], { shape: [...lead, ...apart] })], { before: zeros.map(() => 0), after: zeros });
  const sizes = axes.map((a, i) => dim(sc.mul(sc.index(shape[i + 2]!), a.stride)));
  return reshape([spread], { shape: [...lead, ...sizes] });
}
