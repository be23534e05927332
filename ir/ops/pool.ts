/** Pooling over windows of the spatial axes of [N, C, …]. */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { eachIndex, type Nd, nd } from '../nd.ts';
import { type AxisMap, defineOp } from '../op.ts';
import { printType } from '../print.ts';
import * as sc from '../scalar.ts';
import { type TensorType, tensor } from '../type.ts';
import { expectDtype, typeAt } from './check.ts';
import { f32, given } from './example.ts';
import {
  loadTap,
  tapOffset,
  tapPlace,
  taps,
  type WindowAttrs,
  windowAttrs,
  windowAxes,
  windowCounts,
} from './window.ts';

const poolAttrs = {
  kernel: attr.ints('taps along each spatial axis'),
  ...windowAttrs,
  ceil: opt.bool(false, 'also take a last window that starts inside but ends behind the padding'),
} as const;
interface PoolAttrs extends WindowAttrs {
  readonly kernel: readonly number[];
  readonly ceil: boolean;
}

function poolType(inputs: readonly TensorType[], attrs: PoolAttrs): TensorType {
  const x = typeAt(inputs, 0);
  const rank = attrs.kernel.length;
  if (rank < 1 || x.shape.length !== rank + 2)
    fail('rank', `x must be [N, C, …] with ${rank} spatial axes, not ${printType(x)}`);
  return tensor(x.dtype, [
    ...x.shape.slice(0, 2),
    ...windowCounts(x.shape, windowAxes(attrs.kernel, attrs), attrs.ceil),
  ]);
}
const poolRoles = ([x]: readonly TensorType[]): AxisMap => [x!.shape.map((_, i) => (i < 2 ? i : 'stencil'))];

/** Folds the taps inside each window; `finish` sees how many taps lie inside x and how many inside x and its padding. */
function pool(
  x: Nd,
  attrs: PoolAttrs,
  shape: readonly number[],
  init: number,
  step: (acc: number, x: number) => number,
  finish: (acc: number, inside: number, padded: number) => number,
): Nd {
  const axes = windowAxes(attrs.kernel, attrs);
  const spatial = x.shape.slice(2);
  const image = spatial.reduce((n, d) => n * d, 1);
  const padded = axes.map((a) => ({ ...a, before: 0 }));
  const room = spatial.map((d, i) => d + axes[i]!.before + axes[i]!.after);
  const window = taps(axes);
  const out = nd(x.dtype, shape);
  eachIndex(shape, ([n, c, ...at], flat) => {
    let [acc, inside, within] = [init, 0, 0];
    for (const tap of window) {
      if (tapOffset(padded, room, at, tap) >= 0) within++;
      const from = tapOffset(axes, spatial, at, tap);
      if (from < 0) continue;
      inside++;
      acc = step(acc, x.data[(n! * shape[1]! + c!) * image + from]!);
    }
    out.data[flat] = finish(acc, inside, within);
  });
  return out;
}

export const maxPool = defineOp({
  name: 'max_pool',
  doc: 'Largest element of each window; padding never wins, NaN always does. A window of padding only gives −∞ or the smallest integer.',
  inputs: ['x'],
  attrs: poolAttrs,
  type: (inputs, attrs) => {
    expectDtype(typeAt(inputs, 0), 'number', 'x');
    return poolType(inputs, attrs);
  },
  axes: poolRoles,
  eval: ([x], attrs, cx) =>
    pool(
      x!,
      attrs,
      cx.types[0]!.shape,
      sc.lowest(x!.dtype),
      (acc, v) => Math.max(acc, v),
      (acc) => acc,
    ),
  lower: {
    kind: 'element',
    element: ([n, c, ...at], load, { attrs, inputs }) => {
      const { shape, dtype } = typeAt(inputs, 0);
      const axes = reaching(attrs);
      const low = sc.literal(sc.lowest(dtype), dtype);
      return taps(axes)
        .map((tap) => loadTap(load, [n!, c!], tapPlace(axes, shape, at, tap), shape, low))
        .reduce((best, x) => sc.max(best, x));
    },
  },
  onnx: {
    op: 'MaxPool',
    since: 12,
    attrs: { kernel: 'kernel_shape', strides: 'strides', pads: 'pads', dilations: 'dilations', ceil: 'ceil_mode' },
  },
  examples: [
    { inputs: [f32(2, 3, 7, 5)], attrs: { kernel: [3, 2], strides: [2, 2], pads: [1, 0, 1, 1] } },
    { inputs: [f32(1, 2, 6)], attrs: { kernel: [3], strides: [2], ceil: true } },
    { inputs: [f32(1, 1, 9)], attrs: { kernel: [2], dilations: [3] } },
    { inputs: [given('f32', [1, 1, 4], [1, NaN, -Infinity, 2])], attrs: { kernel: [2] }, note: 'NaN wins' },
    { inputs: [given('i8', [1, 1, 3], [-5, -128, 7])], attrs: { kernel: [2], pads: [1, 0] } },
    { inputs: [f32(1, 1, 1, 1)], attrs: { kernel: [1, 1] } },
  ],
});

export const avgPool = defineOp({
  name: 'avg_pool',
  doc: 'Mean of each window: over the taps inside x, or with countIncludePad over those inside x and its padding.',
  inputs: ['x'],
  attrs: { ...poolAttrs, countIncludePad: opt.bool(false, 'count padding as zeros instead of leaving it out') },
  type: (inputs, attrs) => {
    expectDtype(typeAt(inputs, 0), 'float', 'x');
    return poolType(inputs, attrs);
  },
  axes: poolRoles,
  eval: ([x], attrs, cx) =>
    pool(
      x!,
      attrs,
      cx.types[0]!.shape,
      0,
      (acc, v) => acc + v,
      (acc, inside, padded) => acc / (attrs.countIncludePad ? padded : inside),
    ),
  lower: {
    kind: 'element',
    element: ([n, c, ...at], load, { attrs, inputs }) => {
      const { shape, dtype } = typeAt(inputs, 0);
      const axes = reaching(attrs);
      const places = taps(axes).map((tap) => tapPlace(axes, shape, at, tap));
      const sum = places
        .map((place) => loadTap(load, [n!, c!], place, shape, sc.zero(dtype)))
        .reduce((total, x) => sc.add(total, x));
      // Taps that count lie in a box, so their number is a product of one count an axis.
      const counts = windowAxes(attrs.kernel, attrs).map((axis, i) => {
        const first = sc.add(sc.mul(at[i]!, axis.stride), -axis.before);
        const [from, to] = attrs.countIncludePad
          ? [sc.index(-axis.before), sc.add(sc.index(shape[i + 2]!), axis.after)]
          : [sc.index(0), sc.index(shape[i + 2]!)];
        let count = sc.index(0);
        for (let t = 0; t < axis.kernel; t++) {
          const tap = sc.add(first, t * axis.dilation);
          count = sc.add(count, sc.cast(sc.and(sc.le(from, tap), sc.lt(tap, to)), 'i32'));
        }
        return count;
      });
      return sc.div(
        sum,
        sc.cast(
          counts.reduce((a, b) => sc.mul(a, b)),
          dtype,
        ),
      );
    },
  },
  onnx: {
    op: 'AveragePool',
    since: 19,
    attrs: {
      kernel: 'kernel_shape',
      strides: 'strides',
      pads: 'pads',
      dilations: 'dilations',
      ceil: 'ceil_mode',
      countIncludePad: 'count_include_pad',
    },
  },
  examples: [
    { inputs: [f32(2, 3, 7, 5)], attrs: { kernel: [3, 2], strides: [2, 2], pads: [1, 0, 1, 1] } },
    { inputs: [f32(1, 2, 6)], attrs: { kernel: [3], strides: [2], ceil: true, countIncludePad: true, pads: [1, 1] } },
    { inputs: [f32(1, 2, 6)], attrs: { kernel: [3], strides: [2], ceil: true, pads: [1, 1] } },
    { inputs: [f32(1, 1, 1, 1)], attrs: { kernel: [1, 1] } },
  ],
});

/** Axes whose bounds are checked behind the end also where only `ceil` lets a window reach there. */
const reaching = (attrs: PoolAttrs): ReturnType<typeof windowAxes> =>
  windowAxes(attrs.kernel, attrs).map((a) => (attrs.ceil ? { ...a, after: Math.max(a.after, 1) } : a));
