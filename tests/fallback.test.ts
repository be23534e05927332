/** A second plan for inputs that the first one does not suit, over the same weights and kernels; chosen before anything runs. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import type { Bundle } from '../compiler/bundle.ts';
import { recordSelfTest } from '../compiler/cli/record.ts';
import { compile } from '../compiler/compile.ts';
import { exportOnnx, importOnnx } from '../frontends/onnx/index.ts';
import { bert } from '../frontends/zoo/bert.ts';
import { seededWeights } from '../frontends/zoo/seeded.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import type { Model } from '../ir/model.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { parseGraph } from '../ir/parse.ts';
import { toFloat32, type WeightStore } from '../ir/weights.ts';
import type { Input, Session, Tensor } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';
import { temporary } from './support/cli.ts';
import { projectRoot } from './support/project.ts';
import { dawnGpu } from './support/swiftshader.ts';
import '../ir/ops/all.ts';

const NO_WEIGHTS: WeightStore = { source: 'no weights', names: () => [], get: () => undefined };

async function onEach(bundle: Bundle, f: (session: Session, device: string) => Promise<void>): Promise<void> {
  for (const device of ['wasm', 'webgpu'] as const) {
    const session = await open(bundle, { device, threads: 1, ...(device === 'webgpu' && { gpu: dawnGpu() }) });
    await f(session, device);
    session.dispose();
  }
}

/** Names of the kernels that a run launches tell which plan it took. */
async function ran(
  session: Session,
  inputs: Readonly<Record<string, Input>>,
): Promise<{ readonly outputs: Readonly<Record<string, Tensor>>; readonly entry: 'main' | 'main.dense' }> {
  const labels: string[] = [];
  const outputs = await session.run(inputs, { profile: (rows) => labels.push(...rows.map(({ label }) => label)) });
  return { outputs, entry: labels.some((label) => label.includes('positions')) ? 'main' : 'main.dense' };
}

function close(t: ExecutionContext, got: Tensor | undefined, want: Nd, what: string): void {
  for (const [i, value] of want.data.entries())
    t.true(Math.abs(Number(got!.data[i]) - value) < 1e-4, `${what}: element ${i} is ${got!.data[i]}, not ${value}`);
}

const small = { layers: 2, width: 32, heads: 4, mlp: 128, vocabulary: 40, positions: 24 } as const;
const N = 9;
const LINES: Readonly<Record<string, readonly number[]>> = {
  'half of the words': [1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0],
  'all words': new Array<number>(18).fill(1),
  'numbers that are no mask': [1, 1, 2, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0],
};

/** BERT as a stranger's file: its mask is binary by its name alone, and −10000 where it is 0. */
function strange(): { readonly model: Model; readonly store: WeightStore } {
  const model = bert({ ...small, maskedLm: false });
  const store = seededWeights(model, 3);
  return { model, store };
}

test('a batch without padding is computed whole, one with padding by its words', async (t) => {
  const { model, store } = strange();
  const bundle = compile(model, { weights: store, target: ['wasm', 'webgpu'], fallback: 'dense' });
  t.deepEqual(Object.keys(bundle.manifest.entries), ['main', 'main.dense']);
  const alone = compile(model, { weights: store, target: ['wasm', 'webgpu'] });
  t.deepEqual(Object.keys(alone.manifest.entries), ['main']);
  t.is(bundle.manifest.weights.bytes, alone.manifest.weights.bytes, 'weights are shared');
  const authored = model.entries.main!;
  const params = (name: string): Nd => {
    const { dtype, shape } = store.get(name)!;
    return nd(dtype, shape, toFloat32(store.get(name)!));
  };
  await onEach(bundle, async (session, device) => {
    for (const [name, mask] of Object.entries(LINES).slice(0, 2)) {
      const ids = mask.map((m, i) => (m ? (i * 5) % 40 : 0));
      const kinds = mask.map((_, i) => i % 2);
      const of = (data: readonly number[]): Nd => nd('i64', [2, N], data);
      const inputs = { input_ids: of(ids), attention_mask: of(mask), token_type_ids: of(kinds) };
      const want = evaluate(authored, { inputs, params });
      const big = (data: readonly number[]): Input => ({ data: BigInt64Array.from(data, BigInt), shape: [2, N] });
      const given = { input_ids: big(ids), attention_mask: big(mask), token_type_ids: big(kinds) };
      const { outputs, entry } = await ran(session, given);
      t.is(entry, name === 'all words' ? 'main.dense' : 'main', `${device}, ${name}`);
      for (const [output, x] of Object.entries(want)) close(t, outputs[output], x, `${device}, ${name}, ${output}`);
    }
  });
});

/** Attention whose mask is made of numbers as exporters do, and a masked mean: nothing of padding is observed. */
const numbers = (attrs: string, sum = '%masked'): Graph =>
  parseGraph(`graph net(%x: f32[2, 9, 64], %w: f32[64, 64], %attention_mask: i64[2, 9] {${attrs}}) {
  %h1 = matmul %x, %w : f32[2, 9, 64]
  %h2 = matmul %h1, %w : f32[2, 9, 64]
  %h = matmul %h2, %w : f32[2, 9, 64]
  %q = reshape %h {shape = [2, 1, 9, 64]} : f32[2, 1, 9, 64]
  %m = cast %attention_mask {to = f32} : f32[2, 9]
  %one = constant {value = 1} : f32
  %no = sub %one, %m : f32[2, 9]
  %low = constant {value = -10000} : f32
  %bias = mul %no, %low : f32[2, 9]
  %o = attention %q, %q, %q, %bias {bias = in3[b, k]} : f32[2, 1, 9, 64]
  %r = reshape %o {shape = [2, 9, 64]} : f32[2, 9, 64]
  %y1 = matmul %r, %w : f32[2, 9, 64]
  %y = matmul %y1, %w : f32[2, 9, 64]
  %c = reshape %m {shape = [2, 9, 1]} : f32[2, 9, 1]
  %masked = mul %y, %c : f32[2, 9, 64]
  %sum = reduce_sum ${sum} {axes = [1]} : f32[2, 64]
  return sum: %sum
}
`);
const random = seeded(4);
const floats = (...shape: readonly number[]): Nd =>
  nd(
    'f32',
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b) }, () => Math.fround(random() - 0.5) / 4),
  );
const [x, w] = [floats(2, N, 64), floats(64, 64)];
const handed = (mask: readonly number[]): Record<string, Input> => ({
  x: { data: Float32Array.from(x.data), shape: [2, N, 64] },
  w: { data: Float32Array.from(w.data), shape: [64, 64] },
  attention_mask: { data: BigInt64Array.from(mask, BigInt), shape: [2, N] },
});
const asModel = (main: Graph): Model => ({ name: 'net', entries: { main } });

test('a mask by its name alone that holds other numbers is taken for these numbers', async (t) => {
  const main = numbers('binary = true, assumed = true');
  const bundle = compile(asModel(main), { weights: NO_WEIGHTS, target: ['wasm', 'webgpu'], fallback: 'dense' });
  await onEach(bundle, async (session, device) => {
    for (const [name, mask] of Object.entries(LINES)) {
      const want = evaluate(main, { inputs: { x, w, attention_mask: nd('i64', [2, N], mask) } }).sum!;
      const { outputs, entry } = await ran(session, handed(mask));
      t.is(entry, name === 'half of the words' ? 'main' : 'main.dense', `${device}, ${name}`);
      close(t, outputs.sum, want, `${device}, ${name}`);
    }
    // Whoever wants every row computed can say so.
    const { sum } = await session.run(handed(LINES['half of the words']!), { entry: 'main.dense' });
    const inputs = { x, w, attention_mask: nd('i64', [2, N], LINES['half of the words']!) };
    close(t, sum, evaluate(main, { inputs }).sum!, device);
  });
});

test('without the fallback, and where users declare it, other numbers are refused', async (t) => {
  const refused = {
    code: 'input',
    message: /input "attention_mask" .* has 2 at \[2\]\. Each element is 0 or 1/,
  } as never;
  for (const [attrs, fallback] of [
    ['binary = true, assumed = true', 'none'],
    ['binary = true', 'dense'],
  ] as const) {
    const main = numbers(attrs);
    const bundle = compile(asModel(main), { weights: NO_WEIGHTS, target: ['wasm', 'webgpu'], fallback });
    await onEach(bundle, async (session) => {
      await t.throwsAsync(session.run(handed(LINES['numbers that are no mask']!)), refused);
    });
  }
});

test('a count beyond its range is computed whole', async (t) => {
  const main = parseGraph(`symbols visible in 1..4 default 2
graph net(%x: f32[2, 9, 64], %w: f32[64, 64], %seen: bool[2, 9] {count = visible}) {
  %c = reshape %seen {shape = [2, 9, 1]} : bool[2, 9, 1]
  %h = matmul %x, %w : f32[2, 9, 64]
  %zero = constant {value = 0} : f32
  %y = select %c, %h, %zero : f32[2, 9, 64]
  return y: %y
}
`);
  const bundle = compile(asModel(main), { weights: NO_WEIGHTS, target: ['wasm', 'webgpu'], fallback: 'dense' });
  const none = compile(asModel(main), { weights: NO_WEIGHTS, target: ['wasm', 'webgpu'] });
  const lines = (n: number): number[] => Array.from({ length: 2 * N }, (_, i) => +(i % N < n));
  const given = (n: number): Record<string, Input> => ({
    ...(({ x: a, w: b }) => ({ x: a!, w: b! }))(handed([])),
    seen: { data: Uint8Array.from(lines(n)), shape: [2, N] },
  });
  const all = parseGraph(`graph net(%x: f32[2, 9, 64], %w: f32[64, 64], %seen: bool[2, 9]) {
  %c = reshape %seen {shape = [2, 9, 1]} : bool[2, 9, 1]
  %h = matmul %x, %w : f32[2, 9, 64]
  %zero = constant {value = 0} : f32
  %y = select %c, %h, %zero : f32[2, 9, 64]
  return y: %y
}
`);
  await onEach(bundle, async (session, device) => {
    for (const n of [0, 1, 4, 5, 9]) {
      const want = evaluate(all, { inputs: { x, w, seen: nd('bool', [2, N], lines(n)) } }).y!;
      close(t, (await session.run(given(n))).y, want, `${device}, ${n}`);
    }
  });
  await onEach(none, async (session) => {
    for (const n of [0, 5, 9])
      await t.throwsAsync(session.run(given(n)), {
        code: 'input',
        message: /size "visible" is \d .* takes 1 … 4/,
      } as never);
  });
});

test('a plan that depends on nothing of the kind has no second one', (t) => {
  const { model, store } = strange();
  const fixed = parseGraph(`graph net(%x: f32[2, 9, 64], %w: f32[64, 64], %seen: bool[2, 9] {count = 4}) {
  %c = reshape %seen {shape = [2, 9, 1]} : bool[2, 9, 1]
  %h = matmul %x, %w : f32[2, 9, 64]
  %zero = constant {value = 0} : f32
  %y = select %c, %h, %zero : f32[2, 9, 64]
  return y: %y
}
`);
  const { entries } = compile(asModel(fixed), { weights: NO_WEIGHTS, fallback: 'dense' }).manifest;
  t.deepEqual(Object.keys(entries), ['main']);
  const { manifest } = compile(model, { weights: store, without: ['pack-rows'], fallback: 'dense' });
  t.deepEqual(Object.keys(manifest.entries), ['main']);
});

test('an ONNX file of that kind, from its bytes', async (t) => {
  const written = numbers('binary = true, assumed = true');
  const bytes = exportOnnx(asModel(written)).entries.main!.bytes();
  const { model, weights } = importOnnx(bytes);
  const { manifest } = compile(model, { weights, fallback: 'dense' });
  t.deepEqual(Object.keys(manifest.entries), ['main', 'main.dense']);
  t.is(manifest.entries.main!.otherwise?.entry, 'main.dense');
});

test('a written folder chooses by itself, and its types name both entries', async (t) => {
  const folder = join(temporary(t), 'net');
  const main = numbers('binary = true, assumed = true');
  const bundle = compile(asModel(main), { weights: NO_WEIGHTS, target: ['wasm', 'webgpu'], fallback: 'dense' });
  await bundle.withSelfTest(await recordSelfTest(bundle)).write(folder);
  t.regex(readFileSync(join(folder, 'index.d.ts'), 'utf8'), /readonly entry: 'main\.dense'/);
  for (const device of ['wasm', 'webgpu'] as const) {
    const session = await open(folder, { device, threads: 1, ...(device === 'webgpu' && { gpu: dawnGpu() }) });
    for (const [name, mask] of Object.entries(LINES)) {
      const want = evaluate(main, { inputs: { x, w, attention_mask: nd('i64', [2, N], mask) } }).sum!;
      close(t, (await session.run(handed(mask))).sum, want, `${device}, ${name}`);
    }
    t.like(await session.selftest(), { ok: true });
    session.dispose();
  }
  const loader = (await import(pathToFileURL(join(folder, 'index.js')).href)) as { entries: object };
  t.deepEqual(Object.keys(loader.entries), ['main', 'main.dense']);
});

test('masks of published exporters, by their names, with numbers that are none', async (t) => {
  const path = join(projectRoot, 'tests', 'fixtures', 'masks', 'minus-ten-thousand.script.fixed.onnx');
  const { model, weights } = importOnnx(path);
  const authored = model.entries.main!;
  const bundle = compile(model, { weights, fallback: 'dense' });
  t.deepEqual(Object.keys(bundle.manifest.entries), ['main', 'main.dense']);
  const session = await open(bundle, { threads: 1 });
  const draw = seeded(21);
  const inputs = (odd: number): Record<string, Nd> =>
    Object.fromEntries(
      authored.inputs.map((v) => {
        const { dtype, shape } = v.type as { dtype: Nd['dtype']; shape: readonly number[] };
        const count = shape.reduce((a, b) => a * b, 1);
        const isMask = v.attrs.name === 'attention_mask';
        const data = Array.from({ length: count }, (_, i) => (isMask ? (i === 1 ? odd : +(i % 5 < 3)) : draw() - 0.5));
        return [String(v.attrs.name), nd(dtype, shape, data)];
      }),
    );
  const params = (name: string): Nd => {
    const found = weights.get(name)!;
    return nd(found.dtype, found.shape, toFloat32(found));
  };
  // Beside the other numbers −10000 is what it is.
  for (const odd of [0, 1, 2, -1]) {
    const given = inputs(odd);
    const want = evaluate(authored, { inputs: given, params });
    const handedOver = Object.fromEntries(
      Object.entries(given).map(([name, { dtype, shape, data }]): [string, Input] => [
        name,
        { data: dtype === 'i64' ? BigInt64Array.from(data, BigInt) : Float32Array.from(data), shape },
      ]),
    );
    const got = await session.run(handedOver);
    for (const [name, y] of Object.entries(want)) close(t, got[name], y, `${name} with ${odd}`);
  }
  session.dispose();
});
