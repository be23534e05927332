/**
 * Matrix product. Many rows: a workgroup makes one tile of results, through blocks of both operands in workgroup memory. Few
 * rows: a workgroup reads one panel of the right operand once, from end to end.
 *
 * M rows, N columns, K inner.
 */
import type { Buffer, Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { Block, buffer } from '../../../ir/kernel.ts';
import {
  add,
  ceildiv,
  eq,
  extract,
  floordiv,
  floormod,
  fma,
  literal,
  load,
  lt,
  max,
  min,
  mul,
  select,
  shr,
  splat,
  sub,
  variable,
  zero,
} from '../../../ir/scalar.ts';
import { boundsOf } from '../../../ir/simplify.ts';
import { elements } from '../../../ir/type.ts';
import { fillsLanes, packLanes } from '../../access.ts';
import { type GpuTile, gpuOf } from '../../gpu-target.ts';
import { panelsOf, type Stage } from '../../region.ts';
import { makeStage, type ScheduleContext, storeResult } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { PANEL, storeColumns } from '../tile.ts';
import { GROUP, invocations, workgroups } from './invocations.ts';
import { Members, subgroupOp } from './members.ts';
import { Product } from './product.ts';
import { isSmall, usualSize } from './small.ts';

/** Most rows of a product whose right operand is read once. */
const FEW_ROWS = 4;

export function scheduleMatmulGpu(cx: ScheduleContext): readonly Stage[] {
  const p = new Product(cx);
  if (!fillsLanes(typeOf(cx.region.root).dtype)) return [oneByOne(p)];
  const right = rightOperand(p);
  if (isSmall(cx.target, p.macs)) return [direct(p, right)];
  if (!right.panels) return [inTiles(p, right, literal(1))];
  const [least, most] = boundsOf(p.m);
  // One of the two has no workgroups, by the number of rows that a run has.
  const few = min(max(sub(FEW_ROWS + 1, p.m), 0), 1);
  const stages: Stage[] = [];
  if (least <= FEW_ROWS) stages.push(fewRows(p, right.panels, most <= FEW_ROWS ? literal(1) : few, most <= FEW_ROWS));
  if (most > FEW_ROWS) stages.push(inTiles(p, right, least > FEW_ROWS ? literal(1) : sub(1, few)));
  return stages;
}

/** How the right operand is read. */
interface Right {
  /** Its panels `[N/8][K][8]`, when it is a weight that has them. */
  readonly panels: Buffer | undefined;
  /** Order of neighbouring invocations that keeps their reads together. */
  readonly order: 'panels' | 'columns' | 'inner';
  /** Four columns from n (a multiple of 4) at k; n and k exist. */
  vector(batch: readonly Expr[], k: Expr, n: Expr): Expr;
}

function rightOperand(p: Product): Right {
  const { region, buffers } = p.cx;
  const right = region.root.inputs[1]!;
  const layout = panelsOf(region.root, (v) => buffers.isStatic(v));
  if (layout) {
    const panels = buffers.weight(right, layout);
    const vector = (_: readonly Expr[], k: Expr, n: Expr): Expr =>
      load(panels, add(mul(add(mul(floordiv(n, PANEL), p.k), k), PANEL), floormod(n, PANEL)), 4);
    return { panels, order: 'panels', vector };
  }
  // Columns beyond the last read that one again; their results are not stored.
  const whole = floormod(p.n, 4) === literal(0);
  const column = (n: Expr, j: number): Expr => (whole ? add(n, j) : min(add(n, j), sub(p.n, 1)));
  return {
    panels: undefined,
    order: p.transposedB ? 'inner' : 'columns',
    vector: (batch, k, n) => packLanes([0, 1, 2, 3].map((j) => p.right(batch, k, column(n, j)))),
  };
}

/** The first tile of which there are enough at the sizes that things are counted at. */
function tileFor(p: Product): GpuTile {
  const { tiles, workgroups: wanted } = gpuOf(p.cx.target);
  const count = ({ rows, columns }: GpuTile): number =>
    usualSize(elements(p.batch)) * Math.ceil(usualSize(p.m) / rows) * Math.ceil(usualSize(p.n) / columns);
  return tiles.find((tile) => count(tile) >= wanted) ?? tiles.at(-1)!;
}

/** @param when  1 where this stage runs, 0 where another does */
function inTiles(p: Product, right: Right, when: Expr): Stage {
  const { cx } = p;
  const { dtype } = typeOf(cx.region.root);
  const { rows, columns, depth, perRow, perColumn } = tileFor(p);
  const across = columns / perColumn;
  const size = (rows / perRow) * across;
  const vectors = perColumn / 4;
  const left = buffer('left', dtype, rows * depth, { space: 'shared', access: 'readwrite' });
  const block = new Block();
  const shared = buffer('right', dtype, depth * columns, { space: 'shared', access: 'readwrite' });
  const [rowBlocks, columnBlocks] = [ceildiv(p.m, rows), ceildiv(p.n, columns)];
  const grid = mul(mul(elements(p.batch), mul(rowBlocks, columnBlocks)), when);
  workgroups(block, grid, size, (u, t, body) => {
    const at = nameCoordinates(body, [...p.batch, rowBlocks, columnBlocks], u);
    const batch = at.slice(0, -2);
    const firstRow = body.let('first_row', mul(at.at(-2)!, rows));
    const firstColumn = body.let('first_column', mul(at.at(-1)!, columns));
    const x = body.let('x', floormod(t, across));
    const y = body.let('y', floordiv(t, across));
    const acc = Array.from({ length: perRow }, (_, i) =>
      Array.from({ length: vectors }, (__, j) => body.var(`acc${i}_${j}`, zero(dtype, 4))),
    );
    body.for(
      'k0',
      0,
      p.k,
      (k0, turn) => {
        fill(turn, t, size, (rows * depth) / 4, (e, one) => {
          const k = mul(floormod(e, depth / 4), 4);
          const m = floordiv(e, depth / 4);
          one.store(left, mul(e, 4), leftVector(p, one, batch, add(firstRow, m), add(k0, k), depth));
        });
        fill(turn, t, size, (depth * columns) / 4, (e, one) => {
          const [k, n] = rightTask(right.order, e, depth, columns);
          const value = rightVector(p, right, one, batch, add(k0, k), add(firstColumn, n), depth);
          one.store(shared, add(mul(k, columns), n), value);
        });
        turn.barrier();
        turn.for(
          'k',
          0,
          depth,
          (k, inner) => {
            const a = acc.map((_, i) => {
              const row = add(y, i * (rows / perRow));
              return inner.let(`a${i}`, load(left, add(mul(row, depth), k), 4));
            });
            for (let step = 0; step < 4; step++) {
              const b = Array.from({ length: vectors }, (_, j) =>
                inner.let(`b${j}`, load(shared, add(mul(add(k, step), columns), add(mul(x, 4), j * across * 4)), 4)),
              );
              acc.forEach((sums, i) => {
                sums.forEach((sum, j) => {
                  inner.set(sum, fma(splat(extract(a[i]!, step), 4), b[j]!, sum));
                });
              });
            }
          },
          { step: 4 },
        );
        turn.barrier();
      },
      { step: depth },
    );
    acc.forEach((sums, i) => {
      const row = add(firstRow, add(y, i * (rows / perRow)));
      body.if(lt(row, p.m), (some) => {
        const known = variable('row', 'i32', 1, { from: 0, to: p.m });
        some.stmts.push({ kind: 'let', v: known, value: row });
        sums.forEach((sum, j) => {
          const column = add(firstColumn, add(mul(x, 4), j * across * 4));
          storeQuad(p, some, [...batch, ...p.rowAt(known)], column, sum);
        });
      });
    });
  });
  return makeStage(cx, block, { grid, work: mul(p.k, rows * columns), macs: p.macs });
}

/** `count` tasks over the invocations of a workgroup, unrolled. */
function fill(block: Block, t: Expr, size: number, count: number, task: (e: Expr, block: Block) => void): void {
  for (let first = 0; first < count; first += size) {
    const e = add(t, first);
    if (first + size <= count) task(e, block);
    else block.if(lt(e, count), (some) => task(e, some));
  }
}

/** Position in a block of the right operand of the vector that task `e` brings. */
function rightTask(order: Right['order'], e: Expr, depth: number, columns: number): readonly [k: Expr, n: Expr] {
  switch (order) {
    case 'panels': {
      const pair = floordiv(e, 2);
      return [floormod(pair, depth), add(mul(floordiv(pair, depth), PANEL), mul(floormod(e, 2), 4))];
    }
    case 'columns':
      return [floordiv(e, columns / 4), mul(floormod(e, columns / 4), 4)];
    case 'inner':
      return [floormod(e, depth), mul(floordiv(e, depth), 4)];
  }
}

/** Whether blocks of `depth` end where K does. */
const endsWhole = (p: Product, depth: number): boolean => floormod(p.k, depth) === literal(0);

/** Four elements of a row from k, zero beyond K; rows beyond M are others again. */
function leftVector(p: Product, block: Block, batch: readonly Expr[], row: Expr, k: Expr, depth: number): Expr {
  const { dtype } = typeOf(p.cx.region.root);
  const m = variable('m', 'i32', 1, { from: 0, to: p.m });
  block.stmts.push({ kind: 'let', v: m, value: min(row, sub(p.m, 1)) });
  const at = [...batch, ...p.rowAt(m)];
  const named = block.let('k', k);
  if (endsWhole(p, depth)) return packLanes([0, 1, 2, 3].map((j) => p.left(at, add(named, j))));
  const last = sub(p.k, 1);
  if (floormod(p.k, 4) === literal(0)) {
    // A vector is inside or outside as a whole.
    const inside = variable('k', 'i32', 1, { from: 0, to: sub(p.k, 3) });
    block.stmts.push({ kind: 'let', v: inside, value: min(named, sub(p.k, 4)) });
    const vector = packLanes([0, 1, 2, 3].map((j) => p.left(at, add(inside, j))));
    return select(lt(named, p.k), vector, zero(dtype, 4));
  }
  const lanes = [0, 1, 2, 3].map((j) => {
    const here = add(named, j);
    return select(lt(here, p.k), p.left(at, max(min(here, last), 0)), zero(dtype));
  });
  return packLanes(lanes);
}

function rightVector(
  p: Product,
  right: Right,
  block: Block,
  batch: readonly Expr[],
  k: Expr,
  n: Expr,
  depth: number,
): Expr {
  const { dtype } = typeOf(p.cx.region.root);
  const named = block.let('k', k);
  const last = right.panels ? sub(mul(ceildiv(p.n, PANEL), PANEL), 4) : max(sub(mul(ceildiv(p.n, 4), 4), 4), 0);
  const column = block.let('n', min(n, last));
  if (endsWhole(p, depth)) return right.vector(batch, named, column);
  return select(lt(named, p.k), right.vector(batch, min(named, sub(p.k, 1)), column), zero(dtype, 4));
}

/** Stores those of four columns that exist. */
function storeQuad(p: Product, block: Block, row: readonly Expr[], column: Expr, value: Expr): void {
  const { cx } = p;
  if (floormod(p.n, 4) === literal(0)) {
    const n = variable('n', 'i32', 1, { from: 0, to: sub(p.n, 3) });
    block.if(lt(column, p.n), (some) => {
      some.stmts.push({ kind: 'let', v: n, value: column });
      storeResult(cx, some, [...row, n], value);
    });
    return;
  }
  storeColumns(cx, block, row, { column: block.let('n', column), columns: 4, n: p.n }, () => value);
}

/**
 * Up to four rows. A workgroup takes one panel: neighbouring invocations read neighbouring vectors of it, and what they
 * summed is joined at the end.
 */
function fewRows(p: Product, panels: Buffer, when: Expr, always: boolean): Stage {
  const { cx } = p;
  const { dtype } = typeOf(cx.region.root);
  const count = Math.min(FEW_ROWS, boundsOf(p.m)[1]);
  const slots = GROUP / 2;
  const sums = buffer('sums', dtype, count * GROUP * 4, { space: 'shared', access: 'readwrite' });
  const units = ceildiv(p.n, PANEL);
  const grid = mul(units, when);
  const block = new Block();
  workgroups(block, grid, GROUP, (u, t, body) => {
    const half = body.let('half', floormod(t, 2));
    const slot = body.let('slot', floordiv(t, 2));
    const base = body.let('base', add(mul(u, mul(p.k, PANEL)), mul(half, 4)));
    const acc = Array.from({ length: count }, (_, i) => body.var(`acc${i}`, zero(dtype, 4)));
    const rows = acc.map((_, i) => p.rowAt(i === 0 ? literal(0) : body.let(`row${i}`, min(i, sub(p.m, 1)))));
    body.for(
      'k',
      slot,
      p.k,
      (k, inner) => {
        const b = inner.let('b', load(panels, add(base, mul(k, PANEL)), 4));
        acc.forEach((sum, i) => {
          inner.set(sum, fma(splat(p.left(rows[i]!, k), 4), b, sum));
        });
      },
      { step: slots },
    );
    const place = (at: Expr, i: number): Expr => mul(add(at, i * GROUP), 4);
    const stored = (some: Block, sum: (i: number) => Expr): void =>
      acc.forEach((_, i) => {
        const store = (one: Block): void => {
          const total = one.let('total', sum(i));
          storeQuad(p, one, p.rowAt(literal(i)), add(mul(u, PANEL), mul(half, 4)), total);
        };
        if (i === 0) store(some);
        else some.if(lt(i, p.m), store);
      });
    acc.forEach((sum, i) => {
      body.store(sums, place(t, i), sum);
    });
    body.barrier();
    // Even and odd invocations have different columns, so that two results are left.
    if (gpuOf(cx.target).subgroups && subgroupOp(add, dtype)) {
      const members = new Members(GROUP);
      const totals = acc.map((_, i) =>
        [0, 1].map((odd) => {
          const of = (j: Expr): Expr => load(sums, place(add(mul(j, 2), odd), i), 4);
          return members.total(body, `total${i}_${odd}`, slots, 'add', add, of, zero(dtype, 4));
        }),
      );
      return body.if(lt(t, 2), (some) => stored(some, (i) => select(eq(half, 0), totals[i]![0]!, totals[i]![1]!)));
    }
    body.for('s', 0, Math.log2(slots), (s, level) => {
      const apart = level.let('apart', shr(literal(GROUP / 2), s));
      level.if(lt(t, apart), (some) =>
        acc.forEach((_, i) => {
          some.store(sums, place(t, i), add(load(sums, place(t, i), 4), load(sums, place(add(t, apart), i), 4)));
        }),
      );
      level.barrier();
    });
    body.if(lt(t, 2), (some) => stored(some, (i) => load(sums, place(t, i), 4)));
  });
  return makeStage(cx, block, { grid, work: mul(p.k, PANEL * count), macs: always ? p.macs : 0 });
}

/** Little work: four neighbouring results an invocation, straight from memory. */
function direct(p: Product, right: Right): Stage {
  const { cx } = p;
  const { dtype } = typeOf(cx.region.root);
  const shape = [...p.batch, p.m, ceildiv(p.n, 4)];
  const block = new Block();
  const grid = invocations(block, elements(shape), (unit, body) => {
    const at = nameCoordinates(body, shape, unit);
    const [batch, row] = [at.slice(0, -2), p.rowAt(at.at(-2)!)];
    const n = body.let('n', mul(at.at(-1)!, 4));
    const acc = body.var('acc', zero(dtype, 4));
    body.for('k', 0, p.k, (k, inner) => {
      inner.set(acc, fma(splat(p.left([...batch, ...row], k), 4), right.vector(batch, k, n), acc));
    });
    storeQuad(p, body, [...batch, ...row], n, acc);
  });
  return makeStage(cx, block, { grid, work: mul(p.k, GROUP * 4), macs: p.macs });
}

/** Element types without four lanes: one result an invocation. */
function oneByOne(p: Product): Stage {
  const { cx } = p;
  const shape = [...p.batch, ...p.rows, p.n];
  const { dtype } = typeOf(cx.region.root);
  const block = new Block();
  const grid = invocations(block, elements(shape), (unit, body) => {
    const at = nameCoordinates(body, shape, unit);
    const batch = at.slice(0, p.batch.length);
    const acc = body.var('acc', zero(dtype));
    body.for('k', 0, p.k, (k, inner) => {
      inner.set(acc, add(acc, mul(p.left(at.slice(0, -1), k), p.right(batch, k, at.at(-1)!))));
    });
    storeResult(cx, body, at, acc);
  });
  return makeStage(cx, block, { grid, work: mul(p.k, GROUP), macs: p.macs });
}
