/** The recorded runs of PyTorch in `tests/fixtures/references`, in the form that sessions take and give. */
import { join } from 'node:path';
import { readSafetensors } from '../../frontends/weights/sharded.ts';
import { toFloat32 } from '../../ir/weights.ts';
import { projectRoot } from './project.ts';

export type ReferenceName = 'vit-timm' | 'vit-hf' | 'mae-fb' | 'mae-hf' | 'bert-hf' | 'clip-hf' | 'gpt2-hf';

/** f32 or i64, row-major. */
export interface Recorded {
  readonly data: Float32Array | BigInt64Array;
  readonly shape: readonly number[];
}

export const referenceFolder = (name: ReferenceName): string => join(projectRoot, 'tests/fixtures/references', name);

/** The tensors of one recording by name: `input.pixel_values`, `output.logits`. @throws Error for other names */
export function reference(name: ReferenceName): (tensor: string) => Recorded {
  const store = readSafetensors(join(referenceFolder(name), 'case.safetensors'));
  return (tensor) => {
    const found = store.get(tensor);
    if (found === undefined) throw new Error(`${name} records no ${tensor}; it has ${store.names().join(', ')}`);
    const { dtype, shape, bytes } = found;
    // A copy: the file's bytes may start anywhere.
    const data = dtype === 'i64' ? new BigInt64Array(new Uint8Array(bytes).buffer) : toFloat32(found);
    return { data, shape };
  };
}

/** Largest |got − want| over the largest |want|: the relative error of a whole tensor. NaN when either holds NaN. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) throw new Error(`${got.length} values, of which ${want.length} are expected`);
  let [worst, most] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    worst = Math.max(worst, Math.abs(got[i]! - want[i]!));
    most = Math.max(most, Math.abs(want[i]!));
  }
  return worst === 0 ? 0 : worst / most;
}

/** The given rows of axis 0, in that order: batches of other sizes from one recording. */
export function rowsOf({ data, shape }: Recorded, rows: readonly number[]): Recorded {
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  const parts = rows.map((row) => data.subarray(row * size, (row + 1) * size));
  return { data: joined(data, parts), shape: [rows.length, ...shape.slice(1)] };
}

/** Positions `from` to `to` of axis 1. */
export function columnsOf({ data, shape }: Recorded, from: number, to: number): Recorded {
  const [batch, length, ...rest] = shape as [number, number, ...number[]];
  const size = rest.reduce((a, b) => a * b, 1);
  const parts = Array.from({ length: batch }, (_, b) =>
    data.subarray((b * length + from) * size, (b * length + to) * size),
  );
  return { data: joined(data, parts), shape: [batch, to - from, ...rest] };
}

function joined(like: Recorded['data'], parts: readonly Recorded['data'][]): Recorded['data'] {
  return like instanceof BigInt64Array
    ? BigInt64Array.from(parts.flatMap((part) => [...(part as BigInt64Array)]))
    : Float32Array.from(parts.flatMap((part) => [...(part as Float32Array)]));
}
