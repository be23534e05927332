/** Which schedule implements which kind of region on WebGPU. */
import type { RegionKind } from '../../region.ts';
import type { Schedule } from '../context.ts';
import { scheduleNamed } from '../index.ts';
import { scheduleAttentionGpu } from './attention.ts';
import { scheduleElementGpu } from './element.ts';
import { onePerInvocation } from './invocations.ts';
import { scheduleMatmulGpu } from './matmul.ts';
import { scheduleNormGpu } from './norm.ts';
import { scheduleReduceGpu } from './reduce.ts';
import { scheduleSoftmaxGpu } from './softmax.ts';

const SCHEDULES: Partial<Record<RegionKind, Schedule>> = {
  attention: scheduleAttentionGpu,
  element: scheduleElementGpu,
  matmul: scheduleMatmulGpu,
  norm: scheduleNormGpu,
  reduce: scheduleReduceGpu,
  softmax: scheduleSoftmaxGpu,
};

/** Kinds without an entry of their own run their line or block in one invocation each. */
export function scheduleForGpu(kind: RegionKind): Schedule {
  return SCHEDULES[kind] ?? onePerInvocation(scheduleNamed(kind));
}
