/** Tensors from files and into files: `.npy`, `.json`, and images as `.png`. */
import { extname } from 'node:path';
import { encodeNpy, parseNpy } from '../../frontends/npy.ts';
import { readBytes, writeAtomic } from '../../frontends/weights/files.ts';
import { CompileError, fail } from '../../ir/diagnostic.ts';
import { isFloat, type Scalar } from '../../ir/dtype.ts';
import { countOf, type Nd, nd } from '../../ir/nd.ts';
import { didYouMean } from '../../ir/suggest.ts';
import { toFloat32, toHalf } from '../../ir/weights.ts';
import type { Input, Tensor, TensorData } from '../../runtime/api.ts';
import { type ImageOptions, readImage } from './images.ts';
import type { Port, Values } from './ports.ts';
import { usage } from './terminal.ts';

/**
 * Reads `name=path` pairs into inputs.
 *
 * @throws CompileError `usage` for a pair that is none, `name` for an input that the model lacks, `file`, `dtype` or `shape`
 *   when a file does not hold what the input takes
 */
export function readInputs(
  pairs: readonly string[],
  ports: readonly Port[],
  image: ImageOptions,
): Record<string, Values> {
  const inputs: Record<string, Values> = {};
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    if (at < 1) usage(`--input is "${pair}"`, 'write --input NAME=FILE');
    const [name, path] = [pair.slice(0, at), pair.slice(at + 1)];
    const names = ports.map((port) => port.name);
    const port = ports.find((each) => each.name === name);
    if (!port) {
      const help = didYouMean(name, names) ?? `the inputs are ${names.join(', ')}`;
      return fail('name', `there is no input "${name}"`, { help });
    }
    if (Object.hasOwn(inputs, name)) usage(`--input ${name} is given twice`);
    inputs[name] = readValues(path, port, image);
  }
  return inputs;
}

function readValues(path: string, port: Port, image: ImageOptions): Values {
  switch (extname(path)) {
    case '.npy':
      return fromNpy(path, port);
    case '.json':
      return fromJson(path, port);
    case '.png':
      return readImage(path, port, image);
    default:
      return usage(`${path}: inputs are .npy, .json or .png files`);
  }
}

function fromNpy(path: string, port: Port): Values {
  const tensor = parseNpy(readBytes(path), path);
  const { dtype, shape } = tensor;
  if (port.dtype === 'f32' && isFloat(dtype)) return { shape, data: toFloat32(tensor) };
  if (dtype !== port.dtype)
    fail('dtype', `${path} is ${dtype}, input "${port.name}" is ${port.dtype}`, {
      help: `save array.astype('${NUMPY[port.dtype] ?? port.dtype}')`,
    });
  return { shape, data: arrayOver(dtype, tensor.bytes) };
}

const NUMPY: Partial<Record<Scalar, string>> = {
  f64: 'float64',
  f32: 'float32',
  f16: 'float16',
  i64: 'int64',
  i32: 'int32',
};

const CLASSES = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i64: BigInt64Array,
  i32: Int32Array,
  i16: Int16Array,
  i8: Int8Array,
  u64: BigUint64Array,
  u32: Uint32Array,
  u16: Uint16Array,
  u8: Uint8Array,
  bool: Uint8Array,
} as const;

function arrayOver(dtype: Scalar, bytes: Uint8Array): TensorData {
  const copy = new Uint8Array(bytes);
  return new CLASSES[dtype](copy.buffer);
}

/** Nested lists, or `{ "shape": […], "data": […] }`. */
function fromJson(path: string, port: Port): Values {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(readBytes(path)));
  } catch (error) {
    if (error instanceof CompileError) throw error;
    return fail('file', `${path}: not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
  const held =
    typeof json === 'object' && json !== null && 'data' in json && 'shape' in json
      ? { shape: shapeOf(json.shape, path), items: flatten(json.data, path).items }
      : flatten(json, path);
  const { shape, items } = held;
  if (countOf(shape) !== items.length)
    fail('file', `${path}: ${items.length} values for the shape [${shape.join(', ')}]`);
  return { shape, data: arrayFrom(port, items, path) };
}

function shapeOf(shape: unknown, path: string): number[] {
  if (Array.isArray(shape) && shape.every((d) => Number.isSafeInteger(d) && d >= 0)) return shape as number[];
  return fail('file', `${path}: "shape" is not a list of sizes`);
}

function flatten(
  json: unknown,
  path: string,
): { readonly shape: readonly number[]; readonly items: readonly number[] } {
  const shape: number[] = [];
  for (let level = json; Array.isArray(level); level = (level as readonly unknown[])[0]) shape.push(level.length);
  const items: number[] = [];
  const visit = (level: unknown, depth: number): void => {
    if (Array.isArray(level) && depth < shape.length && level.length === shape[depth]) {
      for (const item of level as readonly unknown[]) visit(item, depth + 1);
    } else if (depth === shape.length && (typeof level === 'number' || typeof level === 'boolean'))
      items.push(Number(level));
    else if (depth === shape.length)
      fail('file', `${path}: holds ${JSON.stringify(level)?.slice(0, 40)}, not a number`);
    else fail('file', `${path}: the lists at depth ${depth} differ in length`);
  };
  visit(json, 0);
  return { shape, items };
}

function arrayFrom({ name, dtype }: Port, items: readonly number[], path: string): TensorData {
  if (dtype === 'f16') return toHalf(Float32Array.from(items));
  if (dtype === 'bf16') return fail('unsupported', `${path}: input "${name}" is bf16, which JSON cannot give`);
  if (!isFloat(dtype)) {
    const bad = items.find((x) => !Number.isSafeInteger(x));
    if (bad !== undefined) fail('dtype', `${path}: holds ${bad}, input "${name}" is ${dtype}`);
  }
  if (dtype === 'i64' || dtype === 'u64') return new CLASSES[dtype](items.map(BigInt));
  const data = new CLASSES[dtype](items);
  const at = isFloat(dtype) ? -1 : items.findIndex((x, i) => data[i] !== x);
  if (at >= 0) fail('dtype', `${path}: holds ${items[at]}, which a ${dtype} cannot`);
  return data;
}

/** The same values as the reference interpreter takes them. */
export function toNd({ shape, data }: Values, dtype: Scalar): Nd {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (dtype === 'f16' || dtype === 'bf16') return nd(dtype, shape, toFloat32({ dtype, shape, bytes }));
  return nd(dtype, shape, Array.from(data as ArrayLike<number | bigint>, Number));
}

export const asInputs = (values: Readonly<Record<string, Values>>): Record<string, Input> => ({ ...values });

/** Output files: one `.json` for all outputs, or one `.npy` an output. */
export function writeOutput(path: string, name: string | undefined, outputs: Readonly<Record<string, Tensor>>): void {
  writeAtomic(path, [outputBytes(path, name, outputs)]);
}

function outputBytes(path: string, name: string | undefined, outputs: Readonly<Record<string, Tensor>>): Uint8Array {
  const names = Object.keys(outputs);
  if (name !== undefined && !Object.hasOwn(outputs, name))
    fail('name', `there is no output "${name}"`, {
      help: didYouMean(name, names) ?? `outputs are ${names.join(', ')}`,
    });
  const type = extname(path);
  if (type === '.json') {
    const chosen = name === undefined ? outputs : { [name]: outputs[name]! };
    return new TextEncoder().encode(`${JSON.stringify(outputsJson(chosen))}\n`);
  }
  if (type !== '.npy') return usage(`${path}: outputs are .npy or .json files`);
  const key = name ?? (names.length === 1 ? names[0] : undefined);
  if (key === undefined)
    return usage(`${path} holds one output, the model has ${names.join(', ')}`, 'write --output NAME=FILE.npy');
  const { dtype, shape, data } = outputs[key]!;
  return encodeNpy({ dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) });
}

/** Outputs as plain JSON: numbers, with what JSON lacks as text. */
export function outputsJson(outputs: Readonly<Record<string, Tensor>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(outputs).map(([name, { dtype, shape, data }]) => [
      name,
      {
        dtype,
        shape,
        data: Array.from(numbersOf(dtype, shape, data), (x) => (Number.isFinite(x) ? x : String(x))),
      },
    ]),
  );
}

/** Elements as numbers, halves widened. */
export const numbersOf = (dtype: Scalar, shape: readonly number[], data: TensorData): Float64Array =>
  toNd({ shape, data }, dtype).data;
