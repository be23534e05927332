/** Positions of extrema: a workgroup searches each long line, and joins what its invocations found as a tree. */
import type { Expr } from '../../../ir/expr.ts';
import { typeOf } from '../../../ir/graph.ts';
import { buffer } from '../../../ir/kernel.ts';
import { normalizeAxis } from '../../../ir/ops/check.ts';
import { add, and, cast, eq, literal, load, lt, min, not, or, select, shr, sub } from '../../../ir/scalar.ts';
import type { Stage } from '../../region.ts';
import { beats, scheduleArgReduce } from '../arg-reduce.ts';
import { operandAt, type ScheduleContext, storeResult } from '../context.ts';
import { wide } from '../fold.ts';
import { longLines } from './lines.ts';

export function scheduleArgReduceGpu(cx: ScheduleContext): readonly Stage[] {
  const { root } = cx.region;
  const operand = typeOf(root.inputs[0]!);
  const axis = normalizeAxis(Number(root.attrs.axis), operand.shape.length);
  const work = operand.dtype === 'bool' ? 'i32' : wide(operand.dtype);
  const last = root.attrs.last === true;
  const largest = root.op.name === 'arg_max';
  return longLines(cx, operand.shape, axis, scheduleArgReduce, (block, line) => {
    const { t, group, size } = line;
    const x = (n: Expr): Expr => cast(operandAt(cx, 0, line.at(n)), work);
    const end = sub(size, 1);
    // Those without an element of their own have the last one too, which changes nothing.
    const position = block.var('position', min(t, end));
    const best = block.var('best', x(position));
    block.for(
      'n',
      add(t, group),
      size,
      (n, body) => {
        const v = body.let('v', x(n));
        const better = body.let('better', last ? not(beats(best, v, largest)) : beats(v, best, largest));
        body.set(best, select(better, v, best));
        body.set(position, select(better, n, position));
      },
      { step: group },
    );
    const [values, places] = [buffer('values', work, group, SHARED), buffer('places', 'i32', group, SHARED)];
    block.store(values, t, best);
    block.store(places, t, position);
    block.barrier();
    block.for('s', 0, Math.log2(group), (s, body) => {
      const half = body.let('half', shr(literal(group / 2), s));
      body.if(lt(t, half), (some) => {
        const [v, n] = [some.let('v', load(values, add(t, half))), some.let('n', load(places, add(t, half)))];
        const nearer = last ? lt(position, n) : lt(n, position);
        const ties = and(not(beats(best, v, largest)), nearer);
        const better = some.let('better', or(beats(v, best, largest), ties));
        some.set(best, select(better, v, best));
        some.set(position, select(better, n, position));
        some.store(values, t, best);
        some.store(places, t, position);
      });
      body.barrier();
    });
    block.if(eq(t, 0), (one) => {
      const to = root.attrs.keepdims === true ? line.at(literal(0)) : line.outer;
      storeResult(cx, one, to, cast(position, typeOf(root).dtype));
    });
  });
}

const SHARED = { space: 'shared', access: 'readwrite' } as const;
