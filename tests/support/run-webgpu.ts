/**
 * Compiles a graph for WebGPU and executes its plan: with the kernel interpreter, barriers and races included, or through
 * Dawn. A harness of the compiler's own: the runtime is tested elsewhere. Memory is hostile, as in `run-graph.ts`.
 */
import { decompose } from '../../compiler/decompose.ts';
import { GpuKernelList, type PrintedShaders } from '../../compiler/gpu-kernels.ts';
import { type GpuTarget, WEBGPU } from '../../compiler/gpu-target.ts';
import { partition } from '../../compiler/partition.ts';
import { planEntry } from '../../compiler/plan.ts';
import { type ScheduledProgram, scheduleProgram } from '../../compiler/schedule-regions.ts';
import { WeightPlan } from '../../compiler/weights.ts';
import type { BindingLimits } from '../../compiler/wgsl-access.ts';
import { type Scalar, sizeOf as sizeOfType } from '../../ir/dtype.ts';
import type { Buffer, Expr, Sym } from '../../ir/expr.ts';
import type { Graph } from '../../ir/graph.ts';
import { runKernel, type Subgroups } from '../../ir/interpret.ts';
import type { Kernel } from '../../ir/kernel.ts';
import { countOf, type Nd } from '../../ir/nd.ts';
import { evaluateIndex } from '../../ir/scalar.ts';
import { toFloat32, type WeightStore } from '../../ir/weights.ts';
import {
  type Address,
  type EntryPlan,
  type Launch,
  type Step,
  sizeOf,
  type WgslKernel,
} from '../../runtime/manifest.ts';

const NO_WEIGHTS: WeightStore = { source: 'no weights', names: () => [], get: () => undefined };

/** Sees accesses to global memory. */
export type Watch = (numbers: Float64Array) => Float64Array;

export type Inputs = Readonly<Record<string, Nd>>;
export interface GpuProgram {
  readonly scheduled: ScheduledProgram;
  readonly plan: EntryPlan;
  readonly shaders: PrintedShaders;
  /**
   * Interprets the kernels on the host.
   * @param watch  wraps what a launch reads and writes
   * @param subgroups  how invocations of a workgroup are put together
   * @throws KernelFault
   */
  host(inputs: Inputs, watch?: Watch, subgroups?: Subgroups): Record<string, Nd>;
  /** Runs the shaders. @throws Error with the device's message */
  device(device: GPUDevice, inputs: Inputs): Promise<Record<string, Nd>>;
}

export function compileForGpu(
  graph: Graph,
  options: {
    readonly store?: WeightStore;
    readonly target?: GpuTarget;
    readonly limits?: BindingLimits;
    readonly storage?: 'f32' | 'f16';
  } = {},
): GpuProgram {
  const { store = NO_WEIGHTS, target = WEBGPU, limits, storage = 'f32' } = options;
  const scheduled = scheduleProgram(partition(decompose(graph)), target);
  const list = new GpuKernelList({ limits, halves: storage === 'f16' });
  list.add([scheduled]);
  const shaders = list.print();
  const weights = new WeightPlan({ storage, webgpu: true });
  const byNumber = new Map<number, Kernel>();
  const number = (kernel: Kernel): number => {
    const n = shaders.numberOf(kernel);
    if (!byNumber.has(n)) byNumber.set(n, kernel);
    return n;
  };
  const plan = planEntry(scheduled, weights.inFile, number, 'webgpu');
  const { bytes: image } = weights.write(store, 'weights.bin');
  return {
    scheduled,
    plan,
    shaders,
    host: (inputs, watch, subgroups) =>
      new HostRun(plan, byNumber, { image, storage }, inputs, watch, subgroups).outputs(),
    device: (device, inputs) => new DeviceRun(device, plan, shaders, image, inputs).outputs(),
  };
}

/** Sizes of symbols by the shapes of inputs; those that no input names take their default. */
function bindSymbols(plan: EntryPlan, inputs: Inputs): Record<string, number> {
  const bound: Record<string, number> = Object.fromEntries(plan.symbols.map((s) => [s.name, s.default]));
  for (const port of plan.inputs)
    port.shape.forEach((d, axis) => {
      if (typeof d === 'string') bound[d] = inputs[port.name]?.shape[axis] ?? bound[d]!;
    });
  return bound;
}

/** Steps in order; what a launch and a look at memory do is the engine's. */
async function walk(
  steps: readonly Step[],
  symbols: Record<string, number>,
  engine: {
    launch(launch: Launch): void;
    /** The first word of a buffer. */
    read(address: Address): number | Promise<number>;
  },
): Promise<void> {
  for (const step of steps) {
    if ('kernel' in step) engine.launch(step);
    else if ('loop' in step) {
      const trips = sizeOf(step.trips, symbols);
      for (let n = 0; n < trips; n++) {
        symbols[step.loop] = step.reverse ? trips - 1 - n : n;
        await walk(step.steps, symbols, engine);
      }
    } else if ('if' in step) await walk((await engine.read(step.if)) !== 0 ? step.then : step.else, symbols, engine);
    else if ('count' in step) symbols[step.count] = await engine.read(step.at);
    else throw new Error('a plan for WebGPU copies with kernels');
  }
}

// The interpreter

class HostRun {
  readonly #plan: EntryPlan;
  readonly #kernels: ReadonlyMap<number, Kernel>;
  readonly #weights: { readonly image: Uint8Array; readonly storage: 'f32' | 'f16' };
  readonly #symbols: Record<string, number>;
  readonly #memory: Float64Array[];
  readonly #watch: Watch;
  readonly #subgroups: Subgroups | undefined;

  constructor(
    plan: EntryPlan,
    kernels: ReadonlyMap<number, Kernel>,
    weights: { readonly image: Uint8Array; readonly storage: 'f32' | 'f16' },
    inputs: Inputs,
    watch: Watch = (numbers) => numbers,
    subgroups?: Subgroups,
  ) {
    this.#subgroups = subgroups;
    this.#watch = watch;
    this.#plan = plan;
    this.#kernels = kernels;
    this.#weights = weights;
    this.#symbols = bindSymbols(plan, inputs);
    this.#memory = plan.buffers.map(({ bytes }) => new Float64Array(sizeOf(bytes, this.#symbols) / 4).fill(Number.NaN));
    for (const port of plan.inputs) this.#memory[port.buffer]!.set(inputs[port.name]!.data);
  }

  outputs(): Record<string, Nd> {
    this.#walk(this.#plan.steps);
    return Object.fromEntries(
      this.#plan.outputs.map(({ name, dtype, shape, buffer }) => {
        const sizes = shape.map((d) => sizeOf(d, this.#symbols));
        return [name, { dtype, shape: sizes, data: this.#memory[buffer]!.slice(0, countOf(sizes)) }];
      }),
    );
  }

  #walk(steps: readonly Step[]): void {
    const engine = { launch: (l: Launch) => this.#launch(l), read: (a: Address) => this.#at(a)[0]! };
    for (const step of steps) {
      if ('kernel' in step) engine.launch(step);
      else if ('loop' in step) {
        const trips = sizeOf(step.trips, this.#symbols);
        for (let n = 0; n < trips; n++) {
          this.#symbols[step.loop] = step.reverse ? trips - 1 - n : n;
          this.#walk(step.steps);
        }
      } else if ('if' in step) this.#walk(engine.read(step.if) !== 0 ? step.then : step.else);
      else if ('count' in step) this.#symbols[step.count] = engine.read(step.at);
    }
  }

  #at(address: Address): Float64Array {
    if (!('b' in address)) throw new Error('a number is read from the weights');
    return this.#memory[address.b]!;
  }

  #decode(at: number, dtype: Scalar, size: number): Float64Array {
    const { image, storage } = this.#weights;
    return decode(image, at, dtype === 'f32' ? storage : dtype, size);
  }

  #launch(launch: Launch): void {
    const kernel = this.#kernels.get(launch.kernel)!;
    const params = new Map<Expr, number>();
    kernel.params.forEach((p, i) => void params.set(p, sizeOf(launch.params[i]!, this.#symbols)));
    const sizes = new Map(params);
    const value = (leaf: Expr): number => {
      const known = params.get(leaf) ?? this.#symbols[(leaf.arg as Sym).name];
      if (known === undefined) throw new Error(`${(leaf.arg as Sym).name} is not bound`);
      sizes.set(leaf, known);
      return known;
    };
    const buffers = new Map<Buffer, Float64Array>();
    const global = kernel.buffers.filter((b) => b.space === 'global');
    global.forEach((b, i) => {
      const size = evaluateIndex(b.size, value);
      const at = launch.args[i]!;
      buffers.set(b, this.#watch('w' in at ? this.#decode(at.w, b.dtype, size) : this.#at(at)));
    });
    for (const b of kernel.buffers) if (b.space !== 'global') evaluateIndex(b.size, value);
    const grid = sizeOf(launch.grid, this.#symbols);
    const subgroups = this.#subgroups;
    runKernel(kernel, { buffers, params: sizes, grid: [0, grid], order: 'reverse', fma: 'fused', subgroups });
  }
}

function decode(memory: Uint8Array, at: number, dtype: Scalar, count: number): Float64Array {
  const bytes = memory.slice(at, at + count * sizeOfType(dtype));
  switch (dtype) {
    case 'f16':
    case 'bf16':
      return Float64Array.from(toFloat32({ dtype, shape: [count], bytes }));
    case 'i64':
    case 'u64':
      return Float64Array.from(new BigInt64Array(bytes.buffer), Number);
    case 'f32':
      return Float64Array.from(new Float32Array(bytes.buffer));
    case 'f64':
      return new Float64Array(bytes.buffer);
    case 'i32':
      return Float64Array.from(new Int32Array(bytes.buffer));
    case 'u32':
      return Float64Array.from(new Uint32Array(bytes.buffer));
    case 'i16':
      return Float64Array.from(new Int16Array(bytes.buffer));
    case 'u16':
      return Float64Array.from(new Uint16Array(bytes.buffer));
    case 'i8':
      return Float64Array.from(new Int8Array(bytes.buffer));
    default:
      return Float64Array.from(bytes);
  }
}

// The device

const ALIGN = 256;
/** A word that no kernel may count on: a NaN. */
const POISON = 0x7fc0dead;

class DeviceRun {
  readonly #device: GPUDevice;
  readonly #plan: EntryPlan;
  readonly #kernels: readonly WgslKernel[];
  readonly #sources: readonly string[];
  readonly #symbols: Record<string, number>;
  readonly #places: readonly { readonly at: number; readonly bytes: number }[];
  readonly #arena: GPUBuffer;
  readonly #weights: GPUBuffer;
  readonly #buffers: GPUBuffer[] = [];
  #encoder: GPUCommandEncoder;

  constructor(device: GPUDevice, plan: EntryPlan, shaders: PrintedShaders, image: Uint8Array, inputs: Inputs) {
    this.#device = device;
    this.#plan = plan;
    this.#kernels = shaders.kernels;
    this.#sources = shaders.sets[0]!.sources;
    this.#symbols = bindSymbols(plan, inputs);
    let top = 0;
    this.#places = plan.buffers.map(({ bytes }) => {
      const at = top;
      const size = sizeOf(bytes, this.#symbols);
      // A gap after each buffer shows what writes beyond its end.
      top = Math.ceil((at + size + 16) / ALIGN) * ALIGN;
      return { at, bytes: size };
    });
    const words = new Uint32Array(Math.max(top, ALIGN) / 4).fill(POISON);
    for (const port of plan.inputs) words.set(wordsOf(inputs[port.name]!), this.#places[port.buffer]!.at / 4);
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    this.#arena = this.#make(words.byteLength, STORAGE | COPY_SRC | COPY_DST);
    device.queue.writeBuffer(this.#arena, 0, words);
    const padded = new Uint8Array(Math.max(ALIGN, Math.ceil(image.length / ALIGN) * ALIGN));
    padded.set(image);
    this.#weights = this.#make(padded.length, STORAGE | COPY_DST);
    device.queue.writeBuffer(this.#weights, 0, padded);
    this.#encoder = device.createCommandEncoder();
  }

  async outputs(): Promise<Record<string, Nd>> {
    const device = this.#device;
    device.pushErrorScope('validation');
    try {
      await walk(this.#plan.steps, this.#symbols, {
        launch: (l) => this.#launch(l),
        read: async (a) => ('b' in a ? (await this.#read(this.#places[a.b]!.at, 4))[0]! : 0),
      });
      const result: Record<string, Nd> = {};
      for (const { name, dtype, shape, buffer } of this.#plan.outputs) {
        const sizes = shape.map((d) => sizeOf(d, this.#symbols));
        const bytes = countOf(sizes) * 4;
        const words = bytes === 0 ? new Uint32Array() : await this.#read(this.#places[buffer]!.at, bytes);
        result[name] = { dtype, shape: sizes, data: numbersOf(words, dtype) };
      }
      await this.#checkGaps();
      return result;
    } finally {
      const error = await device.popErrorScope();
      for (const b of this.#buffers) b.destroy();
      // biome-ignore lint/correctness/noUnsafeFinally: what the device says matters more than what follows from it
      if (error) throw new Error(error.message);
    }
  }

  async #checkGaps(): Promise<void> {
    const words = await this.#read(0, this.#arena.size);
    this.#places.forEach(({ at, bytes }, i) => {
      if (words.subarray((at + bytes) / 4, (at + bytes) / 4 + 4).some((w) => w !== POISON))
        throw new Error(`something wrote beyond the end of buffer ${i}`);
    });
  }

  #make(size: number, usage: GPUBufferUsageFlags): GPUBuffer {
    const made = this.#device.createBuffer({ size, usage });
    this.#buffers.push(made);
    return made;
  }

  async #read(at: number, bytes: number): Promise<Uint32Array> {
    const { MAP_READ, COPY_DST } = GPUBufferUsage;
    const out = this.#make(bytes, MAP_READ | COPY_DST);
    this.#encoder.copyBufferToBuffer(this.#arena, at, out, 0, bytes);
    this.#device.queue.submit([this.#encoder.finish()]);
    this.#encoder = this.#device.createCommandEncoder();
    await out.mapAsync(GPUMapMode.READ);
    const words = new Uint32Array(out.getMappedRange().slice(0));
    out.unmap();
    return words;
  }

  #launch(launch: Launch): void {
    const device = this.#device;
    const grid = sizeOf(launch.grid, this.#symbols);
    if (grid === 0) return;
    const kernel = this.#kernels[launch.kernel]!;
    const readOnly = kernel.bindings.map((b) => 'weights' in b || ('arg' in b && 'w' in launch.args[b.arg]!));
    const hasParams = launch.params.length > 0 || kernel.bindings.some((b) => !('arg' in b));
    const pipeline = pipelineOf(device, this.#sources[launch.kernel]!, readOnly, hasParams);
    const offsets: number[] = [];
    const entries = kernel.bindings.map((binding, i): GPUBindGroupEntry => {
      const resource = this.#resource(binding, launch, offsets);
      return { binding: i + 1, resource };
    });
    const params = [...launch.params.map((p) => sizeOf(p, this.#symbols)), ...offsets];
    if (params.length > 0) {
      const data = new Int32Array(Math.ceil(params.length / 4) * 4);
      data.set(params);
      const uniform = this.#make(data.byteLength, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
      device.queue.writeBuffer(uniform, 0, data);
      entries.push({ binding: 0, resource: { buffer: uniform } });
    }
    const pass = this.#encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(Math.min(grid, 65535), Math.ceil(grid / 65535));
    pass.end();
  }

  #resource(binding: WgslKernel['bindings'][number], launch: Launch, offsets: number[]): GPUBufferBinding {
    if ('arg' in binding) {
      const at = launch.args[binding.arg]!;
      if ('w' in at) {
        const piece = 'from' in binding ? binding : undefined;
        const offset = at.w + (piece?.from ?? 0);
        const size = piece ? Math.ceil(piece.bytes / 16) * 16 : this.#weights.size - offset;
        return { buffer: this.#weights, offset, size };
      }
      if (!('b' in at)) throw new Error('WebGPU has no scratch');
      const { at: offset, bytes } = this.#places[at.b]!;
      return { buffer: this.#arena, offset, size: Math.max(16, Math.ceil(bytes / 16) * 16) };
    }
    const [buffer, args] = 'arena' in binding ? [this.#arena, binding.arena] : [this.#weights, binding.weights];
    for (const n of args) {
      const at = launch.args[n]!;
      offsets.push(('w' in at ? at.w : 'b' in at ? this.#places[at.b]!.at : 0) / 4);
    }
    return { buffer };
  }
}

const pipelines = new WeakMap<GPUDevice, Map<string, GPUComputePipeline>>();
function pipelineOf(
  device: GPUDevice,
  code: string,
  readOnly: readonly boolean[],
  hasParams: boolean,
): GPUComputePipeline {
  const known = pipelines.get(device) ?? new Map<string, GPUComputePipeline>();
  pipelines.set(device, known);
  let pipeline = known.get(code);
  if (!pipeline) {
    const module = device.createShaderModule({ code });
    const visibility = GPUShaderStage.COMPUTE;
    const entries = readOnly.map((read, i): GPUBindGroupLayoutEntry => {
      return { binding: i + 1, visibility, buffer: { type: read ? 'read-only-storage' : 'storage' } };
    });
    if (hasParams) entries.push({ binding: 0, visibility, buffer: { type: 'uniform' } });
    const layout = device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] });
    pipeline = device.createComputePipeline({ layout, compute: { module, entryPoint: 'main' } });
    known.set(code, pipeline);
  }
  return pipeline;
}

function wordsOf({ dtype, data }: Nd): Uint32Array {
  switch (dtype) {
    case 'f32':
    case 'f16':
    case 'bf16':
      return new Uint32Array(Float32Array.from(data).buffer);
    default:
      return Uint32Array.from(data, (x) => x >>> 0);
  }
}

function numbersOf(words: Uint32Array, dtype: Scalar): Float64Array {
  switch (dtype) {
    case 'f32':
    case 'f16':
    case 'bf16':
      return Float64Array.from(new Float32Array(words.buffer, 0, words.length));
    case 'i64':
    case 'i32':
    case 'i16':
    case 'i8':
      return Float64Array.from(new Int32Array(words.buffer, 0, words.length));
    default:
      return Float64Array.from(words);
  }
}
