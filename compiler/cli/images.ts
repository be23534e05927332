/** Images as inputs: `.png` into `f32[1, channels, height, width]`. */
import { readFileSync } from 'node:fs';
import { decode } from 'fast-png';
import { fail } from '../../ir/diagnostic.ts';
import type { Size } from '../../runtime/manifest.ts';
import type { Port, Values } from './ports.ts';
import { usage } from './terminal.ts';

/** How pixels become numbers: (pixel / scale − mean) / std, channel by channel. */
export interface ImageOptions {
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly scale: number;
}

/** Width and height must be what the input takes; grey, colour and transparency follow its number of channels. */
export function readImage(path: string, port: Port, { mean, std, scale }: ImageOptions): Values {
  const [, channels, height, width] = port.shape;
  if (port.shape.length !== 4 || port.dtype !== 'f32' || (channels !== 1 && channels !== 3))
    return fail('shape', `${path}: an image does not fit input "${port.name}"`, {
      help: 'images go into f32[batch, 1 or 3 channels, height, width]; give .npy or .json',
    });
  for (const [flag, list] of [
    ['--mean', mean],
    ['--std', std],
  ] as const)
    if (list.length !== 1 && list.length !== channels)
      usage(`${flag} has ${list.length} numbers, input "${port.name}" has ${channels} channels`);
  const png = readPng(path);
  const wrong = (size: Size | undefined, actual: number): boolean => typeof size === 'number' && size !== actual;
  if (wrong(height, png.height) || wrong(width, png.width))
    fail(
      'shape',
      `${path} is ${png.width}×${png.height}, input "${port.name}" takes ${String(width)}×${String(height)}`,
      {
        help: 'scale the image first',
      },
    );
  const pixels = png.width * png.height;
  const data = new Float32Array(channels * pixels);
  for (let c = 0; c < channels; c++) {
    const m = mean[c] ?? mean[0]!;
    const s = std[c] ?? std[0]!;
    for (let i = 0; i < pixels; i++) data[c * pixels + i] = (png.sample(i, c, channels) / scale - m) / s;
  }
  return { shape: [1, channels, png.height, png.width], data };
}

interface Picture {
  readonly width: number;
  readonly height: number;
  /** Brightness of a channel in 0 … 255. */
  sample(pixel: number, channel: number, of: number): number;
}

function readPng(path: string): Picture {
  let png: ReturnType<typeof decode>;
  try {
    png = decode(readFileSync(path));
  } catch (error) {
    return fail('file', `${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { width, height, data, depth, channels, palette } = png;
  if (depth < 8 && !palette) fail('unsupported', `${path}: ${depth} bits a channel`, { help: 'save it with 8 bits' });
  const unit = depth === 16 ? 257 : 1;
  const colours = palette ? 3 : channels >= 3 ? 3 : 1;
  const read = (pixel: number, channel: number): number => {
    if (!palette) return data[pixel * channels + channel]! / unit;
    const entry = palette[indexAt(data, width, depth, pixel)];
    return entry?.[channel] ?? fail('file', `${path}: a colour is not in the palette`);
  };
  return {
    width,
    height,
    sample(pixel, channel, of) {
      if (of === colours) return read(pixel, channel);
      if (of === 3) return read(pixel, 0);
      // Luma of ITU-R BT.601, as image libraries convert colour to grey.
      return 0.299 * read(pixel, 0) + 0.587 * read(pixel, 1) + 0.114 * read(pixel, 2);
    },
  };
}

/** The palette entry of a pixel: rows of less than 8 bits a pixel are padded to whole bytes. */
function indexAt(data: ArrayLike<number>, width: number, depth: number, pixel: number): number {
  if (depth >= 8) return data[pixel]!;
  const [x, y] = [pixel % width, Math.floor(pixel / width)];
  const byte = data[y * Math.ceil((width * depth) / 8) + Math.floor((x * depth) / 8)]!;
  return (byte >> (8 - depth - ((x * depth) % 8))) & (2 ** depth - 1);
}
