/**
 * How threads share one launch at a time, by counters in shared memory.
 *
 * The leader writes the launch, opens the gate and raises the generation. Whoever sees the new generation enters, and takes
 * shares from one counter until none is left. The leader then closes the gate and waits for those inside only: a thread
 * that the system has not woken yet costs nothing. Entering counts first and looks at the gate second, the leader shuts
 * the gate first and looks at the count second, so nobody reads a launch that is being written.
 */
import type { LaunchOp } from './program.ts';

export type Kernel = (...args: number[]) => void;

// Words of the control memory; those that many threads write stand on cache lines of their own.
const GENERATION = 0;
const GATE = 1;
const QUIT = 2;
const FAILED = 3;
const THREADS = 4;
const NEXT = 16;
const INSIDE = 32;
const LEADER_WAITS = 33;
const SLEEPERS = 48;
const LAUNCH = 64;

/** Polls before a thread sleeps: some tens of microseconds. */
const POLLS = 20_000;

/** Chunks of the largest share: one or two milliseconds, after which the leader looks whether its event loop is due. */
const SHARE = 8;

/** The words that launches with up to `args` arguments need. */
export const controlWords = (args: number): number => LAUNCH + 4 + 2 * args;

/** What a follower does until it is told to quit. @throws what a kernel throws */
export function follow(control: Int32Array, kernels: readonly Kernel[], thread: number): void {
  for (let seen = 0; ; ) {
    for (let polls = 0; Atomics.load(control, GENERATION) === seen; ) {
      if (++polls < POLLS) continue;
      Atomics.add(control, SLEEPERS, 1);
      Atomics.wait(control, GENERATION, seen);
      Atomics.sub(control, SLEEPERS, 1);
    }
    seen = Atomics.load(control, GENERATION);
    if (Atomics.load(control, QUIT)) return;
    Atomics.add(control, INSIDE, 1);
    try {
      if (Atomics.load(control, GATE)) help(control, kernels, thread);
    } catch (error) {
      Atomics.store(control, FAILED, 1);
      throw error;
    } finally {
      if (Atomics.sub(control, INSIDE, 1) === 1 && Atomics.load(control, LEADER_WAITS)) Atomics.notify(control, INSIDE);
    }
  }
}

function help(control: Int32Array, kernels: readonly Kernel[], thread: number): void {
  const kernel = kernels[control[LAUNCH]!]!;
  const [grid, count] = [control[LAUNCH + 1]!, control[LAUNCH + 3]!];
  const at = LAUNCH + 4;
  const args = Array.from({ length: count }, (_, i) => control[at + i]! + thread * control[at + count + i]!);
  for (let from = take(control); from < grid; from = take(control)) kernel(...args, from, shareEnd(control, from));
}

/**
 * Where the share ends that begins at `from`: a part of what is left, so that shares are long while much is, since neighbours
 * in the grid share caches and a kernel asks early for what its next unit reads, and short when threads have to end together.
 */
function shareEnd(control: Int32Array, from: number): number {
  const [grid, chunk] = [control[LAUNCH + 1]!, control[LAUNCH + 2]!];
  const chunks = Math.floor((grid - from) / (chunk * 2 * control[THREADS]!));
  return Math.min(grid, from + chunk * Math.max(1, Math.min(SHARE, chunks)));
}

/** Takes the next share. @returns where it begins; nothing is left where that is not inside the grid */
function take(control: Int32Array): number {
  const grid = control[LAUNCH + 1]!;
  for (let from = Atomics.load(control, NEXT); ; ) {
    if (from >= grid) return from;
    const found = Atomics.compareExchange(control, NEXT, from, shareEnd(control, from));
    if (found === from) return from;
    from = found;
  }
}

/** The thread that runs the steps. */
export class Leader {
  readonly #control: Int32Array;
  readonly #followers: number;
  readonly #mayBlock: boolean;

  constructor(control: Int32Array, followers: number) {
    this.#control = control;
    this.#followers = followers;
    this.#mayBlock = mayBlock(control);
    control[THREADS] = followers + 1;
  }

  /** A follower has failed. */
  get failed(): boolean {
    return Atomics.load(this.#control, FAILED) !== 0;
  }

  /** Lets the followers work on a launch of `chunks` chunks. */
  begin(op: LaunchOp, grid: number, chunk: number, chunks: number): void {
    const control = this.#control;
    const count = op.args.length - 2;
    control[LAUNCH] = op.kernel;
    control[LAUNCH + 1] = grid;
    control[LAUNCH + 2] = chunk;
    control[LAUNCH + 3] = count;
    const at = LAUNCH + 4;
    for (let i = 0; i < count; i++) {
      control[at + i] = op.args[i]!;
      control[at + count + i] = op.strides[i]!;
    }
    Atomics.store(control, NEXT, 0);
    Atomics.store(control, GATE, 1);
    Atomics.add(control, GENERATION, 1);
    if (Atomics.load(control, SLEEPERS)) {
      Atomics.notify(control, GENERATION, Math.min(this.#followers, chunks - 1));
    }
  }

  /** Takes a share of the grid. @returns where it begins and ends; empty where nothing is left */
  take(): readonly [from: number, to: number] {
    const from = take(this.#control);
    return [from, shareEnd(this.#control, from)];
  }

  /** Leaves nothing to take. */
  stop(): void {
    Atomics.store(this.#control, NEXT, 2 ** 31 - 1);
  }

  /** Shuts the gate. @returns whether nobody is inside, having waited for some milliseconds at most */
  end(): boolean {
    const control = this.#control;
    Atomics.store(control, GATE, 0);
    for (let polls = 0; polls < POLLS; polls++) if (Atomics.load(control, INSIDE) === 0) return true;
    const until = performance.now() + 4;
    Atomics.store(control, LEADER_WAITS, 1);
    for (let inside = 1; inside !== 0 && performance.now() < until; ) {
      inside = Atomics.load(control, INSIDE);
      if (inside !== 0 && this.#mayBlock) Atomics.wait(control, INSIDE, inside, 2);
    }
    Atomics.store(control, LEADER_WAITS, 0);
    return Atomics.load(control, INSIDE) === 0;
  }

  /** Tells the followers to return. */
  quit(): void {
    Atomics.store(this.#control, QUIT, 1);
    Atomics.add(this.#control, GENERATION, 1);
    Atomics.notify(this.#control, GENERATION);
  }
}

/** The main thread of a page may not block. */
function mayBlock(control: Int32Array): boolean {
  try {
    Atomics.wait(control, QUIT, 1, 0);
    return true;
  } catch {
    return false;
  }
}
