import test from 'ava';
import { graph, typeOf } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { gru, lstm, rnn } from '../ir/ops/recurrent.ts';
import { project } from '../ir/ops/structural.ts';
import '../ir/ops/all.ts';
import { printType } from '../ir/print.ts';
import { symbol } from '../ir/scalar.ts';
import { verifyGraph } from '../ir/verify.ts';
import { runLowering } from './support/lowering.ts';
import { argument, diagnosticOf, f64, near, resultsOf, run, runAll, wave } from './support/op-run.ts';

/** Operands with the weights of the PyTorch runs below: T 3, B 2, I 2, H 2, G gates. */
const layer = (gates: number, ...states: ReturnType<typeof wave>[]) => [
  wave(1.1, 3, 2, 2),
  wave(0.7, gates * 2, 2),
  wave(1.3, gates * 2, 2),
  wave(0.9, 2 * gates * 2),
  ...states,
];
const [h0, c0] = [wave(0.4, 2, 2), wave(0.6, 2, 2)];
const lens = nd('i64', [2], [3, 1]);

// torch.nn.LSTM(2, 2) with weight_ih_l0 = wave(0.7, 8, 2), weight_hh_l0 = wave(1.3, 8, 2), both biases from wave(0.9, 16),
// on wave(1.1, 3, 2, 2) from (wave(0.4, 2, 2), wave(0.6, 2, 2)), f64; lengths by pack_padded_sequence
test('lstm agrees with PyTorch, with and without lengths', (t) => {
  const [y, h, c] = runAll(lstm, layer(4, h0, c0));
  t.true(
    near(
      y!.data,
      [
        -0.257726852, 0.47043371, -0.00895407161, -0.0533582014, -0.46616359, -0.370126577, -0.49498008, 0.290352109,
        -0.672440312, -0.69347683, -0.506298849, -0.413790272,
      ],
    ),
  );
  t.deepEqual([...h!.data], [...y!.data.slice(8)]);
  t.true(near(c!.data, [-1.0862959, -0.971943505, -0.965672338, -0.552042569]));
  const [py, ph, pc] = runAll(lstm, [...layer(4, h0, c0), lens]);
  t.true(
    near(
      py!.data,
      [
        -0.257726852, 0.47043371, -0.00895407161, -0.0533582014, -0.46616359, -0.370126577, 0, 0, -0.672440312,
        -0.69347683, 0, 0,
      ],
    ),
  );
  t.true(near(ph!.data, [-0.672440312, -0.69347683, -0.00895407161, -0.0533582014]));
  t.true(near(pc!.data, [-1.0862959, -0.971943505, -0.0216836195, -0.054118742]));
});

// torch.nn.GRU likewise
test('gru agrees with PyTorch', (t) => {
  const [y] = runAll(gru, layer(3, h0));
  t.true(
    near(
      y!.data,
      [
        0.134123408, 0.383999103, 0.875090159, 0.125057861, 0.00123989257, -0.216405248, 0.338862174, 0.447235813,
        -0.0925592119, -0.392159646, 0.144763323, -0.254579407,
      ],
    ),
  );
  const [, h] = runAll(gru, [...layer(3, h0), lens]);
  t.true(near(h!.data, [-0.0925592119, -0.392159646, 0.875090159, 0.125057861]));
});

// torch.nn.RNN likewise
test('rnn agrees with PyTorch', (t) => {
  const [y] = runAll(rnn, layer(1, h0));
  t.true(
    near(
      y!.data,
      [
        0.997423528, 0.584902328, 0.919330206, -0.895240857, 0.981087428, -0.826207717, 0.993304263, 0.940097088,
        0.421847716, -0.142472723, 0.994494755, -0.824966356,
      ],
    ),
  );
});

test('a gru that resets its state first differs from one that resets the product by its bias', (t) => {
  // One unit, z = σ(−100) ≈ 0, r = σ(0) = ½, h = 2: n = tanh(½·2·1 + 3) against tanh(½·(2·1 + 3)).
  const operands = [
    f64([1, 1, 1], 0),
    f64([3, 1], 0, 0, 0),
    f64([3, 1], 0, 0, 1),
    f64([6], 0, -100, 0, 0, 0, 3),
    f64([1, 1], 2),
  ];
  t.true(near(run(gru, operands, { linearBeforeReset: false }), [Math.tanh(4)]));
  t.true(near(run(gru, operands), [Math.tanh(2.5)]));
});

test('a reversed layer reads each row from its own last step', (t) => {
  // relu with w = r = 1 sums what it has read; rows have lengths 3 and 2.
  const operands = [
    f64([3, 2, 1], 1, 10, 2, 20, 3, 30),
    f64([1, 1], 1),
    f64([1, 1], 1),
    f64([1], 0),
    f64([2, 1], 0, 0),
    nd('i32', [2], [3, 2]),
  ];
  const [y, h] = runAll(rnn, operands, { reverse: true, activation: 'relu' });
  t.deepEqual([...y!.data], [6, 30, 5, 20, 3, 0]);
  t.deepEqual([...h!.data], [6, 30]);
});

test('the scan of an lstm takes symbolic steps and rows, and verifies', (t) => {
  const [n, s] = [symbol('B', { max: 8 }), symbol('T', { max: 8 })];
  const inputs = [
    argument('x', [s, n, 2], 'f64'),
    argument('w', [8, 2], 'f64'),
    argument('r', [8, 2], 'f64'),
    argument('bias', [16], 'f64'),
    argument('h0', [n, 2], 'f64'),
    argument('c0', [n, 2], 'f64'),
    argument('lens', [n], 'i64'),
  ];
  const value = lstm(inputs, { reverse: true });
  t.is(printType(value.type), '(f64[T, B, 2], f64[B, 2], f64[B, 2])');
  const at = [...layer(4, h0, c0), lens];
  const want = resultsOf(
    [0, 1, 2].map((i) => project(value, i)),
    inputs,
    at,
  );
  const got = runLowering(value, at, 'f64')!;
  for (const [i, x] of got.entries()) t.true(near(x.data, [...want[i]!.data], 1e-12));
  const { lower } = value.op;
  if (lower.kind !== 'decompose') throw new Error('not decomposed');
  const built = lower.build(inputs, value.attrs);
  const outputs = 'kind' in built ? [built] : built;
  t.notThrows(() =>
    verifyGraph(
      graph(
        'lstm',
        inputs,
        outputs.map((v, i) => [`o${i}`, v] as const),
      ),
    ),
  );
});

test('multiply-accumulates are those of all steps, in the layer and in its scan', (t) => {
  const inputs = layer(4, h0, c0).map((x, i) => argument(`x${i}`, x.shape, 'f64'));
  const value = lstm(inputs);
  t.is(value.op.macs!(inputs.map(typeOf), value.attrs, value.type), 3 * 2 * 8 * (2 + 2));
});

test('layers refuse weights, biases and lengths of the wrong shape', (t) => {
  const ok = layer(4, h0, c0).map((x, i) => argument(['x', 'w', 'r', 'b', 'h0', 'c0'][i]!, x.shape));
  const message = (n: number, shape: number[], dtype: 'f32' | 'i32' = 'f32'): string =>
    diagnosticOf(() => lstm(ok.map((v, i) => (i === n ? argument('other', shape, dtype) : v)))).message;
  t.is(message(1, [6, 2]), 'lstm: w must be [8, 2], not f32[6, 2]');
  t.is(message(3, [9]), 'lstm: b must be f32[8] or f32[16], not f32[9]');
  t.is(message(5, [2, 3]), 'lstm: c0 must be [2, 2], not f32[2, 3]');
  t.is(diagnosticOf(() => lstm([...ok, argument('lens', [2])])).message, 'lstm: lens must be i32 or i64, not f32');
});
