/** ONNX operators whose results are as large as the data say: one import, run on data of every kind. */
import test, { type ExecutionContext } from 'ava';
import { importOnnx } from '../frontends/onnx/index.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { verifyGraph } from '../ir/verify.ts';
import { encodeModel, FLOAT, floats, INT64, int, longs, type ModelSpec, node, subgraph, value } from './onnx-kit.ts';
import { compileGraph } from './support/run-graph.ts';

const BOOL = 9;
const f32 = (...data: number[]): Nd => nd('f32', [data.length], data);
const bools = (...data: number[]): Nd => nd('bool', [data.length], data);

const graphOf = (spec: ModelSpec, options = {}): Graph => {
  const g = importOnnx(encodeModel(spec), options).model.entries.main!;
  verifyGraph(g);
  return g;
};

/** Runs a graph in the reference and on two engines, and compares with what is expected of it. */
function gives(
  t: ExecutionContext,
  g: Graph,
  inputs: Readonly<Record<string, Nd>>,
  wanted: Readonly<Record<string, readonly [shape: readonly number[], data: readonly number[]]>>,
): void {
  const runnable = compileGraph(g);
  const results = {
    reference: evaluate(g, { inputs, precision: 'f32' }),
    'host plain': runnable.run('host plain', inputs),
    'wasm relaxed': runnable.run('wasm relaxed', inputs),
  };
  for (const [engine, outputs] of Object.entries(results))
    for (const [name, [shape, data]] of Object.entries(wanted)) {
      t.deepEqual([...outputs[name]!.shape], [...shape], `${engine}: ${name}`);
      t.deepEqual([...outputs[name]!.data], [...data], `${engine}: ${name}`);
    }
}

test('NonZero gives coordinates, none where all is zero; its size is counted where only that is asked for', (t) => {
  const g = graphOf({
    nodes: [node('NonZero', ['x'], ['at']), node('NonZero', ['x'], ['again']), node('Shape', ['again'], ['shape'])],
    inputs: [value('x', [2, 'n'])],
    outputs: ['at', 'shape'],
  });
  const run = (data: readonly number[], at: readonly number[]): void =>
    gives(
      t,
      g,
      { x: nd('f32', [2, data.length / 2], data) },
      {
        at: [[2, at.length / 2], at],
        shape: [[2], [2, at.length / 2]],
      },
    );
  run([0, 0, 0, 0], []);
  run([1, 0, 0, Number.NaN, -3, 0], [0, 1, 1, 0, 0, 1]);
  run([5, 6], [0, 1, 0, 0]);
  const counts = graphOf({
    nodes: [
      node('NonZero', ['x'], ['at']),
      node('Size', ['at'], ['size']),
      node('Cast', ['size'], ['many'], [int('to', FLOAT)]),
      node('ReduceSum', ['x'], ['sum'], [int('keepdims', 0)]),
      node('Div', ['sum', 'many'], ['mean']),
    ],
    inputs: [value('x', ['n'])],
    outputs: ['mean', 'size'],
  });
  gives(t, counts, { x: f32(0, 2, 0, 4, 0) }, { mean: [[], [3]], size: [[], [2]] });
});

test('rows chosen by a mask are changed and written back', (t) => {
  const g = graphOf({
    nodes: [
      node('NonZero', ['keep'], ['at']),
      node('Transpose', ['at'], ['columns'], [{ name: 'perm', type: 7, ints: [1, 0] }]),
      node('GatherND', ['x', 'columns'], ['rows']),
      node('Mul', ['rows', 'ten'], ['more']),
      node('ScatterND', ['x', 'columns', 'more'], ['y']),
    ],
    inputs: [value('x', ['n', 2]), value('keep', ['n'], BOOL)],
    outputs: ['rows', 'y'],
    initializers: [floats('ten', [], [10])],
  });
  const x = nd('f32', [3, 2], [1, 2, 3, 4, 5, 6]);
  gives(
    t,
    g,
    { x, keep: bools(0, 1, 1) },
    {
      rows: [
        [2, 2],
        [3, 4, 5, 6],
      ],
      y: [
        [3, 2],
        [1, 2, 30, 40, 50, 60],
      ],
    },
  );
  gives(
    t,
    g,
    { x, keep: bools(0, 0, 0) },
    {
      rows: [[0, 2], []],
      y: [
        [3, 2],
        [1, 2, 3, 4, 5, 6],
      ],
    },
  );
});

test('sizes that the file says are equal, though counted differently, are checked when it runs', (t) => {
  const g = graphOf({
    nodes: [node('Compress', ['x', 'keep'], ['rows'], [int('axis', 0)]), node('Add', ['rows', 'bias'], ['y'])],
    inputs: [value('x', [4]), value('keep', [4], BOOL), value('bias', [2])],
    outputs: ['y'],
  });
  const x = f32(1, 2, 3, 4);
  gives(t, g, { x, keep: bools(1, 0, 0, 1), bias: f32(10, 20) }, { y: [[2], [11, 24]] });
  for (const keep of [bools(1, 0, 0, 0), bools(1, 1, 0, 1)]) {
    t.throws(() => evaluate(g, { inputs: { x, keep, bias: f32(10, 20) } }), { message: /elements count/ });
    const runnable = compileGraph(g);
    t.throws(() => runnable.run('wasm plain', { x, keep, bias: f32(10, 20) }), { message: /outside \d\.\.2/ });
  }
});

test('Compress takes elements of the flat tensor, or slices of an axis', (t) => {
  const spec = (axis?: number): ModelSpec => ({
    nodes: [node('Compress', ['x', 'keep'], ['y'], axis === undefined ? [] : [int('axis', axis)])],
    inputs: [value('x', [2, 3]), value('keep', ['k'], BOOL)],
    outputs: ['y'],
  });
  const x = nd('f32', [2, 3], [1, 2, 3, 4, 5, 6]);
  gives(t, graphOf(spec()), { x, keep: bools(0, 1, 0, 0, 1) }, { y: [[2], [2, 5]] });
  gives(
    t,
    graphOf(spec(-1)),
    { x, keep: bools(1, 0, 1) },
    {
      y: [
        [2, 2],
        [1, 3, 4, 6],
      ],
    },
  );
  gives(t, graphOf(spec(0)), { x, keep: bools(0, 0) }, { y: [[0, 3], []] });
});

test('Unique gives values, first positions, where each went and how often it occurs', (t) => {
  const spec = (attributes: Parameters<typeof int>[]): ModelSpec => ({
    nodes: [
      node(
        'Unique',
        ['x'],
        ['y', 'first', 'where', 'often'],
        attributes.map(([name, i]) => int(name, i)),
      ),
    ],
    inputs: [value('x', ['n'])],
    outputs: ['y', 'first', 'where', 'often'],
  });
  const x = f32(2, 1, 1, 3, 4, 3, Number.NaN, 1, Number.NaN);
  gives(
    t,
    graphOf(spec([])),
    { x },
    {
      y: [[5], [1, 2, 3, 4, Number.NaN]],
      first: [[5], [1, 0, 3, 4, 6]],
      where: [[9], [1, 0, 0, 2, 3, 2, 4, 0, 4]],
      often: [[5], [3, 1, 2, 1, 2]],
    },
  );
  gives(
    t,
    graphOf(spec([['sorted', 0]])),
    { x },
    {
      y: [[5], [2, 1, 3, 4, Number.NaN]],
      first: [[5], [0, 1, 3, 4, 6]],
      where: [[9], [0, 1, 1, 2, 3, 2, 4, 1, 4]],
      often: [[5], [1, 3, 2, 1, 2]],
    },
  );
  gives(t, graphOf(spec([['sorted', 0]])), { x: f32(7) }, { y: [[1], [7]], where: [[1], [0]], often: [[1], [1]] });
});

test('Unique compares slices along an axis, column by column', (t) => {
  const g = graphOf({
    nodes: [node('Unique', ['x'], ['y', 'first', 'where', 'often'], [int('axis', 1)])],
    inputs: [value('x', [2, 'n'])],
    outputs: ['y', 'first', 'where', 'often'],
  });
  // Columns: (3, 1), (1, 9), (3, 0), (1, 9), (3, 1).
  const x = nd('f32', [2, 5], [3, 1, 3, 1, 3, 1, 9, 0, 9, 1]);
  gives(
    t,
    g,
    { x },
    {
      y: [
        [2, 3],
        [1, 3, 3, 9, 0, 1],
      ],
      first: [[3], [1, 2, 0]],
      where: [[5], [2, 0, 1, 0, 2]],
      often: [[3], [2, 1, 2]],
    },
  );
});

test('NonMaxSuppression takes the best boxes of each class, as many as there are', (t) => {
  const g = graphOf({
    nodes: [node('NonMaxSuppression', ['boxes', 'scores', 'most', 'iou', 'least'], ['y'])],
    inputs: [value('boxes', [1, 'n', 4]), value('scores', [1, 2, 'n'])],
    outputs: ['y'],
    initializers: [longs('most', [1], [2]), floats('iou', [1], [0.5]), floats('least', [1], [0.1])],
  });
  const boxes = nd('f32', [1, 4, 4], [0, 0, 1, 1, 0, 0.1, 1, 1.1, 1, 11, 0, 10, 0, 20, 1, 21]);
  const scores = nd('f32', [1, 2, 4], [0.9, 0.8, 0.3, 0.2, 0.05, 0.6, 0.1, 0.7]);
  gives(
    t,
    g,
    { boxes, scores },
    {
      y: [
        [4, 3],
        [0, 0, 0, 0, 0, 2, 0, 1, 3, 0, 1, 1],
      ],
    },
  );
  const none = nd('f32', [1, 2, 4], [0, 0, 0, 0, 0, 0, 0, 0]);
  gives(t, g, { boxes, scores: none }, { y: [[0, 3], []] });
});

test('a loop makes as many trips as the data say, and stacks as many rows', (t) => {
  const body = {
    name: 'body',
    node: [
      node('Identity', ['go'], ['goes']),
      node('Add', ['sum', 'step'], ['next']),
      node('Identity', ['sum'], ['row']),
    ],
    input: [value('t', [], INT64), value('go', [], BOOL), value('sum', [2])],
    output: [value('goes', [], BOOL), value('next', [2]), value('row', [2])],
  };
  const g = graphOf(
    {
      nodes: [node('Loop', ['trips', 'go0', 'x'], ['last', 'rows'], [subgraph('body', body)])],
      inputs: [value('trips', [], INT64), value('go0', [], BOOL), value('x', [2]), value('step', [2])],
      outputs: ['last', 'rows'],
    },
    { maxTrips: 3 },
  );
  const run = (trips: number, go: number): Record<string, Nd> => ({
    trips: nd('i64', [], [trips]),
    go0: nd('bool', [], [go]),
    x: f32(1, 2),
    step: f32(10, 20),
  });
  gives(t, g, run(3, 1), {
    last: [[2], [31, 62]],
    rows: [
      [3, 2],
      [1, 2, 11, 22, 21, 42],
    ],
  });
  gives(t, g, run(1, 1), {
    last: [[2], [11, 22]],
    rows: [
      [1, 2],
      [1, 2],
    ],
  });
  gives(t, g, run(-4, 1), { last: [[2], [1, 2]], rows: [[0, 2], []] });
  gives(t, g, run(2, 0), { last: [[2], [1, 2]], rows: [[0, 2], []] });
  t.throws(() => evaluate(g, { inputs: run(4, 1) }), { message: /4 elements count, outside \w+ in 0\.\.3/ });
  t.throws(() => compileGraph(g).run('wasm plain', run(4, 1)), { message: /is 4, outside 0\.\.3/ });
});

test('a loop that ends by its condition stacks the rows of the trips that it made', (t) => {
  const body = {
    name: 'body',
    node: [
      node('Add', ['sum', 'sum'], ['next']),
      node('ReduceMax', ['next'], ['top'], [int('keepdims', 0)]),
      node('Less', ['top', 'limit'], ['goes']),
      node('Identity', ['next'], ['row']),
    ],
    input: [value('t', [], INT64), value('go', [], BOOL), value('sum', [2])],
    output: [value('goes', [], BOOL), value('next', [2]), value('row', [2])],
  };
  const g = graphOf(
    {
      nodes: [node('Loop', ['', 'go0', 'x'], ['last', 'rows'], [subgraph('body', body)])],
      inputs: [value('go0', [], BOOL), value('x', [2]), value('limit', [])],
      outputs: ['last', 'rows'],
    },
    { maxTrips: 4 },
  );
  const run = (go: number, limit: number): Record<string, Nd> => ({
    go0: nd('bool', [], [go]),
    x: f32(1, 3),
    limit: nd('f32', [], [limit]),
  });
  gives(t, g, run(1, 10), {
    last: [[2], [4, 12]],
    rows: [
      [2, 2],
      [2, 6, 4, 12],
    ],
  });
  gives(t, g, run(0, 10), { last: [[2], [1, 3]], rows: [[0, 2], []] });
  gives(t, g, run(1, 30), {
    last: [[2], [16, 48]],
    rows: [
      [4, 2],
      [2, 6, 4, 12, 8, 24, 16, 48],
    ],
  });
  t.throws(() => compileGraph(g).run('wasm plain', run(1, 1000)), { message: /outside 0\.\.4/ });
});

test('branches may give results of different sizes', (t) => {
  const side = (name: string, nodes: ReturnType<typeof node>[], out: string): Parameters<typeof subgraph>[1] => ({
    name,
    node: nodes,
    output: [value(out, ['m', 2])],
  });
  const g = graphOf({
    nodes: [
      node(
        'If',
        ['flag'],
        ['y'],
        [
          subgraph('then_branch', side('both', [node('Concat', ['x', 'x'], ['two'], [int('axis', 0)])], 'two')),
          subgraph('else_branch', side('some', [node('Compress', ['x', 'keep'], ['few'], [int('axis', 0)])], 'few')),
        ],
      ),
      node('ReduceSum', ['y'], ['sum'], [int('keepdims', 0)]),
    ],
    inputs: [value('flag', [], BOOL), value('x', ['n', 2]), value('keep', ['n'], BOOL)],
    outputs: ['y', 'sum'],
  });
  const x = nd('f32', [3, 2], [1, 2, 3, 4, 5, 6]);
  const run = (flag: number, ...keep: number[]): Record<string, Nd> => ({
    flag: nd('bool', [], [flag]),
    x,
    keep: bools(...keep),
  });
  gives(t, g, run(1, 0, 0, 0), {
    y: [
      [6, 2],
      [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6],
    ],
    sum: [[], [42]],
  });
  gives(t, g, run(0, 1, 0, 1), {
    y: [
      [2, 2],
      [1, 2, 5, 6],
    ],
    sum: [[], [14]],
  });
  gives(t, g, run(0, 0, 0, 0), { y: [[0, 2], []], sum: [[], [0]] });
});

test('sizes that the file computes from data are sizes of the model, where their ranges are given', (t) => {
  const spec: ModelSpec = {
    nodes: [
      node('Shape', ['places'], ['rank']),
      node('ReduceMax', ['places'], ['last'], [{ name: 'axes', type: 7, ints: [0] }, int('keepdims', 0)]),
      node('Add', ['last', 'one'], ['extent']),
      node('ConstantOfShape', ['extent'], ['zeros']),
      node('ScatterND', ['zeros', 'places', 'values'], ['y']),
      node('Shape', ['y'], ['sizes']),
    ],
    inputs: [value('places', ['n', 2], INT64), value('values', ['n'])],
    outputs: ['y', 'sizes'],
    initializers: [longs('one', [1], [1])],
    opset: 13,
  };
  t.throws(() => graphOf(spec), { message: /only known when the model runs/ });
  const g = graphOf(spec, { dims: { n: '1..9', extent_0: '1..4', extent_1: 3 } });
  const places = (...at: number[]): Nd => nd('i64', [at.length / 2, 2], at);
  gives(
    t,
    g,
    { places: places(0, 1, 1, 2), values: f32(5, 6) },
    {
      y: [
        [2, 3],
        [0, 5, 0, 0, 0, 6],
      ],
      sizes: [[2], [2, 3]],
    },
  );
  gives(
    t,
    g,
    { places: places(0, 2), values: f32(7) },
    {
      y: [
        [1, 3],
        [0, 0, 7],
      ],
      sizes: [[2], [1, 3]],
    },
  );
  for (const wrong of [places(4, 2), places(0, 1)]) {
    t.throws(() => evaluate(g, { inputs: { places: wrong, values: f32(7) } }), { message: /elements count, outside/ });
    t.throws(() => compileGraph(g).run('wasm plain', { places: wrong, values: f32(7) }), { message: /outside/ });
  }
});
