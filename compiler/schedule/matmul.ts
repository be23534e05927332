/**
 * Matrix product in register tiles: the right operand in panels of 8 columns, the left one row by row, results finished
 * by the region's epilogue before they are stored.
 *
 * M rows, N columns, K inner; R × C one register tile.
 */
import type { Buffer, Expr } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import {
  add,
  ceildiv,
  floordiv,
  floormod,
  fma,
  ge,
  literal,
  load,
  lt,
  min,
  mul,
  splat,
  sub,
  substitute,
  variable,
  zero,
} from '../../ir/scalar.ts';
import { asExpr, elements, type Shape, staticShape } from '../../ir/type.ts';
import { broadcastAt } from '../access.ts';
import type { Stage } from '../region.ts';
import { PANEL_COLUMNS } from '../target.ts';
import { makeStage, operandAt, type ScheduleContext, storeLanes } from './context.ts';
import { nameCoordinates } from './element.ts';

/** Columns of one packed panel. */
export const PANEL = 8;

interface Product {
  readonly m: Expr;
  readonly n: Expr;
  readonly k: Expr;
  /** Leading axes that select both a left and a right matrix. */
  readonly batch: Shape;
  /** Row axes: the left operand's rows, with leading axes folded in when the right operand has none of its own. */
  readonly rows: Shape;
  readonly panels: Buffer;
  /** Elements of the panels of one batch. */
  readonly panelStride: Expr;
}

export function scheduleMatmul(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const out = typeOf(root).shape;
  const right = root.inputs[1]!;
  const rightType = typeOf(right);
  const transposed = root.attrs['transposeB'] === true;
  const transposedA = root.attrs['transposeA'] === true;
  const k = asExpr(typeOf(root.inputs[0]!).shape.at(transposedA ? -2 : -1)!);
  const n = asExpr(out.at(-1)!);
  const shared = elements(rightType.shape.slice(0, -2)) === literal(1);
  const lead = out.slice(0, -2);
  const shape = staticShape(rightType.shape);
  const stages: Stage[] = [];
  let panels: Buffer;
  const groups = ceildiv(n, PANEL);
  if (cx.buffers.isStatic(right) && shared && shape) {
    panels = cx.buffers.weight(right, { kind: 'panels', k: k.arg as number, n: n.arg as number, transposed });
  } else {
    const count = shared ? literal(1) : elements(lead);
    panels = cx.buffers.temp('panels', rightType.dtype, mul(count, mul(groups, mul(k, PANEL))));
    stages.push(packPanels(cx, panels, shared ? [] : lead, k, n, (at) => rightElement(cx, at, lead, transposed)));
  }
  const product: Product = {
    m: shared ? elements(out.slice(0, -1)) : asExpr(out.at(-2)!),
    n,
    k,
    batch: shared ? [] : lead,
    rows: shared ? out.slice(0, -1) : out.slice(-2, -1),
    panels,
    panelStride: mul(groups, mul(k, PANEL)),
  };
  stages.push(multiply(cx, product, transposedA));
  return stages;
}

/** Element (k, n) of the right operand for the batch `at[..-2]`. */
function rightElement(cx: ScheduleContext, at: readonly Expr[], lead: Shape, transposed: boolean): Expr {
  const right = typeOf(cx.region.root.inputs[1]!);
  const [k, n] = at.slice(-2) as [Expr, Expr];
  const batch = broadcastAt(
    right.shape.slice(0, -2),
    at.length - 2 === lead.length ? at.slice(0, -2) : lead.map(() => literal(0)),
  );
  return operandAt(cx, 1, [...batch, ...(transposed ? [n, k] : [k, n])]);
}

/** Writes `[batch][⌈N/8⌉][K][8]`, zero beyond N. */
export function packPanels(
  cx: ScheduleContext,
  panels: Buffer,
  batch: Shape,
  k: Expr,
  n: Expr,
  element: (at: readonly Expr[]) => Expr,
): Stage {
  const groups = ceildiv(n, PANEL);
  const units = mul(elements(batch), groups);
  const block = new Block();
  block.for(
    'u',
    0,
    units,
    (u, body) => {
      const at = nameCoordinates(body, [...batch, groups], u);
      const first = mul(at.at(-1)!, PANEL);
      const base = mul(u, mul(k, PANEL));
      const column = (body2: Block, from: number, to: number): void =>
        body2.for('k', 0, k, (kk, inner) => {
          for (let j = from; j < to; j++)
            inner.store(panels, add(add(base, mul(kk, PANEL)), j), element([...at.slice(0, -1), kk, add(first, j)]));
        });
      body.if(
        lt(add(first, PANEL - 1), n),
        (full) => column(full, 0, PANEL),
        (edge) => {
          for (let j = 0; j < PANEL; j++)
            edge.if(
              lt(add(first, j), n),
              (live) => column(live, j, j + 1),
              (dead) =>
                dead.for('k', 0, k, (kk, inner) =>
                  inner.store(panels, add(add(base, mul(kk, PANEL)), j), zero(panels.dtype)),
                ),
            );
        },
      );
    },
    { bind: 'grid.x' },
  );
  return makeStage(cx, block, { grid: units, work: mul(k, PANEL) });
}

function multiply(cx: ScheduleContext, p: Product, transposedA: boolean): Stage {
  const { rows: tileRows, columns } = cx.target.matmul;
  const units = ceildiv(p.n, PANEL_COLUMNS);
  const rowBlock = Math.ceil(cx.target.rowBlock / tileRows) * tileRows;
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
      const rowCount = body.let('rows', min(sub(p.m, firstRow), rowBlock));
      const base = mul(flatBatch(p.batch, batch), p.panelStride);
      const tile = new TileWriter(cx, p, transposedA, batch, base);
      for (let c = 0; c < PANEL_COLUMNS; c += columns) {
        const first = add(mul(unit, PANEL_COLUMNS), c);
        body.if(
          lt(add(first, columns - 1), p.n),
          (full) => tile.allRows(full, firstRow, rowCount, first, columns, tileRows),
          (edge) => {
            // Fewer than `columns` are left: whole panels of 8, then single columns of the last one.
            for (let d = 0; d < columns; d += PANEL) {
              const at = add(first, d);
              edge.if(
                lt(add(at, PANEL - 1), p.n),
                (whole) => tile.allRows(whole, firstRow, rowCount, at, PANEL, tileRows),
                (part) => part.if(lt(at, p.n), (some) => tile.lastColumns(some, firstRow, rowCount, at, tileRows)),
              );
            }
          },
        );
      }
    },
    { bind: 'grid.x' },
  );
  const work = mul(mul(min(p.m, rowBlock), PANEL_COLUMNS), p.k);
  return makeStage(cx, block, { grid, work, macs: mul(mul(elements(p.batch), p.m), mul(p.n, p.k)) });
}

function flatBatch(shape: Shape, at: readonly Expr[]): Expr {
  return shape.reduce<Expr>((flat, d, i) => add(mul(flat, d), at[i]!), literal(0));
}

class TileWriter {
  private readonly cx: ScheduleContext;
  private readonly p: Product;
  private readonly transposedA: boolean;
  private readonly batch: readonly Expr[];
  private readonly base: Expr;

  constructor(cx: ScheduleContext, p: Product, transposedA: boolean, batch: readonly Expr[], base: Expr) {
    this.cx = cx;
    this.p = p;
    this.transposedA = transposedA;
    this.batch = batch;
    this.base = base;
  }

  /** Full register tiles down the rows, then the remaining rows in tiles of 1, 2, 4 … */
  allRows(
    block: Block,
    firstRow: Expr,
    count: Expr,
    column: Expr,
    columns: number,
    tileRows: number,
    valid = columns,
  ): void {
    const tiles = floordiv(count, tileRows);
    block.for('t', 0, tiles, (t, body) =>
      this.tile(body, add(firstRow, mul(t, tileRows)), tileRows, column, columns, valid),
    );
    const rest = floormod(count, tileRows);
    let done = add(firstRow, mul(tiles, tileRows));
    for (let size = 2 ** Math.floor(Math.log2(Math.max(1, tileRows - 1))); size >= 1 && tileRows > 1; size /= 2) {
      const here = done;
      block.if(ge(floormod(rest, size * 2), size), (some) => this.tile(some, here, size, column, columns, valid));
      done = add(here, mul(floordiv(floormod(rest, size * 2), size), size));
    }
  }

  /** The last panel, of which only N mod 8 columns exist. */
  lastColumns(block: Block, firstRow: Expr, count: Expr, column: Expr, tileRows: number): void {
    const left = floormod(this.p.n, PANEL);
    if (left.op === 'const') {
      this.allRows(block, firstRow, count, column, PANEL, tileRows, left.arg as number);
      return;
    }
    for (let valid = 1; valid < PANEL; valid++)
      block.if(ge(left, valid), (some) =>
        some.if(lt(left, valid + 1), (exact) => this.allRows(exact, firstRow, count, column, PANEL, tileRows, valid)),
      );
  }

  private tile(block: Block, row: Expr, rows: number, column: Expr, columns: number, valid: number): void {
    const { k, panels } = this.p;
    const dtype = panels.dtype;
    const vectors = columns / 4;
    const left = this.leftRows(block, row, rows);
    const acc = Array.from({ length: rows }, (_, i) =>
      Array.from({ length: vectors }, (_, j) => block.var(`acc${i}_${j}`, zero(dtype, 4))),
    );
    const panel = block.let('panel', add(this.base, mul(floordiv(column, PANEL), mul(k, PANEL))));
    block.for('k', 0, k, (kk, body) => {
      const b = Array.from({ length: vectors }, (_, j) =>
        body.let(
          `b${j}`,
          load(panels, add(add(panel, mul(kk, PANEL)), add(mul(Math.floor(j / 2), mul(k, PANEL)), (j % 2) * 4)), 4),
        ),
      );
      for (let i = 0; i < rows; i++) {
        const a = body.let(`a${i}`, splat(left[i]!(kk), 4));
        for (let j = 0; j < vectors; j++) body.set(acc[i]![j]!, fma(a, b[j]!, acc[i]![j]!));
      }
    });
    for (let i = 0; i < rows; i++) {
      const at = this.resultAt(block, add(row, i));
      for (let j = 0; j < vectors; j++)
        if (j * 4 < valid)
          storeLanes(
            this.cx,
            block,
            [...this.batch, ...at, add(column, j * 4)],
            acc[i]![j]!,
            Math.min(4, valid - j * 4),
          );
    }
  }

  private resultAt(block: Block, row: Expr): readonly Expr[] {
    return this.p.rows.length === 1 ? [row] : nameCoordinates(block, this.p.rows, row);
  }

  /** Loads of the left operand, one function of k for each row; the address of k = 0 is named outside the k loop. */
  private leftRows(block: Block, row: Expr, rows: number): ((k: Expr) => Expr)[] {
    const k = variable('k', 'i32', 1, { from: 0, to: this.p.k });
    const element = (r: Expr, at: readonly Expr[]): Expr => {
      const coords = this.leftAt([...this.batch, ...at], k);
      const e = operandAt(this.cx, 0, coords);
      if (e.op !== 'load')
        throw new Error(`matmul ${this.cx.region.name}: left operand is not in memory (row ${r.id})`);
      return e;
    };
    const addresses = Array.from({ length: rows }, (_, i) => {
      const r = add(row, i);
      return element(r, this.resultAt(block, r));
    });
    const start = (e: Expr): Expr => substitute(e.args[0]!, (x) => (x === k ? literal(0) : undefined));
    const first = start(addresses[0]!);
    const named = block.let('left', first);
    return addresses.map((e, i) => {
      const step = sub(
        substitute(e.args[0]!, (x) => (x === k ? add(k, 1) : undefined)),
        e.args[0]!,
      );
      const distance = sub(start(e), first);
      const origin = i === 0 ? named : distance.op === 'const' ? add(named, distance) : block.let(`left${i}`, start(e));
      return (kk) => load(e.arg as Buffer, add(origin, mul(kk, step)));
    });
  }

  private leftAt(at: readonly Expr[], k: Expr): readonly Expr[] {
    const shape = typeOf(this.cx.region.root.inputs[0]!).shape;
    const lead = broadcastAt(shape.slice(0, -2), at.slice(0, -1));
    const m = at.at(-1)!;
    return [...lead, ...(this.transposedA ? [k, m] : [m, k])];
  }
}
