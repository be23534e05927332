/** Sets of rows as values of the graph: their numbers, their predicate, and rows taken and put back. */
import type { Expr } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { type IndexSet, toPredicate } from '../ir/index-set.ts';
import { coords, scoreTerm } from '../ir/ops/attention.ts';
import { positions } from '../ir/ops/counted.ts';
import { add, cast, greaterEqual, less, select } from '../ir/ops/elementwise.ts';
import { gatherElements } from '../ir/ops/index.ts';
import { compact, places, restore } from '../ir/ops/rows.ts';
import { concat, expand, iota, reshape, sliceAxis, transpose } from '../ir/ops/shape.ts';
import { project, scalar } from '../ir/ops/structural.ts';
import * as s from '../ir/scalar.ts';
import { asExpr, type Dim, dim, elements, sameDim } from '../ir/type.ts';
import type { Elements, Source } from './elements.ts';
import { isNonNegative } from './elements.ts';
import { ENTRY, type Piece, ROW, type RowSet, startOf } from './row-sets.ts';

/** Where rows stand in a value: their axis, and the axis of the entries where those have rows of their own. */
export interface Place {
  readonly axis: number;
  readonly batch: number | undefined;
}

/** What a value holds: some rows of one axis. */
export interface Label extends Place {
  readonly rows: RowSet;
}
export const sameLabel = (a: Label | undefined, b: Label | undefined): boolean =>
  a === b || (!!a && !!b && a.rows === b.rows && a.axis === b.axis && a.batch === b.batch);

/** Values that stand for sets of rows, each made once. `resolve` gives the present form of a value of the old graph. */
export class RowIds {
  readonly #elements: Elements;
  readonly #resolve: (old: Value) => Value;
  readonly #ids = new Map<RowSet, Value>();
  readonly #orders = new Map<string, Value>();
  readonly #masks = new Map<string, Value>();

  constructor(elements: Elements, resolve: (old: Value) => Value) {
    this.#elements = elements;
    this.#resolve = resolve;
  }

  /** Row numbers, i32 [K] or [B, K]. */
  ids(rows: RowSet): Value {
    let value = this.#ids.get(rows);
    if (!value) {
      const parts = rows.pieces.map((p) => this.#piece(p, rows));
      value = parts.length === 1 ? parts[0]! : concat(parts, { axis: rows.batch === undefined ? 0 : 1 });
      this.#ids.set(rows, value);
    }
    return value;
  }

  #piece(p: Piece, { batch, size }: RowSet): Value {
    switch (p.kind) {
      case 'interval': {
        const count = iota([], { axis: 0, shape: [p.count], dtype: 'i32' });
        const numbers = dim(p.start) === 0 ? count : add([count, this.size(p.start)]);
        return batch === undefined
          ? numbers
          : expand([reshape([numbers], { shape: [1, p.count] })], { shape: [batch, p.count] });
      }
      case 'chosen': {
        const own = sliceAxis(this.#order(p, batch), batch === undefined ? 0 : 1, 0, p.count);
        return dim(p.start) === 0 ? own : add([own, this.size(p.start)]);
      }
      case 'named': {
        const numbers = this.#numbers(p.indices, p.size);
        const moved = dim(p.offset) === 0 ? numbers : add([numbers, this.size(p.offset)]);
        const lead = typeOf(moved).shape[0]!;
        if (batch === undefined) return reshape([moved], { shape: [p.count] });
        const rows = reshape([moved], { shape: [typeOf(moved).shape.length > 1 ? lead : 1, p.count] });
        return sameDim(typeOf(rows).shape[0]!, batch) ? rows : expand([rows], { shape: [batch, p.count] });
      }
      case 'single': {
        // Where there is no such row some other is taken, which nobody reads.
        const inside = s.max(s.min(p.row, s.sub(asExpr(size), 1)), 0);
        const row = this.#term(inside, [batch ?? 1, 1]);
        return batch === undefined ? reshape([row], { shape: [1] }) : row;
      }
    }
  }

  /** An index tensor as row numbers of an axis of `size`: i32, none negative. */
  #numbers(indices: Value, size: Dim): Value {
    const numbers = cast([this.#resolve(indices)], { to: 'i32' });
    if (isNonNegative(indices)) return numbers;
    return select([less([numbers, scalar(0, 'i32')]), add([numbers, this.size(size)]), numbers]);
  }

  /** Positions of the chosen rows, ascending, then those of the others. */
  #order(p: Piece & { readonly kind: 'chosen' }, batch: Dim | undefined): Value {
    const mask = this.mask(p.set, p.size, batch);
    const key = `${this.#keyOf(p.set)}:${keyOfDim(p.size)}:${keyOfDim(batch ?? 0)}`;
    let order = this.#orders.get(key);
    if (!order) {
      order = project(positions([mask]), 0);
      this.#orders.set(key, order);
    }
    return order;
  }

  /** Whether each row is in a set over ENTRY and ROW: bool [N], or [B, N]. */
  mask(set: IndexSet, size: Dim, batch: Dim | undefined): Value {
    const key = `${this.#keyOf(set)}:${keyOfDim(size)}:${keyOfDim(batch ?? 0)}`;
    let mask = this.#masks.get(key);
    if (!mask) {
      const full = this.#term(toPredicate(set), [batch ?? 1, size]);
      mask = batch === undefined ? reshape([full], { shape: [size] }) : full;
      this.#masks.set(key, mask);
    }
    return mask;
  }
  #keyOf = (set: IndexSet): string => `e${toPredicate(set).id}`;

  /** An expression over ENTRY and ROW as a tensor [B, N]. */
  #term(e: Expr, shape: readonly [Dim, Dim]): Value {
    const operands: Value[] = [];
    const put = (node: Expr): Expr =>
      s.substitute(node, (leaf) => {
        if (leaf === ENTRY) return coords.b;
        if (leaf === ROW) return coords.k;
        if (leaf.op !== 'operand') return undefined;
        const source = this.#elements.source(leaf.arg as number);
        const from = source.kind === 'element' ? this.#resolve(source.value) : this.#members(source);
        const known = operands.indexOf(from);
        const n = known < 0 ? operands.push(from) - 1 : known;
        const type = typeOf(from);
        // Loads that a condition guards are made inside their operand all the same.
        const at = leaf.args.map((a, axis) => {
          const to = put(a);
          const own = to === coords.b ? shape[0] : to === coords.k ? shape[1] : undefined;
          return own !== undefined && sameDim(own, type.shape[axis]!)
            ? to
            : s.max(s.min(s.cast(to, 'i32'), s.sub(asExpr(type.shape[axis]!), 1)), 0);
        });
        return s.operand(n, type.dtype, at);
      });
    const expr = put(e);
    return reshape([scoreTerm(operands, { expr, shape: [shape[0], 1, 1, shape[1]] })], { shape });
  }

  /** Which positions an index tensor names: bool [F…, N], F the sizes of the axes that stand still. */
  #members({ value, fixed, size }: Source & { readonly kind: 'image' }): Value {
    const numbers = this.#numbers(value, size);
    const { shape } = typeOf(numbers);
    const running = [...shape.keys()].filter((axis) => !fixed.includes(axis));
    const sorted = [...fixed, ...running].every((axis, n) => axis === n);
    const turned = sorted ? numbers : transpose([numbers], { perm: [...fixed, ...running] });
    const named = dim(elements(running.map((axis) => shape[axis]!)));
    const lines = reshape([turned], { shape: [...fixed.map((axis) => shape[axis]!), named] });
    return greaterEqual([places([lines], { size }), scalar(0, 'i32')]);
  }

  /** A size as an i32 scalar. */
  size(d: Dim): Value {
    if (typeof d === 'number') return scalar(d, 'i32');
    const term = scoreTerm([], { expr: d, shape: [1, 1, 1, 1] });
    return reshape([term], { shape: [] });
  }

  /** The rows of a value; where entries have rows of their own, an axis of size 1 before them is stretched. */
  take(x: Value, rows: RowSet, { axis, batch }: Place): Value {
    const start = startOf(rows);
    const whole = batch === undefined || sameDim(typeOf(x).shape[batch]!, rows.batch ?? 1);
    if (start !== undefined && whole) return sliceAxis(x, axis, start, dim(s.add(asExpr(start), rows.count)));
    return compact([x, this.ids(rows)], { axis, batch: batch ?? 0, distinct: rows.ascending });
  }

  /** Some rows of those that a value holds. */
  takeFrom(x: Value, held: RowSet, wanted: RowSet, { axis, batch }: Place): Value {
    const [a, b] = [startOf(held), startOf(wanted)];
    if (a !== undefined && b !== undefined) {
      const start = dim(s.sub(asExpr(b), a));
      return sliceAxis(x, axis, start, dim(s.add(asExpr(start), wanted.count)));
    }
    let [from, ids] = [places([this.ids(held)], { size: held.size }), this.ids(wanted)];
    if (held.batch !== undefined && wanted.batch === undefined)
      ids = expand([ids], { shape: [held.batch, wanted.count] });
    if (held.batch === undefined && wanted.batch !== undefined)
      from = expand([from], { shape: [wanted.batch, held.size] });
    const own = gatherElements([from, ids], { axis: typeOf(ids).shape.length - 1 });
    return compact([x, own], { axis, batch: batch ?? 0, distinct: wanted.ascending });
  }

  /** Rows at their places in a value of all rows, with `fill` around them. */
  restore(x: Value, rows: RowSet, { axis, batch }: Place, fill: Value): Value {
    return restore([x, this.ids(rows), fill], { axis, batch: batch ?? 0, size: rows.size });
  }
}

const keyOfDim = (d: Dim): string => (typeof d === 'number' ? String(d) : `e${d.id}`);
