/**
 * Values in workgroup memory joined by subgroups. Nothing is assumed of how large subgroups are, which invocations are
 * one, or that all are equally full: each counts its members, and they take every n-th value. All subgroups do so, each for
 * itself, so that every invocation has the whole without another barrier.
 */
import { isFloat, type Scalar, sizeOf } from '../../../ir/dtype.ts';
import type { Expr } from '../../../ir/expr.ts';
import type { Block, SubgroupOp } from '../../../ir/kernel.ts';
import { add, ceildiv, literal, lt, max, min, mul, select, sub, variable } from '../../../ir/scalar.ts';

export class Members {
  private readonly most: number;
  /** Of the block where they were counted: how many there are, and how many stand before this one. */
  private counted: { readonly block: Block; readonly count: Expr; readonly rank: Expr } | undefined;

  /** @param most  invocations of the workgroup */
  constructor(most: number) {
    this.most = most;
  }

  /**
   * Joins `value(0 … count − 1)`, which no invocation may be writing.
   *
   * @param block  where all invocations of the workgroup come
   * @param identity  of `join`, for members beyond `count`; not needed where that is at least `most`
   */
  total(
    block: Block,
    name: string,
    count: number,
    op: SubgroupOp,
    join: (a: Expr, b: Expr) => Expr,
    value: (i: Expr) => Expr,
    identity?: Expr,
  ): Expr {
    const { count: members, rank } = this.in(block);
    const idle = count < this.most;
    if (idle && !identity) throw new Error(`${this.most} invocations may be too many for ${count} values`);
    const first = idle ? select(lt(rank, count), value(min(rank, count - 1)), identity!) : value(rank);
    const part = block.var('part', first);
    block.for('s', 1, ceildiv(max(sub(count, rank), 0), members), (s, body) =>
      body.set(part, join(part, value(body.let('i', add(rank, mul(s, members)))))),
    );
    return block.subgroup(name, op, part);
  }

  private in(block: Block): { readonly count: Expr; readonly rank: Expr } {
    if (this.counted?.block !== block) {
      const count = block.subgroup('members', 'add', literal(1), { from: 1, to: this.most + 1 });
      const rank = block.subgroup('rank', 'before', literal(1), { from: 0, to: this.most });
      this.counted = { block, count, rank };
    }
    return this.counted;
  }
}

/** What subgroups call a way to join two values of this type; undefined where they have no such operation. */
export function subgroupOp(join: (a: Expr, b: Expr) => Expr, dtype: Scalar): SubgroupOp | undefined {
  if (isFloat(dtype) ? dtype !== 'f32' : dtype === 'bool' || sizeOf(dtype) < 4) return undefined;
  const [a, b] = [variable('a', dtype), variable('b', dtype)];
  const joined = join(a, b);
  // A maximum that passes over NaN folds numbers alone: its accumulators never hold one.
  if (joined === select(lt(a, b), b, a)) return 'max';
  const { op } = joined;
  const whole = joined.args.length === 2 && joined.args.includes(a) && joined.args.includes(b);
  return whole && (op === 'add' || op === 'mul' || op === 'min' || op === 'max') ? op : undefined;
}
