/** Random programs over tokens: rows are mixed by attention, chosen, moved, summed; some of the result is looked at. */
import { type Graph, graph, typeOf, type Value } from '../../ir/graph.ts';
import { type Nd, nd } from '../../ir/nd.ts';
import { attention, coords } from '../../ir/ops/attention.ts';
import * as e from '../../ir/ops/elementwise.ts';
import { seeded } from '../../ir/ops/example.ts';
import { gatherNd } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { layerNorm, softmax } from '../../ir/ops/norm.ts';
import { cumsum, topK } from '../../ir/ops/order.ts';
import { reduceMean, reduceSum } from '../../ir/ops/reduce.ts';
import { restore } from '../../ir/ops/rows.ts';
import { concat, expand, iota, pad, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { constant, input, param, project, scalar } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import '../../ir/ops/all.ts';

/** Decisions of one graph, taken from a list of numbers that fast-check shrinks. */
export class Dice {
  readonly #rolls: readonly number[];
  #next = 0;
  constructor(rolls: readonly number[]) {
    this.#rolls = rolls;
  }
  get done(): boolean {
    return this.#next >= this.#rolls.length;
  }
  below(n: number): number {
    return (this.#rolls[this.#next++] ?? 0) % n;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

export const ENTRIES = 2;
export const TOKENS = 6;
const WIDTH = 4;
const NAMED = 3;

/** What all programs read: tokens, noise that orders them, masks, lengths, positions. */
interface Given {
  readonly tokens: Value;
  readonly noise: Value;
  readonly mask: Value;
  readonly lengths: Value;
  readonly named: Value;
}

const given = (): Given => ({
  tokens: input([], { name: 'tokens', dtype: 'f32', shape: [ENTRIES, TOKENS, WIDTH] }, { name: 'tokens' }),
  noise: input([], { name: 'noise', dtype: 'f32', shape: [ENTRIES, TOKENS] }, { name: 'noise' }),
  mask: input([], { name: 'mask', dtype: 'bool', shape: [ENTRIES, TOKENS] }, { name: 'mask' }),
  lengths: input([], { name: 'lengths', dtype: 'i32', shape: [ENTRIES, 1] }, { name: 'lengths' }),
  named: input([], { name: 'named', dtype: 'i64', shape: [ENTRIES, NAMED, 1] }, { name: 'named' }),
});

const rowsOf = (v: Value): number => typeOf(v).shape[1] as number;
const wide = (condition: Value): Value => reshape([condition], { shape: [...typeOf(condition).shape, 1] });

/** bool [B, n]: a condition on rows. */
function condition(d: Dice, { noise, mask, lengths }: Given, n: number): Value {
  const numbers = iota([], { axis: 1, shape: [1, n], dtype: 'i32' });
  const all = (c: Value): Value => expand([c], { shape: [ENTRIES, n] });
  const kind = d.below(8);
  if (kind === 0) return all(e.less([numbers, scalar(d.below(n + 1), 'i32')]));
  if (kind === 1)
    return all(
      constant([], {
        value: nd(
          'bool',
          [1, n],
          Array.from({ length: n }, () => d.below(2)),
        ),
      }),
    );
  if (kind === 2) return e.less([numbers, lengths]);
  if (kind === 3) return e.equal([numbers, lengths]);
  const own = (() => {
    if (kind === 4) return mask;
    const first = project(topK([noise], { k: TOKENS, largest: false }), 1);
    const place = kind === 5 ? first : project(topK([first], { k: TOKENS, largest: false }), 1);
    const few = e.less([place, scalar(1 + d.below(TOKENS - 1), 'i64')]);
    return d.below(2) ? few : e.not([few]);
  })();
  if (n <= TOKENS) return sliceAxis(own, 1, 0, n);
  const ahead = constant([], { value: nd('bool', [ENTRIES, n - TOKENS], Array(ENTRIES * (n - TOKENS)).fill(1)) });
  return concat([ahead, own], { axis: 1 });
}

/** A mask over queries and keys, and the operand that it loads from. */
function maskOf(d: Dice, keep: Value): s.Num | undefined {
  const { b, q, k } = coords;
  const key = s.operand(3, 'bool', [b, k]);
  const query = s.operand(3, 'bool', [b, q]);
  const size = rowsOf(keep);
  switch (d.below(8)) {
    case 0:
      return undefined;
    case 1:
    case 2:
      return key;
    case 3:
      return s.le(k, q);
    case 4:
      return s.and(s.le(k, q), key);
    case 5:
      return s.and(s.le(s.sub(q, k), 1), s.le(s.sub(k, q), d.below(2)));
    case 6:
      return s.or(key, s.eq(q, k));
    default:
      return s.and(query, s.lt(k, Math.max(1, size - 1)));
  }
}

type Step = (d: Dice, pool: readonly Value[], has: Given) => Value | undefined;
let weights = 0;
const weight = (): Value => param([], { name: `w${weights++ % 4}`, dtype: 'f32', shape: [WIDTH, WIDTH] });
const token = (d: Dice): Value => param([], { name: `t${d.below(2)}`, dtype: 'f32', shape: [1, 1, WIDTH] });

const linear: Step = (d, pool) => matmul([d.pick(pool), weight()]);
const alike = (d: Dice, pool: readonly Value[]): [Value, Value] => {
  const a = d.pick(pool);
  return [a, d.pick(pool.filter((v) => rowsOf(v) === rowsOf(a)))];
};

const STEPS: readonly Step[] = [
  linear,
  linear,
  (d, pool) => e.tanh([d.pick(pool)]),
  (d, pool) =>
    layerNorm([
      d.pick(pool),
      param([], { name: 'g', dtype: 'f32', shape: [WIDTH] }),
      param([], { name: 'h', dtype: 'f32', shape: [WIDTH] }),
    ]),
  (d, pool) => e.add(alike(d, pool)),
  (d, pool) => e.add(alike(d, pool)),
  (d, pool, has) => {
    const [a, b] = alike(d, pool);
    const c = wide(condition(d, has, rowsOf(a)));
    const other = d.below(2) ? token(d) : b;
    return d.below(2) ? e.select([c, a, other]) : e.select([c, other, a]);
  },
  (d, pool, has) => {
    const [q, k] = alike(d, pool);
    const v = d.pick(pool.filter((x) => rowsOf(x) === rowsOf(k)));
    const keep = condition(d, has, rowsOf(q));
    const mask = maskOf(d, keep);
    const shape = [ENTRIES, 1, rowsOf(q), WIDTH];
    const heads = [q, k, v].map((x) => reshape([x], { shape }));
    const emptyRow = d.pick(['zero', 'nan', 'uniform', 'unmasked'] as const);
    // NaN would reach everything that is mixed with it, and tell nothing apart.
    const row = emptyRow === 'nan' ? 'zero' : emptyRow;
    const out = attention([...heads, keep], { ...(mask === undefined ? {} : { mask: s.index(mask) }), emptyRow: row });
    return reshape([out], { shape: typeOf(q).shape });
  },
  (d, pool, has) => {
    const x = d.pick(pool);
    return e.mul([x, e.cast([wide(condition(d, has, rowsOf(x)))], { to: 'f32' })]);
  },
  (d, pool) => {
    const x = d.pick(pool);
    const from = d.below(rowsOf(x));
    return sliceAxis(x, 1, from, from + 1 + d.below(rowsOf(x) - from));
  },
  (d, pool) => {
    const x = d.pick(pool);
    const y = d.pick(pool);
    return rowsOf(x) + rowsOf(y) <= TOKENS + 2 ? concat([x, y], { axis: 1 }) : undefined;
  },
  (d, pool, has) => (rowsOf(pool.at(-1)!) >= 4 ? gatherNd([pool.at(-1)!, has.named], { batchDims: 1 }) : d.pick(pool)),
  (d, pool) => (d.below(2) ? cumsum([d.pick(pool)], { axis: 1, reverse: d.below(2) === 1 }) : undefined),
  (d, pool) => (d.below(3) ? undefined : softmax([d.pick(pool)], { axis: 1 })),
  (d, pool) => {
    const x = d.pick(pool);
    return rowsOf(x) < TOKENS ? pad([x], { before: [0, 1, 0], after: [0, 0, 0] }) : undefined;
  },
  (d, pool) => {
    const x = d.pick(pool);
    const ids = iota([], { axis: 0, shape: [rowsOf(x)], dtype: 'i32' });
    return rowsOf(x) < TOKENS ? restore([x, ids, token(d)], { axis: 1, size: TOKENS }) : undefined;
  },
  (d, pool) => {
    const x = d.pick(pool);
    return transpose([matmul([transpose([x], { perm: [0, 2, 1] }), weightOf(rowsOf(x))])], { perm: [0, 2, 1] });
  },
];
const weightOf = (n: number): Value => param([], { name: `m${n}`, dtype: 'f32', shape: [n, n] });

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

/** A program from decisions: what is looked at first, so that short lists decide it too. */
export function tokenGraph(rolls: readonly number[]): Graph {
  const [looks, second, chosen, ...rest] = rolls as [number, number, number, ...number[]];
  const look = new Dice([looks % 7 === 0 ? 0 : looks, chosen, chosen >> 3, chosen >> 6]);
  const d = new Dice(rest);
  const has = given();
  weights = 0;
  const pool: Value[] = [has.tokens];
  while (!d.done) {
    const made = d.pick(STEPS)(d, pool.slice(-5), has);
    if (made) pool.push(made);
  }
  const outputs = [looked(look, pool.at(-1)!, has)];
  if (second % 4 === 0) outputs.push(looked(new Dice([second >> 2, chosen >> 1]), pool[second % pool.length]!, has));
  return graph(
    'tokens',
    Object.values(has),
    outputs.map((v, i) => [`o${i}`, v] as const),
  );
}

/** Operands of a program: the same for equal seeds. */
export function tokenInputs(seed: number): Record<string, Nd> {
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
    tokens: floats([ENTRIES, TOKENS, WIDTH]),
    noise: floats([ENTRIES, TOKENS]),
    mask: nd(
      'bool',
      [ENTRIES, TOKENS],
      fill([ENTRIES, TOKENS], () => Math.floor(next() * 2)),
    ),
    lengths: nd(
      'i32',
      [ENTRIES, 1],
      fill([ENTRIES], () => Math.floor(next() * (TOKENS + 1))),
    ),
    named: nd(
      'i64',
      [ENTRIES, NAMED, 1],
      fill([ENTRIES, NAMED], () => Math.floor(next() * 8) - 4),
    ),
  };
}

/** Parameters of a program. */
export function tokenParam(name: string, shape: readonly number[]): Nd {
  const next = seeded([...name].reduce((hash, c) => Math.imul(hash, 31) + c.charCodeAt(0), 7));
  return nd(
    'f32',
    shape,
    Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => next() * 2 - 1),
  );
}
