/** The words for masks: each against its definition, at every coordinate. */
import test, { type ExecutionContext } from 'ava';
import {
  attention,
  bool,
  causal,
  dim,
  expr,
  f32,
  type Inputs,
  i32,
  i64,
  input,
  type Mask,
  mask,
  model,
  type Tensor,
} from '../frontends/dsl/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { graphValues } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { printExpr } from '../ir/print.ts';

const [B, Q, K] = [2, 6, 7];

/** Which keys the only attention of a model reads: every visible key gets the same weight, since all scores are 0. */
function readKeys(
  word: (tensors: Readonly<Record<string, Tensor>>) => Mask,
  data: Readonly<Record<string, readonly number[]>> = {},
  specs: Inputs = {},
): { readonly text: string; readonly reads: (b: number, q: number, k: number) => boolean } {
  const inputs: Inputs = {
    q: input(f32, [B, 1, Q, 1]),
    k: input(f32, [B, 1, K, 1]),
    v: input(f32, [B, 1, K, K]),
    ...specs,
  };
  const traced = model('m', inputs, (tensors) => {
    const { q, k, v, ...rest } = tensors as Readonly<Record<string, Tensor<'f32', readonly [2, 1, 6, 1]>>>;
    return { y: attention(q!, k! as never, v! as never, { mask: word(rest) }) };
  });
  const graph = traced.entries.main!;
  const found = graphValues(graph).find((v) => v.op.name === 'attention')!;
  const identity = Array.from({ length: B * K * K }, (_, i) => (Math.floor(i / K) % K === i % K ? 1 : 0));
  const { y } = evaluate(graph, {
    inputs: {
      q: nd(f32, [B, 1, Q, 1]),
      k: nd(f32, [B, 1, K, 1]),
      v: nd(f32, [B, 1, K, K], identity),
      ...Object.fromEntries(
        Object.entries(data).map(([name, x]) => [name, nd(specs[name]!.dtype, specs[name]!.shape as number[], x)]),
      ),
    },
  });
  return {
    text: printExpr(found.attrs.mask as never),
    reads: (b, q, k) => y!.data[(b * Q + q) * K + k]! > 0,
  };
}
function agrees(
  t: ExecutionContext,
  found: ReturnType<typeof readKeys>,
  wanted: (b: number, q: number, k: number) => boolean,
): void {
  for (let b = 0; b < B; b++)
    for (let q = 0; q < Q; q++)
      for (let k = 0; k < K; k++) t.is(found.reads(b, q, k), wanted(b, q, k), `${found.text} at ${b}, ${q}, ${k}`);
}

const perRow = { n: input(i32, [B]) };
const long = { n: input(i64, [B]) };

test('causal', (t) => {
  agrees(
    t,
    readKeys(() => causal),
    (_, q, k) => k <= q,
  );
  agrees(
    t,
    readKeys(() => mask.causal()),
    (_, q, k) => k <= q,
  );
  agrees(
    t,
    readKeys(() => mask.causal(2)),
    (_, q, k) => k <= q + 2,
  );
  agrees(
    t,
    readKeys(({ n }) => mask.causal(n as Tensor<'i32'>), { n: [3, 0] }, perRow),
    (b, q, k) => k <= q + [3, 0][b]!,
  );
});
test('windows, chunks, dilation, neighbourhood', (t) => {
  agrees(
    t,
    readKeys(() => mask.window(2, 1)),
    (_, q, k) => k >= q - 2 && k <= q + 1,
  );
  agrees(
    t,
    readKeys(() => mask.chunks(3)),
    (_, q, k) => Math.floor(q / 3) === Math.floor(k / 3),
  );
  agrees(
    t,
    readKeys(() => mask.dilated(2, 1)),
    (_, q, k) => Math.abs(q - k) <= 2 && (q - k) % 2 === 0,
  );
  agrees(
    t,
    readKeys(() => mask.neighbourhood(1, 3)),
    (_, q, k) => Math.abs(Math.floor(q / 3) - Math.floor(k / 3)) <= 1 && Math.abs((q % 3) - (k % 3)) <= 1,
  );
});
test('lengths, ranges and prefixes', (t) => {
  agrees(
    t,
    readKeys(() => mask.length(4)),
    (_, _q, k) => k < 4,
  );
  for (const specs of [perRow, long])
    agrees(
      t,
      readKeys(({ n }) => mask.length(n as Tensor<'i64'>), { n: [5, 1] }, specs),
      (b, _, k) => k < [5, 1][b]!,
    );
  agrees(
    t,
    readKeys(({ n }) => mask.range(n as Tensor<'i32'>, 6), { n: [2, 5] }, perRow),
    (b, _, k) => k >= [2, 5][b]! && k < 6,
  );
  agrees(
    t,
    readKeys(({ n }) => mask.prefix(n as Tensor<'i32'>), { n: [4, 0] }, perRow),
    (b, q, k) => k < [4, 0][b]! || k <= q,
  );
});
test('bits and numbers of tokens', (t) => {
  const bits = [1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 1];
  for (const dtype of [bool, i64] as const)
    agrees(
      t,
      readKeys(({ m }) => mask.keep(m!), { m: bits }, { m: input(dtype, [B, K]) }),
      (b, _, k) => bits[b * K + k] === 1,
    );
  agrees(
    t,
    readKeys(({ m }) => mask.keep(m!), { m: bits.slice(0, K) }, { m: input(bool, [K]) }),
    (_b, _q, k) => bits[k] === 1,
  );
  agrees(
    t,
    readKeys(
      ({ m }) => mask.or(mask.keepQueries(m!), mask.length(1)),
      { m: bits.slice(0, B * Q) },
      { m: input(bool, [B, Q]) },
    ),
    (b, q, k) => bits[b * Q + q] === 1 || k < 1,
  );
  const [own, keys] = [
    [0, 0, 1, 1, 2, 2],
    [0, 1, 1, 1, 2, 0, 3],
  ] as const;
  agrees(
    t,
    readKeys(({ i, j }) => mask.sameAs(i!, j!), { i: own, j: keys }, { i: input(i32, [1, Q]), j: input(i32, [1, K]) }),
    (_, q, k) => own[q] === keys[k],
  );
  const dense = Array.from({ length: Q * K }, (_, i) => ((i * 7) % 3 === 0 ? 1 : 0));
  agrees(
    t,
    readKeys(({ m }) => mask.table(m!), { m: dense }, { m: input(bool, [1, 1, Q, K]) }),
    (_, q, k) => dense[q * K + k] === 1,
  );
});
test('and, or, not, shift, remap', (t) => {
  agrees(
    t,
    readKeys(() => mask.and(mask.causal(), mask.window(1, 9))),
    (_, q, k) => k <= q && k >= q - 1,
  );
  agrees(
    t,
    readKeys(() => mask.or(mask.length(1), mask.not(mask.causal()))),
    (_, q, k) => k < 1 || k > q,
  );
  agrees(
    t,
    readKeys(() => mask.shift(mask.window(1, 0), 2, 1)),
    (_, q, k) => k + 1 <= q + 2 && k + 1 >= q + 1,
  );
  const at = [3, 1, 0, 5, 4, 2, 6];
  agrees(
    t,
    readKeys(
      ({ i, j }) => mask.remap(mask.causal(), i!, j!),
      { i: at.slice(0, Q), j: at },
      { i: input(i64, [Q]), j: input(i32, [K]) },
    ),
    (_, q, k) => at[k]! <= at[q]!,
  );
  agrees(
    t,
    readKeys(() => mask.and(({ q, k }) => expr.le(k, expr.mul(q, 2)), mask.length(5))),
    (_, q, k) => k <= q * 2 && k < 5,
  );
});

test('a symbolic length', (t) => {
  const tokens = dim('tokens', { max: 8 });
  const traced = model('m', { x: input(f32, [1, 1, tokens, 2]) }, ({ x }) => ({
    y: attention(x, x, x, { mask: mask.length(tokens) }),
  }));
  const found = graphValues(traced.entries.main!).find((v) => v.op.name === 'attention')!;
  t.is(printExpr(found.attrs.mask as never), 'k < tokens');
});

test('operands of the wrong rank are refused', (t) => {
  const wrong = (m: (x: Tensor) => Mask, shape: readonly number[]): string => {
    const error = t.throws(() => readKeys(({ n }) => m(n!), { n: [] }, { n: input(i32, shape) }), {
      instanceOf: CompileError,
    });
    return error.message.split('\n')[0]!;
  };
  t.regex(
    wrong((x) => mask.length(x as never), [B, K]),
    /mask: the length is one number for each batch entry, \[B\], not of rank 2/,
  );
  t.regex(
    wrong((x) => mask.keep(x), [B, 1, K]),
    /mask: what is kept has a value for each token, \[B, S\] or \[S\], not rank 3/,
  );
  t.regex(
    wrong((x) => mask.table(x), [1, B, 1, Q, K]),
    /mask: a table broadcasts to \[B, H, Q, K\]; it has rank 5/,
  );
});
