/**
 * Inputs that promise how many of their elements are 1: checked, and kept where inputs are made up. Bundles without such inputs ship without this: see
 * `compiler/build-runtime.ts`.
 */
import type { TensorData } from './api.ts';
import { type EntryPlan, type Port, type Size, sizeOf } from './manifest.ts';
import { refuse } from './refuse.ts';

/** What sizes are known to be, and may be found to be. */
export interface Sizes {
  known(size: Size): number | undefined;
  solve(size: Size, value: number): void;
}

/**
 * Takes a size that is promised as a count, and is not known yet, from the input; refuses lines with more or fewer.
 *
 * @param shape of the input
 * @throws HeddleError `input` naming the line
 */
export function checkOnes(port: Port, data: TensorData, shape: readonly number[], sizes: Sizes): void {
  if (!port.ones) return;
  const [least, most] = port.ones;
  const width = shape.at(-1)!;
  const lines = shape.slice(0, -1).reduce((a, b) => a * b, 1);
  for (let line = 0; line < lines; line++) {
    const ones = count(data, line * width, (line + 1) * width);
    if (sizes.known(least) === undefined) sizes.solve(least, ones);
    const [low, high] = [sizes.known(least)!, sizes.known(most)!];
    if (ones >= low && ones <= high) continue;
    const wanted = low === high ? `exactly ${low}` : `at least ${low}`;
    refuse(port, `has ${ones} ones in line ${line}`, `Its author promises ${wanted} in each line of ${width}.`);
  }
}

/** Elements from one position to another that are not 0. */
function count(data: ArrayLike<number | bigint>, from: number, to: number): number {
  let ones = 0;
  for (let i = from; i < to; i++) if (data[i]) ones++;
  return ones;
}

/**
 * The entry that a run takes: the one that is asked for, or the one that stands in for it where the inputs do not suit it.
 *
 * @param bind checks the inputs against an entry, and gives their elements and the sizes that they have
 */
export function entryFor(
  plans: Readonly<Record<string, EntryPlan>>,
  entry: string,
  bind: (plan: EntryPlan) => { readonly data: readonly unknown[]; readonly symbols: Readonly<Record<string, number>> },
): string {
  const { inputs, symbols, otherwise } = plans[entry]!;
  const dense = otherwise && plans[otherwise.entry];
  if (!dense) return entry;
  const given = bind(dense);
  const [mask, share] = otherwise.crowded ?? [-1, 1];
  for (const [n, { binary, ones, shape }] of inputs.entries()) {
    if (!binary && !ones && n !== mask) continue;
    const data = given.data[n] as ArrayLike<number | bigint>;
    // What stands on a device cannot be looked at here.
    if (!ArrayBuffer.isView(data)) return otherwise.entry;
    if (binary) for (let i = 0; i < data.length; i++) if (data[i] && Number(data[i]) !== 1) return otherwise.entry;
    if (n === mask && count(data, 0, data.length) > share * data.length) return otherwise.entry;
    const size = ones && symbols.find(({ name }) => name === ones[0]);
    const first = size ? count(data, 0, sizeOf(shape.at(-1)!, given.symbols)) : 0;
    if (size && (first < size.min || first > size.max || first % size.multipleOf > 0)) return otherwise.entry;
  }
  return entry;
}

/** Changes made-up elements until each line has as many ones as are promised. */
export function keepOnes(
  port: Port,
  data: TensorData,
  shape: readonly number[],
  sizeUnder: (size: Size) => number,
): void {
  if (!port.ones) return;
  const [low, high] = port.ones.map(sizeUnder) as [number, number];
  const width = shape.at(-1)!;
  const [zero, one] = typeof data[0] === 'bigint' ? [0n, 1n] : [0, 1];
  for (let start = 0; start < data.length; start += width) {
    let ones = count(data, start, start + width);
    for (let i = start; i < start + width; i++) {
      if (ones < low && !data[i]) [data[i], ones] = [one as never, ones + 1];
      else if (ones > high && data[i]) [data[i], ones] = [zero as never, ones - 1];
    }
  }
}
