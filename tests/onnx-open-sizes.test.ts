/** Operators whose sizes are open or come with the data: one import, many sizes, against onnxruntime. */
import test from 'ava';
import { rangeOf } from '../frontends/onnx/bounds.ts';
import { importOnnx } from '../frontends/onnx/index.ts';
import { encodeModel, floats, INT64, int, longs, type ModelSpec, node, reported, value } from './onnx-kit.ts';
import { checkModels, float, given, listed, type ModelCase, real, text } from './onnx-peer-kit.ts';

const BOOL = 9;
const INT32 = 6;
const long = (x: number): ReturnType<typeof given> => given('i64', [], x);
const vector = (...x: readonly number[]): ReturnType<typeof given> => given('i64', [x.length], ...x);

const range = (elemType: number): ModelSpec => ({
  nodes: [node('Range', ['from', 'to', 'by'], ['y'])],
  inputs: ['from', 'to', 'by'].map((name) => value(name, [], elemType)),
  outputs: ['y'],
  outputType: elemType,
});
checkModels('Range whose ends and step come with the data: up, down, nothing, fractions', () => [
  {
    spec: range(INT64),
    runs: [
      [0, 7, 1],
      [1, 10, 3],
      [5, -2, -2],
      [3, 3, 1],
      [4, 9, -1],
    ].map(([from, to, by]) => ({ from: long(from!), to: long(to!), by: long(by!) })),
  },
  {
    spec: range(1),
    runs: [
      { from: given('f32', [], 0.5), to: given('f32', [], 2.25), by: given('f32', [], 0.25) },
      { from: given('f32', [], 1), to: given('f32', [], -1), by: given('f32', [], -0.5) },
    ],
  },
]);

checkModels('a mask from lengths: the range ends at the longest', () => [
  {
    spec: {
      nodes: [
        node('ReduceMax', ['lengths'], ['longest'], [int('keepdims', 0)]),
        node('Range', ['zero', 'longest', 'one'], ['at']),
        node('Unsqueeze', ['lengths', 'last'], ['columns']),
        node('Less', ['at', 'columns'], ['y']),
      ],
      inputs: [value('lengths', ['batch'], INT64)],
      initializers: [longs('zero', [], [0]), longs('one', [], [1]), longs('last', [1], [1])],
      outputs: ['y'],
      outputType: BOOL,
    },
    runs: [{ lengths: vector(2, 5, 1) }, { lengths: vector(3) }],
  },
]);

const shaped = (op: string, x: readonly (number | string)[]): ModelSpec => ({
  nodes: [node(op, ['x', 's'], ['y'])],
  inputs: [value('x', x), value('s', [2], INT64)],
  outputs: ['y'],
});
const stated = { dims: { s_0: '0..16', s_1: '1..16' } };
checkModels('shapes and repeats that come with the data, within the ranges that are stated', () => [
  { spec: shaped('Expand', [3, 1]), runs: [{ x: real([3, 1]), s: vector(3, 4) }], options: stated },
  {
    spec: shaped('Expand', ['n', 1]),
    runs: [{ x: real([1, 1]), s: vector(5, 2) }],
    options: { dims: { n: 1, ...stated.dims } },
  },
  {
    spec: shaped('Tile', ['n', 2]),
    runs: [
      { x: real([3, 2]), s: vector(2, 3) },
      { x: real([1, 2]), s: vector(1, 1) },
    ],
    options: stated,
  },
  {
    spec: shaped('Reshape', ['n', 6]),
    runs: [
      { x: real([2, 6]), s: vector(3, 4) },
      { x: real([1, 6]), s: vector(6, 1) },
    ],
    options: stated,
  },
  {
    spec: {
      nodes: [node('ConstantOfShape', ['s'], ['y'])],
      inputs: [value('s', [2], INT64)],
      outputs: ['y'],
    },
    runs: [{ s: vector(2, 3) }, { s: vector(0, 1) }],
    options: stated,
  },
]);

checkModels('OneHot whose depth comes with the data; indices count from its end too', () => [
  {
    spec: {
      nodes: [node('OneHot', ['x', 'depth', 'values'], ['y'], [int('axis', 0)])],
      inputs: [value('x', ['n'], INT64), value('depth', [1], INT64)],
      initializers: [floats('values', [2], [-1, 2])],
      outputs: ['y'],
    },
    runs: [
      { x: vector(0, -1, 2), depth: vector(3) },
      { x: vector(4, 9, -5), depth: vector(5) },
    ],
    options: { dims: { depth_0: '1..8' } },
  },
  {
    spec: {
      nodes: [node('OneHot', ['x', 'depth', 'values'], ['y'])],
      inputs: [value('x', ['n', 2], INT64), value('values', [2])],
      initializers: [longs('depth', [], [4])],
      outputs: ['y'],
    },
    runs: [{ x: given('i64', [1, 2], -1, 7), values: given('f32', [2], 0.5, 3) }],
  },
]);

test('sizes that the data decide without a bound are refused with what to state', (t) => {
  for (const spec of [shaped('Expand', [3, 1]), shaped('Tile', [3, 1]), shaped('Reshape', [3, 1])]) {
    const { message, help } = reported(encodeModel(spec));
    t.regex(message, /operand 1 \("s"\) is only known when the model runs/);
    t.regex(help ?? '', /s_0/);
  }
});

checkModels('sizes whose bound the graph itself gives: positions, bytes, remainders, limits', () => {
  const spec = (nodes: ModelSpec['nodes'], elemType: number): ModelSpec => ({
    nodes: [
      ...nodes,
      node('Concat', ['three', 'count'], ['shape'], [int('axis', 0)]),
      node('Expand', ['x', 'shape'], ['y']),
    ],
    inputs: [value('x', [3, 1]), value('d', [elemType === 1 ? 9 : 1], elemType)],
    initializers: [longs('three', [1], [3]), longs('five', [1], [5]), longs('most', [], [6]), longs('least', [], [1])],
    outputs: ['y'],
    opset: 18,
  });
  const x = real([3, 1]);
  return [
    {
      spec: spec([node('ArgMax', ['d'], ['count'], [int('axis', 0)])], 1),
      runs: [{ x, d: given('f32', [9], 0, 0, 0, 0, 9, 0, 0, 0, 0) }],
    },
    { spec: spec([node('Cast', ['d'], ['count'], [int('to', INT64)])], 2), runs: [{ x, d: given('u8', [1], 7) }] },
    {
      spec: spec([node('Mod', ['d', 'five'], ['count'])], INT64),
      runs: [
        { x, d: vector(13) },
        { x, d: vector(5) },
      ],
    },
    {
      spec: spec([node('Clip', ['d', 'least', 'most'], ['count'])], INT64),
      runs: [
        { x, d: vector(99) },
        { x, d: vector(2) },
      ],
    },
  ];
});

test('ranges follow sums, differences, choices and counts, and end at what is not known', (t) => {
  const of = (nodes: ModelSpec['nodes'], inputs: ModelSpec['inputs']): readonly [number, number] => {
    const initializers = [longs('two', [], [2]), longs('nine', [3], [4, -9, 1])];
    const { model } = importOnnx(encodeModel({ nodes, inputs, initializers, outputs: ['y'] }));
    return rangeOf(model.entries.main!.outputs.get('y')!);
  };
  const bits = [value('b', [4], BOOL)];
  const wide = node('Cast', ['b'], ['i'], [int('to', INT32)]);
  t.deepEqual(of([wide, node('Identity', ['i'], ['y'])], bits), [0, 1]);
  t.deepEqual(of([wide, node('ReduceSum', ['i'], ['y'])], bits), [0, 4]);
  t.deepEqual(
    of([wide, node('Cast', ['i'], ['l'], [int('to', INT64)]), node('Sub', ['two', 'l'], ['y'])], bits),
    [1, 2],
  );
  t.deepEqual(of([node('Where', ['b', 'two', 'x'], ['y'])], [...bits, value('x', [4], INT64)]), [-Infinity, Infinity]);
  t.deepEqual(of([node('Gather', ['nine', 'k'], ['y'])], [value('k', [], INT64)]), [-9, 4]);
});

const pads = (spec: Partial<ModelSpec>, mode: string, amounts: string): ModelSpec => ({
  inputs: [value('x', ['n', 'w'])],
  outputs: ['y'],
  ...spec,
  nodes: [...(spec.nodes ?? []), node('Pad', ['x', amounts], ['y'], [text('mode', mode)])],
});
/** Columns up to a multiple of 4, half of them in front. */
const multiple: Partial<ModelSpec> = {
  nodes: [
    node('Shape', ['x'], ['shape']),
    node('Gather', ['shape', 'one'], ['w'], [int('axis', 0)]),
    node('Neg', ['w'], ['minus']),
    node('Mod', ['minus', 'four'], ['missing']),
    node('Div', ['missing', 'two'], ['first']),
    node('Sub', ['missing', 'first'], ['last']),
    node('Concat', ['zero', 'first', 'zero', 'last'], ['pads'], [int('axis', 0)]),
  ],
  initializers: [longs('zero', [1], [0]), longs('one', [1], [1]), longs('two', [1], [2]), longs('four', [1], [4])],
};
checkModels('Pad by amounts that follow from open sizes, and by amounts that come with the data, in every mode', () =>
  ['constant', 'edge', 'reflect', 'wrap'].flatMap((mode): ModelCase[] => [
    {
      spec: { ...pads(multiple, mode, 'pads'), opset: 19 },
      runs: [{ x: real([2, 5]) }, { x: real([1, 8]) }, { x: real([3, 7]) }],
      options: { dims: { w: '3..64' } },
    },
    {
      spec: { ...pads({ inputs: [value('x', ['n', 'w']), value('p', [4], INT64)] }, mode, 'p'), opset: 19 },
      runs: [
        { x: real([3, 4]), p: vector(0, 1, 2, 3) },
        { x: real([4, 5]), p: vector(2, 0, 0, 1) },
      ],
      options: { dims: Object.fromEntries([0, 1, 2, 3].map((i) => [`p_${i}`, '0..8'])) },
    },
  ]),
);

const WAYS = ['half_pixel', 'asymmetric', 'align_corners', 'pytorch_half_pixel', 'half_pixel_symmetric'];
checkModels('Resize of open sizes: every mode and convention, by scales and to sizes', () =>
  ['nearest', 'linear', 'cubic'].flatMap((mode) =>
    WAYS.flatMap((way): ModelCase[] => {
      const attrs = [text('mode', mode), text('coordinate_transformation_mode', way)];
      const inputs = [value('x', [1, 2, 'h', 'w'])];
      const scales = floats('scales', [4], [1, 1, 2, 1.5]);
      const by: ModelSpec = {
        nodes: [node('Resize', ['x', '', 'scales'], ['y'], attrs)],
        inputs,
        initializers: [scales],
        outputs: ['y'],
        opset: 19,
      };
      const to: ModelSpec = {
        nodes: [
          node('Shape', ['like'], ['size']),
          node('Slice', ['size', 'two', 'four'], ['sizes']),
          node('Resize', ['x', '', '', 'sizes'], ['y'], [...attrs, listed('axes', 2, 3)]),
        ],
        inputs: [...inputs, value('like', [1, 1, 'H', 'W'])],
        initializers: [longs('two', [1], [2]), longs('four', [1], [4])],
        outputs: ['y'],
        opset: 19,
      };
      return [
        { spec: by, runs: [{ x: real([1, 2, 4, 6]) }, { x: real([1, 2, 3, 4]) }], tolerance: 1e-4 },
        { spec: to, runs: [{ x: real([1, 2, 5, 3]), like: real([1, 1, 7, 2]) }], tolerance: 1e-4 },
      ];
    }),
  ),
);
checkModels('nearest positions are rounded as asked; cubic weights outside may be left out', () => [
  ...['round_prefer_floor', 'round_prefer_ceil', 'floor', 'ceil'].map(
    (nearest): ModelCase => ({
      spec: {
        nodes: [node('Resize', ['x', '', 's'], ['y'], [text('nearest_mode', nearest)])],
        inputs: [value('x', [1, 1, 'h'])],
        initializers: [floats('s', [3], [1, 1, 2.5])],
        outputs: ['y'],
        opset: 13,
      },
      runs: [{ x: real([1, 1, 4]) }],
    }),
  ),
  {
    spec: {
      nodes: [
        node(
          'Resize',
          ['x', '', 's'],
          ['y'],
          [text('mode', 'cubic'), int('exclude_outside', 1), float('cubic_coeff_a', -0.5)],
        ),
      ],
      inputs: [value('x', [1, 1, 'h', 'w'])],
      initializers: [floats('s', [4], [1, 1, 2, 1.5])],
      outputs: ['y'],
      opset: 13,
    },
    runs: [{ x: real([1, 1, 4, 6]) }],
    tolerance: 1e-4,
  },
]);
