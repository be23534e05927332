/** Weights in GPU buffers: where each starts, and how the file's blocks get there. */
import { HeddleError } from './error.ts';
import type { WebGpuPart, WeightsInfo } from './manifest.ts';
import { eachLaunch } from './webgpu-check.ts';
import { type Gpu, USAGE } from './webgpu-device.ts';
import { place, type TakeBlock } from './weights.ts';

/** A part of the weight memory that one GPU buffer holds. */
export interface WeightRange {
  readonly from: number;
  readonly bytes: number;
}

/** Offsets of storage bindings are multiples of this on every device. */
export const BINDING_ALIGN = 256;

/**
 * Bytes of the weight memory at which a kernel's binding starts, in order, and the end of the memory; beyond it where a
 * weight without elements stands there.
 */
export function weightStarts(part: WebGpuPart, memory: number): number[] {
  const starts = new Set<number>();
  for (const { steps } of Object.values(part.entries))
    eachLaunch(steps, ({ kernel, args }) => {
      for (const arg of args) if ('w' in arg) starts.add(arg.w);
      for (const binding of part.kernels[kernel]!.bindings) {
        const arg = 'from' in binding ? args[binding.arg] : undefined;
        if (arg !== undefined && 'from' in binding && 'w' in arg) starts.add(arg.w + binding.from);
      }
    });
  starts.add(starts.has(memory) ? memory + BINDING_ALIGN : memory);
  starts.add(0);
  return [...starts].sort((a, b) => a - b);
}

/**
 * Cuts the weight memory into buffers of at most `most` bytes, at places where a binding starts.
 *
 * @throws HeddleError `memory` for a weight that no buffer can hold
 */
export function cutWeights(starts: readonly number[], most: number): WeightRange[] {
  const ranges: WeightRange[] = [];
  let from = starts[0]!;
  for (const [i, start] of starts.entries()) {
    const next = starts[i + 1];
    if (next === undefined) break;
    if (next - start > most) {
      throw new HeddleError(
        'memory',
        `a weight of ${next - start} bytes does not fit into a GPU buffer of ${most}. Use device "wasm".`,
      );
    }
    if (next - from <= most || start % BINDING_ALIGN !== 0) continue;
    ranges.push({ from, bytes: start - from });
    from = start;
  }
  const end = starts.at(-1)!;
  if (end > from) ranges.push({ from, bytes: end - from });
  return ranges;
}

/** Bytes written at a time before the device is waited for, so that copies do not pile up. */
const AHEAD = 64 * 2 ** 20;

/** The weights on the device. */
export class GpuWeights {
  readonly ranges: readonly WeightRange[];
  readonly buffers: readonly GPUBuffer[];
  readonly #gpu: Gpu;
  /** Bytes short of a word, of a segment that continues in the next block. */
  #rest = new Uint8Array(0);
  #restAt = 0;
  #ahead = 0;

  private constructor(gpu: Gpu, ranges: readonly WeightRange[], buffers: readonly GPUBuffer[]) {
    this.#gpu = gpu;
    this.ranges = ranges;
    this.buffers = buffers;
  }

  /** Makes the buffers. @throws HeddleError `memory` */
  static async create(gpu: Gpu, part: WebGpuPart, info: WeightsInfo): Promise<GpuWeights> {
    const ranges = cutWeights(weightStarts(part, info.memory), gpu.device.limits.maxBufferSize);
    // Steps may look at a word of them.
    const usage = USAGE.storage | USAGE.copyTarget | USAGE.copySource;
    const buffers: GPUBuffer[] = [];
    for (const { bytes } of ranges) buffers.push(await gpu.create(Math.ceil(bytes / 16) * 16, usage, 'the weights'));
    return new GpuWeights(gpu, ranges, buffers);
  }

  /** Takes what a block of the file holds of a segment: see `loadWeights`. */
  readonly take: TakeBlock = async (segment, block, start) => {
    const first = Math.max(segment.from, start);
    const last = Math.min(segment.from + segment.bytes, start + block.length);
    if (first >= last) return;
    if (segment.stored === 'raw') {
      return this.#write(segment.to + first - segment.from, block.subarray(first - start, last - start));
    }
    const to = segment.to + 2 * (first - segment.from);
    const wide = new Uint8Array(2 * (last - first));
    place(segment, block, start, wide, to);
    return this.#write(to, wide);
  };

  /** Takes bytes that stand at `to` of the weight memory, those of one segment in their order. */
  async #write(to: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    let [at, data] = [to, bytes];
    if (this.#rest.length > 0) {
      if (this.#restAt + this.#rest.length === to) {
        data = new Uint8Array(this.#rest.length + bytes.length);
        data.set(this.#rest);
        data.set(bytes, this.#rest.length);
        at = this.#restAt;
        this.#rest = new Uint8Array(0);
      } else this.finish();
    }
    const whole = data.length & ~3;
    this.#rest = data.slice(whole);
    this.#restAt = at + whole;
    this.#put(at, data.subarray(0, whole));
    if (this.#ahead < AHEAD) return;
    this.#ahead = 0;
    this.#gpu.device.queue.submit([]);
    await this.#gpu.race(this.#gpu.device.queue.onSubmittedWorkDone());
  }

  /** Writes what is left over. */
  finish(): void {
    if (this.#rest.length === 0) return;
    const word = new Uint8Array(4);
    word.set(this.#rest);
    this.#rest = new Uint8Array(0);
    this.#put(this.#restAt, word);
  }

  #put(at: number, data: Uint8Array<ArrayBuffer>): void {
    this.#ahead += data.length;
    for (const [i, { from, bytes }] of this.ranges.entries()) {
      const [first, last] = [Math.max(at, from), Math.min(at + data.length, from + Math.ceil(bytes / 16) * 16)];
      if (first >= last) continue;
      this.#gpu.device.queue.writeBuffer(this.buffers[i]!, first - from, data, first - at, last - first);
    }
  }
}
