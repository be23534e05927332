/** Operators that onnxruntime does not have, old forms, and forms that only files have: against their definitions. */
import test from 'ava';
import onnxProto from 'onnx-proto';
import { compile } from '../compiler/compile.ts';
import { importOnnx } from '../frontends/onnx/index.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { open } from '../runtime/open.ts';
import {
  encodeModel,
  f32,
  floats,
  int,
  longs,
  type ModelSpec,
  node,
  reported,
  runModel,
  subgraph,
  value,
} from './onnx-kit.ts';
import { float, listed, text } from './onnx-peer-kit.ts';

const close = (got: Nd, want: readonly number[]): boolean =>
  got.data.length === want.length &&
  want.every((x, i) => Math.abs(got.data[i]! - x) <= 1e-5 * Math.max(1, Math.abs(x)));
const i64 = (shape: readonly number[], ...data: readonly number[]): Nd => nd('i64', shape, data);

/** A model of one node whose operands `a`, `b`, … are f32 inputs of these shapes. */
function single(
  op: string,
  shapes: readonly (readonly number[] | undefined)[],
  attrs: ModelSpec['nodes'][number]['attribute'] = [],
  more: Partial<ModelSpec> & { readonly results?: number } = {},
): ModelSpec {
  const names = shapes.map((_, i) => String.fromCharCode(97 + i));
  const outputs = Array.from({ length: more.results ?? 1 }, (_, i) => `y${i}`);
  const given = names.filter((_, i) => shapes[i]);
  return {
    nodes: [
      node(
        op,
        names.map((name, i) => (shapes[i] ? name : '')),
        outputs,
        attrs ?? [],
      ),
    ],
    inputs: given.map((name) => value(name, shapes[name.charCodeAt(0) - 97])),
    outputs,
    opset: 27,
    ...more,
  };
}

test('TensorScatter writes each row of the batch at its own place, and circles where it may', (t) => {
  const spec: ModelSpec = {
    nodes: [node('TensorScatter', ['cache', 'update', 'at'], ['y'], [int('axis', 1), text('mode', 'circular')])],
    inputs: [value('cache', [2, 3]), value('update', [2, 2]), value('at', [2], 7)],
    outputs: ['y'],
    opset: 24,
  };
  const { y } = runModel(spec, { cache: nd('f32', [2, 3]), update: f32([2, 2], 1, 2, 3, 4), at: i64([2], 1, 2) });
  t.deepEqual([...y!.data], [0, 1, 2, 4, 0, 3]);
});

test('CausalConvWithState convolves what came before, and hands on the last positions', (t) => {
  const spec = single('CausalConvWithState', [[1, 2, 3], [2, 1, 2], [2], [1, 2, 1]], [], { results: 2 });
  const { y0, y1 } = runModel(spec, {
    a: f32([1, 2, 3], 1, 2, 3, 4, 5, 6),
    b: f32([2, 1, 2], 1, 10, 0, 1),
    c: f32([2], 0.5, 0),
    d: f32([1, 2, 1], 7, 8),
  });
  t.deepEqual([...y0!.data], [17.5, 21.5, 32.5, 4, 5, 6]);
  t.deepEqual([...y1!.data], [3, 6]);
});

test('LinearAttention decays its state, corrects what it stores, and shares heads', (t) => {
  const spec = single(
    'LinearAttention',
    [[1, 2, 2], [1, 2, 1], [1, 2, 1], undefined, [1, 2, 1], [1, 2, 1]],
    [int('q_num_heads', 2), int('kv_num_heads', 1), float('scale', 1)],
    { results: 2 },
  );
  const [keys, values, decay, beta] = [
    [1, 0.5],
    [2, 3],
    [-1, -2],
    [0.5, 1],
  ];
  const first = beta![0]! * values![0]! * keys![0]!;
  const kept = first * Math.exp(decay![1]!);
  const second = kept + keys![1]! * beta![1]! * (values![1]! - kept * keys![1]!);
  const { y0, y1 } = runModel(spec, {
    a: f32([1, 2, 2], 1, 2, 3, 4),
    b: f32([1, 2, 1], ...keys!),
    c: f32([1, 2, 1], ...values!),
    e: f32([1, 2, 1], ...decay!),
    f: f32([1, 2, 1], ...beta!),
  });
  t.true(close(y0!, [first, 2 * first, 3 * second, 4 * second]));
  t.true(close(y1!, [second]));
});

test('products run along an axis, forwards and backwards, with and without the element itself', (t) => {
  const run = (exclusive: number, reverse: number): number[] => {
    const attrs = [int('exclusive', exclusive), int('reverse', reverse)];
    const spec: ModelSpec = {
      nodes: [node('CumProd', ['x', 'axis'], ['y'], attrs)],
      inputs: [value('x', [2, 3])],
      outputs: ['y'],
      initializers: [longs('axis', [], [1])],
      opset: 26,
    };
    return [...runModel(spec, { x: f32([2, 3], 1, 2, 3, 4, 5, 6) }).y!.data];
  };
  t.deepEqual(run(0, 0), [1, 2, 6, 4, 20, 120]);
  t.deepEqual(run(1, 0), [1, 1, 2, 1, 4, 20]);
  t.deepEqual(run(0, 1), [6, 6, 3, 120, 30, 6]);
  t.deepEqual(run(1, 1), [6, 3, 1, 30, 6, 1]);
});

test('bits are read as another type of the same width, and only of that', (t) => {
  const bits = single('BitCast', [[2]], [int('to', 6)]);
  t.deepEqual([...runModel(bits, { a: f32([2], 1, -2) }).y0!.data], [0x3f800000, -0x40000000]);
  const wide = reported(encodeModel(single('BitCast', [[2]], [int('to', 7)])));
  t.regex(wide.message, /f32 has 32 bits, but i64 has 64/);
});

test('SwiGLU gates with a swish', (t) => {
  const spec = single('SwiGLU', [[2], [2]], [float('alpha', 2)], { opset: 28 });
  const swish = (x: number): number => x / (1 + Math.exp(-2 * x));
  t.true(close(runModel(spec, { a: f32([2], 1, -1), b: f32([2], 3, 4) }).y0!, [3 * swish(1), 4 * swish(-1)]));
});

test('batch normalisation in training uses and moves the statistics of the batch', (t) => {
  const shapes = [[2, 1, 2], [1], [1], [1], [1]];
  const attrs = [int('training_mode', 1), float('momentum', 0.75), float('epsilon', 0)];
  const spec = single('BatchNormalization', shapes, attrs, { opset: 15, results: 3 });
  const one = (x: number): Nd => f32([1], x);
  const { y0, y1, y2 } = runModel(spec, {
    a: f32([2, 1, 2], 1, 3, 5, 7),
    b: one(2),
    c: one(1),
    d: one(8),
    e: one(1),
  });
  const s = Math.sqrt(5);
  t.true(
    close(
      y0!,
      [-3, -1, 1, 3].map((x) => (2 * x) / s + 1),
    ),
  );
  t.true(close(y1!, [7]));
  t.true(close(y2!, [2]));
});

test('FlexAttention sends scores and weights through its subgraphs', (t) => {
  const through = (name: string, op: string): ReturnType<typeof subgraph> =>
    subgraph(name, {
      name,
      input: [value('s', [1, 1, 1, 2])],
      node: [node(op, ['s', 's'], ['o'])],
      output: [value('o', [1, 1, 1, 2])],
    });
  const spec: ModelSpec = {
    nodes: [
      node('FlexAttention', ['q', 'k', 'v'], ['y'], [through('score_mod', 'Add'), through('prob_mod', 'Mul')], {
        domain: 'ai.onnx.preview',
      }),
    ],
    inputs: [value('q', [1, 1, 1, 1]), value('k', [1, 1, 2, 1]), value('v', [1, 1, 2, 1])],
    outputs: ['y'],
    opset: 26,
    domains: { 'ai.onnx.preview': 1 },
  };
  const inputs = { q: f32([1, 1, 1, 1], 1), k: f32([1, 1, 2, 1], 0, 1), v: f32([1, 1, 2, 1], 3, 5) };
  const p = 1 / (1 + Math.exp(2));
  t.true(close(runModel(spec, inputs).y!, [3 * p * p + 5 * (1 - p) * (1 - p)]));
});

test('before opset 7 the attributes broadcast and axis say where an operand goes', (t) => {
  const spec = single('Add', [[2, 3, 2], [3]], [int('broadcast', 1), int('axis', 1)], { opset: 6 });
  const { y0 } = runModel(spec, { a: nd('f32', [2, 3, 2]), b: f32([3], 1, 2, 3) });
  t.deepEqual([...y0!.data], [1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3]);
  const cast = single('Cast', [[2]], [text('to', 'INT32')], { opset: 5 });
  t.is(runModel(cast, { a: f32([2], 1.5, -2.5) }).y0!.dtype, 'i32');
  t.deepEqual([...runModel(cast, { a: f32([2], 1.5, -2.5) }).y0!.data], [1, -2]);
});

test('a scan of opset 8 runs for every entry of the batch, as far as its length', (t) => {
  const body = subgraph('body', {
    name: 'body',
    input: [value('sum', [1]), value('x', [1])],
    node: [node('Add', ['sum', 'x'], ['next']), node('Identity', ['next'], ['out'])],
    output: [value('next', [1]), value('out', [1])],
  });
  const spec: ModelSpec = {
    nodes: [node('Scan', ['lens', 'start', 'xs'], ['final', 'sums'], [int('num_scan_inputs', 1), body])],
    inputs: [value('lens', [2], 7), value('start', [2, 1]), value('xs', [2, 3, 1])],
    outputs: ['final', 'sums'],
    opset: 8,
  };
  const inputs = { lens: i64([2], 3, 2), start: f32([2, 1], 0, 100), xs: f32([2, 3, 1], 1, 2, 3, 4, 5, 6) };
  const { final, sums } = runModel(spec, inputs);
  t.deepEqual([...final!.data], [6, 109]);
  t.deepEqual([...sums!.data.slice(0, 5)], [1, 3, 6, 104, 109]);
});

test('sparse initializers and constants stand for whole tensors', (t) => {
  const { onnx } = onnxProto;
  const sparse = (name: string, at: ReturnType<typeof longs>): onnxProto.onnx.ISparseTensorProto => ({
    values: floats(name, [2], [7, 8]),
    indices: at,
    dims: [2, 3],
  });
  const file = (at: ReturnType<typeof longs>): Uint8Array =>
    onnx.ModelProto.encode({
      irVersion: 8,
      opsetImport: [{ domain: '', version: 17 }],
      graph: {
        name: 'test',
        node: [node('Add', ['x', 'w'], ['y'])],
        input: [value('x', [2, 3])],
        output: [value('y', undefined)],
        sparseInitializer: [sparse('w', at)],
      },
    }).finish();
  const run = (at: ReturnType<typeof longs>): Promise<number[]> => compiled(file(at), { x: [2, 3] });
  return Promise.all([run(longs('', [2], [1, 5])), run(longs('', [2, 2], [0, 1, 1, 2]))]).then((all) => {
    for (const y of all) t.deepEqual(y, [0, 7, 0, 0, 0, 8]);
    t.regex(reported(file(longs('', [2], [1, 6]))).message, /stands at 6 of \[2, 3\]/);
  });
});

/** The result `y` of a model whose inputs are zeros. */
async function compiled(file: Uint8Array, shapes: Readonly<Record<string, readonly number[]>>): Promise<number[]> {
  const { model, weights } = importOnnx(file);
  const session = await open(compile(model, { weights }), { threads: 1 });
  const inputs = Object.entries(shapes).map(([name, shape]) => {
    const count = shape.reduce((a, b) => a * b, 1);
    return [name, { data: new Float32Array(count), shape }] as const;
  });
  const { y } = await session.run(Object.fromEntries(inputs));
  session.dispose();
  return Array.from(y!.data as Float32Array);
}

test('products of f32 become integers of 64 bits on their way to memory', async (t) => {
  const file = encodeModel({
    nodes: [
      node('MatMul', ['x', 'w'], ['p']),
      node('Add', ['p', 'half'], ['z']),
      node('Cast', ['z'], ['y'], [int('to', 7)]),
    ],
    inputs: [value('x', [5, 3])],
    outputs: ['y'],
    initializers: [
      floats(
        'w',
        [3, 21],
        Array.from({ length: 63 }, (_, i) => i),
      ),
      floats('half', [], [2.5]),
    ],
  });
  const { model, weights } = importOnnx(file);
  const session = await open(compile(model, { weights }), { threads: 1 });
  const { y } = await session.run({ x: { data: new Float32Array(15).fill(1), shape: [5, 3] } });
  session.dispose();
  const row = Array.from({ length: 21 }, (_, j) => BigInt(j + (j + 21) + (j + 42) + 2));
  t.deepEqual(Array.from(y!.data as BigInt64Array), [row, row, row, row, row].flat());
});

test('operands of the wrong rank or length name the node, the operand and what was expected', (t) => {
  const rank = reported(
    encodeModel(
      single('GridSample', [
        [1, 2, 3, 4],
        [1, 2, 2],
      ]),
    ),
  );
  t.regex(rank.message, /^GridSample giving "y0" \(ai\.onnx, opset 27\): operand 1 has rank 3, not 4/);
  const strides = reported(
    encodeModel(
      single(
        'Conv',
        [
          [1, 2, 3, 4],
          [2, 2, 1, 1],
        ],
        [listed('strides', 1)],
      ),
    ),
  );
  t.regex(strides.message, /attribute "strides" has 1 entries, not 2/);
  const huge = reported(encodeModel(single('Relu', [[65536, 65536]])));
  t.regex(huge.message, /input "a" has f32\[65536, 65536\], more than 2147483647 elements/);
});

test('a slice and a number of largest elements that come with the data are cut to what they leave', (t) => {
  const sliced: ModelSpec = {
    nodes: [node('Slice', ['x', 'from', 'to', 'axes', 'steps'], ['y'])],
    inputs: [value('x', [2, 7]), value('from', [1], 7), value('to', [1], 7)],
    outputs: ['y'],
    initializers: [longs('axes', [1], [1]), longs('steps', [1], [2])],
  };
  const x = f32([2, 7], ...Array.from({ length: 14 }, (_, i) => i));
  const cut = (from: number, to: number): Nd => runModel(sliced, { x, from: i64([1], from), to: i64([1], to) }).y!;
  t.deepEqual([...cut(1, 6).data], [1, 3, 5, 8, 10, 12]);
  t.deepEqual([...cut(-3, 99).data], [4, 6, 11, 13]);
  t.deepEqual(cut(5, 2).shape, [2, 0]);
  const largest: ModelSpec = {
    nodes: [node('TopK', ['x', 'k'], ['y', 'at'])],
    inputs: [value('x', [2, 7]), value('k', [1], 7)],
    outputs: ['y', 'at'],
  };
  const { y, at } = runModel(largest, { x, k: i64([1], 2) });
  t.deepEqual([...y!.data], [6, 5, 13, 12]);
  t.deepEqual([...at!.data], [6, 5, 6, 5]);
});

const halves = (shape: readonly number[], ...data: readonly number[]): Nd => nd('f16', shape, data);
const HALF = 10;

test('RMSNormalization gives the type of its scale', (t) => {
  const spec = {
    nodes: [node('RMSNormalization', ['x', 'scale'], ['y'])],
    inputs: [value('x', [1, 2], HALF), value('scale', [2])],
    outputs: ['y'],
    opset: 23,
  };
  const { y } = runModel(spec, { x: halves([1, 2], 3, 4), scale: f32([2], 1, 10) });
  const rms = Math.sqrt(12.5 + 1e-5);
  t.is(y!.dtype, 'f32');
  t.true(close(y!, [3 / rms, 40 / rms]));
});

test('BatchNormalization of halves keeps the range of its statistics', (t) => {
  const names = ['scale', 'bias', 'mean', 'variance'];
  const spec = {
    nodes: [node('BatchNormalization', ['x', ...names], ['y'])],
    inputs: [value('x', [1, 1, 2], HALF), ...names.map((name) => value(name, [1]))],
    outputs: ['y'],
    opset: 15,
  };
  // A variance beyond the halves.
  const one = (x: number): Nd => f32([1], x);
  const given = { x: halves([1, 1, 2], 1000, 2000), scale: one(1), bias: one(0), mean: one(0), variance: one(1e6) };
  const { y } = runModel(spec, given);
  t.is(y!.dtype, 'f16');
  t.deepEqual([...y!.data], [1, 2]);
});

test('LpNormalization of a line of half zeros is zeros', (t) => {
  const spec = {
    nodes: [node('LpNormalization', ['x'], ['y'])],
    inputs: [value('x', [2], HALF)],
    outputs: ['y'],
  };
  t.deepEqual([...runModel(spec, { x: halves([2], 0, 0) }).y!.data], [0, 0]);
});
