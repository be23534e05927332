/**
 * Computes the rows of a batch that somebody reads as one list, where each entry has another number of them and only running
 * tells how many: words of a padded batch, detections above a score. Products see one matrix of ΣK rows; attention sees
 * entries, so its operands are put in place before it and taken out behind it.
 */
import { symbolsIn } from '../ir/counts.ts';
import { type Expr, exprNodes, type Sym } from '../ir/expr.ts';
import { type Graph, graphValues, graph as makeGraph, typeOf, type Value } from '../ir/graph.ts';
import {
  coordinate,
  exists,
  type IndexSet,
  isAll,
  isMentioned,
  isNone,
  isWhole,
  isWithin,
  replace,
  tidy,
} from '../ir/index-set.ts';
import { makeValue } from '../ir/op.ts';
import { coords } from '../ir/ops/attention.ts';
import { project } from '../ir/ops/structural.ts';
import { printDim } from '../ir/print.ts';
import * as s from '../ir/scalar.ts';
import { type Dim, sameDim, sizeAt } from '../ir/type.ts';
import { Demand } from './demand.ts';
import { staticValues } from './facts.ts';
import { type Axes, onPacked, PackedRows } from './packed-values.ts';
import type { Pass, PassContext } from './pass.ts';
import { RowIds } from './row-ids.ts';
import { ENTRY, ROW } from './row-sets.ts';

/** @param worth multiply-accumulates of a row that pay for moving one element of it */
export const packRowsPass = (worth: number): Pass => ({
  name: 'pack-rows',
  doc: 'Rows of a batch of which only some are read, each entry others, are computed as one list: legal because no output depends on the rest, see demand.ts.',
  run(graph, cx) {
    let current = graph;
    for (let round = 0; round < ROUNDS; round++) {
      const next = packOnce(current, worth, cx);
      if (next === current) break;
      current = next;
    }
    return current;
  },
});
export const packRows: Pass = packRowsPass(32);

/** Each round packs the rows of one axis: source and target words, words and boxes. */
const ROUNDS = 4;

function packOnce(graph: Graph, worth: number, cx: PassContext): Graph {
  const found = widest(graph, new Demand(graph, { strictNaN: cx.masks?.strictNaN }));
  if (!found) return graph;
  const packer = new Packer(graph, found);
  const result = packer.graph();
  if (packer.macs < packer.rows.moved * worth) {
    if (packer.macs > 0)
      cx.remark('missed', packer.last, `${packer.macs} multiply-accumulates of a row do not pay for moving it`);
    return graph;
  }
  if (cx.mayRewrite && !cx.mayRewrite()) return graph;
  remark(cx, packer);
  return result;
}

function remark(cx: PassContext, { members, rows, last, macs }: Packer): void {
  const { batch, size } = rows;
  const all = `${printDim(batch)} × ${printDim(size)} rows`;
  cx.remark(
    'applied',
    last,
    `${members} values hold the ${printDim(rows.count)} of ${all} that are read, behind each other; ${macs} multiply-accumulates each`,
  );
}

/** A set of rows, over ENTRY and ROW, and the values that are read there only. */
interface Found {
  readonly demand: Demand;
  readonly set: IndexSet;
  readonly batch: Dim;
  readonly size: Dim;
  readonly axes: ReadonlyMap<Value, Axes>;
}

interface Candidate extends Axes {
  readonly value: Value;
  readonly set: IndexSet;
  readonly extents: readonly [Dim, Dim];
}

/** The set of rows that most work is done for. */
function widest(graph: Graph, demand: Demand): Found | undefined {
  const statics = staticValues(graph);
  const candidates = graphValues(graph).flatMap((v) => {
    const set = demand.of(v);
    return statics.has(v) || isTakenAlready(set, demand) ? [] : candidatesOf(v, set);
  });
  const kinds: Candidate[] = [];
  for (const c of candidates)
    if (!kinds.some((k) => sameExtents(k, c) && within(k.set, c.set, c.extents) && within(c.set, k.set, c.extents)))
      kinds.push(c);
  let best: { readonly found: Found; readonly work: number } | undefined;
  for (const kind of kinds) {
    const axes = new Map<Value, Axes>();
    for (const c of candidates)
      if (!axes.has(c.value) && sameExtents(c, kind) && within(c.set, kind.set, kind.extents)) axes.set(c.value, c);
    const work = [...axes.keys()].reduce((sum, v) => sum + macsOf(v), 0);
    const [batch, size] = kind.extents;
    if (work > 0 && (!best || work > best.work)) best = { found: { demand, set: kind.set, batch, size, axes }, work };
  }
  return best?.found;
}

/** Whether a set says of rows that have been taken by it, or by one like it, which of them are in it: as good as all. */
function isTakenAlready(set: IndexSet, demand: Demand): boolean {
  const sources = [...demand.elements.valuesOf(set)];
  return sources.length > 0 && sources.every(({ op }) => op.name === 'compact');
}

const sameExtents = (a: Candidate, b: Candidate): boolean => a.extents.every((d, i) => sameDim(d, b.extents[i]!));

/**
 * Whether a set lies within another: each of its terms says all that some term of the other says, or so it follows. The
 * first is found at once also where terms are many.
 */
function within(a: IndexSet, b: IndexSet, extents: readonly Dim[]): boolean {
  const terms = b.terms.map((term) => term.map((l) => l.key));
  const plain = a.terms.every((term) => {
    const said = new Set(term.map((l) => l.key));
    return terms.some((other) => other.every((literal) => said.has(literal)));
  });
  return plain || isWithin(a, b, extents);
}

/** The pairs of axes along which a value is read at some rows only, which differ between entries. */
function candidatesOf(value: Value, set: IndexSet): Candidate[] {
  if (value.type.kind === 'tuple' || isWhole(set) || isNone(set)) return [];
  const { shape } = typeOf(value);
  const mentioned = shape.flatMap((_, n) => (isMentioned(set, coordinate(n)) ? [n] : []));
  const found: Candidate[] = [];
  // Entries of which all rows are read or none: how many there are is known when it runs only.
  const [alone] = mentioned.length === 1 && loadsAny(set) ? mentioned : [];
  const rows = alone === undefined ? mentioned : [...shape.keys()];
  for (const batch of mentioned)
    for (const row of rows) {
      if (batch >= row) continue;
      let left = set;
      for (const n of mentioned) if (n !== batch && n !== row) left = exists(left, coordinate(n), shape[n]!);
      const own = replace(left, (leaf) =>
        leaf === coordinate(batch) ? ENTRY : leaf === coordinate(row) ? ROW : undefined,
      );
      const extents = [shape[batch]!, shape[row]!] as const;
      const clean = tidy(own, extents);
      if (isWhole(clean) || isNone(clean) || isAll(clean, extents)) continue;
      if (isMentioned(clean, ENTRY) && (alone !== undefined || isMentioned(clean, ROW)))
        found.push({ value, set: clean, batch, row, extents });
    }
  return found;
}

/** Whether elements of a value decide what is in a set. */
const loadsAny = (set: IndexSet): boolean =>
  set.terms.some((term) =>
    term.some((l) =>
      (l.kind === 'is' ? [l.e] : [...l.form.terms.keys()]).some((e) => exprNodes(e).some((n) => n.op === 'operand')),
    ),
  );

const usual = (e: { readonly arg: unknown }): number => (e.arg as Sym).default;
function macsOf(v: Value): number {
  if (!v.op.macs || v.op.name === 'attention' || v.inputs.some((x) => x.type.kind === 'tuple')) return 0;
  return sizeAt(v.op.macs(v.inputs.map(typeOf), v.attrs, v.type), usual);
}

/** Ops that cost nothing on whole values: they are moved behind what puts rows in place, and before what takes them out. */
const CHEAP = new Set(['reshape', 'transpose', 'slice', 'expand']);

class Packer {
  readonly rows: PackedRows;
  /** Values that are computed in packed form, and the multiply-accumulates of one row of them. */
  members = 0;
  macs = 0;
  last: Value;
  readonly #graph: Graph;
  readonly #axes: ReadonlyMap<Value, Axes>;
  readonly #packed = new Map<Value, Value | undefined>();
  readonly #taken = new Map<Value, Value>();
  readonly #whole = new Map<Value, Value>();
  readonly #perRow: number;

  constructor(graph: Graph, { demand, set, batch, size, axes }: Found) {
    this.#graph = graph;
    const before = ancestors(demand.elements.valuesOf(set));
    this.#axes = new Map([...axes].filter(([v]) => !before.has(v)));
    this.#perRow = Math.max(1, sizeAt(batch, usual) * sizeAt(size, usual));
    this.last = [...graph.outputs.values()][0]!;
    const ids = new RowIds(demand.elements, (old) => old);
    this.rows = new PackedRows(ids.mask(set, size, batch), freshName(graph), (d) => ids.size(d));
  }

  graph(): Graph {
    // Operands first: recursion then only ever goes one step.
    for (const v of graphValues(this.#graph)) this.#native(v);
    const outputs = [...this.#graph.outputs].map(([name, v]) => [name, this.whole(v)] as const);
    return makeGraph(this.#graph.name, this.#graph.inputs, outputs);
  }

  /** A value that is computed in packed form; undefined where it is not. */
  #native(v: Value): Value | undefined {
    if (this.#packed.has(v)) return this.#packed.get(v);
    const axes = this.#axes.get(v);
    const cheap = CHEAP.has(v.op.name);
    let made: Value | undefined;
    if (axes && !(cheap && v.inputs[0] && !this.#native(v.inputs[0]))) {
      made = onPacked(v, axes, this.rows, {
        packed: (x, own) => this.#packedAt(x, own),
        whole: (x) => this.whole(x),
      });
      if (made) {
        this.members++;
        const macs = macsOf(v) / this.#perRow;
        this.macs += Math.round(macs);
        if (macs > 0) this.last = v;
      }
    }
    this.#packed.set(v, made);
    return made;
  }

  #packedAt(x: Value, axes: Axes): Value {
    const own = this.#axes.get(x);
    const native = own && own.batch === axes.batch && own.row === axes.row ? this.#native(x) : undefined;
    if (native) return native;
    let taken = this.#taken.get(x);
    if (!taken) {
      taken = this.rows.pack(this.whole(x), axes);
      this.#taken.set(x, taken);
    }
    return taken;
  }

  /** The value with all its rows. */
  whole(v: Value): Value {
    const known = this.#whole.get(v);
    if (known) return known;
    const native = this.#native(v);
    const made = native && !CHEAP.has(v.op.name) ? this.rows.unpack(native, this.#axes.get(v)!) : this.#plain(v);
    this.#whole.set(v, made);
    return made;
  }

  /** An attention whose results are read at these rows only: queries of other rows meet no key, those of these what is read. */
  #attention(v: Value): Value | undefined {
    const axes = this.#axes.get(v);
    if (v.op.name !== 'attention' || axes?.batch !== 0 || axes.row !== 2) return undefined;
    const { b, q, k } = coords;
    const limit = s.lt(k, s.operand(v.inputs.length, 'i32', [b, q]));
    const mask = v.attrs.mask as Expr | undefined;
    // Keys and values that are read at these rows only are not read behind the last of them.
    const kept = v.inputs.slice(1, 3).every((x) => {
      const own = this.#axes.get(x);
      return own?.batch === 0 && own.row === 2;
    });
    const limits = this.rows.limits(kept ? undefined : typeOf(v.inputs[1]!).shape[2]!);
    const inputs = [...v.inputs.map((x) => this.whole(x)), limits];
    return makeValue(v.op, inputs, { ...v.attrs, mask: mask ? s.and(mask, limit) : limit }, v);
  }

  #plain(v: Value): Value {
    const attention = this.#attention(v);
    if (attention) return attention;
    const inputs = v.inputs.map((x) => this.whole(x));
    if (inputs.every((x, i) => x === v.inputs[i])) return v;
    return v.op.name === 'get' ? project(inputs[0]!, Number(v.attrs.index), v) : makeValue(v.op, inputs, v.attrs, v);
  }
}

/** Values, and all that they are computed from: what tells which rows are packed cannot itself be packed by them. */
function ancestors(values: Iterable<Value>): ReadonlySet<Value> {
  const found = new Set<Value>();
  const left = [...values];
  for (let v = left.pop(); v; v = left.pop()) {
    if (found.has(v)) continue;
    found.add(v);
    left.push(...v.inputs);
  }
  return found;
}

/** A name that no size of the graph has. */
function freshName(graph: Graph): string {
  const taken = new Set(
    [...graph.inputs, ...graphValues(graph)].flatMap((v) => [...symbolsIn(v)]).map((e) => (e.arg as Sym).name),
  );
  let name = 'packed';
  for (let n = 2; taken.has(name); n++) name = `packed_${n}`;
  return name;
}
