/**
 * Rebuilds a graph so that chosen values hold only some of their rows. Each value is built at the places that its label names;
 * an op is restricted where it works row by row, and rows are taken or put back where labels of neighbours differ.
 *
 * Invariant: an element of a rebuilt value is what it was wherever the demand says that it is read. Elsewhere it is
 * unspecified.
 */
import type { Expr } from '../ir/expr.ts';
import { type Graph, graph as makeGraph, typeOf, type Value } from '../ir/graph.ts';
import { coordinate, holdsOn, isMentioned, isNone, isWhole, isWithin, replace } from '../ir/index-set.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxes } from '../ir/ops/check.ts';
import { select } from '../ir/ops/elementwise.ts';
import { expand, reshape, sliceAxis } from '../ir/ops/shape.ts';
import { project, scalar } from '../ir/ops/structural.ts';
import * as s from '../ir/scalar.ts';
import { type Dim, dim, sameDim } from '../ir/type.ts';
import type { Demand } from './demand.ts';
import { isOne } from './facts.ts';
import { restrict } from './restrict.ts';
import { restrictAttention } from './restrict-attention.ts';
import { type Label, RowIds, sameLabel } from './row-ids.ts';
import { ENTRY, ROW, type RowSets, rowsWithin } from './row-sets.ts';

const keyOf = (label: Label | undefined): string =>
  label ? `${label.rows.id}:${label.axis}:${label.batch ?? ''}` : 'all';

/** Ops that move or repeat elements: cheaper at the rows asked for than those rows taken of their result. */
const CHEAP = new Set(['reshape', 'transpose', 'expand', 'slice', 'concat', 'iota', 'cast']);

export class RowKeeper {
  readonly sets: RowSets;
  readonly ids: RowIds;
  readonly demand: Demand;
  readonly #labels: ReadonlyMap<Value, Label>;
  readonly #statics: ReadonlySet<Value>;
  readonly #fill: number;
  readonly #built = new Map<Value, Map<string, Value>>();

  /** @param fill what stands in rows that nobody reads where all rows are put back */
  constructor(demand: Demand, sets: RowSets, labels: ReadonlyMap<Value, Label>, statics: ReadonlySet<Value>, fill = 0) {
    this.#fill = fill;
    this.demand = demand;
    this.sets = sets;
    this.#labels = labels;
    this.#statics = statics;
    this.ids = new RowIds(demand.elements, (old) => this.at(old));
  }

  graph(): Graph {
    const { graph } = this.demand;
    return makeGraph(
      graph.name,
      graph.inputs,
      [...graph.outputs].map(([name, v]) => [name, this.at(v)] as const),
    );
  }

  labelOf = (value: Value): Label | undefined => this.#labels.get(value);

  /** The value at the rows of a label, or whole. */
  at(value: Value, label?: Label): Value {
    let variants = this.#built.get(value);
    if (!variants) {
      variants = new Map();
      this.#built.set(value, variants);
    }
    const key = keyOf(label);
    let built = variants.get(key);
    if (!built) {
      built = named(this.#build(value, label), value);
      variants.set(key, built);
    }
    return built;
  }

  #build(value: Value, label: Label | undefined): Value {
    const own = this.#labels.get(value);
    if (!label) {
      if (!own) return this.#whole(value);
      return this.ids.restore(this.at(value, own), own.rows, own, scalar(this.#fill, typeOf(value).dtype));
    }
    if (sameLabel(own, label))
      return this.#restricted(value, label) ?? this.ids.take(this.#whole(value), label.rows, label);
    const cheap = !this.#statics.has(value) && CHEAP.has(value.op.name) && value.inputs.length > 0;
    // What stands in for a row that does not exist need not be among those held.
    if (own && own.axis === label.axis && label.rows.exact && rowsWithin(label.rows, own.rows)) {
      if (own.batch === label.batch || own.batch === undefined || label.batch === undefined) {
        const place = { axis: own.axis, batch: own.batch ?? label.batch };
        return this.ids.takeFrom(this.at(value, own), own.rows, label.rows, place);
      }
    }
    if (cheap && !own) {
      const restricted = restrict(this, value, label);
      if (restricted) return restricted;
    }
    return this.ids.take(this.at(value), label.rows, label);
  }

  /** The op on the rows of a label; a sum that counts on zeros has to put them in place first, over all rows. */
  #restricted(value: Value, label: Label): Value | undefined {
    if (value.op.name === 'reduce_sum' && this.#mayDiffer(value.inputs[0]!)) return undefined;
    return restrict(this, value, label);
  }

  /** A value of all rows from operands of all rows, unless the op can read rows that are kept. */
  #whole(value: Value): Value {
    const { op, inputs } = value;
    if (inputs.length === 0) return value;
    switch (op.name) {
      case 'get':
        return project(this.at(inputs[0]!), Number(value.attrs.index), value);
      case 'select':
        return this.#chosen(value) ?? this.#plain(value);
      case 'slice':
        return this.#sliced(value) ?? this.#plain(value);
      case 'gather_nd':
        return this.#gathered(value) ?? this.#plain(value);
      case 'reduce_sum':
        return this.#summed(value);
      case 'attention':
        return restrictAttention(this, value, undefined) ?? this.#plain(value);
      default:
        return this.#plain(value);
    }
  }

  #plain(value: Value): Value {
    const inputs = value.inputs.map((x) => this.at(x));
    return inputs.every((x, i) => x === value.inputs[i]) ? value : { ...value, inputs };
  }

  /** `select(c, x, y)` where only the rows are kept of x for which c may hold: those rows, put into y. */
  #chosen(value: Value): Value | undefined {
    for (const side of [1, 2] as const) {
      const [c, x, y] = [value.inputs[0]!, value.inputs[side]!, value.inputs[3 - side]!];
      const label = this.#labels.get(x);
      if (!label || this.#labels.get(y) || typeOf(x).shape.length !== typeOf(value).shape.length) continue;
      if (!typeOf(x).shape.every((d, i) => sameDim(d, typeOf(value).shape[i]!))) continue;
      const kept = this.at(x, label);
      const inner = this.#choosesOn(c, label, side === 1, typeOf(x).shape) ? kept : this.#selectAt(value, label);
      if (!inner) continue;
      return this.ids.restore(inner, label.rows, label, this.at(y));
    }
    return undefined;
  }
  #selectAt = (value: Value, label: Label): Value | undefined => restrict(this, value, label);

  /** Whether a condition, stretched to a shape, is `holds` on all rows of a label of it, all of which exist. */
  #choosesOn(c: Value, { rows, axis, batch }: Label, holds: boolean, shape: readonly Dim[]): boolean {
    if (!rows.exact) return false;
    const own = typeOf(c).shape;
    const skip = shape.length - own.length;
    const at = own.map((d, n) => (isOne(d) ? s.literal(0) : coordinate(n + skip)));
    const e = this.demand.elements.element(c, at);
    const set = replace(rows.set, (leaf) =>
      leaf === ROW ? coordinate(axis) : leaf === ENTRY && batch !== undefined ? coordinate(batch) : undefined,
    );
    return holdsOn(set, holds ? e : s.not(e), shape);
  }

  /** A slice of kept rows that are kept. */
  #sliced(value: Value): Value | undefined {
    const x = value.inputs[0]!;
    const label = this.#labels.get(x);
    if (!label) return undefined;
    const { axis } = label;
    const [starts, steps] = [value.attrs.starts as readonly Dim[], value.attrs.steps as readonly number[]];
    const shape = typeOf(value).shape;
    if (steps[axis] !== 1 || sameDim(shape[axis]!, typeOf(x).shape[axis]!)) return undefined;
    const wanted = this.sets.interval(starts[axis]!, shape[axis]!, typeOf(x).shape[axis]!);
    if (!rowsWithin(wanted, label.rows)) return undefined;
    const rows = this.at(x, { ...label, rows: wanted });
    return shape.reduce<Value>((v, d, n) => {
      const [from, step] = [starts[n]!, steps[n]!];
      if (n === axis || (sameDim(d, typeOf(v).shape[n]!) && step === 1 && dim(from) === 0)) return v;
      const stop = (value.attrs.stops as readonly Dim[])[n]!;
      return sliceAxis(v, n, from, stop, step);
    }, rows);
  }

  /** Rows named by an index tensor, of a value that holds exactly those. */
  #gathered(value: Value): Value | undefined {
    const [x, indices] = value.inputs as [Value, Value];
    const label = this.#labels.get(x);
    if (!label) return undefined;
    const { shape } = typeOf(indices);
    const depth = shape.at(-1);
    if (value.attrs.batchDims !== 1 || depth !== 1 || label.axis !== 1 || shape.length !== 3) return undefined;
    const [only] = label.rows.pieces;
    if (label.rows.pieces.length !== 1 || !only) return undefined;
    const isNamed = only.kind === 'named' && dim(only.offset) === 0 && sameIndices(only.indices, indices);
    const isSingle = only.kind === 'single' && dim(shape[1]!) === 1 && only.row === this.#rowOf(indices);
    return isNamed || isSingle ? this.at(x, label) : undefined;
  }

  /** The row that an index tensor [B, 1, 1] names. */
  #rowOf(indices: Value): Expr {
    return s.cast(this.demand.elements.element(indices, [ENTRY, s.literal(0), s.literal(0)]), 'i32');
  }

  /** A sum of terms of which those outside the demand are zero: without them, or with zeros in their place. */
  #summed(value: Value): Value {
    const x = value.inputs[0]!;
    const { shape, dtype } = typeOf(x);
    const set = this.demand.of(x);
    const label = this.#labels.get(x);
    const isFolded = label && normalizeAxes(value.attrs.axes as readonly number[], shape.length).includes(label.axis);
    if (isFolded && this.#isRectangular(x, label) && label.rows.ascending && label.rows.exact) {
      const own = { ...value, inputs: [this.at(x, label)] };
      return makeValue(own.op, own.inputs, value.attrs, value);
    }
    if (isWithin(this.demand.elements.support(x), set, shape) && !this.#mayDiffer(x)) return this.#plain(value);
    if (isNone(set)) return expand([scalar(0, dtype)], { shape: typeOf(value).shape });
    const mentioned = shape.flatMap((_, n) => (isMentioned(set, coordinate(n)) ? [n] : []));
    if (mentioned.length === 0) return this.#plain(value);
    // A condition over more than rows and entries is not made: the sum is what it was, of operands of its own.
    if (mentioned.length > 2) return value;
    const read = this.#condition(x, mentioned);
    const zeroed = select([read, this.at(x), scalar(0, dtype)]);
    return makeValue(value.op, [zeroed], value.attrs, value);
  }

  /** Whether elements that nobody reads may have become something else. */
  #mayDiffer(value: Value, seen: Set<Value> = new Set()): boolean {
    if (seen.has(value)) return false;
    seen.add(value);
    if (this.#labels.has(value)) return true;
    if (value.inputs.length === 0 || this.#statics.has(value) || isWhole(this.demand.of(value))) return false;
    return value.inputs.some((x) => this.#mayDiffer(x, seen));
  }

  /** Where a value is read, as a tensor that broadcasts to it, where that differs along one axis or two. */
  #condition(x: Value, mentioned: readonly number[]): Value {
    const { shape } = typeOf(x);
    const [batch, row] = mentioned.length === 1 ? [undefined, mentioned[0]!] : (mentioned as [number, number]);
    const set = replace(this.demand.of(x), (leaf) =>
      leaf === coordinate(row) ? ROW : batch !== undefined && leaf === coordinate(batch) ? ENTRY : undefined,
    );
    const mask = this.ids.mask(set, shape[row]!, batch === undefined ? undefined : shape[batch]!);
    return reshape([mask], { shape: shape.map((d, n) => (n === row || n === batch ? d : 1)) });
  }

  #isRectangular(x: Value, { rows, axis, batch }: Label): boolean {
    const { shape } = typeOf(x);
    const set = replace(rows.set, (leaf) =>
      leaf === ROW ? coordinate(axis) : leaf === ENTRY && batch !== undefined ? coordinate(batch) : undefined,
    );
    return isWithin(set, this.demand.of(x), shape);
  }
}

/** A value built anew keeps the name and position of the one it stands for. */
const named = (value: Value, like: Value): Value =>
  value === like || value.op.name === 'input' || value.op.name === 'param' || value.name !== undefined
    ? value
    : { ...value, name: like.name, loc: value.loc ?? like.loc };

/** Whether rows named by [B, P] are those that `gather_nd` reads by [B, P, 1]. */
function sameIndices(a: Value, b: Value): boolean {
  const strip = (v: Value): Value => (v.op.name === 'reshape' ? strip(v.inputs[0]!) : v);
  return strip(a) === strip(b);
}
