/** Order statistics of one sample of times. All in the unit of the sample. */
export interface Summary {
  readonly count: number;
  readonly min: number;
  /** 20th percentile: the speed in the quieter fifth of the runs, which a noisy machine disturbs least. */
  readonly p20: number;
  readonly median: number;
}

/**
 * Quantile by linear interpolation between order statistics (the definition that NumPy and R call type 7).
 *
 * @param sample  at least one finite number, in any order
 * @param q       0 for the smallest, 0.5 for the median, 1 for the largest
 * @throws RangeError when the sample is empty or q lies outside [0, 1]
 */
export function quantile(sample: readonly number[], q: number): number {
  if (sample.length === 0) throw new RangeError('quantile: the sample is empty');
  if (!(q >= 0 && q <= 1)) throw new RangeError(`quantile: q is ${q}, expected 0 to 1`);
  const sorted = sample.toSorted((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  const below = sorted[low] as number;
  const above = sorted[Math.ceil(at)] as number;
  return below + (above - below) * (at - low);
}

/** Minimum, 20th percentile and median of a sample with at least one number. */
export function summarize(sample: readonly number[]): Summary {
  return {
    count: sample.length,
    min: quantile(sample, 0),
    p20: quantile(sample, 0.2),
    median: quantile(sample, 0.5),
  };
}

/** How far a result lies from a reference of the same length. */
export interface Difference {
  /** Largest |actual - expected|. */
  readonly maxAbs: number;
  /** `maxAbs` over the largest |expected|; the whole-tensor relative error. 0 when both are all zeros. */
  readonly maxRel: number;
}

/**
 * Largest absolute and relative difference of two arrays.
 *
 * @throws Error when the lengths differ or either holds a number that is not finite
 */
export function difference(actual: Float32Array, expected: Float32Array): Difference {
  if (actual.length !== expected.length) {
    throw new Error(`cannot compare outputs: ${actual.length} elements against ${expected.length} of the reference`);
  }
  let maxAbs = 0;
  let scale = 0;
  for (const [i, want] of expected.entries()) {
    const got = actual[i] as number;
    if (!Number.isFinite(got) || !Number.isFinite(want)) {
      throw new Error(`cannot compare outputs: element ${i} is ${got}, the reference has ${want}`);
    }
    maxAbs = Math.max(maxAbs, Math.abs(got - want));
    scale = Math.max(scale, Math.abs(want));
  }
  const maxRel = maxAbs === 0 ? 0 : scale === 0 ? Number.POSITIVE_INFINITY : maxAbs / scale;
  return { maxAbs, maxRel };
}
