/** One entry point on its way through the compiler; dumps, counts and tests look at any stage. */
import type { Graph } from '../ir/graph.ts';
import type { Remark } from '../passes/pass.ts';
import type { EntryPlan } from '../runtime/manifest.ts';
import type { Partition } from './partition.ts';
import type { ScheduledProgram } from './schedule-regions.ts';

/** An entry whose kernels are scheduled, before anything is placed in memory. */
export interface ScheduledEntry {
  readonly name: string;
  /** As the front end handed it over, sizes narrowed. */
  readonly authored: Graph;
  readonly optimised: Graph;
  readonly remarks: readonly Remark[];
  readonly program: Partition;
  readonly relaxed: ScheduledProgram;
  readonly plain: ScheduledProgram;
}

export interface CompiledEntry extends ScheduledEntry {
  readonly plan: EntryPlan;
}
