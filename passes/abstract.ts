/**
 * Abstract evaluation: one element of a value as an expression of coordinates, sizes and elements of other values.
 *
 * Every op that says in its lowering what an element is (arithmetic, comparisons, views, ranges, concatenation, gathers) is
 * seen through by that lowering; there is no list of ops. What remains are loads of leaves: inputs, parameters, and values
 * whose elements are not said in such terms. A leaf stands as `operand(n)`, numbered as in `leaves`.
 *
 * Floats are followed while they take few values, each on a condition: masks and what they are made of. Other floats stay
 * loads of the value itself, so that what is computed stays where it was.
 */
import { affineOf, type Box, limitsOf, plus, rangeOf } from '../ir/affine.ts';
import { isFloat, isInt } from '../ir/dtype.ts';
import { type Expr, exprNodes, makeExpr } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import * as s from '../ir/scalar.ts';
import { boundsOf, simplify } from '../ir/simplify.ts';
import { dim, type Shape } from '../ir/type.ts';
import { describeTensor } from './describe-tensor.ts';
import { literalOf, uniformOf } from './facts.ts';
import { conditionOf, type Piece, piecesOf } from './pieces.ts';

export interface AbstractOptions {
  /** The elements of a parameter, where they are known and few enough to look at. */
  readonly contents?: ((param: string) => Nd | undefined) | undefined;
}

/** Expressions beyond this many nodes are not worth following. */
const MOST_NODES = 120;

export class AbstractElements {
  /** What the loads of the expressions read: `operand(n)` is an element of `leaves[n]`. */
  readonly leaves: Value[] = [];
  /** Values at which the evaluation stopped for want of knowledge, in order; inputs and parameters are not among them. */
  readonly unknown: Value[] = [];
  readonly #box: Box;
  readonly #contents: (param: string) => Nd | undefined;
  readonly #known = new Map<Value, Map<string, Expr>>();

  /** @param coordinates variables that occur in the coordinates to be asked for; their ranges decide comparisons */
  constructor(coordinates: readonly Expr[], { contents = () => undefined }: AbstractOptions = {}) {
    this.#contents = contents;
    this.#box = new Map(
      coordinates.map((v) => {
        const { from, to } = v.arg as { readonly from: Expr; readonly to: Expr };
        return [v, { lo: affineOf(from), hi: affineOf(s.sub(to, 1)) }];
      }),
    );
  }

  /** The element of `value` at `at`, one coordinate an axis. */
  at(value: Value, at: readonly Expr[]): Expr {
    const inside = at.map((c, i) => (dim(typeOf(value).shape[i]!) === 1 ? s.literal(0) : c));
    const key = inside.map((c) => c.id).join();
    let table = this.#known.get(value);
    if (!table) {
      table = new Map();
      this.#known.set(value, table);
    }
    let e = table.get(key);
    if (!e) {
      e = this.#evaluate(value, inside);
      table.set(key, e);
    }
    return e;
  }

  /** A load of the value itself. */
  leaf(value: Value, at: readonly Expr[]): Expr {
    const known = this.leaves.indexOf(value);
    const n = known < 0 ? this.leaves.push(value) - 1 : known;
    const { shape, dtype } = typeOf(value);
    return s.operand(
      n,
      dtype,
      at.map((c, i) => (dim(shape[i]!) === 1 ? s.literal(0) : c)),
    );
  }

  /** Whether an integer leaf holds nothing but 0 and 1. */
  readonly isBinary = (load: Expr): boolean => {
    const leaf = this.leaves[load.arg as number];
    return leaf?.op.name === 'input' && leaf.attrs.binary === true;
  };

  pieces(e: Expr): readonly Piece[] | undefined {
    return piecesOf(e, this.isBinary);
  }

  /** Follows views from an element to where it comes from. */
  source(value: Value, at: readonly Expr[]): { readonly value: Value; readonly at: readonly Expr[] } {
    let [v, c] = [value, at];
    while (v.op.lower.kind === 'view') {
      const from = v.op.lower.from(c, this.#context(v));
      [v, c] = [v.inputs[0]!, from.map((e) => this.#tidy(e))];
    }
    return { value: v, at: c };
  }

  /** Coordinates of an operand that broadcasts against a result. */
  broadcast(operand: Value, at: readonly Expr[]): readonly Expr[] {
    const { shape } = typeOf(operand);
    return at.slice(at.length - shape.length).map((c, i) => (dim(shape[i]!) === 1 ? s.literal(0) : c));
  }

  #context(v: Value) {
    return { attrs: v.attrs, inputs: v.inputs.map(typeOf), out: typeOf(v) };
  }

  #stop(value: Value, at: readonly Expr[]): Expr {
    if (value.op.name !== 'input' && value.op.name !== 'param' && !this.unknown.includes(value))
      this.unknown.push(value);
    return this.leaf(value, at);
  }

  #evaluate(value: Value, at: readonly Expr[]): Expr {
    if (value.type.kind === 'tuple') return this.#stop(value, at);
    const tensor = literalOf(value) ?? (value.op.name === 'param' ? this.#stored(value) : undefined);
    if (tensor) return describeTensor(tensor, at) ?? this.leaf(value, at);
    if (value.op.name === 'cumsum') return this.#counted(value, at) ?? this.#stop(value, at);
    const { lower } = value.op;
    if (lower.kind === 'view')
      return this.at(
        value.inputs[0]!,
        lower.from(at, this.#context(value)).map((e) => this.#tidy(e)),
      );
    if (lower.kind === 'pointwise') {
      const args = value.inputs.map((x) => this.at(x, this.broadcast(x, at)));
      return this.#accept(value, at, lower.expr(args, this.#context(value)));
    }
    if (lower.kind === 'element') {
      const load = (n: number, from: readonly Expr[]): Expr =>
        this.at(
          value.inputs[n]!,
          from.map((e) => this.#tidy(e)),
        );
      return this.#accept(value, at, lower.element(at, load, this.#context(value)));
    }
    return this.#stop(value, at);
  }

  /** The elements of a parameter that stands in the weights as the graph has it. */
  #stored(param: Value): Nd | undefined {
    const found = this.#contents(String(param.attrs.name));
    const { dtype, shape } = typeOf(param);
    return found?.dtype === dtype && found.shape.join() === shape.join() ? found : undefined;
  }

  /** The running sum of a constant: a multiple of the coordinate. */
  #counted(value: Value, at: readonly Expr[]): Expr | undefined {
    const by = uniformOf(value.inputs[0]!);
    const { exclusive, reverse, axis } = value.attrs;
    const { dtype, shape } = typeOf(value);
    if (by === undefined || !isInt(dtype)) return undefined;
    const n = Number(axis) < 0 ? Number(axis) + shape.length : Number(axis);
    const steps = reverse === true ? s.sub(s.index(shape[n]!), at[n]!) : s.add(at[n]!, 1);
    const count = exclusive === true ? s.sub(steps, 1) : steps;
    return s.mul(s.cast(count, dtype), s.literal(by, dtype));
  }

  /** What the evaluation makes of a value, or a load of the value itself where that says more. */
  #accept(value: Value, at: readonly Expr[], found: Expr): Expr {
    const e = this.#tidy(found);
    if (exprNodes(e).length > MOST_NODES) return this.#stop(value, at);
    const { dtype } = typeOf(value);
    if (isFloat(dtype)) return this.pieces(e) ? e : this.leaf(value, at);
    // Elements that are picked in ways that no mask has are better said by the boolean that results.
    return dtype === 'bool' && !isPlain(e) ? this.leaf(value, at) : e;
  }

  /** Comparisons, minima and maxima that the ranges of coordinates decide, and 64-bit arithmetic that fits 32 bits. */
  #tidy(root: Expr): Expr {
    const done = new Map<Expr, Expr>();
    const below = (a: Expr, b: Expr, by: number): boolean => {
      const { hi } = rangeOf(plus(affineOf(a), affineOf(b), -1), this.#box);
      return hi !== undefined && limitsOf(hi)[1] <= by;
    };
    const visit = (e: Expr): Expr => {
      const known = done.get(e);
      if (known) return known;
      const args = e.args.map(visit);
      let r = args.every((a, i) => a === e.args[i]) ? e : simplify(makeExpr(e.op, e.dtype, e.lanes, args, e.arg));
      const [a, b] = r.args;
      if ((r.op === 'min' || r.op === 'max') && isInt(r.dtype)) {
        const [small, large] = r.op === 'min' ? [a!, b!] : [b!, a!];
        if (below(a!, b!, 0)) r = small;
        else if (below(b!, a!, 0)) r = large;
      } else if ((r.op === 'lt' || r.op === 'le') && isInt(a!.dtype)) {
        const strict = r.op === 'lt' ? 1 : 0;
        if (below(a!, b!, -strict)) r = s.bool(true);
        else if (below(b!, a!, strict - 1)) r = s.bool(false);
      } else if (r.op === 'cast' && isInt(r.dtype) && a!.dtype === 'i64') r = s.cast(narrow(a!), r.dtype);
      if (r.dtype === 'bool' && a && a.dtype !== 'bool') r = conditionOf(r, this.isBinary) ?? r;
      // What exporters make of a quotient: (x − x mod n) ÷ n.
      if ((r.op === 'div' || r.op === 'floordiv') && a!.op === 'sub' && a!.args[1]!.op === 'floormod') {
        const [x, rest] = a!.args as [Expr, Expr];
        if (rest.args[0] === x && rest.args[1] === b) r = s.floordiv(x, b!);
      }
      if (r.dtype === 'i64') {
        const small = narrow(r);
        if (small.dtype === 'i32' && small.op !== 'const') r = s.cast(small, 'i64');
      }
      done.set(e, r);
      return r;
    };
    return visit(root);
  }
}

const FOLLOWED = new Set<Expr['op']>(['add', 'sub', 'mul', 'floordiv', 'floormod', 'min', 'max', 'select']);

/** The same number as `i32` where every step fits; the expression itself elsewhere. */
function narrow(e: Expr): Expr {
  const [lo, hi] = boundsOf(e);
  if (e.dtype !== 'i64' || lo < -(2 ** 31) || hi >= 2 ** 31) return e;
  if (e.op === 'const') return s.literal(e.arg as number);
  if (e.op === 'cast') return e.args[0]!.dtype === 'i32' ? e.args[0]! : e;
  if (!FOLLOWED.has(e.op)) return e;
  const args = e.args.map((a) => (a.dtype === 'bool' ? a : narrow(a)));
  if (args.some((a) => a.dtype === 'i64')) return e;
  return simplify(makeExpr(e.op, 'i32', 1, args, e.arg));
}

const PICKING = new Set<Expr['op']>(['min', 'max', 'select', 'floordiv', 'floormod', 'operand', 'div', 'rem']);
/** Whether every load stands at coordinates and sums of them. */
const isPlain = (e: Expr): boolean =>
  exprNodes(e).every((x) => x.op !== 'operand' || x.args.every((at) => !exprNodes(at).some((y) => PICKING.has(y.op))));

/** The shape that an expression over coordinates is asked in. */
export const coordinatesOf = (shape: Shape, names: readonly string[]): readonly Expr[] =>
  shape.map((d, i) => s.variable(names[i] ?? `i${i}`, 'i32', 1, { from: 0, to: s.index(d) }));
