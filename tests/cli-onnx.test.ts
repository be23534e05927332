import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { unsupportedOps } from '../frontends/onnx/index.ts';
import { encodeModel, int, longs, node, value } from './onnx-kit.ts';
import { heddle, heddleJson, temporary } from './support/cli.ts';

/** Three nodes that cannot be imported, each for its own reason, and one that reads what one of them gives. */
const broken = encodeModel({
  nodes: [
    node('StringNormalizer', ['x'], ['a'], [], { name: 'strings' }),
    node('Relu', ['x'], ['b'], [int('speed', 9)], { name: 'fast' }),
    node('Squeeze', ['x', 'axis'], ['c'], [], { name: 'wrong' }),
    node('Neg', ['c'], ['d'], [], { name: 'behind' }),
    node('Exp', ['x'], ['e'], [], { name: 'fine' }),
  ],
  inputs: [value('x', ['batch', 3])],
  outputs: ['a', 'b', 'd', 'e'],
  initializers: [longs('axis', [1], [1])],
});

test('every node that is refused is found at once, for whatever reason, but not what only depends on one', (t) => {
  const found = unsupportedOps(broken);
  t.deepEqual(
    found.map(({ at }) => at),
    [
      'StringNormalizer "strings" (ai.onnx, opset 17)',
      'Relu "fast" (ai.onnx, opset 17)',
      'Squeeze "wrong" (ai.onnx, opset 17)',
    ],
  );
  t.regex(found[1]!.why, /attribute "speed" is not supported/);
  t.regex(found[2]!.why, /does not have size 1/);
});

test('heddle inspect lists all of them, with operator, domain and opset', async (t) => {
  const folder = temporary(t);
  writeFileSync(join(folder, 'broken.onnx'), broken);
  const { code, stderr } = await heddle(['inspect', 'broken.onnx'], folder);
  t.is(code, 1);
  t.regex(stderr, /broken\.onnx: 3 nodes cannot be imported/);
  for (const name of ['strings', 'fast', 'wrong']) t.regex(stderr, new RegExp(`"${name}" \\(ai\\.onnx, opset 17\\)`));
  t.notRegex(stderr, /behind/);
});

test('--dim fixes and narrows sizes while an ONNX file is read', async (t) => {
  const folder = temporary(t);
  const path = join(folder, 'net.onnx');
  // Splitting in two needs the size of the axis.
  const spec = {
    nodes: [node('SpaceToDepth', ['x'], ['y'], [int('blocksize', 2)]), node('Relu', ['y'], ['z'])],
    inputs: [value('x', ['batch', 'channels', 4, 4])],
    outputs: ['z'],
  };
  writeFileSync(path, encodeModel(spec));
  const open = await heddle(['inspect', path]);
  t.is(open.code, 1);
  t.regex(open.stderr, /the channel axis must have a fixed size/);
  interface Ports {
    readonly inputs: readonly { readonly shape: readonly (number | string)[] }[];
    readonly at: Readonly<Record<string, number>>;
  }
  const args = ['inspect', path, '--dim', 'channels=3', '--dim', 'batch=2..2'];
  const { inputs, at } = await heddleJson<Ports>(t, args);
  t.deepEqual(inputs[0]!.shape, ['batch', 3, 4, 4]);
  t.deepEqual(at, { batch: 2 });
  const unknown = await heddle(['inspect', path, '--dim', 'channels=3', '--dim', 'width=3']);
  t.regex(unknown.stderr, /there is no symbolic size "width"[\s\S]*its sizes are batch, channels/);
});
