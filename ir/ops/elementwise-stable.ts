/** Scalar expressions of functions that cancel or overflow when written plainly. */
import type { Scalar } from '../dtype.ts';
import type { Expr } from '../expr.ts';
import * as s from '../scalar.ts';

/** log(1 + u), exact where 1 + u rounds (Goldberg 1991, theorem 4). */
export function log1p(u: Expr): Expr {
  const w = s.add(u, 1);
  const corrected = s.div(s.mul(s.log(w), u), s.sub(w, 1));
  return s.select(s.eq(w, 1), u, s.select(s.eq(w, u), s.log(w), corrected));
}

/** eˣ − 1 for x ≤ 0 without cancellation (Kahan). */
export function expm1(x: Expr): Expr {
  const u = s.exp(x);
  const d = s.sub(u, 1);
  return s.select(s.eq(u, 1), x, s.select(s.eq(d, -1), d, s.div(s.mul(d, x), s.log(u))));
}

/** The sign of `like` on a value that is not negative. */
export const withSign = (value: Expr, like: Expr): Expr => s.select(s.lt(like, 0), s.neg(value), value);

/**
 * The arc tangent of x ≥ 0, ∞ included: reduced to [0, 1] by reciprocal and to [0, tan π/16] by halving the angle twice,
 * then its Taylor series.
 */
export function atanPositive(x: Expr, dtype: Scalar): Expr {
  const half = (t: Expr): Expr => s.div(t, s.add(s.sqrt(s.add(s.mul(t, t), 1)), 1));
  const t = half(half(s.min(x, s.div(1, x))));
  const t2 = s.mul(t, t);
  const terms = dtype === 'f64' ? 12 : 6;
  let series: Expr = s.literal(1 / (2 * terms + 1), dtype);
  for (let k = terms - 1; k >= 0; k--) series = s.sub(1 / (2 * k + 1), s.mul(t2, series));
  const angle = s.mul(s.mul(t, series), 4);
  return s.select(s.lt(1, x), s.sub(Math.PI / 2, angle), angle);
}
