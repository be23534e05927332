import type { BenchModel, Outputs } from './models.ts';

/** An opened model, ready to run on the inputs of `inputsOf(model)`. */
export interface Runner {
  /** Bytes that the model says it holds after its runs: weights and working memory. */
  readonly plannedBytes?: number;
  /** One forward pass. Includes whatever a caller pays each time: copying inputs in and outputs out. */
  run(): Promise<Outputs>;
}

/** What a competitor's own preparation took: heddle's compilation, from the model's source to the written bundle. */
export interface Preparation {
  readonly ms: number;
  readonly peakRssBytes: number;
}

/** One way to run a model. The parent process prepares; a fresh child process opens and runs. */
export interface Competitor {
  /** Unique; the row's label in the table. */
  readonly name: string;
  /** Command-line flags that Node needs for it in the child process. */
  readonly nodeFlags: readonly string[];
  /** Writes the files that `open` reads, once, outside every measurement; may find them in the cache. */
  prepare(model: BenchModel): Promise<Preparation | undefined>;
  /** Loads the prepared files. Timed as the opening: from files on disk to a model that can run. */
  open(model: BenchModel, threads: number): Promise<Runner>;
  /** Bytes to deploy beside the weights, each file gzipped; called after `prepare`. */
  deployedGzip?(model: BenchModel): number;
}
