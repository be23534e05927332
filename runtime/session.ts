/** A session on any device: its description, the queue of runs, the bindings of sizes, the self-test. */
import type { EntryInfo, Input, PortInfo, RunOptions, SelfTestResult, Session, Tensor } from './api.ts';
import { HeddleError } from './error.ts';
import type { EntryPlan, Manifest, Port } from './manifest.ts';
import { entryFor } from './promises.ts';
import { compareRecorded, selfTestInputs } from './selftest.ts';
import { type Bound, bindInputs, type TakeInput } from './tensor.ts';

/** Bindings of sizes that are kept per session. */
const KEPT = 8;

const portInfo = ({ name, dtype, shape, doc }: Port): PortInfo => ({ name, dtype, shape, doc });

/** The entry that runs when none is named. */
export const defaultEntry = (manifest: Manifest): string =>
  Object.hasOwn(manifest.entries, 'main') ? 'main' : Object.keys(manifest.entries)[0]!;

/** What computes. `P` is an entry under one binding of its symbols, `D` what inputs are that stand on the device. */
export interface Backend<P, D extends { readonly length: number }> {
  readonly plans: Readonly<Record<string, EntryPlan>>;
  readonly bind: (plan: EntryPlan, symbols: Readonly<Record<string, number>>) => P;
  readonly take?: TakeInput<D>;
  /** @param check  throws when the run must end */
  readonly run: Work<P, D, Tensor>;
  /** Bytes of memory held. */
  readonly bytes: () => number;
  /** Gives everything back. */
  readonly close: () => void;
}

export type Work<P, D, T> = (
  program: P,
  data: Bound<D>['data'],
  options: RunOptions,
  check: () => void,
) => Promise<Record<string, T>>;

/** Programs may hold something besides their own memory. */
interface Droppable {
  readonly drop?: () => void;
}

export class BundleSession<P extends object, D extends { readonly length: number } = never> implements Session {
  readonly name: string;
  readonly entries: Readonly<Record<string, EntryInfo>>;
  readonly inputs: readonly PortInfo[];
  readonly outputs: readonly PortInfo[];
  readonly device: 'wasm' | 'webgpu';
  readonly threads: number;
  readonly relaxed: boolean;
  readonly fallback: string | undefined;
  readonly #manifest: Manifest;
  readonly #default: string;
  #backend: Backend<P, D> | undefined;
  readonly #programs = new Map<string, P>();
  #last: Promise<void> = Promise.resolve();

  constructor(
    manifest: Manifest,
    backend: Backend<P, D>,
    about: Pick<Session, 'device' | 'threads' | 'relaxed' | 'fallback'>,
  ) {
    this.name = manifest.name;
    this.#manifest = manifest;
    this.#backend = backend;
    this.device = about.device;
    this.threads = about.threads;
    this.relaxed = about.relaxed;
    this.fallback = about.fallback;
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
    return this.#backend?.bytes() ?? 0;
  }

  #alive(): Backend<P, D> {
    if (this.#backend !== undefined) return this.#backend;
    throw new HeddleError('disposed', `the session of ${this.name} is disposed. Open the bundle again.`);
  }

  async run(inputs: Readonly<Record<string, Input>>, options: RunOptions = {}): Promise<Record<string, Tensor>> {
    return this.enqueue(inputs, options, this.#alive().run);
  }

  /** Checks the inputs, waits for the runs before, and does the work unless the signal aborts first. */
  async enqueue<T>(
    inputs: Readonly<Record<string, Input>>,
    options: RunOptions,
    work: Work<P, D, T>,
  ): Promise<Record<string, T>> {
    const { entry: asked = this.#default, signal } = options;
    const { plans, take } = this.#alive();
    if (!Object.hasOwn(plans, asked)) {
      const names = Object.keys(this.entries).join(', ');
      throw new HeddleError('option', `${this.name} has no entry "${asked}". The entries are: ${names}.`);
    }
    const entry = entryFor(plans, asked, (plan) => bindInputs(plan, inputs, take));
    const plan = plans[entry]!;
    const bound = bindInputs(plan, inputs, take);
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
      const check = (): void => {
        this.#alive();
        signal?.throwIfAborted();
      };
      return await work(this.#program(entry, plan, bound.symbols), bound.data, options, check);
    } finally {
      signal?.removeEventListener('abort', stop);
      finish();
    }
  }

  #program(entry: string, plan: EntryPlan, symbols: Readonly<Record<string, number>>): P {
    const key = JSON.stringify([entry, plan.symbols.map(({ name }) => symbols[name])]);
    const { bind } = this.#alive();
    const program = this.#programs.get(key) ?? bind(plan, symbols);
    this.#programs.delete(key);
    this.#programs.set(key, program);
    if (this.#programs.size > KEPT) {
      const [oldest, old] = this.#programs.entries().next().value!;
      this.#programs.delete(oldest);
      (old as Droppable).drop?.();
    }
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
    this.#backend?.close();
    this.#backend = undefined;
    this.#programs.clear();
  }
}
