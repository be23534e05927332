/**
 * How rules are applied to a graph. Two drivers: `rewritePass` for patterns that cover several values and must not repeat
 * work that others read, `simplifyPass` for local identities that need no such care.
 */
import { fail } from '../ir/diagnostic.ts';
import { type Graph, graphValues, graph as makeGraph, type Value } from '../ir/graph.ts';
import type { OpDef } from '../ir/op.ts';
import { printType } from '../ir/print.ts';
import { sameType } from '../ir/type.ts';
import { mapBodies } from './facts.ts';
import { InternTable } from './intern.ts';
import { describe, type Pass, type PassContext } from './pass.ts';
import { matchValue, type Pattern } from './pattern.ts';

/** A rule matched, but may not apply. */
export interface Miss {
  readonly kind: 'miss';
  readonly why: string;
}
export const miss = (why: string): Miss => ({ kind: 'miss', why });

/** A rule applied, and covers values beyond those of its pattern. */
export interface Rewritten {
  readonly kind: 'rewritten';
  readonly value: Value;
  /** What the new value replaces besides the root, with a word for each: `the probabilities`. */
  readonly covers: ReadonlyMap<Value, string>;
}
export const rewritten = (value: Value, covers: ReadonlyMap<Value, string>): Rewritten => ({
  kind: 'rewritten',
  value,
  covers,
});

export type Outcome = Value | Rewritten | Miss | undefined;

export interface Rule {
  readonly name: string;
  readonly ops: readonly OpDef[] | undefined;
  /** Whether values inside the pattern may be read by others too, because nothing is computed twice. */
  readonly sharing: boolean;
  apply(root: Value, cx: PassContext): Rewritten | Miss | undefined;
}

/** What it says when it applies; `sharing` as in `Rule`. */
interface RuleOptions {
  readonly sharing?: boolean;
}

/** A rule of a pattern and what becomes of it: a value, a miss with a reason, or undefined for no match after all. */
export function rule<C>(
  name: string,
  pattern: Pattern<C>,
  build: (captures: C, root: Value) => Outcome,
  { sharing = false }: RuleOptions = {},
): Rule {
  return {
    name,
    sharing,
    ops: pattern.ops,
    apply: (root) => {
      const m = matchValue(pattern, root);
      if (!m) return undefined;
      const outcome = build(Object.fromEntries(m.bound) as C, root);
      if (outcome === undefined || outcome.kind !== 'value') return outcome;
      return rewritten(outcome, new Map(m.inner.filter((v) => v !== root).map((v) => [v, describe(v)])));
    },
  };
}

const MAX_SWEEPS = 50;

/**
 * A pass that applies rules until none does. Each sweep visits values from the outputs down, so that the largest pattern
 * wins. A rule is refused where a value that it covers is an output or has readers outside what it covers. The new
 * root keeps name and position of the old one. Bodies of control flow are rewritten too.
 */
export function rewritePass(pass: {
  readonly name: string;
  readonly doc: string;
  readonly rules: readonly Rule[];
}): Pass {
  const { name, doc, rules } = pass;
  const byOp = indexRules(rules);
  const run = (graph: Graph, cx: PassContext): Graph => {
    let current = mapAllBodies(graph, (body) => run(body, cx));
    for (let sweep = 0; sweep < MAX_SWEEPS; sweep++) {
      const { replaced, misses } = sweepOnce(current, byOp, cx);
      if (replaced.size === 0) {
        for (const { at, why } of misses) cx.remark('missed', at, why);
        return current;
      }
      current = replaceValues(current, replaced);
    }
    return fail('internal', `pass ${name}: rules still apply after ${MAX_SWEEPS} sweeps over graph ${graph.name}`);
  };
  return { name, doc, run };
}

type RuleIndex = (op: OpDef) => readonly Rule[];
function indexRules(rules: readonly Rule[]): RuleIndex {
  const index = new Map<OpDef, readonly Rule[]>();
  return (op) => {
    const known = index.get(op);
    if (known) return known;
    const list = rules.filter((r) => r.ops === undefined || r.ops.includes(op));
    index.set(op, list);
    return list;
  };
}

interface Sweep {
  readonly replaced: ReadonlyMap<Value, Value>;
  readonly misses: readonly { readonly at: Value; readonly why: string }[];
}

function sweepOnce(graph: Graph, rulesOf: RuleIndex, cx: PassContext): Sweep {
  const readers = readersOf(graph);
  const outputs = new Set(graph.outputs.values());
  const replaced = new Map<Value, Value>();
  const gone = new Set<Value>();
  const misses: { at: Value; why: string }[] = [];
  for (const root of graphValues(graph).reverse()) {
    if (gone.has(root)) continue;
    for (const r of rulesOf(root.op)) {
      const outcome = r.apply(root, cx);
      if (!outcome) continue;
      const refusal =
        outcome.kind === 'miss' ? outcome.why : r.sharing ? undefined : escaped(outcome.covers, root, readers, outputs);
      if (outcome.kind === 'miss' || refusal !== undefined) {
        misses.push({ at: root, why: `${r.name}: ${refusal}` });
        continue;
      }
      if (cx.mayRewrite && !cx.mayRewrite()) return { replaced, misses };
      replaced.set(root, adopt(checked(outcome.value, root, r.name), root));
      if (!r.sharing) for (const v of outcome.covers.keys()) gone.add(v);
      cx.remark('applied', root, r.name);
      break;
    }
  }
  return { replaced, misses };
}

/** Why some covered value is needed elsewhere; undefined when none is. */
function escaped(
  covers: ReadonlyMap<Value, string>,
  root: Value,
  readers: ReadonlyMap<Value, readonly Value[]>,
  outputs: ReadonlySet<Value>,
): string | undefined {
  for (const [v, word] of covers) {
    if (outputs.has(v)) return `${word} is an output`;
    const other = readers.get(v)?.find((r) => r !== root && !covers.has(r));
    if (other) return `${word} is also read by ${describe(other)}`;
  }
  return undefined;
}

/** Which values read each value. */
export function readersOf(graph: Graph): Map<Value, Value[]> {
  const readers = new Map<Value, Value[]>();
  for (const v of graphValues(graph))
    for (const x of new Set(v.inputs)) {
      const list = readers.get(x);
      if (list) list.push(v);
      else readers.set(x, [v]);
    }
  return readers;
}

/** A rule that changes a type is a bug of that rule. */
function checked(value: Value, root: Value, name: string): Value {
  if (!sameType(value.type, root.type))
    fail('internal', `rule ${name}: ${printType(root.type)} became ${printType(value.type)}`, { loc: root.loc });
  return value;
}

/** A new value under the name and position of the one it stands for. Inputs and parameters keep their own. */
function adopt(value: Value, like: Value): Value {
  if (value.op.name === 'input' || value.op.name === 'param' || value.name !== undefined || value.loc !== undefined)
    return value;
  return like.name === undefined && like.loc === undefined ? value : { ...value, name: like.name, loc: like.loc };
}

/** The graph with some values replaced by others of their type, which may themselves read replaced values. */
export function replaceValues(graph: Graph, replaced: ReadonlyMap<Value, Value>): Graph {
  const done = new Map<Value, Value>();
  const target = (v: Value): Value => {
    let to = v;
    for (let next = replaced.get(to); next; next = replaced.get(to)) to = next;
    return to;
  };
  const open = new Set<Value>();
  const resolve = (root: Value): Value => {
    const stack = [target(root)];
    while (stack.length > 0) {
      const v = stack[stack.length - 1]!;
      const operands = v.inputs.map(target);
      const missing = done.has(v) ? [] : operands.filter((x) => !done.has(x));
      if (missing.length > 0) {
        if (open.has(v)) fail('internal', `a rewrite of ${describe(v)} reads its own result`);
        open.add(v);
        stack.push(...missing);
        continue;
      }
      stack.pop();
      if (done.has(v)) continue;
      const inputs = operands.map((x) => done.get(x)!);
      done.set(v, inputs.every((x, i) => x === v.inputs[i]) ? v : { ...v, inputs });
    }
    return done.get(target(root))!;
  };
  return makeGraph(
    graph.name,
    graph.inputs,
    [...graph.outputs].map(([name, v]) => [name, resolve(v)] as const),
  );
}

/** The graph with every body of control flow rewritten; the same object when none changes. */
export function mapAllBodies(graph: Graph, f: (body: Graph) => Graph): Graph {
  const replaced = new Map<Value, Value>();
  for (const v of graphValues(graph)) {
    const changed = mapBodies(v, f);
    if (changed !== v) replaced.set(v, changed);
  }
  return replaced.size > 0 ? replaceValues(graph, replaced) : graph;
}

/** A local identity: a simpler value for one of that op, or undefined. */
export interface Identity {
  /** What it says when it applies. */
  readonly why: string;
  simplify(value: Value): Value | undefined;
}

/**
 * A pass that rebuilds a graph from the inputs up. Each value is rebuilt on simplified operands, merged with an equal one
 * where `merge` is set, and simplified until no identity applies; what an identity makes is simplified in turn.
 */
export function simplifyPass(pass: {
  readonly name: string;
  readonly doc: string;
  /** Merge values that compute the same. */
  readonly merge: boolean;
  identities(value: Value): readonly Identity[];
}): Pass {
  const run = (graph: Graph, cx: PassContext): Graph => new Simplifier(pass, cx, run).graph(graph);
  return { name: pass.name, doc: pass.doc, run };
}

class Simplifier {
  readonly #pass: Parameters<typeof simplifyPass>[0];
  readonly #cx: PassContext;
  readonly #run: (body: Graph, cx: PassContext) => Graph;
  readonly #table = new InternTable();
  readonly #done = new Map<Value, Value>();

  constructor(pass: Parameters<typeof simplifyPass>[0], cx: PassContext, run: (body: Graph, cx: PassContext) => Graph) {
    this.#pass = pass;
    this.#cx = cx;
    this.#run = run;
  }

  graph(graph: Graph): Graph {
    for (const v of graph.inputs) this.#value(v);
    // Operands first: the recursion below only ever enters what an identity has just made.
    for (const v of graphValues(graph)) this.#value(v);
    const outputs = [...graph.outputs].map(([name, v]) => [name, this.#done.get(v)!] as const);
    return outputs.every(([name, v]) => graph.outputs.get(name) === v)
      ? graph
      : makeGraph(graph.name, graph.inputs, outputs);
  }

  #value(value: Value, depth = 0): Value {
    const known = this.#done.get(value);
    if (known) return known;
    if (depth > 200) fail('internal', `pass ${this.#pass.name}: identities for ${describe(value)} do not end`);
    const inputs = value.inputs.map((x) => this.#value(x, depth + 1));
    const same = inputs.every((x, i) => x === value.inputs[i]);
    const rebuilt = mapBodies(same ? value : { ...value, inputs }, (body) => this.#run(body, this.#cx));
    const merged = this.#merge(rebuilt);
    const result = this.#done.get(merged) ?? this.#simplified(merged, depth);
    this.#done.set(value, result);
    this.#done.set(merged, result);
    return result;
  }

  #merge(value: Value): Value {
    if (!this.#pass.merge) return value;
    const first = this.#table.intern(value);
    if (first === value || !this.#may()) return value;
    this.#cx.remark('applied', value, 'merged with an equal value');
    return first;
  }

  #simplified(value: Value, depth: number): Value {
    for (const { why, simplify } of this.#pass.identities(value)) {
      const simpler = simplify(value);
      if (!simpler) continue;
      checked(simpler, value, why);
      if (!this.#may()) return value;
      this.#cx.remark('applied', value, why);
      return this.#value(this.#done.has(simpler) ? simpler : adopt(simpler, value), depth + 1);
    }
    return value;
  }

  #may(): boolean {
    return this.#cx.mayRewrite?.() ?? true;
  }
}
