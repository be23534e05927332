/**
 * Register tiles: the inner product loop that matmul and attention share.
 *
 * K inner size; a panel holds 8 columns of the right operand as `[K][8]`.
 */
import type { Buffer, Expr, Var } from '../../ir/expr.ts';
import type { Value } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import {
  add,
  and,
  ceildiv,
  extract,
  floordiv,
  floormod,
  fma,
  ge,
  le,
  literal,
  load,
  lt,
  max,
  min,
  mul,
  type Num,
  select,
  shuffle,
  splat,
  sub,
  variable,
  zero,
} from '../../ir/scalar.ts';
import { elements, type Shape } from '../../ir/type.ts';
import { fillsLanes, packLanes } from '../access.ts';
import type { Stage } from '../region.ts';
import { PANEL_COLUMNS, type Tile } from '../target.ts';
import { makeStage, type ScheduleContext, storeResult } from './context.ts';
import { nameCoordinates } from './element.ts';

/** Columns of one packed panel. */
export const PANEL = 8;

/** One tile of rows while it is written: `at(i)` is the number of its row i, which exists for i < `size` ≤ `most`. */
export interface TileRows {
  readonly most: number;
  readonly size: Expr;
  at(i: Num): Expr;
}

/** Rows of the tile that covers what full ones leave; such a tile is nearly as fast a row as a full one. */
const SMALL = 4;

/**
 * All rows in tiles of `tileRows`, and up to two of SMALL rows where that leaves some; fewer rows than SMALL go as pairs
 * or one by one. The last tile starts early where rows are short, and writes some again with the same values (so results
 * must not overwrite operands).
 * @param total rows that exist: lets arithmetic on row numbers simplify
 * @param product computes a tile; see `bySize`
 * @param finish called for each row of the tile after it, with the row's number in the tile
 */
export function rowTiles(
  block: Block,
  range: { readonly first: Expr; readonly count: Expr; readonly total: Expr },
  tileRows: number,
  product: (block: Block, tile: TileRows) => void,
  finish?: (block: Block, row: Expr, i: Expr) => void,
): void {
  const { first, count, total } = range;
  const smaller = sizesOf(tileRows).slice(1);
  const full = block.let('full', fullTiles(count, tileRows));
  const covered = block.let('covered', min(mul(full, tileRows), count));
  const rest = block.let(
    'rest',
    smaller.reduceRight<Expr>((less, size) => select(ge(count, size), literal(size), less), literal(1)),
  );
  const tiles = add(full, ceildiv(sub(count, covered), rest));
  block.for('t', 0, tiles, (t, body) => {
    const wide = lt(t, full);
    const size = body.let('size', select(wide, literal(tileRows), rest));
    const start = select(wide, mul(t, tileRows), add(covered, mul(sub(t, full), rest)));
    const from = body.let('start', add(first, min(start, sub(count, size))));
    const row = variable('row', 'i32', 1, { from: 0, to: total });
    body.stmts.push({ kind: 'let', v: row, value: from });
    product(body, { most: tileRows, size, at: (i) => add(row, i) });
    if (!finish) return;
    body.for('i', 0, size, (i, line) => {
      const at = variable('row', 'i32', 1, { from: 0, to: total });
      line.stmts.push({ kind: 'let', v: at, value: add(row, i) });
      finish(line, at, i);
    });
  });
}

/** Rows that tiles may have, most first. */
const sizesOf = (most: number): readonly number[] => [most, SMALL, 2, 1].filter((size, i) => i === 0 || size < most);

/** Writes a tile's statements once for each number of rows that it may have. */
export function bySize(block: Block, size: Expr, most: number, write: (block: Block, rows: number) => void): void {
  const choose = (some: Block, [rows, ...smaller]: readonly number[]): void => {
    if (rows === undefined) return;
    if (smaller.length === 0) write(some, rows);
    else
      some.if(
        ge(size, rows),
        (these) => write(these, rows),
        (others) => choose(others, smaller),
      );
  };
  choose(block, sizesOf(most));
}

/** How many tiles of `rows` begin `count` rows so that tiles of SMALL rows cover the others with the least waste. */
function fullTiles(count: Expr, rows: number): Expr {
  if (rows <= SMALL) return select(ge(count, rows), ceildiv(count, rows), 0);
  const [whole, left] = [floordiv(count, rows), floormod(count, rows)];
  const spare = select(and(lt(0, left), le(left, 2 * SMALL - rows)), sub(whole, 1), whole);
  return select(ge(count, rows), select(lt(SMALL, left), add(whole, 1), spare), 0);
}

/** Elements of one batch in panels: columns are padded to whole units of a matmul's grid, so that tiles never end early. */
export const panelElements = (k: Expr, n: Expr): Expr => mul(ceildiv(n, PANEL_COLUMNS), mul(k, PANEL_COLUMNS));

/**
 * Stores those columns of one tile row that exist.
 * @param row coordinates of the row in the root's shape
 * @param value the four columns from `at` on, counted from the tile's first; written once for whole vectors and once for
 *   each lane of one that N cuts
 */
export function storeColumns(
  cx: ScheduleContext,
  block: Block,
  row: readonly Expr[],
  range: { readonly column: Expr; readonly columns: number; readonly n: Expr },
  value: (at: Expr) => Expr,
  output?: Value,
): void {
  const { column, columns, n } = range;
  const left = floormod(n, 4);
  const most = left.op === 'const' ? (left.arg as number) : 3;
  const store = (body: Block, at: Expr): void => {
    const first = add(column, at);
    body.if(
      lt(add(first, 3), n),
      (whole) => storeResult(cx, whole, [...row, first], whole.let('v', value(at)), output),
      (edge) => {
        for (let lane = 0; lane < most; lane++)
          edge.if(lt(add(first, lane), n), (one) =>
            storeResult(cx, one, [...row, add(first, lane)], extract(value(at), lane), output),
          );
      },
    );
  };
  if (columns === 4) store(block, literal(0));
  else block.for('j', 0, columns / 4, (j, body) => store(body, mul(j, 4)));
}

export interface TileOperands {
  /** Rows of this tile, and the most that one has. */
  readonly size: Expr;
  readonly most: number;
  readonly columns: number;
  readonly k: Expr;
  /** Inner size of the panels where only a part of it is summed; default k. */
  readonly depth?: Expr | undefined;
  /** Element of the left operand in tile row i at k. */
  readonly left: Left;
  readonly panels: Buffer;
  /** Element index of the first panel's first row. */
  readonly panel: Expr;
  /** Where the products go: row i, column j at `at + i·stride + j`. */
  readonly to: { readonly buffer: Buffer; readonly at: Expr; readonly stride: Num };
  readonly tile: Tile;
  /** Elements of `panels` that will be wanted soon: `touchedBy(k)` from here; default the panel. */
  readonly ahead?: Expr | undefined;
}

/**
 * Steps of k for each element that a product touches ahead. Weights that come from memory cost a tenth of a product's
 * time where every line is waited for; touched at this pace, the engine's own prefetching keeps ahead of them.
 */
const TOUCH = 2;

/** Elements that one tile touches ahead. */
export const touchedBy = (k: Expr): Expr => ceildiv(k, TOUCH);

/** Rows of a left operand: where each starts (k = 0), and how far apart neighbours in k are. */
export interface Left {
  readonly buffer: Buffer;
  /** Where each row of a whole tile starts; or where the first one does, and the next ones at one distance. */
  readonly starts: readonly Expr[] | { readonly first: Expr; readonly distance: Expr };
  readonly step: Expr;
}

/** A tile with at most so many accumulators keeps a set for each step of an unrolled turn, so that no sum waits. */
const FEW = 4;

/**
 * Writes Σ over k of left · right for one register tile: a routine, since all products of a bundle with the same tile
 * can be one function.
 */
export function multiplyTile(block: Block, t: TileOperands): void {
  const { starts, step, buffer } = t.left;
  const each = 'first' in starts ? undefined : Object.fromEntries(starts.map((start, i) => [`left${i}`, start]));
  const contiguous = step === literal(1);
  block.routine(
    `tile${t.columns}`,
    [...new Set([buffer, t.panels, t.to.buffer])],
    {
      size: t.size,
      k: t.k,
      panel: t.panel,
      to: t.to.at,
      stride: t.to.stride,
      ahead: t.ahead ?? t.panel,
      ...(t.depth && t.columns > PANEL ? { depth: t.depth } : {}),
      ...(contiguous ? {} : { step }),
      ...('first' in starts ? { left: starts.first, distance: starts.distance } : each),
    },
    (p, body) =>
      bySize(body, p.size!, t.most, (tile, rows) => {
        const from = Array.from({ length: rows }, (_, i) => p[`left${i}`] ?? rowStart(tile, p.left!, p.distance!, i));
        const acc = accumulate(tile, t, rows, p, (i, k) => load(buffer, add(from[i]!, mul(k, p.step ?? 1))));
        acc.forEach((row, i) => {
          row.forEach((v, j) => {
            tile.store(t.to.buffer, add(add(p.to!, mul(p.stride!, i)), j * 4), v);
          });
        });
      }),
  );
}

/** Where row i starts, within the same bounds as the first. */
function rowStart(block: Block, first: Expr, distance: Expr, i: number): Expr {
  if (i === 0) return first;
  const { from, to } = first.arg as Var;
  const start = variable(`left${i}`, 'i32', 1, from && to && { from, to });
  block.stmts.push({ kind: 'let', v: start, value: add(first, mul(distance, i)) });
  return start;
}

function accumulate(
  block: Block,
  t: TileOperands,
  rows: number,
  given: Readonly<Record<string, Expr>>,
  left: (i: number, k: Expr) => Expr,
): readonly (readonly Expr[])[] {
  const { dtype } = t.panels;
  const [size, panel, ahead] = [given.k!, given.panel!, given.ahead!];
  const depth = given.depth ?? size;
  const vectors = t.columns / 4;
  const { unroll } = t.tile;
  const sets = rows * vectors <= FEW ? unroll : 1;
  const fence = rows === 1 ? 'none' : t.tile.fence;
  const acc = Array.from({ length: sets }, () =>
    Array.from({ length: rows }, (_, i) =>
      Array.from({ length: vectors }, (__, j) => block.var(`acc${i}_${j}`, zero(dtype, 4))),
    ),
  );
  const step = (body: Block, k: Expr, set: readonly (readonly Expr[])[], last: boolean): void => {
    const right = Array.from({ length: vectors }, (_, j) => {
      const across = add(mul(mul(depth, PANEL), Math.floor(j / 2)), (j % 2) * 4);
      return body.let(`b${j}`, load(t.panels, add(add(panel, mul(k, PANEL)), across), 4));
    });
    for (let i = 0; i < rows; i++) {
      const a = body.let(`a${i}`, splat(left(i, k), 4));
      for (let j = 0; j < vectors; j++) body.set(set[i]![j]!, fma(a, right[j]!, set[i]![j]!));
      const ends = fence === 'row' || (fence === 'step' && i === rows - 1);
      if (ends && !(last && i === rows - 1)) body.fence();
    }
  };
  const turns = floordiv(size, unroll);
  block.for('turn', 0, turns, (turn, body) => {
    body.touch(t.panels, add(ahead, mul(turn, unroll / TOUCH)));
    for (let i = 0; i < unroll; i++) step(body, add(mul(turn, unroll), i), acc[i % sets]!, i === unroll - 1);
  });
  block.for('k', mul(turns, unroll), size, (k, body) => step(body, k, acc[0]!, true));
  return acc.reduce((sum, set) => sum.map((row, i) => row.map((v, j) => block.let('acc', add(v, set[i]![j]!)))));
}

/** Writes `[batch][panel][K][8]`, zero beyond N, from elements at `[...batch, k, n]`. */
export function packPanels(
  cx: ScheduleContext,
  panels: Buffer,
  size: { readonly batch: Shape; readonly k: Expr; readonly n: Expr },
  element: (at: readonly Expr[]) => Expr,
): Stage {
  const { batch, k, n } = size;
  const groups = mul(ceildiv(n, PANEL_COLUMNS), PANEL_COLUMNS / PANEL);
  const grid = mul(elements(batch), groups);
  const block = new Block();
  const columns = Array.from({ length: PANEL }, (_, j) => j);
  block.for(
    'u',
    0,
    grid,
    (u, body) => {
      const outer = nameCoordinates(body, [...batch, groups], u);
      const first = mul(outer.at(-1)!, PANEL);
      const to = (kk: Expr): Expr => add(mul(u, mul(k, PANEL)), mul(kk, PANEL));
      const at = (kk: Expr, column: Expr): Expr => element([...outer.slice(0, -1), kk, column]);
      const store = (inner: Block, kk: Expr, lanes: readonly Expr[]): void => {
        if (fillsLanes(panels.dtype))
          for (let j = 0; j < PANEL; j += 4) inner.store(panels, add(to(kk), j), packLanes(lanes.slice(j, j + 4)));
        else
          lanes.forEach((e, j) => {
            inner.store(panels, add(to(kk), j), e);
          });
      };
      const alongK = (kk: Expr, j: number): Expr => packLanes([0, 1, 2, 3].map((t) => at(add(kk, t), add(first, j))));
      // Columns that are contiguous in memory (keys of an attention) are read as vectors and turned four by four.
      const quads = fillsLanes(panels.dtype) && isVectorLoad(alongK, k) ? floordiv(k, 4) : literal(0);
      body.if(
        lt(add(first, PANEL - 1), n),
        (whole) => {
          whole.for('q', 0, quads, (q, inner) => {
            const kk = mul(q, 4);
            for (let j = 0; j < PANEL; j += 4)
              transpose4(
                inner,
                [0, 1, 2, 3].map((c) => alongK(kk, j + c)),
              ).forEach((v, t) => {
                inner.store(panels, add(to(add(kk, t)), j), v);
              });
          });
          whole.for('k', mul(quads, 4), k, (kk, inner) =>
            store(
              inner,
              kk,
              columns.map((j) => at(kk, add(first, j))),
            ),
          );
        },
        (edge) =>
          edge.for('k', 0, k, (kk, inner) => {
            const exists = (j: number): Expr => lt(add(first, j), n);
            const last = max(sub(n, 1), 0);
            store(
              inner,
              kk,
              columns.map((j) => select(exists(j), at(kk, min(add(first, j), last)), zero(panels.dtype))),
            );
          }),
      );
    },
    { bind: 'grid.x' },
  );
  return makeStage(cx, block, { grid, work: mul(mul(k, PANEL), literal(4)) });
}

/** Four neighbours in k of one column, and of the next, are vector loads. */
function isVectorLoad(alongK: (k: Expr, j: number) => Expr, k: Expr): boolean {
  const q = variable('q', 'i32', 1, { from: 0, to: floordiv(k, 4) });
  return [0, 1].every((j) => alongK(mul(q, 4), j).op === 'load');
}

/** Four rows of four as four columns. */
function transpose4(block: Block, rows: readonly Expr[]): Expr[] {
  const [a, b, c, d] = rows.map((r) => block.let('r', r)) as [Expr, Expr, Expr, Expr];
  const low = (x: Expr, y: Expr): Expr => block.let('t', shuffle(x, y, [0, 4, 1, 5]));
  const high = (x: Expr, y: Expr): Expr => block.let('t', shuffle(x, y, [2, 6, 3, 7]));
  const [ab, cd, ab2, cd2] = [low(a, b), low(c, d), high(a, b), high(c, d)];
  const first = (x: Expr, y: Expr): Expr => shuffle(x, y, [0, 1, 4, 5]);
  const last = (x: Expr, y: Expr): Expr => shuffle(x, y, [2, 3, 6, 7]);
  return [first(ab, cd), last(ab, cd), first(ab2, cd2), last(ab2, cd2)];
}
