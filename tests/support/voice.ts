/** Sounds to tell apart, made from formulas: a voice that says vowels, noise, a tone, silence. */
import { seeded } from '../../ir/ops/example.ts';

/** Samples a second. */
export const RATE = 16000;

/** First three resonances of five vowels, in hertz. */
const VOWELS = [
  [730, 1090, 2440],
  [270, 2290, 3010],
  [530, 1840, 2480],
  [570, 840, 2410],
  [300, 870, 2240],
] as const;
const WIDTHS = [80, 90, 120] as const;
const LEVELS = [1, 0.6, 0.3] as const;

/** Four vowels a second: pulses of a varying pitch about 120 Hz through three resonances. */
export function voice(seconds: number): Float32Array {
  const out = new Float32Array(RATE * seconds);
  const state = [
    [0, 0],
    [0, 0],
    [0, 0],
  ] as [number, number][];
  const next = seeded(5);
  let phase = 0;
  for (let i = 0; i < out.length; i++) {
    const t = i / RATE;
    phase += (120 + 20 * Math.sin(2 * Math.PI * 0.7 * t)) / RATE;
    const pulse = phase >= 1 ? 1 : 0;
    phase -= pulse;
    const source = pulse - 0.02 * next();
    const [syllable, within] = [Math.floor(4 * t), (4 * t) % 1];
    const [here, after] = [VOWELS[syllable % 5]!, VOWELS[(syllable + 1) % 5]!];
    const glide = Math.max(0, within - 0.7) / 0.3;
    let sum = 0;
    for (const [j, s] of state.entries()) {
      const centre = here[j]! + (after[j]! - here[j]!) * glide;
      const r = Math.exp((-Math.PI * WIDTHS[j]!) / RATE);
      const v = source + 2 * r * Math.cos((2 * Math.PI * centre) / RATE) * s[0] - r * r * s[1];
      s[1] = s[0];
      s[0] = v;
      sum += v * LEVELS[j]! * (1 - r);
    }
    out[i] = sum * Math.sin(Math.PI * Math.min(1, 1.1 * within));
  }
  const top = out.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return out.map((x) => (0.5 * x) / top);
}

export function noise(seconds: number): Float32Array {
  const next = seeded(9);
  return Float32Array.from({ length: RATE * seconds }, () => 0.2 * (next() - 0.5));
}

export const tone = (seconds: number): Float32Array =>
  Float32Array.from({ length: RATE * seconds }, (_, i) => 0.4 * Math.sin((2 * Math.PI * 440 * i) / RATE));

export const silence = (seconds: number): Float32Array => new Float32Array(RATE * seconds);
