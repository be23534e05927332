/** Small ONNX models for tests, written with the schema's own encoder. */
import onnxProto from 'onnx-proto';
import { type ImportOptions, importOnnx } from '../frontends/onnx/index.ts';
import { ndOf } from '../frontends/onnx/tensor.ts';
import { CompileError, type Diagnostic } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Nd, nd } from '../ir/nd.ts';

const { onnx } = onnxProto;
export type NodeSpec = onnxProto.onnx.INodeProto;
export type TensorSpec = onnxProto.onnx.ITensorProto;
type Sizes = readonly (number | string)[];

export const FLOAT = 1;
export const INT64 = 7;

export const value = (name: string, shape: Sizes | undefined, elemType = FLOAT): onnxProto.onnx.IValueInfoProto => ({
  name,
  type: {
    tensorType: {
      elemType,
      ...(shape && { shape: { dim: shape.map((d) => (typeof d === 'number' ? { dimValue: d } : { dimParam: d })) } }),
    },
  },
});
export const floats = (name: string, dims: readonly number[], data: readonly number[]): TensorSpec => ({
  name,
  dims: [...dims],
  dataType: FLOAT,
  floatData: [...data],
});
export const longs = (name: string, dims: readonly number[], data: readonly number[]): TensorSpec => ({
  name,
  dims: [...dims],
  dataType: INT64,
  int64Data: [...data],
});
export const node = (
  opType: string,
  input: readonly string[],
  output: readonly string[],
  attribute: readonly onnxProto.onnx.IAttributeProto[] = [],
  more: NodeSpec = {},
): NodeSpec => ({ opType, input: [...input], output: [...output], attribute: [...attribute], ...more });
export const int = (name: string, i: number): onnxProto.onnx.IAttributeProto => ({ name, type: 2, i });
export const subgraph = (name: string, g: onnxProto.onnx.IGraphProto): onnxProto.onnx.IAttributeProto => ({
  name,
  type: 5,
  g,
});

export interface ModelSpec {
  readonly nodes: readonly NodeSpec[];
  readonly inputs: readonly onnxProto.onnx.IValueInfoProto[];
  readonly outputs: readonly string[];
  /** Element type of the outputs; FLOAT when absent. */
  readonly outputType?: number;
  readonly initializers?: readonly TensorSpec[];
  readonly opset?: number;
  readonly functions?: readonly onnxProto.onnx.IFunctionProto[];
  readonly domains?: Readonly<Record<string, number>>;
}

export function encodeModel(spec: ModelSpec): Uint8Array {
  const { nodes, inputs, outputs, initializers = [], opset = 17, functions = [], domains = {} } = spec;
  return onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [
      { domain: '', version: opset },
      ...Object.entries(domains).map(([domain, version]) => ({ domain, version })),
    ],
    graph: {
      name: 'test',
      node: [...nodes],
      input: [...inputs],
      output: outputs.map((name) => value(name, undefined, spec.outputType)),
      initializer: [...initializers],
    },
    functions: [...functions],
  }).finish();
}

/** Imports and runs a model in the reference interpreter. */
export function runModel(
  spec: ModelSpec,
  inputs: Readonly<Record<string, Nd>>,
  options: ImportOptions = {},
): Record<string, Nd> {
  const { model, weights } = importOnnx(encodeModel(spec), options);
  return evaluate(model.entries.main!, { inputs, params: (name) => ndOf(weights.get(name)!) });
}

/** What an import reports. @throws Error when it reports nothing, or something that is no CompileError */
export function reported(bytes: Uint8Array, options: ImportOptions = {}): Diagnostic {
  try {
    importOnnx(bytes, options);
  } catch (error) {
    if (error instanceof CompileError) return error.diagnostic;
    throw error;
  }
  throw new Error('nothing was reported');
}
export const f32 = (shape: readonly number[], ...data: readonly number[]): Nd => nd('f32', shape, data);
