/** What callers promise of inputs: what it saves, and that a broken promise is an error before anything executes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { recordSelfTest } from '../compiler/cli/record.ts';
import { compile, lowerModel } from '../compiler/compile.ts';
import { runtimeFiles } from '../compiler/loader.ts';
import { plannedMacs } from '../compiler/report.ts';
import {
  attention,
  bool,
  dim,
  f32,
  i64,
  input,
  mask,
  matmul,
  model,
  output,
  reshape,
  type Tensor as Traced,
} from '../frontends/dsl/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graphValues, typeOf } from '../ir/graph.ts';
import type { Model } from '../ir/model.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { parseGraph } from '../ir/parse.ts';
import { printGraph } from '../ir/text.ts';
import type { WeightStore } from '../ir/weights.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import type { Input, Session, Tensor } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';
import { temporary } from './support/cli.ts';
import { dawnGpu } from './support/swiftshader.ts';
import '../ir/ops/all.ts';

const NO_WEIGHTS: WeightStore = { source: 'no weights', names: () => [], get: () => undefined };
const [B, N, D] = [2, 8, 64] as const;

/** Rows that a mask keeps go through two products; the others are overwritten. */
const encoder = (attrs: string, dtype = 'bool', symbols = ''): Graph =>
  parseGraph(`${symbols}graph encoder(%x: f32[2, 8, 64], %w: f32[64, 64], %seen: ${dtype}[2, 8]${attrs && ` {${attrs}}`}) {
  %rows = cast %seen {to = bool} : bool[2, 8]
  %c = reshape %rows {shape = [2, 8, 1]} : bool[2, 8, 1]
  %h = matmul %x, %w : f32[2, 8, 64]
  %q = reshape %h {shape = [2, 1, 8, 64]} : f32[2, 1, 8, 64]
  %o = attention %q, %q, %q, %rows {mask = in3[b, k]} : f32[2, 1, 8, 64]
  %r = reshape %o {shape = [2, 8, 64]} : f32[2, 8, 64]
  %y = matmul %r, %w : f32[2, 8, 64]
  %token = constant {value = 0.5} : f32
  %all = select %c, %y, %token : f32[2, 8, 64]
  return all: %all
}
`);
const asModel = (main: Graph): Model => ({ name: 'encoder', entries: { main } });
const random = seeded(3);
const floats = (...shape: readonly number[]): Nd =>
  nd(
    'f32',
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b) }, () => Math.fround(random() - 0.5) / 4),
  );
const [x, w] = [floats(B, N, D), floats(D, D)];
const SEEN = [0, 1, 0, 0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0];
const given = (seen: readonly number[], dtype: 'bool' | 'i64' = 'bool'): Record<string, Nd> => ({
  x,
  w,
  seen: nd(dtype, [B, N], seen),
});
const handed = (seen: readonly number[], dtype: 'bool' | 'i64' = 'bool'): Record<string, Input> => ({
  x: { data: Float32Array.from(x.data), shape: [B, N, D] },
  w: { data: Float32Array.from(w.data), shape: [D, D] },
  seen: { data: dtype === 'bool' ? Uint8Array.from(seen) : BigInt64Array.from(seen, BigInt), shape: [B, N] },
});

async function onEach(main: Graph, f: (session: Session, device: string) => Promise<void>): Promise<void> {
  const bundle = compile(asModel(main), { weights: NO_WEIGHTS, target: ['wasm', 'webgpu'] });
  for (const device of ['wasm', 'webgpu'] as const) {
    const session = await open(bundle, { device, threads: 1, ...(device === 'webgpu' && { gpu: dawnGpu() }) });
    await f(session, device);
    session.dispose();
  }
}

function close(t: ExecutionContext, got: Tensor | undefined, want: Nd, what: string): void {
  for (const [i, value] of want.data.entries())
    t.true(Math.abs(Number(got!.data[i]) - value) < 1e-5, `${what}: element ${i} is ${got!.data[i]}, not ${value}`);
}

/** Shapes of all products with weights. */
const rowsOf = (g: Graph): string[] =>
  graphValues(g).flatMap((v) => (v.op.name === 'matmul' ? [typeOf(v).shape.map(String).join('×')] : []));

test('a count that is promised makes compaction static, for bools and for numbers', (t) => {
  for (const [attrs, dtype] of [
    ['count = 3', 'bool'],
    ['binary = true, count = 3', 'i64'],
  ] as const) {
    const g = encoder(attrs, dtype);
    const after = runPasses(g, pipelineFor(), { validate: true });
    t.deepEqual(rowsOf(after), ['2×3×64', '2×3×64']);
    const { entries } = lowerModel(asModel(g), {});
    const macs = plannedMacs(entries[0]!.relaxed, {});
    t.is(macs, 2 * 2 * 3 * 64 * 64 + 2 * 2 * 3 * 3 * 64);
  }
  // Nobody knows how many rows there are: nothing is static.
  t.deepEqual(
    rowsOf(
      runPasses(
        encoder(''),
        pipelineFor().filter((p) => p.name !== 'pack-rows'),
      ),
    ),
    ['2×8×64', '2×8×64'],
  );
});

test('rows of a promised count are not counted again where a sum multiplies them with the mask', (t) => {
  const main = parseGraph(`graph g(%x: f32[2, 8, 64], %w: f32[64, 64], %seen: i64[2, 8] {binary = true, count = 3}) {
  %a = matmul %x, %w : f32[2, 8, 64]
  %b = matmul %a, %w : f32[2, 8, 64]
  %m = cast %seen {to = f32} : f32[2, 8]
  %c = reshape %m {shape = [2, 8, 1]} : f32[2, 8, 1]
  %only = mul %b, %c : f32[2, 8, 64]
  %sum = reduce_sum %only {axes = [1]} : f32[2, 64]
  return sum: %sum
}
`);
  const after = runPasses(main, pipelineFor(), { validate: true });
  t.deepEqual(rowsOf(after), ['2×3×64', '2×3×64']);
  t.false(graphValues(after).some((v) => v.op.name === 'counted'));
});

test('the rows that a count leaves out are those that are not kept', (t) => {
  const main = parseGraph(`graph g(%x: f32[2, 8, 64], %w: f32[64, 64], %seen: bool[2, 8] {count = 6}) {
  %c = reshape %seen {shape = [2, 8, 1]} : bool[2, 8, 1]
  %y = matmul %x, %w : f32[2, 8, 64]
  %token = constant {value = 0.5} : f32
  %all = select %c, %token, %y : f32[2, 8, 64]
  return all: %all
}
`);
  t.deepEqual(rowsOf(runPasses(main, pipelineFor(), { validate: true })), ['2×2×64']);
});

for (const dtype of ['bool', 'i64'] as const)
  test(`a count that is not kept is an error on each device, before anything runs: ${dtype}`, async (t) => {
    const main = encoder(dtype === 'bool' ? 'count = 3' : 'binary = true, count = 3', dtype);
    const want = evaluate(main, { inputs: given(SEEN, dtype) }).all!;
    t.throws(() => evaluate(main, { inputs: given(SEEN.with(0, 1), dtype) }), {
      instanceOf: CompileError,
      message: /input "seen" has 4 ones in line 0, and promises 3/,
    });
    await onEach(main, async (session, device) => {
      for (const [seen, ones] of [
        [SEEN.with(1, 0), 2],
        [SEEN.with(0, 1), 4],
        [SEEN.map(() => 0), 0],
        [SEEN.map(() => 1), 8],
      ] as const)
        await t.throwsAsync(session.run(handed(seen, dtype)), {
          code: 'input',
          message: `heddle: input "seen" (${dtype}[2, 8]) has ${ones} ones in line 0. Its author promises exactly 3 in each line of 8.`,
        } as never);
      await t.throwsAsync(session.run(handed(SEEN.with(9, 0), dtype)), { message: /has 2 ones in line 1/ });
      await t.throwsAsync(session.run(handed(SEEN.with(1, 2), dtype)), {
        message: /has 2 at \[1\]\. (A bool|Each element) is 0 or 1/,
      });
      // A refused run leaves the session as it was.
      const { all } = await session.run(handed(SEEN, dtype));
      close(t, all, want, `${device}`);
    });
  });

test('what stands on a device cannot be looked at: inputs that promise something are given as arrays', async (t) => {
  const bundle = compile(asModel(encoder('count = 3')), { weights: NO_WEIGHTS, target: ['wasm', 'webgpu'] });
  const session = await open(bundle, { device: 'webgpu', gpu: dawnGpu() });
  const { all } = await session.runOnDevice!(handed(SEEN));
  // The same memory suits an input that promises nothing.
  t.truthy(await session.run({ ...handed(SEEN), x: { buffer: all!.buffer, shape: [B, N, D] } }));
  await t.throwsAsync(session.run({ ...handed(SEEN), seen: { buffer: all!.buffer, shape: [B, N] } }), {
    code: 'input',
    message: /input "seen" .* was given an object with buffer, shape\. Pass a Uint8Array/,
  } as never);
  all!.destroy();
  session.dispose();
});

test('a count may be a size that a run takes from the input', async (t) => {
  const main = encoder('count = visible', 'bool', 'symbols visible in 1..5 default 3\n');
  const after = runPasses(main, pipelineFor(), { validate: true });
  t.deepEqual(rowsOf(after)[0]!.split('×').length, 3);
  t.true(rowsOf(after).every((shape) => !shape.includes('8×64')));
  const lines = (n: number): number[] => [0, 1].flatMap((b) => Array.from({ length: N }, (_, i) => +((i + b) % N < n)));
  await onEach(main, async (session, device) => {
    for (const visible of [1, 3, 5]) {
      const want = evaluate(main, { inputs: given(lines(visible)) }).all!;
      const { all } = await session.run(handed(lines(visible)));
      close(t, all, want, `${device}, ${visible}`);
    }
    await t.throwsAsync(session.run(handed(lines(6))), { message: /size "visible" is 6 by the inputs.* takes 1 … 5/ });
    await t.throwsAsync(session.run(handed(lines(0))), { message: /size "visible" is 0 by the inputs/ });
    await t.throwsAsync(session.run(handed(lines(3).with(1, 0))), { message: /has 3 ones in line 1.*exactly 2/ });
  });
});

/** Cross-attention as exporters write it: a query that may read no key would average over all. */
const cross = (attrs: string): Graph =>
  parseGraph(`graph cross(%q: f32[2, 1, 3, 64], %m: f32[2, 8, 64], %w: f32[64, 64], %memory_mask: i64[2, 8] {${attrs}}) {
  %k = matmul %m, %w : f32[2, 8, 64]
  %up = matmul %k, %w : f32[2, 8, 64]
  %keys = reshape %up {shape = [2, 1, 8, 64]} : f32[2, 1, 8, 64]
  %f = cast %memory_mask {to = f32} : f32[2, 8]
  %one = constant {value = 1} : f32
  %no = sub %one, %f : f32[2, 8]
  %least = constant {value = -3.4028235e+38} : f32
  %bias = mul %no, %least : f32[2, 8]
  %o = attention %q, %keys, %keys, %bias {bias = in3[b, k]} : f32[2, 1, 3, 64]
  return o: %o
}
`);

test('one key at least: cross-attention needs no row of its memory that is masked', async (t) => {
  const packed = (g: Graph): boolean => graphValues(runPasses(g, pipelineFor())).some((v) => v.op.name === 'counted');
  t.false(packed(cross('binary = true')));
  t.true(packed(cross('binary = true, atLeast = 1')));
  t.true(packed(cross('binary = true, count = 3')) === false, 'a count is static');
  const main = cross('binary = true, atLeast = 1');
  const q = floats(B, 1, 3, D);
  const inputs = (bits: readonly number[]): Record<string, Nd> => ({
    q,
    m: x,
    w,
    memory_mask: nd('i64', [B, N], bits),
  });
  const want = evaluate(main, { inputs: inputs(SEEN) }).o!;
  const run = (bits: readonly number[]): Record<string, Input> => ({
    q: Float32Array.from(q.data),
    m: Float32Array.from(x.data),
    w: Float32Array.from(w.data),
    memory_mask: BigInt64Array.from(bits, BigInt),
  });
  await onEach(main, async (session, device) => {
    const { o } = await session.run(run(SEEN));
    close(t, o, want, `${device}`);
    await t.throwsAsync(session.run(run(SEEN.map((bit, i) => (i < N ? bit : 0)))), {
      code: 'input',
      message:
        'heddle: input "memory_mask" (i64[2, 8]) has 0 ones in line 1. Its author promises at least 1 in each line of 8.',
    } as never);
  });
});

test('promises in words, and in the text of a graph', (t) => {
  const visible = dim('visible', { max: 8 });
  const traced = model(
    'net',
    {
      x: input(f32, [2, 8, 4]),
      seen: input(bool, [2, 8], 'patches', { count: visible }),
      words: input(i64, [2, 8], '', { binary: true, atLeast: 1 }),
      any: input(bool, [2, 8], '', { count: 'any' }),
    },
    ({ x: rows, seen, words, any }) => ({
      y: output(matmul(rows, reshape(rows, [2, 4, 8])) as Traced, { where: seen }),
      z: attention(reshape(rows, [2, 1, 8, 4]), reshape(rows, [2, 1, 8, 4]), reshape(rows, [2, 1, 8, 4]), {
        mask: mask.and(mask.keep(words), mask.keep(any)),
      }),
    }),
  );
  const text = printGraph(traced.entries.main!, { locs: false });
  t.regex(text, /^symbols visible in 1\.\.8/);
  t.regex(text, /%seen: bool\[2, 8\] \{doc = "patches", count = visible\}/);
  t.regex(text, /%words: i64\[2, 8\] \{binary = true, atLeast = 1\}/);
  t.regex(text, /%any: bool\[2, 8\]\n|%any: bool\[2, 8\]\)/);
  t.is(printGraph(parseGraph(text)), text);
});

test('promises that do not suit an input are refused where it is declared', (t) => {
  const declare = (dtype: 'bool' | 'i64', shape: readonly number[], promises: Parameters<typeof input>[3]): string => {
    const error = t.throws(
      () => model('net', { m: input(dtype, shape, '', promises) }, ({ m }) => ({ m: m as Traced })),
      {
        instanceOf: CompileError,
      },
    );
    return error.message;
  };
  t.regex(declare('i64', [2, 8], { count: 3 }), /input "m" has a count, but may hold other numbers than 0 and 1/);
  t.regex(declare('bool', [2, 8], { count: 9 }), /input "m": count is 9, and a line has 8 elements/);
  t.regex(declare('bool', [2, 8], { atLeast: 9 }), /input "m": atLeast is 9, and a line has 8 elements/);
  t.regex(declare('bool', [], { count: 1 }), /input "m" has a count, but no axis to count along/);
});

test('a written folder checks what its inputs promise, and its types say it', async (t) => {
  const folder = join(temporary(t), 'net');
  const bundle = compile(asModel(encoder('binary = true, count = 3', 'i64')), {
    weights: NO_WEIGHTS,
    target: ['wasm', 'webgpu'],
  });
  await bundle.withSelfTest(await recordSelfTest(bundle)).write(folder);
  const types = readFileSync(join(folder, 'index.d.ts'), 'utf8');
  t.regex(types, /i64\[2, 8\] \(0 and 1 only, 3 ones in each line\)/);
  const loader = (await import(pathToFileURL(join(folder, 'index.js')).href)) as { open: typeof open };
  const want = evaluate(bundle.entries[0]!.authored, { inputs: given(SEEN, 'i64') }).all!;
  for (const device of ['wasm', 'webgpu'] as const) {
    const options = { device, threads: 1, ...(device === 'webgpu' && { gpu: dawnGpu() }) };
    const session = await (loader.open as unknown as (options: unknown) => Promise<Session>)(options);
    t.is(session.device, device);
    close(t, (await session.run(handed(SEEN, 'i64'))).all, want, device);
    await t.throwsAsync(session.run(handed(SEEN.with(0, 1), 'i64')), {
      message: /has 4 ones in line 0\. Its author promises exactly 3/,
    });
    t.like(await session.selftest(), { ok: true });
    session.dispose();
  }
});

test('only bundles whose inputs promise counts carry what checks them', async (t) => {
  const sizes = await Promise.all(
    ['count = 3', ''].map(async (attrs) => {
      const { manifest } = compile(asModel(encoder(attrs)), { weights: NO_WEIGHTS });
      const files = new Map(await runtimeFiles(manifest));
      return new TextDecoder().decode(files.get('heddle.js')!).includes('Its author promises');
    }),
  );
  t.deepEqual(sizes, [true, false]);
});
