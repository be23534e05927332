/** Layer and root-mean-square normalisation as exporters and authors spell them. */
import { typeOf, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxes } from '../ir/ops/check.ts';
import { cast } from '../ir/ops/elementwise-unary.ts';
import { layerNorm, logSoftmax, rmsNorm, softmax } from '../ir/ops/norm.ts';
import { reduceMean, reduceSum } from '../ir/ops/reduce.ts';
import { reshape } from '../ir/ops/shape.ts';
import { printNumber } from '../ir/print.ts';
import { sameShape } from '../ir/type.ts';
import { asWritten, ints, is, isOne, near, rankOf, shapeOf } from './facts.ts';
import { alongOne, foldedAxis } from './folds.ts';
import { any, exactly, number, oneOf, type Pattern, p, product, where } from './pattern.ts';
import { type Miss, miss, type Outcome, type Rule, rewritten, rule } from './rewrite.ts';

const x = any('x');
const isLast = (axis: number | undefined, v: Value): boolean => axis === rankOf(v) - 1;

const mean = <C>(of: Pattern<C>): Pattern<C> => alongOne(p.reduceMean(of) as Pattern<C>);
const square = oneOf(p.mul(x, x), p.pow(x, exactly(2)));
const centred = p.sub(x, mean(x));
const squared = oneOf(p.mul(centred, centred), p.pow(centred, exactly(2)));
const eps = number('eps');
const scale = any('scale');
/** With and without something that keeps the root away from 0. */
const above0 = <C>(v: Pattern<C>) => oneOf(p.add(v, eps), v);
const variance = above0(mean(squared));
const meanSquare = above0(mean(square));
/** 1 ÷ √v in its spellings. */
const inverseRoot = <V>(v: Pattern<V>) =>
  oneOf(p.rsqrt(v), p.pow(v, exactly(-0.5)), p.reciprocal(oneOf(p.sqrt(v), p.pow(v, exactly(0.5)))));
const root = <V>(v: Pattern<V>) => oneOf(p.sqrt(v), p.pow(v, exactly(0.5)));
/** y ÷ √v in its spellings. */
const overRoot = <A, B>(y: Pattern<A>, v: Pattern<B>) => oneOf(p.div(y, root(v)), p.mul(y, inverseRoot(v)));
/** The same times a vector that is multiplied before the division. */
const scaledOverRoot = <A, B>(y: Pattern<A>, v: Pattern<B>) =>
  oneOf(p.div(p.mul(y, scale), root(v)), product(1, inverseRoot(v), y, scale));

interface Captures {
  readonly x: Value;
  readonly eps?: number;
}
const epsIn = (c: object): number => ('eps' in c && typeof c.eps === 'number' ? c.eps : 0);

const NOT_LAST = miss('the axis is not the last one');
const MANY_AXES = miss('its folds run over different axes');
const lastAxis = (root: Value, from: Value, build: () => Value): Value | Miss => {
  const axis = foldedAxis(root, from);
  return isLast(axis, from) ? build() : axis === undefined ? MANY_AXES : NOT_LAST;
};
const written = (c: Captures | { readonly x: Value }): { readonly eps: number } => ({
  eps: asWritten(epsIn(c), typeOf(c.x).dtype),
});

/** A vector along the last axis of `of`, as the normalisations take it; undefined for anything else. */
function lineVector(v: Value, of: Value): Value | undefined {
  const shape = shapeOf(v);
  const width = shapeOf(of).at(-1)!;
  if (shape.length === 0 || !sameShape(shape.slice(-1), [width]) || !shape.slice(0, -1).every(isOne)) return undefined;
  if (typeOf(v).dtype !== typeOf(of).dtype) return undefined;
  return shape.length === 1 ? v : reshape([v], { shape: [width] });
}

const epsOf = (v: Value): number => Number(v.attrs.eps);
/** A normalisation with that many operands. */
const taking = (op: typeof layerNorm | typeof rmsNorm, operands: number, name: 'normed') =>
  where(any(name), (v) => is(v, op) && v.inputs.length === operands);

/** A normalisation with one more vector; it must have no other reader, or it would be computed twice. */
function absorb(normed: Value, by: Value, build: (vector: Value, inputs: readonly Value[]) => Value): Outcome {
  const vector = lineVector(by, normed);
  if (!vector) return undefined;
  return rewritten(build(vector, normed.inputs), new Map([[normed, 'the normalised value']]));
}

/** A spelling in which the scale is not the last factor. */
const scaled = (op: typeof layerNorm | typeof rmsNorm) => (c: Captures & { readonly scale: Value }, root: Value) => {
  const vector = lineVector(c.scale, c.x);
  return vector && isLast(foldedAxis(root, c.x), c.x) ? op([c.x, vector], written(c)) : undefined;
};

/** 1 ÷ √variance, with the scale or without, as x and its mean are multiplied with it one by one. */
const inverse = oneOf(inverseRoot(variance), p.mul(inverseRoot(variance), scale));
const apart = p.add(p.mul(inverse, x), p.sub(any('bias'), p.mul(inverse, mean(x))));

const fastVariance = p.sub(mean(square), oneOf(p.mul(mean(x), mean(x)), p.pow(mean(x), exactly(2))));

const cancelling = above0(oneOf(fastVariance, p.relu(fastVariance)));

const norms: readonly Rule[] = [
  rule('layer-norm', overRoot(centred, variance), (c, root) => lastAxis(root, c.x, () => layerNorm([c.x], written(c)))),
  rule('layer-norm', scaledOverRoot(centred, variance), (c, root) => scaled(layerNorm)(c as never, root)),
  rule('layer-norm', apart, (c, root) => {
    const bias = lineVector(c.bias, c.x);
    const by = 'scale' in c ? lineVector(c.scale, c.x) : undefined;
    if (!bias || !by || !isLast(foldedAxis(root, c.x), c.x)) return undefined;
    return layerNorm([c.x, by, bias], written(c));
  }),
  rule('rms-norm', overRoot(x, meanSquare), (c, root) => lastAxis(root, c.x, () => rmsNorm([c.x], written(c)))),
  rule('rms-norm', scaledOverRoot(x, meanSquare), (c, root) => scaled(rmsNorm)(c as never, root)),
  // A mean that was itself spelled out is recognised after the rest.
  rule('layer-norm', oneOf(p.rmsNorm(centred), p.rmsNorm(centred, scale)), (captures, root) => {
    const { x } = captures;
    if (!isLast(foldedAxis(root, x), x)) return miss('its mean runs over another axis than its variance');
    return layerNorm('scale' in captures ? [x, captures.scale] : [x], { eps: epsOf(root) });
  }),
  rule('layer-norm-scale', p.mul(taking(layerNorm, 1, 'normed'), scale), ({ normed, scale }) =>
    absorb(normed, scale, (vector, [x]) => layerNorm([x!, vector], { eps: epsOf(normed) })),
  ),
  rule('layer-norm-bias', p.add(taking(layerNorm, 2, 'normed'), any('bias')), ({ normed, bias }) =>
    absorb(normed, bias, (vector, [x, scale]) => layerNorm([x!, scale!, vector], { eps: epsOf(normed) })),
  ),
  rule('rms-norm-scale', p.mul(taking(rmsNorm, 1, 'normed'), scale), ({ normed, scale }) =>
    absorb(normed, scale, (vector, [x]) => rmsNorm([x!, vector], { eps: epsOf(normed) })),
  ),
];

/** What looks like a normalisation, and is another function. */
const others: readonly Rule[] = [
  rule('layer-norm', oneOf(overRoot(centred, cancelling), scaledOverRoot(centred, cancelling)), () =>
    miss('its variance is the mean of squares minus the square of the mean, which cancels where the mean is large'),
  ),
  rule('layer-norm', p.div(centred, p.add(root(above0(mean(squared))), number('outside'))), (c) =>
    miss(`${printNumber(Number(c.outside.toPrecision(7)))} is added to the root, and not below it`),
  ),
  rule('rms-norm', p.div(x, p.add(root(above0(mean(square))), number('outside'))), (c) =>
    miss(`${printNumber(Number(c.outside.toPrecision(7)))} is added to the root, and not below it`),
  ),
  rule(
    'layer-norm',
    overRoot(centred, above0(oneOf(product('by', alongOne(p.reduceSum(squared))), product('by', mean(squared))))),
    () => miss('its variance is not the mean of the squares: it is divided by another number than their count'),
  ),
];

// A mean spelled as a sum and a count.

const means: readonly Rule[] = [
  rule(
    'mean',
    oneOf(p.div(p.reduceSum(x), number('count')), p.mul(p.reduceSum(x), number('inverse'))),
    (captures, root) => {
      const fold = root.inputs.find((v) => is(v, reduceSum))!;
      const axes = normalizeAxes(ints(fold.attrs, 'axes'), rankOf(captures.x));
      const sizes = axes.map((axis) => shapeOf(captures.x)[axis]!);
      if (!sizes.every((d) => typeof d === 'number')) return undefined;
      const count = sizes.reduce((n, d) => n * d, 1);
      const given = 'count' in captures ? captures.count : 1 / captures.inverse;
      if (!near(given, count)) return undefined;
      return reduceMean([captures.x], { axes, keepdims: fold.attrs.keepdims === true });
    },
  ),
];

// Halves that are widened, normalised and rounded again: kernels compute halves in f32 anyway.

const NORMALISED = [layerNorm, rmsNorm, softmax, logSoftmax];
const isHalf = (dtype: string): boolean => dtype === 'f16' || dtype === 'bf16';
/** The half that was widened to `v`; undefined where it was none. */
const widened = (v: Value): Value | undefined =>
  is(v, cast) && typeOf(v).dtype === 'f32' && isHalf(typeOf(v.inputs[0]!).dtype) ? v.inputs[0]! : undefined;

const inHalves: Rule = {
  name: 'computed-in-f32',
  ops: [cast.def],
  sharing: false,
  apply: (root) => {
    const inner = root.inputs[0]!;
    const { dtype } = typeOf(root);
    if (!isHalf(dtype) || !NORMALISED.some((op) => is(inner, op))) return undefined;
    const from = inner.inputs.map(widened);
    if (!from[0] || typeOf(from[0]).dtype !== dtype) return undefined;
    if (!from.every((v) => v && typeOf(v).dtype === dtype)) return miss('its scale or bias is no half');
    return rewritten(makeValue(inner.op, from as Value[], inner.attrs), new Map([[inner, 'the normalised value']]));
  },
};

export const normalisations: readonly Rule[] = [...means, ...norms, ...others, inHalves];
