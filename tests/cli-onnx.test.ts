/** `heddle export` and `heddle import` */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { importOnnx } from '../frontends/onnx/index.ts';
import { heddle, heddleJson, temporary } from './support/cli.ts';
import { tinyWeights } from './support/tiny-model.ts';

const SOURCE = `import { dim, f32, input, model, nn, relu } from 'heddle';
export const tiny = model('tiny', { x: input(f32, [dim('batch', { max: 8 }), 6]) }, ({ x }) => ({
  y: nn.linear('fc2', { in: 5, out: 3 })(relu(nn.linear('fc1', { in: 6, out: 5 })(x))),
}));
`;

test('a module becomes an ONNX file, and that a module again', async (t) => {
  const folder = temporary(t);
  const module = join(folder, 'tiny.ts');
  writeFileSync(module, SOURCE);
  const onnx = join(folder, 'tiny.onnx');
  const written = await heddleJson<{ files: { path: string; bytes: number }[]; seeded: boolean }>(t, [
    'export',
    module,
    '-o',
    onnx,
    '--opset',
    '20',
    '--dim',
    'batch=2..4',
  ]);
  t.deepEqual(
    written.files.map(({ path }) => path),
    [onnx],
  );
  t.true(written.seeded);
  const { opsets, weights } = importOnnx(onnx);
  t.is(opsets.get(''), 20);
  t.deepEqual([...weights.names()].sort(), [...tinyWeights().names()].sort());
  const again = join(folder, 'again.ts');
  const read = await heddleJson<{ files: string[]; parameters: number }>(t, ['import', onnx, '-o', again]);
  t.deepEqual(read.files, [again, join(folder, 'again.safetensors')]);
  t.is(read.parameters, 4);
  const source = readFileSync(again, 'utf8');
  t.regex(source, /^\/\/ Written by heddle import from tiny\.onnx\./);
  t.regex(source, /dim\('batch', \{ min: 2, max: 4 \}\)/);
  t.regex(source, /linear\(\s*x,\s*param\('fc1\.weight', \[5, 6\]\)/);
  const inspected = await heddleJson<{ parameters: number }>(t, [
    'inspect',
    again,
    '--weights',
    join(folder, 'again.safetensors'),
  ]);
  t.truthy(inspected);
});

test('what cannot be exported or imported is refused, and nothing is written', async (t) => {
  const folder = temporary(t);
  const out = join(folder, 'x.onnx');
  const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
    [['export', 'zoo:vit-s16', '-o', out, '--opset', '9'], 2, /opset 9 cannot be written[\s\S]*opsets 17 to 24/],
    [['export', join(folder, 'none.ts'), '-o', out], 1, /there is no such file/],
    [['import', join(folder, 'none.onnx'), '-o', join(folder, 'none.ts')], 1, /none\.onnx/],
    [['import', join(folder, 'none.txt'), '-o', join(folder, 'none.ts')], 2, /is not an \.onnx file/],
    [['import', out, '-o', join(folder, 'none.js')], 2, /name a \.ts file/],
  ];
  for (const [args, code, message] of cases) {
    const result = await heddle(args);
    t.regex(result.stderr, message, args.join(' '));
    t.is(result.code, code, args.join(' '));
  }
  t.deepEqual(readdirSync(folder), []);
  t.false(existsSync(out));
});
