import type { Competitor } from './competitor.ts';
import { ortNode, ortWeb } from './peers.ts';

/** Whose outputs are the reference. */
export const REFERENCE: Competitor = ortNode;

/** Whose latency the ratios are against. */
export const BASELINE: Competitor = ortWeb;

/** Everything that can be measured, in the order of the table. */
export const COMPETITORS: readonly Competitor[] = [ortWeb, ortNode];

/** @throws Error that lists the known names when there is no such competitor */
export function findCompetitor(name: string): Competitor {
  const found = COMPETITORS.find((competitor) => competitor.name === name);
  if (found) return found;
  throw new Error(`no competitor "${name}"; known are ${COMPETITORS.map((it) => it.name).join(', ')}`);
}
