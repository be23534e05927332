/** Resize and Upsample: weights worked out here where sizes are fixed, else with the model. */
import { isFloat } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import {
  abs,
  add,
  ceil,
  div,
  equal,
  floor,
  lessEqual,
  maximum,
  minimum,
  mul,
  select,
  sub,
} from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { iota, reshape } from '../../ir/ops/shape.ts';
import { constant, scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, sameDim } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';
import { type ResizeAxis, type ResizeMode, resizeTaps } from './resize.ts';
import { sizeValue, to } from './values.ts';

/** Positions of a resized axis: each has its terms worked out here. */
const MOST_POSITIONS = 2 ** 20;

/** An axis that changes, with sizes that are known here. */
type FixedAxis = ResizeAxis & { readonly axis: number };
/** An axis of which a size is open: its positions are worked out when the model runs. */
interface OpenAxis {
  readonly axis: number;
  readonly size: Dim;
  readonly out: Dim;
  /** Undefined where it follows from the sizes. */
  readonly scale: number | undefined;
}

/** Sizes and scales of the axes that change. */
function resizeAxes(n: Node): readonly (FixedAxis | OpenAxis)[] {
  const shape = n.shape(0);
  const old = n.proto.op === 'Upsample' || n.opset < 11;
  const listed = n.intList('axes')?.map((a) => n.axis(a, shape.length)) ?? shape.map((_, i) => i);
  const attribute = n.opset < 9 ? n.floatList('scales') : undefined;
  const scales = attribute ?? (n.has(3) && !old ? undefined : n.ints(old ? 1 : 2));
  const sizes = old ? undefined : n.dims(3);
  const fixed = listed.map((axis) => {
    const size = shape[axis]!;
    return typeof size === 'number' ? size : undefined;
  });
  const policy = n.string('keep_aspect_ratio_policy', 'stretch');
  let wanted = sizes?.length ? sizes : undefined;
  let factors = wanted ? undefined : scales;
  if (wanted && policy !== 'stretch') {
    const ratios = wanted.map((w, i) => (typeof w === 'number' ? w / (fixed[i] ?? n.fail(KEEPS)) : n.fail(KEEPS)));
    const scale = policy === 'not_larger' ? Math.min(...ratios) : Math.max(...ratios);
    factors = ratios.map(() => scale);
    wanted = fixed.map((size) => Math.floor(size! * scale + 0.5));
  }
  const roi = n.string('coordinate_transformation_mode', 'half_pixel') === 'tf_crop_and_resize' ? n.ints(1) : undefined;
  return listed.flatMap((axis, i): readonly (FixedAxis | OpenAxis)[] => {
    const size = fixed[i];
    const scale = factors?.[i];
    const target = wanted?.[i];
    if (size === undefined || (target !== undefined && typeof target !== 'number')) {
      const own = shape[axis]!;
      if (scale === 1 || (target !== undefined && sameDim(target, own))) return [];
      if (roi) n.fail(`axis ${axis} needs a fixed size to be cropped and resized`);
      return [{ axis, size: own, out: target ?? scaledSize(n, own, scale ?? 1), scale }];
    }
    const out = target ?? Math.floor(size * (scale ?? 1) + 1e-9);
    if (!(Number.isSafeInteger(out) && out >= 0 && out <= MOST_POSITIONS))
      n.fail(`axis ${axis} of size ${size} cannot become ${out}`, undefined, 'shape');
    const range = roi && ([roi[i]!, roi[i + listed.length]!] as const);
    if (out === size && (scale ?? 1) === 1 && !range) return [];
    return [{ axis, size, out, scale: scale ?? out / size, ...(range && { roi: range }) }];
  });
}

const KEEPS = 'keep_aspect_ratio_policy needs fixed sizes';

/** ⌊size · scale⌋ for scales that are fractions of small numbers. */
function scaledSize(n: Node, size: Dim, scale: number): Dim {
  for (let below = 1; below <= 64; below++) {
    const above = Math.round(scale * below);
    if (above > 0 && Math.abs(above / below - scale) < 1e-6 * scale)
      return dim(s.floordiv(s.mul(asExpr(size), above), below));
  }
  return n.fail(`an open axis cannot be scaled by ${scale}`, 'fix its size, or scale by a fraction of small numbers');
}

function resize(n: Node): Value {
  const old = n.proto.op === 'Upsample' || n.opset < 11;
  const mode = n.string('mode', 'nearest');
  const how = {
    mode: mode === 'bilinear' ? 'linear' : mode,
    coordinates: old ? 'asymmetric' : n.string('coordinate_transformation_mode', 'half_pixel'),
    nearest: old ? 'floor' : n.string('nearest_mode', 'round_prefer_floor'),
    cubic: n.float('cubic_coeff_a', -0.75),
    antialias: n.int('antialias', 0) !== 0,
    excludeOutside: n.int('exclude_outside', 0) !== 0,
    outside: n.float('extrapolation_value', 0),
  };
  if (!['nearest', 'linear', 'cubic'].includes(how.mode)) n.fail(`mode "${mode}" is not supported`);
  const { dtype: own } = n.type(0);
  // Integers are weighted as floats.
  const dtype = how.mode === 'nearest' || isFloat(own) ? own : 'f32';
  const resized = resizeAxes(n).reduce(
    (x, at) => {
      if (typeof at.size !== 'number' || typeof at.out !== 'number' || at.scale === undefined)
        return resizedOpen(n, x, at, how);
      return resizedFixed(x, { ...at, size: at.size, out: at.out, scale: at.scale }, how);
    },
    to(n.value(0), dtype),
  );
  return to(resized, own);
}

function resizedFixed(x: Value, at: FixedAxis, how: ResizeMode): Value {
  const { shape, dtype } = typeOf(x);
  const taps = resizeTaps(at, how);
  const vector = shape.map((_, i) => (i === at.axis ? at.out : 1));
  const parts = taps.map(({ from, weights }) => {
    const rows = gather([x, constant([], { value: nd('i32', [at.out], from) })], { axis: at.axis });
    if (weights.every((w) => w === 1)) return rows;
    return mul([rows, constant([], { value: nd(dtype, vector, weights) })]);
  });
  const sum = parts.reduce((a, b) => add([a, b]));
  const rest = Array.from({ length: at.out }, (_, i) => 1 - taps.reduce((t, tap) => t + tap.weights[i]!, 0));
  if (how.outside === 0 || rest.every((r) => Math.abs(r) < 1e-6)) return sum;
  return add([
    sum,
    constant([], {
      value: nd(
        dtype,
        vector,
        rest.map((r) => r * how.outside),
      ),
    }),
  ]);
}

/** Where resized positions lie on the original axis, as f32[out]. */
function originalPositions(n: Node, { size, out, scale }: OpenAxis, coordinates: string): Value {
  const f = (x: number): Value => scalar(x, 'f32');
  const [own, wide] = [sizeValue(size, 'f32'), sizeValue(out, 'f32')];
  const at = iota([], { axis: 0, shape: [out], dtype: 'f32' });
  const factor = scale === undefined ? div([wide, own]) : f(scale);
  const half = (): Value => sub([div([add([at, f(0.5)]), factor]), f(0.5)]);
  const unlessOne = (x: Value): Value => select([equal([wide, f(1)]), f(0), x]);
  switch (coordinates) {
    case 'asymmetric':
      return div([at, factor]);
    case 'align_corners':
      return unlessOne(div([mul([at, sub([own, f(1)])]), maximum([sub([mul([own, factor]), f(1)]), f(1e-6)])]));
    case 'pytorch_half_pixel':
      return unlessOne(half());
    case 'half_pixel_symmetric': {
      const adjustment = div([wide, mul([factor, own])]);
      return add([mul([div([own, f(2)]), sub([f(1), adjustment])]), half()]);
    }
    case 'tf_half_pixel_for_nn':
      return div([add([at, f(0.5)]), factor]);
    case 'half_pixel':
      return half();
    default:
      return n.fail(`${coordinates} needs fixed sizes`);
  }
}

function nearestPositions(x: Value, mode: string): Value {
  const half = scalar(0.5, 'f32');
  if (mode === 'floor') return floor([x]);
  if (mode === 'ceil') return ceil([x]);
  return mode === 'round_prefer_ceil' ? floor([add([x, half])]) : ceil([sub([x, half])]);
}

/** An axis whose sizes are open: positions and weights are computed with the rest. */
function resizedOpen(n: Node, x: Value, axis: OpenAxis, how: ResizeMode): Value {
  if (how.antialias) n.fail(`axis ${axis.axis} needs a fixed size to be resized with antialias`);
  const f = (v: number): Value => scalar(v, 'f32');
  const { dtype, shape } = typeOf(x);
  const at = originalPositions(n, axis, how.coordinates);
  const last = sub([sizeValue(axis.size, 'f32'), f(1)]);
  const inside = (position: Value): Value => maximum([minimum([position, last]), f(0)]);
  const rowsAt = (position: Value): Value => gather([x, to(inside(position), 'i32')], { axis: axis.axis });
  if (how.mode === 'nearest') return rowsAt(nearestPositions(at, how.nearest));
  const base = floor([at]);
  const rest = sub([at, base]);
  const taps = (how.mode === 'linear' ? [0, 1] : [-1, 0, 1, 2]).map((k) => {
    const position = add([base, f(k)]);
    const distance = abs([sub([rest, f(k)])]);
    const weight = how.mode === 'linear' ? sub([f(1), distance]) : cubicWeights(distance, how.cubic);
    if (!how.excludeOutside) return { position, weight };
    const counts = equal([position, inside(position)]);
    return { position, weight: select([counts, weight, f(0)]) };
  });
  const total = taps.map((tap) => tap.weight).reduce((a, b) => add([a, b]));
  const beside = (weight: Value): Value =>
    to(reshape([weight], { shape: shape.map((_, i) => (i === axis.axis ? axis.out : 1)) }), dtype);
  return taps
    .map(({ position, weight }) => mul([rowsAt(position), beside(how.excludeOutside ? div([weight, total]) : weight)]))
    .reduce((a, b) => add([a, b]));
}

/** Weights of cubic convolution with coefficient a at a distance of less than 2. */
function cubicWeights(d: Value, a: number): Value {
  const f = (v: number): Value => scalar(v, 'f32');
  const near = add([mul([mul([sub([mul([f(a + 2), d]), f(a + 3)]), d]), d]), f(1)]);
  const far = sub([mul([add([mul([sub([mul([f(a), d]), f(5 * a)]), d]), f(8 * a)]), d]), f(4 * a)]);
  return select([lessEqual([d, f(1)]), near, far]);
}

export const resizing: Entries = { Resize: resize, Upsample: resize };
