/**
 * What sample inputs decide of a program: sizes, counts of rows, operands of masks, which branch is taken. Counts of work that
 * depends on data are then exact. Only such values are computed, none that depends on a weight or on an input that is not
 * given.
 */
import { countedIn, countsBefore, withCapacities } from '../ir/counts.ts';
import { bindSymbols, evaluate } from '../ir/evaluate.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { type Graph, graph as makeGraph, typeOf, type Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { executedPairs, type Pairs } from './attention-pairs.ts';
import type { ScheduledBody, ScheduledProgram } from './schedule-regions.ts';

type Sizes = Readonly<Record<string, number>>;

export class Sample {
  /** Of every symbol, by name. */
  readonly sizes: Sizes;
  readonly #known: ReadonlyMap<Value, Nd>;
  /** Layers share masks: each is counted once. */
  readonly #pairs = new Map<string, Pairs>();

  private constructor(sizes: Sizes, known: ReadonlyMap<Value, Nd>) {
    this.sizes = sizes;
    this.#known = known;
  }

  /**
   * @param inputs some inputs of the program by name; others are left out
   * @param at sizes of symbols that no given input names
   * @throws CompileError as `evaluate` does, for inputs that do not fit
   */
  static of(program: ScheduledProgram, inputs: Readonly<Record<string, Nd>>, at: Sizes): Sample {
    const { graph } = program.partition;
    const given = new Map<Value, Nd>();
    for (const v of graph.inputs) {
      const name = String(v.attrs.name);
      if (Object.hasOwn(inputs, name)) given.set(v, inputs[name]!);
    }
    return Sample.#within(program, given, at);
  }

  static #within(program: ScheduledProgram, given: ReadonlyMap<Value, Nd>, at: Sizes): Sample {
    const { graph } = program.partition;
    const decided = decidedBy(graph, new Set(given.keys()));
    const inputs = [...given.keys()];
    const values = Object.fromEntries([...given].map(([v, nd]) => [String(v.attrs.name), nd]));
    const sizes: Record<string, number> = { ...at };
    for (const [symbol, size] of bindSymbols(makeGraph(graph.name, inputs, []), [...given.values()]))
      sizes[(symbol.arg as Sym).name] = size;
    const run = (outputs: readonly Value[]): Nd[] => {
      const named = outputs.map((v, n) => [String(n), v] as const);
      const results = evaluate(makeGraph(graph.name, inputs, named), { inputs: values, symbols: sizes });
      return outputs.map((_, n) => results[n]!);
    };
    // One count after the other: the later may be of values whose size an earlier one is.
    for (const { size, count } of countedIn(graph))
      if (typeof size !== 'number' && decided(count)) sizes[(size.arg as Sym).name] = run([count])[0]!.data[0]!;
    Object.assign(sizes, withCapacities(countedIn(graph), sizes));
    const wanted = [...new Set(wantedIn(program).filter(decided))];
    const results = run(wanted);
    return new Sample(sizes, new Map([...given, ...wanted.map((v, n) => [v, results[n]!] as const)]));
  }

  /** A mask's operand, a condition, or an operand of a branch, where the inputs decide it. */
  value(v: Value): Nd | undefined {
    return this.#known.get(v);
  }

  /** The pairs of an attention. */
  pairs(attention: Value): Pairs {
    const [q, k] = attention.inputs as [Value, Value];
    const shapes = [...typeOf(q).shape.slice(0, 3), typeOf(k).shape[2]!];
    const { mask, emptyRow } = attention.attrs;
    const key = [
      ...shapes.map((d) => (typeof d === 'number' ? d : `e${d.id}`)),
      mask === undefined ? '' : (mask as Expr).id,
      String(emptyRow),
      ...attention.inputs.slice(3).map((x) => this.#numberOf(x)),
    ].join(' ');
    let pairs = this.#pairs.get(key);
    if (!pairs) {
      pairs = executedPairs(attention, this.sizes, { known: (v) => this.value(v) });
      this.#pairs.set(key, pairs);
    }
    return pairs;
  }

  readonly #numbers = new Map<Value, number>();
  #numberOf(v: Value): number {
    const known = this.#numbers.get(v) ?? this.#numbers.size;
    this.#numbers.set(v, known);
    return known;
  }

  /** What is known inside a branch of an `if`; of bodies that run several times only sizes are. */
  inside(control: Value, body: ScheduledBody): Sample {
    let inner = this.#bodies.get(body);
    if (!inner) {
      inner = this.#inside(control, body);
      this.#bodies.set(body, inner);
    }
    return inner;
  }
  readonly #bodies = new Map<ScheduledBody, Sample>();

  #inside(control: Value, body: ScheduledBody): Sample {
    const given = new Map<Value, Nd>();
    if (control.op.name === 'if')
      body.inputs.forEach((v, n) => {
        const known = v && this.value(control.inputs[n + 1]!);
        if (v && known) given.set(v, known);
      });
    return Sample.#within(body.program, given, this.sizes);
  }
}

/** Values of a program that counts of its work depend on. */
function wantedIn({ regions }: ScheduledProgram): Value[] {
  return regions.flatMap(({ region: { root } }) => {
    if (root.op.name === 'attention') return root.inputs.slice(3);
    return root.op.name === 'if' ? [...root.inputs] : [];
  });
}

/** Whether a value follows from the inputs that are given. */
function decidedBy(graph: Graph, given: ReadonlySet<Value>): (v: Value) => boolean {
  const before = countsBefore(graph);
  const known = new Map<Value, boolean>();
  return (root) => {
    const stack = [root];
    while (stack.length > 0) {
      const v = stack.at(-1)!;
      const parts = known.has(v) ? [] : [...v.inputs, ...before(v)].filter((x) => x !== v);
      const open = parts.filter((x) => !known.has(x));
      if (open.length > 0 && v.op.name !== 'input' && v.op.name !== 'param') {
        stack.push(...open);
        continue;
      }
      stack.pop();
      if (known.has(v)) continue;
      const isLeaf = v.op.name === 'input' || v.op.name === 'param';
      known.set(v, isLeaf ? given.has(v) : parts.every((x) => known.get(x)));
    }
    return known.get(root)!;
  };
}
