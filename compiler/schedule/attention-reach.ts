/**
 * Which keys a block of queries meets: the hull of what its rows may read, found before any product is computed, and in each
 * row the part of it where nothing needs to be masked. Masks that say nothing of the kind are met with all keys.
 */
import type { Expr } from '../../ir/expr.ts';
import type { Block } from '../../ir/kernel.ts';
import type { EmptyRow } from '../../ir/ops/attention.ts';
import { type Domain, rowSpan, type Span } from '../../ir/predicate.ts';
import { and, ceildiv, floordiv, literal, lt, max, min, mul, select } from '../../ir/scalar.ts';
import { asExpr } from '../../ir/type.ts';

/** Keys of one step: whole vectors of scores and whole panels. */
export const STEP = 8;
const LANES = 4;

/** Keys `from ≤ k < to` of a block; `from` is a multiple of STEP, and so is `to` unless it is the number of keys. */
export interface Reach {
  readonly from: Expr;
  readonly to: Expr;
}

/** Vectors of four keys of one row: masked, then free of masks, then masked again. */
export interface Quads {
  readonly from: Expr;
  readonly solid: Expr;
  readonly masked: Expr;
  readonly to: Expr;
}

/** Turns a mask, or a span of it, into what it is at one row of a kernel. */
export type AtRow = (block: Block, e: Expr) => Expr;

export class MaskReach {
  readonly #keys: Expr;
  readonly #span: Span;
  /** Whether any row may skip or leave unmasked any key. */
  readonly #informed: boolean;
  readonly #emptyRow: EmptyRow;
  /** Whether the hull of a row is what it reads, so that a row is empty exactly where its hull is. */
  readonly #exact: boolean;

  constructor(mask: Expr, domain: Domain, emptyRow: EmptyRow) {
    this.#keys = asExpr(domain.keys!);
    const span = rowSpan(mask, domain.keys!, undefined, domain);
    this.#span = span;
    const zero = literal(0);
    const skips = span.lo !== zero || span.hi !== this.#keys;
    this.#informed = skips || (span.solidHi !== zero && span.solidHi !== span.solidLo);
    this.#emptyRow = emptyRow;
    this.#exact = span.lo === span.solidLo && span.hi === span.solidHi;
  }

  /**
   * The keys that the rows of a block meet.
   * @param rows how many there are @param at what a span is at row r
   * @param reads whether row r may read some key of the quads, for masks whose hull does not say
   */
  block(block: Block, rows: Expr, at: (r: Expr) => AtRow, reads: (block: Block, r: Expr, quads: Quads) => Expr): Reach {
    const all: Reach = { from: literal(0), to: this.#keys };
    if (!this.#informed) return all;
    const lo = block.var('lo', this.#keys);
    const hi = block.var('hi', literal(0));
    block.for('r', 0, rows, (r, body) => {
      const row = this.#hull(body, at(r));
      const widen = (some: Block): void => {
        some.update('min', lo, row.lo);
        some.update('max', hi, row.hi);
      };
      const everything = (some: Block): void => {
        some.set(lo, 0);
        some.set(hi, this.#keys);
      };
      // A row without a key that is more than zeros needs all keys.
      if (this.#emptyRow === 'zero' || this.#emptyRow === 'nan') body.if(lt(row.lo, row.hi), widen);
      else if (this.#exact) body.if(lt(row.lo, row.hi), widen, everything);
      else body.if(reads(body, r, this.#quadsOf(body, at(r), row)), widen, everything);
    });
    const from = block.let('from', mul(floordiv(min(lo, hi), STEP), STEP));
    return { from, to: block.let('to', max(min(mul(ceildiv(hi, STEP), STEP), this.#keys), from)) };
  }

  /** The vectors of a row within what its block meets. */
  row(block: Block, reach: Reach, at: AtRow): Quads {
    return this.#quadsOf(block, at, { lo: reach.from, hi: reach.to });
  }

  #hull(block: Block, at: AtRow): { readonly lo: Expr; readonly hi: Expr } {
    return { lo: block.let('rowLo', at(block, this.#span.lo)), hi: block.let('rowHi', at(block, this.#span.hi)) };
  }

  #quadsOf(block: Block, at: AtRow, { lo, hi }: { readonly lo: Expr; readonly hi: Expr }): Quads {
    const from = block.let('q0', floordiv(lo, LANES));
    const to = block.let('q1', max(ceildiv(hi, LANES), from));
    if (!this.#informed) return { from, solid: to, masked: to, to };
    const start = block.let('solidFrom', ceildiv(at(block, this.#span.solidLo), LANES));
    const end = block.let('solidTo', floordiv(at(block, this.#span.solidHi), LANES));
    const some = and(lt(start, end), and(lt(start, to), lt(from, end)));
    const solid = block.let('solid', select(some, max(start, from), to));
    return { from, solid, masked: block.let('masked', select(some, min(end, to), to)), to };
  }
}

/** Without a mask: all keys, nothing masked. */
export const allQuads = (keys: Expr): Quads => {
  const to = ceildiv(keys, LANES);
  return { from: literal(0), solid: literal(0), masked: to, to };
};

/**
 * Visits the keys of some vectors, four at a time while all four exist, then one by one.
 * @param keys how many keys there are
 */
export function eachKey(
  block: Block,
  range: { readonly from: Expr; readonly to: Expr; readonly keys: Expr },
  visit: (k: Expr, lanes: 1 | 4, body: Block) => void,
): void {
  const { from, to, keys } = range;
  const whole = floordiv(keys, LANES);
  block.for('q', from, min(to, whole), (q, body) => visit(mul(q, LANES), 4, body));
  block.for('k', max(mul(from, LANES), mul(whole, LANES)), min(mul(to, LANES), keys), (k, body) => visit(k, 1, body));
}
