/** ONNX files as files: names and docs, data beside them, several entry points, what other tools change, control flow. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import onnxProto from 'onnx-proto';
import { attention, dim, expr, f32, input, model, nn } from '../frontends/dsl/index.ts';
import { exportOnnx, type ImportOptions, importOnnx } from '../frontends/onnx/index.ts';
import { gpt2, seededWeights, vit } from '../frontends/zoo/index.ts';
import { CompileError, type DiagnosticCode } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, graphValues, typeOf } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { parseGraph } from '../ir/parse.ts';
import { bareText, firstDifference, runOrt, withoutProvenance } from './onnx-export-kit.ts';
import { Damage } from './support/mutate.ts';
import { sharedRoot } from './support/project.ts';
import { tinyModel, tinyWeights } from './support/tiny-model.ts';

const { ModelProto } = onnxProto.onnx;
const onlyBytes = (...args: Parameters<typeof exportOnnx>): Uint8Array => exportOnnx(...args).entries.main!.bytes();
const again = (bytes: Uint8Array, options?: ImportOptions): Graph => importOnnx(bytes, options).model.entries.main!;

function inFolder<T>(visit: (folder: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-onnx-'));
  try {
    return visit(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
function refused(t: ExecutionContext, code: DiagnosticCode, message: RegExp, f: () => unknown): void {
  const error = t.throws(f, { instanceOf: CompileError });
  t.is(error?.diagnostic.code, code);
  t.regex(error?.message ?? '', message);
}

const CONTROL = {
  scan: `graph g(%h: f32[2], %xs: f32[4, 2], %w: f32[2]) {
  %0 = scan %h, %xs, %w {body = graph step(%s: f32[2], %x: f32[2], %c: f32[2]) {
    %0 = mul %x, %c : f32[2]
    %1 = add %s, %0 : f32[2]
    return s: %1, y: %s
  }, carried = 1, closed = 1, reverse = true} : (f32[2], f32[4, 2])
  %1 = get %0 {index = 0} : f32[2]
  %2 = get %0 {index = 1} : f32[4, 2]
  return last: %1, all: %2
}`,
  if: `graph g(%on: bool, %h: f32[2], %xs: f32[2], %w: f32[2]) {
  %0 = if %on, %h, %xs {then = graph yes(%a: f32[2], %b: f32[2]) {
    %0 = mul %a, %b : f32[2]
    return y: %0
  }, else = graph no(%a: f32[2], %b: f32[2]) {
    return y: %b
  }} : f32[2]
  %1 = add %0, %w : f32[2]
  return last: %1
}`,
  loop: `graph g(%n: i64, %on: bool, %h: f32[2], %w: f32[2]) {
  %0 = loop %n, %on, %h, %w {body = graph turn(%t: i64, %go: bool, %s: f32[2], %c: f32[2]) {
    %0 = add %s, %c : f32[2]
    %1 = reduce_sum %0 {axes = [0]} : f32
    %2 = less %1, 9 : bool
    return go: %2, s: %0, y: %s
  }, carried = 1, maxTrips = 6} : (f32[2], f32[6, 2])
  %1 = get %0 {index = 0} : f32[2]
  %2 = get %0 {index = 1} : f32[6, 2]
  return last: %1, all: %2
}`,
} as const;
test('names, docs, sizes and positions in the source are in the file', (t) => {
  const of = tinyModel();
  const proto = ModelProto.decode(onlyBytes(of, { weights: tinyWeights() }));
  t.is(proto.docString, 'two layers');
  t.is(proto.producerName, 'heddle');
  t.is(Number(proto.opsetImport[0]!.version), 23);
  const { graph } = proto;
  t.is(graph!.name, 'tiny_net');
  t.deepEqual(
    graph!.input!.map((v) => [
      v.name,
      v.docString,
      v.type!.tensorType!.shape!.dim!.map((d) => d.dimParam || Number(d.dimValue)),
    ]),
    [['x', 'features of a row', ['batch', 6]]],
  );
  t.deepEqual(graph!.initializer!.map((x) => x.name).sort(), ['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight']);
  t.deepEqual(
    graph!.output!.map((v) => v.name),
    ['y'],
  );
  const typed = new Set(graph!.valueInfo!.map((v) => v.name));
  const readers = graph!.node!.flatMap((n) => n.output!).filter((name) => !name.includes('/') && name !== 'y');
  t.true(readers.length > 0 && readers.every((name) => typed.has(name)));
  t.is(proto.metadataProps.find((p) => p.key === 'heddle.sizes')?.value, 'batch in 1..8');
  const back = again(onlyBytes(of, { weights: tinyWeights() }));
  t.is(bareText(back), bareText(of.entries.main!));
});

test('sizes keep their ranges, sums of sizes their meaning, and both can be narrowed', (t) => {
  const g = parseGraph(`symbols past in 0..32, step in 1..16 step 4 default 8
graph g(%a: f32[past, 3], %b: f32[step, 3], %c: f32[past + step, 3]) {
  %0 = concat %a, %b {axis = 0} : f32[past + step, 3]
  %1 = add %0, %c : f32[past + step, 3]
  return y: %1
}`);
  const bytes = onlyBytes(g);
  t.is(bareText(again(bytes)), bareText(g));
  const narrow = again(bytes, { dims: { past: 4 } });
  t.is(bareText(narrow).split('\n')[0], 'symbols step in 4..16 step 4 default 8');
  t.regex(bareText(narrow), /%c: f32\[step \+ 4, 3\]/);
  // Values that were written for the wider range are read from their nodes.
  const grid = parseGraph(`symbols m in 1..9, n in 1..9
graph g(%a: f32[m, n]) {
  %0 = iota {axis = 1, shape = [m, n * 2], dtype = f32} : f32[m, n * 2]
  return y: %0
}`);
  const fixed = again(onlyBytes(grid), { dims: { m: 2, n: 2 } });
  const { y } = evaluate(fixed, { inputs: { a: nd('f32', [2, 2]) }, precision: 'f32' });
  t.deepEqual([...y!.data], [0, 1, 2, 3, 0, 1, 2, 3]);
});

test('a size that stands in the inputs as a multiple only is measured from it', async (t) => {
  const g = parseGraph(`symbols n in 1..9
graph g(%a: f32[n * 2 + 1, 3]) {
  %0 = iota {axis = 0, shape = [n], dtype = f32} : f32[n]
  return y: %0
}`);
  const wanted = { y: nd('f32', [4], [0, 1, 2, 3]) };
  t.is(firstDifference(wanted, await runOrt(onlyBytes(g), { a: nd('f32', [9, 3]) }, wanted)), undefined);
  const lost = parseGraph(`symbols n in 1..9
graph g(%a: f32[3]) {
  %0 = iota {axis = 0, shape = [n], dtype = f32} : f32[n]
  return y: %0
}`);
  refused(t, 'unsupported', /size n follows from no input/, () => exportOnnx(lost));
});

test('large tensors stand beside the file when asked for, and nothing is left half-written', (t) => {
  inFolder((folder) => {
    const big = model('big', { x: input(f32, [2, 40]) }, ({ x }) => ({ y: nn.linear('fc', { in: 40, out: 30 })(x) }));
    const weights = seededWeights(big);
    const written = exportOnnx(big, { weights, externalData: true });
    refused(t, 'file', /stand in a second file/, () => written.entries.main!.bytes());
    const path = join(folder, 'big.onnx');
    t.deepEqual(written.write(path), [path, `${path}.data`]);
    t.deepEqual(readdirSync(folder).sort(), ['big.onnx', 'big.onnx.data']);
    const back = importOnnx(path);
    t.is(bareText(back.model.entries.main!), bareText(big.entries.main!));
    t.deepEqual(back.weights.get('fc.weight')?.bytes.length, 4800);
    t.deepEqual(Buffer.from(back.weights.get('fc.weight')!.bytes), Buffer.from(weights.get('fc.weight')!.bytes));
    t.deepEqual(Buffer.from(back.weights.get('fc.bias')!.bytes), Buffer.from(weights.get('fc.bias')!.bytes));
    const blocked = join(folder, 'blocked.onnx');
    mkdirSync(blocked);
    refused(t, 'file', /blocked\.onnx/, () => exportOnnx(big, { weights }).write(blocked));
    t.deepEqual(readdirSync(folder).sort(), ['big.onnx', 'big.onnx.data', 'blocked.onnx']);
  });
});

test('a model with several entry points becomes a file for each', (t) => {
  inFolder((folder) => {
    const of = gpt2({ layers: 1, width: 8, heads: 2, mlp: 8, vocabulary: 5, positions: 6 });
    const paths = exportOnnx(of, { weights: seededWeights(of) }).write(join(folder, 'gpt.onnx'));
    t.deepEqual(paths, [join(folder, 'gpt.prefill.onnx'), join(folder, 'gpt.decode.onnx')]);
    for (const [i, entry] of Object.keys(of.entries).entries())
      t.is(bareText(importOnnx(paths[i]!).model.entries.main!), bareText(of.entries[entry]!));
  });
});

test('what a tool changes is read as it stands, not as it was written', (t) => {
  const g = parseGraph(`graph g(%x: f32[2, 3, 4]) {
  %0 = reduce_sum %x {axes = [1]} : f32[2, 4]
  return y: %0
}`);
  const bytes = onlyBytes(g);
  // The axes, a tensor of one i64, are patched in place.
  const patched = Buffer.from(bytes);
  const at = patched.indexOf(Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]));
  t.true(at > 0);
  patched[at] = 2;
  const changed = again(new Uint8Array(patched));
  t.deepEqual(typeOf(changed.outputs.get('y')!).shape, [2, 3]);
  t.is(bareText(again(bytes)), bareText(g));
});

test('a group whose inside is read from outside is read node by node', (t) => {
  const key = 'quick_gelu/SigmoiX';
  const g = parseGraph(`graph g(%x: f32[2, 3]) {
  %0 = quick_gelu %x : f32[2, 3]
  return "${key}": %0
}`);
  const text = Buffer.from(onlyBytes(g)).toString('latin1');
  const ops = (file: string): string[] =>
    graphValues(again(new Uint8Array(Buffer.from(file, 'latin1')))).map((v) => v.op.name);
  t.deepEqual(ops(text), ['input', 'quick_gelu']);
  // The file's output, which stands behind its nodes, becomes a value inside the group.
  const at = text.lastIndexOf(key);
  const inner = text.slice(0, at) + key.replace('X', 'd') + text.slice(at + key.length);
  t.deepEqual(ops(inner), ['input', 'constant', 'mul', 'sigmoid']);
  const plain = again(withoutProvenance(onlyBytes(g)));
  t.deepEqual(
    graphValues(plain).map((v) => v.op.name),
    ['input', 'constant', 'mul', 'sigmoid', 'mul'],
  );
});

test('texts that hold too much, or another graph, are not believed', (t) => {
  const g = parseGraph(`graph g(%x: f32[2, 3]) {
  %0 = clamp %x {min = 0, max = 1} : f32[2, 3]
  return y: %0
}`);
  const bytes = Buffer.from(onlyBytes(g));
  for (const [from, to] of [
    ['clamp %in0', 'relux %in0'],
    ['f32[2, 3])', 'f32[2, 4])'],
    ['max = 1}', 'max = 9}'],
  ] as const) {
    const text = bytes.toString('latin1');
    t.true(text.includes(from));
    const back = again(new Uint8Array(Buffer.from(text.replaceAll(from, to), 'latin1')));
    t.deepEqual(
      graphValues(back).map((v) => v.op.name),
      ['input', 'clamp'],
    );
    t.is(back.outputs.get('y')!.attrs.max, 1);
    t.deepEqual(typeOf(back.outputs.get('y')!).shape, [2, 3]);
  }
});

test('damage to files that say what they were written from is found, or does no harm', (t) => {
  const of = vit({ layers: 1, width: 6, heads: 2, mlp: 8, imageSize: 4, patchSize: 2, channels: 1, classes: 3 });
  const files = [
    onlyBytes(of, { weights: seededWeights(of) }),
    ...Object.values(CONTROL).map((g) => onlyBytes(parseGraph(g))),
  ];
  const damage = new Damage(17);
  const wrong: unknown[] = [];
  for (let i = 0; i < 1200; i++) {
    try {
      importOnnx(damage.bytes(files[i % files.length]!));
    } catch (error) {
      if (!(error instanceof CompileError)) wrong.push(error);
    }
  }
  t.deepEqual(wrong, []);
});

test('attention with a causal mask and lengths is one operator from opset 23, and products below', async (t) => {
  const [queries, keys] = [dim('q', { max: 9, default: 4 }), dim('k', { max: 9, default: 5 })];
  const of = model(
    'masked',
    { a: input(f32, [2, 3, queries, 4]), b: input(f32, [2, 3, keys, 4]), lens: input('i32', [2]) },
    ({ a, b, lens }) => ({
      y: attention(a, b, b, {
        mask: ({ b: entry, q, k, read }) => expr.and(expr.le(k, q), expr.lt(k, read(lens, entry))),
      }),
    }),
  );
  const g = of.entries.main!;
  const inputs = {
    a: nd(
      'f32',
      [2, 3, 4, 4],
      Array.from({ length: 96 }, (_, i) => Math.sin(i)),
    ),
    b: nd(
      'f32',
      [2, 3, 5, 4],
      Array.from({ length: 120 }, (_, i) => Math.cos(i)),
    ),
    lens: nd('i32', [2], [3, 5]),
  };
  for (const opset of [17, 23]) {
    const bytes = onlyBytes(g, { opset });
    t.is(
      ModelProto.decode(bytes).graph!.node!.some((n) => n.opType === 'Attention'),
      opset === 23,
    );
    t.is(bareText(again(bytes)), bareText(g));
    const wanted = evaluate(g, { inputs, precision: 'f32' });
    t.is(firstDifference(wanted, await runOrt(bytes, inputs, wanted)), undefined);
  }
});

for (const [kind, text] of Object.entries(CONTROL))
  test(`${kind} is read back as it was, and runs in onnxruntime with equal results`, async (t) => {
    const g = parseGraph(text);
    const bytes = onlyBytes(g);
    t.is(bareText(again(bytes)), bareText(g));
    const all = {
      n: nd('i64', [], [5]),
      h: nd('f32', [2], [1, 2]),
      xs: nd('f32', kind === 'scan' ? [4, 2] : [2], kind === 'scan' ? [1, 2, 3, 4, 5, 6, 7, 8] : [7, 5]),
      w: nd('f32', [2], [0.5, 1]),
    };
    for (const on of [1, 0]) {
      const own = Object.fromEntries(
        Object.entries({ ...all, on: nd('bool', [], [on]) }).filter(([name]) =>
          g.inputs.some((v) => v.attrs.name === name),
        ),
      );
      const wanted = evaluate(g, { inputs: own, precision: 'f32' });
      t.is(firstDifference(wanted, await runOrt(bytes, own, wanted)), undefined);
      if (kind === 'loop') continue;
      const plain = again(withoutProvenance(bytes));
      t.is(firstDifference(wanted, evaluate(plain, { inputs: own, precision: 'f32' })), undefined);
    }
  });

test('opsets, weights and names that do not fit are refused', (t) => {
  const of = tinyModel();
  refused(t, 'usage', /opset 16 cannot be written[\s\S]*opsets 17 to 24/, () => exportOnnx(of, { opset: 16 }));
  refused(t, 'weights', /parameter "fc1.weight" has no value/, () => exportOnnx(of));
  const wrong = {
    source: 'w',
    names: () => ['fc1.weight'],
    get: () => ({ dtype: 'f32' as const, shape: [2], bytes: new Uint8Array(8) }),
  };
  refused(t, 'weights', /"fc1.weight" is f32\[5, 6\], but w has \[2\]/, () => exportOnnx(of, { weights: wrong }));
  const same = parseGraph('graph g(%x: f32[2]) {\n  %0 = neg %x : f32[2]\n  return x: %0\n}');
  refused(t, 'name', /"x" is both an input and an output/, () => exportOnnx(same));
});

test('models beside the checkout are written, and read back as they were', (t) => {
  t.timeout(10 * 60_000);
  const folder = join(sharedRoot, 'models');
  if (!existsSync(folder)) {
    t.log('not run: there is no models beside the checkout');
    t.pass();
    return;
  }
  const unread: string[] = [];
  for (const name of readdirSync(folder)) {
    const path = join(folder, name, 'model.onnx');
    if (!existsSync(path)) continue;
    let first: ReturnType<typeof importOnnx>;
    try {
      first = importOnnx(path);
    } catch {
      unread.push(name);
      continue;
    }
    const g = first.model.entries.main!;
    t.is(bareText(again(onlyBytes(first.model, { weights: first.weights }))), bareText(g), name);
  }
  t.log(`not importable: ${unread.join(', ') || 'none'}`);
});
