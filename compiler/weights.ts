/** Weights as the kernels want them: evaluated, packed, laid side by side and written as one file. */
import { createHash } from 'node:crypto';
import { fail } from '../ir/diagnostic.ts';
import { intRange, isFloat, type Scalar, sizeOf } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import { graph, typeOf, type Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { printType } from '../ir/print.ts';
import { staticShape } from '../ir/type.ts';
import { toFloat32, toHalf, type WeightStore } from '../ir/weights.ts';
import type { WeightSegment, WeightsInfo } from '../runtime/manifest.ts';
import type { WeightPlaces } from './planner.ts';
import { storedAs, type WeightLayout } from './region.ts';

/** Columns of one panel; see `schedule/matmul.ts`. */
const PANEL = 8;
/** Of the weights of a bundle for WebAssembly alone; WebGPU binds buffers at multiples of 256 bytes. */
const ALIGN = 64;
const BINDING_ALIGN = 256;
const MOST_BYTES = 2 ** 32;
/** Bytes that are hashed at a time: the runtime holds four such blocks while it loads (two read, two copied). */
const BLOCK = 1 << 19;

const up = (bytes: number, multiple: number): number => Math.ceil(bytes / multiple) * multiple;

type Data = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array;

type PairLayout = WeightLayout & { readonly kind: 'pairs' };

interface Placed {
  readonly value: Value;
  readonly layout: WeightLayout;
  readonly elements: number;
  readonly dtype: Scalar;
  readonly stored: WeightSegment['stored'];
  /** Bytes in the memory of WebAssembly, and where they start there. */
  readonly bytes: number;
  readonly offset: number;
  /** Where they start in the file, and where they end. */
  readonly from: number;
  readonly end: number;
}

export interface WeightOptions {
  /** How floats are stored: `f16` halves those of f32. Default `f32`. */
  readonly storage?: 'f32' | 'f16' | undefined;
  /** Whether WebGPU reads the file too, which binds weights at multiples of 256 bytes and has integers of 32 bits only. */
  readonly webgpu?: boolean | undefined;
}

/** Gives weights places, in the memory of WebAssembly by `place` and in the file by `inFile`, and writes the file. */
export class WeightPlan implements WeightPlaces {
  /** Where weights stand in the file, as they do in the memory of a GPU. */
  readonly inFile: WeightPlaces = { place: (value, layout) => this.entry(value, layout).from };
  readonly storage: 'f32' | 'f16';
  private readonly placed = new Map<string, Placed>();
  private readonly keys = new WeightKeys();
  private readonly order: Placed[] = [];
  private readonly webgpu: boolean;
  private readonly align: number;
  private bytes = 0;

  constructor({ storage = 'f32', webgpu = false }: WeightOptions = {}) {
    this.storage = storage;
    this.webgpu = webgpu;
    this.align = webgpu ? BINDING_ALIGN : ALIGN;
  }

  place(value: Value, layout: WeightLayout): number {
    return this.entry(value, layout).offset;
  }

  /**
   * Tensors stand in the file as far apart as in memory (half as far, where they are stored as halves), so that neighbours
   * are one segment: most models have a single one.
   */
  private entry(value: Value, layout: WeightLayout): Placed {
    const turned = layout.kind !== 'plain' && layout.transposed;
    const key = `${turned ? 'turned ' : ''}${layout.kind} ${this.keys.of(value)}`;
    const known = this.placed.get(key);
    if (known) return known;
    const { dtype, elements } = storedAs(value, layout);
    const stored = this.storage === 'f16' && dtype === 'f32' ? 'f16' : 'raw';
    const wide = stored === 'f16' ? 2 : 1;
    const [offset, bytes] = [this.bytes, elements * sizeOf(dtype)];
    const last = this.order.at(-1);
    const end = up(last?.end ?? 0, this.webgpu ? this.align : 2);
    const from = last?.stored === stored ? last.from + (offset - last.offset) / wide : end;
    const entry: Placed = { value, layout, elements, dtype, stored, bytes, offset, from, end: from + bytes / wide };
    this.placed.set(key, entry);
    this.order.push(entry);
    this.bytes = offset + up(bytes, this.webgpu ? wide * this.align : this.align);
    if (!(this.bytes <= MOST_BYTES))
      fail('weights', `constants and weights take ${this.bytes} bytes, more than a WebAssembly memory of 4 GiB`, {
        notes: [`${value.name ?? value.op.name} : ${printType(value.type)}`],
      });
    return entry;
  }

  /**
   * The file's bytes and what the manifest says of them.
   *
   * @throws CompileError `range` for a number that does not fit what it is stored in, or on WebGPU what it is read as
   */
  write(store: WeightStore, file: string): { bytes: Uint8Array; info: WeightsInfo } {
    const segments: { from: number; bytes: number; to: number; stored: WeightSegment['stored'] }[] = [];
    for (const { from, end, offset, stored } of this.order) {
      const last = segments.at(-1);
      if (last?.stored === stored) last.bytes = end - last.from;
      else segments.push({ from, bytes: end - from, to: offset, stored });
    }
    const total = this.order.at(-1)?.end ?? 0;
    const bytes = new Uint8Array(total);
    for (const p of this.order) {
      const packed = pack(evaluateStatic(p.value, store), p);
      if (this.webgpu && packed instanceof BigInt64Array) requireWords(packed, p);
      const halved = p.stored === 'f16' ? halve(packed as Float32Array, p.value) : packed;
      bytes.set(new Uint8Array(halved.buffer, halved.byteOffset, halved.byteLength), p.from);
    }
    const sha256 = (part: Uint8Array | string): string => createHash('sha256').update(part).digest('hex');
    let hashes = '';
    for (let from = 0; from < total; from += BLOCK) hashes += sha256(bytes.subarray(from, from + BLOCK));
    return { bytes, info: { file, bytes: total, memory: this.bytes, segments, block: BLOCK, sha256: sha256(hashes) } };
  }
}

/** Equal for static values that hold the same bytes: entry points share their weights by parameter name. */
class WeightKeys {
  private readonly known = new Map<Value, string>();

  of(value: Value): string {
    const known = this.known.get(value);
    if (known !== undefined) return known;
    const key = this.make(value);
    this.known.set(value, key);
    return key;
  }

  private make(value: Value): string {
    if (value.op.name === 'param') return `param ${String(value.attrs.name)}`;
    if (value.op.name === 'constant') {
      const { dtype, shape, data } = value.attrs.value as Nd;
      if (data.length <= SMALL) return `constant ${dtype} [${shape.join()}] ${Array.from(data, written).join()}`;
    }
    const plain = Object.values(value.attrs).every((a) => typeof a !== 'object' || Array.isArray(a));
    if (value.inputs.length === 0 || !plain) return `value ${this.known.size}`;
    return `${value.op.name} ${JSON.stringify(value.attrs)} (${value.inputs.map((x) => this.of(x)).join(', ')})`;
  }
}

/** Constants up to this size are compared by what they hold. */
const SMALL = 64;
const written = (x: number): string => (Object.is(x, -0) ? '-0' : String(x));

/** Refuses 64-bit integers that 32 bits of their signedness cannot hold. */
function requireWords(values: BigInt64Array, { value, dtype }: Placed): void {
  const [low, high] = intRange(dtype === 'u64' ? 'u32' : 'i32');
  for (const x of values)
    if (x < low || x > high)
      fail('range', `${nameOf(value)} holds ${x}, and integers have 32 bits on WebGPU`, {
        loc: value.loc,
        help: 'compile for wasm alone, or use smaller numbers',
      });
}

const nameOf = (value: Value): string =>
  value.op.name === 'param' ? `tensor "${String(value.attrs.name)}"` : `a weight made by ${value.op.name}`;

/** @throws CompileError `range` for a value that no half can hold, rather than making it infinite */
function halve(values: Float32Array, from: Value): Uint16Array {
  const halves = toHalf(values);
  for (const [i, half] of halves.entries())
    if ((half & 0x7fff) === 0x7c00 && Number.isFinite(values[i]!)) {
      fail('range', `${nameOf(from)} holds ${values[i]}, and f16 ends at 65504`, { loc: from.loc, help: 'store f32' });
    }
  return halves;
}

function pack(data: Data, { value, layout, elements }: Placed): Data {
  if (layout.kind === 'plain') return data;
  if (layout.kind === 'pairs') return packPairs(data, layout, elements, typeOf(value).dtype === 'u8' ? 0x80 : 0);
  const { k, n, transposed } = layout;
  const from = data as Float32Array;
  const out = new Float32Array(elements);
  for (let panel = 0; panel * PANEL < n; panel++) {
    const columns = Math.min(PANEL, n - panel * PANEL);
    const base = panel * PANEL * k;
    if (transposed)
      for (let j = 0; j < columns; j++) {
        const row = (panel * PANEL + j) * k;
        for (let i = 0; i < k; i++) out[base + i * PANEL + j] = from[row + i]!;
      }
    else
      for (let i = 0; i < k; i++)
        for (let j = 0; j < columns; j++) out[base + i * PANEL + j] = from[i * n + panel * PANEL + j]!;
  }
  return out;
}

/** @param flip what turns an element's byte into that of a signed number */
function packPairs(data: Data, layout: PairLayout, elements: number, flip: number): Uint8Array {
  const { batch, k, n, transposed } = layout;
  const from = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const out = new Uint8Array(2 * elements);
  const half = Math.ceil(k / 2);
  const [alongK, alongN] = transposed ? [1, k] : [n, 1];
  for (let b = 0; b < batch; b++)
    for (let column = 0; column < n; column++) {
      const to = (b * elements) / batch + Math.floor(column / PANEL) * half * PANEL + (column % PANEL);
      const start = b * k * n + column * alongN;
      for (let i = 0; i < k; i++) out[2 * (to + (i >> 1) * PANEL) + (i & 1)] = from[start + i * alongK]! ^ flip;
    }
  return out;
}

/** Bytes of a value that depends on parameters and constants alone, in the element type's natural array. */
export function evaluateStatic(value: Value, store: WeightStore): Data {
  switch (value.op.name) {
    case 'param':
      return parameter(value, store);
    case 'constant':
      return fromNd(value.attrs.value as Nd);
    case 'reshape':
      return evaluateStatic(value.inputs[0]!, store);
    case 'slice': {
      const rows = wholeRows(value);
      if (rows) return evaluateStatic(value.inputs[0]!, store).slice(...rows);
      break;
    }
    case 'mul': {
      const scaled = scaledParameter(value, store);
      if (scaled) return scaled;
      break;
    }
    case 'concat': {
      // Rows of whole operands stand one after another.
      const outer = typeOf(value).shape.slice(0, Number(value.attrs.axis));
      if (value.attrs.axis === 0 || outer.every((d) => d === 1))
        return join(value.inputs.map((x) => evaluateStatic(x, store)));
    }
  }
  return fromNd(evaluateNumbers(value, store));
}

/** A static value by the reference interpreter: in f64, not rounded. */
function evaluateNumbers(value: Value, store: WeightStore): Nd {
  const leaves = new Map<string, Nd>();
  const result = evaluate(graph('weights', [], [['value', value]]), {
    inputs: {},
    params: (name: string) => {
      const known = leaves.get(name);
      if (known) return known;
      const param = findParam(value, name);
      const data = parameter(param, store);
      const made: Nd = {
        dtype: typeOf(param).dtype,
        shape: staticShape(typeOf(param).shape)!,
        data: numbersOf(data, typeOf(param).dtype),
      };
      leaves.set(name, made);
      return made;
    },
  });
  return result.value!;
}

/**
 * A parameter times one number for each position of one of its axes: the weights of a convolution, once a normalisation is
 * folded into them. The same product as below, without a walk over coordinates; undefined for other products.
 */
function scaledParameter(value: Value, store: WeightStore): Float32Array | undefined {
  const [weights, factors] = value.inputs as [Value, Value];
  const [shape, along] = [staticShape(typeOf(weights).shape)!, staticShape(typeOf(factors).shape)!];
  const axis = along.findIndex((d) => d !== 1);
  const whole = typeOf(value).shape.join() === shape.join() && along.length === shape.length;
  if (weights.op.name !== 'param' || typeOf(weights).dtype !== 'f32' || !whole || axis < 0) return undefined;
  if (along.some((d, i) => i !== axis && d !== 1)) return undefined;
  const by = evaluateNumbers(factors, store).data;
  const out = new Float32Array(evaluateStatic(weights, store) as Float32Array);
  const inner = shape.slice(axis + 1).reduce((n, d) => n * d, 1);
  for (let i = 0, at = 0; at < out.length; i = (i + 1) % by.length)
    for (const end = at + inner; at < end; at++) out[at] = out[at]! * by[i]!;
  return out;
}

/** Where the elements of a slice begin and end in its operand, when it takes whole rows of that; undefined otherwise. */
function wholeRows(value: Value): readonly [number, number] | undefined {
  const { dtype, shape } = typeOf(value.inputs[0]!);
  const [rows, ...inner] = staticShape(shape)!;
  const [start, ...starts] = value.attrs.starts as readonly number[];
  const [stop, ...stops] = value.attrs.stops as readonly number[];
  const forward = (value.attrs.steps as readonly number[]).every((step) => step === 1);
  const whole = inner.every((size, i) => starts[i] === 0 && stops[i] === size);
  // Types without an array of their own come as bytes.
  if (rows === undefined || typeof start !== 'number' || typeof stop !== 'number') return undefined;
  if (!forward || !whole || sizeOf(dtype) < 4) return undefined;
  const row = inner.reduce((n, d) => n * d, 1);
  return [start * row, stop * row];
}

function findParam(root: Value, name: string): Value {
  const stack = [root];
  for (let v = stack.pop(); v; v = stack.pop()) {
    if (v.op.name === 'param' && v.attrs.name === name) return v;
    stack.push(...v.inputs);
  }
  throw new Error(`parameter ${name} is not below this value`);
}

function parameter(param: Value, store: WeightStore): Data {
  const name = String(param.attrs.name);
  const stored = store.get(name);
  const type = typeOf(param);
  if (!stored) return fail('weights', `${store.source} has no tensor "${name}"`, { loc: param.loc });
  if (stored.shape.join() !== type.shape.join())
    fail('weights', `tensor "${name}" is [${stored.shape.join(', ')}], the model needs [${type.shape.join(', ')}]`, {
      loc: param.loc,
    });
  const needs = stored.shape.reduce((n, d) => n * d, sizeOf(stored.dtype));
  if (stored.bytes.length !== needs)
    fail('weights', `tensor "${name}" has ${stored.bytes.length} bytes, ${needs} for its type and shape`, {
      loc: param.loc,
    });
  if (type.dtype === 'f32' && isFloat(stored.dtype)) return withoutNaN(toFloat32(stored), name, store);
  if (type.dtype !== stored.dtype)
    fail('dtype', `tensor "${name}" is ${stored.dtype}, the model needs ${type.dtype}`, { loc: param.loc });
  // A copy, since the bytes may stand at any offset (`slice` of a Buffer is none).
  const { buffer, byteOffset, byteLength } = new Uint8Array(stored.bytes);
  switch (type.dtype) {
    case 'f64':
      return new Float64Array(buffer, byteOffset, byteLength / 8);
    case 'i64':
    case 'u64':
      return new BigInt64Array(buffer, byteOffset, byteLength / 8);
    case 'i32':
    case 'u32':
      return new Int32Array(buffer, byteOffset, byteLength / 4);
    default:
      return new Uint8Array(buffer, byteOffset, byteLength);
  }
}

/** Elements as numbers; types that have no array of their own in `Data` come as bytes. */
function numbersOf(data: Data, dtype: Scalar): Float64Array {
  const { buffer, byteOffset, byteLength } = data;
  switch (dtype) {
    case 'f16':
    case 'bf16': {
      const bytes = new Uint8Array(buffer, byteOffset, byteLength);
      return Float64Array.from(toFloat32({ dtype, shape: [byteLength / 2], bytes }));
    }
    case 'i8':
      return Float64Array.from(new Int8Array(buffer, byteOffset, byteLength));
    case 'i16':
      return Float64Array.from(new Int16Array(buffer, byteOffset, byteLength / 2));
    case 'u16':
      return Float64Array.from(new Uint16Array(buffer, byteOffset, byteLength / 2));
    case 'u32':
      return Float64Array.from(new Uint32Array(buffer, byteOffset, byteLength / 4));
    case 'u64':
      return Float64Array.from(new BigUint64Array(buffer, byteOffset, byteLength / 8), Number);
    default:
      return Float64Array.from(data as Float32Array, Number);
  }
}

function withoutNaN(values: Float32Array, name: string, store: WeightStore): Float32Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++)
    if ((words[i]! & 0x7fffffff) > 0x7f800000)
      fail('weights', `${store.source}: tensor "${name}" is NaN at element ${i}`);
  return values;
}

function fromNd({ dtype, data }: Nd): Data {
  switch (dtype) {
    case 'f32':
      return Float32Array.from(data);
    case 'f64':
      return Float64Array.from(data);
    case 'i64':
    case 'u64':
      return BigInt64Array.from(data, BigInt);
    case 'i32':
    case 'u32':
      return Int32Array.from(data, (x) => x | 0);
    case 'i8':
    case 'u8':
    case 'bool':
      return Uint8Array.from(data);
    case 'i16':
    case 'u16':
      return new Uint8Array(Uint16Array.from(data).buffer);
    case 'f16':
      return new Uint8Array(toHalf(Float32Array.from(data)).buffer);
    case 'bf16':
      return new Uint8Array(
        Uint16Array.from(data, (x) => new Uint32Array(Float32Array.of(x).buffer)[0]! >>> 16).buffer,
      );
  }
}

function join(parts: readonly Data[]): Data {
  const first = parts[0]!;
  const length = parts.reduce((n, p) => n + p.length, 0);
  if (first instanceof Float32Array) {
    const out = new Float32Array(length);
    let at = 0;
    for (const p of parts as readonly Float32Array[]) {
      out.set(p, at);
      at += p.length;
    }
    return out;
  }
  const bytes = new Uint8Array(length * first.BYTES_PER_ELEMENT);
  let at = 0;
  for (const p of parts) {
    bytes.set(new Uint8Array(p.buffer, p.byteOffset, p.byteLength), at);
    at += p.byteLength;
  }
  return first instanceof BigInt64Array
    ? new BigInt64Array(bytes.buffer)
    : first instanceof Float64Array
      ? new Float64Array(bytes.buffer)
      : first instanceof Int32Array
        ? new Int32Array(bytes.buffer)
        : bytes;
}
