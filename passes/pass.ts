/** What a pass is, and how a list of them is run: verified after each, validated and cut short on request. */
import { CompileError } from '../ir/diagnostic.ts';
import type { Graph, Value } from '../ir/graph.ts';
import { verifyGraph } from '../ir/verify.ts';
import type { MaskOptions } from './mask-options.ts';
import { type ValidateOptions, Validator } from './validate.ts';

/** A meaning-preserving rewrite of a graph. Its name is also the name of its file, its golden folder and its CLI flag. */
export interface Pass {
  readonly name: string;
  readonly doc: string;
  /** The rewritten graph; the same object when nothing changed. */
  run(graph: Graph, cx: PassContext): Graph;
}

export interface PassContext {
  /** Reports that a rule applied at a value, or that it matched and was refused, and why. */
  remark(kind: RemarkKind, at: Value, why: string): void;
  /** Takes one rewrite from the budget; false when none is left. Absent: there is no budget. */
  mayRewrite?(): boolean;
  /** What is known and wanted of masks. */
  readonly masks?: MaskOptions | undefined;
}

export type RemarkKind = 'applied' | 'missed';

export interface Remark {
  readonly pass: string;
  readonly kind: RemarkKind;
  /** The value as it stood before the rewrite. */
  readonly at: Value;
  readonly why: string;
}

export interface RunOptions {
  /** Sees the graph after each pass. */
  readonly observe?: ((pass: Pass, graph: Graph) => void) | undefined;
  readonly remark?: ((remark: Remark) => void) | undefined;
  /** Runs the reference interpreter on seeded values after each pass that changed something. Default false. */
  readonly validate?: boolean | ValidateOptions | undefined;
  /** What is known and wanted of masks. */
  readonly masks?: MaskOptions | undefined;
  /** Rewrites allowed in all, over the whole pipeline: bisects a miscompile. Default no limit. */
  readonly stopAfter?: number | undefined;
}

/**
 * Runs passes in order.
 *
 * @throws CompileError `verify` when a pass makes an ill-formed graph, `internal` when `validate` finds that a pass changed
 *   what the graph computes; both name the pass
 */
export function runPasses(graph: Graph, pipeline: readonly Pass[], options: RunOptions = {}): Graph {
  const { observe, remark, validate = false, stopAfter = Infinity, masks } = options;
  let left = stopAfter;
  const mayRewrite = (): boolean => left > 0 && left-- > 0;
  const checks = validate === true ? {} : validate;
  const validator = checks === false ? undefined : new Validator(graph, { contents: masks?.contents, ...checks });
  let current = graph;
  for (const pass of pipeline) {
    const before = current;
    const note: PassContext['remark'] = (kind, at, why) => remark?.({ pass: pass.name, kind, at, why });
    current = pass.run(before, { remark: note, mayRewrite, masks });
    if (current !== before) {
      verified(current, pass);
      validator?.check(current, pass.name);
    }
    observe?.(pass, current);
  }
  return current;
}

function verified(graph: Graph, pass: Pass): void {
  try {
    verifyGraph(graph);
  } catch (error) {
    if (!(error instanceof CompileError)) throw error;
    throw error.with({ message: `after pass ${pass.name}: ${error.diagnostic.message}` });
  }
}

/** A value as people know it: its name, or its op. */
export const describe = (value: Value): string => (value.name === undefined ? value.op.name : `%${value.name}`);
