/** Which schedule implements which kind of region on WebGPU. */
import type { RegionKind } from '../../region.ts';
import type { Schedule } from '../context.ts';
import { scheduleNamed } from '../index.ts';
import { scheduleArgReduceGpu } from './arg-reduce.ts';
import { scheduleAttentionGpu } from './attention.ts';
import { scheduleCumulativeGpu } from './cumulative.ts';
import { scheduleElementGpu } from './element.ts';
import { onePerInvocation } from './invocations.ts';
import { scheduleMatmulGpu } from './matmul.ts';
import { scheduleNormGpu } from './norm.ts';
import { schedulePositionsGpu } from './positions.ts';
import { scheduleReduceGpu } from './reduce.ts';
import { scheduleScatterGpu } from './scatter.ts';
import { scheduleSoftmaxGpu } from './softmax.ts';
import { scheduleTopKGpu } from './top-k.ts';

const SCHEDULES: Partial<Record<RegionKind, Schedule>> = {
  'arg-reduce': scheduleArgReduceGpu,
  attention: scheduleAttentionGpu,
  cumulative: scheduleCumulativeGpu,
  element: scheduleElementGpu,
  matmul: scheduleMatmulGpu,
  norm: scheduleNormGpu,
  positions: schedulePositionsGpu,
  reduce: scheduleReduceGpu,
  scatter: scheduleScatterGpu,
  softmax: scheduleSoftmaxGpu,
  'top-k': scheduleTopKGpu,
};

/** Kinds without an entry of their own run their line or block in one invocation each. */
export function scheduleForGpu(kind: RegionKind): Schedule {
  return SCHEDULES[kind] ?? onePerInvocation(scheduleNamed(kind));
}
