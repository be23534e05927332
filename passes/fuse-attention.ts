/**
 * softmax(scores) · v, where the scores are a product of queries and keys, becomes one attention that never stores them.
 *
 * B batch, H heads, G heads of k and v, Q queries, K keys, D width of a query, E width of a value. Scores may be
 * [B, H, Q, K], [B·H, Q, K] or have more leading axes; the last one counts heads, the others together the batch.
 */
import { type Expr, exprNodes } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { attention, coords } from '../ir/ops/attention.ts';
import { mul } from '../ir/ops/elementwise-binary.ts';
import { matmul } from '../ir/ops/linear.ts';
import { softmax } from '../ir/ops/norm.ts';
import { expand, reshape, transpose } from '../ir/ops/shape.ts';
import { equalElements } from '../ir/polynomial.ts';
import * as s from '../ir/scalar.ts';
import { type Dim, dim, elements, type Shape, sameDim, sameShape } from '../ir/type.ts';
import {
  type Bias,
  isBounded,
  isWidening,
  leadOf,
  type Mask,
  maskOfRows,
  readScores,
  type Scores,
  type Term,
  withoutExpand,
} from './attention-scores.ts';
import { asWritten, is, isOne, near, rankOf, shapeOf, uniformOf } from './facts.ts';
import type { MaskOptions } from './mask-options.ts';
import { readMask } from './masks.ts';
import type { PassContext } from './pass.ts';
import { type Miss, miss, type Rule, rewritePass, rewritten } from './rewrite.ts';

interface Probabilities {
  readonly softmax: Value;
  /** Rows of NaN are replaced by zeros. */
  readonly scrubbed: boolean;
  /** Rows for which this is false are replaced by zeros. */
  readonly open: Value | undefined;
  readonly covers: readonly Value[];
}

/** Whether `v` is `x` rounded to halves. */
const widens = (x: Value | undefined, v: Value): boolean =>
  x !== undefined && v.op.name === 'cast' && isWidening(typeOf(v).dtype, typeOf(x).dtype);

/** A softmax below reshapes of its leading axes and a rounding to halves, and below a select that turns its NaN or its empty rows into zeros. */
function readProbabilities(from: Value): Probabilities | undefined {
  const covers: Value[] = [];
  let scrubbed = false;
  let open: Value | undefined;
  for (let v = from; ; ) {
    if (is(v, softmax)) return { softmax: v, scrubbed, open, covers: [...covers, v] };
    covers.push(v);
    // Halves are widened for a softmax, as an attention computes it anyway.
    if (widens(v.inputs[0], v)) v = v.inputs[0]!;
    else if (is(v, reshape)) {
      const x = v.inputs[0]!;
      if (rankOf(v) < 2 || rankOf(x) < 2 || !sameShape(shapeOf(v).slice(-2), shapeOf(x).slice(-2))) return undefined;
      v = x;
    } else if (v.op.name === 'select') {
      const [condition, zero, x] = v.inputs as [Value, Value, Value];
      if (!open && uniformOf(x) === 0 && maskOfRows(condition)) {
        open = condition;
        v = zero;
        continue;
      }
      if (condition.op.name !== 'is_nan' || condition.inputs[0] !== x || uniformOf(zero) !== 0) return undefined;
      covers.push(condition);
      scrubbed = true;
      v = x;
    } else return undefined;
  }
}

function fuse(root: Value, { masks }: PassContext): ReturnType<Rule['apply']> {
  if (root.attrs.transposeA === true) return undefined;
  const probabilities = readProbabilities(root.inputs[0]!);
  if (!probabilities) return undefined;
  const weights = probabilities.softmax;
  const axis = Number(weights.attrs.axis);
  if (axis !== -1 && axis !== rankOf(weights) - 1)
    return miss('the softmax does not run over the keys, which are the last axis');
  const scores = readScores(weights.inputs[0]!, probabilities.open);
  if (scores.kind === 'miss') return scores;
  if (masks?.strictNaN && (scores.masks.length > 0 || probabilities.scrubbed || probabilities.open))
    return miss('strictNaN: a NaN among the keys that a mask hides would no longer spread');
  const value = new Fusion(root, scores, probabilities, masks).build();
  if (value.kind === 'miss') return value;
  const covers = new Map<Value, string>();
  for (const v of probabilities.covers) covers.set(v, 'the softmax');
  for (const v of [...scores.between, scores.product]) covers.set(v, 'a score');
  return rewritten(value, covers);
}

class Fusion {
  readonly #root: Value;
  readonly #scores: Scores;
  readonly #scrubbed: boolean;
  readonly #open: Value | undefined;
  readonly #facts: MaskOptions | undefined;
  readonly #batch: Dim;
  readonly #heads: Dim;
  readonly #operands: Value[] = [];

  constructor(root: Value, scores: Scores, { scrubbed, open }: Probabilities, facts: MaskOptions | undefined) {
    this.#root = root;
    this.#scores = scores;
    this.#scrubbed = scrubbed;
    this.#open = open;
    this.#facts = facts;
    [this.#batch, this.#heads] = batchAndHeads([leadOf(root), ...scores.leads, leadOf(scores.product)]);
  }

  build(): Value | Miss {
    const { product, multipliers, softcap, masks, biases } = this.#scores;
    const { dtype } = typeOf(this.#root);
    if (dtype === 'f64' && biases.length > 0) return miss('a term in f64 is added to the scores');
    const onlyEmpty =
      masks.length > 0 && masks.every((m) => m.empty === 'nan') && biases.every((t) => !t.fill && isBounded(t.value));
    if (this.#open && !this.#isOpenWhereVisible(this.#open))
      return miss('rows of the softmax become zeros, and not those that its only mask hides');
    const a = unscaled(stored(product.inputs[0]!, product.attrs.transposeA === true));
    const b = unscaled(stored(product.inputs[1]!, product.attrs.transposeB !== true));
    if (rankOf(b.value) < rankOf(a.value) && !leadOf(a.value).every(isOne))
      return miss('the keys are the same for every sample');
    const v = stored(this.#root.inputs[1]!, this.#root.attrs.transposeB === true);
    let q = this.#spread(a.value, false);
    const [k, values] = sharedHeads(this.#spread(b.value, true), this.#spread(v, true), this.#heads);
    for (const m of multipliers) {
      const by = this.#row(m.value);
      if (!q || !by) return miss('what multiplies the scores has leading axes of its own');
      q = mul([q, by]);
    }
    if (!q || !k || !values) return miss('queries, keys and values have different leading axes');
    if (typeOf(q).dtype !== typeOf(values).dtype || typeOf(k).dtype !== typeOf(values).dtype)
      return miss('queries, keys and values differ in type');
    const mask = this.#all(
      masks.map((m) => this.#mask(m)),
      s.and,
    );
    const bias = this.#all(
      biases.map((t) => this.#bias(t)),
      s.add,
    );
    if (mask === null || bias === null) return miss('a term of the scores has leading axes of its own');
    const scale = scaleOf(this.#scores.scale * a.scale * b.scale, shapeOf(q)[3]!);
    const plain = {
      ...(scale !== undefined && { scale: asWritten(scale, dtype) }),
      ...(softcap > 0 && { softcap: asWritten(softcap, dtype) }),
    };
    const empty = masks[0]?.empty ?? 'zero';
    const written = attention([q, k, values, ...this.#operands], {
      ...plain,
      ...(mask && { mask, emptyRow: this.#open || (this.#scrubbed && onlyEmpty) ? 'zero' : empty }),
      ...(bias && { bias }),
    });
    const out = this.#scrubbed && !onlyEmpty ? this.#withoutNaN(written, plain) : written;
    if (!out) return miss('NaN of the softmax become zeros, and not only rows that a mask of −∞ hides make them');
    const shape = shapeOf(this.#root);
    return sameShape(shapeOf(out), shape) ? out : reshape([out], { shape });
  }

  /** Whether rows are replaced exactly where the mask of the scores leaves none visible. */
  #isOpenWhereVisible(open: Value): boolean {
    const [mask, ...others] = this.#scores.masks;
    const rows = maskOfRows(open);
    if (!mask || !rows || others.length > 0) return false;
    // Where the scores are hidden while it is true, rows sum up its opposite.
    const visible = mask.when && rows.op.name === 'not' ? withoutExpand(rows.inputs[0]!) : rows;
    return (!mask.when || visible !== rows) && visible === withoutExpand(mask.value);
  }

  /** The attention whose rows of NaN are zeros, where only rows without a visible key are NaN. */
  #withoutNaN(written: Value, plain: Parameters<typeof attention>[1]): Value | undefined {
    const { mask, bias, emptyRow, operands } = readMask(written, this.#facts);
    const added = bias ? exprNodes(bias) : [];
    const bounded = added.every((e) =>
      e.op === 'operand'
        ? isBounded(operands[(e.arg as number) - 3]!)
        : e.op !== 'const' || Math.abs(e.arg as number) < 1e30,
    );
    if (!bounded) return undefined;
    const attrs = { ...plain, ...(mask && { mask }), ...(bias && { bias }) };
    return attention([...written.inputs.slice(0, 3), ...operands], {
      ...attrs,
      emptyRow: emptyRow === 'nan' ? 'zero' : emptyRow,
    });
  }

  /**
   * [lead, M, N] as [B, H, M, N], or [B, 1, M, N] where it is the same for all heads and `sharing` allows that.
   */
  #spread(v: Value, sharing: boolean): Value | undefined {
    const lead = leadOf(v);
    const rest = shapeOf(v).slice(-2);
    const full = [this.#batch, this.#heads];
    if (sameShape(lead, full)) return v;
    // Leading axes are only ever split and merged in order, so equally many elements are the same elements.
    if (equalElements(lead, full)) return reshape([v], { shape: [...full, ...rest] });
    if (lead.length > 2) return undefined;
    const padded: Dim[] = [...new Array<Dim>(2 - lead.length).fill(1), ...lead];
    if (!padded.every((d, i) => isOne(d) || sameDim(d, full[i]!))) return undefined;
    const x = lead.length === 2 ? v : reshape([v], { shape: [...padded, ...rest] });
    const wanted = sharing && isOne(padded[1]!) ? [this.#batch, 1] : full;
    return sameShape(padded, wanted) ? x : expand([x], { shape: [...wanted, ...rest] });
  }

  /** What multiplies whole rows of scores, in a shape that broadcasts against [B, H, Q, D]. */
  #row(v: Value): Value | undefined {
    const [lead, full] = [leadOf(v), [this.#batch, this.#heads]];
    if (rankOf(v) < 4 && lead.every((d, i) => isOne(d) || sameDim(d, full[i + 2 - lead.length]!))) return v;
    return this.#spread(v, true);
  }

  /** Coordinates of a score in leading axes of that shape; undefined where they cannot be said. */
  #coordinates(lead: Shape): readonly Expr[] | undefined {
    const { b, h } = coords;
    const zero = s.literal(0);
    const [batch, heads] = [this.#batch, this.#heads];
    const fits = (d: Dim, full: Dim): boolean => isOne(d) || sameDim(d, full);
    const place = (d: Dim, at: Expr): Expr => (isOne(d) ? zero : at);
    if (lead.every(isOne)) return lead.map(() => zero);
    if (lead.length === 2 && fits(lead[0]!, batch) && fits(lead[1]!, heads))
      return [place(lead[0]!, b), place(lead[1]!, h)];
    const outer = lead.slice(0, -1);
    if (lead.length > 2 && fits(lead.at(-1)!, heads) && equalElements(outer, [batch]))
      return [...unflatten(b, outer), place(lead.at(-1)!, h)];
    if (!equalElements(lead, [batch, heads])) return undefined;
    const flat = isOne(heads) ? b : isOne(batch) ? h : s.add(s.mul(b, heads), h);
    return unflatten(flat, lead);
  }

  /** An element of a term at the present score. */
  #load(t: Term): Expr | undefined {
    const at = this.#coordinates(t.lead);
    if (!at) return undefined;
    const all = [...at, coords.q, coords.k];
    const { shape, dtype } = typeOf(t.value);
    if (shape.length > all.length) return undefined;
    const known = this.#operands.indexOf(t.value);
    const n = known >= 0 ? known : this.#operands.push(t.value) - 1;
    const from = all.slice(all.length - shape.length);
    return s.operand(
      3 + n,
      dtype,
      shape.map((d, i) => (isOne(d) ? 0 : from[i]!)),
    );
  }

  #mask(m: Mask): Expr | undefined {
    const x = this.#load(m);
    return x && (m.when ? s.not(x) : x);
  }

  #bias(t: Bias): Expr | undefined {
    const x = this.#load(t);
    if (x && t.fill) {
      const over = this.#all(
        t.fill.over.map((b) => this.#bias(b)),
        s.add,
      );
      const otherwise = over ?? s.literal(0, 'f32');
      const value = s.literal(t.fill.value, 'f32');
      return over === null ? undefined : t.fill.when ? s.select(x, value, otherwise) : s.select(x, otherwise, value);
    }
    return x && s.mul(s.cast(x, 'f32'), s.literal(t.factor, 'f32'));
  }

  /** All of them combined; undefined for none, null when one could not be said. */
  #all(exprs: readonly (Expr | undefined)[], join: (a: Expr, b: Expr) => Expr): Expr | undefined | null {
    let all: Expr | undefined;
    for (const e of exprs) {
      if (!e) return null;
      all = all ? join(all, e) : e;
    }
    return all;
  }
}

/**
 * Batch and heads of scores that take several shapes on their way: two leading axes say it best; of more, the last one
 * counts heads; a single one is the batch.
 */
function batchAndHeads(leads: readonly Shape[]): readonly [Dim, Dim] {
  const widest = (length: number): Shape | undefined => {
    const all = leads.filter((l) => l.length === length);
    // Of shapes that broadcast against each other the largest one.
    return all[0]?.map((_, i) => all.map((l) => l[i]!).find((d) => !isOne(d)) ?? 1);
  };
  const [two, one] = [widest(2), widest(1)];
  if (two) return [two[0]!, two[1]!];
  const many = leads.find((l) => l.length > 2);
  if (many) return [dim(elements(many.slice(0, -1))), many.at(-1)!];
  return [one?.[0] ?? 1, 1];
}

/** Coordinates in axes of a shape of the element that stands at `flat` in C order. */
function unflatten(flat: Expr, shape: Shape): Expr[] {
  const real = shape.flatMap((d, i) => (isOne(d) ? [] : [i]));
  const at: Expr[] = shape.map(() => s.literal(0));
  let rest = flat;
  for (const axis of real.toReversed()) {
    at[axis] = axis === real[0] ? rest : s.floormod(rest, shape[axis]!);
    rest = s.floordiv(rest, shape[axis]!);
  }
  return at;
}

/** A matrix whose last two axes are exchanged when `flip` says so. */
function stored(v: Value, flip: boolean): Value {
  if (!flip) return v;
  const axes = shapeOf(v).map((_, i) => i);
  return transpose([v], { perm: [...axes.slice(0, -2), axes.length - 1, axes.length - 2] });
}

interface Scaled {
  readonly value: Value;
  readonly scale: number;
}
/** A value without the constant that multiplies it, also where that stands below views. */
function unscaled(v: Value): Scaled {
  const [x, by] = v.inputs;
  const c = by && uniformOf(by);
  if (v.op.name === 'mul' && c !== undefined && sameShape(shapeOf(x!), shapeOf(v))) return times(unscaled(x!), c);
  if (v.op.name === 'div' && c !== undefined && sameShape(shapeOf(x!), shapeOf(v))) return times(unscaled(x!), 1 / c);
  if (v.op.lower.kind !== 'view' || v.inputs.length !== 1) return { value: v, scale: 1 };
  const inner = unscaled(x!);
  return inner.value === x ? { value: v, scale: 1 } : { value: { ...v, inputs: [inner.value] }, scale: inner.scale };
}
const times = ({ value, scale }: Scaled, by: number): Scaled => ({ value, scale: scale * by });

/** undefined for 1 / √D up to the rounding of f32, which attention does by itself. */
const scaleOf = (scale: number, width: Dim): number | undefined =>
  typeof width === 'number' && near(scale, 1 / Math.sqrt(width), 1e-6) ? undefined : scale;

/** Keys and values with as many heads as they really have: repeats for the heads of q that share them are dropped. */
function sharedHeads(
  k: Value | undefined,
  v: Value | undefined,
  heads: Dim,
): readonly [Value | undefined, Value | undefined] {
  if (!k || !v) return [k, v];
  const [k1, v1] = [unrepeated(k), unrepeated(v)];
  if (k1 && v1 && sameDim(shapeOf(k1)[1]!, shapeOf(v1)[1]!)) return [k1, v1];
  if (sameDim(shapeOf(k)[1]!, shapeOf(v)[1]!)) return [k, v];
  const full = (x: Value): Value =>
    sameDim(shapeOf(x)[1]!, heads) ? x : expand([x], { shape: shapeOf(x).map((d, i) => (i === 1 ? heads : d)) });
  return [full(k), full(v)];
}

/** [B, G, K, D] below its repetition to [B, G·R, K, D]. */
function unrepeated(v: Value): Value | undefined {
  const wide = v.inputs[0];
  if (!is(v, reshape) || !wide || !is(wide, expand) || rankOf(wide) !== 5) return undefined;
  const [b, g, , k, d] = shapeOf(wide) as [Dim, Dim, Dim, Dim, Dim];
  const narrow = wide.inputs[0]!;
  const merges = sameShape([shapeOf(v)[0]!, ...shapeOf(v).slice(2)], [b, k, d]);
  if (!merges || !sameShape(shapeOf(narrow), [b, g, 1, k, d])) return undefined;
  return reshape([narrow], { shape: [b, g, k, d] });
}

export const fuseAttention = rewritePass({
  name: 'fuse-attention',
  doc: 'softmax(q·kᵀ·scale + bias, masked)·v becomes one attention; legal because nothing else reads scores or softmax.',
  rules: [{ name: 'attention', ops: [matmul.def], sharing: false, apply: fuse }],
});
