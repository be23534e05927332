import test from 'ava';
import { typeOf } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { batchNorm, groupNorm, l2Normalize, layerNorm, logSoftmax, rmsNorm, softmax } from '../ir/ops/norm.ts';
import '../ir/ops/all.ts';
import { symbol } from '../ir/scalar.ts';
import { runLowering } from './support/lowering.ts';
import { argument, diagnosticOf, f64, gradientError, near, resultsOf, run, wave } from './support/op-run.ts';

test('softmax weighs by exponentials, without overflow', (t) => {
  const [x, y] = [1 / (1 + Math.E), Math.E / (1 + Math.E)];
  t.true(near(run(softmax, [f64([2, 2], 1000, 1001, -1, -2)]), [x, y, y, x]));
  t.true(near(run(softmax, [f64([2, 2], 0, 1, 1, 0)], { axis: 0 }), [x, y, y, x]));
  t.true(near(run(logSoftmax, [f64([1, 2], 0, 1000)]), [-1000, 0]));
});

test('a line of −∞ only has no softmax, a line with one live element has', (t) => {
  t.deepEqual(run(softmax, [f64([2, 2], -Infinity, -Infinity, -Infinity, 3)]), [NaN, NaN, 0, 1]);
});

test('a softmax of another axis than the last becomes one of the last between two transposes', (t) => {
  for (const op of [softmax, logSoftmax]) {
    const x = wave(0.7, 2, 3, 4);
    const from = argument('x', x.shape, 'f64');
    const value = op([from], { axis: 1 });
    const { lower } = value.op;
    if (lower.kind !== 'schedule') throw new Error('not a schedule');
    const adapted = lower.adapt!([from], value.attrs)!;
    t.is(adapted.op.name, 'transpose');
    t.is(adapted.inputs[0]!.attrs.axis, -1);
    const [want, got] = resultsOf([value, adapted], [from], [x]);
    t.deepEqual(got, want);
    t.is(lower.adapt!([from], op([from], { axis: 2 }).attrs), undefined);
  }
});

// torch.nn.functional.layer_norm(wave(1.1, 2, 3), (3,), wave(0.7, 3), wave(0.3, 3), 1e-3), f64
test('layer_norm agrees with PyTorch', (t) => {
  const got = run(layerNorm, [wave(1.1, 2, 3), wave(0.7, 3), wave(0.3, 3)], { eps: 1e-3 });
  t.true(near(got, [0.804731301, 1.17278314, -0.431686197, -0.296227552, 0.102202068, 1.98130689]));
});

test('layer_norm of one element is the bias', (t) => {
  t.deepEqual(run(layerNorm, [f64([2, 1], 5, -3), f64([1], 2), f64([1], 7)]), [7, 7]);
});

test('rms_norm and l2_normalize divide a 3-4-5 line by its norm', (t) => {
  t.true(
    near(run(rmsNorm, [f64([1, 2], 3, -4), f64([2], 1, 10)], { eps: 0 }), [3 / Math.sqrt(12.5), -40 / Math.sqrt(12.5)]),
  );
  t.true(near(run(l2Normalize, [f64([2, 2], 3, 0, -4, 0)], { axis: 0 }), [0.6, 0, -0.8, 0]));
});

// torch.nn.functional.group_norm(wave(1.1, 1, 4, 3), 2, wave(0.7, 4), wave(0.3, 4), 1e-3), f64
test('group_norm agrees with PyTorch', (t) => {
  const got = run(groupNorm, [wave(1.1, 1, 4, 3), wave(0.7, 4), wave(0.3, 4)], { groups: 2, eps: 1e-3 });
  t.true(
    near(
      got,
      [
        1.08122366, 1.00552453, 0.12119559, -0.813422387, -0.468934611, 0.954985247, 1.92289304, 1.43670442,
        0.179847566, 0.444036848, 0.701536023, 1.18894554,
      ],
    ),
  );
});

test('batch_norm uses the given statistics of each channel', (t) => {
  const stats = [f64([2], 2, 3), f64([2], 10, 20), f64([2], 1, 2), f64([2], 4, 9)];
  t.deepEqual(run(batchNorm, [f64([1, 2, 2], 3, 5, 8, 2), ...stats], { eps: 0 }), [12, 14, 26, 20]);
});

test('group_norm decomposes with symbolic batch and positions', (t) => {
  const [n, s] = [symbol('N', { max: 8 }), symbol('S', { max: 8 })];
  const inputs = [argument('x', [n, 4, s], 'f64'), argument('scale', [4], 'f64'), argument('bias', [4], 'f64')];
  const value = groupNorm(inputs, { groups: 2 });
  const values = [wave(1.1, 3, 4, 5), wave(0.7, 4), wave(0.3, 4)];
  const [want] = resultsOf([value], inputs, values);
  t.true(near(runLowering(value, values, 'f64')![0]!.data, [...want!.data], 1e-12));
});

test('norms refuse vectors of another size than their axis', (t) => {
  const x = argument('x', [2, 5]);
  t.is(diagnosticOf(() => layerNorm([x, argument('scale', [4])])).message, 'layer_norm: scale must be [5], not f32[4]');
  t.is(
    diagnosticOf(() => layerNorm([x, argument('scale', [5]), argument('bias', [2])])).message,
    'layer_norm: bias must be [5], not f32[2]',
  );
  t.is(diagnosticOf(() => softmax([argument('i', [2], 'i32')])).message, 'softmax: x must be float, not i32');
  t.is(
    diagnosticOf(() => groupNorm([argument('x', [1, 5]), argument('s', [5]), argument('b', [5])], { groups: 2 }))
      .message,
    'group_norm: 5 channels do not form 2 groups',
  );
});

test('gradients of softmax and the norms agree with differences', (t) => {
  const x = wave(0.7, 2, 3, 4);
  t.true(gradientError(softmax, [x]) < 1e-8);
  t.true(gradientError(softmax, [x], { axis: 1 }) < 1e-8);
  t.true(gradientError(logSoftmax, [x], { axis: 0 }) < 1e-8);
  t.true(gradientError(layerNorm, [x, wave(1.1, 4), wave(0.3, 4)]) < 1e-7);
  t.true(gradientError(layerNorm, [x]) < 1e-7);
  t.true(gradientError(rmsNorm, [x, wave(1.1, 4)]) < 1e-7);
});

test('axes of a norm: lines mix, vectors follow the last axis', (t) => {
  const inputs = [argument('x', [2, 3, 5]), argument('scale', [5])];
  const value = makeValue(layerNorm.def, inputs);
  t.deepEqual(value.op.axes!(inputs.map(typeOf), value.attrs), [[0, 1, 'mix'], [2]]);
});
