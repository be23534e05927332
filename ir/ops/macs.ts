/** Counts of multiply-accumulates: exact beyond 2^31, where sizes as `i32` expressions would wrap. */

import type { Expr } from '../expr.ts';
import { add, cast, index, literal, mul } from '../scalar.ts';
import type { Dim } from '../type.ts';

const wide = (size: Dim): Expr => (typeof size === 'number' ? literal(size, 'i64') : cast(index(size), 'i64'));
const plain = (size: Expr): Dim => (size.op === 'const' ? (size.arg as number) : size);

/** The product of sizes: a number, or an `i64` expression over symbols. */
export const macsOf = (...sizes: readonly Dim[]): Dim =>
  plain(sizes.map(wide).reduce((n, d) => mul(n, d), literal(1, 'i64')));
/** The sum of such counts. */
export const macsSum = (...counts: readonly Dim[]): Dim =>
  plain(counts.map(wide).reduce((n, d) => add(n, d), literal(0, 'i64')));
