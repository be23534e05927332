/** A graph of an ONNX file while it is written: nodes, names that are unique in the whole file, constants, sizes. */
import { fail } from '../../ir/diagnostic.ts';
import { isFloat, isInt, type Scalar, sizeOf } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import type { Nd } from '../../ir/nd.ts';
import { nd } from '../../ir/nd.ts';
import { printDim } from '../../ir/print.ts';
import type { Dim, Shape, TensorType } from '../../ir/type.ts';
import type { AttributeDraft, AttributeDrafts, NodeDraft, TensorDraft, ValueDraft } from './encode.ts';

const ELEMENT_TYPE: Readonly<Record<Scalar, number>> = {
  f32: 1,
  u8: 2,
  i8: 3,
  u16: 4,
  i16: 5,
  i32: 6,
  i64: 7,
  bool: 9,
  f16: 10,
  f64: 11,
  u32: 12,
  u64: 13,
  bf16: 16,
};
/** `TensorProto.DataType` of an element type. */
export const elementType = (dtype: Scalar): number => ELEMENT_TYPE[dtype];

export const int = (value: number): AttributeDraft => ({ int: value });
export const ints = (values: readonly number[]): AttributeDraft => ({ ints: values });
export const float = (value: number): AttributeDraft => ({ float: value });
export const string = (value: string): AttributeDraft => ({ string: value });

const halfBits = new Uint32Array(1);
const halfFloat = new Float32Array(halfBits.buffer);
/** The bit pattern of a number that f16 holds. */
function halfPattern(x: number): number {
  halfFloat[0] = x;
  const bits = halfBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 127;
  const mantissa = bits & 0x7fffff;
  if (exponent === 128) return sign | 0x7c00 | (mantissa ? 0x200 : 0);
  if (exponent >= -14) return sign | ((exponent + 15) << 10) | (mantissa >>> 13);
  return sign | Math.round(Math.abs(x) * 2 ** 24);
}

type Put = (view: DataView, at: number, x: number) => void;
const putWord: Put = (view, at, x) => view.setInt32(at, x | 0, true);
const putLong: Put = (view, at, x) => view.setBigInt64(at, BigInt.asIntN(64, BigInt(x)), true);
const putShort: Put = (view, at, x) => view.setInt16(at, x, true);
const putByte: Put = (view, at, x) => view.setInt8(at, x);
const STORES: Readonly<Record<Scalar, Put>> = {
  f64: (view, at, x) => view.setFloat64(at, x, true),
  f32: (view, at, x) => view.setFloat32(at, x, true),
  f16: (view, at, x) => view.setUint16(at, halfPattern(x), true),
  bf16: (view, at, x) => {
    halfFloat[0] = x;
    view.setUint16(at, halfBits[0]! >>> 16, true);
  },
  i64: putLong,
  u64: putLong,
  i32: putWord,
  u32: putWord,
  i16: putShort,
  u16: putShort,
  i8: putByte,
  u8: putByte,
  bool: putByte,
};

/** Elements as little-endian bytes of their type. */
export function bytesOf({ dtype, data }: Nd): Uint8Array {
  const width = sizeOf(dtype);
  const out = new Uint8Array(data.length * width);
  const view = new DataView(out.buffer);
  const put = STORES[dtype];
  data.forEach((x, i) => {
    put(view, i * width, x);
  });
  return out;
}

export const tensorOf = (name: string, value: Nd): TensorDraft => ({
  name,
  dims: value.shape,
  type: elementType(value.dtype),
  bytes: bytesOf(value),
});

/** What the graphs of one file share. */
export interface FileWriter {
  readonly opset: number;
  /** The name of a tensor, i64 of rank 0, that holds a size; its nodes stand in the outermost graph. */
  size(size: Dim): string;
  /** Makes a tensor of the outermost graph, i32 of rank 0, the value of a symbol. */
  define(symbol: Expr, name: string): void;
}

/** Names of one file. */
export class Names {
  private readonly taken = new Set<string>();
  private readonly counts = new Map<string, number>();

  /** A name that nobody has: `wanted`, or `wanted_2`, … */
  unique(wanted: string): string {
    let name = wanted;
    let n = this.counts.get(wanted) ?? 1;
    while (this.taken.has(name)) name = `${wanted}_${++n}`;
    this.counts.set(wanted, n);
    this.taken.add(name);
    return name;
  }
  has(name: string): boolean {
    return this.taken.has(name);
  }
}

export class GraphWriter {
  readonly file: FileWriter;
  readonly names: Names;
  readonly nodes: NodeDraft[] = [];
  readonly values: ValueDraft[] = [];
  /** Nodes of the value that is being written. */
  private group: NodeDraft[] = [];
  private constants = new Map<string, string>();
  private base = 'value';

  constructor(file: FileWriter, names: Names) {
    this.file = file;
    this.names = names;
  }

  get opset(): number {
    return this.file.opset;
  }

  /** Starts the nodes of one value; what they compute on the way is named after it. */
  begin(base: string): void {
    this.base = base;
    this.group = [];
    this.constants = new Map();
  }
  /** Writes nodes that belong to no value in particular, such as sizes. */
  outside<T>(base: string, make: () => T): T {
    const { base: before, group, constants } = this;
    this.begin(base);
    try {
      return make();
    } finally {
      this.base = before;
      this.group = group;
      this.constants = constants;
    }
  }
  /** The nodes since `begin`. */
  written(): readonly NodeDraft[] {
    return this.group;
  }

  /** A node with one result. */
  node(op: string, inputs: readonly string[], attributes: AttributeDrafts = {}): string {
    return this.many(op, inputs, 1, attributes)[0]!;
  }
  /** A node with several results; the places in `skipped` are left out. */
  many(op: string, inputs: readonly string[], results: number, attributes: AttributeDrafts = {}): string[] {
    const outputs = Array.from({ length: results }, () => this.names.unique(`${this.base}/${op}`));
    this.push({ op, inputs: [...inputs], outputs, attributes, metadata: {} });
    return [...outputs];
  }
  push(node: NodeDraft): void {
    while (node.inputs.length > 0 && node.inputs.at(-1) === '') node.inputs.pop();
    this.nodes.push(node);
    this.group.push(node);
  }

  /** Gives a result of the nodes since `begin` its final name; another tensor is passed on under that name. */
  rename(from: string, to: string): void {
    if (from === to) return;
    if (!this.group.some((n) => n.outputs.includes(from))) {
      this.push({ op: 'Identity', inputs: [from], outputs: [to], attributes: {}, metadata: {} });
      return;
    }
    for (const n of this.group) {
      n.outputs.forEach((name, i) => {
        if (name === from) n.outputs[i] = to;
      });
      n.inputs.forEach((name, i) => {
        if (name === from) n.inputs[i] = to;
      });
    }
  }

  constant(value: Nd): string {
    const key = `${value.dtype}[${value.shape.join()}]${Array.from(value.data, (x) => (Object.is(x, -0) ? '-0' : x)).join()}`;
    const known = value.data.length <= 64 ? this.constants.get(key) : undefined;
    if (known) return known;
    const name = this.node('Constant', [], { value: { tensor: tensorOf('', value) } });
    this.constants.set(key, name);
    return name;
  }
  scalar(value: number, dtype: Scalar): string {
    return this.constant(nd(dtype, [], [value]));
  }
  longs(values: readonly number[]): string {
    return this.constant(nd('i64', [values.length], values));
  }
  /** One whole number as a tensor of rank 1. */
  long(value: number): string {
    return this.longs([value]);
  }

  /** Sizes as a tensor of rank 1. */
  sizes(shape: Shape): string {
    if (shape.every((d) => typeof d === 'number')) return this.longs(shape as readonly number[]);
    const parts = shape.map((d) =>
      typeof d === 'number' ? this.long(d) : this.node('Reshape', [this.file.size(d), this.long(1)]),
    );
    return parts.length === 1 ? parts[0]! : this.node('Concat', parts, { axis: int(0) });
  }

  cast(x: string, from: Scalar, to: Scalar): string {
    return from === to ? x : this.node('Cast', [x], { to: int(elementType(to)) });
  }
  transpose(x: string, perm: readonly number[]): string {
    return this.node('Transpose', [x], { perm: ints(perm) });
  }
  reshape(x: string, shape: readonly number[]): string {
    return this.node('Reshape', [x, this.longs(shape)]);
  }

  declare(name: string, type: TensorType, doc = ''): void {
    this.values.push(valueDraft(name, type, doc));
  }
}

export const valueDraft = (name: string, { dtype, shape }: TensorType, doc = ''): ValueDraft => ({
  name,
  type: elementType(dtype),
  shape: shape.map((d) => (typeof d === 'number' ? d : printDim(d))),
  doc,
});

/** The element type in which an operator that lacks `dtype` computes the same. */
export function widened(dtype: Scalar): Scalar {
  if (isFloat(dtype)) return dtype === 'f64' ? 'f64' : 'f32';
  return isInt(dtype) && (dtype === 'u32' || dtype === 'u64' || dtype === 'i64') ? 'i64' : 'i32';
}

/** A value that this exporter cannot write. */
export const refuse = (what: string, opset: number, why: string, help?: string): never =>
  fail('unsupported', `${what} cannot be written to ONNX opset ${opset}: ${why}`, help === undefined ? {} : { help });
