import test from 'ava';
import { graph, typeOf, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { branch, loop, scan } from '../ir/ops/control.ts';
import { add, less, mul } from '../ir/ops/elementwise.ts';
import { matmul } from '../ir/ops/linear.ts';
import { param, projectAll, scalar } from '../ir/ops/structural.ts';
import '../ir/ops/all.ts';
import { printType } from '../ir/print.ts';
import { symbol } from '../ir/scalar.ts';
import { argument, diagnosticOf, f64, resultsOf } from './support/op-run.ts';

const data = (xs: readonly Nd[]): number[][] => xs.map((x) => [...x.data]);

/** state ← state · factor + item, and the item plus the old state as result. */
function body(): ReturnType<typeof graph> {
  const [state, item, factor] = [
    argument('state', [], 'f64'),
    argument('item', [], 'f64'),
    argument('factor', [], 'f64'),
  ];
  return graph(
    'step',
    [state, item, factor],
    [
      ['next', add([mul([state, factor]), item])],
      ['y', add([state, item])],
    ],
  );
}

test('scan carries states, takes items of axis 0 and stacks results in the order of positions', (t) => {
  const inputs = [argument('start', [], 'f64'), argument('xs', [3], 'f64'), argument('by', [], 'f64')];
  const values = [f64([], 1), f64([3], 1, 2, 3), f64([], 10)];
  const at = (reverse: boolean): number[][] =>
    data(resultsOf(projectAll(scan(inputs, { body: body(), carried: 1, closed: 1, reverse })), inputs, values));
  t.deepEqual(at(false), [[1123], [2, 13, 115]]);
  t.deepEqual(at(true), [[1321], [133, 15, 4]]);
});

test('a scan without steps gives the initial states and empty stacks', (t) => {
  const inputs = [argument('start', [], 'f64'), argument('xs', [0], 'f64'), argument('by', [], 'f64')];
  const out = resultsOf(projectAll(scan(inputs, { body: body(), carried: 1, closed: 1 })), inputs, [
    f64([], 7),
    f64([0]),
    f64([], 2),
  ]);
  t.deepEqual(data(out), [[7], []]);
});

test('a scan with one result is a plain value, and its steps may be symbolic', (t) => {
  const steps = symbol('T', { max: 16 });
  const item = argument('item', [2]);
  const doubled = graph('double', [item], [['y', add([item, item])]]);
  t.is(printType(scan([argument('xs', [steps, 2])], { body: doubled, carried: 0 }).type), 'f32[T, 2]');
});

test('a scan counts the multiply-accumulates of every step', (t) => {
  const [state, item] = [argument('state', [2, 3]), argument('item', [3, 3])];
  const step = graph('step', [state, item], [['next', matmul([state, item])]]);
  const value = scan([argument('start', [2, 3]), argument('xs', [5, 3, 3])], { body: step, carried: 1 });
  t.is(value.op.macs!(value.inputs.map(typeOf), value.attrs, value.type), 5 * 2 * 3 * 3);
});

test('scan refuses bodies that change a state, miss an operand or read outer values', (t) => {
  const message = (inputs: Value[], g: ReturnType<typeof graph>, carried: number, closed = 0): string =>
    diagnosticOf(() => scan(inputs, { body: g, carried, closed })).message;
  const [state, item, outer] = [argument('state', []), argument('item', []), argument('outer', [])];
  const start = argument('start', []);
  const xs = argument('xs', [4]);
  t.is(message([start, xs], graph('g', [state], [['next', state]]), 1), 'scan: the body has 1 inputs, but is given 2');
  t.is(
    message([start, xs], graph('g', [state, item], [['next', add([state, outer])]]), 1),
    'scan: the body reads input "outer", which is not its own',
  );
  const weight = param([], { name: 'w', dtype: 'f32', shape: [] });
  t.is(
    message([start, xs], graph('g', [state, item], [['next', mul([state, weight])]]), 1),
    'scan: the body reads parameter "w"',
  );
  const wide = argument('item', [2]);
  t.is(
    message([start, argument('xs', [4, 2])], graph('g', [state, wide], [['next', wide]]), 1),
    'scan: state 0 after a step is f32[2], but must be f32',
  );
  t.is(
    message([start, xs], graph('g', [state, wide], [['next', state]]), 1),
    'scan: the body input 1, item of x 0, is f32[2], but must be f32',
  );
  t.is(
    message([start, xs], graph('g', [state, item], [['next', state]]), 2),
    'scan: 2 operands less 2 states and 0 closed values leave nothing to scan',
  );
});

test('if runs one branch on the operands behind the condition', (t) => {
  const arms = (f: (x: Value) => Value): ReturnType<typeof graph> => {
    const x = argument('x', [2], 'f64');
    return graph('arm', [x], [['y', f(x)]]);
  };
  const inputs = [argument('c', [], 'bool'), argument('x', [2], 'f64')];
  const value = branch(inputs, { then: arms((x) => add([x, x])), else: arms((x) => mul([x, x])) });
  t.is(printType(value.type), 'f64[2]');
  t.deepEqual(data(resultsOf([value], inputs, [nd('bool', [], [1]), f64([2], 3, 5)])), [[6, 10]]);
  t.deepEqual(data(resultsOf([value], inputs, [nd('bool', [], [0]), f64([2], 3, 5)])), [[9, 25]]);
});

test('if refuses branches of different types and a condition that is not one bool', (t) => {
  const [x, y] = [argument('x', [2]), argument('y', [2])];
  const same = graph('a', [x], [['y', x]]);
  const other = graph('b', [y], [['y', less([y, y])]]);
  t.is(
    diagnosticOf(() => branch([argument('c', [], 'bool'), x], { then: same, else: other })).message,
    'if: result 0 of the branches differs, f32[2] and bool[2]',
  );
  t.is(
    diagnosticOf(() => branch([argument('c', [2], 'bool'), x], { then: same, else: same })).message,
    'if: the condition must be one bool, not bool[2]',
  );
});

/** Doubles a state while it is below 20; gives the old state as an item. */
function doubling(): ReturnType<typeof graph> {
  const [trip, going, state] = [
    argument('trip', [], 'i64'),
    argument('going', [], 'bool'),
    argument('state', [], 'f64'),
  ];
  const next = add([state, state]);
  return graph(
    'trip',
    [trip, going, state],
    [
      ['going', less([next, scalar(20, 'f64')])],
      ['next', next],
      ['y', state],
    ],
  );
}

test('loop stops at its condition or its trips; stacks are padded with zeros', (t) => {
  const inputs = [argument('trips', [], 'i64'), argument('go', [], 'bool'), argument('start', [], 'f64')];
  const value = loop(inputs, { body: doubling(), carried: 1, maxTrips: 6 });
  t.is(printType(value.type), '(f64, f64[6])');
  const at = (trips: number, go: number): number[][] =>
    data(resultsOf(projectAll(value), inputs, [nd('i64', [], [trips]), nd('bool', [], [go]), f64([], 3)]));
  t.deepEqual(at(6, 1), [[24], [3, 6, 12, 0, 0, 0]]);
  t.deepEqual(at(2, 1), [[12], [3, 6, 0, 0, 0, 0]]);
  t.deepEqual(at(6, 0), [[3], [0, 0, 0, 0, 0, 0]]);
  const short = loop(inputs, { body: doubling(), carried: 1, maxTrips: 2 });
  const run = (): unknown =>
    resultsOf(projectAll(short), inputs, [nd('i64', [], [9]), nd('bool', [], [1]), f64([], 3)]);
  t.is(diagnosticOf(run).message, 'loop: runs more than maxTrips = 2 times');
});
