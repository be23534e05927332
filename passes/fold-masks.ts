/** Masks become predicates: see `masks.ts` for how they are read. */

import { type Graph, graphValues, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { attention, attentionWeights } from '../ir/ops/attention.ts';
import { printExpr } from '../ir/print.ts';
import { firstOperand, readMask } from './masks.ts';
import type { Pass, PassContext } from './pass.ts';
import { mapAllBodies, replaceValues } from './rewrite.ts';

function folded(value: Value, cx: PassContext): Value | undefined {
  const { mask, bias, emptyRow } = value.attrs;
  if (mask === undefined && bias === undefined) return undefined;
  const first = firstOperand(value);
  const reading = readMask(value, cx.masks);
  for (const why of reading.missed) cx.remark('missed', value, why);
  const operands = value.inputs.slice(first);
  const same =
    reading.mask === mask &&
    reading.bias === bias &&
    reading.emptyRow === emptyRow &&
    operands.length === reading.operands.length &&
    operands.every((v, i) => v === reading.operands[i]);
  if (same || (cx.mayRewrite && !cx.mayRewrite())) return undefined;
  const what = reading.mask ? printExpr(reading.mask) : 'every key may be read';
  cx.remark('applied', value, reading.applied ? `${what} (${reading.applied})` : what);
  const { name, loc } = value;
  return makeValue(
    value.op,
    [...value.inputs.slice(0, first), ...reading.operands],
    { ...value.attrs, mask: reading.mask, bias: reading.bias, emptyRow: reading.emptyRow },
    { name, loc },
  );
}

export const foldMasks: Pass = {
  name: 'fold-masks',
  doc: 'What masks and added terms of an attention read becomes a predicate over coordinates where it is one.',
  run(graph: Graph, cx: PassContext): Graph {
    const current = mapAllBodies(graph, (body) => foldMasks.run(body, cx));
    const replaced = new Map<Value, Value>();
    for (const v of graphValues(current)) {
      if (v.op !== attention.def && v.op !== attentionWeights.def) continue;
      const to = folded(v, cx);
      if (to) replaced.set(v, to);
    }
    return replaced.size === 0 ? current : replaceValues(current, replaced);
  },
};
