import test from 'ava';
import { typeOf, type Value } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { attention, attentionWeights, coords, type EmptyRow, shiftOperands } from '../ir/ops/attention.ts';
import '../ir/ops/all.ts';
import { printExpr, printType } from '../ir/print.ts';
import * as sc from '../ir/scalar.ts';
import { runLowering } from './support/lowering.ts';
import { argument, diagnosticOf, f64, near, resultsOf, run, runAll, wave } from './support/op-run.ts';

const { b, h, q, k } = coords;
/** One head, one query, keys whose scores are their own numbers, values that show which keys were read. */
const query = f64([1, 1, 1, 1], 1);
const keys = (...scores: number[]) => f64([1, 1, scores.length, 1], ...scores);
const values = (...vs: number[]) => f64([1, 1, vs.length, 1], ...vs);
const never = sc.lt(k, 0);
const nothing = sc.lt(k, sc.operand(3, 'i32', []));
const zeroKeys = nd('i32', [], [0]);

test('attention averages values by the softmax of scaled scores', (t) => {
  const e = Math.exp(0.5);
  t.true(near(run(attention, [query, keys(0, 1), values(10, 20)], { scale: 0.5 }), [(10 + 20 * e) / (1 + e)]));
});

// torch.nn.functional.scaled_dot_product_attention(wave(1.1, 1, 2, 2, 3), wave(0.7, 1, 2, 3, 3), wave(0.3, 1, 2, 3, 2),
// is_causal=True), f64: query i reads keys 0..i
test('a causal mask agrees with PyTorch', (t) => {
  const got = run(attention, [wave(1.1, 1, 2, 2, 3), wave(0.7, 1, 2, 3, 3), wave(0.3, 1, 2, 3, 2)], {
    mask: sc.le(k, q),
  });
  t.true(
    near(got, [0.295520207, 0.564642473, 0.587817892, 0.784789468, 0.863209367, 0.675463181, 0.650315645, 0.414447554]),
  );
});

// the same with q = wave(1.1, 1, 4, 2, 3), no mask and enable_gqa=True
test('heads that share keys agree with PyTorch', (t) => {
  const got = run(attention, [wave(1.1, 1, 4, 2, 3), wave(0.7, 1, 2, 3, 3), wave(0.3, 1, 2, 3, 2)]);
  t.true(
    near(
      got,
      [
        0.532245328, 0.727963651, 0.841447264, 0.901834584, 0.583155753, 0.765216071, 0.811433768, 0.881392827,
        0.497402381, 0.247272258, 0.232704726, -0.0246949077, 0.439610683, 0.179940945, 0.331490159, 0.0844001325,
      ],
    ),
  );
});

test('a masked key has no say, even with an infinite score and an infinite value', (t) => {
  const mask = sc.ne(k, 1);
  t.deepEqual(run(attention, [query, keys(0, Infinity, 0), values(2, Infinity, 4)], { mask }), [3]);
});

test('a mask by operand reads its own batch entry and head', (t) => {
  const mask = sc.operand(3, 'bool', [b, h, 0, k]);
  const allowed = nd('bool', [2, 1, 1, 2], [1, 0, 0, 1]);
  const twice = nd('f64', [2, 1, 1, 1], [1, 1]);
  const both = nd('f64', [2, 1, 2, 1], [0, 0, 0, 0]);
  t.deepEqual(run(attention, [twice, both, nd('f64', [2, 1, 2, 1], [1, 2, 3, 4]), allowed], { mask }), [1, 4]);
});

test('a query without keys gives what emptyRow says', (t) => {
  const at = (emptyRow: EmptyRow): number[] =>
    run(attention, [query, keys(0, 0), values(3, 5), zeroKeys], { mask: nothing, emptyRow });
  t.deepEqual([at('zero'), at('nan'), at('uniform')], [[0], [NaN], [4]]);
  const unmasked = run(attention, [query, keys(0, Math.log(3)), values(0, 4), zeroKeys], {
    mask: nothing,
    emptyRow: 'unmasked',
  });
  t.true(near(unmasked, [3]));
  t.deepEqual(run(attention, [query, keys(), values()]), [0]);
  t.deepEqual(run(attention, [query, keys(0, 0), values(3, 5)], { mask: never }), [0]);
});

test('the log-sum-exp of a query is that of its scores, and −∞ where it reads nothing', (t) => {
  const [, lse] = runAll(attention, [query, keys(0, Math.log(3)), values(1, 1)], { lse: true });
  t.true(near(lse!.data, [Math.log(4)]));
  const [, none] = runAll(attention, [query, keys(0, 1), values(1, 1), zeroKeys], { lse: true, mask: nothing });
  t.deepEqual([...none!.data], [-Infinity]);
  t.is(lse!.dtype, 'f64');
  const [x, y] = [argument('x', [1, 1, 2, 4]), argument('y', [1, 1, 3, 4])];
  t.is(printType(attention([x, y, y], { lse: true }).type), '(f32[1, 1, 2, 4], f32[1, 1, 2])');
});

test('scores are scaled, then capped, then biased, then masked', (t) => {
  const bias = sc.select(sc.eq(k, 1), sc.literal(1, 'f32'), sc.literal(0, 'f32'));
  const capped = 2 * Math.tanh(3 / 2) + 1;
  const got = run(attention, [query, keys(0, 6, 9), values(0, 1, 7)], {
    scale: 0.5,
    softcap: 2,
    bias,
    mask: sc.lt(k, 2),
  });
  t.true(near(got, [Math.exp(capped) / (1 + Math.exp(capped))]));
});

test('attention_weights gives the weights that attention applies', (t) => {
  const [x, y, v] = [wave(1.1, 2, 2, 3, 2), wave(0.7, 2, 1, 4, 2), wave(0.3, 2, 1, 4, 3)];
  const mask = sc.lt(k, sc.operand(3, 'i32', [b]));
  const lens = nd('i32', [2], [3, 0]);
  for (const emptyRow of ['zero', 'uniform', 'unmasked'] as const) {
    const weights = run(attentionWeights, [x, y, lens], { mask: shiftOperands(mask, -1), emptyRow });
    const want = run(attention, [x, y, v, lens], { mask, emptyRow });
    const got = want.map((_, i) => {
      const [row, e] = [Math.floor(i / 3), i % 3];
      const batch = Math.floor(row / 6);
      return [0, 1, 2, 3].reduce((sum, j) => sum + weights[row * 4 + j]! * v.data[(batch * 4 + j) * 3 + e]!, 0);
    });
    t.true(near(got, want, 1e-12), emptyRow);
  }
});

test('the decomposition of attention_weights takes symbolic sizes', (t) => {
  const [n, s] = [sc.symbol('N', { max: 8 }), sc.symbol('S', { max: 8 })];
  const inputs = [argument('q', [n, 4, s, 3], 'f64'), argument('k', [n, 2, s, 3], 'f64'), argument('lens', [n], 'i32')];
  const value = attentionWeights(inputs, {
    mask: sc.and(sc.le(k, q), sc.lt(k, sc.operand(2, 'i32', [b]))),
    scale: 0.5,
  });
  const at = [wave(1.1, 2, 4, 5, 3), wave(0.7, 2, 2, 5, 3), nd('i32', [2], [3, 0])];
  const [want] = resultsOf([value], inputs, at);
  t.true(near(runLowering(value, at, 'f64')![0]!.data, [...want!.data], 1e-12));
});

test('masks keep symbols and count multiply-accumulates per pair', (t) => {
  const s = sc.symbol('S', { max: 4096 });
  const out = attention([argument('q', [1, 12, s, 64]), argument('k', [1, 12, s, 64]), argument('v', [1, 12, s, 64])]);
  t.is(printType(typeOf(out)), 'f32[1, 12, S, 64]');
  const macs = out.op.macs!(out.inputs.map(typeOf), out.attrs, out.type);
  t.is(typeof macs === 'number' ? macs : sc.evaluateIndex(macs, () => 4096), 12 * 4096 * 4096 * 128);
});

test('axis roles follow plain coordinates of the mask and nothing else', (t) => {
  const inputs = [
    argument('q', [2, 4, 5, 3]),
    argument('k', [2, 2, 7, 3]),
    argument('v', [2, 2, 7, 6]),
    argument('keep', [2, 7], 'bool'),
    argument('ids', [2, 5], 'i32'),
    argument('slope', [4]),
  ];
  const ids = sc.eq(sc.operand(4, 'i32', [b, q]), sc.operand(4, 'i32', [b, k]));
  const attrs = { mask: sc.and(sc.operand(3, 'bool', [b, k]), ids), bias: sc.operand(5, 'f32', [h]) };
  const value = attention(inputs, attrs);
  t.deepEqual(value.op.axes!(inputs.map(typeOf), value.attrs), [
    [0, 1, 2, 'mix'],
    [0, 'mix', 'mix', 'mix'],
    [0, 'mix', 'mix', 3],
    [0, 'mix'],
    [0, 'mix'],
    [1],
  ]);
});

test('attention says which operands disagree and what a mask may read', (t) => {
  const shape = (...s: number[]): Value => argument('x', s);
  const [x, y] = [shape(1, 4, 5, 8), shape(1, 4, 7, 8)];
  const message = (inputs: Value[], attrs = {}): string => diagnosticOf(() => attention(inputs, attrs)).message;
  t.is(message([x, shape(2, 4, 7, 8), y]), 'attention: batch sizes of q and k differ, 1 and 2');
  t.is(message([x, shape(1, 4, 7, 6), y]), 'attention: widths of q and k differ, 8 and 6');
  t.is(message([x, shape(1, 3, 7, 8), y]), 'attention: 4 heads of q are not a multiple of the 3 heads of k');
  t.is(message([x, y, shape(1, 4, 6, 8)]), 'attention: numbers of keys and values differ, 7 and 6');
  t.is(message([shape(4, 5, 8), y, y]), 'attention: q must have rank 4, not f32[4, 5, 8]');
  t.is(message([x, y, y], { mask: sc.add(q, k) }), 'attention: the mask must be bool, not i32: q + k');
  t.is(
    message([x, y, y], { mask: sc.operand(3, 'bool', [k]) }),
    'attention: the mask reads in3, but its operands are none (append them after the named ones)',
  );
  t.is(
    message([x, y, y, argument('keep', [1, 7])], { mask: sc.operand(3, 'bool', [b, k]) }),
    'attention: the mask reads in3 as bool, but it is f32',
  );
  t.is(
    message([x, y, y, argument('keep', [1, 7], 'bool')], { mask: sc.operand(3, 'bool', [k]) }),
    'attention: the mask reads in3[k], but in3 has rank 2',
  );
  t.is(
    message([x, y, y], { mask: sc.lt(k, sc.variable('w')) }),
    'attention: the mask names "w", which is none of its coordinates b, h, q, k',
  );
});

test('operands of a mask can be renumbered', (t) => {
  const mask = sc.lt(sc.operand(3, 'i32', [b, sc.operand(4, 'i32', [k])]), k);
  t.is(printExpr(shiftOperands(mask, -1)), 'in2[b, in3[k]] < k');
});
