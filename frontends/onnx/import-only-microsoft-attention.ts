/** Attentions of `com.microsoft`, in the arithmetic of onnxruntime's CPU kernels. */
import type { Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { coords } from '../../ir/ops/attention.ts';
import { add, cast, less, maximum, minimum, select, sub } from '../../ir/ops/elementwise.ts';
import { gather, gatherNd } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { concat, iota, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, sameDim } from '../../ir/type.ts';
import { mergeHeads, rotated, ScoreTerms, splitHeads } from './heads.ts';
import { sizesItem } from './item.ts';
import type { Entries, Node } from './node.ts';

const { b, q, k } = coords;
const shapeOf = (v: Value): readonly Dim[] => typeOf(v).shape;
const times = (d: Dim, by: number, more = 0): Dim => dim(s.add(s.mul(asExpr(d), by), more));

/** 0 where `visible` holds, else the fill: it is added, so that a row without visible keys stays a softmax of its scores. */
const filled = (visible: Expr, fill: number): Expr => s.select(visible, s.literal(0, 'f32'), s.literal(fill, 'f32'));

/** Padding of keys in each of its forms. */
function padding(n: Node, terms: ScoreTerms, mask: Value, batch: Dim, fill: number): void {
  const { shape, dtype } = typeOf(mask);
  const positive = (at: readonly Expr[]): Expr => s.lt(s.literal(0, dtype), terms.element(mask, at));
  const number = (at: Expr): Expr => s.cast(terms.element(mask, [at]), 'i32');
  const one = dim(batch) === 1;
  const at = (first: Dim): Expr => (one ? asExpr(first) : s.add(asExpr(first), b));
  switch (shape.length) {
    case 1:
      // [B] lengths, perhaps with cumulated ones behind them; [2B] ends, then starts.
      if (sameDim(shape[0]!, batch) || sameDim(shape[0]!, times(batch, 3, 2)))
        terms.add(filled(s.lt(k, number(at(0))), fill));
      else if (sameDim(shape[0]!, times(batch, 2)))
        terms.add(filled(s.and(s.lt(k, number(at(0))), s.le(number(at(batch)), k)), fill));
      else n.fail('a mask of rank 1 must have batch, 2 · batch or 3 · batch + 2 elements', undefined, 'shape');
      return;
    case 2:
      terms.add(filled(positive([dim(shape[0]!) === 1 ? s.index(0) : b, k]), fill));
      return;
    case 3:
      terms.add(filled(positive([dim(shape[0]!) === 1 ? s.index(0) : b, q, k]), fill));
      return;
    default:
      n.fail(`a mask of rank ${shape.length} is not supported`, 'export with a mask of [batch, keys]');
  }
}

/** Scale as the attribute says; 0 stands for 1 / √D. */
function scaleOf(n: Node): number | undefined {
  const scale = n.float('scale', 0);
  return scale === 0 ? undefined : scale;
}

const joined = (past: Value | undefined, now: Value): Value => (past ? concat([past, now], { axis: 2 }) : now);

// Attention

/** Projected queries, keys and values of unequal widths, as [B, heads, S, D]. */
function heads3(n: Node, projected: Value, heads: number): [Value, Value, Value] {
  const width = shapeOf(projected).at(-1)!;
  if (typeof width !== 'number') return n.fail('the width of the projection must be a fixed size');
  const sizes = n.intList('qkv_hidden_sizes') ?? [width / 3, width / 3, width / 3];
  const [a, c] = [sizes[0]!, sizes[0]! + sizes[1]!];
  const part = (from: number, to: number): Value => splitHeads(sliceAxis(projected, 2, from, to), heads);
  return [part(0, a), part(a, c), part(c, width)];
}

interface Context {
  readonly mask: Value | undefined;
  /** [2, B, H, P, D]. */
  readonly past: Value | undefined;
  readonly bias: Value | undefined;
}

function selfAttention(n: Node, projected: Value, { mask, past, bias }: Context): readonly (Value | undefined)[] {
  const fill = n.float('mask_filter_value', -10000);
  if (n.int('do_rotary', 0) !== 0) n.fail('do_rotary is not supported', 'export rotary embedding as a node of its own');
  if (n.int('past_present_share_buffer', 0) !== 0) n.fail('past_present_share_buffer is not supported');
  n.ignore('rotary_embedding_dim');
  const [query, key, val] = heads3(n, projected, n.int('num_heads'));
  const half = (i: number): Value | undefined =>
    past && reshape([sliceAxis(past, 0, i, i + 1)], { shape: shapeOf(past).slice(1) });
  const [keys, values] = [joined(half(0), key), joined(half(1), val)];
  const terms = new ScoreTerms();
  if (mask) padding(n, terms, mask, shapeOf(projected)[0]!, fill);
  if (bias) terms.add(terms.broadcast(bias));
  if (n.int('unidirectional', 0) !== 0) terms.allow(s.le(k, s.add(q, past ? asExpr(shapeOf(past)[3]!) : 0)));
  const out = mergeHeads(terms.attend([query, keys, values], { scale: scaleOf(n) }));
  if (!n.wants(1)) return [out];
  const slot = (v: Value): Value => reshape([v], { shape: [1, ...shapeOf(v)] });
  return [out, concat([slot(keys), slot(values)], { axis: 0 })];
}

function attentionNode(n: Node): readonly (Value | undefined)[] {
  if (n.has(6)) n.fail('past_sequence_length, operand 6, is not supported');
  const product = matmul([n.value(0), n.value(1)]);
  const bias = n.optional(2);
  return selfAttention(n, bias ? add([product, bias]) : product, {
    mask: n.optional(3),
    past: n.optional(4),
    bias: n.optional(5),
  });
}

/** Attention whose projection was quantised. */
export const withProjection = (n: Node, projected: Value, mask: Value | undefined, past: Value | undefined) =>
  selfAttention(n, projected, { mask, past, bias: undefined });

// MultiHeadAttention

/** [B, S, H, parts, D] as its parts, each [B, H, S, D]. */
function packed(x: Value): Value[] {
  const [batch, rows, heads, parts, width] = shapeOf(x) as [Dim, Dim, Dim, number, Dim];
  return Array.from({ length: parts }, (_, i) => {
    const part = reshape([sliceAxis(x, 3, i, i + 1)], { shape: [batch, rows, heads, width] });
    return transpose([part], { perm: [0, 2, 1, 3] });
  });
}

function multiHead(n: Node): readonly (Value | undefined)[] {
  const count = n.int('num_heads');
  const fill = n.float('mask_filter_value', -10000);
  if (n.has(8) || n.has(9)) n.fail('past_sequence_length and cache_indirection, operands 8 and 9, are not supported');
  if (n.wants(3)) n.fail('result 3, the scores, is not supported');
  const bias = n.optional(3);
  let [query, key, val] = [0, 1, 2].map((i) => n.optional(i)) as [Value, Value | undefined, Value | undefined];
  const biased = (x: Value, from: Dim): Value => {
    if (!bias || shapeOf(x).length !== 3) return x;
    return add([x, sliceAxis(bias, 0, from, dim(s.add(asExpr(from), shapeOf(x)[2]!)))]);
  };
  const split = (x: Value): Value => (shapeOf(x).length === 4 ? x : splitHeads(x, count));
  if (bias && (shapeOf(query).length === 5 || (key && shapeOf(key).length !== 3)))
    n.fail('a bias beside packed operands is not supported', 'export the bias as a node of its own');
  if (shapeOf(query).length === 5) [query, key, val] = packed(query) as [Value, Value, Value];
  else {
    const width = shapeOf(query)[2]!;
    query = split(biased(query, 0));
    if (!key) n.fail('operand 1, the keys, is missing', undefined, 'operand');
    if (shapeOf(key!).length === 5) [key, val] = packed(key!) as [Value, Value];
    else {
      if (!val) n.fail('operand 2, the values, is missing', undefined, 'operand');
      key = split(biased(key!, width));
      val = split(biased(val!, times(width, 2)));
    }
  }
  const [keys, values] = [joined(n.optional(6), key!), joined(n.optional(7), val!)];
  const terms = new ScoreTerms();
  const mask = n.optional(4);
  if (mask) padding(n, terms, mask, shapeOf(query)[0]!, fill);
  const added = n.optional(5);
  if (added) terms.add(terms.broadcast(added));
  if (n.int('unidirectional', 0) !== 0) terms.allow(s.le(k, s.add(q, n.has(6) ? asExpr(shapeOf(n.value(6))[2]!) : 0)));
  const out = mergeHeads(terms.attend([query, keys, values], { scale: scaleOf(n) }));
  return [out, keys, values].slice(0, Math.max(1, n.outputs));
}

// GroupQueryAttention

/** Row numbers [B, S] of new tokens: how many stand before them, plus their own. */
function positionsOf(before: Value, batch: Dim, rows: Dim): Value {
  const own = reshape([iota([], { shape: [rows], axis: 0, dtype: 'i32' })], { shape: [1, rows] });
  const start = reshape([before], { shape: [batch, 1] });
  return add([start, own]);
}

/** Tables of cosines or sines at the given rows, as [B, 1, S, half]. */
function tableAt(table: Value, rows: Value): Value {
  const found = gather([table, rows]);
  const [batch, length, half] = shapeOf(found) as [Dim, Dim, Dim];
  return reshape([found], { shape: [batch, 1, length, half] });
}

/**
 * Past and new rows, the new ones right behind those of the past that count: [B, H, P + S, D]. What is behind them has no
 * meaning.
 */
function appended(past: Value, now: Value, before: Value): Value {
  const [batch, , rows] = shapeOf(now) as [Dim, Dim, Dim];
  const both = concat([past, now], { axis: 2 });
  // One sequence has no padding: all of the past counts.
  if (dim(batch) === 1) return both;
  const size = shapeOf(past)[2]!;
  const total = dim(s.add(asExpr(size), rows));
  const place = reshape([iota([], { shape: [total], axis: 0, dtype: 'i32' })], { shape: [1, total] });
  const start = reshape([before], { shape: [batch, 1] });
  const moved = minimum([add([place, sub([sizeValue(size), start])]), sizeValue(dim(s.sub(asExpr(total), 1)))]);
  const from = select([less([place, start]), place, moved]);
  const at = reshape([from], { shape: [batch, total, 1] });
  const found = gatherNd([transpose([both], { perm: [0, 2, 1, 3] }), at], { batchDims: 1 });
  return transpose([found], { perm: [0, 2, 1, 3] });
}
const sizeValue = (d: Dim): Value => sizesItem('i32', [], [d]).value();

/** Queries, keys and values of unequally many heads as [B, heads, S, D]; keys and values may stand behind the queries. */
function grouped(n: Node, heads: number, keyHeads: number): [Value, Value, Value] {
  const query = n.value(0);
  if (n.has(1)) return [splitHeads(query, heads), splitHeads(n.value(1), keyHeads), splitHeads(n.value(2), keyHeads)];
  const width = shapeOf(query)[2]!;
  if (typeof width !== 'number') return n.fail('the width of packed queries, keys and values must be a fixed size');
  const size = width / (heads + 2 * keyHeads);
  const part = (from: number, count: number): Value =>
    splitHeads(sliceAxis(query, 2, from * size, (from + count) * size), count);
  return [part(0, heads), part(heads, keyHeads), part(heads + keyHeads, keyHeads)];
}

/**
 * Causal attention of new tokens to a past of which each sequence has its own length, `seqlens_k` + 1 − S. The past is not
 * shared with the present: presents have P + S rows.
 */
function groupQuery(n: Node): readonly (Value | undefined)[] {
  const [count, keyCount] = [n.int('num_heads'), n.int('kv_num_heads')];
  if (n.int('smooth_softmax', 0) > 0 || n.has(11)) n.fail('smooth_softmax and head_sink are not supported');
  if (n.wants(3)) n.fail('result 3, the scores, is not supported');
  for (const name of ['k_quant_type', 'v_quant_type'])
    if (n.string(name, 'NONE') !== 'NONE') n.fail(`${name} is not supported`);
  n.ignore('qk_output', 'kv_cache_bit_width');
  let [query, key, val] = grouped(n, count, keyCount);
  const [batch, , rows] = shapeOf(query) as [Dim, Dim, Dim];
  const past = n.optional(3);
  const size: Dim = past ? shapeOf(past)[2]! : 0;
  const lengths = reshape([n.value(5)], { shape: [batch] });
  const before = maximum([
    sub([add([cast([lengths], { to: 'i32' }), scalar(1, 'i32')]), sizeValue(rows)]),
    scalar(0, 'i32'),
  ]);
  if (n.int('do_rotary', 0) !== 0) {
    const places = n.optional(9) ?? positionsOf(before, batch, rows);
    const [cos, sin] = [tableAt(n.value(7), places), tableAt(n.value(8), places)];
    const pairs = n.int('rotary_interleaved', 0) !== 0;
    [query, key] = [rotated(query, cos, sin, pairs), rotated(key, cos, sin, pairs)];
  } else n.ignore('rotary_interleaved');
  const terms = new ScoreTerms();
  // Keys stand where they are concatenated: those of the past that do not count are skipped.
  const start = terms.element(before, [b]);
  const isPast = s.lt(k, asExpr(size));
  const own = s.sub(k, asExpr(size));
  if (past) terms.allow(s.select(isPast, s.lt(k, start), s.le(own, q)));
  else terms.allow(s.le(k, q));
  const window = n.int('local_window_size', -1);
  if (window > 0) {
    const place = past ? s.select(isPast, k, s.add(start, own)) : k;
    const here = past ? s.add(start, q) : q;
    terms.allow(s.lt(s.sub(here, place), window));
  }
  const added = n.optional(10);
  if (added) {
    if (past) n.fail('an attention bias beside a past is not supported');
    terms.add(terms.broadcast(added));
  }
  const [keys, values] = [joined(past, key), joined(n.optional(4), val)];
  const softcap = n.float('softcap', 0);
  const out = mergeHeads(terms.attend([query, keys, values], { scale: scaleOf(n), softcap }));
  const present = (old: Value | undefined, now: Value): Value => (old ? appended(old, now, before) : now);
  if (n.outputs < 2) return [out];
  val = present(n.optional(4), val);
  return [out, present(past, key), val].slice(0, n.outputs);
}

// Rotary embedding

function rotary(n: Node): Value {
  const given = n.value(0);
  if (n.int('is_packed_batching', 0) !== 0) n.fail('is_packed_batching is not supported');
  const scale = n.float('scale', 1);
  if (scale !== 1) n.fail(`scale ${scale} is not supported`);
  n.ignore('rotary_embedding_dim');
  const pairs = n.int('interleaved', 0) !== 0;
  const flat = shapeOf(given).length === 3;
  const width = 2 * (shapeOf(n.value(2))[1] as number);
  const [batch, rows] = flat ? shapeOf(given) : [shapeOf(given)[0]!, shapeOf(given)[2]!];
  const heads = n.int('num_heads', 0) || (flat ? (shapeOf(given)[2] as number) / width : 0);
  const x = flat ? splitHeads(given, heads) : given;
  const places = n.value(1);
  // One position is that of the first token.
  const first = shapeOf(places).length === 1;
  const own = reshape([iota([], { shape: [rows!], axis: 0, dtype: typeOf(places).dtype })], { shape: [1, rows!] });
  const at = first ? add([reshape([places], { shape: [1, 1] }), own]) : places;
  if (!first && !sameDim(shapeOf(places)[0]!, batch!))
    n.fail('positions must be [1] or [batch, sequence]', undefined, 'shape');
  const whole = rotated(x, tableAt(n.value(2), at), tableAt(n.value(3), at), pairs);
  return flat ? mergeHeads(whole) : whole;
}

export const microsoftAttention: Entries = {
  'com.microsoft:Attention': attentionNode,
  'com.microsoft:MultiHeadAttention': multiHead,
  'com.microsoft:GroupQueryAttention': groupQuery,
  'com.microsoft:RotaryEmbedding': rotary,
};
