/**
 * Product of 8-bit integers in register tiles. Two neighbours in k stand side by side in 32 bits: the left operand centred
 * and widened to pairs of 16 bits, row by row; the right one as pairs of bytes in panels of 8 columns, widened while they
 * are loaded. One instruction then multiplies and adds two values of k for four columns.
 *
 * M rows, N columns, K inner, H = ⌈K/2⌉ pairs.
 */
import type { Buffer, Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { dotPairs, widenPair } from '../../ir/intrinsics.ts';
import { Block } from '../../ir/kernel.ts';
import { macsOf } from '../../ir/ops/macs.ts';
import {
  add,
  and,
  cast,
  ceildiv,
  floordiv,
  literal,
  load,
  lt,
  min,
  mul,
  or,
  select,
  shl,
  shuffle,
  splat,
  sub,
  sumLanes,
  zero,
} from '../../ir/scalar.ts';
import { asExpr, elements, type Shape } from '../../ir/type.ts';
import { broadcastAt, flatten, packLanes, unflatten, uniformConstant } from '../access.ts';
import { pairsOf, type Stage } from '../region.ts';
import { PANEL_COLUMNS, type Tile } from '../target.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { nameCoordinates } from './element.ts';
import { bySize, PANEL, rowTiles, storeColumns } from './tile.ts';

interface Product {
  readonly m: Expr;
  readonly n: Expr;
  readonly k: Expr;
  /** Pairs along k. */
  readonly half: Expr;
  /** Leading axes that select both a left and a right matrix. */
  readonly batch: Shape;
  /** Row axes: the left operand's rows, with leading axes folded in when the right operand has none of its own. */
  readonly rows: Shape;
  /** Leading axes of the right operand. */
  readonly lead: Shape;
  readonly transposedB: boolean;
  /** What is subtracted from an element of the right operand to make it a signed byte. */
  readonly offset: 0 | 128;
}

export function scheduleIntegerMatmul(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const out = typeOf(root).shape;
  const [left, right] = [typeOf(root.inputs[0]!), typeOf(root.inputs[1]!)];
  const lead = right.shape.slice(0, -2);
  const shared = elements(lead) === literal(1);
  const k = asExpr(left.shape.at(-1)!);
  const p: Product = {
    m: shared ? elements(out.slice(0, -1)) : asExpr(out.at(-2)!),
    n: asExpr(out.at(-1)!),
    k,
    half: ceildiv(k, 2),
    batch: shared ? [] : out.slice(0, -2),
    rows: shared ? out.slice(0, -1) : out.slice(-2, -1),
    lead: shared ? [] : lead,
    transposedB: root.attrs.transposeB === true,
    offset: right.dtype === 'u8' ? 128 : 0,
  };
  const tile = cx.target.integerTile;
  if (!tile) return [oneByOne(cx, p)];
  const zeros = rightZeros(cx, p);
  const rows = packLeft(cx, p, zeros !== undefined);
  const panels = rightPanels(cx, p);
  const stages = [rows.stage, ...panels.stages, ...(zeros?.stages ?? [])];
  return [...stages, multiply(cx, p, tile, { left: rows.left, sums: rows.sums, panels: panels.buffer, zeros })];
}

// Operands.

/** An element of the left operand less its zero point. @param at batch and row coordinates of the result */
function leftAt(cx: ScheduleContext, at: readonly Expr[], zeroPoint: Expr | undefined, k: Expr): Expr {
  const lead = broadcastAt(typeOf(cx.region.root.inputs[0]!).shape.slice(0, -2), at.slice(0, -1));
  const x = cast(operandAt(cx, 0, [...lead, at.at(-1)!, k]), 'i32');
  return zeroPoint ? sub(x, zeroPoint) : x;
}

function leftZero(cx: ScheduleContext, at: readonly Expr[]): Expr | undefined {
  const point = cx.region.root.inputs[2];
  if (!point || uniformConstant(point) === 0) return undefined;
  return cast(operandAt(cx, 2, broadcastAt(typeOf(point).shape, [...at, literal(0)])), 'i32');
}

/** @param lead coordinates in the leading axes of the right operand */
function rightAt(cx: ScheduleContext, p: Product, lead: readonly Expr[], k: Expr, n: Expr): Expr {
  const axes = typeOf(cx.region.root.inputs[1]!).shape.length - 2;
  const at = p.lead.length === axes ? lead : Array.from({ length: axes }, () => literal(0));
  return cast(operandAt(cx, 1, [...at, ...(p.transposedB ? [n, k] : [k, n])]), 'i32');
}

interface PackedLeft {
  /** Pairs [rows][H] of 16-bit values. */
  readonly left: Buffer;
  /** The sum of each row, where it is asked for. */
  readonly sums: Buffer | undefined;
  readonly stage: Stage;
}

/** The pair of two 16-bit values: low | high << 16. */
const pairOf = (low: Expr, high: Expr): Expr => or(and(low, literal(0xffff, 'i32', low.lanes)), shl(high, 16));

function packLeft(cx: ScheduleContext, p: Product, summed: boolean): PackedLeft {
  const shape = [...p.batch, ...p.rows];
  const rows = elements(shape);
  const left = cx.buffers.temp('left', 'i32', mul(rows, p.half));
  const sums = summed ? cx.buffers.temp('sums', 'i32', rows) : undefined;
  const block = new Block();
  const units = (lanes: 1 | 4): Expr => literal(0x10001, 'i32', lanes);
  block.for(
    'row',
    0,
    rows,
    (row, body) => {
      const at = nameCoordinates(body, shape, row);
      const point = leftZero(cx, at);
      const named = point && body.let('zero', point);
      const element = (k: Expr): Expr => leftAt(cx, at, named, k);
      const base = body.let('base', mul(row, p.half));
      const vector = sums && body.var('sums', zero('i32', 4));
      const total = sums && body.var('sum', zero('i32'));
      // Eight values of k are four pairs: even ones below, odd ones above.
      const octets = floordiv(p.k, 8);
      body.for('q', 0, octets, (q, inner) => {
        const quad = (from: number): Expr =>
          inner.let('x', packLanes([0, 1, 2, 3].map((j) => element(add(mul(q, 8), from + j)))));
        const [a, b] = [quad(0), quad(4)];
        const pairs = inner.let('pairs', pairOf(shuffle(a, b, [0, 2, 4, 6]), shuffle(a, b, [1, 3, 5, 7])));
        inner.store(left, add(base, mul(q, 4)), pairs);
        if (vector) inner.update('add', vector, dotPairs(pairs, units(4)));
      });
      body.for('h', mul(octets, 4), p.half, (h, inner) => {
        const odd = add(mul(h, 2), 1);
        const last = select(lt(odd, p.k), element(min(odd, sub(p.k, 1))), 0);
        const pair = inner.let('pair', pairOf(element(mul(h, 2)), last));
        inner.store(left, add(base, h), pair);
        if (total) inner.update('add', total, dotPairs(pair, units(1)));
      });
      if (sums) body.store(sums, row, add(sumLanes(vector!), total!));
    },
    { bind: 'grid.x' },
  );
  return { left, sums, stage: makeStage(cx, block, { grid: rows, work: mul(p.k, 2) }) };
}

const panelElements = (p: Product): Expr => mul(ceildiv(p.n, PANEL_COLUMNS), mul(p.half, PANEL_COLUMNS));

/** The right operand in panels of byte pairs: packed when the bundle is made, or by a stage of its own. */
function rightPanels(cx: ScheduleContext, p: Product): { readonly buffer: Buffer; readonly stages: readonly Stage[] } {
  const { root } = cx.region;
  const layout = pairsOf(root, (v) => cx.buffers.isStatic(v));
  if (layout) return { buffer: cx.buffers.weight(root.inputs[1]!, layout), stages: [] };
  const panels = cx.buffers.temp('panels', 'u16', mul(elements(p.lead), panelElements(p)));
  const groups = mul(ceildiv(p.n, PANEL_COLUMNS), PANEL_COLUMNS / PANEL);
  const grid = mul(elements(p.lead), groups);
  const block = new Block();
  block.for(
    'u',
    0,
    grid,
    (u, body) => {
      const outer = nameCoordinates(body, [...p.lead, groups], u);
      const first = mul(outer.at(-1)!, PANEL);
      const byte = (k: Expr, n: Expr): Expr => and(sub(rightAt(cx, p, outer.slice(0, -1), k, n), p.offset), 0xff);
      const bytes = (h: Expr, n: Expr): Expr => {
        const odd = add(mul(h, 2), 1);
        const high = select(lt(odd, p.k), byte(min(odd, sub(p.k, 1)), n), 0);
        return or(byte(mul(h, 2), n), shl(high, 8));
      };
      body.for('h', 0, p.half, (h, inner) => {
        const to = add(mul(u, mul(p.half, PANEL)), mul(h, PANEL));
        for (let j = 0; j < PANEL; j++) {
          const n = add(first, j);
          const value = select(lt(n, p.n), bytes(h, min(n, sub(p.n, 1))), 0);
          inner.store(panels, add(to, j), cast(value, 'u16'));
        }
      });
    },
    { bind: 'grid.x' },
  );
  return { buffer: panels, stages: [makeStage(cx, block, { grid, work: mul(mul(p.half, PANEL), 8) })] };
}

/** What each signed byte of the right operand still has to be reduced by. */
interface Zeros {
  /** Of four columns from `column` on. */
  at(batch: readonly Expr[], column: Expr): Expr;
  readonly stages: readonly Stage[];
}

/** Undefined where it is 0 everywhere. */
function rightZeros(cx: ScheduleContext, p: Product): Zeros | undefined {
  const point: Value | undefined = cx.region.root.inputs[3];
  const uniform = point ? uniformConstant(point) : 0;
  if (uniform !== undefined) {
    const rest = uniform - p.offset;
    return rest === 0 ? undefined : { at: () => literal(rest, 'i32', 4), stages: [] };
  }
  const { shape } = typeOf(point!);
  const lead = shape.slice(0, -2);
  const width = mul(ceildiv(p.n, PANEL_COLUMNS), PANEL_COLUMNS);
  const zeros = cx.buffers.temp('zeros', 'i32', mul(elements(lead), width));
  const grid = elements(lead);
  const block = new Block();
  block.for(
    'u',
    0,
    grid,
    (u, body) => {
      const outer = nameCoordinates(body, lead, u);
      body.for('n', 0, width, (n, inner) => {
        const at = [...outer, literal(0), min(n, sub(p.n, 1))];
        const own = broadcastAt(shape, at);
        inner.store(zeros, add(mul(u, width), n), sub(cast(operandAt(cx, 3, own), 'i32'), p.offset));
      });
    },
    { bind: 'grid.x' },
  );
  return {
    at: (batch, column) => load(zeros, add(mul(flatten(lead, broadcastAt(lead, batch)), width), column), 4),
    stages: [makeStage(cx, block, { grid, work: width })],
  };
}

// The product.

interface Packed {
  readonly left: Buffer;
  readonly sums: Buffer | undefined;
  readonly panels: Buffer;
  readonly zeros: Zeros | undefined;
}

function multiply(cx: ScheduleContext, p: Product, tile: Tile, { left, sums, panels, zeros }: Packed): Stage {
  const { rows: tileRows, columns } = tile;
  const { rowBlock } = cx.target;
  const units = ceildiv(p.n, PANEL_COLUMNS);
  const blocks = ceildiv(p.m, rowBlock);
  const grid = mul(elements(p.batch), mul(blocks, units));
  const block = new Block();
  block.for(
    'u',
    0,
    grid,
    (u, body) => {
      const outer = nameCoordinates(body, [...p.batch, blocks, units], u);
      const [rowBlockAt, unit] = outer.slice(-2) as [Expr, Expr];
      const batch = outer.slice(0, -2);
      const firstRow = mul(rowBlockAt, rowBlock);
      const count = body.let('rows', min(sub(p.m, firstRow), rowBlock));
      const base = mul(flatten(p.lead, broadcastAt(p.lead, batch)), panelElements(p));
      const before = mul(flatten(p.batch, batch), p.m);
      const column = mul(unit, PANEL_COLUMNS);
      const scratch = cx.buffers.scratch('tile', 'i32', tileRows * PANEL_COLUMNS);
      rowTiles(
        body,
        { first: firstRow, count, total: p.m },
        tileRows,
        (body, { size, most, at }) =>
          bySize(body, size, most, (some, rows) => {
            const starts = Array.from({ length: rows }, (_, i) => mul(add(before, at(i)), p.half));
            for (let c = 0; c < PANEL_COLUMNS; c += columns)
              multiplyPairs(some, {
                rows,
                tile,
                half: p.half,
                left: { buffer: left, starts },
                panels,
                panel: add(base, mul(floordiv(add(column, c), PANEL), mul(p.half, PANEL))),
                to: { buffer: scratch, at: c },
              });
          }),
        (line, row, i) => {
          const sum = sums && line.let('sum', load(sums, add(before, row)));
          const place = [...batch, ...(p.rows.length === 1 ? [row] : unflatten(p.rows, row))];
          storeColumns(cx, line, place, { column, columns: PANEL_COLUMNS, n: p.n }, (at) => {
            const dots = load(scratch, add(mul(i, PANEL_COLUMNS), at), 4);
            return zeros ? sub(dots, mul(zeros.at(batch, add(column, at)), splat(sum!, 4))) : dots;
          });
        },
      );
    },
    { bind: 'grid.x' },
  );
  const work = mul(mul(min(p.m, rowBlock), PANEL_COLUMNS), p.k);
  return makeStage(cx, block, { grid, work, macs: macsOf(...p.batch, ...p.rows, p.n, p.k) });
}

interface PairTile {
  readonly rows: number;
  readonly tile: Tile;
  readonly half: Expr;
  readonly left: { readonly buffer: Buffer; readonly starts: readonly Expr[] };
  readonly panels: Buffer;
  /** Element index of the first panel's first row. */
  readonly panel: Expr;
  /** Where the sums go: row i, column j at `at + 16·i + j`. */
  readonly to: { readonly buffer: Buffer; readonly at: number };
}

/** Writes Σ over k of left · right for one register tile: a routine, which all integer products of a bundle share. */
function multiplyPairs(block: Block, t: PairTile): void {
  const { columns, unroll } = t.tile;
  const vectors = columns / 4;
  const starts = Object.fromEntries(t.left.starts.map((start, i) => [`left${i}`, start]));
  block.routine(
    `pairs${t.rows}x${columns}`,
    [t.left.buffer, t.panels, t.to.buffer],
    { half: t.half, panel: t.panel, to: t.to.at, ...starts },
    (p, body) => {
      const acc = Array.from({ length: t.rows }, (_, i) =>
        Array.from({ length: vectors }, (__, j) => body.var(`acc${i}_${j}`, zero('i32', 4))),
      );
      const fence = t.rows === 1 ? 'none' : t.tile.fence;
      const step = (inner: Block, h: Expr, last: boolean): void => {
        const right = Array.from({ length: vectors }, (_, j) => {
          const across = add(mul(mul(p.half!, PANEL), Math.floor(j / 2)), (j % 2) * 4);
          return inner.let(`b${j}`, widenPair(load(t.panels, add(add(p.panel!, mul(h, PANEL)), across), 4)));
        });
        for (let i = 0; i < t.rows; i++) {
          const a = inner.let(`a${i}`, splat(load(t.left.buffer, add(p[`left${i}`]!, h)), 4));
          for (let j = 0; j < vectors; j++) inner.update('add', acc[i]![j]!, dotPairs(a, right[j]!));
          const ends = fence === 'row' || (fence === 'step' && i === t.rows - 1);
          if (ends && !(last && i === t.rows - 1)) inner.fence();
        }
      };
      const whole = mul(floordiv(p.half!, unroll), unroll);
      body.for(
        'h',
        0,
        whole,
        (h, inner) => {
          for (let s = 0; s < unroll; s++) step(inner, add(h, s), s === unroll - 1);
        },
        { step: unroll },
      );
      if (unroll > 1) body.for('h', whole, p.half!, (h, inner) => step(inner, h, true));
      acc.forEach((row, i) => {
        row.forEach((v, j) => {
          body.store(t.to.buffer, add(p.to!, i * PANEL_COLUMNS + j * 4), v);
        });
      });
    },
  );
}

/** Targets without tiles of integers: one sum at a time. */
function oneByOne(cx: ScheduleContext, p: Product): Stage {
  const shape = [...p.batch, ...p.rows];
  const rows = elements(shape);
  const point = cx.region.root.inputs[3];
  const block = new Block();
  block.for(
    'row',
    0,
    rows,
    (row, body) => {
      const at = nameCoordinates(body, shape, row);
      const batch = at.slice(0, p.batch.length);
      const lead = broadcastAt(p.lead, batch);
      const zeroOfLeft = leftZero(cx, at);
      body.for('n', 0, p.n, (n, column) => {
        const zeroOfRight =
          point && cast(operandAt(cx, 3, broadcastAt(typeOf(point).shape, [...batch, literal(0), n])), 'i32');
        const acc = column.var('acc', zero('i32'));
        column.for('k', 0, p.k, (k, inner) => {
          const right = rightAt(cx, p, lead, k, n);
          const y = zeroOfRight ? sub(right, zeroOfRight) : right;
          inner.update('add', acc, mul(leftAt(cx, at, zeroOfLeft, k), y));
        });
        storeResult(cx, column, [...at, n], acc);
      });
    },
    { bind: 'grid.x' },
  );
  const macs = macsOf(...p.batch, ...p.rows, p.n, p.k);
  return makeStage(cx, block, { grid: rows, work: mul(mul(p.n, p.k), 4), macs });
}
