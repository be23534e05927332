/** Integers that are evenly spaced along every axis: positions, and what exporters compute from them. */
import { isInt } from '../ir/dtype.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { normalizeAxis } from '../ir/ops/check.ts';
import * as s from '../ir/scalar.ts';
import { asExpr, type Dim, dim, sameDim, sameShape } from '../ir/type.ts';
import { dims, ints, isOne, literalOf, rankOf, shapeOf, uniformOf } from './facts.ts';

/** The element at coordinates c is first + Σ stepsᵢ · cᵢ. The step of an axis of size 1 is 0. */
export interface Spaced {
  readonly first: Dim;
  readonly steps: readonly number[];
}

const plus = (a: Dim, b: Dim, by = 1): Dim => dim(s.add(asExpr(a), s.mul(asExpr(b), by)));
const known = new WeakMap<Value, Spaced | null>();

/** How the elements of a value are spaced; undefined where that is not known. Chains are as deep as exporters write them. */
export function spacedOf(v: Value): Spaced | undefined {
  const found = known.get(v);
  if (found !== undefined) return found ?? undefined;
  const made = v.type.kind === 'tensor' && isInt(typeOf(v).dtype) ? read(v) : undefined;
  const spaced = made && { first: made.first, steps: made.steps.map((n, i) => (isOne(shapeOf(v)[i]!) ? 0 : n)) };
  known.set(v, spaced ?? null);
  return spaced;
}

/** A number that is the same at all coordinates; undefined for others. */
export const sameEverywhere = (spaced: Spaced | undefined): number | undefined =>
  typeof spaced?.first === 'number' && spaced.steps.every((n) => n === 0) ? spaced.first : undefined;

/** a + by · b, where two values broadcast to that rank. */
export function combined(a: Value, b: Value, by: number, rank: number): Spaced | undefined {
  const [x, y] = [spacedOf(a), spacedOf(b)];
  if (!x || !y) return undefined;
  const wide = ({ steps }: Spaced): number[] => [...new Array<number>(rank - steps.length).fill(0), ...steps];
  const other = wide(y);
  return { first: plus(x.first, y.first, by), steps: wide(x).map((n, i) => n + by * other[i]!) };
}

function read(v: Value): Spaced | undefined {
  const rank = rankOf(v);
  const uniform = uniformOf(v);
  if (uniform !== undefined) return { first: uniform, steps: new Array<number>(rank).fill(0) };
  const literal = literalOf(v);
  if (literal) {
    const [first, second] = literal.data as unknown as [number?, number?];
    if (rank !== 1 || first === undefined || second === undefined) return undefined;
    const step = second - first;
    return literal.data.every((x, i) => x === first + i * step) ? { first, steps: [step] } : undefined;
  }
  const [x, by] = v.inputs;
  const inner = x && spacedOf(x);
  switch (v.op.name) {
    case 'iota': {
      const axis = normalizeAxis(Number(v.attrs.axis), rank);
      return { first: 0, steps: Array.from({ length: rank }, (_, i) => (i === axis ? 1 : 0)) };
    }
    case 'cast':
      return isInt(typeOf(x!).dtype) ? inner : undefined;
    case 'expand':
      return inner && { first: inner.first, steps: [...new Array<number>(rank - rankOf(x!)).fill(0), ...inner.steps] };
    case 'transpose':
      return inner && { first: inner.first, steps: ints(v.attrs, 'perm').map((axis) => inner.steps[axis]!) };
    case 'reshape': {
      // Only axes of size 1 come and go.
      const long = (of: Value): number[] => shapeOf(of).flatMap((d, i) => (isOne(d) ? [] : [i]));
      const [from, to] = [long(x!), long(v)];
      const sizes = (of: Value, axes: readonly number[]): Dim[] => axes.map((i) => shapeOf(of)[i]!);
      if (!inner || !sameShape(sizes(x!, from), sizes(v, to))) return undefined;
      return {
        first: inner.first,
        steps: Array.from({ length: rank }, (_, i) => inner.steps[from[to.indexOf(i)]!] ?? 0),
      };
    }
    case 'slice': {
      if (!inner) return undefined;
      const [starts, steps] = [dims(v.attrs, 'starts'), ints(v.attrs, 'steps')];
      const first = inner.steps.reduce<Dim>((at, n, i) => (n === 0 ? at : plus(at, starts[i]!, n)), inner.first);
      return { first, steps: inner.steps.map((n, i) => n * steps[i]!) };
    }
    case 'add':
      return combined(x!, by!, 1, rank);
    case 'sub':
      return combined(x!, by!, -1, rank);
    case 'mul': {
      const factor = uniformOf(by!);
      return factor === undefined || rankOf(x!) !== rank ? undefined : inner && times(inner, factor);
    }
    case 'neg':
      return inner && times(inner, -1);
    case 'concat':
      return joined(v.inputs, normalizeAxis(Number(v.attrs.axis), rank));
    default:
      return undefined;
  }
}

const times = ({ first, steps }: Spaced, by: number): Spaced => ({
  first: dim(s.mul(asExpr(first), by)),
  steps: steps.map((n) => n * by),
});

/** Parts that go on where those before them end. */
function joined(parts: readonly Value[], axis: number): Spaced | undefined {
  const spaced = parts.map(spacedOf);
  const [start, next] = spaced;
  if (!start || !next) return undefined;
  const long = parts.findIndex((p) => !isOne(shapeOf(p)[axis]!));
  const gap = plus(next.first, start.first, -1);
  const step = long >= 0 ? spaced[long]?.steps[axis] : typeof gap === 'number' ? gap : undefined;
  if (step === undefined) return undefined;
  let at = start.first;
  for (const [i, part] of spaced.entries()) {
    const size = shapeOf(parts[i]!)[axis]!;
    const agrees = part?.steps.every((n, a) => (a === axis ? isOne(size) || n === step : n === start.steps[a]));
    if (!agrees || !sameDim(part!.first, at)) return undefined;
    at = plus(at, size, step);
  }
  return { first: start.first, steps: start.steps.map((n, a) => (a === axis ? step : n)) };
}
