/**
 * Products of dequantised operands become products of the integers themselves: with one scale for each row and column,
 * Σ (a − za)·sa · (b − zb)·sb is sa·sb · Σ (a − za)(b − zb). Over the reals that is the same function; in floats it is the
 * better one, since the sum is exact.
 */
import { typeOf, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxis } from '../ir/ops/check.ts';
import { conv } from '../ir/ops/conv.ts';
import { add, cast, mul } from '../ir/ops/elementwise.ts';
import { matmul } from '../ir/ops/linear.ts';
import { dequantize, integerConv, integerMatmul } from '../ir/ops/quantize.ts';
import { reshape, transpose } from '../ir/ops/shape.ts';
import { scalar } from '../ir/ops/structural.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, type Dim, dim } from '../ir/type.ts';
import { ints, is, isOne, rankOf, shapeOf } from './facts.ts';
import { type Miss, miss, type Rewritten, type Rule, rewritePass, rewritten } from './rewrite.ts';

/** So many products of centred bytes never leave 32 bits, which would wrap where floats do not. */
const MOST_TERMS = Math.floor((2 ** 31 - 1) / (255 * 255));

/** A dequantised operand: (x − zero) · scale. */
interface Quantised {
  readonly kind: 'quantised';
  readonly x: Value;
  readonly scale: Value;
  readonly zero: Value | undefined;
  /** The axis of x along which scale and zero point differ; undefined where each is one number. */
  readonly axis: number | undefined;
}

/** What stands below the dequantisation of `v`, moved as `v` is; undefined when `v` is not dequantised. */
function quantised(v: Value): Quantised | Miss | undefined {
  if (is(v, dequantize)) {
    const [x, scale, zero] = v.inputs as [Value, Value, Value | undefined];
    const { dtype } = typeOf(x);
    if (dtype !== 'i8' && dtype !== 'u8') return miss(`integers of type ${dtype} do not go into a product of bytes`);
    if (typeOf(scale).dtype !== 'f32') return miss(`scales are ${typeOf(scale).dtype}, not f32`);
    if (Number(v.attrs.block) !== 0) return miss('scales differ from block to block along the axis that is summed');
    const one = rankOf(scale) === 0 || isOne(shapeOf(scale)[0]!);
    return {
      kind: 'quantised',
      x,
      scale,
      zero,
      axis: one ? undefined : normalizeAxis(Number(v.attrs.axis), rankOf(v)),
    };
  }
  if (v.op.lower.kind !== 'view' || v.inputs.length !== 1) return undefined;
  const inner = quantised(v.inputs[0]!);
  if (inner?.kind !== 'quantised') return inner;
  const { axis } = inner;
  if (axis !== undefined && !is(v, transpose))
    return miss(`${v.op.name} moves values that have a scale for each channel`);
  const x = makeValue(v.op, [inner.x], v.attrs);
  return { ...inner, x, axis: axis === undefined ? undefined : ints(v.attrs, 'perm').indexOf(axis) };
}

const one = (v: Value): Value => (rankOf(v) === 0 ? v : reshape([v], { shape: [] }));
/** A vector along one axis of a value of that rank. */
const along = (v: Value, rank: number, axis: number): Value =>
  reshape([v], { shape: Array.from({ length: rank }, (_, i): Dim => (i === axis ? shapeOf(v)[0]! : 1)) });

const HALF = 'only one operand is quantised: it becomes a float before the product';

function ofMatmul(root: Value): Rewritten | Miss | undefined {
  const [left, right] = root.inputs.map(quantised);
  if (!left && !right) return undefined;
  for (const side of [left, right]) if (side?.kind === 'miss') return side;
  if (left?.kind !== 'quantised' || right?.kind !== 'quantised') return miss(HALF);
  const transposeB = root.attrs.transposeB === true;
  const a = root.attrs.transposeA === true ? turned(left) : left;
  const [rank, width] = [rankOf(a.x), rankOf(right.x)];
  const column = width - (transposeB ? 2 : 1);
  if (a.axis !== undefined && a.axis !== rank - 2) return miss('scales of the left operand differ along the sum');
  if (right.axis !== undefined && right.axis !== column)
    return miss('scales of the right operand differ along the sum');
  const terms = boundsOf(asExpr(shapeOf(a.x).at(-1)!))[1];
  if (terms > MOST_TERMS) return miss(`sums of ${terms} products of bytes may leave 32 bits`);
  const rows = (v: Value): Value => (a.axis === undefined ? one(v) : along(v, 2, 0));
  const columns = (v: Value): Value => (right.axis === undefined ? one(v) : along(v, 2, 1));
  const zeros = right.zero
    ? [a.zero ? rows(a.zero) : scalar(0, typeOf(a.x).dtype), columns(right.zero)]
    : a.zero
      ? [rows(a.zero)]
      : [];
  const whole = integerMatmul([a.x, right.x, ...zeros], { transposeB });
  const real = mul([cast([whole], { to: 'f32' }), mul([rows(a.scale), columns(right.scale)])]);
  return rewritten(real, new Map());
}

/** The last two axes exchanged. */
function turned(q: Quantised): Quantised {
  const rank = rankOf(q.x);
  const perm = Array.from({ length: rank }, (_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i));
  return {
    ...q,
    x: transpose([q.x], { perm }),
    axis: q.axis === undefined ? undefined : perm.indexOf(q.axis),
  };
}

function ofConv(root: Value): Rewritten | Miss | undefined {
  const [x, w] = root.inputs.slice(0, 2).map(quantised);
  if (!x && !w) return undefined;
  for (const side of [x, w]) if (side?.kind === 'miss') return side;
  if (x?.kind !== 'quantised' || w?.kind !== 'quantised') return miss(HALF);
  if (x.axis !== undefined) return miss('scales of the image differ from channel to channel');
  if (w.axis !== undefined && w.axis !== 0) return miss('scales of the filters differ along the sum');
  const [filters, ...size] = shapeOf(w.x) as readonly number[];
  const terms = size.reduce((n, d) => n * d, 1);
  if (terms > MOST_TERMS) return miss(`sums of ${terms} products of bytes may leave 32 bits`);
  const rank = rankOf(root);
  const zeroOf = (q: Quantised, v: Value): Value => (q.axis === undefined ? one(v) : v);
  const zeros = w.zero
    ? [x.zero ? one(x.zero) : scalar(0, typeOf(x.x).dtype), zeroOf(w, w.zero)]
    : x.zero
      ? [one(x.zero)]
      : [];
  const whole = integerConv([x.x, w.x, ...zeros], root.attrs as Record<string, never>);
  const channel = (v: Value): Value => (dim(shapeOf(v)[0] ?? 1) === 1 ? one(v) : along(v, rank, 1));
  const real = mul([cast([whole], { to: 'f32' }), mul([one(x.scale), channel(w.scale)])]);
  const bias = root.inputs[2];
  const sum = bias ? add([real, filters === 1 ? one(bias) : along(bias, rank, 1)]) : real;
  return rewritten(sum, new Map());
}

const rules: readonly Rule[] = [
  { name: 'integer-matmul', ops: [matmul.def], sharing: true, apply: ofMatmul },
  { name: 'integer-conv', ops: [conv.def], sharing: true, apply: ofConv },
];

export const integerProducts = rewritePass({
  name: 'integer-products',
  doc: 'Products and convolutions of dequantised operands are taken of the integers, then scaled; legal because scales are constant along the sum.',
  rules,
});
