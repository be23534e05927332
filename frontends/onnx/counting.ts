/** Sizes that the data decide: their names, which are unique in the model, and what counts them. */
import { countedIn, countedSize, symbolsIn } from '../../ir/counts.ts';
import { isInt } from '../../ir/dtype.ts';
import type { Expr } from '../../ir/expr.ts';
import { type Graph, graph, graphValues, isGraph, topoOrder, typeOf, type Value } from '../../ir/graph.ts';
import { makeValue } from '../../ir/op.ts';
import { counted } from '../../ir/ops/counted.ts';
import { cast, maximum, minimum } from '../../ir/ops/elementwise.ts';
import { reshape, sliceAxis } from '../../ir/ops/shape.ts';
import { scalar } from '../../ir/ops/structural.ts';
import { symbol, symbolsOf } from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import type { Dim } from '../../ir/type.ts';
import { rangeOf, sizeAtElement } from './bounds.ts';
import type { Symbols } from './symbols.ts';

/** How often one value is counted: the same mask is often asked for its positions in several places. */
type Known = Map<string, readonly Value[]>;

/** Most elements of a tensor that are sizes: more axes than any tensor has. */
const MOST_SIZES = 16;
const LARGEST = 2 ** 31 - 1;
/** Largest size that is made room for because the graph says that it may be met. */
const MOST_DERIVED = 2 ** 20;
/** Room for a list whose length nothing bounds. */
const USUAL_ROOM = 4096;

/** What an element is known to be: a size, or a range that ends. */
function derived(x: Value, i: number): Dim | { readonly min: number; readonly max: number } | undefined {
  const size = sizeAtElement(x, i);
  if (size !== undefined) return size;
  const [low, high] = rangeOf(x, i);
  return high >= 0 && high <= MOST_DERIVED ? { min: Math.max(0, low), max: high } : undefined;
}

export class Counting {
  private readonly symbols: Symbols;
  private readonly counts = new Map<Expr, { readonly count: Value; readonly capacity: Dim }>();
  private readonly known = new WeakMap<Value, Known>();
  private readonly elementSizes = new Map<Value, Expr>();

  constructor(symbols: Symbols) {
    this.symbols = symbols;
  }

  /**
   * The first `count` elements of each value along an axis, all of one new size.
   * @param hint what the size is named after
   * @param min least count that will ever be met
   */
  cut(hint: string, values: readonly Value[], count: Value, { axis = 0, min = 0 } = {}): Value[] {
    const capacity = typeOf(values[0]!).shape[axis]!;
    const size = countedSize(this.symbols.fresh(`${hint}_count`), capacity, { min });
    this.counts.set(size, { count, capacity });
    return values.map((x) => counted([x, count], { axis, size }, { name: hint }));
  }

  /**
   * The elements of a small integer tensor that is computed at run time as sizes: those that it mentions, and counted ones
   * within the range that was given under the tensor's name (`name_0`, `name_1`, …) or that follows from the graph;
   * undefined where an element has none of these.
   */
  sizesIn(x: Value, name: string): readonly Dim[] | undefined {
    const { dtype, shape } = typeOf(x);
    const [count = 1] = shape;
    if (shape.length > 1 || typeof count !== 'number' || count > MOST_SIZES || !isInt(dtype)) return undefined;
    const found = Array.from({ length: count }, (_, i) => this.symbols.given(`${name}_${i}`) ?? derived(x, i));
    if (found.some((range) => range === undefined)) return undefined;
    const whole = shape.length === 0 ? reshape([x], { shape: [1] }) : x;
    const inside = minimum([maximum([cast([whole], { to: 'i64' }), scalar(-1, 'i64')]), scalar(LARGEST, 'i64')]);
    const elements = this.once(x, 'sizes', () => {
      const counts = cast([inside], { to: 'i32' });
      return found.map((_, i) => reshape([sliceAxis(counts, 0, i, i + 1)], { shape: [] }));
    });
    return found.map((range, i) => {
      if (typeof range !== 'object' || 'lanes' in range) return range!;
      const { min, max } = range;
      const known = this.elementSizes.get(elements[i]!);
      const size = known ?? symbol(this.symbols.fresh(`${name}_${i}`), { min, max, counted: true });
      this.elementSizes.set(elements[i]!, size);
      this.counts.set(size, { count: elements[i]!, capacity: max });
      return size;
    });
  }

  /** One number that is computed at run time as a size, where its range was given under its name (`name_0`). */
  stated(x: Value, name: string): Dim | undefined {
    return this.symbols.given(`${name}_0`) && this.sizesIn(x, name)?.[0];
  }

  /**
   * Most elements that a result computed from the data may have: what was given for its name (`name_0`), else what follows
   * from the graph, else what is usual for open sizes.
   */
  room(name: string, most: number): number {
    return this.symbols.given(`${name}_0`)?.max ?? (most <= MOST_DERIVED ? most : USUAL_ROOM);
  }

  /** A bound of a size over sizes that are not counted. */
  roomFor(size: Dim): Dim {
    if (typeof size === 'number') return size;
    const own = this.counts.get(size);
    if (own) return this.roomFor(own.capacity);
    return symbolsOf(size).some((s) => this.counts.has(s)) ? boundsOf(size)[1] : size;
  }

  /** `x` with an axis that must have as many elements as were counted; running it fails where it has not. */
  align(x: Value, axis: number, size: Expr): Value {
    const found = this.counts.get(size);
    return found ? counted([x, found.count], { axis, size, all: true }) : x;
  }

  /**
   * Operands whose sizes meet: where one is counted and another is not known to be the same, it is declared to be.
   * @param axes for each operand, the axes that meet, the same number for those that do; undefined for none
   */
  meeting(operands: readonly Value[], axes: readonly (readonly (number | undefined)[])[]): Value[] {
    const sizes = new Map<number, Expr>();
    const each = (visit: (axis: number, size: Dim, n: number, i: number) => void): void =>
      axes.forEach((list, n) => {
        list.forEach((axis, i) => {
          const size = typeOf(operands[n]!).shape[i]!;
          if (axis !== undefined && size !== 1) visit(axis, size, n, i);
        });
      });
    each((axis, size) => {
      if (typeof size !== 'number' && this.counts.has(size) && !sizes.has(axis)) sizes.set(axis, size);
    });
    const out = [...operands];
    each((axis, size, n, i) => {
      const wanted = sizes.get(axis);
      if (wanted && wanted !== size) out[n] = this.align(out[n]!, i, wanted);
    });
    return out;
  }

  /** What `make` gave for the same value the first time, so that what is counted alike has one size. */
  once(of: Value, what: string, make: () => readonly Value[]): readonly Value[] {
    let known = this.known.get(of);
    if (!known) {
      known = new Map();
      this.known.set(of, known);
    }
    const values = known.get(what) ?? make();
    known.set(what, values);
    return values;
  }

  /**
   * A graph in which every size that it counts has its count, also where only the size is asked for: what is stretched to
   * such a size, or numbered up to it, is cut to it instead.
   */
  anchored(g: Graph): Graph {
    const all = graphValues(g);
    const defined = new Set<Dim>(bodiesOf(g).flatMap((body) => countedIn(body).map(({ size }) => size)));
    const lost = new Set(all.flatMap((v) => [...symbolsIn(v)]).filter((s) => this.counts.has(s) && !defined.has(s)));
    const before = lost.size;
    if (before === 0) return g;
    const done = new Map<Value, Value>();
    for (const v of all) {
      const inputs = v.inputs.map((x) => done.get(x)!);
      const same = inputs.every((x, i) => x === v.inputs[i]) ? v : { ...v, inputs };
      done.set(v, this.source(same, lost, g) ?? same);
    }
    const outputs = [...g.outputs].map(([name, v]) => [name, done.get(v)!] as const);
    const result = graph(g.name, g.inputs, outputs);
    // The counts that have come in may themselves mention sizes.
    return lost.size < before ? this.anchored(result) : result;
  }

  private source(v: Value, lost: Set<Expr>, g: Graph): Value | undefined {
    if (v.op.name !== 'expand' && v.op.name !== 'iota') return undefined;
    const shape = v.attrs.shape as readonly Dim[];
    const axis = shape.findIndex((d) => typeof d !== 'number' && lost.has(d));
    const size = shape[axis] as Expr | undefined;
    const found = size && this.counts.get(size);
    if (!found || topoOrder([found.count]).some((x) => x.op.name === 'input' && !g.inputs.includes(x)))
      return undefined;
    lost.delete(size);
    const whole = makeValue(v.op, v.inputs, { ...v.attrs, shape: shape.with(axis, found.capacity) });
    return counted([whole, found.count], { axis, size }, v);
  }
}

/** A graph and the bodies inside it. */
function bodiesOf(g: Graph): Graph[] {
  const inside = graphValues(g).flatMap((v) => Object.values(v.attrs).filter(isGraph));
  return [g, ...inside.flatMap(bodiesOf)];
}
