/** Runs a program on the device: dispatches in submissions, a look at the signal between them. */
import type { ProfileRow } from './api.ts';
import { HeddleError } from './error.ts';
import { numberOf } from './late.ts';
import { Walk } from './webgpu-control.ts';
import { Counting, type CountOp } from './webgpu-counts.ts';
import { LAUNCHES, type Machine, type Realised } from './webgpu-machine.ts';
import { Stopwatch } from './webgpu-profile.ts';
import { type GpuLaunch, type GpuProgram, type Range, ROW } from './webgpu-program.ts';
import { BINDING_ALIGN } from './webgpu-weights.ts';

/** Submissions that are handed over before the first of them is waited for. */
const AHEAD = 2;

/** What a run adds to its first and last submission. */
export interface Ends {
  readonly before: (encoder: GPUCommandEncoder) => void;
  /** Once every size is known, but for what `counting` kept on the device: that is the most it may be until it is settled. */
  readonly after: (
    encoder: GPUCommandEncoder,
    symbols: Readonly<Record<string, number>>,
    counting: Counting,
  ) => Promise<void>;
}

/** Encodes commands into submissions. */
class Recorder {
  readonly #machine: Machine;
  readonly #check: () => void;
  readonly #errors: Promise<GPUError | undefined>[] = [];
  readonly #ahead: Promise<unknown>[] = [];
  readonly #ring = new Int32Array((LAUNCHES * BINDING_ALIGN) / 4);
  #late = 0;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #launches = 0;

  constructor(machine: Machine, check: () => void) {
    this.#machine = machine;
    this.#check = check;
  }

  /** For commands between passes. */
  get encoder(): GPUCommandEncoder {
    this.endPass();
    this.#encoder ??= this.#machine.gpu.device.createCommandEncoder();
    return this.#encoder;
  }

  pass(timestampWrites?: GPUComputePassTimestampWrites): GPUComputePassEncoder {
    if (timestampWrites !== undefined) this.endPass();
    this.#pass ??= this.encoder.beginComputePass(timestampWrites && { timestampWrites });
    return this.#pass;
  }

  endPass(): void {
    this.#pass?.end();
    this.#pass = undefined;
  }

  /** Puts the parameters of one launch where its uniform is read from. @returns the dynamic offset */
  late(words: readonly number[]): number {
    const at = this.#late++ * BINDING_ALIGN;
    this.#ring.set(words, at / 4);
    return at;
  }

  /** @returns what is to be waited for before the next launch, if anything */
  launched(): Promise<void> | undefined {
    return ++this.#launches >= LAUNCHES ? this.submit() : undefined;
  }

  /** Remembers what a scope will say. */
  note(error: Promise<GPUError | undefined>): void {
    this.#errors.push(error);
  }

  /** Hands over what was encoded, and waits while too much is under way. */
  async submit(): Promise<void> {
    const { gpu, ring } = this.#machine;
    const { queue } = gpu.device;
    const { encoder } = this;
    this.#encoder = undefined;
    this.#launches = 0;
    const { error } = gpu.scoped(() => {
      if (this.#late > 0) queue.writeBuffer(ring!, 0, this.#ring, 0, (this.#late * BINDING_ALIGN) / 4);
      queue.submit([encoder.finish()]);
    });
    this.#late = 0;
    this.note(error);
    const done = queue.onSubmittedWorkDone();
    done.catch(() => {});
    this.#ahead.push(done);
    if (this.#ahead.length > AHEAD) {
      await gpu.race(this.#ahead.shift()!);
      this.#check();
    }
  }

  /** Waits until everything is done. */
  async settle(): Promise<void> {
    await this.#machine.gpu.race(Promise.all(this.#ahead.splice(0)));
    this.#check();
  }

  /** @throws HeddleError `memory` or `kernel` for the first thing that the device refused */
  async verify(): Promise<void> {
    const { gpu } = this.#machine;
    const errors = await gpu.race(Promise.all(this.#errors));
    const message = errors.find((error) => error !== undefined)?.message ?? gpu.fault;
    if (message === undefined) return;
    gpu.fault = undefined;
    throw new HeddleError('kernel', `the GPU refused the run: ${message}`);
  }
}

/**
 * Runs the program once; one call at a time per machine.
 *
 * @param check  called between submissions; what it throws ends the run
 * @returns once everything is handed over: what says whether the device took it, and with `profile` the time per label,
 * longest first
 * @throws HeddleError `device` when it is lost, `input` for a counted size outside its bounds
 */
export async function executeOnGpu(
  machine: Machine,
  program: GpuProgram,
  { arena, realised }: { readonly arena: GPUBuffer; readonly realised: Realised },
  ends: Ends,
  check: () => void,
  profile: boolean,
): Promise<{ readonly verified: Promise<void>; readonly rows: readonly ProfileRow[] }> {
  const { gpu } = machine;
  const recorder = new Recorder(machine, check);
  const watch = profile ? await Stopwatch.start(gpu) : undefined;
  const symbols: Record<string, number> = { ...program.symbols };
  const counting = new Counting(symbols);
  const walk = new Walk(symbols);

  const collect = async (): Promise<void> => {
    watch!.resolve(recorder.encoder);
    await recorder.submit();
    await recorder.settle();
    await watch!.collect();
  };
  /** @returns what is to be waited for before the next step, if anything */
  const launch = (op: GpuLaunch, group: GPUBindGroup): Promise<void> | undefined => {
    const { indirect } = op;
    const grid = indirect === undefined ? numberOf(op.grid, symbols, op.label) : 1;
    if (grid === 0) return undefined;
    const { pipeline, uniform } = machine.pipeline(op);
    let offset = op.block;
    if (uniform > 0) offset ??= recorder.late(op.words.map((word) => numberOf(word, symbols, op.label)));
    const pass = recorder.pass(watch?.next(op.label));
    pass.setPipeline(pipeline);
    if (uniform > 0) pass.setBindGroup(0, group, [offset!]);
    else pass.setBindGroup(0, group);
    const rows = Math.ceil(grid / ROW);
    if (indirect === undefined) pass.dispatchWorkgroups(rows > 1 ? ROW : grid, rows);
    else pass.dispatchWorkgroupsIndirect(realised.uniforms!, indirect);
    return watch?.full ? collect() : recorder.launched();
  };

  /** An i32, once all launches before are done. */
  const look = async ({ weights, at }: Range): Promise<number> => {
    const staging = await machine.staging(16);
    const from = weights === undefined ? arena : machine.weights(weights);
    recorder.encoder.copyBufferToBuffer(from, at, staging, 0, 4);
    await recorder.submit();
    await gpu.race(staging.mapAsync(1, 0, 4));
    const value = new Int32Array(staging.getMappedRange(0, 4))[0]!;
    staging.unmap();
    check();
    return value;
  };

  const take = (op: CountOp): Promise<void> =>
    counting.take(op, look, () => recorder.encoder, arena, realised.uniforms);

  const steps = async (): Promise<void> => {
    check();
    const { ops } = program;
    recorder.note(gpu.scoped(() => ends.before(recorder.encoder)).error);
    for (let pc = 0; pc < ops.length; ) {
      const at = pc++;
      const op = ops[at]!;
      if (op.kind === 'launch') {
        const wait = launch(op, realised.groups[at]!);
        if (wait) await wait;
      } else pc = await walk.after(op, at, ops, look, take);
    }
  };

  try {
    await steps();
    watch?.resolve(recorder.encoder);
    await ends.after(recorder.encoder, symbols, counting);
    await recorder.submit();
    const verified = recorder.verify();
    verified.catch(() => {});
    if (watch) await recorder.settle();
    await watch?.collect();
    return { verified, rows: watch?.rows() ?? [] };
  } finally {
    watch?.close();
  }
}
