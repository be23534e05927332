/**
 * `node dist/tests/bench/profile.js MODEL [relaxed|plain]`: where the time of one workload goes, kernel by kernel.
 * Compiles the workload as the benchmark does and runs it with the runtime's profile; prints one row per kernel.
 */
import { parseArgs } from 'node:util';
import { compile } from '../../compiler/compile.ts';
import type { Region, Stage } from '../../compiler/region.ts';
import type { ScheduledProgram } from '../../compiler/schedule-regions.ts';
import { sizeOf as toSize } from '../../compiler/size.ts';
import { typeOf } from '../../ir/graph.ts';
import { printType } from '../../ir/print.ts';
import type { Input, Session } from '../../runtime/api.ts';
import { type EntryPlan, type Launch, type Manifest, sizeOf } from '../../runtime/manifest.ts';
import { open } from '../../runtime/open.ts';
import { heddleInputs } from './heddle.ts';
import { heddleModel } from './heddle-models.ts';
import { type BenchModel, findModel, MATMUL_NAMES, MODEL_NAMES } from './models.ts';
import { digits, gflops, markdownTable } from './table.ts';
import { seededWeights } from './weights.ts';

const HELP = `node dist/tests/bench/profile.js MODEL [relaxed|plain] [flags]
  MODEL        ${[...MODEL_NAMES, ...MATMUL_NAMES].join(', ')}
  --threads N  default 1
  --runs N     timed runs, of which each kernel's best counts; default 10`;

/** The launches of one kernel. `about` describes the first of them. */
interface Row {
  readonly kernel: number;
  readonly about: string;
  readonly calls: number;
  /** Multiply-adds of all the calls. */
  readonly macs: number;
  /** The least time that one run spent in them. */
  ms: number;
}

try {
  await main();
} catch (error) {
  console.error(`profile: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: {
      threads: { type: 'string', default: '1' },
      runs: { type: 'string', default: '10' },
      help: { type: 'boolean', default: false },
    },
    allowPositionals: true,
  });
  const [name, variant = 'relaxed'] = positionals;
  if (values.help || name === undefined || !['relaxed', 'plain'].includes(variant)) {
    console.log(HELP);
    return;
  }
  const workload = findModel(name);
  const { model, weights, symbols } = heddleModel(workload, seededWeights);
  const bundle = compile(model, { weights, symbols });
  const [entry] = bundle.entries;
  if (entry === undefined) throw new Error(`${name} has no entry`);
  const rows = rowsOf(entry[variant === 'plain' ? 'plain' : 'relaxed'], entry.plan);
  const manifest = labelled(bundle.manifest, entry.name);
  const threads = Number(values.threads);
  const session = await open({ manifest, files: bundle.files }, { threads, relaxed: variant === 'relaxed' });
  const wall = await time(session, heddleInputs(workload), rows, Number(values.runs));
  console.log(render(workload, [...rows.values()], wall, `${variant}, ${session.threads} threads`));
  session.dispose();
}

/** Launches of the same kernel get the same label, which the runtime sums up by: `k` and the number. */
function labelled(manifest: Manifest, entry: string): Manifest {
  const plan = manifest.entries[entry] as EntryPlan;
  const steps = plan.steps.map((step) => ('kernel' in step ? { ...step, label: `k${step.kernel}` } : step));
  return { ...manifest, entries: { [entry]: { ...plan, steps } } };
}

/** One row a kernel, by label. @throws Error for a model with loops or branches, whose launches are not a flat list */
function rowsOf({ regions }: ScheduledProgram, plan: EntryPlan): Map<string, Row> {
  const stages = regions.flatMap(({ region, stages }) => stages.map((stage) => ({ region, stage })));
  const launches = plan.steps.filter((step): step is Launch => 'kernel' in step);
  if (launches.length !== stages.length || launches.length !== plan.steps.length) {
    throw new Error('only models without loops and branches can be profiled');
  }
  const sizes = Object.fromEntries(plan.symbols.map((symbol) => [symbol.name, symbol.default]));
  const rows = new Map<string, Row>();
  for (const [i, { region, stage }] of stages.entries()) {
    const { kernel } = launches[i] as Launch;
    const known = rows.get(`k${kernel}`);
    const macs = (known?.macs ?? 0) + sizeOf(toSize(stage.macs), sizes);
    const about = known?.about ?? describe(region, stage);
    rows.set(`k${kernel}`, { kernel, about, calls: (known?.calls ?? 0) + 1, macs, ms: Number.POSITIVE_INFINITY });
  }
  return rows;
}

/** `matmul + add + gelu → f32[1, 128, 3072]`, and the stage where a region has several. */
function describe({ root, epilogue, outputs }: Region, { kernel }: Stage): string {
  const ops = [root, ...epilogue].map((value) => value.op.name).filter((op) => op !== 'reshape' && op !== 'transpose');
  const shapes = outputs.map((value) => printType(typeOf(value))).join(', ');
  return `${kernel.name}: ${ops.join(' + ')} → ${shapes}`;
}

/** Runs until everything is optimised, then `runs` times. @returns the wall times of those, ms */
async function time(
  session: Session,
  inputs: Record<string, Input>,
  rows: ReadonlyMap<string, Row>,
  runs: number,
): Promise<number[]> {
  const warm = performance.now() + 1500;
  for (let i = 0; i < 3 || performance.now() < warm; i++) await session.run(inputs);
  const wall: number[] = [];
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await session.run(inputs, {
      profile(times) {
        for (const { label, ms } of times) {
          const row = rows.get(label);
          if (row !== undefined) row.ms = Math.min(row.ms, ms);
        }
      },
    });
    wall.push(performance.now() - start);
  }
  return wall;
}

function render({ name, macs }: BenchModel, rows: readonly Row[], wall: readonly number[], how: string): string {
  const total = rows.reduce((sum, { ms }) => sum + ms, 0);
  const body = rows
    .toSorted((a, b) => b.ms - a.ms)
    .map((row) => [
      `k${row.kernel}`,
      row.about,
      String(row.calls),
      row.ms.toFixed(3),
      row.macs === 0 ? '–' : digits(gflops(row.macs, row.ms)),
      `${((100 * row.ms) / total).toFixed(1)} %`,
    ]);
  const best = Math.min(...wall);
  const rate = digits(gflops(macs, best));
  const planned = rows.reduce((sum, row) => sum + row.macs, 0);
  return [
    `${name}, ${how}: best run ${best.toFixed(2)} ms (${rate} GFLOP/s), best kernels together ${total.toFixed(2)} ms;`,
    `${(planned / 1e6).toFixed(1)} M multiply-adds planned, ${(macs / 1e6).toFixed(1)} M in the model.`,
    '',
    markdownTable(['kernel', 'what', 'calls', 'ms', 'GFLOP/s', 'share'], 2, body),
  ].join('\n');
}
