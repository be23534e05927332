/** Runs of a session on WebGPU: inputs onto the device, outputs off it or left there, one recovery from a lost device. */
import type { BufferLike, DeviceTensor, RunOptions, Tensor } from './api.ts';
import { HeddleError } from './error.ts';
import { type EntryPlan, sizeOf, type WebGpuPart } from './manifest.ts';
import type { Backend, Work } from './session.ts';
import { product, refuse, type TakeInput } from './tensor.ts';
import type { Counting } from './webgpu-counts.ts';
import { fromWords, toWords, WORD } from './webgpu-data.ts';
import { type Gpu, USAGE } from './webgpu-device.ts';
import type { Machine } from './webgpu-machine.ts';
import { bindGpuProgram, type GpuPort, type GpuProgram, shapeOf } from './webgpu-program.ts';
import { executeOnGpu } from './webgpu-run.ts';

/** An input that stands in GPU memory. */
export interface DeviceElements {
  readonly length: number;
  readonly gpuBuffer: GPUBuffer;
}

/** An entry under one binding of its symbols. */
export interface Binding {
  readonly plan: EntryPlan;
  readonly symbols: Readonly<Record<string, number>>;
  /** On the machine that it was last used on. */
  program: GpuProgram | undefined;
  machine: Machine | undefined;
  readonly drop: () => void;
}

type Symbols = Readonly<Record<string, number>>;

/**
 * Encodes the copies of the outputs, with room for the most that sizes may be; what it returns waits for them, and settles
 * the counts before it takes the sizes for what they are.
 */
type Collect = (
  encoder: GPUCommandEncoder,
  symbols: Symbols,
  arena: GPUBuffer,
  counting: Counting,
) => Promise<() => Promise<void>>;

const take: TakeInput<DeviceElements> = (port, input) => {
  if (typeof input !== 'object' || input === null || !('buffer' in input) || ArrayBuffer.isView(input))
    return undefined;
  const { buffer, shape } = input as { readonly buffer: BufferLike; readonly shape?: unknown };
  if (!Array.isArray(shape)) return refuse(port, 'was given a buffer without shape', 'Pass { buffer, shape }.');
  const length = product(shape as number[]);
  if (!(buffer.size >= length * WORD) || !(buffer.usage & USAGE.copySource)) {
    const has = `${buffer.size} bytes, usage ${buffer.usage}`;
    const needs = `${length * WORD} bytes and usage COPY_SRC (${USAGE.copySource})`;
    return refuse(port, `was given a GPU buffer with ${has}`, `It needs ${needs}: a 32-bit word for each element.`);
  }
  return { elements: { length, gpuBuffer: buffer as GPUBuffer }, shape: shape as number[] };
};

const isOnDevice = (data: object): data is DeviceElements => 'gpuBuffer' in data;

/** What the runner needs of whoever opened the bundle. */
export interface Host {
  /** Another device with everything on it. */
  readonly reload: () => Promise<Machine>;
  /** Ends the session, when there is no device any more. */
  readonly dispose: () => void;
}

export class Runner implements Backend<Binding, DeviceElements> {
  readonly plans: Backend<Binding, DeviceElements>['plans'];
  readonly take = take;
  readonly #host: Host;
  #machine: Machine;
  #closed = false;
  #recovered = false;

  constructor(machine: Machine, part: WebGpuPart, host: Host) {
    this.#machine = machine;
    this.plans = part.entries;
    this.#host = host;
  }

  readonly bytes = (): number => this.#machine.gpu.bytes;

  readonly bind = (plan: EntryPlan, symbols: Symbols): Binding => {
    const binding: Binding = {
      plan,
      symbols,
      program: undefined,
      machine: undefined,
      drop: () => binding.program?.drop?.(),
    };
    return binding;
  };

  /** The binding's program on the machine that is in use. */
  #programOf(binding: Binding): GpuProgram {
    const machine = this.#machine;
    if (binding.program === undefined || binding.machine !== machine) {
      binding.program = bindGpuProgram(binding.plan, binding.symbols, machine.bindings);
      binding.machine = machine;
    }
    return binding.program;
  }

  readonly run: Work<Binding, DeviceElements, Tensor> = (binding, data, options, check) =>
    this.#withRecovery(data, check, async () => {
      const machine = this.#machine;
      const program = this.#programOf(binding);
      const tensors: Record<string, Tensor> = {};
      let staging: GPUBuffer | undefined;
      try {
        await this.#execute(program, data, options, check, async (encoder, symbols, arena, counting) => {
          let { bytes } = counting;
          const places = program.outputs.map((port) => {
            const at = bytes;
            const size = product(shapeOf(port, symbols)) * WORD;
            bytes += Math.ceil(size / 16) * 16;
            return { port, at, size };
          });
          bytes = Math.max(16, bytes);
          const to = await machine.staging(bytes);
          staging = to;
          counting.copy(encoder, arena, to);
          for (const { port, at, size } of places) encoder.copyBufferToBuffer(arena, port.at, to, at, size);
          return async () => {
            await machine.gpu.race(to.mapAsync(MAP_READ, 0, bytes));
            const memory = to.getMappedRange(0, bytes);
            counting.settle(memory);
            for (const { port, at } of places) {
              const { name, dtype } = port.port;
              const shape = shapeOf(port, symbols);
              tensors[name] = { dtype, shape, data: fromWords(dtype, memory, at, product(shape)) };
            }
          };
        });
        return tensors;
      } finally {
        staging?.unmap();
      }
    });

  /** As `run`, with the outputs in buffers of their own. */
  readonly runOnDevice: Work<Binding, DeviceElements, DeviceTensor> = (binding, data, options, check) =>
    this.#withRecovery(data, check, async () => {
      const machine = this.#machine;
      const { gpu } = machine;
      const program = this.#programOf(binding);
      const tensors: Record<string, DeviceTensor> = {};
      const made: GPUBuffer[] = [];
      try {
        await this.#execute(program, data, options, check, async (encoder, symbols, arena, counting) => {
          for (const port of program.outputs) {
            const bytes = product(shapeOf(port, symbols)) * WORD;
            const usage = USAGE.storage | USAGE.copySource | USAGE.copyTarget;
            const buffer = await gpu.create(Math.max(16, bytes), usage, port.port.name);
            made.push(buffer);
            encoder.copyBufferToBuffer(arena, port.at, buffer, 0, bytes);
          }
          const counted = await counting.read(machine, encoder, arena);
          return async () => {
            await counted();
            for (const [i, port] of program.outputs.entries()) {
              tensors[port.port.name] = tensorOn(gpu, port, shapeOf(port, symbols), made[i]!);
            }
          };
        });
      } catch (error) {
        for (const buffer of made) gpu.destroy(buffer);
        throw error;
      }
      for (const buffer of made) gpu.release(buffer);
      return tensors;
    });

  async #execute(
    program: GpuProgram,
    data: readonly object[],
    options: RunOptions,
    check: () => void,
    collect: Collect,
  ): Promise<void> {
    const machine = this.#machine;
    const arena = await machine.arena(program.bytes);
    const realised = await machine.realise(program, arena);
    check();
    let wait = async (): Promise<void> => {};
    const ends = {
      before: (encoder: GPUCommandEncoder): void => writeInputs(machine.gpu, program, data, encoder, arena),
      after: async (encoder: GPUCommandEncoder, symbols: Symbols, counting: Counting): Promise<void> => {
        wait = await collect(encoder, symbols, arena, counting);
      },
    };
    const on = { arena, realised };
    const { verified, rows } = await executeOnGpu(machine, program, on, ends, check, options.profile !== undefined);
    const waiting = wait();
    waiting.catch(() => {});
    await verified;
    await waiting;
    check();
    options.profile?.(rows);
  }

  /** Does the work again on another device when the first one is lost, once in the session's life. */
  async #withRecovery<T>(data: readonly object[], check: () => void, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      check();
      if (!(error instanceof HeddleError) || error.code !== 'device') throw error;
      try {
        if (this.#recovered || !this.#machine.gpu.own || data.some(isOnDevice)) throw error;
        this.#recovered = true;
        console.warn(`${error.message.replace(/ Open the.*/, '')} Loading the model onto a new one.`);
        this.#machine.gpu.close();
        const machine = await this.#host.reload();
        if (this.#closed) machine.gpu.close();
        this.#machine = machine;
        check();
        return await work();
      } catch (final) {
        this.#host.dispose();
        throw final;
      }
    }
  }

  readonly close = (): void => {
    this.#closed = true;
    this.#machine.gpu.close();
  };
}

const MAP_READ = 1;

function writeInputs(
  gpu: Gpu,
  program: GpuProgram,
  data: readonly object[],
  encoder: GPUCommandEncoder,
  arena: GPUBuffer,
): void {
  for (const [i, { port, at }] of program.inputs.entries()) {
    const given = data[i]!;
    if (isOnDevice(given)) encoder.copyBufferToBuffer(given.gpuBuffer, 0, arena, at, given.length * WORD);
    else {
      const words = toWords(port, given as never);
      const wanted = product(port.shape.map((size) => sizeOf(size, program.symbols)));
      if (words.length !== wanted) refuse(port, 'changed while it waited', 'Leave it alone.');
      gpu.device.queue.writeBuffer(arena, at, words as Float32Array<ArrayBuffer>);
    }
  }
}

function tensorOn(gpu: Gpu, { port }: GpuPort, shape: readonly number[], buffer: GPUBuffer): DeviceTensor {
  const { dtype, name } = port;
  return {
    dtype,
    shape,
    buffer,
    destroy: () => buffer.destroy(),
    async read() {
      const staging = await gpu.create(buffer.size, USAGE.mapRead | USAGE.copyTarget, name);
      try {
        const { error } = gpu.scoped(() => {
          const encoder = gpu.device.createCommandEncoder();
          encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size);
          gpu.device.queue.submit([encoder.finish()]);
        });
        const failed = await gpu.race(error);
        if (failed !== undefined) throw new HeddleError('input', `"${name}" cannot be read: ${failed.message}`);
        await gpu.race(staging.mapAsync(MAP_READ));
        return { dtype, shape, data: fromWords(dtype, staging.getMappedRange(), 0, product(shape)) };
      } finally {
        gpu.destroy(staging);
      }
    },
  };
}
