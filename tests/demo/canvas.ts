/** A picture to draw sheets on: rectangles, enlarged images, and a tiny font. */
import { encode } from 'fast-png';

export type Colour = readonly [red: number, green: number, blue: number];

/** Glyphs of 3 by 5 pixels: five rows of three bits, an octal digit each. */
const GLYPHS: Readonly<Record<string, string>> = {
  '0': '75557',
  '1': '26227',
  '2': '71747',
  '3': '71717',
  '4': '55711',
  '5': '74717',
  '6': '74757',
  '7': '71122',
  '8': '75757',
  '9': '75717',
  A: '25755',
  B: '65656',
  C: '34443',
  D: '65556',
  E: '74647',
  F: '74644',
  G: '34553',
  H: '55755',
  I: '72227',
  J: '11152',
  K: '55655',
  L: '44447',
  M: '57755',
  N: '65555',
  O: '25552',
  P: '65644',
  Q: '25563',
  R: '65655',
  S: '34216',
  T: '72222',
  U: '55557',
  V: '55552',
  W: '55775',
  X: '55255',
  Y: '55222',
  Z: '71247',
  '%': '51245',
  '.': '00002',
  ',': '00024',
  ':': '02020',
  '-': '00700',
  '>': '42124',
  '=': '07070',
  '/': '11244',
  ' ': '00000',
};

export class Canvas {
  readonly width: number;
  readonly height: number;
  private readonly data: Uint8Array;

  constructor(width: number, height: number, background: Colour) {
    this.width = width;
    this.height = height;
    this.data = new Uint8Array(width * height * 3);
    this.fill(0, 0, width, height, background);
  }

  /** @throws Error for a rectangle that leaves the picture */
  fill(left: number, top: number, width: number, height: number, colour: Colour): void {
    if (left < 0 || top < 0 || left + width > this.width || top + height > this.height)
      throw new Error(`${width}×${height} at ${left}, ${top} leaves the ${this.width}×${this.height} picture`);
    for (let y = top; y < top + height; y++)
      for (let x = left; x < left + width; x++) this.data.set(colour, (y * this.width + x) * 3);
  }

  /** A square image of `side` by `side` pixels, each enlarged to `scale` by `scale`. */
  image(left: number, top: number, side: number, scale: number, colourAt: (index: number) => Colour): void {
    for (let i = 0; i < side * side; i++)
      this.fill(left + (i % side) * scale, top + Math.floor(i / side) * scale, scale, scale, colourAt(i));
  }

  /** Whether there is a glyph for a character. */
  draws(char: string): boolean {
    return GLYPHS[char.toUpperCase()] !== undefined;
  }

  /** Text in capitals; a character is 4 · scale wide and 5 · scale high. @throws Error for one that has no glyph */
  text(left: number, top: number, scale: number, text: string, colour: Colour): void {
    for (const [at, char] of [...text.toUpperCase()].entries()) {
      const rows = GLYPHS[char];
      if (rows === undefined) throw new Error(`no glyph for "${char}" in "${text}"`);
      for (const [y, row] of [...rows].entries())
        for (let x = 0; x < 3; x++)
          if ((Number(row) >> (2 - x)) & 1)
            this.fill(left + (4 * at + x) * scale, top + y * scale, scale, scale, colour);
    }
  }

  toPng(): Uint8Array {
    return encode({ width: this.width, height: this.height, data: this.data, channels: 3, depth: 8 });
  }
}
