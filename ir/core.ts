/**
 * The mutually recursive types of the tensor IR: values, graphs, operators and their attributes. Import them from
 * `graph.ts`, `attr.ts` and `op.ts`, which add what can be done with each.
 */
import type { Loc } from './diagnostic.ts';
import type { Expr } from './expr.ts';
import type { IndexSet } from './index-set.ts';
import type { Nd } from './nd.ts';
import type { Dim, TensorType, ValueType } from './type.ts';

export type AttrValue = number | string | boolean | Expr | Graph | Nd | undefined | readonly AttrValue[];
export type Attrs = Readonly<Record<string, AttrValue>>;

export interface Value {
  readonly kind: 'value';
  readonly op: OpDef;
  readonly inputs: readonly Value[];
  readonly attrs: Attrs;
  readonly type: ValueType;
  /** For people; never part of identity. */
  readonly name: string | undefined;
  /** Where the model's source made it. */
  readonly loc: Loc | undefined;
}

export interface Graph {
  readonly kind: 'graph';
  readonly name: string;
  /** `input` values, in call order. */
  readonly inputs: readonly Value[];
  readonly outputs: ReadonlyMap<string, Value>;
}

export type AttrKind = 'int' | 'float' | 'bool' | 'string' | 'dtype' | 'dim' | 'expr' | 'graph' | 'tensor';

/** `T` is the attribute's type in the op's functions; `D` is true when it may be left out. */
export interface AttrSpec<T extends AttrValue = AttrValue, D extends boolean = boolean> {
  readonly kind: AttrKind;
  readonly list: boolean;
  readonly doc: string;
  readonly optional: D;
  readonly default: T | undefined;
  /** Admissible words of a `string`. */
  readonly choices: readonly string[] | undefined;
  /**
   * What the free names of an `expr` stand for, by name: the coordinate variables of the op, such as `b h q k` of
   * attention. Text is parsed and expressions are verified against this table.
   */
  readonly coords?: Readonly<Record<string, Expr>> | undefined;
}

export type AttrSpecs = Readonly<Record<string, AttrSpec>>;
type Optional<S extends AttrSpecs> = { [K in keyof S]: S[K] extends AttrSpec<AttrValue, true> ? K : never }[keyof S];
type TypeOf<A> = A extends AttrSpec<infer T, boolean> ? T : never;
/** All attributes, defaults filled in. */
export type AttrsOf<S extends AttrSpecs> = { readonly [K in keyof S]: TypeOf<S[K]> };
/** What a caller writes: attributes with a default may be left out. */
export type AttrArgs<S extends AttrSpecs> = { readonly [K in Exclude<keyof S, Optional<S>>]: TypeOf<S[K]> } & {
  readonly [K in Optional<S>]?: TypeOf<S[K]> | undefined;
};

/**
 * For each input, for each of its axes: the number of the result axis it runs in lockstep with, `mix` when every result
 * may read every position (contraction, reduction, sort), or `stencil` when a result reads a neighbourhood.
 */
export type AxisRole = number | 'mix' | 'stencil';
export type AxisMap = readonly (readonly AxisRole[])[];

/** What `need` sees: types, attributes, and what is known about the elements of operands. */
export interface NeedContext<A> {
  readonly attrs: A;
  readonly inputs: readonly TensorType[];
  /** Types of the results. */
  readonly outs: readonly TensorType[];
  /** Element of operand `n` at coordinates, as an expression of elements of earlier values where that is known. */
  element(n: number, at: readonly Expr[]): Expr;
  /** Where elements of operand `n` may be other than zero. */
  support(n: number): IndexSet;
  /**
   * Whether some element of the index operand `n` means position `value` of an axis of that size, negative ones counted from
   * the end. Coordinates left open run over their axes.
   */
  image(n: number, at: readonly (Expr | undefined)[], value: Expr, size: Dim): Expr;
}

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
  | 'matmul'
  | 'matmul-int8'
  | 'softmax'
  | 'norm'
  | 'attention'
  | 'cumulative'
  | 'arg-reduce'
  | 'top-k'
  | 'positions'
  | 'scatter';

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
  /**
   * A schedule of the target. `adapt` rewrites a case that the schedule does not take (softmax of another axis than the
   * last) into ops that it does; undefined when the case is taken as it is.
   */
  | {
      readonly kind: 'schedule';
      readonly name: ScheduleName;
      adapt?(inputs: readonly Value[], attrs: A): Value | undefined;
    }
  /** Handled by the compiler itself: input, param, constant, get, and subgraph ops. */
  | { readonly kind: 'structural' };

export interface OnnxMapping<A = Attrs> {
  readonly op: string;
  readonly domain?: string;
  /** First opset in which the operator has this form. */
  readonly since: number;
  /** Our attribute name → theirs. */
  readonly attrs?: { readonly [K in keyof A]?: string };
  /** Our attribute name → number of the operand in which theirs takes it: one i64, or a list of them. */
  readonly operands?: { readonly [K in keyof A]?: number };
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
  /**
   * Which elements of each operand are read when only those of `demand`, one set a result, are wanted: whatever stands
   * elsewhere in the operands, finite, changes none of them. Sets are over `coordinate(n)` of each operand and may be too
   * large. Absent: derived from `axes`.
   */
  need?(demand: readonly IndexSet[], cx: NeedContext<AttrsOf<S>>): readonly IndexSet[];
  /** Reference semantics in f64 with sequential sums, written from the definition; shares no code with `lower`. */
  eval(inputs: readonly Nd[], attrs: AttrsOf<S>, cx: EvalContext): Nd | readonly Nd[];
  readonly lower: Lowering<AttrsOf<S>>;
  /** Multiply-accumulates of the contractions in one execution; absent means none. */
  macs?(inputs: readonly TensorType[], attrs: AttrsOf<S>, out: ValueType): Dim;
  /**
   * Cotangents of the inputs; null where the op is constant in an input. One may have the result's broadcast shape: whoever
   * differentiates sums it to the input's.
   */
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

/** An operator without its attribute types, as values refer to it. */
export interface OpDef
  extends Omit<OpSpec<AttrSpecs>, 'type' | 'axes' | 'need' | 'eval' | 'lower' | 'macs' | 'onnx' | 'examples'> {
  type(inputs: readonly TensorType[], attrs: Attrs): ValueType;
  axes?(inputs: readonly TensorType[], attrs: Attrs): AxisMap;
  need?(demand: readonly IndexSet[], cx: NeedContext<Attrs>): readonly IndexSet[];
  eval(inputs: readonly Nd[], attrs: Attrs, cx: EvalContext): Nd | readonly Nd[];
  readonly lower: Lowering<Attrs>;
  macs?(inputs: readonly TensorType[], attrs: Attrs, out: ValueType): Dim;
  readonly onnx?: OnnxMapping;
  readonly examples: readonly Example[];
}
