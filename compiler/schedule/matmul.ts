/**
 * Matrix product in register tiles: the right operand in panels of 8 columns, the left one row by row, results finished
 * by the region's epilogue before they are stored.
 *
 * M rows, N columns, K inner.
 */
import { type Buffer, type Expr, exprNodes } from '../../ir/expr.ts';
import { typeOf } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import { macsOf } from '../../ir/ops/macs.ts';
import { add, ceildiv, floordiv, literal, load, min, mul, sub, variable, zero } from '../../ir/scalar.ts';
import { asExpr, type Dim, elements, type Shape } from '../../ir/type.ts';
import { broadcastAt, fillsLanes, flatten, unflatten } from '../access.ts';
import { panelsOf, type Stage } from '../region.ts';
import { PANEL_COLUMNS } from '../target.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { nameCoordinates } from './element.ts';
import {
  type Left,
  multiplyTile,
  packPanels,
  panelElements,
  rowTiles,
  storeColumns,
  type TileRows,
  touchedBy,
} from './tile.ts';

interface Product {
  readonly m: Expr;
  readonly n: Expr;
  readonly k: Expr;
  /** Leading axes that select both a left and a right matrix. */
  readonly batch: Shape;
  /** Row axes: the left operand's rows, with leading axes folded in when the right operand has none of its own. */
  readonly rows: Shape;
  readonly transposedA: boolean;
  readonly transposedB: boolean;
}

export function scheduleMatmul(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const out = typeOf(root).shape;
  const [left, right] = [typeOf(root.inputs[0]!), typeOf(root.inputs[1]!)];
  const transposedA = root.attrs.transposeA === true;
  const shared = elements(right.shape.slice(0, -2)) === literal(1);
  const product: Product = {
    m: shared ? elements(out.slice(0, -1)) : asExpr(out.at(-2)!),
    n: asExpr(out.at(-1)!),
    k: asExpr(left.shape.at(transposedA ? -2 : -1)!),
    batch: shared ? [] : out.slice(0, -2),
    rows: shared ? out.slice(0, -1) : out.slice(-2, -1),
    transposedA,
    transposedB: root.attrs.transposeB === true,
  };
  if (!fillsLanes(typeOf(root).dtype)) return [oneByOne(cx, product)];
  const { panels, stages } = rightPanels(cx, product);
  return [...stages, multiply(cx, product, panels, stages.length === 0)];
}

/** The right operand in panels: packed when the bundle is made, or by a stage of its own. */
function rightPanels(cx: ScheduleContext, p: Product): { panels: Buffer; stages: Stage[] } {
  const right = cx.region.root.inputs[1]!;
  const { dtype } = typeOf(right);
  const layout = panelsOf(cx.region.root, (v) => cx.buffers.isStatic(v));
  if (layout) return { panels: cx.buffers.weight(right, layout), stages: [] };
  const panels = cx.buffers.temp('panels', dtype, mul(elements(p.batch), panelElements(p.k, p.n)));
  return {
    panels,
    stages: [packPanels(cx, panels, p, (at) => rightAt(cx, p, at.slice(0, -2), at.at(-2)!, at.at(-1)!))],
  };
}

function rightAt(cx: ScheduleContext, p: Product, batch: readonly Expr[], k: Expr, n: Expr): Expr {
  const lead = typeOf(cx.region.root.inputs[1]!).shape.slice(0, -2);
  const at = batch.length === 0 ? lead.map(() => literal(0)) : broadcastAt(lead, batch);
  return operandAt(cx, 1, [...at, ...(p.transposedB ? [n, k] : [k, n])]);
}

/** @param at batch and row coordinates of the result */
function leftAt(cx: ScheduleContext, p: Product, at: readonly Expr[], k: Expr): Expr {
  const lead = broadcastAt(typeOf(cx.region.root.inputs[0]!).shape.slice(0, -2), at.slice(0, -1));
  const m = at.at(-1)!;
  return operandAt(cx, 0, [...lead, ...(p.transposedA ? [k, m] : [m, k])]);
}

/** @param isWeight the panels come from memory, not from a stage just before */
function multiply(cx: ScheduleContext, p: Product, panels: Buffer, isWeight: boolean): Stage {
  const { rows: tileRows, columns } = cx.target.tile;
  const units = ceildiv(p.n, PANEL_COLUMNS);
  const { rowBlock } = cx.target;
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
      const base = mul(flatten(p.batch, batch), panelElements(p.k, p.n));
      const column = mul(unit, PANEL_COLUMNS);
      // While a unit is computed, the weights of the next one are touched, some in each tile.
      const next = add(base, mul(mul(min(add(unit, 1), sub(units, 1)), PANEL_COLUMNS), p.k));
      const ahead = (row: Expr, c: Expr): Expr | undefined => {
        if (!isWeight) return undefined;
        const tiles = add(mul(floordiv(sub(row, firstRow), tileRows), PANEL_COLUMNS / columns), c);
        const most = sub(mul(p.k, PANEL_COLUMNS), touchedBy(p.k));
        return add(next, min(mul(tiles, touchedBy(p.k)), most));
      };
      const scratch = cx.buffers.scratch('tile', panels.dtype, tileRows * PANEL_COLUMNS);
      // All columns of the unit for one tile of rows before the next: the rows come from the L1 cache but for the
      // first time, and whole cache lines of the result are written at once.
      rowTiles(
        body,
        { first: firstRow, count, total: p.m },
        tileRows,
        (tile, rows) => {
          const left = leftRows(cx, p, tile, batch, rows);
          tile.for('c', 0, PANEL_COLUMNS / columns, (c, part) =>
            multiplyTile(part, {
              size: rows.size,
              most: tileRows,
              columns,
              k: p.k,
              left,
              panels,
              ahead: ahead(rows.at(0), c),
              panel: add(base, mul(add(column, mul(c, columns)), p.k)),
              to: { buffer: scratch, at: mul(c, columns), stride: PANEL_COLUMNS },
              tile: cx.target.tile,
            }),
          );
        },
        (line, row, i) =>
          storeColumns(cx, line, [...batch, ...rowAt(p, row)], { column, columns: PANEL_COLUMNS, n: p.n }, (at) =>
            load(scratch, add(mul(i, PANEL_COLUMNS), at), 4),
          ),
      );
    },
    { bind: 'grid.x' },
  );
  const work = mul(mul(min(p.m, rowBlock), PANEL_COLUMNS), p.k);
  return makeStage(cx, block, { grid, work, macs: macsIn(p) });
}

const macsIn = (p: Product): Dim => macsOf(...p.batch, ...p.rows, p.n, p.k);

/** Row coordinates of a flat row; left as arithmetic, so that contiguous rows collapse into one address. */
const rowAt = (p: Product, row: Expr): readonly Expr[] => (p.rows.length === 1 ? [row] : unflatten(p.rows, row));

function leftRows(cx: ScheduleContext, p: Product, block: Block, batch: readonly Expr[], rows: TileRows): Left {
  return rowsAlong(block, p.k, rows, (row, k) => leftAt(cx, p, [...batch, ...rowAt(p, row)], k));
}

/**
 * Where the rows of a tile start in a left operand, their addresses linear in k in [0, size) with one step.
 * @param element the load of a row's element at k
 */
export function rowsAlong(block: Block, size: Expr, tile: TileRows, element: (row: Expr, k: Expr) => Expr): Left {
  // The step from k to k + 1 is asked for k up to size − 2, where both ends exist.
  const k = variable('k', 'i32', 1, { from: 0, to: size === literal(1) ? 1 : sub(size, 1) });
  const address = (row: Expr, at: Expr): Expr => {
    const e = element(row, at);
    if (e.op !== 'load') throw new Error('the left operand of a product is not in memory');
    return e.args[0]!;
  };
  const top = tile.at(0);
  const step = size === literal(1) ? literal(1) : slope(address(top, k), address(top, add(k, 1)), k);
  if (!step) throw new Error('the address of a left operand is not linear in k');
  const start = (row: Expr): Expr => address(row, literal(0));
  const buffer = element(top, literal(0)).arg as Buffer;
  const first = block.let('left', start(top));
  const distance = slope(start(top), start(tile.at(1)), top);
  if (distance) return { buffer, starts: { first, distance }, step };
  // Rows beyond the tile's size may not exist: the last one stands for them.
  const last = sub(tile.size, 1);
  const starts = Array.from({ length: tile.most }, (_, i) => (i === 0 ? first : start(tile.at(min(i, last)))));
  return { buffer, starts, step };
}

/** How much `here` grows from k to k + 1, where it is `next`; undefined unless that is known to be the same for every k. */
function slope(here: Expr, next: Expr, k: Expr): Expr | undefined {
  const difference = sub(next, here);
  if (!exprNodes(difference).includes(k)) return difference;
  // Sums and products with symbolic sizes, where the difference does not collapse.
  const factor = (e: Expr): Expr | undefined => {
    if (!exprNodes(e).includes(k)) return literal(0);
    if (e === k) return literal(1);
    if (e.op !== 'add' && e.op !== 'mul') return undefined;
    const [a, b] = e.args as [Expr, Expr];
    const [da, db] = [factor(a), factor(b)];
    if (!da || !db) return undefined;
    if (e.op === 'add') return add(da, db);
    return da === literal(0) ? mul(a, db) : db === literal(0) ? mul(da, b) : undefined;
  };
  return factor(here);
}

/** Element types without four lanes: one sum at a time. */
function oneByOne(cx: ScheduleContext, p: Product): Stage {
  const shape = [...p.batch, ...p.rows];
  const { dtype } = typeOf(cx.region.root);
  const rows = elements(shape);
  const block = new Block();
  block.for(
    'row',
    0,
    rows,
    (row, body) => {
      const at = nameCoordinates(body, shape, row);
      const batch = at.slice(0, p.batch.length);
      body.for('n', 0, p.n, (n, column) => {
        const acc = column.var('acc', zero(dtype));
        column.for('k', 0, p.k, (k, inner) =>
          inner.update('add', acc, mul(leftAt(cx, p, at, k), rightAt(cx, p, batch, k, n))),
        );
        storeResult(cx, column, [...at, n], acc);
      });
    },
    { bind: 'grid.x' },
  );
  return makeStage(cx, block, { grid: rows, work: mul(mul(p.n, p.k), 4), macs: macsIn(p) });
}
