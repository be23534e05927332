/** Pad and CenterCropPad: amounts that are numbers, follow from open sizes, or come with the data. */
import { typeOf, type Value } from '../../ir/graph.ts';
import {
  add,
  and,
  floorMod,
  greaterEqual,
  less,
  maximum,
  minimum,
  mul,
  select,
  sub,
} from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { concat, expand, iota, pad, reshape } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, dim } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';
import { sizeValue } from './values.ts';

const MODES: Readonly<Record<string, 'constant' | 'edge' | 'reflect' | 'wrap'>> = {
  constant: 'constant',
  edge: 'edge',
  reflect: 'reflect',
  wrap: 'wrap',
};
function padNode(n: Node): Value {
  const x = n.value(0);
  const { shape } = typeOf(x);
  const word = n.string('mode', 'constant');
  const mode = MODES[word] ?? n.fail(`mode "${word}" is not known`);
  const old = n.opset < 11;
  const amounts = (old ? n.intList(n.opset < 2 ? 'paddings' : 'pads') : n.dims(1)) ?? n.fail('pads are missing');
  const known = old || !n.has(2) || n.item(2).constant() !== undefined;
  const value = known ? ((old ? n.float('value', 0) : n.number(2)) ?? 0) : 0;
  const axes = n.ints(3)?.map((a) => n.axis(a, shape.length)) ?? shape.map((_, i) => i);
  const wrong = amounts.some((a) => typeof a === 'number' && !Number.isSafeInteger(a));
  if (amounts.length !== 2 * axes.length || wrong)
    n.fail(`its ${amounts.length} pads are not two numbers for each of ${axes.length} axes`, undefined, 'shape');
  const [before, after] = [shape.map(() => 0), shape.map(() => 0)];
  const open: { readonly axis: number; readonly before: Dim; readonly after: Dim }[] = [];
  axes.forEach((axis, i) => {
    const [first, last] = [amounts[i]!, amounts[i + axes.length]!];
    if (typeof first === 'number' && typeof last === 'number') [before[axis], after[axis]] = [first, last];
    else open.push({ axis, before: first, after: last });
  });
  if (open.length > 0) {
    const fill = known ? scalar(value, typeOf(x).dtype) : reshape([n.value(2)], { shape: [] });
    const rest = [...before.keys()].filter((axis) => before[axis] !== 0 || after[axis] !== 0);
    return [...open, ...rest.map((axis) => ({ axis, before: before[axis]!, after: after[axis]! }))].reduce((y, at) => {
      const size = typeOf(y).shape[at.axis]!;
      const out = dim(s.add(s.add(asExpr(size), at.before), at.after));
      return paddedAxis(
        y,
        at.axis,
        { ...at, out: boundsOf(asExpr(out))[0] < 0 ? dim(s.max(out, 0)) : out },
        mode,
        fill,
      );
    }, x);
  }
  const padded = pad([x], { before, after, value, mode });
  if (known || mode !== 'constant') return padded;
  // The constant comes with the data: what was there says where it goes.
  const there = pad([expand([scalar(1, 'bool')], { shape })], { before, after });
  return select([there, padded, reshape([n.value(2)], { shape: [] })]);
}

interface Amounts {
  readonly before: Dim;
  /** Undefined where the size afterwards decides it. */
  readonly after?: Dim;
  readonly out: Dim;
}

/** Positions `before`, `before − 1`, … in front of an axis that becomes `out` long; negative amounts cut. */
function paddedAxis(x: Value, axis: number, { before, after, out }: Amounts, mode: string, fill: Value): Value {
  const { shape } = typeOf(x);
  const i64 = (v: number): Value => scalar(v, 'i64');
  const size = sizeValue(shape[axis]!, 'i64');
  const last = sub([size, i64(1)]);
  const count = (d: Dim): Value => iota([], { axis: 0, shape: [d], dtype: 'i64' });
  // Sizes that are counted must be asked for one by one.
  const apart = after !== undefined && [before, after].every((d) => boundsOf(asExpr(d))[0] >= 0);
  const at = apart
    ? concat([sub([count(before), sizeValue(before, 'i64')]), count(shape[axis]!), add([count(after), size])], {
        axis: 0,
      })
    : sub([count(out), sizeValue(before, 'i64')]);
  const rows = (position: Value): Value => gather([x, maximum([minimum([position, last]), i64(0)])], { axis });
  if (mode === 'wrap') return rows(floorMod([at, maximum([size, i64(1)])]));
  if (mode === 'reflect') {
    const period = maximum([mul([last, i64(2)]), i64(1)]);
    const there = floorMod([at, period]);
    return rows(minimum([there, sub([period, there])]));
  }
  if (mode === 'edge') return rows(at);
  const inside = and([greaterEqual([at, i64(0)]), less([at, size])]);
  return select([reshape([inside], { shape: shape.map((_, i) => (i === axis ? out : 1)) }), rows(at), fill]);
}

function centerCropPad(n: Node): Value {
  const shape = n.shape(0);
  const axes = n.intList('axes')?.map((a) => n.axis(a, shape.length)) ?? shape.map((_, i) => i);
  const wanted = n.dims(1) ?? [];
  if (
    wanted.length !== axes.length ||
    wanted.some((w) => typeof w === 'number' && !(Number.isSafeInteger(w) && w >= 0))
  )
    n.fail(`its ${wanted.length} sizes do not go with ${axes.length} axes`, undefined, 'shape');
  const [before, after] = [shape.map(() => 0), shape.map(() => 0)];
  const open: { readonly axis: number; readonly out: Dim }[] = [];
  axes.forEach((axis, i) => {
    const [size, out] = [shape[axis]!, wanted[i]!];
    if (typeof size !== 'number' || typeof out !== 'number') open.push({ axis, out });
    else {
      const extra = out - size;
      before[axis] = extra >= 0 ? Math.floor(extra / 2) : -Math.floor(-extra / 2);
      after[axis] = extra - before[axis]!;
    }
  });
  return open.reduce(
    (x, { axis, out }) => {
      const extra = s.sub(asExpr(out), shape[axis]!);
      const half = (e: typeof extra): typeof extra => s.floordiv(s.max(e, 0), 2);
      const first = dim(s.sub(half(extra), half(s.sub(0, extra))));
      return paddedAxis(x, axis, { before: first, out }, 'constant', scalar(0, typeOf(x).dtype));
    },
    pad([n.value(0)], { before, after }),
  );
}

export const pads: Entries = { CenterCropPad: centerCropPad, Pad: padNode };
