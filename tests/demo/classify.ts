/** The classifier over the held-out images. */
import type { Session, Tensor } from '../../runtime/index.ts';
import { type Digit, GRID, SIDE } from './digits.ts';

/** How far a logit may be from PyTorch's; those are recorded to six digits after the point. */
export const LOGIT_TOLERANCE = 1e-4;

export interface Seen {
  readonly digit: Digit;
  readonly predicted: number;
  readonly logits: readonly number[];
  /** Share of the class token's attention on each patch in the last layer, [heads][64]. */
  readonly attention: readonly Float32Array[];
  readonly ms: number;
}

export interface Verdict {
  readonly right: number;
  /** Images whose class is not PyTorch's. */
  readonly disagree: readonly Seen[];
  /** Largest |logit − PyTorch's| over all images. */
  readonly worstLogit: number;
  readonly ok: boolean;
}

/** Runs every image, `batch` at a time; `ms` is the time of a batch over its images. */
export async function classify(session: Session, digits: readonly Digit[], batch = 1): Promise<readonly Seen[]> {
  const seen: Seen[] = [];
  for (let from = 0; from < digits.length; from += batch) {
    const group = digits.slice(from, from + batch);
    const pixels = new Float32Array(group.length * SIDE * SIDE);
    for (const [row, digit] of group.entries()) pixels.set(digit.pixels, row * SIDE * SIDE);
    const begin = performance.now();
    const { logits, attention } = await session.run({
      pixel_values: { data: pixels, shape: [group.length, 1, SIDE, SIDE] },
    });
    const ms = (performance.now() - begin) / group.length;
    const scores = rowsOf(logits!, group.length);
    const maps = rowsOf(attention!, group.length);
    for (const [row, digit] of group.entries()) {
      const own = [...scores[row]!];
      seen.push({ digit, predicted: own.indexOf(Math.max(...own)), logits: own, attention: split(maps[row]!), ms });
    }
  }
  return seen;
}

/** Compares with what PyTorch recorded. */
export function judge(seen: readonly Seen[]): Verdict {
  const disagree = seen.filter(({ digit, predicted }) => predicted !== digit.predicted);
  const errors = seen.flatMap(({ digit, logits }) => logits.map((x, i) => Math.abs(x - digit.logits[i]!)));
  // NaN must not pass for 0: Math.max keeps it, and the comparison below is then false.
  const worstLogit = Math.max(...errors);
  return {
    right: seen.filter(({ digit, predicted }) => predicted === digit.label).length,
    disagree,
    worstLogit,
    ok: disagree.length === 0 && worstLogit <= LOGIT_TOLERANCE,
  };
}

/** Softmax of logits. */
export function probabilities(logits: readonly number[]): number[] {
  const largest = Math.max(...logits);
  const powers = logits.map((x) => Math.exp(x - largest));
  const total = powers.reduce((sum, x) => sum + x, 0);
  return powers.map((x) => x / total);
}

function rowsOf({ data }: Tensor, rows: number): Float32Array[] {
  if (!(data instanceof Float32Array)) throw new Error('expected f32');
  const width = data.length / rows;
  return Array.from({ length: rows }, (_, row) => data.slice(row * width, (row + 1) * width));
}

function split(maps: Float32Array): Float32Array[] {
  const size = GRID * GRID;
  return Array.from({ length: maps.length / size }, (_, head) => maps.slice(head * size, (head + 1) * size));
}
