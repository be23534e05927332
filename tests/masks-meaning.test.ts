/** What masks mean where they hide everything, and what inputs that masks are made of may hold. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { attention, f32, i32, i64, input, mask, model } from '../frontends/dsl/index.ts';
import { importOnnx } from '../frontends/onnx/index.ts';
import { seededWeights } from '../frontends/zoo/index.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graph, graphValues, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import * as ops from '../ir/ops/elementwise.ts';
import { seeded } from '../ir/ops/example.ts';
import { matmul } from '../ir/ops/linear.ts';
import { layerNorm, softmax } from '../ir/ops/norm.ts';
import { reshape, transpose } from '../ir/ops/shape.ts';
import { input as inputOp, param, scalar } from '../ir/ops/structural.ts';
import { type Remark, runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { boundOfScores } from '../passes/score-bound.ts';
import { open } from '../runtime/open.ts';
import { projectRoot } from './support/project.ts';
import { compileGraph } from './support/run-graph.ts';

const LEAST = -3.4028234663852886e38;
const [B, H, S, D] = [2, 2, 5, 4];

const given = (name: string, dtype: Nd['dtype'], ...shape: readonly number[]): Value =>
  inputOp([], { name, dtype, shape }, { name });
const q = given('q', 'f32', B, H, S, D);
const k = given('k', 'f32', B, H, S, D);
const v = given('v', 'f32', B, H, S, D);
const keep = given('keep', 'bool', B, 1, 1, S);
const also = given('also', 'bool', B, 1, 1, S);

/** softmax(q·kᵀ / 2 + terms) · v in single ops. */
function decomposed(terms: (scores: Value) => Value): Graph {
  const scores = ops.mul([matmul([q, k], { transposeB: true }), scalar(0.5)]);
  return graph('g', [q, k, v, keep, also], [['y', matmul([softmax([terms(scores)]), v])]]);
}
const added =
  (m: Value, fill: number) =>
  (scores: Value): Value =>
    ops.add([scores, ops.select([m, scalar(0), scalar(fill)])]);
const filled =
  (m: Value, fill: number) =>
  (scores: Value): Value =>
    ops.select([m, scores, scalar(fill)]);

const next = seeded(5);
const floats = (): Nd =>
  nd(
    'f32',
    [B, H, S, D],
    Array.from({ length: B * H * S * D }, () => next() * 4 - 2),
  );
const bits = (...x: readonly number[]): Nd => nd('bool', [B, 1, 1, S], x);
/** The second sample of each hides every key; so do both masks together in the first sample of the last. */
const HIDDEN: readonly (readonly [Nd, Nd])[] = [
  [bits(1, 0, 1, 1, 0, 0, 0, 0, 0, 0), bits(1, 1, 0, 1, 1, 1, 0, 1, 0, 0)],
  [bits(1, 1, 0, 0, 0, 0, 0, 0, 0, 0), bits(0, 0, 1, 1, 1, 0, 0, 0, 0, 0)],
];

/** Every spelling with the five meanings, and whether it must become a mask. */
const SPELLINGS: Readonly<
  Record<string, { readonly terms: (scores: Value) => Value; readonly mask?: boolean; readonly tolerance?: number }>
> = {
  'added −∞: NaN': { terms: added(keep, -Infinity), mask: true },
  'filled with −∞: NaN': { terms: filled(keep, -Infinity), mask: true },
  'the least float added: equal weights': { terms: added(keep, LEAST), mask: true },
  'filled with the least float: equal weights': { terms: filled(keep, LEAST), mask: true },
  '-1e9 added: equal weights': { terms: added(keep, -1e9), mask: true },
  // A score beside -10000 keeps three decimals.
  '-10000 added: as if there were no mask': { terms: added(keep, -10000), mask: true, tolerance: 2e-3 },
  'the least float twice: −∞ where both hide': { terms: (s) => added(also, LEAST)(added(keep, LEAST)(s)) },
  'the least float filled and added': { terms: (s) => added(also, LEAST)(filled(keep, LEAST)(s)) },
  'the least float added, then filled': { terms: (s) => filled(also, LEAST)(added(keep, LEAST)(s)) },
  '−∞ and the least float': { terms: (s) => added(also, -Infinity)(added(keep, LEAST)(s)) },
  '−∞ twice': { terms: (s) => added(also, -Infinity)(filled(keep, -Infinity)(s)), mask: true },
};

for (const [name, { terms, mask: becomes, tolerance = 2e-6 }] of Object.entries(SPELLINGS))
  test(`rows without a key: ${name}`, (t) => {
    const written = decomposed(terms);
    const folded = runPasses(written, pipelineFor());
    const found = graphValues(folded).find((x) => x.op.name === 'attention');
    t.truthy(found, 'there is no attention');
    if (becomes) t.is(found?.attrs.bias, undefined);
    const [plain, fused] = [compileGraph(written), compileGraph(folded)];
    for (const [first, second] of HIDDEN) {
      const inputs = { q: floats(), k: floats(), v: floats(), keep: first, also: second };
      const [want, got] = [plain.run('wasm plain', inputs).y!, fused.run('wasm plain', inputs).y!];
      want.data.forEach((x, i) => {
        const y = got.data[i]!;
        t.true(
          Object.is(x, y) || (Number.isNaN(x) && Number.isNaN(y)) || Math.abs(x - y) <= tolerance,
          `element ${i}: ${y}, not ${x}`,
        );
      });
    }
  });

test('finite masks stay numbers on request, and the remark says why', (t) => {
  const remarks: Remark[] = [];
  const folded = runPasses(decomposed(added(keep, -10000)), pipelineFor(), {
    masks: { finiteMasks: 'keep' },
    remark: (r) => remarks.push(r),
  });
  const found = graphValues(folded).find((x) => x.op.name === 'attention');
  t.is(found?.attrs.mask, undefined);
  t.true(
    remarks.some((r) => r.kind === 'missed' && r.why === '-10000 stays a number: no bound on the scores is known'),
  );
});

/** A head of 4 on rows of 8 that are normalised: scores are bounded by the weights. */
function projected(weight: number): { readonly g: Graph; readonly contents: (name: string) => Nd } {
  const x = given('x', 'f32', B, S, 8);
  const stored: Record<string, Nd> = {};
  const weights = seeded(11);
  const parameter = (name: string, ...shape: readonly number[]): Value => {
    const size = shape.length === 1 ? 1 : weight;
    const data = Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => (weights() * 2 - 1) * size);
    stored[name] = nd('f32', shape, data);
    return param([], { name, dtype: 'f32', shape });
  };
  const rows = layerNorm([x, parameter('gamma', 8), parameter('beta', 8)]);
  const heads = (name: string): Value => {
    const linear = ops.add([matmul([rows, parameter(name, 8, H * D)]), parameter(`${name}.bias`, H * D)]);
    return transpose([reshape([linear], { shape: [B, S, H, D] })], { perm: [0, 2, 1, 3] });
  };
  const scores = matmul([heads('wq'), heads('wk')], { transposeB: true });
  const y = matmul([softmax([added(keep, -10000)(scores)]), heads('wv')]);
  return { g: graph('g', [x, keep], [['y', y]]), contents: (name) => stored[name]! };
}

test('weights that keep scores small are a certificate: the finite mask is exact', (t) => {
  for (const [weight, certain] of [
    [1, true],
    [20, false],
  ] as const) {
    const { g, contents } = projected(weight);
    const remarks: Remark[] = [];
    const folded = runPasses(g, pipelineFor(), {
      masks: { finiteMasks: 'keep', contents },
      remark: (r) => remarks.push(r),
    });
    const found = graphValues(folded).find((x) => x.op.name === 'attention');
    t.is(found?.attrs.mask !== undefined, certain, `weights up to ${weight}`);
    t.is(
      remarks.some(({ why }) => /^-10000 stays a number: scores may reach \d+$/.test(why)),
      !certain,
    );
  }
});

/** Attentions are fused, and nothing is made of their masks yet. */
const upToAttention = pipelineFor().slice(0, pipelineFor().findIndex((p) => p.name === 'fuse-attention') + 1);

test('the bound on scores holds and is not far off', (t) => {
  for (const weight of [0.1, 1, 20]) {
    const { g, contents } = projected(weight);
    const before = runPasses(g, upToAttention, { masks: { finiteMasks: 'keep', contents } });
    const found = graphValues(before).find((x) => x.op.name === 'attention')!;
    const bound = boundOfScores(found, contents)!;
    const [queries, keys] = [found.inputs[0]!, found.inputs[1]!];
    const scores = graph('s', g.inputs, [['s', matmul([queries, keys], { transposeB: true })]]);
    let most = 0;
    for (let seed = 1; seed < 40; seed++) {
      const draw = seeded(seed);
      const x = nd(
        'f32',
        [B, S, 8],
        Array.from({ length: B * S * 8 }, () => draw() * 2 - 1),
      );
      const { s: found2 } = evaluate(scores, {
        inputs: { x, keep: bits(1, 1, 1, 1, 1, 1, 1, 1, 1, 1) },
        params: contents,
      });
      most = Math.max(most, ...found2!.data.map(Math.abs));
    }
    t.true(most <= bound, `${most} is beyond ${bound}`);
    t.true(bound <= 20 * most, `${bound} is far from ${most}`);
  }
});

// ---------------------------------------------------------------- bundles

test('an input that is declared to hold 0 and 1 is refused when it does not', async (t) => {
  for (const dtype of [i32, i64, f32] as const) {
    const net = model(
      'net',
      { x: input(f32, [1, 1, 4, 2]), m: input(dtype, [1, 4], '1 for tokens', { binary: true }) },
      ({ x, m }) => ({ y: attention(x, x, x, { mask: mask.keep(m) }) }),
    );
    const session = await open(compile(net, { weights: seededWeights(net) }), { threads: 1 });
    const x = new Float32Array(8).fill(1);
    await t.notThrowsAsync(session.run({ x, m: [1, 0, 1, 0] }));
    await t.throwsAsync(session.run({ x, m: [1, 0, 2, 0] }), {
      code: 'input',
      message: /"m".* has 2 at \[2\]\. Each element is 0 or 1/,
    });
    session.dispose();
  }
});

test('lengths beyond the keys read all keys, and lengths below zero none', async (t) => {
  const net = model('net', { x: input(f32, [2, 1, 6, 4]), n: input(i32, [2]) }, ({ x, n }) => ({
    y: attention(x, x, x, { mask: mask.length(n) }),
  }));
  const session = await open(compile(net, { weights: seededWeights(net) }), { threads: 1 });
  const x = Float32Array.from({ length: 48 }, (_, i) => Math.sin(i));
  const run = async (...n: number[]): Promise<readonly number[]> =>
    Array.from((await session.run({ x, n: Int32Array.from(n) })).y!.data as Float32Array);
  t.deepEqual(await run(6, 6), await run(7, 2 ** 31 - 1));
  t.deepEqual(await run(0, 0), await run(-1, -(2 ** 31)));
  t.true((await run(0, 0)).every((y) => y === 0));
  session.dispose();
});

for (const name of ['minus-ten-thousand', 'mask-converter', 'multihead-padding', 'ranges-eager', 'sliding-window'])
  for (const exporter of ['script', 'dynamo'])
    test(`${name} (${exporter}): a bundle of the file computes what the file says`, async (t) => {
      const bytes = readFileSync(join(projectRoot, 'tests', 'fixtures', 'masks', `${name}.${exporter}.symbolic.onnx`));
      const { model: imported, weights } = importOnnx(new Uint8Array(bytes));
      const session = await open(compile(imported, { weights }), { threads: 1 });
      const main = imported.entries.main!;
      for (const tokens of [3, 6, 11]) {
        const draw = seeded(tokens);
        const tensors = Object.fromEntries(
          main.inputs.map((x) => {
            const isMask = x.attrs.name === 'attention_mask';
            const shape = isMask ? [B, tokens] : [B, H, tokens, D];
            const count = shape.reduce((n, d) => n * d, 1);
            const value = (i: number): number =>
              isMask ? (i % tokens < tokens - (i < tokens ? 0 : 2) ? 1 : 0) : draw() * 2 - 1;
            return [
              String(x.attrs.name),
              nd(
                isMask ? 'i64' : 'f32',
                shape,
                Array.from({ length: count }, (_, i) => value(i)),
              ),
            ] as const;
          }),
        );
        const params = (param: string): Nd => {
          const { dtype, shape, bytes: stored } = weights.get(param)!;
          const aligned = stored.slice().buffer;
          return nd(
            dtype,
            shape,
            dtype === 'i64' ? Array.from(new BigInt64Array(aligned), Number) : new Float32Array(aligned),
          );
        };
        const want = evaluate(main, { inputs: tensors, params }).y!;
        const { y } = await session.run(
          Object.fromEntries(
            Object.entries(tensors).map(([key, x]) => [
              key,
              {
                shape: x.shape,
                data: x.dtype === 'i64' ? BigInt64Array.from(x.data, BigInt) : Float32Array.from(x.data),
              },
            ]),
          ),
        );
        const got = y!.data as Float32Array;
        const wrong = want.data.findIndex((x, i) => !(Math.abs(x - got[i]!) <= 1e-5));
        t.is(wrong, -1, `${tokens} tokens, element ${wrong}: ${got[wrong]}, not ${want.data[wrong]}`);
      }
      session.dispose();
    });
