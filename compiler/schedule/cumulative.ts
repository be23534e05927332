import { typeOf } from '../../ir/graph.ts';
import type { Block } from '../../ir/kernel.ts';
import { normalizeAxis } from '../../ir/ops/check.ts';
import { cast, sub, zero } from '../../ir/scalar.ts';
import { asExpr } from '../../ir/type.ts';
import type { Stage } from '../region.ts';
import { neighbours, operandAt, type ScheduleContext, storeResult } from './context.ts';
import { wide } from './fold.ts';
import { alongAxis, type Line } from './lines.ts';

export function scheduleCumulative(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const { shape, dtype } = typeOf(root);
  const axis = normalizeAxis(Number(root.attrs.axis), shape.length);
  const size = asExpr(shape[axis]!);
  const work = wide(dtype);
  const sums = (block: Block, line: Line): void => {
    const { lanes } = line;
    const sum = block.var('sum', zero(work, lanes));
    block.for('n', 0, size, (n, body) => {
      const at = line.at(root.attrs.reverse === true ? sub(sub(size, 1), n) : n);
      const x = cast(
        neighbours(at, lanes, (to) => operandAt(cx, 0, to)),
        work,
      );
      if (root.attrs.exclusive === true) {
        const named = body.let('x', x);
        storeResult(cx, body, at, cast(sum, dtype));
        body.update('add', sum, named);
      } else {
        body.update('add', sum, x);
        storeResult(cx, body, at, cast(sum, dtype));
      }
    });
  };
  return [alongAxis(cx, shape, axis, sums)];
}
