/**
 * Values in packed form: the rows of all batch entries that are read, behind each other. A value [B, …, N, …] is held as
 * [1, …, K, …], its entries along `batch` gone and its rows along `row` those of a set over entry and row, entry by entry,
 * in order. How many they are, K, is counted when the program runs.
 */
import { countedSize } from '../ir/counts.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { counted, positions } from '../ir/ops/counted.ts';
import { add, cast, floorDiv, floorMod, select, sub } from '../ir/ops/elementwise.ts';
import { cumsum } from '../ir/ops/order.ts';
import { reduceMax } from '../ir/ops/reduce.ts';
import { compact, restoreAt } from '../ir/ops/rows.ts';
import { iota, reshape, transpose } from '../ir/ops/shape.ts';
import { project, scalar } from '../ir/ops/structural.ts';
import * as s from '../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../ir/type.ts';

/** The axes of a value that entries and rows run along; entries come first. */
export interface Axes {
  readonly batch: number;
  readonly row: number;
}

/** The rows of entries that are kept, as values of the graph. */
export class PackedRows {
  readonly batch: Dim;
  readonly size: Dim;
  /** K. */
  readonly count: Dim;
  /** Elements of one row that moving values in and out of packed form takes, all together. */
  moved = 0;
  /** i32[K]: entry · N + row. */
  readonly #ids: Value;
  /** i32[B · N]: where each row stands in packed form, −1 where it does not. */
  readonly #places: Value;
  readonly #mask: Value;
  readonly #limits = new Map<string, Value>();
  #rows: Value | undefined;
  #entries: Value | undefined;

  /** @param mask bool[B, N] @param name of the count, unique in the model @param extent of a row in `size` */
  constructor(mask: Value, name: string, extent: (d: Dim) => Value) {
    const [batch, size] = typeOf(mask).shape as [Dim, Dim];
    this.#mask = mask;
    this.batch = batch;
    this.size = size;
    const all = dim(s.mul(asExpr(batch), size));
    const flat = reshape([mask], { shape: [all] });
    const order = positions([flat]);
    this.count = countedSize(name, all);
    this.#ids = counted([project(order, 0), project(order, 1)], { size: this.count });
    const before = sub([cumsum([cast([flat], { to: 'i32' })], { axis: 0 }), scalar(1, 'i32')]);
    this.#places = select([flat, before, scalar(-1, 'i32')]);
    this.extent = extent;
  }
  private readonly extent: (d: Dim) => Value;

  /**
   * i32[B, N]: for each row how many keys it meets, none where it is not kept.
   * @param keys all of them; undefined where the keys that count are kept rows themselves, and end with the last of those
   */
  limits(keys?: Dim): Value {
    const key = keys === undefined ? '' : typeof keys === 'number' ? `${keys}` : `e${keys.id}`;
    let limit = this.#limits.get(key);
    if (!limit) {
      limit = select([this.#mask, keys === undefined ? this.#ends() : this.extent(keys), scalar(0, 'i32')]);
      this.#limits.set(key, limit);
    }
    return limit;
  }

  /** i32[B, 1]: one more than the last row that is kept. */
  #ends(): Value {
    const numbers = add([iota([], { axis: 1, shape: [1, this.size], dtype: 'i32' }), scalar(1, 'i32')]);
    return reduceMax([select([this.#mask, numbers, scalar(0, 'i32')])], { axes: [1], keepdims: true });
  }

  /** i32[K]: the row within its entry. */
  get rows(): Value {
    this.#rows ??= floorMod([this.#ids, this.extent(this.size)]);
    return this.#rows;
  }
  /** i32[K]: the entry. */
  get entries(): Value {
    this.#entries ??= floorDiv([this.#ids, this.extent(this.size)]);
    return this.#entries;
  }

  /** The packed form of a whole value. */
  pack(x: Value, axes: Axes): Value {
    const { front, back } = toFront(typeOf(x).shape.length, axes);
    const first = moved(x, front);
    const rest = typeOf(first).shape.slice(2);
    const lines = reshape([first], { shape: [dim(s.mul(asExpr(this.batch), this.size)), ...rest] });
    this.moved += elementsOf(rest);
    const kept = compact([lines, this.#ids], { axis: 0 });
    return moved(reshape([kept], { shape: [1, this.count, ...rest] }), back);
  }

  /** All rows of a value in packed form; zeros where they were left out. */
  unpack(x: Value, axes: Axes): Value {
    const { front, back } = toFront(typeOf(x).shape.length, axes);
    const first = moved(x, front);
    const rest = typeOf(first).shape.slice(2);
    const lines = reshape([first], { shape: [this.count, ...rest] });
    const size = dim(s.mul(asExpr(this.batch), this.size));
    this.moved += elementsOf(rest);
    const all = restoreAt([lines, this.#places, scalar(0, typeOf(x).dtype)], { axis: 0, size });
    return moved(reshape([all], { shape: [this.batch, this.size, ...rest] }), back);
  }

  /** Each kept row's own row of what all entries share, along `axis`. */
  ofRow(x: Value, axis: number): Value {
    this.moved += elementsOf(typeOf(x).shape.toSpliced(axis, 1));
    return compact([x, this.rows], { axis, distinct: false });
  }

  /** Each kept row's own entry of what all rows share: along `axes.row`, where that is there, else along the entries. */
  ofEntry(x: Value, { batch, row }: Axes): Value {
    this.moved += elementsOf(typeOf(x).shape.toSpliced(batch, 1));
    const own = compact([x, this.entries], { axis: batch, distinct: false });
    const swapped = typeOf(x).shape.map((_, i) => (i === batch ? row : i === row ? batch : i));
    return transpose([own], { perm: swapped });
  }
}

const elementsOf = (shape: readonly Dim[]): number =>
  shape.reduce<number>((n, d) => n * (typeof d === 'number' ? d : 1), 1);

/** The permutation that brings entries and rows to the front, and the one back. */
function toFront(rank: number, { batch, row }: Axes): { readonly front: number[]; readonly back: number[] } {
  const others = Array.from({ length: rank }, (_, i) => i).filter((i) => i !== batch && i !== row);
  const front = [batch, row, ...others];
  return { front, back: front.map((_, i) => front.indexOf(i)) };
}
const moved = (x: Value, perm: readonly number[]): Value =>
  perm.every((axis, i) => axis === i) ? x : transpose([x], { perm });

/** The op on packed operands; undefined where it does not work row by row. */
export function onPacked(
  value: Value,
  { batch, row }: Axes,
  rows: PackedRows,
  operand: { packed(x: Value, axes: Axes): Value; whole(x: Value): Value },
): Value | undefined {
  const { op, inputs, attrs } = value;
  if (value.type.kind === 'tuple' || inputs.length === 0 || inputs.some((x) => x.type.kind === 'tuple'))
    return undefined;
  if (op.name === 'attention' || op.name === 'get' || op.name === 'counted') return undefined;
  const roles = op.axes?.(inputs.map(typeOf), attrs);
  if (!roles) return undefined;
  const isPointwise = op.lower.kind === 'pointwise';
  const operands: Value[] = [];
  for (const [n, x] of inputs.entries()) {
    const [b, r] = [roles[n]!.indexOf(batch), roles[n]!.indexOf(row)];
    const { shape } = typeOf(x);
    if (b >= 0 && r >= 0) {
      if (b > r) return undefined;
      operands.push(operand.packed(x, { batch: b, row: r }));
    } else if (b < 0 && r < 0) operands.push(operand.whole(x));
    else if (!isPointwise) return undefined;
    else if (r >= 0) operands.push(rows.ofRow(operand.whole(x), r));
    else {
      // Axes line up at the last one; that of the rows has size 1 here.
      const at = shape.length - typeOf(value).shape.length + row;
      if (at < 0) return undefined;
      operands.push(rows.ofEntry(operand.whole(x), { batch: b, row: at }));
    }
  }
  if (!operands.some((x, n) => x !== inputs[n])) return undefined;
  const shape = typeOf(value).shape.map((d, i): Dim => (i === batch ? 1 : i === row ? rows.count : d));
  switch (op.name) {
    case 'reshape':
    case 'expand':
      return makeValue(op, operands, { ...attrs, shape }, value);
    case 'slice': {
      const at = typeOf(operands[0]!).shape;
      const own = (list: readonly Dim[], whole: (i: number) => Dim): Dim[] =>
        list.map((d, i) => (i === batch || i === row ? whole(i) : d));
      const starts = own(attrs.starts as readonly Dim[], () => 0);
      return makeValue(
        op,
        operands,
        { ...attrs, starts, stops: own(attrs.stops as readonly Dim[], (i) => at[i]!) },
        value,
      );
    }
  }
  if (Object.values(op.attrs).some((a) => a.kind === 'dim' || a.kind === 'graph')) return undefined;
  const made = makeValue(op, operands, attrs, value);
  const fits = made.type.kind === 'tensor' && made.type.shape.every((d, i) => dim(d) === dim(shape[i]!));
  return fits ? made : undefined;
}
