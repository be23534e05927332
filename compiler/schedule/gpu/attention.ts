/**
 * Fused attention with an online softmax: a workgroup takes a block of queries of one head, walks the keys in blocks, and
 * keeps for each query the largest score so far, the sum of its exponentials and the weighted sum of values. Scores exist
 * for one block at a time, in workgroup memory. Dao et al. 2022, algorithm 1.
 *
 * Eight by eight invocations: invocation (x, y) has the queries y, y + 8, …, of those the keys x, x + 8, … of a block, and the
 * columns 4x … 4x + 3, 4(x + 8) … of the result.
 *
 * B batch, H heads, G heads of k and v, Q queries, K keys, D width of a query, E width of a value.
 */
import { fail } from '../../../ir/diagnostic.ts';
import type { Buffer, Expr } from '../../../ir/expr.ts';
import { typeOf, type Value } from '../../../ir/graph.ts';
import { Block, buffer } from '../../../ir/kernel.ts';
import { coords } from '../../../ir/ops/attention.ts';
import { macsOf } from '../../../ir/ops/macs.ts';
import {
  add,
  and,
  bool,
  ceildiv,
  div,
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
  log,
  lt,
  min,
  mul,
  or,
  select,
  splat,
  sub,
  substitute,
  sumLanes,
  tanh,
  variable,
  zero,
} from '../../../ir/scalar.ts';
import { boundsOf } from '../../../ir/simplify.ts';
import { asExpr } from '../../../ir/type.ts';
import { packLanes } from '../../access.ts';
import { gpuOf } from '../../gpu-target.ts';
import type { Stage } from '../../region.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { storeColumns } from '../tile.ts';
import { workgroups } from './invocations.ts';

const SIDE = 8;
const SIZE = SIDE * SIDE;
/** Bytes of workgroup memory on every device. */
const MEMORY = 16384;
/** Below every score: the largest score of no key, and the score of a key that may not be read. Finite, so that it cancels. */
const NONE = -3e38;

export function scheduleAttentionGpu(cx: ScheduleContext): readonly Stage[] {
  return [new AttentionKernel(cx).stage()];
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
  private readonly cx: ScheduleContext;
  private readonly batch: Expr;
  private readonly heads: Expr;
  private readonly keyHeads: Expr;
  private readonly queries: Expr;
  private readonly keys: Expr;
  /** D and E. */
  private readonly width: number;
  private readonly valueWidth: number;
  private readonly scale: number;
  private readonly softcap: number;
  private readonly mask: Expr | undefined;
  private readonly bias: Expr | undefined;
  private readonly emptyRow: 'zero' | 'nan' | 'uniform' | 'unmasked';
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
    this.emptyRow = attrs.emptyRow as AttentionKernel['emptyRow'];
    this.stride = Math.ceil(this.width / 4) * 4 + 4;
    this.vectors = Math.ceil(this.valueWidth / (4 * SIDE));
    [this.rows, this.columns] = this.blocks();
    const shared = (name: string, size: number): Buffer =>
      buffer(name, 'f32', size, { space: 'shared', access: 'readwrite' });
    this.q = shared('queries', this.rows * this.stride);
    this.kv = shared('keys', this.columns * Math.max(this.stride, this.vectors * 4 * SIDE));
    this.weights = shared('weights', this.rows * this.columns);
    this.parts = shared('parts', this.rows * SIDE);
    this.others = shared('others', this.rows * SIDE);
  }

  private fixed(size: Expr, of: string): number {
    if (size.op === 'const') return size.arg as number;
    return fail('unsupported', `attention: the width of a ${of} must be known when compiled for WebGPU`, {
      help: 'fix the symbol that it is made of',
    });
  }

  /** The largest blocks that fit workgroup memory; few queries have small ones. */
  private blocks(): readonly [rows: number, columns: number] {
    const most = Math.max(SIDE, boundsOf(this.queries)[1]);
    const bytes = ([rows, columns]: readonly [number, number]): number =>
      4 *
      (rows * this.stride +
        columns * Math.max(this.stride, this.vectors * 4 * SIDE) +
        rows * (columns + (this.unmasked ? 2 : 1) * SIDE));
    const fits = gpuOf(this.cx.target).attention.filter((b) => bytes(b) <= MEMORY);
    const found = fits.find(([rows]) => rows < 2 * most) ?? fits.at(-1);
    return (
      found ??
      fail('unsupported', `attention: a head of width ${this.width} is too wide for WebGPU's workgroup memory`, {
        loc: this.cx.region.root.loc,
      })
    );
  }

  private get unmasked(): boolean {
    return this.mask !== undefined && this.emptyRow === 'unmasked';
  }

  stage(): Stage {
    const { batch, heads, keyHeads, queries, keys, rows } = this;
    const blocks = ceildiv(queries, rows);
    const grid = mul(mul(batch, heads), blocks);
    const block = new Block();
    workgroups(block, grid, SIZE, (u, t, body) => {
      const [b, h, queryBlock] = nameCoordinates(body, [batch, heads, blocks], u) as [Expr, Expr, Expr];
      const g = keyHeads === heads ? h : body.let('g', floordiv(h, floordiv(heads, keyHeads)));
      const x = body.let('x', floormod(t, SIDE));
      const y = body.let('y', floordiv(t, SIDE));
      const at: Place = { b, h, g, t, x, y };
      const first = body.let('first', mul(queryBlock, rows));
      this.fill(body, t, this.q, rows, { first, count: queries, width: this.width, stride: this.stride }, (q, d) =>
        operandAt(this.cx, 0, [b, h, q, d]),
      );
      const mine = this.myQueries(body, y, first);
      body.for('k0', 0, keys, (k0, turn) => this.keyBlock(turn, at, mine, k0), { step: this.columns });
      this.finish(body, at, mine);
    });
    const macs = macsOf(batch, heads, queries, keys, literal(this.width + this.valueWidth));
    return makeStage(this.cx, block, { grid, work: mul(keys, rows * (this.width + this.valueWidth)), macs });
  }

  private myQueries(block: Block, y: Expr, first: Expr): readonly Query[] {
    return Array.from({ length: this.rows / SIDE }, (_, i) => {
      const row = add(y, i * SIDE);
      const q = variable(`q${i}`, 'i32', 1, { from: 0, to: this.queries });
      block.stmts.push({ kind: 'let', v: q, value: min(add(first, row), sub(this.queries, 1)) });
      return {
        row,
        q,
        exists: lt(add(first, row), this.queries),
        top: block.var(`top${i}`, literal(NONE, 'f32')),
        sum: block.var(`sum${i}`, zero('f32')),
        found: this.unmasked ? block.var(`found${i}`, bool(false)) : undefined,
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

  private keyBlock(block: Block, at: Place, mine: readonly Query[], k0: Expr): void {
    const { b, g, t, x } = at;
    const { keys, columns } = this;
    this.fill(block, t, this.kv, columns, { first: k0, count: keys, width: this.width, stride: this.stride }, (k, d) =>
      operandAt(this.cx, 1, [b, g, k, d]),
    );
    block.barrier();
    const each = columns / SIDE;
    const products = mine.map((_, i) =>
      Array.from({ length: each }, (__, j) => block.var(`s${i}_${j}`, zero('f32', 4))),
    );
    block.for(
      'd',
      0,
      Math.ceil(this.width / 4) * 4,
      (d, inner) => {
        const k = Array.from({ length: each }, (_, j) =>
          inner.let(`k${j}`, load(this.kv, add(mul(add(x, j * SIDE), this.stride), d), 4)),
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
    const scores = mine.map((query, i) =>
      products[i]!.map((p, j) => this.score(block, at, query, add(k0, add(x, j * SIDE)), sumLanes(p))),
    );
    mine.forEach(({ row }, i) => {
      const part = add(mul(row, SIDE), x);
      block.store(this.parts, part, scores[i]!.map((s) => s.masked).reduce(larger));
      if (this.unmasked) block.store(this.others, part, scores[i]!.map((s) => s.plain).reduce(larger));
    });
    block.barrier();
    mine.forEach((query, i) => {
      this.weigh(block, query, scores[i]!, (j) => add(mul(query.row, columns), add(x, j * SIDE)));
    });
    const valueStride = this.vectors * 4 * SIDE;
    this.fill(
      block,
      t,
      this.kv,
      columns,
      { first: k0, count: keys, width: this.valueWidth, stride: valueStride },
      (k, e) => operandAt(this.cx, 2, [b, g, k, e]),
    );
    block.barrier();
    this.addValues(block, x, mine, valueStride);
    block.barrier();
  }

  /** A score as the softmax sees it, with and without its mask. */
  private score(block: Block, at: Place, { q }: Query, k: Expr, product: Expr): Score {
    const inside = lt(k, this.keys);
    const key = variable('key', 'i32', 1, { from: 0, to: this.keys });
    if (this.mask || this.bias) block.stmts.push({ kind: 'let', v: key, value: min(k, sub(this.keys, 1)) });
    const scaled = mul(product, this.scale);
    const capped = this.softcap > 0 ? mul(tanh(div(scaled, this.softcap)), this.softcap) : scaled;
    const biased = this.bias ? add(capped, this.atKey(this.bias, at, q, key)) : capped;
    const plain = block.let('plain', select(inside, biased, NONE));
    if (!this.mask) return { plain, masked: plain, allowed: inside, inside };
    const allowed = block.let('allowed', and(inside, this.atKey(this.mask, at, q, key)));
    return { plain, masked: block.let('masked', select(allowed, plain, NONE)), allowed, inside };
  }

  /** Takes the block's scores into the running maximum and sum, and leaves their weights in memory. */
  private weigh(block: Block, query: Query, scores: readonly Score[], place: (j: number) => Expr): void {
    const whole = (from: Buffer): Expr => {
      const quad = (j: number): Expr => load(from, add(mul(query.row, SIDE), j), 4);
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
      const counts = found ? select(found, s.allowed, s.inside) : this.emptyRow === 'uniform' ? s.inside : s.allowed;
      const weight = block.let('weight', select(counts, exp(sub(score, now)), 0));
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
            const column = mul(add(x, j * SIDE), 4);
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
    for (const { row, sum } of mine) block.store(this.parts, add(mul(row, SIDE), x), sum);
    block.barrier();
    const [output, lse] = [this.result(0), this.cx.region.root.attrs.lse === true ? this.result(1) : undefined];
    for (const query of mine) {
      const quad = (j: number): Expr => load(this.parts, add(mul(query.row, SIDE), j), 4);
      const total = block.let('total', sumLanes(block.let('pair', add(quad(0), quad(4)))));
      block.if(query.exists, (some) => {
        if (lse) {
          const none = le(query.top, literal(NONE, 'f32'));
          const value = select(none, -Infinity, add(query.top, log(total)));
          some.if(eq(x, 0), (one) => storeResult(this.cx, one, [b, h, query.q], one.let('lse', value), lse));
        }
        if (!output) return;
        const inverse = some.let('inverse', this.inverse(total));
        query.result.forEach((v, j) => {
          const column = some.let('column', mul(add(x, j * SIDE), 4));
          const value = some.let('value', mul(v, splat(inverse, 4)));
          const row = [b, h, query.q];
          if (this.valueWidth % 4 !== 0) {
            storeColumns(this.cx, some, row, { column, columns: 4, n: literal(this.valueWidth) }, () => value, output);
            return;
          }
          const known = variable('column', 'i32', 1, { from: 0, to: this.valueWidth - 3 });
          some.if(ge(this.valueWidth - 4, column), (one) => {
            one.stmts.push({ kind: 'let', v: known, value: column });
            storeResult(this.cx, one, [...row, known], value, output);
          });
        });
      });
    }
  }

  private inverse(total: Expr): Expr {
    const inverse = div(literal(1, 'f32'), total);
    if (this.emptyRow === 'zero') return select(eq(total, 0), 0, inverse);
    return inverse;
  }

  /** The output that takes result number `index`; undefined when nobody reads it. */
  private result(index: number): Value | undefined {
    const { outputs, root } = this.cx.region;
    if (root.type.kind === 'tensor') return index === 0 ? outputs[0] : undefined;
    return outputs.find((v) => v.attrs.index === index);
  }

  /** A mask or bias at one score. */
  private atKey(e: Expr, { b, h }: Place, q: Expr, k: Expr): Expr {
    const visit = (root: Expr): Expr =>
      substitute(root, (x) => {
        if (x === coords.b) return b;
        if (x === coords.h) return h;
        if (x === coords.q) return q;
        if (x === coords.k) return k;
        return x.op === 'operand' ? operandAt(this.cx, x.arg as number, x.args.map(visit)) : undefined;
      });
    return visit(e);
  }
}

interface Score {
  readonly plain: Expr;
  readonly masked: Expr;
  readonly allowed: Expr;
  /** Whether the key exists. */
  readonly inside: Expr;
}

/** The larger of two; a NaN is dropped, since the sum of the row's exponentials brings it back. */
const larger = (a: Expr, b: Expr): Expr => select(lt(a, b), b, a);
