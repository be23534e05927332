/** Tracing: models become graphs, parameters get their names, mistakes get the author's line. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import {
  add,
  argSort,
  attention,
  avgPool,
  bool,
  causal,
  concat,
  constant,
  countParameters,
  dim,
  entry,
  expr,
  f32,
  i64,
  init,
  input,
  linear,
  type ModelGraph,
  matmul,
  maxPool,
  mean,
  model,
  mul,
  named,
  nn,
  param,
  program,
  relu,
  reshape,
  scan,
  scope,
  select,
  sigmoid,
  slice,
  softmax,
  split,
  type Tensor,
  take,
  tanh,
  topK,
} from '../frontends/dsl/index.ts';
import { frameOf, nameValues } from '../frontends/dsl/source.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graphValues } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { nd } from '../ir/nd.ts';
import { printGraph } from '../ir/text.ts';
import { verifyGraph } from '../ir/verify.ts';
import { projectRoot } from './support/project.ts';

const batch = dim('batch', { max: 8 });
const main = ({ entries }: ModelGraph): Graph => entries.main!;
const names = (m: ModelGraph): string[] => m.parameters.map(({ name }) => name);
/** A tensor without its static shape, so that the mistake is left to tracing. */
const untyped = (x: Tensor<'f32'>): Tensor<'f32'> => x;
const lines = readFileSync(join(projectRoot, 'tests/dsl.test.ts'), 'utf8').split('\n');
/** Where this file holds a text: line and column from 1. */
function place(text: string): { line: number; column: number; source: string } {
  const at = lines.findIndex((line) => line.includes(text) && !line.includes('place('));
  return { line: at + 1, column: lines[at]!.indexOf(text) + 1, source: lines[at]! };
}

const perceptron = (): ModelGraph =>
  model(
    'perceptron',
    { x: input(f32, [batch, 5], 'features') },
    ({ x }) => {
      const hidden = relu(nn.linear('fc1', { in: 5, out: 7 })(x));
      return { y: softmax(nn.linear('fc2', { in: 7, out: 3, bias: false })(hidden)) };
    },
    { doc: 'two layers' },
  );

test('a model is its graph, its parameters and their initial values', (t) => {
  const m = perceptron();
  t.deepEqual(Object.keys(m.entries), ['main']);
  t.deepEqual(
    m.parameters.map(({ name, shape, init: start }) => [name, shape, start.kind]),
    [
      ['fc1.weight', [7, 5], 'uniform'],
      ['fc1.bias', [7], 'constant'],
      ['fc2.weight', [3, 7], 'uniform'],
    ],
  );
  t.is(countParameters(m), 35 + 7 + 21);
  t.is(countMacs(main(m)), 35 + 21);
  t.is(countMacs(main(m), { batch: 3 }), 3 * 56);
  t.is(main(m).inputs[0]!.attrs.doc, 'features');
});

test('the graph computes what its text says', (t) => {
  const m = model('m', { x: input(f32, [2, 3]) }, ({ x }) => ({ y: add(mul(x, 2), constant(f32, [3], [10, 20, 30])) }));
  const { y } = evaluate(main(m), { inputs: { x: nd('f32', [2, 3], [1, 2, 3, 4, 5, 6]) } });
  t.deepEqual([...y!.data], [12, 24, 36, 18, 30, 42]);
  const printed = printGraph(main(m)).replace(/ @ [^\s)]+/g, '');
  t.is(
    printed,
    [
      'graph m(%x: f32[2, 3]) {',
      '  %0 = mul %x, 2 : f32[2, 3]',
      '  %1 = constant {value = [10, 20, 30]} : f32[3]',
      '  %2 = add %0, %1 : f32[2, 3]',
      '  return y: %2',
      '}',
    ].join('\n') + (printed.endsWith('\n') ? '\n' : ''),
  );
});

test('scopes nest, and a layer keeps the scope where it was made', (t) => {
  const m = model('m', { x: input(f32, [batch, 4]) }, ({ x }) => {
    const outer = nn.linear('outer', { in: 4, out: 4 });
    const y = scope('blocks.0', () => scope('attn', () => nn.linear('qkv', { in: 4, out: 4 })(outer(x))));
    return { y };
  });
  t.deepEqual(names(m), ['outer.weight', 'outer.bias', 'blocks.0.attn.qkv.weight', 'blocks.0.attn.qkv.bias']);
});

test('a layer made outside the model serves every model that calls it', (t) => {
  const layer = nn.linear('shared', { in: 4, out: 2 });
  const build = (name: string): ModelGraph => model(name, { x: input(f32, [batch, 4]) }, ({ x }) => ({ y: layer(x) }));
  t.deepEqual(names(build('first')), names(build('second')));
  t.is(names(build('first')).length, 2);
});

test('a name asked for twice is one weight, and entries share it', (t) => {
  const read = (x: Tensor<'f32'>): Tensor<'f32'> => matmul(x, param('table', [4, 4]));
  const m = program('m', {
    once: entry({ x: input(f32, [batch, 4]) }, ({ x }) => ({ y: read(x) })),
    twice: entry({ x: input(f32, [batch, 4]) }, ({ x }) => ({ y: read(read(x)) })),
  });
  t.deepEqual(names(m), ['table']);
  const tables = Object.values(m.entries).flatMap((g) => graphValues(g).filter((value) => value.op.name === 'param'));
  t.is(tables.length, 2);
  t.is(tables[0], tables[1]);
  t.deepEqual(
    Object.values(m.entries).map((g) => g.name),
    ['m_once', 'm_twice'],
  );
});

test('masks are expressions over coordinates that may read tensors', (t) => {
  const m = model('m', { x: input(f32, [batch, 2, 5, 4]), keep: input(bool, [batch, 5]) }, ({ x, keep }) => ({
    causal: attention(x, x, x, { mask: causal }),
    both: attention(x, x, x, { mask: ({ b, q, k, read }) => expr.and(expr.le(k, q), read(keep, b, k)) }),
    biased: attention(x, x, x, { bias: ({ q, k }) => expr.cast(expr.sub(k, q), 'f32') }),
  }));
  const printed = [...main(m).outputs.values()].map((value) =>
    printGraph({ ...main(m), outputs: new Map([['o', value]]) }),
  );
  t.regex(printed[0]!, /attention %x, %x, %x \{mask = k <= q\}/);
  t.regex(printed[1]!, /attention %x, %x, %x, %keep \{mask = k <= q && in3\[b, k\]\}/);
  t.regex(printed[2]!, /bias = f32\(k - q\)/);
});

test('ops with several results come apart by name', (t) => {
  const m = model('m', { x: input(f32, [2, 6]) }, ({ x }) => {
    const [left, right] = split(x, 1, 2);
    return { sum: add(left!, right!), order: topK(x, 2, { largest: false }).indices };
  });
  const { sum, order } = evaluate(main(m), { inputs: { x: nd('f32', [2, 6], [6, 5, 4, 3, 2, 1, 1, 1, 2, 2, 3, 0]) } });
  t.deepEqual([...sum!.data], [9, 7, 5, 3, 4, 2]);
  t.deepEqual([...order!.data], [5, 4, 5, 0]);
});

const fault = (t: ExecutionContext, run: () => unknown): CompileError => t.throws(run, { instanceOf: CompileError });

test("a mistake that only tracing finds is reported at the author's line, with the author's names", async (t) => {
  const error = fault(t, () =>
    model('m', { x: input(f32, [batch, 6]) }, ({ x }) => {
      const hidden = untyped(relu(x));
      const projection = untyped(param('proj.weight', [5, 6]));
      return { y: matmul(hidden, projection) };
    }),
  );
  const framed = await frameOf(error);
  const at = place('matmul(hidden, projection)');
  const made = place("param('proj.weight', [5, 6])");
  const relued = place('relu(x));');
  t.is(framed.code, 'shape');
  t.deepEqual(framed.message.split('\n'), [
    'error[shape]: matmul: inner sizes differ, 6 and 5',
    `  --> tests/dsl.test.ts:${at.line}:${at.column}`,
    '    |',
    `${at.line} | ${at.source}`,
    `    | ${' '.repeat(at.column - 1)}^^^^^^`,
    `   = hidden     : f32[batch, 6]   from relu, tests/dsl.test.ts:${relued.line}:${relued.column}`,
    `   = projection : f32[5, 6]   parameter "proj.weight", tests/dsl.test.ts:${made.line}:${made.column}`,
    '   help: the weight looks transposed; pass { transposeB: true } or transpose it at import',
  ]);
});

test('other mistakes name the model, the parameter or the axis', (t) => {
  const x = input(f32, [batch, 6]);
  const messages = [
    () => param('w', [2]),
    () => model('m', { x }, () => ({ a: param('w', [2]), b: param('w', [3]) })),
    () => model('m', { x }, () => ({})),
    () => model('m', { x }, () => model('inner', { x }, ({ x }) => ({ x })) as never),
    () => model('m', { x }, () => ({ y: 3 as never })),
    () => model('m', { x }, ({ x }) => ({ y: take(untyped(x), 2, 0) })),
    () => model('m', { x }, ({ x }) => ({ y: split(x, 1, 4)[0]! })),
    () => model('m', { x }, ({ x }) => ({ y: reshape(x, [3, 5]) })),
    () => model('m', { x }, () => ({ y: constant(f32, [2], [1]) })),
  ].map((run) => {
    const { diagnostic } = fault(t, run);
    return `${diagnostic.code}: ${diagnostic.message}`;
  });
  t.deepEqual(messages, [
    'usage: parameter "w" is asked for outside a model',
    'shape: parameter "w" is f32[2] and f32[3]',
    'usage: model "m" returns no output',
    'usage: model "inner" is declared while another model is traced; declare it outside',
    'usage: model "m": output "y" is not a tensor',
    'rank: take: axis 2 does not exist in rank 2',
    'shape: split: axis 1 of size 6 has no 4 equal parts',
    'shape: reshape: element counts differ, [batch, 6] and [3, 5]',
    'shape: constant: 1 elements for shape [2]',
  ]);
});

test('after a model that throws, the next one traces', (t) => {
  fault(t, () =>
    model('bad', { x: input(f32, [2]) }, () => scope('deep', () => reshape(param('w', [2]), [3])) as never),
  );
  t.deepEqual(names(model('good', { x: input(f32, [2]) }, ({ x }) => ({ y: add(x, param('w', [2])) }))), ['w']);
});

test('an error without a readable source is returned as it is', async (t) => {
  const error = new CompileError({ code: 'shape', message: 'm', loc: { file: 'no/such/file.ts', line: 3, column: 1 } });
  t.is((await frameOf(error)).message, error.message);
  const placeless = new CompileError({ code: 'weights', message: 'm' });
  t.is(await frameOf(placeless), placeless);
});

test('a position in a compiled file is followed to its source', async (t) => {
  const file = fileURLToPath(import.meta.url);
  const compiled = readFileSync(file, 'utf8').split('\n');
  const line = compiled.findIndex((text) => text.includes('matmul(hidden, projection)')) + 1;
  const column = compiled[line - 1]!.indexOf('matmul(hidden') + 1;
  const error = await frameOf({ code: 'shape', message: 'm', loc: { file, line, column } });
  const source = place('matmul(hidden, projection)');
  t.deepEqual(error.diagnostic.loc, { file: 'tests/dsl.test.ts', line: source.line, column: source.column });
  t.true(error.message.includes(`${source.line} | ${source.source}\n`));
});

test('values are named after the variables that hold them', async (t) => {
  const traced = model('m', { x: input(f32, [batch, 6]) }, ({ x }) => {
    const [left, right] = split(x, 1, 2);
    let total = named('start', add(left!, right!));
    for (let n = 0; n < 2; n++) {
      const scaled = mul(total, n + 2);
      total = relu(scaled);
    }
    const dense = linear(total, param('w', [4, 3]), param('b', [4]));
    const inner = mean(dense, { axes: 1 });
    return { y: inner };
  });
  const m = await nameValues(traced);
  const found = graphValues(main(m)).flatMap(({ name, op }) => (name === undefined ? [] : [`${op.name} ${name}`]));
  t.deepEqual(found, [
    'input x',
    'get left',
    'get right',
    'add start',
    'mul scaled',
    'mul scaled.1',
    'add dense',
    'reduce_mean inner',
  ]);
  const { line, column } = place('mean(dense, { axes: 1 })');
  t.deepEqual(main(m).outputs.get('y')!.loc, { file: 'tests/dsl.test.ts', line, column });
  t.is(graphValues(main(m)).length, graphValues(main(traced)).length);
});

test('functions compute what their names say', (t) => {
  const m = model('m', { x: input(f32, [2, 3]), ids: input(i64, [2]) }, ({ x, ids }) => ({
    taken: take(x, 1, -2),
    cut: slice(x, -1, { start: 1 }),
    every: slice(x, 1, { start: 0, step: 2 }),
    joined: concat([x, x], 0),
    looked: nn.embedding('table', { rows: 3, width: 2, init: init.zeros })(ids),
    chosen: select(constant(bool, [3], [1, 0, 1]), x, -1),
  }));
  const data = evaluate(main(m), {
    inputs: { x: nd('f32', [2, 3], [1, 2, 3, 4, 5, 6]), ids: nd('i64', [2], [2, 0]) },
    params: () => nd('f32', [3, 2], [1, 2, 3, 4, 5, 6]),
  });
  t.deepEqual(
    Object.entries(data).map(([name, { shape, data }]) => [name, shape, [...data]]),
    [
      ['taken', [2], [2, 5]],
      ['cut', [2, 2], [2, 3, 5, 6]],
      ['every', [2, 2], [1, 3, 4, 6]],
      ['joined', [4, 3], [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]],
      ['looked', [2, 2], [5, 6, 1, 2]],
      ['chosen', [2, 3], [1, -1, 3, 4, -1, 6]],
    ],
  );
});

test('sorting twice gives ranks, equal elements in order of position', (t) => {
  const m = model('m', { x: input(f32, [2, 5]) }, ({ x }) => ({ order: argSort(x), ranks: argSort(argSort(x)) }));
  const { order, ranks } = evaluate(main(m), { inputs: { x: nd('f32', [2, 5], [3, 1, 2, 1, 3, 0, 0, 0, 0, -1]) } });
  t.deepEqual([...order!.data], [1, 3, 2, 0, 4, 4, 0, 1, 2, 3]);
  t.deepEqual([...ranks!.data], [3, 0, 2, 1, 4, 1, 2, 3, 4, 0]);
});

test('a loop reads what is around it, and equals the recurrent layer', (t) => {
  const [steps, rows, width, units] = [4, 2, 3, 5];
  const m = model('m', { x: input(f32, [steps, rows, width]), first: input(f32, [rows, units]) }, ({ x, first }) => {
    const layer = nn.lstm('lstm', { in: width, out: units })(x, { h: first, c: first });
    const weights = scope('lstm', () => ({
      wx: param('weight_ih_l0', [4 * units, width]),
      wh: param('weight_hh_l0', [4 * units, units]),
      b: add(param('bias_ih_l0', [4 * units]), param('bias_hh_l0', [4 * units])),
    }));
    const loop = scan({ h: first, c: first }, { item: x }, ({ h, c, item }) => {
      const gates = add(linear(item, weights.wx, weights.b), linear(h, weights.wh));
      const [i, f, g, o] = split(gates, -1, 4);
      const cell = add(mul(sigmoid(f!), c), mul(sigmoid(i!), tanh(g!)));
      const hidden = mul(sigmoid(o!), tanh(cell));
      return { states: { h: hidden, c: cell }, outputs: { y: hidden } };
    });
    return { y: layer.y, h: layer.h, c: layer.c, y2: loop.outputs.y, h2: loop.states.h, c2: loop.states.c };
  });
  t.notThrows(() => verifyGraph(main(m)));
  const wave = (shape: readonly number[], phase: number) =>
    nd(
      'f32',
      shape,
      Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => Math.sin(phase + 0.7 * i)),
    );
  const out = evaluate(main(m), {
    inputs: { x: wave([steps, rows, width], 1), first: wave([rows, units], 2) },
    params: (name, { shape }) => wave(shape as number[], name.length),
  });
  for (const name of ['y', 'h', 'c']) {
    t.deepEqual(out[`${name}2`]!.shape, out[name]!.shape);
    out[name]!.data.forEach((v, i) => void t.true(Math.abs(v - out[`${name}2`]!.data[i]!) < 1e-12, `${name} ${i}`));
  }
  t.is(countMacs(main(m)), 2 * steps * rows * 4 * units * (width + units));
});

test('a loop with a missing state or two things of one name is refused', (t) => {
  const x = input(f32, [4, 2]);
  const run = (build: (x: Tensor<'f32', readonly [4, 2]>) => unknown): string =>
    fault(t, () => model('m', { x }, ({ x }) => build(x) as never)).diagnostic.message;
  t.is(
    run((x) => scan({ h: take(x, 0, 0) }, { item: x }, () => ({ states: {} as never }))),
    'scan: the step does not give state "h"',
  );
  t.is(
    run((x) => scan({ x: take(x, 0, 0) }, { x }, ({ x }) => ({ states: { x } }))),
    'scan: "x" is both a state and an item',
  );
  t.regex(
    run((x) => scan({ h: take(x, 0, 0) }, { item: x }, ({ h }) => ({ states: { h: concat([h, h], 0) } }))),
    /^scan: state 0 after a step/,
  );
});

test('images go through convolution, normalisation and pooling', (t) => {
  const m = model('m', { x: input(f32, [1, 1, 4, 4]) }, ({ x }) => {
    const y = relu(
      nn.batchNorm('bn', { channels: 2 })(
        nn.conv('conv', { in: 1, out: 2, kernel: [3, 3], pads: [1, 1, 1, 1], bias: false })(x),
      ),
    );
    return { largest: maxPool(y, { kernel: [2, 2] }), mean: avgPool(y, { kernel: [4, 4] }) };
  });
  t.deepEqual(
    m.parameters.map(({ name }) => name),
    ['conv.weight', 'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var'],
  );
  const centre = [0, 0, 0, 0, 1, 0, 0, 0, 0];
  const values: Record<string, number[]> = {
    'conv.weight': [...centre, ...centre.map((v) => -v)],
    'bn.bias': [0, 20],
    'bn.running_mean': [1, 0],
  };
  const { largest, mean: average } = evaluate(main(m), {
    inputs: {
      x: nd(
        'f32',
        [1, 1, 4, 4],
        Array.from({ length: 16 }, (_, i) => i),
      ),
    },
    params: (name, { shape }) =>
      nd(
        'f32',
        shape as number[],
        values[name] ?? (name === 'bn.weight' ? [1, 1].map((v) => v * Math.sqrt(1 + 1e-5)) : [1, 1]),
      ),
  });
  const expected = [4, 6, 12, 14, 20, 18, 12, 10];
  largest!.data.forEach((v, i) => void t.true(Math.abs(v - expected[i]!) < 1e-5, `${i}: ${v}`));
  t.true(Math.abs(average!.data[0]! - 105 / 16) < 1e-5);
  t.true(Math.abs(average!.data[1]! - 12.5) < 1e-5);
});
