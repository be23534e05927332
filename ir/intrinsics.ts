/**
 * Expressions that targets spell in their own way: the one table of their names, and what each means on the host. All work
 * lane by lane on packed integers, so that a lane of 32 bits may hold two of 16.
 */
import { type Expr, makeExpr } from './expr.ts';

const low = (pair: number): number => (pair << 16) >> 16;
const high = (pair: number): number => pair >> 16;

/** What each intrinsic computes from one lane of its operands. */
export const INTRINSICS = {
  /** Two pairs of i16, multiplied and summed modulo 2^32: low · low + high · high. */
  dot_pairs: (a: number, b: number): number => (Math.imul(low(a), low(b)) + Math.imul(high(a), high(b))) | 0,
  /** The two bytes of a u16 as signed numbers, each in 16 bits: a pair. */
  widen_pair: (bytes: number): number => (((bytes << 24) >> 24) & 0xffff) | ((((bytes << 16) >> 24) & 0xffff) << 16),
  /** What stands in workgroup memory, which all invocations read together after a barrier: control flow may depend on it. */
  uniform: (x: number): number => x,
} as const satisfies Readonly<Record<string, (...args: number[]) => number>>;

export type IntrinsicName = keyof typeof INTRINSICS;

/** i32: the sum of products of the two i16 that each of `a` and `b`, i32 of the same lanes, holds. */
export const dotPairs = (a: Expr, b: Expr): Expr => makeExpr('intrinsic', 'i32', a.lanes, [a, b], 'dot_pairs');
/** i32: the two signed bytes of each u16 as two i16. */
export const widenPair = (bytes: Expr): Expr => makeExpr('intrinsic', 'i32', bytes.lanes, [bytes], 'widen_pair');
/** A load from shared memory as a value that a target knows to be the same in all invocations of a workgroup. */
export const uniform = (x: Expr): Expr => makeExpr('intrinsic', x.dtype, x.lanes, [x], 'uniform');
