import { CompileError, fail } from '../../ir/diagnostic.ts';
import { isFloat, type Scalar, sizeOf } from '../../ir/dtype.ts';
import { aligned, toFloat32, type WeightStore, type WeightTensor } from '../../ir/weights.ts';
import { formatShape, quote } from './message.ts';

export { toFloat32 };

/** A weight store that was read from files. */
export interface FileStore extends WeightStore {
  /** The file that holds a tensor and its name there (several names, joined by ` + `, when they are stored apart). */
  origin(name: string): { readonly file: string; readonly name: string };
}

/** Product of sizes, or undefined where it is not an exact integer below 2^53 at some step. */
export function countElements(shape: readonly number[]): number | undefined {
  let count = 1;
  for (const size of shape) {
    count *= size;
    if (!Number.isSafeInteger(count) || size < 0) return undefined;
  }
  return count;
}

/** Bytes of a tensor, or undefined where that overflows. */
export function tensorBytes(dtype: Scalar, shape: readonly number[]): number | undefined {
  return countElements([...shape, sizeOf(dtype)]);
}

/**
 * Index of the first NaN in C order, or -1.
 * Integer and bool tensors have none.
 */
export function firstNaN({ dtype, bytes }: WeightTensor): number {
  switch (dtype) {
    case 'f32': {
      const data = aligned(bytes, 4);
      const words = new Uint32Array(data.buffer, data.byteOffset, data.length / 4);
      for (let i = 0; i < words.length; i++) if ((words[i]! & 0x7fffffff) > 0x7f800000) return i;
      return -1;
    }
    case 'f64': {
      const data = aligned(bytes, 8);
      return new Float64Array(data.buffer, data.byteOffset, data.length / 8).findIndex(Number.isNaN);
    }
    case 'f16':
    case 'bf16': {
      const infinity = dtype === 'f16' ? 0x7c00 : 0x7f80;
      const data = aligned(bytes, 2);
      const halves = new Uint16Array(data.buffer, data.byteOffset, data.length / 2);
      for (let i = 0; i < halves.length; i++) if ((halves[i]! & 0x7fff) > infinity) return i;
      return -1;
    }
    default:
      return -1;
  }
}

/** A tensor that a model reads. Any float type may stand in the store for any other; the rest must be equal. */
export interface ExpectedTensor {
  readonly name: string;
  readonly dtype: Scalar;
  readonly shape: readonly number[];
}

export interface CheckOptions {
  /** Names that the store may hold although the model reads none of them. */
  readonly allowExtra?: readonly RegExp[];
  /** Default `refuse`. */
  readonly nan?: 'refuse' | 'allow';
}

const MAX_PROBLEMS = 20;

/**
 * Compares what a model reads with what a store holds, before anything is built from it.
 *
 * @throws CompileError `weights`, one for all problems: missing and extra tensors, wrong types and shapes, NaN, and
 *   tensors that the store itself refuses; twenty lines at most, then a count
 */
export function checkWeights(
  expected: readonly ExpectedTensor[],
  store: WeightStore,
  options: CheckOptions = {},
): void {
  const wanted = new Set(expected.map(({ name }) => name));
  const missing: string[] = [];
  const problems: string[] = [];
  for (const want of expected) {
    const found = tryGet(store, want.name);
    if (found === undefined) missing.push(want.name);
    else if (found instanceof CompileError) problems.push(`refused    ${found.diagnostic.message}`);
    else {
      const problem = compare(want, found, options.nan ?? 'refuse');
      if (problem !== undefined) problems.push(`${problem}${where(store, want.name)}`);
    }
  }
  const extra = store.names().filter((name) => {
    return !wanted.has(name) && !(options.allowExtra ?? []).some((rule) => name.search(rule) >= 0);
  });
  const types = new Map(expected.map((want) => [want.name, `${want.dtype}${formatShape(want.shape)}`]));
  const lines = [
    ...missing.map((name) => `missing    ${quote(name)} : ${types.get(name)}`),
    ...problems,
    ...extra.map((name) => `extra      ${quote(name)}${where(store, name)}`),
  ];
  if (lines.length === 0) return;
  const notes = lines.slice(0, MAX_PROBLEMS);
  if (lines.length > notes.length) notes.push(`… and ${lines.length - notes.length} more`);
  const wrong = `${problems.length} with a wrong type, shape or value`;
  const counts = `${missing.length} missing, ${extra.length} extra, ${wrong}`;
  const help = prefixHelp(missing, extra);
  fail('weights', `${store.source} does not fit the model: ${counts}`, { notes, help });
}

function tryGet(store: WeightStore, name: string): WeightTensor | CompileError | undefined {
  try {
    return store.get(name);
  } catch (error) {
    if (error instanceof CompileError) return error;
    throw error;
  }
}

function compare(want: ExpectedTensor, found: WeightTensor, nan: 'refuse' | 'allow'): string | undefined {
  const name = quote(want.name);
  const types = `${found.dtype}${formatShape(found.shape)}, the model reads ${want.dtype}${formatShape(want.shape)}`;
  if (!equalShapes(want.shape, found.shape)) {
    const looks = equalShapes(want.shape.toReversed(), found.shape) ? '; it looks transposed' : '';
    return `shape      ${name} is ${types}${looks}`;
  }
  if (want.dtype !== found.dtype && !(isFloat(want.dtype) && isFloat(found.dtype)))
    return `type       ${name} is ${types}`;
  const at = nan === 'refuse' ? firstNaN(found) : -1;
  return at < 0 ? undefined : `NaN        ${name} at element ${at} of ${found.dtype}${formatShape(found.shape)}`;
}

function equalShapes(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}

function where(store: WeightStore & Partial<FileStore>, name: string): string {
  const origin = store.origin?.(name);
  if (origin === undefined) return '';
  return origin.name === name ? `, in ${origin.file}` : `, in ${origin.file} as ${quote(origin.name)}`;
}

/** Checkpoints saved from a wrapper carry its name before every tensor; say so instead of leaving two long lists. */
function prefixHelp(missing: readonly string[], extra: readonly string[]): string | undefined {
  const first = missing[0];
  const twin = first === undefined ? undefined : extra.find((name) => name.endsWith(`.${first}`));
  if (first === undefined || twin === undefined) return undefined;
  const prefix = twin.slice(0, -first.length);
  const present = new Set(extra);
  const found = missing.filter((name) => present.has(prefix + name)).length;
  return `${found} of the missing names are present after the prefix ${quote(prefix)}; strip it from the file`;
}
