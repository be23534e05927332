/**
 * Which elements of every value are ever read: one backward pass from the outputs, each op asked for its `need`. Unknown
 * means all. What a set itself loads from is read throughout, since whoever acts on the set must compute it.
 */
import type { Attrs } from '../ir/core.ts';
import type { Expr } from '../ir/expr.ts';
import { type Graph, graphValues, typeOf, type Value } from '../ir/graph.ts';
import { ALL, type IndexSet, isNone, isWhole, join, NONE, printSet, tidy } from '../ir/index-set.ts';
import { needByAxes } from '../ir/need.ts';
import type { NeedContext } from '../ir/op.ts';
import { bool } from '../ir/scalar.ts';
import { valueNames } from '../ir/text.ts';
import type { Dim, TensorType } from '../ir/type.ts';
import { Elements } from './elements.ts';
import { staticValues } from './facts.ts';
import { scanNeed } from './scan-demand.ts';

export interface DemandOptions {
  /** What is read of the outputs, by name; all where nothing is said. */
  readonly observed?: Readonly<Record<string, IndexSet>>;
  /** Whether zero times NaN is NaN: see `MaskOptions`. Default false. */
  readonly strictNaN?: boolean | undefined;
  /** What elements are known by, where that is shared: of a body, with what stands around it. */
  readonly elements?: Elements;
  /** Replaces what an op says it needs: for tests that seed mistakes. */
  readonly need?: (
    value: Value,
    demand: readonly IndexSet[],
    cx: NeedContext<Attrs>,
  ) => readonly IndexSet[] | undefined;
}

/** Who reads a value throughout: an output of the graph, or operand `operand` of an op. */
export type Reader =
  | { readonly kind: 'output'; readonly name: string }
  | { readonly kind: 'op'; readonly value: Value; readonly operand: number }
  /** A set of rows loads from the value, so whoever acts on the set must compute it. */
  | { readonly kind: 'set' };

export class Demand {
  readonly elements: Elements;
  readonly graph: Graph;
  readonly #order: readonly Value[];
  readonly #sets = new Map<Value, IndexSet>();
  /** Of ops with several results: a set for each. */
  readonly #several = new Map<Value, IndexSet[]>();
  /** The reader that first made a set whole; readers come before what they read. */
  readonly #whole = new Map<Value, Reader>();
  readonly #statics: ReadonlySet<Value>;
  readonly #options: DemandOptions;

  constructor(graph: Graph, options: DemandOptions = {}) {
    this.graph = graph;
    this.#options = options;
    this.elements = options.elements ?? new Elements(options.strictNaN);
    this.#order = graphValues(graph);
    this.#statics = staticValues(graph);
    for (const [name, v] of graph.outputs) this.#read(v, options.observed?.[name] ?? ALL, { kind: 'output', name });
    for (const v of this.#order.toReversed()) this.#visit(v);
  }

  /** Elements of a value that are read, over `coordinate(n)`; of a value with several results, whether any is. */
  of(value: Value): IndexSet {
    const several = this.#several.get(value);
    if (several) return several.every(isNone) ? NONE : ALL;
    return this.#sets.get(value) ?? NONE;
  }

  /** The reader that first made all of a value be read; undefined while not all is, as far as is known. */
  readerOfAll(value: Value): Reader | undefined {
    return this.#whole.get(value);
  }

  #read(value: Value, set: IndexSet, by: Reader): void {
    if (isNone(set)) return;
    if (value.op.name === 'get') {
      const tuple = value.inputs[0]!;
      const sets = this.#several.get(tuple) ?? outsOf(tuple).map(() => NONE);
      const index = Number(value.attrs.index);
      sets[index] = join(sets[index]!, set, typeOf(value).shape);
      this.#several.set(tuple, sets);
    }
    const known = this.#sets.get(value);
    const { shape } = typeOf(value);
    const read = known ? join(known, set, shape) : tidy(set, shape);
    this.#sets.set(value, read);
    if (isWhole(read) && !this.#whole.has(value)) this.#whole.set(value, by);
    for (const source of this.elements.valuesOf(set))
      if (source !== value && this.#sets.get(source) !== ALL) this.#read(source, ALL, { kind: 'set' });
  }

  #visit(value: Value): void {
    const { op, inputs, attrs } = value;
    if (inputs.length === 0 || op.name === 'get') return;
    const demand = this.#several.get(value) ?? [this.of(value)];
    if (demand.every(isNone)) return;
    const cx = this.#context(value);
    const sets =
      this.#options.need?.(value, demand, cx) ??
      op.need?.(demand, cx) ??
      (op.name === 'scan' ? this.#scan(value, demand) : undefined) ??
      (op.axes ? needByAxes(demand, cx.outs, op.axes(cx.inputs, attrs)) : inputs.map(() => ALL));
    for (const [n, x] of inputs.entries()) this.#read(x, sets[n] ?? ALL, { kind: 'op', value, operand: n });
  }

  #scan(value: Value, demand: readonly IndexSet[]): IndexSet[] {
    const { strictNaN, need } = this.#options;
    const options = { elements: this.elements, strictNaN, ...(need && { need }) };
    return scanNeed(value, demand, this.elements, (body, observed) => new Demand(body, { ...options, observed }));
  }

  #context(value: Value): NeedContext<Attrs> {
    const { elements } = this;
    const { inputs, attrs } = value;
    const statics = this.#statics;
    return {
      attrs,
      inputs: inputs.map(typeOf),
      outs: outsOf(value),
      element: (n: number, at: readonly Expr[]): Expr => elements.element(inputs[n]!, at),
      support: (n: number): IndexSet => elements.support(inputs[n]!),
      // Which rows of a table are read decides nothing: tables are laid out before anything runs.
      image: (n: number, at: readonly (Expr | undefined)[], place: Expr, size: Dim): Expr =>
        statics.has(inputs[0]!) ? TRUE : elements.image(inputs[n]!, at, place, size),
    };
  }

  /** A line for each value of which not all is read: its name, its type's extents, and the set. */
  print(): string {
    const names = valueNames(this.graph);
    const nameOf = (n: number): string => {
      const source = this.elements.source(n);
      const name = names.get(source.value) ?? `%${source.value.op.name}`;
      return source.kind === 'image' ? `image ${name}` : name;
    };
    const lines = this.#order.flatMap((v) => {
      const name = names.get(v);
      if (name === undefined || v.op.name === 'param' || v.op.name === 'constant') return [];
      return [`${name}: ${printSet(this.of(v), nameOf)}`];
    });
    return `${lines.join('\n')}\n`;
  }
}

const TRUE: Expr = bool(true);

const outsOf = (value: Value): readonly TensorType[] => (value.type.kind === 'tuple' ? value.type.items : [value.type]);
