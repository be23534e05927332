/**
 * Inputs that promise how many of their elements are 1: checked, and kept where inputs are made up. Bundles without such inputs ship without this: see
 * `compiler/build-runtime.ts`.
 */
import type { TensorData } from './api.ts';
import type { Port, Size } from './manifest.ts';
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
    let ones = 0;
    for (let i = 0; i < width; i++) if (data[line * width + i]) ones++;
    if (sizes.known(least) === undefined) sizes.solve(least, ones);
    const [low, high] = [sizes.known(least)!, sizes.known(most)!];
    if (ones >= low && ones <= high) continue;
    const wanted = low === high ? `exactly ${low}` : `at least ${low}`;
    refuse(port, `has ${ones} ones in line ${line}`, `Its author promises ${wanted} in each line of ${width}.`);
  }
}

/** Changes made-up elements until each line has as many ones as are promised. */
export function keepOnes(port: Port, data: TensorData, shape: readonly number[], sizeOf: (size: Size) => number): void {
  if (!port.ones) return;
  const [low, high] = port.ones.map(sizeOf) as [number, number];
  const width = shape.at(-1)!;
  const [zero, one] = typeof data[0] === 'bigint' ? [0n, 1n] : [0, 1];
  for (let start = 0; start < data.length; start += width) {
    let ones = 0;
    for (let i = start; i < start + width; i++) if (data[i]) ones++;
    for (let i = start; i < start + width; i++) {
      if (ones < low && !data[i]) [data[i], ones] = [one as never, ones + 1];
      else if (ones > high && data[i]) [data[i], ones] = [zero as never, ones - 1];
    }
  }
}
