/** Every result element on its own: four neighbours an invocation where they are one vector in memory, else one. */
import { type Expr, exprNodes } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { Block } from '../../../ir/kernel.ts';
import { add, floordiv, floormod, literal, mul, variable } from '../../../ir/scalar.ts';
import { elements, type Shape } from '../../../ir/type.ts';
import { elementOf, fillsLanes, packLanes, unflatten } from '../../access.ts';
import type { Stage } from '../../region.ts';
import { makeStage, type ScheduleContext, sourcesOf } from '../context.ts';
import { nameCoordinates } from '../element.ts';
import { GROUP, invocations } from './invocations.ts';

export function scheduleElementGpu(cx: ScheduleContext): readonly Stage[] {
  const { root, outputs } = cx.region;
  const output = cx.buffers.output(outputs[0]!);
  const { shape, dtype } = typeOf(outputs[0]!);
  const element = (at: readonly Expr[]): Expr => elementOf(root, at, sourcesOf(cx));
  const total = elements(shape);
  const block = new Block();
  const last = shape.at(-1);
  const wide = fillsLanes(dtype) && last !== undefined;
  if (wide && floormod(total, 4) === literal(0)) {
    // Flat where no coordinate is needed, along the last axis where that is whole vectors.
    const flat = (q: Expr): Expr => packLanes([0, 1, 2, 3].map((j) => element(unflatten(shape, add(mul(q, 4), j)))));
    const quads = floordiv(total, 4);
    const probe = flat(variable('q', 'i32', 1, { from: 0, to: quads }));
    if (isVector(probe) && !takesApart(probe)) {
      const groups = invocations(block, quads, (q, body) => body.store(output, mul(q, 4), flat(q)));
      return [makeStage(cx, block, { grid: groups, work: literal(GROUP * 4) })];
    }
    if (floormod(last, 4) === literal(0)) {
      const outer: Shape = [...shape.slice(0, -1), floordiv(last, 4)];
      const along = (at: readonly Expr[]): Expr =>
        packLanes([0, 1, 2, 3].map((j) => element([...at.slice(0, -1), add(mul(at.at(-1)!, 4), j)])));
      const names = outer.map((d, i) => variable(`c${i}`, 'i32', 1, { from: 0, to: d }));
      if (isVector(along(names))) {
        const groups = invocations(block, quads, (q, body) =>
          body.store(output, mul(q, 4), along(nameCoordinates(body, outer, q))),
        );
        return [makeStage(cx, block, { grid: groups, work: literal(GROUP * 4) })];
      }
    }
  }
  const flat = variable('i', 'i32', 1, { from: 0, to: total });
  const plain = shape.length === 0 || !takesApart(element(unflatten(shape, flat)));
  const groups = invocations(block, total, (i, body) =>
    body.store(output, i, element(plain ? unflatten(shape, i) : nameCoordinates(body, shape, i))),
  );
  return [makeStage(cx, block, { grid: groups, work: literal(GROUP) })];
}

/** No lane is put together from scalars. */
const isVector = (e: Expr): boolean => !exprNodes(e).some((x) => x.op === 'vec');

const takesApart = (e: Expr): boolean =>
  exprNodes(e).some((x) => (x.op === 'floordiv' || x.op === 'floormod') && x.dtype === 'i32' && !isQuarter(x));

/** A division by four of what names a vector. */
const isQuarter = (e: Expr): boolean => e.args[1]!.op === 'const' && e.args[1]!.arg === 4;
