/** A model as front ends hand it to the compiler: one graph an entry point, sharing parameters by name. */
import type { Graph } from './graph.ts';

export interface Model {
  readonly name: string;
  readonly doc?: string;
  /** By entry-point name; a model with one entry calls it `main`. */
  readonly entries: Readonly<Record<string, Graph>>;
}
