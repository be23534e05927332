/** What goes into a model and comes out. */
import type { Scalar } from '../../ir/dtype.ts';
import type { TensorData } from '../../runtime/api.ts';
import type { Size } from '../../runtime/manifest.ts';

/** An input as a model declares it. */
export interface Port {
  readonly name: string;
  readonly dtype: Scalar;
  readonly shape: readonly Size[];
}

/** Elements in row-major order with their shape. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: TensorData;
}
