/**
 * What the schedules of attention share: sizes, and scores as the softmax sees them.
 *
 * B batch, H heads, G heads of k and v, Q queries, K keys, D width of a query, E width of a value.
 */
import { fail } from '../../../ir/diagnostic.ts';
import type { Expr } from '../../../ir/expr.ts';
import { typeOf, type Value } from '../../../ir/graph.ts';
import type { Block } from '../../../ir/kernel.ts';
import { coords } from '../../../ir/ops/attention.ts';
import { macsOf } from '../../../ir/ops/macs.ts';
import type { Domain } from '../../../ir/predicate.ts';
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
  lowest,
  lt,
  min,
  mul,
  select,
  splat,
  sub,
  substitute,
  tanh,
  variable,
} from '../../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../../ir/type.ts';
import { operandAt, type ScheduleContext, storeResult } from '../context.ts';

/** Below every score: the largest score of no key. Finite, so that it cancels. */
export const NONE = -3e38;
/** So far below that it weighs nothing even beside `NONE`. */
const HIDDEN = -3.3e38;
/** What finite scores below are taken for: a bias may hide keys with the least number there is. */
const LEAST = -2.9e38;

export interface Score {
  /** As the mask leaves it: `HIDDEN` where the key does not count, so that no weight needs to be chosen. */
  readonly masked: Expr;
  /** Without the mask; the same where a query without allowed keys reads nothing else. */
  readonly plain: Expr;
}

/** The larger of two; a NaN is dropped, since the sum of the row's exponentials brings it back. */
export const larger = (a: Expr, b: Expr): Expr => select(lt(a, b), b, a);

/** A product that was scaled, and which score it becomes. */
export interface Scaled {
  readonly at: At;
  readonly k: Expr;
  readonly value: Expr;
}

/** Where a score stands, but for its key. */
export interface At {
  readonly b: Expr;
  readonly h: Expr;
  readonly q: Expr;
}

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

  /** The sizes that a mask is about. */
  get domain(): Domain {
    const [batch, heads, queries, keys] = [this.batch, this.heads, this.queries, this.keys].map(dim);
    return { batch, heads, queries, keys };
  }

  get macs(): Dim {
    return macsOf(this.batch, this.heads, this.queries, this.keys, literal(this.width + this.valueWidth));
  }

  /** The head of k and v that head `h` reads. */
  keyHead(block: Block, h: Expr): Expr {
    return this.keyHeads === this.heads ? h : block.let('g', floordiv(h, floordiv(this.heads, this.keyHeads)));
  }

  /** A product of q and k as a score, before bias and mask. */
  scaled(product: Expr): Expr {
    const scaled = mul(product, this.scale);
    return this.softcap > 0 ? mul(tanh(div(scaled, this.softcap)), this.softcap) : scaled;
  }

  /**
   * Scaled scores as the softmax sees them; variables, so that one condition serves all.
   *
   * @param solid whether all of the keys exist and may be read by these queries, so that no mask is looked at
   * @param exist whether keys are known to exist elsewhere; they may lie beyond the last one otherwise
   */
  scores(block: Block, scaled: readonly Scaled[], solid: Expr, exist: boolean): readonly Score[] {
    const vars = scaled.map(({ value }) => {
      const masked = block.var('score', value);
      return { masked, plain: this.unmasked ? block.var('plain', value) : masked };
    });
    block.if(
      solid,
      (whole) => {
        if (!this.bias) return;
        for (const [i, { at, k }] of scaled.entries()) {
          const plain = whole.let('biased', this.biased(whole, at, k, vars[i]!.masked));
          for (const v of new Set(Object.values(vars[i]!))) whole.set(v, plain);
        }
      },
      (part) => {
        for (const [i, { at, k }] of scaled.entries()) {
          const { plain, masked } = this.score(part, at, k, vars[i]!.masked, exist);
          // What is plain may be the variable that is masked next.
          if (this.unmasked) part.set(vars[i]!.plain, plain);
          part.set(vars[i]!.masked, masked);
        }
      },
    );
    return vars;
  }

  /** A scaled score with its bias; the key exists. */
  private biased(block: Block, at: At, key: Expr, scaled: Expr): Expr {
    if (!this.bias) return scaled;
    const sum = block.let('sum', add(scaled, this.atKey(this.bias, at, key)));
    return select(and(lt(sum, literal(LEAST, 'f32')), le(literal(lowest('f32'), 'f32'), sum)), LEAST, sum);
  }

  private score(block: Block, at: At, k: Expr, scaled: Expr, exists: boolean): Score {
    const inside = exists ? bool(true) : lt(k, this.keys);
    let key = k;
    if (!exists && (this.mask || this.bias)) {
      key = variable('key', 'i32', 1, { from: 0, to: this.keys });
      block.stmts.push({ kind: 'let', v: key, value: min(k, sub(this.keys, 1)) });
    }
    const plain = block.let('whole', select(inside, this.biased(block, at, key, scaled), HIDDEN));
    if (!this.mask) return { plain, masked: plain };
    // Queries without keys share their weights among all: those that exist count as much as no key does.
    const hidden = this.emptyRow === 'uniform' ? select(inside, literal(NONE, 'f32'), HIDDEN) : literal(HIDDEN, 'f32');
    return { plain, masked: select(and(inside, this.atKey(this.mask, at, key)), plain, hidden) };
  }

  /** A mask or bias at one score. */
  atKey(e: Expr, at: At, k: Expr): Expr {
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

  /** What a sum of weighted values is divided by, as a factor. */
  inverse(total: Expr): Expr {
    const inverse = div(literal(1, 'f32'), total);
    return this.emptyRow === 'zero' ? select(eq(total, 0), 0, inverse) : inverse;
  }

  /** A sum of weighted values times that factor. A device may compute as if there were no NaN, so it is chosen. */
  result(sum: Expr, total: Expr, inverse: Expr): Expr {
    const value = mul(sum, splat(inverse, sum.lanes));
    if (!this.mask || this.emptyRow !== 'nan') return value;
    return select(splat(eq(total, 0), sum.lanes), literal(Number.NaN, 'f32', sum.lanes), value);
  }

  /** Stores the logarithm of a softmax's normaliser, where somebody reads it. */
  storeLse(block: Block, at: At, top: Expr, total: Expr): void {
    const output = this.cx.region.root.attrs.lse === true ? this.output(1) : undefined;
    if (!output) return;
    const value = select(le(top, literal(NONE, 'f32')), -Infinity, add(top, log(total)));
    storeResult(this.cx, block, [at.b, at.h, at.q], block.let('lse', value), output);
  }

  /** The output that takes result number `index`; undefined when nobody reads it. */
  output(index: number): Value | undefined {
    const { outputs, root } = this.cx.region;
    if (root.type.kind === 'tensor') return index === 0 ? outputs[0] : undefined;
    return outputs.find((v) => v.attrs.index === index);
  }
}
