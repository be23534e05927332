import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import type { Bundle, OpenOptions, Progress, Session } from '../runtime/api.ts';
import { fillInput, HeddleError, open } from '../runtime/index.ts';
import type { EntryPlan, Manifest } from '../runtime/manifest.ts';
import { sha256, sha256Slow } from '../runtime/sha256.ts';
import { addEntry, buffers, handBundle, KERNEL, port, slowEntry, words, writeBundle } from './support/hand-bundle.ts';
import { serve } from './support/server.ts';

const ramp = (n: number): Uint8Array => Uint8Array.from({ length: n }, (_, i) => i * 7);
const weighted = (): ReturnType<typeof handBundle> => handBundle({ entries: { main: addEntry }, weights: ramp(1000) });

function folder(): string {
  return mkdtempSync(join(tmpdir(), 'heddle-runtime-'));
}

async function works(session: Session): Promise<boolean> {
  const { z } = await session.run({ x: [1, 2, 3], y: [4, 5, 6] });
  session.dispose();
  return String(z?.data) === '5,7,9';
}

/** A copy of the manifest, changed. */
function edited(bundle: Bundle, edit: (manifest: Mutable<Manifest>) => void): Bundle {
  const manifest = JSON.parse(JSON.stringify(bundle.manifest)) as Mutable<Manifest>;
  edit(manifest);
  return { manifest, files: bundle.files };
}
type Mutable<T> = { -readonly [K in keyof T]: T[K] extends object ? Mutable<T[K]> : T[K] };

test('a bundle opens from a path, a file URL, an http URL, from memory and through its own module', async (t) => {
  const path = folder();
  t.teardown(() => rmSync(path, { recursive: true }));
  writeBundle(weighted(), path);
  t.true(await works(await open(path)));
  t.true(await works(await open(pathToFileURL(path))));
  t.true(await works(await open(pathToFileURL(path).href)));
  t.true(await works(await open(weighted())));
  const own = (await import(join(path, 'index.js'))) as { open(options?: OpenOptions): Promise<Session> };
  t.true(await works(await own.open({ threads: 2 })));
  const server = await serve({ folders: { '/models/hand/': path } });
  t.teardown(() => server.close());
  t.true(await works(await open(`${server.origin}/models/hand`)));
  const asked = server.requests.map((request) => request.path).sort();
  t.deepEqual(
    asked,
    ['kernels.bin', 'manifest.json', 'weights.bin'].map((name) => `/models/hand/${name}`),
  );
  const files = new Map([...weighted().files.keys()].map((name) => [name, pathToFileURL(join(path, name))]));
  t.true(await works(await open({ manifest: weighted().manifest, files })));
});

test('progress counts the bytes of the weights up to the last and ends with ready', async (t) => {
  const seen: Progress[] = [];
  const session = await open(weighted(), { onProgress: (progress) => seen.push(progress) });
  session.dispose();
  const loaded = seen.filter(({ phase }) => phase === 'weights').map((each) => each.loaded);
  t.deepEqual(loaded, [128, 256, 384, 512, 640, 768, 896, 1000]);
  t.true(seen.every(({ phase, total }) => phase !== 'weights' || total === 1000));
  t.like(seen.at(0), { phase: 'manifest' });
  t.like(seen.at(-1), { phase: 'ready', loaded: 1000, total: 1000 });
});

test('every f16 is widened exactly, across blocks and beside raw segments', async (t) => {
  const halves = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const file = new Uint8Array(8 + 131072 + 4);
  file.set([1, 2, 3, 4, 5, 6, 7, 8]);
  file.set(new Uint8Array(halves.buffer), 8);
  file.set([9, 10, 11, 12], 8 + 131072);
  const plan: Partial<EntryPlan> = {
    outputs: [port('wide', 0, [65536], { dtype: 'u32' }), port('raw', 1, [3], { dtype: 'u32' })],
    buffers: buffers(262144, 12),
    steps: [
      { from: { w: 64 }, to: { b: 0 }, bytes: 262144 },
      { from: { w: 0 }, to: { b: 1 }, bytes: 8 },
      { from: { w: 64, at: 262144 }, to: { b: 1, at: 8 }, bytes: 4 },
    ],
  };
  const bundle = handBundle({
    entries: { main: plan },
    weights: file,
    memory: 64 + 262144 + 4,
    block: 192,
    segments: [
      { from: 8 + 131072, bytes: 4, to: 64 + 262144, stored: 'raw' },
      { from: 8, bytes: 131072, to: 64, stored: 'f16' },
      { from: 0, bytes: 8, to: 0, stored: 'raw' },
    ],
  });
  for (const threads of [1, 2]) {
    const session = await open(bundle, { threads });
    const { wide, raw } = await session.run({});
    session.dispose();
    t.deepEqual([...new Uint8Array(raw!.data.buffer)], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    const floats = new Float32Array(wide!.data.buffer);
    const wrong = halves.filter((h) => {
      const [sign, exponent, fraction] = [h >> 15 ? -1 : 1, (h >> 10) & 31, h & 1023];
      const got = floats[h]!;
      if (exponent === 31) return fraction ? !Number.isNaN(got) : got !== sign * Infinity;
      const want = exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
      return !Object.is(got, want);
    });
    t.deepEqual([...wrong], []);
    t.is(wide!.data[0xfd55], 0xffaaa000, 'the payload of a NaN');
  }
});

const spoiled: readonly (readonly [string, (files: Map<string, Uint8Array>) => void, RegExp])[] = [
  [
    'a flipped bit in the third block',
    (f) => (f.get('weights.bin')![300]! ^= 1),
    /weights.bin: the bytes do not have the hash/,
  ],
  ['a short weight file', (f) => f.set('weights.bin', ramp(999)), /weights.bin: ends after 999 bytes; .* 1000/],
  ['an empty weight file', (f) => f.set('weights.bin', ramp(0)), /weights.bin: ends after 0 bytes/],
  ['a long weight file', (f) => f.set('weights.bin', ramp(1001)), /weights.bin: is longer than the 1000 bytes/],
  [
    'a flipped bit in the kernels',
    (f) => (f.get('kernels.bin')![200]! ^= 4),
    /kernels.bin: the bytes do not have the hash/,
  ],
  ['short kernels', (f) => f.set('kernels.bin', f.get('kernels.bin')!.subarray(1)), /kernels.bin: ends after/],
  [
    'long kernels',
    (f) => f.set('kernels.bin', new Uint8Array([...f.get('kernels.bin')!, 0])),
    /kernels.bin: is longer/,
  ],
];
for (const [what, spoil, message] of spoiled) {
  test(`${what} is refused, from memory and from a folder`, async (t) => {
    const bundle = weighted();
    const copies = new Map([...bundle.files].map(([name, bytes]) => [name, bytes.slice()]));
    spoil(copies);
    const path = folder();
    t.teardown(() => rmSync(path, { recursive: true }));
    writeBundle({ manifest: bundle.manifest, files: copies }, path);
    for (const source of [path, { manifest: bundle.manifest, files: copies }]) {
      for (const threads of [1, 2]) {
        const error = await t.throwsAsync(open(source, { relaxed: false, threads }), { instanceOf: HeddleError });
        t.is(error?.code, 'integrity');
        t.regex(error?.message ?? '', message);
      }
    }
  });
}

test('a missing file is named', async (t) => {
  const path = folder();
  t.teardown(() => rmSync(path, { recursive: true }));
  await t.throwsAsync(open(path), { code: 'source', message: /manifest\.json/ });
  writeBundle(weighted(), path);
  rmSync(join(path, 'weights.bin'));
  await t.throwsAsync(open(path), { code: 'source', message: /weights\.bin/ });
  writeFileSync(join(path, 'manifest.json'), readFileSync(join(path, 'manifest.json')).subarray(0, 100));
  await t.throwsAsync(open(path), { code: 'manifest', message: /is not JSON/ });
  const server = await serve({ folders: {} });
  t.teardown(() => server.close());
  await t.throwsAsync(open(`${server.origin}/none`), { code: 'source', message: /none\/manifest\.json: HTTP 404/ });
  await t.throwsAsync(open('http://127.0.0.1:1/x'), { code: 'source' });
  await t.throwsAsync(open({ ...weighted(), files: new Map() }), { code: 'source', message: /no such file/ });
});

const deep = (depth: number): unknown => JSON.parse(`${'["+",1,'.repeat(depth)}1${']'.repeat(depth)}`);
const first = (m: Mutable<Manifest>): Mutable<EntryPlan> => m.entries.main!;
const hostile: readonly (readonly [string, (manifest: Mutable<Manifest>) => void, RegExp])[] = [
  ['another format', (m) => Object.assign(m, { heddle: 2 }), /heddle \(the format\) is 2/],
  ['no entries', (m) => Object.assign(m, { entries: {} }), /entries/],
  ['entries that are a list', (m) => Object.assign(m, { entries: [] }), /entries is \[\], not an object/],
  ['a missing weights part', (m) => Reflect.deleteProperty(m, 'weights'), /weights is undefined/],
  ['a path as a file name', (m) => (m.weights.file = '../../etc/passwd'), /weights.file is/],
  ['a URL as a file name', (m) => (m.wasm.file = 'http:evil'), /wasm.file/],
  ['a segment beyond the file', (m) => (m.weights.segments[0]!.from = 1), /from \+ bytes is 1001, not within the 1000/],
  ['a segment beyond the memory', (m) => (m.weights.segments[0]!.to = 8), /its end in memory is 1008, not within 1000/],
  ['an f16 segment that does not fit widened', (m) => (m.weights.segments[0]!.stored = 'f16'), /memory is 2000/],
  ['a negative offset', (m) => (m.weights.segments[0]!.to = -64), /to is -64/],
  ['a fraction', (m) => (m.weights.segments[0]!.from = 0.5), /from is 0.5/],
  ['more weights than a memory holds', (m) => (m.weights.memory = 2 ** 33), /weights.memory/],
  ['a block of nothing', (m) => (m.weights.block = 0), /weights.block is 0/],
  ['a hash that is none', (m) => (m.weights.sha256 = 'zz'), /weights.sha256 is "zz"/],
  ['a buffer that does not exist', (m) => (first(m).inputs[0]!.buffer = 3), /inputs\[0\].buffer is 3/],
  [
    'an address of no buffer',
    (m) => Object.assign(first(m).steps[0]!, { args: [{ b: 9 }, { b: 0 }, { b: 0 }] }),
    /args\[0\].b is 9/,
  ],
  [
    'an address beyond the weights',
    (m) => Object.assign(first(m).steps[0]!, { args: [{ w: 1001 }, { b: 0 }, { b: 0 }] }),
    /args\[0\].w is 1001/,
  ],
  [
    'an address beyond the scratch',
    (m) => Object.assign(first(m).steps[0]!, { args: [{ s: 64 }, { b: 0 }, { b: 0 }] }),
    /args\[0\].s is 64/,
  ],
  ['an unknown element type', (m) => Object.assign(first(m).inputs[0]!, { dtype: 'f31' }), /dtype is "f31"/],
  ['an element type of the prototype', (m) => Object.assign(first(m).inputs[0]!, { dtype: 'toString' }), /dtype/],
  [
    'an undeclared symbol',
    (m) => Object.assign(first(m).steps[0]!, { grid: 'q' }),
    /grid is "q", not a declared symbol/,
  ],
  ['an unknown operator', (m) => Object.assign(first(m).steps[0]!, { grid: ['^', 1, 2] }), /grid is .* not a size/],
  [
    'a size nested beyond the stack',
    (m) => Object.assign(first(m).steps[0]!, { grid: deep(100_000) }),
    /nested this deep/,
  ],
  ['a step of no kind', (m) => Object.assign(first(m), { steps: [{}] }), /steps\[0\]/],
  [
    'a symbol defined by a loop again',
    (m) => Object.assign(first(m), { steps: [{ loop: 'n', trips: 1, reverse: false, steps: [] }] }),
    /a new symbol/,
  ],
  ['two inputs of one name', (m) => (first(m).inputs[1]!.name = 'x'), /different names/],
  ['an input whose buffer is not alive at the start', (m) => (first(m).buffers[0]!.first = 1), /the life of x/],
  [
    'an output whose buffer dies early',
    (m) =>
      Object.assign(first(m), {
        steps: [...first(m).steps, ...first(m).steps],
        buffers: first(m).buffers.map((b) => ({ ...b, last: 0 })),
      }),
    /the life of z/,
  ],
  [
    'a kernel that does not exist',
    (m) => Object.assign(first(m).steps[0]!, { kernel: 99 }),
    /add calls k99 .* not in the kernels/,
  ],
  [
    'too few arguments',
    (m) => Object.assign(first(m).steps[0]!, { args: [{ b: 0 }] }),
    /calls k0 with 3 values, which has 5/,
  ],
  [
    'a flag position that is none',
    (m) => {
      m.wasm.plain.memoryFlagAt = 0;
    },
    /memoryFlagAt/,
  ],
  ['a buffer of a thousand terabytes', (m) => (first(m).buffers[0]!.bytes = 1e15), /GiB; a WebAssembly memory holds 4/],
  [
    'a self-test of no entry',
    (m) => Object.assign(m, { selftest: [{ entry: 'x', symbols: {}, outputs: [], tolerance: 1 }] }),
    /selftest\[0\].entry/,
  ],
];
for (const [what, edit, message] of hostile) {
  test(`a manifest with ${what} is refused`, async (t) => {
    const error = await t.throwsAsync(open(edited(weighted(), edit), { relaxed: false }), { instanceOf: HeddleError });
    t.regex(error?.message ?? '', message);
  });
}
for (const junk of [null, 7, 'x', [], {}]) {
  test(`a manifest that is ${JSON.stringify(junk)} is refused`, async (t) => {
    await t.throwsAsync(open({ manifest: junk as never, files: new Map() }), { code: 'manifest' });
  });
}

const late: readonly (readonly [string, Partial<EntryPlan>, RegExp])[] = [
  [
    'an output larger than its buffer',
    { buffers: buffers(words('n'), words('n'), 4) },
    /the size of z is 12, outside 0 … 4/,
  ],
  [
    'a chunk of nothing',
    { steps: [{ ...addEntry.steps![0]!, chunk: ['-', 'n', 3] } as never] },
    /the chunk of add is 0/,
  ],
  [
    'a division by zero',
    { steps: [{ ...addEntry.steps![0]!, grid: ['/', 'n', ['-', 'n', 3]] } as never] },
    /the grid of add is Infinity/,
  ],
  [
    'a copy beyond its buffer',
    { steps: [{ from: { b: 0 }, to: { b: 1, at: 4 }, bytes: words('n') }] },
    /an offset is 4, outside 0 … 0/,
  ],
  [
    'a late address beyond its buffer',
    {
      steps: [
        {
          loop: 'i',
          trips: 5,
          reverse: false,
          steps: [{ ...addEntry.steps![0]!, args: [{ b: 0, at: words('i') }, { b: 1 }, { b: 2 }] } as never],
        },
      ],
    },
    /add is 16, outside 0 … 12/,
  ],
];
for (const [what, more, message] of late) {
  test(`${what} is refused when the sizes are known`, async (t) => {
    const small = { ...addEntry, ...more };
    const session = await open(edited(handBundle({ entries: { main: addEntry, bad: small } }), () => {}));
    await t.throwsAsync(session.run({ x: [1, 2, 3], y: [1, 2, 3] }, { entry: 'bad' }), { code: 'manifest', message });
    t.true(await works(session));
  });
}

test('options that make no sense are refused', async (t) => {
  for (const threads of [0, -1, 1.5, 65, Number.NaN])
    await t.throwsAsync(open(weighted(), { threads }), { code: 'option' });
  await t.throwsAsync(open(weighted(), { device: 'tpu' as never }), { code: 'option', message: /"tpu"/ });
});

test('an aborted signal ends open before, during and at the end', async (t) => {
  const reason = new Error('enough');
  await t.throwsAsync(open(weighted(), { signal: AbortSignal.abort(reason) }), { is: reason });
  for (const phase of ['manifest', 'kernels', 'weights', 'threads', 'ready']) {
    const abort = new AbortController();
    const onProgress = (progress: Progress): void => {
      if (progress.phase === phase) abort.abort(reason);
    };
    await t.throwsAsync(open(weighted(), { threads: 2, signal: abort.signal, onProgress }), { is: reason }, phase);
  }
});

test('an aborted run rejects with the reason, soon, and leaves the session usable', async (t) => {
  const entries = { main: slowEntry, add: addEntry };
  for (const threads of [1, 2]) {
    const session = await open(handBundle({ entries }), { threads });
    const x = new Float32Array(512);
    const reason = new Error('enough');
    await t.throwsAsync(session.run({ x }, { signal: AbortSignal.abort(reason) }), { is: reason });
    const abort = new AbortController();
    const running = session.run({ x }, { signal: abort.signal });
    const queued = new AbortController();
    const behind = session.run({ x: [1], y: [2] }, { entry: 'add', signal: queued.signal });
    queued.abort(reason);
    await t.throwsAsync(behind, { is: reason });
    setTimeout(() => abort.abort(reason), 5);
    await t.throwsAsync(running, { is: reason });
    t.is((await session.run({ x })).z?.data[511], 1);
    await t.throwsAsync(session.run({ x }, { signal: AbortSignal.timeout(5) }), { any: true, name: 'TimeoutError' });
    t.is((await session.run({ x: [1], y: [2] }, { entry: 'add' })).z?.data[0], 3);
    session.dispose();
  }
});

test('dispose ends runs under way and queued, and later calls say so', async (t) => {
  for (const threads of [1, 2]) {
    const session = await open(handBundle({ entries: { main: slowEntry } }), { threads });
    const x = new Float32Array(512);
    const runs = [session.run({ x }), session.run({ x })];
    setTimeout(() => session.dispose(), 5);
    for (const run of runs) await t.throwsAsync(run, { code: 'disposed' });
    await t.throwsAsync(session.run({ x }), { code: 'disposed', message: /hand is disposed/ });
    await t.throwsAsync(session.run({ wrong: x } as never), { code: 'disposed' });
    t.is(session.peakBytes, 0);
    t.notThrows(() => session.dispose());
  }
});

test('selftest compares recorded values and notices a different model', async (t) => {
  const n = 6;
  const [x, y] = [fillInput('x', 'f32', n), fillInput('y', 'f32', n)];
  const at = [0, 5, 2];
  const values = at.map((i) => Math.fround(Number(x[i]) + Number(y[i])));
  const record = (more: number): ReturnType<typeof handBundle> =>
    handBundle({
      entries: { main: addEntry },
      selftest: [
        {
          entry: 'main',
          symbols: { n },
          outputs: [{ name: 'z', at, values: values.map((v) => v + more) }],
          tolerance: 1e-6,
        },
      ],
    });
  const session = await open(record(0));
  t.deepEqual(await session.selftest(), {
    ok: true,
    worst: 0,
    tolerance: 1e-6,
    cases: [{ entry: 'main', output: 'z', worst: 0 }],
  });
  const other = await open(record(0.25));
  t.like(await other.selftest(), { ok: false });
  const bare = await open(weighted());
  await t.throwsAsync(bare.selftest(), { message: /no recorded run/ });
  for (const each of [session, other, bare]) each.dispose();
});

test('the rule that fills inputs never changes', (t) => {
  t.deepEqual(
    Array.from(fillInput('image', 'f32', 4), Number),
    [-0.8593961000442505, -0.9039636850357056, 0.2754368782043457, -0.9830881357192993],
  );
  t.deepEqual(Array.from(fillInput('image', 'f64', 2), Number), Array.from(fillInput('image', 'f32', 2), Number));
  t.deepEqual([...new Set<unknown>(fillInput('mask', 'bool', 100))].sort(), [0, 1]);
  t.deepEqual([...new Set<unknown>(fillInput('ids', 'i64', 100))].sort(), [0n, 1n]);
  const halves = Array.from(fillInput('h', 'f16', 200), Number);
  t.true(halves.every((h) => (h & 0x7fff) <= 0x3c00));
  const bf16 = fillInput('b', 'bf16', 500);
  const wide = new Float32Array(Uint32Array.from(bf16 as Uint16Array, (h) => h * 65536).buffer);
  t.true(wide.every((v) => v >= -1 && v < 1 && Number.isInteger(v * 128)));
  t.true(new Set(wide).size > 200);
});

test('SHA-256 in JavaScript agrees with the reference at every length', async (t) => {
  for (const n of [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 1000]) {
    const bytes = Uint8Array.from({ length: n }, (_, i) => i * 31);
    const want = createHash('sha256').update(bytes).digest('hex');
    t.is(sha256Slow(bytes), want, `${n}`);
    t.is(await sha256(bytes), want, `${n}`);
  }
});

test('a kernel that traps is named, and the session can go on', async (t) => {
  const trap: Partial<EntryPlan> = {
    buffers: buffers(4),
    steps: [{ kernel: KERNEL.trap, args: [{ b: 0 }], params: [], grid: 1, chunk: 1, label: 'boom' }],
  };
  const session = await open(handBundle({ entries: { main: addEntry, trap } }));
  await t.throwsAsync(session.run({}, { entry: 'trap' }), { code: 'kernel', message: /kernel boom stopped at 0 of 1/ });
  t.true(await works(session));
});
