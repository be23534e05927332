/** A bundle in memory: binds sizes, queues runs, hands out results. */
import type { EntryInfo, Input, PortInfo, RunOptions, SelfTestResult, Session, Tensor } from './api.ts';
import { HeddleError } from './error.ts';
import { execute, type Machine } from './execute.ts';
import type { EntryPlan, Manifest, Port } from './manifest.ts';
import { bindProgram, type Program } from './program.ts';
import { compareRecorded, selfTestInputs } from './selftest.ts';
import { type Bound, bindInputs, elementBytesOf, readTensor } from './tensor.ts';

const PAGE = 2 ** 16;
/** Bindings of sizes that are kept per session. */
const KEPT = 8;

const portInfo = ({ name, dtype, shape, doc }: Port): PortInfo => ({ name, dtype, shape, doc });

/** The entry that runs when none is named. */
export const defaultEntry = (manifest: Manifest): string =>
  Object.hasOwn(manifest.entries, 'main') ? 'main' : Object.keys(manifest.entries)[0]!;

/** Makes the memory at least so large. @throws HeddleError `memory` */
function ensure(memory: WebAssembly.Memory, bytes: number): void {
  const missing = Math.ceil((bytes - memory.buffer.byteLength) / PAGE);
  if (missing <= 0) return;
  try {
    memory.grow(missing);
  } catch (cause) {
    const wants = `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    throw new HeddleError('memory', `these sizes need ${wants}, which the host refuses. Use smaller sizes.`, { cause });
  }
}

export class WasmSession implements Session {
  readonly name: string;
  readonly entries: Readonly<Record<string, EntryInfo>>;
  readonly inputs: readonly PortInfo[];
  readonly outputs: readonly PortInfo[];
  readonly threads: number;
  readonly relaxed: boolean;
  readonly #manifest: Manifest;
  readonly #default: string;
  #machine: Machine | undefined;
  readonly #programs = new Map<string, Program>();
  #last: Promise<void> = Promise.resolve();

  constructor(manifest: Manifest, machine: Machine, relaxed: boolean) {
    this.name = manifest.name;
    this.#manifest = manifest;
    this.#machine = machine;
    this.threads = 1 + (machine.pool?.size ?? 0);
    this.relaxed = relaxed;
    const infos = Object.entries(manifest.entries).map(([name, plan]) => [
      name,
      { inputs: plan.inputs.map(portInfo), outputs: plan.outputs.map(portInfo), symbols: plan.symbols },
    ]);
    this.entries = Object.fromEntries(infos) as Record<string, EntryInfo>;
    this.#default = defaultEntry(manifest);
    const { inputs, outputs } = this.entries[this.#default]!;
    this.inputs = inputs;
    this.outputs = outputs;
  }

  get peakBytes(): number {
    return this.#machine?.memory.buffer.byteLength ?? 0;
  }

  #alive(): Machine {
    if (this.#machine !== undefined) return this.#machine;
    throw new HeddleError('disposed', `the session of ${this.name} is disposed. Open the bundle again.`);
  }

  async run(inputs: Readonly<Record<string, Input>>, options: RunOptions = {}): Promise<Record<string, Tensor>> {
    const { entry = this.#default, signal } = options;
    this.#alive();
    if (!Object.hasOwn(this.#manifest.entries, entry)) {
      const names = Object.keys(this.entries).join(', ');
      throw new HeddleError('option', `${this.name} has no entry "${entry}". The entries are: ${names}.`);
    }
    const plan = this.#manifest.entries[entry]!;
    const bound = bindInputs(plan, inputs);
    signal?.throwIfAborted();

    const turn = this.#last;
    let finish = (): void => {};
    const mine = new Promise<void>((done) => {
      finish = done;
    });
    this.#last = turn.then(() => mine);
    let stop = (): void => {};
    try {
      await new Promise<void>((go, fail) => {
        stop = () => fail(signal?.reason);
        signal?.addEventListener('abort', stop);
        turn.then(go);
      });
      return await this.#execute(entry, plan, bound, options);
    } finally {
      signal?.removeEventListener('abort', stop);
      finish();
    }
  }

  async #execute(entry: string, plan: EntryPlan, bound: Bound, options: RunOptions): Promise<Record<string, Tensor>> {
    const machine = this.#alive();
    const { memory } = machine;
    const program = this.#program(entry, plan, bound.symbols);
    ensure(memory, program.bytes);
    const bytes = new Uint8Array(memory.buffer);
    for (const [i, place] of program.inputs.entries()) bytes.set(elementBytesOf(place, bound.data[i]!), place.at);
    const check = (): void => {
      this.#alive();
      options.signal?.throwIfAborted();
    };
    try {
      const rows = await execute(machine, program, check, options.profile !== undefined);
      const outputs: Record<string, Tensor> = {};
      for (const { port, at, shape } of program.outputs) {
        outputs[port.name] = readTensor(memory.buffer, at, port.dtype, shape);
      }
      options.profile?.(rows);
      return outputs;
    } catch (error) {
      const { pool } = machine;
      if (pool !== undefined && (pool.failure !== undefined || pool.leader.failed)) this.dispose();
      throw error;
    }
  }

  #program(entry: string, plan: EntryPlan, symbols: Readonly<Record<string, number>>): Program {
    const key = JSON.stringify([entry, plan.symbols.map(({ name }) => symbols[name])]);
    const program = this.#programs.get(key) ?? bindProgram(plan, symbols, this.#manifest.weights.memory, this.threads);
    this.#programs.delete(key);
    this.#programs.set(key, program);
    if (this.#programs.size > KEPT) this.#programs.delete(this.#programs.keys().next().value!);
    return program;
  }

  async selftest(): Promise<SelfTestResult> {
    const { selftest } = this.#manifest;
    if (selftest.length === 0) {
      throw new HeddleError('option', `${this.name} holds no recorded run. Compile it with its self-test.`);
    }
    const cases: SelfTestResult['cases'][number][] = [];
    let ok = true;
    for (const test of selftest) {
      const got = compareRecorded(test, await this.run(selfTestInputs(this.#manifest, test), { entry: test.entry }));
      ok &&= got.every(({ worst }) => worst <= test.tolerance);
      cases.push(...got);
    }
    const worst = Math.max(0, ...cases.map((each) => each.worst));
    return { ok, worst, tolerance: Math.min(...selftest.map((test) => test.tolerance)), cases };
  }

  dispose(): void {
    this.#machine?.pool?.close();
    this.#machine = undefined;
    this.#programs.clear();
  }
}
