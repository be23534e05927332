/** What the parent asks of one child process. */
export interface ChildTask {
  readonly competitor: string;
  readonly model: string;
  readonly threads: number;
  /** Untimed runs after the first: at least this many and at least this long. */
  readonly warmupRuns: number;
  readonly warmupMs: number;
  /** Timed runs. */
  readonly runs: number;
  /** When given, the first run's outputs are written there, one `<name>.f32` each (raw little-endian f32). */
  readonly outputFolder?: string;
}

/** What the child answers: one line of JSON, the last on its stdout. */
export interface ChildReport {
  /** From files on disk to a model that can run, ms; the library's own loading included. */
  readonly openMs: number;
  readonly firstRunMs: number;
  /** Wall time of each timed run, ms. */
  readonly wallMs: readonly number[];
  /**
   * Mean CPU time of a timed run, user and system, all threads of the process, ms; 0 without timed runs. A mean over
   * all runs, because the kernel brings the time of other running threads up to date only every few ms.
   */
  readonly cpuMs: number;
  readonly peakRssBytes: number;
  /** The same before anything of the competitor was loaded: what Node and the benchmark itself take. */
  readonly baseRssBytes: number;
  /** What the model says it holds, where it does; see `Runner`. */
  readonly plannedBytes?: number;
}
