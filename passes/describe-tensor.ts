/**
 * What a constant tensor says, in words: a range, a triangle, a band, a block diagonal. Descriptions are checked against
 * every element, so a tensor is either described exactly or not at all.
 */
import type { Expr } from '../ir/expr.ts';
import { type Nd, rowMajor } from '../ir/nd.ts';
import * as s from '../ir/scalar.ts';

/** Tensors of more different numbers are ranges or nothing. */
const MOST_LEVELS = 4;

/** The element at coordinates; undefined where no description fits. */
export function describeTensor(x: Nd, at: readonly Expr[]): Expr | undefined {
  if (x.data.length === 0) return undefined;
  const axes = varyingAxes(x);
  if (axes.length === 0) return s.literal(x.data[0]!, x.dtype);
  const range = describeRange(x, axes, at);
  if (range || axes.length > 2) return range;
  const strides = rowMajor(x.shape);
  const [n, m] = [x.shape[axes[0]!]!, axes.length === 2 ? x.shape[axes[1]!]! : 1];
  const [rows, columns] = [strides[axes[0]!]!, axes.length === 2 ? strides[axes[1]!]! : 0];
  const element = (i: number, j: number): number => x.data[i * rows + j * columns]!;
  const [i, j] = [at[axes[0]!]!, at[axes[1] ?? axes[0]!]!];
  if (axes.length === 1) {
    const steps = describeSteps(x.dtype, n, (k) => element(k, 0), i);
    if (steps) return steps;
  }
  const levels = new Set<number>();
  for (let a = 0; a < n; a++)
    for (let b = 0; b < m; b++) {
      levels.add(element(a, b));
      if (levels.size > MOST_LEVELS) return undefined;
    }
  const [last, ...others] = [...levels];
  let result: Expr = s.literal(last!, x.dtype);
  for (const level of others) {
    const where =
      axes.length === 1
        ? describeRow(n, (k) => element(k, 0) === level, i)
        : describeMatrix(n, m, (a, b) => element(a, b) === level, i, j);
    if (!where) return undefined;
    result =
      x.dtype === 'bool' ? (level === 1 ? where : s.not(where)) : s.select(where, s.literal(level, x.dtype), result);
  }
  return result;
}

/** Axes along which elements differ. */
function varyingAxes(x: Nd): number[] {
  const strides = rowMajor(x.shape);
  return x.shape.flatMap((size, axis) => {
    const step = strides[axis]!;
    for (let flat = 0; flat < x.data.length; flat++)
      if (Math.floor(flat / step) % size > 0 && !Object.is(x.data[flat], x.data[flat - step])) return [axis];
    return [];
  });
}

/** first + Σ i · step over the axes that vary. */
function describeRange(x: Nd, axes: readonly number[], at: readonly Expr[]): Expr | undefined {
  if (x.dtype === 'bool') return undefined;
  const strides = rowMajor(x.shape);
  const first = x.data[0]!;
  const steps = axes.map((axis) => x.data[strides[axis]!]! - first);
  if (![first, ...steps].every(Number.isSafeInteger)) return undefined;
  const value = (flat: number): number =>
    axes.reduce((sum, axis, n) => sum + steps[n]! * (Math.floor(flat / strides[axis]!) % x.shape[axis]!), first);
  for (let flat = 0; flat < x.data.length; flat++) if (value(flat) !== x.data[flat]) return undefined;
  const sum = axes.reduce<Expr>((e, axis, n) => s.add(e, s.mul(at[axis]!, steps[n]!)), s.literal(first));
  return s.cast(sum, x.dtype);
}

/** first + i ÷ step: numbers of blocks. */
function describeSteps(dtype: Nd['dtype'], n: number, element: (k: number) => number, i: Expr): Expr | undefined {
  const first = element(0);
  let length = 1;
  while (length < n && element(length) === first) length++;
  if (dtype === 'bool' || !Number.isSafeInteger(first) || n <= 2 * length) return undefined;
  for (let k = 0; k < n; k++) if (element(k) !== first + Math.floor(k / length)) return undefined;
  return s.cast(s.add(s.floordiv(i, length), first), dtype);
}

interface Run {
  readonly lo: number;
  readonly hi: number;
}
/** The only run of true elements; an empty one where none is; undefined where there are several. */
function runOf(n: number, is: (k: number) => boolean): Run | undefined {
  let lo = 0;
  while (lo < n && !is(lo)) lo++;
  let hi = lo;
  while (hi < n && is(hi)) hi++;
  for (let k = hi; k < n; k++) if (is(k)) return undefined;
  return { lo, hi };
}

/** One or two runs along an axis, or what they leave out. */
function describeRow(n: number, is: (k: number) => boolean, i: Expr): Expr | undefined {
  const between = ({ lo, hi }: Run): Expr =>
    s.and(lo > 0 ? s.le(lo, i) : s.bool(true), hi < n ? s.lt(i, hi) : s.bool(true));
  const run = runOf(n, is);
  if (run) return run.lo === run.hi ? s.bool(false) : between(run);
  const gap = runOf(n, (k) => !is(k));
  return gap && s.not(between(gap));
}

/** A band around a diagonal, rows against columns, or blocks on the diagonal. */
function describeMatrix(
  n: number,
  m: number,
  is: (i: number, j: number) => boolean,
  i: Expr,
  j: Expr,
): Expr | undefined {
  const holds = (f: (a: number, b: number) => boolean): boolean => {
    for (let a = 0; a < n; a++) for (let b = 0; b < m; b++) if (f(a, b) !== is(a, b)) return false;
    return true;
  };
  for (const turned of [false, true]) {
    const found = describeBand(n, m, (a, b) => is(a, b) !== turned, i, j);
    if (found) return turned ? s.not(found) : found;
  }
  for (const turned of [false, true]) {
    const first = runOf(m, (b) => is(0, b) !== turned);
    if (!first || first.lo > 0 || first.hi === 0) continue;
    const size = first.hi;
    if (!holds((a, b) => (Math.floor(a / size) === Math.floor(b / size)) !== turned)) continue;
    const same = s.eq(s.floordiv(i, size), s.floordiv(j, size));
    return turned ? s.not(same) : same;
  }
  for (const turned of [false, true]) {
    const cells = (a: number, b: number): boolean => is(a, b) !== turned;
    const found = [describePrefix, describeSteppedBand, describeGrid].map((f) => f(n, m, cells)).find((f) => f);
    if (!found || !holds((a, b) => found.is(a, b) !== turned)) continue;
    const e = found.say(i, j);
    return turned ? s.not(e) : e;
  }
  const row = (a: number): boolean => Array.from({ length: m }, (_, b) => is(a, b)).includes(true);
  const column = (b: number): boolean => Array.from({ length: n }, (_, a) => is(a, b)).includes(true);
  const [rows, columns] = [Array.from({ length: n }, (_, a) => row(a)), Array.from({ length: m }, (_, b) => column(b))];
  if (!holds((a, b) => rows[a]! && columns[b]!)) return undefined;
  const [p, q] = [describeRow(n, (a) => rows[a]!, i), describeRow(m, (b) => columns[b]!, j)];
  return p && q && s.and(p, q);
}

/** What a matrix may be, to be checked against every element. */
interface Guess {
  is(i: number, j: number): boolean;
  say(i: Expr, j: Expr): Expr;
}
type Cells = (i: number, j: number) => boolean;

/** The first columns, and beyond them a triangle. */
function describePrefix(n: number, m: number, is: Cells): Guess | undefined {
  const ends = Array.from({ length: n }, (_, a) => runOf(m, (b) => is(a, b)) ?? { lo: 1, hi: 0 });
  if (ends.some(({ lo }) => lo !== 0)) return undefined;
  const first = Math.min(...ends.map(({ hi }) => hi));
  const row = ends.findIndex(({ hi }) => hi > first && hi < m);
  if (row < 0 || first === 0) return undefined;
  const past = ends[row]!.hi - 1 - row;
  return {
    is: (a, b) => b < first || b <= a + past,
    say: (i, j) => s.or(s.lt(j, first), s.le(j, s.add(i, past))),
  };
}

/** Every so many columns on both sides of the diagonal. */
function describeSteppedBand(n: number, m: number, is: Cells): Guess | undefined {
  const inside = Array.from({ length: Math.min(n, m) }, (_, by) => by);
  const [step, ...more] = inside.filter((by) => by > 0 && is(by, 0));
  if (step === undefined || step < 2) return undefined;
  const reach = more.at(-1) ?? step;
  return {
    is: (a, b) => Math.abs(a - b) <= reach && (a - b) % step === 0,
    say: (i, j) => s.and(s.le(s.abs(s.sub(i, j)), reach), s.eq(s.floormod(s.sub(i, j), step), 0)),
  };
}

/** Cells of a grid that are near each other; tokens stand row by row. */
function describeGrid(_: number, m: number, is: Cells): Guess | undefined {
  let radius = 0;
  while (radius + 1 < m && is(0, radius + 1)) radius++;
  let width = radius + 1;
  while (width < m && !is(0, width)) width++;
  if (!is(0, 0) || width >= m || width < 2) return undefined;
  const near = (a: number, b: number): boolean => Math.abs(a - b) <= radius;
  return {
    is: (a, b) => near(Math.floor(a / width), Math.floor(b / width)) && near(a % width, b % width),
    say: (i, j) => {
      const within = (f: (e: Expr, by: number) => Expr): Expr => s.le(s.abs(s.sub(f(i, width), f(j, width))), radius);
      return s.and(within(s.floordiv), within(s.floormod));
    },
  };
}

/** Rows whose runs start and end at `i + constant`, clipped to the matrix. */
function describeBand(n: number, m: number, is: (i: number, j: number) => boolean, i: Expr, j: Expr): Expr | undefined {
  const runs: Run[] = [];
  for (let a = 0; a < n; a++) {
    const run = runOf(m, (b) => is(a, b));
    if (!run) return undefined;
    runs.push(run);
  }
  const live = runs.flatMap(({ lo, hi }, a) => (lo < hi ? [{ a, lo, hi }] : []));
  // Where a run starts or ends inside the matrix, it says the offset; where none does, there is no bound.
  const starts = live.filter(({ lo }) => lo > 0).map(({ a, lo }) => lo - a);
  const ends = live.filter(({ hi }) => hi < m).map(({ a, hi }) => hi - a);
  const left = starts.length > 0 ? starts[0]! : undefined;
  const right = ends.length > 0 ? ends[0]! : undefined;
  const inside = (a: number, b: number): boolean =>
    (left === undefined || b >= a + left) && (right === undefined || b < a + right);
  for (let a = 0; a < n; a++) for (let b = 0; b < m; b++) if (inside(a, b) !== is(a, b)) return undefined;
  return s.and(
    left === undefined ? s.bool(true) : s.le(s.add(i, left), j),
    right === undefined ? s.bool(true) : s.lt(j, s.add(i, right)),
  );
}
