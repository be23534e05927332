/** NaN in rows that a mask hides: it spreads as in the model as written where that is asked for, and not otherwise. */
import test from 'ava';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { parseGraph } from '../ir/parse.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { compileGraph, type RunnableGraph as Run } from './support/run-graph.ts';
import '../ir/ops/all.ts';

const [B, N, D] = [2, 6, 64] as const;
const HEAD = `graph g(%x: f32[2, 6, 64], %w: f32[64, 64], %noise: f32[2, 6]) {
  %s = top_k %noise {k = 6} : (f32[2, 6], i64[2, 6])
  %place = get %s {index = 1} : i64[2, 6]
  %keep = less %place, 3 : bool[2, 6]
  %c = reshape %keep {shape = [2, 6, 1]} : bool[2, 6, 1]
  %one = matmul %x, %w : f32[2, 6, 64]
  %h = matmul %one, %w : f32[2, 6, 64]
  %zero = constant {value = 0} : f32
`;
const SOFTMAX = `  %none = constant {value = -inf} : f32
  %row = reshape %keep {shape = [2, 1, 6]} : bool[2, 1, 6]
  %scores = matmul %h, %h {transposeB = true} : f32[2, 6, 6]
`;
const TAKEN = `  %p = softmax %hidden {axis = -1} : f32[2, 6, 6]
  %o = matmul %p, %h : f32[2, 6, 64]
  %y = select %c, %o, %zero : f32[2, 6, 64]
  return y: %y
}
`;

/** What hides rows: whether a NaN in one of them is to be seen outside of it, in the model as written. */
const HIDING: Readonly<Record<string, { readonly text: string; readonly spreads: boolean }>> = {
  'infinity added to scores': {
    text: `${SOFTMAX}  %bias = select %row, %zero, %none : f32[2, 1, 6]
  %hidden = add %scores, %bias : f32[2, 6, 6]
${TAKEN}`,
    spreads: true,
  },
  'scores filled with infinity': {
    text: `${SOFTMAX}  %hidden = select %row, %scores, %none : f32[2, 6, 6]
${TAKEN}`,
    spreads: true,
  },
  'rows times zero, summed': {
    text: `  %m = cast %c {to = f32} : f32[2, 6, 1]
  %only = mul %h, %m : f32[2, 6, 64]
  %y = reduce_sum %only {axes = [1]} : f32[2, 64]
  return y: %y
}
`,
    spreads: true,
  },
  'rows put to zero, summed': {
    text: `  %only = select %c, %h, %zero : f32[2, 6, 64]
  %y = reduce_sum %only {axes = [1]} : f32[2, 64]
  return y: %y
}
`,
    spreads: false,
  },
  'a mask of attention': {
    text: `  %q = reshape %h {shape = [2, 1, 6, 64]} : f32[2, 1, 6, 64]
  %o = attention %q, %q, %q, %keep {mask = in3[b, k]} : f32[2, 1, 6, 64]
  %r = reshape %o {shape = [2, 6, 64]} : f32[2, 6, 64]
  %y = select %c, %r, %zero : f32[2, 6, 64]
  return y: %y
}
`,
    spreads: false,
  },
  'rows that are overwritten': {
    text: '  %y = select %c, %h, %zero : f32[2, 6, 64]\n  return y: %y\n}\n',
    spreads: false,
  },
};

const random = seeded(5);
const floats = (...shape: readonly number[]): Nd =>
  nd(
    'f32',
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b) }, () => Math.fround(random() - 0.5) / 4),
  );
/** The first three rows of each entry are kept, and one of the others holds what should not be seen. */
const inputs = {
  x: floats(B, N, D),
  w: floats(D, D),
  noise: nd(
    'f32',
    [B, N],
    Array.from({ length: B * N }, (_, i) => -(i % N)),
  ),
};
const poisoned = (with_: number): Record<string, Nd> => {
  const x = nd('f32', [B, N, D], inputs.x.data);
  x.data[4 * D + 3] = with_;
  return { ...inputs, x };
};
const compiled = (g: Graph, strictNaN: boolean): Graph => runPasses(g, pipelineFor(), { masks: { strictNaN } });

for (const [name, { text, spreads }] of Object.entries(HIDING))
  test(`${name}: NaN and infinity in a hidden row`, (t) => {
    const written = parseGraph(HEAD + text);
    const [usual, strict] = [compiled(written, false), compiled(written, true)];
    const [plain, dropped, kept] = [written, usual, strict].map((g) => compileGraph(g)) as [Run, Run, Run];
    const has = (y: Nd | undefined): boolean => y!.data.some(Number.isNaN);
    for (const poison of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const hostile = poisoned(poison);
      t.is(has(evaluate(written, { inputs: hostile }).y), spreads, `${poison}, as written`);
      // Without the promise the hidden rows are gone, and with them what they held.
      t.false(has(dropped.run('wasm relaxed', hostile).y), `${poison}, as compiled`);
      t.is(has(kept.run('wasm relaxed', hostile).y), spreads, `${poison}, as compiled with strictNaN`);
    }
    const macs = (g: Graph): number => countMacs(g, {});
    t.true(macs(usual) < macs(written));
    t.is(macs(strict) < macs(written), !spreads);
    // Where nothing is poisoned all agree.
    const [want, a, b] = [plain, dropped, kept].map((each) => each.run('wasm relaxed', inputs).y!);
    for (const [i, x] of want!.data.entries())
      t.true(Math.abs(x - a!.data[i]!) < 1e-5 && Math.abs(x - b!.data[i]!) < 1e-5, `element ${i}`);
  });
