/** Weights that stand beside an ONNX file: where they may stand, what is refused, and when an export puts them there. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import * as ort from 'onnxruntime-node';
import { f32, input, model, nn } from '../frontends/dsl/index.ts';
import { exportOnnx, importOnnx } from '../frontends/onnx/index.ts';
import { ndOf } from '../frontends/onnx/tensor.ts';
import { seededWeights } from '../frontends/zoo/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { bareText } from './onnx-export-kit.ts';
import { encodeModel, node, type TensorSpec, value } from './onnx-kit.ts';

function inFolder<T>(visit: (folder: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-external-'));
  try {
    return visit(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const COUNT = 300;
const external = (name: string, entries: Readonly<Record<string, string | number>>): TensorSpec => ({
  name,
  dims: [COUNT],
  dataType: 1,
  dataLocation: 1,
  externalData: Object.entries(entries).map(([key, x]) => ({ key, value: String(x) })),
});
const modelOf = (...initializers: readonly TensorSpec[]): Uint8Array =>
  encodeModel({
    nodes: [node('Sum', ['x', ...initializers.map(({ name }) => String(name))], ['y'])],
    inputs: [value('x', [COUNT])],
    outputs: ['y'],
    initializers,
  });
const bytesFrom = (start: number): Uint8Array =>
  new Uint8Array(Float32Array.from({ length: COUNT }, (_, i) => start + i).buffer);

test('tensors are read from several files and folders, at their offsets, to the end where no length is stated', (t) => {
  inFolder((folder) => {
    mkdirSync(join(folder, 'weights'));
    writeFileSync(join(folder, 'a.bin'), Buffer.concat([Buffer.alloc(64), bytesFrom(0), bytesFrom(1000)]));
    writeFileSync(join(folder, 'weights', 'b.bin'), bytesFrom(5000));
    const path = join(folder, 'model.onnx');
    writeFileSync(
      path,
      modelOf(
        external('first', { location: 'a.bin', offset: 64, length: 4 * COUNT }),
        external('second', { location: 'a.bin', offset: 64 + 4 * COUNT }),
        external('third', { location: 'weights/b.bin', checksum: 'ignored' }),
        external('again', { location: './weights/../a.bin', offset: 64 }),
      ),
    );
    const { weights } = importOnnx(path);
    const starts = ['first', 'second', 'third', 'again'].map((name) => ndOf(weights.get(name)!).data[0]);
    t.deepEqual(starts, [0, 1000, 5000, 0]);
    t.is(ndOf(weights.get('second')!).data.at(-1), 1000 + COUNT - 1);
  });
});

function refused(t: ExecutionContext, path: string, why: RegExp): void {
  const error = t.throws(
    () => {
      const { weights } = importOnnx(path);
      weights.get('w');
    },
    { instanceOf: CompileError },
  );
  t.is(error?.diagnostic.code, 'file');
  t.regex(error?.message ?? '', why);
  t.regex(error?.message ?? '', /initializer "w"/);
}

test('data outside the folder, past the end, missing or of another length are refused', (t) => {
  inFolder((outer) => {
    const folder = join(outer, 'model');
    mkdirSync(join(folder, 'sub'), { recursive: true });
    writeFileSync(join(outer, 'secret.bin'), bytesFrom(0));
    writeFileSync(join(folder, 'w.bin'), bytesFrom(0));
    symlinkSync(join(outer, 'secret.bin'), join(folder, 'link.bin'));
    symlinkSync(outer, join(folder, 'up'));
    symlinkSync(join(folder, 'nowhere'), join(folder, 'broken.bin'));
    const path = join(folder, 'model.onnx');
    const cases: readonly (readonly [Readonly<Record<string, string | number>>, RegExp])[] = [
      [{ location: '../secret.bin' }, /outside the folder/],
      [{ location: 'sub/../../secret.bin' }, /outside the folder/],
      [{ location: join(outer, 'secret.bin') }, /not a relative path/],
      [{ location: join(folder, 'w.bin') }, /not a relative path/],
      [{ location: 'link.bin' }, /a link that leads outside/],
      [{ location: 'up/secret.bin' }, /a link that leads outside/],
      [{ location: 'broken.bin' }, /no such file/],
      [{ location: 'missing.bin' }, /no such file/],
      [{ location: 'w.bin\0.txt' }, /not a relative path/],
      [{ location: '' }, /not a relative path/],
      [{ offset: 0 }, /not a relative path/],
      [{ location: '.' }, /outside the folder/],
      [{ location: 'sub' }, /not a plain file/],
      [{ location: 'w.bin', offset: 8 }, /bytes 8\.\.1208 of a file of 1200/],
      [{ location: 'w.bin', offset: 1e15 }, /of a file of 1200/],
      [{ location: 'w.bin', offset: -4 }, /offset is "-4"/],
      [{ location: 'w.bin', offset: 'x' }, /offset is "x"/],
      [{ location: 'w.bin', length: 1196 }, /1196 bytes where 1200 are needed/],
      [{ location: 'w.bin', length: 1e15 }, /bytes where 1200 are needed/],
    ];
    for (const [entries, why] of cases) {
      writeFileSync(path, modelOf(external('w', entries)));
      refused(t, path, why);
    }
    writeFileSync(path, modelOf(external('w', { location: 'w.bin' })));
    t.is(importOnnx(path).weights.get('w')?.bytes.length, 4 * COUNT);
  });
});

test('a link that stays inside the folder is followed, and a folder may be named for a model in memory', (t) => {
  inFolder((folder) => {
    writeFileSync(join(folder, 'w.bin'), bytesFrom(7));
    symlinkSync(join(folder, 'w.bin'), join(folder, 'same.bin'));
    const bytes = modelOf(external('w', { location: 'same.bin' }));
    t.is(ndOf(importOnnx(bytes, { folder }).weights.get('w')!).data[0], 7);
    const error = t.throws(() => importOnnx(bytes).weights.get('w'), { instanceOf: CompileError });
    t.regex(error?.message ?? '', /given as bytes/);
  });
});

test('an export puts weights beside the file where they come to more than one file holds', async (t) => {
  const big = model('big', { x: input(f32, [2, 40]) }, ({ x }) => ({
    y: nn.linear('b', { in: 300, out: 3 })(nn.linear('a', { in: 40, out: 300 })(x)),
  }));
  const weights = seededWeights(big);
  const total = 4 * (40 * 300 + 300 + 300 * 3 + 3);
  const folder = mkdtempSync(join(tmpdir(), 'heddle-external-'));
  try {
    const whole = join(folder, 'whole.onnx');
    t.deepEqual(exportOnnx(big, { weights, maxInside: total }).write(whole), [whole]);
    const apart = join(folder, 'apart.onnx');
    const written = exportOnnx(big, { weights, maxInside: total - 1 });
    t.throws(() => written.entries.main!.bytes(), { instanceOf: CompileError, message: /second file/ });
    t.deepEqual(written.write(apart), [apart, `${apart}.data`]);
    t.true(statSync(apart).size < 4096);
    t.deepEqual(readdirSync(folder).sort(), ['apart.onnx', 'apart.onnx.data', 'whole.onnx']);
    const back = importOnnx(apart);
    t.is(bareText(back.model.entries.main!), bareText(big.entries.main!));
    for (const name of ['a.weight', 'a.bias', 'b.weight', 'b.bias'])
      t.deepEqual(Buffer.from(back.weights.get(name)!.bytes), Buffer.from(weights.get(name)!.bytes), name);
    const x = new ort.Tensor(
      'float32',
      Float32Array.from({ length: 80 }, (_, i) => Math.sin(i)),
      [2, 40],
    );
    const results = [];
    for (const path of [whole, apart]) {
      const session = await ort.InferenceSession.create(path);
      results.push((await session.run({ x })).y!.data);
      await session.release();
    }
    t.deepEqual(results[0], results[1]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
