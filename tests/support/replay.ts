/** A run of a graph that keeps every value, and tells what would have come out had some of them been others. */
import { countedIn, executionOrder } from '../../ir/counts.ts';
import { bindSymbols, evaluate } from '../../ir/evaluate.ts';
import type { Expr, Sym } from '../../ir/expr.ts';
import type { Graph, Value } from '../../ir/graph.ts';
import type { Nd } from '../../ir/nd.ts';
import { type Dim, sizeAt, type TensorType } from '../../ir/type.ts';

export type Tensors = Readonly<Record<string, Nd>>;
export type Params = (name: string, type: TensorType) => Nd;
type Result = Nd | readonly Nd[];

const isList = (x: Result): x is readonly Nd[] => Array.isArray(x);
/** Elements in which two tensors of one shape differ; the sign of zeros counts for nothing. */
export const sameNumber = (a: number, b: number): boolean => a === b || Object.is(a, b);
const sameData = (a: Nd, b: Nd): boolean => a.data.every((x, i) => sameNumber(x, b.data[i]!));
const same = (a: Result, b: Result): boolean =>
  isList(a) ? isList(b) && a.every((x, i) => sameData(x, b[i]!)) : !isList(b) && sameData(a, b);

/** Runs in the reference interpreter. Graphs whose sizes the data decide (`counted`) are not taken. */
export class Replay {
  readonly graph: Graph;
  /** Values in the order in which they are computed. */
  readonly order: readonly Value[];
  readonly results: ReadonlyMap<Value, Result>;
  /** Size of a symbol, in this run. */
  readonly size: (symbol: Expr) => number;
  readonly #given: ReadonlyMap<Value, Nd>;

  constructor(graph: Graph, inputs: Tensors, params: Params) {
    if (countedIn(graph).length > 0) throw new TypeError(`${graph.name}: sizes that the data decide are not replayed`);
    this.graph = graph;
    this.order = executionOrder(graph);
    const given = graph.inputs.map((v) => inputs[String(v.attrs.name)]!);
    const binding = bindSymbols(graph, given);
    this.size = (symbol) => binding.get(symbol) ?? (symbol.arg as Sym).default;
    const leaves = new Map(graph.inputs.map((v, n) => [v, given[n]!]));
    for (const v of this.order) if (v.op.name === 'param') leaves.set(v, params(String(v.attrs.name), typeOfParam(v)));
    this.#given = leaves;
    const results = new Map<Value, Result>();
    for (const v of this.order) results.set(v, this.#compute(v, results));
    this.results = results;
  }

  /** The result of a value that has one. */
  of(value: Value): Nd {
    const x = this.results.get(value)!;
    if (isList(x)) throw new TypeError(`${value.op.name} has several results`);
    return x;
  }

  outputs(): Tensors {
    return this.#outputs(this.results);
  }

  /** The outputs when every tensor is replaced as soon as it is computed, before anybody reads it. */
  replaced(change: (value: Value, result: Nd) => Nd): Tensors {
    const results = new Map<Value, Result>();
    for (const v of this.order) {
      const x = this.#compute(v, results);
      results.set(v, isList(x) ? x : change(v, x));
    }
    return this.#outputs(results);
  }

  /** The outputs when one tensor is another. Only what that changes is computed again. */
  instead(value: Value, x: Nd): Tensors {
    const results = new Map<Value, Result>([[value, x]]);
    const read = { get: (v: Value): Result => results.get(v) ?? this.results.get(v)! };
    for (const v of this.order.slice(this.order.indexOf(value) + 1)) {
      if (!v.inputs.some((y) => results.has(y))) continue;
      const y = this.#compute(v, read);
      if (!same(y, this.results.get(v)!)) results.set(v, y);
    }
    return this.#outputs(read);
  }

  #outputs(results: { get(v: Value): Result | undefined }): Tensors {
    return Object.fromEntries([...this.graph.outputs].map(([name, v]) => [name, results.get(v) as Nd]));
  }

  #compute(value: Value, results: { get(v: Value): Result | undefined }): Result {
    const { op, attrs, inputs, type } = value;
    const given = this.#given.get(value);
    if (given) return given;
    if (op.name === 'get') return (results.get(inputs[0]!) as readonly Nd[])[attrs.index as number]!;
    const size = (d: Dim): number => sizeAt(d, this.size);
    const types = (type.kind === 'tuple' ? type.items : [type]).map(({ dtype, shape }) => ({
      dtype,
      shape: shape.map(size),
    }));
    const run = (body: Graph, values: readonly Nd[]): readonly Nd[] =>
      Object.values(
        evaluate(body, { inputs: Object.fromEntries(body.inputs.map((v, n) => [String(v.attrs.name), values[n]!])) }),
      );
    const result: Result = op.eval(
      inputs.map((x) => results.get(x) as Nd),
      attrs,
      { types, run, size },
    );
    return type.kind === 'tuple' ? (isList(result) ? result : [result]) : isList(result) ? result[0]! : result;
  }
}

const typeOfParam = (v: Value): TensorType => v.type as TensorType;

/**
 * The first element in which outputs differ, in words. Where `want` is NaN anything may stand: a row that nobody reads may
 * have made it so, and need not be computed.
 *
 * @param tolerance how far elements may be apart, of those beyond 1 relative to themselves: 0 where sums keep their order
 */
export function difference(want: Tensors, got: Tensors, tolerance = 0): string | undefined {
  for (const [name, x] of Object.entries(want))
    for (const [i, v] of x.data.entries()) {
      const w = got[name]!.data[i]!;
      if (Number.isNaN(v) || sameNumber(v, w) || Math.abs(v - w) <= tolerance * Math.max(1, Math.abs(v))) continue;
      return `${name}[${i}]: ${v} and ${w}`;
    }
  return undefined;
}
