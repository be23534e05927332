/** The built command line as a child process. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { projectRoot } from './project.ts';

const main = join(import.meta.dirname, '..', '..', 'compiler', 'cli', 'main.js');

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A file's tests begin together; more processes at once than this only wait for each other. */
const AT_ONCE = 2;
const waiting: (() => void)[] = [];
let running = 0;

/** Runs `heddle` with these arguments in `cwd`, by default the checkout. */
export async function heddle(args: readonly string[], cwd: string = projectRoot): Promise<CliResult> {
  if (running === AT_ONCE) await new Promise<void>((go) => waiting.push(go));
  else running++;
  try {
    return await start(args, cwd);
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running--;
  }
}

function start(args: readonly string[], cwd: string): Promise<CliResult> {
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [main, ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    child.on('error', fail);
    child.on('close', (code) => done({ code, stdout, stderr }));
  });
}

/** The same, where it must succeed. */
export async function heddleJson<T>(t: ExecutionContext, args: readonly string[]): Promise<T> {
  const { code, stdout, stderr } = await heddle([...args, '--json']);
  t.is(code, 0, stderr);
  return JSON.parse(stdout) as T;
}

/** A folder that goes away with the test. */
export function temporary(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export const fixture = (...parts: readonly string[]): string => join(projectRoot, 'tests', 'fixtures', ...parts);
