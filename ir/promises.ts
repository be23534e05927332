/**
 * What whoever calls a model promises of the elements of an input: that they are 0 and 1, and how many of a line are 1. A
 * mask of which so much is known needs no second program for the cases that cannot be. The promises are checked when inputs
 * are given, by the reference and by the runtime.
 */
import { fail } from './diagnostic.ts';
import type { Sym } from './expr.ts';
import { typeOf, type Value } from './graph.ts';
import type { Nd } from './nd.ts';
import { printDim } from './print.ts';
import { type Dim, dim, type TensorType } from './type.ts';

export interface Promises {
  /** Every element is 0 or 1. */
  readonly binary: boolean;
  /** How many elements of each line along the last axis are not 0; undefined where nobody says. */
  readonly count: Dim | undefined;
  /** How many at least. */
  readonly atLeast: number;
}

/** Of an `input`; other values promise nothing. */
export function promisesOf(v: Value): Promises {
  if (v.op.name !== 'input') return { binary: false, count: undefined, atLeast: 0 };
  const { binary, count, atLeast } = v.attrs as { binary?: boolean; count?: Dim; atLeast?: number };
  const least = typeof count === 'number' ? count : count ? (count.op === 'sym' ? (count.arg as Sym).min : 0) : 0;
  return { binary: binary === true || typeOf(v).dtype === 'bool', count, atLeast: Math.max(atLeast ?? 0, least) };
}

/** @throws CompileError `attribute` where promises do not suit the type of the input */
export function checkPromiseTypes(
  name: string,
  { dtype, shape }: TensorType,
  { binary, count, atLeast }: { readonly binary: boolean; readonly count: Dim | undefined; readonly atLeast: number },
): void {
  const what = `input "${name}"`;
  if (count === undefined && atLeast === 0) return;
  const help = 'declare it bool, or binary: true';
  if (!binary && dtype !== 'bool')
    fail('attribute', `${what} has a count, but may hold other numbers than 0 and 1`, { help });
  const line = shape.at(-1);
  if (line === undefined) fail('attribute', `${what} has a count, but no axis to count along`);
  const most = typeof line === 'number' ? line : Number.POSITIVE_INFINITY;
  for (const [word, n] of [
    ['count', count],
    ['atLeast', atLeast],
  ] as const)
    if (typeof n === 'number' && (!Number.isSafeInteger(n) || n < 0 || n > most))
      fail('attribute', `${what}: ${word} is ${n}, and a line has ${printDim(dim(line))} elements`);
}

/** How many elements of each line along the last axis are not 0. */
export function onesOf({ data, shape }: Nd): number[] {
  const width = shape.at(-1) ?? 1;
  return Array.from({ length: width === 0 ? 0 : data.length / width }, (_, line) => {
    let ones = 0;
    for (let i = 0; i < width; i++) if (data[line * width + i] !== 0) ones++;
    return ones;
  });
}

/**
 * Checks the elements that an input is given against its promises.
 *
 * @param sizeOf the value of a size
 * @throws CompileError `range`, naming the line that breaks one
 */
export function checkPromises(v: Value, x: Nd, sizeOf: (d: Dim) => number): void {
  const { binary, count, atLeast } = promisesOf(v);
  const what = `input "${String(v.attrs.name)}"`;
  const odd = binary && v.attrs.assumed !== true ? x.data.findIndex((e) => e !== 0 && e !== 1) : -1;
  if (odd >= 0) fail('range', `${what} has ${x.data[odd]} at [${odd}], and promises that each element is 0 or 1`);
  if (count === undefined && atLeast === 0) return;
  const exact = count === undefined ? undefined : sizeOf(count);
  for (const [line, ones] of onesOf(x).entries())
    if (ones < atLeast || (exact !== undefined && ones !== exact))
      fail('range', `${what} has ${ones} ones in line ${line}, and promises ${exact ?? `at least ${atLeast}`}`);
}

/** The same elements, changed where they break promises: for inputs that are made up. */
export function keepingPromises(v: Value, x: Nd, sizeOf: (d: Dim) => number): Nd {
  const { binary, count, atLeast } = promisesOf(v);
  if (!binary) return x;
  const data = x.data.map((e) => (e === 0 ? 0 : 1));
  const width = x.shape.at(-1) ?? 1;
  const exact = count === undefined ? undefined : sizeOf(count);
  for (const [line, found] of onesOf({ ...x, data }).entries()) {
    let ones = found;
    for (let i = 0; i < width; i++) {
      const at = line * width + i;
      if (data[at] === 0 && ones < (exact ?? atLeast)) [data[at], ones] = [1, ones + 1];
      else if (data[at] === 1 && exact !== undefined && ones > exact) [data[at], ones] = [0, ones - 1];
    }
  }
  return { ...x, data };
}
