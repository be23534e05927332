/** Heads of an attention as ONNX lays them out: split, merged and rotated; terms of scores collected one by one. */
import type { Expr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { attention, coords } from '../../ir/ops/attention.ts';
import { add, mul, sub } from '../../ir/ops/elementwise.ts';
import { concat, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim } from '../../ir/type.ts';

/** [B, S, heads · D] as [B, heads, S, D]. */
export function splitHeads(x: Value, heads: number): Value {
  const [batch, rows, width] = typeOf(x).shape as [Dim, Dim, Dim];
  const apart = reshape([x], { shape: [batch, rows, heads, dim(s.floordiv(asExpr(width), heads))] });
  return transpose([apart], { perm: [0, 2, 1, 3] });
}

/** [B, heads, S, D] as [B, S, heads · D]. */
export function mergeHeads(x: Value): Value {
  const [batch, heads, rows, width] = typeOf(x).shape as [Dim, Dim, Dim, Dim];
  const turned = transpose([x], { perm: [0, 2, 1, 3] });
  return reshape([turned], { shape: [batch, rows, dim(s.mul(asExpr(heads), width))] });
}

/**
 * Rotary embedding of the first 2 · half elements of each head.
 *
 * @param x [B, H, S, D] @param cos, sin [B or 1, 1, S, half] @param pairs whether neighbours are rotated, not halves
 */
export function rotated(x: Value, cos: Value, sin: Value, pairs: boolean): Value {
  const [batch, heads, rows, width] = typeOf(x).shape as [Dim, Dim, Dim, number];
  const half = typeOf(cos).shape[3] as number;
  const turned = 2 * half;
  const rotating = turned === width ? x : sliceAxis(x, 3, 0, turned);
  const apart = pairs ? reshape([rotating], { shape: [batch, heads, rows, half, 2] }) : rotating;
  const part = (i: number): Value =>
    pairs
      ? reshape([sliceAxis(apart, 4, i, i + 1)], { shape: [batch, heads, rows, half] })
      : sliceAxis(apart, 3, i * half, (i + 1) * half);
  const [a, b] = [part(0), part(1)];
  const [real, imaginary] = [sub([mul([a, cos]), mul([b, sin])]), add([mul([a, sin]), mul([b, cos])])];
  const column = (v: Value): Value => reshape([v], { shape: [batch, heads, rows, half, 1] });
  const joined = pairs
    ? reshape([concat([column(real), column(imaginary)], { axis: 4 })], { shape: [batch, heads, rows, turned] })
    : concat([real, imaginary], { axis: 3 });
  return turned === width ? joined : concat([joined, sliceAxis(x, 3, turned, width)], { axis: 3 });
}

/** What is added to the scores of one attention and which keys they may read. */
export class ScoreTerms {
  readonly #operands: Value[] = [];
  #mask: Expr | undefined;
  #bias: Expr | undefined;

  /** An element of a tensor at coordinates. */
  element(x: Value, at: readonly Expr[]): Expr {
    const known = this.#operands.indexOf(x);
    const n = known >= 0 ? known : this.#operands.push(x) - 1;
    return s.operand(3 + n, typeOf(x).dtype, at);
  }
  /** An element of a tensor that broadcasts against [B, H, Q, K]. */
  broadcast(x: Value): Expr {
    const all = [coords.b, coords.h, coords.q, coords.k];
    const { shape } = typeOf(x);
    return this.element(
      x,
      shape.map((d, i) => (dim(d) === 1 ? s.index(0) : all[i + 4 - shape.length]!)),
    );
  }
  add(term: Expr): void {
    const float = s.cast(term, 'f32');
    this.#bias = this.#bias ? s.add(this.#bias, float) : float;
  }
  allow(condition: Expr): void {
    this.#mask = this.#mask ? s.and(this.#mask, condition) : condition;
  }

  attend(
    [q, k, v]: readonly [Value, Value, Value],
    { scale, softcap = 0 }: { readonly scale?: number | undefined; readonly softcap?: number } = {},
  ): Value {
    return attention([q, k, v, ...this.#operands], {
      ...(scale === undefined ? {} : { scale }),
      ...(this.#mask ? { mask: this.#mask } : {}),
      ...(this.#bias ? { bias: this.#bias } : {}),
      softcap,
      emptyRow: 'zero',
    });
  }
}
