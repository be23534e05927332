/** Which schedule implements which kind of region. */
import type { RegionKind } from '../region.ts';
import { scheduleArgReduce } from './arg-reduce.ts';
import { scheduleAttention } from './attention.ts';
import type { Schedule } from './context.ts';
import { scheduleCumulative } from './cumulative.ts';
import { scheduleElement } from './element.ts';
import { scheduleMatmul } from './matmul.ts';
import { scheduleIntegerMatmul } from './matmul-int8.ts';
import { scheduleNorm } from './norm.ts';
import { schedulePositions } from './positions.ts';
import { scheduleReduce } from './reduce.ts';
import { scheduleScatter } from './scatter.ts';
import { scheduleSoftmax } from './softmax.ts';
import { scheduleTopK } from './top-k.ts';

const SCHEDULES: Partial<Record<RegionKind, Schedule>> = {
  'arg-reduce': scheduleArgReduce,
  attention: scheduleAttention,
  cumulative: scheduleCumulative,
  element: scheduleElement,
  matmul: scheduleMatmul,
  'matmul-int8': scheduleIntegerMatmul,
  norm: scheduleNorm,
  positions: schedulePositions,
  reduce: scheduleReduce,
  scatter: scheduleScatter,
  softmax: scheduleSoftmax,
  'top-k': scheduleTopK,
};

export function scheduleNamed(kind: RegionKind): Schedule {
  const schedule = SCHEDULES[kind];
  if (!schedule) throw new Error(`no schedule for ${kind}`);
  return schedule;
}
