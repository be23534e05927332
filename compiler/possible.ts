/**
 * The sizes that a graph can take. `x[0 .. 3]` of an axis `n` needs n ≥ 3, whatever range n was declared with: the range
 * shrinks, so that the runtime refuses other sizes before anything executes.
 */
import { fail } from '../ir/diagnostic.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { type Graph, graphValues, isGraph, typeOf, type Value } from '../ir/graph.ts';
import type { Model } from '../ir/model.ts';
import { normalizeAxis } from '../ir/ops/check.ts';
import { evaluateIndex, sub, symbolsOf } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, type Dim } from '../ir/type.ts';
import { narrowModel } from './narrow.ts';

/** The model with each entry's sizes narrowed to what its ops can run at. @throws CompileError as `possibleSizes` does */
export function withPossibleSizes<M extends Model>(model: M): M {
  const narrow = (name: string, graph: Graph): Graph => {
    const ranges = possibleSizes(graph);
    if (Object.keys(ranges).length === 0) return graph;
    return narrowModel({ name: model.name, entries: { [name]: graph } }, ranges).entries[name]!;
  };
  const entries = Object.fromEntries(Object.entries(model.entries).map(([name, g]) => [name, narrow(name, g)]));
  return { ...model, entries };
}

interface SizeRange {
  readonly min: number;
  readonly max: number;
}

/**
 * By name, the symbols whose range must shrink and to what. Conditions over several symbols are left to the author.
 *
 * @throws CompileError `range` when an op can run at no admissible size
 */
export function possibleSizes(graph: Graph): Readonly<Record<string, SizeRange>> {
  const ranges: Record<string, SizeRange> = {};
  const values = graphValues(graph);
  for (const v of [...graph.inputs, ...values])
    for (const condition of conditionsOf(v)) {
      const [symbol, ...others] = symbolsOf(condition);
      if (!symbol || others.length > 0) continue;
      const { name, min, max, multipleOf } = symbol.arg as Sym;
      const known = ranges[name] ?? { min, max };
      const range = shrink(known, multipleOf, (n) => holdsAt(condition, n));
      if (!range)
        fail('range', `${v.op.name}: no size "${name}" of ${known.min}..${known.max} suits it`, {
          loc: v.loc,
          help: `declare "${name}" with a range in which every slice, window and choice lies inside its axis`,
        });
      if (range.min !== min || range.max !== max) ranges[name] = range;
    }
  return ranges;
}

function holdsAt(condition: Expr, size: number): boolean {
  try {
    return evaluateIndex(condition, () => size) >= 0;
  } catch (error) {
    // A size that divides by zero.
    if (error instanceof RangeError) return false;
    throw error;
  }
}

/** What must not be negative for a value to exist, where it is not so for every size. */
function conditionsOf(v: Value): readonly Expr[] {
  const { attrs } = v;
  const all: Expr[] = (v.type.kind === 'tuple' ? v.type.items : [v.type]).flatMap((t) => t.shape.map(asExpr));
  const within = (position: Dim, size: Dim): void => {
    all.push(asExpr(position), sub(asExpr(size), position));
  };
  if (v.op.name === 'slice') {
    const [starts, stops, steps] = [attrs.starts as Dim[], attrs.stops as Dim[], attrs.steps as number[]];
    for (const [axis, size] of typeOf(v.inputs[0]!).shape.entries()) {
      // A negative step starts at the last element at most, and may stop before the first.
      const last = steps[axis]! < 0 ? 1 : 0;
      within(starts[axis]!, sub(asExpr(size), last));
      within(sub(asExpr(stops[axis]!), -last), size);
    }
  } else if (v.op.name === 'top_k') {
    const { shape } = typeOf(v.inputs[0]!);
    within(attrs.k as Dim, shape[normalizeAxis(Number(attrs.axis), shape.length)]!);
  }
  for (const a of Object.values(attrs))
    if (isGraph(a)) for (const inner of graphValues(a)) all.push(...conditionsOf(inner));
  return all.filter((e) => e.op !== 'const' && boundsOf(e)[0] < 0);
}

/** The part of a range where a condition holds that holds at one of its ends. */
function shrink({ min, max }: SizeRange, step: number, holds: (n: number) => boolean): SizeRange | undefined {
  const [first, last] = [Math.ceil(min / step), Math.floor(max / step)];
  const [low, high] = [holds(first * step), holds(last * step)];
  if (low && high) return { min, max };
  if (!low && !high) return undefined;
  // `good` always holds and `bad` never does; they close in on the place where that changes.
  let [good, bad] = low ? [first, last] : [last, first];
  while (Math.abs(good - bad) > 1) {
    const middle = Math.trunc((good + bad) / 2);
    if (holds(middle * step)) good = middle;
    else bad = middle;
  }
  return low ? { min, max: good * step } : { min: good * step, max };
}
