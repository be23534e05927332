import test from 'ava';
import fc from 'fast-check';
import { evaluateExpr } from '../ir/evaluate-expr.ts';
import type { Expr } from '../ir/expr.ts';
import { coords } from '../ir/ops/attention.ts';
import { bounds, count, exists, implies, normalPredicate, pre, reflexive, rowSpan } from '../ir/predicate.ts';
import { printExpr } from '../ir/print.ts';
import * as s from '../ir/scalar.ts';

const { b, q, k } = coords;
const keep = (n: number, at: Expr): Expr => s.operand(n, 'bool', [b, at]);
const ids = (n: number, at: Expr): Expr => s.operand(n, 'i32', [b, at]);
const number = (n: number): Expr => s.operand(n, 'i32', [b]);

const causal = (o: s.Num = 0): Expr => s.le(k, s.add(q, o));
const window = (l: number, r: number): Expr => s.and(s.le(s.sub(q, l), k), s.le(k, s.add(q, r)));
const chunk = (c: number): Expr => s.eq(s.floordiv(q, c), s.floordiv(k, c));
const dilated = (d: number, w: number): Expr =>
  s.and(s.le(s.abs(s.sub(q, k)), w * d), s.eq(s.floormod(s.sub(q, k), d), 0));
const neighbourhood = (r: number, width: number): Expr =>
  s.and(
    s.le(s.abs(s.sub(s.floordiv(q, width), s.floordiv(k, width))), r),
    s.le(s.abs(s.sub(s.floormod(q, width), s.floormod(k, width))), r),
  );
const prefix = (p: s.Num): Expr => s.or(s.lt(k, p), causal());

/** Values of operands: an element at coordinates. */
type Operands = (n: number, at: readonly number[]) => number;
const none: Operands = () => 0;

function truth(e: Expr, at: { readonly q: number; readonly k: number }, operands: Operands = none): boolean {
  const value = (leaf: Expr, from: readonly number[]): number => {
    if (leaf.op === 'operand') return operands(leaf.arg as number, from);
    return leaf === q ? at.q : leaf === k ? at.k : 0;
  };
  return evaluateExpr(e, { value }) !== 0;
}

const text = (e: Expr, domain = {}): string => printExpr(normalPredicate(e, domain));

// ---------------------------------------------------------------- normal form

test('one spelling for each comparison', (t) => {
  for (const e of [causal(), s.ge(q, k), s.not(s.lt(q, k)), s.lt(k, s.add(q, 1)), s.lt(s.sub(k, q), 1)])
    t.is(text(e), 'k <= q');
  t.is(text(s.le(k, s.sub(number(3), 1))), 'k < in3[b]');
  t.is(text(s.gt(number(3), k)), 'k < in3[b]');
  t.is(text(s.ge(k, 5)), '5 <= k');
  t.is(text(s.le(s.add(k, k), s.add(s.mul(q, 2), 3))), 'k <= q + 1');
  t.is(text(s.eq(ids(3, q), ids(3, k))), 'in3[b, k] == in3[b, q]');
  t.is(text(s.le(s.abs(s.sub(q, k)), 2)), 'k <= q + 2 && q <= k + 2');
  t.is(text(s.lt(s.cast(k, 'i64'), s.operand(3, 'i64', [b]))), 'i64(k) < in3[b]');
});

test('causal ∧ window(l, r) is window(l, 0)', (t) =>
  t.is(normalPredicate(s.and(causal(), window(3, 5))), normalPredicate(window(3, 0))));
test('one query: causal(o) is a length', (t) => {
  t.is(text(causal(number(3)), { queries: 1 }), 'k <= in3[b]');
  t.is(text(causal(7), { queries: 1, keys: 20 }), 'k < 8');
});
test('a length of all keys is true', (t) => {
  t.is(text(s.lt(k, 9), { keys: 9 }), 'true');
  const n = s.symbol('N', { max: 64 });
  t.is(text(s.lt(k, n), { keys: n }), 'true');
  t.is(text(s.lt(k, 64), { keys: n }), 'true');
  t.is(text(s.lt(k, 63), { keys: n }), 'k < 63');
});
test('same(constant, constant) is true', (t) => t.is(text(s.eq(s.literal(4), s.literal(4))), 'true'));
test('a window beyond all keys is true', (t) => {
  t.is(text(window(9, 9), { queries: 9, keys: 9 }), 'true');
  t.is(text(window(7, 9), { queries: 9, keys: 9 }), 'q <= k + 7');
});
test('causal ∧ ¬causal is false', (t) => t.is(text(s.and(causal(), s.not(causal()))), 'false'));
test('prefix(0) is causal', (t) => t.is(normalPredicate(prefix(0)), normalPredicate(causal())));
test('De Morgan', (t) => {
  const [x, y] = [keep(3, k), causal()];
  t.is(normalPredicate(s.not(s.and(x, y))), normalPredicate(s.or(s.not(x), s.not(y))));
  t.is(text(s.not(s.or(x, y))), 'q < k && !in3[b, k]');
});
test('absorption', (t) => {
  const [x, y] = [keep(3, k), causal()];
  t.is(normalPredicate(s.and(x, s.or(x, y))), normalPredicate(x));
  t.is(normalPredicate(s.or(x, s.and(x, y))), normalPredicate(x));
  t.is(text(s.or(x, s.and(s.not(x), y))), 'k <= q || in3[b, k]');
  t.is(text(s.and(s.lt(k, 8), s.or(s.lt(k, 4), y))), 'k < 8 && (k < 4 || k <= q)');
  t.is(text(s.and(s.lt(k, 4), s.or(s.lt(k, 8), y))), 'k < 4');
});
test('order and repetition do not matter', (t) => {
  const parts = [keep(3, k), causal(), keep(4, q), s.lt(k, number(5))];
  const wanted = normalPredicate(parts.reduce(s.and));
  t.is(normalPredicate([...parts, ...parts].reverse().reduce(s.and)), wanted);
  t.is(printExpr(wanted), 'k < in5[b] && k <= q && in3[b, k] && in4[b, q]');
});
test('remap by the identity is no change, and gathered coordinates are those of the old tokens', (t) => {
  const remap = (e: Expr, at: { readonly q: Expr; readonly k: Expr }): Expr =>
    s.substitute(e, (x) => (x === q ? at.q : x === k ? at.k : undefined));
  t.is(remap(window(2, 1), { q, k }), window(2, 1));
  t.is(text(remap(causal(), { q: ids(4, q), k: ids(4, k) })), 'in4[b, k] <= in4[b, q]');
});
test('what holds of all that is left disappears', (t) => {
  const length = s.lt(k, number(3));
  t.is(printExpr(normalPredicate(s.and(causal(), length), {}, length)), 'k <= q');
  t.is(printExpr(normalPredicate(s.and(keep(3, k), causal()), {}, keep(3, k))), 'k <= q');
  t.is(printExpr(normalPredicate(s.or(s.not(keep(3, k)), causal()), {}, keep(3, k))), 'k <= q');
});
test('numbers made of booleans are taken apart', (t) => {
  const one = s.cast(keep(3, k), 'i32');
  t.is(text(s.eq(one, 1)), 'in3[b, k]');
  t.is(text(s.lt(0, one)), 'in3[b, k]');
  t.is(text(s.eq(one, 0)), '!in3[b, k]');
  t.is(text(s.ne(one, 2)), 'true');
  t.is(text(s.cast(one, 'bool')), 'in3[b, k]');
});
test('two bounds that leave one key are an equation', (t) => t.is(text(s.and(causal(), s.le(q, k))), 'k == q'));
test('sums that could leave their type are not taken apart', (t) => {
  const big = s.mul(q, 2 ** 30 + 1);
  t.is(text(s.le(k, big)), printExpr(s.le(k, big)));
  t.is(text(s.le(s.add(k, 3), s.add(big, 3))), printExpr(s.le(k, big)));
});

// ---------------------------------------------------------------- questions

/** Each atom, with operands for what it loads. */
const ATOMS: Readonly<Record<string, { readonly mask: Expr; readonly operands?: Operands; readonly exact: boolean }>> =
  {
    true: { mask: s.bool(true), exact: true },
    false: { mask: s.bool(false), exact: true },
    causal: { mask: causal(), exact: true },
    'causal with a past': { mask: causal(11), exact: true },
    'causal with few keys': { mask: causal(-9), exact: true },
    'strictly causal': { mask: s.lt(k, q), exact: true },
    'not causal': { mask: s.not(causal()), exact: true },
    window: { mask: window(13, 7), exact: true },
    'causal window': { mask: s.and(causal(), window(20, 3)), exact: true },
    'outside a window': { mask: s.not(window(13, 7)), exact: true },
    length: { mask: s.lt(k, 37), exact: true },
    'length 0': { mask: s.lt(k, 0), exact: true },
    range: { mask: s.and(s.ge(k, 19), s.lt(k, 44)), exact: true },
    'causal range': { mask: s.and(causal(), s.and(s.ge(k, 19), s.lt(k, 44))), exact: true },
    prefix: { mask: prefix(21), exact: true },
    chunks: { mask: chunk(12), exact: true },
    'one key': { mask: s.eq(k, q), exact: true },
    dilated: { mask: dilated(3, 5), exact: false },
    neighbourhood: { mask: neighbourhood(1, 9), exact: false },
    'a bit for each key': { mask: keep(3, k), operands: (_, at) => (at[1]! * 7) % 3, exact: false },
    'a bit for each query': { mask: keep(3, q), operands: (_, at) => (at[1]! * 5) % 2, exact: false },
    documents: { mask: s.eq(ids(3, q), ids(3, k)), operands: (_, at) => Math.floor(at[1]! / 17), exact: false },
    'documents in any order': {
      mask: s.eq(ids(3, q), ids(3, k)),
      operands: (_, at) => (at[1]! * 5) % 3,
      exact: false,
    },
    'a bit for each pair': {
      mask: s.operand(3, 'bool', [b, q, k]),
      operands: (_, at) => Number((at[1]! * 3 + at[2]! * 5) % 4 === 0),
      exact: false,
    },
    'causal bits of pairs': {
      mask: s.and(causal(), s.operand(3, 'bool', [b, q, k])),
      operands: (_, at) => Number((at[1]! + at[2]!) % 3 > 0),
      exact: false,
    },
  };
const [QUERIES, KEYS] = [53, 61];

for (const [name, { mask, operands = none, exact }] of Object.entries(ATOMS)) {
  const live = (at: { readonly q: number; readonly k: number }): boolean => truth(mask, at, operands);
  const domain = { queries: QUERIES, keys: KEYS };

  test(`${name}: its normal form is the same mask`, (t) => {
    const normal = normalPredicate(mask, domain);
    t.is(normalPredicate(normal, domain), normal);
    for (let i = 0; i < QUERIES; i++)
      for (let j = 0; j < KEYS; j++) t.is(truth(normal, { q: i, k: j }, operands), live({ q: i, k: j }), `${i}, ${j}`);
  });

  for (const size of [8, 16, 32, 64])
    test(`${name}: tiles of ${size}`, (t) => {
      for (let q0 = 0; q0 < QUERIES; q0 += size)
        for (let k0 = 0; k0 < KEYS; k0 += size) {
          const [q1, k1] = [Math.min(QUERIES, q0 + size), Math.min(KEYS, k0 + size)];
          let [some, all] = [false, true];
          for (let i = q0; i < q1; i++)
            for (let j = k0; j < k1; j++) {
              const is = live({ q: i, k: j });
              some ||= is;
              all &&= is;
            }
          const wanted = some ? (all ? 'full' : 'partial') : 'empty';
          const found = bounds(mask, { q: [q0, q1], k: [k0, k1] }, domain);
          if (exact || found !== 'partial') t.is(found, wanted, `queries ${q0}..${q1}, keys ${k0}..${k1}`);
        }
      t.pass();
    });

  test(`${name}: hulls of rows and of blocks of rows`, (t) => {
    const spanAt = (e: Expr, at: { readonly q: number; readonly k: number }): number => {
      const value = (leaf: Expr, from: readonly number[]): number =>
        leaf.op === 'operand' ? operands(leaf.arg as number, from) : leaf === q ? at.q : 0;
      return evaluateExpr(e, { value });
    };
    for (const rows of [0, 1, 6, 16])
      for (let q0 = 0; q0 < QUERIES; q0 += Math.max(1, rows)) {
        const q1 = Math.min(QUERIES, q0 + Math.max(1, rows));
        const span = rowSpan(mask, KEYS, rows === 0 ? undefined : [q0, q1], domain);
        const [lo, hi, solidLo, solidHi] = [span.lo, span.hi, span.solidLo, span.solidHi].map((e) =>
          spanAt(e, { q: q0, k: 0 }),
        ) as [number, number, number, number];
        const [live0, live1] = [Array<boolean>(KEYS).fill(false), Array<boolean>(KEYS).fill(true)];
        for (let i = q0; i < q1; i++)
          for (let j = 0; j < KEYS; j++) {
            live0[j] ||= live({ q: i, k: j });
            live1[j] &&= live({ q: i, k: j });
          }
        const where = `queries ${q0}..${q1}`;
        for (let j = 0; j < KEYS; j++) {
          if (live0[j]) t.true(lo <= j && j < hi, `${where}: key ${j} is outside ${lo}..${hi}`);
          if (solidLo <= j && j < solidHi) t.true(live1[j], `${where}: key ${j} is not in ${solidLo}..${solidHi}`);
        }
        if (exact && name !== 'outside a window') {
          t.is(
            Math.max(0, hi - lo),
            live0.lastIndexOf(true) < 0 ? 0 : live0.lastIndexOf(true) + 1 - live0.indexOf(true),
          );
          if (rows <= 1) t.is(Math.max(0, solidHi - solidLo), live1.filter(Boolean).length, where);
        }
      }
  });

  test(`${name}: the keys that demanded queries read`, (t) => {
    const sets: readonly Expr[] = [
      s.bool(true),
      s.bool(false),
      s.eq(q, 0),
      s.eq(q, QUERIES - 1),
      s.and(s.ge(q, 10), s.lt(q, 20)),
      s.or(s.eq(q, 3), s.ge(q, 40)),
    ];
    for (const demanded of sets) {
      const { keys, exact: claims } = pre(mask, demanded, domain);
      for (let j = 0; j < KEYS; j++) {
        let read = false;
        for (let i = 0; i < QUERIES; i++) read ||= truth(demanded, { q: i, k: j }) && live({ q: i, k: j });
        const said = truth(keys, { q: -1, k: j }, operands);
        if (claims) t.is(said, read, `${printExpr(demanded)}: key ${j}`);
        else t.true(said || !read, `${printExpr(demanded)}: key ${j} is read`);
      }
    }
    t.pass();
  });

  test(`${name}: how many pairs`, (t) => {
    const { pairs, exact: claims } = count(mask, { queries: QUERIES, keys: KEYS });
    let wanted = 0;
    for (let i = 0; i < QUERIES; i++) for (let j = 0; j < KEYS; j++) if (live({ q: i, k: j })) wanted++;
    if (claims) t.is(pairs, wanted);
    else t.true(pairs >= wanted);
    t.is(claims, operands === none);
  });
}

test('the keys that some queries read, in words', (t) => {
  const domain = { queries: 77, keys: 77 };
  const keysOf = (mask: Expr, demanded: Expr): string => printExpr(pre(mask, demanded, domain).keys);
  t.is(keysOf(causal(), s.eq(q, 0)), 'k < 1');
  t.is(keysOf(causal(), s.le(q, number(3))), 'k <= in3[b]');
  t.is(keysOf(s.and(causal(), keep(3, k)), s.bool(true)), 'in3[b, k]');
  t.is(keysOf(keep(3, k), keep(3, q)), 'in3[b, k]');
  t.is(keysOf(s.bool(true), s.eq(q, 0)), 'true');
  t.is(keysOf(window(4, 0), s.eq(q, 76)), '72 <= k');
  t.is(keysOf(causal(), s.bool(false)), 'false');
});

test('heads are left out of what is read', (t) => {
  const perHead = s.and(s.operand(3, 'bool', [coords.h]), keep(4, k));
  const { e, exact } = exists(perHead, coords.h, { heads: 4 });
  t.is(printExpr(e), 'in4[b, k]');
  t.false(exact);
});

test('reflexive on all tokens, and on some', (t) => {
  for (const mask of [causal(), window(2, 0), prefix(3), chunk(4), dilated(2, 3), neighbourhood(1, 4)])
    t.true(reflexive(mask), printExpr(mask));
  t.true(reflexive(s.eq(ids(3, q), ids(3, k))));
  t.false(reflexive(keep(3, k)));
  t.true(reflexive(keep(3, k), keep(3, q)));
  t.true(reflexive(s.and(keep(3, k), causal()), keep(3, q)));
  t.false(reflexive(s.lt(k, number(3))));
  t.true(reflexive(s.lt(k, number(3)), s.lt(q, number(3))));
  t.true(reflexive(s.and(s.ge(k, number(3)), s.lt(k, number(4))), s.and(s.ge(q, number(3)), s.lt(q, number(4)))));
  t.false(reflexive(s.lt(k, q)));
  t.false(reflexive(causal(-1)));
});

test('implication', (t) => {
  t.true(implies(s.lt(k, 3), s.lt(k, 4)));
  t.false(implies(s.lt(k, 4), s.lt(k, 3)));
  t.true(implies(s.and(keep(3, k), causal()), keep(3, k)));
  t.true(implies(s.eq(k, 2), s.lt(k, 3)));
  t.true(implies(causal(), s.lt(k, 9), { queries: 9 }));
});

test('lengths that are known at run time stay in the answer', (t) => {
  const n = s.symbol('N', { max: 512 });
  const domain = { queries: n, keys: n };
  t.is(bounds(causal(), { q: [0, 16], k: [16, 32] }, domain), 'empty');
  t.is(bounds(s.lt(k, number(3)), { q: [0, 16], k: [16, 32] }, domain), 'partial');
  const span = rowSpan(s.and(causal(), s.lt(k, number(3))), n, [s.literal(16), s.literal(32)], domain);
  t.is(printExpr(span.lo), '0');
  t.is(printExpr(span.hi), 'min(max(min(in3[b], 32), 0), N)');
  t.is(printExpr(span.solidHi), 'min(max(min(in3[b], 17), 0), N)');
});

// ---------------------------------------------------------------- random predicates

const comparison = fc
  .tuple(
    fc.constantFrom('le', 'lt', 'eq', 'ne'),
    fc.integer({ min: -2, max: 2 }),
    fc.integer({ min: -2, max: 2 }),
    fc.integer({ min: -6, max: 6 }),
    fc.constantFrom(0, 1, 2, 3),
  )
  .map(([op, m, n, c, form]): Expr => {
    const [x, y] = [s.mul(q, m), s.mul(k, n)];
    const left = [s.add(x, y), s.abs(s.add(x, y)), s.floordiv(s.add(x, y), 3), s.add(s.floormod(k, 3), s.max(x, y))];
    return s.binary(op as 'le', left[form]!, c);
  });
const bit = fc.constantFrom(keep(3, k), keep(3, q), keep(4, k), s.bool(true), s.bool(false));
const predicate = fc.letrec<{ p: Expr }>((tie) => ({
  p: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    comparison,
    bit,
    fc.tuple(tie('p'), tie('p')).map(([x, y]) => s.and(x, y)),
    fc.tuple(tie('p'), tie('p')).map(([x, y]) => s.or(x, y)),
    tie('p').map(s.not),
    fc.tuple(bit, tie('p'), tie('p')).map(([c, x, y]) => s.select(c, x, y)),
  ),
})).p;

test('random predicates: the normal form, tiles, spans and projections agree with evaluation', (t) => {
  const [queries, keys] = [7, 9];
  const domain = { queries, keys };
  const operands: Operands = (n, at) => (at[1]! * (n + 2) + n) % 2;
  fc.assert(
    fc.property(predicate, fc.nat(6), fc.nat(8), (mask, qa, ka) => {
      const normal = normalPredicate(mask, domain);
      const live = Array.from({ length: queries }, (_, i) =>
        Array.from({ length: keys }, (_, j) => truth(mask, { q: i, k: j }, operands)),
      );
      for (let i = 0; i < queries; i++)
        for (let j = 0; j < keys; j++) if (truth(normal, { q: i, k: j }, operands) !== live[i]![j]) return false;
      const [q1, k1] = [Math.min(queries, qa + 3), Math.min(keys, ka + 4)];
      const inside = live.slice(qa, q1).flatMap((row) => row.slice(ka, k1));
      const found = bounds(mask, { q: [qa, q1], k: [ka, k1] }, domain);
      if (found === 'empty' && inside.includes(true)) return false;
      if (found === 'full' && inside.includes(false)) return false;
      const span = rowSpan(mask, keys, [qa, q1], domain);
      const value = (leaf: Expr, from: readonly number[]): number =>
        leaf.op === 'operand' ? operands(leaf.arg as number, from) : leaf === q ? qa : 0;
      const [lo, hi, solidLo, solidHi] = [span.lo, span.hi, span.solidLo, span.solidHi].map((e) =>
        evaluateExpr(e, { value }),
      ) as [number, number, number, number];
      for (let i = qa; i < q1; i++)
        for (let j = 0; j < keys; j++) {
          if (live[i]![j] && (j < lo || j >= hi)) return false;
          if (!live[i]![j] && j >= solidLo && j < solidHi) return false;
        }
      const read = pre(mask, s.and(s.ge(q, qa), s.lt(q, q1)), domain);
      for (let j = 0; j < keys; j++) {
        const wanted = live.slice(qa, q1).some((row) => row[j]);
        const said = truth(read.keys, { q: -1, k: j }, operands);
        if (wanted && !said) return false;
        if (read.exact && said !== wanted) return false;
      }
      return true;
    }),
    { numRuns: 3000, seed: 7 },
  );
  t.pass();
});

test('a limit that is loaded for each query bounds the keys of its row', (t) => {
  const limit = s.operand(3, 'i32', [coords.b, coords.q]);
  const keys = 9;
  const mask = s.and(s.operand(4, 'bool', [coords.b, coords.k]), s.lt(coords.k, limit));
  const { lo, hi } = rowSpan(mask, keys);
  const at = (e: Expr, of: number): number => evaluateExpr(e, { value: () => of });
  t.deepEqual(
    [0, 4, 12].map((of) => [at(lo, of), at(hi, of)]),
    [
      [0, 0],
      [0, 4],
      [0, 9],
    ],
  );
  // Of several queries nobody knows the largest limit beforehand.
  t.is(at(rowSpan(mask, keys, [0, 3]).hi, 2), 9);
});
