/** Rounding to the elements of `narrow.ts`, in operators of the graph. */
import type { Value } from '../../ir/graph.ts';
import { bitcast } from '../../ir/ops/bitcast.ts';
import {
  abs,
  bitAnd,
  bitOr,
  cast,
  div,
  equal,
  greater,
  greaterEqual,
  isNaN_,
  less,
  maximum,
  minimum,
  mul,
  round,
  select,
  sub,
} from '../../ir/ops/elementwise.ts';
import { scalar } from '../../ir/ops/structural.ts';
import type { Narrow, Real } from './narrow.ts';
import { dtypeOf, to } from './values.ts';

export interface Narrowing {
  /** Whether what is too large becomes the largest finite number. */
  readonly saturate: boolean;
  /** Of powers of two: away from zero, towards it, or the nearest, of two equally near ones the larger. */
  readonly roundMode: string;
  /** Whether infinities saturate too in types without a negative zero: they do since opset 24. */
  readonly infinitiesSaturate: boolean;
}

/** `x` of any type rounded to the elements of a format, in its wide type. f64 goes by way of f32. */
export function narrowed(x: Value, format: Narrow, how: Narrowing): Value {
  switch (format.kind) {
    case 'whole':
      return wholeNarrowed(x, format.bits, format.signed);
    case 'power':
      return powerNarrowed(to(x, 'f32'), how);
    default:
      return to(realNarrowed(to(x, 'f32'), format, how), format.wide);
  }
}

const f = (value: number): Value => scalar(value, 'f32');
const i = (value: number): Value => scalar(value, 'i32');

/** The nearest whole number, of which the lowest bits stay. */
function wholeNarrowed(x: Value, bits: number, signed: boolean): Value {
  const near = ['f64', 'f32', 'f16', 'bf16'].includes(dtypeOf(x)) ? round([x]) : x;
  const low = bitAnd([to(near, 'i32'), i(2 ** bits - 1)]);
  if (!signed) return cast([low], { to: 'u8' });
  const above = greaterEqual([low, i(2 ** (bits - 1))]);
  return cast([select([above, sub([low, i(2 ** bits)]), low])], { to: 'i8' });
}

/** Round to nearest, ties to even; exact, since every scaling is by a power of two. */
function realNarrowed(x: Value, { fraction, bias, largest, special }: Real, how: Narrowing): Value {
  const sign = bitAnd([bitcast([x], { to: 'i32' }), i(-(2 ** 31))]);
  // What is far beyond the range may be brought nearer: it is beyond it still.
  const size = minimum([abs([x]), f(4 * largest)]);
  const power = bitcast([bitAnd([bitcast([size], { to: 'i32' }), i(0x7f800000)])], { to: 'f32' });
  const step = mul([maximum([power, f(2 ** (1 - bias))]), f(2 ** -fraction)]);
  const near = mul([round([div([size, step])]), step]);
  const saturated = minimum([near, f(largest)]);
  const beyond = special === 'infinity and nan' ? Number.POSITIVE_INFINITY : Number.NaN;
  let magnitude: Value;
  // What is no number has no pattern there: it becomes 0, as in the standard's own reference.
  if (special === 'none') magnitude = select([isNaN_([x]), f(0), saturated]);
  else if (!how.saturate) magnitude = select([greater([near, f(largest)]), f(beyond), near]);
  else if (special === 'unsigned zero' && !how.infinitiesSaturate)
    magnitude = select([equal([abs([x]), f(Number.POSITIVE_INFINITY)]), f(Number.NaN), saturated]);
  else magnitude = saturated;
  const signed = bitcast([bitOr([bitcast([magnitude], { to: 'i32' }), sign])], { to: 'f32' });
  return special === 'unsigned zero' ? select([equal([magnitude, f(0)]), f(0), signed]) : signed;
}

const [LEAST, MOST] = [2 ** -127, 2 ** 127];

/** The power of two below, above or nearest; what is not positive counts as 0. */
function powerNarrowed(x: Value, { saturate, roundMode }: Narrowing): Value {
  const bits = bitcast([x], { to: 'i32' });
  const below = bitcast([bitAnd([bits, i(0x7f800000)])], { to: 'f32' });
  const rest = bitAnd([bits, i(0x7fffff)]);
  const up = roundMode === 'nearest' ? greaterEqual([rest, i(0x400000)]) : greater([rest, i(0)]);
  const double = minimum([mul([below, f(2)]), f(Number.POSITIVE_INFINITY)]);
  const normal = roundMode === 'down' ? below : select([up, double, below]);
  // Below the normal numbers there is one power.
  const rises = roundMode === 'up' ? greater([x, f(LEAST)]) : greaterEqual([x, f(LEAST * 1.5)]);
  const tiny = roundMode === 'down' ? f(LEAST) : select([rises, f(2 ** -126), f(LEAST)]);
  const power = select([less([x, f(2 ** -126)]), tiny, normal]);
  const inside = saturate
    ? maximum([minimum([power, f(MOST)]), f(LEAST)])
    : select([greater([power, f(MOST)]), f(Number.NaN), select([less([x, f(LEAST)]), f(Number.NaN), power])]);
  return select([isNaN_([x]), f(Number.NaN), inside]);
}
