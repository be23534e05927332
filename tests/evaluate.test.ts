import test from 'ava';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { evaluateExpr, evaluateLanes } from '../ir/evaluate-expr.ts';
import { type Graph, graph, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { makeValue } from '../ir/op.ts';
import { add, cast, gelu, mul, neg } from '../ir/ops/elementwise.ts';
import { exampleValue } from '../ir/ops/example.ts';
import { gather } from '../ir/ops/index.ts';
import { concat, expand, pad, reshape, slice, splitAxis, transpose } from '../ir/ops/shape.ts';
import { constant, input, param, scalar } from '../ir/ops/structural.ts';
import { normalAt, threefry, uniformAt } from '../ir/random.ts';
import * as s from '../ir/scalar.ts';
import { variable } from '../ir/scalar.ts';
import { erf, erfc, powC } from '../ir/special.ts';
import type { Dim } from '../ir/type.ts';
import { runLowering } from './support/lowering.ts';

const given = (name: string, shape: readonly Dim[], dtype: Nd['dtype'] = 'f32'): Value =>
  input([], { name, dtype, shape });
const main = (inputs: readonly Value[], output: Value): Graph => graph('main', inputs, [['out', output]]);
const codeOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof CompileError) return `${error.code}: ${error.diagnostic.message}`;
    throw error;
  }
  return 'no error';
};
const N = s.symbol('N', { min: 2, max: 64, multipleOf: 2 });
const filled = (...shape: number[]): Nd => exampleValue({ dtype: 'f32', shape }, 5);

test('sizes of symbols come from the inputs, and derived sizes are checked', (t) => {
  const [x, y] = [given('x', [N, 3]), given('y', [s.add(N, 1)])];
  const g = graph(
    'main',
    [x, y],
    [
      ['x2', add([x, x])],
      ['y', neg([y])],
    ],
  );
  const out = evaluate(g, { inputs: { x: filled(4, 3), y: filled(5) } });
  t.deepEqual([out['x2']!.shape, out['y']!.shape], [[4, 3], [5]]);
  t.is(
    codeOf(() => evaluate(g, { inputs: { x: filled(4, 3), y: filled(4) } })),
    'shape: main: input "y" axis 0 has size 4, not N + 1',
  );
});

test('inputs that do not fit are refused by name, axis and symbol', (t) => {
  const [x, y] = [given('x', [N]), given('y', [N])];
  const g = main([x, y], add([x, y]));
  const run = (inputs: Record<string, Nd>, symbols?: Record<string, number>) =>
    codeOf(() => evaluate(g, { inputs, ...(symbols && { symbols }) }));
  t.is(run({ x: filled(4) }), 'name: main: input "y" is missing');
  t.is(run({ x: filled(4), y: filled(4), z: filled(4) }), 'name: main: there is no input "z"');
  t.is(run({ x: filled(4), y: filled(6) }), 'shape: main: N is 4 for input "x" axis 0 and 6 for input "y" axis 0');
  t.is(run({ x: filled(66), y: filled(66) }), 'range: main: input "x" axis 0 has size 66, outside N in 2..64 step 2');
  t.is(run({ x: filled(3), y: filled(3) }), 'range: main: input "x" axis 0 has size 3, outside N in 2..64 step 2');
  t.is(
    run({ x: filled(4), y: filled(4) }, { N: 6 }),
    'shape: main: N is 6 for symbol "N" as given and 4 for input "x" axis 0',
  );
  t.is(run({ x: filled(4, 1), y: filled(4) }), 'rank: main: input "x" has shape [4, 1], not f32[N]');
  t.is(run({ x: nd('f64', [4]), y: filled(4) }), 'dtype: main: input "x" is f64, not f32');
});

test('parameters come from the caller and must have their type', (t) => {
  const w = param([], { name: 'w', dtype: 'f32', shape: [2] });
  const g = main([], mul([w, w]));
  t.deepEqual([...evaluate(g, { inputs: {}, params: () => nd('f32', [2], [3, 4]) })['out']!.data], [9, 16]);
  t.is(
    codeOf(() => evaluate(g, { inputs: {} })),
    'weights: main: no value for parameter "w"',
  );
  t.is(
    codeOf(() => evaluate(g, { inputs: {}, params: () => nd('f32', [3]) })),
    'weights: main: parameter "w" is f32[3], not f32[2]',
  );
});

test('graphs deeper than the call stack evaluate', (t) => {
  const x = given('x', []);
  let y = x;
  for (let i = 0; i < 50_000; i++) y = add([y, scalar(1)]);
  t.is(evaluate(main([x], y), { inputs: { x: nd('f32', [], [0]) } })['out']!.data[0], 50_000);
});

test('floats keep double precision unless asked to round', (t) => {
  const x = given('x', []);
  const third = main([x], mul([x, constant([], { value: { dtype: 'f32', shape: [], data: Float64Array.of(1 / 3) } })]));
  const inputs = { x: nd('f32', [], [1]) };
  t.is(evaluate(third, { inputs })['out']!.data[0], 1 / 3);
  t.is(evaluate(third, { inputs, precision: 'f32' })['out']!.data[0], Math.fround(1 / 3));
  const seen: string[] = [];
  evaluate(third, { inputs, observe: (value) => seen.push(value.op.name) });
  t.deepEqual(seen, ['input', 'constant', 'mul']);
});

test('an index outside its axis is an error', (t) => {
  const [x, i] = [given('x', [3]), given('i', [1], 'i32')];
  const g = main([x, i], gather([x, i]));
  t.is(
    codeOf(() => evaluate(g, { inputs: { x: filled(3), i: nd('i32', [1], [3]) } })),
    'range: gather: index 3 is outside axis 0 of size 3',
  );
});

/** Views and element lowerings whose sizes are symbols, evaluated at one size, against the reference. */
test('shape ops lower with symbolic sizes', (t) => {
  const x = given('x', [N, 6]);
  const values: readonly (readonly [string, Value])[] = [
    ['merge', reshape([x], { shape: [s.mul(N, 6)] })],
    ['split', reshape([x], { shape: [N, 2, 3] })],
    ['regroup', reshape([x], { shape: [2, s.mul(N, 3)] })],
    ['transpose', transpose([x], { perm: [1, 0] })],
    ['expand', expand([x], { shape: [2, N, 6] })],
    ['drop first', slice([x], { starts: [1, 0], stops: [N, 6], steps: [1, 1] })],
    ['reverse', slice([x], { starts: [s.sub(N, 1), 5], stops: [-1, -1], steps: [-1, -2] })],
    ['concat', concat([x, x], { axis: 0 })],
    ['reflect', pad([x], { before: [1, 2], after: [1, 0], mode: 'reflect' })],
    ['constant', pad([x], { before: [1, 0], after: [0, 1], value: 9 })],
  ];
  const size = 4;
  const v = filled(size, 6);
  for (const [name, value] of values) {
    const expected = evaluate(main([x], value), { inputs: { x: v } })['out']!;
    // The same op at the bound size must have the same elements as the symbolic lowering.
    const fixed = given('x', [size, 6]);
    const bind = (d: Dim): Dim => (typeof d === 'number' ? d : s.evaluateIndex(d, () => size));
    const attrs = Object.fromEntries(
      Object.entries(value.attrs).map(([k, a]) => [k, Array.isArray(a) ? a.map((d) => bind(d as Dim)) : a]),
    );
    const again = makeValue(
      value.op,
      value.inputs.map(() => fixed),
      attrs,
    );
    t.deepEqual(
      runLowering(
        again,
        value.inputs.map(() => v),
        'f32',
      )![0],
      expected,
      name,
    );
    t.deepEqual(
      runLowering(
        value,
        value.inputs.map(() => v),
        'f32',
        () => size,
      )![0],
      expected,
      `${name}, symbolic`,
    );
  }
});

test('pieces of a symbolic axis join again', (t) => {
  const x = given('x', [N, 2]);
  const joined = concat(splitAxis(x, 0, [1, s.sub(N, 1)]), { axis: 0 });
  t.deepEqual(evaluate(main([x], joined), { inputs: { x: filled(8, 2) } })['out'], filled(8, 2));
});

test('vectors evaluate lane by lane', (t) => {
  const [a, b] = [variable('a', 'f32', 4), variable('b', 'f32', 4)];
  const env = { value: (leaf: s.Num, _: readonly number[], lane: number) => (leaf === a ? 1 : 10) * (lane + 1) };
  t.deepEqual(evaluateLanes(s.fma(a, 2, b), env), [12, 24, 36, 48]);
  t.deepEqual(evaluateLanes(s.shuffle(a, b, [0, 4, 3, 7]), env), [1, 10, 4, 40]);
  t.is(evaluateExpr(s.sumLanes(b), env), 100);
  t.is(evaluateExpr(s.bitcast(s.literal(1, 'f32'), 'u32'), env), 0x3f800000);
  t.is(evaluateExpr(s.bitcast(s.literal(0x3f800000, 'i32'), 'f32'), env), 1);
  t.throws(() => evaluateExpr(s.div(s.literal(1), variable('z')), { value: () => 0 }), { instanceOf: RangeError });
});

test('the error function is good to 1e-15', (t) => {
  // Values from mpmath at 20 digits, rounded to doubles.
  const table = [
    [0.01, 0.011283415555849618],
    [0.5, 0.5204998778130465],
    [0.99, 0.8385080695553698],
    [1.4, 0.9522851197626488],
  ] as const;
  for (const [x, y] of table) t.true(Math.abs(erf(x) / y - 1) < 1e-15 && erf(-x) === -erf(x), `erf ${x}`);
  const tails = [
    [1, 0.15729920705028513],
    [2, 0.004677734981047266],
    [5, 1.537459794428035e-12],
    [10, 2.088487583762545e-45],
    [26, 5.663192408856143e-296],
  ] as const;
  for (const [x, y] of tails) t.true(Math.abs(erfc(x) / y - 1) < 2e-15, `erfc ${x}`);
  t.deepEqual([erf(Infinity), erf(-Infinity), erfc(-Infinity), erfc(40), erf(NaN)], [1, -1, 2, 0, NaN]);
  t.deepEqual([powC(1, NaN), powC(-1, Infinity), powC(NaN, 0), powC(2, -1)], [1, 1, 1, 0.5]);
});

test('gelu keeps its relative accuracy in the far tail', (t) => {
  const x = given('x', []);
  const y = evaluate(main([x], gelu([cast([x], { to: 'f64' })])), { inputs: { x: nd('f32', [], [-8]) } })['out']!
    .data[0]!;
  t.true(Math.abs(y / -4.976768459417427e-15 - 1) < 1e-14, String(y)); // −8·Φ(−8)
});

test('threefry matches the published known answers, and elements do not depend on the shape', (t) => {
  const hex = (key: [number, number], counter: [number, number]) => threefry(key, counter).map((x) => x.toString(16));
  t.deepEqual(hex([0, 0], [0, 0]), ['6b200159', '99ba4efe']);
  t.deepEqual(hex([0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff]), ['1cb996fc', 'bb002be7']);
  t.deepEqual(hex([0x13198a2e, 0x03707344], [0x243f6a88, 0x85a308d3]), ['c4923a9c', '483df7a0']);
  const draws = Array.from({ length: 20_000 }, (_, i) => [uniformAt(1, 2, i), normalAt(1, 2, i)] as const);
  const mean = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0) / xs.length;
  t.true(Math.abs(mean(draws.map(([u]) => u)) - 0.5) < 0.01);
  t.true(Math.abs(mean(draws.map(([, n]) => n))) < 0.02 && Math.abs(mean(draws.map(([, n]) => n * n)) - 1) < 0.04);
});
