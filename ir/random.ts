/**
 * Counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon et al. 2011). A value depends only on the key and on
 * its own position, so any element can be made anywhere, in any order, and always has the same bits.
 */
import type { Scalar } from './dtype.ts';
import type { Expr } from './expr.ts';
import * as s from './scalar.ts';

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24] as const;
const PARITY = 0x1bd11bda;

/** The two 32-bit outputs for a key and a counter, all unsigned 32-bit integers. */
export function threefry(key: readonly [number, number], counter: readonly [number, number]): [number, number] {
  const keys = [key[0] >>> 0, key[1] >>> 0, (key[0] ^ key[1] ^ PARITY) >>> 0];
  let x = (counter[0] + keys[0]!) >>> 0;
  let y = (counter[1] + keys[1]!) >>> 0;
  for (let round = 0; round < 20; round++) {
    x = (x + y) >>> 0;
    const turn = ROTATIONS[round % 8]!;
    y = (((y << turn) | (y >>> (32 - turn))) ^ x) >>> 0;
    if (round % 4 !== 3) continue;
    const injection = (round + 1) / 4;
    x = (x + keys[injection % 3]!) >>> 0;
    y = (y + keys[(injection + 1) % 3]! + injection) >>> 0;
  }
  return [x, y];
}

/** The same as u32 expressions: `key` of numbers, `counter` of u32 expressions. */
export function threefryExpr(key: readonly [number, number], counter: readonly [Expr, Expr]): [Expr, Expr] {
  const u32 = (value: number): Expr => s.literal(value >>> 0, 'u32');
  const keys = [u32(key[0]), u32(key[1]), u32(key[0] ^ key[1] ^ PARITY)];
  let x = s.add(counter[0], keys[0]!);
  let y = s.add(counter[1], keys[1]!);
  for (let round = 0; round < 20; round++) {
    x = s.add(x, y);
    const turn = ROTATIONS[round % 8]!;
    y = s.xor(s.or(s.shl(y, u32(turn)), s.shr(y, u32(32 - turn))), x);
    if (round % 4 !== 3) continue;
    const injection = (round + 1) / 4;
    x = s.add(x, keys[injection % 3]!);
    y = s.add(s.add(y, keys[(injection + 1) % 3]!), u32(injection));
  }
  return [x, y];
}

/** Key and counter of element number `index` of a stream. */
const counterOf = (index: number): [number, number] => [index >>> 0, Math.floor(index / 2 ** 32) >>> 0];

const UNIT = 2 ** -24;
/** Uniform in [0, 1): the top 24 bits of the first output, a multiple of 2^−24, exact in f32. */
export const uniformAt = (seed: number, stream: number, index: number): number =>
  (threefry([seed, stream], counterOf(index))[0] >>> 8) * UNIT;

/**
 * Standard normal by Box and Muller's cosine branch: √(−2·ln u)·cos(2π·v) with u in (0, 1] from the first output and v
 * in [0, 1) from the second.
 */
export function normalAt(seed: number, stream: number, index: number): number {
  const [a, b] = threefry([seed, stream], counterOf(index));
  const [u, v] = [((a >>> 8) + 1) * UNIT, (b >>> 8) * UNIT];
  return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * v);
}

/** The two outputs of element `index` (i32) as whole numbers below 2^24 in a float type. */
function bits24(seed: number, stream: number, index: Expr, dtype: Scalar): [Expr, Expr] {
  const outputs = threefryExpr([seed, stream], [s.cast(index, 'u32'), s.literal(0, 'u32')]);
  // Below 2^24 a u32 and an i32 are the same number; targets convert i32 faster.
  const whole = (x: Expr): Expr => s.cast(s.cast(s.shr(x, s.literal(8, 'u32')), 'i32'), dtype);
  return [whole(outputs[0]), whole(outputs[1])];
}

/** `uniformAt` as an f32 or f64 expression of an i32 element index: the same bits. */
export const uniformExpr = (seed: number, stream: number, index: Expr, dtype: 'f32' | 'f64' = 'f32'): Expr =>
  s.mul(bits24(seed, stream, index, dtype)[0], UNIT);

/** `normalAt` as an expression: the same bits go in, the functions are the target's. */
export function normalExpr(seed: number, stream: number, index: Expr, dtype: 'f32' | 'f64' = 'f32'): Expr {
  const [a, b] = bits24(seed, stream, index, dtype);
  const radius = s.sqrt(s.mul(s.log(s.mul(s.add(a, 1), UNIT)), -2));
  return s.mul(radius, s.cos(s.mul(b, 2 * Math.PI * UNIT)));
}
