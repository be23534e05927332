/**
 * What is known of the elements of values before anything runs: each as an expression of coordinates and of elements of
 * earlier values, where it may be other than zero, and which integers are the positions of a permutation.
 */
import type { Attrs, LowerContext } from '../ir/core.ts';
import { isFloat, isInt } from '../ir/dtype.ts';
import { type Expr, exprNodes } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import { ALL, and, coordinate, exists, type IndexSet, or, where, whereNot } from '../ir/index-set.ts';
import { coordinates, moved } from '../ir/need.ts';
import { coords } from '../ir/ops/attention.ts';
import { maskAt } from '../ir/ops/attention-need.ts';
import { normalizeAxes, normalizeAxis } from '../ir/ops/check.ts';
import { broadcastAxes } from '../ir/ops/elementwise-define.ts';
import * as s from '../ir/scalar.ts';
import { asExpr, type Dim, dim, sameDim } from '../ir/type.ts';
import { literalOf, uniformOf } from './facts.ts';

/** What an `operand` of a set loads from, by number. */
export type Source =
  | { readonly kind: 'element'; readonly value: Value }
  /**
   * Whether an element of an index tensor means the position in the last coordinate, of an axis of that size. The other
   * coordinates are those of the axes in `fixed`; the remaining axes are run over.
   */
  | { readonly kind: 'image'; readonly value: Value; readonly fixed: readonly number[]; readonly size: Dim };

/** Expressions larger than this stay loads of the value itself. */
const MOST_NODES = 60;
/** Constants with more stretches of one value than this are loaded. */
const MOST_RUNS = 4;

export class Elements {
  readonly #sources: Source[] = [];
  readonly #byValue = new Map<Value, number>();
  readonly #images = new Map<string, number>();
  readonly #supports = new Map<Value, IndexSet>();
  readonly #ids = new Map<Value, number>();
  readonly #whole = new Map<Value, Expr>();
  readonly #strictNaN: boolean;

  /** @param strictNaN whether zero times NaN is NaN: then fewer elements are known to be zero */
  constructor(strictNaN = false) {
    this.#strictNaN = strictNaN;
  }

  source(n: number): Source {
    const source = this.#sources[n];
    if (!source) throw new RangeError(`source ${n} of ${this.#sources.length}`);
    return source;
  }

  /** Values that a set reads when it is evaluated. */
  valuesOf(set: IndexSet): ReadonlySet<Value> {
    const found = new Set<Value>();
    for (const term of set.terms)
      for (const literal of term)
        for (const e of literal.kind === 'is' ? [literal.e] : literal.form.terms.keys())
          for (const node of exprNodes(e)) if (node.op === 'operand') found.add(this.source(node.arg as number).value);
    return found;
  }

  /** A load of an element as it stands. */
  load(value: Value, at: readonly Expr[]): Expr {
    let n = this.#byValue.get(value);
    if (n === undefined) {
      n = this.#sources.push({ kind: 'element', value }) - 1;
      this.#byValue.set(value, n);
    }
    return s.operand(n, typeOf(value).dtype, at);
  }

  /** An element in terms of the earliest values that it is known by. */
  element(value: Value, at: readonly Expr[]): Expr {
    let whole = this.#whole.get(value);
    if (whole === undefined) {
      const own = coordinates(at.length);
      const known = this.#known(value, own);
      whole = known && exprNodes(known).length <= MOST_NODES ? known : this.load(value, own);
      this.#whole.set(value, whole);
    }
    const to = new Map(at.map((e, n) => [coordinate(n), e]));
    return s.substitute(whole, (leaf) => to.get(leaf));
  }

  #known(value: Value, at: readonly Expr[]): Expr | undefined {
    const type = typeOf(value);
    const uniform = uniformOf(value);
    if (uniform !== undefined) return s.literal(uniform, type.dtype);
    const { op, attrs, inputs } = value;
    if (op.name === 'constant') return this.#constant(value, at);
    if (op.name === 'concat') return this.#concat(value, at);
    if (isFloat(type.dtype) && !FEW_VALUES.has(op.name)) return undefined;
    if (inputs.some((x) => x.type.kind === 'tuple')) return undefined;
    const cx: LowerContext<Attrs> = { attrs, inputs: inputs.map(typeOf), out: type };
    const { lower } = op;
    if (lower.kind === 'view') return this.element(inputs[0]!, lower.from(at, cx));
    if (op.name === 'greater_equal' && inputs[0]!.op.name === 'places' && uniformOf(inputs[1]!) === 0)
      return this.#isPlaced(inputs[0]!, at);
    if (lower.kind === 'pointwise') {
      const roles = broadcastAxes(cx.inputs);
      const args = inputs.map((x, n) => {
        const shape = typeOf(x).shape;
        const skip = at.length - shape.length;
        return this.element(
          x,
          shape.map((_, i) => (roles[n]![i] === 'mix' ? s.literal(0) : at[i + skip]!)),
        );
      });
      return lower.expr(args, cx);
    }
    if (op.name === 'score_term') return this.#term(value, at);
    if (op.name === 'iota') return s.cast(at[normalizeAxis(Number(attrs.axis), at.length)]!, type.dtype);
    return undefined;
  }

  /** A mask or bias over coordinates and elements of its operands. */
  #term({ attrs, inputs }: Value, at: readonly Expr[]): Expr {
    const [b, h, q, k] = at as [Expr, Expr, Expr, Expr];
    return maskAt(attrs.expr as Expr, (n, place) => this.element(inputs[n]!, place), coords, { b, h, q, k });
  }

  /** Whether a position has a place among ids. */
  #isPlaced({ inputs, attrs }: Value, at: readonly Expr[]): Expr {
    const ids = inputs[0]!;
    return this.image(ids, [...at.slice(0, -1), undefined], at.at(-1)!, attrs.size as Dim);
  }

  /** A constant of few stretches of one value along one axis, or one that counts. */
  #constant(value: Value, at: readonly Expr[]): Expr | undefined {
    const { data, shape, dtype } = literalOf(value)!;
    const long = shape.flatMap((n, axis) => (n > 1 ? [axis] : []));
    const [axis] = long;
    if (long.length !== 1 || axis === undefined) return undefined;
    const i = at[axis]!;
    const step = data[1]! - data[0]!;
    if (isInt(dtype) && Number.isSafeInteger(step) && data.every((x, n) => x === data[0]! + n * step))
      return s.cast(s.add(s.mul(i, step), data[0]!), dtype);
    const ends = [...data.keys()].filter((n) => n > 0 && !Object.is(data[n], data[n - 1]));
    if (ends.length >= MOST_RUNS) return undefined;
    return ends.reduceRight<Expr>(
      (rest, end) => s.select(s.lt(i, end), s.literal(data[end - 1]!, dtype), rest),
      s.literal(data[data.length - 1]!, dtype),
    );
  }

  #concat(value: Value, at: readonly Expr[]): Expr | undefined {
    if (isFloat(typeOf(value).dtype) && value.inputs.some((x) => uniformOf(x) === undefined)) return undefined;
    if (value.inputs.length > MOST_RUNS) return undefined;
    const axis = normalizeAxis(Number(value.attrs.axis), at.length);
    let start: Expr = s.literal(0);
    const parts = value.inputs.map((x) => {
      const from = start;
      start = s.add(start, asExpr(typeOf(x).shape[axis]!));
      return { end: start, read: this.element(x, at.with(axis, s.sub(at[axis]!, from))) };
    });
    return parts
      .slice(0, -1)
      .reduceRight<Expr>((rest, { end, read }) => s.select(s.lt(at[axis]!, end), read, rest), parts.at(-1)!.read);
  }

  /** See `NeedContext.image`; `reader` is the op that reads the indices. */
  image(indices: Value, at: readonly (Expr | undefined)[], value: Expr, size: Dim): Expr {
    if (!isInt(typeOf(indices).dtype)) throw new TypeError('indices are integers');
    if (at.every((e) => e !== undefined)) {
      const i = this.element(indices, at as readonly Expr[]);
      const place = isNonNegative(indices) ? i : s.select(s.lt(i, 0), s.add(i, s.cast(asExpr(size), i.dtype)), i);
      return s.eq(s.cast(value, i.dtype), place);
    }
    const known = this.#constantImage(indices, at, value, size);
    if (known) return known;
    const fixed = at.flatMap((e, axis) => (e === undefined ? [] : [axis]));
    const id = this.#ids.get(indices) ?? this.#ids.size;
    this.#ids.set(indices, id);
    const key = `${id}:${fixed.join()}:${typeof size === 'number' ? size : `e${size.id}`}`;
    let n = this.#images.get(key);
    if (n === undefined) {
      n = this.#sources.push({ kind: 'image', value: indices, fixed, size }) - 1;
      this.#images.set(key, n);
    }
    return s.operand(n, 'bool', [...fixed.map((axis) => at[axis]!), value]);
  }

  /** Membership in the few stretches of positions that a constant holds. */
  #constantImage(indices: Value, at: readonly (Expr | undefined)[], value: Expr, size: Dim): Expr | undefined {
    const literal = literalOf(indices);
    if (!literal || typeof size !== 'number' || at.some((e) => e !== undefined && e.op !== 'const')) return undefined;
    if (at.some((e, axis) => e !== undefined && literal.shape[axis] !== 1)) return undefined;
    const places = [...new Set(Array.from(literal.data, (i) => (i < 0 ? i + size : i)))].sort((a, b) => a - b);
    const starts = places.filter((p) => !places.includes(p - 1));
    if (starts.length > MOST_RUNS) return undefined;
    return starts.reduce<Expr>((any, start) => {
      let end = start;
      while (places.includes(end + 1)) end++;
      return s.or(any, s.and(s.le(s.literal(start), value), s.le(value, s.literal(end))));
    }, s.bool(false));
  }

  /** Where elements of a value may be other than zero. */
  support(value: Value): IndexSet {
    let set = this.#supports.get(value);
    if (!set) {
      set = this.#supportOf(value);
      this.#supports.set(value, set);
    }
    return set;
  }

  #supportOf(value: Value): IndexSet {
    if (value.type.kind === 'tuple') return ALL;
    const { op, inputs, attrs } = value;
    const type = typeOf(value);
    const place = coordinates(type.shape.length);
    const [zero, dtype] = [s.literal(0, type.dtype), type.dtype];
    if (dtype === 'bool' || isInt(dtype) || FEW_VALUES.has(op.name) || uniformOf(value) !== undefined) {
      const e = this.element(value, place);
      return where(dtype === 'bool' ? e : s.ne(e, zero));
    }
    const broadcast = (n: number): IndexSet => {
      const roles = broadcastAxes(inputs.map(typeOf))[n]!;
      const own = typeOf(inputs[n]!).shape;
      const skip = place.length - own.length;
      return moved(this.support(inputs[n]!), (i) => (roles[i] === 'mix' ? s.literal(0) : place[i + skip]), own.length);
    };
    switch (op.name) {
      case 'mul':
        return this.#strictNaN ? or(broadcast(0), broadcast(1)) : and(broadcast(0), broadcast(1));
      case 'div':
        return this.#strictNaN ? ALL : broadcast(0);
      case 'add':
      case 'sub':
        return or(broadcast(0), broadcast(1));
      case 'select': {
        const roles = broadcastAxes(inputs.map(typeOf))[0]!;
        const skip = place.length - typeOf(inputs[0]!).shape.length;
        const at = typeOf(inputs[0]!).shape.map((_, i) => (roles[i] === 'mix' ? s.literal(0) : place[i + skip]!));
        const condition = this.element(inputs[0]!, at);
        return or(and(where(condition), broadcast(1)), and(whereNot(condition), broadcast(2)));
      }
      case 'one_hot': {
        if (attrs.off !== 0) return ALL;
        const axis = normalizeAxis(Number(attrs.axis), place.length);
        return where(this.image(inputs[0]!, place.toSpliced(axis, 1), place[axis]!, type.shape[axis]!));
      }
      case 'reduce_sum':
      case 'reduce_mean': {
        const { shape } = typeOf(inputs[0]!);
        const gone = normalizeAxes(attrs.axes as readonly number[], shape.length);
        const inner = gone.reduce((set, axis) => exists(set, coordinate(axis), shape[axis]!), this.support(inputs[0]!));
        let next = 0;
        const to = shape.map((_, axis) => {
          if (!gone.includes(axis)) return place[next++];
          if (attrs.keepdims === true) next++;
          return undefined;
        });
        return moved(inner, (axis) => to[axis], shape.length);
      }
    }
    if (op.lower.kind === 'view') {
      const from = op.lower.from(place, { attrs, inputs: inputs.map(typeOf), out: type });
      return moved(this.support(inputs[0]!), (axis) => from[axis], from.length);
    }
    return ZERO_TO_ZERO.has(op.name) ? this.support(inputs[0]!) : ALL;
  }
}

/** Ops on floats whose elements take few values, so that comparing them says something about conditions. */
const FEW_VALUES = new Set(['cast']);
const ZERO_TO_ZERO = new Set([
  'neg',
  'abs',
  'sqrt',
  'relu',
  'tanh',
  'erf',
  'sin',
  'gelu',
  'silu',
  'sign',
  'square',
  'round',
  'floor',
  'ceil',
  'trunc',
]);
const NON_NEGATIVE = new Set(['arg_max', 'arg_min']);

/** Whether no element of an index tensor can be negative. */
export function isNonNegative(v: Value): boolean {
  if (NON_NEGATIVE.has(v.op.name)) return true;
  if (v.op.name === 'get') return v.inputs[0]!.op.name === 'top_k' && v.attrs.index === 1;
  if (v.op.name === 'cast') return isInt(typeOf(v.inputs[0]!).dtype) && isNonNegative(v.inputs[0]!);
  if (v.op.lower.kind === 'view') return isNonNegative(v.inputs[0]!);
  const literal = literalOf(v);
  return literal?.data.every((x) => x >= 0) ?? v.op.name === 'iota';
}

/** The axis along which every line of a value holds each of 0 … size − 1 once; undefined where that is not known. */
export function permutedAxis(v: Value): number | undefined {
  if (v.op.name === 'get' && v.attrs.index === 1 && v.inputs[0]!.op.name === 'top_k') {
    const top = v.inputs[0]!;
    const { shape } = typeOf(top.inputs[0]!);
    const axis = normalizeAxis(Number(top.attrs.axis), shape.length);
    return sameDim(dim(top.attrs.k as Dim), dim(shape[axis]!)) ? axis : undefined;
  }
  if (v.op.name === 'get' && v.attrs.index === 0 && v.inputs[0]!.op.name === 'positions')
    return typeOf(v).shape.length - 1;
  return undefined;
}
