import type { Scalar } from './dtype.ts';

/** One stored tensor: little-endian bytes, C order; a view of the file's buffer, never a copy. */
export interface WeightTensor {
  readonly dtype: Scalar;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/**
 * Bytes of parameters, keyed by checkpoint name. `get` may be lazy (seeded initialisation) but always answers the
 * same bytes; it answers undefined exactly for the names that `names` does not list.
 */
export interface WeightStore {
  /** What to call this store in a message: a path, or how the values were made. */
  readonly source: string;
  names(): readonly string[];
  get(name: string): WeightTensor | undefined;
}
