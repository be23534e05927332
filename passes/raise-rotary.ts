/**
 * Rotary embedding as models spell it. (a, b) becomes (a·cos − b·sin, b·cos + a·sin), where a and b are halves of the last
 * axis or its even and odd elements. The results are joined as the operands were parted, or the whole is taken times cosine and
 * a turned copy (−b, a) of it times sine. All become one `rotary`, which stores no half.
 */
import type { Value } from '../ir/graph.ts';
import { makeValue } from '../ir/op.ts';
import { normalizeAxis } from '../ir/ops/check.ts';
import { add, mul, sub } from '../ir/ops/elementwise-binary.ts';
import { neg } from '../ir/ops/elementwise-unary.ts';
import { rotary } from '../ir/ops/rotary.ts';
import { concat, expand, reshape, slice, sliceAxis, transpose } from '../ir/ops/shape.ts';
import { type Dim, dim, sameDim, sameShape } from '../ir/type.ts';
import { dims, ints, is, isOne, rankOf, shapeOf, uniformOf, unlessRefused } from './facts.ts';
import { type Miss, miss, type Rewritten, type Rule, rewritten } from './rewrite.ts';

const lastOf = (v: Value): Dim | undefined => shapeOf(v).at(-1);

/** Elements `first`, `first + step`, … of the last axis of a value. */
interface Part {
  readonly of: Value;
  readonly first: number;
  readonly step: number;
  readonly count: number;
}

/** Which elements of the last axis of another value `v` is; all of its own where it is cut from none. */
function partOf(v: Value): Part | undefined {
  const count = lastOf(v);
  if (typeof count !== 'number') return undefined;
  if (is(v, reshape)) {
    // One of two neighbours, where pairs have an axis of their own.
    const one = v.inputs[0]!;
    const pairs = is(one, slice) ? partOf(one) : undefined;
    const isPair =
      pairs?.count === 1 && lastOf(pairs.of) === 2 && sameShape(shapeOf(pairs.of).slice(0, -1), shapeOf(v));
    if (isPair) return { of: flattened(pairs.of), first: pairs.first, step: 2, count };
  }
  if (!is(v, slice)) return { of: v, first: 0, step: 1, count };
  const of = v.inputs[0]!;
  const [starts, stops, steps] = [dims(v.attrs, 'starts'), dims(v.attrs, 'stops'), ints(v.attrs, 'steps')];
  const last = rankOf(v) - 1;
  const whole = shapeOf(of).every(
    (d, i) => i === last || (dim(starts[i]!) === 0 && sameDim(stops[i]!, d) && steps[i] === 1),
  );
  const first = starts[last];
  return whole && typeof first === 'number' && steps[last]! > 0 ? { of, first, step: steps[last]!, count } : undefined;
}

/** [..., n, 2] as [..., 2n]: below the reshape that parted it where there is one. */
function flattened(pairs: Value): Value {
  const shape = shapeOf(pairs);
  const flat = [...shape.slice(0, -2), 2 * (shape.at(-2) as number)];
  const from = is(pairs, reshape) ? pairs.inputs[0]! : pairs;
  const same = flatValues.get(pairs) ?? (sameShape(shapeOf(from), flat) ? from : reshape([pairs], { shape: flat }));
  flatValues.set(pairs, same);
  return same;
}
const flatValues = new WeakMap<Value, Value>();

interface Pairs {
  readonly interleaved: boolean;
  readonly of: Value;
  readonly first: number;
  /** Elements of both parts together. */
  readonly width: number;
}

/** What two parts are the first and the second elements of; undefined where they form no pairs. */
function pairsOf(a: Value, b: Value): Pairs | undefined {
  const [x, y] = [partOf(a), partOf(b)];
  if (!x || !y || x.of !== y.of || x.count !== y.count || x.step !== y.step) return undefined;
  const { of, first, count } = x;
  const width = 2 * count;
  if (x.step === 1 && y.first === first + count) return { interleaved: false, of, first, width };
  return x.step === 2 && y.first === first + 1 ? { interleaved: true, of, first, width } : undefined;
}
const elementsOf = ({ of, first, width }: Pairs): Value =>
  width === lastOf(of) ? of : sliceAxis(of, rankOf(of) - 1, first, first + width);

/** ± a · b. */
interface Product {
  readonly minus: boolean;
  readonly factors: readonly [Value, Value];
  readonly covers: readonly Value[];
}

/** A value without the minus before it. */
function signed(v: Value): { readonly minus: boolean; readonly of: Value; readonly covers: readonly Value[] } {
  const times = is(v, mul) && uniformOf(v.inputs[1]!) === -1;
  return is(v, neg) || times ? { minus: true, of: v.inputs[0]!, covers: [v] } : { minus: false, of: v, covers: [] };
}

function productOf(v: Value): Product | undefined {
  const outer = signed(v);
  if (!is(outer.of, mul)) return undefined;
  const [a, b] = outer.of.inputs.map(signed) as [ReturnType<typeof signed>, ReturnType<typeof signed>];
  return {
    minus: [outer, a, b].filter((x) => x.minus).length % 2 === 1,
    factors: [a.of, b.of],
    covers: [...outer.covers, outer.of, ...a.covers, ...b.covers],
  };
}

/** A sum or difference of two products. */
function sumOf(v: Value): readonly [Product, Product] | undefined {
  if (!is(v, add) && !is(v, sub)) return undefined;
  const [a, b] = v.inputs.map(productOf);
  return a && b ? [a, is(v, sub) ? { ...b, minus: !b.minus } : b] : undefined;
}

/** The other factor where one is `of`. */
const beside = ({ factors: [a, b] }: Product, of: Value): Value | undefined =>
  a === of ? b : b === of ? a : undefined;

interface Turn {
  readonly pairs: Pairs;
  readonly cos: Value;
  readonly sin: Value;
  readonly covers: readonly Value[];
}

/** Two sums that are a turn of pairs. */
function turnOf(y: Value, z: Value): Turn | undefined {
  const [first, second] = [sumOf(y), sumOf(z)];
  if (!first || !second) return undefined;
  const covers = [y, z, ...[...first, ...second].flatMap((x) => x.covers)];
  for (const [m, n] of [first, first.toReversed() as [Product, Product]])
    for (const a of m.factors)
      for (const b of n.factors) {
        const pairs = m.minus ? undefined : pairsOf(a, b);
        const [cos, sin] = [beside(m, a), beside(n, b)];
        if (!pairs || !cos || !sin) continue;
        const along = second.find((x) => beside(x, b) === cos && !x.minus);
        const across = second.find((x) => x !== along && beside(x, a) === sin && x.minus !== n.minus);
        // Signs the other way round turn by minus the angle.
        if (along && across) return { pairs, cos, sin: n.minus ? sin : neg([sin]), covers };
      }
  return undefined;
}

/** [..., n] below [..., n, 1]; undefined for anything else. */
function column(v: Value): Value | undefined {
  const x = v.inputs[0];
  return is(v, reshape) && x && sameShape(shapeOf(v), [...shapeOf(x), 1]) ? x : undefined;
}

/** Two values that are joined to pairs: as halves, or as neighbours in an axis of their own. */
function joinedOf(v: Value): { readonly parts: readonly [Value, Value]; readonly interleaved: boolean } | undefined {
  if (!is(v, concat) || v.inputs.length !== 2 || normalizeAxis(Number(v.attrs.axis), rankOf(v)) !== rankOf(v) - 1)
    return undefined;
  const [a, b] = v.inputs as [Value, Value];
  if (!sameShape(shapeOf(a), shapeOf(b))) return undefined;
  const [x, y] = [column(a), column(b)];
  return x && y ? { parts: [x, y], interleaved: true } : { parts: [a, b], interleaved: false };
}

/** (−b, a) of pairs, or (b, −a). */
function turnedCopy(
  v: Value,
): { readonly pairs: Pairs; readonly minus: boolean; readonly covers: readonly Value[] } | undefined {
  const split = is(v, reshape) ? v.inputs[0]! : v;
  const joined = joinedOf(split);
  if (!joined || joined.interleaved !== (split !== v)) return undefined;
  const [b, a] = joined.parts.map(signed) as [ReturnType<typeof signed>, ReturnType<typeof signed>];
  const pairs = pairsOf(a.of, b.of);
  if (!pairs || a.minus === b.minus || pairs.interleaved !== joined.interleaved || lastOf(v) !== pairs.width)
    return undefined;
  const columns = joined.interleaved ? split.inputs : [];
  return { pairs, minus: a.minus, covers: [v, split, ...columns, ...a.covers, ...b.covers] };
}

/** Whether `v` is the elements of those pairs, in their order. */
function isWhole(v: Value, { of, first, width }: Pairs): boolean {
  const part = partOf(v);
  if (v === of) return width === lastOf(of);
  return part !== undefined && part.of === of && part.step === 1 && part.first === first && part.count === width;
}

/** x · cos + (−b, a) · sin. */
function ofCopy(root: Value): Rewritten | Miss | undefined {
  const sum = sumOf(root);
  if (!sum) return undefined;
  for (const [stays, turns] of [sum, sum.toReversed() as [Product, Product]])
    for (const copy of turns.factors) {
      const turned = turnedCopy(copy);
      if (!turned || stays.minus) continue;
      const { pairs } = turned;
      const x = stays.factors.find((f) => isWhole(f, pairs));
      if (!x) return miss('what is turned is not what is taken times the cosine');
      const [cos, sin] = [beside(stays, x)!, beside(turns, copy)!];
      const covers = [...turned.covers, ...stays.covers, ...turns.covers];
      return built(root, { pairs, cos, sin: turned.minus === turns.minus ? sin : neg([sin]), covers });
    }
  return undefined;
}

/** Both halves, or both neighbours, turned and joined again. */
function ofParts(root: Value): Rewritten | Miss | undefined {
  const joined = joinedOf(root);
  const turn = joined && turnOf(...joined.parts);
  if (!joined || !turn) return undefined;
  if (joined.interleaved !== turn.pairs.interleaved)
    return miss(`pairs are read as ${turn.pairs.interleaved ? 'neighbours' : 'halves'} and not written as such`);
  return built(root, joined.interleaved ? { ...turn, covers: [...turn.covers, ...root.inputs] } : turn);
}

function built(root: Value, { pairs, cos, sin, covers }: Turn): Rewritten | Miss {
  const { interleaved, width } = pairs;
  const [c, s] = [cos, sin].map((t) => halfTable(t, width, interleaved)) as [Value | undefined, Value | undefined];
  const [one, other] = c && s ? [c, s] : [cos, sin];
  const value = unlessRefused(() => rotary([elementsOf(pairs), one, other], { interleaved }));
  if (!value) return miss('cosine and sine have axes of their own, along which what is turned is repeated');
  const shape = shapeOf(root);
  const words = new Map(covers.filter((v) => v !== root).map((v) => [v, 'a part of the turn']));
  return rewritten(sameShape(shapeOf(value), shape) ? value : reshape([value], { shape }), words);
}

/** Elements behind those that turn. */
function withRest(root: Value): Rewritten | undefined {
  const [turn, rest, ...more] = root.inputs;
  if (!turn || !rest || more.length > 0 || !is(turn, rotary) || Number(turn.attrs.width) !== 0) return undefined;
  if (normalizeAxis(Number(root.attrs.axis), rankOf(root)) !== rankOf(root) - 1) return undefined;
  const [x, cos, sin] = turn.inputs as [Value, Value, Value];
  const [front, back] = [partOf(x), partOf(rest)];
  const follows = front && back && front.of === back.of && front.step === 1 && back.step === 1;
  if (!follows || back.first !== front.first + front.count) return undefined;
  const { of, first, count } = front;
  const all = elementsOf({ of, first, width: count + back.count, interleaved: false });
  const value = rotary([all, cos, sin], { ...turn.attrs, width: count });
  return rewritten(value, new Map([[turn, 'the turned part']]));
}

/**
 * A table with one column a pair, for one that holds each twice: [t, t] for halves, t₀ t₀ t₁ t₁ … for neighbours. undefined
 * where that cannot be told.
 */
function halfTable(v: Value, width: number, interleaved: boolean): Value | undefined {
  if (lastOf(v) === width / 2) return v;
  if (lastOf(v) !== width) return undefined;
  const half = (x: Value): Value | undefined => halfTable(x, width, interleaved);
  const narrow = [...shapeOf(v).slice(0, -1), width / 2];
  const [x] = v.inputs;
  if (v.op.lower.kind === 'pointwise') {
    const inputs = v.inputs.map((t) => (rankOf(t) === 0 || isOne(lastOf(t)!) ? t : half(t)));
    return inputs.every((t) => t !== undefined) ? makeValue(v.op, inputs, v.attrs) : undefined;
  }
  if (is(v, concat) && !interleaved) {
    const [a, b, ...others] = v.inputs;
    return a === b && others.length === 0 && lastOf(a!) === width / 2 ? a : undefined;
  }
  if (is(v, transpose)) {
    const perm = ints(v.attrs, 'perm');
    const below = perm.at(-1) === perm.length - 1 ? half(x!) : undefined;
    return below && transpose([below], { perm });
  }
  if (is(v, expand)) {
    const below = lastOf(x!) === width ? half(x!) : undefined;
    return below && expand([below], { shape: narrow });
  }
  if (!is(v, reshape)) return undefined;
  if (lastOf(x!) === width) {
    const below = half(x!);
    return below && reshape([below], { shape: narrow });
  }
  const doubled = interleaved ? repeated(x!) : undefined;
  return doubled && reshape([doubled], { shape: narrow });
}

/** What stands twice, one beside the other, in the axes of `v`; undefined where it is something else. */
function repeated(v: Value): Value | undefined {
  const x = v.inputs[0]!;
  if (is(v, expand) && rankOf(x) === rankOf(v)) {
    const stretched = shapeOf(v).flatMap((d, i) => (sameDim(d, shapeOf(x)[i]!) ? [] : [i]));
    const [axis, ...others] = stretched;
    const alone =
      axis !== undefined &&
      others.length === 0 &&
      shapeOf(v)
        .slice(axis + 1)
        .every(isOne);
    return alone && shapeOf(v)[axis] === 2 ? x : undefined;
  }
  if (!is(v, concat) || v.inputs.length !== 2 || v.inputs[0] !== v.inputs[1]) return undefined;
  return normalizeAxis(Number(v.attrs.axis), rankOf(v)) === rankOf(v) - 1 && isOne(lastOf(x)!) ? x : undefined;
}

const ops = { sums: [add.def, sub.def], joins: [concat.def] };

export const rotaries: readonly Rule[] = [
  { name: 'rotary', ops: ops.sums, sharing: false, apply: ofCopy },
  { name: 'rotary', ops: ops.joins, sharing: false, apply: ofParts },
  { name: 'rotary-part', ops: ops.joins, sharing: false, apply: withRest },
];
