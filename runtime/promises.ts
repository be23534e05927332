/**
 * Checks inputs that promise how many of their elements are 1. Bundles without such inputs ship without this: see
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
