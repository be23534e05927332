/**
 * The ONNX file format: bytes to plain objects. The only file that knows protobuf.
 *
 * The messages are read with protobufjs' `Reader` rather than with the decoder generated in onnx-proto: that one unpacks
 * tensors into lists of numbers (several times the file), has no limit on depth, and its schema stops at IR version 8.
 * Tensor data stay views of the file; `tensor.ts` reads them on demand.
 */
import onnxProto from 'onnx-proto';
import type { Reader } from 'protobufjs/minimal.js';
import protobuf from 'protobufjs/minimal.js';
import { CompileError, fail } from '../../ir/diagnostic.ts';

/** A tensor as stored; nothing is converted yet. */
export interface OnnxTensor {
  readonly name: string;
  readonly dims: readonly number[];
  /** `TensorProto.DataType`. */
  readonly type: number;
  /** Little-endian elements, as `raw_data`, `float_data` or `double_data` hold them. */
  readonly raw: readonly Uint8Array[];
  /** Elements as protobuf varints, as `int32_data`, `int64_data` and `uint64_data` hold them. */
  readonly varints: readonly Uint8Array[];
  readonly hasRaw: boolean;
  /** `location`, `offset`, `length`, … of data in another file. */
  readonly external: ReadonlyMap<string, string> | undefined;
  readonly strings: number;
  readonly metadata?: ReadonlyMap<string, string>;
}

/** A tensor stored as its elements that are not zero. Its name is that of the values. */
export interface OnnxSparse {
  /** [n]. */
  readonly values: OnnxTensor;
  /** i64: flat positions [n], or coordinates [n, rank]. */
  readonly indices: OnnxTensor;
  readonly dims: readonly number[];
}

export type OnnxDim = number | string | undefined;
/** What the file says of a value: a tensor's element type and sizes, as far as it says them. */
export interface OnnxValueInfo {
  readonly name: string;
  readonly doc: string;
  /** `tensor`, or what else the value is. */
  readonly kind: 'tensor' | 'sequence' | 'map' | 'optional' | 'sparse tensor' | 'unknown';
  readonly type: number;
  /** Undefined when even the rank is not known. */
  readonly shape: readonly OnnxDim[] | undefined;
  readonly metadata?: ReadonlyMap<string, string>;
}

export interface OnnxAttribute {
  readonly name: string;
  /** `AttributeProto.AttributeType`; 0 where an old file leaves it out. */
  readonly type: number;
  /** Name of the function's attribute that gives the value. */
  readonly ref: string | undefined;
  readonly f: number | undefined;
  readonly i: number | undefined;
  readonly s: string | undefined;
  readonly t: OnnxTensor | undefined;
  readonly g: OnnxGraph | undefined;
  readonly sparse?: OnnxSparse | undefined;
  readonly floats: readonly number[];
  readonly ints: readonly number[];
  readonly strings: readonly string[];
}

export interface OnnxNode {
  readonly name: string;
  readonly op: string;
  /** `''` is the standard domain. */
  readonly domain: string;
  readonly overload: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, OnnxAttribute>;
  readonly metadata?: ReadonlyMap<string, string>;
  /** The value of ours that a group of nodes was written from; see `provenance.ts`. */
  readonly restored?: { readonly text: string; readonly nodes: readonly OnnxNode[] };
}

export interface OnnxGraph {
  readonly name: string;
  readonly doc: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxTensor[];
  readonly sparse: readonly OnnxSparse[];
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
}

export interface OnnxFunction {
  readonly name: string;
  readonly domain: string;
  readonly overload: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Attributes with defaults; those without stand in `required`. */
  readonly defaults: ReadonlyMap<string, OnnxAttribute>;
  readonly nodes: readonly OnnxNode[];
  readonly opsets: ReadonlyMap<string, number>;
}

export interface OnnxModel {
  readonly irVersion: number;
  readonly producer: string;
  readonly doc: string;
  /** Version by domain; the standard domain is `''`. */
  readonly opsets: ReadonlyMap<string, number>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly graph: OnnxGraph;
  readonly functions: readonly OnnxFunction[];
}

const { DataType } = onnxProto.onnx.TensorProto;
/** Element types newer than the schema of onnx-proto. */
const NEWER: Readonly<Record<number, string>> = {
  17: 'FLOAT8E4M3FN',
  18: 'FLOAT8E4M3FNUZ',
  19: 'FLOAT8E5M2',
  20: 'FLOAT8E5M2FNUZ',
  21: 'UINT4',
  22: 'INT4',
  23: 'FLOAT4E2M1',
  24: 'FLOAT8E8M0',
  25: 'UINT2',
  26: 'INT2',
};
/** ONNX's name of an element type: `FLOAT16`. */
export const elementTypeName = (type: number): string => DataType[type] ?? NEWER[type] ?? `element type ${type}`;
/** The number of an element type by ONNX's name of it; undefined for unknown names. */
export const elementTypeNamed = (name: string): number | undefined =>
  Object.hasOwn(DataType, name) ? DataType[name as keyof typeof DataType] : undefined;

/** Messages inside messages; a model's deepest honest nesting is a few dozen. */
const MAX_DEPTH = 64;

/** What a decoding may still make: hostile files hold millions of empty messages. */
interface Budget {
  readonly source: string;
  left: number;
}

type Handler = (field: number, wire: number, r: Reader) => boolean;

/** Calls `take` with each field; what it does not take is skipped. */
function eachField(r: Reader, end: number, budget: Budget, what: string, take: Handler): void {
  while (r.pos < end) {
    if (--budget.left < 0)
      fail('file', `${budget.source}: ${what} holds far more parts than a file of its size needs`, {
        help: 'the file is damaged; export it again',
      });
    const tag = r.uint32();
    const [field, wire] = [tag >>> 3, tag & 7];
    if (field === 0 || wire === 3 || wire === 4 || wire > 5)
      fail('file', `${budget.source}: not an ONNX model: ${what} has field ${field} of wire type ${wire}`, {
        help: 'the file is damaged or of another format',
      });
    if (!take(field, wire, r)) r.skipType(wire);
    if (r.pos > end)
      fail('file', `${budget.source}: ${what} is cut off at byte ${end}`, { help: 'copy or download the file again' });
  }
}

/** A message of known length at the reader's place. */
function message<T>(r: Reader, read: (r: Reader, end: number) => T): T {
  const length = r.uint32();
  const end = r.pos + length;
  if (end > r.len) throw new RangeError(`a part of ${length} bytes at byte ${r.pos} of ${r.len}`);
  const value = read(r, end);
  r.pos = end;
  return value;
}

const integer = (r: Reader): number => {
  const value: unknown = r.int64();
  return typeof value === 'number' ? value : (value as { toNumber(): number }).toNumber();
};

/** One number or a packed list of them. */
function numbers(r: Reader, wire: number, into: number[], one: (r: Reader) => number): true {
  if (wire !== 2) into.push(one(r));
  else
    message(r, (_, end) => {
      while (r.pos < end) into.push(one(r));
    });
  return true;
}

/** The bytes of a field of a tensor, packed or one element, as a view. */
function chunk(r: Reader, wire: number, into: Uint8Array[]): true {
  if (wire === 2) into.push(r.bytes());
  else {
    const from = r.pos;
    r.skipType(wire);
    into.push(r.buf.subarray(from, r.pos));
  }
  return true;
}

function readTensor(r: Reader, end: number, budget: Budget): OnnxTensor {
  const [dims, raw, varints]: [number[], Uint8Array[], Uint8Array[]] = [[], [], []];
  let external: Map<string, string> | undefined;
  let metadata: Map<string, string> | undefined;
  let [name, type, location, strings, hasRaw] = ['', 0, 0, 0, false];
  eachField(r, end, budget, 'a tensor', (field, wire) => {
    switch (field) {
      case 1:
        return numbers(r, wire, dims, integer);
      case 2:
        type = r.int32();
        return true;
      case 4:
      case 10:
        return chunk(r, wire, raw);
      case 5:
      case 7:
      case 11:
        return chunk(r, wire, varints);
      case 6:
        strings++;
        return false;
      case 8:
        name = r.string();
        return true;
      case 9:
        hasRaw = true;
        return chunk(r, wire, raw);
      case 13: {
        const [key, value] = message(r, (_, to) => readEntry(r, to, budget));
        external ??= new Map();
        external.set(key, value);
        return true;
      }
      case 14:
        location = r.int32();
        return true;
      case 16:
        metadata = withEntry(metadata, r, budget);
        return true;
      default:
        return false;
    }
  });
  if (location === 1) external ??= new Map();
  return {
    name,
    dims,
    type,
    raw,
    varints,
    hasRaw,
    external: location === 1 ? external : undefined,
    strings,
    ...(metadata && { metadata }),
  };
}

/** One more entry of a map that is made when it is needed. */
function withEntry(map: Map<string, string> | undefined, r: Reader, budget: Budget): Map<string, string> {
  const [key, value] = message(r, (_, to) => readEntry(r, to, budget));
  return (map ?? new Map<string, string>()).set(key, value);
}

function readSparse(r: Reader, end: number, budget: Budget): OnnxSparse {
  const dims: number[] = [];
  let [values, indices]: [OnnxTensor?, OnnxTensor?] = [];
  eachField(r, end, budget, 'a sparse tensor', (field, wire) => {
    if (field === 1) values = message(r, (_, to) => readTensor(r, to, budget));
    else if (field === 2) indices = message(r, (_, to) => readTensor(r, to, budget));
    else if (field === 3) return numbers(r, wire, dims, integer);
    else return false;
    return true;
  });
  if (!values || !indices)
    fail('file', `${budget.source}: a sparse tensor lacks its values or indices`, { help: 'export the file again' });
  return { values, indices, dims };
}

function readEntry(r: Reader, end: number, budget: Budget): readonly [string, string] {
  let [key, value] = ['', ''];
  eachField(r, end, budget, 'an entry', (field) => {
    if (field === 1) key = r.string();
    else if (field === 2) value = r.string();
    else return false;
    return true;
  });
  return [key, value];
}

function readDim(r: Reader, end: number, budget: Budget): OnnxDim {
  let size: OnnxDim;
  eachField(r, end, budget, 'a size', (field) => {
    if (field === 1) size = integer(r);
    else if (field === 2) size = r.string() || undefined;
    else return false;
    return true;
  });
  return size;
}

const KINDS: Readonly<Record<number, OnnxValueInfo['kind']>> = {
  1: 'tensor',
  4: 'sequence',
  5: 'map',
  8: 'sparse tensor',
  9: 'optional',
};

function readValueInfo(r: Reader, end: number, budget: Budget): OnnxValueInfo {
  let [name, doc, type] = ['', '', 0];
  let kind: OnnxValueInfo['kind'] = 'unknown';
  let metadata: Map<string, string> | undefined;
  let shape: OnnxDim[] | undefined;
  const tensorType = (_: Reader, to: number): void =>
    eachField(r, to, budget, 'a tensor type', (field) => {
      if (field === 1) type = r.int32();
      else if (field === 2) {
        const sizes: OnnxDim[] = [];
        message(r, (_r, last) =>
          eachField(r, last, budget, 'a shape', (inner) => {
            if (inner !== 1) return false;
            sizes.push(message(r, (_d, stop) => readDim(r, stop, budget)));
            return true;
          }),
        );
        shape = sizes;
      } else return false;
      return true;
    });
  eachField(r, end, budget, 'a value', (field) => {
    if (field === 1) name = r.string();
    else if (field === 3) doc = r.string();
    else if (field === 4) metadata = withEntry(metadata, r, budget);
    else if (field === 2)
      message(r, (_, to) =>
        eachField(r, to, budget, 'a type', (inner) => {
          kind = KINDS[inner] ?? kind;
          if (inner !== 1) return false;
          message(r, tensorType);
          return true;
        }),
      );
    else return false;
    return true;
  });
  return { name, doc, kind, type, shape, ...(metadata && { metadata }) };
}

function readAttribute(r: Reader, end: number, budget: Budget, depth: number): OnnxAttribute {
  const [floats, ints, strings]: [number[], number[], string[]] = [[], [], []];
  let [name, type] = ['', 0];
  let [ref, f, i, s]: [string?, number?, number?, string?] = [];
  let [t, g, sparse]: [OnnxTensor?, OnnxGraph?, OnnxSparse?] = [];
  eachField(r, end, budget, 'an attribute', (field, wire) => {
    switch (field) {
      case 1:
        name = r.string();
        return true;
      case 2:
        f = r.float();
        return true;
      case 3:
        i = integer(r);
        return true;
      case 4:
        s = r.string();
        return true;
      case 5:
        t = message(r, (_, to) => readTensor(r, to, budget));
        return true;
      case 6:
        g = message(r, (_, to) => readGraph(r, to, budget, depth + 1));
        return true;
      case 7:
        return numbers(r, wire, floats, (x) => x.float());
      case 8:
        return numbers(r, wire, ints, integer);
      case 9:
        strings.push(r.string());
        return true;
      case 20:
        type = r.int32();
        return true;
      case 21:
        ref = r.string() || undefined;
        return true;
      case 22:
        sparse = message(r, (_, to) => readSparse(r, to, budget));
        return true;
      default:
        return false;
    }
  });
  return { name, type, ref, f, i, s, t, g, sparse, floats, ints, strings };
}

function readNode(r: Reader, end: number, budget: Budget, depth: number): OnnxNode {
  const [inputs, outputs]: [string[], string[]] = [[], []];
  const attributes = new Map<string, OnnxAttribute>();
  let [name, op, domain, overload] = ['', '', '', ''];
  let metadata: Map<string, string> | undefined;
  eachField(r, end, budget, 'a node', (field) => {
    switch (field) {
      case 1:
        inputs.push(r.string());
        return true;
      case 2:
        outputs.push(r.string());
        return true;
      case 3:
        name = r.string();
        return true;
      case 4:
        op = r.string();
        return true;
      case 5: {
        const attribute = message(r, (_, to) => readAttribute(r, to, budget, depth));
        attributes.set(attribute.name, attribute);
        return true;
      }
      case 7:
        domain = standard(r.string());
        return true;
      case 8:
        overload = r.string();
        return true;
      case 9:
        metadata = withEntry(metadata, r, budget);
        return true;
      default:
        return false;
    }
  });
  return { name, op, domain, overload, inputs, outputs, attributes, ...(metadata && { metadata }) };
}
/** `ai.onnx` is another spelling of the standard domain. */
const standard = (domain: string): string => (domain === 'ai.onnx' ? '' : domain);

function readGraph(r: Reader, end: number, budget: Budget, depth: number): OnnxGraph {
  if (depth > MAX_DEPTH)
    fail('file', `${budget.source}: graphs are nested more than ${MAX_DEPTH} deep`, { help: 'the file is damaged' });
  const [nodes, initializers]: [OnnxNode[], OnnxTensor[]] = [[], []];
  const [inputs, outputs]: [OnnxValueInfo[], OnnxValueInfo[]] = [[], []];
  const sparse: OnnxSparse[] = [];
  let [name, doc] = ['', ''];
  eachField(r, end, budget, 'a graph', (field) => {
    switch (field) {
      case 1:
        nodes.push(message(r, (_, to) => readNode(r, to, budget, depth)));
        return true;
      case 2:
        name = r.string();
        return true;
      case 5:
        initializers.push(message(r, (_, to) => readTensor(r, to, budget)));
        return true;
      case 10:
        doc = r.string();
        return true;
      case 11:
        inputs.push(message(r, (_, to) => readValueInfo(r, to, budget)));
        return true;
      case 12:
        outputs.push(message(r, (_, to) => readValueInfo(r, to, budget)));
        return true;
      case 15:
        sparse.push(message(r, (_, to) => readSparse(r, to, budget)));
        return true;
      default:
        return false;
    }
  });
  return { name, doc, nodes, initializers, sparse, inputs, outputs };
}

function readOpset(r: Reader, end: number, budget: Budget): readonly [string, number] {
  let [domain, version] = ['', 0];
  eachField(r, end, budget, 'an operator set', (field) => {
    if (field === 1) domain = standard(r.string());
    else if (field === 2) version = integer(r);
    else return false;
    return true;
  });
  return [domain, version];
}

function readFunction(r: Reader, end: number, budget: Budget): OnnxFunction {
  const [inputs, outputs, nodes]: [string[], string[], OnnxNode[]] = [[], [], []];
  const [defaults, opsets] = [new Map<string, OnnxAttribute>(), new Map<string, number>()];
  let [name, domain, overload] = ['', '', ''];
  eachField(r, end, budget, 'a function', (field) => {
    switch (field) {
      case 1:
        name = r.string();
        return true;
      case 4:
        inputs.push(r.string());
        return true;
      case 5:
        outputs.push(r.string());
        return true;
      case 7:
        nodes.push(message(r, (_, to) => readNode(r, to, budget, 0)));
        return true;
      case 9: {
        const [of, version] = message(r, (_, to) => readOpset(r, to, budget));
        opsets.set(of, version);
        return true;
      }
      case 10:
        domain = standard(r.string());
        return true;
      case 11: {
        const attribute = message(r, (_, to) => readAttribute(r, to, budget, 0));
        defaults.set(attribute.name, attribute);
        return true;
      }
      case 13:
        overload = r.string();
        return true;
      default:
        return false;
    }
  });
  return { name, domain, overload, inputs, outputs, defaults, nodes, opsets };
}

function readModel(r: Reader, budget: Budget): OnnxModel {
  const opsets = new Map<string, number>();
  const metadata = new Map<string, string>();
  const functions: OnnxFunction[] = [];
  let [irVersion, producer, doc] = [0, '', ''];
  let graph: OnnxGraph | undefined;
  eachField(r, r.len, budget, 'the model', (field) => {
    switch (field) {
      case 1:
        irVersion = integer(r);
        return true;
      case 2:
        producer = r.string();
        return true;
      case 6:
        doc = r.string();
        return true;
      case 7:
        graph = message(r, (_, to) => readGraph(r, to, budget, 0));
        return true;
      case 8: {
        const [domain, version] = message(r, (_, to) => readOpset(r, to, budget));
        opsets.set(domain, version);
        return true;
      }
      case 14: {
        const [key, value] = message(r, (_, to) => readEntry(r, to, budget));
        metadata.set(key, value);
        return true;
      }
      case 25:
        functions.push(message(r, (_, to) => readFunction(r, to, budget)));
        return true;
      default:
        return false;
    }
  });
  if (!graph) fail('file', `${budget.source}: not an ONNX model: it has no graph`, { help: 'name an .onnx file' });
  return { irVersion, producer, doc, opsets, metadata, graph, functions };
}

function decode<T>(bytes: Uint8Array, source: string, read: (r: Reader, budget: Budget) => T): T {
  const budget = { source, left: 20_000 + bytes.length / 4 };
  try {
    return read(protobuf.Reader.create(bytes), budget);
  } catch (error) {
    if (error instanceof CompileError) throw error;
    const why = error instanceof Error ? error.message : String(error);
    return fail('file', `${source}: cut off or damaged: ${why}`, { help: 'copy or download the file again' });
  }
}

/**
 * The model in a file's bytes. Tensors are views of `bytes`.
 * @param source what to call the file in messages
 * @throws CompileError `file` for bytes that are no ONNX model: cut off, damaged, nested too deep
 */
export const decodeModel = (bytes: Uint8Array, source: string): OnnxModel => decode(bytes, source, readModel);

/** A single tensor, as the files of ONNX test data hold. @throws CompileError `file` */
export const decodeTensor = (bytes: Uint8Array, source: string): OnnxTensor =>
  decode(bytes, source, (r, budget) => readTensor(r, r.len, budget));
