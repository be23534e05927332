/** The digits of `tests/fixtures/digits`: images that training never saw, and what PyTorch says about them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decode } from 'fast-png';
import { readSafetensors } from '../../frontends/weights/sharded.ts';
import type { WeightStore } from '../../ir/weights.ts';
import { projectRoot } from '../support/project.ts';

/** Folder of the fixture; `vit` and `mae` inside are model folders. */
export const digitsRoot: string = join(projectRoot, 'tests', 'fixtures', 'digits');

/** Pixels on each side of an image, of a patch, and patches on each side. */
export const SIDE = 16;
export const PATCH = 2;
export const GRID = SIDE / PATCH;

export interface Normalisation {
  readonly mean: number;
  readonly std: number;
}

export interface Digit {
  readonly file: string;
  readonly label: number;
  /** PyTorch's class, and its ten logits rounded to six digits after the point. */
  readonly predicted: number;
  readonly logits: readonly number[];
  /** Grey levels 0 … 255, [16, 16]. */
  readonly bytes: Uint8Array;
  /** The model's input, [16, 16]. */
  readonly pixels: Float32Array;
}

export interface Digits {
  readonly normalisation: Normalisation;
  readonly heldout: readonly Digit[];
  /** Mean loss of the autoencoder over all held-out images, with PyTorch's own masks. */
  readonly heldoutLoss: number;
}

interface Expected {
  readonly normalisation: Normalisation;
  readonly mae: { readonly heldoutLoss: number };
  readonly heldout: readonly Pick<Digit, 'file' | 'label' | 'predicted' | 'logits'>[];
}

/** Reads every held-out PNG. @throws Error for an image that is not 16×16 grey of 8 bits */
export function readDigits(): Digits {
  const { normalisation, mae, heldout } = JSON.parse(
    readFileSync(join(digitsRoot, 'expected.json'), 'utf8'),
  ) as Expected;
  return {
    normalisation,
    heldoutLoss: mae.heldoutLoss,
    heldout: heldout.map(({ file, label, predicted, logits }) => {
      const bytes = readGrey(join(digitsRoot, 'heldout', file));
      return { file, label, predicted, logits, bytes, pixels: normalise(bytes, normalisation) };
    }),
  };
}

/** `(byte / 255 − mean) / std`, in f64 and rounded to f32, as in training. */
export function normalise(bytes: Uint8Array, { mean, std }: Normalisation): Float32Array {
  return Float32Array.from(bytes, (byte) => (byte / 255 - mean) / std);
}

/** The inverse: grey levels, clamped to 0 … 255. */
export function toBytes(pixels: ArrayLike<number>, { mean, std }: Normalisation): Uint8Array {
  return Uint8Array.from(pixels, (x) => Math.min(255, Math.max(0, Math.round((x * std + mean) * 255))));
}

function readGrey(path: string): Uint8Array {
  const { width, height, channels, depth, data } = decode(readFileSync(path));
  if (width !== SIDE || height !== SIDE || channels !== 1 || depth !== 8)
    throw new Error(`${path}: ${width}×${height}, ${channels} channels of ${depth} bits; expected 16×16, 1 of 8`);
  return Uint8Array.from(data);
}

/** One recorded run of the autoencoder in PyTorch, batch 1. */
export interface Recorded {
  readonly digit: Digit;
  /** [64]; the 16 patches of least noise stay. */
  readonly noise: Float32Array;
  /** [64]; 1 = removed. */
  readonly mask: Float32Array;
  /** [64, 4] normalised pixels. */
  readonly prediction: Float32Array;
  readonly loss: number;
}

/** The recorded runs: the first held-out image of each digit. */
export function readRecorded({ heldout }: Digits): readonly Recorded[] {
  const store = readSafetensors(join(digitsRoot, 'mae', 'case.safetensors'));
  const rows = (name: string, width: number): ((row: number) => Float32Array) => {
    const all = floats(store, name);
    return (row) => all.slice(row * width, (row + 1) * width);
  };
  const images = rows('input.images', SIDE * SIDE);
  const noise = rows('input.noise', GRID * GRID);
  const mask = rows('output.mask', GRID * GRID);
  const prediction = rows('output.prediction', SIDE * SIDE);
  const { bytes } = tensor(store, 'input.index');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return [...floats(store, 'output.loss')].map((loss, row) => {
    const index = Number(view.getBigInt64(8 * row, true));
    const digit = heldout[index]!;
    if (images(row).some((x, i) => x !== digit.pixels[i]))
      throw new Error(`mae/case.safetensors: image ${row} is not ${digit.file}, which its index ${index} names`);
    return { digit, noise: noise(row), mask: mask(row), prediction: prediction(row), loss };
  });
}

function tensor(store: WeightStore, name: string): { readonly bytes: Uint8Array } {
  const found = store.get(name);
  if (!found) throw new Error(`${store.source}: no tensor ${name}`);
  return found;
}

function floats(store: WeightStore, name: string): Float32Array {
  return new Float32Array(tensor(store, name).bytes.slice().buffer);
}
