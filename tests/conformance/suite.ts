/** Folders of ONNX tests: `NAME/model.onnx` and `NAME/test_data_set_N/{input,output}_K.pb`. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compile } from '../../compiler/index.ts';
import { type ImportedModel, importOnnx } from '../../frontends/onnx/index.ts';
import { decodeTensor } from '../../frontends/onnx/proto.ts';
import { ndOf, weightOf } from '../../frontends/onnx/tensor.ts';
import { CompileError } from '../../ir/diagnostic.ts';
import { evaluate } from '../../ir/evaluate.ts';
import type { Graph } from '../../ir/graph.ts';
import type { Model } from '../../ir/model.ts';
import { countOf, type Nd } from '../../ir/nd.ts';
import type { WeightStore, WeightTensor } from '../../ir/weights.ts';
import { type DeviceLike, HeddleError, type InputData, open, type Tensor } from '../../runtime/index.ts';
import { createGpu } from '../support/swiftshader.ts';

export const DEVICES = ['interpreter', 'wasm', 'webgpu'] as const;
export type Device = (typeof DEVICES)[number];

/** |a − b| ≤ atol + rtol · |b|. */
export interface Tolerance {
  readonly rtol: number;
  readonly atol: number;
}

/** `pass`, or what went wrong: `unsupported` when heddle says that it cannot, `fail` for all else. */
export interface Outcome {
  readonly status: 'pass' | 'unsupported' | 'fail';
  /** One line; empty for `pass`. */
  readonly reason: string;
}

interface Named {
  readonly name: string;
  readonly tensor: WeightTensor;
}

/** Names of the tests in a folder, sorted. */
export const testsIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => existsSync(join(folder, name, 'model.onnx')))
    .sort();

function readSide(folder: string, side: 'input' | 'output'): Named[] {
  const files = readdirSync(folder)
    .filter((f) => f.startsWith(`${side}_`) && f.endsWith('.pb'))
    .sort((a, b) => Number.parseInt(a.slice(side.length + 1), 10) - Number.parseInt(b.slice(side.length + 1), 10));
  return files.map((file) => {
    const path = join(folder, file);
    const tensor = decodeTensor(readFileSync(path), path);
    return { name: tensor.name, tensor: weightOf(tensor, path, { folder: undefined }) };
  });
}

/**
 * Runs all data sets of one test.
 * @param devices each gets an outcome; they share the import
 */
export async function runTest(
  folder: string,
  devices: readonly Device[],
  tolerance: Tolerance,
): Promise<Readonly<Record<string, Outcome>>> {
  const sets = readdirSync(folder)
    .filter((name) => name.startsWith('test_data_set_'))
    .sort();
  const outcomes: Record<string, Outcome> = {};
  for (const device of devices) {
    outcomes[device] = await attempt(folder, sets, device, tolerance, false);
    if (outcomes[device].status === 'pass') continue;
    // As a user would whose model needs it: with every size and every small input of integers fixed, loops bounded.
    const fixed = await attempt(folder, sets, device, tolerance, true);
    if (fixed.status === 'pass') outcomes[device] = { ...fixed, reason: 'with fixed sizes' };
  }
  return outcomes;
}

async function attempt(
  folder: string,
  sets: readonly string[],
  device: Device,
  tolerance: Tolerance,
  fixed: boolean,
): Promise<Outcome> {
  try {
    let imported: ImportedModel | undefined;
    for (const set of sets) {
      const data = readSide(join(folder, set), 'input');
      if (!imported || fixed) imported = importFixing(join(folder, 'model.onnx'), data, fixed);
      await runSet(join(folder, set), device, imported, data, tolerance);
    }
    return { status: 'pass', reason: '' };
  } catch (error) {
    return outcomeOf(error);
  }
}

/** Largest input that is made a constant where its elements decide a shape. */
const MAX_FIXED = 64;

/** Most trips of a loop whose number comes with the data, where the test needs it bounded. */
const MAX_TRIPS = 64;

/**
 * The model, with inputs that decide shapes (axes, sizes, repeats, which ONNX tests give as inputs) fixed to their values.
 * Only those that the importer asks for.
 */
function importFixing(path: string, inputs: readonly Named[], all: boolean): ImportedModel {
  const shapes = all ? Object.fromEntries(inputs.map(({ name, tensor }) => [name, tensor.shape])) : {};
  const fixed: Record<string, Nd> = {};
  if (all)
    for (const { name, tensor } of inputs)
      if (tensor.dtype.startsWith('i') && countOf(tensor.shape) <= 1) fixed[name] = ndOf(tensor);
  for (;;) {
    try {
      return importOnnx(path, { fixed, shapes, ...(all && { maxTrips: MAX_TRIPS }) });
    } catch (error) {
      if (!(error instanceof CompileError)) throw error;
      const asked = /fix input (.*) with the option/.exec(error.diagnostic.help ?? '')?.[1] ?? '';
      const names = [...asked.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map((m) => m[1]!);
      const found = inputs.filter(({ name, tensor }) => names.includes(name) && countOf(tensor.shape) <= MAX_FIXED);
      if (found.length === 0 || found.length < names.length || names.some((name) => Object.hasOwn(fixed, name)))
        throw error;
      for (const { name, tensor } of found) fixed[name] = ndOf(tensor);
    }
  }
}

/** Refusals that say so are `unsupported`; an operand that does not fit, a crash or a difference is a failure. */
function outcomeOf(error: unknown): Outcome {
  if (error instanceof CompileError) {
    const { code, message, notes = [] } = error.diagnostic;
    const refused = code === 'unsupported' || (code === 'dtype' && message.includes('not supported'));
    const detail = message.includes('operator') ? (notes[0] ?? '').replace(/^.*?: no such/, 'no such') : '';
    const which = notes[0]?.match(/^(\w+) /)?.[1];
    const reason = detail && which ? `${which}: ${detail}` : message;
    return { status: refused ? 'unsupported' : 'fail', reason: tidy(reason) };
  }
  if (error instanceof HeddleError) return { status: 'fail', reason: tidy(`${error.code}: ${error.message}`) };
  return { status: 'fail', reason: tidy(error instanceof Error ? error.message : String(error)) };
}
/** One line without the paths of this machine. */
const tidy = (text: string): string =>
  text
    .split('\n')[0]!
    .replaceAll(/(?:\/[\w.-]+)+\/(?=[\w.-]+)/g, '')
    .slice(0, 160);

async function runSet(
  folder: string,
  device: Device,
  { model, weights }: ImportedModel,
  given: readonly Named[],
  tolerance: Tolerance,
): Promise<void> {
  const graph = model.entries.main!;
  const names = graph.inputs.map((v) => String(v.attrs.name));
  const byName = given.some(({ name }) => names.includes(name));
  const inputs = Object.fromEntries(
    given.flatMap(({ name, tensor }, i) => {
      const key = byName ? name : names[i];
      return key === undefined || !names.includes(key) ? [] : [[key, tensor] as const];
    }),
  );
  const expected = readSide(folder, 'output').map(({ tensor }) => ndOf(tensor));
  const outputs = [...graph.outputs.keys()];
  const results =
    device === 'interpreter' ? interpreted(graph, weights, inputs) : await compiled(device, model, weights, inputs);
  for (const [i, want] of expected.entries()) compare(outputs[i]!, results[outputs[i]!]!, want, tolerance);
}

type Inputs = Readonly<Record<string, WeightTensor>>;

function interpreted(graph: Graph, weights: WeightStore, inputs: Inputs): Record<string, Nd> {
  const values = Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, ndOf(x)]));
  return evaluate(graph, { inputs: values, params: (name) => ndOf(weights.get(name)!), precision: 'f32' });
}

const ARRAYS = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
  i32: Int32Array,
  u32: Uint32Array,
  i16: Int16Array,
  u16: Uint16Array,
  i8: Int8Array,
  u8: Uint8Array,
  bool: Uint8Array,
} as const;

let gpu: Promise<DeviceLike> | undefined;
/** One device for all tests: SwiftShader's where it can be had, else the machine's. */
const gpuDevice = (): Promise<DeviceLike> => {
  gpu ??= createGpu().then((adapter) => adapter.requestDevice());
  return gpu;
};

async function compiled(
  device: 'wasm' | 'webgpu',
  model: Model,
  weights: WeightStore,
  inputs: Inputs,
): Promise<Record<string, Nd>> {
  const session =
    device === 'wasm'
      ? await open(compile(model, { weights }), { device, threads: 1 })
      : await open(compile(model, { weights, target: ['wasm', device] }), { device: await gpuDevice() });
  try {
    const given = Object.fromEntries(
      Object.entries(inputs).map(([name, { dtype, shape, bytes }]) => {
        const data: InputData = new ARRAYS[dtype](Uint8Array.from(bytes).buffer);
        return [name, { data, shape }];
      }),
    );
    const results = (await session.run(given)) as Readonly<Record<string, Tensor>>;
    return Object.fromEntries(
      Object.entries(results).map(([name, { dtype, shape, data }]) => {
        const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        return [name, ndOf({ dtype, shape, bytes })];
      }),
    );
  } finally {
    session.dispose();
  }
}

function compare(name: string, got: Nd | undefined, want: Nd, { rtol, atol }: Tolerance): void {
  if (!got) throw new Error(`output ${name} is missing`);
  if (got.dtype !== want.dtype) throw new Error(`output ${name} is ${got.dtype}, not ${want.dtype}`);
  if (got.shape.join() !== want.shape.join())
    throw new Error(`output ${name} has shape [${got.shape.join(', ')}], not [${want.shape.join(', ')}]`);
  let worst = -1;
  let by = 0;
  for (let i = 0; i < countOf(want.shape); i++) {
    const [a, b] = [got.data[i]!, want.data[i]!];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    const excess = Math.abs(a - b) - (atol + rtol * Math.abs(b));
    if (!(excess <= 0) && !(excess <= by)) [worst, by] = [i, Number.isNaN(excess) ? Infinity : excess];
  }
  if (worst >= 0)
    throw new Error(`output ${name} differs at element ${worst}: ${got.data[worst]} and ${want.data[worst]}`);
}
