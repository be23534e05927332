/**
 * Updates at positions given as data: a copy of the operand, then one invocation for each element of each update. The first
 * update of a place makes all updates of it, in their order, so that the result does not depend on who runs first; the
 * others of the same place do nothing.
 */
import type { Buffer, Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { Block } from '../../../ir/kernel.ts';
import { normalizeAxis } from '../../../ir/ops/check.ts';
import { and, bool, eq, literal, load, mul, not, or } from '../../../ir/scalar.ts';
import { boundsOf } from '../../../ir/simplify.ts';
import { dim, elements, type Shape } from '../../../ir/type.ts';
import { flatten, unflatten } from '../../access.ts';
import { gpuOf } from '../../gpu-target.ts';
import type { Stage } from '../../region.ts';
import { makeStage, operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { combined, position, scheduleScatter, within } from '../scatter.ts';
import { GROUP, invocations, onePerInvocation } from './invocations.ts';
import { usualSize } from './small.ts';

/** Updates that may look at each other: with more, walking them in order is less work. */
const MOST = 2 ** 16;

/** Updates that may meet: those of one line along an axis, or all of them, at every element of a slice. */
interface Updates {
  /** Lines or elements of a slice, which have nothing to do with each other. */
  readonly apart: Shape;
  /** Updates of each of them, in order. */
  readonly meet: Shape;
  /** Where an update goes, as a flat place and whether it exists. */
  place(block: Block, apart: readonly Expr[], meet: readonly Expr[]): { readonly flat: Expr; readonly exists: Expr };
  value(apart: readonly Expr[], meet: readonly Expr[]): Expr;
}

export function scheduleScatterGpu(cx: ScheduleContext): readonly Stage[] {
  const { root, epilogue, outputs } = cx.region;
  const { dtype, shape } = typeOf(root);
  const updates = root.op.name === 'scatter_elements' ? elementsOf(cx) : slicesOf(cx);
  const many = usualSize(dim(elements(updates.apart))) >= gpuOf(cx.target).workgroups * GROUP;
  const count = boundsOf(elements(updates.meet))[1];
  // With a device full of lines, or too many updates to compare, each line is walked by itself.
  if (count > MOST || (many && count > 1 && root.op.name === 'scatter_elements'))
    return onePerInvocation(scheduleScatter)(cx);
  const finished = epilogue.length === 0;
  const target = finished ? cx.buffers.output(outputs[0]!) : cx.buffers.temp('scattered', dtype, elements(shape));
  return [copyOperand(cx, target), update(cx, updates, target), ...(finished ? [] : [finish(cx, target)])];
}

function elementsOf(cx: ScheduleContext): Updates {
  const { root } = cx.region;
  const { shape } = typeOf(root);
  const indices = typeOf(root.inputs[1]!).shape;
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  const at = (line: readonly Expr[], meet: readonly Expr[]): readonly Expr[] => line.toSpliced(axis, 0, ...meet);
  return {
    apart: indices.filter((_, i) => i !== axis),
    meet: [indices[axis]!],
    place(block, line, meet) {
      const to = at(line, meet).with(axis, block.let('to', position(operandAt(cx, 1, at(line, meet)), shape[axis]!)));
      const exists = to.map((c, i) => within(c, shape[i]!)).reduce(and, bool(true));
      return { flat: block.let('flat', flatten(shape, to)), exists };
    },
    value: (line, meet) => operandAt(cx, 2, at(line, meet)),
  };
}

function slicesOf(cx: ScheduleContext): Updates {
  const { root } = cx.region;
  const { shape } = typeOf(root);
  const indices = typeOf(root.inputs[1]!).shape;
  const depth = Number(indices.at(-1)!);
  const slice = shape.slice(depth);
  return {
    apart: slice,
    meet: indices.slice(0, -1),
    place(block, element, tuple) {
      const to = Array.from({ length: depth }, (_, i) =>
        block.let(`to${i}`, position(operandAt(cx, 1, [...tuple, literal(i)]), shape[i]!)),
      );
      const exists = to.map((c, i) => within(c, shape[i]!)).reduce(and, bool(true));
      return { flat: block.let('flat', flatten(shape, [...to, ...element])), exists };
    },
    value: (element, tuple) => operandAt(cx, 2, [...tuple, ...element]),
  };
}

function update(cx: ScheduleContext, { apart, meet, place, value }: Updates, target: Buffer): Stage {
  const count = elements(meet);
  const units: Shape = [count, ...apart];
  const block = new Block();
  const grid = invocations(block, elements(units), (unit, body) => {
    const [n, ...own] = nameCoordinates(body, units, unit) as [Expr, ...Expr[]];
    const mine = place(body, own, nameCoordinates(body, meet, n));
    const taken = body.var('taken', bool(false));
    const each = (
      inner: Block,
      from: Expr,
      to: Expr,
      visit: (at: readonly Expr[], same: Expr, turn: Block) => void,
    ): void =>
      inner.for('m', from, to, (m, turn) => {
        const at = nameCoordinates(turn, meet, m);
        const other = place(turn, own, at);
        visit(at, turn.let('same', and(other.exists, eq(other.flat, mine.flat))), turn);
      });
    body.if(mine.exists, (some) => {
      each(some, literal(0), n, (_, same, turn) => turn.set(taken, or(taken, same)));
      some.if(not(taken), (first) => {
        const made = first.var('made', load(target, mine.flat));
        each(first, n, count, (at, same, turn) =>
          turn.if(same, (here) => here.set(made, combined(cx, made, value(own, at)))),
        );
        first.store(target, mine.flat, made);
      });
    });
  });
  return makeStage(cx, block, { grid, work: mul(count, GROUP) });
}

/** One invocation for each element of the result. */
function everywhere(cx: ScheduleContext, visit: (i: Expr, block: Block) => void): Stage {
  const block = new Block();
  const grid = invocations(block, elements(typeOf(cx.region.root).shape), visit);
  return makeStage(cx, block, { grid, work: literal(GROUP) });
}

function copyOperand(cx: ScheduleContext, target: Buffer): Stage {
  const { shape } = typeOf(cx.region.root);
  return everywhere(cx, (i, body) => body.store(target, i, operandAt(cx, 0, unflatten(shape, i))));
}

/** Stores the finished result, after the epilogue. */
function finish(cx: ScheduleContext, target: Buffer): Stage {
  const { shape } = typeOf(cx.region.root);
  return everywhere(cx, (i, body) => storeResult(cx, body, nameCoordinates(body, shape, i), load(target, i)));
}
