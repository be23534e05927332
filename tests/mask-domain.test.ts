/** Every word for masks as the predicate that compiling makes of it, and what becomes of masks when rows are dropped. */
import test from 'ava';
import {
  attention,
  bool,
  constant,
  dim,
  f32,
  type Inputs,
  i32,
  input,
  type Mask,
  mask,
  model,
  nn,
  output,
  reshape,
  type Tensor,
} from '../frontends/dsl/index.ts';
import { evaluateExpr } from '../ir/evaluate-expr.ts';
import type { Expr } from '../ir/expr.ts';
import { type Graph, graphValues, type Value } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { coords } from '../ir/ops/attention.ts';
import { printExpr } from '../ir/print.ts';
import { describeTensor } from '../passes/describe-tensor.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';

const [B, N] = [2, 9] as const;
type Named = Readonly<Record<string, Tensor>>;
const count = (x: Tensor | undefined): Tensor<'i32'> => x as Tensor<'i32'>;
const line = (dtype: 'i32' | 'bool', data: readonly number[]): Tensor => constant(dtype, [data.length], data) as Tensor;
const positions = Array.from({ length: N }, (_, i) => i);

const fold = pipelineFor().slice(0, pipelineFor().findIndex((p) => p.name === 'fold-masks') + 1);

/** The mask of the only attention, by the names of what it reads. */
function maskOf(g: Graph): string {
  const found = graphValues(g).find((v) => v.op.name === 'attention')!;
  if (found.attrs.mask === undefined) return 'every key';
  const names = (v: Value): string => String(v.attrs.name ?? v.op.name);
  return printExpr(found.attrs.mask as never).replaceAll(/in(\d+)/g, (_, n) => names(found.inputs[Number(n)]!));
}

function compiled(word: (operands: Named) => Mask, queries: number | 'symbolic' = N): string {
  const [b, n] = queries === 'symbolic' ? [dim('batch', { max: 4 }), dim('tokens', { min: 2, max: 32 })] : [B, N];
  const inputs: Inputs = {
    q: input(f32, [b, 2, queries === 'symbolic' ? n : queries, 4]),
    k: input(f32, [b, 2, n, 4]),
    n: input(i32, [b]),
    from: input(i32, [b]),
    bits: input(bool, [b, n]),
    ids: input(i32, [b, n]),
    all: input(bool, [b, 2, queries === 'symbolic' ? n : queries, n]),
  };
  const net = model('net', inputs, (given) => {
    const { q, k, ...operands } = given as Readonly<Record<string, Tensor<'f32', readonly [1, 2, 3, 4]>>>;
    return { y: attention(q!, k!, k!, { mask: word(operands) }) };
  });
  return maskOf(runPasses(net.entries.main!, fold, { validate: true }));
}

/** Every atom and every connective, for fixed and symbolic sizes; `[fixed, symbolic]` where those differ. */
const WORDS: Readonly<
  Record<string, readonly [(x: Named) => Mask, string | readonly [fixed: string, symbolic: string]]>
> = {
  true: [() => mask.and(), 'every key'],
  false: [() => mask.or(), 'false'],
  causal: [() => mask.causal(), 'k <= q'],
  'causal with a past': [() => mask.causal(3), 'k <= q + 3'],
  'causal by entry': [({ n }) => mask.causal(count(n)), 'k <= n[b] + q'],
  window: [() => mask.window(2, 1), 'k <= q + 1 && q <= k + 2'],
  length: [({ n }) => mask.length(count(n)), 'k < n[b]'],
  range: [({ n, from }) => mask.range(count(from), count(n)), 'from[b] <= k && k < n[b]'],
  keep: [({ bits }) => mask.keep(bits!), 'bits[b, k]'],
  'keep queries': [({ bits }) => mask.keepQueries(bits!), 'bits[b, q]'],
  same: [({ ids }) => mask.sameAs(ids!), 'ids[b, k] == ids[b, q]'],
  chunks: [() => mask.chunks(3), 'k div 3 == q div 3'],
  prefix: [({ n }) => mask.prefix(count(n)), 'k < n[b] || k <= q'],
  dense: [({ all }) => mask.table(all!), 'all[b, h, q, k]'],
  not: [({ bits }) => mask.not(mask.keep(bits!)), '!bits[b, k]'],
  and: [({ bits }) => mask.and(mask.causal(), mask.keep(bits!)), 'k <= q && bits[b, k]'],
  or: [({ bits }) => mask.or(mask.causal(), mask.keep(bits!)), 'k <= q || bits[b, k]'],
  shift: [() => mask.shift(mask.window(2, 0), 3, 1), 'k <= q + 2 && q <= k'],
  remap: [({ ids }) => mask.remap(mask.causal(), ids!, ids!), 'ids[b, k] <= ids[b, q]'],
};
for (const [name, [word, wanted]] of Object.entries(WORDS))
  test(`a mask in words: ${name}`, (t) => {
    const [fixed, symbolic] = typeof wanted === 'string' ? [wanted, wanted] : wanted;
    t.is(compiled(word), fixed);
    t.is(compiled(word, 'symbolic'), symbolic);
  });

test('dilation and neighbourhoods are said by their arithmetic', (t) => {
  for (const [word, wanted] of [
    [() => mask.dilated(2, 2), /q <= k \+ 4.*mod 2/],
    [() => mask.neighbourhood(1, 3), /div 3.*mod 3/],
  ] as const)
    for (const queries of [N, 'symbolic'] as const) t.regex(compiled(word, queries), wanted);
});

/** What simplifies, each rule by itself. */
const RULES: Readonly<Record<string, readonly [(x: Named) => Mask, string]>> = {
  'causal ∧ window(l, r) → window(l, 0)': [() => mask.and(mask.causal(), mask.window(2, 5)), 'k <= q && q <= k + 2'],
  'length of all keys → true': [() => mask.length(N), 'every key'],
  'keep of a constant that is all true → true': [
    () =>
      mask.keep(
        line(
          'bool',
          positions.map(() => 1),
        ),
      ),
    'every key',
  ],
  'keep of a constant that is true up to n → length': [
    () =>
      mask.keep(
        line(
          'bool',
          positions.map((i) => +(i < 4)),
        ),
      ),
    'k < 4',
  ],
  'keep of a constant that is true from a to b → range': [
    () =>
      mask.keep(
        line(
          'bool',
          positions.map((i) => +(i >= 2 && i < 6)),
        ),
      ),
    '2 <= k && k < 6',
  ],
  'same of equal constants → true': [
    () =>
      mask.sameAs(
        line(
          'i32',
          positions.map(() => 7),
        ),
      ),
    'every key',
  ],
  'same of constants that never are → false': [
    () =>
      mask.sameAs(
        line(
          'i32',
          positions.map(() => 7),
        ),
        line(
          'i32',
          positions.map(() => 8),
        ),
      ),
    'false',
  ],
  'a window beyond all keys → true': [() => mask.window(N, N), 'every key'],
  'causal ∧ ¬causal → false': [() => mask.and(mask.causal(), mask.not(mask.causal())), 'false'],
  'prefix of none → causal': [() => mask.prefix(0), 'k <= q'],
  'De Morgan': [({ bits }) => mask.not(mask.or(mask.keep(bits!), mask.causal())), 'q < k && !bits[b, k]'],
  'x ∧ (x ∨ y) → x': [({ bits }) => mask.and(mask.keep(bits!), mask.or(mask.keep(bits!), mask.causal())), 'bits[b, k]'],
  'x ∨ (x ∧ y) → x': [({ bits }) => mask.or(mask.keep(bits!), mask.and(mask.keep(bits!), mask.causal())), 'bits[b, k]'],
  'remap by the identity → the mask itself': [
    () => mask.remap(mask.window(2, 1), line('i32', positions), line('i32', positions)),
    'k <= q + 1 && q <= k + 2',
  ],
  'a step of 1 is a window': [() => mask.dilated(1, 2), 'k <= q + 2 && q <= k + 2'],
  'chunks of one token are the token': [() => mask.chunks(1), 'k == q'],
};
for (const [name, [word, wanted]] of Object.entries(RULES))
  test(`masks simplify: ${name}`, (t) => t.is(compiled(word), wanted));

test('masks simplify: one query, causal(o) → a length', (t) => {
  t.is(
    compiled(({ n }) => mask.causal(count(n)), 1),
    'k <= n[b]',
  );
  t.is(
    compiled(() => mask.causal(4), 1),
    'k < 5',
  );
});

/** Self-attention of which only kept rows are read; `keep` tells how many there are, so that they are stored alone. */
function dropped(word: (operands: Named) => Mask, kept: (operands: Named) => Tensor<'bool'>, promised = true): string {
  const inputs: Inputs = {
    x: input(f32, [B, N, 64]),
    seen: input(bool, [B, N], '', promised ? { count: 4 } : {}),
    ids: input(i32, [B, N]),
    n: input(i32, [B]),
  };
  const net = model('net', inputs, (all) => {
    const { x, ...operands } = all as Named;
    const h = reshape(nn.linear('up', { in: 64, out: 64 })(x as Tensor<'f32'>) as Tensor<'f32'>, [B, 1, N, 64]);
    const seen = mask.keep(operands.seen!);
    const y = reshape(attention(h, h, h, { mask: mask.and(seen, word(operands)) }), [B, N, 64]);
    return {
      y: output(nn.linear('down', { in: 64, out: 64 })(y as Tensor<'f32'>) as Tensor, { where: kept(operands) }),
    };
  });
  // Both halves are run on seeded values and compared after each pass.
  const after = runPasses(net.entries.main!, pipelineFor(undefined, ['pack-rows']), { validate: true });
  const found = graphValues(after).find((v) => v.op.name === 'attention')!;
  t4(found);
  return maskOf(after);
}
/** Queries, keys and values hold the four rows that are kept. */
function t4({ inputs }: Value): void {
  for (const x of inputs.slice(0, 3))
    if (x.type.kind !== 'tensor' || x.type.shape[2] !== 4) throw new Error('rows were not stored alone');
}
const seenOf = ({ seen }: Named): Tensor<'bool'> => seen as Tensor<'bool'>;

test('rows that are kept in order compare as their places do; distances are those of the rows as they were', (t) => {
  t.is(
    dropped(() => mask.and(), seenOf),
    'every key',
    'keep under compaction by itself',
  );
  t.is(
    dropped(() => mask.causal(), seenOf),
    'k <= q',
  );
  // `slice` holds the numbers that the rows had.
  t.is(
    dropped(() => mask.window(2, 1), seenOf),
    'slice[b, k] <= slice[b, q] + 1 && slice[b, q] <= slice[b, k] + 2',
  );
  t.is(
    dropped(() => mask.dilated(2, 2), seenOf),
    'slice[b, k] <= slice[b, q] + 4 && slice[b, q] <= slice[b, k] + 4 && (slice[b, q] - slice[b, k]) mod 2 == 0',
  );
  t.regex(
    dropped(() => mask.neighbourhood(1, 3), seenOf),
    /^slice\[b, k\] div 3 <= slice\[b, q\] div 3 \+ 1 && .*slice\[b, q\] mod 3 <= slice\[b, k\] mod 3 \+ 1$/,
  );
  t.regex(
    dropped(({ ids }) => mask.sameAs(ids!), seenOf),
    /ids\[b, slice\[b, k\]\] == ids\[b, slice\[b, q\]\]|compact\[b, k\] == compact\[b, q\]/,
  );
});

test('a mask by length under rows of that length is what is left of it', (t) => {
  const inputs: Inputs = { x: input(f32, [B, N, 64]) };
  const net = model('net', inputs, (all) => {
    const { x } = all as Named;
    const h = reshape(nn.linear('up', { in: 64, out: 64 })(x as Tensor<'f32'>) as Tensor<'f32'>, [B, 1, N, 64]);
    const y = reshape(attention(h, h, h, { mask: mask.and(mask.causal(), mask.length(5)) }), [B, N, 64]);
    const first = constant(
      bool,
      [1, N],
      positions.map((i) => +(i < 5)),
    );
    return { y: output(nn.linear('down', { in: 64, out: 64 })(y as Tensor<'f32'>) as Tensor, { where: first }) };
  });
  t.is(maskOf(runPasses(net.entries.main!, pipelineFor(), { validate: true })), 'k <= q');
});

/** Tables of each word, as an exporter that computes its masks beforehand writes them. */
const TABLES: Readonly<Record<string, (q: number, k: number) => boolean>> = {
  causal: (q, k) => k <= q,
  window: (q, k) => k <= q + 1 && q <= k + 2,
  prefix: (q, k) => k < 3 || k <= q,
  'prefix with a past': (q, k) => k < 4 || k <= q + 2,
  chunks: (q, k) => Math.floor(q / 3) === Math.floor(k / 3),
  dilated: (q, k) => Math.abs(q - k) <= 4 && (q - k) % 2 === 0,
  neighbourhood: (q, k) => Math.abs(Math.floor(q / 3) - Math.floor(k / 3)) <= 1 && Math.abs((q % 3) - (k % 3)) <= 1,
};
for (const [name, is] of Object.entries(TABLES))
  test(`a table is said in words, and a table that differs in one place is not said to be that: ${name}`, (t) => {
    const at = [coords.q, coords.k];
    const cells = Array.from({ length: N * N }, (_, i) => +is(Math.floor(i / N), i % N));
    const agrees = (data: readonly number[]): boolean => {
      const said = describeTensor(nd('bool', [N, N], data), at);
      if (!said) return false;
      for (const [i, bit] of data.entries()) {
        const value = (leaf: Expr): number => (leaf === coords.q ? Math.floor(i / N) : i % N);
        t.is(evaluateExpr(said, { value }), bit, `${printExpr(said)} at ${Math.floor(i / N)}, ${i % N}`);
      }
      return true;
    };
    t.true(agrees(cells));
    t.true(agrees(cells.map((bit) => 1 - bit)));
    // Whatever is said of the others is true of each of their elements.
    for (const [i, bit] of cells.entries()) agrees(cells.with(i, 1 - bit));
  });
