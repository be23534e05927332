/** Which positions of an axis a resized position is made of, and with what weights: ONNX Resize, worked out in numbers. */

export interface ResizeAxis {
  readonly size: number;
  readonly out: number;
  readonly scale: number;
  /** Start and end of the part that is resized, as shares of the axis. */
  readonly roi?: readonly [number, number];
}

export interface ResizeMode {
  readonly mode: string;
  readonly coordinates: string;
  readonly nearest: string;
  /** Coefficient a of cubic interpolation. */
  readonly cubic: number;
  readonly antialias: boolean;
  readonly excludeOutside: boolean;
  /** What stands outside, for `tf_crop_and_resize`. */
  readonly outside: number;
}

/** One term of every resized position. */
export interface Tap {
  readonly from: readonly number[];
  readonly weights: readonly number[];
}

/** Where a resized position lies on the original axis. */
function original(at: number, { size, out, scale, roi }: ResizeAxis, coordinates: string): number {
  switch (coordinates) {
    case 'asymmetric':
      return at / scale;
    case 'align_corners': {
      const last = size * scale - 1;
      return out === 1 || last === 0 ? 0 : (at * (size - 1)) / last;
    }
    case 'pytorch_half_pixel':
      return out === 1 ? 0 : (at + 0.5) / scale - 0.5;
    case 'half_pixel_symmetric': {
      const adjustment = out / (scale * size);
      return (size / 2) * (1 - adjustment) + (at + 0.5) / scale - 0.5;
    }
    case 'tf_half_pixel_for_nn':
      return (at + 0.5) / scale;
    case 'tf_crop_and_resize': {
      const [start, end] = roi ?? [0, 1];
      if (out === 1) return 0.5 * (start + end) * (size - 1);
      return start * (size - 1) + (at * (end - start) * (size - 1)) / (out - 1);
    }
    default:
      return (at + 0.5) / scale - 0.5;
  }
}

function nearestOf(x: number, mode: string): number {
  switch (mode) {
    case 'floor':
      return Math.floor(x);
    case 'ceil':
      return Math.ceil(x);
    case 'round_prefer_ceil':
      return Math.floor(x + 0.5);
    default:
      return Math.ceil(x - 0.5);
  }
}

const linearWeight = (d: number): number => Math.max(0, 1 - Math.abs(d));
function cubicWeight(d: number, a: number): number {
  const x = Math.abs(d);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

/** The terms of every position of the resized axis; all positions have equally many. */
export function resizeTaps(axis: ResizeAxis, how: ResizeMode): Tap[] {
  const { size, out } = axis;
  const rows = Array.from({ length: out }, (_, at) => row(original(at, axis, how.coordinates), axis, how));
  const most = Math.max(1, ...rows.map((r) => r.length));
  return Array.from({ length: most }, (_, k) => ({
    from: rows.map((r) => Math.min(Math.max(r[k]?.[0] ?? 0, 0), size - 1)),
    weights: rows.map((r) => r[k]?.[1] ?? 0),
  }));
}

function row(x: number, { size, scale }: ResizeAxis, how: ResizeMode): (readonly [number, number])[] {
  if (how.coordinates === 'tf_crop_and_resize' && (x < 0 || x > size - 1)) return [];
  if (how.mode === 'nearest') return [[nearestOf(x, how.nearest), 1]];
  const stretch = how.antialias && scale < 1 ? scale : 1;
  const reach = (how.mode === 'linear' ? 1 : 2) / stretch;
  const weight = (d: number): number =>
    how.mode === 'linear' ? linearWeight(d * stretch) : cubicWeight(d * stretch, how.cubic);
  const terms: [number, number][] = [];
  for (let i = Math.ceil(x - reach); i <= Math.floor(x + reach); i++) {
    const w = weight(i - x);
    if (w === 0 || (how.excludeOutside && (i < 0 || i >= size))) continue;
    terms.push([i, w]);
  }
  const total = terms.reduce((t, [, w]) => t + w, 0);
  const one = how.antialias || how.excludeOutside;
  return terms.map(([i, w]) => [i, one ? w / total : w]);
}
