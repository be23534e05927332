/** The three pictures that the demo writes. */
import { Canvas, type Colour } from './canvas.ts';
import { probabilities, type Seen } from './classify.ts';
import { GRID, type Normalisation, PATCH, SIDE, toBytes } from './digits.ts';
import type { Line, Reading } from './reading.ts';
import { type Drawn, pasteVisible, removedPixels } from './reconstruct.ts';

const PAPER: Colour = [250, 250, 247];
const INK: Colour = [40, 44, 52];
const FAINT: Colour = [214, 214, 206];
const GOOD: Colour = [46, 125, 80];
const BAD: Colour = [196, 58, 49];
const HIDDEN: Colour = [70, 84, 120];

/** Enlargement of a pixel; the side of an enlarged image; space between cells; height of a line of text. */
const SCALE = 12;
const CELL = SIDE * SCALE;
const GAP = 14;
const LINE = 30;
const FONT = 3;

const grey = (level: number): Colour => [level, level, level];

/** Input, masked input and reconstruction (visible patches pasted back) of each image, in two blocks of rows. */
export function reconstructionSheet(drawn: readonly Drawn[], normalisation: Normalisation): Canvas {
  const rows = Math.ceil(drawn.length / 2);
  const block = 3 * (CELL + GAP) + 2 * GAP;
  const canvas = new Canvas(2 * block + GAP, rows * (CELL + LINE + GAP) + LINE + 2 * GAP, PAPER);
  for (const left of [2 * GAP, 2 * GAP + block])
    for (const [column, title] of ['input', 'masked', 'reconstruction'].entries())
      canvas.text(left + column * (CELL + GAP), GAP, FONT, title, INK);
  for (const [at, one] of drawn.entries()) {
    const left = 2 * GAP + Math.floor(at / rows) * block;
    const top = GAP + LINE + (at % rows) * (CELL + LINE + GAP);
    const removed = removedPixels(one.mask);
    const painted = toBytes(pasteVisible(one), normalisation);
    canvas.image(left, top, SIDE, SCALE, (i) => grey(one.digit.bytes[i]!));
    canvas.image(left + CELL + GAP, top, SIDE, SCALE, (i) => (removed[i] ? HIDDEN : grey(one.digit.bytes[i]!)));
    canvas.image(left + 2 * (CELL + GAP), top, SIDE, SCALE, (i) => grey(painted[i]!));
    const visible = one.mask.filter((m) => m === 0).length;
    canvas.text(left, top + CELL + 7, FONT, `digit ${one.digit.label}`, INK);
    canvas.text(left + CELL + GAP, top + CELL + 7, FONT, `${visible} of ${one.mask.length} left`, INK);
    canvas.text(left + 2 * (CELL + GAP), top + CELL + 7, FONT, `loss ${one.loss.toFixed(3)}`, INK);
  }
  return canvas;
}

/**
 * What the class token reads in the last layer: the mean over heads, then each head, laid over the image. A patch glows
 * fully at the map's largest share, or at four times an even share where that is more, so that an even map stays dim.
 */
export function attentionSheet(seen: readonly Seen[]): Canvas {
  const heads = seen[0]!.attention.length;
  const columns = ['input', 'mean', ...Array.from({ length: heads }, (_, head) => `head ${head}`)];
  const canvas = new Canvas(
    columns.length * (CELL + GAP) + 3 * GAP,
    seen.length * (CELL + LINE + GAP) + LINE + 2 * GAP,
    PAPER,
  );
  for (const [column, title] of columns.entries()) canvas.text(2 * GAP + column * (CELL + GAP), GAP, FONT, title, INK);
  for (const [row, one] of seen.entries()) {
    const top = GAP + LINE + row * (CELL + LINE + GAP);
    canvas.image(2 * GAP, top, SIDE, SCALE, (i) => grey(one.digit.bytes[i]!));
    caption(canvas, 2 * GAP, top + CELL + 7, one);
    const mean = one.attention[0]!.map((_, patch) => one.attention.reduce((sum, map) => sum + map[patch]!, 0) / heads);
    for (const [column, map] of [mean, ...one.attention].entries()) {
      const left = 2 * GAP + (column + 1) * (CELL + GAP);
      const largest = Math.max(...map);
      const full = Math.max(largest, 4 / map.length);
      canvas.image(left, top, SIDE, SCALE, (i) => {
        const patch = Math.floor(i / SIDE / PATCH) * GRID + Math.floor((i % SIDE) / PATCH);
        return heat(one.digit.bytes[i]!, map[patch]! / full);
      });
      canvas.text(left, top + CELL + 7, FONT, `max ${percent(largest)}`, INK);
    }
  }
  return canvas;
}

/** Each image with its class and the ten probabilities as bars. */
export function classSheet(seen: readonly Seen[], columns = 5): Canvas {
  const width = CELL + GAP + 150;
  const rows = Math.ceil(seen.length / columns);
  const canvas = new Canvas(columns * (width + 2 * GAP) + 2 * GAP, rows * (CELL + LINE + 2 * GAP) + 2 * GAP, PAPER);
  for (const [at, one] of seen.entries()) {
    const left = 2 * GAP + (at % columns) * (width + 2 * GAP);
    const top = 2 * GAP + Math.floor(at / columns) * (CELL + LINE + 2 * GAP);
    canvas.image(left, top, SIDE, SCALE, (i) => grey(one.digit.bytes[i]!));
    caption(canvas, left, top + CELL + 7, one);
    for (const [digit, share] of probabilities(one.logits).entries()) {
      const y = top + Math.round((digit * CELL) / 10);
      const bar = left + CELL + GAP + 18;
      canvas.text(left + CELL + GAP, y + 2, 2, String(digit), INK);
      canvas.fill(bar, y + 1, 120, 12, FAINT);
      const colour = digit === one.digit.label ? GOOD : digit === one.predicted ? BAD : INK;
      canvas.fill(bar, y + 1, Math.round(120 * share), 12, colour);
    }
  }
  return canvas;
}

/** Each line as it was given, and below every character that was found the probability that it is that one. */
export function readingSheet(lines: readonly { readonly line: Line; readonly reading: Reading }[]): Canvas {
  const scale = 3;
  const [height, bar] = [48 * scale, 60];
  const width = Math.max(...lines.map(({ line }) => line.width)) * scale;
  const block = height + bar + 2 * LINE + GAP;
  const canvas = new Canvas(width + 4 * GAP, lines.length * block + 2 * GAP, PAPER);
  for (const [at, { line, reading }] of lines.entries()) {
    const [left, top] = [2 * GAP, 2 * GAP + at * block];
    for (let i = 0; i < line.bytes.length; i++)
      canvas.fill(
        left + (i % line.width) * scale,
        top + Math.floor(i / line.width) * scale,
        scale,
        scale,
        grey(line.bytes[i]!),
      );
    for (const { char, probability, at: share } of reading.characters) {
      const x = left + Math.min(Math.round(share * line.width * scale), line.width * scale - 4);
      const long = Math.round(bar * probability);
      canvas.fill(x, top + height + 4, 4, bar, FAINT);
      canvas.fill(x, top + height + 4 + bar - long, 4, long, probability > 0.5 ? GOOD : BAD);
      if (canvas.draws(char)) canvas.text(x - 4, top + height + bar + 10, FONT, char, INK);
    }
    const right = reading.text === line.text;
    canvas.text(
      left,
      top + height + bar + 10 + LINE,
      FONT,
      right ? 'as it was written' : 'read wrong',
      right ? GOOD : BAD,
    );
  }
  return canvas;
}

function caption(canvas: Canvas, left: number, top: number, { digit, predicted, logits }: Seen): void {
  const share = percent(probabilities(logits)[predicted]!);
  const right = predicted === digit.label;
  const text = right ? `${predicted}  ${share}` : `${digit.label} -> ${predicted}  ${share}`;
  canvas.text(left, top, FONT, text, right ? GOOD : BAD);
}

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

/** A grey level under a glow of strength 0 … 1: blue where nothing is read, through violet and red to yellow. */
function heat(level: number, strength: number): Colour {
  const stops: readonly Colour[] = [
    [24, 32, 92],
    [122, 30, 140],
    [226, 64, 80],
    [255, 214, 70],
  ];
  const at = Math.min(strength, 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  const mix = (channel: 0 | 1 | 2): number => {
    const glow = stops[low]![channel] + (at - low) * (stops[low + 1]![channel] - stops[low]![channel]);
    return Math.round(0.6 * glow + 0.4 * level);
  };
  return [mix(0), mix(1), mix(2)];
}
