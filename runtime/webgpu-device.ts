/** The GPU device of a session: its own or the caller's, every buffer that it holds, and what went wrong with it. */
import type { OpenOptions } from './api.ts';
import { HeddleError } from './error.ts';
import type { WebGpuPart } from './manifest.ts';

/** `GPUBufferUsage`, which is no global in Node. */
export const USAGE = {
  mapRead: 0x1,
  copySource: 0x4,
  copyTarget: 0x8,
  uniform: 0x40,
  storage: 0x80,
  indirect: 0x100,
  queryResolve: 0x200,
} as const;

const support = (why: string): HeddleError => new HeddleError('support', why);

const limitsOf = (of: { readonly limits: object }): Readonly<Record<string, number | undefined>> =>
  of.limits as Readonly<Record<string, number | undefined>>;

function requireLimits(part: WebGpuPart, of: { readonly limits: object }, who: string): void {
  for (const [name, need] of Object.entries(part.limits)) {
    const has = limitsOf(of)[name];
    if (has !== undefined && has >= need) continue;
    throw support(`${who} has ${name} ${String(has)}; the kernels of this bundle need ${need}. Use device "wasm".`);
  }
}

const named = (info: GPUAdapterInfo | undefined): string =>
  [info?.vendor, info?.architecture, info?.description].filter((text) => text).join(' ') || 'unnamed GPU';

export class Gpu {
  readonly device: GPUDevice;
  readonly adapter: string;
  /** Why the device was lost, when it was not by `close`. */
  lost: string | undefined;
  /** The first error that no scope caught. */
  fault: string | undefined;
  /** Bytes of all buffers. */
  bytes = 0;
  readonly #own: boolean;
  readonly #buffers = new Set<GPUBuffer>();
  #closed = false;
  readonly #waiting = new Set<(error: HeddleError) => void>();

  constructor(device: GPUDevice, own: boolean, info: GPUAdapterInfo | undefined) {
    this.device = device;
    this.#own = own;
    this.adapter = named(info);
    device.lost.then(({ reason, message }) => {
      if (this.#closed) return;
      this.lost = `${reason}${message ? `, ${message}` : ''}`;
      for (const fail of this.#waiting) fail(this.lostError());
    });
    // Errors on a device of the caller's may be the caller's own.
    if (own) {
      device.addEventListener('uncapturederror', ({ error }) => {
        this.fault ??= error.message;
      });
    }
  }

  /**
   * @throws HeddleError `support` without an adapter or with one that lacks what the kernels need; `device` when it is
   * lost already
   */
  static async request(part: WebGpuPart, options: OpenOptions, gpu: GPU | undefined): Promise<Gpu> {
    const { device: given } = options;
    if (typeof given === 'object') {
      const device = given as unknown as GPUDevice;
      requireLimits(part, device, 'the given device');
      return new Gpu(device, false, device.adapterInfo);
    }
    if (!gpu) {
      throw support('there is no WebGPU here (no navigator.gpu; in Node, no package webgpu). Use device "wasm".');
    }
    const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) throw support('no WebGPU adapter is available. Use device "wasm".');
    requireLimits(part, adapter, `the adapter (${named(adapter.info)})`);
    const limits = limitsOf(adapter);
    const { maxBufferSize = 0, maxStorageBufferBindingSize = 0 } = limits;
    const useful = part.wgsl.flatMap(({ features = [] }) => features);
    const wanted = [...new Set([...useful, 'timestamp-query'])].filter((name) => adapter.features.has(name));
    try {
      const device = await adapter.requestDevice({
        requiredFeatures: wanted as GPUFeatureName[],
        requiredLimits: { ...part.limits, maxBufferSize, maxStorageBufferBindingSize },
      });
      return new Gpu(device, true, adapter.info);
    } catch (cause) {
      const why = `the adapter (${named(adapter.info)}) gives no device: ${String(cause)}. Use device "wasm".`;
      throw new HeddleError('support', why, { cause });
    }
  }

  lostError(): HeddleError {
    return new HeddleError('device', `the GPU device was lost (${this.lost}). Open the bundle again.`);
  }

  /** Whether the device can be asked for again when it is lost. */
  get own(): boolean {
    return this.#own;
  }

  /** The promise, or the loss of the device if that comes first. */
  async race<T>(promise: Promise<T>): Promise<T> {
    promise.catch(() => {});
    if (this.lost !== undefined) throw this.lostError();
    let drop: (error: HeddleError) => void = () => {};
    try {
      return await new Promise<T>((done, fail) => {
        drop = fail;
        this.#waiting.add(drop);
        promise.then(done, fail);
      });
    } catch (error) {
      // Work on a lost device may fail before the loss is told.
      if (this.lost === undefined) await new Promise((done) => setTimeout(done));
      throw this.lost === undefined ? error : this.lostError();
    } finally {
      this.#waiting.delete(drop);
    }
  }

  /**
   * Does work that ends before it returns, with a scope for each kind of error around it.
   *
   * @returns what the work returned, and the first error's message once it is known
   */
  scoped<T>(work: () => T): { readonly value: T; readonly error: Promise<GPUError | undefined> } {
    const { device } = this;
    for (const filter of ['out-of-memory', 'internal', 'validation'] as const) device.pushErrorScope(filter);
    try {
      const value = work();
      return { value, error: this.#pop() };
    } catch (error) {
      this.#pop();
      throw error;
    }
  }

  #pop(): Promise<GPUError | undefined> {
    const { device } = this;
    const all = Promise.all([device.popErrorScope(), device.popErrorScope(), device.popErrorScope()]);
    const first = all.then((errors) => errors.find((error) => error !== null) ?? undefined);
    // Not everybody waits for it when the device goes.
    first.catch(() => {});
    return first;
  }

  /** @param what  for the error: `the weights` @throws HeddleError `memory` */
  async create(size: number, usage: number, what: string): Promise<GPUBuffer> {
    const most = this.device.limits.maxBufferSize;
    const refuse = (why: string): never => {
      throw new HeddleError(
        'memory',
        `${what}: ${(size / 2 ** 20).toFixed(1)} MiB of GPU memory: ${why}. Use smaller sizes, or device "wasm".`,
      );
    };
    if (!(size <= most)) refuse(`the device holds at most ${most} bytes in a buffer`);
    const { value: buffer, error } = this.scoped(() => this.device.createBuffer({ label: what, size, usage }));
    this.#buffers.add(buffer);
    this.bytes += size;
    const failed = await this.race(error);
    if (failed !== undefined) {
      this.destroy(buffer);
      refuse(failed.message.split('\n')[0]!);
    }
    return buffer;
  }

  destroy(buffer: GPUBuffer | undefined): void {
    if (buffer === undefined || !this.#buffers.delete(buffer)) return;
    this.bytes -= buffer.size;
    buffer.destroy();
  }

  /** Leaves a buffer to the caller. */
  release(buffer: GPUBuffer): void {
    if (this.#buffers.delete(buffer)) this.bytes -= buffer.size;
  }

  /** Gives back every buffer, and a device of its own. */
  close(): void {
    this.#closed = true;
    for (const buffer of this.#buffers) buffer.destroy();
    this.#buffers.clear();
    this.bytes = 0;
    if (this.#own) this.device.destroy();
  }
}
