/**
 * What the schedules of attention share: sizes, and scores as the softmax sees them.
 *
 * B batch, H heads, G heads of k and v, Q queries, K keys, D width of a query, E width of a value.
 */
import { fail } from '../../../ir/diagnostic.ts';
import { type Expr, exprNodes } from '../../../ir/expr.ts';
import { typeOf, type Value } from '../../../ir/graph.ts';
import type { Block } from '../../../ir/kernel.ts';
import { coords } from '../../../ir/ops/attention.ts';
import { macsOf } from '../../../ir/ops/macs.ts';
import { conjuncts, normalPredicate, rowSpan } from '../../../ir/predicate.ts';
import {
  add,
  and,
  bool,
  div,
  eq,
  floordiv,
  le,
  literal,
  log,
  lt,
  min,
  mul,
  select,
  sub,
  substitute,
  tanh,
  variable,
} from '../../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../../ir/type.ts';
import { operandAt, type ScheduleContext, storeResult } from '../context.ts';

/** Below every score: the largest score of no key, and the score of a key that may not be read. Finite, so that it cancels. */
export const NONE = -3e38;

export interface Score {
  readonly plain: Expr;
  readonly masked: Expr;
  readonly allowed: Expr;
  /** Whether the key exists. */
  readonly inside: Expr;
}

/** The larger of two; a NaN is dropped, since the sum of the row's exponentials brings it back. */
export const larger = (a: Expr, b: Expr): Expr => select(lt(a, b), b, a);

export class Attention {
  readonly cx: ScheduleContext;
  readonly batch: Expr;
  readonly heads: Expr;
  readonly keyHeads: Expr;
  readonly queries: Expr;
  readonly keys: Expr;
  /** D and E. */
  readonly width: number;
  readonly valueWidth: number;
  readonly emptyRow: 'zero' | 'nan' | 'uniform' | 'unmasked';
  readonly mask: Expr | undefined;
  private readonly scale: number;
  private readonly softcap: number;
  private readonly bias: Expr | undefined;

  constructor(cx: ScheduleContext) {
    const { root } = cx.region;
    const { attrs } = root;
    const [q, k, v] = root.inputs.slice(0, 3).map((x) => typeOf(x).shape.map(asExpr)) as [Expr[], Expr[], Expr[]];
    const { dtype } = typeOf(root.inputs[0]!);
    if (dtype !== 'f32') throw new Error(`attention of ${dtype} has no kernel`);
    this.cx = cx;
    [this.batch, this.heads, this.queries] = q.slice(0, 3) as [Expr, Expr, Expr];
    [this.keyHeads, this.keys] = k.slice(1, 3) as [Expr, Expr];
    this.width = this.fixed(q[3]!, 'query');
    this.valueWidth = this.fixed(v[3]!, 'value');
    this.scale = (attrs.scale as number | undefined) ?? 1 / Math.sqrt(this.width);
    this.softcap = attrs.softcap as number;
    this.mask = attrs.mask as Expr | undefined;
    this.bias = attrs.bias as Expr | undefined;
    this.emptyRow = attrs.emptyRow as Attention['emptyRow'];
  }

  private fixed(size: Expr, of: string): number {
    if (size.op === 'const') return size.arg as number;
    return fail('unsupported', `attention: the width of a ${of} must be known when compiled for WebGPU`, {
      help: 'fix the symbol that it is made of',
    });
  }

  /** Whether a query without allowed keys reads all of them. */
  get unmasked(): boolean {
    return this.mask !== undefined && this.emptyRow === 'unmasked';
  }

  get macs(): Dim {
    return macsOf(this.batch, this.heads, this.queries, this.keys, literal(this.width + this.valueWidth));
  }

  /**
   * The keys `from ≤ k < to` that queries `q0 ≤ q < q1` may read, for masks that say so and where keys that are left out
   * change nothing; undefined elsewhere. Limits may cross.
   *
   * @param loads whether the limits may be read from operands: those are not uniform, so no barrier may depend on them
   */
  reach(
    at: { readonly b: Expr; readonly h: Expr },
    [q0, q1]: readonly [Expr, Expr],
    loads: boolean,
  ): { readonly from: Expr; readonly to: Expr } | undefined {
    if (!this.mask || (this.emptyRow !== 'zero' && this.emptyRow !== 'nan')) return undefined;
    const sizes = [this.batch, this.heads, this.queries, this.keys].map(dim);
    const domain = { batch: sizes[0], heads: sizes[1], queries: sizes[2], keys: sizes[3] };
    const reads = (e: Expr): boolean => exprNodes(e).some((x) => x.op === 'operand');
    const parts = conjuncts(normalPredicate(this.mask, domain)).filter((e) => loads || !reads(e));
    const { lo, hi } = rowSpan(
      parts.reduce((x, y) => and(x, y), bool(true)),
      sizes[3]!,
      [q0, q1],
      domain,
    );
    if (lo === literal(0) && hi === this.keys) return undefined;
    const place = { ...at, q: q0 };
    return { from: this.atKey(lo, place, literal(0)), to: this.atKey(hi, place, literal(0)) };
  }

  /** The head of k and v that head `h` reads. */
  keyHead(block: Block, h: Expr): Expr {
    return this.keyHeads === this.heads ? h : block.let('g', floordiv(h, floordiv(this.heads, this.keyHeads)));
  }

  /** A score as the softmax sees it, with and without its mask; `k` may lie beyond the last key. */
  score(block: Block, at: { readonly b: Expr; readonly h: Expr; readonly q: Expr }, k: Expr, product: Expr): Score {
    const inside = lt(k, this.keys);
    const key = variable('key', 'i32', 1, { from: 0, to: this.keys });
    if (this.mask || this.bias) block.stmts.push({ kind: 'let', v: key, value: min(k, sub(this.keys, 1)) });
    const scaled = mul(product, this.scale);
    const capped = this.softcap > 0 ? mul(tanh(div(scaled, this.softcap)), this.softcap) : scaled;
    const biased = this.bias ? add(capped, this.atKey(this.bias, at, key)) : capped;
    const plain = block.let('plain', select(inside, biased, NONE));
    if (!this.mask) return { plain, masked: plain, allowed: inside, inside };
    const allowed = block.let('allowed', and(inside, this.atKey(this.mask, at, key)));
    return { plain, masked: block.let('masked', select(allowed, plain, NONE)), allowed, inside };
  }

  /** A mask or bias at one score. */
  private atKey(e: Expr, at: { readonly b: Expr; readonly h: Expr; readonly q: Expr }, k: Expr): Expr {
    const visit = (root: Expr): Expr =>
      substitute(root, (x) => {
        if (x === coords.b) return at.b;
        if (x === coords.h) return at.h;
        if (x === coords.q) return at.q;
        if (x === coords.k) return k;
        return x.op === 'operand' ? operandAt(this.cx, x.arg as number, x.args.map(visit)) : undefined;
      });
    return visit(e);
  }

  /** Which scores a weight is made of while `found` says whether some key was allowed, and whether it counts at all. */
  chosen(s: Score, found: Expr | undefined): { readonly score: Expr; readonly counts: Expr } {
    if (found) return { score: select(found, s.masked, s.plain), counts: select(found, s.allowed, s.inside) };
    return { score: s.masked, counts: this.emptyRow === 'uniform' ? s.inside : s.allowed };
  }

  inverse(total: Expr): Expr {
    const inverse = div(literal(1, 'f32'), total);
    return this.emptyRow === 'zero' ? select(eq(total, 0), 0, inverse) : inverse;
  }

  /** Stores the logarithm of a softmax's normaliser, where somebody reads it. */
  storeLse(block: Block, at: { readonly b: Expr; readonly h: Expr; readonly q: Expr }, top: Expr, total: Expr): void {
    const output = this.cx.region.root.attrs.lse === true ? this.result(1) : undefined;
    if (!output) return;
    const value = select(le(top, literal(NONE, 'f32')), -Infinity, add(top, log(total)));
    storeResult(this.cx, block, [at.b, at.h, at.q], block.let('lse', value), output);
  }

  /** The output that takes result number `index`; undefined when nobody reads it. */
  result(index: number): Value | undefined {
    const { outputs, root } = this.cx.region;
    if (root.type.kind === 'tensor') return index === 0 ? outputs[0] : undefined;
    return outputs.find((v) => v.attrs.index === index);
  }
}
