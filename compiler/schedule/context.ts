/** What every schedule works with: its region, buffers for values, the target, and the way results are stored. */
import { sizeOf } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { type Buffer, exprNodes, type Lanes, type Sym } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { type Block, eachStmt, stmtExprs } from '../../ir/kernel.ts';
import { add, extract } from '../../ir/scalar.ts';
import type { Dim, Shape } from '../../ir/type.ts';
import { applyEpilogue, elementOf, flatten, packLanes, type Sources } from '../access.ts';
import type { Region, RegionBuffers, Stage } from '../region.ts';
import type { Target } from '../target.ts';

export interface ScheduleContext {
  readonly region: Region;
  readonly target: Target;
  readonly buffers: RegionBuffers;
}

export type Schedule = (cx: ScheduleContext) => readonly Stage[];

/** Loads of materialised values; everything else expands. */
export const sourcesOf = ({ buffers }: ScheduleContext): Sources => ({
  bufferOf: (v) => (buffers.isMaterialised(v) ? buffers.input(v) : undefined),
  addressOf: (v, at) => buffers.addressOf(v, at),
});

/** The root's own operand `n` at the given coordinates. */
export const operandAt = (cx: ScheduleContext, n: number, at: readonly Expr[]): Expr =>
  elementOf(cx.region.root.inputs[n]!, at, sourcesOf(cx));

/** `lanes` neighbours along the last axis, starting at `at`, as one vector (or one scalar). */
export function neighbours(at: readonly Expr[], lanes: Lanes, element: (at: readonly Expr[]) => Expr): Expr {
  if (lanes === 1) return element(at);
  const axis = at.length - 1;
  return packLanes(Array.from({ length: lanes }, (_, j) => element(at.map((e, i) => (i === axis ? add(e, j) : e)))));
}

/**
 * Stores `value.lanes` neighbouring elements of the root's result, after the epilogue.
 * @param at coordinates of the first one in the root's shape
 */
export function storeResult(
  cx: ScheduleContext,
  block: Block,
  at: readonly Expr[],
  value: Expr,
  output: Value = cx.region.outputs[0]!,
): void {
  const { root, epilogue } = cx.region;
  const sources = sourcesOf(cx);
  const held = epilogue.length > 0 && value.op !== 'var' ? block.let('r', value) : value;
  const axis = at.length - 1;
  const lane = (j: number): { at: readonly Expr[]; element: Expr } =>
    applyEpilogue(
      root,
      epilogue,
      j === 0 ? at : at.map((e, i) => (i === axis ? add(e, j) : e)),
      value.lanes === 1 ? held : extract(held, j),
      sources,
    );
  const lanes = Array.from({ length: value.lanes }, (_, j) => lane(j));
  const shape: Shape = typeOf(output).shape;
  const buffer = cx.buffers.output(output);
  // No register holds four elements of 64 bits, which an epilogue may give.
  if (value.lanes === 1 || sizeOf(buffer.dtype) === 8)
    for (const { at: place, element } of lanes) block.store(buffer, flatten(shape, place), element);
  else block.store(buffer, flatten(shape, lanes[0]!.at), packLanes(lanes.map((l) => l.element)));
}

/** One launch of the statements in `block`: its buffers and symbols are those that the statements mention. */
export function makeStage(
  cx: ScheduleContext,
  block: Block,
  extent: { readonly grid: Expr; readonly work: Expr; readonly macs?: Dim },
): Stage {
  const used = new Set<Buffer>();
  const params = new Set<Expr>();
  const visit = (root: Expr): void => {
    for (const e of exprNodes(root)) {
      if (e.op === 'load') used.add(e.arg as Buffer);
      if (e.op === 'sym') params.add(e);
    }
  };
  eachStmt(block.stmts, (s) => {
    if (s.kind === 'store') used.add(s.to);
    if (s.kind === 'touch') used.add(s.from);
    stmtExprs(s).forEach(visit);
  });
  // By name, so that every variant of a target passes its arguments in the same order.
  const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  const global = [...used].filter((b) => b.space === 'global').sort(byName);
  const scratch = [...used].filter((b) => b.space !== 'global');
  return {
    kernel: {
      kind: 'kernel',
      name: cx.region.name,
      buffers: [...global, ...scratch],
      params: [...params].sort((a, b) => byName(a.arg as Sym, b.arg as Sym)),
      body: block.stmts,
    },
    bindings: global.map((b) => cx.buffers.bindingOf(b)),
    grid: extent.grid,
    work: extent.work,
    macs: extent.macs ?? 0,
  };
}
