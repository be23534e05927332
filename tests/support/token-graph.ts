/** Random programs over tokens: rows are mixed by attention, chosen, moved, summed; some of the result is looked at. */
import { type Graph, graph, type Value } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import * as e from '../../ir/ops/elementwise.ts';
import { seeded } from '../../ir/ops/example.ts';
import { gatherNd } from '../../ir/ops/index.ts';
import { reduceMean, reduceSum } from '../../ir/ops/reduce.ts';
import { sliceAxis } from '../../ir/ops/shape.ts';
import { input, scalar } from '../../ir/ops/structural.ts';
import { type Params, Replay } from './replay.ts';
import {
  CHANNELS,
  condition,
  Dice,
  ENTRIES,
  type Given,
  GRID,
  MEMORY,
  NAMED,
  rowsOf,
  STEPS,
  WIDTH,
  wide,
} from './token-steps.ts';

const port = (name: string, dtype: Nd['dtype'], ...shape: number[]): Value =>
  input([], { name, dtype, shape }, { name });
const given = (count: number): Given => ({
  count,
  tokens: port('tokens', 'f32', ENTRIES, count, WIDTH),
  memory: port('memory', 'f32', ENTRIES, MEMORY, WIDTH),
  pixels: port('pixels', 'f32', ENTRIES, CHANNELS, 2 * GRID[0], 2 * GRID[1]),
  noise: port('noise', 'f32', ENTRIES, count),
  mask: port('mask', 'bool', ENTRIES, count),
  lengths: port('lengths', 'i32', ENTRIES, 1),
  named: port('named', 'i64', ENTRIES, NAMED, 1),
});

/** What somebody looks at. */
function looked(d: Dice, x: Value, has: Given): Value {
  const n = rowsOf(x);
  switch (d.below(8)) {
    case 0:
      return x;
    case 1:
      return sliceAxis(x, 1, 0, 1);
    case 2:
      return sliceAxis(x, 1, n - 1, n);
    case 3:
    case 4:
      return e.select([wide(condition(d, has, n)), x, scalar(0)]);
    case 5: {
      const weighed = e.mul([x, e.cast([wide(condition(d, has, n))], { to: 'f32' })]);
      return reduceSum([weighed], { axes: [1] });
    }
    case 6:
      return n >= 4 ? gatherNd([x, has.named], { batchDims: 1 }) : x;
    default:
      return reduceMean([sliceAxis(x, 1, 0, 1 + d.below(n))], { axes: [1] });
  }
}

/** Rows of the tokens of a program: the first decision. */
const tokensOf = ([sizes = 0]: readonly number[]): number => 2 + (sizes % 5);

/** A program from decisions: its size and what is looked at first, so that short lists decide it too. */
export function tokenGraph(rolls: readonly number[]): Graph {
  const [, looks = 0, second = 0, chosen = 0, ...rest] = rolls;
  const look = new Dice([looks % 7 === 0 ? 0 : looks, chosen, chosen >> 3, chosen >> 6]);
  const d = new Dice(rest);
  const has = given(tokensOf(rolls));
  const pool: Value[] = [has.tokens];
  const steps = Object.values(STEPS);
  while (!d.done) {
    const made = d.pick(steps)(d, pool.slice(-5), has);
    if (made) pool.push(made);
  }
  const outputs = [looked(look, pool.at(-1)!, has)];
  if (second % 4 === 0) outputs.push(looked(new Dice([second >> 2, chosen >> 1]), pool[second % pool.length]!, has));
  return graph(
    'tokens',
    Object.values(has).filter((v) => typeof v !== 'number'),
    outputs.map((v, i) => [`o${i}`, v] as const),
  );
}

/** Operands of a program: the same for equal seeds and sizes. */
export function tokenInputs(rolls: readonly number[], seed: number): Record<string, Nd> {
  const count = tokensOf(rolls);
  const next = seeded(seed);
  const fill = (shape: readonly number[], f: () => number): number[] =>
    Array.from({ length: shape.reduce((n, d) => n * d, 1) }, f);
  const floats = (shape: readonly number[]): Nd =>
    nd(
      'f32',
      shape,
      fill(shape, () => next() * 2 - 1),
    );
  return {
    tokens: floats([ENTRIES, count, WIDTH]),
    memory: floats([ENTRIES, MEMORY, WIDTH]),
    pixels: floats([ENTRIES, CHANNELS, 2 * GRID[0], 2 * GRID[1]]),
    noise: floats([ENTRIES, count]),
    mask: nd(
      'bool',
      [ENTRIES, count],
      fill([ENTRIES, count], () => Math.floor(next() * 2)),
    ),
    lengths: nd(
      'i32',
      [ENTRIES, 1],
      fill([ENTRIES], () => Math.floor(next() * (count + 1))),
    ),
    named: nd(
      'i64',
      [ENTRIES, NAMED, 1],
      fill([ENTRIES, NAMED], () => Math.floor(next() * 8) - 4),
    ),
  };
}

/** Parameters of a program. */
function tokenParam(name: string, shape: readonly number[]): Nd {
  const next = seeded([...name].reduce((hash, c) => Math.imul(hash, 31) + c.charCodeAt(0), 7));
  return nd(
    'f32',
    shape,
    Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => next() * 2 - 1),
  );
}

/** Decisions for one program of the stream that a seed starts. */
export function rollsOf(seed: number): readonly number[] {
  const next = seeded(seed * 7919 + 13);
  return Array.from({ length: 8 + Math.floor(next() * 50) }, () => Math.floor(next() * 65536));
}

/** A program, run on the operands of a seed. */
export const ranProgram = (rolls: readonly number[], seed: number): Replay =>
  new Replay(tokenGraph(rolls), tokenInputs(rolls, seed), tokenParams);
/** Parameters of any program. */
export const tokenParams: Params = (name, { shape }) => tokenParam(name, shape as readonly number[]);
/** The program of a seed, run. */
export const program = (seed: number): Replay => ranProgram(rollsOf(seed), seed);
