/**
 * Fused attention in row blocks: the scores of a few queries against all keys stay in scratch memory, take a full-row
 * softmax there, and meet the values; no score reaches the arena. On a CPU this is as fast as materialised scores up to
 * 1024 keys and faster than an online softmax, which pays where scratch is smaller than a row.
 *
 * B batch, H heads, G heads of k and v, Q queries, K keys, D width of a query, E width of a value.
 */
import type { Buffer, Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { Block, buffer } from '../../ir/kernel.ts';
import { coords, type EmptyRow } from '../../ir/ops/attention.ts';
import { macsOf } from '../../ir/ops/macs.ts';
import {
  add,
  cast,
  ceildiv,
  div,
  eq,
  expOfNonPositive,
  extract,
  floordiv,
  fma,
  literal,
  load,
  log,
  lowest,
  lt,
  max,
  min,
  mul,
  ne,
  neg,
  not,
  or,
  select,
  splat,
  sub,
  substitute,
  sumLanes,
  tanh,
  zero,
} from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, dim } from '../../ir/type.ts';
import { packLanes } from '../access.ts';
import type { Stage } from '../region.ts';
import { PANEL_COLUMNS } from '../target.ts';
import { type AtRow, allQuads, eachKey, MaskReach, type Quads, type Reach } from './attention-reach.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { nameCoordinates } from './element.ts';
import { rowsAlong } from './matmul.ts';
import { multiplyTile, PANEL, packPanels, panelElements, rowTiles, storeColumns } from './tile.ts';

interface Sizes {
  readonly batch: Expr;
  readonly heads: Expr;
  readonly keyHeads: Expr;
  readonly queries: Expr;
  readonly keys: Expr;
  readonly width: Expr;
  readonly valueWidth: Expr;
}

export function scheduleAttention(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const [q, k, v] = root.inputs.slice(0, 3).map((x) => typeOf(x).shape.map(asExpr)) as [Expr[], Expr[], Expr[]];
  const size: Sizes = {
    batch: q[0]!,
    heads: q[1]!,
    keyHeads: k[1]!,
    queries: q[2]!,
    keys: k[2]!,
    width: q[3]!,
    valueWidth: v[3]!,
  };
  const { dtype } = typeOf(root.inputs[0]!);
  if (dtype !== 'f32') throw new Error(`attention of ${dtype} has no kernel`);
  const batch = [size.batch, size.keyHeads];
  const pairs = mul(size.batch, size.keyHeads);
  const keys = cx.buffers.temp('keys', dtype, mul(pairs, panelElements(size.width, size.keys)));
  const values = cx.buffers.temp('values', dtype, mul(pairs, panelElements(size.keys, size.valueWidth)));
  return [
    packPanels(cx, keys, { batch, k: size.width, n: size.keys }, ([b, g, d, key]) =>
      operandAt(cx, 1, [b!, g!, key!, d!]),
    ),
    packPanels(cx, values, { batch, k: size.keys, n: size.valueWidth }, (at) => operandAt(cx, 2, at)),
    new AttentionKernel(cx, size, keys, values).stage(),
  ];
}

/** Largest value a size can take: scratch memory is sized for it. */
function most(size: Expr): number {
  const [, hi] = boundsOf(size);
  if (!Number.isFinite(hi)) throw new Error('attention needs a bound on its number of keys');
  return hi;
}

/** Where one query's row of scores stands, and what its mask and bias may mention. */
interface Row {
  readonly at: Expr;
  readonly b: Expr;
  readonly h: Expr;
  readonly q: Expr;
}

/** A block of rows, and the keys that it meets. */
interface BlockRows {
  readonly b: Expr;
  readonly h: Expr;
  readonly first: Expr;
  readonly count: Expr;
  /** Element index of the panels of its head. */
  readonly base: Expr;
  readonly reach: Reach;
}

class AttentionKernel {
  private readonly cx: ScheduleContext;
  private readonly size: Sizes;
  private readonly keys: Buffer;
  private readonly values: Buffer;
  private readonly scores: Buffer;
  private readonly inverse: Buffer;
  private readonly tile: Buffer;
  private readonly stride: number;
  private readonly scale: number;
  private readonly softcap: number;
  private readonly mask: Expr | undefined;
  private readonly bias: Expr | undefined;
  private readonly emptyRow: EmptyRow;
  private readonly reach: MaskReach | undefined;

  constructor(cx: ScheduleContext, size: Sizes, keys: Buffer, values: Buffer) {
    const { attrs } = cx.region.root;
    this.cx = cx;
    this.size = size;
    this.keys = keys;
    this.values = values;
    const rows = cx.target.attentionRows;
    this.stride = Math.ceil(most(size.keys) / PANEL_COLUMNS) * PANEL_COLUMNS;
    this.scores = buffer('scores', 'f32', rows * this.stride, { space: 'local', access: 'readwrite' });
    this.inverse = buffer('inverse', 'f32', rows, { space: 'local', access: 'readwrite' });
    const { tile } = cx.target;
    this.tile = cx.buffers.scratch('tile', 'f32', tile.rows * tile.columns);
    this.scale = (attrs.scale as number | undefined) ?? 1 / Math.sqrt(size.width.arg as number);
    this.softcap = attrs.softcap as number;
    this.mask = attrs.mask as Expr | undefined;
    this.bias = attrs.bias as Expr | undefined;
    this.emptyRow = attrs.emptyRow as EmptyRow;
    const { batch, heads, queries, keys: all } = size;
    const domain = { batch: dim(batch), heads: dim(heads), queries: dim(queries), keys: dim(all) };
    this.reach = this.mask && new MaskReach(this.mask, domain, this.emptyRow);
  }

  stage(): Stage {
    const { batch, heads, keyHeads, queries, keys, width, valueWidth } = this.size;
    const rows = this.cx.target.attentionRows;
    const blocks = ceildiv(queries, rows);
    const grid = mul(mul(batch, heads), blocks);
    const block = new Block();
    block.for(
      'u',
      0,
      grid,
      (u, body) => {
        const [b, h, rowBlock] = nameCoordinates(body, [batch, heads, blocks], u) as [Expr, Expr, Expr];
        const first = mul(rowBlock, rows);
        const count = body.let('rows', min(sub(queries, first), rows));
        const g = keyHeads === heads ? h : floordiv(h, floordiv(heads, keyHeads));
        const pair = add(mul(b, keyHeads), g);
        const reach = this.reachOf(body, count, (r) => ({ at: mul(r, this.stride), b, h, q: add(first, r) }));
        this.writeScores(body, { b, h, first, count, base: mul(pair, panelElements(width, keys)), reach });
        body.for('r', 0, count, (r, inner) => {
          const at = inner.let('row', mul(r, this.stride));
          this.softmax(inner, r, { at, b, h, q: add(first, r) }, reach);
        });
        this.writeResults(body, { b, h, first, count, base: mul(pair, panelElements(keys, valueWidth)), reach });
      },
      { bind: 'grid.x' },
    );
    const macs = macsOf(batch, heads, queries, keys, add(width, valueWidth));
    return makeStage(this.cx, block, {
      grid,
      work: mul(mul(min(queries, rows), keys), add(add(width, valueWidth), 16)),
      macs,
    });
  }

  /** The keys that a block of rows meets. */
  private reachOf(block: Block, count: Expr, rowAt: (r: Expr) => Row): Reach {
    if (!this.reach) return { from: literal(0), to: this.size.keys };
    return this.reach.block(
      block,
      count,
      (r) => this.spanAt(rowAt(r)),
      (body, r, quads) => this.reads(body, rowAt(r), quads),
    );
  }

  /** scratch[r][k] = q · k, unscaled; columns beyond K hold products with zeros. */
  private writeScores(block: Block, at: BlockRows): void {
    const { width } = this.size;
    const { rows: tileRows, columns } = this.cx.target.tile;
    const { from, to } = at.reach;
    block.for('p', floordiv(from, columns), ceildiv(to, columns), (p, body) => {
      const column = mul(p, columns);
      rowTiles(body, { first: at.first, count: at.count, total: this.size.queries }, tileRows, (tile, q) =>
        multiplyTile(tile, {
          size: q.size,
          most: q.most,
          columns,
          k: width,
          left: rowsAlong(tile, width, q, (row, k) => operandAt(this.cx, 0, [at.b, at.h, row, k])),
          panels: this.keys,
          panel: add(at.base, mul(floordiv(column, PANEL), mul(width, PANEL))),
          to: { buffer: this.scores, at: add(mul(sub(q.at(0), at.first), this.stride), column), stride: this.stride },
          tile: this.cx.target.tile,
        }),
      );
    });
  }

  /** Turns a row of scores into unnormalised weights and notes the inverse of their sum. */
  private softmax(block: Block, r: Expr, row: Row, reach: Reach): void {
    const { keys } = this.size;
    const quads = this.reach ? this.reach.row(block, reach, this.spanAt(row)) : allQuads(keys);
    // Scores as they are, scaled on their way into the exponential; or scaled, capped and biased in place before.
    const raw = this.scale > 0 && !this.bias && this.softcap === 0;
    if (!raw) this.transform(block, row, quads);
    const any = this.hide(block, row, quads);
    // Up to the next vector the row is filled with scores that weigh nothing: what follows needs no tail.
    block.for('k', keys, mul(quads.to, 4), (k, body) =>
      body.store(this.scores, add(row.at, k), literal(lowest('f32'), 'f32')),
    );
    const score = (q: Expr): Expr => load(this.scores, add(row.at, mul(q, 4)), 4);
    const wide = block.var('top', literal(lowest('f32'), 'f32', 4));
    block.for('q', quads.from, quads.to, (q, body) => body.set(wide, greater(wide, score(q))));
    const top = block.let('top', LANES.map((j) => extract(wide, j)).reduce(greater));
    const highest = raw ? mul(top, this.scale) : top;
    const shift = block.let('shift', any && this.emptyRow === 'zero' ? select(any, highest, 0) : highest);
    const total = block.var('total', zero('f32', 4));
    block.for('q', quads.from, quads.to, (q, body) => {
      const e = body.let('e', expOfNonPositive(raw ? fma(score(q), this.scale, neg(shift)) : sub(score(q), shift)));
      body.store(this.scores, add(row.at, mul(q, 4)), e);
      body.update('add', total, e);
    });
    const sum = block.let('sum', sumLanes(total));
    const lse = add(shift, log(sum));
    this.storeLse(block, row, any && this.emptyRow !== 'unmasked' ? select(any, lse, lowest('f32')) : lse);
    block.store(this.inverse, r, this.inverseOf(sum, any));
    if (this.emptyRow === 'uniform' && any)
      block.if(not(any), (empty) =>
        empty.for('q', quads.from, quads.to, (q, body) =>
          body.store(this.scores, add(row.at, mul(q, 4)), literal(1, 'f32', 4)),
        ),
      );
  }

  private inverseOf(sum: Expr, any: Expr | undefined): Expr {
    const inverse = div(literal(1, 'f32'), sum);
    switch (this.emptyRow) {
      case 'zero':
        return select(eq(sum, 0), 0, inverse);
      case 'nan':
        return any ? select(any, inverse, Number.NaN) : inverse;
      case 'uniform':
        return any ? select(any, inverse, div(literal(1, 'f32'), cast(this.size.keys, 'f32'))) : inverse;
      case 'unmasked':
        return inverse;
    }
  }

  /** Scales, caps and biases the row in place. */
  private transform(block: Block, row: Row, { from, to }: Quads): void {
    const { bias, softcap } = this;
    eachKey(block, { from, to, keys: this.size.keys }, (k, lanes, body) => {
      const raw = mul(load(this.scores, add(row.at, k), lanes), this.scale);
      const capped = softcap > 0 ? mul(tanh(div(raw, softcap)), softcap) : raw;
      const biased = bias
        ? add(
            capped,
            this.lanes(lanes, k, (at) => this.atKey(bias, row, at)),
          )
        : capped;
      body.store(this.scores, add(row.at, k), biased);
    });
  }

  /** Puts −∞ in place of scores that the mask hides. @returns whether the query may read some key; undefined: all */
  private hide(block: Block, row: Row, quads: Quads): Expr | undefined {
    const { mask } = this;
    if (!mask) return undefined;
    const fill = (body: Block, k: Expr, lanes: 1 | 4, allowed: Expr): void => {
      const at = add(row.at, k);
      body.store(this.scores, at, select(allowed, load(this.scores, at, lanes), lowest('f32')));
    };
    if (this.emptyRow !== 'unmasked') return this.reads(block, row, quads, fill);
    const any = this.reads(block, row, quads);
    block.if(any, (some) => void this.reads(some, row, quads, fill));
    return any;
  }

  /** Whether the mask lets a query read some key of those vectors; `visit` sees the ones where it decides. */
  private reads(
    block: Block,
    row: Row,
    { from, solid, masked, to }: Quads,
    visit: (body: Block, k: Expr, lanes: 1 | 4, allowed: Expr) => void = () => {},
  ): Expr {
    const mask = this.mask!;
    const found = { 4: block.var('found', zero('f32', 4)), 1: block.var('found', zero('f32')) } as const;
    const part = (start: Expr, end: Expr): void =>
      eachKey(block, { from: start, to: end, keys: this.size.keys }, (k, lanes, body) => {
        const allowed = body.let(
          'allowed',
          this.lanes(lanes, k, (at) => this.atKey(mask, row, at)),
        );
        visit(body, k, lanes, allowed);
        body.set(found[lanes], select(allowed, literal(1, 'f32', lanes), found[lanes]));
      });
    part(from, solid);
    if (masked !== to) part(masked, to);
    const decided = ne(
      LANES.map((j) => extract(found[4], j)).reduce((a, b) => max(a, b), found[1]),
      0,
    );
    return block.let('any', or(lt(solid, masked), decided));
  }

  private writeResults(block: Block, at: BlockRows): void {
    const output = this.result(0);
    if (!output) return;
    const { keys, valueWidth } = this.size;
    const { from, to } = at.reach;
    const { rows: tileRows, columns } = this.cx.target.tile;
    block.for('p', 0, ceildiv(valueWidth, columns), (p, body) => {
      const column = mul(p, columns);
      rowTiles(
        body,
        { first: at.first, count: at.count, total: this.size.queries },
        tileRows,
        (tile, q) => {
          const start = tile.let('weights', add(mul(sub(q.at(0), at.first), this.stride), from));
          multiplyTile(tile, {
            size: q.size,
            most: q.most,
            columns,
            k: sub(to, from),
            depth: keys,
            left: {
              buffer: this.scores,
              starts: { first: start, distance: literal(this.stride) },
              step: literal(1),
            },
            panels: this.values,
            panel: add(at.base, add(mul(floordiv(column, PANEL), mul(keys, PANEL)), mul(from, PANEL))),
            to: { buffer: this.tile, at: literal(0), stride: columns },
            tile: this.cx.target.tile,
          });
        },
        (line, q, i) => {
          const inverse = line.let('inverse', splat(load(this.inverse, sub(q, at.first)), 4));
          const value = (j: Expr): Expr => mul(load(this.tile, add(mul(i, columns), j), 4), inverse);
          storeColumns(this.cx, line, [at.b, at.h, q], { column, columns, n: valueWidth }, value, output);
        },
      );
    });
  }

  private storeLse(block: Block, row: Row, lse: Expr): void {
    const output = this.cx.region.root.attrs.lse === true ? this.result(1) : undefined;
    if (output) storeResult(this.cx, block, [row.b, row.h, row.q], lse, output);
  }

  /** The output that takes result number `index`; undefined when nobody reads it. */
  private result(index: number): Value | undefined {
    const { outputs, root } = this.cx.region;
    if (root.type.kind === 'tensor') return index === 0 ? outputs[0] : undefined;
    return outputs.find((v) => v.attrs.index === index);
  }

  private lanes(lanes: 1 | 4, k: Expr, element: (k: Expr) => Expr): Expr {
    return lanes === 1 ? element(k) : packLanes([0, 1, 2, 3].map((j) => element(add(k, j))));
  }

  /** What a span is at a row. */
  private spanAt(row: Row): AtRow {
    return (_, e) => this.atKey(e, row, literal(0));
  }

  /** A mask or bias at one score of the row. */
  private atKey(e: Expr, row: Row, k: Expr): Expr {
    const visit = (root: Expr): Expr =>
      substitute(root, (x) => {
        if (x === coords.b) return row.b;
        if (x === coords.h) return row.h;
        if (x === coords.q) return row.q;
        if (x === coords.k) return k;
        return x.op === 'operand' ? operandAt(this.cx, x.arg as number, x.args.map(visit)) : undefined;
      });
    return visit(e);
  }
}

const LANES = [0, 1, 2, 3] as const;

/** The larger of two; a NaN on the right is dropped, since the sum of the row's exponentials brings it back. */
const greater = (a: Expr, b: Expr): Expr => select(lt(a, b), b, a);
