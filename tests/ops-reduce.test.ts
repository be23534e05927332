import test from 'ava';
import { nd } from '../ir/nd.ts';
import { argMax, argMin, cumsum, topK } from '../ir/ops/order.ts';
import {
  logSumExp,
  reduceAll,
  reduceAny,
  reduceMax,
  reduceMean,
  reduceMin,
  reduceProd,
  reduceSum,
} from '../ir/ops/reduce.ts';
import '../ir/ops/all.ts';
import { typeOf } from '../ir/graph.ts';
import { printType } from '../ir/print.ts';
import { symbol } from '../ir/scalar.ts';
import { argument, diagnosticOf, f64, gradientError, near, run, runAll, wave } from './support/op-run.ts';

const grid = f64([2, 3], 1, 2, 3, 4, 5, 6);

test('sums fold the named axes and keep the order of the others', (t) => {
  t.deepEqual(run(reduceSum, [grid], { axes: [0] }), [5, 7, 9]);
  t.deepEqual(run(reduceSum, [grid], { axes: [-1] }), [6, 15]);
  t.deepEqual(run(reduceSum, [grid], { axes: [0, 1] }), [21]);
  t.deepEqual(run(reduceSum, [grid], { axes: [] }), [1, 2, 3, 4, 5, 6]);
  t.deepEqual(run(reduceMean, [grid], { axes: [1] }), [2, 5]);
  t.deepEqual(run(reduceProd, [grid], { axes: [1] }), [6, 120]);
  t.deepEqual(runAll(reduceMax, [grid], { axes: [1], keepdims: true })[0]!.shape, [2, 1]);
});

test('a fold over nothing gives the neutral element, and the mean of nothing is NaN', (t) => {
  const empty = f64([2, 0]);
  t.deepEqual(run(reduceSum, [empty], { axes: [1] }), [0, 0]);
  t.deepEqual(run(reduceProd, [empty], { axes: [1] }), [1, 1]);
  t.deepEqual(run(reduceMax, [empty], { axes: [1] }), [-Infinity, -Infinity]);
  t.deepEqual(run(reduceMin, [empty], { axes: [1] }), [Infinity, Infinity]);
  t.deepEqual(run(reduceMean, [empty], { axes: [1] }), [NaN, NaN]);
  t.deepEqual(run(reduceMax, [nd('i8', [0])], { axes: [0] }), [-128]);
  t.deepEqual(run(reduceMin, [nd('u8', [0])], { axes: [0] }), [255]);
  t.deepEqual(run(reduceAll, [nd('bool', [0])], { axes: [0] }), [1]);
  t.deepEqual(run(reduceAny, [nd('bool', [0])], { axes: [0] }), [0]);
});

test('integer sums and products wrap at the width of their type', (t) => {
  t.deepEqual(run(reduceSum, [nd('i8', [3], [100, 100, 1])], { axes: [0] }), [-55]);
  t.deepEqual(run(reduceSum, [nd('u8', [2], [200, 100])], { axes: [0] }), [44]);
  t.deepEqual(run(reduceProd, [nd('i32', [2], [65537, 65537])], { axes: [0] }), [131073]);
});

test('a NaN survives the extrema, and infinities do not stop log_sum_exp', (t) => {
  const x = f64([3, 2], 1, NaN, 100, 101, -Infinity, -Infinity);
  t.deepEqual(run(reduceMax, [x], { axes: [1] }), [NaN, 101, -Infinity]);
  t.deepEqual(run(reduceMin, [x], { axes: [1] }), [NaN, 100, -Infinity]);
  const lse = run(logSumExp, [f64([4, 2], 100, 100, -Infinity, -Infinity, Infinity, 0, 1000, -1000)], { axes: [1] });
  t.true(near(lse, [100 + Math.LN2, -Infinity, Infinity, 1000]));
});

test('reductions of symbolic sizes keep the symbols that remain', (t) => {
  const n = symbol('N', { max: 64 });
  const x = argument('x', [n, 3, n]);
  t.is(printType(typeOf(reduceSum([x], { axes: [0] }))), 'f32[3, N]');
  t.is(printType(typeOf(argMax([x], { axis: -1 }))), 'i64[N, 3]');
});

test('reductions refuse axes that do not exist, repeated axes, and wrong types', (t) => {
  const x = argument('x', [2, 3]);
  t.is(diagnosticOf(() => reduceSum([x], { axes: [2] })).message, 'reduce_sum: axis 2 does not exist in rank 2');
  t.is(diagnosticOf(() => reduceSum([x], { axes: [1, -1] })).message, 'reduce_sum: axes [1, -1] name one axis twice');
  t.is(diagnosticOf(() => reduceAll([x], { axes: [0] })).message, 'reduce_all: x must be bool, not f32');
  t.is(
    diagnosticOf(() => reduceMean([argument('i', [2], 'i32')], { axes: [0] })).message,
    'reduce_mean: x must be float, not i32',
  );
});

test('arg_max takes the first of equals, the last when asked, and counts NaN as largest', (t) => {
  const x = f64([2, 4], 3, 1, 3, 1, 0, -0, NaN, NaN);
  t.deepEqual(run(argMax, [x], { axis: 1 }), [0, 2]);
  t.deepEqual(run(argMax, [x], { axis: 1, last: true }), [2, 3]);
  t.deepEqual(run(argMin, [x], { axis: 1 }), [1, 2]);
  t.deepEqual(run(argMin, [x], { axis: 0 }), [1, 1, 1, 1]);
  t.is(
    diagnosticOf(() => argMax([argument('x', [2, 0])], { axis: 1 })).message,
    'arg_max: axis 1 is empty, so it has no extremum',
  );
});

test('top_k orders values, takes the lowest position among equals, and ranks NaN first', (t) => {
  const x = f64([6], 2, NaN, 2, -Infinity, 7, 2);
  const [values, positions] = runAll(topK, [x], { k: 4 });
  t.deepEqual([...values!.data], [NaN, 7, 2, 2]);
  t.deepEqual([...positions!.data], [1, 4, 0, 2]);
  const [low] = runAll(topK, [f64([2, 3], 3, 1, 2, 9, 8, 7)], { k: 1, axis: 0, largest: false });
  t.deepEqual([...low!.data], [3, 1, 2]);
  const tooMany = diagnosticOf(() => topK([argument('x', [3])], { k: 4 }));
  t.is(tooMany.message, 'top_k: k is 4, more than the 3 elements of the axis');
});

test('running sums run both ways, with or without the element itself', (t) => {
  const x = f64([4], 1, 2, 3, 4);
  t.deepEqual(run(cumsum, [x], { axis: 0 }), [1, 3, 6, 10]);
  t.deepEqual(run(cumsum, [x], { axis: 0, exclusive: true }), [0, 1, 3, 6]);
  t.deepEqual(run(cumsum, [x], { axis: 0, reverse: true }), [10, 9, 7, 4]);
  t.deepEqual(run(cumsum, [x], { axis: 0, exclusive: true, reverse: true }), [9, 7, 4, 0]);
  t.deepEqual(run(cumsum, [grid], { axis: 0 }), [1, 2, 3, 5, 7, 9]);
});

for (const op of [reduceSum, reduceMean, reduceMax, reduceMin, reduceProd, logSumExp])
  test(`${op.def.name}: its gradient agrees with differences`, (t) => {
    t.true(gradientError(op, [wave(0.7, 2, 3, 2)], { axes: [1] }) < 1e-8);
    t.true(gradientError(op, [wave(0.7, 2, 3)], { axes: [0, 1], keepdims: true }) < 1e-8);
  });

test('cumsum: its gradient agrees with differences', (t) => {
  t.true(gradientError(cumsum, [wave(0.7, 2, 3)], { axis: 1, exclusive: true }) < 1e-8);
});
