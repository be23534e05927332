/** What users say of the interface of a model that was written without: rows of outputs that are read, promises of inputs. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { bool, dim, f32, input, model, nn, output, type Tensor } from '../frontends/dsl/index.ts';
import { decompile, exportOnnx, importOnnx } from '../frontends/onnx/index.ts';
import { seededWeights } from '../frontends/zoo/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import { type Interface, withInterface } from '../ir/interface.ts';
import { countMacs } from '../ir/macs.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { parseGraph } from '../ir/parse.ts';
import { printGraph } from '../ir/text.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { heddle } from './support/cli.ts';

const WRITTEN = parseGraph(`graph net(%x: f32[2, 6, 64], %w: f32[64, 64], %mask: i64[2, 6]) {
  %h = matmul %x, %w : f32[2, 6, 64]
  %y = matmul %h, %w : f32[2, 6, 64]
  return state: %y
}
`);
const net = { name: 'net', entries: { main: WRITTEN } };
const random = seeded(9);
const floats = (...shape: readonly number[]): Nd =>
  nd(
    'f32',
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b) }, () => random() - 0.5),
  );
const BITS = [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0];
const inputs = { x: floats(2, 6, 64), w: floats(64, 64), mask: nd('i64', [2, 6], BITS) };
const after = (said: Interface): Graph => withInterface(net, said).entries.main!;

test('rows that are read are as they were, the others are zeros', (t) => {
  const all = evaluate(WRITTEN, { inputs }).state!;
  const cases: readonly (readonly [Interface['observe'], (b: number, n: number) => boolean])[] = [
    [{ state: { rows: 'cls' } }, (_, n) => n === 0],
    [{ state: { rows: 'last' } }, (_, n) => n === 5],
    [{ state: { rows: 2 } }, (_, n) => n === 2],
    [{ state: { rows: -2 } }, (_, n) => n === 4],
    [{ state: { where: 'mask' } }, (b, n) => BITS[b * 6 + n] === 1],
    [{ state: { rows: 1, axis: 0 } }, (b) => b === 1],
  ];
  for (const [observe, read] of cases) {
    const { state } = evaluate(after({ observe }), { inputs });
    for (const [i, v] of state!.data.entries()) {
      const [b, n] = [Math.floor(i / 384), Math.floor(i / 64) % 6];
      t.is(v, read(b, n) ? all.data[i]! : 0, `${JSON.stringify(observe)} at ${b}, ${n}`);
    }
  }
});

test('rows that nobody reads are not computed', (t) => {
  const macs = (said: Interface): number => countMacs(runPasses(after(said), pipelineFor(), { validate: true }), {});
  const whole = 2 * 2 * 6 * 64 * 64;
  t.is(macs({}), whole);
  t.is(macs({ observe: { state: { rows: 'last' } } }), whole / 6);
  t.is(macs({ observe: { state: { rows: -2 } } }), whole / 6);
  t.is(macs({ observe: { state: { where: 'mask' } } }), whole, 'nobody knows how many there are');
  t.is(macs({ observe: { state: { where: 'mask' } }, declare: { mask: { binary: true, count: 3 } } }), whole / 2);
});

test('what does not fit is refused by name', (t) => {
  const refused = (said: Interface): string =>
    t.throws(() => after(said), { instanceOf: CompileError }).message.replaceAll('\n', ' ');
  t.regex(refused({ observe: { stat: { rows: 'cls' } } }), /model net has no output "stat".*did you mean "state"/);
  t.regex(refused({ declare: { msk: { binary: true } } }), /model net has no input "msk".*did you mean "mask"/);
  t.regex(refused({ observe: { state: { rows: 6 } } }), /output "state" has 6 rows, and no row 6/);
  t.regex(refused({ observe: { state: { rows: -7 } } }), /output "state" has 6 rows, and no row -7/);
  t.regex(refused({ observe: { state: { rows: 0, axis: 3 } } }), /output "state" has rank 3, and no axis 3/);
  t.regex(refused({ observe: { state: { where: 'maks' } } }), /no such input.*did you mean "mask"/);
  t.regex(refused({ observe: { state: { where: 'x' } } }), /input "x" is f32, no mask of bools or integers/);
  t.regex(
    refused({ declare: { mask: { count: 3 } } }),
    /input "mask" has a count, but may hold other numbers than 0 and 1/,
  );
});

test('a mask whose rows are not those of the output is refused', (t) => {
  const turned = parseGraph(printGraph(WRITTEN).replaceAll('2, 6, 64', '6, 2, 64'));
  t.throws(() => withInterface({ name: 'net', entries: { main: turned } }, { observe: { state: { where: 'mask' } } }), {
    message: /output "state" is f32\[6, 2, 64\], whose rows are not those of input "mask", i64\[2, 6\]/,
  });
});

test('an output says which rows its readers do not care for', (t) => {
  const traced = model('net', { x: input(f32, [2, 6, 8]), padding: input(bool, [2, 6]) }, ({ x, padding }) => {
    const h = nn.linear('up', { in: 8, out: 8 })(x) as Tensor;
    return { rest: output(h, { dontCare: padding }), same: output(h, { where: padding }) };
  }).entries.main!;
  const params = (): Nd =>
    nd(
      'f32',
      [8, 8],
      Array.from({ length: 64 }, (_, i) => (i % 7) / 7),
    );
  const run = evaluate(traced, {
    inputs: { x: floats(2, 6, 8), padding: nd('bool', [2, 6], BITS) },
    params: (name) => (name.endsWith('bias') ? nd('f32', [8], new Array<number>(8).fill(1)) : params()),
  });
  for (const [i, bit] of BITS.entries()) {
    t.is(run.rest!.data[i * 8] === 0, bit === 1);
    t.is(run.same!.data[i * 8] === 0, bit === 0);
  }
  t.throws(() => model('m', { x: input(f32, [2, 6, 8]) }, ({ x }) => ({ y: output(x, {}) })), {
    message: /give either where, dontCare or rows/,
  });
});

test('an ONNX file with rows that are read and promises, and back', async (t) => {
  const visible = dim('visible', { max: 6 });
  const source = model(
    'net',
    {
      x: input(f32, [2, 6, 8]),
      seen: input(bool, [2, 6], 'patches', { count: visible }),
      words: input('i64', [2, 6], '', { binary: true, atLeast: 1 }),
      four: input('i64', [2, 6], '', { binary: true, count: 4 }),
    },
    ({ x, seen, words, four }) => ({ y: output(x, { where: seen }), words, four }),
  );
  const bytes = exportOnnx(source).entries.main!.bytes();
  const back = importOnnx(bytes);
  const text = (g: Graph): string => printGraph(g, { locs: false }).split('\n').slice(0, 2).join('\n');
  t.is(text(back.model.entries.main!), text(source.entries.main!));
  const written = await decompile(back.model, { from: 'heddle' });
  t.regex(written, /count: visible/);
  t.regex(written, /\{ binary: true, atLeast: 1 \}/);
  t.regex(written, /\{ binary: true, count: 4 \}/);

  const plain = exportOnnx(net).entries.main!.bytes();
  const observed = importOnnx(plain, {
    observe: { state: { where: 'mask' } },
    declare: { mask: { binary: true, count: 3 } },
  }).model.entries.main!;
  t.is(countMacs(runPasses(observed, pipelineFor()), {}), 2 * 6 * 64 * 64);
  t.throws(() => importOnnx(plain, { observe: { stat: { rows: 'cls' } } }), { message: /no output "stat"/ });
});

test('a mask that is binary by its name alone says so, and not where its user says it', (t) => {
  const main = { ...WRITTEN, inputs: WRITTEN.inputs };
  const renamed = parseGraph(printGraph(main).replaceAll('%mask:', '%attention_mask:'));
  const bytes = exportOnnx({ name: 'net', entries: { main: renamed } }).entries.main!.bytes();
  const strange = Buffer.from(bytes);
  // As a stranger's file: written by somebody else.
  const at = strange.indexOf('heddle');
  strange.write('strang', at);
  const attrs = (options: Parameters<typeof importOnnx>[1]): unknown => {
    const v = importOnnx(strange, options).model.entries.main!.inputs[2]!;
    return [v.attrs.binary, v.attrs.assumed];
  };
  t.deepEqual(attrs({}), [true, true]);
  t.deepEqual(attrs({ binary: ['attention_mask'] }), [true, false]);
  t.deepEqual(attrs({ binary: [] }), [false, false]);
  t.deepEqual(attrs({ declare: { attention_mask: { binary: true } } }), [true, false]);
  t.deepEqual(attrs({ declare: { attention_mask: { binary: false } } }), [false, false]);
});

test('on the command line', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-interface-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'net.onnx');
  const layers = model('net', { x: input(f32, [2, 6, 64]), mask: input('i64', [2, 6]) }, ({ x }) => ({
    state: nn.linear('down', { in: 64, out: 64 })(nn.linear('up', { in: 64, out: 64 })(x)),
  }));
  writeFileSync(path, exportOnnx(layers, { weights: seededWeights(layers) }).entries.main!.bytes());
  const inspect = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout, stderr } = await heddle(['inspect', path, '--compiled', ...args]);
    t.is(code, 0, stderr);
    return stdout;
  };
  t.regex(await inspect(), /nothing dropped in 2 products of 6 rows: every row is read as output "state"/);
  const some = await inspect('--observe', 'state@mask', '--declare', 'mask=binary,count:3');
  t.regex(some, /dropped \d values × 3 of 6 rows: overwritten at tests.*; \d values keep 3, where !\(%mask/);
  t.regex(await inspect('--observe', 'state=last'), /compiled: 8,192|compiled: 16,384/);
  for (const [args, wrong] of [
    [['--observe', 'state'], /--observe is "state"/],
    [['--observe', 'state=last', '--observe', 'state=0'], /--observe state is given twice/],
    [['--declare', 'mask=often'], /--declare mask says "often"/],
  ] as const) {
    const { code, stderr } = await heddle(['inspect', path, ...args]);
    t.is(code, 2);
    t.regex(stderr, wrong);
  }
  const unknown = await heddle(['inspect', path, '--observe', 'stat=last']);
  t.is(unknown.code, 1);
  t.regex(unknown.stderr, /model net has no output "stat"/);
});
