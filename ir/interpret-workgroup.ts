/** One workgroup on the host: invocations as coroutines that meet at barriers and, within subgroups, to join values. */
import type { Frame } from './interpret-expr.ts';

/** How invocations of a workgroup are put together to subgroups. */
export interface Subgroups {
  /** Invocations of one; the last of a workgroup has what is left. */
  readonly size: number;
  /** Whether members are far apart rather than neighbours; a correct kernel does not care. Default false. */
  readonly scattered?: boolean | undefined;
}

/** What a value of an invocation is: a number, or the lanes of a vector. */
export type Joined = number | readonly number[];

/** Where an invocation waits: at a barrier, by its number; or for the other members of its subgroup. */
export type Stop = number | Meeting;
export interface Meeting {
  /** The number of the operation. */
  readonly at: number;
  readonly value: Joined;
  /** What each member gets, in their order. */
  join(values: readonly Joined[]): readonly Joined[];
}

/** Code that suspends; what it is resumed with is what a meeting gave. */
export type Steps = (f: Frame) => Generator<Stop, void, Joined>;

/** Runs all invocations from barrier to barrier. @param fault throws, for what a device would not define */
export function runWorkgroup(
  frames: readonly Frame[],
  steps: Steps,
  subgroups: Subgroups,
  fault: (why: string) => never,
): void {
  const running = frames.map(steps);
  const groups = membersOf(frames.length, subgroups);
  const where = `(workgroup ${frames[0]!.group})`;
  for (;;) {
    const at = new Array<number | undefined>(frames.length);
    for (const members of groups) {
      let given: readonly Joined[] = members.map(() => 0);
      for (;;) {
        const stops = members.map((i, n) => running[i]!.next(given[n]!));
        const meetings = stops.map(({ done, value }) => (!done && typeof value === 'object' ? value : undefined));
        const first = meetings.find((m) => m !== undefined);
        if (first === undefined) {
          members.forEach((i, n) => {
            at[i] = stops[n]!.done ? undefined : (stops[n]!.value as number);
          });
          break;
        }
        const here = meetings.filter((m) => m?.at === first.at).length;
        if (here < members.length)
          fault(`${here} of ${members.length} invocations of a subgroup join values while others do not ${where}`);
        given = first.join(meetings.map((m) => m!.value));
      }
    }
    if (new Set(at).size > 1) {
      const waiting = at.filter((b) => b !== undefined).length;
      const which = [...new Set(at.filter((b) => b !== undefined))].map((b) => `#${b}`).join(' and ');
      fault(`${waiting} of ${at.length} invocations wait at barrier ${which} while others do not ${where}`);
    }
    if (at[0] === undefined) return;
    for (const f of frames) f.phase++;
  }
}

/** Numbers of the invocations of each subgroup. */
function membersOf(count: number, { size, scattered = false }: Subgroups): readonly (readonly number[])[] {
  const groups = Math.ceil(count / size);
  return Array.from({ length: groups }, (_, g) =>
    scattered
      ? Array.from({ length: Math.ceil((count - g) / groups) }, (_, i) => g + i * groups)
      : Array.from({ length: Math.min(size, count - g * size) }, (_, i) => g * size + i),
  );
}
