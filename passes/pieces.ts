/** Expressions that take few values: each value with the condition on which it is taken. */

import { isInt, type Scalar } from '../ir/dtype.ts';
import { evaluateExpr } from '../ir/evaluate-expr.ts';
import { type Expr, exprNodes, makeExpr } from '../ir/expr.ts';
import { normalPredicate } from '../ir/predicate.ts';
import * as s from '../ir/scalar.ts';

export interface Piece {
  readonly value: number;
  /** A boolean expression; those of all pieces exclude each other, and one of them is true. */
  readonly when: Expr;
}

/** Expressions of more values are no masks. */
const MOST = 8;

const constantAt = (e: Expr): number =>
  evaluateExpr(e, {
    value: () => {
      throw new RangeError('a piece reads no leaf');
    },
  });
/** Operands of an operator that are taken together, on a condition. */
interface Row {
  readonly values: readonly Expr[];
  readonly when: Expr;
}
const crossed = (rows: readonly Row[], pieces: readonly Piece[], dtype: Scalar): Row[] =>
  rows.flatMap(({ values, when }) =>
    pieces.map((p) => ({ values: [...values, s.literal(p.value, dtype)], when: s.and(when, p.when) })),
  );
const valueAt = (e: Expr, { values }: Row): number => constantAt(makeExpr(e.op, e.dtype, e.lanes, values, e.arg));

const isFalse = (e: Expr): boolean => e.op === 'const' && e.arg === 0;

/** One piece for each value. */
function merged(pieces: readonly Piece[]): readonly Piece[] | undefined {
  const byValue = new Map<number, Expr>();
  for (const { value, when } of pieces) {
    if (isFalse(when)) continue;
    const key = value === 0 ? 0 : value;
    const known = byValue.get(key);
    byValue.set(key, known ? s.or(known, when) : when);
  }
  const list = [...byValue].map(([value, when]) => ({ value, when: normalPredicate(when) }));
  const left = list.filter(({ when }) => !isFalse(when));
  return left.length > MOST ? undefined : left;
}

/**
 * The values of a number or boolean and when it takes them; undefined where there are many, or a load decides.
 *
 * @param isBinary whether a loaded integer is known to be 0 or 1
 */
export function piecesOf(root: Expr, isBinary: (load: Expr) => boolean = () => false): readonly Piece[] | undefined {
  const done = new Map<Expr, readonly Piece[] | undefined>();
  const visit = (e: Expr): readonly Piece[] | undefined => {
    if (done.has(e)) return done.get(e);
    const found = read(e);
    done.set(e, found);
    return found;
  };
  const read = (e: Expr): readonly Piece[] | undefined => {
    if (e.op === 'const') return [{ value: e.arg as number, when: s.bool(true) }];
    if (e.dtype === 'bool')
      return merged([
        { value: 1, when: e },
        { value: 0, when: s.not(e) },
      ]);
    if (e.op === 'operand')
      return isBinary(e)
        ? [
            { value: 1, when: s.ne(e, 0) },
            { value: 0, when: s.eq(e, 0) },
          ]
        : undefined;
    if (e.args.length === 0 || e.op === 'load') return undefined;
    if (e.op === 'select') {
      const [c, a, b] = e.args as [Expr, Expr, Expr];
      const [then, otherwise] = [visit(a), visit(b)];
      if (!then || !otherwise) return undefined;
      return merged([
        ...then.map(({ value, when }) => ({ value, when: s.and(c, when) })),
        ...otherwise.map(({ value, when }) => ({ value, when: s.and(s.not(c), when) })),
      ]);
    }
    let rows: readonly Row[] = [{ values: [], when: s.bool(true) }];
    for (const arg of e.args) {
      const pieces = visit(arg);
      if (!pieces || rows.length * pieces.length > MOST * MOST) return undefined;
      rows = crossed(rows, pieces, arg.dtype);
    }
    return merged(
      rows.flatMap((row) => {
        const when = normalPredicate(row.when);
        return isFalse(when) ? [] : [{ value: valueAt(e, row), when }];
      }),
    );
  };
  return visit(root);
}

/** A comparison of numbers that take few values, as a condition on what decides them; undefined for other comparisons. */
export function conditionOf(e: Expr, isBinary: (load: Expr) => boolean): Expr | undefined {
  // Comparisons of coordinates are simple as they are.
  if (isInt(e.args[0]!.dtype) && !exprNodes(e).some((x) => x.op === 'operand')) return undefined;
  const args = e.args.map((a) => piecesOf(a, isBinary));
  let rows: readonly Row[] = [{ values: [], when: s.bool(true) }];
  for (const [i, pieces] of args.entries()) {
    if (!pieces) return undefined;
    rows = crossed(rows, pieces, e.args[i]!.dtype);
  }
  const holds = rows.filter((row) => valueAt(e, row) !== 0).map(({ when }) => when);
  return normalPredicate(holds.reduce((a, b) => s.or(a, b), s.bool(false)));
}

/** The expression that takes those values, the last one where no condition before it holds. */
export function exprOfPieces(pieces: readonly Piece[], dtype: 'f32'): Expr {
  const [last, ...rest] = pieces.toReversed();
  return rest.reduce(
    (otherwise, { value, when }) => s.select(when, s.literal(value, dtype), otherwise),
    s.literal(last!.value, dtype),
  );
}
