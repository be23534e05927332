/**
 * Two ways to ask whether a demand says the truth, neither of which knows how it was found. `leak` puts garbage into
 * everything of which the demand says that nobody reads it. `precision` changes one row after another and looks whether
 * anything comes out otherwise.
 */
import { isFloat } from '../../ir/dtype.ts';
import { type Graph, graphValues, typeOf, type Value } from '../../ir/graph.ts';
import { ALL, type IndexSet } from '../../ir/index-set.ts';
import { type Nd, rowMajor } from '../../ir/nd.ts';
import { coordinates } from '../../ir/need.ts';
import { seeded } from '../../ir/ops/example.ts';
import type { Demand } from '../../passes/demand.ts';
import { staticValues } from '../../passes/facts.ts';
import { members } from './demand-run.ts';
import { difference, type Replay, type Tensors } from './replay.ts';

/** Finite numbers that stand where nobody looks. */
export const GARBAGE: Readonly<Record<string, (x: number, roll: number) => number>> = {
  'random × 7': (_, roll) => (roll * 2 - 1) * 7,
  '1e30': (_, roll) => (roll < 0.5 ? -1e30 : 1e30),
  denormal: (_, roll) => (roll < 0.5 ? -1e-310 : 1e-310),
};

/**
 * 1 for each element that may be anything: nobody reads it, and nobody counts on it being zero. Undefined where there is
 * none.
 */
function free(value: Value, demand: Demand, run: Replay): Float64Array | undefined {
  const { shape } = run.of(value);
  const read = members(demand.of(value), demand.elements, shape, run).data;
  if (!read.includes(0)) return undefined;
  const zero = members(demand.elements.support(value), demand.elements, shape, run).data;
  const open = read.map((x, i) => (x === 0 && zero[i] !== 0 ? 1 : 0));
  return open.includes(1) ? open : undefined;
}

/**
 * Tensors that may be spoiled. Not those that are known before anything runs, which may be read at any time; nor integers and
 * truths that demands see through to what they are computed from; nor what says where others are zero, which must stay true.
 */
const movable = ({ graph, elements }: Demand): readonly Value[] => {
  const statics = staticValues(graph);
  const isSeenThrough = (v: Value): boolean => {
    const { dtype, shape } = typeOf(v);
    if (isFloat(dtype)) return false;
    const e = elements.element(v, coordinates(shape.length));
    return e.op !== 'operand' || elements.source(e.arg as number).value !== v;
  };
  const all = graphValues(graph).filter((v) => v.type.kind === 'tensor' && !statics.has(v));
  const told = new Set(all.flatMap((v) => [...elements.valuesOf(elements.support(v))]));
  return all.filter((v) => !told.has(v) && !isSeenThrough(v));
};

/** Garbage in place of some elements. Integers and truths become others of the same tensor, so that indices stay inside. */
function spoiled(x: Nd, open: Float64Array, kind: string, next: () => number): Nd {
  const make = GARBAGE[kind]!;
  const other = (): number => x.data[Math.floor(next() * x.data.length)]!;
  return { ...x, data: x.data.map((v, i) => (open[i] ? (isFloat(x.dtype) ? make(v, next()) : other()) : v)) };
}

/**
 * What is wrong with a demand, in words: the outputs change when every element of every value that it leaves out holds
 * garbage. This is the theorem of non-interference at all values at once.
 *
 * @param only the values that are spoiled; all where it is absent
 * @param observed what is looked at of the outputs, as the demand was told
 */
export function leak(
  demand: Demand,
  run: Replay,
  kind: keyof typeof GARBAGE,
  seed: number,
  only?: readonly Value[],
  observed: Readonly<Record<string, IndexSet>> = {},
): string | undefined {
  const next = seeded(seed);
  const places = new Map<Value, Float64Array>();
  for (const v of among(demand, only)) {
    const open = free(v, demand, run);
    if (open) places.set(v, open);
  }
  const outputs = run.replaced((v, x) => {
    const open = places.get(v);
    return open ? spoiled(x, open, kind, next) : x;
  });
  return difference(looked(run.outputs()), looked(outputs));

  /** Outputs with zeros where nobody looks. */
  function looked(all: Tensors): Tensors {
    return Object.fromEntries(
      Object.entries(all).map(([name, x]): [string, Nd] => {
        const read = members(observed[name] ?? ALL, demand.elements, x.shape, run).data;
        return [name, { ...x, data: x.data.map((v, i) => (read[i] ? v : 0)) }];
      }),
    );
  }
}

/** Whether a demand leaves out anything that could be changed, of some values or of all. */
export const spares = (demand: Demand, run: Replay, only?: readonly Value[]): boolean =>
  among(demand, only).some((v) => free(v, demand, run) !== undefined);

const among = (demand: Demand, only: readonly Value[] | undefined): readonly Value[] => {
  const all = movable(demand);
  return only ? all.filter((v) => only.includes(v)) : all;
};

/** What brute force says of a demand. */
export interface Precision {
  /** Rows of which some change comes out. */
  readonly read: number;
  /** Rows that the demand names. */
  readonly named: number;
  /** Rows that were tried. */
  readonly rows: number;
  /** Rows that are read though the demand does not name them: each one a bug. */
  readonly missed: readonly string[];
  /** Rows that are named and that nobody reads, by the op of their value. */
  readonly extra: Readonly<Record<string, number>>;
}

/**
 * The axes that make up one row of a value; the others tell rows apart. By default the last one, of tensors of numbers that
 * have several.
 */
export type RowAxes = (value: Value) => readonly number[];
const lastAxis: RowAxes = (v) => {
  const rank = typeOf(v).shape.length;
  return rank >= 3 ? [rank - 1] : [];
};

/** Whether a value decides an order, of which a single change may leave everything as it was. */
const isRanked = (v: Value, demand: Demand): boolean =>
  graphValues(demand.graph).some((r) => RANKS.has(r.op.name) && r.inputs.includes(v));
const RANKS = new Set(['top_k', 'arg_max', 'arg_min']);

/** Changes every row of every float value that inputs decide, each by itself. */
export function precision(demand: Demand, run: Replay, rowAxes: RowAxes = lastAxis): Precision {
  const want = run.outputs();
  const given = fromInputs(demand.graph);
  const missed: string[] = [];
  const extra: Record<string, number> = {};
  let [read, named, rows] = [0, 0, 0];
  for (const v of movable(demand)) {
    if (!isFloat(typeOf(v).dtype) || !given.has(v) || isRanked(v, demand)) continue;
    const x = run.of(v);
    const inside = members(demand.of(v), demand.elements, x.shape, run).data;
    const nonzero = members(demand.elements.support(v), demand.elements, x.shape, run).data;
    let unread = 0;
    for (const places of rowsOf(x, rowAxes(v))) {
      // What is known to be zero must stay so.
      const open = places.filter((i) => nonzero[i] !== 0);
      if (open.length === 0) continue;
      rows++;
      const isNamed = open.some((i) => inside[i] !== 0);
      const isRead = CHANGES.some((change) => {
        const data = x.data.slice();
        for (const i of open) data[i] = change(data[i]!, i);
        return difference(want, run.instead(v, { ...x, data })) !== undefined;
      });
      if (isNamed) named++;
      if (isRead) read++;
      if (isRead && !isNamed) missed.push(`${describe(v)} at element ${open[0]}`);
      if (isNamed && !isRead) unread++;
    }
    if (unread > 0) extra[v.op.name] = (extra[v.op.name] ?? 0) + unread;
  }
  return { read, named, rows, missed, extra };
}
/** Values that an input decides. */
function fromInputs(graph: Graph): ReadonlySet<Value> {
  const found = new Set<Value>();
  for (const v of graphValues(graph)) if (v.op.name === 'input' || v.inputs.some((x) => found.has(x))) found.add(v);
  return found;
}
const describe = (v: Value): string => `${v.name ?? ''}%${v.op.name}`;
const CHANGES: readonly ((x: number, i: number) => number)[] = [
  (x, i) => 0.83 - 1.7 * x + 0.1 * (i % 7),
  (x, i) => x + 3 * ((i % 3) - 1.1),
];

/** The elements of each row, `axes` being those that run within one. */
function rowsOf({ shape }: Nd, axes: readonly number[]): number[][] {
  const strides = rowMajor(shape);
  const count = shape.reduce((n, d) => n * d, 1);
  const groups = new Map<string, number[]>();
  for (let i = 0; i < count; i++) {
    const key = shape.map((n, axis) => (axes.includes(axis) ? '' : Math.floor(i / strides[axis]!) % n)).join();
    const group = groups.get(key);
    if (group) group.push(i);
    else groups.set(key, [i]);
  }
  return [...groups.values()];
}
