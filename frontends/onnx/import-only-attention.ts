/** Attention and rotary embedding of the standard domain. */
import type { Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { attention, attentionWeights, coords, scoreTerm, shiftOperands } from '../../ir/ops/attention.ts';
import { add, mul, sub, tanh } from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { softmax } from '../../ir/ops/norm.ts';
import { concat, expand, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, type Shape, sameDim } from '../../ir/type.ts';
import { computed, type Item } from './item.ts';
import type { Entries, Node } from './node.ts';
import type { OnnxGraph } from './proto.ts';
import { Scope, type Subgraphs } from './scope.ts';
import { dtypeOf, shapeOf, times, to, unsqueezed, where, workType } from './values.ts';

const over = (d: Dim, by: number): Dim => dim(s.floordiv(asExpr(d), by));

/** [B, S, heads · D] as [B, heads, S, D]. */
function splitHeads(x: Value, heads: number): Value {
  const [batch, rows, width] = typeOf(x).shape as [Dim, Dim, Dim];
  const apart = reshape([x], { shape: [batch, rows, heads, over(width, heads)] });
  return transpose([apart], { perm: [0, 2, 1, 3] });
}
function mergeHeads(x: Value): Value {
  const [batch, heads, rows, width] = typeOf(x).shape as [Dim, Dim, Dim, Dim];
  const turned = transpose([x], { perm: [0, 2, 1, 3] });
  return reshape([turned], { shape: [batch, rows, dim(s.mul(asExpr(heads), width))] });
}

/** Coordinates of the element of a mask that broadcasts to [B, H, Q, K]. */
function maskAt(shape: Shape): Expr[] {
  const all = [coords.b, coords.h, coords.q, coords.k];
  return shape.map((d, i) => (dim(d) === 1 ? s.index(0) : all[i + 4 - shape.length]!));
}

/** What limits and shifts the scores of a node, over coordinates; `operands` are numbered from 3. */
interface Scores {
  readonly mask: Expr | undefined;
  readonly bias: Expr | undefined;
  readonly operands: readonly Value[];
}

function scoresOf(n: Node, queries: Dim, keys: Dim, past: Dim): Scores {
  const operands: Value[] = [];
  const terms: Expr[] = [];
  let bias: Expr | undefined;
  const load = (x: Value, at: readonly Expr[]): Expr => s.operand(2 + operands.push(x), typeOf(x).dtype, at);
  if (n.has(3)) {
    const mask = n.value(3);
    const { shape, dtype } = typeOf(mask);
    if (shape.length > 4) n.fail(`its mask has rank ${shape.length}, more than 4`, undefined, 'rank');
    const width = shape.length > 0 ? dim(shape.at(-1)!) : 1;
    const short = width !== 1 && width !== keys;
    if (short) terms.push(s.lt(coords.k, width));
    const at = maskAt(shape);
    if (short) at[at.length - 1] = s.min(coords.k, s.sub(asExpr(width), 1));
    const element = load(mask, at);
    if (dtype === 'bool') terms.push(element);
    else {
      bias = s.cast(element, 'f32');
      // A row of nothing but −∞ has no keys, as with truths: its weights are zero.
      terms.push(s.lt(s.literal(-Infinity, 'f32'), bias));
    }
  }
  const lens = n.optional(6);
  const end = lens && s.cast(load(lens, [coords.b]), 'i32');
  if (end) terms.push(s.lt(coords.k, end));
  // The position of a query among the keys.
  const shift = end && !n.has(4) ? s.sub(end, queries) : asExpr(past);
  const place = s.add(coords.q, shift);
  if (n.int('is_causal', 0) !== 0) terms.push(s.le(coords.k, place));
  const [left, right] = [n.int('left_window_size', -1), n.int('right_window_size', -1)];
  if (left >= 0) terms.push(s.le(s.sub(place, left), coords.k));
  if (right >= 0) terms.push(s.le(coords.k, s.add(place, right)));
  return { mask: terms.length > 0 ? terms.reduce((a, b) => s.and(a, b)) : undefined, bias, operands };
}

/** Keys or values repeated for the heads of the queries that share them: [B, G, K, D] to [B, H, K, D]. */
function perHead(x: Value, heads: Dim): Value {
  const [batch, groups, keys, width] = shapeOf(x) as [Dim, Dim, Dim, Dim];
  if (sameDim(groups, heads)) return x;
  const repeat = dim(s.floordiv(asExpr(heads), groups));
  const wide = expand([unsqueezed(x, 2)], { shape: [batch, groups, repeat, keys, width] });
  return reshape([wide], { shape: [batch, heads, keys, width] });
}

/** q·kᵀ, scaled. */
function products(q: Value, k: Value, scale: number): Value {
  return times(matmul([q, perHead(k, shapeOf(q)[1]!)], { transposeB: true }), scale);
}

/** Scores after the cap and mask, or weights, as `qk_matmul_output_mode` asks. */
function shownScores(
  q: Value,
  k: Value,
  { mask, bias, operands }: Scores,
  mode: number,
  scale: number,
  cap: number,
): Value {
  const at = [...shapeOf(q).slice(0, 3), shapeOf(k)[2]!];
  const term = (expr: Expr): Value => scoreTerm(operands, { expr: shiftOperands(expr, -3), shape: at });
  if (mode === 3) {
    const shifted = { ...(mask && { mask: shiftOperands(mask, -1) }), ...(bias && { bias: shiftOperands(bias, -1) }) };
    return attentionWeights([q, k, ...operands], { ...shifted, scale, softcap: cap, emptyRow: 'zero' });
  }
  const raw = products(q, k, scale);
  if (mode === 0) return raw;
  const capped = cap > 0 ? times(tanh([times(raw, 1 / cap)]), cap) : raw;
  if (mode === 1) return capped;
  const biased = bias ? add([capped, to(term(bias), dtypeOf(capped))]) : capped;
  return mask ? where(term(mask), biased, -Infinity) : biased;
}

function attentionNode(n: Node): readonly (Value | undefined)[] {
  // Kernels compute weights in f32 or better.
  n.ignore('softmax_precision');
  for (const i of [0, 1, 2]) n.expectRank(i, 3, 4);
  const flat = n.rank(0) === 3;
  const heads = (i: number, name: string): Value => (flat ? splitHeads(n.value(i), n.int(name)) : n.value(i));
  const q = heads(0, 'q_num_heads');
  let [k, v] = [heads(1, 'kv_num_heads'), heads(2, 'kv_num_heads')];
  n.ignore('q_num_heads', 'kv_num_heads');
  for (const i of [4, 5]) if (n.has(i)) n.expectRank(i, 4);
  if (n.has(4) !== n.has(5)) n.fail('past_key and past_value must come together', undefined, 'operand');
  const past = n.has(4) ? n.shape(4)[2]! : 0;
  if (n.has(4)) [k, v] = [concat([n.value(4), k], { axis: 2 }), concat([n.value(5), v], { axis: 2 })];
  const width = shapeOf(q)[3]!;
  if (typeof width !== 'number' && !n.hasAttribute('scale'))
    n.fail('the width of a head must be a fixed size', 'give a scale');
  const scale = n.hasAttribute('scale') ? n.float('scale') : 1 / Math.sqrt(width as number);
  const scores = scoresOf(n, shapeOf(q)[2]!, shapeOf(k)[2]!, past);
  const softcap = n.float('softcap', 0);
  const { mask, bias, operands } = scores;
  const { dtype } = typeOf(q);
  const out = attention([q, k, to(v, dtype), ...operands], {
    scale,
    ...(mask && { mask }),
    ...(bias && { bias }),
    softcap,
    emptyRow: 'zero',
  });
  const results = [flat ? mergeHeads(out) : out, k, v].slice(0, Math.max(1, n.outputs));
  const mode = n.int('qk_matmul_output_mode', 0);
  if (!n.wants(3)) return results;
  if (mode < 0 || mode > 3) n.fail(`qk_matmul_output_mode is ${mode}`, 'it is 0 to 3', 'attribute');
  return [...results, shownScores(q, k, scores, mode, scale, softcap)];
}

/** Attention whose scores and weights pass through subgraphs of the node. */
export function flexAttention(n: Node, scope: Scope, reading: Subgraphs): Item[] {
  const [q, k, v] = [n.value(0), n.value(1), n.value(2)];
  const { dtype, shape } = typeOf(q);
  for (const i of [0, 1, 2]) n.expectRank(i, 4);
  const work = n.dtype('softmax_precision') ?? workType(dtype);
  const width = shape[3]!;
  if (typeof width !== 'number' && !n.hasAttribute('scale'))
    n.fail('the width of a head must be a fixed size', 'give a scale');
  const scale = n.hasAttribute('scale') ? n.float('scale') : 1 / Math.sqrt(width as number);
  const [onScores, onWeights] = ['score_mod', 'prob_mod'].map((name) =>
    n.hasAttribute(name) ? n.graph(name) : undefined,
  );
  n.finish();
  if (!onScores && !onWeights) return [computed(attention([q, k, v], { scale }))];
  const through = (g: OnnxGraph | undefined, x: Value): Value => {
    if (!g) return x;
    const results = reading.subgraph(g, new Scope(scope, 'inline', scope.opsets), [computed(x)]);
    const [result] = results;
    if (!result || results.length > 1) return n.fail(`subgraph "${g.name}" must give one result`, undefined, 'operand');
    return to(result.value(), dtypeOf(x));
  };
  const scores = through(onScores, products(to(q, work), to(k, work), scale));
  const weights = through(onWeights, softmax([scores]));
  return [computed(to(matmul([weights, to(perHead(v, shape[1]!), work)]), dtype))];
}

function rotary(n: Node): Value {
  const given = n.value(0);
  n.expectRank(0, 3, 4);
  const flat = typeOf(given).shape.length === 3;
  const heads = n.int('num_heads', 0);
  const x = flat ? splitHeads(given, heads) : given;
  const [batch, count, rows, width] = typeOf(x).shape as [Dim, Dim, Dim, Dim];
  if (typeof width !== 'number') n.fail('the width of a head must be a fixed size');
  const turned = n.int('rotary_embedding_dim', 0) || (width as number);
  const half = turned / 2;
  const table = (i: number): Value => {
    const all = n.has(3) ? gather([n.value(i), n.value(3)]) : n.value(i);
    return reshape([all], { shape: [typeOf(all).shape[0]!, 1, rows, half] });
  };
  const [cos, sin] = [table(1), table(2)];
  const rotating = turned === width ? x : sliceAxis(x, 3, 0, turned);
  const pairs = n.int('interleaved', 0) !== 0;
  const apart = pairs ? reshape([rotating], { shape: [batch, count, rows, half, 2] }) : rotating;
  const part = (i: number): Value =>
    pairs
      ? reshape([sliceAxis(apart, 4, i, i + 1)], { shape: [batch, count, rows, half] })
      : sliceAxis(apart, 3, i * half, (i + 1) * half);
  const [a, b] = [part(0), part(1)];
  const [real, imaginary] = [sub([mul([a, cos]), mul([b, sin])]), add([mul([a, sin]), mul([b, cos])])];
  const column = (v: Value): Value => reshape([v], { shape: [batch, count, rows, half, 1] });
  const joined = pairs
    ? reshape([concat([column(real), column(imaginary)], { axis: 4 })], { shape: [batch, count, rows, turned] })
    : concat([real, imaginary], { axis: 3 });
  const whole = turned === width ? joined : concat([joined, sliceAxis(x, 3, turned, width)], { axis: 3 });
  return flat ? mergeHeads(whole) : whole;
}

export const attentions: Entries = {
  Attention: attentionNode,
  RotaryEmbedding: rotary,
};
