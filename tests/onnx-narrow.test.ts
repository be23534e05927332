/** Element types of 8 bits or fewer: their patterns, weights stored in them, casts and quantisation, against onnxruntime. */
import test from 'ava';
import type onnxProto from 'onnx-proto';
import * as ort from 'onnxruntime-node';
import { compile } from '../compiler/compile.ts';
import { importOnnx } from '../frontends/onnx/index.ts';
import { decoded, narrowOf, packedBytes, widenedBytes } from '../frontends/onnx/narrow.ts';
import { ndOf } from '../frontends/onnx/tensor.ts';
import { evaluate } from '../ir/evaluate.ts';
import { nd } from '../ir/nd.ts';
import { open } from '../runtime/open.ts';
import { encodeModel, FLOAT, floats, int, type ModelSpec, node, reported, runModel, value } from './onnx-kit.ts';

const CODES = [17, 18, 19, 20, 21, 22, 23, 24, 25, 26] as const;
const formatOf = (code: number): NonNullable<ReturnType<typeof narrowOf>> => narrowOf(code)!;
const patterns = (code: number): number[] => Array.from({ length: 2 ** formatOf(code).bits }, (_, i) => i);

test('patterns stand for the numbers that the formats define', (t) => {
  const at = (code: number, pattern: number): number => decoded(formatOf(code), pattern);
  t.deepEqual([at(17, 0x7e), at(17, 0x01), at(17, 0x38), at(17, 0xb8)], [448, 2 ** -9, 1, -1]);
  t.true(Number.isNaN(at(17, 0x7f)) && Number.isNaN(at(17, 0xff)));
  t.deepEqual([at(18, 0x7f), at(18, 0x01), at(18, 0x40)], [240, 2 ** -10, 1]);
  t.true(Number.isNaN(at(18, 0x80)));
  t.deepEqual([at(19, 0x7b), at(19, 0x01), at(19, 0x7c), at(19, 0xfc)], [57344, 2 ** -16, Infinity, -Infinity]);
  t.true([0x7d, 0x7e, 0x7f, 0xfd].every((pattern) => Number.isNaN(at(19, pattern))));
  t.deepEqual([at(20, 0x7f), at(20, 0x01)], [57344, 2 ** -17]);
  t.deepEqual(
    patterns(23)
      .slice(0, 8)
      .map((p) => at(23, p)),
    [0, 0.5, 1, 1.5, 2, 3, 4, 6],
  );
  t.deepEqual([at(24, 0), at(24, 127), at(24, 254)], [2 ** -127, 1, 2 ** 127]);
  t.deepEqual(
    [at(21, 15), at(22, 7), at(22, 8), at(22, 15), at(25, 3), at(26, 1), at(26, 2)],
    [15, 7, -8, -1, 3, 1, -2],
  );
});

test('every pattern of every format is exact in its wide type, however many share a byte', (t) => {
  for (const code of CODES) {
    const format = formatOf(code);
    const count = 2 ** format.bits - 1;
    const packed = new Uint8Array(packedBytes(format, count));
    const perByte = 8 / format.bits;
    for (let i = 0; i < count; i++) packed[Math.floor(i / perByte)]! |= i << (format.bits * (i % perByte));
    const { data } = ndOf({ dtype: format.wide, shape: [count], bytes: widenedBytes(format, packed, count) });
    t.deepEqual(
      [...data],
      patterns(code)
        .slice(0, count)
        .map((p) => decoded(format, p)),
      format.name,
    );
  }
});

type Spec = Omit<ModelSpec, 'outputs'>;
const NUMBERS = [0, 0.3, -0.7, 1.0625, 1.1875, 2.5, 3.5, -5, 6.5, 7.5, 240, 250, 447, 463, 1e6, -1e6, 57344];
const SMALL = [2 ** -9, 2 ** -10, 1.5 * 2 ** -10, 2 ** -17, 3 * 2 ** -18, 1e-9, -(2 ** -8), Infinity, -Infinity, NaN];
const given = [...NUMBERS, ...SMALL];

/** y in onnxruntime, in the interpreter and on WebAssembly. */
async function everywhere(spec: Spec, x: readonly number[]): Promise<readonly (readonly number[])[]> {
  const bytes = encodeModel({ ...spec, outputs: ['y'] });
  const data = Float32Array.from(x);
  const peer = await ort.InferenceSession.create(bytes, { graphOptimizationLevel: 'disabled', logSeverityLevel: 3 });
  const { y } = await peer.run(spec.inputs.length === 0 ? {} : { x: new ort.Tensor('float32', data, [x.length]) });
  await peer.release();
  const { model, weights } = importOnnx(bytes);
  const inputs: Record<string, ReturnType<typeof nd>> = spec.inputs.length === 0
    ? {}
    : { x: nd('f32', [x.length], data) };
  const own = evaluate(model.entries.main!, { inputs, params: (name) => ndOf(weights.get(name)!), precision: 'f32' });
  const session = await open(compile(model, { weights }), { threads: 1 });
  const run = await session.run(spec.inputs.length === 0 ? {} : { x: { data, shape: [x.length] } });
  session.dispose();
  return [Array.from(y!.data as Float32Array), Array.from(own.y!.data), Array.from(run.y!.data as Float32Array)];
}

test('floats are rounded to 8 bits as onnxruntime rounds them, with saturation and without', async (t) => {
  for (const to of [17, 18, 19, 20])
    for (const saturate of [0, 1]) {
      const nodes = [
        node('Cast', ['x'], ['q'], [int('to', to), int('saturate', saturate)]),
        node('Cast', ['q'], ['y'], [int('to', FLOAT)]),
      ];
      const [peer, own, run] = await everywhere({ nodes, inputs: [value('x', [given.length])], opset: 24 }, given);
      t.deepEqual(own, peer, `${formatOf(to).name}, saturate ${saturate}: interpreter`);
      t.deepEqual(run, peer, `${formatOf(to).name}, saturate ${saturate}: WebAssembly`);
    }
});

test('infinities saturate in types without a negative zero since opset 24', (t) => {
  const at = (opset: number): number[] => {
    const nodes = [node('Cast', ['x'], ['q'], [int('to', 18)]), node('Cast', ['q'], ['y'], [int('to', FLOAT)])];
    const { y } = runModel(
      { nodes, inputs: [value('x', [2])], outputs: ['y'], opset },
      { x: nd('f32', [2], [Infinity, 300]) },
    );
    return [...y!.data];
  };
  t.deepEqual(at(23), [NaN, 240]);
  t.deepEqual(at(24), [240, 240]);
});

test('numbers become 4 and 2 bits: nearest, ties to even; floats saturate, integers keep their low bits', (t) => {
  const through = (to: number, x: readonly number[], attrs = [int('to', to)]): number[] => {
    const nodes = [node('Cast', ['x'], ['q'], attrs), node('Cast', ['q'], ['y'], [int('to', FLOAT)])];
    const { y } = runModel(
      { nodes, inputs: [value('x', [x.length])], outputs: ['y'], opset: 25 },
      { x: nd('f32', [x.length], x) },
    );
    return [...y!.data];
  };
  t.deepEqual(through(23, [0.25, 0.75, 1.75, 2.5, 3.5, 5, 5.1, 100, -100, -0.2]), [0, 1, 2, 2, 4, 4, 6, 6, -6, -0]);
  t.deepEqual(through(22, [-8, 7, 8, 2.5, -1.5]), [-8, 7, -8, 2, -2]);
  t.deepEqual(through(21, [15, 16, 3.4]), [15, 0, 3]);
  t.deepEqual(through(26, [1, -2, 2]), [1, -2, -2]);
  t.deepEqual(through(25, [3, 4, 1.5]), [3, 0, 2]);
  t.deepEqual(through(24, [1, 1.1, 3, 0, 1e-45, 3e38]), [1, 2, 4, 2 ** -127, 2 ** -127, 2 ** 127]);
  const mode = (s: string): onnxProto.onnx.IAttributeProto => ({
    name: 'round_mode',
    type: 3,
    s: new TextEncoder().encode(s),
  });
  t.deepEqual(through(24, [1.4, 1.5, 3.9], [int('to', 24), mode('nearest')]), [1, 2, 4]);
  t.deepEqual(through(24, [1.4, 1.5, 3.9], [int('to', 24), mode('down')]), [1, 1, 2]);
});

const stored = (name: string, dims: number[], dataType: number, rawData: number[]): onnxProto.onnx.ITensorProto => ({
  name,
  dims,
  dataType,
  rawData: Uint8Array.from(rawData),
});

test('weights of 4 and 8 bits are dequantised exactly: one scale, one a channel, one a block', async (t) => {
  const nibbles = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0x21, 0x43];
  const cases: readonly Spec[] = [
    ...[21, 22].map(
      (code): Spec => ({
        opset: 21,
        inputs: [],
        nodes: [node('DequantizeLinear', ['w', 's', 'z'], ['y'], [int('axis', 0), int('block_size', 2)])],
        initializers: [
          stored('w', [5, 4], code, nibbles),
          floats('s', [3, 4], [1, 2, 0.5, 3, 0.25, 1, 1, 4, -1, 2, 0.125, 1]),
          stored('z', [3, 4], code, [0x21, 0x03, 0x11, 0x20, 0x01, 0x32]),
        ],
      }),
    ),
    {
      opset: 21,
      inputs: [],
      nodes: [node('DequantizeLinear', ['w', 's'], ['y'], [int('axis', 0)])],
      initializers: [stored('w', [2, 3], 22, [0x8f, 0x17, 0x2c]), floats('s', [2], [0.5, 2])],
    },
    ...[17, 19].map(
      (code): Spec => ({
        opset: 19,
        inputs: [],
        nodes: [node('DequantizeLinear', ['w', 's'], ['y'])],
        initializers: [stored('w', [6], code, [0, 1, 0x38, 0x7b, 0xb9, 0x80]), floats('s', [], [0.5])],
      }),
    ),
  ];
  for (const spec of cases) {
    const [peer, own, run] = await everywhere(spec, []);
    t.deepEqual(own, peer);
    t.deepEqual(run, peer);
  }
});

test('the elements of such weights move, and are read from every encoding', (t) => {
  const { y } = runModel(
    {
      opset: 21,
      inputs: [],
      nodes: [
        node('Transpose', ['w'], ['t'], [{ name: 'perm', type: 7, ints: [1, 0] }]),
        node('DequantizeLinear', ['t', 's'], ['y']),
      ],
      initializers: [{ name: 'w', dims: [2, 3], dataType: 22, int32Data: [0x21, 0x43, 0x65] }, floats('s', [], [1])],
      outputs: ['y'],
    },
    {},
  );
  t.deepEqual(
    [y!.shape, [...y!.data]],
    [
      [3, 2],
      [1, 4, 2, 5, 3, 6],
    ],
  );
});

test('quantising to 4 bits rounds, moves and saturates', async (t) => {
  const x = [-100, -8.5, -0.6, 0.5, 1.5, 6.4, 7.6, 100];
  const spec: Spec = {
    opset: 21,
    inputs: [value('x', [x.length])],
    nodes: [node('QuantizeLinear', ['x', 's', 'z'], ['q']), node('DequantizeLinear', ['q', 's', 'z'], ['y'])],
    initializers: [floats('s', [], [1]), stored('z', [], 22, [0x02])],
  };
  const [peer, own, run] = await everywhere(spec, x);
  t.deepEqual(own, peer);
  t.deepEqual(run, peer);
});

test('a branch reads such weights from around it', (t) => {
  const inner = {
    name: 'inner',
    node: [node('DequantizeLinear', ['w', 's'], ['out'])],
    output: [value('out', undefined)],
  };
  const spec: ModelSpec = {
    opset: 21,
    inputs: [value('c', [], 9)],
    nodes: [
      node(
        'If',
        ['c'],
        ['y'],
        ['then_branch', 'else_branch'].map((name) => ({ name, type: 5, g: inner })),
      ),
    ],
    initializers: [stored('w', [3], 21, [0x42, 0x01]), floats('s', [], [0.5])],
    outputs: ['y'],
  };
  t.deepEqual([...runModel(spec, { c: nd('bool', [], [1]) }).y!.data], [1, 2, 0.5]);
});

test('inputs and outputs of such types are of the type that holds them', (t) => {
  const { model } = importOnnx(
    encodeModel({
      opset: 25,
      inputs: [value('x', [3], 17)],
      nodes: [node('Cast', ['x'], ['y'], [int('to', 22)])],
      outputs: ['y'],
    }),
  );
  const graph = model.entries.main!;
  t.is(graph.inputs[0]!.attrs.dtype, 'f16');
  const { type } = graph.outputs.get('y')!;
  t.is(type.kind === 'tensor' && type.dtype, 'i8');
});

test('what computes with such elements is refused by name, and packed data of a wrong length too', (t) => {
  const initializers = [stored('w', [3], 17, [1, 2, 3])];
  const model = encodeModel({
    opset: 23,
    inputs: [],
    nodes: [node('Add', ['w', 'w'], ['y'])],
    initializers,
    outputs: ['y'],
  });
  const { message, help } = reported(model);
  t.regex(message, /Add.*FLOAT8E4M3FN/);
  t.regex(help ?? '', /Cast/);
  const short = encodeModel({
    opset: 23,
    inputs: [],
    nodes: [node('Cast', ['w'], ['y'], [int('to', FLOAT)])],
    initializers: [stored('w', [5], 22, [1, 2])],
    outputs: ['y'],
  });
  t.regex(reported(short).message, /2 bytes, but 5 elements of INT4 need 3/);
});
