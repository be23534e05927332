/** `heddle bench` */
import type { Command } from 'commander';
import type { Input, ProfileRow } from '../../runtime/api.ts';
import type { Manifest } from '../../runtime/manifest.ts';
import { open } from '../../runtime/open.ts';
import { selfTestInputs } from '../../runtime/selftest.ts';
import { defaultEntry } from '../../runtime/session.ts';
import type { SizeBounds } from '../narrow.ts';
import { measureCeiling } from './ceiling.ts';
import { readCount, readDevice, readDim } from './options.ts';
import { readBundleManifest } from './stored.ts';
import { byteText, Progress, print, printJson, sizesText, table, usage } from './terminal.ts';

interface Options {
  readonly entry?: string;
  readonly threads: number;
  readonly device: 'auto' | 'wasm' | 'webgpu';
  readonly runs: number;
  readonly dim: SizeBounds;
  readonly json: boolean;
}

export function addBench(program: Command): void {
  program
    .command('bench <bundle>')
    .description('time per kernel, GFLOP/s, and the share of what the machine can do')
    .option('--entry <name>', 'which function; default main, or the first')
    .option('--threads <n>', 'threads that compute', readCount('--threads', 1), 1)
    .option('--device <name>', 'auto, wasm or webgpu (in Node with the package webgpu)', readDevice, 'auto')
    .option('--runs <n>', 'timed runs, after one that is not counted', readCount('--runs', 1), 5)
    .option('--dim <name=size>', 'a size to run at; default: the model’s', readDim, {})
    .option('--json', 'print one JSON document', false)
    .addHelpText(
      'after',
      `
A FLOP is a multiplication or an addition, so a multiply-accumulate counts two. The ceiling is a loop of multiply-adds in
registers on one thread, times the threads.

Examples:
  heddle bench dist/vit
  heddle bench dist/bert --dim sequence=128 --threads 4 --json`,
    )
    .action(run);
}

interface Row {
  readonly label: string;
  readonly calls: number;
  readonly ms: number;
  /** Of the whole run. */
  readonly share: number;
  /** Where the bundle says how much work the label is. */
  readonly gflops?: number;
  /** Of the ceiling. */
  readonly ceiling?: number;
}

async function run(folder: string, options: Options): Promise<void> {
  const manifest = await readBundleManifest(folder);
  const entry = options.entry ?? defaultEntry(manifest);
  const plan = manifest.entries[entry];
  if (!plan)
    return usage(`${folder} has no entry "${entry}"`, `its entries are ${Object.keys(manifest.entries).join(', ')}`);
  const symbols = sizesOf(plan.symbols, options.dim);
  const inputs = selfTestInputs(manifest, { entry, symbols, outputs: [], tolerance: 0 });
  const progress = new Progress(options.runs + 3);
  progress.step('opening');
  const session = await open(folder, { threads: options.threads, device: options.device });
  try {
    progress.step('warming up');
    await session.run(inputs, { entry });
    const runs: { ms: number; rows: readonly ProfileRow[] }[] = [];
    for (let i = 0; i < options.runs; i++) {
      progress.step(`run ${i + 1}`);
      runs.push(await timed((profile) => session.run(inputs as Record<string, Input>, { entry, profile })));
    }
    progress.step('measuring the ceiling');
    const onGpu = session.device === 'webgpu';
    const ceiling = onGpu ? undefined : measureCeiling(session.relaxed) * 2e-9 * session.threads;
    progress.end();
    const best = runs.reduce((a, b) => (b.ms < a.ms ? b : a));
    const counted = plan.symbols.every(({ name, default: usual }) => symbols[name] === usual);
    const macs = counted ? manifest.macs?.[entry] : undefined;
    const rows = best.rows.map((row) => rowOf(row, best.ms, macs?.[row.label], ceiling));
    const total = macs && Object.values(macs).reduce((a, b) => a + b, 0);
    const gflops = total === undefined ? undefined : (2e-6 * total) / best.ms;
    const median = runs.map(({ ms }) => ms).sort((a, b) => a - b)[Math.floor(runs.length / 2)]!;
    const { device, adapter, fallback, threads, relaxed, peakBytes } = session;
    const summary = {
      entry,
      device,
      adapter,
      fallback,
      at: symbols,
      threads,
      relaxed,
      ms: best.ms,
      median,
      gflops,
      ceiling,
      peakBytes,
      kernels: rows,
    };
    if (options.json) printJson(summary);
    else print(text(summary));
  } finally {
    progress.end();
    session.dispose();
  }
}

function sizesOf(symbols: Manifest['entries'][string]['symbols'], bounds: SizeBounds): Record<string, number> {
  const sizes = Object.fromEntries(symbols.map(({ name, default: usual }) => [name, usual]));
  for (const [name, bound] of Object.entries(bounds)) {
    if (!Object.hasOwn(sizes, name))
      usage(`the bundle has no size "${name}"`, `its sizes are ${Object.keys(sizes).join(', ') || 'all fixed'}`);
    if (typeof bound !== 'number') return usage(`--dim ${name} needs one size to run at`);
    sizes[name] = bound;
  }
  return sizes;
}

async function timed(
  work: (profile: (rows: readonly ProfileRow[]) => void) => Promise<unknown>,
): Promise<{ ms: number; rows: readonly ProfileRow[] }> {
  let rows: readonly ProfileRow[] = [];
  const from = performance.now();
  await work((found) => {
    rows = found;
  });
  return { ms: performance.now() - from, rows };
}

function rowOf(
  { label, ms, calls }: ProfileRow,
  whole: number,
  macs: number | undefined,
  ceiling: number | undefined,
): Row {
  const row = { label, calls, ms, share: ms / whole };
  if (!macs) return row;
  const gflops = (2e-6 * macs) / ms;
  return { ...row, gflops, ...(ceiling !== undefined && { ceiling: gflops / ceiling }) };
}

interface Summary {
  readonly entry: string;
  readonly device: 'wasm' | 'webgpu';
  readonly adapter: string | undefined;
  readonly fallback: string | undefined;
  readonly at: Readonly<Record<string, number>>;
  readonly threads: number;
  readonly relaxed: boolean;
  readonly ms: number;
  readonly median: number;
  readonly gflops: number | undefined;
  /** Of the processor's threads; a GPU's is not measured here. */
  readonly ceiling: number | undefined;
  readonly peakBytes: number;
  readonly kernels: readonly Row[];
}

function text(summary: Summary): string {
  const { entry, at, threads, relaxed, ms, median, gflops, ceiling, peakBytes, kernels } = summary;
  const percent = (x: number): string => `${(100 * x).toFixed(1)}%`;
  const rows = kernels.map(({ label, calls, ms: time, share, gflops: speed, ceiling: part }) => [
    label,
    String(calls),
    time.toFixed(2),
    percent(share),
    speed === undefined ? '' : speed.toFixed(1),
    part === undefined ? '' : percent(part),
  ]);
  const part = gflops !== undefined && ceiling !== undefined ? ` (${percent(gflops / ceiling)} of the ceiling)` : '';
  const speed = gflops === undefined ? '' : `, ${gflops.toFixed(1)} GFLOP/s${part}`;
  const processor = `${threads} thread${threads === 1 ? '' : 's'}, ${relaxed ? 'fused' : 'separate'} multiply-add, ceiling ${ceiling?.toFixed(1)} GFLOP/s`;
  const where = summary.device === 'webgpu' ? `WebGPU on ${summary.adapter}` : processor;
  return [
    table([['kernel', 'calls', 'ms', 'share', 'GFLOP/s', 'ceiling'], ...rows]),
    '',
    `${entry}${sizesText(at) && ` at ${sizesText(at)}`}: ${ms.toFixed(2)} ms best, ${median.toFixed(2)} ms median${speed}`,
    `${where}, ${byteText(peakBytes)} of memory`,
    ...(summary.fallback === undefined ? [] : [`not on WebGPU: ${summary.fallback}`]),
  ].join('\n');
}
