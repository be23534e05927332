/** The masked autoencoder over held-out images. */
import { threefry } from '../../ir/random.ts';
import type { Session } from '../../runtime/index.ts';
import { type Digit, GRID, PATCH, type Recorded, SIDE } from './digits.ts';

/** How far the prediction and the loss may be from PyTorch's, as a share of the largest magnitude. */
export const MAE_TOLERANCE = 1e-4;

export interface Drawn {
  readonly digit: Digit;
  /** [64]; 1 = removed. */
  readonly mask: Float32Array;
  /** [64, 4] normalised pixels. */
  readonly prediction: Float32Array;
  readonly loss: number;
  readonly ms: number;
}

/** One image with one set of random numbers, [64]. */
export async function reconstruct(session: Session, digit: Digit, noise: Float32Array): Promise<Drawn> {
  const begin = performance.now();
  const { pred, mask, loss } = await session.run({
    pixel_values: { data: digit.pixels, shape: [1, 1, SIDE, SIDE] },
    noise: { data: noise, shape: [1, GRID * GRID] },
  });
  const ms = performance.now() - begin;
  return {
    digit,
    mask: Float32Array.from(mask!.data as Float32Array),
    prediction: Float32Array.from(pred!.data as Float32Array),
    loss: Number(loss!.data[0]),
    ms,
  };
}

/** Random numbers in [0, 1) for image `index`, the same on every machine. */
export function noiseFor(index: number): Float32Array {
  return Float32Array.from({ length: GRID * GRID }, (_, patch) => threefry([2, 9], [index, patch])[0] / 2 ** 32);
}

export interface Difference {
  /** Patches whose mask is not PyTorch's. */
  readonly masks: number;
  /** Largest |prediction − PyTorch's| over the largest |PyTorch's|. */
  readonly prediction: number;
  /** |loss − PyTorch's| over PyTorch's. */
  readonly loss: number;
  readonly ok: boolean;
}

/** Compares with the recorded run. */
export function compareRecorded(drawn: Drawn, recorded: Recorded): Difference {
  const masks = recorded.mask.filter((m, i) => m !== drawn.mask[i]).length;
  const largest = Math.max(...recorded.prediction.map(Math.abs));
  const prediction = Math.max(...recorded.prediction.map((x, i) => Math.abs(x - drawn.prediction[i]!))) / largest;
  const loss = Math.abs(drawn.loss - recorded.loss) / recorded.loss;
  return { masks, prediction, loss, ok: masks === 0 && prediction <= MAE_TOLERANCE && loss <= MAE_TOLERANCE };
}

/** The mean loss and its standard error over images and masks. */
export function meanLoss(drawn: readonly Drawn[]): { readonly mean: number; readonly error: number } {
  const mean = drawn.reduce((sum, { loss }) => sum + loss, 0) / drawn.length;
  const squares = drawn.reduce((sum, { loss }) => sum + (loss - mean) ** 2, 0);
  return { mean, error: Math.sqrt(squares / (drawn.length - 1) / drawn.length) };
}

/** Patches [64, 4] as an image [16, 16]. */
export function unpatch(patches: ArrayLike<number>): Float32Array {
  return Float32Array.from({ length: SIDE * SIDE }, (_, at) => {
    const [y, x] = [Math.floor(at / SIDE), at % SIDE];
    const patch = Math.floor(y / PATCH) * GRID + Math.floor(x / PATCH);
    return patches[patch * PATCH ** 2 + (y % PATCH) * PATCH + (x % PATCH)]!;
  });
}

/** Whether each pixel [16, 16] lies in a removed patch. */
export function removedPixels(mask: ArrayLike<number>): boolean[] {
  return Array.from(unpatch(Array.from({ length: SIDE * SIDE }, (_, i) => mask[i >> 2]!)), (m) => m === 1);
}

/** The prediction with the visible patches pasted back, in normalised pixels [16, 16]. */
export function pasteVisible({ digit, mask, prediction }: Drawn): Float32Array {
  const drawn = unpatch(prediction);
  const removed = removedPixels(mask);
  return digit.pixels.map((x, at) => (removed[at] ? drawn[at]! : x));
}
