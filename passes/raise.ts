/**
 * Recognises functions that exporters and authors spell out. The raised form is the same function over the reals; in
 * floats it is at least as accurate (a softmax is shifted by its maximum, a gelu does not cancel).
 */
import { typeOf, type Value } from '../ir/graph.ts';
import { normalizeAxes } from '../ir/ops/check.ts';
import { gelu, quickGelu, relu, sigmoid, silu } from '../ir/ops/elementwise-activation.ts';
import { mul } from '../ir/ops/elementwise-binary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { l2Normalize, layerNorm, logSoftmax, rmsNorm, softmax } from '../ir/ops/norm.ts';
import { reduceMean, reduceSum } from '../ir/ops/reduce.ts';
import { reshape } from '../ir/ops/shape.ts';
import { sameShape } from '../ir/type.ts';
import { asWritten, ints, is, isOne, near, rankOf, shapeOf } from './facts.ts';
import { any, exactly, number, oneOf, type Pattern, p, product, where } from './pattern.ts';
import { rotaries } from './raise-rotary.ts';
import { type Miss, miss, type Outcome, type Rule, rewritePass, rewritten, rule } from './rewrite.ts';

const x = any('x');

// Activations.

const half = Math.SQRT1_2;
const gaussian = p.add(p.erf(product(half, x)), exactly(1));
/** x + 0.044715 x³ times √(2/π), in three spellings. */
const CUBIC = 0.044715;
const cube = oneOf(product(CUBIC, x, x, x), product(CUBIC, p.pow(x, exactly(3))), product(CUBIC, p.mul(x, x), x));
const tanhInner = oneOf(
  product(Math.sqrt(2 / Math.PI), p.add(x, cube)),
  product(Math.sqrt(2 / Math.PI), p.add(product(CUBIC, x, x), exactly(1)), x),
);
/** e^(−x) + 1. */
const expPlus1 = p.add(p.exp(p.neg(x)), exactly(1));

const activations = [
  rule(
    'gelu',
    oneOf(product(0.5, gaussian, x), product(1, p.add(product(0.5, p.erf(product(half, x))), exactly(0.5)), x)),
    ({ x }) => gelu([x]),
  ),
  rule('gelu-tanh', product(0.5, p.add(p.tanh(tanhInner), exactly(1)), x), ({ x }) =>
    gelu([x], { approximate: 'tanh' }),
  ),
  rule('quick-gelu', product(1, p.sigmoid(product(1.702, x)), x), ({ x }) => quickGelu([x])),
  rule('silu', oneOf(p.mul(p.sigmoid(x), x), p.div(x, expPlus1)), ({ x }) => silu([x])),
  rule('sigmoid', oneOf(p.reciprocal(expPlus1), p.div(exactly(1), expPlus1)), ({ x }) => sigmoid([x])),
  rule('relu', p.maximum(x, exactly(0)), ({ x }) => relu([x])),
];

// Normalisations.

/** The one axis that a fold which keeps its axes runs over; undefined when there are several or they are dropped. */
function foldAxis(fold: Value): number | undefined {
  const axes = normalizeAxes(ints(fold.attrs, 'axes'), rankOf(fold.inputs[0]!));
  return axes.length === 1 && fold.attrs.keepdims === true ? axes[0] : undefined;
}
/** The axis that every fold between the root and `from` runs over; undefined when they differ. */
function foldedAxis(root: Value, from: Value): number | undefined {
  const axes = new Set<number | undefined>();
  const seen = new Set<Value>([from]);
  const stack = [root];
  for (let v = stack.pop(); v; v = stack.pop()) {
    if (seen.has(v)) continue;
    seen.add(v);
    if (v.op.lower.kind === 'reduce') axes.add(foldAxis(v));
    stack.push(...v.inputs);
  }
  return axes.size === 1 ? [...axes][0] : undefined;
}
const isLast = (axis: number | undefined, v: Value): boolean => axis === rankOf(v) - 1;

/** A fold over one axis, which stays with size 1. */
const alongOne = <C>(fold: Pattern<C>): Pattern<C> => where(fold, (v) => foldAxis(v) !== undefined);
const mean = <C>(of: Pattern<C>): Pattern<C> => alongOne(p.reduceMean(of) as Pattern<C>);

const centred = p.sub(x, mean(x));
const squared = oneOf(p.mul(centred, centred), p.pow(centred, exactly(2)));
const eps = number('eps');
const variance = p.add(mean(squared), eps);
/** y ÷ √v in its spellings. */
const overRoot = <A, B>(y: Pattern<A>, v: Pattern<B>) =>
  oneOf(
    p.div(y, oneOf(p.sqrt(v), p.pow(v, exactly(0.5)))),
    p.mul(y, oneOf(p.rsqrt(v), p.pow(v, exactly(-0.5)), p.reciprocal(p.pow(v, exactly(0.5))))),
  );

const square = oneOf(p.mul(x, x), p.pow(x, exactly(2)));
const meanSquare = p.add(mean(square), eps);

/** A vector along the last axis of `of`, as the normalisations take it; undefined for anything else. */
function lineVector(v: Value, of: Value): Value | undefined {
  const shape = shapeOf(v);
  const width = shapeOf(of).at(-1)!;
  if (shape.length === 0 || !sameShape(shape.slice(-1), [width]) || !shape.slice(0, -1).every(isOne)) return undefined;
  if (typeOf(v).dtype !== typeOf(of).dtype) return undefined;
  return shape.length === 1 ? v : reshape([v], { shape: [width] });
}

const NOT_LAST = miss('the axis is not the last one');
const lastAxis = (root: Value, from: Value, build: () => Value): Value | Miss =>
  isLast(foldedAxis(root, from), from) ? build() : NOT_LAST;
const epsOf = (v: Value): number => Number(v.attrs.eps);
/** A normalisation with that many operands. */
const taking = (op: typeof layerNorm | typeof rmsNorm, operands: number, name: 'normed') =>
  where(any(name), (v) => is(v, op) && v.inputs.length === operands);

const normalisations = [
  rule('layer-norm', overRoot(centred, variance), ({ x, eps }, root) =>
    lastAxis(root, x, () => layerNorm([x], { eps: asWritten(eps, typeOf(x).dtype) })),
  ),
  rule('rms-norm', overRoot(x, meanSquare), ({ x, eps }, root) =>
    lastAxis(root, x, () => rmsNorm([x], { eps: asWritten(eps, typeOf(x).dtype) })),
  ),
  // A mean that was itself spelled out is recognised after the rest.
  rule('layer-norm', oneOf(p.rmsNorm(centred), p.rmsNorm(centred, any('scale'))), (captures, root) => {
    const { x } = captures;
    if (!isLast(foldedAxis(root, x), x)) return undefined;
    return layerNorm('scale' in captures ? [x, captures.scale] : [x], { eps: epsOf(root) });
  }),
  rule('layer-norm-scale', p.mul(taking(layerNorm, 1, 'normed'), any('scale')), ({ normed, scale }) =>
    absorb(normed, scale, (vector, [x]) => layerNorm([x!, vector], { eps: epsOf(normed) })),
  ),
  rule('layer-norm-bias', p.add(taking(layerNorm, 2, 'normed'), any('bias')), ({ normed, bias }) =>
    absorb(normed, bias, (vector, [x, scale]) => layerNorm([x!, scale!, vector], { eps: epsOf(normed) })),
  ),
  rule('rms-norm-scale', p.mul(taking(rmsNorm, 1, 'normed'), any('scale')), ({ normed, scale }) =>
    absorb(normed, scale, (vector, [x]) => rmsNorm([x!, vector], { eps: epsOf(normed) })),
  ),
];

/** A normalisation with one more vector; it must have no other reader, or it would be computed twice. */
function absorb(normed: Value, by: Value, build: (vector: Value, inputs: readonly Value[]) => Value): Outcome {
  const vector = lineVector(by, normed);
  if (!vector) return undefined;
  return {
    kind: 'rewritten',
    value: build(vector, normed.inputs),
    covers: new Map([[normed, 'the normalised value']]),
  };
}

// Softmax and its relatives.

const shifted = p.sub(x, alongOne(p.reduceMax(x)));
const weights = oneOf(p.exp(shifted), p.exp(x));
const total = <C>(of: Pattern<C>): Pattern<C> => alongOne(p.reduceSum(of) as Pattern<C>);
const alongAxis = (root: Value, from: Value, build: (axis: number) => Value): Outcome => {
  const axis = foldedAxis(root, from);
  return axis === undefined ? miss('its folds run over different axes') : build(axis === rankOf(from) - 1 ? -1 : axis);
};

const norm = oneOf(p.sqrt(total(square)), p.pow(total(square), exactly(0.5)));
const softmaxes = [
  rule('softmax', oneOf(p.div(weights, total(weights)), p.mul(weights, p.reciprocal(total(weights)))), ({ x }, root) =>
    alongAxis(root, x, (axis) => softmax([x], { axis })),
  ),
  rule('log-softmax', p.sub(shifted, p.log(total(p.exp(shifted)))), ({ x }, root) =>
    alongAxis(root, x, (axis) => logSoftmax([x], { axis })),
  ),
  rule('l2-normalize', p.div(x, p.maximum(norm, number('least'))), ({ x, least }, root) =>
    alongAxis(root, x, (axis) => l2Normalize([x], { axis, eps: asWritten(least, typeOf(x).dtype) })),
  ),
  rule('l2-normalize', oneOf(p.div(x, norm), p.mul(x, p.rsqrt(total(square)))), ({ x }, root) =>
    alongAxis(root, x, (axis) => l2Normalize([x], { axis, eps: 0 })),
  ),
];

// A mean spelled as a sum and a count.

const means = [
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

// A product over one term, of which one side is constant: angles are frequencies times positions.

const outer: Rule = {
  name: 'outer-product',
  ops: [matmul.def],
  sharing: false,
  apply: (root) => {
    const [a, b] = root.inputs as [Value, Value];
    if (![a, b].some((v) => v.op.name === 'param' || v.op.name === 'constant') || rankOf(a) < 2 || rankOf(b) < 2)
      return undefined;
    const [turnedA, turnedB] = [root.attrs.transposeA === true, root.attrs.transposeB === true];
    if (!isOne(shapeOf(a).at(turnedA ? -2 : -1)!)) return undefined;
    // One of the two axes has size 1, so exchanging them moves nothing.
    const flip = (v: Value, flipped: boolean): Value =>
      flipped ? reshape([v], { shape: [...shapeOf(v).slice(0, -2), shapeOf(v).at(-1)!, shapeOf(v).at(-2)!] }) : v;
    return rewritten(mul([flip(a, turnedA), flip(b, turnedB)]), new Map());
  },
};

export const raise = rewritePass({
  name: 'raise',
  doc: 'Spelled-out activations, normalisations and softmax become one op each; legal because nothing else reads their parts.',
  rules: [...activations, ...means, ...normalisations, ...softmaxes, ...rotaries, outer],
});
