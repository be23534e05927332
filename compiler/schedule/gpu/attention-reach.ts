/**
 * Which keys queries meet on WebGPU: the hull of what they may read, and within it the keys that all of them read. Limits
 * that follow from coordinates and sizes are arithmetic; those that mention operands are found by one invocation for each
 * query and joined in workgroup memory, since invocations that meet at barriers must agree on their loops.
 */
import { type Buffer, type Expr, exprNodes } from '../../../ir/expr.ts';
import { uniform } from '../../../ir/intrinsics.ts';
import type { Block } from '../../../ir/kernel.ts';
import { coords } from '../../../ir/ops/attention.ts';
import { rowSpan, type Span } from '../../../ir/predicate.ts';
import {
  add,
  and,
  bool,
  cast,
  ceildiv,
  eq,
  extract,
  floordiv,
  floormod,
  le,
  literal,
  load,
  lt,
  max,
  min,
  mul,
  ne,
  neg,
  select,
  splat,
  variable,
  vec,
} from '../../../ir/scalar.ts';
import type { Attention } from './attention-scores.ts';

/** Keys `from ≤ k < to`, of which all queries read `solidFrom ≤ k < solidTo`; the limits of either may cross. */
export interface Range {
  readonly from: Expr;
  readonly to: Expr;
  readonly solidFrom: Expr;
  readonly solidTo: Expr;
}

/** Which queries a range is for. */
interface Rows {
  readonly b: Expr;
  readonly h: Expr;
  readonly first: Expr;
  /** The end of the queries. */
  readonly last: Expr;
}

/** Passes over the keys of queries that may turn out to read none: the hull, what is before it, what is behind it. */
const PASSES = 3;

const SPAN = ['lo', 'hi', 'solidLo', 'solidHi'] as const;
const loadsOf = (e: Expr): readonly Expr[] => exprNodes(e).filter((x) => x.op === 'operand');

export class GpuReach {
  /**
   * Whether queries without allowed keys are possible and read all keys. Only after the hull is it known whether there
   * are any; then what is left of the keys is met too.
   */
  readonly mayNeedAll: boolean;
  readonly #a: Attention;
  /** Of the single query `coords.q`; undefined without a mask. */
  readonly #span: Span | undefined;
  readonly #loads: readonly Expr[];

  constructor(a: Attention) {
    this.#a = a;
    this.#span = a.mask && rowSpan(a.mask, a.domain.keys!, undefined, a.domain);
    this.#loads = this.#span ? SPAN.flatMap((name) => loadsOf(this.#span![name])) : [];
    this.mayNeedAll =
      a.mask !== undefined && (a.emptyRow === 'uniform' || a.emptyRow === 'unmasked') && !this.#neverEmpty;
  }

  /** Whether limits are joined in workgroup memory. */
  get shares(): boolean {
    return this.#loads.length > 0 || this.mayNeedAll;
  }

  /** Whether the limits say anything: otherwise all keys are met, and all are masked. */
  get #informed(): boolean {
    const span = this.#span!;
    return span.lo !== literal(0) || span.hi !== this.#a.keys || span.solidHi !== literal(0);
  }

  get #neverEmpty(): boolean {
    const { lo, hi, solidLo, solidHi } = this.#span!;
    const q = variable('q', 'i32', 1, { from: 0, to: this.#a.queries });
    const at = { b: coords.b, h: coords.h, q };
    if (lo !== solidLo || hi !== solidHi || this.#loads.length > 0) return false;
    return lt(this.#a.atKey(lo, at, literal(0)), this.#a.atKey(hi, at, literal(0))) === bool(true);
  }

  /** The keys that one query may read, in an invocation of its own. */
  ofQuery({ b, h, first }: Omit<Rows, 'last'>): Range {
    return this.#evaluate(this.#span, { b, h, first });
  }

  /**
   * The keys that a block of queries meets, the same in all invocations of its workgroup.
   * @param limits four i32 for each of `rows` queries, all read and written as vectors; needed where `shares`
   */
  ofBlock(
    block: Block,
    rows: Rows,
    group: { readonly t: Expr; readonly rows: number; readonly limits: Buffer },
  ): Range {
    const { domain, mask } = this.#a;
    if (!mask || !this.#informed) return this.#evaluate(undefined, rows);
    const together = rowSpan(mask, domain.keys!, [rows.first, rows.last], domain);
    if (this.#loads.length === 0) return this.#evaluate(together, rows);
    const { t, limits } = group;
    const byQuery = this.#loads.some((e) => exprNodes(e).includes(coords.q));
    const store = (body: Block, at: Expr, range: Range): void => {
      // Smaller is wider outside and narrower inside, so that one minimum joins them.
      const some = lt(range.from, range.to);
      const outside = [select(some, range.from, domainEnd), select(some, neg(range.to), 0)];
      const inside = [neg(range.solidFrom), range.solidTo];
      body.store(limits, mul(at, 4), vec([...outside, ...inside]));
    };
    const domainEnd = this.#a.keys;
    if (byQuery) {
      block.if(lt(t, group.rows), (body) => {
        const q = variable('row', 'i32', 1, { from: 0, to: this.#a.queries });
        body.stmts.push({ kind: 'let', v: q, value: min(add(rows.first, t), add(rows.last, -1)) });
        store(body, t, this.#evaluate(this.#span, { b: rows.b, h: rows.h, first: q }));
      });
      block.barrier();
      block.if(eq(t, 0), (one) => this.#join(one, limits, group.rows, min));
    } else block.if(eq(t, 0), (one) => store(one, literal(0), this.#evaluate(together, rows)));
    block.barrier();
    const joined = block.let('limits', uniform(load(limits, literal(0), 4)));
    const part = (j: number): Expr => (j === 1 || j === 2 ? neg(extract(joined, j)) : extract(joined, j));
    const [from, to, solidFrom, solidTo] = [0, 1, 2, 3].map((j) => block.let(SPAN[j]!, part(j))) as [
      Expr,
      Expr,
      Expr,
      Expr,
    ];
    return { from, to, solidFrom, solidTo };
  }

  #join(one: Block, limits: Buffer, rows: number, join: (a: Expr, b: Expr) => Expr): void {
    const all = one.var('all', load(limits, literal(0), 4));
    one.for('r', 1, rows, (r, body) => body.set(all, join(all, load(limits, mul(r, 4), 4))));
    one.store(limits, 0, all);
  }

  /** Whether any invocation says so, as a value that loops may depend on. Every invocation must come here. */
  any(
    block: Block,
    limits: Buffer,
    said: { readonly by: Expr; readonly of: number; readonly where: Expr; readonly yes: Expr },
  ): Expr {
    block.barrier();
    block.if(said.where, (one) => one.store(limits, mul(said.by, 4), splat(cast(said.yes, 'i32'), 4)));
    block.barrier();
    block.if(and(said.where, eq(said.by, 0)), (one) => this.#join(one, limits, said.of, max));
    block.barrier();
    return ne(extract(block.let('any', uniform(load(limits, literal(0), 4))), 0), 0);
  }

  #evaluate(span: Span | undefined, { b, h, first }: Omit<Rows, 'last'>): Range {
    const { keys } = this.#a;
    if (!span) {
      const none = this.#a.mask !== undefined;
      return { from: literal(0), to: keys, solidFrom: literal(0), solidTo: none ? literal(0) : keys };
    }
    const at = (e: Expr): Expr => this.#a.atKey(e, { b, h, q: first }, literal(0));
    return { from: at(span.lo), to: at(span.hi), solidFrom: at(span.solidLo), solidTo: at(span.solidHi) };
  }

  /**
   * Visits the keys of a range in steps, and where queries may need all keys and one of them does, the others after them.
   *
   * @param empty asked once the range is done: whether some query has found no key
   * @param visit `solid`: whether all of the step's keys exist and are read by all queries
   */
  walk(
    block: Block,
    range: Range,
    step: number,
    empty: (block: Block) => Expr,
    visit: (k: Expr, solid: Expr, block: Block) => void,
  ): void {
    const { keys } = this.#a;
    const solid = (k: Expr): Expr => {
      // Without a mask only the last step may be cut.
      if (!this.#a.mask && isWhole(keys, step)) return bool(true);
      return and(le(range.solidFrom, k), le(add(k, step), range.solidTo));
    };
    const from = block.let('from', mul(floordiv(range.from, step), step));
    if (!this.mayNeedAll) {
      block.for('k', from, range.to, (k, body) => visit(k, solid(k), body), { step });
      return;
    }
    const to = block.let('to', max(mul(ceildiv(range.to, step), step), from));
    const all = block.var('all', bool(false));
    block.for('pass', 0, PASSES, (pass, body) => {
      const [start, end] = [body.var('start', from), body.var('end', to)];
      body.if(lt(literal(0), pass), (later) => {
        const before = eq(pass, 1);
        later.set(start, select(before, 0, to));
        later.set(end, select(all, select(before, from, keys), start));
      });
      body.for('k', start, end, (k, turn) => visit(k, solid(k), turn), { step });
      body.if(eq(pass, 0), (first) => first.set(all, empty(first)));
    });
  }
}

/** Whether a size is known to be whole steps. */
const isWhole = (size: Expr, step: number): boolean => floormod(size, step) === literal(0);
