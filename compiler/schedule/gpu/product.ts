/** What a matrix product multiplies: its sizes, and its operands element by element. */
import type { Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { macsOf } from '../../../ir/ops/macs.ts';
import { literal } from '../../../ir/scalar.ts';
import { asExpr, type Dim, elements, type Shape } from '../../../ir/type.ts';
import { broadcastAt, unflatten } from '../../access.ts';
import { operandAt, type ScheduleContext } from '../context.ts';

/** M rows, N columns, K inner. */
export class Product {
  readonly cx: ScheduleContext;
  readonly m: Expr;
  readonly n: Expr;
  readonly k: Expr;
  /** Leading axes that select both a left and a right matrix. */
  readonly batch: Shape;
  /** Row axes: the left operand's rows, with leading axes folded in when the right operand has none of its own. */
  readonly rows: Shape;
  readonly transposedA: boolean;
  readonly transposedB: boolean;

  constructor(cx: ScheduleContext) {
    const { root } = cx.region;
    const out = typeOf(root).shape;
    const [left, right] = [typeOf(root.inputs[0]!), typeOf(root.inputs[1]!)];
    this.cx = cx;
    this.transposedA = root.attrs.transposeA === true;
    this.transposedB = root.attrs.transposeB === true;
    const shared = elements(right.shape.slice(0, -2)) === literal(1);
    this.m = shared ? elements(out.slice(0, -1)) : asExpr(out.at(-2)!);
    this.n = asExpr(out.at(-1)!);
    this.k = asExpr(left.shape.at(this.transposedA ? -2 : -1)!);
    this.batch = shared ? [] : out.slice(0, -2);
    this.rows = shared ? out.slice(0, -1) : out.slice(-2, -1);
  }

  /** Coordinates of a flat row. */
  rowAt(row: Expr): readonly Expr[] {
    return this.rows.length === 1 ? [row] : unflatten(this.rows, row);
  }

  /** @param at batch and row coordinates of the result */
  left(at: readonly Expr[], k: Expr): Expr {
    const lead = broadcastAt(typeOf(this.cx.region.root.inputs[0]!).shape.slice(0, -2), at.slice(0, -1));
    const m = at.at(-1)!;
    return operandAt(this.cx, 0, [...lead, ...(this.transposedA ? [k, m] : [m, k])]);
  }

  right(batch: readonly Expr[], k: Expr, n: Expr): Expr {
    const lead = typeOf(this.cx.region.root.inputs[1]!).shape.slice(0, -2);
    const at = batch.length === 0 ? lead.map(() => literal(0)) : broadcastAt(lead, batch);
    return operandAt(this.cx, 1, [...at, ...(this.transposedB ? [n, k] : [k, n])]);
  }

  get macs(): Dim {
    return macsOf(...this.batch, ...this.rows, this.n, this.k);
  }
}
