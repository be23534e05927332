/** Intrinsics as plain arithmetic, for targets, or numbers of lanes, without an instruction. */
import type { Expr } from '../ir/expr.ts';
import type { IntrinsicName } from '../ir/intrinsics.ts';
import { add, and, cast, literal, mul, or, shl, shr } from '../ir/scalar.ts';

/** Sign-extends the 16 bits of each lane that start at bit `at`. */
const half = (pair: Expr, at: 0 | 16): Expr => shr(at === 0 ? shl(pair, 16) : pair, 16);

const EXPANSIONS: Readonly<Record<IntrinsicName, (args: readonly Expr[]) => Expr>> = {
  dot_pairs: ([a, b]) => add(mul(half(a!, 0), half(b!, 0)), mul(half(a!, 16), half(b!, 16))),
  widen_pair: ([bytes]) => {
    const wide = cast(bytes!, 'i32');
    const low = shr(shl(wide, 24), 24);
    const high = shr(shl(wide, 16), 24);
    return or(and(low, literal(0xffff, 'i32', wide.lanes)), shl(high, 16));
  },
  uniform: ([x]) => x!,
};

/** @param e an intrinsic of the table in `ir/intrinsics.ts` @param args its operands, already rewritten */
export function expandIntrinsic(e: Expr, args: readonly Expr[]): Expr {
  const expand = EXPANSIONS[String(e.arg) as IntrinsicName];
  if (!expand) throw new Error(`intrinsic ${String(e.arg)} has no expansion`);
  return expand(args);
}
