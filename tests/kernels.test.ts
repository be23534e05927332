import test from 'ava';
import fc from 'fast-check';
import { isFloat, roundTo } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Attrs, type Graph, graph, typeOf, type Value } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { allOps, makeValue, opNamed } from '../ir/op.ts';
import * as attention from '../ir/ops/attention.ts';
import { exampleGraph, exampleInput, exampleValues, seeded } from '../ir/ops/example.ts';
import { input, projectAll, scalar } from '../ir/ops/structural.ts';
import { eq, floormod, le, symbol } from '../ir/scalar.ts';
import { printGraph } from '../ir/text.ts';
import { type Dim, dim } from '../ir/type.ts';
import { largest, N, randomGraph, randomInputs, recipes, reference } from './support/random-graph.ts';
import { compileGraph, ENGINES, type RunnableGraph } from './support/run-graph.ts';
import '../ir/ops/all.ts';

/**
 * How far an f32 result may stray from the reference in doubles, in units in the last place of the larger of |result|
 * and `floor`. Examples fill their operands with values up to 2, so intermediate values are of order 1, and each op
 * rounds a few times.
 */
const BOUND = { ulps: 4, floor: 1 };
/** Sums of about ten products of up to 4 each round at the size of their partial sums, not of their results. */
const SUMS = { ulps: 4, floor: 16 };
const BOUNDS: Readonly<Record<string, typeof BOUND>> = {
  matmul: SUMS,
  conv: SUMS,
  conv_transpose: SUMS,
  depthwise_conv: SUMS,
  einsum: SUMS,
  rnn: SUMS,
};
const ulp = (x: number): number => 2 ** (Math.floor(Math.log2(Math.max(Math.abs(x), 2 ** -126))) - 23);

/** The first element that is further than `bound(want)` from what it should be, as a sentence. */
function difference(got: Nd | undefined, want: Nd, bound: (want: number) => number): string | undefined {
  if (!got) return 'it is missing';
  if (got.dtype !== want.dtype || got.shape.join() !== want.shape.join())
    return `it is ${got.dtype}[${got.shape.join()}] instead of ${want.dtype}[${want.shape.join()}]`;
  for (let i = 0; i < want.data.length; i++) {
    const [a, b] = [got.data[i]!, roundTo(want.dtype, want.data[i]!)];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b)) || Math.abs(a - b) <= bound(b)) continue;
    return `element ${i} is ${a}, not ${b}`;
  }
  return undefined;
}
const exact = (): number => 0;

function boundOf(op: string, { dtype }: Nd): (want: number) => number {
  if (!isFloat(dtype)) return exact;
  const { ulps, floor } = BOUNDS[op] ?? BOUND;
  // f64 goes through the same formulas; halves round once more at the end.
  const unit = { f64: 2 ** -29, f32: 1, bf16: 2 ** 16, f16: 2 ** 13 }[dtype];
  return (x) => ulps * unit * ulp(Math.max(Math.abs(x), floor));
}

const op = (name: string, inputs: readonly Value[], attrs: Attrs = {}): Value =>
  makeValue(opNamed(name)!, inputs, attrs, { name });
const given = (name: string, dtype: Nd['dtype'], ...shape: readonly Dim[]): Value =>
  input([], { name, dtype, shape }, { name });
const graphOf = (inputs: readonly Value[], ...outputs: readonly Value[]): Graph =>
  graph(
    'test',
    inputs,
    outputs.map((v, i) => [`out${i}`, v] as const),
  );

/** Reals in ±`size`, or whole numbers for the other types. */
function random(dtype: Nd['dtype'], shape: readonly number[], seed: number, size = 2): Nd {
  const next = seeded(seed);
  const draw = (): number => (next() * 2 - 1) * size;
  const value = (): number => (isFloat(dtype) ? draw() : Math.abs(Math.round(draw())));
  return nd(dtype, shape, Float64Array.from({ length: countOf(shape) }, value));
}

for (const def of allOps().filter((o) => o.examples.length > 0))
  test(`${def.name}: interpreted kernels and WebAssembly agree with the reference`, (t) => {
    def.examples.forEach((example, n) => {
      const g = exampleGraph(def, example);
      const inputs = Object.fromEntries(exampleValues(example).map((x, i) => [exampleInput(i), x]));
      const want = evaluate(g, { inputs });
      const compiled = compileGraph(g);
      for (const engine of ENGINES) {
        const got = compiled.run(engine, inputs);
        for (const [name, expected] of Object.entries(want)) {
          const wrong = difference(got[name], expected, boundOf(def.name, expected));
          t.is(wrong, undefined, `example ${n}${example.note ? ` (${example.note})` : ''}, ${engine}, ${name}`);
        }
      }
    });
  });

/** A read whose value is thrown away may lie outside an operand without elements, which the interpreter refuses. */
const readsEmpty = (text: string): boolean => / = (pad|concat) /.test(text);

function checkRandom(recipe: Parameters<typeof randomGraph>[0], sizes: readonly number[], engines = ENGINES): void {
  const g = randomGraph(recipe);
  const text = printGraph(g);
  const compiled = compileGraph(g);
  checkRegions(compiled);
  for (const n of sizes) {
    if (largest(g, n) > 20000) continue;
    const inputs = randomInputs(g, n);
    const { outputs, fragile } = reference(g, inputs);
    if (fragile) continue;
    for (const engine of engines) {
      if (n === 0 && engine.startsWith('host') && readsEmpty(text)) continue;
      const got = compiled.run(engine, inputs);
      for (const [name, want] of Object.entries(outputs)) {
        const wrong = difference(got[name], want, exact);
        if (wrong) throw new Error(`${engine}, n = ${n}, ${name}: ${wrong}\n${text}`);
      }
    }
  }
}

/** Regions read what stands in memory by then, and every value that is read later is written once. */
function checkRegions({ program }: RunnableGraph): void {
  const written = new Set<Value>(program.graph.inputs);
  for (const region of program.regions) {
    for (const x of region.inputs)
      if (!program.isStatic(x) && !written.has(x)) throw new Error(`${region.name} reads ${x.op.name} too early`);
    for (const v of region.outputs) {
      if (written.has(v)) throw new Error(`${v.op.name} is written twice`);
      written.add(v);
    }
    let result: Value = region.root;
    for (const v of region.epilogue) {
      if (!v.inputs.includes(result)) throw new Error(`${v.op.name} does not follow ${result.op.name}`);
      result = v;
    }
    if (region.root.type.kind === 'tensor' && region.outputs[0] !== result)
      throw new Error(`${region.name} does not write its last value`);
  }
  for (const v of program.graph.outputs.values())
    if (!written.has(v)) throw new Error(`output ${v.op.name} is missing`);
}

test('random graphs of whole numbers compute exactly what the reference does', (t) => {
  fc.assert(
    fc.property(recipes, (recipe) => checkRandom(recipe, [0, 1, 2, 5, 9, 40], ['wasm plain', 'wasm relaxed'])),
    { numRuns: 250 },
  );
  t.pass();
});

test('random graphs run in the interpreter without races, misplaced accesses or wrong results', (t) => {
  fc.assert(
    fc.property(recipes, (recipe) => checkRandom(recipe, [0, 1, 7])),
    { numRuns: 60 },
  );
  t.pass();
});

test('pointwise ops and bijective views join the region before them', (t) => {
  const x = given('x', 'f32', 3, 4, N);
  const finishes: readonly (readonly [string, (v: Value) => Value])[] = [
    ['softmax', (v) => op('softmax', [v])],
    ['norm', (v) => op('layer_norm', [v])],
    ['cumulative', (v) => op('cumsum', [v], { axis: 2 })],
    ['reduce', (v) => op('reduce_max', [v], { axes: [0], keepdims: true })],
    ['matmul', (v) => op('matmul', [v, given('w', 'f32', N, 8)])],
  ];
  for (const [kind, build] of finishes) {
    const root = build(x);
    const scaled = op('mul', [op('tanh', [root]), scalar(2)]);
    const shape = typeOf(scaled).shape;
    const out = op('transpose', [op('add', [scaled, op('neg', [given('y', 'f32', ...shape)])])], { perm: [1, 0, 2] });
    const inputs = new Set<Value>();
    const collect = (v: Value): void => (v.op.name === 'input' ? void inputs.add(v) : v.inputs.forEach(collect));
    collect(out);
    const { program } = compileGraph(graphOf([...inputs], out));
    t.deepEqual(
      program.regions.map((r) => [r.kind, r.epilogue.map((v) => v.op.name)]),
      [[kind, ['tanh', 'mul', 'add', 'transpose']]],
    );
  }
});

test('an epilogue that reads its producer twice, or an output, stays outside', (t) => {
  const x = given('x', 'f32', 4, 4);
  const s = op('softmax', [x]);
  const twice = compileGraph(graphOf([x], op('mul', [s, s])));
  t.is(twice.program.regions.length, 2);
  const shown = compileGraph(graphOf([x], s, op('exp', [s])));
  t.is(shown.program.regions.length, 2);
});

/** Runs one op on f32 lines of every width in turn: below, at and above whole vectors and whole turns. */
const WIDTHS = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 100, 197];
const W = symbol('w', { min: 0, max: 200 });

function checkLines(
  t: { is(a: unknown, b: unknown, m?: string): void },
  build: (x: Value) => readonly Value[],
  make: (width: number) => Nd,
  bound: (inputs: Nd, want: Nd) => number,
): void {
  const x = given('x', 'f32', 3, W);
  const g = graphOf([x], ...build(x));
  const compiled = compileGraph(g);
  for (const width of WIDTHS) {
    const inputs = { x: make(width) };
    const want = evaluate(g, { inputs });
    for (const engine of ENGINES) {
      const got = compiled.run(engine, inputs);
      for (const [name, expected] of Object.entries(want)) {
        const limit = bound(inputs.x, expected);
        t.is(
          difference(got[name], expected, () => limit),
          undefined,
          `width ${width}, ${engine}, ${name}`,
        );
      }
    }
  }
}

test('softmax of any width; lines with −∞ and NaN', (t) => {
  const make = (width: number): Nd => {
    const x = random('f32', [3, width], width, 20);
    if (width > 2) x.data[1] = -Infinity;
    if (width > 4) x.data[2 * width + 3] = NaN;
    return x;
  };
  // The exponential is right to 1.3e-7, the sum of w positive terms to w ÷ 8 + 4 roundings, both relative to results ≤ 1.
  checkLines(
    t,
    (x) => [op('softmax', [x])],
    make,
    (x) => (x.shape[1]! / 8 + 8) * 2 ** -24,
  );
  // The logarithm adds an error of its own size: up to log w + 40.
  checkLines(
    t,
    (x) => [op('log_softmax', [x])],
    make,
    (x) => (x.shape[1]! / 8 + 8) * 2 ** -24 + 4 * ulp(64),
  );
});

test('norms of any width, also with a mean far above the deviation', (t) => {
  const spread = (width: number): Nd => random('f32', [3, width], width);
  // Results reach √w. The inverse deviation is right to w ÷ 16 + 4 roundings of a sum of squares.
  const bound = (x: Nd): number => (x.shape[1]! / 16 + 8) * 2 ** -24 * Math.sqrt(x.shape[1]! + 1) * 2;
  checkLines(t, (x) => [op('layer_norm', [x], { eps: 1e-3 }), op('rms_norm', [x])], spread, bound);
  const far = (width: number): Nd => {
    const x = random('f32', [3, width], width);
    return nd(
      'f32',
      x.shape,
      x.data.map((v) => 1000 + v),
    );
  };
  // Here the mean itself is rounded: an error of a few units in the last place of 1000 over a deviation of about 1
  // (of no less than √eps).
  checkLines(
    t,
    (x) => [op('layer_norm', [x], { eps: 1e-2 })],
    far,
    (x) => 8 * ulp(1000) * 10 + bound(x),
  );
});

test('reductions over every set of axes, sizes symbolic', (t) => {
  const sets = [[], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]];
  for (const keepdims of [false, true]) {
    const x = given('x', 'f32', 3, N, W);
    const y = given('y', 'i64', 3, N, W);
    const g = graphOf(
      [x, y],
      ...sets.flatMap((axes) => [
        op('reduce_sum', [x], { axes, keepdims }),
        op('reduce_mean', [x], { axes, keepdims }),
        op('reduce_min', [op('abs', [x])], { axes, keepdims }),
        op('reduce_sum', [y], { axes, keepdims }),
        op('reduce_any', [op('equal', [y, scalar(1, 'i64')])], { axes, keepdims }),
      ]),
    );
    const compiled = compileGraph(g);
    for (const [n, w] of [
      [0, 3],
      [1, 1],
      [2, 5],
      [5, 33],
      [3, 16],
    ] as const) {
      const inputs = { x: random('f32', [3, n, w], n + w), y: random('i64', [3, n, w], n * w) };
      const want = evaluate(g, { inputs });
      for (const engine of ENGINES) {
        const got = compiled.run(engine, inputs);
        for (const [name, expected] of Object.entries(want)) {
          // A sum of c terms of up to 2: at most c roundings at the size of the sum of magnitudes.
          const count = 3 * n * w;
          const limit = isFloat(expected.dtype) ? count * 2 ** -24 * 2 * count : 0;
          t.is(
            difference(got[name], expected, () => limit),
            undefined,
            `[3, ${n}, ${w}], ${engine}, ${name}`,
          );
        }
      }
    }
  }
});

test('attention of any number of queries and keys, with shared heads, masks and a row without keys', (t) => {
  const [q, k, v] = [given('q', 'f32', 1, 4, N, 8), given('k', 'f32', 1, 2, W, 8), given('v', 'f32', 1, 2, W, 5)];
  const { coords } = attention;
  const causal = le(coords.k, coords.q);
  const odd = eq(floormod(coords.k, 2), 1);
  const attrs: readonly Attrs[] = [
    {},
    { mask: causal, softcap: 3 },
    ...(['zero', 'nan', 'uniform', 'unmasked'] as const).map((emptyRow) => ({ mask: odd, emptyRow, scale: 0.5 })),
  ];
  const g = graphOf([q, k, v], ...attrs.map((a) => op('attention', [q, k, v], a)));
  const compiled = compileGraph(g);
  for (const [queries, keys] of [
    [1, 1],
    [3, 2],
    [5, 9],
    [25, 33],
    [1, 17],
    [24, 8],
  ] as const) {
    const inputs = {
      q: random('f32', [1, 4, queries, 8], 1),
      k: random('f32', [1, 2, keys, 8], 2),
      v: random('f32', [1, 2, keys, 5], 3),
    };
    const want = evaluate(g, { inputs });
    for (const engine of ENGINES) {
      const got = compiled.run(engine, inputs);
      for (const [name, expected] of Object.entries(want)) {
        // Scores of eight products up to 4 are off by 8 units of 32 at most; weights relative to that, results below 2.
        const wrong = difference(got[name], expected, () => 16 * ulp(32));
        t.is(wrong, undefined, `${queries} × ${keys}, ${engine}, ${name}`);
      }
    }
  }
});

test('top-k by insertion and by sorting: ties, NaN, both orders', (t) => {
  const x = given('x', 'f32', 2, W, 3);
  const outputs = [true, false].flatMap((largestFirst) =>
    [3, dim(W)].flatMap((k) => projectAll(op('top_k', [x], { k, axis: 1, largest: largestFirst }))),
  );
  const g = graphOf([x], ...outputs);
  const compiled = compileGraph(g);
  for (const w of [3, 4, 17, 64, 65]) {
    const inputs = { x: random('f32', [2, w, 3], w, 5) };
    inputs.x.data.forEach((v, i) => {
      inputs.x.data[i] = i % 11 === 5 ? NaN : Math.round(v);
    });
    const want = evaluate(g, { inputs });
    for (const engine of ENGINES)
      for (const [name, expected] of Object.entries(want))
        t.is(
          difference(compiled.run(engine, inputs)[name], expected, exact),
          undefined,
          `w = ${w}, ${engine}, ${name}`,
        );
  }
});

test('scatter drops positions outside, and finishes with its epilogue', (t) => {
  const x = given('x', 'f32', 5, 70);
  const at = given('at', 'i64', 3, 1);
  const updates = given('updates', 'f32', 3, 70);
  const g = graphOf([x, at, updates], op('neg', [op('scatter_nd', [x, at, updates], { reduction: 'add' })]));
  const inputs = {
    x: random('f32', [5, 70], 1),
    at: nd('i64', [3, 1], [1, -4, 1]),
    updates: random('f32', [3, 70], 2),
  };
  const compiled = compileGraph(g);
  t.deepEqual(
    compiled.program.regions.map((r) => r.epilogue.length),
    [1],
  );
  const want = evaluate(g, { inputs }).out0!;
  for (const engine of ENGINES) {
    t.is(
      difference(compiled.run(engine, inputs).out0, want, () => 4 * ulp(8)),
      undefined,
      engine,
    );
    for (const outside of [5, -6, 2 ** 33, -(2 ** 33) + 1]) {
      const elsewhere = { ...inputs, at: nd('i64', [3, 1], [outside, outside, outside]) };
      const unchanged = nd(
        'f32',
        [5, 70],
        inputs.x.data.map((v) => -v),
      );
      t.is(difference(compiled.run(engine, elsewhere).out0, unchanged, exact), undefined, `${engine}, at ${outside}`);
    }
  }
});

test('every element type passes through reductions, norms, products and movement', (t) => {
  for (const dtype of ['f64', 'f16', 'bf16', 'i64', 'i32', 'i16', 'i8', 'u64', 'u32', 'u16', 'u8'] as const) {
    const x = given('x', dtype, 3, 9);
    const y = given('y', dtype, 9, 5);
    const moved = op('transpose', [op('add', [x, x])], { perm: [1, 0] });
    const values = [
      moved,
      op('concat', [x, x], { axis: 1 }),
      op('reduce_sum', [x], { axes: [1] }),
      op('reduce_max', [x], { axes: [0] }),
      op('cumsum', [x], { axis: 0 }),
      op('matmul', [x, y]),
      op('arg_max', [x], { axis: 0 }),
      ...(isFloat(dtype) ? [op('softmax', [x]), op('layer_norm', [x]), op('reduce_mean', [x], { axes: [1] })] : []),
    ];
    const g = graphOf([x, y], ...values);
    const compiled = compileGraph(g);
    const inputs = { x: random(dtype, [3, 9], 5), y: random(dtype, [9, 5], 6) };
    const want = evaluate(g, { inputs });
    for (const engine of ENGINES)
      for (const [name, expected] of Object.entries(want)) {
        // Products of nine terms up to 4; half floats round every step of a product to their own precision.
        const unit = { f64: 2 ** -52, f16: 2 ** -10, bf16: 2 ** -7 }[dtype as string] ?? 0;
        const wrong = difference(compiled.run(engine, inputs)[name], expected, () =>
          isFloat(expected.dtype) ? 36 * unit : 0,
        );
        t.is(wrong, undefined, `${dtype}, ${engine}, ${name}`);
      }
  }
});

test('products whose operands have symbolic strides', (t) => {
  const [x, y] = [given('x', 'f32', 2, 5, N), given('y', 'f32', N, 5, 2)];
  const tripled = op('concat', [x, x, x], { axis: 2 });
  const turned = op('transpose', [y], { perm: [2, 0, 1] });
  const g = graphOf(
    [x, y],
    op('matmul', [tripled, tripled], { transposeA: true }),
    op('matmul', [x, turned], { transposeA: true, transposeB: true }),
    op('matmul', [turned, tripled]),
  );
  const compiled = compileGraph(g);
  for (const n of [0, 1, 3, 8, 19]) {
    const inputs = randomInputs(g, n);
    const want = evaluate(g, { inputs });
    for (const engine of ENGINES.filter((e) => n > 0 || e.startsWith('wasm')))
      for (const [name, expected] of Object.entries(want))
        t.is(
          difference(compiled.run(engine, inputs)[name], expected, exact),
          undefined,
          `n = ${n}, ${engine}, ${name}`,
        );
  }
});

test('regions that differ only in their operands share kernels', (t) => {
  const [x, y, z] = [given('x', 'f32', 4, N), given('y', 'f32', 4, N), given('z', 'f32', 4, 7)];
  const outputs = [x, y, z].map((v) => op('neg', [op('softmax', [v])]));
  const { relaxed } = compileGraph(graphOf([x, y, z], ...outputs));
  const [first, second, third] = relaxed.regions.map((r) => r.stages[0]!.kernel);
  t.is(first, second);
  t.not(first, third);
});
