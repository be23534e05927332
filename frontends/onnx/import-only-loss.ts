/** Losses as ONNX spells them. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { cast, div, mul, notEqual, select, sub } from '../../ir/ops/elementwise.ts';
import { gather, gatherElements } from '../../ir/ops/index.ts';
import { logSoftmax } from '../../ir/ops/norm.ts';
import { reduceMean, reduceSum } from '../../ir/ops/reduce.ts';
import { reshape } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import type { Entries, Node } from './node.ts';

/** Minus the log-probability of each target, weighted by class; targets that are ignored weigh nothing. */
function likelihoodLoss(n: Node, logs: Value): Value {
  const target = n.value(1);
  const { dtype } = typeOf(logs);
  const { shape, dtype: whole } = typeOf(target);
  const axes = shape.map((_, i) => i);
  const weights = n.optional(2);
  const ignored = n.hasAttribute('ignore_index') ? n.int('ignore_index') : undefined;
  const valid = ignored === undefined ? undefined : notEqual([target, scalar(ignored, whole)]);
  const at = valid ? select([valid, target, scalar(0, whole)]) : target;
  const picked = gatherElements([logs, reshape([at], { shape: shape.toSpliced(1, 0, 1) })], { axis: 1 });
  const loss = sub([scalar(0, dtype), reshape([picked], { shape })]);
  const own = weights && gather([weights, at]);
  const weight = valid ? mul([cast([valid], { to: dtype }), own ?? scalar(1, dtype)]) : own;
  const weighted = weight ? mul([loss, weight]) : loss;
  switch (n.string('reduction', 'mean')) {
    case 'none':
      return weighted;
    case 'sum':
      return reduceSum([weighted], { axes });
    default:
      return weight
        ? div([reduceSum([weighted], { axes }), reduceSum([weight], { axes })])
        : reduceMean([loss], { axes });
  }
}

export const losses: Entries = {
  NegativeLogLikelihoodLoss: (n) => likelihoodLoss(n, n.value(0)),
  SoftmaxCrossEntropyLoss: (n) => {
    const logs = logSoftmax([n.value(0)], { axis: 1 });
    return [likelihoodLoss(n, logs), logs];
  },
};
