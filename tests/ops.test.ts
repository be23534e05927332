import test from 'ava';
import { isFloat, roundTo } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Nd } from '../ir/nd.ts';
import { allOps, type OpDef } from '../ir/op.ts';
import { exampleGraph, exampleInput, exampleValues } from '../ir/ops/example.ts';
import '../ir/ops/all.ts';
import { graphValues, type Value } from '../ir/graph.ts';
import { runLowering } from './support/lowering.ts';

/**
 * How far a lowering may stray in f32, in units in the last place of the larger of |result| and `floor`. Every function
 * rounds once; an op made of n of them may be off by about n. The floor is the size of what cancels.
 */
const F32_BOUNDS: Readonly<Record<string, { readonly ulps: number; readonly floor?: number }>> = {
  gelu: { ulps: 4, floor: 2 },
  softplus: { ulps: 4 },
  elu: { ulps: 6 },
  mish: { ulps: 8 },
  silu: { ulps: 4 },
  // e^(1.702x) turns a relative error of its exponent into an absolute one: 51 ulps at x = −30.
  quick_gelu: { ulps: 64 },
  sigmoid: { ulps: 4 },
  asin: { ulps: 4 },
  acos: { ulps: 4 },
  hard_sigmoid: { ulps: 2, floor: 1 },
  hard_swish: { ulps: 2, floor: 8 },
  floor_div: { ulps: 1, floor: 1 },
  // sums of about ten terms
  avg_pool: { ulps: 4, floor: 2 },
  depthwise_conv: { ulps: 4, floor: 8 },
  random_normal: { ulps: 8, floor: 4 },
  random_uniform: { ulps: 2, floor: 2 },
};
/** Ops with constants that f32 cannot hold: at double precision their lowerings differ by the rounding of the constant. */
const ROUNDED_CONSTANTS = new Set([
  'gelu',
  'quick_gelu',
  'leaky_relu',
  'hard_sigmoid',
  'hard_swish',
  'random_normal',
  'batch_norm',
  'attention_weights',
  'asin',
  'acos',
  'atan',
  'asinh',
  'acosh',
]);
const SMALLEST = 2 ** -149;
const ulp = (x: number): number =>
  Math.max(SMALLEST, 2 ** (Math.floor(Math.log2(Math.max(Math.abs(x), 2 ** -126))) - 23));

interface Case {
  readonly op: OpDef;
  readonly value: Value;
  readonly inputs: readonly Nd[];
  readonly expected: readonly Nd[];
  readonly label: string;
}

function casesOf(op: OpDef): Case[] {
  return op.examples.map((example, n) => {
    const g = exampleGraph(op, example);
    const inputs = exampleValues(example);
    const outputs = evaluate(g, { inputs: Object.fromEntries(inputs.map((x, i) => [exampleInput(i), x])) });
    const value = graphValues(g).find((v) => v.op === op)!;
    const expected = [...g.outputs.keys()].map((name) => outputs[name]!);
    return { op, value, inputs, expected, label: `${op.name} example ${n}${example.note ? ` (${example.note})` : ''}` };
  });
}

/** The first element where two values disagree, as a sentence. */
function difference(got: Nd, want: Nd, bound: (want: number) => number): string | undefined {
  if (got.dtype !== want.dtype) return `${got.dtype} instead of ${want.dtype}`;
  if (got.shape.join() !== want.shape.join()) return `shape [${got.shape.join()}] instead of [${want.shape.join()}]`;
  for (let i = 0; i < want.data.length; i++) {
    const [a, b] = [got.data[i]!, want.data[i]!];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b)) || Math.abs(a - b) <= bound(b)) continue;
    return `element ${i} is ${a}, not ${b}`;
  }
  return undefined;
}

const ops = allOps().filter((op) => op.examples.length > 0);

test('every op but the structural ones has three examples', (t) => {
  for (const op of allOps())
    if (op.lower.kind !== 'structural') t.true(op.examples.length >= 3, `${op.name} has ${op.examples.length}`);
});

// `evaluate` refuses a result whose dtype or shape is not the inferred one.
for (const op of ops)
  test(`${op.name}: every example evaluates to its inferred type`, (t) => {
    for (const { expected, value, label } of casesOf(op)) {
      const types = value.type.kind === 'tuple' ? value.type.items : [value.type];
      t.deepEqual(
        expected.map((x) => ({ dtype: x.dtype, shape: x.shape })),
        types.map(({ dtype, shape }) => ({ dtype, shape })) as never,
        label,
      );
      for (const x of expected)
        if (!isFloat(x.dtype))
          t.true(
            x.data.every((v) => roundTo(x.dtype, v) === v),
            `${label}: members of ${x.dtype}`,
          );
    }
  });

for (const op of ops.filter(({ lower }) => !['schedule', 'structural'].includes(lower.kind)))
  test(`${op.name}: the lowering agrees with the reference`, (t) => {
    for (const { value, inputs, expected, label } of casesOf(op)) {
      const exact = runLowering(value, inputs, 'f64')!;
      // Formulas differ, so double precision leaves a few rounding errors of the largest intermediate value.
      const floor = F32_BOUNDS[op.name]?.floor ?? 0;
      const relative = ROUNDED_CONSTANTS.has(op.name) ? 2 ** -18 : 1e-13;
      expected.forEach((want, i) => {
        const wrong = difference(exact[i]!, want, (x) =>
          isFloat(want.dtype) ? (want.dtype === 'f64' ? 1e-13 : relative) * Math.max(Math.abs(x), floor) : 0,
        );
        t.is(wrong, undefined, `${label}, f64`);
      });
      if (!['pointwise', 'view', 'element'].includes(op.lower.kind)) continue;
      const single = runLowering(value, inputs, 'f32')!;
      const { ulps = 2 } = F32_BOUNDS[op.name] ?? {};
      expected.forEach((want, i) => {
        const rounded = { ...want, data: want.data.map((x) => roundTo(want.dtype, x)) };
        const wrong = difference(single[i]!, rounded, (x) =>
          isFloat(want.dtype) ? ulps * ulp(Math.max(Math.abs(x), floor)) : 0,
        );
        t.is(wrong, undefined, `${label}, f32 within ${ulps} ulp`);
      });
    }
  });
