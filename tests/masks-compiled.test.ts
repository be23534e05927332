/** Attention kernels that skip what masks hide, against the reference; and how many scores they compute. */
import test from 'ava';
import { executedPairs } from '../compiler/attention-pairs.ts';
import { plannedMacs, plannedPairs } from '../compiler/report.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Expr } from '../ir/expr.ts';
import { type Graph, graph, graphValues, type Value } from '../ir/graph.ts';
import { type Nd, nd } from '../ir/nd.ts';
import { attention, coords, type EmptyRow } from '../ir/ops/attention.ts';
import { seeded } from '../ir/ops/example.ts';
import { input, project } from '../ir/ops/structural.ts';
import { printExpr } from '../ir/print.ts';
import * as s from '../ir/scalar.ts';
import type { Dim } from '../ir/type.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { compileGraph, ENGINES } from './support/run-graph.ts';

const { b, q, k } = coords;
const EMPTY: readonly EmptyRow[] = ['zero', 'nan', 'uniform', 'unmasked'];
const [B, H, D, E] = [2, 2, 8, 5];

const given = (name: string, dtype: Nd['dtype'], ...shape: readonly Dim[]): Value =>
  input([], { name, dtype, shape }, { name });

/** Operands of masks: a count, a second count, bits of keys, numbers of queries and keys. */
interface Operands {
  readonly n: Value;
  readonly start: Value;
  readonly bits: Value;
  readonly ids: Value;
}
const N = s.operand(3, 'i32', [b]);
const START = s.operand(4, 'i32', [b]);
const BIT = s.operand(5, 'bool', [b, k]);
const same = s.eq(s.operand(6, 'i32', [b, q]), s.operand(6, 'i32', [b, k]));

/** One attention of each mask with each meaning of an empty row. */
function attentions(queries: Dim, keys: Dim, masks: readonly Expr[], extra = {}): Graph {
  const [x, y, z] = [
    given('q', 'f32', B, H, queries, D),
    given('k', 'f32', B, H, keys, D),
    given('v', 'f32', B, H, keys, E),
  ];
  const operands: Operands = {
    n: given('n', 'i32', B),
    start: given('start', 'i32', B),
    bits: given('bits', 'bool', B, keys),
    ids: given('ids', 'i32', B, keys),
  };
  const all = [x, y, z, ...Object.values(operands)];
  const outputs = masks.flatMap((mask, i) =>
    EMPTY.flatMap((emptyRow) => {
      const value = attention(all, { mask, emptyRow, lse: true, ...extra });
      return [0, 1].map((part) => [`${i}_${emptyRow}_${part}`, project(value, part)] as const);
    }),
  );
  return graph('masks', all, outputs);
}

function data(queries: number, keys: number, n: readonly number[], start: readonly number[]): Record<string, Nd> {
  const next = seeded(queries * 1000 + keys);
  const floats = (...shape: number[]): Nd =>
    nd(
      'f32',
      shape,
      Array.from({ length: shape.reduce((p, d) => p * d, 1) }, () => next() * 2 - 1),
    );
  return {
    q: floats(B, H, queries, D),
    k: floats(B, H, keys, D),
    v: floats(B, H, keys, E),
    n: nd('i32', [B], n),
    start: nd('i32', [B], start),
    bits: nd(
      'bool',
      [B, keys],
      Array.from({ length: B * keys }, () => Math.floor(next() * 2)),
    ),
    ids: nd(
      'i32',
      [B, keys],
      Array.from({ length: B * keys }, (_, i) => Math.floor((i % keys) / 7)),
    ),
  };
}

/** Sums of some dozen products below 1, and weights relative to that. */
const BOUND = 2e-6;

function differences(got: Record<string, Nd>, want: Readonly<Record<string, Nd>>): string[] {
  return Object.entries(want).flatMap(([name, x]) => {
    const y = got[name]!;
    const at = x.data.findIndex((v, i) => {
      const w = y.data[i]!;
      return !(v === w || (Number.isNaN(v) && Number.isNaN(w)) || Math.abs(v - w) <= BOUND);
    });
    return at < 0 ? [] : [`${name}, element ${at}: ${y.data[at]} instead of ${x.data[at]}`];
  });
}

const causal = s.le(k, q);
const MASKS: Readonly<Record<string, Expr>> = {
  causal,
  'strictly causal': s.lt(k, q),
  'causal with a past': s.le(k, s.add(q, N)),
  'causal from the end': s.le(k, s.add(q, s.sub(START, 3))),
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
  documents: same,
  'nothing at all': s.lt(k, s.mul(N, 0)),
  'some batch entries': s.lt(0, N),
};

/** The interpreter of kernels takes long. */
const WASM = ENGINES.filter((engine) => engine.startsWith('wasm'));

/** Lengths around a step of eight keys, and around a block of 24 queries. */
const LENGTHS = [0, 1, 7, 8, 9, 24, 33];

for (const [name, mask] of Object.entries(MASKS))
  test(`${name}: kernels that skip agree with the reference`, (t) => {
    const tokens = s.symbol('S', { min: 1, max: 40 });
    const g = attentions(tokens, tokens, [mask]);
    const compiled = compileGraph(g);
    for (const [size, lengths] of [
      [33, LENGTHS],
      [8, [0, 3, 8]],
      [1, [0, 1]],
    ] as const)
      for (const [i, n] of lengths.entries()) {
        const inputs = data(size, size, [n, lengths[(i + 2) % lengths.length]!], [Math.min(2, n), 0]);
        const want = evaluate(g, { inputs });
        for (const engine of size > 8 ? WASM : ENGINES)
          t.deepEqual(differences(compiled.run(engine, inputs), want), [], `${size} tokens, length ${n}, ${engine}`);
      }
  });

test('more keys than queries and fewer, a bias, a cap and a negative scale', (t) => {
  const [queries, keys] = [s.symbol('Q', { min: 1, max: 40 }), s.symbol('K', { min: 1, max: 40 })];
  const masks = [causal, MASKS.range!, MASKS['causal bits']!, s.le(k, s.add(q, s.sub(keys, queries)))];
  const variants = [
    { bias: s.mul(s.cast(s.sub(k, q), 'f32'), s.literal(0.1, 'f32')) },
    { softcap: 2 },
    { scale: -0.5 },
    { scale: 0 },
  ];
  for (const extra of variants) {
    const g = attentions(
      queries,
      keys,
      masks
        .slice(0, 3)
        .concat(masks[3]!)
        .map((m) => s.and(m, s.lt(q, 99))),
      extra,
    );
    const compiled = compileGraph(g);
    for (const [n, m] of [
      [5, 19],
      [26, 9],
    ] as const) {
      const inputs = { ...data(n, m, [7, 0], [1, 0]) };
      const want = evaluate(g, { inputs });
      for (const engine of ENGINES)
        t.deepEqual(differences(compiled.run(engine, inputs), want), [], `${n} × ${m}, ${engine}`);
    }
  }
});

test('grouped heads, and a mask for each head', (t) => {
  const n = 17;
  const [x, y, z] = [given('q', 'f32', 1, 4, n, D), given('k', 'f32', 1, 2, n, D), given('v', 'f32', 1, 2, n, E)];
  const masks = [s.le(k, s.add(q, coords.h)), s.and(causal, s.lt(coords.h, 2))];
  const g = graph(
    'heads',
    [x, y, z],
    masks.map((mask, i) => [`y${i}`, attention([x, y, z], { mask })] as const),
  );
  const compiled = compileGraph(g);
  const { q: a, k: c, v } = data(n, n, [0, 0], [0, 0]);
  const half = (d: Nd, heads: number): Nd =>
    nd('f32', [1, heads, ...d.shape.slice(2)], [...d.data, ...d.data].slice(0, heads * n * d.shape[3]!));
  const inputs = { q: half(a!, 4), k: half(c!, 2), v: half(v!, 2) };
  for (const engine of ENGINES) t.deepEqual(differences(compiled.run(engine, inputs), evaluate(g, { inputs })), []);
});

test('values of keys that are skipped are never read', (t) => {
  const n = 40;
  const g = attentions(n, n, [MASKS.length!]);
  const compiled = compileGraph(g);
  const inputs = data(n, n, [16, 16], [0, 0]);
  const poisoned = (x: Nd): Nd =>
    nd(
      'f32',
      x.shape,
      x.data.map((v, i) => (Math.floor(i / x.shape[3]!) % n < 16 ? v : Number.NaN)),
    );
  const hostile = { ...inputs, k: poisoned(inputs.k!), v: poisoned(inputs.v!) };
  for (const engine of ENGINES) {
    const [want, got] = [compiled.run(engine, inputs), compiled.run(engine, hostile)];
    for (const emptyRow of ['zero', 'nan'])
      t.deepEqual([...got[`0_${emptyRow}_0`]!.data], [...want[`0_${emptyRow}_0`]!.data], `${emptyRow}, ${engine}`);
  }
});

// ---------------------------------------------------------------- counts

function one(
  tokens: number,
  attrs: { readonly mask?: Expr; readonly emptyRow?: EmptyRow },
  ...more: readonly Value[]
): Value {
  const x = given('x', 'f32', 1, 12, tokens, 64);
  return attention([x, x, x, ...more], attrs);
}

test('causal attention over 2048 tokens computes at most 1 / 1.7 of the scores', (t) => {
  const { written, executed, exact } = executedPairs(one(2048, { mask: causal }), {});
  t.is(written, 12 * 2048 * 2048);
  t.true(exact);
  t.true(written / executed >= 1.7, `${written / executed}`);
  t.true(executed >= (12 * 2048 * 2049) / 2);
});

test('pairs by definition: each block of rows meets the hull of its rows in steps of eight', (t) => {
  const rows = 24;
  const reads: Readonly<Record<string, readonly [Expr, (i: number, j: number) => boolean]>> = {
    causal: [causal, (i, j) => j <= i],
    window: [MASKS.window!, (i, j) => i <= j + 5 && j <= i + 2],
    chunks: [MASKS.chunks!, (i, j) => Math.floor(i / 6) === Math.floor(j / 6)],
    'strictly causal': [MASKS['strictly causal']!, (i, j) => j < i],
    'a fixed length': [s.lt(k, 13), (_, j) => j < 13],
    nothing: [s.bool(false), () => false],
  };
  for (const [name, [mask, live]] of Object.entries(reads))
    for (const n of [1, 24, 50, 97]) {
      let [pairs, allowed] = [0, 0];
      for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) allowed += live(i, j) ? 1 : 0;
      for (let first = 0; first < n; first += rows) {
        const count = Math.min(rows, n - first);
        const seen = Array.from({ length: n }, (_, j) => j).filter((j) =>
          Array.from({ length: count }, (_, i) => first + i).some((i) => live(i, j)),
        );
        if (seen.length > 0)
          pairs += count * (Math.min(n, Math.ceil((seen.at(-1)! + 1) / 8) * 8) - Math.floor(seen[0]! / 8) * 8);
      }
      t.deepEqual(
        executedPairs(one(n, { mask }), {}, { rows }),
        { written: 12 * n * n, allowed: 12 * allowed, executed: 12 * pairs, exact: true },
        `${name}, ${n} tokens: ${printExpr(mask)}`,
      );
    }
});

test('lengths that come at run time count as the most they can be', (t) => {
  const n = given('n', 'i32', 1);
  const length = s.lt(k, s.operand(3, 'i32', [b]));
  const { written, executed, exact } = executedPairs(one(100, { mask: length }, n), {});
  t.deepEqual([executed, exact], [written, false]);
  const both = executedPairs(one(96, { mask: s.and(causal, length) }, n), {});
  t.deepEqual(both, { ...executedPairs(one(96, { mask: causal }), {}), exact: false });
});

test('symbols take their sizes, and a plan reports its pairs and what they save', (t) => {
  const tokens = s.symbol('S', { min: 1, max: 4096 });
  const x = given('x', 'f32', 1, 2, tokens, 64);
  const g = graph('g', [x], [['y', attention([x, x, x], { mask: causal })]]);
  const { relaxed } = compileGraph(g);
  for (const size of [64, 512]) {
    const at = { S: size };
    const pairs = plannedPairs(relaxed, at);
    t.is(pairs.written, 2 * size * size);
    t.true(pairs.executed < pairs.written && pairs.exact);
    t.is(plannedMacs(relaxed, at), pairs.executed * 128);
  }
});

test('bits with limits that are found first: kernels agree with the reference, and layers share the limits', (t) => {
  const tokens = s.symbol('S', { min: 1, max: 2048 });
  const masks = [BIT, MASKS['causal bits']!, same, s.and(same, causal)];
  const before = attentions(tokens, tokens, masks);
  const after = runPasses(before, pipelineFor());
  const limits = graphValues(after).filter((v) => v.op.name === 'reduce_min');
  t.is(limits.length, 4, 'two for the bits and two for the documents');
  const compiled = compileGraph(after);
  for (const size of [1, 9, 33, 70]) {
    const inputs = data(size, size, [0, 0], [0, 0]);
    // One sample padded on the right, one without any key.
    const padded = nd(
      'bool',
      [B, size],
      Array.from({ length: B * size }, (_, i) => (i < size - 4 ? 1 : 0)),
    );
    for (const bits of [inputs.bits!, padded]) {
      const given = { ...inputs, bits };
      const want = evaluate(before, { inputs: given });
      for (const engine of WASM)
        t.deepEqual(differences(compiled.run(engine, given), want), [], `${size} tokens, ${engine}`);
    }
  }
});
