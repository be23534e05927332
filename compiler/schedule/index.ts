/** Which schedule implements which kind of region. */
import type { RegionKind } from '../region.ts';
import { scheduleAttention } from './attention.ts';
import type { Schedule } from './context.ts';
import { scheduleElement } from './element.ts';
import { scheduleMatmul } from './matmul.ts';
import { scheduleNorm } from './norm.ts';
import { scheduleReduce } from './reduce.ts';
import { scheduleSoftmax } from './softmax.ts';

const SCHEDULES: Partial<Record<RegionKind, Schedule>> = {
  attention: scheduleAttention,
  element: scheduleElement,
  matmul: scheduleMatmul,
  norm: scheduleNorm,
  reduce: scheduleReduce,
  softmax: scheduleSoftmax,
};

export function scheduleNamed(kind: RegionKind): Schedule {
  const schedule = SCHEDULES[kind];
  if (!schedule) throw new Error(`no schedule for ${kind}`);
  return schedule;
}
