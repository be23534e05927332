/**
 * The child process of one measurement: opens one model with one competitor, warms up, runs, and prints one line of
 * JSON (`ChildReport`) on stdout. Its only argument is a `ChildTask` as JSON.
 */
import { writeFileSync } from 'node:fs';
import type { ChildReport, ChildTask } from './child-protocol.ts';
import type { Runner } from './competitor.ts';
import { findModel, type Outputs } from './models.ts';
import { peakRss } from './peak-rss.ts';
import { findCompetitor } from './registry.ts';
import { bytesOf } from './weights.ts';

const task = JSON.parse(process.argv[2] ?? '{}') as ChildTask;
const report = await measure(task);
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0)); // Worker pools would keep it alive.

async function measure(task: ChildTask): Promise<ChildReport> {
  const model = findModel(task.model);
  const competitor = findCompetitor(task.competitor);

  const baseRssBytes = peakRss();
  const opening = performance.now();
  const runner = await competitor.open(model, task.threads);
  const openMs = performance.now() - opening;

  const first = performance.now();
  const outputs = await runner.run();
  const firstRunMs = performance.now() - first;

  if (task.outputFolder !== undefined) save(outputs, task.outputFolder);
  await warmUp(runner, task.warmupRuns, task.warmupMs);

  const wallMs: number[] = [];
  const cpu = process.cpuUsage();
  for (let i = 0; i < task.runs; i++) {
    const start = performance.now();
    await runner.run();
    wallMs.push(performance.now() - start);
  }
  const used = process.cpuUsage(cpu);
  const cpuMs = task.runs === 0 ? 0 : (used.user + used.system) / 1000 / task.runs;
  const planned = runner.plannedBytes === undefined ? {} : { plannedBytes: runner.plannedBytes };
  return { openMs, firstRunMs, wallMs, cpuMs, peakRssBytes: peakRss(), baseRssBytes, ...planned };
}

/** Runs until both limits are reached, so that engines with tiers have optimised everything. */
async function warmUp(runner: Runner, runs: number, ms: number): Promise<void> {
  const start = performance.now();
  for (let i = 0; i < runs || performance.now() - start < ms; i++) await runner.run();
}

function save(outputs: Outputs, folder: string): void {
  for (const [name, values] of Object.entries(outputs)) writeFileSync(`${folder}/${name}.f32`, bytesOf(values));
}
