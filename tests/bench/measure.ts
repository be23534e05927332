import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ChildReport, ChildTask } from './child-protocol.ts';
import type { Competitor, Preparation } from './competitor.ts';
import type { BenchModel, Outputs } from './models.ts';
import { cacheFolder } from './paths.ts';
import { type Difference, difference, quantile, type Summary, summarize } from './stats.ts';

/** From this ratio of the slowest process's median to the fastest's a row is reported as unsteady. */
const UNSTEADY = 1.5;

/** One row of results: a competitor on a model with a number of threads, all rounds pooled. */
export interface Measurement {
  readonly model: string;
  readonly macs: number;
  readonly threads: number;
  readonly competitor: string;
  /** Outputs against the reference's, the worst of all outputs. */
  readonly agreement: Difference;
  /** Time of one warm run, ms. */
  readonly wall: Summary;
  /** Median wall time of each process, ms, in order of rounds: shows when a competitor has a slow mode. */
  readonly processMedians: readonly number[];
  /** CPU time of one warm run, all threads, ms: one mean per process. */
  readonly cpu: Summary;
  /** One number per process, ms. */
  readonly open: Summary;
  readonly firstRun: Summary;
  /** Medians over the processes; see `ChildReport`. */
  readonly peakRssBytes: number;
  readonly baseRssBytes: number;
  readonly plannedBytes?: number;
  /** What the compilation took, where there is one. */
  readonly prepare?: Preparation;
  /** Bytes to deploy beside the weights, gzipped. */
  readonly deployedGzip?: number;
}

export interface Plan {
  readonly models: readonly BenchModel[];
  readonly threads: readonly number[];
  /** Processes per competitor, model and number of threads. */
  readonly rounds: number;
  readonly quick: boolean;
  /** Largest accepted `maxRel` against the reference, where the model states no larger one. */
  readonly tolerance: number;
}

/**
 * Measures every competitor on every model and number of threads. First each competitor's outputs are compared with
 * the reference's; then rounds, in each of which every competitor gets one fresh process, in an order that rotates.
 *
 * @param say  told about progress, one line at a time
 * @throws Error when a competitor fails or disagrees with the reference by more than the tolerance
 */
export async function measureAll(
  plan: Plan,
  competitors: readonly Competitor[],
  reference: Competitor,
  say: (line: string) => void,
): Promise<Measurement[]> {
  const results: Measurement[] = [];
  for (const model of plan.models) {
    const prepared = new Map<Competitor, Preparation>();
    for (const competitor of new Set([reference, ...competitors])) {
      const took = await competitor.prepare(model);
      if (took !== undefined) prepared.set(competitor, took);
    }
    const expected = await outputsOf(reference, model, 1);
    for (const threads of plan.threads) {
      const agreements = new Map<Competitor, Difference>();
      for (const competitor of competitors) {
        const found = agreement(await outputsOf(competitor, model, threads), expected);
        say(`${model.name} ${threads}T ${competitor.name}: differs by ${found.maxRel.toExponential(1)} (relative)`);
        const tolerance = Math.max(plan.tolerance, model.tolerance ?? 0);
        if (!(found.maxRel <= tolerance)) {
          throw new Error(
            `${competitor.name} on ${model.name}, ${threads} threads: outputs differ from ${reference.name} by ` +
              `${found.maxAbs} (relative ${found.maxRel}), tolerance ${tolerance}; not timing a wrong result`,
          );
        }
        agreements.set(competitor, found);
      }
      const reports = await interleave(plan, model, threads, competitors, say);
      for (const [competitor, own] of reports) {
        const pooled = pool(own);
        const prepare = prepared.get(competitor);
        const deployed = competitor.deployedGzip?.(model);
        const spread = Math.max(...pooled.processMedians) / Math.min(...pooled.processMedians);
        if (spread > UNSTEADY) {
          say(
            `warning: ${model.name} ${threads}T ${competitor.name}: process medians differ ${spread.toFixed(1)}-fold`,
          );
        }
        results.push({
          model: model.name,
          macs: model.macs,
          threads,
          competitor: competitor.name,
          agreement: agreements.get(competitor) as Difference,
          ...pooled,
          ...(deployed === undefined ? {} : { deployedGzip: deployed }),
          ...(prepare === undefined ? {} : { prepare }),
        });
      }
    }
  }
  return results;
}

/** Rows of all processes of one competitor, as one. */
export function pool(
  reports: readonly ChildReport[],
): Omit<Measurement, 'model' | 'macs' | 'threads' | 'competitor' | 'agreement' | 'deployedGzip' | 'prepare'> {
  const planned = reports.flatMap(({ plannedBytes }) => plannedBytes ?? []);
  return {
    wall: summarize(reports.flatMap((it) => it.wallMs)),
    processMedians: reports.map((it) => quantile(it.wallMs, 0.5)),
    cpu: summarize(reports.map((it) => it.cpuMs)),
    open: summarize(reports.map((it) => it.openMs)),
    firstRun: summarize(reports.map((it) => it.firstRunMs)),
    peakRssBytes: summarize(reports.map((it) => it.peakRssBytes)).median,
    baseRssBytes: summarize(reports.map((it) => it.baseRssBytes)).median,
    ...(planned.length === 0 ? {} : { plannedBytes: summarize(planned).median }),
  };
}

/** The worst difference over all outputs of the reference. @throws Error when the names of the outputs differ */
export function agreement(actual: Outputs, expected: Outputs): Difference {
  const names = Object.keys(expected).sort();
  const got = Object.keys(actual).sort();
  if (names.join() !== got.join()) throw new Error(`outputs are [${got.join()}], the reference has [${names.join()}]`);
  const all = names.map((name) => difference(actual[name] as Float32Array, expected[name] as Float32Array));
  return { maxAbs: Math.max(...all.map((it) => it.maxAbs)), maxRel: Math.max(...all.map((it) => it.maxRel)) };
}

async function interleave(
  plan: Plan,
  model: BenchModel,
  threads: number,
  competitors: readonly Competitor[],
  say: (line: string) => void,
): Promise<Map<Competitor, ChildReport[]>> {
  const reports = new Map<Competitor, ChildReport[]>(competitors.map((competitor) => [competitor, []]));
  const sizes = effort(model, plan.quick);
  for (let round = 0; round < plan.rounds; round++) {
    for (let i = 0; i < competitors.length; i++) {
      const competitor = competitors[(i + round) % competitors.length] as Competitor;
      const report = await runChild(competitor, { competitor: competitor.name, model: model.name, threads, ...sizes });
      reports.get(competitor)?.push(report);
      const { median } = summarize(report.wallMs);
      say(`${model.name} ${threads}T round ${round + 1}/${plan.rounds} ${competitor.name}: ${median.toFixed(2)} ms`);
    }
  }
  return reports;
}

/** How many runs a process makes: enough for about 100 GFLOP (25 when quick), 3 to 300 of them. */
export function effort(
  model: Pick<BenchModel, 'macs'>,
  quick: boolean,
): Pick<ChildTask, 'warmupRuns' | 'warmupMs' | 'runs'> {
  const wanted = ((quick ? 25 : 100) * 1e9) / (2 * model.macs);
  return { warmupRuns: 2, warmupMs: quick ? 1000 : 3000, runs: Math.min(300, Math.max(3, Math.ceil(wanted))) };
}

async function outputsOf(competitor: Competitor, model: BenchModel, threads: number): Promise<Outputs> {
  const outputFolder = mkdtempSync(join(cacheFolder('outputs'), `${model.name}-`));
  try {
    const sizes = { warmupRuns: 0, warmupMs: 0, runs: 0 };
    await runChild(competitor, { competitor: competitor.name, model: model.name, threads, ...sizes, outputFolder });
    const outputs: Record<string, Float32Array> = {};
    for (const file of readdirSync(outputFolder)) {
      outputs[file.replace(/\.f32$/, '')] = new Float32Array(
        new Uint8Array(readFileSync(join(outputFolder, file))).buffer,
      );
    }
    return outputs;
  } finally {
    rmSync(outputFolder, { recursive: true, force: true });
  }
}

function runChild(competitor: Competitor, task: ChildTask): Promise<ChildReport> {
  const script = fileURLToPath(new URL('./worker-process.js', import.meta.url));
  const child = spawn(process.execPath, [...competitor.nodeFlags, script, JSON.stringify(task)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      const line = out.trimEnd().split('\n').at(-1);
      if (code === 0 && line) {
        resolve(JSON.parse(line) as ChildReport);
        return;
      }
      const what = `${task.competitor} on ${task.model}, ${task.threads} threads`;
      reject(new Error(`${what}: process ended with ${signal ?? code}\n${errors.slice(-2000)}`));
    });
  });
}
