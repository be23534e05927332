/** The reference interpreter of graphs: every op's `eval` in topological order, floats in f64. */
import { countedIn, executionOrder } from './counts.ts';
import { fail } from './diagnostic.ts';
import { isFloat, roundTo } from './dtype.ts';
import type { Expr, Sym } from './expr.ts';
import type { Graph, Value } from './graph.ts';
import type { Nd } from './nd.ts';
import type { EvalContext } from './op.ts';
import { printDim, printType } from './print.ts';
import { checkPromises, onesOf } from './promises.ts';
import { symbolsOf } from './scalar.ts';
import { type Dim, sizeAt, type TensorType, type ValueType } from './type.ts';

/** Sizes of symbols, by the symbol's expression. */
export type Binding = ReadonlyMap<Expr, number>;

export interface EvaluateOptions {
  /** Values of the graph's inputs, by name; all of them and no others. */
  readonly inputs: Readonly<Record<string, Nd>>;
  /** The value of a parameter; needed where the graph has any. */
  readonly params?: (name: string, type: TensorType) => Nd;
  /** Sizes by symbol name, for symbols that no input's shape names by itself. */
  readonly symbols?: Readonly<Record<string, number>>;
  /** Sees each result as soon as it is computed: an array of results for an op that has several. */
  readonly observe?: (value: Value, result: Nd | readonly Nd[]) => void;
  /** `f64` (default) keeps floats at double precision; `f32` rounds every op's result to its dtype. */
  readonly precision?: 'f64' | 'f32';
}

/**
 * Runs a graph on values. Intermediate values are dropped after their last reader.
 *
 * @returns outputs by name; floats are members of their dtype only with `precision: 'f32'`
 * @throws CompileError `name` for missing or extra inputs, `dtype`, `rank` and `shape` for inputs that do not fit, `range` for
 * sizes outside a symbol's bounds and for indices outside a tensor
 */
export function evaluate(graph: Graph, options: EvaluateOptions): Record<string, Nd> {
  const given = graph.inputs.map((value) => {
    const name = String(value.attrs.name);
    const x = Object.hasOwn(options.inputs, name) ? options.inputs[name] : undefined;
    return (
      x ?? fail('name', `${graph.name}: input "${name}" is missing`, { notes: [`it is ${printType(value.type)}`] })
    );
  });
  const names = graph.inputs.map((value) => String(value.attrs.name));
  for (const name of Object.keys(options.inputs))
    if (!names.includes(name))
      fail('name', `${graph.name}: there is no input "${name}"`, { help: `inputs are ${names.join(', ') || 'none'}` });
  const binding = bindSymbols(graph, given, options.symbols ?? {});
  const size = (d: Dim): number => sizeAt(d, (symbol) => sizeOfSymbol(symbol, binding, options.symbols ?? {}));
  for (const [n, value] of graph.inputs.entries()) checkPromises(value, given[n]!, size);
  const results = runGraph(graph, given, binding, options);
  return Object.fromEntries([...graph.outputs.keys()].map((name, i) => [name, results[i]!]));
}

/**
 * Sizes of all symbols of the graph's inputs, found where an axis is a plain symbol. Derived sizes are checked.
 * @throws CompileError naming the input, the axis and the symbol
 */
export function bindSymbols(graph: Graph, given: readonly Nd[], named: Readonly<Record<string, number>> = {}): Binding {
  const binding = new Map<Expr, number>();
  const found = new Map<Expr, string>();
  const bind = (symbol: Expr, size: number, where: string): void => {
    const { name, min, max, multipleOf } = symbol.arg as Sym;
    const known = binding.get(symbol);
    if (known !== undefined && known !== size)
      fail('shape', `${graph.name}: ${name} is ${known} for ${found.get(symbol)} and ${size} for ${where}`);
    if (size < min || size > max || size % multipleOf !== 0)
      fail(
        'range',
        `${graph.name}: ${where} has size ${size}, outside ${name} in ${min}..${max}${multipleOf > 1 ? ` step ${multipleOf}` : ''}`,
      );
    binding.set(symbol, size);
    found.set(symbol, where);
  };
  const dims = graph.inputs.flatMap((value, n) => {
    const type = value.type as TensorType;
    const label = `input "${String(value.attrs.name)}"`;
    const { dtype, shape } = given[n]!;
    if (dtype !== type.dtype) fail('dtype', `${graph.name}: ${label} is ${dtype}, not ${type.dtype}`);
    if (shape.length !== type.shape.length)
      fail('rank', `${graph.name}: ${label} has shape [${shape.join(', ')}], not ${printType(type)}`);
    return type.shape.map((size, axis) => ({ size, actual: shape[axis]!, where: `${label} axis ${axis}` }));
  });
  for (const { size } of dims)
    if (typeof size !== 'number')
      for (const symbol of symbolsOf(size)) {
        const { name } = symbol.arg as Sym;
        if (Object.hasOwn(named, name)) bind(symbol, named[name]!, `symbol "${name}" as given`);
      }
  for (const { size, actual, where } of dims)
    if (typeof size !== 'number' && size.op === 'sym') bind(size, actual, where);
  for (const [n, value] of graph.inputs.entries()) {
    const { count } = value.attrs as { readonly count?: Dim };
    const free = count !== undefined && typeof count !== 'number' && count.op === 'sym' ? count : undefined;
    const [ones] = free && !binding.has(free) ? onesOf(given[n]!) : [];
    if (free && ones !== undefined) bind(free, ones, `the ones of input "${String(value.attrs.name)}"`);
  }
  for (const { size, actual, where } of dims) {
    const expected = sizeAt(size, (symbol) => sizeOfSymbol(symbol, binding, named));
    if (expected === actual) continue;
    const sizes = [...binding].map(([symbol, n]) => `${(symbol.arg as Sym).name} = ${n}`).join(', ');
    fail('shape', `${graph.name}: ${where} has size ${actual}, not ${printDim(size)}`, {
      ...(typeof size === 'number'
        ? {}
        : { notes: [`${printDim(size)} is ${expected}${sizes ? ` where ${sizes}` : ''}`] }),
    });
  }
  return binding;
}

function sizeOfSymbol(symbol: Expr, binding: Binding, named: Readonly<Record<string, number>>): number {
  const { name, default: usual } = symbol.arg as Sym;
  return binding.get(symbol) ?? (Object.hasOwn(named, name) ? named[name]! : usual);
}

/** Runs a graph, or the body of a control-flow op, under a binding that is already known. */
function runGraph(graph: Graph, given: readonly Nd[], outer: Binding, options: EvaluateOptions): Nd[] {
  const { precision = 'f64', observe, symbols = {} } = options;
  // Counts are added as they become known.
  const binding = new Map(outer);
  const size = (d: Dim): number => sizeAt(d, (symbol) => sizeOfSymbol(symbol, binding, symbols));
  const concrete = (type: ValueType): EvalContext['types'] =>
    (type.kind === 'tuple' ? type.items : [type]).map(({ dtype, shape }) => ({ dtype, shape: shape.map(size) }));
  const run = (body: Graph, inputs: readonly Nd[]): readonly Nd[] =>
    runGraph(
      body,
      inputs,
      new Map([...binding, ...bindSymbols(body, inputs, Object.fromEntries(namesOf(binding)))]),
      options,
    );

  const order = executionOrder(graph);
  const lastReader = new Map<Value, number>();
  for (const [at, value] of order.entries()) for (const operand of value.inputs) lastReader.set(operand, at);
  for (const output of graph.outputs.values()) lastReader.set(output, Infinity);

  const results = new Map<Value, Nd | readonly Nd[]>();
  for (const [at, value] of order.entries()) {
    const types = concrete(value.type);
    const result = produce(value, types);
    results.set(value, result);
    for (const { size: counted, count } of countedIn(graph)) if (count === value) bindCount(counted, one(result));
    observe?.(value, result);
    for (const operand of value.inputs) if (lastReader.get(operand) === at) results.delete(operand);
  }
  return [...graph.outputs.values()].map((value) => one(results.get(value)!));

  function bindCount(symbol: Dim, { data }: Nd): void {
    if (typeof symbol === 'number') return;
    const { name, min, max } = symbol.arg as Sym;
    const counted = data[0]!;
    if (!(counted >= min && counted <= max))
      fail('range', `${graph.name}: ${counted} elements count, outside ${name} in ${min}..${max}`);
    binding.set(symbol, counted);
  }

  function produce(value: Value, types: EvalContext['types']): Nd | readonly Nd[] {
    const { op, attrs } = value;
    switch (op.name) {
      case 'input': {
        const n = graph.inputs.indexOf(value);
        if (n < 0) fail('internal', `${graph.name}: input "${String(attrs.name)}" is not among the graph's inputs`);
        return given[n]!;
      }
      case 'param':
        return parameter(value, types[0]!.shape);
      case 'get': {
        const tuple = results.get(value.inputs[0]!) as readonly Nd[];
        return tuple[attrs.index as number]!;
      }
    }
    const operands = value.inputs.map((operand) => one(results.get(operand)!));
    const result = op.eval(operands, attrs, { types, run, size });
    const all = isList(result) ? result : [result];
    for (const [i, x] of all.entries()) check(value, x, types[i]);
    if (all.length !== types.length)
      fail('internal', `${op.name}: ${all.length} results where its type has ${types.length}`);
    const rounded = precision === 'f32' ? all.map(roundNd) : all;
    return value.type.kind === 'tuple' ? rounded : rounded[0]!;
  }

  function parameter(value: Value, shape: readonly number[]): Nd {
    const name = String(value.attrs.name);
    const type = value.type as TensorType;
    const x = options.params?.(name, type) ?? fail('weights', `${graph.name}: no value for parameter "${name}"`);
    if (x.dtype !== type.dtype || x.shape.length !== shape.length || x.shape.some((n, i) => n !== shape[i]))
      fail(
        'weights',
        `${graph.name}: parameter "${name}" is ${x.dtype}[${x.shape.join(', ')}], not ${printType(type)}`,
      );
    return x;
  }
}

const isList = (result: Nd | readonly Nd[]): result is readonly Nd[] => Array.isArray(result);
const namesOf = (binding: Binding): (readonly [string, number])[] =>
  [...binding].map(([symbol, size]) => [(symbol.arg as Sym).name, size] as const);

/** The value of an operand that must have one result. */
function one(result: Nd | readonly Nd[]): Nd {
  if (!isList(result)) return result;
  if (result.length !== 1) fail('internal', `${result.length} results are read as one`);
  return result[0]!;
}

const roundNd = (x: Nd): Nd =>
  isFloat(x.dtype) && x.dtype !== 'f64' ? { ...x, data: x.data.map((v) => roundTo(x.dtype, v)) } : x;

/** An `eval` whose result does not have the inferred type is a bug of that op. */
function check(value: Value, x: Nd, type: EvalContext['types'][number] | undefined): void {
  const count = x.shape.reduce((n, d) => n * d, 1);
  const agrees =
    type &&
    x.dtype === type.dtype &&
    x.shape.length === type.shape.length &&
    x.shape.every((n, i) => n === type.shape[i]);
  if (!agrees || x.data.length !== count)
    fail(
      'internal',
      `${value.op.name}: evaluated to ${x.dtype}[${x.shape.join(', ')}] with ${x.data.length} elements, not ${
        type ? `${type.dtype}[${type.shape.join(', ')}]` : 'nothing'
      }`,
    );
}
