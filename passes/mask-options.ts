/** What whoever runs passes knows about weights, and wants of masks. */
import type { Nd } from '../ir/nd.ts';

/** What numbers that hide a score only when it is small enough are taken for. */
export type FiniteMasks =
  /** Masks: what every author of `-10000` meant. */
  | 'exact'
  /** Numbers, unless it is known that every score is small enough. */
  | 'keep';

export interface MaskOptions {
  /** Default `exact`. */
  readonly finiteMasks?: FiniteMasks | undefined;
  /**
   * Whether a NaN or an infinity in what a mask hides must spread as it does in the model as written: numbers that hide scores
   * stay numbers, and products with zeros are not taken for zeros. Default false.
   */
  readonly strictNaN?: boolean | undefined;
  /** The elements of a parameter, where they are known and few enough to look at. */
  readonly contents?: ((param: string) => Nd | undefined) | undefined;
}
