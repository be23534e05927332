import test from 'ava';
import fc from 'fast-check';
import wabtModule from 'wabt';
import { decompose } from '../compiler/decompose.ts';
import { partition } from '../compiler/partition.ts';
import { scheduleProgram } from '../compiler/schedule-regions.ts';
import { type Target, WASM_PLAIN, WASM_RELAXED } from '../compiler/target.ts';
import { printWasm } from '../compiler/wasm.ts';
import { intRange, isFloat, isInt, roundTo, SCALARS, type Scalar, sizeOf } from '../ir/dtype.ts';
import { type BinaryOp, type Buffer, type Expr, type Lanes, makeExpr, type UnaryOp } from '../ir/expr.ts';
import { runKernel } from '../ir/interpret.ts';
import type { FmaRounding } from '../ir/interpret-scalar.ts';
import { Block, buffer, type Kernel } from '../ir/kernel.ts';
import { parseGraph } from '../ir/parse.ts';
import {
  abs,
  add,
  and,
  binary,
  bitcast,
  cast,
  ceil,
  div,
  eq,
  extract,
  floor,
  floordiv,
  floormod,
  fma,
  ge,
  le,
  literal,
  load,
  lt,
  max,
  min,
  mul,
  ne,
  neg,
  not,
  or,
  rem,
  round,
  select,
  shl,
  shr,
  shuffle,
  splat,
  sqrt,
  sub,
  sumLanes,
  symbol,
  trunc,
  unary,
  vec,
  xor,
} from '../ir/scalar.ts';
import { runWasm } from './wasm-kit.ts';

const wabt = await wabtModule();
const features = { simd: true, threads: true, bulk_memory: true };
const grid = { bind: 'grid.x' } as const;

function kernel(buffers: readonly Buffer[], write: (block: Block) => void, params: readonly Expr[] = []): Kernel {
  const block = new Block();
  write(block);
  return { kind: 'kernel', name: 'k', buffers, params, body: block.stmts };
}

/** Results of a kernel on the host and as WASM, each from its own copy of the inputs. */
function both(
  k: Kernel,
  contents: ReadonlyMap<Buffer, readonly number[]>,
  options: { params?: ReadonlyMap<Expr, number>; target?: Target; cuts?: readonly number[]; fma?: FmaRounding } = {},
): { host: Map<Buffer, Float64Array>; wasm: Map<Buffer, Float64Array> } {
  const copy = (): Map<Buffer, Float64Array> =>
    new Map([...contents].map(([b, data]) => [b, Float64Array.from(data)] as const));
  const [host, wasm] = [copy(), copy()];
  const { fma: rounding, ...rest } = options;
  runKernel(k, { buffers: host, params: options.params, fma: rounding });
  runWasm(k, { buffers: wasm, ...rest });
  return { host, wasm };
}

/** The first difference between two arrays, NaN equal to NaN and −0 different from 0. */
function difference(a: ArrayLike<number>, b: ArrayLike<number>): string | undefined {
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return `element ${i}: host ${a[i]}, wasm ${b[i]}`;
  return undefined;
}

/** Numbers at which operators of a type go wrong, then some in between. */
function samples(dtype: Scalar): number[] {
  if (dtype === 'bool') return [0, 1];
  if (isFloat(dtype)) {
    const hard = [
      0,
      -0,
      1,
      -1,
      0.5,
      -0.5,
      1.5,
      2.5,
      -2.5,
      3,
      1e-3,
      -7.25,
      100,
      255.5,
      300,
      -129,
      65519,
      65520,
      2 ** 31,
      -(2 ** 31),
      4294967295,
      1e10,
      -1e10,
      1e20,
      1e38,
      1e-40,
      -1e-45,
      2 ** -24,
      2 ** -25,
      6.1e-5,
      Infinity,
      -Infinity,
      NaN,
    ];
    return [...new Set(hard.map((x) => roundTo(dtype, x)))];
  }
  const [low, high] = intRange(dtype);
  const limit = 2 ** 53;
  const all = [
    0,
    1,
    2,
    3,
    7,
    100,
    127,
    128,
    200,
    255,
    256,
    1000,
    32767,
    65535,
    2 ** 24 + 1,
    2 ** 31 - 1,
    2 ** 31,
    2 ** 32 - 1,
    2 ** 40 + 3,
  ];
  return [...all, ...all.map((x) => -x), low, high, low + 1, high - 1]
    .filter((x) => x >= low && x <= high && Math.abs(x) <= limit)
    .map((x) => x + 0);
}

/** out[i] = f(a[i], b[i], c[i]), on one lane or four, over all pairs of samples. */
function elementwise(
  from: Scalar,
  to: Scalar,
  lanes: Lanes,
  f: (a: Expr, b: Expr, c: Expr) => Expr,
  keep: (a: number, b: number) => boolean = () => true,
  options: { target?: Target; fma?: FmaRounding } = {},
): string | undefined {
  const values = samples(from);
  const pairs = values.flatMap((x) => values.map((y) => [x, y] as const)).filter(([x, y]) => keep(x, y));
  while (pairs.length % 4 !== 0) pairs.push(pairs[0]!);
  const n = pairs.length;
  const [a, b, c] = ['a', 'b', 'c'].map((name) => buffer(name, from, n)) as [Buffer, Buffer, Buffer];
  const out = buffer('out', to, n, { access: 'write' });
  const k = kernel([a, b, c, out], (block) =>
    block.for(
      'u',
      0,
      n / lanes,
      (u, body) => {
        const at = mul(u, lanes);
        body.store(out, at, f(load(a, at, lanes), load(b, at, lanes), load(c, at, lanes)));
      },
      grid,
    ),
  );
  const contents = new Map<Buffer, readonly number[]>([
    [a, pairs.map(([x]) => x)],
    [b, pairs.map(([, y]) => y)],
    [c, pairs.map((_, i) => values[(i * 7) % values.length]!)],
    [out, pairs.map(() => 0)],
  ]);
  const { host, wasm } = both(k, contents, options);
  // Integers have one zero, whatever the host's doubles say.
  const one = (x: number): number => (isFloat(to) ? x : x + 0);
  const found = difference(host.get(out)!.map(one), wasm.get(out)!);
  const at = Number(found?.match(/\d+/)?.[0] ?? 0);
  return found && `${found} for ${pairs[at]!.join(' and ')}`;
}

const lanesOf = (...dtypes: Scalar[]): readonly Lanes[] => (dtypes.every((d) => sizeOf(d) <= 4) ? [1, 4] : [1]);
const PAIRS: Readonly<Record<string, (a: Expr, b: Expr) => Expr>> = { add, sub, mul, min, max, lt, le, eq, ne };
const DIVISIONS: Readonly<Record<string, (a: Expr, b: Expr) => Expr>> = { div, rem, floordiv, floormod };

for (const dtype of SCALARS.filter((d) => d !== 'bool')) {
  test(`operators of ${dtype}`, (t) => {
    const run = (
      name: string,
      f: (a: Expr, b: Expr, c: Expr) => Expr,
      to: Scalar,
      keep?: (a: number, b: number) => boolean,
    ): void => {
      for (const lanes of lanesOf(dtype, to))
        t.is(elementwise(dtype, to, lanes, f, keep), undefined, `${name}, ${lanes} lanes`);
    };
    // Beyond 2^53 the host's numbers are not exact.
    const exact =
      (f: (a: number, b: number) => number) =>
      (a: number, b: number): boolean =>
        sizeOf(dtype) < 8 || isFloat(dtype) || (Math.abs(f(a, b)) <= 2 ** 53 && (dtype !== 'u64' || f(a, b) >= 0));
    const real: Readonly<Record<string, (a: number, b: number) => number>> = {
      add: (a, b) => a + b,
      sub: (a, b) => a - b,
      mul: (a, b) => a * b,
    };
    for (const [name, f] of Object.entries(PAIRS))
      run(name, f, ['lt', 'le', 'eq', 'ne'].includes(name) ? 'bool' : dtype, exact(real[name] ?? (() => 0)));
    run('select', (a, b, c) => select(lt(a, b), b, c), dtype);
    if (isFloat(dtype)) {
      for (const [name, f] of Object.entries({ neg, abs, sqrt, floor, ceil, trunc, round })) run(name, f, dtype);
      run('div', div, dtype);
      if (dtype !== 'f16' && dtype !== 'bf16') {
        run('fma', fma, dtype);
        run('rem', rem, dtype);
      }
      return;
    }
    for (const [name, f] of Object.entries(DIVISIONS))
      run(name, f, dtype, (a, b) => b !== 0 && !(b === -1 && a === intRange(dtype as 'i32')[0]));
    for (const [name, f] of Object.entries({ and, or, xor }))
      run(name, f, dtype, (a, b) => sizeOf(dtype) < 8 || (a >= 0 && b >= 0));
    run('not', not, dtype, () => dtype !== 'u64');
    run('neg', neg, dtype, (a) => dtype !== 'u64' || a === 0);
    if (dtype !== 'u64') run('abs', abs, dtype);
    run(
      'shl',
      (a) => shl(a, 3),
      dtype,
      (a) => sizeOf(dtype) < 8 || Math.abs(a) < 2 ** 40,
    );
    if (isInt(dtype))
      run(
        'shr',
        (a) => shr(a, 3),
        dtype,
        (a) => !dtype.startsWith('u') || a >= 0,
      );
  });
}

test('casts between all types', (t) => {
  for (const from of SCALARS)
    for (const to of SCALARS)
      for (const lanes of lanesOf(from, to)) {
        // Casts between integers wrap; beyond 2^53 doubles cannot say how.
        const found = elementwise(
          from,
          to,
          lanes,
          (a) => cast(a, to),
          (_, b) => b === 0,
        );
        t.is(found, undefined, `${from} to ${to}, ${lanes} lanes`);
      }
});

test('bitcasts keep bits', (t) => {
  const groups: readonly (readonly Scalar[])[] = [
    ['f64'],
    ['f32', 'i32', 'u32'],
    ['f16', 'i16', 'u16'],
    ['bf16', 'i16', 'u16'],
    ['i8', 'u8'],
  ];
  for (const group of groups)
    for (const from of group)
      for (const to of group)
        for (const lanes of lanesOf(from, to))
          t.is(
            elementwise(
              from,
              to,
              lanes,
              (a) => bitcast(a, to),
              (_, b) => b === 0,
            ),
            undefined,
            `${from} to ${to}, ${lanes} lanes`,
          );
});

test('bool operators', (t) => {
  for (const lanes of [1, 4] as const) {
    for (const [name, f] of Object.entries({ and, or, xor, eq, ne, lt, le }))
      t.is(elementwise('bool', 'bool', lanes, f), undefined, `${name}, ${lanes} lanes`);
    t.is(elementwise('bool', 'bool', lanes, not), undefined);
    t.is(
      elementwise('bool', 'bool', lanes, (a, b) => select(a, b, not(b))),
      undefined,
    );
    t.is(
      elementwise('bool', 'f32', lanes, (a, b) => select(a, cast(b, 'f32'), literal(2, 'f32', lanes))),
      undefined,
    );
  }
});

test('lanes are splat, taken out, gathered and shuffled', (t) => {
  for (const dtype of ['f32', 'i32', 'u32', 'i16', 'u8'] as const) {
    const cases: Readonly<Record<string, (a: Expr, b: Expr) => Expr>> = {
      splat: (a) => splat(extract(a, 2), 4),
      vec: (a, b) => vec([extract(b, 3), extract(a, 0), literal(5, dtype), extract(a, 3)]),
      shuffle: (a, b) => shuffle(a, b, [6, 0, 3, 5]),
      sum: (a) => splat(sumLanes(a), 4),
    };
    for (const [name, f] of Object.entries(cases))
      t.is(elementwise(dtype, dtype, 4, f), undefined, `${name} of ${dtype}`);
  }
  const mask = (a: Expr, b: Expr): Expr =>
    vec([extract(lt(a, b), 1), extract(lt(a, b), 0), extract(eq(a, b), 2), extract(ne(a, b), 3)]);
  t.is(elementwise('f32', 'bool', 4, mask), undefined);
  t.is(
    elementwise('f32', 'f32', 4, (a, b) => select(splat(extract(lt(a, b), 1), 4), a, b)),
    undefined,
  );
});

test('a vector of fma is one rounding with relaxed SIMD and two without', (t) => {
  const finite = (a: number, b: number): boolean => Math.abs(a) < 1e18 && Math.abs(b) < 1e18;
  t.is(elementwise('f32', 'f32', 4, fma, finite, { target: WASM_PLAIN, fma: 'separate' }), undefined);
  t.is(elementwise('f32', 'f32', 1, fma, finite, { target: WASM_RELAXED, fma: 'separate' }), undefined);
  const plain = printWasm([fmaKernel()], WASM_PLAIN);
  const relaxed = printWasm([fmaKernel()], WASM_RELAXED);
  t.regex(relaxed.wat(), /relaxed_madd/);
  t.notRegex(plain.wat(), /relaxed/);
});

function fmaKernel(): Kernel {
  const x = buffer('x', 'f32', 4, { access: 'readwrite' });
  return kernel([x], (block) =>
    block.for('u', 0, 1, (_, body) => body.store(x, 0, fma(load(x, 0, 4), load(x, 0, 4), load(x, 0, 4))), grid),
  );
}

test('integer division never traps: x ÷ 0 = x, x mod 0 = 0, and the quotient that does not fit is the dividend', (t) => {
  for (const [dtype, low] of [
    ['i32', -(2 ** 31)],
    ['u32', 5],
    ['i8', -128],
    ['u16', 9],
  ] as const)
    for (const [name, f] of Object.entries(DIVISIONS)) {
      const [a, b] = ['a', 'b'].map((n) => buffer(n, dtype, 4)) as [Buffer, Buffer];
      for (const lanes of [1, 4] as const) {
        const out = buffer('out', dtype, 4, { access: 'write' });
        const k = kernel([a, b, out], (block) =>
          block.for(
            'u',
            0,
            4 / lanes,
            (u, body) => {
              const at = mul(u, lanes);
              body.store(out, at, f(load(a, at, lanes), load(b, at, lanes)));
            },
            grid,
          ),
        );
        const minus = dtype.startsWith('u') ? 1 : -1;
        const result = new Float64Array(4);
        runWasm(k, {
          buffers: new Map([
            [a, Float64Array.of(7, low, low, 0)],
            [b, Float64Array.of(0, minus, 0, 0)],
            [out, result],
          ]),
        });
        const quotient = name === 'div' || name === 'floordiv';
        t.deepEqual([...result], quotient ? [7, low, low, 0] : [0, 0, 0, 0], `${name} of ${dtype}, ${lanes} lanes`);
      }
    }
});

/** A random integer expression over `leaves`, with divisors that are never 0. */
function integers(leaves: readonly Expr[]): fc.Arbitrary<Expr> {
  const { e } = fc.letrec<{ e: Expr }>((tie) => ({
    e: fc.oneof(
      { maxDepth: 5, withCrossShrink: true },
      fc.constantFrom(...leaves),
      fc.integer({ min: -70, max: 70 }).map((x) => literal(x)),
      fc.tuple(fc.constantFrom(add, sub, mul, min, max), tie('e'), tie('e')).map(([f, a, b]) => f(a, b)),
      fc
        .tuple(fc.constantFrom(floordiv, floormod, div, rem), tie('e'), fc.constantFrom(1, 2, 3, 5, 8, 64, -3, -4))
        .map(([f, a, b]) => f(a, b)),
      fc
        .tuple(fc.constantFrom(floordiv, floormod), tie('e'), fc.constantFrom(...leaves))
        .map(([f, a, b]) => f(a, add(abs(b), 1))),
      fc.tuple(tie('e'), tie('e'), tie('e')).map(([a, b, c]) => select(lt(a, b), b, c)),
    ),
  }));
  return e;
}

test('random index arithmetic is what the host computes', (t) => {
  const [n, m] = [symbol('N', { min: 1, max: 40 }), symbol('M', { min: 1, max: 9 })];
  const out = buffer('out', 'i32', mul(mul(n, m), 3), { access: 'write' });
  const loops = (value: (i: Expr, j: Expr, k: Expr) => Expr): Kernel =>
    kernel(
      [out],
      (block) =>
        block.for(
          'i',
          0,
          n,
          (i, rows) =>
            rows.for('j', 0, m, (j, columns) =>
              columns.for('k', 0, 3, (k, body) => body.store(out, add(mul(add(mul(i, m), j), 3), k), value(i, j, k))),
            ),
          grid,
        ),
      [n, m],
    );
  // The same random tree over the loop variables of each kernel.
  const tree = integers(
    [literal(1), literal(2), literal(3)].map((c, i) => makeExpr('operand', 'i32', 1, [], (c.arg as number) + i)),
  );
  fc.assert(
    fc.property(tree, fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 9 }), (template, rows, columns) => {
      const k = loops((i, j, kk) =>
        place(
          template,
          new Map([
            [1, add(i, j)],
            [3, sub(mul(kk, 7), i)],
            [5, mul(j, n)],
          ]),
        ),
      );
      const params = new Map([
        [n, rows],
        [m, columns],
      ]);
      const { host, wasm } = both(k, new Map([[out, Array(rows * columns * 3).fill(0)]]), {
        params,
        cuts: [Math.floor(rows / 2)],
      });
      return (
        difference(
          host.get(out)!.map((x) => x + 0),
          wasm.get(out)!,
        ) === undefined
      );
    }),
    { numRuns: 150 },
  );
  t.pass();
});

/** `template` with its operands replaced, rebuilt by the constructors. */
function place(template: Expr, values: ReadonlyMap<number, Expr>): Expr {
  if (template.op === 'operand') return values.get(template.arg as number)!;
  if (template.op === 'const') return template;
  const args = template.args.map((a) => place(a, values));
  if (template.op === 'select') return select(args[0]!, args[1]!, args[2]!);
  return args.length === 1
    ? unary(template.op as UnaryOp, args[0]!)
    : binary(template.op as BinaryOp, args[0]!, args[1]!);
}

test('loops with strides, odd counts, negative constants and no iterations', (t) => {
  const [n, k, s] = [
    symbol('N', { min: 0, max: 50 }),
    symbol('K', { min: 0, max: 50 }),
    symbol('S', { min: 1, max: 4 }),
  ];
  const x = buffer('x', 'f32', add(mul(mul(n, k), s), 8));
  const out = buffer('out', 'f32', add(mul(n, 2), 1), { access: 'readwrite' });
  for (const step of [1, 2, 3]) {
    const built = kernel(
      [x, out],
      (block) =>
        block.for(
          'i',
          0,
          n,
          (i, body) => {
            const total = body.var('total', literal(0, 'f32'));
            const base = body.let('base', mul(mul(i, k), s));
            // Forwards with a symbolic stride, and backwards from the end of the row.
            body.for('j', 0, k, (j, inner) => inner.update('add', total, load(x, add(base, mul(j, s)))), { step });
            body.for(
              'j',
              1,
              k,
              (j, inner) => inner.update('add', total, mul(load(x, sub(add(base, mul(k, s)), mul(j, s))), 0.5)),
              { step },
            );
            body.for('j', 0, min(k, 5), (j, inner) =>
              inner.if(
                ge(j, 1),
                (some) => some.update('add', total, load(x, add(base, sub(j, 1)))),
                (none) => none.update('mul', total, 2),
              ),
            );
            body.store(out, mul(i, 2), total);
            body.if(lt(i, sub(n, 1)), (some) => some.store(out, add(mul(i, 2), 1), mul(total, 3)));
          },
          grid,
        ),
      [n, k, s],
    );
    for (const [rows, columns, stride] of [
      [0, 3, 1],
      [3, 0, 2],
      [1, 1, 1],
      [5, 7, 3],
      [4, 8, 1],
      [2, 50, 4],
    ] as const) {
      const data = Array.from({ length: rows * columns * stride + 8 }, (_, i) => Math.fround(Math.sin(i)));
      const params = new Map([
        [n, rows],
        [k, columns],
        [s, stride],
      ]);
      const { host, wasm } = both(
        built,
        new Map([
          [x, data],
          [out, Array(rows * 2 + 1).fill(-1)],
        ]),
        { params },
      );
      t.is(difference(host.get(out)!, wasm.get(out)!), undefined, `${rows} × ${columns} × ${stride}, step ${step}`);
    }
  }
});

test('scratch memory is an argument of its own, also two of them', (t) => {
  const n = symbol('N', { max: 20 });
  const x = buffer('x', 'f32', n);
  const out = buffer('out', 'f32', mul(n, 2), { access: 'write' });
  const [one, two] = [
    buffer('one', 'f32', n, { space: 'local', access: 'readwrite' }),
    buffer('two', 'i32', n, { space: 'local', access: 'readwrite' }),
  ];
  const built = kernel(
    [x, out, one, two],
    (block) =>
      block.for(
        'u',
        0,
        2,
        (u, body) => {
          body.for('i', 0, n, (i, b) => {
            b.store(one, i, mul(load(x, i), 2));
            b.store(two, i, cast(load(x, i), 'i32'));
          });
          body.for('i', 0, n, (i, b) =>
            b.store(out, add(mul(u, n), i), add(load(one, sub(sub(n, 1), i)), cast(load(two, i), 'f32'))),
          );
        },
        grid,
      ),
    [n],
  );
  const data = Array.from({ length: 13 }, (_, i) => i * 1.25);
  const { host, wasm } = both(
    built,
    new Map([
      [x, data],
      [out, Array(26).fill(0)],
    ]),
    { params: new Map([[n, 13]]) },
  );
  t.is(difference(host.get(out)!, wasm.get(out)!), undefined);
});

const graphs: Readonly<Record<string, string>> = {
  'static shapes': `graph g(%a: f32[13, 37], %b: f32[37, 29]) {
    %c = matmul %a, %b : f32[13, 29]
    %d = relu %c : f32[13, 29]
    return d: %d
  }`,
  'symbolic sizes': `symbols M in 1..40, K in 1..40, N in 1..40
  graph g(%a: f32[M, K], %b: f32[K, N]) {
    %c = matmul %a, %b : f32[M, N]
    return c: %c
  }`,
  'batches and transposes': `graph g(%a: f32[3, 11, 9], %b: f32[3, 21, 9]) {
    %c = matmul %a, %b {transposeB = true} : f32[3, 11, 21]
    return c: %c
  }`,
  softmax: `graph g(%a: f32[7, 33]) {
    %c = softmax %a {axis = 1} : f32[7, 33]
    return c: %c
  }`,
};

for (const [name, text] of Object.entries(graphs))
  test(`scheduled graphs: ${name}`, (t) => {
    for (const target of [WASM_PLAIN, WASM_RELAXED]) {
      const { regions } = scheduleProgram(partition(decompose(parseGraph(text))), target);
      const kernels = regions.flatMap((r) => r.stages.map((s) => s.kernel));
      t.true(kernels.length > 0);
      for (const k of kernels) {
        const sizes = [1, 2, 7, 16, 23, 40].slice(0, k.params.length === 0 ? 1 : 6);
        for (const size of sizes) {
          const params = new Map(k.params.map((p, i) => [p, Math.min(40, size + i * 3)]));
          const contents = new Map(
            k.buffers
              .filter((b) => b.space === 'global')
              .map((b) => [b, Array.from({ length: 12000 }, (_, i) => Math.fround(Math.cos(i * i)))] as const),
          );
          const { host, wasm } = both(k, contents, { params, target, fma: 'fused' });
          for (const b of contents.keys()) {
            const [x, y] = [host.get(b)!, wasm.get(b)!];
            const worst = x.reduce((most, v, i) => Math.max(most, Math.abs(v - y[i]!)), 0);
            t.true(worst < 2e-5, `${k.name}: ${b.name} differs by ${worst} at size ${size}`);
          }
        }
      }
    }
  });

test('wabt accepts plain modules and makes the same bytes of their text', (t) => {
  const kernels = Object.values(graphs).flatMap((text) =>
    scheduleProgram(partition(decompose(parseGraph(text))), WASM_PLAIN).regions.flatMap((r) =>
      r.stages.map((s) => s.kernel),
    ),
  );
  const module = printWasm(kernels, WASM_PLAIN);
  const parsed = wabt.parseWat('module.wat', module.wat(), features);
  // wabt's type declarations omit the features that its validator takes.
  (parsed as { validate(options: typeof features): void }).validate(features);
  t.deepEqual(Buffer.from(parsed.toBinary({}).buffer), Buffer.from(module.bytes));
  t.true(WebAssembly.validate(module.bytes));
});

test('the memory of a module becomes unshared by one byte', (t) => {
  const { bytes, memoryFlagAt } = printWasm([fmaKernel()], WASM_PLAIN);
  t.is(bytes[memoryFlagAt], 3);
  bytes[memoryFlagAt] = 1;
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  t.notThrows(() => new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } }));
});

test('kernels with the same code share one function', (t) => {
  const other = buffer('x', 'f32', 4, { access: 'readwrite' });
  const different = kernel([other], (block) =>
    block.for('u', 0, 1, (_, body) => body.store(other, 0, load(other, 1)), grid),
  );
  const { functionOf, bytes } = printWasm([fmaKernel(), different, fmaKernel()], WASM_PLAIN);
  t.deepEqual(functionOf, [0, 1, 0]);
  t.deepEqual(
    WebAssembly.Module.exports(new WebAssembly.Module(bytes)).map((e) => e.name),
    ['k0', 'k1', 'k2'],
  );
});

test('what WASM lacks is refused by name', (t) => {
  const x = buffer('x', 'f32', 4, { access: 'readwrite' });
  const shared = buffer('s', 'f32', 4, { space: 'shared', access: 'readwrite' });
  const threads = kernel([x], (block) =>
    block.for(
      'u',
      0,
      1,
      (_, body) => body.for('t', 0, 4, (i, b) => b.store(x, i, literal(0, 'f32')), { bind: 'thread.x' }),
      grid,
    ),
  );
  const barrier = kernel([x], (block) => block.for('u', 0, 1, (_, body) => body.barrier(), grid));
  const sharing = kernel([x, shared], (block) =>
    block.for('u', 0, 1, (_, body) => body.store(x, 0, load(shared, 0)), grid),
  );
  const bare = kernel([x], (block) => block.store(x, 0, literal(0, 'f32')));
  t.throws(() => printWasm([threads], WASM_PLAIN), { message: /thread\.x/ });
  t.throws(() => printWasm([barrier], WASM_PLAIN), { message: /barrier/ });
  t.throws(() => printWasm([sharing], WASM_PLAIN), { message: /shared/ });
  t.throws(() => printWasm([bare], WASM_PLAIN), { message: /grid\.x/ });
});

test('the inner loop of a matrix product is loads, products and one pointer a row', (t) => {
  const text = `graph g(%a: f32[96, 64], %b: f32[64, 32]) {
    %c = matmul %a, %b : f32[96, 32]
    return c: %c
  }`;
  const { regions } = scheduleProgram(partition(decompose(parseGraph(text))), WASM_RELAXED);
  const wat = printWasm(
    regions[0]!.stages.slice(-1).map((s) => s.kernel),
    WASM_RELAXED,
  ).wat();
  const innermost = wat
    .split(/\bloop\b/)
    .filter((part) => part.includes('relaxed_madd'))
    .map((part) => part.slice(0, part.indexOf(' end\n')));
  t.true(innermost.length > 0);
  for (const body of innermost) {
    const count = (name: string): number => body.split(name).length - 1;
    t.is(count('i32.mul'), 0);
    // One for the panel, one for each row that the loop splats, and one for what unrolled turns touch ahead.
    const splats = new Set(body.match(/local\.get \d+\s+v128\.load32_splat/g));
    t.is(count('i32.add'), splats.size + 1 + count('i32.load8_u'), body);
  }
});
