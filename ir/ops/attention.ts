/**
 * Scaled dot-product attention with a mask and a bias written as expressions over coordinates.
 *
 * B batch, H heads of q, G heads of k and v (H is a multiple of G; head h reads head h ÷ (H ÷ G)), Q queries, K keys,
 * D width of a query, E width of a value.
 */
import { attr, opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import type { Scalar } from '../dtype.ts';
import { evaluateExpr } from '../evaluate-expr.ts';
import { type Expr, exprNodes } from '../expr.ts';
import { typeOf, type Value } from '../graph.ts';
import { eachIndex, generate, type Nd, nd, rowMajor } from '../nd.ts';
import { type AxisRole, defineOp, type EvalContext } from '../op.ts';
import { printDim, printExpr } from '../print.ts';
import * as sc from '../scalar.ts';
import { literal, lt, operand, substitute, mul as times, variable } from '../scalar.ts';
import { type Dim, sameDim, type TensorType, tensor, tuple } from '../type.ts';
import { attentionNeed } from './attention-need.ts';
import { expectDtype, expectRank, expectSameDim, typeAt } from './check.ts';
import { add, cast, div, mul, select, tanh } from './elementwise.ts';
import { f32, given } from './example.ts';
import { matmul } from './linear.ts';
import { macsOf, macsSum } from './macs.ts';
import { softmax } from './norm.ts';
import { reduceAny } from './reduce.ts';
import { expand, reshape } from './shape.ts';
import { scalar } from './structural.ts';

const LIMIT = 2 ** 31 - 1;
const coordinate = (name: string): Expr => variable(name, 'i32', 1, { from: 0, to: LIMIT });
/** What masks and biases are written in: the batch entry, head of q, query and key of a score. */
export const coords = { b: coordinate('b'), h: coordinate('h'), q: coordinate('q'), k: coordinate('k') } as const;
const COORDS: readonly Expr[] = [coords.b, coords.h, coords.q, coords.k];

export type EmptyRow = 'zero' | 'nan' | 'uniform' | 'unmasked';

const scoreAttrs = {
  scale: opt.float_('multiplies the scores; 1 / √D when absent'),
  mask: opt.expr('which scores count, over b h q k and loads of operands: in3[b, k]; all when absent', coords),
  bias: opt.expr('f32 term added to a scaled score, after the cap', coords),
  emptyRow: opt.oneOf(
    ['zero', 'nan', 'uniform', 'unmasked'],
    'zero',
    'weights of a query that may read no key: all 0 | NaN | 1/K each | as if there were no mask',
  ),
  softcap: opt.float(0, 'c > 0: a scaled score s becomes c · tanh(s / c) before bias and mask'),
} as const;
interface ScoreAttrs {
  readonly scale: number | undefined;
  readonly mask: Expr | undefined;
  readonly bias: Expr | undefined;
  readonly emptyRow: EmptyRow;
  readonly softcap: number;
}

/**
 * A mask or bias must be of `dtype`, name only coordinates and symbols, and load operands from number `first` on with
 * one index an axis.
 */
function checkExpr(
  what: string,
  e: Expr | undefined,
  dtype: Scalar,
  inputs: readonly TensorType[],
  first: number,
): void {
  if (!e) return;
  if (e.dtype !== dtype || e.lanes !== 1)
    fail('dtype', `the ${what} must be ${dtype}, not ${e.dtype}: ${printExpr(e)}`);
  for (const node of exprNodes(e)) {
    if (node.op === 'var' && !COORDS.includes(node))
      fail('attribute', `the ${what} names "${printExpr(node)}", which is none of its coordinates b, h, q, k`);
    if (node.op === 'load') fail('attribute', `the ${what} loads from a buffer; load from an operand`);
    if (node.op !== 'operand') continue;
    const n = node.arg as number;
    const type = inputs[n];
    if (n < first || !type)
      fail('operand', `the ${what} reads in${n}, but its operands are ${operandRange(inputs.length, first)}`);
    if (type.dtype !== node.dtype) fail('dtype', `the ${what} reads in${n} as ${node.dtype}, but it is ${type.dtype}`);
    if (type.shape.length !== node.args.length)
      fail('rank', `the ${what} reads ${printExpr(node)}, but in${n} has rank ${type.shape.length}`);
  }
}
const operandRange = (count: number, first: number): string =>
  count > first ? `in${first}..in${count - 1}` : 'none (append them after the named ones)';

interface Sizes {
  readonly batch: Dim;
  readonly heads: Dim;
  readonly keyHeads: Dim;
  readonly queries: Dim;
  readonly keys: Dim;
  readonly width: Dim;
}

function scoreSizes(inputs: readonly TensorType[], attrs: ScoreAttrs, first: number): Sizes {
  const [q, k] = [typeAt(inputs, 0), typeAt(inputs, 1)];
  expectRank(q, 4, 'q');
  expectRank(k, 4, 'k');
  expectDtype(q, 'float', 'q');
  if (k.dtype !== q.dtype) fail('dtype', `q and k differ in dtype, ${q.dtype} and ${k.dtype}`);
  const [batch, heads, queries, width] = q.shape as [Dim, Dim, Dim, Dim];
  const [kb, keyHeads, keys, kd] = k.shape as [Dim, Dim, Dim, Dim];
  expectSameDim(batch, kb, 'batch sizes of q and k differ');
  expectSameDim(width, kd, 'widths of q and k differ');
  if (!sameDim(heads, keyHeads) && !isMultiple(heads, keyHeads))
    fail('shape', `${printDim(heads)} heads of q are not a multiple of the ${printDim(keyHeads)} heads of k`);
  if (attrs.scale === undefined && typeof width !== 'number')
    fail('attribute', `the width ${printDim(width)} is symbolic, so the scale must be given`);
  checkExpr('mask', attrs.mask, 'bool', inputs, first);
  checkExpr('bias', attrs.bias, 'f32', inputs, first);
  if (attrs.softcap < 0) fail('attribute', `softcap is ${attrs.softcap}; it must be ≥ 0, and 0 means none`);
  return { batch, heads, keyHeads, queries, keys, width };
}
const isMultiple = (a: Dim, b: Dim): boolean => typeof a === 'number' && typeof b === 'number' && b > 0 && a % b === 0;

/** An operand's axis follows a result axis when every load indexes it by that plain coordinate; otherwise it mixes. */
function operandRoles(
  type: TensorType,
  n: number,
  exprs: readonly (Expr | undefined)[],
  lockstep: readonly Expr[],
): AxisRole[] {
  const reads = exprs.flatMap((e) => (e ? exprNodes(e).filter((node) => node.op === 'operand' && node.arg === n) : []));
  return type.shape.map((_, axis) => {
    const index = reads[0]?.args[axis];
    const role = index ? lockstep.indexOf(index) : -1;
    return role >= 0 && reads.every((e) => e.args[axis] === lockstep[role]) ? role : 'mix';
  });
}

/** Roles of the axes of q, k and of the operands in a result [B, H, Q, …]. */
function scoreRoles(inputs: readonly TensorType[], attrs: ScoreAttrs, first: number): AxisRole[][] {
  const [q, k] = [typeAt(inputs, 0), typeAt(inputs, 1)];
  const keyHead: AxisRole = sameDim(q.shape[1]!, k.shape[1]!) ? 1 : 'mix';
  const roles: AxisRole[][] = [
    [0, 1, 2, 'mix'],
    [0, keyHead, 'mix', 'mix'],
  ];
  for (let n = first; n < inputs.length; n++)
    roles[n] = operandRoles(typeAt(inputs, n), n, [attrs.mask, attrs.bias], [coords.b, coords.h, coords.q]);
  return roles;
}

const attentionRoles = (inputs: readonly TensorType[], attrs: ScoreAttrs): AxisRole[][] => {
  const [q, k, ...operands] = scoreRoles(inputs, attrs, 3);
  return [q!, k!, [0, k![1]!, 'mix', 3], ...operands.slice(1)];
};

/** One query's view of the reference evaluation. */
interface Row {
  /** Capped and biased score of every key. */
  readonly scores: Float64Array;
  /** Whether each key may be read; undefined: all. */
  readonly allowed: readonly boolean[] | undefined;
}

interface Weights {
  readonly weights: Float64Array;
  readonly lse: number;
  /** Keys that take part in the result. */
  readonly reads: (k: number) => boolean;
}

/** Softmax weights of one query and the log of their normaliser, by two passes: maximum, then sum. */
function weigh({ scores, allowed }: Row, emptyRow: EmptyRow): Weights {
  const weights = new Float64Array(scores.length);
  const open = emptyRow === 'unmasked' && allowed && !allowed.includes(true) ? undefined : allowed;
  const reads = (k: number): boolean => open?.[k] ?? true;
  let top = -Infinity;
  let count = 0;
  for (let k = 0; k < scores.length; k++)
    if (reads(k)) {
      count++;
      top = Math.max(top, scores[k]!);
    }
  if (count === 0) {
    if (emptyRow !== 'zero') weights.fill(emptyRow === 'uniform' ? 1 / scores.length : NaN);
    return { weights, lse: -Infinity, reads: () => emptyRow !== 'zero' };
  }
  let total = 0;
  for (let k = 0; k < scores.length; k++) if (reads(k)) total += weights[k] = Math.exp(scores[k]! - top);
  for (let k = 0; k < scores.length; k++) weights[k]! /= total;
  return { weights, lse: Math.log(total) + top, reads };
}

/** Calls `visit` with the weights of every query in the order of [B, H, Q]. */
function eachRow(
  inputs: readonly Nd[],
  attrs: ScoreAttrs,
  cx: EvalContext,
  visit: (row: Weights, n: number, at: { readonly b: number; readonly g: number }) => void,
): void {
  const [q, k] = [inputs[0]!, inputs[1]!];
  const [batch, heads, queries, width] = q.shape as [number, number, number, number];
  const [, keyHeads, keys] = k.shape as [number, number, number];
  const scale = attrs.scale ?? 1 / Math.sqrt(width);
  const [mask, bias] = [attrs.mask, attrs.bias].map((e) => e && rowReader(e, keys, inputs, cx));
  eachIndex([batch, heads, queries], (at, row) => {
    const [b, h, i] = at as [number, number, number];
    const g = Math.floor(h / (heads / keyHeads));
    const scores = new Float64Array(keys);
    const added = bias?.([b, h, i]);
    for (let j = 0; j < keys; j++) {
      let dot = 0;
      for (let d = 0; d < width; d++)
        dot += q.data[row * width + d]! * k.data[((b * keyHeads + g) * keys + j) * width + d]!;
      let score = dot * scale;
      if (attrs.softcap > 0) score = attrs.softcap * Math.tanh(score / attrs.softcap);
      scores[j] = score + (added?.[j] ?? 0);
    }
    const allowed = mask && Array.from(mask([b, h, i]), (v) => v !== 0);
    visit(weigh({ scores, allowed }, attrs.emptyRow), row, { b, g });
  });
}

/**
 * The values of an expression at all keys of (b, h, q). Most masks do not mention every coordinate, and a row is
 * evaluated once for all those it does not tell apart; rows that depend on all three are not kept.
 */
function rowReader(
  e: Expr,
  keys: number,
  inputs: readonly Nd[],
  cx: EvalContext,
): (at: readonly number[]) => Float64Array {
  const read = reader(e, inputs, cx);
  const nodes = exprNodes(e);
  const used = [0, 1, 2].filter((i) => nodes.includes(COORDS[i]!));
  const rows = new Map<string, Float64Array>();
  return (at) => {
    const key = used.map((i) => at[i]).join();
    const known = rows.get(key);
    if (known) return known;
    const row = Float64Array.from({ length: keys }, (_, j) => read([...at, j]));
    if (used.length < 3) rows.set(key, row);
    return row;
  };
}

/** The value of an expression over coordinates at given coordinates. */
function reader(e: Expr, inputs: readonly Nd[], cx: EvalContext): (at: readonly number[]) => number {
  const strides = inputs.map((x) => rowMajor(x.shape));
  return (at) => {
    const value = (leaf: Expr, from: readonly number[]): number => {
      if (leaf.op === 'sym') return cx.size(leaf);
      if (leaf.op === 'var') return at[COORDS.indexOf(leaf)]!;
      const n = leaf.arg as number;
      return inputs[n]!.data[elementAt(inputs[n]!, strides[n]!, from, leaf)]!;
    };
    return evaluateExpr(e, { value }, 'f64');
  };
}

function elementAt(x: Nd, strides: readonly number[], at: readonly number[], load: Expr): number {
  let flat = 0;
  for (let i = 0; i < at.length; i++) {
    if (at[i]! < 0 || at[i]! >= x.shape[i]!)
      fail('range', `${printExpr(load)} reads index ${at[i]} of axis ${i}, which has size ${x.shape[i]}`);
    flat += at[i]! * strides[i]!;
  }
  return flat;
}

/** softmax(cap(scale · q·kᵀ) + bias, over the keys that the mask allows) · v. */
export const attention = defineOp({
  name: 'attention',
  doc: "softmax(scale · q·kᵀ + bias, over allowed keys) · v for q[B, H, Q, D], k[B, G, K, D], v[B, G, K, E], H a multiple of G. Result [B, H, Q, E]; with lse also the log of each softmax's normaliser [B, H, Q], −∞ where no key is allowed. Operands that the mask or bias reads follow v as in3, in4, …",
  inputs: ['q', 'k', 'v', 'operands...'],
  attrs: { ...scoreAttrs, lse: opt.bool(false, 'also give log Σ exp(score) of each query') },
  type: (inputs, attrs) => {
    const { batch, heads, keyHeads, queries, keys } = scoreSizes(inputs, attrs, 3);
    const v = typeAt(inputs, 2);
    expectRank(v, 4, 'v');
    const { dtype } = typeAt(inputs, 0);
    if (v.dtype !== dtype) fail('dtype', `q and v differ in dtype, ${dtype} and ${v.dtype}`);
    expectSameDim(batch, v.shape[0]!, 'batch sizes of q and v differ');
    expectSameDim(keyHeads, v.shape[1]!, 'heads of k and v differ');
    expectSameDim(keys, v.shape[2]!, 'numbers of keys and values differ');
    const out = tensor(dtype, [batch, heads, queries, v.shape[3]!]);
    return attrs.lse ? tuple(out, tensor(dtype === 'f64' ? 'f64' : 'f32', [batch, heads, queries])) : out;
  },
  axes: attentionRoles,
  need: attentionNeed(attentionRoles, coords),
  eval: (inputs, attrs, cx) => {
    const v = inputs[2]!;
    const [, keyHeads, keys, width] = v.shape as [number, number, number, number];
    const out = nd(v.dtype, cx.types[0]!.shape);
    const lses = attrs.lse ? nd(cx.types[1]!.dtype, cx.types[1]!.shape) : undefined;
    eachRow(inputs, attrs, cx, ({ weights, lse, reads }, row, { b, g }) => {
      if (lses) lses.data[row] = lse;
      for (let e = 0; e < width; e++) {
        let sum = 0;
        for (let j = 0; j < keys; j++) {
          // A key that may not be read adds nothing, even where its value is infinite.
          if (reads(j)) sum += weights[j]! * v.data[((b * keyHeads + g) * keys + j) * width + e]!;
        }
        out.data[row * width + e] = keys === 0 && attrs.emptyRow !== 'zero' ? NaN : sum;
      }
    });
    return lses ? [out, lses] : out;
  },
  lower: { kind: 'schedule', name: 'attention', adapt: (inputs, attrs) => otherTypes(inputs, attrs) },
  macs: (inputs) => {
    const [q, v] = [typeAt(inputs, 0), typeAt(inputs, 2)];
    const [pairs, keys] = [q.shape.slice(0, 3), v.shape[2]!];
    return macsSum(macsOf(...pairs, keys, q.shape[3]!), macsOf(...pairs, keys, v.shape[3]!));
  },
  examples: [
    { inputs: [f32(2, 3, 5, 4), f32(2, 3, 7, 4), f32(2, 3, 7, 6)] },
    { inputs: [f32(1, 4, 3, 2), f32(1, 2, 5, 2), f32(1, 2, 5, 3)], note: 'grouped heads' },
    {
      inputs: [f32(1, 2, 5, 4), f32(1, 2, 5, 4), f32(1, 2, 5, 4)],
      attrs: { mask: sc.le(coords.k, coords.q), lse: true },
      note: 'causal',
    },
    {
      inputs: [f32(2, 1, 3, 2), f32(2, 1, 4, 2), f32(2, 1, 4, 2), given('bool', [2, 4], [1, 0, 1, 1, 0, 0, 0, 0])],
      attrs: { mask: operand(3, 'bool', [coords.b, coords.k]), lse: true },
      note: 'the second batch entry may read nothing',
    },
    {
      inputs: [f32(1, 1, 2, 2), f32(1, 1, 3, 2), f32(1, 1, 3, 2), given('i32', [1], [0])],
      attrs: { mask: lt(coords.k, operand(3, 'i32', [coords.b])), emptyRow: 'uniform' },
    },
    {
      inputs: [f32(1, 1, 2, 2), f32(1, 1, 3, 2), f32(1, 1, 3, 2)],
      attrs: { mask: lt(coords.k, coords.q), emptyRow: 'unmasked', scale: 2 },
    },
    {
      inputs: [f32(1, 2, 3, 2), f32(1, 2, 3, 2), f32(1, 2, 3, 2), f32(2)],
      attrs: {
        bias: times(operand(3, 'f32', [coords.h]), sc.cast(sc.sub(coords.k, coords.q), 'f32')),
        softcap: 5,
      },
      note: 'a bias by distance, a slope a head',
    },
    { inputs: [f32(1, 1, 2, 2), f32(1, 1, 0, 2), f32(1, 1, 0, 3)], note: 'no keys' },
    { inputs: [f32(1, 1, 1, 1), f32(1, 1, 1, 1), f32(1, 1, 1, 1)] },
    ...(['f16', 'f64'] as const).map((dtype) => ({
      inputs: [given(dtype, [2, 4, 3, 2]), given(dtype, [2, 2, 5, 2]), given(dtype, [2, 2, 5, 3])],
      attrs: { mask: sc.le(coords.k, coords.q), softcap: 4 },
      note: 'another type than f32, grouped heads',
    })),
  ],
});

/**
 * Attention of other types than f32, which is what kernels take: halves are computed in f32; f64 as weights that stand in
 * memory and meet the values.
 */
function otherTypes(
  [q, k, v, ...operands]: readonly Value[],
  attrs: ScoreAttrs & { readonly lse: boolean },
): Value | undefined {
  const { dtype, shape } = typeOf(q!);
  if (dtype === 'f32' || attrs.lse) return undefined;
  if (dtype === 'f64') {
    const { scale, softcap, emptyRow } = attrs;
    const shifted = (e: Expr): Expr => shiftOperands(e, -1);
    const [mask, bias] = [attrs.mask && shifted(attrs.mask), attrs.bias && shifted(attrs.bias)];
    const weights = attentionWeights([q!, k!, ...operands], { scale, softcap, emptyRow, mask, bias });
    return matmul([weights, perHead(v!, shape[1]!)]);
  }
  const [a, b, c] = [q!, k!, v!].map((x) => cast([x], { to: 'f32' })) as [Value, Value, Value];
  return cast([attention([a, b, c, ...operands], attrs)], { to: dtype });
}

/**
 * The same expression for an op whose operands stand `by` places further on: masks of `attention` number operands
 * from 3, those of `attention_weights` from 2.
 */
export const shiftOperands = (e: Expr, by: number): Expr =>
  substitute(e, (node) =>
    node.op === 'operand'
      ? operand(
          (node.arg as number) + by,
          node.dtype,
          node.args.map((a) => shiftOperands(a, by)),
        )
      : undefined,
  );

/** The softmax weights that `attention` would multiply v with. */
export const attentionWeights = defineOp({
  name: 'attention_weights',
  doc: 'The weights softmax(scale · q·kᵀ + bias, over allowed keys) [B, H, Q, K] of an attention, for maps that are looked at. Operands that the mask or bias reads follow k as in2, in3, …',
  inputs: ['q', 'k', 'operands...'],
  attrs: scoreAttrs,
  type: (inputs, attrs) => {
    const { batch, heads, queries, keys } = scoreSizes(inputs, attrs, 2);
    return tensor(typeAt(inputs, 0).dtype, [batch, heads, queries, keys]);
  },
  axes: (inputs, attrs) => scoreRoles(inputs, attrs, 2),
  eval: (inputs, attrs, cx) => {
    const out = nd(inputs[0]!.dtype, cx.types[0]!.shape);
    eachRow(inputs, attrs, cx, ({ weights }, row) => out.data.set(weights, row * weights.length));
    return out;
  },
  lower: {
    kind: 'decompose',
    build: ([q, k, ...operands], attrs) => {
      const [{ dtype, shape }, keyType] = [typeOf(q!), typeOf(k!)];
      const scores = capped(matmul([q!, perHead(k!, shape[1]!)], { transposeB: true }), attrs, dtype, shape[3]!);
      const at = [shape[0]!, shape[1]!, shape[2]!, keyType.shape[2]!];
      const evaluated = (e: Expr): Value => scoreTerm(operands, { expr: shiftOperands(e, -2), shape: at });
      const biased = attrs.bias ? add([scores, cast([evaluated(attrs.bias)], { to: dtype })]) : scores;
      if (!attrs.mask) return softmax([biased]);
      const allowed = evaluated(attrs.mask);
      const open = reduceAny([allowed], { axes: [3], keepdims: true });
      const masked = select([allowed, biased, scalar(-Infinity, dtype)]);
      const safe = select([open, masked, attrs.emptyRow === 'unmasked' ? biased : scalar(0, dtype)]);
      if (attrs.emptyRow === 'unmasked' || attrs.emptyRow === 'uniform') return softmax([safe]);
      return select([open, softmax([safe]), scalar(attrs.emptyRow === 'zero' ? 0 : NaN, dtype)]);
    },
  },
  macs: (inputs) => macsOf(...typeAt(inputs, 0).shape, typeAt(inputs, 1).shape[2]!),
  examples: [
    { inputs: [f32(2, 3, 5, 4), f32(2, 3, 7, 4)] },
    { inputs: [f32(1, 4, 3, 2), f32(1, 2, 5, 2)], attrs: { mask: sc.le(coords.k, coords.q), softcap: 3 } },
    ...(['zero', 'uniform', 'unmasked', 'nan'] as const).map((emptyRow) => ({
      inputs: [f32(1, 2, 2, 3), f32(1, 2, 3, 3), given('bool', [1, 2, 1, 3], [1, 0, 1, 0, 0, 0]), f32(2)],
      attrs: {
        mask: operand(2, 'bool', [coords.b, coords.h, 0, coords.k]),
        bias: operand(3, 'f32', [coords.h]),
        emptyRow,
        scale: 0.5,
      },
      note: 'the second head may read nothing',
    })),
    { inputs: [f32(1, 1, 2, 2), f32(1, 1, 0, 2)], note: 'no keys' },
  ],
});

/** Scaled and capped scores. */
function capped(scores: Value, { scale, softcap }: ScoreAttrs, dtype: Scalar, width: Dim): Value {
  const scaled = mul([scores, scalar(scale ?? 1 / Math.sqrt(width as number), dtype)]);
  if (softcap === 0) return scaled;
  return mul([tanh([div([scaled, scalar(softcap, dtype)])]), scalar(softcap, dtype)]);
}

/** Keys repeated for the heads of q that share them: [B, G, K, D] to [B, H, K, D]. */
function perHead(k: Value, heads: Dim): Value {
  const [batch, groups, keys, width] = typeOf(k).shape as [Dim, Dim, Dim, Dim];
  if (sameDim(groups, heads)) return k;
  const repeat = (heads as number) / (groups as number);
  const apart = expand([reshape([k], { shape: [batch, groups, 1, keys, width] })], {
    shape: [batch, groups, repeat, keys, width],
  });
  return reshape([apart], { shape: [batch, heads, keys, width] });
}

/** An expression over b h q k as a tensor. */
export const scoreTerm = defineOp({
  name: 'score_term',
  doc: 'A mask or bias as a tensor [B, H, Q, K]: the expression at every coordinate. It reads its operands as in0, in1, …',
  inputs: ['operands...'],
  attrs: {
    expr: attr.expr('over b h q k and loads of operands', coords),
    shape: attr.dims('[B, H, Q, K]'),
  },
  type: (inputs, { expr, shape }) => {
    if (shape.length !== 4) fail('rank', `the shape must be [B, H, Q, K], not ${shape.length} sizes`);
    checkExpr('expression', expr, expr.dtype, inputs, 0);
    return tensor(expr.dtype, shape);
  },
  axes: (inputs, { expr }) => inputs.map((type, n) => operandRoles(type, n, [expr], COORDS)),
  eval: (inputs, { expr }, cx) => {
    const { dtype, shape } = cx.types[0]!;
    return generate(dtype, shape, reader(expr, inputs, cx));
  },
  lower: {
    kind: 'element',
    element: (at, load, { attrs }) => {
      const place = (e: Expr): Expr =>
        substitute(e, (node) => {
          if (node.op === 'var') return at[COORDS.indexOf(node)];
          return node.op === 'operand' ? load(node.arg as number, node.args.map(place)) : undefined;
        });
      return place(attrs.expr);
    },
  },
  examples: [
    { inputs: [], attrs: { expr: sc.le(coords.k, coords.q), shape: [1, 2, 3, 5] } },
    {
      inputs: [f32(2, 5), given('bool', [2], [1, 0])],
      attrs: {
        expr: sc.select(operand(1, 'bool', [coords.b]), operand(0, 'f32', [coords.b, coords.k]), literal(-1, 'f32')),
        shape: [2, 1, 3, 5],
      },
    },
    { inputs: [], attrs: { expr: sc.cast(sc.sub(coords.q, coords.k), 'f32'), shape: [1, 1, 0, 4] } },
  ],
});
