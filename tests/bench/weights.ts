/** A trained tensor: name and shape as in the published checkpoint. */
export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
}

/**
 * Gives the values of a parameter, row-major, in the layout of the published checkpoint
 * (a linear layer's weight is [out, in]).
 */
export type WeightSource = (name: string, shape: readonly number[]) => Float32Array;

/** Names the values of `seededWeights` in cache file names; change it whenever they change. */
export const SEEDED_WEIGHTS_ID = 'seeded-1';

const SPREAD = 0.035; // Uniform in ±0.035 has the standard deviation 0.02 of BERT's and ViT's initialisation.

/**
 * Deterministic uniform values that keep a deep transformer's activations in the normal range: ±0.035 for weights and
 * biases, 1 ± 0.035 for the scale of a normalisation. Each parameter depends on its name and length only, so models
 * may ask in any order.
 */
export const seededWeights: WeightSource = (name, shape) => {
  const centre = /norm\d*\.weight$/i.test(name) ? 1 : 0;
  return uniform(
    name,
    shape.reduce((a, b) => a * b, 1),
    centre,
    SPREAD,
  );
};

/** `count` reproducible values, uniform in centre ± spread; `seed` is any text. */
export function uniform(seed: string, count: number, centre: number, spread: number): Float32Array {
  let state = fnv1a(seed);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    // mulberry32: one 32-bit word of state, full period.
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    const unit = ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    out[i] = centre + (2 * unit - 1) * spread;
  }
  return out;
}

/** 32-bit FNV-1a over UTF-16 code units. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash | 0;
}

/** The bytes of an f32 array, without a copy; little-endian, as every machine that runs Node is. */
export function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
