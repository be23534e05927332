/** Single operators against onnxruntime itself, on generated cases: the interpreter and WebAssembly. */
import test from 'ava';
import onnxProto from 'onnx-proto';
import * as ort from 'onnxruntime-node';
import { compile } from '../compiler/compile.ts';
import { type ImportOptions, importOnnx } from '../frontends/onnx/index.ts';
import { ndOf } from '../frontends/onnx/tensor.ts';
import { evaluate } from '../ir/evaluate.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { open } from '../runtime/open.ts';
import { encodeModel, type ModelSpec, type NodeSpec, node, value } from './onnx-kit.ts';

const { onnx } = onnxProto;
export type Kind = 'f32' | 'f64' | 'u8' | 'i8' | 'i32' | 'i64' | 'bool';
type Attribute = onnxProto.onnx.IAttributeProto;
const CODES: Readonly<Record<Kind, number>> = { f32: 1, u8: 2, i8: 3, i32: 6, i64: 7, bool: 9, f64: 11 };
const NAMES = {
  f32: 'float32',
  f64: 'float64',
  u8: 'uint8',
  i8: 'int8',
  i32: 'int32',
  i64: 'int64',
  bool: 'bool',
} as const;
const ARRAYS = {
  f32: (x: Float64Array) => Float32Array.from(x),
  f64: (x: Float64Array) => x,
  u8: (x: Float64Array) => Uint8Array.from(x),
  i8: (x: Float64Array) => Int8Array.from(x),
  i32: (x: Float64Array) => Int32Array.from(x),
  i64: (x: Float64Array) => BigInt64Array.from(x, BigInt),
  bool: (x: Float64Array) => Uint8Array.from(x),
} as const;
const kindOf = (x: Nd): Kind => x.dtype as Kind;

export const float = (name: string, f: number): Attribute => ({ name, type: 1, f });
export const text = (name: string, s: string): Attribute => ({
  name,
  type: 3,
  s: new TextEncoder().encode(s),
});
export const listed = (name: string, ...items: readonly number[]): Attribute => ({
  name,
  type: 7,
  ints: [...items],
});

export const reals = (name: string, ...items: readonly number[]): Attribute => ({
  name,
  type: 6,
  floats: [...items],
});
export const texts = (name: string, ...items: readonly string[]): Attribute => ({
  name,
  type: 8,
  strings: items.map((s) => new TextEncoder().encode(s)),
});

let seed = 0;
export const real = (shape: readonly number[], size = 1): Nd => {
  const next = seeded(++seed);
  return nd(
    'f32',
    shape,
    Float64Array.from({ length: countOf(shape) }, () => Math.fround((next() * 2 - 1) * size)),
  );
};
export const whole = (dtype: Kind, shape: readonly number[], low: number, high: number): Nd => {
  const next = seeded(++seed);
  return nd(
    dtype,
    shape,
    Float64Array.from({ length: countOf(shape) }, () => low + Math.floor(next() * (high - low + 1))),
  );
};
export const given = (dtype: Kind, shape: readonly number[], ...data: readonly number[]): Nd => nd(dtype, shape, data);

export interface Case {
  readonly op: string;
  /** `com.microsoft` when absent. */
  readonly domain?: string;
  /** Version of the standard domain; 17 when absent. */
  readonly opset?: number;
  readonly attrs?: readonly Attribute[];
  /** Operands in order; undefined for one that is left out. Constants are part of the model. */
  readonly inputs: readonly (Nd | { readonly constant: Nd } | undefined)[];
  /** Types of the results; '' for one that is not asked for. */
  readonly outputs?: readonly (Kind | '')[];
  readonly tolerance?: number;
  /** Elements that mean something; all when absent. */
  readonly relevant?: (output: number, index: number, shape: readonly number[]) => boolean;
}

function encode({ op, domain = 'com.microsoft', opset = 17, attrs = [], inputs, outputs = ['f32'] }: Case): {
  readonly bytes: Uint8Array;
  readonly fed: Readonly<Record<string, Nd>>;
} {
  const fed: Record<string, Nd> = {};
  const initializer: onnxProto.onnx.ITensorProto[] = [];
  const names = inputs.map((x, i) => {
    if (!x) return '';
    const constant = 'constant' in x ? x.constant : undefined;
    const at = constant ?? (x as Nd);
    if (constant) {
      const { buffer } = ARRAYS[kindOf(at)](Float64Array.from(at.data));
      const rawData = new Uint8Array(buffer);
      initializer.push({ name: `in${i}`, dims: [...at.shape], dataType: CODES[kindOf(at)], rawData });
    } else fed[`in${i}`] = at;
    return `in${i}`;
  });
  const results = outputs.map((o, i) => (o ? `out${i}` : ''));
  const spec: NodeSpec = node(op, names, results, attrs, { domain });
  const bytes = onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [
      { domain: '', version: opset },
      { domain: 'com.microsoft', version: 1 },
    ],
    graph: {
      name: 'test',
      node: [spec],
      input: Object.entries(fed).map(([name, x]) => value(name, x.shape, CODES[kindOf(x)])),
      output: outputs.flatMap((o, i) => (o ? [value(`out${i}`, undefined, CODES[o])] : [])),
      initializer,
    },
  }).finish();
  return { bytes, fed };
}

type Data = Readonly<Record<string, ArrayLike<number | bigint>>>;

async function onOrt(bytes: Uint8Array, fed: Readonly<Record<string, Nd>>): Promise<Data> {
  const session = await ort.InferenceSession.create(bytes, {
    graphOptimizationLevel: 'disabled',
    intraOpNumThreads: 1,
    logSeverityLevel: 3,
  });
  const feeds = Object.fromEntries(
    Object.entries(fed).map(([name, x]) => [
      name,
      new ort.Tensor(NAMES[kindOf(x)], ARRAYS[kindOf(x)](Float64Array.from(x.data)) as never, [...x.shape]),
    ]),
  );
  const results = await session.run(feeds);
  await session.release();
  return Object.fromEntries(Object.entries(results).map(([name, x]) => [name, x.data as ArrayLike<number | bigint>]));
}

async function onWasm(
  bytes: Uint8Array,
  fed: Readonly<Record<string, Nd>>,
  options: ImportOptions = {},
): Promise<Data> {
  const { model, weights } = importOnnx(bytes, options);
  const session = await open(compile(model, { weights }), { threads: 1 });
  const inputs = Object.fromEntries(
    Object.entries(fed).map(([name, x]) => [
      name,
      { data: ARRAYS[kindOf(x)](Float64Array.from(x.data)), shape: [...x.shape] },
    ]),
  );
  const results = await session.run(inputs);
  const data = Object.fromEntries(Object.entries(results).map(([name, x]) => [name, x!.data as ArrayLike<number>]));
  session.dispose();
  return data;
}

function interpreted(bytes: Uint8Array, fed: Readonly<Record<string, Nd>>, options: ImportOptions = {}): Data {
  const { model, weights } = importOnnx(bytes, options);
  const results = evaluate(model.entries.main!, {
    inputs: fed,
    params: (name) => ndOf(weights.get(name)!),
    precision: 'f32',
  });
  return Object.fromEntries(Object.entries(results).map(([name, x]) => [name, x.data]));
}

/** The first relevant element that is too far off, as a sentence. */
function difference(
  c: Case,
  got: Data,
  want: Data,
  shapes: Readonly<Record<string, readonly number[]>>,
): string | undefined {
  for (const [name, expected] of Object.entries(want)) {
    const result = got[name];
    if (!result || result.length !== expected.length)
      return `${name} has ${result?.length} elements, not ${expected.length}`;
    for (let i = 0; i < expected.length; i++) {
      if (c.relevant && !c.relevant(Number(name.slice(3)), i, shapes[name]!)) continue;
      const [a, b] = [Number(result[i]), Number(expected[i])];
      if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
      if (!(Math.abs(a - b) <= (c.tolerance ?? 2e-5) * Math.max(1, Math.abs(b))))
        return `${name}[${i}] is ${a}, not ${b}`;
    }
  }
  return undefined;
}

/** A test that runs every case in onnxruntime, in the interpreter and on WebAssembly, and compares. */
export function check(title: string, cases: () => readonly Case[]): void {
  test(title, async (t) => {
    for (const [i, c] of cases().entries()) {
      const { bytes, fed } = encode(c);
      const want = await onOrt(bytes, fed);
      const { model } = importOnnx(bytes);
      const shapes = Object.fromEntries(
        [...model.entries.main!.outputs].map(([name, v]) => [
          name,
          v.type.kind === 'tensor' ? (v.type.shape as number[]) : [],
        ]),
      );
      t.is(difference(c, interpreted(bytes, fed), want, shapes), undefined, `${c.op}, case ${i}, interpreter`);
      t.is(difference(c, await onWasm(bytes, fed), want, shapes), undefined, `${c.op}, case ${i}, WebAssembly`);
    }
  });
}

/** A test that runs whole models in onnxruntime, in the interpreter and on WebAssembly, each on several inputs. */
export function checkModels(title: string, models: () => readonly ModelCase[]): void {
  test(title, async (t) => {
    for (const { spec, runs, options, tolerance } of models()) {
      const bytes = encodeModel(spec);
      const c: Case = { op: '', inputs: [], ...(tolerance === undefined ? {} : { tolerance }) };
      for (const fed of runs) {
        const want = await onOrt(bytes, fed);
        const what = `${spec.nodes.map((x) => x.opType).join(' ')} on ${Object.values(fed).map((x) => `[${x.shape.join()}]`)}`;
        t.is(difference(c, interpreted(bytes, fed, options), want, {}), undefined, `${what}: interpreter`);
        t.is(difference(c, await onWasm(bytes, fed, options), want, {}), undefined, `${what}: WebAssembly`);
      }
    }
  });
}
export interface ModelCase {
  readonly spec: ModelSpec;
  readonly runs: readonly Readonly<Record<string, Nd>>[];
  readonly options?: ImportOptions;
  readonly tolerance?: number;
}

/** An operand that is part of the model. */
export const constant = (x: Nd): { readonly constant: Nd } => ({ constant: x });
