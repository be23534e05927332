import test from 'ava';
import { CompileError } from '../ir/diagnostic.ts';
import { isFloat } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Attrs, graph, typeOf, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { allOps, type Example, makeValue, type OpDef } from '../ir/op.ts';
import { exampleValue, seeded } from '../ir/ops/example.ts';
import '../ir/ops/all.ts';
import { input, projectAll } from '../ir/ops/structural.ts';

/** Sum over everything of cotangents · results, in f64. */
const dot = (a: readonly Nd[], b: readonly Nd[]): number =>
  a.reduce((sum, x, i) => sum + x.data.reduce((n, v, k) => n + v * b[i]!.data[k]!, 0), 0);

const named = (values: readonly Nd[], prefix: string): Record<string, Nd> =>
  Object.fromEntries(values.map((x, i) => [`${prefix}${i}`, x]));

/** An example in f64, so that finite differences are meaningful. */
function setUp(op: OpDef, example: Example) {
  const wide = example.inputs.map((x) => (isFloat(x.dtype) ? { ...x, dtype: 'f64' as const } : x));
  const inputs = wide.map(({ dtype, shape }, i) => input([], { name: `x${i}`, dtype, shape }));
  const out = makeValue(op, inputs, (example.attrs ?? {}) as Attrs);
  const outs = projectAll(out);
  const douts = outs.map((v, i) => input([], { name: `d${i}`, dtype: typeOf(v).dtype, shape: typeOf(v).shape }));
  return { inputs, out, outs, douts, values: wide.map((x, i) => exampleValue(x, 300 + i)) };
}

/** A cotangent with the sizes of the operand: broadcast axes summed away, as `differentiate` does. */
function sumTo(g: Nd, shape: readonly number[]): Nd {
  const result = nd('f64', shape);
  const skip = g.shape.length - shape.length;
  g.data.forEach((v, flat) => {
    let [rest, to, step] = [flat, 0, 1];
    for (let axis = g.shape.length - 1; axis >= 0; axis--) {
      const c = rest % g.shape[axis]!;
      rest = Math.floor(rest / g.shape[axis]!);
      const size = shape[axis - skip];
      if (axis < skip || size === undefined) continue;
      if (size !== 1) to += c * step;
      step *= size;
    }
    result.data[to]! += v;
  });
  return result;
}

const usable = (example: Example): boolean =>
  example.inputs.every((x) => !x.data?.some((v) => !Number.isFinite(v) || Math.abs(v) > 1e6) || !isFloat(x.dtype)) &&
  example.inputs.some((x) => isFloat(x.dtype));

for (const op of allOps().filter((o) => o.grad && o.examples.some(usable)))
  test(`${op.name}: the gradient agrees with finite differences`, (t) => {
    for (const [n, example] of op.examples.entries()) {
      if (!usable(example)) continue;
      const { inputs, out, outs, douts, values } = setUp(op, example);
      let grads: readonly (Value | null)[];
      try {
        grads = op.grad!(out, douts);
      } catch (error) {
        // An op may refuse attributes that it cannot differentiate, as long as it says so.
        if (error instanceof CompileError && error.code === 'unsupported') continue;
        throw error;
      }
      t.is(grads.length, inputs.length, `${op.name} example ${n}: one cotangent for each operand`);
      const run = (xs: readonly Nd[]): Nd[] => {
        const g = graph(
          'f',
          inputs,
          outs.map((v, i) => [`y${i}`, v] as const),
        );
        const result = evaluate(g, { inputs: named(xs, 'x') });
        return outs.map((_, i) => result[`y${i}`]!);
      };
      const next = seeded(7);
      const cotangents = outs.map((v) => {
        const { dtype, shape } = typeOf(v);
        const zero = nd(dtype, shape as number[]);
        return isFloat(dtype) ? { ...zero, data: zero.data.map(() => next() - 0.5) } : zero;
      });
      for (const [i, g] of grads.entries()) {
        const x = values[i]!;
        if (g === null || !isFloat(x.dtype) || x.data.length === 0) continue;
        const used = graph('g', [...inputs, ...douts], [['g', g]]);
        const analytic = sumTo(
          evaluate(used, { inputs: { ...named(values, 'x'), ...named(cotangents, 'd') } }).g!,
          x.shape,
        );
        for (let k = 0; k < x.data.length; k += Math.max(1, Math.floor(x.data.length / 12))) {
          const h = 1e-5 * Math.max(1, Math.abs(x.data[k]!));
          const at = (delta: number): number =>
            dot(
              cotangents,
              run(values.map((v, j) => (j === i ? { ...v, data: v.data.with(k, v.data[k]! + delta) } : v))),
            );
          const [two, one, minusOne, minusTwo] = [at(2 * h), at(h), at(-h), at(-2 * h)];
          const numeric = (8 * (one - minusOne) - (two - minusTwo)) / (12 * h);
          if (Number.isNaN(numeric)) continue; // the function has no value here
          // One-sided slopes differ at a kink, where any subgradient will do.
          const kink = Math.abs((one - at(0)) / h - (at(0) - minusOne) / h) > 1e-2 * (1 + Math.abs(numeric));
          // What the difference itself is worth: its truncation, and the rounding of the sum over `size` results.
          const size = run(values).reduce(
            (m, y, j) => y.data.reduce((o, v, q) => o + Math.abs(v * cotangents[j]!.data[q]!), m),
            0,
          );
          const slack = Math.abs(numeric - (one - minusOne) / (2 * h)) + (1e-14 * size) / h;
          const off = Math.abs(analytic.data[k]! - numeric);
          if (!kink)
            t.true(
              off <= 1e-7 * (1 + Math.abs(numeric)) + slack,
              `${op.name} example ${n}, operand ${i}[${k}]: ${analytic.data[k]} and ${numeric}`,
            );
        }
      }
    }
    t.pass();
  });
