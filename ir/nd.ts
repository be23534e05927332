/** Dense values of the reference interpreter: doubles in C order, whatever the element type. */
import { roundTo, type Scalar } from './dtype.ts';

/**
 * A tensor value. `data` holds doubles that are members of `dtype` when the value enters or leaves a graph; inside a
 * reference evaluation floats keep f64 precision. Booleans are 0 and 1; 64-bit integers are exact up to 2^53.
 */
export interface Nd {
  readonly dtype: Scalar;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export const countOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/** A value from numbers, rounded to `dtype`; a missing `data` gives zeros. */
export function nd(dtype: Scalar, shape: readonly number[], data?: Iterable<number> | ArrayLike<number>): Nd {
  const n = countOf(shape);
  if (data === undefined) return { dtype, shape, data: new Float64Array(n) };
  const values = Float64Array.from(data as ArrayLike<number>, (x) => roundTo(dtype, x));
  if (values.length !== n) throw new RangeError(`${values.length} values for shape [${shape.join(', ')}]`);
  return { dtype, shape, data: values };
}

export function rowMajor(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]!;
  }
  return strides;
}

/** Calls `visit` with every coordinate in C order. The array is reused between calls. */
export function eachIndex(shape: readonly number[], visit: (at: readonly number[], flat: number) => void): void {
  const n = countOf(shape);
  const at = new Array<number>(shape.length).fill(0);
  for (let flat = 0; flat < n; flat++) {
    visit(at, flat);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      if (++at[axis]! < shape[axis]!) break;
      at[axis] = 0;
    }
  }
}

/** Flat position of `at` in a tensor of `shape`, where axes of size 1 and missing leading axes broadcast. */
export function broadcastOffset(shape: readonly number[], strides: readonly number[], at: readonly number[]): number {
  const skip = at.length - shape.length;
  let offset = 0;
  for (let i = 0; i < shape.length; i++) if (shape[i] !== 1) offset += at[skip + i]! * strides[i]!;
  return offset;
}

/** A value computed element by element. */
export function generate(dtype: Scalar, shape: readonly number[], f: (at: readonly number[]) => number): Nd {
  const out = nd(dtype, shape);
  eachIndex(shape, (at, flat) => {
    out.data[flat] = f(at);
  });
  return out;
}
