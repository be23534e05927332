/**
 * Whole models at sizes that fit no tile, block or lane, against the interpreter in doubles. Sessions are opened once and
 * run at sizes in alternation, and what is left in their memory from the run before is overwritten with NaN. One test at a
 * time: each watches which memory its session makes.
 */
import test, { type ExecutionContext } from 'ava';
import { compile } from '../compiler/compile.ts';
import {
  add,
  argMax,
  concat,
  constant,
  dim,
  expand,
  f32,
  i32,
  input,
  linear,
  type ModelGraph,
  matmul,
  maxPool,
  mean,
  model,
  mul,
  nn,
  param,
  relu,
  reshape,
  scan,
  sigmoid,
  slice,
  softmax,
  sub,
  type Tensor,
  tanh,
  topK,
  transpose,
} from '../frontends/dsl/index.ts';
import { bert, gpt2, mae, vit } from '../frontends/zoo/index.ts';
import { isFloat } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { toFloat32, type WeightStore } from '../ir/weights.ts';
import type { TensorData } from '../runtime/api.ts';
import { open } from '../runtime/open.ts';

/** Largest |got − want| over the largest |want| of an output. */
const TOLERANCE = 1e-5;
const SETTINGS = [
  { relaxed: true, threads: 1 },
  { relaxed: false, threads: 1 },
  { relaxed: true, threads: 3 },
];

type Values = Readonly<Record<string, Nd>>;
interface Run {
  readonly note: string;
  readonly entry?: string;
  readonly inputs: Values;
}

const reals = (shape: readonly number[], seed: number): Nd => {
  const next = seeded(seed);
  return nd(
    'f32',
    shape,
    Float64Array.from({ length: countOf(shape) }, () => next() * 2 - 1),
  );
};
const whole = (dtype: Nd['dtype'], shape: readonly number[], below: number, seed: number): Nd => {
  const next = seeded(seed);
  return nd(
    dtype,
    shape,
    Float64Array.from({ length: countOf(shape) }, () => Math.floor(next() * below)),
  );
};

/** Weights of order 1/2, so that every layer counts; variances positive. */
function weightsOf({ parameters }: ModelGraph): WeightStore {
  const get: WeightStore['get'] = (name) => {
    const found = parameters.find((p) => p.name === name);
    if (!found) return undefined;
    const hash = [...name].reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) | 0, 7);
    const values = reals(found.shape, hash).data.map((x) => (name.endsWith('running_var') ? 1 + x / 2 : x / 2));
    return { dtype: 'f32', shape: found.shape, bytes: new Uint8Array(Float32Array.from(values).buffer) };
  };
  return { source: 'random weights', names: () => parameters.map((p) => p.name), get };
}

const typed = ({ dtype, data, shape }: Nd): { data: TensorData; shape: readonly number[] } => ({
  data:
    dtype === 'i64'
      ? BigInt64Array.from(Array.from(data, BigInt))
      : dtype === 'i32'
        ? Int32Array.from(data)
        : Float32Array.from(data),
  shape,
});

function difference(
  got: { readonly shape: readonly number[]; readonly data: TensorData } | undefined,
  want: Nd,
): string {
  if (!got || got.shape.join() !== want.shape.join())
    return `shape [${got?.shape.join()}] instead of [${want.shape.join()}]`;
  const largest = want.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const bound = isFloat(want.dtype) ? TOLERANCE * largest : 0;
  const at = want.data.findIndex((x, i) => !(Math.abs(x - Number(got.data[i])) <= bound));
  return at < 0 ? '' : `element ${at} is ${got.data[at]} instead of ${want.data[at]}`;
}

/** The memories that sessions make meanwhile. */
async function memoriesOf<T>(f: () => Promise<T>): Promise<readonly [T, readonly WebAssembly.Memory[]]> {
  const made: WebAssembly.Memory[] = [];
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class extends Memory {
    constructor(descriptor: WebAssembly.MemoryDescriptor) {
      super(descriptor);
      made.push(this);
    }
  };
  try {
    return [await f(), made];
  } finally {
    WebAssembly.Memory = Memory;
  }
}

async function agrees(t: ExecutionContext, traced: ModelGraph, runs: readonly Run[]): Promise<void> {
  const weights = weightsOf(traced);
  const bundle = compile(traced, { weights });
  const params = (name: string): Nd => {
    const tensor = weights.get(name)!;
    return nd('f32', tensor.shape, Float64Array.from(toFloat32(tensor)));
  };
  const wanted = runs.map(({ entry = 'main', inputs }) => evaluate(traced.entries[entry] as Graph, { inputs, params }));
  for (const setting of SETTINGS) {
    const [session, memories] = await memoriesOf(() => open(bundle, setting));
    t.is(memories.length, 1);
    const arena = 64 + Math.ceil(bundle.manifest.weights.memory / 64) * 64;
    // There and back, so that every size follows a larger and a smaller one.
    for (const i of [...runs.keys(), ...[...runs.keys()].reverse()]) {
      const { note, entry, inputs } = runs[i]!;
      new Uint8Array(memories[0]!.buffer).fill(0xff, arena);
      const given = Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, typed(x)]));
      const outputs = await session.run(given, entry === undefined ? {} : { entry });
      for (const [name, want] of Object.entries(wanted[i]!))
        t.is(difference(outputs[name], want), '', `${note}, ${JSON.stringify(setting)}, ${name}`);
    }
    session.dispose();
  }
}

const VITS = {
  'heads of width 5': { imageSize: 6, patchSize: 2, channels: 3, layers: 1, width: 10, heads: 2, mlp: 7, classes: 5 },
  'one patch': { imageSize: 4, patchSize: 4, channels: 3, layers: 2, width: 12, heads: 3, mlp: 17, classes: 7 },
  'everything 1 wide': { imageSize: 4, patchSize: 2, channels: 1, layers: 1, width: 1, heads: 1, mlp: 1, classes: 2 },
  'an attention map': {
    imageSize: 10,
    patchSize: 2,
    channels: 2,
    layers: 1,
    width: 14,
    heads: 2,
    mlp: 23,
    classes: 8,
    attentionMap: true,
  },
};
for (const [title, options] of Object.entries(VITS))
  test.serial(`ViT with ${title}`, async (t) => {
    const { channels, imageSize } = options;
    const runs = [7, 1, 2, 5].map((b) => ({
      note: `batch ${b}`,
      inputs: { pixel_values: reals([b, channels, imageSize, imageSize], b) },
    }));
    await agrees(t, vit(options), runs);
  });

const masks = (b: number, s: number): Readonly<Record<string, Nd>> => ({
  ones: nd('i64', [b, s], new Array(b * s).fill(1)),
  zeros: nd('i64', [b, s]),
  random: whole('i64', [b, s], 2, s),
  'last row empty': nd(
    'i64',
    [b, s],
    Array.from({ length: b * s }, (_, i) => (i < (b - 1) * s ? 1 : 0)),
  ),
});
for (const [title, vocabulary, width, heads, sequences] of [
  ['around the rows of a tile', 9, 12, 3, [1, 2, 5, 6, 7, 8, 13]],
  ['around the blocks of queries', 30, 10, 1, [24, 25, 48, 23]],
  ['around the blocks of rows', 7, 6, 2, [198, 127, 199]],
  ['with one word', 1, 5, 1, [1, 3]],
] as const)
  test.serial(`BERT at lengths ${title}`, async (t) => {
    const runs = sequences.flatMap((s) =>
      (s > 100 ? [1] : [1, 3]).flatMap((b) =>
        Object.entries(masks(b, s)).map(([mask, attention_mask]) => ({
          note: `batch ${b}, ${s} tokens, mask ${mask}`,
          inputs: {
            input_ids: whole('i64', [b, s], vocabulary, s + b),
            attention_mask,
            token_type_ids: whole('i64', [b, s], 2, 7 * s + b),
          },
        })),
      ),
    );
    await agrees(t, bert({ layers: 1, width, heads, mlp: 11, vocabulary }), runs);
  });

test.serial('GPT-2 prefill and decode at every length', async (t) => {
  const [layers, heads, width, vocabulary] = [2, 3, 15, 30];
  const prefill = [1, 2, 5, 6, 7, 10].map((s) => ({
    note: `prefill ${s}`,
    entry: 'prefill',
    inputs: { input_ids: whole('i64', [2, s], vocabulary, s) },
  }));
  const decode = [1, 2, 3, 4, 5, 6, 7, 8, 9].map((past) => ({
    note: `decode after ${past}`,
    entry: 'decode',
    inputs: {
      input_ids: whole('i64', [past % 3 || 3, 1], vocabulary, past),
      ...Object.fromEntries(
        Array.from({ length: 2 * layers }, (_, i) => [
          `past.${i >> 1}.${i % 2 ? 'value' : 'key'}`,
          reals([past % 3 || 3, heads, past, width / heads], 9 * past + i),
        ]),
      ),
    },
  }));
  await agrees(t, gpt2({ layers, heads, width, vocabulary, mlp: 13, positions: 12 }), [...prefill, ...decode]);
});

// Of 9 patches 7, 4 and none stay. Where all stay the loss is 0 / 0.
for (const maskRatio of [0.12, 0.5, 0.99])
  test.serial(`MAE that hides ${maskRatio} of its patches`, async (t) => {
    const size = { imageSize: 6, patchSize: 2, channels: 3, layers: 1, width: 12, heads: 3, mlp: 7 };
    const decoder = { layers: 1, width: 8, heads: 1, mlp: 5 };
    const runs = [2, 1, 7].map((b) => ({
      note: `batch ${b}`,
      inputs: { pixel_values: reals([b, 3, 6, 6], b), noise: maskRatio === 0.5 ? nd('f32', [b, 9]) : reals([b, 9], b) },
    }));
    await agrees(t, mae({ ...size, decoder, maskRatio, normPixLoss: maskRatio > 0.5 }), runs);
  });

type X = Tensor<'f32'>;

test.serial('a residual network with pooling', async (t) => {
  const b = dim('batch', { max: 8 });
  const bn = (name: string, channels: number) => nn.batchNorm(name, { channels });
  const traced = model('residual', { x: input(f32, [b, 3, 17, 19]) }, ({ x }) => {
    const window = { kernel: [3, 3], pads: [1, 1, 1, 1] };
    const stem = relu(
      bn('bn', 5)(nn.conv('stem', { in: 3, out: 5, kernel: [7, 7], strides: [2, 2], pads: [3, 3, 3, 3] })(x as X)),
    );
    const pooled = maxPool(stem, { ...window, strides: [2, 2] });
    const inner = relu(
      bn('bn1', 10)(nn.conv('a', { ...window, in: 5, out: 10, strides: [2, 2], bias: false })(pooled)),
    );
    const skip = nn.conv('down', { in: 5, out: 10, kernel: [1, 1], strides: [2, 2] })(pooled);
    const sum = relu(add(bn('bn2', 10)(nn.conv('b', { ...window, in: 10, out: 10, groups: 5 })(inner)), skip) as X);
    return { logits: nn.linear('fc', { in: 10, out: 3 })(mean(sum, { axes: [2, 3] }) as X) as Tensor };
  });
  await agrees(
    t,
    traced,
    [5, 1, 8].map((n) => ({ note: `batch ${n}`, inputs: { x: reals([n, 3, 17, 19], n) } })),
  );
});

test.serial('recurrent layers over sequences of any length, none included', async (t) => {
  const [b, time] = [dim('batch', { max: 8 }), dim('time', { min: 0, max: 12, default: 1 })];
  const traced = model('tagger', { x: input(f32, [time, b, 5]), lengths: input(i32, [b]) }, ({ x, lengths }) => {
    const { y, h } = nn.lstm('lstm', { in: 5, out: 7 })(
      x as Tensor<'f32', readonly [typeof time, typeof b, 5]>,
      undefined,
      lengths as Tensor<'i32'>,
    );
    const [gate, next] = [param('gate', [6, 11]), param('next', [6, 11])];
    const start = expand(param('h0', [1, 6]), [b, 6]);
    const both = [false, true].map((reverse) =>
      scan(
        { h: start as X },
        { x: x as X },
        ({ h, x }) => {
          const z = sigmoid(linear(concat([x, h], 1) as X, gate));
          const state = add(mul(sub(1, z), tanh(linear(concat([x, h], 1) as X, next))), mul(z, h)) as X;
          return { states: { h: state }, outputs: { h2: state, before: h as X } };
        },
        { reverse },
      ),
    );
    return {
      tags: argMax(nn.linear('out', { in: 7, out: 4 })(y as X) as X),
      h,
      all: concat(
        both.map((r) => r.outputs.h2 as X),
        2,
      ),
      before: both[1]!.outputs.before as X,
      last: both[0]!.states.h,
    };
  });
  const runs = (
    [
      [3, 2],
      [0, 2],
      [12, 3],
      [1, 1],
      [5, 8],
    ] as const
  ).map(([steps, n]) => ({
    note: `${steps} steps of ${n}`,
    inputs: { x: reals([steps, n, 5], steps + 1), lengths: whole('i32', [n], steps + 1, n) },
  }));
  await agrees(t, traced, runs);
});

test.serial('outputs that are inputs, parameters, constants, views or each other', async (t) => {
  const b = dim('batch', { max: 9 });
  const traced = model('plain', { x: input(f32, [b, 6]) }, ({ x }) => {
    const w = param('w', [6, 2]);
    const best = topK(w as X, 1);
    return {
      x,
      again: x,
      w,
      transposed: transpose(w, [1, 0]),
      cut: slice(x as X, 1, { start: 1, stop: 4 }),
      shaped: reshape(x as X, [b, 2, 3]),
      literal: constant(f32, [2], [3, 4]),
      best: best.values,
      where: best.indices,
      weights: softmax(w as X),
      y: matmul(x as X, w as X),
    };
  });
  await agrees(
    t,
    traced,
    [1, 9, 2].map((n) => ({ note: `batch ${n}`, inputs: { x: reals([n, 6], n) } })),
  );
});
