/** Attention and rotary embedding of the standard domain. */
import type { Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { attention, coords } from '../../ir/ops/attention.ts';
import { add, mul, sub } from '../../ir/ops/elementwise.ts';
import { gather } from '../../ir/ops/index.ts';
import { concat, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, type Shape } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';

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

function attentionNode(n: Node): readonly (Value | undefined)[] {
  if (n.wants(3)) n.fail('qk_matmul_output, its result 3, is not supported');
  n.ignore('qk_matmul_output_mode', 'softmax_precision');
  const flat = n.rank(0) === 3;
  const heads = (i: number, name: string): Value => (flat ? splitHeads(n.value(i), n.int(name)) : n.value(i));
  const q = heads(0, 'q_num_heads');
  let [k, v] = [heads(1, 'kv_num_heads'), heads(2, 'kv_num_heads')];
  n.ignore('q_num_heads', 'kv_num_heads');
  const past = n.has(4) ? typeOf(n.value(4)).shape[2]! : 0;
  if (n.has(4)) [k, v] = [concat([n.value(4), k], { axis: 2 }), concat([n.value(5), v], { axis: 2 })];
  const keys = typeOf(k).shape[2]!;
  const operands: Value[] = [];
  const terms: Expr[] = [];
  let bias: Expr | undefined;
  const load = (x: Value, at: readonly Expr[]): Expr => s.operand(2 + operands.push(x), typeOf(x).dtype, at);
  if (n.has(3)) {
    const mask = n.value(3);
    const { shape, dtype } = typeOf(mask);
    const width = dim(shape.at(-1)!);
    const short = width !== 1 && width !== keys;
    if (short) terms.push(s.lt(coords.k, width));
    const at = maskAt(shape);
    if (short) at[at.length - 1] = s.min(coords.k, s.sub(asExpr(width), 1));
    const element = load(mask, at);
    if (dtype === 'bool') terms.push(element);
    else bias = s.cast(element, 'f32');
  }
  const lens = n.optional(6);
  const end = lens && s.cast(load(lens, [coords.b]), 'i32');
  if (end) terms.push(s.lt(coords.k, end));
  if (n.int('is_causal', 0) !== 0) {
    const shift = end ? s.sub(end, typeOf(q).shape[2]!) : asExpr(past);
    terms.push(s.le(coords.k, s.add(coords.q, shift)));
  }
  const softcap = n.float('softcap', 0);
  const out = attention([q, k, v, ...operands], {
    ...(n.hasAttribute('scale') ? { scale: n.float('scale') } : {}),
    ...(terms.length > 0 ? { mask: terms.reduce((a, b) => s.and(a, b)) } : {}),
    ...(bias ? { bias } : {}),
    softcap,
    emptyRow: 'zero',
  });
  return [flat ? mergeHeads(out) : out, k, v].slice(0, Math.max(1, n.outputs));
}

function rotary(n: Node): Value {
  const given = n.value(0);
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
