/** The memory and launch plan of one entry point. */
import type { EntryPlan } from '../runtime/manifest.ts';
import { planControl } from './plan-control.ts';
import { type KernelNumbers, Planner, type WeightPlaces } from './planner.ts';
import type { ScheduledProgram } from './schedule-regions.ts';
import type { Target } from './target.ts';

export function planEntry(
  scheduled: ScheduledProgram,
  weights: WeightPlaces,
  kernels: KernelNumbers,
  target: Target['name'] = 'wasm',
): EntryPlan {
  return new Planner(weights, kernels, planControl, target).entry(scheduled);
}
