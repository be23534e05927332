import test from 'ava';
import fc from 'fast-check';
import { type Int, intRange, isInt, roundTo } from '../ir/dtype.ts';
import { evaluateExpr } from '../ir/evaluate-expr.ts';
import { type BinaryOp, type Expr, makeExpr, type UnaryOp } from '../ir/expr.ts';
import { equalSizes } from '../ir/polynomial.ts';
import * as s from '../ir/scalar.ts';
import { boundsOf, foldScalar } from '../ir/simplify.ts';

/** An expression as it is written, before anything simplifies it. */
type Tree =
  | { readonly op: 'leaf'; readonly leaf: number }
  | { readonly op: 'number'; readonly value: number }
  | { readonly op: BinaryOp; readonly a: Tree; readonly b: Tree }
  | { readonly op: 'neg' | 'abs'; readonly a: Tree }
  | {
      readonly op: 'choose';
      readonly test: 'lt' | 'le' | 'eq' | 'ne';
      readonly a: Tree;
      readonly b: Tree;
      readonly c: Tree;
      readonly d: Tree;
    };

/** Symbols and variables of one dtype, and the values they may take. */
function leavesOf(dtype: Int): {
  readonly leaves: readonly Expr[];
  readonly ranges: readonly (readonly [number, number])[];
} {
  const n = s.symbol('N', { min: 1, max: 300 });
  const b = s.symbol('B', { min: 1, max: 8 });
  if (dtype !== 'i32') {
    const leaves = [
      s.variable('free', dtype),
      s.variable('small', dtype, 1, { from: s.literal(0, dtype), to: s.literal(100, dtype) }),
    ];
    return { leaves, ranges: [intRange(dtype), [0, 99]] };
  }
  const leaves = [
    n,
    b,
    s.variable('i', 'i32', 1, { from: 0, to: 12 }),
    s.variable('j', 'i32', 1, { from: -7, to: 64 }),
    s.variable('k', 'i32', 1, { from: 0, to: n }),
    s.variable('free'),
  ];
  return { leaves, ranges: [[1, 300], [1, 8], [0, 11], [-7, 63], [0, 0], intRange('i32')] };
}

const arithmetic = ['add', 'sub', 'mul', 'floordiv', 'floormod', 'div', 'rem', 'min', 'max'] as const;
const treeOf = (leaves: number, dtype: Int): fc.Arbitrary<Tree> => {
  const [low, high] = intRange(dtype);
  const number = fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(0, 1, 2, 3, 4, 5, 8, 12, 16, 64, 100) },
    { weight: 2, arbitrary: fc.integer({ min: Math.max(low, -70), max: Math.min(high, 130) }) },
    { weight: 1, arbitrary: fc.constantFrom(low, high, Math.floor(high / 2) + 1) },
  );
  const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
    tree: fc.oneof(
      { maxDepth: 6, depthSize: 'medium', withCrossShrink: true },
      fc.record({ op: fc.constant('leaf' as const), leaf: fc.nat(leaves - 1) }),
      fc.record({ op: fc.constant('number' as const), value: number }),
      { weight: 6, arbitrary: fc.record({ op: fc.constantFrom(...arithmetic), a: tie('tree'), b: tie('tree') }) },
      // What index maps are made of: x·c + y, then ÷ c or mod c with a related constant.
      {
        weight: 4,
        arbitrary: fc
          .tuple(
            fc.constantFrom('floordiv', 'floormod', 'div', 'rem'),
            tie('tree'),
            tie('tree'),
            fc.constantFrom(2, 3, 4, 8),
            fc.constantFrom(1, 2, 4),
          )
          .map(
            ([op, a, b, c, k]): Tree => ({
              op: op as BinaryOp,
              a: { op: 'add', a: { op: 'mul', a, b: { op: 'number', value: c * k } }, b },
              b: { op: 'number', value: c },
            }),
          ),
      },
      fc.record({ op: fc.constantFrom('neg' as const, 'abs' as const), a: tie('tree') }),
      fc.record({
        op: fc.constant('choose' as const),
        test: fc.constantFrom('lt' as const, 'le' as const, 'eq' as const, 'ne' as const),
        a: tie('tree'),
        b: tie('tree'),
        c: tie('tree'),
        d: tie('tree'),
      }),
    ),
  }));
  return tree;
};

/** Both readings of a tree: with simplification at every step, and none at all. */
function build(tree: Tree, leaves: readonly Expr[], dtype: Int, simplifying: boolean): Expr {
  const go = (t: Tree): Expr => {
    switch (t.op) {
      case 'leaf':
        return leaves[t.leaf]!;
      case 'number':
        return s.literal(t.value, dtype);
      case 'neg':
      case 'abs':
        return simplifying ? s.unary(t.op as UnaryOp, go(t.a)) : makeExpr(t.op, dtype, 1, [go(t.a)]);
      case 'choose': {
        const [a, b, c, d] = [go(t.a), go(t.b), go(t.c), go(t.d)];
        if (simplifying) return s.select(s.binary(t.test, a, b), c, d);
        return makeExpr('select', dtype, 1, [makeExpr(t.test, 'bool', 1, [a, b]), c, d]);
      }
      default:
        return simplifying ? s.binary(t.op, go(t.a), go(t.b)) : makeExpr(t.op, dtype, 1, [go(t.a), go(t.b)]);
    }
  };
  return go(tree);
}

/** The value, or undefined where the expression divides by zero. */
function valueAt(e: Expr, leaves: readonly Expr[], values: readonly number[]): number | undefined {
  try {
    return evaluateExpr(e, { value: (leaf) => values[leaves.indexOf(leaf)]! });
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

for (const dtype of ['i32', 'u32', 'i8', 'u8'] as const)
  test(`${dtype}: simplifying keeps the value, and bounds contain it`, (t) => {
    const { leaves, ranges } = leavesOf(dtype);
    const picks = fc.array(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), {
      minLength: 6,
      maxLength: 6,
    });
    fc.assert(
      fc.property(treeOf(leaves.length, dtype), fc.array(picks, { minLength: 4, maxLength: 4 }), (tree, samples) => {
        const [raw, simple] = [build(tree, leaves, dtype, false), build(tree, leaves, dtype, true)];
        for (const sample of samples) {
          const values = ranges.map(([lo, hi], i) => lo + Math.floor(sample[i]! * (hi - lo + 1)));
          if (dtype === 'i32') values[4] = Math.floor(sample[4]! * values[0]!);
          const expected = valueAt(raw, leaves, values);
          if (expected === undefined) continue;
          const got = valueAt(simple, leaves, values);
          if (got !== expected) throw new Error(`${got} instead of ${expected} at ${values.join(', ')}`);
          for (const e of [raw, simple]) {
            const [lo, hi] = boundsOf(e);
            if (!(lo <= expected && expected <= hi)) throw new Error(`${expected} is outside ${lo}..${hi}`);
          }
        }
      }),
      { numRuns: 2000 },
    );
    t.pass();
  });

test('index maps of reshape fold back to their coordinates', (t) => {
  const n = s.symbol('N', { min: 1, max: 512 });
  const i = s.variable('i', 'i32', 1, { from: 0, to: n });
  const h = s.variable('h', 'i32', 1, { from: 0, to: 12 });
  const d = s.variable('d', 'i32', 1, { from: 0, to: 64 });
  const flat = s.add(s.mul(s.add(s.mul(i, 12), h), 64), d);
  t.is(s.floordiv(flat, 768), i);
  t.is(s.floormod(flat, 64), d);
  t.is(s.floormod(s.floordiv(flat, 64), 12), h);
  const k = s.variable('k', 'i32', 1, { from: 0, to: 7 });
  const columns = s.add(s.mul(k, n), i);
  t.is(s.floordiv(columns, n), k);
  t.is(s.floormod(columns, n), i);
});

test('quotients do not see through arithmetic that may wrap', (t) => {
  const x = s.variable('x', 'u8');
  const quotient = s.floordiv(s.mul(x, 4), 4);
  t.is(evaluateExpr(quotient, { value: () => 100 }), 36);
  t.deepEqual([...boundsOf(s.add(x, 1))], [0, 255]);
});

test('integer products fold modulo 2^bits, exactly', (t) => {
  t.is(foldScalar('mul', 'i32', [65537, 65537], 'i32'), Math.imul(65537, 65537));
  t.is(foldScalar('mul', 'i32', [2147483647, 2147483647], 'i32'), 1);
  t.is(foldScalar('mul', 'u32', [4294967295, 4294967295], 'u32'), 1);
  t.is(foldScalar('pow', 'f32', [1, NaN], 'f32'), 1);
});

test('sizes are equal whatever their written order', (t) => {
  const [a, b] = [s.symbol('A', { max: 9 }), s.symbol('B', { max: 9 })];
  t.true(equalSizes(s.add(s.mul(a, b), a), s.mul(a, s.add(b, 1))));
  t.true(equalSizes(s.mul(s.add(a, b), s.add(a, b)), s.add(s.add(s.mul(a, a), s.mul(s.mul(b, a), 2)), s.mul(b, b))));
  t.false(equalSizes(s.mul(a, 2), s.mul(b, 2)));
  t.true(equalSizes(s.sub(a, a), 0));
});

test('conversions agree with typed arrays', (t) => {
  const stored = {
    i8: new Int8Array(1),
    u8: new Uint8Array(1),
    i16: new Int16Array(1),
    u16: new Uint16Array(1),
    i32: new Int32Array(1),
    u32: new Uint32Array(1),
  };
  fc.assert(
    fc.property(fc.constantFrom('i8', 'u8', 'i16', 'u16', 'i32', 'u32'), fc.integer(), fc.integer(), (dtype, a, b) => {
      const array = stored[dtype as keyof typeof stored];
      array[0] = Number(BigInt.asIntN(32, BigInt(a) * BigInt(b)));
      const wrapped = [a, b].map((x) => foldScalar('cast', dtype as Int, [x], 'i32')!);
      return foldScalar('mul', dtype as Int, wrapped, dtype as Int) === array[0] && isInt(dtype as Int);
    }),
  );
  fc.assert(fc.property(fc.float(), (x) => Object.is(roundTo('f32', x), x)));
  t.pass();
});

test('sums of sizes have one form, whatever order and grouping they were written in', (t) => {
  const { add, sub, mul, floordiv, literal, symbol, evaluateIndex } = s;
  const [n, m] = [symbol('n', { min: 0, max: 50 }), symbol('m', { min: 0, max: 60 })];
  t.is(add(n, m), add(m, n));
  t.is(add(add(n, m), add(n, 3)), add(add(add(mul(n, 2), 1), m), 2));
  t.is(add(add(n, add(n, n)), add(add(n, n), n)), mul(n, 6));
  t.is(sub(add(n, add(m, n)), add(n, m)), n);
  t.is(sub(add(mul(n, 5), 2), add(mul(n, 5), 2)), literal(0));
  const leaf = fc.constantFrom<Expr>(n, m, literal(3), literal(-2), mul(n, 4), floordiv(m, 3));
  const { sum } = fc.letrec<{ sum: Expr }>((tie) => ({
    sum: fc.oneof(
      { depthSize: 'medium' },
      leaf,
      fc.tuple(tie('sum'), tie('sum')).map(([a, b]) => add(a, b)),
      fc.tuple(tie('sum'), tie('sum')).map(([a, b]) => sub(a, b)),
      fc.tuple(tie('sum'), fc.integer({ min: -3, max: 3 })).map(([a, k]) => mul(a, k)),
    ),
  }));
  // Values follow the operations as they are built, without any simplification.
  const valueAt = (e: Expr): number => evaluateIndex(e, (s) => (s === n ? 7 : 11));
  fc.assert(
    fc.property(sum, sum, (a, b) => {
      t.is(valueAt(add(a, b)), valueAt(a) + valueAt(b));
      t.is(valueAt(sub(a, b)), valueAt(a) - valueAt(b));
      t.is(add(a, b), add(b, a));
    }),
  );
});
