/** The memory and launch plan of one entry point. */
import type { EntryPlan } from '../runtime/manifest.ts';
import { planControl } from './plan-control.ts';
import { type KernelNumbers, Planner, type WeightPlaces } from './planner.ts';
import type { ScheduledProgram } from './schedule-regions.ts';

export function planEntry(scheduled: ScheduledProgram, weights: WeightPlaces, kernels: KernelNumbers): EntryPlan {
  return new Planner(weights, kernels, planControl).entry(scheduled);
}
