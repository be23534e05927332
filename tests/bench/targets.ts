import type { Measurement } from './measure.ts';
import { ratioOf } from './ratio.ts';
import type { Summary } from './stats.ts';

/** What was promised of one row, and what was measured. */
export interface Verdict {
  readonly what: string;
  readonly model: string;
  readonly threads: number;
  readonly competitor: string;
  readonly promised: string;
  readonly measured: string;
  readonly reached: boolean;
}

/** How many times faster than the baseline, by median wall time. */
const SPEED: readonly { competitor: string; threads: number; times: Readonly<Record<string, number>> }[] = [
  { competitor: 'heddle relaxed', threads: 1, times: { 'vit-b16': 1.9, 'bert-base-128': 1.9, 'minilm-l6-128': 1.8 } },
  { competitor: 'heddle plain', threads: 1, times: { 'vit-b16': 1.4, 'bert-base-128': 1.4, 'minilm-l6-128': 1.4 } },
  { competitor: 'heddle relaxed', threads: 2, times: { 'vit-b16': 2, 'bert-base-128': 2, 'minilm-l6-128': 2 } },
];
/** How many times faster than the baseline runs another model, the same in floats, by median wall time on one thread. */
const AGAINST: readonly { readonly model: string; readonly other: string; readonly times: number }[] = [
  { model: 'minilm-l6-128-int8', other: 'minilm-l6-128', times: 3 },
];
/** Resident bytes beyond Node's own and the model's weights and working memory. */
const SLACK_BYTES = 32 * 2 ** 20;
/** Opening time over the baseline's. */
const OPENING: Readonly<Record<string, number>> = { 'vit-b16': 0.5 };
/** Everything but the weights, gzipped. */
const DEPLOYED_BYTES = 30_000;

/** Compilation of one model, its weights packed and everything written. */
const COMPILE_MS = 5000;
const COMPILE_BYTES = 1.5e9;

/** From importing the compiler to the first result of a tiny model. */
const FIRST_RESULT_MS = 300;

export function firstResultVerdict({ median, min }: Summary): Verdict {
  const measured = `${median.toFixed(0)} ms (best ${min.toFixed(0)})`;
  const promised = `≤ ${FIRST_RESULT_MS} ms`;
  const reached = median <= FIRST_RESULT_MS;
  return {
    what: 'import to first result',
    model: 'perceptron',
    threads: 1,
    competitor: 'heddle',
    promised,
    measured,
    reached,
  };
}

/** Compares rows with what the project promises; rows without a promise, or without their baseline, are left out. */
export function verdicts(rows: readonly Measurement[], baseline: string): Verdict[] {
  return rows.flatMap((row) => [
    ...speed(row, rows, baseline),
    ...speedAgainst(row, rows, baseline),
    ...opening(row, rows, baseline),
    ...sizes(row),
    ...compilation(row),
  ]);
}

const of = ({ model, threads, competitor }: Measurement): Pick<Verdict, 'model' | 'threads' | 'competitor'> => ({
  model,
  threads,
  competitor,
});

function* speed(row: Measurement, rows: readonly Measurement[], baseline: string): Generator<Verdict> {
  const known = SPEED.find((it) => it.competitor === row.competitor && it.threads === row.threads);
  const times = known?.times[row.model];
  const ratio = ratioOf(row, rows, baseline);
  if (times === undefined || ratio === undefined) return;
  const measured = [ratio.median, ratio.p20, ratio.cpu].map((x) => x.toFixed(2)).join(' / ');
  const promised = `≥ ${times.toFixed(1)} ×`;
  yield { what: 'latency', ...of(row), promised, measured: `${measured} ×`, reached: ratio.median >= times };
}

function* speedAgainst(row: Measurement, rows: readonly Measurement[], baseline: string): Generator<Verdict> {
  const known = AGAINST.find(({ model }) => model === row.model);
  if (!known || row.competitor !== 'heddle relaxed' || row.threads !== 1) return;
  const ratio = ratioOf({ ...row, model: known.other }, rows, baseline);
  if (!ratio) return;
  const measured = `${[ratio.median, ratio.p20, ratio.cpu].map((x) => x.toFixed(2)).join(' / ')} ×`;
  const promised = `≥ ${known.times.toFixed(1)} × ${baseline} on ${known.other}`;
  yield { what: 'latency against floats', ...of(row), promised, measured, reached: ratio.median >= known.times };
}

function* opening(row: Measurement, rows: readonly Measurement[], baseline: string): Generator<Verdict> {
  const most = OPENING[row.model];
  const base = rows.find((it) => it.competitor === baseline && it.model === row.model && it.threads === row.threads);
  if (most === undefined || base === undefined || !row.competitor.startsWith('heddle')) return;
  const share = row.open.median / base.open.median;
  const measured = `${share.toFixed(2)} × (${row.open.median.toFixed(0)} ms of ${base.open.median.toFixed(0)})`;
  yield { what: 'opening', ...of(row), promised: `≤ ${most} ×`, measured, reached: share <= most };
}

function* sizes(row: Measurement): Generator<Verdict> {
  if (row.model.startsWith('matmul-')) return;
  const { plannedBytes, deployedGzip, peakRssBytes, baseRssBytes } = row;
  if (plannedBytes !== undefined) {
    const [more, most] = [peakRssBytes - baseRssBytes, plannedBytes + SLACK_BYTES];
    const promised = `≤ ${mega(most)} (planned ${mega(plannedBytes)})`;
    const measured = `${mega(more)} (peak ${mega(peakRssBytes)}, of Node ${mega(baseRssBytes)})`;
    yield { what: 'peak memory, MB', ...of(row), promised, measured, reached: more <= most };
    if (deployedGzip === undefined) return;
    const [bytes, limit] = [deployedGzip, DEPLOYED_BYTES].map((n) => (n / 1000).toFixed(1));
    const small = deployedGzip <= DEPLOYED_BYTES;
    yield { what: 'runtime, KB gzipped', ...of(row), promised: `≤ ${limit}`, measured: `${bytes}`, reached: small };
  }
}

function* compilation(row: Measurement): Generator<Verdict> {
  if (row.model !== 'vit-b16' || row.prepare === undefined) return;
  const { ms, peakRssBytes } = row.prepare;
  const promised = `≤ ${COMPILE_MS / 1000} s, ${mega(COMPILE_BYTES)} MB`;
  const measured = `${(ms / 1000).toFixed(1)} s, ${mega(peakRssBytes)} MB`;
  const reached = ms <= COMPILE_MS && peakRssBytes <= COMPILE_BYTES;
  yield { what: 'compilation', ...of(row), promised, measured, reached };
}

const mega = (bytes: number): string => (bytes / 1e6).toFixed(0);
