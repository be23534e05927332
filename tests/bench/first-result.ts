import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Summary, summarize } from './stats.ts';

/** Milliseconds from importing the compiler to the first result of a tiny model, in processes of their own. */
export async function measureFirstResult(processes: number): Promise<Summary> {
  const script = fileURLToPath(new URL('./first-result-process.js', import.meta.url));
  const times: number[] = [];
  for (let i = 0; i < processes; i++) {
    const { stdout } = await promisify(execFile)(process.execPath, [script]);
    times.push(Number(stdout));
  }
  return summarize(times);
}
