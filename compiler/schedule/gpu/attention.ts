/**
 * Fused attention with an online softmax: a workgroup takes a block of queries of one head, walks the keys in blocks, and
 * keeps for each query the largest score so far, the sum of its exponentials and the weighted sum of values. Scores exist
 * for one block at a time, in workgroup memory. Dao et al. 2022, algorithm 1.
 *
 * Eight by sixteen invocations: invocation (x, y) has the queries y, y + 16, …, of those the keys x, x + 8, … of a block, and
 * the columns 4x … 4x + 3, 4(x + 8) … of the result.
 *
 * B batch, H heads, G heads of k and v, Q queries, K keys, D width of a query, E width of a value.
 */
import type { Buffer, Expr } from '../../../ir/expr.ts';
import { Block, buffer } from '../../../ir/kernel.ts';
import {
  add,
  bool,
  ceildiv,
  eq,
  exp,
  extract,
  floordiv,
  floormod,
  fma,
  ge,
  le,
  literal,
  load,
  lt,
  min,
  mul,
  not,
  or,
  select,
  splat,
  sub,
  sumLanes,
  variable,
  zero,
} from '../../../ir/scalar.ts';
import { boundsOf } from '../../../ir/simplify.ts';
import { packLanes } from '../../access.ts';
import { gpuOf } from '../../gpu-target.ts';
import type { Stage } from '../../region.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { storeColumns } from '../tile.ts';
import { attentionAlone } from './attention-alone.ts';
import { GpuReach } from './attention-reach.ts';
import { Attention, larger, NONE, type Score } from './attention-scores.ts';
import { workgroups } from './invocations.ts';
import { isSmall } from './small.ts';

/** Invocations along x and y. */
const ACROSS = 8;
const DOWN = 16;
const SIZE = ACROSS * DOWN;
/** Bytes of workgroup memory on every device. */
const MEMORY = 16384;
export function scheduleAttentionGpu(cx: ScheduleContext): readonly Stage[] {
  const a = new Attention(cx);
  const reach = new GpuReach(a);
  const shape = isSmall(cx.target, a.macs) ? undefined : shapeFor(a, reach);
  return [shape ? new AttentionKernel(a, reach, shape).stage() : attentionAlone(a, reach)];
}

type Shape = readonly [rows: number, columns: number];

const measures = (a: Attention): { readonly stride: number; readonly vectors: number } => ({
  stride: Math.ceil(a.width / 4) * 4 + 4,
  vectors: Math.ceil(a.valueWidth / (4 * ACROSS)),
});

/** The largest blocks that fit workgroup memory; few queries have small ones. */
function shapeFor(a: Attention, reach: GpuReach): Shape | undefined {
  const { stride, vectors } = measures(a);
  const most = Math.max(DOWN, boundsOf(a.queries)[1]);
  const floats = ([rows, columns]: Shape): number =>
    rows * stride +
    columns * Math.max(stride, vectors * 4 * ACROSS) +
    rows * (columns + (a.unmasked ? 2 : 1) * ACROSS + (reach.shares ? 4 : 0));
  const fits = gpuOf(a.cx.target).attention.filter((shape) => 4 * floats(shape) <= MEMORY);
  return fits.find(([rows]) => rows < 2 * most) ?? fits.at(-1);
}

/** One query of an invocation while the kernel is written. */
interface Query {
  /** Its number in the block, and among all; the latter exists even where the block goes beyond the last. */
  readonly row: Expr;
  readonly q: Expr;
  readonly exists: Expr;
  /** Running maximum and this invocation's part of the sum. */
  readonly top: Expr;
  readonly sum: Expr;
  /** With `unmasked`: whether some key was allowed so far. */
  readonly found: Expr | undefined;
  /** Vectors of the result. */
  readonly result: readonly Expr[];
}

interface Place {
  readonly b: Expr;
  readonly h: Expr;
  readonly g: Expr;
  readonly t: Expr;
  readonly x: Expr;
  readonly y: Expr;
}

class AttentionKernel {
  private readonly a: Attention;
  /** Queries and keys of a block. */
  private readonly rows: number;
  private readonly columns: number;
  /** Columns of one invocation's result, in vectors. */
  private readonly vectors: number;
  /** Rows of q and k in memory are so far apart, padded so that neighbours fall into different banks. */
  private readonly stride: number;
  private readonly q: Buffer;
  /** A block of keys, then of values. */
  private readonly kv: Buffer;
  /** Weights of a block: row, key. */
  private readonly weights: Buffer;
  /** One number of each invocation for each of its rows: row, x. */
  private readonly parts: Buffer;
  private readonly others: Buffer;
  private readonly reach: GpuReach;
  /** Where the keys that queries meet are agreed on. */
  private readonly limits: Buffer;

  constructor(a: Attention, reach: GpuReach, [rows, columns]: Shape) {
    const { stride, vectors } = measures(a);
    this.a = a;
    this.reach = reach;
    this.stride = stride;
    this.vectors = vectors;
    [this.rows, this.columns] = [rows, columns];
    const shared = (name: string, size: number): Buffer =>
      buffer(name, 'f32', size, { space: 'shared', access: 'readwrite' });
    this.q = shared('queries', rows * stride);
    this.kv = shared('keys', columns * Math.max(stride, vectors * 4 * ACROSS));
    this.weights = shared('weights', rows * columns);
    this.parts = shared('parts', rows * ACROSS);
    this.others = shared('others', rows * ACROSS);
    this.limits = buffer('limits', 'i32', 4 * rows, { space: 'shared', access: 'readwrite' });
  }

  stage(): Stage {
    const { rows } = this;
    const { cx, batch, heads, queries, keys, width, valueWidth } = this.a;
    const blocks = ceildiv(queries, rows);
    const grid = mul(mul(batch, heads), blocks);
    const block = new Block();
    workgroups(block, grid, SIZE, (u, t, body) => {
      const [b, h, queryBlock] = nameCoordinates(body, [batch, heads, blocks], u) as [Expr, Expr, Expr];
      const g = this.a.keyHead(body, h);
      const x = body.let('x', floormod(t, ACROSS));
      const y = body.let('y', floordiv(t, ACROSS));
      const at: Place = { b, h, g, t, x, y };
      const first = body.let('first', mul(queryBlock, rows));
      this.fill(body, t, this.q, rows, { first, count: queries, width, stride: this.stride }, (q, d) =>
        operandAt(cx, 0, [b, h, q, d]),
      );
      const mine = this.myQueries(body, y, first);
      const last = body.let('last', min(add(first, rows), queries));
      const { reach, limits } = this;
      const range = reach.ofBlock(body, { b, h, first, last }, { t, rows, limits });
      const empty = (done: Block): Expr => {
        const none = mine.map(({ found, top }) => (found ? not(found) : le(top, literal(NONE, 'f32'))));
        return reach.any(done, limits, { by: y, of: DOWN, where: eq(x, 0), yes: none.reduce(or) });
      };
      reach.walk(body, range, this.columns, empty, (k0, solid, turn) => this.keyBlock(turn, at, mine, k0, solid));
      this.finish(body, at, mine);
    });
    return makeStage(cx, block, { grid, work: mul(keys, rows * (width + valueWidth)), macs: this.a.macs });
  }

  private myQueries(block: Block, y: Expr, first: Expr): readonly Query[] {
    return Array.from({ length: this.rows / DOWN }, (_, i) => {
      const row = add(y, i * DOWN);
      const q = variable(`q${i}`, 'i32', 1, { from: 0, to: this.a.queries });
      block.stmts.push({ kind: 'let', v: q, value: min(add(first, row), sub(this.a.queries, 1)) });
      return {
        row,
        q,
        exists: lt(add(first, row), this.a.queries),
        top: block.var(`top${i}`, literal(NONE, 'f32')),
        sum: block.var(`sum${i}`, zero('f32')),
        found: this.a.unmasked ? block.var(`found${i}`, bool(false)) : undefined,
        result: Array.from({ length: this.vectors }, (__, j) => block.var(`out${i}_${j}`, zero('f32', 4))),
      };
    });
  }

  /** Brings rows of an operand to workgroup memory; columns beyond the width are zero, rows beyond the last are that one. */
  private fill(
    block: Block,
    t: Expr,
    to: Buffer,
    rows: number,
    from: { readonly first: Expr; readonly count: Expr; readonly width: number; readonly stride: number },
    element: (row: Expr, column: Expr) => Expr,
  ): void {
    const { first, count, width, stride } = from;
    const quads = Math.ceil(width / 4);
    block.for(
      'e',
      t,
      rows * quads,
      (e, body) => {
        const row = variable('row', 'i32', 1, { from: 0, to: count });
        const local = body.let('local_row', floordiv(e, quads));
        const column = body.let('column', mul(floormod(e, quads), 4));
        body.stmts.push({ kind: 'let', v: row, value: min(add(first, local), sub(count, 1)) });
        const lane = (j: number): Expr => {
          const c = add(column, j);
          if (width % 4 === 0) return element(row, c);
          return select(lt(c, width), element(row, min(c, width - 1)), zero('f32'));
        };
        body.store(to, add(mul(local, stride), column), packLanes([0, 1, 2, 3].map(lane)));
      },
      { step: SIZE },
    );
  }

  /** @param solid whether all of its keys exist and all queries read them */
  private keyBlock(block: Block, at: Place, mine: readonly Query[], k0: Expr, solid: Expr): void {
    const { b, h, g, t, x } = at;
    const { columns } = this;
    const { cx, keys, width, valueWidth } = this.a;
    this.fill(block, t, this.kv, columns, { first: k0, count: keys, width, stride: this.stride }, (k, d) =>
      operandAt(cx, 1, [b, g, k, d]),
    );
    block.barrier();
    const each = columns / ACROSS;
    const products = mine.map((_, i) =>
      Array.from({ length: each }, (__, j) => block.var(`s${i}_${j}`, zero('f32', 4))),
    );
    this.scoreBlock(block, x, mine, products);
    const scaled = mine.flatMap(({ q }, i) =>
      products[i]!.map((p, j) => ({
        at: { b, h, q },
        k: add(k0, add(x, j * ACROSS)),
        value: this.a.scaled(sumLanes(p)),
      })),
    );
    const all = this.a.scores(block, scaled, solid, false);
    const scores = mine.map((_, i) => all.slice(i * each, (i + 1) * each));
    mine.forEach(({ row }, i) => {
      const part = add(mul(row, ACROSS), x);
      block.store(this.parts, part, scores[i]!.map((s) => s.masked).reduce(larger));
      if (this.a.unmasked) block.store(this.others, part, scores[i]!.map((s) => s.plain).reduce(larger));
    });
    block.barrier();
    mine.forEach((query, i) => {
      this.weigh(block, query, scores[i]!, (j) => add(mul(query.row, columns), add(x, j * ACROSS)));
    });
    const valueStride = this.vectors * 4 * ACROSS;
    this.fill(block, t, this.kv, columns, { first: k0, count: keys, width: valueWidth, stride: valueStride }, (k, e) =>
      operandAt(cx, 2, [b, g, k, e]),
    );
    block.barrier();
    this.addValues(block, x, mine, valueStride);
    block.barrier();
  }

  /** Adds the products of this invocation's queries and keys of a block. */
  private scoreBlock(block: Block, x: Expr, mine: readonly Query[], products: readonly (readonly Expr[])[]): void {
    const each = this.columns / ACROSS;
    block.for(
      'd',
      0,
      Math.ceil(this.a.width / 4) * 4,
      (d, inner) => {
        const k = Array.from({ length: each }, (_, j) =>
          inner.let(`k${j}`, load(this.kv, add(mul(add(x, j * ACROSS), this.stride), d), 4)),
        );
        mine.forEach(({ row }, i) => {
          const q = inner.let('q', load(this.q, add(mul(row, this.stride), d), 4));
          k.forEach((key, j) => {
            inner.set(products[i]![j]!, fma(q, key, products[i]![j]!));
          });
        });
      },
      { step: 4 },
    );
  }

  /** Takes the block's scores into the running maximum and sum, and leaves their weights in memory. */
  private weigh(block: Block, query: Query, scores: readonly Score[], place: (j: number) => Expr): void {
    const whole = (from: Buffer): Expr => {
      const quad = (j: number): Expr => load(from, add(mul(query.row, ACROSS), j), 4);
      const pair = block.let('pair', larger(quad(0), quad(4)));
      return [0, 1, 2, 3].map((j) => extract(pair, j)).reduce(larger);
    };
    const top = block.let('block_top', whole(this.parts));
    let next = larger(query.top, top);
    let keep: Expr | undefined;
    let found: Expr | undefined;
    if (query.found) {
      // Until a key is allowed, all keys count; the first one that is makes the sums start anew.
      found = block.let('found', or(query.found, lt(literal(NONE, 'f32'), top)));
      keep = block.let('keep', eq(found, query.found));
      const before = select(keep, query.top, NONE);
      next = larger(before, select(found, top, whole(this.others)));
    }
    const now = block.let('now', next);
    const decay = exp(sub(query.top, now));
    const alpha = block.let('alpha', keep ? select(keep, decay, 0) : decay);
    block.set(query.top, now);
    block.set(query.sum, mul(query.sum, alpha));
    for (const v of query.result) block.set(v, mul(v, splat(alpha, 4)));
    if (query.found && found) block.set(query.found, found);
    scores.forEach((s, j) => {
      const score = found ? select(found, s.masked, s.plain) : s.masked;
      const weight = block.let('weight', exp(sub(score, now)));
      block.store(this.weights, place(j), weight);
      block.update('add', query.sum, weight);
    });
  }

  private addValues(block: Block, x: Expr, mine: readonly Query[], stride: number): void {
    const { columns } = this;
    block.for(
      'k',
      0,
      columns,
      (k, inner) => {
        const p = mine.map(({ row }, i) => inner.let(`p${i}`, load(this.weights, add(mul(row, columns), k), 4)));
        for (let step = 0; step < 4; step++)
          for (let j = 0; j < this.vectors; j++) {
            const column = mul(add(x, j * ACROSS), 4);
            const v = inner.let('v', load(this.kv, add(mul(add(k, step), stride), column), 4));
            mine.forEach(({ result }, i) => {
              inner.set(result[j]!, fma(splat(extract(p[i]!, step), 4), v, result[j]!));
            });
          }
      },
      { step: 4 },
    );
  }

  private finish(block: Block, { b, h, x }: Place, mine: readonly Query[]): void {
    for (const { row, sum } of mine) block.store(this.parts, add(mul(row, ACROSS), x), sum);
    block.barrier();
    const { a } = this;
    const output = a.output(0);
    for (const query of mine) {
      const quad = (j: number): Expr => load(this.parts, add(mul(query.row, ACROSS), j), 4);
      const total = block.let('total', sumLanes(block.let('pair', add(quad(0), quad(4)))));
      block.if(query.exists, (some) => {
        some.if(eq(x, 0), (one) => a.storeLse(one, { b, h, q: query.q }, query.top, total));
        if (!output) return;
        const inverse = some.let('inverse', a.inverse(total));
        query.result.forEach((v, j) => {
          const column = some.let('column', mul(add(x, j * ACROSS), 4));
          const value = some.let('value', a.result(v, total, inverse));
          const row = [b, h, query.q];
          if (a.valueWidth % 4 !== 0) {
            storeColumns(a.cx, some, row, { column, columns: 4, n: literal(a.valueWidth) }, () => value, output);
            return;
          }
          const known = variable('column', 'i32', 1, { from: 0, to: a.valueWidth - 3 });
          some.if(ge(a.valueWidth - 4, column), (one) => {
            one.stmts.push({ kind: 'let', v: known, value: column });
            storeResult(a.cx, one, [...row, known], value, output);
          });
        });
      });
    }
  }
}
