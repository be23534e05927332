/**
 * Masks and lengths as nobody should give them: what they mean is what the reference makes of them, on WebAssembly and on
 * WebGPU, or they are an error; never a number that is neither. `promises.test.ts` and `fallback.test.ts` have masks that are
 * not binary and counts beyond what is promised.
 */
import test, { type ExecutionContext } from 'ava';
import { compile } from '../compiler/compile.ts';
import {
  attention,
  bool,
  dim,
  f32,
  type Inputs,
  i32,
  input,
  type Mask,
  mask,
  model,
  nn,
  output,
  reshape,
  type Tensor,
} from '../frontends/dsl/index.ts';
import { seededWeights } from '../frontends/zoo/seeded.ts';
import { evaluate } from '../ir/evaluate.ts';
import { graphValues } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { toFloat32 } from '../ir/weights.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import type { Input, Tensor as Result } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';
import { dawnGpu } from './support/swiftshader.ts';

const [B, N, D] = [2, 7, 32] as const;
const batch = dim('batch', { max: 4 });
const random = seeded(12);
const rows = Array.from({ length: B * N * D }, () => Math.fround(random() - 0.5));

type Named = Readonly<Record<string, Tensor>>;

/** Two layers of attention under a mask; of the result only what `read` says is read. */
async function agrees(
  t: ExecutionContext,
  word: (operands: Named) => Mask,
  specs: Inputs,
  cases: readonly Readonly<Record<string, readonly number[]>>[],
  read?: (operands: Named) => Tensor<'bool'>,
): Promise<void> {
  const inputs: Inputs = { x: input(f32, [batch, N, D]), ...specs };
  const net = model('net', inputs, (all) => {
    const { x, ...operands } = all as Named;
    let h = x as Tensor<'f32'>;
    for (const name of ['a', 'b']) {
      const up = nn.linear(name, { in: D, out: D })(h) as Tensor<'f32'>;
      const heads = reshape(up, [batch, 1, N, D]);
      h = reshape(attention(heads, heads, heads, { mask: word(operands) }), [batch, N, D]) as Tensor<'f32'>;
      for (const part of ['up', 'down', 'out']) h = nn.linear(`${name}.${part}`, { in: D, out: D })(h) as Tensor<'f32'>;
    }
    const y = nn.linear('head', { in: D, out: D })(h) as Tensor;
    return { y: read ? output(y, { where: read(operands) }) : y };
  });
  const weights = seededWeights(net, 2);
  const params = (name: string): Nd => {
    const found = weights.get(name)!;
    return nd(found.dtype, found.shape, toFloat32(found));
  };
  if (read)
    t.true(
      graphValues(runPasses(net.entries.main!, pipelineFor())).some((v) => v.op.name === 'counted'),
      'rows are packed',
    );
  const bundle = compile(net, { weights, target: ['wasm', 'webgpu'] });
  for (const device of ['wasm', 'webgpu'] as const) {
    const session = await open(bundle, { device, threads: 1, ...(device === 'webgpu' && { gpu: dawnGpu() }) });
    for (const each of cases) {
      const shapes = Object.fromEntries(
        Object.entries(specs).map(([name, { shape }]) => [name, shape.map((d) => (typeof d === 'number' ? d : B))]),
      );
      const nds = Object.fromEntries(
        Object.entries(each).map(([name, data]) => [name, nd(specs[name]!.dtype, shapes[name]!, data)]),
      );
      const want = evaluate(net.entries.main!, { inputs: { x: nd('f32', [B, N, D], rows), ...nds }, params }).y!;
      const given = Object.fromEntries(
        Object.entries(each).map(([name, data]): [string, Input] => [
          name,
          {
            data: specs[name]!.dtype === 'bool' ? Uint8Array.from(data) : Int32Array.from(data),
            shape: shapes[name]!,
          },
        ]),
      );
      const { y } = await session.run({ x: { data: Float32Array.from(rows), shape: [B, N, D] }, ...given });
      same(t, y!, want, `${device}, ${JSON.stringify(each)}`);
    }
    session.dispose();
  }
}

function same(t: ExecutionContext, got: Result, want: Nd, what: string): void {
  t.deepEqual([...got.shape], [...want.shape]);
  for (const [i, w] of want.data.entries()) {
    const g = Number(got.data[i]);
    const close = Math.abs(g - w) < 1e-4 || (Number.isNaN(g) && Number.isNaN(w));
    if (!close) t.fail(`${what}: element ${i} is ${g}, not ${w}`);
  }
  t.pass();
}

const LENGTHS = [-(2 ** 31), -1, 0, 1, N - 1, N, N + 1, 2 ** 31 - 1];
const pairs = LENGTHS.map((n, i) => [n, LENGTHS[(i + 3) % LENGTHS.length]!]);
const number = (...names: readonly string[]): Inputs =>
  Object.fromEntries(names.map((name) => [name, input(i32, [batch])]));

test('a length below 0 is none, a length beyond all keys is all of them', (t) =>
  agrees(
    t,
    ({ n }) => mask.length(n as Tensor<'i32'>),
    number('n'),
    pairs.map((n) => ({ n })),
  ));

test('a range whose end is before its start, or outside of all keys', (t) =>
  agrees(
    t,
    ({ from, to }) => mask.range(from as Tensor<'i32'>, to as Tensor<'i32'>),
    number('from', 'to'),
    pairs.map((n, i) => ({ from: n, to: pairs[(i + 5) % pairs.length]! })),
  ));

test('a prefix and a past of any length', async (t) => {
  await agrees(
    t,
    ({ n }) => mask.prefix(n as Tensor<'i32'>),
    number('n'),
    pairs.map((n) => ({ n })),
  );
  // Positions are numbers of 32 bits: an offset is one that a position can be moved by.
  await agrees(
    t,
    ({ n }) => mask.causal(n as Tensor<'i32'>),
    number('n'),
    pairs.map((n) => ({ n: n.map((x) => Math.max(Math.min(x, 2 ** 30), -(2 ** 30))) })),
  );
});

const bits = { keep: input(bool, [batch, N]) };
const EMPTY = [
  { keep: new Array<number>(B * N).fill(0) },
  { keep: Array.from({ length: B * N }, (_, i) => +(i < 3)) },
  { keep: Array.from({ length: B * N }, (_, i) => +(i >= N)) },
  { keep: new Array<number>(B * N).fill(1) },
];

test('a batch of which nothing is kept, as one whose other entries are', (t) =>
  agrees(t, ({ keep }) => mask.keep(keep!), bits, EMPTY));

test('the same where what is not kept is not computed', (t) =>
  agrees(
    t,
    ({ keep }) => mask.keep(keep!),
    bits,
    EMPTY,
    ({ keep }) => keep as Tensor<'bool'>,
  ));

test('the same under a causal mask as well', (t) =>
  agrees(
    t,
    ({ keep }) => mask.and(mask.keep(keep!), mask.causal()),
    bits,
    EMPTY,
    ({ keep }) => keep as Tensor<'bool'>,
  ));
