/**
 * Sets of rows that can be kept: a set of positions along one axis, the same for all batch entries or one for each, of which
 * is known how many there are and how their numbers are computed.
 */
import { type Affine, formMentions, plus, scaled, shifted, solve, toExpr } from '../ir/affine.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import {
  and,
  coordinate,
  exists,
  type IndexSet,
  isAll,
  isEmpty,
  isMentioned,
  isNone,
  isSame,
  isWhole,
  isWithin,
  type Literal,
  replace,
  type Term,
  tidy,
  where,
} from '../ir/index-set.ts';
import { promisesOf } from '../ir/promises.ts';
import * as s from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, type Dim, dim, sameDim, sizeAt } from '../ir/type.ts';
import type { Elements } from './elements.ts';
import { permutedAxis } from './elements.ts';

/** What sets of rows are written in: the batch entry and the row. */
export const ENTRY: Expr = coordinate(0);
export const ROW: Expr = coordinate(1);

/** A stretch of a list of row numbers. */
export type Piece =
  | { readonly kind: 'interval'; readonly start: Dim; readonly count: Dim }
  /** Rows start … start + size − 1 of which a predicate over ENTRY and the distance from `start` is true, ascending. */
  | { readonly kind: 'chosen'; readonly start: Dim; readonly size: Dim; readonly set: IndexSet; readonly count: Dim }
  /** Rows that an index tensor [P] or [B, P] names, in its order. */
  | { readonly kind: 'named'; readonly indices: Value; readonly offset: Dim; readonly size: Dim; readonly count: Dim }
  /** One row for each entry, by an expression over ENTRY. */
  | { readonly kind: 'single'; readonly row: Expr; readonly count: 1 };

export interface RowSet {
  readonly id: number;
  /** Over ENTRY and ROW. */
  readonly set: IndexSet;
  /** Rows of the axis. */
  readonly size: Dim;
  /** Batch entries, where the set differs between them. */
  readonly batch: Dim | undefined;
  readonly pieces: readonly Piece[];
  /** Rows in the set, the same for every entry. */
  readonly count: Dim;
  /** Whether rows stand in ascending order, none twice. */
  readonly ascending: boolean;
  /** Whether all rows that are kept are in the set; otherwise some may stand in for rows that do not exist. */
  readonly exact: boolean;
}

export const startOf = (rows: RowSet): Dim | undefined => {
  const [only] = rows.pieces;
  return rows.pieces.length === 1 && only?.kind === 'interval' ? only.start : undefined;
};

const plusDim = (a: Dim, b: Dim): Dim => dim(s.add(asExpr(a), b));
const defaultSize = (d: Dim): number => sizeAt(d, (e) => (e.arg as Sym).default);
/** The share of rows that is kept where sizes have their defaults. */
export const shareOf = ({ count, size }: RowSet): number => defaultSize(count) / Math.max(1, defaultSize(size));
export { defaultSize };

/** All sets of rows that a graph is asked about, each once. */
export class RowSets {
  readonly #known: RowSet[] = [];
  readonly #elements: Elements;

  constructor(elements: Elements) {
    this.#elements = elements;
  }

  /**
   * The rows along an axis that a set of positions touches, and the axis that tells entries apart where they differ; undefined
   * when that is every row, or when nobody can tell beforehand how many rows there are.
   */
  along(
    set: IndexSet,
    axis: number,
    shape: readonly Dim[],
  ): { readonly rows: RowSet; readonly batch: number | undefined } | undefined {
    if (isWhole(set) || isNone(set) || !isMentioned(set, coordinate(axis))) return undefined;
    const others = shape.flatMap((_, n) => (n !== axis && isMentioned(set, coordinate(n)) ? [n] : []));
    // Of the other axes at most one tells entries apart; the others are projected away.
    let best: { readonly rows: RowSet; readonly batch: number | undefined } | undefined;
    for (const batch of [undefined, ...others]) {
      let left = set;
      for (const n of others) if (n !== batch) left = exists(left, coordinate(n), shape[n]!);
      const moved = replace(left, (leaf) =>
        leaf === coordinate(axis) ? ROW : batch !== undefined && leaf === coordinate(batch) ? ENTRY : undefined,
      );
      const rows = this.of(moved, shape[axis]!, batch === undefined ? undefined : shape[batch]!);
      if (rows && (!best || shareOf(rows) < shareOf(best.rows)))
        best = { rows, batch: rows.batch === undefined ? undefined : batch };
    }
    return best;
  }

  /** The set of rows, over ENTRY and ROW; undefined when it is every row, or of a size that is not known. */
  of(set: IndexSet, size: Dim, batch: Dim | undefined): RowSet | undefined {
    const extents = [batch ?? 1, size];
    const clean = tidy(set, extents);
    if (isWhole(clean) || isNone(clean) || isAll(clean, extents)) return undefined;
    const own = isMentioned(clean, ENTRY) ? batch : undefined;
    const pieces = this.#pieces(clean, size, extents);
    if (!pieces) return undefined;
    // Of an axis without rows none can stand in for one that does not exist.
    if (boundsOf(asExpr(size))[0] < 1 && pieces.some((p) => p.kind === 'single')) return undefined;
    return this.#intern(clean, size, own, pieces);
  }

  /** The rows of an interval. */
  interval(start: Dim, count: Dim, size: Dim): RowSet {
    const inside = and(where(s.le(asExpr(start), ROW)), where(s.lt(ROW, s.add(asExpr(start), count))));
    return this.#intern(inside, size, undefined, [{ kind: 'interval', start, count }]);
  }

  #intern(set: IndexSet, size: Dim, batch: Dim | undefined, pieces: readonly Piece[]): RowSet {
    const ascending = pieces.every((p) => p.kind !== 'named');
    const extents = [batch ?? 1, size];
    const known = this.#known.find(
      (r) =>
        sameDim(r.size, size) &&
        (r.batch === undefined) === (batch === undefined) &&
        (batch === undefined || sameDim(r.batch!, batch)) &&
        r.ascending === ascending &&
        (ascending || sameLists(r.pieces, pieces)) &&
        isSame(r.set, set, extents),
    );
    if (known) return known;
    const count = pieces.map((p) => p.count).reduce(plusDim);
    const exact = pieces.every((p) => p.kind !== 'single' || this.#exists(p.row, size));
    const rows: RowSet = { id: this.#known.length, set, size, batch, pieces, count, ascending, exact };
    this.#known.push(rows);
    return rows;
  }

  /** Whether a row number surely is one of the axis: the position of an extremum along an axis no longer than that. */
  #exists(row: Expr, size: Dim): boolean {
    const load = row.op === 'cast' ? row.args[0]! : row;
    const source = load.op === 'operand' ? this.#elements.source(load.arg as number) : undefined;
    if (source?.kind !== 'element' || (source.value.op.name !== 'arg_max' && source.value.op.name !== 'arg_min'))
      return false;
    const searched = typeOf(source.value.inputs[0]!).shape.at(Number(source.value.attrs.axis))!;
    return sameDim(searched, size);
  }

  /** The same rows of a longer axis, `by` further on. */
  shifted(rows: RowSet, by: Dim, size: Dim): RowSet {
    const set = replace(rows.set, (leaf) => (leaf === ROW ? s.sub(ROW, by) : undefined));
    const pieces = rows.pieces.map((p): Piece => {
      if (p.kind === 'named') return { ...p, offset: plusDim(p.offset, by) };
      return p.kind === 'single' ? { ...p, row: s.add(p.row, by) } : { ...p, start: plusDim(p.start, by) };
    });
    const inside = and(set, and(where(s.le(asExpr(by), ROW)), where(s.lt(ROW, s.add(asExpr(by), rows.size)))));
    return this.#intern(tidy(inside, [rows.batch ?? 1, size]), size, rows.batch, pieces);
  }

  /** The rows that lie in start … stop − 1, counted from start; `all` when those are all, undefined when not known. */
  part(rows: RowSet, start: Dim, size: Dim): RowSet | 'all' | 'none' | undefined {
    if (!rows.ascending || !rows.exact) return undefined;
    const set = replace(rows.set, (leaf) => (leaf === ROW ? s.add(ROW, start) : undefined));
    const extents = [rows.batch ?? 1, size];
    if (isEmpty(set, extents)) return 'none';
    if (isAll(set, extents)) return 'all';
    const part = this.of(set, size, rows.batch);
    return part?.exact && part.ascending ? part : undefined;
  }

  #pieces(set: IndexSet, size: Dim, extents: readonly Dim[]): readonly Piece[] | undefined {
    return this.#listed(set, size, extents[0]!) ?? this.#cut(set, size, extents);
  }

  /** A union of single intervals, single rows, and rows named by index tensors, at least one of the last two. */
  #listed(set: IndexSet, size: Dim, batch: Dim): readonly Piece[] | undefined {
    const pieces = set.terms.map((term) => this.#named(term, size, batch) ?? singleRow(term) ?? interval(term, size));
    if (!pieces.every((p) => p !== undefined)) return undefined;
    const intervals = pieces.filter((p) => p.kind === 'interval').length;
    const named = pieces.filter((p) => p.kind === 'named').length;
    // Rows that could stand twice are listed without order.
    if (pieces.length === 1) return pieces;
    return named > 0 && named + intervals === pieces.length ? pieces : undefined;
  }

  #named(term: Term, size: Dim, batch: Dim): Piece | undefined {
    const [l] = term;
    if (term.length !== 1 || l?.kind !== 'is' || !l.holds || l.e.op !== 'operand') return undefined;
    const source = this.#elements.source(l.e.arg as number);
    if (source.kind !== 'image') return undefined;
    const { shape } = typeOf(source.value);
    const place = l.e.args.at(-1)!;
    // Of a part of the axis that is indexed not every row that is named need exist.
    if (place !== ROW || !sameDim(source.size, size)) return undefined;
    // One axis is run over; of the others the first may be that of the entries, and the rest have size 1.
    const open = [...shape.keys()].filter((axis) => !source.fixed.includes(axis));
    const isAlone = (axis: number, n: number): boolean => dim(shape[axis]!) === 1 && isZero(l.e.args[n]!);
    // A list for each entry is one for each of these entries, and no others.
    const follows = (axis: number, n: number): boolean =>
      axis === 0 && l.e.args[n] === ENTRY && sameDim(shape[axis]!, batch);
    const fits = source.fixed.every((axis, n) => follows(axis, n) || isAlone(axis, n));
    if (open.length !== 1 || !fits) return undefined;
    const count = shape[open[0]!]!;
    return { kind: 'named', indices: source.value, offset: 0, size, count };
  }

  /** Stretches between the constants that the set compares rows with. */
  #cut(set: IndexSet, size: Dim, extents: readonly Dim[]): readonly Piece[] | undefined {
    const cuts = new Set<number>();
    for (const term of set.terms)
      for (const l of term) {
        if (l.kind !== 'le' || !l.form.terms.has(ROW)) continue;
        const bound = solve(l.form, ROW);
        if (!bound || bound.value.terms.size > 0) continue;
        cuts.add(bound.side === 'upper' ? bound.value.constant + 1 : bound.value.constant);
      }
    const most = typeof size === 'number' ? size : Infinity;
    const starts = [0, ...[...cuts].filter((c) => c > 0 && c < most).sort((a, b) => a - b)];
    // A cut of an axis of unknown size may lie outside of it.
    if (starts.some((start) => start > boundsOf(asExpr(size))[0])) return undefined;
    const pieces: Piece[] = [];
    for (const [n, start] of starts.entries()) {
      const end: Dim = starts[n + 1] ?? size;
      const length = dim(s.sub(asExpr(end), start));
      const own = tidy(
        replace(set, (leaf) => (leaf === ROW ? s.add(ROW, start) : undefined)),
        [extents[0]!, length],
      );
      if (isNone(own)) continue;
      if (isWhole(own)) {
        const last = pieces.at(-1);
        if (last?.kind === 'interval' && sameDim(plusDim(last.start, last.count), start))
          pieces[pieces.length - 1] = { ...last, count: plusDim(last.count, length) };
        else pieces.push({ kind: 'interval', start, count: length });
        continue;
      }
      const alone = own.terms.length === 1 ? (interval(own.terms[0]!, length) ?? singleRow(own.terms[0]!)) : undefined;
      if (alone?.kind === 'interval') pieces.push({ ...alone, start: plusDim(alone.start, start) });
      else if (alone?.kind === 'single' && starts.length === 1) pieces.push(alone);
      else {
        const count = this.#count(own, length);
        if (count === undefined) return undefined;
        if (dim(count) !== 0) pieces.push({ kind: 'chosen', start, size: length, set: own, count });
      }
    }
    return pieces.length > 0 ? pieces : undefined;
  }

  /** How many rows 0 … size − 1 a set has, where that is the same for every entry. */
  #count(set: IndexSet, size: Dim): Dim | undefined {
    const [term] = set.terms;
    if (set.terms.length !== 1 || !term) return undefined;
    const promised = term.length === 1 ? this.#promised(term[0]!, size) : undefined;
    if (promised !== undefined) return promised;
    let place: Expr | undefined;
    let [low, high]: [Affine | undefined, Affine | undefined] = [undefined, undefined];
    for (const l of term) {
      if (l.kind !== 'le') return undefined;
      const loads = [...l.form.terms.keys()].filter((e) => e.op === 'operand');
      const [load] = loads;
      if (loads.length !== 1 || !load || (place && place !== load)) return undefined;
      place = load;
      const bound = solve(l.form, load);
      if (!bound || formMentions(bound.value, ROW) || formMentions(bound.value, ENTRY)) return undefined;
      if (bound.side === 'upper') high = bound.value;
      else low = bound.value;
    }
    if (!place || !this.#countsRows(place, size)) return undefined;
    // Each of 0 … size − 1 occurs once.
    const first = low ? s.max(toExpr(low, 'i32'), 0) : s.literal(0);
    const end = high ? s.min(toExpr(shifted(high, 1), 'i32'), size) : asExpr(size);
    return dim(s.max(s.sub(end, first), 0));
  }

  /** How many rows of each entry an input names that promises a count. */
  #promised(l: Literal, size: Dim): Dim | undefined {
    if (l.kind !== 'is') return undefined;
    const [compared, against] = l.e.op === 'eq' || l.e.op === 'ne' ? l.e.args : [l.e, undefined];
    // 0 and 1 are themselves in every type.
    let bit = compared!;
    while (bit.op === 'cast') bit = bit.args[0]!;
    const source = bit.op === 'operand' ? this.#elements.source(bit.arg as number) : undefined;
    if (source?.kind !== 'element' || (against && against.op !== 'const')) return undefined;
    const { binary, count } = promisesOf(source.value);
    const along = bit.args.every((at, n, { length }) =>
      n === length - 1 ? at === ROW : at === ENTRY || at.op === 'const',
    );
    if (count === undefined || !binary || !along || !sameDim(typeOf(source.value).shape.at(-1)!, size))
      return undefined;
    if (against && against.arg !== 0 && against.arg !== 1) return undefined;
    const one = against === undefined || (against.arg === 0) === (l.e.op === 'ne');
    return l.holds === one ? count : dim(s.sub(asExpr(size), count));
  }

  /** Whether a load runs over a permutation of the rows as ROW runs over them. */
  #countsRows(load: Expr, size: Dim): boolean {
    const source = this.#elements.source(load.arg as number);
    if (source.kind !== 'element') return false;
    const axis = permutedAxis(source.value);
    if (axis === undefined || !sameDim(typeOf(source.value).shape[axis]!, size)) return false;
    return load.args.every((e, n) => (n === axis ? e === ROW : e === ENTRY || e.op === 'const'));
  }
}

/** A term that only bounds the row, by sizes. */
function interval(term: Term, size: Dim): Piece | undefined {
  let [start, end]: [Expr, Expr] = [s.literal(0), asExpr(size)];
  for (const l of term) {
    if (l.kind !== 'le') return undefined;
    const bound = solve(l.form, ROW);
    if (!bound || [...bound.value.terms.keys()].some((e) => e.op !== 'sym')) return undefined;
    const value = toExpr(bound.value, 'i32');
    if (bound.side === 'lower') start = boundsOf(value)[1] <= 0 ? start : s.max(start, value);
    else end = sooner(end, s.add(value, 1));
  }
  return { kind: 'interval', start: dim(start), count: dim(s.max(s.sub(end, start), 0)) };
}
/** The smaller of two sizes, by reasoning where that is possible. */
function sooner(a: Expr, b: Expr): Expr {
  // A size that is cut off at zero is no less than what it is cut from.
  if (a.op === 'max' && a.args.includes(b)) return b;
  if (b.op === 'max' && b.args.includes(a)) return a;
  const difference = s.sub(a, b);
  const [lo, hi] = boundsOf(difference);
  return lo >= 0 ? b : hi <= 0 ? a : s.min(a, b);
}

/** A term that holds for exactly one row of each entry. */
function singleRow(term: Term): Piece | undefined {
  if (term.length !== 2) return undefined;
  const bounds = term.map((l) => (l.kind === 'le' ? solve(l.form, ROW) : undefined));
  const [a, b] = bounds;
  if (!a || !b || a.side === b.side || formMentions(a.value, ROW)) return undefined;
  const difference = plus(a.value, scaled(b.value, -1));
  if (difference.terms.size > 0 || difference.constant !== 0 || a.value.terms.size === 0) return undefined;
  if ([...a.value.terms.keys()].every((e) => e.op === 'sym')) return undefined;
  return { kind: 'single', row: s.cast(toExpr(a.value), 'i32'), count: 1 };
}

const isZero = (e: Expr): boolean => e.op === 'const' && e.arg === 0;

const sameLists = (a: readonly Piece[], b: readonly Piece[]): boolean =>
  a.length === b.length &&
  a.every((p, i) => {
    const q = b[i]!;
    if (p.kind === 'named') return q.kind === 'named' && p.indices === q.indices && sameDim(p.offset, q.offset);
    if (p.kind === 'interval') return q.kind === 'interval' && sameDim(p.start, q.start) && sameDim(p.count, q.count);
    return p === q;
  });

/** Whether every row of `a` is one of `b`. */
export const rowsWithin = (a: RowSet, b: RowSet): boolean => isWithin(a.set, b.set, [b.batch ?? a.batch ?? 1, b.size]);
