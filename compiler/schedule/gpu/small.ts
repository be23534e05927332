/** Work that is too little for workgroups to share: direct kernels start faster, and their code compiles in no time. */
import type { Expr, Sym } from '../../../ir/expr.ts';
import { evaluateIndex } from '../../../ir/scalar.ts';
import { boundsOf } from '../../../ir/simplify.ts';
import { asExpr, type Dim } from '../../../ir/type.ts';
import { gpuOf } from '../../gpu-target.ts';
import type { Target } from '../../target.ts';

/** A size where each symbol has the value that things are counted at. */
export const usualSize = (d: Dim): number => evaluateIndex(asExpr(d), (leaf: Expr) => (leaf.arg as Sym).default);

/** Whether so many multiply-accumulates are few, usually and at most. */
export function isSmall(target: Target, macs: Dim): boolean {
  const { usual, most } = gpuOf(target).small;
  return usualSize(macs) <= usual && boundsOf(asExpr(macs))[1] <= most;
}
