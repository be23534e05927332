/** Attention over some queries or some keys: masks are rewritten to the numbers that rows had. */
import { type Expr, exprNodes } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { ALL, coordinate, holdsOn, type IndexSet, replace } from '../ir/index-set.ts';
import { makeValue } from '../ir/op.ts';
import { coords } from '../ir/ops/attention.ts';
import { maskAt } from '../ir/ops/attention-need.ts';
import * as s from '../ir/scalar.ts';
import { dim, type TensorType } from '../ir/type.ts';
import type { Demand } from './demand.ts';
import type { Label, RowIds } from './row-ids.ts';
import { ENTRY, ROW, type RowSet, startOf } from './row-sets.ts';

interface Rows {
  readonly ids: RowIds;
  readonly demand?: Demand;
  labelOf?(value: Value): Label | undefined;
  at(value: Value, label?: Label): Value;
}
const B = 0;
const Q = 2;
const K = 2;

/**
 * The attention with queries at a label (all where that is absent) and with the keys and values that are held; undefined when
 * nothing can be said about its operands.
 */
export function restrictAttention(cx: Rows, value: Value, label: Label | undefined): Value | undefined {
  if (value.type.kind === 'tuple') return undefined;
  if (label?.axis === B) return someEntries(cx, value, label);
  if (label && label.axis !== Q) return undefined;
  const [q, k, v, ...operands] = value.inputs as [Value, Value, Value, ...Value[]];
  if (label?.batch !== undefined && label.batch !== 0) return undefined;
  const held = keysHeld(cx, k, v);
  if (!label && !held) return undefined;
  const mask = value.attrs.mask as Expr | undefined;
  const bias = value.attrs.bias as Expr | undefined;
  const numbers = new Numbers(cx, operands.length);
  const queries = label && numbers.of(label.rows, coords.q);
  const keys = held && numbers.of(held.rows, coords.k);
  const put = (e: Expr): Expr =>
    s.substitute(e, (leaf) => {
      if (leaf === coords.q) return queries?.(leaf);
      if (leaf === coords.k) return keys?.(leaf);
      return undefined;
    });
  const sets = { queries: label?.rows, keys: held?.rows };
  const left = mask && impliedAway(cx, value, mask, sets);
  // Rows of one ascending list compare as their numbers do.
  const sameRows = label && held && label.rows === held.rows && label.rows.ascending;
  const moved = (e: Expr): Expr => (sameRows && comparesOnly(e) ? e : put(e));
  const attrs = {
    ...value.attrs,
    mask: left === undefined || isTrue(left) ? undefined : moved(left),
    bias: bias && put(bias),
  };
  const read = [...operands, ...numbers.values];
  const present = read.flatMap((_, n) => (mentionsOperand([attrs.mask, attrs.bias], n + 3) ? [n] : []));
  const renumbered = (e: Expr | undefined): Expr | undefined => e && s.substitute(e, (leaf) => renumber(leaf, present));
  const inputs = [cx.at(q, label), held ? cx.at(k, held) : cx.at(k), held ? cx.at(v, held) : cx.at(v)];
  return makeValue(
    value.op,
    [...inputs, ...present.map((n) => (n < operands.length ? cx.at(operands[n]!) : read[n]!))],
    { ...attrs, mask: renumbered(attrs.mask), bias: renumbered(attrs.bias) },
    value,
  );
}

/** The attention of some batch entries: what masks load by entry is loaded by the number that the entry had. */
function someEntries(cx: Rows, value: Value, label: Label): Value | undefined {
  const [q, k, v, ...operands] = value.inputs as [Value, Value, Value, ...Value[]];
  if (label.batch !== undefined) return undefined;
  const numbers = new Numbers(cx, operands.length);
  const entry = numbers.of(label.rows, coords.b, []);
  const put = (e: Expr | undefined): Expr | undefined =>
    e && s.substitute(e, (leaf) => (leaf === coords.b ? entry(leaf) : undefined));
  const attrs = {
    ...value.attrs,
    mask: put(value.attrs.mask as Expr | undefined),
    bias: put(value.attrs.bias as Expr | undefined),
  };
  const used = numbers.values.some((_, n) => mentionsOperand([attrs.mask, attrs.bias], 3 + operands.length + n));
  const inputs = [...[q, k, v].map((x) => cx.at(x, label)), ...operands.map((x) => cx.at(x))];
  return makeValue(value.op, used ? [...inputs, ...numbers.values] : inputs, attrs, value);
}

const mentionsOperand = (exprs: readonly (Expr | undefined)[], n: number): boolean =>
  exprs.some((e) => e && exprNodes(e).some((node) => node.op === 'operand' && node.arg === n));
/** A load of an operand under its new number. */
function renumber(leaf: Expr, present: readonly number[]): Expr | undefined {
  if (leaf.op !== 'operand') return undefined;
  const at = leaf.args.map((a) => s.substitute(a, (inner) => renumber(inner, present)));
  return s.operand(3 + present.indexOf((leaf.arg as number) - 3), leaf.dtype, at);
}

const isTrue = (e: Expr): boolean => e.op === 'const' && e.arg !== 0;

/** The label that keys and values are both held at. */
function keysHeld({ labelOf }: Rows, k: Value, v: Value): Label | undefined {
  const [a, b] = [labelOf?.(k), labelOf?.(v)];
  if (!a || !b || a.rows !== b.rows || a.axis !== K || b.axis !== K || !a.rows.ascending) return undefined;
  return (a.batch ?? 0) === 0 && (b.batch ?? 0) === 0 ? a : undefined;
}

/** Row numbers of queries and keys, as elements of operands that stand behind those of the attention. */
class Numbers {
  readonly #cx: Rows;
  readonly #first: number;
  readonly values: Value[] = [];

  constructor(cx: Rows, operands: number) {
    this.#cx = cx;
    this.#first = 3 + operands;
  }

  /** The number that the row at a coordinate had. */
  of(rows: RowSet, at: Expr, entry: readonly Expr[] = rows.batch === undefined ? [] : [coords.b]): (at: Expr) => Expr {
    const start = startOf(rows);
    if (start !== undefined) return () => (dim(rows.count) === 1 ? s.index(start) : s.add(at, start));
    const ids = this.#cx.ids.ids(rows);
    const known = this.values.indexOf(ids);
    const n = this.#first + (known < 0 ? this.values.push(ids) - 1 : known);
    const position = dim(rows.count) === 1 ? s.literal(0) : at;
    const load = s.operand(n, typeOf(ids).dtype, [...entry, position]);
    return () => load;
  }
}

/** Whether a mask only compares the query's number with the key's, so that it may be read off the places of rows as well. */
function comparesOnly(e: Expr): boolean {
  if (e.op === 'and' || e.op === 'or' || e.op === 'not') return e.args.every(comparesOnly);
  if (e.op === 'le' || e.op === 'lt' || e.op === 'eq' || e.op === 'ne') {
    const [a, b] = e.args;
    if ((a === coords.q && b === coords.k) || (a === coords.k && b === coords.q)) return true;
  }
  return !exprNodes(e).some((node) => node === coords.q || node === coords.k);
}

/** A mask without the conjuncts that hold wherever queries and keys are held. */
function impliedAway(
  { demand }: Rows,
  value: Value,
  mask: Expr,
  { queries, keys }: { readonly queries: RowSet | undefined; readonly keys: RowSet | undefined },
): Expr {
  if (!demand) return mask;
  const [q, k] = value.inputs.map(typeOf) as [TensorType, TensorType];
  // Coordinates: entry, head, query, key.
  const extents = [q.shape[0]!, q.shape[1]!, q.shape[Q]!, k.shape[K]!];
  const lifted = (rows: RowSet | undefined, axis: number): IndexSet =>
    rows?.exact
      ? replace(rows.set, (leaf) => (leaf === ROW ? coordinate(axis) : leaf === ENTRY ? coordinate(0) : undefined))
      : ALL;
  const to = { b: coordinate(0), h: coordinate(1), q: coordinate(2), k: coordinate(3) };
  const element = (n: number, at: readonly Expr[]): Expr => demand.elements.element(value.inputs[n]!, at);
  const [byQuery, byKey] = [lifted(queries, 2), lifted(keys, 3)];
  const isImplied = (e: Expr): boolean => {
    const placed = maskAt(e, element, coords, to);
    return holdsOn(byKey, placed, extents) || holdsOn(byQuery, placed, extents);
  };
  const left = (e: Expr): Expr => {
    if (isImplied(e)) return s.bool(true);
    return e.op === 'and' ? s.and(left(e.args[0]!), left(e.args[1]!)) : e;
  };
  return left(mask);
}
