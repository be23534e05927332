/** What a session holds on a device: pipelines, weights, the arena, and the bind groups of programs. */
import { HeddleError } from './error.ts';
import type { WebGpuPart } from './manifest.ts';
import type { Loading } from './opening.ts';
import { type Gpu, USAGE } from './webgpu-device.ts';
import { compilePipelines, type Pipeline, readSources } from './webgpu-kernels.ts';
import type { Bindings, GpuLaunch, GpuProgram, Range } from './webgpu-program.ts';
import { BINDING_ALIGN, GpuWeights, weightStarts } from './webgpu-weights.ts';
import { loadWeights } from './weights.ts';

/** Launches in a submission; as many may have parameters that are only known as they run. */
export const LAUNCHES = 64;

/** A program on the device. */
export interface Realised {
  /** By position in `ops`; undefined for what is no launch. */
  readonly groups: readonly (GPUBindGroup | undefined)[];
  readonly uniforms: GPUBuffer | undefined;
}

export class Machine {
  readonly gpu: Gpu;
  readonly bindings: Bindings;
  readonly #weights: GpuWeights;
  readonly #realised = new Map<GpuProgram, Realised>();
  /** Uniforms of launches with late parameters, made when there are any. */
  ring: GPUBuffer | undefined;
  #arena: GPUBuffer | undefined;
  #staging: GPUBuffer | undefined;

  private constructor(gpu: Gpu, weights: GpuWeights, bindings: Bindings) {
    this.gpu = gpu;
    this.#weights = weights;
    this.bindings = bindings;
  }

  /**
   * Compiles and loads everything; closes the device when that fails.
   *
   * @throws HeddleError `support`, `memory`, `integrity`, `source`, `device`
   */
  static async load(gpu: Gpu, part: WebGpuPart, loading: Loading): Promise<Machine> {
    const { source, manifest, signal, progress } = loading;
    const { weights: info } = manifest;
    const stop = new Promise<never>((_, fail) => {
      const abort = (): void => fail(signal.reason);
      if (signal.aborted) abort();
      signal.addEventListener('abort', abort);
    });
    stop.catch(() => {});
    try {
      const compiling = readSources(loading, part, gpu.device).then((sources) =>
        compilePipelines(gpu, part, sources, (done, total) => progress('kernels', done, total)),
      );
      const filling = GpuWeights.create(gpu, part, info).then(async (weights) => {
        await loadWeights(source, info, weights.take, signal, (loaded) => progress('weights', loaded, info.bytes));
        return weights;
      });
      filling.catch(() => {});
      // A pipeline under way cannot be stopped, so nobody waits for it.
      const [pipelines, weights] = await Promise.race([stop, Promise.all([compiling, filling])]);
      return new Machine(gpu, weights, {
        pipelines,
        weights: weights.ranges,
        starts: weightStarts(part, info.bytes),
        limits: gpu.device.limits,
      });
    } catch (error) {
      gpu.close();
      throw error;
    }
  }

  pipeline(launch: GpuLaunch): Pipeline {
    return this.bindings.pipelines[launch.kernel]!;
  }

  weights(buffer: number): GPUBuffer {
    return this.#weights.buffers[buffer]!;
  }

  /** The arena, at least so large; bind groups of the one before are dropped with it. */
  async arena(bytes: number): Promise<GPUBuffer> {
    if (this.#arena !== undefined && this.#arena.size >= bytes) return this.#arena;
    for (const program of [...this.#realised.keys()]) this.forget(program);
    this.gpu.destroy(this.#arena);
    this.#arena = undefined;
    const usage = USAGE.storage | USAGE.copySource | USAGE.copyTarget;
    this.#arena = await this.gpu.create(bytes, usage, 'these sizes');
    return this.#arena;
  }

  /** A buffer to map, at least so large. */
  async staging(bytes: number): Promise<GPUBuffer> {
    if (this.#staging !== undefined && this.#staging.size >= bytes) return this.#staging;
    this.gpu.destroy(this.#staging);
    this.#staging = undefined;
    this.#staging = await this.gpu.create(bytes, USAGE.mapRead | USAGE.copyTarget, 'the outputs');
    return this.#staging;
  }

  /** The program's bind groups over the arena, made once. */
  async realise(program: GpuProgram, arena: GPUBuffer): Promise<Realised> {
    const known = this.#realised.get(program);
    if (known !== undefined) return known;
    const { gpu } = this;
    const { device } = gpu;
    const usage = USAGE.uniform | USAGE.indirect | USAGE.copyTarget;
    const { uniforms: words, ops } = program;
    const late = ops.some((op) => op.kind === 'launch' && op.words.length > 0 && op.block === undefined);
    if (late) this.ring ??= await gpu.create(LAUNCHES * BINDING_ALIGN, usage, 'parameters');
    const uniforms = words.length > 0 ? await gpu.create(words.byteLength, usage, 'parameters') : undefined;
    const resource = ({ weights, at, bytes }: Range): GPUBufferBinding => ({
      buffer: weights === undefined ? arena : this.weights(weights),
      offset: at,
      size: bytes,
    });
    const { value: groups, error } = gpu.scoped(() => {
      if (uniforms !== undefined) device.queue.writeBuffer(uniforms, 0, words);
      return ops.map((op) => {
        if (op.kind !== 'launch') return undefined;
        const { layout, uniform } = this.pipeline(op);
        const entries: GPUBindGroupEntry[] = op.ranges.map((range, i) => ({
          binding: i + 1,
          resource: resource(range),
        }));
        if (uniform > 0) {
          const buffer = op.block === undefined ? this.ring! : uniforms!;
          entries.unshift({ binding: 0, resource: { buffer, offset: 0, size: uniform } });
        }
        return device.createBindGroup({ label: op.label, layout, entries });
      });
    });
    const failed = await gpu.race(error);
    if (failed !== undefined) {
      gpu.destroy(uniforms);
      throw new HeddleError('manifest', `the GPU refuses the plan's bindings: ${failed.message}`);
    }
    const realised = { groups, uniforms };
    this.#realised.set(program, realised);
    program.drop = () => this.forget(program);
    return realised;
  }

  forget(program: GpuProgram): void {
    this.gpu.destroy(this.#realised.get(program)?.uniforms);
    this.#realised.delete(program);
  }
}
