/**
 * Random numbers for initial weights: xoshiro128** (Blackman & Vigna 2018) and the ziggurat of Marsaglia & Tsang 2000.
 * Written as two loops over a whole tensor, because a call for each of 10⁸ numbers would cost more than the numbers.
 */

/** State of a generator: four 32-bit words, not all zero. */
export type Stream = Uint32Array;

/** The stream of a name under a seed: FNV-1a of both, spread by splitmix32. */
export function streamOf(name: string, seed: number): Stream {
  let hash = 0x811c9dc5;
  for (const char of new TextEncoder().encode(`${seed}/${name}`)) hash = Math.imul(hash ^ char, 0x01000193);
  return Uint32Array.from({ length: 4 }, () => {
    hash = (hash + 0x9e3779b9) | 0;
    let word = Math.imul(hash ^ (hash >>> 16), 0x21f0aaad);
    word = Math.imul(word ^ (word >>> 15), 0x735a2d97);
    return (word ^ (word >>> 15)) >>> 0;
  });
}

/** Uniform numbers in (−bound, bound), 24 bits each. */
export function fillUniform(out: Float32Array, stream: Stream, bound: number): void {
  let [a, b, c, d] = stream as unknown as [number, number, number, number];
  const unit = bound / 2 ** 23;
  for (let i = 0; i < out.length; i++) {
    const r5 = Math.imul(b, 5);
    const word = Math.imul((r5 << 7) | (r5 >>> 25), 9);
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = (d << 11) | (d >>> 21);
    // The odd half-steps: symmetric about zero, and never the bound itself.
    out[i] = ((word >> 8) + 0.5) * unit;
  }
  stream.set([a, b, c, d]);
}

/** 128 strips of equal area under exp(−x²/2): widths, and the share of each strip that lies wholly under the curve. */
const STRIPS = 128;
const TAIL = 3.442619855899;
const AREA = 9.91256303526217e-3;
const edge = new Float64Array(STRIPS + 1);
const inner = new Int32Array(STRIPS);
const width = new Float64Array(STRIPS);
{
  const density = (x: number): number => Math.exp(-0.5 * x * x);
  edge[0] = AREA / density(TAIL);
  edge[1] = TAIL;
  // edge[STRIPS] stays 0: the topmost strip reaches the axis.
  for (let i = 2; i < STRIPS; i++) edge[i] = Math.sqrt(-2 * Math.log(AREA / edge[i - 1]! + density(edge[i - 1]!)));
  for (let i = 0; i < STRIPS; i++) {
    inner[i] = Math.floor((edge[i + 1]! / edge[i]!) * 2 ** 31);
    width[i] = edge[i]! / 2 ** 31;
  }
}

/**
 * Gaussian numbers of standard deviation `std`; those beyond `limit` standard deviations are drawn again.
 *
 * Nearly all come from one word: seven bits choose a strip, the word itself is the place in it.
 */
export function fillNormal(out: Float32Array, stream: Stream, std: number, limit: number): void {
  let [a, b, c, d] = stream as unknown as [number, number, number, number];
  const next = (): number => {
    const r5 = Math.imul(b, 5);
    const word = Math.imul((r5 << 7) | (r5 >>> 25), 9);
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = (d << 11) | (d >>> 21);
    return word;
  };
  const unit = (): number => ((next() >>> 0) + 0.5) / 2 ** 32;
  for (let i = 0; i < out.length; ) {
    const word = next();
    const strip = word & (STRIPS - 1);
    let x = word * width[strip]!;
    // Outside the sure part of its strip: in the tail, or in the wedge beside the curve.
    if (Math.abs(word) >= inner[strip]!) {
      if (strip === 0) x = Math.sign(word) * tail(unit);
      else {
        const [low, high] = [Math.exp(-0.5 * edge[strip]! ** 2), Math.exp(-0.5 * edge[strip + 1]! ** 2)];
        if (low + unit() * (high - low) >= Math.exp(-0.5 * x * x)) continue;
      }
    }
    if (Math.abs(x) <= limit) out[i++] = x * std;
  }
  stream.set([a, b, c, d]);
}

/** A Gaussian number beyond `TAIL` (Marsaglia 1964). */
function tail(unit: () => number): number {
  for (;;) {
    const x = -Math.log(unit()) / TAIL;
    const y = -Math.log(unit());
    if (2 * y > x * x) return TAIL + x;
  }
}
