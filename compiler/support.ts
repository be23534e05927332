/** Which operators of a graph the target cannot compile, found by trying. */
import { CompileError, printLoc } from '../ir/diagnostic.ts';
import type { Graph } from '../ir/graph.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { decompose } from './decompose.ts';
import { partition } from './partition.ts';
import { scheduleProgram } from './schedule-regions.ts';
import { WASM_PLAIN } from './target.ts';

export interface UnsupportedOp {
  readonly op: string;
  /** The value's name or op, with the author's line where it is known. */
  readonly at: string;
  readonly why: string;
}

export function unsupportedOps(graph: Graph): readonly UnsupportedOp[] {
  const program = partition(decompose(runPasses(graph, pipelineFor('wasm'))));
  const found: UnsupportedOp[] = [];
  for (const region of program.regions) {
    try {
      scheduleProgram({ ...program, regions: [region] }, WASM_PLAIN);
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      const { op, name, loc } = region.root;
      const why = error instanceof CompileError ? error.diagnostic.message : error.message;
      found.push({ op: op.name, at: `${name ?? op.name}${loc ? ` (${printLoc(loc)})` : ''}`, why });
    }
  }
  return found;
}
