/** Positions of true elements first, in order: a workgroup counts each long line, then scans it. */
import type { Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { add, cast, eq, literal, select, sub } from '../../../ir/scalar.ts';
import type { Stage } from '../../region.ts';
import { operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { resultOf, schedulePositions } from '../positions.ts';
import { longLines, scanLine } from './lines.ts';
import { foldWalk, GroupFold, Walk } from './rows.ts';

export function schedulePositionsGpu(cx: ScheduleContext): readonly Stage[] {
  const { shape } = typeOf(cx.region.root.inputs[0]!);
  const [order, counts] = [resultOf(cx, 0), resultOf(cx, 1)];
  return longLines(cx, shape, shape.length - 1, schedulePositions, (block, line) => {
    const { t, group, size } = line;
    const isTrue = (n: Expr): Expr => cast(operandAt(cx, 0, line.at(n)), 'i32');
    const walk = new Walk(t, group, size, isTrue);
    const sum = { init: 0, dtype: 'i32', step: add } as const;
    const all = foldWalk(block, walk, t, new GroupFold(cx, 'i32', group), sum, (i) => walk.pack(i, isTrue));
    if (counts) block.if(eq(t, 0), (one) => storeResult(cx, one, line.outer, all, counts));
    if (!order) return;
    scanLine(block, line, 'i32', isTrue, (n, { own, before }, body) => {
      const place = body.let('place', select(eq(own, literal(1)), before, add(all, sub(n, before))));
      storeResult(cx, body, line.at(place), n, order);
    });
  });
}
