/** Weights in GPU buffers, which hold the weight file as it is: where each starts, and how blocks get there. */
import { HeddleError } from './error.ts';
import type { WebGpuPart, WeightsInfo } from './manifest.ts';
import { eachLaunch } from './webgpu-check.ts';
import { type Gpu, USAGE } from './webgpu-device.ts';
import type { TakeBlock } from './weights.ts';

/** A part of the weight file that one GPU buffer holds. */
export interface WeightRange {
  readonly from: number;
  readonly bytes: number;
}

/** Offsets of storage bindings are multiples of this on every device. */
export const BINDING_ALIGN = 256;

/**
 * Bytes of the file at which a kernel's binding starts, in order, and its end, a multiple of 16; beyond it where a weight
 * without elements stands there.
 */
export function weightStarts(part: WebGpuPart, file: number): number[] {
  const starts = new Set<number>();
  for (const { steps } of Object.values(part.entries))
    eachLaunch(steps, ({ kernel, args }) => {
      for (const arg of args) if ('w' in arg) starts.add(arg.w);
      for (const binding of part.kernels[kernel]!.bindings) {
        const arg = 'from' in binding ? args[binding.arg] : undefined;
        if (arg !== undefined && 'from' in binding && 'w' in arg) starts.add(arg.w + binding.from);
      }
    });
  starts.add(0);
  starts.add(Math.max(Math.ceil(file / 16) * 16, ...[...starts].map((start) => start + 16)));
  return [...starts].sort((a, b) => a - b);
}

/**
 * Cuts the weight file into buffers of at most `most` bytes, at places where a binding starts.
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
  #ahead = 0;

  private constructor(gpu: Gpu, ranges: readonly WeightRange[], buffers: readonly GPUBuffer[]) {
    this.#gpu = gpu;
    this.ranges = ranges;
    this.buffers = buffers;
  }

  /** Makes the buffers. @throws HeddleError `memory` */
  static async create(gpu: Gpu, part: WebGpuPart, info: WeightsInfo): Promise<GpuWeights> {
    const ranges = cutWeights(weightStarts(part, info.bytes), gpu.device.limits.maxBufferSize);
    // Steps may look at a word of them.
    const usage = USAGE.storage | USAGE.copyTarget | USAGE.copySource;
    const buffers: GPUBuffer[] = [];
    for (const { bytes } of ranges) buffers.push(await gpu.create(Math.ceil(bytes / 16) * 16, usage, 'the weights'));
    return new GpuWeights(gpu, ranges, buffers);
  }

  /** Takes a block of the file: see `loadWeights`. */
  readonly take: TakeBlock = async (block, start) => {
    let whole = block;
    if (block.length % 4 !== 0) {
      whole = new Uint8Array(block.length + 4 - (block.length % 4));
      whole.set(block);
    }
    const { device } = this.#gpu;
    for (const [i, { from, bytes }] of this.ranges.entries()) {
      const [first, last] = [Math.max(start, from), Math.min(start + whole.length, from + Math.ceil(bytes / 16) * 16)];
      if (first < last) device.queue.writeBuffer(this.buffers[i]!, first - from, whole, first - start, last - first);
    }
    this.#ahead += whole.length;
    if (this.#ahead < AHEAD) return;
    this.#ahead = 0;
    device.queue.submit([]);
    await this.#gpu.race(device.queue.onSubmittedWorkDone());
  };
}
