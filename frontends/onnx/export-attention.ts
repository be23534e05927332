/** Attention in ONNX: the operator where the opset has it and its meaning is ours, products and a softmax elsewhere. */
import type { Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { attentionWeights, coords, scoreTerm, shiftOperands } from '../../ir/ops/attention.ts';
import { add, cast, div, mul, select, tanh } from '../../ir/ops/elementwise.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { softmax } from '../../ir/ops/norm.ts';
import { logSumExp } from '../../ir/ops/reduce.ts';
import { expand, reshape } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import { le } from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, type Shape, sameDim } from '../../ir/type.ts';
import { gridTensor } from './export-expr.ts';
import type { ExportEntries, Writing } from './export-ops.ts';
import { float, int } from './export-writer.ts';

interface Scores {
  readonly scale: number | undefined;
  readonly mask: Expr | undefined;
  readonly bias: Expr | undefined;
  readonly emptyRow: string;
  readonly softcap: number;
  readonly lse: boolean | undefined;
}

/** The terms of a conjunction, from left to right. */
const terms = (e: Expr): readonly Expr[] => (e.op === 'and' && e.dtype === 'bool' ? e.args.flatMap(terms) : [e]);

/** A mask or bias over b h q k, broadcast over the last two axes at least, as kernels of the operator want it. */
function scoreTensor(v: Value, e: Expr, { w, inputs }: Writing): string {
  const shape = scoreShape(v);
  const at = [coords.b, coords.h, coords.q, coords.k];
  const operands = v.inputs.map((x, i) => ({ name: inputs[i]!, type: typeOf(x) }));
  const { name } = gridTensor(w, e, { at, shape }, operands);
  return w.node('Expand', [name, w.sizes([1, 1, shape[2]!, shape[3]!])]);
}

/** [B, H, Q, K] */
function scoreShape(v: Value): Shape {
  const [q, k] = [typeOf(v.inputs[0]!).shape, typeOf(v.inputs[1]!).shape];
  return [q[0]!, q[1]!, q[2]!, k[2]!];
}

function attentionNode(v: Value, attrs: Scores, cx: Writing): string {
  const { w, inputs } = cx;
  const { dtype, shape } = typeOf(v.inputs[0]!);
  const all = attrs.mask ? terms(attrs.mask) : [];
  // Their is_causal lets query q read keys up to q, as ours does where no past stands before the keys.
  const causal = all.filter((e) => e === le(coords.k, coords.q));
  const rest = all.filter((e) => !causal.includes(e));
  const allowed = rest
    .map((e) => scoreTensor(v, e, cx))
    .reduce<string | undefined>((a, b) => (a ? w.node('And', [a, b]) : b), undefined);
  let mask = allowed;
  if (attrs.bias) {
    const bias = w.cast(scoreTensor(v, attrs.bias, cx), 'f32', dtype);
    mask = allowed ? w.node('Where', [allowed, bias, w.scalar(-Infinity, dtype)]) : bias;
  }
  return w.node('Attention', [inputs[0]!, inputs[1]!, inputs[2]!, mask ?? ''], {
    scale: float(attrs.scale ?? 1 / Math.sqrt(shape[3] as number)),
    ...(causal.length > 0 && { is_causal: int(1) }),
    ...(attrs.softcap > 0 && { softcap: float(attrs.softcap) }),
  });
}

/** Values repeated for the heads of q that share them. */
function perHead(x: Value, heads: Dim): Value {
  const [batch, groups, keys, width] = typeOf(x).shape as [Dim, Dim, Dim, Dim];
  if (sameDim(groups, heads)) return x;
  const repeat = (heads as number) / (groups as number);
  const apart = expand([reshape([x], { shape: [batch, groups, 1, keys, width] })], {
    shape: [batch, groups, repeat, keys, width],
  });
  return reshape([apart], { shape: [batch, heads, keys, width] });
}

/** The weights, multiplied with v. */
function product(v: Value): Value {
  if (readsSome(v)) return matmul([softmax([scoresOf(v)]), perHead(v.inputs[2]!, typeOf(v.inputs[0]!).shape[1]!)]);
  const { lse: _, ...attrs } = v.attrs;
  const [q, k, values, ...operands] = v.inputs as [Value, Value, Value, ...Value[]];
  const shifted = (e: Value['attrs'][string]): Value['attrs'][string] =>
    e === undefined ? undefined : shiftOperands(e as Expr, -1);
  const weights = attentionWeights([q, k, ...operands], {
    ...(attrs as object),
    mask: shifted(attrs.mask) as Expr | undefined,
    bias: shifted(attrs.bias) as Expr | undefined,
  });
  return matmul([weights, perHead(values, typeOf(q).shape[1]!)]);
}

/** Scaled, capped and biased scores, −∞ where a key may not be read. */
function scoresOf(v: Value): Value {
  const { scale, softcap, mask, bias } = v.attrs as unknown as Scores;
  const [q, k, , ...operands] = v.inputs as [Value, Value, Value, ...Value[]];
  const { dtype, shape } = typeOf(q);
  const like = (x: number): Value => scalar(x, dtype);
  const at = scoreShape(v);
  const term = (e: Expr): Value => scoreTerm(operands, { expr: shiftOperands(e, -3), shape: at });
  const product = matmul([q, perHead(k, shape[1]!)], { transposeB: true });
  let scores = mul([product, like(scale ?? 1 / Math.sqrt(shape[3] as number))]);
  if (softcap > 0) scores = mul([tanh([div([scores, like(softcap)])]), like(softcap)]);
  if (bias) scores = add([scores, cast([term(bias)], { to: dtype })]);
  return mask ? select([term(mask), scores, like(-Infinity)]) : scores;
}

/** Whether every query may read some key: one that is not behind it, where position 0 is always such a key. */
function readsSome({ attrs, inputs }: Value): boolean {
  const { mask } = attrs as unknown as Scores;
  if (boundsOf(asExpr(typeOf(inputs[1]!).shape[2]!))[0] < 1) return false;
  return !mask || (mask.op === 'le' && mask.args[0] === coords.k && boundsOf(mask.args[1]!)[0] >= 0);
}

/** log Σ exp(score) of each query over the keys that it may read. */
function normaliser(v: Value): Value {
  const scores = scoresOf(v);
  const { dtype } = typeOf(scores);
  const wide = dtype === 'f64' ? scores : cast([scores], { to: 'f32' });
  return logSumExp([wide], { axes: [3] });
}

export const attentions: ExportEntries = {
  attention: (v, cx) => {
    const attrs = v.attrs as unknown as Scores;
    if (attrs.lse) return cx.inline([product(v), normaliser(v)]);
    const keys = typeOf(v.inputs[1]!).shape[2]!;
    const own = cx.w.opset >= 23 && typeOf(v).dtype !== 'f64' && keys !== 0;
    // A query that may read no key gives zeros there; the other meanings are spelled out.
    if (own && (attrs.emptyRow === 'zero' || !attrs.mask)) return attentionNode(v, attrs, cx);
    return cx.inline(product(v));
  },
};
