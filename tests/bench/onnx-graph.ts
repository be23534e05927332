import onnxProto from 'onnx-proto';
import { bytesOf, type Parameter, type WeightSource } from './weights.ts';

const { onnx } = onnxProto;

/** ONNX element types that the benchmark's models use, by the number of `TensorProto.DataType`. */
const DATA_TYPE = { f32: 1, i8: 3, i64: 7 } as const;
export type OnnxDtype = keyof typeof DATA_TYPE;

/** Attribute values by their ONNX kind; `float` is spelled out because 1 alone could be either number. */
export type Attribute = number | readonly number[] | { readonly float: number };

interface Initializer {
  readonly name: string;
  readonly dtype: OnnxDtype;
  readonly shape: readonly number[];
  bytes(weights: WeightSource): Uint8Array;
}

/**
 * Collects an ONNX graph (opset 17, IR version 8, one file, raw data) node by node. Every method returns the name of
 * the value that it made, to be used as the operand of the next.
 */
export class OnnxGraph {
  readonly name: string;
  /** The parameters asked for so far, in order of first use. */
  readonly parameters: Parameter[] = [];
  readonly #nodes: onnxProto.onnx.INodeProto[] = [];
  readonly #inputs: onnxProto.onnx.IValueInfoProto[] = [];
  readonly #outputs: onnxProto.onnx.IValueInfoProto[] = [];
  readonly #initializers = new Map<string, Initializer>();
  readonly #counts = new Map<string, number>();

  constructor(name: string) {
    this.name = name;
  }

  input(name: string, dtype: OnnxDtype, shape: readonly number[]): string {
    this.#inputs.push(valueInfo(name, dtype, shape));
    return name;
  }

  /** Declares `value` as a result under the public name `name`. */
  output(name: string, value: string, shape: readonly number[]): void {
    this.#nodes.push({ opType: 'Identity', name, input: [value], output: [name] });
    this.#outputs.push(valueInfo(name, 'f32', shape));
  }

  /** A parameter as the checkpoint stores it. */
  parameter(name: string, shape: readonly number[]): string {
    this.#record(name, shape);
    return this.#initializer({ name, dtype: 'f32', shape, bytes: (weights) => checked(weights, name, shape) });
  }

  /** A [rows, columns] parameter, stored as [columns, rows]: how exporters write the weight of `x @ w.T`. */
  transposed(name: string, rows: number, columns: number): string {
    this.#record(name, [rows, columns]);
    return this.#initializer({
      name: `${name}_t`,
      dtype: 'f32',
      shape: [columns, rows],
      bytes: (weights) => transpose(checked(weights, name, [rows, columns]), rows, columns),
    });
  }

  /**
   * A [rows, columns] parameter as onnxruntime's dynamic quantisation stores it: i8[columns, rows], one scale for all that
   * takes its largest magnitude to 127, and the zero point 0.
   */
  quantized(
    name: string,
    rows: number,
    columns: number,
  ): { readonly weight: string; readonly scale: string; readonly zero: string } {
    this.#record(name, [rows, columns]);
    const values = (weights: WeightSource): Float32Array => {
      const bytes = transpose(checked(weights, name, [rows, columns]), rows, columns);
      return new Float32Array(bytes.buffer, bytes.byteOffset, rows * columns);
    };
    const shape = [columns, rows];
    return {
      weight: this.#initializer({
        name: `${name}_quantized`,
        dtype: 'i8',
        shape,
        bytes: (weights) => {
          const all = values(weights);
          const scale = scaleOf(all);
          return new Uint8Array(Int8Array.from(all, (x) => Math.round(x / scale)).buffer);
        },
      }),
      scale: this.#initializer({
        name: `${name}_scale`,
        dtype: 'f32',
        shape: [],
        bytes: (weights) => bytesOf(Float32Array.of(scaleOf(values(weights)))),
      }),
      zero: this.#initializer({ name: 'zero_i8', dtype: 'i8', shape: [], bytes: () => new Uint8Array(1) }),
    };
  }

  scalar(value: number): string {
    const bytes = new Uint8Array(new Float32Array([value]).buffer);
    return this.#initializer({ name: `const_${value}`, dtype: 'f32', shape: [], bytes: () => bytes });
  }

  /** An int64 constant: a list, or with `scalar` a tensor of rank 0. */
  integers(values: readonly number[], shape: readonly number[] = [values.length]): string {
    const bytes = new Uint8Array(new BigInt64Array(values.map(BigInt)).buffer);
    const name = `ints_${values.join('_')}_of_${shape.join('x')}`;
    return this.#initializer({ name, dtype: 'i64', shape, bytes: () => bytes });
  }

  node(opType: string, input: readonly string[], attributes: Readonly<Record<string, Attribute>> = {}): string {
    return this.nodes(opType, input, attributes, 1)[0] as string;
  }

  /** A node with `count` results. */
  nodes(
    opType: string,
    input: readonly string[],
    attributes: Readonly<Record<string, Attribute>>,
    count: number,
  ): readonly string[] {
    const serial = this.#counts.get(opType) ?? 0;
    this.#counts.set(opType, serial + 1);
    const name = `/${opType}_${serial}`;
    const output = Array.from({ length: count }, (_, i) => `${name}_output_${i}`);
    const attribute = Object.entries(attributes).map(([key, value]) => attributeProto(key, value));
    this.#nodes.push({ opType, name, input: [...input], output, attribute });
    return output;
  }

  /** The bytes of the `.onnx` file. */
  encode(weights: WeightSource): Uint8Array {
    const initializer = [...this.#initializers.values()].map((it) => ({
      name: it.name,
      dataType: DATA_TYPE[it.dtype],
      dims: [...it.shape],
      rawData: it.bytes(weights),
    }));
    return onnx.ModelProto.encode({
      irVersion: 8,
      producerName: 'heddle-bench',
      opsetImport: [{ domain: '', version: 17 }],
      graph: { name: this.name, node: this.#nodes, input: this.#inputs, output: this.#outputs, initializer },
    }).finish();
  }

  #record(name: string, shape: readonly number[]): void {
    if (!this.parameters.some((known) => known.name === name)) this.parameters.push({ name, shape });
  }

  #initializer(initializer: Initializer): string {
    this.#initializers.set(initializer.name, initializer);
    return initializer.name;
  }
}

function valueInfo(name: string, dtype: OnnxDtype, shape: readonly number[]): onnxProto.onnx.IValueInfoProto {
  const dim = shape.map((dimValue) => ({ dimValue }));
  return { name, type: { tensorType: { elemType: DATA_TYPE[dtype], shape: { dim } } } };
}

function attributeProto(name: string, value: Attribute): onnxProto.onnx.IAttributeProto {
  const { INT, INTS, FLOAT } = onnx.AttributeProto.AttributeType;
  if (typeof value === 'number') return { name, type: INT, i: value };
  if ('float' in value) return { name, type: FLOAT, f: value.float };
  return { name, type: INTS, ints: [...value] };
}

/** What one step of 127 to either side stands for. */
const scaleOf = (values: Float32Array): number => values.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127;

function checked(weights: WeightSource, name: string, shape: readonly number[]): Uint8Array {
  const values = weights(name, shape);
  const count = shape.reduce((a, b) => a * b, 1);
  if (values.length !== count) {
    throw new Error(`parameter ${name}: got ${values.length} values, shape [${shape.join(', ')}] needs ${count}`);
  }
  return bytesOf(values);
}

function transpose(bytes: Uint8Array, rows: number, columns: number): Uint8Array {
  const from = new Float32Array(bytes.buffer, bytes.byteOffset, rows * columns);
  const to = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c] as number;
  }
  return bytesOf(to);
}
