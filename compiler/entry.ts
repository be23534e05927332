/** One entry point on its way through the compiler; dumps, counts and tests look at any stage. */
import type { Graph } from '../ir/graph.ts';
import type { EntryPlan } from '../runtime/manifest.ts';
import type { Partition } from './partition.ts';
import type { ScheduledProgram } from './schedule-regions.ts';

export interface CompiledEntry {
  readonly name: string;
  readonly optimised: Graph;
  readonly program: Partition;
  readonly relaxed: ScheduledProgram;
  readonly plain: ScheduledProgram;
  readonly plan: EntryPlan;
}
