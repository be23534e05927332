/** Running sums along an axis: a workgroup scans each long line, block after block. */
import { typeOf } from '../../../ir/graph.ts';
import { normalizeAxis } from '../../../ir/ops/check.ts';
import { cast, sub } from '../../../ir/scalar.ts';
import type { Stage } from '../../region.ts';
import { operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { scheduleCumulative } from '../cumulative.ts';
import { wide } from '../fold.ts';
import { longLines, scanLine } from './lines.ts';

export function scheduleCumulativeGpu(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape, dtype } = typeOf(root);
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  const work = wide(dtype);
  return longLines(cx, shape, axis, scheduleCumulative, (block, line) => {
    const place = (n: typeof line.size): typeof line.size =>
      root.attrs.reverse === true ? sub(sub(line.size, 1), n) : n;
    scanLine(
      block,
      line,
      work,
      (n) => cast(operandAt(cx, 0, line.at(place(n))), work),
      (n, { before, after }, body) =>
        storeResult(cx, body, line.at(place(n)), cast(root.attrs.exclusive === true ? before : after, dtype)),
    );
  });
}
