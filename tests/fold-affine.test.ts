/** Batch normalisation goes into convolutions where its numbers allow it, and a remark says where they do not. */
import test from 'ava';
import { evaluate } from '../ir/evaluate.ts';
import { graphValues } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { parseGraph } from '../ir/parse.ts';
import { foldAffine } from '../passes/fold-affine.ts';
import { type Remark, runPasses } from '../passes/pass.ts';
import '../ir/ops/all.ts';

const SOURCE = `graph net(%x: f32[1, 2, 3]) {
  %w = param {name = "w"} : f32[3, 2, 2]
  %scale = param {name = "scale"} : f32[3]
  %bias = param {name = "bias"} : f32[3]
  %mean = param {name = "mean"} : f32[3]
  %var = param {name = "var"} : f32[3]
  %c = conv %x, %w : f32[1, 3, 2]
  %y = batch_norm %c, %scale, %bias, %mean, %var {eps = 0.0009765625} : f32[1, 3, 2]
  return y: %y
}
`;
type Vectors = Readonly<Record<string, readonly number[]>>;
const usual: Vectors = { scale: [1, -2, 0.5], bias: [0, 3, 1], mean: [0.25, 0, -1], var: [0.5, 0, 4] };

function folded(vectors: Vectors) {
  const before = parseGraph(SOURCE);
  const remarks: Remark[] = [];
  const contents = (name: string) => {
    const data = vectors[name];
    return data && nd('f32', [data.length], data);
  };
  const after = runPasses(before, [foldAffine], { masks: { contents }, remark: (r) => remarks.push(r) });
  return { before, after, ops: graphValues(after).map((v) => v.op.name), remarks: remarks.map((r) => r.why) };
}

test('a normalisation by known constants goes into the weights, and the sums stay in f64', (t) => {
  const { before, after, ops, remarks } = folded(usual);
  t.false(ops.includes('batch_norm'));
  t.deepEqual(remarks, ['behind-conv']);
  const w = nd('f32', [3, 2, 2], [1, 2, 3, -4, 0.5, 6, -7, 8, 9, 10, 11, -12]);
  const params = (name: string) => (name === 'w' ? w : nd('f32', [3], usual[name]!));
  const inputs = { x: nd('f32', [1, 2, 3], [0.1, -2, 3, 4, 5, -0.6]) };
  const [want, got] = [before, after].map((g) => evaluate(g, { inputs, params }).y!.data);
  for (const [i, x] of want!.entries()) t.true(Math.abs(x - got![i]!) <= 1e-12 * Math.abs(x), `${i}: ${x} ${got![i]}`);
});

test('a variance below 0 stays where it is: the model computes NaN there, and nothing else', (t) => {
  for (const bad of [-0.001, -2]) {
    const { ops, remarks } = folded({ ...usual, var: [0.5, bad, 4] });
    t.true(ops.includes('batch_norm'));
    t.regex(remarks.join(), /the slope of channel 1 is (NaN|-?Infinity): its variance plus eps is not above 0/);
  }
});

test('a number that is not finite stays where it is', (t) => {
  const { ops, remarks } = folded({ ...usual, bias: [0, Number.POSITIVE_INFINITY, 1] });
  t.true(ops.includes('batch_norm'));
  t.regex(remarks.join(), /the offset of channel 1 is Infinity/);
});

test('where weights are not at hand yet, what they will be is assumed to be finite', (t) => {
  t.false(folded({}).ops.includes('batch_norm'));
});
