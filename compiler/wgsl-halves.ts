/**
 * Where a device with `shader-f16` may keep f32 values as halves without changing one: in memory that only ever receives
 * what was read from weights stored as halves. That makes blocks of such weights half as large in workgroup memory. Arithmetic
 * stays f32 everywhere: WGSL does not say how sums and products of f16 round.
 */
import { roundTo } from '../ir/dtype.ts';
import type { Buffer, Expr } from '../ir/expr.ts';
import { eachStmt, type Kernel } from '../ir/kernel.ts';

/** Operators that pass on their operands as they are, from the first that is a value. */
const PASSES: Partial<Record<Expr['op'], number>> = { select: 1, splat: 0, extract: 0, vec: 0, shuffle: 0 };

/**
 * Workgroup memory of f32 that holds nothing but halves.
 *
 * @param pairs  weights that stand as halves
 */
export function halfMemory(kernel: Kernel, pairs: ReadonlySet<Buffer>): ReadonlySet<Buffer> {
  const values = new Map<Expr, Expr[]>();
  const stored = new Map<Buffer, Expr[]>();
  eachStmt(kernel.body, (s) => {
    if (s.kind === 'let' || s.kind === 'var' || s.kind === 'set')
      values.set(s.v, [...(values.get(s.v) ?? []), s.value]);
    if (s.kind === 'store') stored.set(s.to, [...(stored.get(s.to) ?? []), s.value]);
  });
  // A variable that is set to itself holds what else it is set to.
  const known = new Map<Expr, boolean>();
  const isHalf = (e: Expr): boolean => {
    const before = known.get(e);
    if (before !== undefined) return before;
    known.set(e, true);
    const half = isHalfBy(e);
    known.set(e, half);
    return half;
  };
  const isHalfBy = (e: Expr): boolean => {
    if (e.op === 'load') return pairs.has(e.arg as Buffer);
    if (e.op === 'const') return e.dtype === 'f32' && Object.is(roundTo('f16', e.arg as number), e.arg);
    if (e.op === 'var') return values.get(e)?.every(isHalf) ?? false;
    const first = PASSES[e.op];
    return first !== undefined && e.args.slice(first).every(isHalf);
  };
  return new Set(
    kernel.buffers.filter(
      (b) => b.space === 'shared' && b.dtype === 'f32' && stored.has(b) && stored.get(b)!.every(isHalf),
    ),
  );
}
