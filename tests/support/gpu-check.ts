/** Compares what WebGPU computes, on the host and through Dawn, with the reference interpreter. */
import { type GpuTarget, WEBGPU } from '../../compiler/gpu-target.ts';
import { isFloat, roundTo } from '../../ir/dtype.ts';
import { evaluate } from '../../ir/evaluate.ts';
import type { Graph } from '../../ir/graph.ts';
import type { Nd } from '../../ir/nd.ts';
import type { WeightStore } from '../../ir/weights.ts';
import { compileForGpu, type GpuProgram } from './run-webgpu.ts';
import { createGpu } from './swiftshader.ts';

let opened: Promise<GPUDevice> | undefined;
/** One device for a test file, with every feature that kernels may use. @throws Error without an adapter */
export const gpuDevice = (): Promise<GPUDevice> => {
  opened ??= createGpu().then((adapter) => {
    const requiredFeatures = (['subgroups', 'shader-f16'] as const).filter((name) => adapter.features.has(name));
    return adapter.requestDevice({ requiredFeatures });
  });
  return opened;
};

/** The target with no work so small that it takes a direct kernel. */
export const SHARED: GpuTarget = { ...WEBGPU, small: { usual: 0, most: 0 } };

export interface Tolerance {
  /** Of |want|, or of `floor` where that is larger. */
  readonly relative: number;
  readonly floor: number;
}

/**
 * SwiftShader's exponential has the error that WGSL allows, (3 + 2·|x|) units in the last place: 1e-6 at the arguments of the
 * examples. Sums are formed in other orders than the reference's.
 */
export const CLOSE: Tolerance = { relative: 1e-5, floor: 1 };

/** The first element that is too far from what it should be, as a sentence. */
export function gpuDifference(got: Nd | undefined, want: Nd, { relative, floor }: Tolerance): string | undefined {
  if (!got) return 'it is missing';
  if (got.dtype !== want.dtype || got.shape.join() !== want.shape.join())
    return `it is ${got.dtype}[${got.shape.join()}] instead of ${want.dtype}[${want.shape.join()}]`;
  for (let i = 0; i < want.data.length; i++) {
    const [a, b] = [got.data[i]!, roundTo(want.dtype, want.data[i]!)];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    // Halves round once more at the end.
    const unit = want.dtype === 'f16' ? 2 ** -10 : want.dtype === 'bf16' ? 2 ** -7 : relative;
    if (isFloat(want.dtype) && Math.abs(a - b) <= unit * Math.max(Math.abs(b), floor)) continue;
    return `element ${i} is ${a}, not ${b}`;
  }
  return undefined;
}

/** What is wrong with the results of a graph, each difference a line; and the program, for what else a test asks of it. */
export async function checkOnGpu(
  graph: Graph,
  inputs: Readonly<Record<string, Nd>>,
  options: { readonly store?: WeightStore; readonly tolerance?: Tolerance; readonly target?: GpuTarget } = {},
): Promise<{ readonly wrong: readonly string[]; readonly program: GpuProgram }> {
  const { store, tolerance = CLOSE, target } = options;
  const want = evaluate(graph, { inputs, ...(store && { params: paramsOf(store) }) });
  const program = compileForGpu(graph, { ...(store && { store }), ...(target && { target }) });
  const wrong: string[] = [];
  const results = { host: program.host(inputs), device: await program.device(await gpuDevice(), inputs) };
  for (const [engine, got] of Object.entries(results))
    for (const [name, expected] of Object.entries(want)) {
      const text = gpuDifference(got[name], expected, tolerance);
      if (text) wrong.push(`${engine}, ${name}: ${text}`);
    }
  return { wrong, program };
}

function paramsOf(store: WeightStore): (name: string) => Nd {
  return (name) => {
    const stored = store.get(name)!;
    const { buffer, byteOffset, byteLength } = new Uint8Array(stored.bytes);
    return {
      dtype: stored.dtype,
      shape: stored.shape,
      data: Float64Array.from(new Float32Array(buffer, byteOffset, byteLength / 4)),
    };
  };
}
