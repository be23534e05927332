/**
 * Masks in words. A mask says which keys a query may read: `attention(q, k, v, { mask: mask.and(mask.causal(), mask.keep(m)) })`.
 *
 * Each word is a function of a score's coordinates, so that any of them combines with a mask written by hand:
 * `mask.or(mask.causal(), ({ q, k }) => expr.eq(expr.floordiv(q, 16), expr.floordiv(k, 16)))`. The compiler reads masks as
 * predicates: keys that no query of a block may read are skipped, and where all may be read nothing is masked.
 */
import { fail } from '../../ir/diagnostic.ts';
import type { Expr } from '../../ir/expr.ts';
import * as s from '../../ir/scalar.ts';
import { type Dim, dim } from '../../ir/type.ts';
import { callSite } from './location.ts';
import type { Tensor } from './tensor.ts';

/** What a mask or bias is written in: batch entry, head, query and key of a score, and elements of other tensors. */
export interface Score {
  readonly b: Expr;
  readonly h: Expr;
  readonly q: Expr;
  readonly k: Expr;
  /** The element of a tensor at coordinates: `read(attentionMask, b, k)`. */
  read(tensor: Tensor, ...at: readonly s.Num[]): Expr;
}

/** True where a query may read a key. */
export type Mask = (score: Score) => Expr;
/** A size, or a whole number for each batch entry: i32 or i64 `[B]` or `[1]`. */
export type Count = Dim | Tensor<'i32'> | Tensor<'i64'>;
/** A number for each token: `[B, S]`, `[1, S]` or `[S]`. */
export type Tokens = Tensor;

const isTensor = (x: Count): x is Tensor<'i32'> | Tensor<'i64'> => typeof x !== 'number' && 'value' in x;

/** A count as an i32 expression. */
function counted(score: Score, n: Count, what: string): Expr {
  if (!isTensor(n)) return s.index(n);
  if (n.shape.length !== 1)
    fail('rank', `mask: ${what} is one number for each batch entry, [B], not of rank ${n.shape.length}`, {
      loc: callSite(),
    });
  return s.cast(score.read(n, isOne(n.shape[0]!) ? 0 : score.b), 'i32');
}
const isOne = (d: Dim): boolean => dim(d) === 1;

/** The element of `[B, S]` or `[S]` at a token. */
function atToken(score: Score, x: Tokens, token: Expr, what: string): Expr {
  const { shape } = x;
  if (shape.length !== 1 && shape.length !== 2)
    fail('rank', `mask: ${what} has a value for each token, [B, S] or [S], not rank ${shape.length}`, {
      loc: callSite(),
    });
  return shape.length === 1 ? score.read(x, token) : score.read(x, isOne(shape[0]!) ? 0 : score.b, token);
}
const truth = (e: Expr): Expr => (e.dtype === 'bool' ? e : s.ne(e, 0));

/**
 * A query reads keys up to its own position, moved by `offset`: the number of keys that stand before the first query, such as
 * the length of a cache. Also a mask itself: `{ mask: causal }`.
 */
export function causal(score: Score): Expr;
export function causal(offset?: Count): Mask;
export function causal(given: Score | Count = 0): Expr | Mask {
  if (typeof given === 'object' && 'read' in given) return s.le(given.k, given.q);
  return (score) => s.le(score.k, s.add(score.q, counted(score, given, 'the offset')));
}

/** A query reads `left` keys before its own position, that key, and `right` keys behind it. */
export const window =
  (left: number, right: number): Mask =>
  ({ q, k }) =>
    s.and(s.le(q, s.add(k, left)), s.le(k, s.add(q, right)));

/** The first `n` keys: batches padded on the right. */
export const length =
  (n: Count): Mask =>
  (score) =>
    s.lt(score.k, counted(score, n, 'the length'));

/** Keys from `start` up to and without `end`: batches padded on the left. */
export const range =
  (start: Count, end: Count): Mask =>
  (score) =>
    s.and(s.le(counted(score, start, 'the start'), score.k), s.lt(score.k, counted(score, end, 'the end')));

/** The keys whose element is true, or not 0: visible patches, arbitrary padding. */
export const keep =
  (keys: Tokens): Mask =>
  (score) =>
    truth(atToken(score, keys, score.k, 'what is kept'));

/** The queries whose element is true, or not 0; the others read nothing. */
export const keepQueries =
  (queries: Tokens): Mask =>
  (score) =>
    truth(atToken(score, queries, score.q, 'what is kept'));

/** A query reads the keys with its own number: documents packed into one row. `keys` is `queries` when left out. */
export const sameAs =
  (queries: Tokens, keys: Tokens = queries): Mask =>
  (score) =>
    s.eq(atToken(score, queries, score.q, 'a number'), atToken(score, keys, score.k, 'a number'));

/** A query reads the keys of its own block of `size`. */
export const chunks =
  (size: number): Mask =>
  ({ q, k }) =>
    s.eq(s.floordiv(q, size), s.floordiv(k, size));

/** All queries read the first `n` keys; beyond them a query reads up to its own position. */
export const prefix =
  (n: Count): Mask =>
  (score) =>
    s.or(s.lt(score.k, counted(score, n, 'the prefix')), s.le(score.k, score.q));

/** Every `step`-th key on both sides of the query, `reach` of them on each. */
export const dilated =
  (step: number, reach: number): Mask =>
  ({ q, k }) =>
    s.and(s.le(s.abs(s.sub(q, k)), reach * step), s.eq(s.floormod(s.sub(q, k), step), 0));

/** Tokens are the cells of a grid, row by row, `width` a row: a query reads the cells at most `radius` rows and columns away. */
export const neighbourhood =
  (radius: number, width: number): Mask =>
  ({ q, k }) => {
    const within = (f: (e: Expr, by: number) => Expr): Expr => s.le(s.abs(s.sub(f(q, width), f(k, width))), radius);
    return s.and(within(s.floordiv), within(s.floormod));
  };

/** A tensor of booleans, or of numbers of which 0 is false, that broadcasts to `[B, H, Q, K]`. */
export const table =
  (allowed: Tensor): Mask =>
  (score) => {
    const all = [score.b, score.h, score.q, score.k];
    const { shape } = allowed;
    if (shape.length > 4)
      fail('rank', `mask: a table broadcasts to [B, H, Q, K]; it has rank ${shape.length}`, { loc: callSite() });
    return truth(score.read(allowed, ...shape.map((d, i) => (isOne(d) ? 0 : all[i + 4 - shape.length]!))));
  };

/** True where all are. Without any: everywhere. */
export const and =
  (...masks: readonly Mask[]): Mask =>
  (score) =>
    masks.map((m) => m(score)).reduce((a, b) => s.and(a, b), s.bool(true));
/** True where one is. Without any: nowhere. */
export const or =
  (...masks: readonly Mask[]): Mask =>
  (score) =>
    masks.map((m) => m(score)).reduce((a, b) => s.or(a, b), s.bool(false));
export const not =
  (m: Mask): Mask =>
  (score) =>
    s.not(m(score));

/** The mask that a query and key further on by `queries` and `keys` positions have: for parts of longer sequences. */
export const shift =
  (m: Mask, queries: Dim, keys: Dim): Mask =>
  (score) =>
    m({ ...score, q: s.add(score.q, queries), k: s.add(score.k, keys) });

/** The mask of tokens that stood elsewhere before: the positions of queries and keys in the sequence that `m` is about. */
export const remap =
  (m: Mask, queries: Tokens, keys: Tokens): Mask =>
  (score) =>
    m({
      ...score,
      q: s.cast(atToken(score, queries, score.q, 'a position'), 'i32'),
      k: s.cast(atToken(score, keys, score.k, 'a position'), 'i32'),
    });
