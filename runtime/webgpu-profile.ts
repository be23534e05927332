/** Time per label on the GPU's own clock, or around single submissions where it has none to show. */
import type { ProfileRow } from './api.ts';
import { type Gpu, USAGE } from './webgpu-device.ts';

/** Passes between two readings of the clock. */
const PASSES = 64;
const BYTES = 2 * PASSES * 8;

interface Clock {
  readonly queries: GPUQuerySet;
  readonly resolved: GPUBuffer;
  readonly staging: GPUBuffer;
}

export class Stopwatch {
  readonly #gpu: Gpu;
  readonly #clock: Clock | undefined;
  #labels: string[] = [];
  #from = 0;
  readonly #rows = new Map<string, { label: string; ms: number; calls: number }>();

  private constructor(gpu: Gpu, clock: Clock | undefined) {
    this.#gpu = gpu;
    this.#clock = clock;
  }

  static async start(gpu: Gpu): Promise<Stopwatch> {
    const { device } = gpu;
    if (!device.features.has('timestamp-query')) return new Stopwatch(gpu, undefined);
    return new Stopwatch(gpu, {
      queries: device.createQuerySet({ type: 'timestamp', count: 2 * PASSES }),
      resolved: await gpu.create(BYTES, USAGE.queryResolve | USAGE.copySource, 'the profile'),
      staging: await gpu.create(BYTES, USAGE.mapRead | USAGE.copyTarget, 'the profile'),
    });
  }

  /** Begins to time a launch: what its pass writes, where there is a clock. */
  next(label: string): GPUComputePassTimestampWrites | undefined {
    if (this.#labels.length === 0) this.#from = performance.now();
    const i = 2 * (this.#labels.push(label) - 1);
    return this.#clock && { querySet: this.#clock.queries, beginningOfPassWriteIndex: i, endOfPassWriteIndex: i + 1 };
  }

  /** Whether the launches so far must be resolved, submitted and collected before the next one. */
  get full(): boolean {
    return this.#labels.length === (this.#clock ? PASSES : 1);
  }

  resolve(encoder: GPUCommandEncoder): void {
    const count = 2 * this.#labels.length;
    if (this.#clock === undefined || count === 0) return;
    const { queries, resolved, staging } = this.#clock;
    encoder.resolveQuerySet(queries, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, 8 * count);
  }

  /** Adds up what was submitted, once it is done. */
  async collect(): Promise<void> {
    const labels = this.#labels;
    this.#labels = [];
    if (labels.length === 0) return;
    if (this.#clock === undefined) {
      this.#add(labels[0]!, performance.now() - this.#from);
      return;
    }
    const { staging } = this.#clock;
    await this.#gpu.race(staging.mapAsync(1, 0, 16 * labels.length));
    const times = new BigUint64Array(staging.getMappedRange(0, 16 * labels.length));
    for (const [i, label] of labels.entries()) this.#add(label, Number(times[2 * i + 1]! - times[2 * i]!) / 1e6);
    staging.unmap();
  }

  #add(label: string, ms: number): void {
    const row = this.#rows.get(label) ?? { label, ms: 0, calls: 0 };
    row.ms += ms;
    row.calls++;
    this.#rows.set(label, row);
  }

  /** Longest first. */
  rows(): ProfileRow[] {
    return [...this.#rows.values()].sort((a, b) => b.ms - a.ms);
  }

  close(): void {
    this.#clock?.queries.destroy();
    this.#gpu.destroy(this.#clock?.resolved);
    this.#gpu.destroy(this.#clock?.staging);
  }
}
