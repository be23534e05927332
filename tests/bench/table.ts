import type { Measurement } from './measure.ts';
import { type Ratio, ratioOf } from './ratio.ts';
import type { Verdict } from './targets.ts';

/** Where and when the numbers were taken. */
export interface Environment {
  readonly date: string;
  readonly cpu: string;
  /** Logical processors that this process may use. */
  readonly cores: number;
  readonly memoryGiB: number;
  readonly platform: string;
  readonly node: string;
  readonly v8: string;
  /** Package name → version. */
  readonly packages: Readonly<Record<string, string>>;
  readonly rounds: number;
}

/** GFLOP/s of the contractions (2 FLOP a multiply-add) when one run takes `ms`. */
export function gflops(macs: number, ms: number): number {
  return (2 * macs) / (ms * 1e6);
}

/** Which competitor the ratios and which the differences are against. */
export interface ReportNames {
  readonly baseline: string;
  readonly reference: string;
}

/** The report: what was measured where, then tables of whole models, of what was promised, and of single products. */
export function renderResults(
  rows: readonly Measurement[],
  environment: Environment,
  names: ReportNames,
  promises: readonly Verdict[],
): string {
  const { baseline, reference } = names;
  const { cpu, cores, memoryGiB, platform, node, v8, packages, rounds, date } = environment;
  const versions = Object.entries(packages).map(([name, version]) => `${name} ${version}`);
  const matmul = (row: Measurement): boolean => row.model.startsWith('matmul-');
  const models = rows.filter((row) => !matmul(row));
  const products = rows.filter(matmul);
  const parts = [
    '# Benchmark results',
    [
      `${date}. ${cpu}, ${cores} logical cores, ${memoryGiB} GiB, ${platform}; Node ${node} (V8 ${v8});`,
      `${versions.join(', ')}. f32, batch 1, same weights and inputs. ${rounds} rounds; in each, every competitor gets`,
      'a fresh process, in rotating order; warm runs of all rounds are pooled. Times in ms. Wall: median / 20th',
      'percentile / minimum; CPU: median, all threads; GFLOP/s: at the 20th percentile; opening, first run: medians of',
      'the processes; peak: resident memory; code: to deploy beside the weights, gzipped. `×`: how many times faster',
      `than ${baseline}, by median wall time / 20th percentile of it / median CPU time. \`differs\`: largest relative`,
      `difference from the outputs of ${reference}.`,
      'Written by `npm run bench`.',
    ].join('\n'),
  ];
  if (models.length > 0) parts.push('## Whole models', modelTable(models, rows, baseline));
  if (promises.length > 0) parts.push('## Promises', verdictTable(promises));
  if (products.length > 0) parts.push('## Matrix products (M×K×N)', matmulTable(products, rows, baseline));
  return `${parts.join('\n\n')}\n`;
}

function modelTable(shown: readonly Measurement[], rows: readonly Measurement[], baseline: string): string {
  const header = [
    'model',
    'threads',
    'runs on',
    'wall ms',
    'CPU ms',
    'GFLOP/s',
    '×',
    'open ms',
    'first run ms',
    'peak MB',
    'code KB',
    'differs',
  ];
  return markdownTable(header, 3, [
    ...shown.map((row) => [
      row.model,
      String(row.threads),
      row.competitor,
      times(row),
      digits(row.cpu.median),
      digits(gflops(row.macs, row.wall.p20)),
      ratioText(ratioOf(row, rows, baseline)),
      digits(row.open.median),
      digits(row.firstRun.median),
      (row.peakRssBytes / 1e6).toFixed(0),
      row.deployedGzip === undefined ? '–' : digits(row.deployedGzip / 1000),
      row.agreement.maxRel.toExponential(0),
    ]),
  ]);
}

function verdictTable(promises: readonly Verdict[]): string {
  const header = ['what', 'model', 'threads', 'runs on', 'promised', 'measured', 'reached'];
  return markdownTable(
    header,
    4,
    promises.map((it) => [
      it.what,
      it.model,
      String(it.threads),
      it.competitor,
      it.promised,
      it.measured,
      it.reached ? 'yes' : '**no**',
    ]),
  );
}

function matmulTable(shown: readonly Measurement[], rows: readonly Measurement[], baseline: string): string {
  const header = ['product', 'threads', 'runs on', 'wall ms', 'CPU ms', 'GFLOP/s', '×', 'differs'];
  return markdownTable(header, 3, [
    ...shown.map((row) => [
      row.model.replace('matmul-', ''),
      String(row.threads),
      row.competitor,
      times(row),
      digits(row.cpu.median),
      digits(gflops(row.macs, row.wall.p20)),
      ratioText(ratioOf(row, rows, baseline)),
      row.agreement.maxRel.toExponential(0),
    ]),
  ]);
}

/** A Markdown table whose first `left` columns are left-aligned and the others right-aligned. */
export function markdownTable(header: readonly string[], left: number, body: readonly (readonly string[])[]): string {
  const rule = header.map((_, i) => (i < left ? '---' : '---:'));
  return [header, rule, ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** Three significant digits, without exponents or trailing precision that a timer does not have. */
export function digits(value: number): string {
  if (value >= 100) return value.toFixed(0);
  if (value >= 10) return value.toFixed(1);
  return value >= 1 ? value.toFixed(2) : value.toFixed(3);
}

function times(row: Measurement): string {
  return `${digits(row.wall.median)} / ${digits(row.wall.p20)} / ${digits(row.wall.min)}`;
}

function ratioText(ratio: Ratio | undefined): string {
  return ratio ? `${[ratio.median, ratio.p20, ratio.cpu].map((x) => x.toFixed(2)).join(' / ')}` : '–';
}
