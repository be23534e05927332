/** Constructors of scalar expressions. Each one simplifies, so a built expression is always in simplest known form. */
import { isFloat, roundTo, type Scalar } from './dtype.ts';
import {
  type BinaryOp,
  type Buffer,
  type Expr,
  type Lanes,
  makeExpr,
  type Sym,
  type UnaryOp,
  type Var,
} from './expr.ts';
import { simplify } from './simplify.ts';

/** An expression, or a number that takes the dtype and lanes of the expression beside it (`i32` when alone). */
export type Num = Expr | number;

export const literal = (value: number, dtype: Scalar = 'i32', lanes: Lanes = 1): Expr =>
  makeExpr('const', dtype, lanes, [], roundTo(dtype, value));
export const bool = (value: boolean): Expr => literal(value ? 1 : 0, 'bool');
/** A number as an `i32` index; expressions pass through. */
export const index = (value: Num): Expr => (typeof value === 'number' ? literal(value) : value);

/**
 * A size bound at run time.
 * @param options.max required: memory is planned for it. @param options.default used for counts; `min` when not given.
 * @param options.counted the graph counts it while it runs; see `counts.ts`
 */
export function symbol(
  name: string,
  options: {
    readonly min?: number;
    readonly max: number;
    readonly multipleOf?: number;
    readonly default?: number;
    readonly counted?: boolean;
  },
): Expr {
  const { min = 1, max, multipleOf = 1, counted = false } = options;
  const first = Math.ceil(min / multipleOf) * multipleOf;
  const sym: Sym = { kind: 'sym', name, min: first, max, multipleOf, default: options.default ?? first, counted };
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw new RangeError(`symbol name "${name}" is not an identifier`);
  if (![min, max, multipleOf, sym.default].every(Number.isSafeInteger) || min < 0 || multipleOf < 1)
    throw new RangeError(`symbol ${name}: bounds must be whole numbers ≥ 0`);
  if (first > max || sym.default < first || sym.default > max || sym.default % multipleOf !== 0)
    throw new RangeError(
      `symbol ${name}: no admissible size in ${min}..${max} step ${multipleOf} (default ${sym.default})`,
    );
  return makeExpr('sym', 'i32', 1, [], sym);
}

/** A fresh variable; `from ≤ v < to` lets index arithmetic simplify. */
export function variable(
  name: string,
  dtype: Scalar = 'i32',
  lanes: Lanes = 1,
  range?: { readonly from: Num; readonly to: Num },
): Expr {
  const info: Var = {
    kind: 'var',
    name,
    from: range && index(range.from),
    to: range && index(range.to),
  };
  return makeExpr('var', dtype, lanes, [], info);
}

function unify(a: Num, b: Num): readonly [Expr, Expr] {
  const like = typeof a !== 'number' ? a : typeof b !== 'number' ? b : literal(0);
  const [x, y] = [a, b].map((v) => (typeof v === 'number' ? literal(v, like.dtype, like.lanes) : v)) as [Expr, Expr];
  if (x.dtype !== y.dtype) throw new TypeError(`scalar operands differ: ${x.dtype} and ${y.dtype}`);
  if (x.lanes === y.lanes) return [x, y];
  return x.lanes === 1 ? [splat(x, y.lanes), y] : y.lanes === 1 ? [x, splat(y, x.lanes)] : mismatch(x, y);
}
function mismatch(x: Expr, y: Expr): never {
  throw new TypeError(`scalar operands differ in lanes: ${x.lanes} and ${y.lanes}`);
}

export function unary(op: UnaryOp, a: Expr): Expr {
  return simplify(makeExpr(op, a.dtype, a.lanes, [a]));
}

export function binary(op: BinaryOp, a: Num, b: Num): Expr {
  const [x, y] = unify(a, b);
  const dtype = op === 'lt' || op === 'le' || op === 'eq' || op === 'ne' ? 'bool' : x.dtype;
  return simplify(makeExpr(op, dtype, x.lanes, [x, y]));
}

export const add = (a: Num, b: Num): Expr => binary('add', a, b);
export const sub = (a: Num, b: Num): Expr => binary('sub', a, b);
export const mul = (a: Num, b: Num): Expr => binary('mul', a, b);
export const div = (a: Num, b: Num): Expr => binary('div', a, b);
export const rem = (a: Num, b: Num): Expr => binary('rem', a, b);
export const floordiv = (a: Num, b: Num): Expr => binary('floordiv', a, b);
export const floormod = (a: Num, b: Num): Expr => binary('floormod', a, b);
/** ⌈a ÷ b⌉ for a ≥ 0, b > 0. */
export const ceildiv = (a: Num, b: Num): Expr => floordiv(add(a, sub(b, 1)), b);
export const min = (a: Num, b: Num): Expr => binary('min', a, b);
export const max = (a: Num, b: Num): Expr => binary('max', a, b);
export const pow = (a: Num, b: Num): Expr => binary('pow', a, b);
export const and = (a: Num, b: Num): Expr => binary('and', a, b);
export const or = (a: Num, b: Num): Expr => binary('or', a, b);
export const xor = (a: Num, b: Num): Expr => binary('xor', a, b);
export const shl = (a: Num, b: Num): Expr => binary('shl', a, b);
export const shr = (a: Num, b: Num): Expr => binary('shr', a, b);
export const lt = (a: Num, b: Num): Expr => binary('lt', a, b);
export const le = (a: Num, b: Num): Expr => binary('le', a, b);
export const gt = (a: Num, b: Num): Expr => binary('lt', b, a);
export const ge = (a: Num, b: Num): Expr => binary('le', b, a);
export const eq = (a: Num, b: Num): Expr => binary('eq', a, b);
export const ne = (a: Num, b: Num): Expr => binary('ne', a, b);
export const neg = (a: Expr): Expr => unary('neg', a);
export const abs = (a: Expr): Expr => unary('abs', a);
export const not = (a: Expr): Expr => unary('not', a);
export const exp = (a: Expr): Expr => unary('exp', a);
/** e^a for a ≤ 0 or NaN; a target may flush results below 2^-126 to zero. */
export const expOfNonPositive = (a: Expr): Expr => makeExpr('exp', a.dtype, a.lanes, [a], 'flush');
export const log = (a: Expr): Expr => unary('log', a);
export const sqrt = (a: Expr): Expr => unary('sqrt', a);
export const tanh = (a: Expr): Expr => unary('tanh', a);
export const erf = (a: Expr): Expr => unary('erf', a);
export const sin = (a: Expr): Expr => unary('sin', a);
export const cos = (a: Expr): Expr => unary('cos', a);
export const floor = (a: Expr): Expr => unary('floor', a);
export const ceil = (a: Expr): Expr => unary('ceil', a);
export const round = (a: Expr): Expr => unary('round', a);
export const trunc = (a: Expr): Expr => unary('trunc', a);
export const isNan = (a: Expr): Expr => ne(a, a);

/** a·b + c, rounded once or twice as the target likes. */
export function fma(a: Num, b: Num, c: Num): Expr {
  const [x, y] = unify(a, b);
  const [z, w] = unify(x, c);
  const [, v] = unify(z, y);
  return simplify(makeExpr('fma', z.dtype, z.lanes, [z, v, w]));
}

export function select(condition: Expr, then: Num, otherwise: Num): Expr {
  const [a, b] = unify(then, otherwise);
  const c = condition.lanes === a.lanes ? condition : splat(condition, a.lanes);
  return simplify(makeExpr('select', a.dtype, a.lanes, [c, a, b]));
}

export const cast = (a: Expr, dtype: Scalar): Expr => simplify(makeExpr('cast', dtype, a.lanes, [a]));
export const bitcast = (a: Expr, dtype: Scalar): Expr =>
  a.dtype === dtype ? a : makeExpr('bitcast', dtype, a.lanes, [a]);
export const splat = (a: Expr, lanes: Lanes): Expr =>
  a.lanes === lanes ? a : simplify(makeExpr('splat', a.dtype, lanes, [a]));
export function extract(a: Expr, lane: number): Expr {
  if (a.op === 'splat') return a.args[0]!;
  if (a.op === 'vec') return a.args[lane]!;
  if (a.op === 'const') return makeExpr('const', a.dtype, 1, [], a.arg);
  return makeExpr('extract', a.dtype, 1, [a], lane);
}
/** Lanes of the concatenation of `a` and `b`, picked by number. */
export const shuffle = (a: Expr, b: Expr, lanes: readonly number[]): Expr =>
  makeExpr('shuffle', a.dtype, a.lanes, [a, b], lanes.join(','));

/** A vector from its lanes. */
export const vec = (lanes: readonly Expr[]): Expr =>
  lanes.every((e) => e === lanes[0])
    ? splat(lanes[0]!, lanes.length as Lanes)
    : makeExpr('vec', lanes[0]!.dtype, lanes.length as Lanes, lanes);

/** `lanes` consecutive elements of a buffer from the flat element index `at`. */
export const load = (from: Buffer, at: Num, lanes: Lanes = 1): Expr =>
  makeExpr('load', from.dtype, lanes, [index(at)], from);

/** Element of an op's operand number `n`, in masks and biases: `in3[b, k]`. */
export const operand = (n: number, dtype: Scalar, at: readonly Num[]): Expr =>
  makeExpr('operand', dtype, 1, at.map(index), n);

/** Sum of |lanes| elements, left to right. */
export function sumLanes(a: Expr): Expr {
  let total = extract(a, 0);
  for (let lane = 1; lane < a.lanes; lane++) total = add(total, extract(a, lane));
  return total;
}

/** The same expression with some sub-expressions replaced; unchanged parts keep their identity. */
export function substitute(root: Expr, replace: (e: Expr) => Expr | undefined): Expr {
  const done = new Map<Expr, Expr>();
  const visit = (e: Expr): Expr => {
    const known = done.get(e);
    if (known) return known;
    let result = replace(e);
    if (!result) {
      const args = e.args.map(visit);
      result = args.every((a, i) => a === e.args[i]) ? e : simplify(makeExpr(e.op, e.dtype, e.lanes, args, e.arg));
    }
    done.set(e, result);
    return result;
  };
  return visit(root);
}

/** Value of an integer or boolean expression under a binding of its symbols and variables. */
export function evaluateIndex(root: Expr, bind: (leaf: Expr) => number): number {
  const folded = substitute(root, (e) =>
    e.op === 'sym' || e.op === 'var' || e.op === 'operand' || e.op === 'load' ? literal(bind(e), e.dtype) : undefined,
  );
  if (folded.op !== 'const') throw new RangeError(`size does not evaluate: ${root.op} (division by zero?)`);
  return folded.arg as number;
}

/** Symbols an expression mentions, in order of first use. */
export function symbolsOf(root: Expr): readonly Expr[] {
  const found: Expr[] = [];
  substitute(root, (e) => {
    if (e.op === 'sym') found.push(e);
    return undefined;
  });
  return found;
}

export const one = (dtype: Scalar, lanes: Lanes = 1): Expr => literal(1, dtype, lanes);
export const zero = (dtype: Scalar, lanes: Lanes = 1): Expr => literal(0, dtype, lanes);
/** The additive identity under `max`: −∞ for floats, the smallest integer otherwise. */
export const lowest = (dtype: Scalar): number =>
  isFloat(dtype)
    ? -Infinity
    : dtype === 'bool' || dtype.startsWith('u')
      ? 0
      : -(2 ** (8 * ({ i64: 8, i32: 4, i16: 2, i8: 1 }[dtype as 'i64'] ?? 4) - 1));
