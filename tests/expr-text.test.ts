import test from 'ava';
import fc from 'fast-check';
import type { BinaryOp, Expr, UnaryOp } from '../ir/expr.ts';
import { Lexer } from '../ir/lex.ts';
import { parseExpr } from '../ir/parse-expr.ts';
import { printExpr } from '../ir/print.ts';
import { binary, bitcast, bool, cast, fma, literal, operand, select, symbol, unary, variable } from '../ir/scalar.ts';
import { tensor } from '../ir/type.ts';

const n = symbol('N', { min: 2, max: 64 });
const q = variable('q', 'i32', 1, { from: 0, to: n });
const k = variable('k');
const scope = {
  names: new Map([
    ['N', n],
    ['q', q],
    ['k', k],
  ]),
  operands: [tensor('f32', [n, 3]), tensor('bool', [n]), tensor('i64', [])],
};
const parse = (text: string, expected: 'i32' | 'bool' | 'f32' = 'i32'): Expr =>
  parseExpr(new Lexer(text, 't'), scope, expected);

type Kind = 'i32' | 'f32' | 'bool';
const kinds: Readonly<Record<Kind, readonly BinaryOp[]>> = {
  i32: ['add', 'sub', 'mul', 'floordiv', 'floormod', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'shl', 'shr'],
  f32: ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'pow'],
  bool: ['and', 'or', 'xor'],
};
const unaries: readonly UnaryOp[] = [
  'neg',
  'abs',
  'exp',
  'log',
  'sqrt',
  'tanh',
  'erf',
  'sin',
  'cos',
  'floor',
  'ceil',
  'round',
  'trunc',
];
const numbers = fc.oneof(fc.integer({ min: -9, max: 9 }), fc.constantFrom(0.1, -0, 1e30, Infinity, NaN, 2.5));

/** Random expressions of each kind, built by the simplifying constructors. */
const {
  i32,
  f32,
  bool: truth,
} = fc.letrec<{ i32: Expr; f32: Expr; bool: Expr }>((tie) => ({
  i32: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.constantFrom(n, q, k),
    fc.integer({ min: -9, max: 9 }).map((x) => literal(x)),
    fc.tuple(fc.constantFrom(...kinds.i32), tie('i32'), tie('i32')).map(([op, a, b]) => binary(op, a, b)),
    fc.tuple(tie('bool'), tie('i32'), tie('i32')).map(([c, a, b]) => select(c, a, b)),
    fc.tuple(fc.constantFrom('neg', 'abs', 'not'), tie('i32')).map(([op, a]) => unary(op as UnaryOp, a)),
    tie('f32').map((a) => cast(a, 'i32')),
    tie('bool').map((a) => cast(a, 'i32')),
    fc.constant(cast(operand(2, 'i64', []), 'i32')),
  ),
  f32: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.tuple(tie('i32'), tie('i32')).map(([a, b]) => operand(0, 'f32', [a, b])),
    fc.tuple(fc.constantFrom(...kinds.f32), tie('f32'), tie('f32')).map(([op, a, b]) => binary(op, a, b)),
    fc.tuple(fc.constantFrom(...kinds.f32), tie('f32'), numbers).map(([op, a, x]) => binary(op, a, x)),
    fc.tuple(fc.constantFrom(...unaries), tie('f32')).map(([op, a]) => unary(op, a)),
    fc.tuple(tie('f32'), tie('f32'), tie('f32')).map(([a, b, c]) => fma(a, b, c)),
    tie('i32').map((a) => cast(a, 'f32')),
    tie('i32').map((a) => bitcast(a, 'f32')),
  ),
  bool: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    tie('i32').map((a) => operand(1, 'bool', [a])),
    fc.boolean().map(bool),
    fc
      .tuple(fc.constantFrom('lt', 'le', 'eq', 'ne'), tie('i32'), tie('i32'))
      .map(([op, a, b]) => binary(op as BinaryOp, a, b)),
    fc
      .tuple(fc.constantFrom('lt', 'le', 'eq', 'ne'), tie('f32'), tie('f32'))
      .map(([op, a, b]) => binary(op as BinaryOp, a, b)),
    fc.tuple(fc.constantFrom(...kinds.bool), tie('bool'), tie('bool')).map(([op, a, b]) => binary(op, a, b)),
    tie('bool').map((a) => unary('not', a)),
  ),
}));

for (const [kind, arbitrary] of Object.entries({ i32, f32, bool: truth }))
  test(`${kind} expressions print and parse to the same node`, (t) => {
    fc.assert(
      fc.property(arbitrary, (e) => {
        const text = printExpr(e);
        t.is(printExpr(parse(text, kind as Kind)), text);
        t.true(parse(text, kind as Kind) === e, text);
      }),
      { numRuns: 2000 },
    );
  });

test('operators bind as printed', (t) => {
  const cases: readonly [text: string, printed: string][] = [
    ['(q + k) * 2', '(q + k) * 2'],
    ['-(q + k)', '-(q + k)'],
    ['q div k div 2', 'q div k div 2'],
    ['q mod (k * 2)', 'q mod (k * 2)'],
    ['2 * 3 + 4', '10'],
  ];
  for (const [text, printed] of cases) t.is(printExpr(parse(text)), printed);
  t.is(
    printExpr(parse('k <= q && (in1[q] || !in1[k]) == (q == k)', 'bool')),
    'k <= q && (in1[q] || !in1[k]) == (q == k)',
  );
  t.is(printExpr(parse('in0[q, 1] - (in0[k, 1] - 2)', 'f32')), 'in0[q, 1] - (in0[k, 1] - 2)');
  t.is(printExpr(select(parse('k < q', 'bool'), literal(1, 'f32'), 2)), 'select(k < q, f32(1), 2)');
  t.is(parse('exp(5) < 3', 'bool'), binary('lt', unary('exp', literal(5, 'f32')), 3));
  t.is(parse('i32(exp(5))'), cast(unary('exp', literal(5, 'f32')), 'i32'));
  t.is(printExpr(parse('in0[q, 1] * 0.5 < nan', 'bool')), 'in0[q, 1] * 0.5 < nan');
});
