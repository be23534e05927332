/** Sequences and optional values of ONNX files, which exist while a file is read. */
import test from 'ava';
import { unsupportedOps } from '../frontends/onnx/index.ts';
import { nd } from '../ir/nd.ts';
import {
  encodeModel,
  FLOAT,
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

const x = nd('f32', [2, 5], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
const run = (nodes: ModelSpec['nodes'], more: Partial<ModelSpec> = {}): ReturnType<typeof runModel> =>
  runModel({ nodes, inputs: [value('x', [2, 5])], outputs: ['y'], ...more }, { x });
const positions = [longs('zero', [], [0]), longs('one', [], [1]), longs('last', [], [-1])];

test('a sequence is built, changed, counted and read', (t) => {
  const { y, n } = run(
    [
      node('Neg', ['x'], ['minus']),
      node('SequenceConstruct', ['x', 'minus'], ['two']),
      node('Abs', ['minus'], ['plus']),
      node('SequenceInsert', ['two', 'plus', 'zero'], ['three']),
      node('SequenceErase', ['three'], ['rest']),
      node('SequenceInsert', ['rest', 'minus'], ['all']),
      node('SequenceLength', ['all'], ['n']),
      node('SequenceAt', ['all', 'last'], ['y']),
    ],
    { initializers: positions, outputs: ['y', 'n'] },
  );
  t.deepEqual([...n!.data], [3]);
  t.deepEqual([...y!.data], [-0, -1, -2, -3, -4, -5, -6, -7, -8, -9]);
});

test('a tensor is split into parts of a size, of given sizes, and into slices, and joined again', (t) => {
  const joined = (split: ModelSpec['nodes'][number], axis: number, fresh = 0): (readonly number[])[] => {
    const { y } = run([split, node('ConcatFromSequence', ['s'], ['y'], [int('axis', axis), int('new_axis', fresh)])], {
      initializers: [longs('two', [], [2]), longs('sizes', [2], [4, 1])],
    });
    return [y!.shape, [...y!.data]];
  };
  t.deepEqual(joined(node('SplitToSequence', ['x', 'two'], ['s'], [int('axis', 1)]), 1), [[2, 5], [...x.data]]);
  t.deepEqual(joined(node('SplitToSequence', ['x', 'sizes'], ['s'], [int('axis', -1)]), 1), [[2, 5], [...x.data]]);
  t.deepEqual(joined(node('SplitToSequence', ['x'], ['s'], [int('axis', 1), int('keepdims', 0)]), 0, 1), [
    [5, 2],
    [0, 5, 1, 6, 2, 7, 3, 8, 4, 9],
  ]);
  t.deepEqual(joined(node('SplitToSequence', ['x'], ['s']), 0)[0], [2, 5]);
});

test('a position that comes with the data chooses among tensors of one type', (t) => {
  const spec: ModelSpec = {
    nodes: [
      node('SplitToSequence', ['x'], ['s'], [int('axis', 1), int('keepdims', 0)]),
      node('SequenceAt', ['s', 'i'], ['y']),
    ],
    inputs: [value('x', [2, 5]), value('i', [], INT64)],
    outputs: ['y'],
  };
  t.deepEqual([...runModel(spec, { x, i: nd('i64', [], [3]) }).y!.data], [3, 8]);
  t.deepEqual([...runModel(spec, { x, i: nd('i64', [], [-1]) }).y!.data], [4, 9]);
});

test('a loop that appends to a sequence is written out', (t) => {
  const body = {
    name: 'body',
    node: [
      node('Add', ['s', 'x'], ['next']),
      node('SequenceInsert', ['list', 'next'], ['longer']),
      node('Identity', ['go'], ['on']),
    ],
    input: [value('i', [], INT64), value('go', [], 9), value('s', [2, 5]), { name: 'list' }],
    output: [value('on', [], 9), value('next', undefined), { name: 'longer' }],
  };
  const { y } = run(
    [
      node('SequenceEmpty', [], ['empty'], [int('dtype', FLOAT)]),
      node('Loop', ['trips', '', 'x', 'empty'], ['sum', 'list'], [subgraph('body', body)]),
      node('SequenceAt', ['list', 'two'], ['y']),
    ],
    { initializers: [longs('trips', [], [3]), longs('two', [], [2])] },
  );
  t.deepEqual([...y!.data], [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]);
});

test('a body is mapped over sequences, beside a tensor that all share', (t) => {
  const body = {
    name: 'body',
    node: [node('Mul', ['a', 'b'], ['c'])],
    input: [value('a', undefined), value('b', undefined)],
    output: [value('c', undefined)],
  };
  const { y } = run(
    [
      node('SplitToSequence', ['x'], ['s'], [int('axis', 1)]),
      node('SequenceMap', ['s', 'three'], ['m'], [subgraph('body', body)]),
      node('ConcatFromSequence', ['m'], ['y'], [int('axis', 1)]),
    ],
    { initializers: [floats('three', [], [3])] },
  );
  t.deepEqual(
    [...y!.data],
    [...x.data].map((v) => 3 * v),
  );
});

test('an optional value that is there is the value; what is empty decides a branch', (t) => {
  const branch = (name: string, op: string): ReturnType<typeof subgraph> =>
    subgraph(name, { name, node: [node(op, ['x'], ['r'])], output: [value('r', undefined)] });
  const { y } = run([
    node('Optional', ['x'], ['some']),
    node('OptionalHasElement', ['some'], ['has']),
    node('OptionalGetElement', ['some'], ['same']),
    node('If', ['has'], ['r'], [branch('then_branch', 'Neg'), branch('else_branch', 'Abs')]),
    node('Add', ['same', 'r'], ['y']),
  ]);
  t.true([...y!.data].every((v) => v === 0));
  const empty = run([
    node('Optional', [], ['none']),
    node('OptionalHasElement', ['none'], ['has']),
    node('If', ['has'], ['y'], [branch('then_branch', 'Neg'), branch('else_branch', 'Abs')]),
  ]);
  t.deepEqual([...empty.y!.data], [...x.data]);
});

test('a sequence where a tensor is needed, a bad position and an open length are refused, and inspect lists them', (t) => {
  const model = (nodes: ModelSpec['nodes'], more: Partial<ModelSpec> = {}): Uint8Array =>
    encodeModel({ nodes, inputs: [value('x', ['n', 5])], outputs: ['y'], initializers: positions, ...more });
  const list = node('SequenceConstruct', ['x'], ['s']);
  t.regex(reported(model([list, node('Neg', ['s'], ['y'])])).message, /sequence stands where a tensor is needed/);
  t.regex(reported(model([list], { outputs: ['s'] })).message, /sequence stands where a tensor is needed/);
  t.regex(
    reported(model([list, node('SequenceAt', ['s', 'one'], ['y'])])).message,
    /position 1 is outside a sequence of 1/,
  );
  const split = model([node('SplitToSequence', ['x'], ['s']), node('SequenceAt', ['s', 'zero'], ['y'])]);
  t.regex(reported(split).message, /open size, so its parts cannot be counted/);
  const nodes = [list, node('Neg', ['s'], ['a']), node('Frob', ['x'], ['b']), node('SplitToSequence', ['x'], ['y'])];
  t.deepEqual(
    unsupportedOps(model(nodes, { outputs: ['a', 'b', 'y'] })).map(({ op }) => op),
    ['Frob', 'Neg', 'SplitToSequence'],
  );
});
