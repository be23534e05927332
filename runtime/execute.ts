/** Runs a program: launches in shares, alone or with the threads, turning the event loop every few milliseconds. */
import type { ProfileRow } from './api.ts';
import { HeddleError } from './error.ts';
import { tick } from './host.ts';
import { type Num, numberOf } from './late.ts';
import type { Pool } from './pool.ts';
import { type CopyOp, type LaunchOp, type Program, shapeOf } from './program.ts';
import { type Look, walk } from './steps.ts';
import type { Kernel, Leader } from './team.ts';

/** Milliseconds after which the event loop gets a turn. */
const SLICE = 8;

export interface Machine {
  readonly kernels: readonly Kernel[];
  readonly memory: WebAssembly.Memory;
  readonly pool: Pool | undefined;
}

type Symbols = Readonly<Record<string, number>>;

/**
 * Runs the program once. One call at a time per machine, since a program keeps its late arguments.
 *
 * @param check  called after every turn of the event loop; what it throws ends the run
 * @returns with `profile`, the time per label, longest first
 * @throws HeddleError `kernel` when a kernel traps or a thread dies, `manifest` when a late number is out of bounds
 */
export async function execute(
  machine: Machine,
  program: Program,
  check: () => void,
  profile: boolean,
): Promise<ProfileRow[]> {
  const { memory, pool } = machine;
  const symbols: Record<string, number> = { ...program.symbols };
  const clock = new Clock();
  const times = new Map<string, { label: string; ms: number; calls: number }>();
  const pause = async (): Promise<void> => {
    await clock.pause();
    check();
  };

  check();
  const steps = walk(program.ops, symbols);
  for (let step = steps.next(); !step.done; ) {
    const [op] = step.value;
    let told: number | undefined;
    if (op.kind === 'launch') {
      const from = clock.now();
      const launch = new Running(machine, op, symbols);
      try {
        while (!launch.work(clock)) await pause();
      } finally {
        launch.leader?.stop();
        while (launch.leader?.end() === false && pool?.failure === undefined) await tick();
      }
      if (pool !== undefined && (launch.leader?.failed || pool.failure !== undefined)) {
        await tick();
        throw new HeddleError('kernel', `a thread failed in ${op.label}: ${pool.failure ?? 'it stopped'}`);
      }
      if (profile) {
        const row = times.get(op.label) ?? { label: op.label, ms: 0, calls: 0 };
        row.ms += clock.now() - from;
        row.calls++;
        times.set(op.label, row);
      }
    } else if (op.kind === 'copy') copy(memory, op, symbols);
    else told = look(memory, op, symbols);
    if (clock.due) await pause();
    step = steps.next(told);
  }
  for (const place of program.outputs) place.shape = shapeOf(place, symbols);
  return [...times.values()].sort((a, b) => b.ms - a.ms);
}

/** The time of the run, and when the event loop is due. */
class Clock {
  #paused = 0;
  #until = performance.now() + SLICE;

  /** Milliseconds, without those of the event loop's turns. */
  now(): number {
    return performance.now() - this.#paused;
  }

  get due(): boolean {
    return performance.now() > this.#until;
  }

  /** Gives the event loop a turn. */
  async pause(): Promise<void> {
    const from = performance.now();
    await tick();
    const now = performance.now();
    this.#paused += now - from;
    this.#until = now + SLICE;
  }
}

/** A launch under way. */
class Running {
  /** Shares it with the threads; undefined where it runs alone. */
  readonly leader: Leader | undefined;
  readonly #kernel: Kernel;
  readonly #op: LaunchOp;
  readonly #grid: number;
  readonly #chunk: number;
  #next = 0;

  constructor({ kernels, pool }: Machine, op: LaunchOp, symbols: Symbols) {
    this.#op = op;
    this.#kernel = kernels[op.kernel]!;
    this.#grid = numberOf(op.grid, symbols, op.label);
    this.#chunk = numberOf(op.chunk, symbols, op.label);
    for (const { i, value } of op.late) op.args[i] = numberOf(value, symbols, op.label);
    const chunks = Math.ceil(this.#grid / this.#chunk);
    this.leader = chunks < 2 ? undefined : pool?.leader;
    this.leader?.begin(op, this.#grid, this.#chunk, chunks);
  }

  /** Computes until nothing is left, or until the event loop is due; says whether nothing is left. */
  work(clock: Clock): boolean {
    const { args, label } = this.#op;
    for (;;) {
      const [from, to] = this.leader === undefined ? this.#take() : this.leader.take();
      if (from >= this.#grid) return true;
      args[args.length - 2] = from;
      args[args.length - 1] = to;
      try {
        this.#kernel.apply(undefined, args);
      } catch (cause) {
        const where = `kernel ${label} stopped at ${from} of ${this.#grid}`;
        throw new HeddleError('kernel', `${where}: ${String(cause)}`, { cause });
      }
      if (clock.due) return false;
    }
  }

  #take(): readonly [from: number, to: number] {
    const from = this.#next;
    this.#next = Math.min(this.#grid, from + this.#chunk);
    return [from, this.#next];
  }
}

function copy(memory: WebAssembly.Memory, op: CopyOp, symbols: Symbols): void {
  const [from, to] = [numberOf(op.from, symbols, 'an offset'), numberOf(op.to, symbols, 'an offset')];
  const bytes = numberOf(op.bytes, symbols, 'the length of a copy');
  new Uint8Array(memory.buffer).copyWithin(to, from, from + bytes);
}

/** The byte of a condition, or the i32 of a count. */
function look(memory: WebAssembly.Memory, { at, what }: Look<Num>, symbols: Symbols): number {
  const view = new DataView(memory.buffer);
  const address = numberOf(at, symbols, 'an offset');
  return what === 'condition' ? view.getUint8(address) : view.getInt32(address, true);
}
