/** Numbers of a plan that may only be known as it runs. */
import { HeddleError } from './error.ts';
import { type Size, sizeOf } from './manifest.ts';

/** A number that depends on a loop symbol: `base` + the size, which lies in `min` … `max`. */
export interface Late {
  readonly base: number;
  readonly size: Size;
  readonly min: number;
  readonly max: number;
}
export type Num = number | Late;

/** @throws HeddleError `manifest` when a number of the plan is not an integer within its bounds */
export function within(value: number, min: number, max: number, what: string): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw new HeddleError(
    'manifest',
    `manifest: ${what} is ${value}, outside ${min} … ${max}. Compile the bundle again.`,
  );
}

/** The number, under the symbols of the binding and of the loops around. */
export function numberOf(num: Num, symbols: Readonly<Record<string, number>>, what: string): number {
  return typeof num === 'number' ? num : num.base + within(sizeOf(num.size, symbols), num.min, num.max, what);
}
