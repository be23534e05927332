/** What random programs over tokens are made of: one kind of operation a step, each of a class of its own. */
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import { attention, coords } from '../../ir/ops/attention.ts';
import { scan } from '../../ir/ops/control.ts';
import { conv } from '../../ir/ops/conv.ts';
import * as e from '../../ir/ops/elementwise.ts';
import { gather, gatherElements, gatherNd, oneHot, scatterElements, scatterNd } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { groupNorm, layerNorm, softmax } from '../../ir/ops/norm.ts';
import { argMax, cumsum, topK } from '../../ir/ops/order.ts';
import { maxPool } from '../../ir/ops/pool.ts';
import { gru, lstm, rnn } from '../../ir/ops/recurrent.ts';
import { reduceMax, reduceSum } from '../../ir/ops/reduce.ts';
import { compact, restore } from '../../ir/ops/rows.ts';
import { concat, expand, iota, pad, reshape, slice, sliceAxis, split, transpose } from '../../ir/ops/shape.ts';
import { constant, input, param, project, projectAll, scalar } from '../../ir/ops/structural.ts';
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
export const WIDTH = 4;
/** Rows that an index tensor names. */
export const NAMED = 3;
/** Rows of the second class of tokens. */
export const MEMORY = 4;
/** Patches of 2 × 2 pixels. */
export const GRID = [2, 3] as const;
export const CHANNELS = 2;

/** Most rows of any value. */
const MOST_ROWS = 8;

/** What all programs read. */
export interface Given {
  /** Rows of `tokens`, and of what orders and masks them. */
  readonly count: number;
  readonly tokens: Value;
  readonly memory: Value;
  readonly pixels: Value;
  readonly noise: Value;
  readonly mask: Value;
  readonly lengths: Value;
  readonly named: Value;
}

/** Rows of a value [B, N, W]. */
export const rowsOf = (v: Value): number => typeOf(v).shape[1] as number;
export const wide = (condition: Value): Value => reshape([condition], { shape: [...typeOf(condition).shape, 1] });

const orderOf = ({ noise, count }: Given): Value => project(topK([noise], { k: count, largest: false }), 1);

/** bool [B, n]: a condition on rows. */
export function condition(d: Dice, has: Given, n: number): Value {
  const { mask, lengths, count } = has;
  const numbers = iota([], { axis: 1, shape: [1, n], dtype: 'i32' });
  const all = (c: Value): Value => expand([c], { shape: [ENTRIES, n] });
  const kind = d.below(9);
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
  // Padding before the words.
  if (kind === 4) return e.greaterEqual([numbers, lengths]);
  const own = (() => {
    if (kind === 5) return mask;
    const first = orderOf(has);
    const place = kind === 6 ? first : project(topK([first], { k: count, largest: false }), 1);
    const few = e.less([place, scalar(1 + d.below(count - 1), 'i64')]);
    return d.below(2) ? few : e.not([few]);
  })();
  if (n <= count) return sliceAxis(own, 1, 0, n);
  const ahead = constant([], { value: nd('bool', [ENTRIES, n - count], Array(ENTRIES * (n - count)).fill(1)) });
  return concat([ahead, own], { axis: 1 });
}

/** A mask over queries and keys; `in3` are bits of keys, `in4` bits of queries. */
function maskOf(d: Dice, queries: number, keys: number): s.Num | undefined {
  const { b, h, q, k } = coords;
  const key = s.operand(3, 'bool', [b, k]);
  const query = s.operand(4, 'bool', [b, q]);
  switch (d.below(11)) {
    case 0:
      return undefined;
    case 1:
    case 2:
      return key;
    case 3:
      return s.le(k, s.add(q, keys - queries));
    case 4:
      return s.and(s.le(k, q), key);
    case 5:
      return s.and(s.le(s.sub(q, k), 1), s.le(s.sub(k, q), d.below(2)));
    case 6:
      return s.or(key, s.eq(q, k));
    case 7:
      return s.or(s.eq(h, 0), key);
    case 8:
      return s.eq(s.floordiv(q, 2), s.floordiv(k, 2));
    case 9:
      return s.lt(k, q);
    default:
      return s.and(query, s.lt(k, Math.max(1, keys - 1)));
  }
}

export type Step = (d: Dice, pool: readonly Value[], has: Given) => Value | undefined;

const weight = (d: Dice): Value => param([], { name: `w${d.below(4)}`, dtype: 'f32', shape: [WIDTH, WIDTH] });
const vector = (name: string): Value => param([], { name, dtype: 'f32', shape: [WIDTH] });
const token = (d: Dice): Value => param([], { name: `t${d.below(2)}`, dtype: 'f32', shape: [1, 1, WIDTH] });
const square = (n: number): Value => param([], { name: `m${n}`, dtype: 'f32', shape: [n, n] });

/** Two values of equally many rows. */
const alike = (d: Dice, pool: readonly Value[]): [Value, Value] => {
  const a = d.pick(pool);
  return [a, d.pick(pool.filter((v) => rowsOf(v) === rowsOf(a)))];
};
/** A value of as many rows as there are tokens, if one is at hand. */
const whole = (d: Dice, pool: readonly Value[], { count }: Given): Value | undefined => {
  const list = pool.filter((x) => rowsOf(x) === count);
  return list.length > 0 ? d.pick(list) : undefined;
};
/** A value of fewer rows than there are tokens; the first token where none is at hand. */
const part = (d: Dice, pool: readonly Value[], { tokens, memory, count }: Given): Value =>
  d.pick([...[...pool, memory].filter((x) => rowsOf(x) < count), sliceAxis(tokens, 1, 0, 1)]);
const bits = (c: Value): Value => e.cast([wide(c)], { to: 'f32' });
const turned = (x: Value): Value => transpose([x], { perm: [0, 2, 1] });
const few = (x: Value | undefined): Value | undefined =>
  x && rowsOf(x) >= 1 && rowsOf(x) <= MOST_ROWS ? x : undefined;

const EMPTY = ['zero', 'uniform', 'unmasked', 'zero', 'uniform', 'unmasked', 'nan'] as const;

/** Attention of one head, of two, or of two that share their keys; within a value, or across two. */
const attend: Step = (d, pool, has) => {
  const q = d.pick(pool);
  const k = d.below(3) ? d.pick(pool.filter((x) => rowsOf(x) === rowsOf(q))) : d.pick([...pool, has.memory]);
  const v = d.pick([k, ...pool.filter((x) => rowsOf(x) === rowsOf(k))]);
  const [queries, keys] = [rowsOf(q), rowsOf(k)];
  const mask = maskOf(d, queries, keys);
  const [byKey, byQuery] = [condition(d, has, keys), condition(d, has, queries)];
  const heads = d.pick([1, 1, 2]);
  const shared = heads === 2 && d.below(2) === 1;
  const headed = (x: Value, n: number, count: number): Value =>
    transpose([reshape([x], { shape: [ENTRIES, n, count, (typeOf(x).shape[2]! as number) / count] })], {
      perm: [0, 2, 1, 3],
    });
  const narrow = (x: Value): Value => (shared ? sliceAxis(x, 2, 0, WIDTH / 2) : x);
  const { q: row, k: column } = coords;
  const out = attention(
    [
      headed(q, queries, heads),
      headed(narrow(k), keys, shared ? 1 : heads),
      headed(narrow(v), keys, shared ? 1 : heads),
      byKey,
      byQuery,
    ],
    {
      ...(mask === undefined ? {} : { mask: s.index(mask) }),
      ...(d.below(4) ? {} : { bias: s.mul(s.cast(s.sub(row, column), 'f32'), s.literal(0.3, 'f32')) }),
      emptyRow: d.pick(EMPTY),
    },
  );
  return reshape([transpose([out], { perm: [0, 2, 1, 3] })], { shape: [ENTRIES, queries, WIDTH] });
};

/** A state that goes over the rows, and what it was at each. */
const overTime: Step = (d, pool, has) => {
  const items = transpose([d.pick(pool)], { perm: [1, 0, 2] });
  const shape = [ENTRIES, WIDTH];
  const [state, item] = ['state', 'item'].map((name) => input([], { name, dtype: 'f32', shape }, { name })) as [
    Value,
    Value,
  ];
  const next = e.tanh([e.add([e.mul([state, scalar(0.5)]), item])]);
  const body = graph(
    'step',
    [state, item],
    [
      ['state', next],
      ['item', e.add([next, item])],
    ],
  );
  const start = reshape([sliceAxis(has.memory, 1, 0, 1)], { shape });
  const results = scan([start, items], { body, carried: 1, reverse: d.below(2) === 1 });
  return d.below(3) ? turnedBack(project(results, 1)) : reshape([project(results, 0)], { shape: [ENTRIES, 1, WIDTH] });
};
const turnedBack = (x: Value): Value => transpose([x], { perm: [1, 0, 2] });

/** One entry in place of all. */
const oneEntry = (d: Dice, x: Value): Value => {
  const own = d.below(ENTRIES);
  return expand([sliceAxis(x, 0, own, own + 1)], { shape: typeOf(x).shape });
};

/** The last features, behind features that are the same for all rows. */
const halfOf = (d: Dice, x: Value): Value => {
  const half = [ENTRIES, rowsOf(x), WIDTH / 2];
  const first = expand([sliceAxis(token(d), 2, 0, WIDTH / 2)], { shape: half });
  return concat([first, sliceAxis(x, 2, WIDTH / 2, WIDTH)], { axis: 2 });
};

/** A recurrent layer: what it gives at each row, or its last state. */
const recurrent: Step = (d, pool, has) => {
  const x = d.pick(pool);
  const [layer, gates, states] = d.pick([
    [lstm, 4, 2],
    [gru, 3, 1],
    [rnn, 1, 1],
  ] as const);
  const table = (name: string, ...shape: number[]): Value =>
    param([], { name: `${name}${gates}`, dtype: 'f32', shape }, { name });
  const start = Array.from({ length: states }, () =>
    reshape([sliceAxis(has.memory, 1, 0, 1)], { shape: [ENTRIES, WIDTH] }),
  );
  const lens = rowsOf(x) === has.count && d.below(2) ? [reshape([has.lengths], { shape: [ENTRIES] })] : [];
  const operands = [
    transpose([x], { perm: [1, 0, 2] }),
    table('wx', gates * WIDTH, WIDTH),
    table('wh', gates * WIDTH, WIDTH),
    table('wb', 2 * gates * WIDTH),
    ...start,
    ...lens,
  ];
  const out = layer(operands, { reverse: d.below(2) === 1 });
  if (d.below(2)) return turnedBack(project(out, 0));
  const last = reshape([project(out, 1 + d.below(states))], { shape: [ENTRIES, 1, WIDTH] });
  return d.pick([() => last, () => oneEntry(d, last), () => halfOf(d, last)])();
};

/** An image as tokens: patches without overlap, or windows that overlap. */
const patches: Step = (d, _, { pixels }) => {
  const apart = d.below(2) === 0;
  const size = apart ? 2 : 3;
  const kernel = param([], { name: `conv${size}`, dtype: 'f32', shape: [WIDTH, CHANNELS, size, size] });
  const grid = conv([pixels, kernel, vector('g')], { strides: [2, 2], pads: apart ? [0, 0, 0, 0] : [1, 1, 0, 0] });
  return turned(reshape([grid], { shape: [ENTRIES, WIDTH, GRID[0] * GRID[1]] }));
};

/** Windows of rows: each with its neighbours, or pairs as one. */
const windows: Step = (d, pool) => {
  const x = d.pick(pool);
  if (d.below(2)) {
    const kernel = param([], { name: 'window', dtype: 'f32', shape: [WIDTH, WIDTH, 3] });
    return turned(conv([turned(x), kernel], { pads: [1, 1] }));
  }
  if (rowsOf(x) < 2) return undefined;
  if (d.below(2)) return turned(maxPool([turned(x)], { kernel: [2], strides: [2] }));
  const kernel = param([], { name: 'pair', dtype: 'f32', shape: [WIDTH, WIDTH, 2] });
  return turned(conv([turned(x), kernel], { strides: [2] }));
};

export const STEPS: Readonly<Record<string, Step>> = {
  linear: (d, pool) => matmul([d.pick(pool), weight(d)]),
  'linear again': (d, pool) => matmul([d.pick(pool), weight(d)]),
  tanh: (d, pool) => e.tanh([d.pick(pool)]),
  norm: (d, pool) => {
    const x = d.pick(pool);
    const y = layerNorm([x, vector('g'), vector('h')]);
    return d.below(3) ? y : halfOf(d, y);
  },
  residual: (d, pool) => e.add(alike(d, pool)),
  'residual again': (d, pool) => e.add(alike(d, pool)),
  'one row for all': (d, pool, has) => {
    const x = d.pick(pool);
    const one = d.pick([token(d), ...pool.filter((v) => rowsOf(v) === 1), sliceAxis(has.memory, 1, 0, 1)]);
    return d.below(2) ? e.mul([x, one]) : e.add([one, x]);
  },
  overwrite: (d, pool, has) => {
    const [a, b] = alike(d, pool);
    const c = wide(condition(d, has, rowsOf(a)));
    const other = d.below(2) ? token(d) : b;
    return d.below(2) ? e.select([c, a, other]) : e.select([c, other, a]);
  },
  attend,
  'attend again': attend,
  'put to zero': (d, pool, has) => {
    const x = d.pick(pool);
    return e.mul([x, bits(condition(d, has, rowsOf(x)))]);
  },
  'some in a row': (d, pool) => {
    const x = d.pick(pool);
    const from = d.below(rowsOf(x));
    return sliceAxis(x, 1, from, from + 1 + d.below(rowsOf(x) - from));
  },
  'every second, or backwards': (d, pool) => {
    const x = d.pick(pool);
    const n = rowsOf(x);
    const from = d.below(n);
    return d.below(2)
      ? slice([x], { starts: [0, from, 0], stops: [ENTRIES, n, WIDTH], steps: [1, 2, 1] })
      : slice([x], { starts: [0, n - 1, 0], stops: [ENTRIES, -1, WIDTH], steps: [1, -1, 1] });
  },
  append: (d, pool) => {
    const [x, y] = [d.pick(pool), d.pick(pool)];
    return rowsOf(x) + rowsOf(y) <= MOST_ROWS ? concat([x, y], { axis: 1 }) : undefined;
  },
  'rows that an input names': (d, pool, has) => {
    const x = d.pick(pool);
    return rowsOf(x) >= 4 ? gatherNd([x, has.named], { batchDims: 1 }) : undefined;
  },
  'rows that a constant names': (d, pool) => {
    const x = d.pick(pool);
    const n = rowsOf(x);
    const names = Array.from({ length: 1 + d.below(3) }, () => d.below(2 * n) - n);
    return gather([x, constant([], { value: nd('i64', [names.length], names) })], { axis: 1 });
  },
  'rows in another order': (d, pool, has) => {
    const x = whole(d, pool, has);
    if (!x) return undefined;
    const order = wide(orderOf(has));
    return gatherElements([x, expand([order], { shape: [ENTRIES, has.count, WIDTH] })], { axis: 1 });
  },
  'the first of an order': (d, pool, has) => {
    const x = whole(d, pool, has);
    if (!x) return undefined;
    const count = 1 + d.below(has.count);
    return compact([x, e.cast([sliceAxis(orderOf(has), 1, 0, count)], { to: 'i32' })], { axis: 1 });
  },
  'back to their places': (d, pool, has) => {
    const x = part(d, pool, has);
    const ids = d.below(2)
      ? iota([], { axis: 0, shape: [rowsOf(x)], dtype: 'i32' })
      : e.cast([sliceAxis(orderOf(has), 1, 0, rowsOf(x))], { to: 'i32' });
    const fill = d.pick([token(d), whole(d, pool, has) ?? has.tokens, sliceAxis(has.memory, 1, 0, 1)]);
    return restore([x, ids, fill], { axis: 1, size: has.count });
  },
  'some rows replaced': (d, pool, has) => {
    const [x, y] = [whole(d, pool, has), part(d, pool, has)];
    if (!x) return undefined;
    const ids = wide(sliceAxis(orderOf(has), 1, 0, rowsOf(y)));
    const indices = expand([ids], { shape: [ENTRIES, rowsOf(y), WIDTH] });
    return scatterElements([x, indices, y], { axis: 1, reduction: d.pick(['none', 'none', 'add']) });
  },
  'one entry replaced': (d, pool) => {
    const [x, y] = alike(d, pool);
    const at = constant([], { value: nd('i64', [1, 2], [d.below(ENTRIES), d.below(rowsOf(x))]) });
    return scatterNd([x, at, reshape([sliceAxis(sliceAxis(y, 0, 0, 1), 1, 0, 1)], { shape: [1, WIDTH] })]);
  },
  'one-hot rows': (d, pool, has) => {
    const x = d.pick(pool);
    const hot = oneHot([has.named], { depth: rowsOf(x), dtype: 'f32' });
    return matmul([reshape([hot], { shape: [ENTRIES, NAMED, rowsOf(x)] }), x]);
  },
  'the row of the largest': (d, pool, has) => {
    const x = whole(d, pool, has);
    if (!x) return undefined;
    const row = reshape([argMax([has.noise], { axis: 1 })], { shape: [ENTRIES, 1, 1] });
    return gatherNd([x, row], { batchDims: 1 });
  },
  'running sum': (d, pool) =>
    cumsum([d.pick(pool)], { axis: 1, reverse: d.below(2) === 1, exclusive: d.below(3) === 0 }),
  'softmax over rows': (d, pool) => (d.below(2) ? undefined : softmax([d.pick(pool)], { axis: 1 })),
  'norm over rows': (d, pool) =>
    d.below(2) ? undefined : turned(groupNorm([turned(d.pick(pool)), vector('g'), vector('h')], { groups: 2 })),
  'largest of all rows': (d, pool) =>
    d.below(2) ? undefined : reduceMax([d.pick(pool)], { axes: [1], keepdims: true }),
  'mean of some rows': (d, pool, has) => {
    const x = d.pick(pool);
    const keep = bits(condition(d, has, rowsOf(x)));
    const total = reduceSum([d.below(2) ? e.mul([x, keep]) : e.mul([keep, x])], { axes: [1], keepdims: true });
    return e.div([total, e.add([reduceSum([keep], { axes: [1], keepdims: true }), scalar(1)])]);
  },
  'padded before': (d, pool) => {
    const x = d.pick(pool);
    const mode = d.pick(['constant', 'edge'] as const);
    return few(pad([x], { before: [0, 1, 0], after: [0, d.below(2), 0], mode }));
  },
  'moved by one': (d, pool) => {
    const x = d.pick(pool);
    const n = rowsOf(x);
    return d.below(2)
      ? pad([sliceAxis(x, 1, 0, n - 1)], { before: [0, 1, 0], after: [0, 0, 0] })
      : pad([sliceAxis(x, 1, 1, n)], { before: [0, 0, 0], after: [0, 1, 0] });
  },
  'mixed by a matrix': (d, pool) => {
    const x = d.pick(pool);
    return turned(matmul([turned(x), square(rowsOf(x))]));
  },
  'all entries in one list': (d, pool) => {
    const x = d.pick(pool);
    const list = reshape([x], { shape: [ENTRIES * rowsOf(x), WIDTH] });
    return reshape([matmul([list, weight(d)])], { shape: [ENTRIES, rowsOf(x), WIDTH] });
  },
  'two rows as one': (d, pool) => {
    const x = d.pick(pool);
    const n = rowsOf(x);
    if (n % 2 === 1) return undefined;
    const pairs = reshape([x], { shape: [ENTRIES, n / 2, 2 * WIDTH] });
    return d.below(2) ? sliceAxis(pairs, 2, 2, 2 + WIDTH) : reshape([e.tanh([pairs])], { shape: [ENTRIES, n, WIDTH] });
  },
  'first features of one, last of another': (d, pool) => {
    const [a, b] = alike(d, pool);
    return concat([sliceAxis(a, 2, 0, 2), sliceAxis(b, 2, 2, WIDTH)], { axis: 2 });
  },
  'a part of a split': (d, pool) => {
    const x = d.pick(pool);
    const n = rowsOf(x);
    if (n < 2) return undefined;
    const first = 1 + d.below(n - 1);
    return d.pick(projectAll(split([x], { axis: 1, sizes: [first, n - first] })));
  },
  'the entries in turn': (d, pool) => {
    const x = d.pick(pool);
    return d.below(2) ? oneEntry(d, x) : concat([sliceAxis(x, 0, 1, 2), sliceAxis(x, 0, 0, 1)], { axis: 0 });
  },
  'one of a stack': (d, pool) => {
    const [a, b] = alike(d, pool);
    const lifted = [a, b].map((x) => reshape([x], { shape: [1, ...typeOf(x).shape] }));
    const all = e.tanh([concat(lifted, { axis: 0 })]);
    return reshape([sliceAxis(all, 0, 1, 2)], { shape: typeOf(a).shape });
  },
  'over time': overTime,
  recurrent,
  patches,
  windows,
};
