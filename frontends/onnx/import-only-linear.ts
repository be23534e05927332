/** Matrix products as ONNX spells them. */
import type { Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { add, cast, mul, sub } from '../../ir/ops/elementwise.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { reshape } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import type { Dim } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';

/** numpy's matmul: operands of rank 1 gain an axis that the result loses. */
export function product(a: Value, b: Value): Value {
  const [as, bs] = [typeOf(a).shape, typeOf(b).shape];
  const left = as.length === 1 ? reshape([a], { shape: [1, as[0]!] }) : a;
  const right = bs.length === 1 ? reshape([b], { shape: [bs[0]!, 1] }) : b;
  const out = matmul([left, right]);
  if (as.length > 1 && bs.length > 1) return out;
  const shape: readonly Dim[] = typeOf(out).shape;
  const rows = as.length === 1 ? shape.toSpliced(-2, 1) : shape;
  return reshape([out], { shape: bs.length === 1 ? rows.slice(0, -1) : rows });
}

function gemm(n: Node): Value {
  const [a, b] = [n.value(0), n.value(1)];
  const { dtype } = typeOf(a);
  const [alpha, beta] = [n.float('alpha', 1), n.float('beta', 1)];
  n.ignore('broadcast');
  const scaled = (x: Value, by: number): Value => (by === 1 ? x : mul([x, scalar(by, dtype)]));
  const out = scaled(
    matmul([a, b], { transposeA: n.int('transA', 0) !== 0, transposeB: n.int('transB', 0) !== 0 }),
    alpha,
  );
  const c = n.optional(2);
  return c && beta !== 0 ? add([out, scaled(c, beta)]) : out;
}

/** x − zero point as `to`; one zero point for all, or one for each row or column. */
export function centred(x: Value, zero: Value | undefined, to: Scalar, axis: number): Value {
  const wide = cast([x], { to });
  if (!zero) return wide;
  const { shape } = typeOf(zero);
  const rank = typeOf(x).shape.length;
  const at = axis < 0 ? axis + rank : axis;
  const placed =
    shape.length === 1 && shape[0] !== 1
      ? reshape([zero], { shape: Array.from({ length: rank }, (_, i) => (i === at ? shape[0]! : 1)) })
      : shape.length === 1
        ? reshape([zero], { shape: [] })
        : zero;
  return sub([wide, cast([placed], { to })]);
}

export const linear: Entries = {
  MatMul: (n) => product(n.value(0), n.value(1)),
  Gemm: gemm,
};
