/** Attention on WebGPU that skips what masks hide: against the reference, and how many blocks of keys it meets. */
import test from 'ava';
import { WEBGPU } from '../compiler/gpu-target.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Buffer, Expr } from '../ir/expr.ts';
import { type Graph, graph, type Value } from '../ir/graph.ts';
import { runKernel } from '../ir/interpret.ts';
import { buffer, eachStmt, type Kernel, type Stmt } from '../ir/kernel.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { attention, coords, type EmptyRow } from '../ir/ops/attention.ts';
import { seeded } from '../ir/ops/example.ts';
import { input, project } from '../ir/ops/structural.ts';
import { printExpr } from '../ir/print.ts';
import * as s from '../ir/scalar.ts';
import type { Dim } from '../ir/type.ts';
import { gpuDevice, SHARED } from './support/gpu-check.ts';
import { compileForGpu } from './support/run-webgpu.ts';
import '../ir/ops/all.ts';

const { b, q, k } = coords;
const EMPTY: readonly EmptyRow[] = ['zero', 'nan', 'uniform', 'unmasked'];
const [B, D, E] = [2, 8, 5];
/** Queries and keys at most. */
const MOST = 41;
/** Queries and keys of a block. */
const [ROWS, KEYS] = SHARED.attention[0]!;

const given = (name: string, dtype: Nd['dtype'], ...shape: readonly Dim[]): Value =>
  input([], { name, dtype, shape }, { name });

const N = s.operand(3, 'i32', [b]);
const START = s.operand(4, 'i32', [b]);
const BIT = s.operand(5, 'bool', [b, k]);
const LIMIT = s.operand(6, 'i32', [b, q]);
const same = s.eq(s.operand(7, 'i32', [b, q]), s.operand(7, 'i32', [b, k]));
const causal = s.le(k, q);

/** Every atom, and what joins them. */
const MASKS: Readonly<Record<string, Expr>> = {
  causal,
  'strictly causal': s.lt(k, q),
  'causal with a past': s.le(k, s.add(q, N)),
  window: s.and(s.le(q, s.add(k, 5)), s.le(k, s.add(q, 2))),
  length: s.lt(k, N),
  range: s.and(s.le(START, k), s.lt(k, N)),
  'causal length': s.and(causal, s.lt(k, N)),
  prefix: s.or(causal, s.lt(k, N)),
  'beyond the diagonal': s.lt(q, k),
  chunks: s.eq(s.floordiv(q, 6), s.floordiv(k, 6)),
  bits: BIT,
  'causal bits': s.and(causal, BIT),
  'bits within a length': s.and(s.lt(k, N), BIT),
  'a limit for each query': s.lt(k, LIMIT),
  documents: same,
  'not the same document': s.not(same),
  'nothing at all': s.lt(k, s.mul(N, 0)),
  'some batch entries': s.lt(0, N),
};

function attentions(queries: Dim, keys: Dim, masks: readonly Expr[]): Graph {
  const operands = [
    given('q', 'f32', B, 1, queries, D),
    given('k', 'f32', B, 1, keys, D),
    given('v', 'f32', B, 1, keys, E),
    given('n', 'i32', B),
    given('start', 'i32', B),
    given('bits', 'bool', B, keys),
    given('limits', 'i32', B, queries),
    given('ids', 'i32', B, MOST),
  ];
  // Zeros and NaN are one way to treat a row without keys, weights for all keys another.
  const outputs = masks.flatMap((mask, i) =>
    [EMPTY[i % 2]!, EMPTY[2 + (i % 2)]!].flatMap((emptyRow) => {
      const value = attention(operands, { mask, emptyRow, lse: true });
      return [0, 1].map((part) => [`${printExpr(mask)} ${i} ${emptyRow} ${part}`, project(value, part)] as const);
    }),
  );
  return graph('masks', operands, outputs);
}

interface Sizes {
  readonly queries: number;
  readonly keys: number;
  readonly n: readonly number[];
  readonly start: readonly number[];
}

function data({ queries, keys, n, start }: Sizes): Record<string, Nd> {
  const next = seeded(queries * 1000 + keys);
  const make = (dtype: Nd['dtype'], shape: readonly number[], element: (i: number) => number): Nd =>
    nd(
      dtype,
      shape,
      Array.from({ length: countOf(shape) }, (_, i) => element(i)),
    );
  const floats = (...shape: number[]): Nd => make('f32', shape, () => Math.fround(next() * 2 - 1));
  return {
    q: floats(B, 1, queries, D),
    k: floats(B, 1, keys, D),
    v: floats(B, 1, keys, E),
    n: nd('i32', [B], n),
    start: nd('i32', [B], start),
    // One sample without any key.
    bits: make('bool', [B, keys], (i) => (i < keys ? Math.floor(next() * 2) : 0)),
    limits: make('i32', [B, queries], () => Math.floor(next() * (keys + 2))),
    ids: make('i32', [B, MOST], (i) => Math.floor((i % MOST) / 7)),
  };
}

/** SwiftShader's exponential is a few units off. */
const BOUND = 1e-5;

function differences(got: Record<string, Nd>, want: Readonly<Record<string, Nd>>): string[] {
  return Object.entries(want).flatMap(([name, x]) => {
    const y = got[name]!;
    const at = x.data.findIndex((v, i) => {
      const w = y.data[i]!;
      const lowest = v < -3e38 && w < -3e38;
      return !(v === w || lowest || (Number.isNaN(v) && Number.isNaN(w)) || Math.abs(v - w) <= BOUND);
    });
    return at < 0 ? [] : [`${name}, element ${at}: ${y.data[at]} instead of ${x.data[at]}`];
  });
}

/** Around blocks of queries and of keys; lengths of none, one, all, and a block and one. */
const SIZES: readonly Sizes[] = [
  { queries: 1, keys: 1, n: [1, 0], start: [0, 1] },
  { queries: 17, keys: 41, n: [1, 25], start: [0, 24] },
  { queries: 34, keys: 15, n: [8, 15], start: [14, 3] },
];

for (const [kind, target] of [
  // Small blocks: drivers in software compile them sooner, and there are more of them.
  ['in blocks', { ...SHARED, attention: [[16, 8]] }],
  ['alone', WEBGPU],
] as const)
  test(`masks of every kind and rows without keys, ${kind}`, async (t) => {
    const [queries, keys] = [s.symbol('Q', { min: 1, max: MOST }), s.symbol('K', { min: 1, max: MOST })];
    const g = attentions(queries, keys, Object.values(MASKS));
    const program = compileForGpu(g, { target });
    const device = await gpuDevice();
    for (const sizes of kind === 'alone' ? SIZES.slice(2) : SIZES) {
      const inputs = data(sizes);
      const wrong = differences(await program.device(device, inputs), evaluate(g, { inputs }));
      t.deepEqual(wrong, [], JSON.stringify(sizes));
    }
  });

test('the interpreter finds no race where limits are joined', (t) => {
  const sizes = { queries: 33, keys: 40, n: [5, 0], start: [1, 0] };
  const masks = [MASKS['causal length']!, MASKS['a limit for each query']!];
  const g = attentions(sizes.queries, sizes.keys, masks);
  const inputs = data(sizes);
  t.deepEqual(differences(compileForGpu(g, { target: SHARED }).host(inputs), evaluate(g, { inputs })), []);
});

test('a bias of the least number hides keys, and a row of nothing else shares its weights', async (t) => {
  const least = Math.fround(-3.4028234663852886e38);
  const [x, y] = [given('x', 'f32', 1, 1, 2, 4), given('y', 'f32', 1, 1, 40, 4)];
  const bias = s.operand(3, 'f32', [q, k]);
  const g = graph('bias', [x, y, given('bias', 'f32', 2, 40)], []);
  const value = attention([x, y, y, g.inputs[2]!], { bias });
  const whole = graph('bias', g.inputs, [['out', value]]);
  const inputs = {
    x: nd(
      'f32',
      [1, 1, 2, 4],
      Array.from({ length: 8 }, (_, i) => i / 8),
    ),
    y: nd(
      'f32',
      [1, 1, 40, 4],
      Array.from({ length: 160 }, (_, i) => Math.sin(i)),
    ),
    bias: nd(
      'f32',
      [2, 40],
      Array.from({ length: 80 }, (_, i) => (i < 40 && i % 3 === 0 ? 0 : least)),
    ),
  };
  const want = evaluate(whole, { inputs });
  for (const target of [SHARED, WEBGPU]) {
    const program = compileForGpu(whole, { target });
    t.deepEqual(differences(program.host(inputs), want), []);
    t.deepEqual(differences(await program.device(await gpuDevice(), inputs), want), []);
  }
});

// ---------------------------------------------------------------- counts

/** Blocks of keys that a kernel meets: all of them, and those whose mask it does not look at. */
interface Met {
  readonly blocks: number;
  readonly solid: number;
}

type Loop = Stmt & { readonly kind: 'for' };
const isLoop = (x: Stmt): x is Loop => x.kind === 'for';

/**
 * Counts what a kernel of attention meets, by adding to the turns of its loop over keys.
 * @param bare without what a turn computes, which no limit depends on where every query reads some key
 */
function countBlocks(
  mask: Expr,
  n: number,
  inputs: Readonly<Record<string, Nd>>,
  options: { readonly emptyRow?: EmptyRow; readonly bare?: boolean } = {},
): Met {
  const { emptyRow = 'zero', bare = false } = options;
  const operands = Object.entries(inputs).map(([name, { dtype, shape }]) => given(name, dtype, ...shape));
  const g = graph('count', operands, [['out', attention(operands, { mask, emptyRow })]]);
  const stages = compileForGpu(g, { target: SHARED }).scheduled.regions.flatMap((region) => region.stages);
  const { kernel, bindings } = stages[0]!;
  const counts = buffer('counts', 'i32', 2, { access: 'readwrite' });
  const loops: Loop[] = [];
  eachStmt(kernel.body, (x) => void (isLoop(x) && loops.push(x)));
  const thread = loops.find((x) => x.bind === 'thread.x')!.v;
  const walked = loops.findLast((x) => x.bind === 'serial' && x.body.some((y) => y.kind === 'barrier'));
  // A mask that allows nothing leaves no loop.
  if (!walked) return { blocks: 0, solid: 0 };
  const loop = walked;
  // The mask is looked at in a branch of its own, or everywhere.
  const branch = loop.body.find((x) => x.kind === 'if' && x.else.some((y) => y.kind === 'set'));
  const solid = branch?.kind === 'if' ? branch.cond : s.bool(false);
  const bump = (at: number, by: Expr): Stmt => ({
    kind: 'store',
    to: counts,
    at: s.literal(at),
    value: s.add(s.load(counts, s.literal(at)), s.cast(by, 'i32')),
  });
  const count: Stmt = { kind: 'if', cond: s.eq(thread, 0), then: [bump(0, s.bool(true)), bump(1, solid)], else: [] };
  const replace = (body: readonly Stmt[]): readonly Stmt[] =>
    body.map((x): Stmt => {
      if (x === loop) return { ...loop, body: bare ? [count] : [count, ...loop.body] };
      if (isLoop(x)) return { ...x, body: replace(x.body) };
      return x.kind === 'if' ? { ...x, then: replace(x.then), else: replace(x.else) } : x;
    });
  const global = kernel.buffers.filter((x) => x.space === 'global');
  const memory = new Map<Buffer, Float64Array>([[counts, new Float64Array(2)]]);
  global.forEach((x, i) => {
    const binding = bindings[i]!;
    const name = binding.kind === 'value' ? String(binding.value.attrs.name) : '';
    memory.set(x, Float64Array.from(inputs[name]?.data ?? new Float64Array(n * E * 4)));
  });
  const counting: Kernel = {
    ...kernel,
    buffers: [...global, counts, ...kernel.buffers.filter((x) => x.space !== 'global')],
    body: replace(kernel.body),
  };
  runKernel(counting, { buffers: memory, fma: 'fused', races: false });
  const [blocks, whole] = memory.get(counts)! as unknown as readonly [number, number];
  return { blocks, solid: whole };
}

/** One head of n tokens, with numbers for masks to read. */
function one(n: number, width: number, length: number): Record<string, Nd> {
  const floats = nd(
    'f32',
    [1, 1, n, width],
    Array.from({ length: n * width }, (_, i) => Math.sin(i)),
  );
  return { x: floats, y: floats, z: floats, n: nd('i32', [1], [length]) };
}

/** By definition: a block of queries meets the blocks between the first and the last key that any of its rows reads. */
function byDefinition(n: number, reads: (i: number, j: number) => boolean, wholeWhenEmpty: boolean): Met {
  let [blocks, solid] = [0, 0];
  for (let first = 0; first < n; first += ROWS) {
    const rows = Array.from({ length: Math.min(ROWS, n - first) }, (_, i) => first + i);
    const seen = rows.map((i) => Array.from({ length: n }, (_, j) => j).filter((j) => reads(i, j)));
    const all = seen.flat();
    const empty = seen.some((row) => row.length === 0);
    const [lo, hi] =
      wholeWhenEmpty && empty ? [0, n] : all.length > 0 ? [Math.min(...all), Math.max(...all) + 1] : [0, 0];
    for (let from = Math.floor(lo / KEYS) * KEYS; from < hi; from += KEYS) {
      blocks++;
      const keys = Array.from({ length: KEYS }, (_, j) => from + j);
      if (rows.every((i) => keys.every((j) => j < n && reads(i, j)))) solid++;
    }
  }
  return { blocks, solid };
}

test('causal attention over 2048 tokens meets 2080 of 4096 blocks, and looks at the mask in 64 of them', (t) => {
  const inputs = one(2048, 4, 0);
  const met = countBlocks(causal, 2048, inputs, { bare: true });
  t.deepEqual(met, { blocks: 2080, solid: 2016 });
  t.true((2048 * 2048) / (met.blocks * ROWS * KEYS) >= 1.7);
});

test('blocks by definition, for limits that are computed and limits that are read', (t) => {
  const L = s.operand(3, 'i32', [b]);
  const cases: Readonly<Record<string, readonly [Expr, (i: number, j: number, length: number) => boolean]>> = {
    causal: [causal, (i, j) => j <= i],
    window: [s.and(s.le(q, s.add(k, 5)), s.le(k, s.add(q, 2))), (i, j) => i <= j + 5 && j <= i + 2],
    'strictly causal': [s.lt(k, q), (i, j) => j < i],
    length: [s.lt(k, L), (_, j, length) => j < length],
    'causal length': [s.and(causal, s.lt(k, L)), (i, j, length) => j <= i && j < length],
    'from a start': [s.and(causal, s.le(L, k)), (i, j, length) => j <= i && j >= length],
    nothing: [s.lt(k, s.mul(L, 0)), () => false],
  };
  for (const [name, [mask, reads]] of Object.entries(cases))
    for (const [n, length] of [
      [1, 1],
      [70, 0],
      [70, 33],
      [97, 64],
    ] as const)
      for (const emptyRow of n === 70 ? EMPTY : (['zero'] as const)) {
        const whole = emptyRow === 'uniform' || emptyRow === 'unmasked';
        const want = byDefinition(n, (i, j) => reads(i, j, length), whole);
        const got = countBlocks(mask, n, one(n, 4, length), { emptyRow });
        t.deepEqual(got, want, `${name}, ${n} tokens, length ${length}, ${emptyRow}: ${printExpr(mask)}`);
      }
});

test('without a mask, only the last block of keys is looked at', (t) => {
  const yes = s.bool(true);
  for (const [n, solid] of [
    [64, 4],
    [70, 6],
  ] as const)
    t.deepEqual(countBlocks(yes, n, one(n, 4, 0)), { blocks: Math.ceil(n / ROWS) * Math.ceil(n / KEYS), solid });
});
