/**
 * What rows that nobody reads and keys that masks hide cost in time: each model of `masked-models.ts` in its two ways, on one
 * thread of WebAssembly with relaxed SIMD, in fresh processes that take turns.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { compile, lowerModel } from '../../compiler/compile.ts';
import { plannedMacs, sampleFor } from '../../compiler/report.ts';
import { seededWeights } from '../../frontends/zoo/index.ts';
import { MASKED_MODELS, type MaskedModel, type Way } from './masked-models.ts';
import { cacheFolder } from './paths.ts';
import { type Difference, difference, quantile, type Summary, summarize } from './stats.ts';
import { digits, type Environment, markdownTable } from './table.ts';
import type { Verdict } from './targets.ts';

export interface MaskedTask {
  readonly model: string;
  /** The bundle. */
  readonly folder: string;
  readonly warmupMs: number;
  /** Timed runs; with none nothing is warmed up either. */
  readonly runs: number;
  /** Where the outputs of the first run go, as raw f32. */
  readonly outputs?: string;
}
export interface MaskedReport {
  readonly wallMs: readonly number[];
  /** Mean CPU time of a timed run, ms: what a machine that does other things disturbs least. */
  readonly cpuMs: number;
}

export interface MaskedWay {
  readonly name: string;
  /** Multiply-accumulates that kernels execute on these inputs. */
  readonly macs: number;
  /** Of all runs, ms. */
  readonly wall: Summary;
  /** Median of each process, in order. */
  readonly processMedians: readonly number[];
  /** CPU time of a run, one mean for each process, ms. */
  readonly cpu: Summary;
}

export interface MaskedRow {
  readonly model: string;
  readonly doc: string;
  readonly ways: readonly [MaskedWay, MaskedWay];
  /** How many times faster the second way is: the median over rounds of the ratio of the medians of two neighbours. */
  readonly times: number;
  /** The same of CPU time. */
  readonly cpuTimes: number;
  /** The same of multiply-accumulates. */
  readonly macTimes: number;
  /** Outputs of the second way against the first's; absent where they are not to be the same. */
  readonly agreement?: Difference;
}

export interface MaskedPlan {
  readonly models: readonly MaskedModel[];
  readonly rounds: number;
  readonly quick: boolean;
}

/** Largest relative difference between two ways of computing the same. */
const TOLERANCE = 1e-4;

/** @throws Error for a name that no model has */
export function maskedModels(names: readonly string[] | undefined): readonly MaskedModel[] {
  return (names ?? MASKED_MODELS.map(({ name }) => name)).map((wanted) => {
    const found = MASKED_MODELS.find(({ name }) => name === wanted);
    if (!found) throw new Error(`there is no masked model "${wanted}"; known: ${MASKED_MODELS.map((m) => m.name)}`);
    return found;
  });
}

/** @param say told about progress, one line at a time @throws Error when two ways that must agree do not */
export async function measureMasked(plan: MaskedPlan, say: (line: string) => void): Promise<MaskedRow[]> {
  const rows: MaskedRow[] = [];
  for (const model of plan.models) {
    const macs = model.ways.map((way) => executed(model, way)) as [number, number];
    const folders = await Promise.all(model.ways.map((way) => bundleOf(model, way)));
    const agreement = model.same ? await compared(model, folders as [string, string]) : undefined;
    if (agreement) say(`${model.name}: differs by ${agreement.maxRel.toExponential(1)} (relative)`);
    const reports: [MaskedReport[], MaskedReport[]] = [[], []];
    for (let round = 0; round < plan.rounds; round++)
      for (let turn = 0; turn < 2; turn++) {
        const n = (round + turn) % 2;
        const runs = Math.max(3, Math.ceil((plan.quick ? 15e9 : 60e9) / macs[n]!));
        const task = { model: model.name, folder: folders[n]!, warmupMs: plan.quick ? 1000 : 3000, runs };
        const report = await child(task);
        reports[n]!.push(report);
        const { wallMs } = report;
        say(
          `${model.name} round ${round + 1} of ${plan.rounds}, ${model.ways[n]!.name}: ${quantile(wallMs, 0.5).toFixed(1)} ms`,
        );
      }
    rows.push(rowOf(model, macs, reports, agreement));
  }
  return rows;
}

/** A row from what the processes of each way report, in order of rounds. */
export function rowOf(
  { name, doc, ways }: Pick<MaskedModel, 'name' | 'doc' | 'ways'>,
  macs: readonly [number, number],
  reports: readonly [readonly MaskedReport[], readonly MaskedReport[]],
  agreement?: Difference,
): MaskedRow {
  const way = (n: 0 | 1): MaskedWay => ({
    name: ways[n].name,
    macs: macs[n],
    wall: summarize(reports[n].flatMap(({ wallMs }) => wallMs)),
    processMedians: reports[n].map(({ wallMs }) => quantile(wallMs, 0.5)),
    cpu: summarize(reports[n].map(({ cpuMs }) => cpuMs)),
  });
  const both = [way(0), way(1)] as const;
  const middle = (a: readonly number[], b: readonly number[]): number =>
    quantile(
      a.map((ms, i) => ms / b[i]!),
      0.5,
    );
  const times = middle(both[0].processMedians, both[1].processMedians);
  const [longer, shorter] = reports.map((list) => list.map(({ cpuMs }) => cpuMs)) as [number[], number[]];
  const row = { model: name, doc, ways: both, times, cpuTimes: middle(longer, shorter), macTimes: macs[0] / macs[1] };
  return agreement ? { ...row, agreement } : row;
}

/** What was promised of the rows. */
export function maskedVerdicts(rows: readonly MaskedRow[], models: readonly MaskedModel[] = MASKED_MODELS): Verdict[] {
  return rows.flatMap((row): Verdict[] => {
    const { promised, share } = models.find(({ name }) => name === row.model) ?? {};
    const of = { model: row.model, threads: 1, competitor: 'heddle relaxed' };
    const found = row.times / row.macTimes;
    return [
      ...(promised === undefined
        ? []
        : [
            {
              what: `${row.ways[1].name} against ${row.ways[0].name}`,
              ...of,
              promised: `≥ ${promised.toFixed(1)} ×`,
              measured: `${row.times.toFixed(2)} ×`,
              reached: row.times >= promised,
            },
          ]),
      ...(share === undefined
        ? []
        : [
            {
              what: 'share of what multiply-accumulates allow',
              ...of,
              promised: `≥ ${share}`,
              measured: `${found.toFixed(2)} (of ${row.macTimes.toFixed(2)} ×)`,
              reached: found >= share,
            },
          ]),
    ];
  });
}

export function renderMasked(rows: readonly MaskedRow[], verdicts: readonly Verdict[], at: Environment): string {
  const { date, cpu, cores, memoryGiB, platform, node, v8, rounds } = at;
  const header = [
    'model',
    'computed',
    'multiply-accumulates',
    'wall ms',
    'CPU ms',
    '× by work',
    '× by time',
    '× by CPU',
    'share',
    'differs',
  ];
  const body = rows.flatMap(({ model, ways, times, cpuTimes, macTimes, agreement }) =>
    ways.map((way, n) => [
      n === 0 ? model : '',
      way.name,
      way.macs.toLocaleString('en'),
      [way.wall.median, way.wall.p20, way.wall.min].map(digits).join(' / '),
      digits(way.cpu.median),
      ...(n === 0
        ? ['', '', '', '', '']
        : [
            macTimes.toFixed(2),
            times.toFixed(2),
            cpuTimes.toFixed(2),
            (times / macTimes).toFixed(2),
            agreement ? agreement.maxRel.toExponential(0) : '–',
          ]),
    ]),
  );
  const promises = verdicts.map((it) => [it.what, it.model, it.promised, it.measured, it.reached ? 'yes' : '**no**']);
  const parts = [
    '# Masked and padded models',
    [
      `${date}. ${cpu}, ${cores} logical cores, ${memoryGiB} GiB, ${platform}; Node ${node} (V8 ${v8}). WebAssembly with`,
      `relaxed SIMD, one thread. ${rounds} rounds; in each, both ways of a model get a fresh process, in turns. Wall: median /`,
      '20th percentile / minimum of all runs; CPU: median over processes of the mean of a run. `×`: how many times less or faster',
      'the second way is: multiply-accumulates that kernels execute on these inputs; wall time, as the median over rounds of the',
      'ratio of medians; CPU time. Share: the ratio of wall times over that of multiply-accumulates. `as written` leaves out',
      '`drop-steps`, `drop-tokens` and `pack-rows`. Written by `npm run bench -- --masked`.',
    ].join('\n'),
    markdownTable(header, 2, body),
    rows.map(({ model, doc }) => `- ${model}: ${doc}`).join('\n'),
    '## What was promised',
    markdownTable(['what', 'model', 'promised', 'measured', 'reached'], 2, promises),
  ];
  return `${parts.join('\n\n')}\n`;
}

/** Multiply-accumulates of one way on the model's inputs. */
export function executed({ entry, inputs }: MaskedModel, { model, without }: Way): number {
  const { entries, at } = lowerModel(model(), { without });
  const found = entries.find(({ name }) => name === entry)!;
  const sample = sampleFor(found, inputs(), at);
  return plannedMacs(found.relaxed, sample?.sizes ?? at, sample);
}

/** Compiled anew each time: the compiler may have changed. */
async function bundleOf({ name }: MaskedModel, { name: way, model, without }: Way): Promise<string> {
  const folder = join(cacheFolder('masked'), `${name}-${way.replace(' ', '-')}`);
  const graph = model();
  await compile(graph, { weights: seededWeights(graph), without }).write(folder);
  return folder;
}

async function compared(model: MaskedModel, folders: readonly [string, string]): Promise<Difference> {
  const outputs: Record<string, Float32Array>[] = [];
  for (const folder of folders) {
    const to = mkdtempSync(join(cacheFolder('outputs'), `${model.name}-`));
    try {
      await child({ model: model.name, folder, warmupMs: 0, runs: 0, outputs: to });
      const read = (file: string) => new Float32Array(new Uint8Array(readFileSync(join(to, file))).buffer);
      outputs.push(Object.fromEntries(readdirSync(to).map((file) => [file, read(file)])));
    } finally {
      rmSync(to, { recursive: true, force: true });
    }
  }
  const [want, got] = outputs as [Record<string, Float32Array>, Record<string, Float32Array>];
  const all = Object.keys(want).map((name) => difference(got[name]!, want[name]!));
  const worst = { maxAbs: Math.max(...all.map((d) => d.maxAbs)), maxRel: Math.max(...all.map((d) => d.maxRel)) };
  if (!(worst.maxRel <= TOLERANCE))
    throw new Error(`${model.name}: outputs differ by ${worst.maxRel} (relative); not timing a wrong result`);
  return worst;
}

async function child(task: MaskedTask): Promise<MaskedReport> {
  const script = fileURLToPath(new URL('./masked-process.js', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script, JSON.stringify(task)]);
  return JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as MaskedReport;
}
