/** How elementwise ops are written: a function of numbers, the same function of scalar expressions, and a domain. */
import type { AttrSpecs, AttrsOf } from '../attr.ts';
import { isInt, type Scalar, wrapInt } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import { typeOf, type Value } from '../graph.ts';
import { broadcastOffset, countOf, eachIndex, type Nd, nd, rowMajor } from '../nd.ts';
import { type AxisMap, defineOp, type Example, type OnnxMapping, type Op } from '../op.ts';
import { dim, type TensorType, tensor } from '../type.ts';
import { broadcastShapes, expectDtype, expectSameDtype } from './check.ts';

export type Domain = 'float' | 'number' | 'int' | 'bool' | 'any';

interface ElementwiseSpec<S extends AttrSpecs> {
  readonly name: string;
  readonly doc: string;
  readonly domain: Domain;
  readonly attrs?: S;
  /** Result dtype; that of the operands when absent. */
  readonly result?: 'bool' | ((attrs: AttrsOf<NoInfer<S>>) => Scalar);
  readonly onnx?: OnnxMapping<AttrsOf<NoInfer<S>>>;
  readonly examples: readonly Example<NoInfer<S>>[];
}
export interface UnarySpec<S extends AttrSpecs> extends ElementwiseSpec<S> {
  f(x: number, attrs: AttrsOf<S>, dtype: Scalar): number;
  expr(x: Expr, attrs: AttrsOf<S>, dtype: Scalar): Expr;
  /** Cotangent of the operand. */
  grad?(dy: Value, x: Value, y: Value, attrs: AttrsOf<S>): Value | null;
}
export interface BinarySpec<S extends AttrSpecs> extends ElementwiseSpec<S> {
  f(a: number, b: number, dtype: Scalar): number;
  expr(a: Expr, b: Expr, dtype: Scalar): Expr;
  /** Cotangents of the operands, in the result's shape: whoever differentiates sums broadcast axes away. */
  grad?(dy: Value, a: Value, b: Value, y: Value): readonly (Value | null)[];
}

/** A result of `dtype`: integers wrap modulo 2^bits, booleans are 0 or 1, floats keep f64 precision. */
export const member = (dtype: Scalar, x: number): number =>
  isInt(dtype) ? wrapInt(dtype, x) + 0 : dtype === 'bool' ? (x !== 0 ? 1 : 0) : x;

/** An axis follows its result axis unless it is stretched: then every result reads its one position. */
export function broadcastAxes(inputs: readonly TensorType[]): AxisMap {
  const out = broadcastShapes(inputs.map((t) => t.shape));
  return inputs.map(({ shape }) =>
    shape.map((d, i) => {
      const axis = i + out.length - shape.length;
      return dim(d) === 1 && out[axis] !== 1 ? 'mix' : axis;
    }),
  );
}

/** Where each element of a result of `shape` reads `x`; undefined when it reads its own position. */
function readsOf(x: Nd, shape: readonly number[]): Int32Array | undefined {
  if (x.shape.length === shape.length && x.shape.every((n, i) => n === shape[i])) return undefined;
  const strides = rowMajor(x.shape);
  const reads = new Int32Array(countOf(shape));
  eachIndex(shape, (at, flat) => {
    reads[flat] = broadcastOffset(x.shape, strides, at);
  });
  return reads;
}

/** Applies `f` to up to three broadcast operands, element by element. */
export function mapBroadcast(dtype: Scalar, inputs: readonly Nd[], f: (a: number, b: number, c: number) => number): Nd {
  const shape = broadcastShapes(inputs.map((x) => x.shape)) as number[];
  const out = nd(dtype, shape);
  const [x, y, z] = inputs.map(({ data }) => data);
  const [p, q, r] = inputs.map((v) => readsOf(v, shape));
  for (let i = 0; i < out.data.length; i++) {
    const [a, b, c] = [x![p ? p[i]! : i]!, y ? y[q ? q[i]! : i]! : 0, z ? z[r ? r[i]! : i]! : 0];
    out.data[i] = member(dtype, f(a, b, c));
  }
  return out;
}

const check = (domain: Domain, type: TensorType, what: string): void => {
  if (domain !== 'any') expectDtype(type, domain, what);
};

export function unaryOp<const S extends AttrSpecs>(spec: UnarySpec<S>): Op<S> {
  const { name, doc, domain, result, examples, grad, onnx } = spec;
  const resultOf = (dtype: Scalar, attrs: AttrsOf<S>): Scalar =>
    result === undefined ? dtype : typeof result === 'string' ? result : result(attrs);
  return defineOp<S>({
    name,
    doc,
    inputs: ['x'],
    attrs: spec.attrs ?? ({} as S),
    type: ([x], attrs) => {
      check(domain, x!, 'operand');
      return tensor(resultOf(x!.dtype, attrs), x!.shape);
    },
    axes: ([x]) => [x!.shape.map((_, i) => i)],
    eval: ([x], attrs) => {
      const dtype = resultOf(x!.dtype, attrs);
      return { dtype, shape: x!.shape, data: x!.data.map((v) => member(dtype, spec.f(v, attrs, x!.dtype))) };
    },
    lower: { kind: 'pointwise', expr: ([x], { attrs, inputs }) => spec.expr(x!, attrs, inputs[0]!.dtype) },
    ...(grad && {
      grad: (out: Value, [dy]: readonly Value[]) => [grad(dy!, out.inputs[0]!, out, out.attrs as AttrsOf<S>)],
    }),
    ...(onnx && { onnx }),
    examples,
  });
}

export function binaryOp(spec: BinarySpec<Record<never, never>>): Op<Record<never, never>> {
  const { name, doc, domain, result, examples, grad, onnx } = spec;
  return defineOp({
    name,
    doc,
    inputs: ['a', 'b'],
    attrs: {},
    type: (inputs) => {
      const dtype = expectSameDtype(inputs);
      check(domain, inputs[0]!, 'operands');
      return tensor(result === 'bool' ? 'bool' : dtype, broadcastShapes(inputs.map((t) => t.shape)));
    },
    axes: broadcastAxes,
    eval: (inputs) => {
      const { dtype } = inputs[0]!;
      return mapBroadcast(result === 'bool' ? 'bool' : dtype, inputs, (a, b) => spec.f(a, b, dtype));
    },
    lower: { kind: 'pointwise', expr: ([a, b], { inputs }) => spec.expr(a!, b!, inputs[0]!.dtype) },
    ...(grad && { grad: (out: Value, [dy]: readonly Value[]) => grad(dy!, out.inputs[0]!, out.inputs[1]!, out) }),
    ...(onnx && { onnx }),
    examples,
  });
}

/** dtype of a value with one result. */
export const dtypeOf = (value: Value): Scalar => typeOf(value).dtype;
