/** What a bounded loop computes besides its body: whether the next trip runs, and zeros for trips that never do. */
import { typeOf, type Value } from '../../ir/graph.ts';
import { Block } from '../../ir/kernel.ts';
import { add, and, cast, literal, load, lt, symbol, zero } from '../../ir/scalar.ts';
import { elements } from '../../ir/type.ts';
import type { Stage } from '../region.ts';
import { makeStage, type ScheduleContext } from './context.ts';

const LONGEST = 2 ** 31 - 1;

/**
 * First the head of a trip (its one parameter is the trip number): reads `condition` and the trip count, writes the
 * trip number for the body and whether it runs. Then one stage for each stack that somebody reads.
 */
export function scheduleLoop(cx: ScheduleContext): readonly Stage[] {
  const { root, outputs } = cx.region;
  const trips = cx.buffers.input(root.inputs[0]!);
  const [condition, alive] = ['condition', 'alive'].map((name) => cx.buffers.temp(name, 'bool', literal(1)));
  const trip = cx.buffers.temp('trip', 'i64', literal(1));
  const number = symbol('trip', { min: 0, max: LONGEST });
  const block = new Block();
  block.for(
    'u',
    0,
    1,
    (u, body) => {
      body.store(trip, u, cast(number, 'i64'));
      body.store(alive!, u, and(load(condition!, u), lt(cast(number, 'i64'), load(trips, u))));
    },
    { bind: 'grid.x' },
  );
  const stacks = outputs.filter((v) => resultIndex(v) >= Number(root.attrs.carried));
  return [makeStage(cx, block, { grid: literal(1), work: literal(1) }), ...stacks.map((v) => zeros(cx, v))];
}

const resultIndex = (v: Value): number => (v.op.name === 'get' ? Number(v.attrs.index) : 0);

function zeros(cx: ScheduleContext, v: Value): Stage {
  const { dtype, shape } = typeOf(v);
  const to = cx.buffers.output(v);
  const grid = elements(shape);
  const block = new Block();
  block.for('u', 0, grid, (u, body) => body.store(to, add(u, 0), zero(dtype)), { bind: 'grid.x' });
  return makeStage(cx, block, { grid, work: literal(16) });
}
