import test from 'ava';
import { importOnnx, unsupportedOps } from '../frontends/onnx/index.ts';
import { CompileError, type DiagnosticCode } from '../ir/diagnostic.ts';
import { graphValues, typeOf } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { printType } from '../ir/print.ts';
import {
  encodeModel,
  f32,
  floats,
  INT64,
  int,
  longs,
  type ModelSpec,
  node,
  reported,
  runModel,
  subgraph,
  value,
} from './onnx-kit.ts';

const mlp: ModelSpec = {
  nodes: [node('MatMul', ['x', 'fc.weight'], ['h']), node('Add', ['h', 'fc.bias'], ['z']), node('Relu', ['z'], ['y'])],
  inputs: [value('x', ['batch', 2])],
  outputs: ['y'],
  initializers: [floats('fc.weight', [2, 3], [1, 2, 3, 4, 5, 6]), floats('fc.bias', [3], [0, -20, 1])],
};

test('a model keeps its names, its parameters and its symbolic sizes', (t) => {
  const { model, weights } = importOnnx(encodeModel(mlp), { dims: { batch: '1..8' } });
  const graph = model.entries.main!;
  t.deepEqual([...graph.outputs.keys()], ['y']);
  t.is(printType(typeOf(graph.outputs.get('y')!)), 'f32[batch, 3]');
  t.deepEqual(weights.names(), ['fc.weight', 'fc.bias']);
  t.deepEqual(weights.get('fc.weight')?.shape, [2, 3]);
  t.is(weights.get('nothing'), undefined);
  const { y } = runModel(mlp, { x: f32([2, 2], 1, 1, 1, 2) });
  t.deepEqual([...y!.data], [5, 0, 10, 9, 0, 16]);
});

test('arithmetic on shapes leaves no operator behind', (t) => {
  const spec: ModelSpec = {
    nodes: [
      node('Shape', ['x'], ['shape']),
      node('Gather', ['shape', 'zero'], ['rows'], [int('axis', 0)]),
      node('Unsqueeze', ['rows', 'first'], ['rows1']),
      node('Mul', ['rows1', 'two'], ['twice']),
      node('Concat', ['twice', 'open'], ['target'], [int('axis', 0)]),
      node('Reshape', ['x', 'target'], ['y']),
    ],
    inputs: [value('x', ['n', 6])],
    outputs: ['y'],
    initializers: [longs('zero', [], [0]), longs('first', [1], [0]), longs('two', [1], [2]), longs('open', [1], [-1])],
  };
  const { model } = importOnnx(encodeModel(spec));
  const graph = model.entries.main!;
  t.deepEqual(
    graphValues(graph).map((v) => v.op.name),
    ['input', 'reshape'],
  );
  t.is(printType(typeOf(graph.outputs.get('y')!)), 'f32[n * 2, 3]');
});

test('nodes may come in any order', (t) => {
  const { y } = runModel({ ...mlp, nodes: mlp.nodes.toReversed() }, { x: f32([1, 2], 1, 1) });
  t.deepEqual([...y!.data], [5, 0, 10]);
});

test('functions are inlined with their attributes', (t) => {
  const spec: ModelSpec = {
    nodes: [node('Scale', ['x'], ['y'], [{ name: 'by', type: 1, f: 3 }], { domain: 'local' })],
    inputs: [value('x', [2])],
    outputs: ['y'],
    domains: { local: 1 },
    functions: [
      {
        name: 'Scale',
        domain: 'local',
        input: ['a'],
        output: ['b'],
        attribute: ['by'],
        opsetImport: [{ domain: '', version: 17 }],
        node: [
          node('Constant', [], ['k'], [{ name: 'value_float', type: 1, refAttrName: 'by' }]),
          node('Mul', ['a', 'k'], ['b']),
        ],
      },
    ],
  };
  t.deepEqual([...runModel(spec, { x: f32([2], 1, 2) }).y!.data], [3, 6]);
});

test('a branch reads what is around it', (t) => {
  const branch = (op: string): ReturnType<typeof subgraph>['g'] => ({
    name: op,
    node: [node(op, ['x', 'w'], ['r'])],
    output: [value('r', undefined)],
  });
  const spec: ModelSpec = {
    nodes: [
      node('If', ['c'], ['y'], [subgraph('then_branch', branch('Add')!), subgraph('else_branch', branch('Mul')!)]),
    ],
    inputs: [value('c', [], 9), value('x', [2])],
    outputs: ['y'],
    initializers: [floats('w', [2], [10, 20])],
  };
  const run = (c: number): number[] => [...runModel(spec, { c: nd('bool', [], [c]), x: f32([2], 1, 2) }).y!.data];
  t.deepEqual(run(1), [11, 22]);
  t.deepEqual(run(0), [10, 40]);
});

test('a loop with a known number of trips is a scan; a growing state is written out', (t) => {
  const body = (op: NonNullable<ReturnType<typeof subgraph>['g']>): ModelSpec => ({
    nodes: [node('Loop', ['trips', '', 'x'], ['last', 'rows'], [subgraph('body', op)])],
    inputs: [value('x', [1])],
    outputs: ['last'],
    initializers: [longs('trips', [], [3])],
  });
  const inputs = [value('i', [], INT64), value('on', [], 9), value('s', [1])];
  const doubled = body({
    name: 'b',
    node: [node('Identity', ['on'], ['next']), node('Add', ['s', 's'], ['t']), node('Identity', ['t'], ['row'])],
    input: inputs,
    output: ['next', 't', 'row'].map((name) => value(name, undefined)),
  });
  t.deepEqual([...runModel(doubled, { x: f32([1], 5) }).last!.data], [40]);
  const rows = runModel({ ...doubled, outputs: ['rows'] }, { x: f32([1], 5) }).rows!;
  t.deepEqual(
    [rows.shape, [...rows.data]],
    [
      [3, 1],
      [10, 20, 40],
    ],
  );
  const growing: ModelSpec = {
    ...doubled,
    nodes: [
      node(
        'Loop',
        ['trips', '', 'x'],
        ['last'],
        [
          subgraph('body', {
            name: 'b',
            node: [node('Identity', ['on'], ['next']), node('Concat', ['s', 's'], ['t'], [int('axis', 0)])],
            input: inputs,
            output: ['next', 't'].map((name) => value(name, undefined)),
          }),
        ],
      ),
    ],
  };
  t.is(runModel(growing, { x: f32([1], 5) }).last!.shape[0], 8);
});

test('an input that decides a shape can be fixed', (t) => {
  const spec: ModelSpec = {
    nodes: [node('Reshape', ['x', 'to'], ['y'])],
    inputs: [value('x', [2, 3]), value('to', [1], INT64)],
    outputs: ['y'],
  };
  const { help, message } = reported(encodeModel(spec));
  t.regex(message, /Reshape giving "y" \(ai\.onnx, opset 17\): operand 1 \("to"\)/);
  t.regex(help ?? '', /fix input "to"/);
  const { model } = importOnnx(encodeModel(spec), { fixed: { to: nd('i64', [1], [6]) } });
  t.deepEqual(
    model.entries.main!.inputs.map((v) => v.attrs.name),
    ['x'],
  );
});

test('every unsupported operator is named, with its domain and opset', (t) => {
  const bytes = encodeModel({
    nodes: [
      node('StringNormalizer', ['x'], ['a'], [], { name: 'boxes' }),
      node('Mystery', ['a'], ['y'], [], { domain: 'acme' }),
    ],
    inputs: [value('x', [2])],
    outputs: ['y'],
    domains: { acme: 3 },
  });
  t.deepEqual(
    unsupportedOps(bytes).map((u) => u.at),
    ['StringNormalizer "boxes" (ai.onnx, opset 17)', 'Mystery giving "y" (acme, opset 3)'],
  );
  const { code, message, notes } = reported(bytes);
  t.is(code, 'unsupported');
  t.regex(message, /2 operators are not supported/);
  t.is(notes?.length, 2);
});

test('damaged models are refused with a reason', (t) => {
  const swapped = (nodes: ModelSpec['nodes']): Uint8Array => encodeModel({ ...mlp, nodes });
  const cases: readonly (readonly [what: string, bytes: Uint8Array, code: DiagnosticCode, why: RegExp])[] = [
    ['empty', new Uint8Array(), 'file', /no graph/],
    ['text', new TextEncoder().encode('<!doctype html>'), 'file', /not an ONNX model|damaged/],
    ['cut off', encodeModel(mlp).subarray(0, 60), 'file', /cut off|damaged/],
    ['cycle', swapped([node('Add', ['x', 'y'], ['z']), node('Relu', ['z'], ['y'])]), 'verify', /own result/],
    ['twice', swapped([node('Relu', ['x'], ['y']), node('Relu', ['x'], ['y'])]), 'name', /given by .* and again/],
    ['missing', swapped([node('Relu', ['nowhere'], ['y'])]), 'name', /nothing gives "nowhere"/],
    ['opset', encodeModel({ ...mlp, opset: 99 }), 'unsupported', /opset 99/],
    ['attribute', swapped([node('Relu', ['x'], ['y'], [int('sharp', 1)])]), 'attribute', /"sharp"/],
    ['type', encodeModel({ ...mlp, inputs: [value('x', [2], 19)] }), 'dtype', /FLOAT8E5M2/],
    [
      'huge',
      encodeModel({ ...mlp, initializers: [{ ...floats('fc.weight', [], []), dims: [2 ** 40, 2 ** 40] }] }),
      'shape',
      /impossible shape/,
    ],
    [
      'short',
      encodeModel({ ...mlp, initializers: [floats('fc.weight', [1000], [1]), floats('fc.bias', [1], [1, 2])] }),
      'file',
      /holds 8 bytes/,
    ],
    [
      'outside',
      encodeModel({
        ...mlp,
        initializers: [
          { ...longs('fc.weight', [1], []), dataLocation: 1, externalData: [{ key: 'location', value: '../secret' }] },
        ],
      }),
      'file',
      /another file/,
    ],
  ];
  for (const [what, bytes, code, why] of cases) {
    const found = reported(bytes);
    t.is(found.code, code, `${what}: ${found.message}`);
    t.regex(found.message, why, what);
  }
});

test('mutations of a model are read or refused, never worse', (t) => {
  const bytes = encodeModel(mlp);
  const next = seeded(7);
  let refused = 0;
  for (let n = 0; n < 3000; n++) {
    const copy = bytes.slice(0, next() < 0.2 ? Math.floor(next() * bytes.length) : bytes.length);
    for (let flips = 1 + Math.floor(next() * 4); flips > 0 && copy.length > 0; flips--)
      copy[Math.floor(next() * copy.length)] = Math.floor(next() * 256);
    try {
      importOnnx(copy);
    } catch (error) {
      if (!(error instanceof CompileError)) throw error;
      refused++;
    }
  }
  t.true(refused > 1000);
});
