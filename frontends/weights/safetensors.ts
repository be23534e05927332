import { type Scalar, sizeOf } from '../../ir/dtype.ts';
import type { WeightTensor } from '../../ir/weights.ts';
import { isObject, type Json, type JsonObject, readJson } from './json.ts';
import { type Fail, failIn, formatShape, quote } from './message.ts';
import { countElements, type FileStore, tensorBytes } from './store.ts';

/** Largest header accepted, in bytes: the limit of the reference implementation. */
export const MAX_HEADER = 100_000_000;

/** More axes than any tensor has; bounds what a hostile header can make the reader allocate. */
const MAX_RANK = 64;

const SCALARS: ReadonlyMap<string, Scalar> = new Map<string, Scalar>([
  ['F64', 'f64'],
  ['F32', 'f32'],
  ['F16', 'f16'],
  ['BF16', 'bf16'],
  ['I64', 'i64'],
  ['I32', 'i32'],
  ['I16', 'i16'],
  ['I8', 'i8'],
  ['U64', 'u64'],
  ['U32', 'u32'],
  ['U16', 'u16'],
  ['U8', 'u8'],
  ['BOOL', 'bool'],
]);

/** Types of the format that have no counterpart here, with their width in bits: the file opens, the tensor does not. */
const FOREIGN: ReadonlyMap<string, number> = new Map([
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2FNUZ', 8],
  ['C64', 64],
]);

const NAMES = new Map<Scalar, string>([...SCALARS].map(([name, dtype]) => [dtype, name]));

interface Entry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** A parsed safetensors file. Tensors are views of its bytes. */
export interface Safetensors extends FileStore {
  /** The header's `__metadata__`; empty when there is none. */
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Reads a safetensors file that is in memory. No tensor is copied: every `bytes` is a view of `bytes` given here, and
 * may be unaligned for its element type.
 *
 * Refused: a header length beyond the file or `MAX_HEADER`, anything but strict JSON, duplicate names, unknown dtypes,
 * offsets outside the data, overlaps, holes, bytes after the last tensor, a length that is not shape × element size.
 * A tensor of a type that heddle lacks (float8, complex) is refused by `get`, not here.
 *
 * @param source what to call the file in messages
 * @throws CompileError `weights`
 */
export function parseSafetensors(bytes: Uint8Array, source: string): Safetensors {
  const fail: Fail = failIn('weights', source);
  const start = dataStart(bytes, fail);
  const header = readHeader(bytes.subarray(8, start), source, fail);
  const available = bytes.length - start;
  const entries = new Map<string, Entry>();
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of header) {
    if (name === '__metadata__') metadata = readMetadata(value, fail);
    else entries.set(name, readEntry(name, value, available, fail));
  }
  checkLayout([...entries.values()], available, fail);

  const names = [...entries.keys()];
  return {
    source,
    metadata,
    names: () => names,
    origin: (name) => ({ file: source, name }),
    get(name) {
      const entry = entries.get(name);
      if (entry === undefined) return undefined;
      const dtype = SCALARS.get(entry.dtype);
      if (dtype === undefined) {
        const help = 'store it as F32, F16 or BF16';
        return fail(`tensor ${quote(name)} is ${entry.dtype}, a type heddle does not have`, { help });
      }
      return { dtype, shape: entry.shape, bytes: bytes.subarray(start + entry.begin, start + entry.end) };
    },
  };
}

/** The parts of a safetensors file in the order in which they stand: writing them one by one needs no second copy. */
export interface SafetensorsLayout {
  /** Length field and JSON, padded with spaces to a multiple of 8 bytes. */
  readonly header: Uint8Array;
  readonly chunks: readonly Uint8Array[];
  readonly byteLength: number;
}

/**
 * Lays out a safetensors file. Deterministic: the result depends on names, types, shapes and bytes only, not on the
 * order of `tensors`. Larger elements come first, then names ascend by code unit, so each tensor is aligned to its
 * element size within the file.
 *
 * @throws CompileError `weights` when a name repeats, is `__metadata__` or is not well-formed Unicode, or when
 *   bytes and shape disagree
 */
export function layoutSafetensors(
  tensors: Iterable<readonly [string, WeightTensor]>,
  metadata: Iterable<readonly [string, string]> = [],
): SafetensorsLayout {
  const fail: Fail = failIn('weights', 'writing safetensors');
  const byName = new Map<string, WeightTensor>();
  for (const [name, tensor] of tensors) {
    if (name === '__metadata__') fail('"__metadata__" is the name of the header\'s own field; rename the tensor');
    if (byName.has(name)) fail(`two tensors are called ${quote(name)}`);
    const expected = tensorBytes(tensor.dtype, tensor.shape);
    if (tensor.bytes.length !== expected) {
      const type = `${tensor.dtype}${formatShape(tensor.shape)}`;
      fail(`tensor ${quote(name)}: ${type} needs ${expected ?? 'too many'} bytes, it has ${tensor.bytes.length}`);
    }
    byName.set(name, tensor);
  }
  const ordered = [...byName].sort(([a, x], [b, y]) => sizeOf(y.dtype) - sizeOf(x.dtype) || compareText(a, b));

  // Written by hand rather than through an object: a tensor may be called "__proto__" or "0".
  const fields: string[] = [];
  const meta = [...new Map(metadata)].sort(([a], [b]) => compareText(a, b));
  if (meta.length > 0) {
    fields.push(`"__metadata__":{${meta.map(([key, value]) => `${text(key, fail)}:${text(value, fail)}`).join(',')}}`);
  }
  let at = 0;
  for (const [name, { dtype, shape, bytes }] of ordered) {
    const end = at + bytes.length;
    const key = text(name, fail);
    fields.push(`${key}:{"dtype":"${NAMES.get(dtype)}","shape":[${shape.join(',')}],"data_offsets":[${at},${end}]}`);
    at = end;
  }
  const json = new TextEncoder().encode(`{${fields.join(',')}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER) fail(`the header is ${length} bytes, more than the ${MAX_HEADER} that readers accept`);
  const header = new Uint8Array(8 + length).fill(0x20, 8);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, 8);
  return { header, chunks: ordered.map(([, tensor]) => tensor.bytes), byteLength: header.length + at };
}

/** `layoutSafetensors` in one array. */
export function encodeSafetensors(
  tensors: Iterable<readonly [string, WeightTensor]>,
  metadata: Iterable<readonly [string, string]> = [],
): Uint8Array {
  const { header, chunks, byteLength } = layoutSafetensors(tensors, metadata);
  const result = new Uint8Array(byteLength);
  let at = 0;
  for (const chunk of [header, ...chunks]) {
    result.set(chunk, at);
    at += chunk.length;
  }
  return result;
}

/** Where tensor data begins, after checking the length field against the file and the limit. */
function dataStart(bytes: Uint8Array, fail: Fail): number {
  if (bytes.length < 8) fail(`not a safetensors file: ${bytes.length} bytes, shorter than the 8-byte header length`);
  const length = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER)) {
    fail(`not a safetensors file: it claims a header of ${length} bytes, more than the limit of ${MAX_HEADER}`);
  }
  const start = 8 + Number(length);
  if (start > bytes.length) {
    fail(`the header is ${length} bytes but only ${bytes.length - 8} follow; the file is truncated`);
  }
  return start;
}

function readHeader(bytes: Uint8Array, source: string, fail: Fail): JsonObject {
  let header: string;
  try {
    header = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return fail('the header is not valid UTF-8');
  }
  if (!header.startsWith('{')) fail('not a safetensors file: the header does not begin with "{"');
  const json = readJson(header, { source: `${source}: header`, code: 'weights', maxDepth: 3, maxArray: MAX_RANK });
  return isObject(json) ? json : fail('the header is not an object');
}

function readMetadata(value: Json, fail: Fail): ReadonlyMap<string, string> {
  if (!isObject(value)) fail('__metadata__ is not an object');
  const result = new Map<string, string>();
  for (const [key, item] of value) {
    result.set(key, typeof item === 'string' ? item : fail(`__metadata__ ${quote(key)} is not a string`));
  }
  return result;
}

function readEntry(name: string, value: Json, available: number, fail: Fail): Entry {
  const tensor = `tensor ${quote(name)}`;
  if (!isObject(value)) fail(`${tensor}: the header holds no object for it`);
  for (const key of value.keys()) {
    if (key !== 'dtype' && key !== 'shape' && key !== 'data_offsets') fail(`${tensor}: unknown field ${quote(key)}`);
  }
  const dtype = value.get('dtype');
  if (typeof dtype !== 'string') fail(`${tensor}: dtype is missing or not a string`);
  const bits = dtypeBits(dtype);
  if (bits === undefined) fail(`${tensor}: unknown dtype ${quote(dtype)}; known are ${[...SCALARS.keys()].join(' ')}`);
  const shape = naturals(value.get('shape')) ?? fail(`${tensor}: shape is not a list of non-negative integers`);
  const [begin, end, ...more] = naturals(value.get('data_offsets')) ?? [];
  if (begin === undefined || end === undefined || more.length > 0) {
    fail(`${tensor}: data_offsets is not a pair of non-negative integers`);
  }
  if (begin > end || end > available) {
    fail(`${tensor}: data_offsets [${begin}, ${end}] leave the ${available} bytes of data that the file holds`);
  }
  const total = countElements([...shape, bits]) ?? fail(`${tensor}: the sizes ${formatShape(shape)} overflow`);
  const expected = total / 8;
  if (expected !== end - begin) {
    const held = `data_offsets [${begin}, ${end}] hold ${end - begin}`;
    fail(`${tensor}: ${dtype} ${formatShape(shape)} needs ${expected} bytes, ${held}`);
  }
  return { name, dtype, shape, begin, end };
}

/** The spec asks that the data be covered exactly: no byte in two tensors, none in no tensor. */
function checkLayout(entries: Entry[], available: number, fail: Fail): void {
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  let previous = '';
  for (const { name, begin, end } of entries) {
    if (begin < at)
      fail(`tensors ${quote(previous)} and ${quote(name)} overlap: bytes ${begin} to ${Math.min(at, end)}`);
    if (begin > at) fail(`bytes ${at} to ${begin}, before tensor ${quote(name)}, belong to no tensor`);
    at = end;
    previous = name;
  }
  if (at < available) fail(`bytes ${at} to ${available}, after the last tensor, belong to no tensor`);
}

function dtypeBits(name: string): number | undefined {
  const dtype = SCALARS.get(name);
  return dtype === undefined ? FOREIGN.get(name) : sizeOf(dtype) * 8;
}

function naturals(value: Json | undefined): readonly number[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const items: readonly Json[] = value;
  const result: number[] = [];
  for (const item of items) {
    if (typeof item !== 'number' || !Number.isSafeInteger(item) || item < 0) return undefined;
    result.push(item + 0);
  }
  return result;
}

/** A JSON string; escapes everything that JSON asks for, `\u` forms included. */
function text(value: string, fail: Fail): string {
  if (/\p{Surrogate}/u.test(value)) fail(`the name ${quote(value)} holds half of a surrogate pair`);
  return JSON.stringify(value);
}

/** Ascending by code unit, the same everywhere; `localeCompare` is not. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
