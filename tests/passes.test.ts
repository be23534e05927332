import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { bert, gpt2, mae, vit, zoo } from '../frontends/zoo/index.ts';
import type { CompileError } from '../ir/diagnostic.ts';
import { type Graph, graph, graphValues, type Value } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { add, mul, sub } from '../ir/ops/elementwise.ts';
import { input } from '../ir/ops/structural.ts';
import { parseGraph } from '../ir/parse.ts';
import { printGraph } from '../ir/text.ts';
import { canonicalize } from '../passes/canonicalize.ts';
import { type Pass, type Remark, runPasses } from '../passes/pass.ts';
import { any, matchValue, number, p, product } from '../passes/pattern.ts';
import { passNamed, passNames, pipelineFor } from '../passes/pipeline.ts';
import { miss, rewritePass, rule } from '../passes/rewrite.ts';
import { compareGraphs, goldenRoot } from './support/golden.ts';
import { projectRoot } from './support/project.ts';
import '../ir/ops/all.ts';

const codeOf = (error: unknown): string => (error as CompileError).code;

/** A layer of BERT as an exporter writes it: every function spelled out, scale computed, mask expanded. */
const EXPORTED = `symbols B in 1..4 default 2, S in 2..8 default 5
graph layer(%x: f32[B, S, 12], %keep: i64[B, S]) {
  %mask1 = reshape %keep {shape = [B, 1, 1, S]} : i64[B, 1, 1, S]
  %maskf = cast %mask1 {to = f32} : f32[B, 1, 1, S]
  %one = constant {value = 1} : f32
  %hidden = sub %one, %maskf : f32[B, 1, 1, S]
  %bias0 = mul %hidden, -10000 : f32[B, 1, 1, S]
  %bias = expand %bias0 {shape = [B, 3, S, S]} : f32[B, 3, S, S]
  %wq = param {name = "q.weight"} : f32[12, 12]
  %bq = param {name = "q.bias"} : f32[12]
  %wk = param {name = "k.weight"} : f32[12, 12]
  %bk = param {name = "k.bias"} : f32[12]
  %wv = param {name = "v.weight"} : f32[12, 12]
  %bv = param {name = "v.bias"} : f32[12]
  %q0 = matmul %x, %wq : f32[B, S, 12]
  %q1 = add %bq, %q0 : f32[B, S, 12]
  %q2 = reshape %q1 {shape = [B, S, 3, 4]} : f32[B, S, 3, 4]
  %q = transpose %q2 {perm = [0, 2, 1, 3]} : f32[B, 3, S, 4]
  %k0 = matmul %x, %wk : f32[B, S, 12]
  %k1 = add %bk, %k0 : f32[B, S, 12]
  %k2 = reshape %k1 {shape = [B, S, 3, 4]} : f32[B, S, 3, 4]
  %k = transpose %k2 {perm = [0, 2, 3, 1]} : f32[B, 3, 4, S]
  %v0 = matmul %x, %wv : f32[B, S, 12]
  %v1 = add %bv, %v0 : f32[B, S, 12]
  %v2 = reshape %v1 {shape = [B, S, 3, 4]} : f32[B, S, 3, 4]
  %v = transpose %v2 {perm = [0, 2, 1, 3]} : f32[B, 3, S, 4]
  %width = constant {value = 4} : i64
  %widthf = cast %width {to = f32} : f32
  %root = sqrt %widthf : f32
  %s0 = matmul %q, %k : f32[B, 3, S, S]
  %s1 = div %s0, %root : f32[B, 3, S, S]
  %s2 = add %s1, %bias : f32[B, 3, S, S]
  %top = reduce_max %s2 {axes = [3], keepdims = true} : f32[B, 3, S, 1]
  %low = sub %s2, %top : f32[B, 3, S, S]
  %e = exp %low : f32[B, 3, S, S]
  %t = reduce_sum %e {axes = [3], keepdims = true} : f32[B, 3, S, 1]
  %p = div %e, %t : f32[B, 3, S, S]
  %o0 = matmul %p, %v : f32[B, 3, S, 4]
  %o1 = transpose %o0 {perm = [0, 2, 1, 3]} : f32[B, S, 3, 4]
  %o2 = reshape %o1 {shape = [B, S, 12]} : f32[B, S, 12]
  %y0 = add %o2, %x : f32[B, S, 12]
  %m = reduce_mean %y0 {axes = [-1]} : f32[B, S]
  %m1 = reshape %m {shape = [B, S, 1]} : f32[B, S, 1]
  %d = sub %y0, %m1 : f32[B, S, 12]
  %two = constant {value = 2} : f32
  %d2 = pow %d, %two : f32[B, S, 12]
  %var = reduce_mean %d2 {axes = [-1], keepdims = true} : f32[B, S, 1]
  %eps = add %var, 1e-5 : f32[B, S, 1]
  %sd = sqrt %eps : f32[B, S, 1]
  %n = div %d, %sd : f32[B, S, 12]
  %g = param {name = "norm.weight"} : f32[12]
  %ng = mul %g, %n : f32[B, S, 12]
  %c = param {name = "norm.bias"} : f32[12]
  %ngc = add %ng, %c : f32[B, S, 12]
  %h0 = div %ngc, 1.4142135 : f32[B, S, 12]
  %h1 = erf %h0 : f32[B, S, 12]
  %h2 = add %h1, 1 : f32[B, S, 12]
  %h3 = mul %ngc, %h2 : f32[B, S, 12]
  %h4 = mul %h3, 0.5 : f32[B, S, 12]
  return y: %h4
}
`;

const exported = (): Graph => parseGraph(EXPORTED, 'exported.ir');
const census = (g: Graph): Record<string, number> => {
  const counts: Record<string, number> = {};
  for (const v of graphValues(g)) counts[v.op.name] = (counts[v.op.name] ?? 0) + 1;
  return counts;
};

test('the pipeline recovers attention, normalisation and gelu from an exported layer', (t) => {
  const after = runPasses(exported(), pipelineFor(), { validate: true });
  const { attention, layer_norm, gelu, matmul, softmax, erf, exp, expand } = census(after);
  t.deepEqual({ attention, layer_norm, gelu, matmul }, { attention: 1, layer_norm: 1, gelu: 1, matmul: 1 });
  t.deepEqual({ softmax, erf, exp, expand }, { softmax: undefined, erf: undefined, exp: undefined, expand: undefined });
  const text = printGraph(after);
  t.regex(text, /attention %\w+, %\w+, %\w+, %bias0 \{bias = in3\[b, 0, 0, k\]\}/);
  t.is(compareGraphs(exported(), after), undefined);
});

test('a second run of the pipeline changes nothing', (t) => {
  const once = runPasses(exported(), pipelineFor());
  t.is(runPasses(once, pipelineFor()), once);
});

test('every pass has a file and goldens of its own name', (t) => {
  for (const name of passNames()) {
    t.is(passNamed(name)?.name, name);
    t.true(existsSync(join(projectRoot, 'passes', `${name}.ts`)), name);
    t.true(readdirSync(join(goldenRoot, name)).length >= 3, name);
  }
  t.is(passNamed('no-such-pass'), undefined);
});

test('stopping after N rewrites applies exactly N, and every prefix computes the same', (t) => {
  const remarks: Remark[] = [];
  const all = runPasses(exported(), pipelineFor(), { remark: (r) => remarks.push(r) });
  const total = remarks.filter((r) => r.kind === 'applied').length;
  t.true(total > 15, String(total));
  for (const stopAfter of [0, 1, 2, 5, 9, 14, total - 1]) {
    const some: Remark[] = [];
    const part = runPasses(exported(), pipelineFor(), { stopAfter, remark: (r) => some.push(r) });
    t.is(some.filter((r) => r.kind === 'applied').length, stopAfter);
    t.is(compareGraphs(exported(), part), undefined, `after ${stopAfter}`);
  }
  const whole = runPasses(exported(), pipelineFor(), { stopAfter: total });
  t.is(printGraph(whole), printGraph(all));
});

const x = (): Value => input([], { name: 'x', dtype: 'f32', shape: [3, 4] }, { name: 'x' });
function sample(): Graph {
  const v = x();
  const doubled = add([v, v], {}, { name: 'doubled' });
  return graph('sample', [v], [['y', mul([doubled, v], {}, { name: 'product' })]]);
}
const always = (name: string, run: Pass['run']): Pass => ({ name, doc: '', run });

test('a pass that makes an ill-formed graph is named', (t) => {
  const broken = always('broken', (g) => {
    const [y] = g.outputs.values();
    return graph(g.name, g.inputs, [['y', { ...y!, type: { kind: 'tensor', dtype: 'f32', shape: [4, 3] } }]]);
  });
  const error = t.throws(() => runPasses(sample(), [canonicalize, broken]));
  t.is(codeOf(error), 'verify');
  t.regex(error.message, /after pass broken: %product = mul: has type f32\[4, 3\]/);
});

test('validation names the pass that changed what the graph computes, and the first element that differs', (t) => {
  const wrong = always('wrong', (g) => graph(g.name, g.inputs, [['y', sub([g.inputs[0]!, g.inputs[0]!])]]));
  const error = t.throws(() => runPasses(sample(), [canonicalize, wrong], { validate: true }));
  t.regex(
    error.message,
    /pass wrong changed what graph sample computes: output y, element 0: [\d.e-]+ before and 0 after/,
  );
  t.notThrows(() => runPasses(sample(), [canonicalize, wrong]));
});

test('a miscompile is bisected to its rewrite', (t) => {
  const square = rule('square', p.mul(any('a'), any('b')), ({ a, b }) => (a === b ? undefined : mul([b, a])));
  const faulty = rewritePass({
    name: 'faulty',
    doc: '',
    rules: [
      rule('twice', p.add(any('a'), any('b')), ({ a, b }) => (a === b ? sub([mul([a, a]), a]) : undefined)),
      square,
    ],
  });
  const ok = (stopAfter: number): boolean => {
    try {
      runPasses(sample(), [faulty], { validate: true, stopAfter });
      return true;
    } catch (error) {
      t.is(codeOf(error), 'internal');
      return false;
    }
  };
  t.true(ok(0));
  t.true(ok(1), 'exchanging factors is right');
  t.false(ok(2), 'the second rewrite is the faulty one');
});

test('observers see the graph after each pass', (t) => {
  const seen: string[] = [];
  const last = runPasses(sample(), [canonicalize, always('same', (g) => g)], {
    observe: (pass, g) => seen.push(`${pass.name} ${g.name}`),
  });
  t.deepEqual(seen, ['canonicalize sample', 'same sample']);
  t.is(last.name, 'sample');
});

test('a rule that matches and declines says why, once', (t) => {
  const shy = rewritePass({
    name: 'shy',
    doc: '',
    rules: [rule('shy', p.mul(any('a'), any('b')), () => miss('not today'))],
  });
  const remarks: Remark[] = [];
  const g = sample();
  t.is(runPasses(g, [shy], { remark: (r) => remarks.push(r) }), g);
  t.deepEqual(
    remarks.map(({ pass, kind, at, why }) => [pass, kind, at.name, why]),
    [['shy', 'missed', 'product', 'shy: not today']],
  );
});

test('a rewrite keeps the name and the source position of what it replaces', (t) => {
  const loc = { file: 'model.ts', line: 3, column: 7 };
  const v = x();
  const g = graph('g', [v], [['y', mul([v, add([v, v])], {}, { name: 'gate', loc })]]);
  const pass = rewritePass({
    name: 'flip',
    doc: '',
    rules: [rule('flip', p.mul(any('a'), p.add(any('b'), any('b'))), ({ a, b }) => sub([a, b]))],
  });
  const y = runPasses(g, [pass]).outputs.get('y')!;
  t.is(y.op.name, 'sub');
  t.is(y.name, 'gate');
  t.is(y.loc, loc);
});

test('a rule that changes a type is an error of that rule', (t) => {
  const pass = rewritePass({
    name: 'bad',
    doc: '',
    rules: [rule('narrow', p.mul(any('a'), any('b')), () => input([], { name: 'x', dtype: 'f32', shape: [3] }))],
  });
  t.throws(() => runPasses(sample(), [pass]), { message: /rule narrow: f32\[3, 4\] became f32\[3\]/ });
});

test('patterns match either order of commutative operands, and go back on a wrong choice', (t) => {
  const v = x();
  const w = input([], { name: 'w', dtype: 'f32', shape: [3, 4] });
  const pattern = p.sub(p.add(any('a'), any('b')), any('a'));
  const found = matchValue(pattern, sub([add([v, w]), w]));
  t.is(found?.bound.get('a'), w);
  t.is(found?.bound.get('b'), v);
  t.is(matchValue(pattern, sub([add([v, v]), w])), undefined);
  t.is(matchValue(pattern, add([add([v, w]), w])), undefined);
});

test('a product matches in any association, with its constant gathered', (t) => {
  const source = `graph g(%x: f32[3], %y: f32[3]) {
  %a = mul %x, 3 : f32[3]
  %b = div %y, 2 : f32[3]
  %c = mul %b, %a : f32[3]
  return c: %c
}`;
  const root = parseGraph(source).outputs.get('c')!;
  t.deepEqual(
    [...matchValue(product(1.5, any('p'), any('q')), root)!.bound.values()].map((v) => (v as Value).name),
    ['y', 'x'],
  );
  t.is(matchValue(product(1.4, any('p'), any('q')), root), undefined);
  t.is(matchValue(product(1.5, any('p')), root), undefined);
  t.is(matchValue(p.mul(any('p'), number('n')), root), undefined);
});

test('projections of BERT are merged, twelve times, at the same count', (t) => {
  const main = Object.values(zoo('bert-base').entries)[0]!;
  const remarks: Remark[] = [];
  const after = runPasses(main, pipelineFor(), { remark: (r) => remarks.push(r) });
  t.is(remarks.filter((r) => r.pass === 'merge-projections' && r.kind === 'applied').length, 12);
  t.is(countMacs(after), countMacs(main));
});

test('attention of the zoo passes through, and counts change only where a class token is read alone', (t) => {
  // Behind the keys and values of the last block, 196 of 197 rows: queries, projection, two layers of four times the width.
  const dropped = { 'vit-s16': 196 * (10 * 384 ** 2 + 2 * 197 * 384), gpt2: 0 };
  for (const name of ['vit-s16', 'gpt2'] as const)
    for (const [entry, before] of Object.entries(zoo(name).entries)) {
      const after = runPasses(before, pipelineFor());
      t.is(census(after).attention, 12, `${name} ${entry}`);
      t.is(countMacs(after), countMacs(before) - dropped[name], `${name} ${entry}`);
      t.is(runPasses(after, pipelineFor()), after, `${name} ${entry}`);
    }
});

test('small models of the zoo compute the same after every pass', (t) => {
  const sizes = { layers: 2, width: 12, heads: 3, mlp: 20 } as const;
  const image = { imageSize: 8, patchSize: 4, channels: 2 } as const;
  const models = [
    vit({ ...sizes, ...image, classes: 5, attentionMap: true }),
    mae({ ...sizes, ...image, decoder: { layers: 1, width: 8, heads: 2, mlp: 12 }, maskRatio: 0.5 }),
    bert({ ...sizes, vocabulary: 11 }),
    gpt2({ ...sizes, vocabulary: 11 }),
  ];
  for (const model of models)
    for (const [entry, before] of Object.entries(model.entries))
      t.notThrows(() => runPasses(before, pipelineFor(), { validate: { tolerance: 1e-6 } }), `${model.name} ${entry}`);
});
