/**
 * Random programs by the dozen: each seed is one program, the first that fails is made small, and a run can be made longer
 * from outside. `HEDDLE_PROGRAMS=20000` tries that many in each test that uses this, `HEDDLE_FIRST=5000` begins there.
 */
import { printGraph } from '../../ir/text.ts';
import { ranProgram, rollsOf, tokenGraph } from './token-graph.ts';

/** What is wrong with the program of these decisions, on operands of that seed; undefined where nothing is. */
export type Check = (rolls: readonly number[], seed: number) => string | undefined;

const setting = (name: string): number | undefined => {
  const text = process.env[name];
  return text === undefined || text === '' ? undefined : Number(text);
};
const COUNT = setting('HEDDLE_PROGRAMS');
const FIRST = setting('HEDDLE_FIRST') ?? 0;
/** Whether a longer run than the usual was asked for, which no test needs. */
export const isLong: boolean = COUNT !== undefined;

/** A program that fails, as small as it was made. */
export interface Failure {
  readonly seed: number;
  readonly rolls: readonly number[];
  readonly problem: string;
}

/** An exception is a problem as any other. */
const guarded =
  (check: Check): Check =>
  (rolls, seed) => {
    try {
      return check(rolls, seed);
    } catch (error) {
      return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    }
  };

/** The first failure within that many programs, or as many as were asked for where those are more, made small. */
export function firstFailure(check: Check, usual: number): Failure | undefined {
  const safe = guarded(check);
  for (let seed = FIRST; seed < FIRST + Math.max(COUNT ?? 0, usual); seed++) {
    const problem = safe(rollsOf(seed), seed);
    if (problem !== undefined) return shrunk(safe, { seed, rolls: rollsOf(seed), problem });
  }
  return undefined;
}

/**
 * A program that still fails: without decisions that it does not need, from half of them to single ones, then with smaller
 * ones. Fewer decisions are fewer operations; smaller ones are fewer rows and plainer masks.
 */
export function shrunk(check: Check, from: Failure): Failure {
  const { seed } = from;
  let best = from;
  const isBetter = (rolls: readonly number[]): boolean => {
    if (!isProgram(rolls)) return false;
    const problem = check(rolls, seed);
    if (problem === undefined) return false;
    best = { seed, rolls, problem };
    return true;
  };
  for (let again = true; again; ) {
    again = false;
    for (let size = best.rolls.length >> 1; size >= 1; size >>= 1)
      for (let at = 0; at + size <= best.rolls.length; )
        if (isBetter(best.rolls.toSpliced(at, size))) again = true;
        else at += size;
    for (let at = 0; at < best.rolls.length; at++)
      for (let roll = 0; roll < Math.min(best.rolls[at]!, 64); roll++)
        if (isBetter(best.rolls.with(at, roll))) again = true;
  }
  return best;
}

/** Whether decisions make a program at all that runs. */
function isProgram(rolls: readonly number[]): boolean {
  try {
    ranProgram(rolls, 0);
    return true;
  } catch {
    return false;
  }
}

/** A failure in words: what differs, and the program; `note` says which pass, and what it made. */
export const report = ({ seed, rolls, problem }: Failure, note: string): string =>
  `${note}: program ${seed}, [${rolls.join(', ')}]: ${problem}\n${printGraph(tokenGraph(rolls))}`;
