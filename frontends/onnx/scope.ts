/** Names while a graph is read: what they stand for, and what a subgraph captures from around it. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { input } from '../../ir/ops/structural.ts';
import { computed, type Item } from './item.ts';
import type { OnnxAttribute, OnnxGraph } from './proto.ts';

/** A value of the outer graph that a subgraph reads, and the subgraph's input that carries it. */
export interface Capture {
  readonly name: string;
  readonly outer: Item;
  readonly inner: Value;
}

/** Who reads subgraphs. */
export interface Subgraphs {
  /** Reads a subgraph in `scope`; `inputs` stand for its inputs, in order. */
  subgraph(g: OnnxGraph, scope: Scope, inputs: readonly Item[]): Item[];
}

/** What a scope sees of the one around it. */
export type ScopeKind =
  /** Everything, at no cost: a branch that is known to be taken. */
  | 'inline'
  /** Everything; values become inputs of the subgraph. */
  | 'body'
  /** Parameters only. */
  | 'function';

/** Names that no file can hold: tensors of inner graphs that became parameters of the whole model. */
const HIDDEN = '\0';
export const hiddenName = (name: string): string => HIDDEN + name;

export class Scope {
  readonly parent: Scope | undefined;
  readonly kind: ScopeKind;
  readonly opsets: ReadonlyMap<string, number>;
  /** Attributes of the function call that is being read, which its nodes refer to. */
  readonly attributes: ReadonlyMap<string, OnnxAttribute> | undefined;
  readonly captures: Capture[] = [];
  private readonly items = new Map<string, Item>();

  constructor(
    parent: Scope | undefined,
    kind: ScopeKind,
    opsets: ReadonlyMap<string, number>,
    attributes?: ReadonlyMap<string, OnnxAttribute>,
  ) {
    this.parent = parent;
    this.kind = kind;
    this.opsets = opsets;
    this.attributes = attributes;
  }

  get root(): Scope {
    return this.parent?.root ?? this;
  }

  has(name: string): boolean {
    return this.items.has(name);
  }

  set(name: string, item: Item): void {
    this.items.set(name, item);
  }

  get(name: string): Item | undefined {
    const own = this.items.get(name);
    if (own) return own;
    if (!this.parent || (this.kind === 'function' && !name.startsWith(HIDDEN))) return undefined;
    const outer = this.parent.get(name);
    if (!outer || this.kind !== 'body' || outer.literal || outer.dims) return outer;
    const wide = outer.narrow?.wide ?? outer;
    const inner = argument(`${name.replace(HIDDEN, '')}`, typeOf(wide.value()));
    const carried: Item = { ...computed(inner), constant: () => outer.constant() };
    const item = outer.narrow ? { ...outer, narrow: { ...outer.narrow, wide: carried } } : carried;
    this.captures.push({ name, outer: wide, inner });
    this.items.set(name, item);
    return item;
  }
}

/** An input of a subgraph. */
export const argument = (name: string, { dtype, shape }: Item['type']): Value =>
  input([], { name, dtype, shape }, { name });
