import test, { type ExecutionContext } from 'ava';
import { compile, lowerModel } from '../compiler/compile.ts';
import { defaultSizes, narrowModel } from '../compiler/narrow.ts';
import { plannedMacs } from '../compiler/report.ts';
import { evaluateStatic } from '../compiler/weights.ts';
import { dim, entry, input, model, program, reshape, type Tensor as Traced } from '../frontends/dsl/index.ts';
import { seededWeights, zoo } from '../frontends/zoo/index.ts';
import { evaluate } from '../ir/evaluate.ts';
import { graphValues } from '../ir/graph.ts';
import { countMacs } from '../ir/macs.ts';
import { nd } from '../ir/nd.ts';
import { parseGraph } from '../ir/parse.ts';
import { printGraph } from '../ir/text.ts';
import { toFloat32, type WeightStore } from '../ir/weights.ts';
import type { Tensor } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';
import { tinyModel, tinyWeights } from './support/tiny-model.ts';

const rows = (count: number): Float32Array => Float32Array.from({ length: 6 * count }, (_, i) => Math.sin(i));

/** Compares with what the reference interpreter makes of the tiny model. */
function near(t: ExecutionContext, x: Float32Array, y: Tensor | undefined): void {
  const got = Array.from(y!.data as Float32Array);
  const apart = [...expected(x)].map((want, i) => Math.abs(got[i]! - want));
  t.true(got.length === apart.length && Math.max(...apart) < 1e-6, `apart by ${Math.max(...apart)}`);
}

function expected(x: Float32Array): Float64Array {
  const weights = tinyWeights();
  const params = (name: string) => {
    const tensor = weights.get(name)!;
    return nd('f32', tensor.shape, toFloat32(tensor));
  };
  const inputs = { x: nd('f32', [x.length / 6, 6], x) };
  return evaluate(tinyModel().entries.main!, { inputs, params }).y!.data;
}

test('a compiled model computes what the reference interpreter does, for every size in the range', async (t) => {
  const session = await open(compile(tinyModel(), { weights: tinyWeights() }));
  for (const count of [1, 3, 8]) {
    const { y } = await session.run({ x: rows(count) });
    t.deepEqual(y!.shape, [count, 3]);
    near(t, rows(count), y);
  }
  session.dispose();
});

test('a fixed size leaves no symbol and refuses other sizes', async (t) => {
  const bundle = compile(tinyModel(), { weights: tinyWeights(), symbols: { batch: 4 } });
  t.deepEqual(bundle.at, { batch: 4 });
  t.deepEqual(bundle.manifest.entries.main!.symbols, []);
  t.deepEqual(bundle.manifest.entries.main!.inputs[0]!.shape, [4, 6]);
  const session = await open(bundle);
  const { y } = await session.run({ x: rows(4) });
  near(t, rows(4), y);
  await t.throwsAsync(session.run({ x: rows(5) }), { code: 'input' });
  session.dispose();
});

test('a narrowed size keeps its default where the range allows, and moves it where not', (t) => {
  const wide = model(
    'wide',
    { x: input('f32', [dim('n', { min: 2, max: 64, multipleOf: 2, default: 16 }), 3]) },
    ({ x }) => ({
      y: x as Traced,
    }),
  );
  t.deepEqual(defaultSizes(wide), { n: 16 });
  t.deepEqual(defaultSizes(wide, { n: { max: 8 } }), { n: 8 });
  t.deepEqual(defaultSizes(wide, { n: { min: 21 } }), { n: 22 });
  t.regex(printGraph(narrowModel(wide, { n: { min: 3, max: 9 } }).entries.main!), /n in 4\.\.8 step 2 default 8/);
  for (const n of [1, 66, 2.5, { min: 10, max: 4 }, { min: 5, max: 5 }])
    t.throws(() => narrowModel(wide, { n }), { message: /error\[range\].*"n".*2\.\.64, multiples of 2/s });
  t.throws(() => narrowModel(wide, { m: 2 }), { message: /error\[name\].*no size "m"/ });
});

test('narrowing reaches sizes in attributes and keeps parameters shared between entries', (t) => {
  const gpt = zoo('gpt2');
  const narrow = narrowModel(gpt, { sequence: 12, past: 11, batch: 1 });
  t.is(Object.keys(defaultSizes(narrow)).length, 0);
  for (const graph of Object.values(narrow.entries)) t.notRegex(printGraph(graph), /symbols/);
  const params = (name: string) => graphValues(narrow.entries[name]!).filter(({ op }) => op.name === 'param');
  const shared = new Set(params('prefill'));
  t.true(params('decode').every((value) => shared.has(value)));
  const batch = dim('b', { max: 9 });
  const flat = model('flat', { x: input('f32', [batch, 2, 3]) }, ({ x }) => ({
    y: reshape(x as Traced<'f32'>, [batch, 6]) as Traced,
  }));
  t.deepEqual(
    compile(flat, { weights: tinyWeights(), symbols: { b: 5 } }).manifest.entries.main!.outputs[0]!.shape,
    [5, 6],
  );
});

test('counts are exact and follow the sizes', async (t) => {
  const at = async (symbols: Record<string, number>) =>
    (await compile(tinyModel(), { weights: tinyWeights(), symbols }).report()).macs;
  t.is(await at({}), 6 * 5 + 5 * 3);
  t.is(await at({ batch: 7 }), 7 * (6 * 5 + 5 * 3));
  // Published sizes: attention of 12 heads over 197 tokens and 12 layers of 768.
  t.is(countMacs(zoo('vit-b16').entries.main!), 17_563_828_224);
});

test('slices of weights are cut when a bundle is made', (t) => {
  const bytes = (values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
  const store = {
    source: 'a test',
    names: () => ['w'],
    get: () => ({ dtype: 'f32', shape: [4, 3], bytes: bytes(Array.from({ length: 12 }, (_, i) => i)) }) as const,
  };
  const cut = (attrs: string): number[] => {
    const text = `graph g() {
      %w = param {name = "w"} : f32[4, 3]
      %s = slice %w {${attrs}} : f32[2, 3]
      return s: %s
    }`;
    return Array.from(evaluateStatic(parseGraph(text).outputs.get('s')!, store), Number);
  };
  t.deepEqual(cut('starts = [1, 0], stops = [3, 3], steps = [1, 1]'), [3, 4, 5, 6, 7, 8]);
  t.deepEqual(cut('starts = [0, 0], stops = [4, 3], steps = [2, 1]'), [0, 1, 2, 6, 7, 8]);
  t.deepEqual(cut('starts = [1, 2], stops = [3, -1], steps = [1, -1]'), [5, 4, 3, 8, 7, 6]);
});

test('passes can be left out, by names that exist', (t) => {
  const macs = (without: readonly string[]): number =>
    plannedMacs(lowerModel(zoo('vit-s16'), { without }).entries[0]!.relaxed, {});
  t.is(macs(['drop-tokens']), countMacs(zoo('vit-s16').entries.main!));
  t.true(macs([]) < macs(['drop-tokens']));
  t.throws(() => macs(['drop-token']), { message: /no pass is called "drop-token"[\s\S]*passes: canonicalize, / });
});

test('counts beyond 32 bits do not wrap, whether sizes are fixed or bound', (t) => {
  const large = zoo('bert-large');
  for (const [symbols, at] of [
    [{ batch: 8, sequence: 512 }, {}],
    [{}, { batch: 8, sequence: 512 }],
  ] as const) {
    const { entries } = lowerModel(large, { symbols });
    const [planned] = entries.map((entry) => plannedMacs(entry.relaxed, at));
    t.is(planned, 1_472_351_715_328);
    t.is(planned, countMacs(entries[0]!.authored, at));
  }
});

test('a report covers every file, and memory is what a session holds', async (t) => {
  const bundle = compile(zoo('minilm-l6'), {
    weights: { ...seededWeights(zoo('minilm-l6')), get: zeros(zoo('minilm-l6').parameters) },
    symbols: { sequence: { max: 32 } },
  });
  const report = await bundle.report();
  t.deepEqual(
    report.files.map(({ path }) => path),
    ['index.js', 'index.d.ts', 'heddle.js', 'worker.js', 'manifest.json', 'kernels.bin', 'weights.bin'],
  );
  t.is(
    report.runtimeGzip,
    report.files.reduce((sum, { gzip }) => sum + (gzip ?? 0), 0),
  );
  t.is(report.weightsBytes, report.files.at(-1)!.bytes);
  t.is(report.macs, report.macsCompiled);
  t.deepEqual(report.at, { batch: 1, sequence: 32 });
  const session = await open(bundle, { threads: 1 });
  const size = { shape: [1, 32], data: new Int32Array(32) };
  await session.run(Object.fromEntries(session.inputs.map(({ name }) => [name, size])));
  // A session's memory is whole pages, and begins with some bytes of its own.
  t.true(
    session.peakBytes >= report.peakBytes && session.peakBytes < report.peakBytes + 2 * 65536,
    String(session.peakBytes),
  );
  session.dispose();
});

const zeros =
  (parameters: readonly { readonly name: string; readonly shape: readonly number[] }[]): WeightStore['get'] =>
  (name) => {
    const found = parameters.find((parameter) => parameter.name === name);
    return (
      found && { dtype: 'f32', shape: found.shape, bytes: new Uint8Array(4 * found.shape.reduce((n, d) => n * d, 1)) }
    );
  };

test('entries share weights, and a session runs each', async (t) => {
  const small = tinyModel();
  const both = program('both', {
    one: entry({ x: input('f32', [2, 6]) }, ({ x }) => ({ y: x as Traced })),
    two: entry({ x: input('f32', [3, 6]) }, ({ x }) => ({ z: x as Traced })),
  });
  const joined = { ...small, entries: { ...small.entries, ...both.entries } };
  const twice = { ...small, entries: { main: small.entries.main!, again: small.entries.main! } };
  t.is(
    compile(twice, { weights: tinyWeights() }).manifest.weights.bytes,
    compile(small, { weights: tinyWeights() }).manifest.weights.bytes,
  );
  const session = await open(compile(joined, { weights: tinyWeights() }));
  t.deepEqual(Object.keys(session.entries), ['main', 'one', 'two']);
  const x = rows(3);
  t.deepEqual((await session.run({ x }, { entry: 'two' })).z!.data, x);
  session.dispose();
});

test('missing weights are listed in one error', (t) => {
  const store: WeightStore = {
    source: 'half.safetensors',
    names: () => ['fc1.weight', 'fc2.weight'],
    get: () => undefined,
  };
  t.throws(() => compile(tinyModel(), { weights: store }), {
    message: /error\[weights\]: half\.safetensors lacks 2 .*missing "fc1\.bias".*missing "fc2\.bias"/s,
  });
});

test('misshapen weights name tensor and both shapes', (t) => {
  const good = tinyWeights();
  const get: WeightStore['get'] = (name) => {
    const tensor = good.get(name);
    return name === 'fc2.weight' ? { ...tensor!, shape: [5, 3] } : tensor;
  };
  t.throws(() => compile(tinyModel(), { weights: { ...good, get } }), {
    message: /fc2\.weight.*\[5, 3\].*\[3, 5\]/s,
  });
});

test('weights that are NaN, or too large for the storage, are refused by name', (t) => {
  const good = tinyWeights();
  const spoilt = (value: number): WeightStore => ({
    ...good,
    get: (name) => {
      const tensor = good.get(name);
      if (name !== 'fc1.bias' || !tensor) return tensor;
      return { ...tensor, bytes: new Uint8Array(Float32Array.of(0, 1, value, 3, 4).buffer) };
    },
  });
  t.throws(() => compile(tinyModel(), { weights: spoilt(Number.NaN) }), { message: /"fc1\.bias" is NaN at element 2/ });
  t.throws(() => compile(tinyModel(), { weights: spoilt(70_000), storage: 'f16' }), {
    message: /error\[range\]: tensor "fc1\.bias" holds 70000.*65504/,
  });
  t.notThrows(() => compile(tinyModel(), { weights: spoilt(70_000) }));
});

test('an unknown target is refused', (t) => {
  t.throws(() => compile(tinyModel(), { weights: tinyWeights(), target: 'tpu' as 'wasm' }), {
    message: /"tpu".*wasm/s,
  });
});

test('validation runs, and no rewrites at all give the same values', async (t) => {
  const x = rows(2);
  for (const options of [{ validate: true }, { stopAfter: 0 }]) {
    const bundle = compile(tinyModel(), { weights: tinyWeights(), ...options });
    if ('stopAfter' in options) t.false(bundle.entries[0]!.remarks.some(({ kind }) => kind === 'applied'));
    const session = await open(bundle);
    const { y } = await session.run({ x });
    near(t, x, y);
    session.dispose();
  }
});
