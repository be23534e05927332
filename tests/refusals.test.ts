/** Reasons why nothing is dropped: one for each cause, however many products it keeps. What each says is in tests/golden/refused. */
import { join } from 'node:path';
import test from 'ava';
import {
  add,
  attention,
  bool,
  dim,
  f32,
  gelu,
  input,
  mask,
  model,
  nn,
  output,
  reshape,
  type Tensor,
} from '../frontends/dsl/index.ts';
import { modelFromHf } from '../frontends/zoo/hf.ts';
import { graphValues } from '../ir/graph.ts';
import { dropTokens } from '../passes/drop-tokens.ts';
import type { Remark } from '../passes/pass.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { encodeModel, floats, node, reported, value } from './onnx-kit.ts';
import { projectRoot } from './support/project.ts';

const [N, D] = [12, 32] as const;
const batch = dim('batch', { max: 4 });
type Rows = Tensor<'f32'>;
type Heads = Tensor<'f32', readonly [typeof batch, 1, 12, 32]>;

/** An encoder of so many blocks, as a model is written that knows nothing of dropping. */
function encoder(blocks: number, head: (x: Rows, keep: Tensor<'bool'>) => Rows, hides = false) {
  const given = { x: input(f32, [batch, N, D]), keep: input(bool, [batch, N]) };
  return model('encoder', given, ({ x, keep }) => {
    let h = x as Rows;
    for (let n = 0; n < blocks; n++) {
      const [q, k, v] = ['q', 'k', 'v'].map((name) =>
        reshape(nn.linear(`${n}.${name}`, { in: D, out: D })(h) as Rows, [batch, 1, N, D]),
      ) as unknown as readonly [Heads, Heads, Heads];
      const o = reshape(attention(q, k, v, hides ? { mask: mask.keep(keep) } : {}), [batch, N, D]);
      const y = add(h as never, o as never) as Rows;
      h = add(y as never, nn.linear(`${n}.down`, { in: D, out: D })(gelu(y as Rows) as Rows) as never) as Rows;
    }
    return { y: head(h, keep) };
  }).entries.main!;
}
function refusedIn(graph: ReturnType<typeof encoder>): readonly Remark[] {
  const remarks: Remark[] = [];
  runPasses(graph, pipelineFor(), { remark: (r) => remarks.push(r) });
  return remarks.filter(({ pass, kind }) => pass === dropTokens.name && kind === 'missed');
}

test('one reason for one cause, however many blocks it keeps', (t) => {
  for (const blocks of [1, 6]) {
    const graph = encoder(blocks, (x) => x);
    const found = refusedIn(graph);
    t.is(found.length, 1);
    t.is(found[0]!.at, [...graph.outputs.values()][0]!);
    t.regex(
      found[0]!.why,
      new RegExp(`^nothing dropped in ${4 * blocks} products of 12 rows: every row is read as output "y"`),
    );
  }
});

test('the first op that reads every row is named, with its place, and not what reads those that it gives', (t) => {
  const first = (x: Rows): Rows => reshape(x, [batch, N * D]) as Rows;
  const remarks = refusedIn(encoder(2, (x) => nn.linear('head', { in: N * D, out: 3 })(first(x)) as Rows));
  t.is(remarks.length, 1);
  t.is(remarks[0]!.at.op.name, 'matmul');
  t.regex(
    remarks[0]!.why,
    /read by \w+ at tests\/refusals\.test\.[jt]s:\d+:\d+, which adds up products with all of them/,
  );
});

test('keys of the last attention that hides none keep all blocks before it, and its queries are dropped', (t) => {
  const found = refusedIn(encoder(3, (x) => output(x, { rows: 'cls' })));
  t.is(found.length, 1);
  t.is(found[0]!.at.op.name, 'attention');
  t.regex(
    found[0]!.why,
    /^nothing dropped in 10 products of 12 rows: every row is read as a key by attention at .*masks none$/,
  );
  // Where padding is hidden nothing is kept for that reason: how many rows there are is known when it runs.
  t.deepEqual(refusedIn(encoder(3, (x, keep) => output(x, { where: keep }), true)), []);
});

test('queries, keys and values that are one product of which parts are read differently', (t) => {
  const { model: mae } = modelFromHf(join(projectRoot, 'tests', 'fixtures', 'digits', 'mae'));
  const found = refusedIn(mae.entries.main!);
  t.is(found.length, 1);
  t.is(found[0]!.at.op.name, 'attention');
  t.regex(found[0]!.why, /^nothing dropped in \d products of 65 rows: every row is read as a key by attention/);
});

test('what has no rows but the batch has no reason', (t) => {
  const net = model('net', { x: input(f32, [batch, D]) }, ({ x }) => ({
    y: nn.linear('b', { in: D, out: 3 })(gelu(nn.linear('a', { in: D, out: D })(x) as Rows) as Rows) as Rows,
  }));
  t.deepEqual(refusedIn(net.entries.main!), []);
  t.true(graphValues(net.entries.main!).some((v) => v.op.name === 'matmul'));
});

test('dropout that draws as it goes cannot be written: models come as they are for inference', (t) => {
  const spec = {
    nodes: [node('Dropout', ['x', 'ratio', 'training'], ['y'])],
    inputs: [value('x', [2, 8, 4])],
    outputs: ['y'],
    initializers: [floats('ratio', [], [0.1]), { name: 'training', dims: [], dataType: 9, int32Data: [1] }],
  };
  const { code, message, help } = reported(encodeModel(spec));
  t.is(code, 'unsupported');
  t.regex(message, /Dropout.*training_mode is true/);
  t.is(help, 'export the model in evaluation mode');
});
