/** Models as functions that are run once on symbolic tensors: what they call becomes the graph. */
import { fail } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import { type Graph, graph, graphValues, type Value } from '../../ir/graph.ts';
import type { Model } from '../../ir/model.ts';
import { makeValue } from '../../ir/op.ts';
import { input as inputOp, param as paramOp } from '../../ir/ops/structural.ts';
import type { Dim } from '../../ir/type.ts';
import { type Init, init } from './init.ts';
import { callSite } from './location.ts';
import { type Shape, Tensor } from './tensor.ts';

/** A weight that a model reads, under its name in the published checkpoint. */
export interface Parameter {
  readonly name: string;
  readonly dtype: Scalar;
  readonly shape: readonly number[];
  readonly init: Init;
}

export type ConfigValue =
  | number
  | string
  | boolean
  | undefined
  | readonly ConfigValue[]
  | { readonly [key: string]: ConfigValue };

/** A traced model: its graphs, and what is known of its weights. */
export interface ModelGraph extends Model {
  readonly doc: string;
  /** In order of first use; entries share them. */
  readonly parameters: readonly Parameter[];
  /** The hyper-parameters that it was built from, for people and files. */
  readonly config: Readonly<Record<string, ConfigValue>>;
}

export interface InputSpec<D extends Scalar = Scalar, S extends Shape = Shape> {
  readonly dtype: D;
  readonly shape: S;
  readonly doc: string;
  /** Every element is 0 or 1. */
  readonly binary?: boolean;
  /** Only by its name. */
  readonly assumed?: boolean;
  readonly count?: Dim;
  readonly atLeast?: number;
}
/**
 * What callers of a model promise of the elements of an input; checked whenever it is run, so that such an input is given as an
 * array, not as GPU memory.
 */
export interface InputPromises {
  /**
   * Its numbers are all 0 or 1: then arithmetic that makes a mask of it is understood as one. Bools are anyway. Other numbers
   * are refused; where that is only `assumed`, `compile` can be asked to compute what the model makes of them: `fallback`.
   */
  readonly binary?: boolean | 'assumed';
  /**
   * How many elements of each line along the last axis are 1: a number, or a size made by `dim`, which a run then takes from
   * the input. What is kept by such a mask is computed alone. `any`, the default, promises nothing.
   */
  readonly count?: Dim | 'any';
  /** How many at least. 1 says that no query of an attention which it masks is left without a key. Default 0. */
  readonly atLeast?: number;
}
/**
 * An input of a model. `doc` says what it means and in which unit; it is quoted in the bundle's types.
 *
 * ```ts
 * input(bool, [batch, 196], 'patches that are seen', { count: 49 })
 * input(i64, [batch, tokens], '1 for words, 0 for padding', { binary: true, atLeast: 1 })
 * ```
 *
 * @throws CompileError `attribute`, when the model is traced, where a promise does not suit the type
 */
export const input = <D extends Scalar, const S extends Shape>(
  dtype: D,
  shape: S,
  doc = '',
  { binary = false, count = 'any', atLeast = 0 }: InputPromises = {},
): InputSpec<D, S> => ({
  dtype,
  shape,
  doc,
  ...(binary !== false && { binary: true }),
  ...(binary === 'assumed' && { assumed: true }),
  ...(count !== 'any' && { count }),
  ...(atLeast > 0 && { atLeast }),
});

export type Inputs = Readonly<Record<string, InputSpec>>;
export type Outputs = Readonly<Record<string, Tensor>>;
export type TensorsOf<I extends Inputs> = {
  readonly [K in keyof I]: I[K] extends InputSpec<infer D, infer S> ? Tensor<D, S> : never;
};

/** One entry point: its inputs, and the function from their tensors to the named outputs. */
export interface Entry {
  readonly inputs: Inputs;
  readonly body: (inputs: never) => Outputs;
}
export const entry = <I extends Inputs>(inputs: I, body: (inputs: TensorsOf<I>) => Outputs): Entry => ({
  inputs,
  body,
});

export interface ModelOptions {
  readonly doc?: string;
  readonly config?: Readonly<Record<string, ConfigValue>>;
}

/**
 * Traces a model with one entry point, `main`.
 *
 * ```ts
 * const batch = dim('batch', { max: 64 });
 * const perceptron = model('perceptron', { x: input(f32, [batch, 784]) }, ({ x }) => {
 *   const hidden = relu(nn.linear('fc1', { in: 784, out: 128 })(x));
 *   return { logits: nn.linear('fc2', { in: 128, out: 10 })(hidden) };
 * });
 * ```
 *
 * @throws CompileError `shape`, `dtype`, `rank`, … with the author's line, where an op refuses its operands
 */
export function model<const I extends Inputs>(
  name: string,
  inputs: I,
  body: (inputs: TensorsOf<I>) => Outputs,
  options: ModelOptions = {},
): ModelGraph {
  return program(name, { main: entry(inputs, body) }, options);
}

/** Traces a model with several entry points over the same parameters, such as prefill and decode. */
export function program(
  name: string,
  entries: Readonly<Record<string, Entry>>,
  { doc = '', config = {} }: ModelOptions = {},
): ModelGraph {
  if (current) fail('usage', `model "${name}" is declared while another model is traced; declare it outside`);
  const trace: Trace = { model: name, parameters: new Map() };
  current = trace;
  prefix = '';
  try {
    const graphs = Object.entries(entries).map(([key, { inputs, body }]) => {
      const label = Object.keys(entries).length === 1 ? name : `${name}_${key}`;
      return [key, traceEntry(identifier(label), inputs, body as (inputs: Outputs) => Outputs)] as const;
    });
    const parameters = [...trace.parameters.values()].map((known) => known.parameter);
    return { name, doc, config, entries: Object.fromEntries(graphs), parameters };
  } finally {
    current = undefined;
    prefix = '';
  }
}

const identifier = (name: string): string => name.replace(/\W/g, '_').replace(/^(?=\d)/, '_');

function traceEntry(name: string, inputs: Inputs, body: (inputs: Outputs) => Outputs): Graph {
  const loc = callSite();
  const values = Object.entries(inputs).map(
    ([key, spec]) => [key, makeValue(inputOp.def, [], { name: key, ...spec }, { name: key, loc })] as const,
  );
  const result: unknown = body(Object.fromEntries(values.map(([key, value]) => [key, new Tensor(value)])));
  const outputs = Object.entries((result ?? {}) as Outputs);
  if (outputs.length === 0)
    fail('usage', `model "${name}" returns no output`, { loc, help: 'return { name: tensor, … }' });
  const own = values.map(([, value]) => value);
  const traced = graph(
    name,
    own,
    outputs.map(([key, tensor]) => [key, outputValue(name, key, tensor)]),
  );
  const stranger = graphValues(traced).find((v) => v.op === inputOp.def && !own.includes(v));
  if (stranger)
    fail('usage', `model "${name}" reads "${stranger.attrs.name}", which is not one of its inputs`, {
      loc: stranger.loc ?? loc,
      help: 'tensors of another model, or of the inside of a scan, do not exist here: pass them on as results',
    });
  return traced;
}

function outputValue(graphName: string, key: string, tensor: unknown): Value {
  if (tensor instanceof Tensor) return tensor.value;
  return fail('usage', `model "${graphName}": output "${key}" is not a tensor`, { help: 'return { name: tensor, … }' });
}

interface Trace {
  readonly model: string;
  readonly parameters: Map<string, { readonly parameter: Parameter; readonly value: Value }>;
}
/** The model being traced, and the scope that names are relative to. Tracing is synchronous. */
let current: Trace | undefined;
let prefix = '';

/** Runs `f` with parameter names prefixed by `name.`; scopes nest: `scope('blocks.0', () => scope('attn', …))`. */
export function scope<T>(name: string, f: () => T): T {
  const outer = prefix;
  prefix = `${qualified(name)}.`;
  try {
    return f();
  } finally {
    prefix = outer;
  }
}
/** The full name of a parameter in the present scope. */
export const qualified = (name: string): string => prefix + name;
/** Runs `f` where the full name is `name` whatever scope calls it: for modules, which keep the scope of their making. */
export function atRoot<T>(f: () => T): T {
  const outer = prefix;
  prefix = '';
  try {
    return f();
  } finally {
    prefix = outer;
  }
}

/**
 * A weight of the model, named within the present scope. The same name again is the same weight (tied), so its shape
 * must be the same.
 *
 * @throws CompileError `usage` outside a model's function; `shape` or `dtype` when the name stands for another weight
 */
export function param<const S extends readonly number[], D extends Scalar = 'f32'>(
  name: string,
  shape: S,
  start: Init = init.zeros,
  dtype: D = 'f32' as D,
): Tensor<D, S> {
  const full = qualified(name);
  const loc = callSite();
  if (!current)
    return fail('usage', `parameter "${full}" is asked for outside a model`, {
      loc,
      help: 'make it inside the function given to model(…)',
    });
  const known = current.parameters.get(full);
  if (!known) {
    const value = makeValue(paramOp.def, [], { name: full, dtype, shape }, { loc });
    current.parameters.set(full, { value, parameter: { name: full, dtype, shape, init: start } });
    return new Tensor<D, S>(value);
  }
  const { parameter } = known;
  if (
    parameter.dtype !== dtype ||
    parameter.shape.length !== shape.length ||
    parameter.shape.some((n, i) => n !== shape[i])
  )
    fail(
      parameter.dtype === dtype ? 'shape' : 'dtype',
      `parameter "${full}" is ${parameter.dtype}[${parameter.shape.join(', ')}] and ${dtype}[${shape.join(', ')}]`,
      {
        loc,
        help: 'a name stands for one weight; scope(…) gives each block names of its own',
      },
    );
  return new Tensor<D, S>(known.value);
}

/** Number of weights in all parameters. */
export const countParameters = (model: Pick<ModelGraph, 'parameters'>): number =>
  model.parameters.reduce((total, { shape }) => total + shape.reduce((n, d) => n * d, 1), 0);
