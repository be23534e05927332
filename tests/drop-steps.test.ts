/** Loops: which steps are read, and that only those are run. */
import test from 'ava';
import { compile, lowerModel } from '../compiler/compile.ts';
import { plannedMacs, sampleFor } from '../compiler/report.ts';
import {
  add,
  cast,
  concat,
  constant,
  dim,
  f32,
  i32,
  i64,
  init,
  input,
  iota,
  less,
  linear,
  type ModelGraph,
  model,
  mul,
  nn,
  output,
  param,
  scan,
  select,
  slice,
  sum,
  type Tensor,
  take,
  tanh,
  unsqueeze,
} from '../frontends/dsl/index.ts';
import { seededWeights } from '../frontends/zoo/index.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { toFloat32 } from '../ir/weights.ts';
import { Demand } from '../passes/demand.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { open } from '../runtime/open.ts';
import { GARBAGE, leak, precision } from './support/demand-oracle.ts';
import { Replay } from './support/replay.ts';

const [T, B, I, H] = [7, 3, 4, 8];
const LENGTHS = [2, 5, 3];
const LONGEST = Math.max(...LENGTHS);

const x = input(f32, [T, B, I], 'what each step takes');
const lens = input(i64, [B], 'steps of each row');
type X = Tensor<'f32'>;
type Lens = Tensor<'i64'>;

const start = () => constant(f32, [B, H], new Array<number>(B * H).fill(0.25)) as X;
const project = (of: X): X => nn.linear('in', { in: I, out: H })(of as never) as X;
const weight = (name = 'w') => param(name, [H, H], init.normal(0.3)) as X;
/** tanh(x + w · h) at every step: the last state, and the states of all. */
function run(items: X, { reverse = false, w = weight() }: { reverse?: boolean; w?: X } = {}): { last: X; all: X } {
  const { states, outputs } = scan(
    { h: start() },
    { x: items },
    ({ h, x }) => {
      const next = tanh(add(x, linear(h, w))) as X;
      return { states: { h: next }, outputs: { y: next } };
    },
    { reverse },
  );
  return { last: states.h, all: outputs.y as X };
}
/** [T, B]: whether a row is still going. */
const going = (of: Lens) => less(unsqueeze(iota(i64, [T]), 1), unsqueeze(of, 0));

interface Case {
  readonly model: ModelGraph;
  /** Steps whose items are projected, and steps of the loop, all rows of each counted. */
  readonly projected: number;
  readonly steps: number;
  /** The same as they are compiled. */
  readonly kept: number;
  readonly run: number;
}
const given = { x };
const both = { x, lens };
const CASES: Readonly<Record<string, Case>> = {
  'the first steps': {
    model: model('m', given, ({ x }) => ({ y: slice(run(project(x as X)).all, 0, { stop: 3 }) })),
    ...{ projected: T * B, steps: T, kept: 3 * B, run: 3 },
  },
  'the last steps of a loop that runs backwards': {
    model: model('m', given, ({ x }) => ({
      y: slice(run(project(x as X), { reverse: true }).all, 0, { start: 5 }),
    })),
    ...{ projected: T * B, steps: T, kept: 2 * B, run: 2 },
  },
  'the third step alone, of both directions': {
    model: model('m', given, ({ x }) => {
      const items = project(x as X);
      const [to, from] = [run(items).all, run(items, { reverse: true, w: weight('back') }).all];
      return { y: take(concat([to, from], 2), 0, 2) };
    }),
    ...{ projected: T * B, steps: 2 * T, kept: T * B, run: 3 + 5 },
  },
  'the last state': {
    model: model('m', given, ({ x }) => ({ y: run(project(x as X)).last })),
    ...{ projected: T * B, steps: T, kept: T * B, run: T },
  },
  'captions of uneven length, as long as each goes': {
    model: model('m', both, ({ x, lens }) => ({
      y: output(run(project(x as X)).all, { where: going(lens as Lens), axis: 0 }),
    })),
    ...{ projected: T * B, steps: T, kept: LONGEST * B, run: LONGEST },
  },
  'a loss over the steps that each caption has': {
    model: model('m', both, ({ x, lens }) => {
      const weights = unsqueeze(cast(going(lens as Lens), f32), 2);
      return { loss: sum(mul(run(project(x as X)).all, weights)) };
    }),
    ...{ projected: T * B, steps: T, kept: LONGEST * B, run: LONGEST },
  },
  'the state at the length of each row': {
    model: model('m', both, ({ x, lens }) => {
      const w = weight();
      const { states } = scan({ h: start() }, { x: project(x as X), t: iota(i64, [T]) }, ({ h, x, t }) => {
        const next = tanh(add(x, linear(h, w))) as X;
        const goes = unsqueeze(less(t as never, lens as never), 1);
        return { states: { h: select(goes, next, h) as X } };
      });
      return { y: states.h };
    }),
    ...{ projected: T * B, steps: T, kept: LONGEST * B, run: LONGEST },
  },
};

const sample: Readonly<Record<string, Nd>> = {
  x: nd(
    'f32',
    [T, B, I],
    Float64Array.from({ length: T * B * I }, (_, i) => Math.fround(Math.sin(7.3 * i))),
  ),
  lens: nd('i64', [B], LENGTHS),
};
const inputsOf = (g: Graph): Record<string, Nd> =>
  Object.fromEntries(g.inputs.map((v) => [String(v.attrs.name), sample[String(v.attrs.name)]!]));
const paramsOf = (m: ModelGraph) => {
  const weights = seededWeights(m);
  return (name: string): Nd => {
    const tensor = weights.get(name)!;
    return nd('f32', tensor.shape, Float64Array.from(toFloat32(tensor)));
  };
};

for (const [name, each] of Object.entries(CASES)) {
  const graph = each.model.entries.main!;
  test(`${name}: only those steps are run`, (t) => {
    const { entries, at } = lowerModel(each.model, {});
    const [entry] = entries;
    const known = sampleFor(entry!, inputsOf(graph), at)!;
    t.is(countMacs(graph), each.projected * I * H + each.steps * B * H * H);
    t.is(plannedMacs(entry!.relaxed, known.sizes, known), each.kept * I * H + each.run * B * H * H);
  });

  test(`${name}: results are the same, bit by bit`, (t) => {
    const params = paramsOf(each.model);
    const want = evaluate(graph, { inputs: inputsOf(graph), params });
    const got = evaluate(runPasses(graph, pipelineFor()), { inputs: inputsOf(graph), params });
    for (const [key, { data, shape }] of Object.entries(want)) {
      t.deepEqual(got[key]!.shape, shape);
      t.true(data.every((v, i) => v === got[key]!.data[i]));
      t.true(data.some((v) => v !== 0));
    }
  });

  test(`${name}: what is read is what brute force finds to be read`, (t) => {
    const replay = new Replay(graph, inputsOf(graph), paramsOf(each.model));
    const demand = new Demand(graph);
    for (const kind of Object.keys(GARBAGE)) t.is(leak(demand, replay, kind, 7), undefined, kind);
    const { missed, extra } = precision(demand, replay);
    t.deepEqual(missed, []);
    t.deepEqual(extra, {});
  });

  test(`${name}: compiled`, async (t) => {
    const session = await open(compile(each.model, { weights: seededWeights(each.model) }));
    t.teardown(() => session.dispose());
    const want = evaluate(graph, { inputs: inputsOf(graph), params: paramsOf(each.model) });
    const inputs = Object.fromEntries(
      Object.entries(inputsOf(graph)).map(([key, { shape, dtype, data }]) => [
        key,
        { shape, data: dtype === 'i64' ? BigInt64Array.from(data, BigInt) : Float32Array.from(data) },
      ]),
    );
    const got = await session.run(inputs);
    for (const [key, { data }] of Object.entries(want))
      t.true(
        data.every((v, i) => Math.abs(v - Number(got[key]!.data[i])) < 1e-5),
        key,
      );
  });
}

test('captions of no length, of full length, and one that ends nobody: the number of steps follows', async (t) => {
  const each = CASES['the state at the length of each row']!;
  const graph = each.model.entries.main!;
  const params = paramsOf(each.model);
  const optimised = runPasses(graph, pipelineFor());
  const { entries, at } = lowerModel(each.model, {});
  for (const [lengths, steps] of [
    [[0, 0, 0], 0],
    [[7, 7, 7], 7],
    [[0, 1, 0], 1],
    [[-3, 9, 2], 7],
  ] as const) {
    const inputs = { ...inputsOf(graph), lens: nd('i64', [B], lengths) };
    const known = sampleFor(entries[0]!, inputs, at)!;
    t.is(known.sizes.steps_run, steps, `${lengths}`);
    const want = evaluate(graph, { inputs, params }).y!;
    const got = evaluate(optimised, { inputs, params }).y!;
    t.true(
      want.data.every((v, i) => v === got.data[i]),
      `${lengths}`,
    );
  }
});

test('a state that mixes its units is read throughout, one whose units stay apart only where they are read', (t) => {
  const of = (mix: boolean) => {
    const { entries } = model('m', given, ({ x }) => {
      const w = weight();
      const { outputs } = scan({ h: start() }, { x: project(x as X) }, ({ h, x }) => {
        const next = tanh(add(x, mix ? linear(h, w) : h)) as X;
        return { states: { h: next }, outputs: { y: next } };
      });
      return { y: slice(outputs.y as X, 2, { stop: 2 }) };
    });
    const graph = entries.main!;
    const scanned = [...graph.outputs.values()][0]!.inputs[0]!.inputs[0]!;
    const demand = new Demand(graph);
    return demand.of(scanned.inputs[1]!).terms.map((term) => term.length);
  };
  t.deepEqual(of(true), [0]);
  t.deepEqual(of(false), [1]);
});

test('a state that wanders is read throughout after some rounds', (t) => {
  const { entries } = model('m', given, ({ x }) => {
    const { outputs } = scan({ h: start() }, { x: project(x as X) }, ({ h, x }) => {
      const next = add(x, concat([slice(h, 1, { start: 1 }), slice(h, 1, { stop: 1 })], 1)) as X;
      return { states: { h: next }, outputs: { y: next } };
    });
    return { y: slice(outputs.y as X, 2, { stop: 1 }) };
  });
  const graph = entries.main!;
  const weights = paramsOf({ ...CASES['the last state']!.model });
  const replay = new Replay(graph, inputsOf(graph), weights);
  const demand = new Demand(graph);
  for (const kind of Object.keys(GARBAGE)) t.is(leak(demand, replay, kind, 3), undefined, kind);
  t.deepEqual(precision(demand, replay).missed, []);
});

for (const read of ['y', 'h'] as const)
  test(`an LSTM over rows of uneven length, ${read} read: as many steps as the longest row has, words projected alone`, (t) => {
    const [steps, rows, width, units] = [11, 6, 96, 24];
    const lengths = [1, 4, 2, 6, 3, 1];
    const m = model(
      'm',
      { x: input(f32, [steps, rows, width], 'words'), lens: input(i32, [rows], 'lengths') },
      ({ x, lens }) => ({
        out: nn.lstm('layer', { in: width, out: units })(x, undefined, lens as Tensor<'i32'>)[read],
      }),
    );
    const graph = m.entries.main!;
    const { entries, at } = lowerModel(m, {});
    const inputs = {
      x: nd(
        'f32',
        [steps, rows, width],
        Float64Array.from({ length: steps * rows * width }, (_, i) => Math.cos(i)),
      ),
      lens: nd('i32', [rows], lengths),
    };
    const known = sampleFor(entries[0]!, inputs, at)!;
    const words = lengths.reduce((a, b) => a + b, 0);
    t.is(countMacs(graph), steps * rows * 4 * units * (width + units));
    t.is(
      plannedMacs(entries[0]!.relaxed, known.sizes, known),
      words * 4 * units * width + 6 * rows * 4 * units * units,
    );
    const params = paramsOf(m);
    const want = evaluate(graph, { inputs, params }).out!;
    const got = evaluate(runPasses(graph, pipelineFor()), { inputs, params }).out!;
    t.deepEqual(got.shape, want.shape);
    t.true(want.data.every((v, i) => Math.abs(v - got.data[i]!) < 1e-12));
  });

test('two LSTMs on each other over any number of steps and rows run as many as the longest row has', (t) => {
  const [steps, rows] = [dim('steps', { max: 40, default: 9 }), dim('rows', { max: 8, default: 3 })];
  const m = model(
    'm',
    { x: input(f32, [steps, rows, 16], 'words'), lens: input(i32, [rows], 'lengths') },
    ({ x, lens }) => {
      const first = nn.lstm('first', { in: 16, out: 24 })(x, undefined, lens as Tensor<'i32'>);
      const second = nn.lstm('second', { in: 24, out: 24 })(first.y as never, undefined, lens as Tensor<'i32'>);
      return { y: second.y, h: second.h, c: first.c };
    },
  );
  const graph = m.entries.main!;
  const { entries, at } = lowerModel(m, {});
  const optimised = runPasses(graph, pipelineFor());
  const params = paramsOf(m);
  for (const lengths of [
    [4, 1, 6],
    [9, 2],
  ]) {
    const inputs = {
      x: nd(
        'f32',
        [9, lengths.length, 16],
        Float64Array.from({ length: 144 * lengths.length }, (_, i) => Math.cos(i)),
      ),
      lens: nd('i32', [lengths.length], lengths),
    };
    const known = sampleFor(entries[0]!, inputs, at)!;
    const longest = Math.max(...lengths);
    t.deepEqual(
      Object.entries(known.sizes).flatMap(([name, size]) => (name.startsWith('steps_run') ? [size] : [])),
      [longest, longest],
    );
    const want = evaluate(graph, { inputs, params });
    const got = evaluate(optimised, { inputs, params });
    for (const [key, { data, shape }] of Object.entries(want)) {
      t.deepEqual(got[key]!.shape, shape);
      t.true(
        data.every((v, i) => Math.abs(v - got[key]!.data[i]!) < 1e-12),
        key,
      );
    }
  }
});
