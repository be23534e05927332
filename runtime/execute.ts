/** Runs a program: launches in chunks, alone or with the threads, turning the event loop every few milliseconds. */
import type { ProfileRow } from './api.ts';
import { HeddleError } from './error.ts';
import { tick } from './host.ts';
import { numberOf } from './late.ts';
import type { Pool } from './pool.ts';
import { type LaunchOp, type Program, shapeOf } from './program.ts';
import type { Kernel, Leader } from './team.ts';

/** Milliseconds after which the event loop gets a turn. */
const SLICE = 8;

export interface Machine {
  readonly kernels: readonly Kernel[];
  readonly memory: WebAssembly.Memory;
  readonly pool: Pool | undefined;
}

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
  const { kernels, memory, pool } = machine;
  const { ops } = program;
  const symbols: Record<string, number> = { ...program.symbols };
  const done: number[] = [];
  const times = profile ? new Map<string, { label: string; ms: number; calls: number }>() : undefined;
  let until = performance.now() + SLICE;
  let paused = 0;

  const pause = async (): Promise<void> => {
    const from = performance.now();
    await tick();
    check();
    const now = performance.now();
    paused += now - from;
    until = now + SLICE;
  };

  const call = (op: LaunchOp, from: number, to: number): void => {
    const { args } = op;
    args[args.length - 2] = from;
    args[args.length - 1] = to;
    try {
      kernels[op.kernel]!.apply(undefined, args);
    } catch (cause) {
      throw new HeddleError('kernel', `kernel ${op.label} stopped at ${from} of ${grid}: ${String(cause)}`, { cause });
    }
  };

  // The launch under way.
  let grid = 0;
  let chunk = 1;
  let next = 0;
  let leader: Leader | undefined;

  const take = (): readonly [from: number, to: number] => {
    const from = next;
    next = Math.min(grid, from + chunk);
    return [from, next];
  };

  /** Computes until nothing is left, or until the event loop is due; says whether nothing is left. */
  const work = (op: LaunchOp): boolean => {
    for (;;) {
      const [from, to] = leader === undefined ? take() : leader.take();
      if (from >= grid) return true;
      call(op, from, to);
      if (performance.now() > until) return false;
    }
  };

  check();
  for (let pc = 0; pc < ops.length; ) {
    const at = pc++;
    const op = ops[at]!;
    if (op.kind === 'launch') {
      const from = performance.now() - paused;
      grid = numberOf(op.grid, symbols, op.label);
      chunk = numberOf(op.chunk, symbols, op.label);
      next = 0;
      const chunks = Math.ceil(grid / chunk);
      for (const { i, value } of op.late) op.args[i] = numberOf(value, symbols, op.label);
      leader = chunks < 2 ? undefined : pool?.leader;
      leader?.begin(op, grid, chunk, chunks);
      try {
        while (!work(op)) await pause();
      } finally {
        leader?.stop();
        while (leader?.end() === false && pool?.failure === undefined) await tick();
      }
      if (pool !== undefined && (leader?.failed || pool.failure !== undefined)) {
        await tick();
        throw new HeddleError('kernel', `a thread failed in ${op.label}: ${pool.failure ?? 'it stopped'}`);
      }
      if (times === undefined) continue;
      const row = times.get(op.label) ?? { label: op.label, ms: 0, calls: 0 };
      row.ms += performance.now() - paused - from;
      row.calls++;
      times.set(op.label, row);
    } else if (op.kind === 'copy') {
      const [from, to] = [numberOf(op.from, symbols, 'an offset'), numberOf(op.to, symbols, 'an offset')];
      const bytes = numberOf(op.bytes, symbols, 'the length of a copy');
      new Uint8Array(memory.buffer).copyWithin(to, from, from + bytes);
    } else if (op.kind === 'enter') {
      const trips = numberOf(op.trips, symbols, op.symbol);
      done[at] = 0;
      if (trips === 0) pc = op.end;
      else symbols[op.symbol] = op.reverse ? trips - 1 : 0;
    } else if (op.kind === 'next') {
      const loop = ops[op.start]!;
      if (loop.kind !== 'enter') continue;
      const trips = numberOf(loop.trips, symbols, loop.symbol);
      const i = ++done[op.start]!;
      if (i < trips) {
        symbols[loop.symbol] = loop.reverse ? trips - 1 - i : i;
        pc = op.start + 1;
        if (performance.now() > until) await pause();
      } else delete symbols[loop.symbol];
    } else if (op.kind === 'unless') {
      if (new Uint8Array(memory.buffer)[numberOf(op.at, symbols, 'an offset')] === 0) pc = op.target;
    } else if (op.kind === 'count') {
      const count = new DataView(memory.buffer).getInt32(numberOf(op.at, symbols, 'an offset'), true);
      const [least, most] = [numberOf(op.min, symbols, op.symbol), numberOf(op.max, symbols, op.symbol)];
      if (count < least || count > most) {
        throw new HeddleError(
          'input',
          `size "${op.symbol}" is ${count} by the data; the bundle takes ${least} … ${most}.`,
        );
      }
      symbols[op.symbol] = count;
    } else pc = op.target;
  }
  for (const place of program.outputs) place.shape = shapeOf(place, symbols);
  return [...(times?.values() ?? [])].sort((a, b) => b.ms - a.ms);
}
