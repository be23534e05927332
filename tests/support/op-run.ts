/** Runs one op on values through the reference interpreter, and checks its gradient by differences. */
import type { AttrSpecs } from '../../ir/attr.ts';
import { CompileError, type Diagnostic } from '../../ir/diagnostic.ts';
import type { Scalar } from '../../ir/dtype.ts';
import { evaluate } from '../../ir/evaluate.ts';
import { type Attrs, graph, typeOf, type Value } from '../../ir/graph.ts';
import { countOf, type Nd, nd } from '../../ir/nd.ts';
import { makeValue, type Op } from '../../ir/op.ts';
import { input, projectAll } from '../../ir/ops/structural.ts';
import type { Dim } from '../../ir/type.ts';

export const argument = (name: string, shape: readonly Dim[], dtype: Scalar = 'f32'): Value =>
  input([], { name, dtype, shape }, { name });

/** f64 values sin(step), sin(2·step), …: not symmetric in any axis, and easy to write again elsewhere. */
export const wave = (step: number, ...shape: readonly number[]): Nd =>
  nd(
    'f64',
    shape,
    Array.from({ length: countOf(shape) }, (_, i) => Math.sin(step * (i + 1))),
  );
export const f64 = (shape: readonly number[], ...data: readonly number[]): Nd => nd('f64', shape, data);

export function resultsOf(outputs: readonly Value[], inputs: readonly Value[], values: readonly Nd[]): Nd[] {
  const g = graph(
    'test',
    inputs,
    outputs.map((v, i) => [`o${i}`, v] as const),
  );
  const named = Object.fromEntries(inputs.map((v, i) => [String(v.attrs.name), values[i]!]));
  return Object.values(evaluate(g, { inputs: named }));
}

/** All results of an op on values. */
export function runAll<S extends AttrSpecs>(op: Op<S>, values: readonly Nd[], attrs: Attrs = {}): Nd[] {
  const inputs = values.map((x, i) => argument(`x${i}`, x.shape, x.dtype));
  return resultsOf(projectAll(makeValue(op.def, inputs, attrs)), inputs, values);
}
/** The only result of an op on values, as plain numbers. */
export const run = <S extends AttrSpecs>(op: Op<S>, values: readonly Nd[], attrs: Attrs = {}): number[] =>
  Array.from(runAll(op, values, attrs)[0]!.data);

/** Whether numbers agree to `tolerance`, NaN with NaN; literals of nine digits below 10 are off by up to 5e-9. */
export const near = (a: ArrayLike<number>, b: readonly number[], tolerance = 6e-9): boolean =>
  a.length === b.length &&
  b.every(
    (want, i) => a[i] === want || (Number.isNaN(want) && Number.isNaN(a[i])) || Math.abs(a[i]! - want) <= tolerance,
  );

/** The diagnostic that a call reports. */
export function diagnosticOf(call: () => unknown): Diagnostic {
  try {
    call();
  } catch (error) {
    if (error instanceof CompileError) return error.diagnostic;
    throw error;
  }
  throw new Error('nothing was reported');
}

/**
 * The largest difference between the op's gradient of Σ weight · result and central differences of it, over all
 * operands that have a gradient.
 */
export function gradientError<S extends AttrSpecs>(op: Op<S>, values: readonly Nd[], attrs: Attrs = {}): number {
  const inputs = values.map((x, i) => argument(`x${i}`, x.shape, x.dtype));
  const out = makeValue(op.def, inputs, attrs);
  const weight = wave(0.37, ...(typeOf(out).shape as readonly number[]));
  const cotangent = argument('cotangent', weight.shape, 'f64');
  const gradients = op.def.grad!(out, [cotangent]);
  const loss = (at: readonly Nd[]): number =>
    resultsOf([out], inputs, at)[0]!.data.reduce((sum, y, i) => sum + y * weight.data[i]!, 0);
  let worst = 0;
  gradients.forEach((gradient, n) => {
    if (!gradient) return;
    const [got] = resultsOf([gradient], [...inputs, cotangent], [...values, weight]);
    if (got!.shape.join() !== values[n]!.shape.join())
      throw new Error(`gradient ${n} has shape [${got!.shape.join()}], not [${values[n]!.shape.join()}]`);
    const step = 1e-5;
    const moved = (i: number, by: number): number =>
      loss(values.map((x, m) => (m === n ? { ...x, data: x.data.map((v, j) => (j === i ? v + by : v)) } : x)));
    for (let i = 0; i < values[n]!.data.length; i++)
      worst = Math.max(worst, Math.abs((moved(i, step) - moved(i, -step)) / (2 * step) - got!.data[i]!));
  });
  return worst;
}
