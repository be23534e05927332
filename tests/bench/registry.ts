import type { Competitor } from './competitor.ts';
import { heddlePlain, heddleRelaxed } from './heddle.ts';
import { ortNode, ortWeb } from './peers.ts';

/** Whose outputs are the reference. */
export const REFERENCE: Competitor = ortNode;

/** Whose latency the ratios are against. */
export const BASELINE: Competitor = ortWeb;

/** Everything that can be measured, in the order of the table. */
export const COMPETITORS: readonly Competitor[] = [heddleRelaxed, heddlePlain, ortWeb, ortNode];

/** By name, `ort-` standing for `onnxruntime-`. @throws Error that lists the known names when there is no such competitor */
export function findCompetitor(name: string): Competitor {
  const full = name.replace(/^ort-/, 'onnxruntime-');
  const found = COMPETITORS.find((competitor) => competitor.name === full);
  if (found) return found;
  throw new Error(`no competitor "${name}"; known are ${COMPETITORS.map((it) => it.name).join(', ')}`);
}
