import type { Measurement } from './measure.ts';

/** How many times faster than the baseline: by median and 20th percentile of wall time, and by median CPU time. */
export interface Ratio {
  readonly median: number;
  readonly p20: number;
  readonly cpu: number;
}

/** Baseline time over own time: above 1 is faster than the baseline; undefined when the baseline was not measured. */
export function ratioOf(row: Measurement, rows: readonly Measurement[], baseline: string): Ratio | undefined {
  const base = rows.find((it) => it.competitor === baseline && it.model === row.model && it.threads === row.threads);
  if (!base) return undefined;
  return {
    median: base.wall.median / row.wall.median,
    p20: base.wall.p20 / row.wall.p20,
    cpu: base.cpu.median / row.cpu.median,
  };
}
