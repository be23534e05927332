/** Everything known about an operator, in one object; and the registry of all of them. */
import { attrProblem, type AttrArgs, type AttrSpecs, type AttrsOf } from './attr.ts';
import { CompileError, fail, printLoc, type Loc } from './diagnostic.ts';
import type { Expr } from './expr.ts';
import { typeOf, type Attrs, type AttrValue, type Graph, type Value } from './graph.ts';
import type { Nd } from './nd.ts';
import { printType } from './print.ts';
import type { Dim, TensorType, ValueType } from './type.ts';

/**
 * For each input, for each of its axes: the number of the result axis it runs in lockstep with, `mix` when every result
 * may read every position (contraction, reduction, sort), or `stencil` when a result reads a neighbourhood.
 */
export type AxisRole = number | 'mix' | 'stencil';
export type AxisMap = readonly (readonly AxisRole[])[];

/** What a lowering sees: types, and attributes with defaults filled in. */
export interface LowerContext<A> {
  readonly attrs: A;
  readonly inputs: readonly TensorType[];
  readonly out: TensorType;
}
/** Element of input `n` at the given coordinates. */
export type Load = (n: number, at: readonly Expr[]) => Expr;

/** Schedules that a target implements; see `compiler/schedule/`. */
export type ScheduleName =
  | 'matmul' | 'softmax' | 'norm' | 'attention' | 'cumulative' | 'arg-reduce' | 'top-k' | 'scatter';

export type Lowering<A> =
  /** One scalar expression of the operands' elements; operands broadcast as in numpy. */
  | { readonly kind: 'pointwise'; expr(args: readonly Expr[], cx: LowerContext<A>): Expr }
  /** Pure movement of one input: `from` maps result coordinates to input coordinates, `to` back where it is a bijection. */
  | {
      readonly kind: 'view';
      from(at: readonly Expr[], cx: LowerContext<A>): readonly Expr[];
      to?(at: readonly Expr[], cx: LowerContext<A>): readonly Expr[];
    }
  /** An element of the result as an expression of loads: gather, concat, pad, iota, random. */
  | { readonly kind: 'element'; element(at: readonly Expr[], load: Load, cx: LowerContext<A>): Expr }
  /** A fold over axes of input 0. `finish` sees the number of folded elements. */
  | {
      readonly kind: 'reduce';
      axes(cx: LowerContext<A>): readonly number[];
      keep(cx: LowerContext<A>): boolean;
      init(cx: LowerContext<A>): number;
      step(acc: Expr, x: Expr, cx: LowerContext<A>): Expr;
      finish?(acc: Expr, count: Expr, cx: LowerContext<A>): Expr;
    }
  /** The same function written with simpler ops; several results come as a list. */
  | { readonly kind: 'decompose'; build(inputs: readonly Value[], attrs: A): Value | readonly Value[] }
  | { readonly kind: 'schedule'; readonly name: ScheduleName }
  /** Handled by the compiler itself: input, param, constant, get, and subgraph ops. */
  | { readonly kind: 'structural' };

export interface OnnxMapping<A = Attrs> {
  readonly op: string;
  readonly domain?: string;
  readonly since: number;
  /** Our attribute name → theirs. */
  readonly attrs?: { readonly [K in keyof A]?: string };
}

/** One case of the op's documentation and of every conformance suite: operands (or how to fill them) and attributes. */
export interface Example<S extends AttrSpecs = AttrSpecs> {
  readonly inputs: readonly ExampleInput[];
  readonly attrs?: AttrArgs<S>;
  /** What this case is there for. */
  readonly note?: string;
}
/** Explicit data, or a fill: seeded values of the op's usual range. */
export interface ExampleInput {
  readonly dtype: Nd['dtype'];
  readonly shape: readonly number[];
  readonly data?: readonly number[];
  /** Range of generated values; default [-2, 2] for floats, [-5, 5] for signed, [0, 5] for unsigned integers. */
  readonly range?: readonly [number, number];
}

export interface OpSpec<S extends AttrSpecs> {
  readonly name: string;
  readonly doc: string;
  /** Operand names; `name?` may be left out (only at the end), `name...` stands for any number. */
  readonly inputs: readonly string[];
  readonly attrs: S;
  /** Result type. Reports disagreement with `fail` and the helpers of `ops/check.ts`. */
  type(inputs: readonly TensorType[], attrs: AttrsOf<S>): ValueType;
  /** Absent: every axis mixes. */
  axes?(inputs: readonly TensorType[], attrs: AttrsOf<S>): AxisMap;
  /** Reference semantics in f64 with sequential sums, written from the definition; shares no code with `lower`. */
  eval(inputs: readonly Nd[], attrs: AttrsOf<S>, cx: EvalContext): Nd | readonly Nd[];
  readonly lower: Lowering<AttrsOf<S>>;
  /** Multiply-accumulates of the contractions in one execution; absent means none. */
  macs?(inputs: readonly TensorType[], attrs: AttrsOf<S>, out: ValueType): Dim;
  /** Cotangents of the inputs; null where the op is constant in an input. */
  grad?(out: Value, dout: readonly Value[]): readonly (Value | null)[];
  readonly onnx?: OnnxMapping<AttrsOf<S>>;
  readonly examples: readonly Example<S>[];
}

export interface EvalContext {
  /** Result type under the current binding of symbols: all sizes are numbers. */
  readonly types: readonly { readonly dtype: Nd['dtype']; readonly shape: readonly number[] }[];
  /** Runs a subgraph attribute on values. */
  run(graph: Graph, inputs: readonly Nd[]): readonly Nd[];
  /** Size of a symbolic attribute. */
  size(d: Dim): number;
}

/** How a call names its value: for people and diagnostics only. */
export interface Origin {
  readonly name?: string | undefined;
  readonly loc?: Loc | undefined;
}

/** An operator without its attribute types, as values refer to it. */
export interface OpDef extends Omit<OpSpec<AttrSpecs>, 'type' | 'axes' | 'eval' | 'lower' | 'macs' | 'onnx' | 'examples'> {
  type(inputs: readonly TensorType[], attrs: Attrs): ValueType;
  axes?(inputs: readonly TensorType[], attrs: Attrs): AxisMap;
  eval(inputs: readonly Nd[], attrs: Attrs, cx: EvalContext): Nd | readonly Nd[];
  readonly lower: Lowering<Attrs>;
  macs?(inputs: readonly TensorType[], attrs: Attrs, out: ValueType): Dim;
  readonly onnx?: OnnxMapping;
  readonly examples: readonly Example[];
}

/** A defined operator; calling it builds a value. */
export interface Op<S extends AttrSpecs> {
  (inputs: readonly Value[], ...rest: MaybeAttrs<S>): Value;
  readonly def: OpDef;
}
type MaybeAttrs<S extends AttrSpecs> = Record<string, never> extends AttrArgs<S>
  ? [attrs?: AttrArgs<S>, origin?: Origin]
  : [attrs: AttrArgs<S>, origin?: Origin];

const registry = new Map<string, OpDef>();

/** The operator of that name. */
export const opNamed = (name: string): OpDef | undefined => registry.get(name);
/** All operators, in order of definition. */
export const allOps = (): readonly OpDef[] => [...registry.values()];

export function defineOp<const S extends AttrSpecs>(spec: OpSpec<S>): Op<S> {
  if (registry.has(spec.name)) throw new Error(`op ${spec.name} is defined twice`);
  // The one place where attribute types are forgotten: `makeValue` checks attributes against the schema before any
  // function of the spec sees them.
  const def = spec as unknown as OpDef;
  registry.set(spec.name, def);
  const build = (inputs: readonly Value[], attrs?: AttrArgs<S>, origin?: Origin): Value =>
    makeValue(def, inputs, (attrs ?? {}) as Attrs, origin);
  return Object.assign(build, { def });
}

/** A value of `op`: attributes checked and completed, type inferred. Errors name the op and every operand. */
export function makeValue(op: OpDef, inputs: readonly Value[], given: Attrs = {}, origin: Origin = {}): Value {
  try {
    const attrs = completeAttrs(op, given);
    checkArity(op, inputs.length);
    const type = op.type(inputs.map(typeOf), attrs);
    return { kind: 'value', op, inputs, attrs, type, name: origin.name, loc: origin.loc };
  } catch (error) {
    if (!(error instanceof CompileError)) throw error;
    const { message } = error.diagnostic;
    const prefix = message.startsWith(`${op.name}:`) ? '' : `${op.name}: `;
    throw error.with({ message: prefix + message, loc: error.diagnostic.loc ?? origin.loc, notes: operandFacts(op, inputs) });
  }
}

function completeAttrs(op: OpDef, given: Attrs): Attrs {
  const attrs: Record<string, AttrValue> = {};
  for (const name of Object.keys(given))
    if (!Object.hasOwn(op.attrs, name))
      fail('attribute', `no attribute "${name}"`, { help: `it has ${Object.keys(op.attrs).join(', ') || 'none'}` });
  for (const [name, schema] of Object.entries(op.attrs)) {
    const value = given[name] === undefined ? schema.default : given[name];
    const problem = attrProblem(schema, value);
    if (problem) fail('attribute', `attribute ${name} ${problem}`, { help: schema.doc });
    attrs[name] = value;
  }
  return attrs;
}

function checkArity(op: OpDef, count: number): void {
  const most = op.inputs.at(-1)?.endsWith('...') ? Infinity : op.inputs.length;
  const least = op.inputs.filter((n) => !n.endsWith('?') && !n.endsWith('...')).length;
  if (count < least || count > most)
    fail('operand', `takes (${op.inputs.join(', ')}), not ${count} operand${count === 1 ? '' : 's'}`);
}

/** One line an operand: its role or name, its type, and where it came from. */
function operandFacts(op: OpDef, inputs: readonly Value[]): string[] {
  return inputs.map((value, i) => {
    const role = op.inputs[Math.min(i, op.inputs.length - 1)]?.replace(/\?$|\.\.\.$/, '') ?? `operand ${i}`;
    const from = value.op.name === 'param' ? `parameter "${String(value.attrs['name'])}"` : `from ${value.op.name}`;
    const where = value.loc ? `, ${printLoc(value.loc)}` : '';
    return `${value.name ?? role} : ${printType(value.type)}   ${from}${where}`;
  });
}
