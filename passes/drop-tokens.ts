/**
 * Computes only the rows that somebody reads: tokens that are masked and overwritten, positions without a loss, queries of a
 * last layer of which one is looked at. Which rows those are is what `demand.ts` finds; here is decided where it pays to keep
 * them alone, and said what was done.
 */
import { printLoc } from '../ir/diagnostic.ts';
import { isFloat } from '../ir/dtype.ts';
import type { Sym } from '../ir/expr.ts';
import { type Graph, graphValues, typeOf, type Value } from '../ir/graph.ts';
import { isWhole, printSet } from '../ir/index-set.ts';
import { printDim } from '../ir/print.ts';
import * as s from '../ir/scalar.ts';
import { valueNames } from '../ir/text.ts';
import { asExpr, type Dim, dim, elements, sizeAt } from '../ir/type.ts';
import { Demand } from './demand.ts';
import { staticValues } from './facts.ts';
import { RowKeeper } from './keep-rows.ts';
import { describe, type Pass, type PassContext } from './pass.ts';
import { refusalsOf } from './refusals.ts';
import { mapAllBodies, readersOf } from './rewrite.ts';
import type { Label } from './row-ids.ts';
import { type RowSet, RowSets, shareOf } from './row-sets.ts';
import { splitProducts } from './split-products.ts';

/** What decides whether rows are worth keeping alone. */
export interface DropPolicy {
  /** Multiply-accumulates that must be saved for each element that is moved to save them; 0 drops whatever it can. */
  readonly macsPerElement: number;
  /** Largest share of rows that is kept. */
  readonly share: number;
  /** What stands in rows that nobody reads where all rows are put back: any finite number. Default 0. */
  readonly fill?: number;
}
const USUAL: DropPolicy = { macsPerElement: 8, share: 0.97 };

/** Rounds over one graph: each finds the rows of one axis of every value. */
const ROUNDS = 4;

export function dropTokensPass(policy: DropPolicy): Pass {
  const run = (graph: Graph, cx: PassContext, isBody = false): Graph => {
    let current = mapAllBodies(graph, (body) => run(body, cx, true));
    for (let round = 0; round < ROUNDS; round++) {
      const next = dropOnce(current, policy, cx, round === 0 && !isBody);
      if (next === current) break;
      current = next;
    }
    return current;
  };
  return {
    name: 'drop-tokens',
    doc: 'Rows that nobody reads are not computed: legal because no output depends on them, see demand.ts.',
    run: (graph, cx) => run(graph, cx),
  };
}
export const dropTokens: Pass = dropTokensPass(USUAL);

/** @param explains whether to say of products that are computed whole why they are */
function dropOnce(graph: Graph, policy: DropPolicy, cx: PassContext, explains: boolean): Graph {
  const strictNaN = cx.masks?.strictNaN;
  const split = splitProducts(graph, new Demand(graph, { strictNaN }), policy.share);
  const labelling = new Labelling(split, policy, strictNaN);
  const groups = labelling.groups();
  const taken = groups.filter((members) => {
    if (cx.mayRewrite && !cx.mayRewrite()) return false;
    labelling.remark(members, cx);
    return true;
  });
  if (explains) labelling.explain(cx);
  return taken.length > 0 ? labelling.rewritten(new Set(taken.flat())) : graph;
}

/** Which values of a graph hold which rows. */
class Labelling {
  readonly labels: Map<Value, Label>;
  readonly #sets: RowSets;
  readonly #graph: Graph;
  readonly #order: readonly Value[];
  readonly #demand: Demand;
  readonly #policy: DropPolicy;
  readonly #statics: ReadonlySet<Value>;
  readonly #readers: ReadonlyMap<Value, readonly Value[]>;
  /** Groups that would cost more to keep apart than they save. */
  readonly #costly: Account[] = [];

  constructor(graph: Graph, policy: DropPolicy, strictNaN = false) {
    this.#graph = graph;
    this.#policy = policy;
    this.#order = graphValues(graph);
    this.#demand = new Demand(graph, { strictNaN });
    this.#statics = staticValues(graph);
    this.#readers = readersOf(graph);
    this.#sets = new RowSets(this.#demand.elements);
    this.labels = new Map();
    for (const v of this.#order) {
      const label = this.#labelFor(v);
      if (label) this.labels.set(v, label);
    }
    this.#dropUnprofitable();
  }

  /** The labelled values in groups of neighbours. */
  groups(): readonly (readonly Value[])[] {
    return this.#accounts().map(({ members }) => this.#order.filter((v) => members.includes(v)));
  }

  /** The graph in which the values that are given hold their rows alone. */
  rewritten(values: ReadonlySet<Value>): Graph {
    const labels = new Map([...this.labels].filter(([v]) => values.has(v)));
    return new RowKeeper(this.#demand, this.#sets, labels, this.#statics, this.#policy.fill).graph();
  }

  #labelFor(v: Value): Label | undefined {
    if (v.type.kind === 'tuple' || !isFloat(typeOf(v).dtype) || v.op.name === 'input' || this.#statics.has(v))
      return undefined;
    const set = this.#demand.of(v);
    if (isWhole(set)) return undefined;
    const { shape } = typeOf(v);
    let best: Label | undefined;
    for (const axis of shape.keys()) {
      const found = this.#sets.along(set, axis, shape);
      if (!found) continue;
      const share = shareOf(found.rows);
      if (share > this.#policy.share || (best && share >= shareOf(best.rows))) continue;
      best = { axis, ...found };
    }
    return best;
  }

  /** Takes back labels that cost more to keep apart than they save. */
  #dropUnprofitable(): void {
    for (let changed = true; changed; ) {
      changed = false;
      for (const { saved, moved, members } of this.#accounts()) {
        const { macsPerElement } = this.#policy;
        if (saved >= moved * macsPerElement && (saved > 0 || macsPerElement === 0)) continue;
        if (saved > 0) this.#costly.push({ saved, moved, members: [...members] });
        for (const v of members) this.labels.delete(v);
        changed = true;
      }
    }
  }

  /** What each connected group of labelled values saves, in multiply-accumulates, and the elements that are moved for it. */
  #accounts(): Account[] {
    const accounts = new Map<Value, Account>();
    const join = (a: Account, b: Account): void => {
      if (a === b) return;
      const [large, small] = a.members.length >= b.members.length ? [a, b] : [b, a];
      large.saved += small.saved;
      large.moved += small.moved;
      for (const v of small.members) {
        large.members.push(v);
        accounts.set(v, large);
      }
    };
    for (const v of this.#order) {
      const label = this.labels.get(v);
      if (!label) {
        this.#chargeReader(v, accounts);
        continue;
      }
      const own: Account = { saved: macsOf(v) * (1 - shareOf(label.rows)), moved: 0, members: [v] };
      accounts.set(v, own);
      for (const x of v.inputs) {
        const other = accounts.get(x);
        if (other) join(accounts.get(v)!, other);
        else if (this.#isTaken(x, label)) own.moved += countOf(x) * shareOf(label.rows);
      }
    }
    return [...new Set(accounts.values())];
  }

  /** Whether rows of an operand that holds all of them must be copied for a reader that holds some. */
  #isTaken(x: Value, { axis }: Label): boolean {
    if (this.#statics.has(x) || x.type.kind === 'tuple' || !isFloat(typeOf(x).dtype)) return false;
    return x.op.lower.kind !== 'view' && typeOf(x).shape.length > axis;
  }

  /** A reader of all rows has those that are kept put back; attention reads them as they are. */
  #chargeReader(reader: Value, accounts: ReadonlyMap<Value, Account>): void {
    for (const x of new Set(reader.inputs)) {
      const account = accounts.get(x);
      const label = this.labels.get(x);
      if (!account || !label) continue;
      if (reader.op.name === 'attention') account.saved += (macsOf(reader) * (1 - shareOf(label.rows))) / 2;
      else if (!READS_SOME.has(reader.op.name)) account.moved += countOf(x);
    }
  }

  /** What is kept of a group, why, and what that saves. */
  remark(members: readonly Value[], cx: PassContext): void {
    const byRows = new Map<RowSet, Value[]>();
    for (const v of members) {
      const { rows } = this.labels.get(v)!;
      byRows.set(rows, [...(byRows.get(rows) ?? []), v]);
    }
    const weight = (values: readonly Value[]): number => values.reduce((sum, v) => sum + macsOf(v), 0);
    const [[rows, main]] = [...byRows].sort(([, a], [, b]) => weight(b) - weight(a)) as [[RowSet, Value[]]];
    const before = weight(members);
    const after = members.reduce((sum, v) => sum + Math.round(macsOf(v) * shareOf(this.labels.get(v)!.rows)), 0);
    const set = printSet(rows.set, this.#nameOf)
      .replaceAll(/\bi1\b/g, 'row')
      .replaceAll(/\bi0\b/g, 'entry');
    const blocks = members.filter((v) => v.op.name === 'attention').length;
    const what = blocks === 0 ? `${members.length} values` : blocks === 1 ? '1 block' : `${blocks} blocks`;
    const gone = printDim(dim(s.sub(asExpr(rows.size), rows.count)));
    cx.remark(
      'applied',
      main.at(-1)!,
      `${what} × ${gone} of ${printDim(rows.size)} rows: ${this.#reasons(members)}; ` +
        `${members.length} values keep ${printDim(rows.count)}, where ${set}; ${before} multiply-accumulates to ${after}`,
    );
  }

  /** Says of products that are computed whole who reads all of their rows, and which rows it does not pay to leave out. */
  explain(cx: PassContext): void {
    for (const { saved, moved, members } of this.#costly)
      cx.remark(
        'missed',
        members.at(-1)!,
        `${members.length} values are read in part, but ${Math.round(saved)} multiply-accumulates less do not pay for moving ${Math.round(moved)} elements`,
      );
    const kept = new Set(this.labels.keys());
    for (const { at, why } of refusalsOf(this.#demand, kept, this.#statics)) cx.remark('missed', at, why);
  }

  #nameOf = (n: number): string => {
    const { kind, value } = this.#demand.elements.source(n);
    this.#names ??= valueNames(this.#graph);
    const name = this.#names.get(value) ?? `%${value.op.name}`;
    return kind === 'image' ? `named by ${name}` : name;
  };
  #names: ReadonlyMap<Value, string> | undefined;

  /** What cuts the rows that are read: the readers that read less of a value than is read of them. */
  #reasons(members: readonly Value[]): string {
    const inside = new Set(members);
    const found = new Map<string, number>();
    for (const v of members)
      for (const r of this.#readers.get(v) ?? []) {
        if (inside.has(r)) continue;
        const word = CUTS[r.op.name] ?? `not read by ${describe(r)}`;
        const text = `${word}${r.loc ? ` at ${printLoc(r.loc)}` : ''}`;
        found.set(text, (found.get(text) ?? 0) + 1);
      }
    return [...found.keys()].slice(0, 3).join(', ') || 'read by nobody';
  }
}

/** A group of neighbours that hold some of their rows. */
interface Account {
  saved: number;
  moved: number;
  readonly members: Value[];
}
/** Ops that take kept rows as they are. */
const READS_SOME = new Set(['slice', 'reduce_sum', 'gather_nd']);

/** What an op does with the rows that it does not read, in words. */
const CUTS: Readonly<Record<string, string>> = {
  select: 'overwritten',
  slice: 'not taken',
  gather_nd: 'not taken',
  gather: 'not taken',
  gather_elements: 'not taken',
  attention: 'masked as keys',
  reduce_sum: 'summed as zeros',
  restore: 'overwritten',
  compact: 'not taken',
};

const bind = (e: { readonly arg: unknown }): number => (e.arg as Sym).default;
const atDefaults = (d: Dim): number => sizeAt(d, bind);
const countOf = (v: Value): number => (v.type.kind === 'tuple' ? 0 : atDefaults(elements(typeOf(v).shape)));
function macsOf(v: Value): number {
  if (!v.op.macs || v.inputs.some((x) => x.type.kind === 'tuple')) return 0;
  return atDefaults(v.op.macs(v.inputs.map(typeOf), v.attrs, v.type));
}
