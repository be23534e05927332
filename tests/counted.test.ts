/** Sizes that are counted at run time, from the graph's text to the shapes of results. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import * as dsl from '../frontends/dsl/index.ts';
import { countedSize } from '../ir/counts.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graph, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import '../ir/ops/all.ts';
import { branch, loop, scan } from '../ir/ops/control.ts';
import { counted, extend, positions, unravel } from '../ir/ops/counted.ts';
import { add, mul, notEqual } from '../ir/ops/elementwise.ts';
import { gather } from '../ir/ops/index.ts';
import { matmul } from '../ir/ops/linear.ts';
import { cumsum } from '../ir/ops/order.ts';
import { reduceSum } from '../ir/ops/reduce.ts';
import { concat, expand, iota, reshape } from '../ir/ops/shape.ts';
import { input, project, scalar } from '../ir/ops/structural.ts';
import { parseGraph } from '../ir/parse.ts';
import { symbol } from '../ir/scalar.ts';
import { printGraph } from '../ir/text.ts';
import type { Dim } from '../ir/type.ts';
import { verifyGraph } from '../ir/verify.ts';
import type { WeightStore } from '../ir/weights.ts';
import { open } from '../runtime/open.ts';
import { compileGraph, ENGINES } from './support/run-graph.ts';

const NONE: WeightStore = { source: 'no weights', names: () => [], get: () => undefined };
const arg = (name: string, shape: readonly Dim[], dtype: 'f32' | 'i32' | 'bool' = 'f32'): Value =>
  input([], { name, dtype, shape }, { name });

interface Counted {
  readonly x: Value;
  readonly ids: Value;
  readonly count: Value;
  readonly kept: Dim;
}
/** The positions of what is not zero in `x: f32[n]`, which are `kept` many. */
function keptOf(n: Dim, name = 'kept'): Counted {
  const x = arg('x', [n]);
  const order = positions([notEqual([x, scalar(0)])]);
  const count = project(order, 1);
  const kept = countedSize(name, n);
  return { x, ids: counted([project(order, 0), count], { size: kept }), count, kept };
}
const floats = (...data: number[]): Nd => nd('f32', [data.length], data);

/** Lines with none, one, all and some kept, at odd lengths; NaN counts as not zero. */
const LINES: readonly (readonly number[])[] = [
  [0],
  [3],
  [0, 0, 0, 0, 0],
  [1, 2, 3, 4, 5, 6, 7],
  [0, -0, Number.NaN, 0, 5, 0, 0, -1e-40, Infinity],
  [0, 0, 0, 9],
  Array.from({ length: 61 }, (_, i) => (i % 3 === 1 ? i : 0)),
];

/** Outputs on every engine and of sessions with one and with four threads, against the reference. */
async function agrees(
  t: { is(a: unknown, b: unknown, message?: string): void; deepEqual<T>(a: T, b: T, message?: string): void },
  g: Graph,
  cases: readonly Readonly<Record<string, Nd>>[],
): Promise<void> {
  verifyGraph(g);
  const text = printGraph(g);
  t.is(printGraph(parseGraph(text)), text);
  const runnable = compileGraph(g);
  const bundle = compile({ name: 'counted', entries: { main: g } }, { weights: NONE });
  const sessions = await Promise.all([1, 4].map((threads) => open(bundle, { threads })));
  try {
    for (const inputs of cases) {
      const want = evaluate(g, { inputs, precision: 'f32' });
      const label = JSON.stringify(Object.values(inputs).map(({ data }) => [...data].slice(0, 9)));
      for (const engine of ENGINES) {
        const got = runnable.run(engine, inputs);
        for (const [name, { shape, data }] of Object.entries(want)) {
          t.deepEqual([...got[name]!.shape], [...shape], `${engine}: ${name} of ${label}`);
          t.deepEqual([...got[name]!.data], [...data], `${engine}: ${name} of ${label}`);
        }
      }
      for (const session of sessions) {
        const given = Object.fromEntries(
          Object.entries(inputs).map(([name, x]) => {
            const data =
              x.dtype === 'bool'
                ? Uint8Array.from(x.data)
                : x.dtype === 'i32'
                  ? Int32Array.from(x.data)
                  : Float32Array.from(x.data);
            return [name, { data, shape: x.shape }];
          }),
        );
        const got = await session.run(given);
        for (const [name, { shape, data }] of Object.entries(want)) {
          const of = `${session.threads} threads: ${name} of ${label}`;
          t.deepEqual([...got[name]!.shape], [...shape], of);
          t.deepEqual(Array.from(got[name]!.data as Iterable<number | bigint>, Number), [...data], of);
        }
      }
    }
  } finally {
    for (const session of sessions) session.dispose();
  }
}

test('positions of true elements come first, whatever the number of lines and blocks', async (t) => {
  const n = symbol('n', { min: 1, max: 10_000 });
  const mask = arg('mask', [3, n], 'bool');
  const order = positions([mask]);
  const g = graph(
    'order',
    [mask],
    [
      ['positions', project(order, 0)],
      ['counts', project(order, 1)],
    ],
  );
  const masks = [1, 5, 4096, 4097, 9001].map((width) =>
    nd(
      'bool',
      [3, width],
      Array.from({ length: 3 * width }, (_, i) => (i < width ? 0 : i < 2 * width ? 1 : Number((i * i) % 7 < 3))),
    ),
  );
  await agrees(
    t,
    g,
    masks.map((x) => ({ mask: x })),
  );
});

test('what is counted is gathered, computed on, multiplied and returned at its size', async (t) => {
  const n = symbol('n', { min: 1, max: 100 });
  const { x, ids, kept } = keptOf(n);
  const rows = gather([mul([x, scalar(2)]), ids]);
  const table = reshape([rows], { shape: [kept, 1] });
  const outer = matmul([table, reshape([add([rows, scalar(1)])], { shape: [1, kept] })]);
  const g = graph(
    'kept',
    [x],
    [
      ['rows', rows],
      ['outer', outer],
      ['total', reduceSum([rows], { axes: [0] })],
      ['running', cumsum([rows], { axis: 0 })],
      ['both', concat([rows, x], { axis: 0 })],
      ['back', extend([rows], { size: n, value: -7 })],
      ['where', unravel([ids], { shape: [1, n] })],
    ],
  );
  const finite = LINES.map((line) =>
    line.map((v) => (Number.isNaN(v) || Math.abs(v) === Infinity ? 8 : Math.fround(v))),
  );
  await agrees(
    t,
    g,
    finite.map((line) => ({ x: floats(...line) })),
  );
});

test('NaN counts as not zero, and is returned', async (t) => {
  const { x, ids } = keptOf(9);
  await agrees(t, graph('nans', [x], [['rows', gather([x, ids])]]), [{ x: floats(...LINES[4]!) }]);
});

test('a size may be mentioned by values that do not depend on what it counts', async (t) => {
  const { x, ids, kept } = keptOf(symbol('n', { min: 1, max: 100 }));
  const numbers = iota([], { axis: 0, shape: [kept], dtype: 'f32' });
  const ones = reduceSum([expand([scalar(1)], { shape: [kept, 3] })], { axes: [0, 1] });
  const g = graph(
    'free',
    [x],
    [
      ['numbers', numbers],
      ['ones', ones],
      ['ids', ids],
    ],
  );
  await agrees(
    t,
    g,
    LINES.map((line) => ({ x: floats(...line) })),
  );
});

test('a size counts what another one counted', async (t) => {
  const { x, ids, kept } = keptOf(symbol('n', { min: 1, max: 100 }));
  const rows = gather([x, ids]);
  const again = positions([notEqual([rows, scalar(5)])]);
  const second = countedSize('second', kept);
  const picked = gather([rows, counted([project(again, 0), project(again, 1)], { size: second })]);
  await agrees(
    t,
    graph('twice', [x], [['picked', picked]]),
    LINES.map((line) => ({ x: floats(...line.map((v) => (Number.isNaN(v) ? 5 : v))) })),
  );
});

test('the count may be an input, and the last axis may be the one that is cut', async (t) => {
  const x = arg('x', [3, 5]);
  const count = arg('count', [], 'i32');
  const size = countedSize('size', 5);
  const cut = counted([x, count], { axis: 1, size });
  const g = graph(
    'cut',
    [x, count],
    [
      ['sums', reduceSum([cut], { axes: [1] })],
      ['cut', cut],
    ],
  );
  const data = nd(
    'f32',
    [3, 5],
    Array.from({ length: 15 }, (_, i) => i + 1),
  );
  await agrees(
    t,
    g,
    [0, 1, 4, 5].map((many) => ({ x: data, count: nd('i32', [], [many]) })),
  );
});

test('loops run as often as was counted, branches read and bodies count sizes of their own', async (t) => {
  const { x, ids, kept } = keptOf(symbol('n', { min: 1, max: 100 }));
  const rows = gather([x, ids]);
  const [sum, item] = [arg('sum', []), arg('item', [])];
  const total = add([sum, item]);
  const body = graph(
    'body',
    [sum, item],
    [
      ['total', total],
      ['running', total],
    ],
  );
  const scanned = scan([scalar(0), rows], { body, carried: 1 });

  // Each trip counts the entries of a line that differ from its number.
  const [trip, going] = [
    input([], { name: 't', dtype: 'i64', shape: [] }),
    input([], { name: 'g', dtype: 'bool', shape: [] }),
  ];
  const [state, line] = [arg('state', [], 'i32'), arg('line', [6], 'i32')];
  const inner = positions([notEqual([line, state])]);
  const innerSize = countedSize('differing', 6);
  const differing = counted([project(inner, 0), project(inner, 1)], { size: innerSize });
  const next = add([state, reduceSum([expand([scalar(1, 'i32')], { shape: [innerSize] })], { axes: [0] })]);
  const first = reduceSum([differing], { axes: [0] });
  const looped = loop([scalar(3, 'i64'), scalar(1, 'bool'), scalar(1, 'i32'), arg('line', [6], 'i32')], {
    body: graph(
      'trips',
      [trip, going, state, line],
      [
        ['go', going],
        ['state', add([next, mul([first, scalar(0, 'i32')])])],
      ],
    ),
    carried: 1,
    maxTrips: 3,
  });
  const lineInput = looped.inputs[3]!;

  const choose = (scale: number): Graph => {
    const taken = arg('taken', [kept]);
    return graph(`times${scale}`, [taken], [['scaled', mul([taken, scalar(scale)])]]);
  };
  const chosen = branch([input([], { name: 'flag', dtype: 'bool', shape: [] }), rows], {
    then: choose(2),
    else: choose(3),
  });
  const g = graph(
    'control',
    [x, lineInput, chosen.inputs[0]!],
    [
      ['total', project(scanned, 0)],
      ['running', project(scanned, 1)],
      ['state', looped],
      ['chosen', chosen],
    ],
  );
  await agrees(
    t,
    g,
    LINES.slice(0, 4).map((data, i) => ({
      x: floats(...data),
      line: nd('i32', [6], [1, 6, 3, 12, 2, 1]),
      flag: nd('bool', [], [i % 2]),
    })),
  );
});

test('counts outside their range are refused when running, by every engine', async (t) => {
  const x = arg('x', [4]);
  const count = arg('count', [], 'i32');
  const cut = counted([x, count], { size: symbol('size', { min: 1, max: 3, counted: true }) });
  const g = graph('cut', [x, count], [['cut', cut]]);
  const data = floats(1, 2, 3, 4);
  const session = await open(compile({ name: 'cut', entries: { main: g } }, { weights: NONE }), { threads: 1 });
  for (const many of [-1, 0, 4, 2 ** 31 - 1]) {
    const error = t.throws(() => evaluate(g, { inputs: { x: data, count: nd('i32', [], [many]) } }));
    t.true(error instanceof CompileError && error.code === 'range', String(error));
    const message = `heddle: size "size" is ${many} by the data; the bundle takes 1 … 3.`;
    await t.throwsAsync(session.run({ x: Float32Array.from(data.data), count: Int32Array.of(many) }), { message });
  }
  const fine = await session.run({ x: Float32Array.from(data.data), count: Int32Array.of(3) });
  t.deepEqual([...(fine.cut!.data as Float32Array)], [1, 2, 3]);
  session.dispose();
});

test('a size that is fixed when compiling is checked when running', async (t) => {
  const { x, ids } = keptOf(4);
  const model = { name: 'fixed', entries: { main: graph('fixed', [x], [['ids', ids]]) } };
  const session = await open(compile(model, { weights: NONE, symbols: { kept: 2 } }), { threads: 1 });
  const fine = await session.run({ x: Float32Array.of(0, 5, 0, 5) });
  t.deepEqual([...(fine.ids!.data as Int32Array)], [1, 3]);
  await t.throwsAsync(session.run({ x: Float32Array.of(0, 5, 0, 0) }), {
    message: /is 1 by the data; the bundle takes 2 … 2/,
  });
  session.dispose();
});

const refused = (g: Graph): string => {
  try {
    verifyGraph(g);
  } catch (error) {
    if (error instanceof CompileError) return error.diagnostic.message;
    throw error;
  }
  return 'accepted';
};

test('the verifier refuses sizes that are counted twice, elsewhere, or by what depends on them', (t) => {
  const one = keptOf(9);
  const other = counted([project(positions([notEqual([one.x, scalar(3)])]), 0), arg('count', [], 'i32')], {
    size: one.kept,
  });
  t.regex(
    refused(
      graph(
        'two',
        [one.x, other.inputs[1]!],
        [
          ['a', one.ids],
          ['b', other],
        ],
      ),
    ),
    /size kept is counted twice, by different values/,
  );
  const loose = graph('loose', [arg('y', [one.kept])], [['y', one.ids]]);
  t.regex(refused({ ...loose, inputs: [...loose.inputs, one.x] }), /mentions size kept, which graph loose counts/);
  const ones = reduceSum([expand([scalar(1, 'i32')], { shape: [one.kept] })], { axes: [0] });
  const circular = counted([iota([], { axis: 0, shape: [9], dtype: 'i32' }), ones], { size: one.kept });
  t.regex(refused(graph('circle', [], [['y', circular]])), /mentions a size that is counted by what depends on it/);
  t.regex(
    refused(graph('lost', [], [['y', iota([], { axis: 0, shape: [one.kept], dtype: 'i32' })]])),
    /mentions size kept, which nothing counts/,
  );
  const inside = keptOf(9, 'inside');
  const body = graph('body', [inside.x], [['ids', reduceSum([inside.ids], { axes: [0] })]]);
  const flag = input([], { name: 'flag', dtype: 'bool', shape: [] });
  const x = arg('x', [9]);
  const chosen = branch([flag, x], { then: body, else: body });
  t.is(refused(graph('outer', [flag, x], [['y', chosen]])), 'accepted');
  const outside = iota([], { axis: 0, shape: [inside.kept], dtype: 'i32' });
  t.regex(
    refused(
      graph(
        'outer',
        [flag, x],
        [
          ['y', chosen],
          ['z', outside],
        ],
      ),
    ),
    /mentions size inside, which graph body counts/,
  );
});

test('the vocabulary has words for it', async (t) => {
  const n = dsl.dim('n', { max: 50 });
  const boxes = dsl.model('boxes', { boxes: dsl.input('f32', [n, 2]), scores: dsl.input('f32', [n]) }, (given) => {
    const good = dsl.greater(given.scores, 0.5);
    const found = dsl.positionsOf(good, 'found');
    const [size] = found.shape;
    const numbers = dsl.iota('i32', [size], 0);
    return {
      found,
      numbers,
      boxes: dsl.compress(given.boxes, good, 'chosen'),
      corners: dsl.nonZero(given.boxes, 'corners'),
    };
  }).entries.main!;
  await agrees(
    t,
    boxes,
    [[0.1, 0.9, 0.6], [0.1], [0.7], [0.5, 0.51, 0, 1, 2]].map((scores) => ({
      boxes: nd(
        'f32',
        [scores.length, 2],
        scores.flatMap((_, i) => [i % 2, i]),
      ),
      scores: floats(...scores),
    })),
  );
  const wrong = t.throws(() =>
    dsl.model('wrong', { x: dsl.input('f32', [3, 2]) }, ({ x }) => ({
      y: dsl.positionsOf(dsl.greater(x, 0), 'found'),
    })),
  );
  t.regex(String(wrong), /mask has one axis, not 2/);
});
