import test from 'ava';
import { graph, graphValues, typeOf, type Value } from '../ir/graph.ts';
import { conv, convTranspose, im2col } from '../ir/ops/conv.ts';
import { avgPool, maxPool } from '../ir/ops/pool.ts';
import '../ir/ops/all.ts';
import { printType } from '../ir/print.ts';
import { symbol } from '../ir/scalar.ts';
import { runLowering } from './support/lowering.ts';
import { argument, diagnosticOf, f64, near, resultsOf, run, runAll, wave } from './support/op-run.ts';

test('conv slides weights over the input without flipping them', (t) => {
  const x = f64([1, 1, 4], 1, 2, 3, 4);
  t.deepEqual(run(conv, [x, f64([1, 1, 2], 1, 10)]), [21, 32, 43]);
  t.deepEqual(run(conv, [x, f64([1, 1, 2], 1, 10), f64([1], 100)], { strides: [2], pads: [1, 1] }), [110, 132, 104]);
  t.deepEqual(run(conv, [x, f64([1, 1, 2], 1, 10)], { dilations: [2] }), [31, 42]);
});

// torch.nn.functional.conv2d(wave(1.1, 1, 2, 3, 4), wave(0.7, 2, 2, 2, 3), wave(0.3, 2), stride=(1, 2), padding=(1, 1),
// dilation=(2, 1)) and conv2d(x, wave(0.7, 4, 1, 2, 3), groups=2), f64
test('conv agrees with PyTorch on stride, padding, dilation and groups', (t) => {
  const x = wave(1.1, 1, 2, 3, 4);
  const got = run(conv, [x, wave(0.7, 2, 2, 2, 3), wave(0.3, 2)], {
    strides: [1, 2],
    pads: [1, 1, 1, 1],
    dilations: [2, 1],
  });
  t.true(
    near(
      got,
      [
        0.819608598, 0.947119685, 0.714848276, -0.265921252, -0.0230897503, 0.615339118, 0.345976386, -0.416030609,
        2.06483368, 0.535878472, 1.08970912, 1.20351274,
      ],
    ),
  );
  t.true(
    near(
      run(conv, [x, wave(0.7, 4, 1, 2, 3)], { groups: 2 }),
      [
        0.0278019212, -1.20810442, 1.2948954, 0.986103564, -0.699785892, 0.970294601, -1.15991251, -1.51535965,
        0.502708847, -0.153140278, 0.25249877, 0.65801232, -0.784463848, -1.38908509, 1.34436778, 0.26206934,
      ],
    ),
  );
});

// torch.nn.functional.conv_transpose2d(wave(1.1, 1, 2, 2, 3), wave(0.7, 2, 3, 2, 3), wave(0.3, 3), stride=(2, 1),
// padding=(1, 1), output_padding=(1, 0)), f64
test('conv_transpose agrees with PyTorch', (t) => {
  const got = run(convTranspose, [wave(1.1, 1, 2, 2, 3), wave(0.7, 2, 3, 2, 3), wave(0.3, 3)], {
    strides: [2, 1],
    pads: [1, 1, 1, 1],
    outputPadding: [1, 0],
  });
  t.true(
    near(
      got,
      [
        0.0534846279, -2.05691767, -0.698152958, -2.38842536, -1.9152138, 0.199724002, 0.63874988, 2.71559203,
        0.974046475, 3.35638905, 3.1169808, 1.13485134, 2.90203171, 0.331848806, -0.0246640092, -2.1386309, -1.6203794,
        0.481134369, -1.71200545, 0.633141821, 1.21789794, 1.17541174, 3.22232014, 1.45695087, 3.09071529, 0.505716321,
        0.186682145,
      ],
    ),
  );
});

// torch.nn.functional.{avg,max}_pool2d(wave(1.1, 1, 1, 4, 5), (2, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True), f64
test('pools agree with PyTorch on padding and the last partial window', (t) => {
  const x = wave(1.1, 1, 1, 4, 5);
  const attrs = { kernel: [2, 3], strides: [2, 2], pads: [1, 1, 1, 1], ceil: true };
  t.true(
    near(
      run(avgPool, [x], { ...attrs, countIncludePad: true }),
      [
        0.283283961, -0.050141894, -0.2761904, 0.240355941, 0.499585561, -0.311032181, -0.182973921, 0.258638707,
        0.14638437,
      ],
    ),
  );
  t.true(
    near(
      run(avgPool, [x], attrs),
      [
        0.849851882, -0.100283788, -0.8285712, 0.360533912, 0.499585561, -0.466548271, -0.548921762, 0.517277413,
        0.43915311,
      ],
    ),
  );
  t.true(
    near(
      run(maxPool, [x], attrs),
      [
        0.89120736, 0.808496404, -0.705540326, 0.988168234, 0.988168234, 0.303118357, -0.148999026, 0.887157529,
        0.887157529,
      ],
    ),
  );
});

test('ceil adds no window that would start behind the input', (t) => {
  const sizeOf = (size: number, attrs: { strides: number[]; ceil: boolean }): string =>
    printType(typeOf(maxPool([argument('x', [1, 1, size])], { kernel: [2], ...attrs })));
  t.is(sizeOf(5, { strides: [2], ceil: false }), 'f32[1, 1, 2]');
  t.is(sizeOf(5, { strides: [2], ceil: true }), 'f32[1, 1, 3]');
  t.is(sizeOf(6, { strides: [5], ceil: true }), 'f32[1, 1, 2]');
  t.is(sizeOf(5, { strides: [5], ceil: true }), 'f32[1, 1, 1]');
});

test('im2col puts the channels and taps of each window in one row', (t) => {
  const [out] = runAll(im2col, [f64([1, 2, 3], 1, 2, 3, 4, 5, 6)], { kernel: [2], pads: [1, 0] });
  t.deepEqual(out!.shape, [1, 3, 4]);
  t.deepEqual([...out!.data], [0, 1, 0, 4, 1, 2, 4, 5, 2, 3, 5, 6]);
});

/** Names of the ops that a convolution is made of. */
function loweredOps(value: Value): string[] {
  const { lower } = value.op;
  if (lower.kind !== 'decompose') throw new Error('not decomposed');
  const built = lower.build(value.inputs, value.attrs) as Value;
  return graphValues(graph('g', [], [['o', built]]))
    .map((v) => v.op.name)
    .filter((name) => name !== 'input');
}

test('a convolution becomes a product of windows with the weights on the right', (t) => {
  const of = (x: number[], w: number[], attrs = {}): string =>
    loweredOps(conv([argument('x', x), argument('w', w)], attrs)).join(' ');
  t.is(of([2, 3, 8, 8], [5, 3, 3, 3]), 'im2col reshape matmul transpose reshape');
  t.is(of([2, 3, 8, 8], [5, 3, 1, 1]), 'reshape reshape matmul reshape');
  t.is(of([2, 3, 8, 8], [3, 1, 3, 3], { groups: 3 }), 'depthwise_conv');
});

test('a convolution decomposes with symbolic batch and image size', (t) => {
  const [n, s] = [symbol('N', { max: 4 }), symbol('S', { min: 4, max: 16 })];
  const weights = { plain: [6, 4, 3, 2], grouped: [6, 2, 3, 2], pointwise: [6, 4, 1, 1] };
  const groups = { plain: 1, grouped: 2, pointwise: 1 };
  for (const kind of ['plain', 'grouped', 'pointwise'] as const) {
    const inputs = [argument('x', [n, 4, s, 7], 'f64'), argument('w', weights[kind], 'f64')];
    const attrs = { groups: groups[kind], ...(kind === 'pointwise' ? {} : { pads: [1, 0, 1, 1], strides: [2, 1] }) };
    const value = conv(inputs, attrs);
    const at = [wave(1.1, 2, 4, 5, 7), wave(0.7, ...weights[kind])];
    const [want] = resultsOf([value], inputs, at);
    const [got] = runLowering(value, at, 'f64')!;
    t.deepEqual(got!.shape, want!.shape, kind);
    t.true(near(got!.data, [...want!.data], 1e-12), kind);
  }
});

test('multiply-accumulates count every tap of every result', (t) => {
  const macs = (v: Value) => v.op.macs!(v.inputs.map(typeOf), v.attrs, v.type);
  // ViT-B/16 patches: 196 positions of 768 results from 3·16·16 inputs.
  const patches = conv([argument('x', [1, 3, 224, 224]), argument('w', [768, 3, 16, 16])], { strides: [16, 16] });
  t.is(macs(patches), 196 * 768 * 768);
  t.is(macs(conv([argument('x', [2, 4, 9]), argument('w', [6, 2, 3])], { groups: 2 })), 2 * 6 * 7 * 2 * 3);
  t.is(macs(convTranspose([argument('x', [2, 4, 9]), argument('w', [4, 6, 3])])), 2 * 4 * 9 * 6 * 3);
});

test('convolutions refuse sizes that do not fit', (t) => {
  const x = argument('x', [1, 4, 5, 5]);
  const message = (w: number[], attrs = {}): string => diagnosticOf(() => conv([x, argument('w', w)], attrs)).message;
  t.is(message([8, 3, 3, 3]), 'conv: x has 4 channels, but the weights take 3 in each of 1 groups');
  t.is(message([8, 4, 7, 3]), 'conv: a window of 7 positions does not fit into 5 with padding 0 and 0');
  t.is(message([8, 4, 3]), 'conv: weights must have the rank of x, 4, not f32[8, 4, 3]');
  t.is(message([8, 4, 3, 3], { strides: [2] }), 'conv: strides has 1 items for 2 spatial axes; it needs 2');
  t.is(message([8, 4, 3, 3], { pads: [1, 1] }), 'conv: pads has 2 items for 2 spatial axes; it needs 4');
  t.is(message([7, 2, 3, 3], { groups: 2 }), 'conv: 7 output channels do not form 2 groups');
});
