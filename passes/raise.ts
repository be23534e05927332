/**
 * Recognises functions that exporters and authors spell out. The raised form is the same function over the reals; in
 * floats it is at least as accurate (a softmax is shifted by its maximum, a gelu does not cancel). Where that does not
 * hold, or a constant or an axis is another one, a rule declines and says so.
 */
import { typeOf, type Value } from '../ir/graph.ts';
import { mul } from '../ir/ops/elementwise-binary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { l2Normalize, logSoftmax, softmax } from '../ir/ops/norm.ts';
import { logSumExp } from '../ir/ops/reduce.ts';
import { reshape } from '../ir/ops/shape.ts';
import { asWritten, is, isOne, rankOf, shapeOf } from './facts.ts';
import { alongOne, foldAxis, foldedAxis } from './folds.ts';
import { any, exactly, number, oneOf, type Pattern, p, where } from './pattern.ts';
import { activations } from './raise-activations.ts';
import { normalisations } from './raise-norms.ts';
import { rotaries } from './raise-rotary.ts';
import { miss, type Outcome, type Rule, rewritePass, rewritten, rule } from './rewrite.ts';

const x = any('x');

// Softmax and its relatives.

const shifted = p.sub(x, alongOne(p.reduceMax(x)));
const weights = oneOf(p.exp(shifted), p.exp(x));
const total = <C>(of: Pattern<C>): Pattern<C> => alongOne(p.reduceSum(of) as Pattern<C>);
const alongAxis = (root: Value, from: Value, build: (axis: number) => Value): Outcome => {
  const axis = foldedAxis(root, from);
  return axis === undefined ? miss('its folds run over different axes') : build(axis === rankOf(from) - 1 ? -1 : axis);
};
const axisOf = (v: Value): number => Number(v.attrs.axis);

const square = oneOf(p.mul(x, x), p.pow(x, exactly(2)));
const norm = oneOf(p.sqrt(total(square)), p.pow(total(square), exactly(0.5)));
const softmaxes: readonly Rule[] = [
  rule('softmax', oneOf(p.div(weights, total(weights)), p.mul(weights, p.reciprocal(total(weights)))), ({ x }, root) =>
    alongAxis(root, x, (axis) => softmax([x], { axis })),
  ),
  rule('log-softmax', p.sub(shifted, p.log(total(p.exp(shifted)))), ({ x }, root) =>
    alongAxis(root, x, (axis) => logSoftmax([x], { axis })),
  ),
  rule(
    'log-softmax',
    p.sub(
      x,
      where(any('sum'), (v) => is(v, logSumExp)),
    ),
    ({ x, sum }, root) => {
      const axis = foldAxis(sum);
      if (sum.inputs[0] !== x || axis === undefined) return undefined;
      return rewritten(logSoftmax([x], { axis: axis === rankOf(root) - 1 ? -1 : axis }), new Map([[sum, 'the sum']]));
    },
  ),
  rule('log-softmax', p.log(where(any('of'), (v) => is(v, softmax))), ({ of }) =>
    rewritten(logSoftmax(of.inputs, { axis: axisOf(of) }), new Map([[of, 'the softmax']])),
  ),
  rule('softmax', p.exp(where(any('of'), (v) => is(v, logSoftmax))), ({ of }) =>
    rewritten(softmax(of.inputs, { axis: axisOf(of) }), new Map([[of, 'the log_softmax']])),
  ),
  rule('softmax', p.div(weights, p.add(total(weights), number('more'))), () =>
    miss('a constant is added to the sum of its weights'),
  ),
  rule('l2-normalize', p.div(x, p.maximum(norm, number('least'))), ({ x, least }, root) =>
    alongAxis(root, x, (axis) => l2Normalize([x], { axis, eps: asWritten(least, typeOf(x).dtype) })),
  ),
  rule('l2-normalize', oneOf(p.div(x, norm), p.mul(x, p.rsqrt(total(square)))), ({ x }, root) =>
    alongAxis(root, x, (axis) => l2Normalize([x], { axis, eps: 0 })),
  ),
];

// A product over one term, of which one side is constant: angles are frequencies times positions.

const outer: Rule = {
  name: 'outer-product',
  ops: [matmul.def],
  sharing: false,
  apply: (root) => {
    const [a, b] = root.inputs as [Value, Value];
    const isConstant = [a, b].some((v) => v.op.name === 'param' || v.op.name === 'constant');
    if (!isConstant || rankOf(a) < 2 || rankOf(b) < 2) return undefined;
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
  doc: 'Spelled-out activations, normalisations, softmax and rotary embeddings become one op each; legal because nothing else reads their parts.',
  rules: [...activations, ...normalisations, ...softmaxes, ...rotaries, outer],
});
