/**
 * Plain objects to the ONNX file format.
 *
 * A message is a list of pieces, and tensors stay views of the weights, so that writing a model needs little more memory
 * than its graph. `proto.ts` reads what this file writes.
 */
import { fail } from '../../ir/diagnostic.ts';

/** A tensor to store. `external` names the place of its bytes in another file. */
export interface TensorDraft {
  readonly name: string;
  readonly dims: readonly number[];
  /** `TensorProto.DataType`. */
  readonly type: number;
  /** Little-endian elements. */
  readonly bytes: Uint8Array;
  readonly external?: { readonly location: string; readonly offset: number } | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export type AttributeDraft =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: readonly number[] }
  | { readonly floats: readonly number[] }
  | { readonly strings: readonly string[] }
  | { readonly tensor: TensorDraft }
  | { readonly graph: GraphDraft };
export type AttributeDrafts = Readonly<Record<string, AttributeDraft>>;

export interface NodeDraft {
  readonly op: string;
  /** Names may be replaced until the graph is written. */
  readonly inputs: string[];
  readonly outputs: string[];
  readonly attributes: AttributeDrafts;
  metadata: Readonly<Record<string, string>>;
}

/** A tensor's name, element type and sizes; a word is the name of a size, or arithmetic over such names. */
export interface ValueDraft {
  readonly name: string;
  readonly type: number;
  readonly shape: readonly (number | string)[];
  readonly doc: string;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export interface GraphDraft {
  readonly name: string;
  readonly doc: string;
  readonly nodes: readonly NodeDraft[];
  readonly initializers: readonly TensorDraft[];
  readonly inputs: readonly ValueDraft[];
  readonly outputs: readonly ValueDraft[];
  /** Types of the values between. */
  readonly values: readonly ValueDraft[];
}

export interface ModelDraft {
  readonly irVersion: number;
  readonly opset: number;
  readonly producer: string;
  readonly doc: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly graph: GraphDraft;
}

const utf8 = new TextEncoder();

/** Fields of one message, in the order in which they were written. */
class Message {
  readonly pieces: Uint8Array[] = [];
  length = 0;
  private small: number[] = [];

  private flush(): void {
    if (this.small.length === 0) return;
    this.pieces.push(Uint8Array.from(this.small));
    this.small = [];
  }
  private byte(value: number): void {
    this.small.push(value);
    this.length++;
  }
  /** Non-negative or negative whole number as a varint of 64 bits. */
  private varint(value: number): void {
    if (value >= 0 && value < 0x80) {
      this.byte(value);
      return;
    }
    let rest = BigInt.asUintN(64, BigInt(value));
    while (rest >= 0x80n) {
      this.byte(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    this.byte(Number(rest));
  }
  private key(field: number, wire: 0 | 2 | 5): void {
    this.varint(field * 8 + wire);
  }

  int(field: number, value: number): this {
    this.key(field, 0);
    this.varint(value);
    return this;
  }
  float(field: number, value: number): this {
    this.key(field, 5);
    this.raw(new Uint8Array(new Float32Array([value]).buffer));
    return this;
  }
  string(field: number, value: string): this {
    return this.bytes(field, utf8.encode(value));
  }
  bytes(field: number, value: Uint8Array): this {
    this.key(field, 2);
    this.varint(value.length);
    this.raw(value);
    return this;
  }
  message(field: number, value: Message): this {
    value.flush();
    this.key(field, 2);
    this.varint(value.length);
    this.flush();
    for (const piece of value.pieces) this.pieces.push(piece);
    this.length += value.length;
    return this;
  }
  packedInts(field: number, values: readonly number[]): this {
    const inner = new Message();
    for (const value of values) inner.varint(value);
    return this.message(field, inner);
  }
  private raw(value: Uint8Array): void {
    // Short pieces are joined; tensors stay what they are.
    if (value.length <= 64) {
      for (const b of value) this.small.push(b);
    } else {
      this.flush();
      this.pieces.push(value);
    }
    this.length += value.length;
  }
  finish(): { readonly pieces: readonly Uint8Array[]; readonly length: number } {
    this.flush();
    return { pieces: this.pieces, length: this.length };
  }
}

function entry(key: string, value: string): Message {
  return new Message().string(1, key).string(2, value);
}
function entries(into: Message, field: number, map: Readonly<Record<string, string>>): void {
  for (const [key, value] of Object.entries(map)) into.message(field, entry(key, value));
}

function tensor(t: TensorDraft): Message {
  const m = new Message();
  m.packedInts(1, t.dims).int(2, t.type).string(8, t.name);
  entries(m, 16, t.metadata ?? {});
  if (!t.external) return m.bytes(9, t.bytes);
  const { location, offset } = t.external;
  m.message(13, entry('location', location));
  m.message(13, entry('offset', String(offset)));
  m.message(13, entry('length', String(t.bytes.length)));
  return m.int(14, 1);
}

/** `AttributeProto.AttributeType` */
const TYPES = { float: 1, int: 2, string: 3, tensor: 4, graph: 5, floats: 6, ints: 7, strings: 8 } as const;

function attribute(name: string, a: AttributeDraft): Message {
  const m = new Message().string(1, name);
  if ('float' in a) return m.float(2, a.float).int(20, TYPES.float);
  if ('int' in a) return m.int(3, a.int).int(20, TYPES.int);
  if ('string' in a) return m.string(4, a.string).int(20, TYPES.string);
  if ('tensor' in a) return m.message(5, tensor(a.tensor)).int(20, TYPES.tensor);
  if ('graph' in a) return m.message(6, graph(a.graph)).int(20, TYPES.graph);
  if ('floats' in a) {
    for (const x of a.floats) m.float(7, x);
    return m.int(20, TYPES.floats);
  }
  if ('ints' in a) {
    for (const x of a.ints) m.int(8, x);
    return m.int(20, TYPES.ints);
  }
  for (const x of a.strings) m.string(9, x);
  return m.int(20, TYPES.strings);
}

function node(n: NodeDraft): Message {
  const m = new Message();
  for (const name of n.inputs) m.string(1, name);
  for (const name of n.outputs) m.string(2, name);
  m.string(3, n.outputs.find((name) => name !== '') ?? n.op).string(4, n.op);
  for (const [name, a] of Object.entries(n.attributes)) m.message(5, attribute(name, a));
  entries(m, 9, n.metadata);
  return m;
}

function value(v: ValueDraft): Message {
  const shape = new Message();
  for (const d of v.shape)
    shape.message(1, typeof d === 'number' ? new Message().int(1, d) : new Message().string(2, d));
  const type = new Message().message(1, new Message().int(1, v.type).message(2, shape));
  const m = new Message().string(1, v.name).message(2, type);
  if (v.doc) m.string(3, v.doc);
  entries(m, 4, v.metadata ?? {});
  return m;
}

function graph(g: GraphDraft): Message {
  const m = new Message();
  for (const n of g.nodes) m.message(1, node(n));
  m.string(2, g.name);
  for (const t of g.initializers) m.message(5, tensor(t));
  if (g.doc) m.string(10, g.doc);
  for (const v of g.inputs) m.message(11, value(v));
  for (const v of g.outputs) m.message(12, value(v));
  for (const v of g.values) m.message(13, value(v));
  return m;
}

/** No protobuf message may be longer. */
export const MAX_MESSAGE = 2 ** 31 - 1;

/**
 * The bytes of a model file, in pieces that follow one another.
 * @throws CompileError `file` when the file would pass 2 GB, which protobuf cannot hold
 */
export function encodeModel(model: ModelDraft): readonly Uint8Array[] {
  const m = new Message();
  m.int(1, model.irVersion).string(2, model.producer);
  if (model.doc) m.string(6, model.doc);
  m.message(7, graph(model.graph));
  m.message(8, new Message().string(1, '').int(2, model.opset));
  entries(m, 14, model.metadata);
  const { pieces, length } = m.finish();
  if (length > MAX_MESSAGE)
    fail('file', `the model needs ${length} bytes, but an .onnx file holds at most ${MAX_MESSAGE}`, {
      help: 'store its weights beside it: externalData: true',
    });
  return pieces;
}
