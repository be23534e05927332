/** Expressions over sizes, coordinates and elements as ONNX nodes. */
import { isFloat, isInt, isUnsigned, type Scalar } from '../../ir/dtype.ts';
import { type Expr, exprNodes, makeExpr } from '../../ir/expr.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { nd } from '../../ir/nd.ts';
import type { Lowering } from '../../ir/op.ts';
import { printExpr } from '../../ir/print.ts';
import { add, literal, max, min, mul, sub, variable } from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, elements, type Shape, stridesOf, type TensorType } from '../../ir/type.ts';
import { typed } from './export-types.ts';
import { type GraphWriter, int, refuse, string } from './export-writer.ts';

/** What an expression's leaves stand for. */
export interface Leaves {
  /** The tensor of a size, coordinate or element. */
  leaf(e: Expr): string;
  /** The element type in which `dtype` is computed; sizes are i64 in ONNX. */
  dtype?(dtype: Scalar): Scalar;
}

const UNARY: Readonly<Record<string, string>> = {
  neg: 'Neg',
  abs: 'Abs',
  exp: 'Exp',
  log: 'Log',
  sqrt: 'Sqrt',
  tanh: 'Tanh',
  erf: 'Erf',
  sin: 'Sin',
  cos: 'Cos',
  floor: 'Floor',
  ceil: 'Ceil',
  round: 'Round',
};
const BINARY: Readonly<Record<string, string>> = {
  add: 'Add',
  sub: 'Sub',
  mul: 'Mul',
  div: 'Div',
  min: 'Min',
  max: 'Max',
  pow: 'Pow',
  lt: 'Less',
  le: 'LessOrEqual',
  eq: 'Equal',
};
const LOGICAL: Readonly<Record<string, string>> = { and: 'And', or: 'Or', xor: 'Xor' };
const BITWISE: Readonly<Record<string, string>> = { and: 'BitwiseAnd', or: 'BitwiseOr', xor: 'BitwiseXor' };

/** The tensor of an expression; it broadcasts over whatever its leaves broadcast over. */
export function exprTensor(w: GraphWriter, root: Expr, leaves: Leaves): string {
  const known = new Map<Expr, string>();
  const dtypeOf = (e: Expr): Scalar => leaves.dtype?.(e.dtype) ?? e.dtype;
  const visit = (e: Expr): string => {
    const found = known.get(e);
    if (found !== undefined) return found;
    // The coordinates of a load are the leaf's own affair.
    if (!isLeaf(e)) e.args.forEach(visit);
    const made = isLeaf(e) ? leaves.leaf(e) : nodeOf(e);
    known.set(e, made);
    return made;
  };
  return visit(root);

  function nodeOf(e: Expr): string {
    const args = e.args.map((a) => known.get(a)!);
    const dtype = dtypeOf(e);
    const from = e.args[0] ? dtypeOf(e.args[0]) : dtype;
    const [a, b, c] = args as [string, string, string];
    if (e.op === 'const') return w.scalar(e.arg as number, dtype);
    if (UNARY[e.op]) return typed(w, UNARY[e.op]!, [a], [from], dtype);
    if (BINARY[e.op]) return typed(w, BINARY[e.op]!, [a, b], [from, from], dtype);
    switch (e.op) {
      case 'cast':
        return w.cast(a, from, dtype);
      case 'not':
        return w.node(from === 'bool' ? 'Not' : bitwise('BitwiseNot'), [a]);
      case 'ne':
        return w.node('Not', [typed(w, 'Equal', [a, b], [from, from], 'bool')]);
      case 'and':
      case 'or':
      case 'xor':
        if (dtype === 'bool') return w.node(LOGICAL[e.op]!, [a, b]);
        if (w.opset < 18 && e.op === 'and' && isLowMask(e.args[1]!))
          return typed(w, 'Mod', [a, w.scalar((e.args[1]!.arg as number) + 1, dtype)], [dtype, dtype], dtype, {
            fmod: int(0),
          });
        return w.node(bitwise(BITWISE[e.op]!), [a, b]);
      case 'shl':
      case 'shr':
        return shifted(e.op, a, b, dtype);
      case 'rem':
        return typed(w, 'Mod', [a, b], [from, from], dtype, { fmod: int(1) });
      case 'floormod':
        return floorMod(a, b, dtype);
      case 'floordiv':
        if (isFloat(dtype)) return w.node('Floor', [typed(w, 'Div', [a, b], [from, from], dtype)]);
        if (isUnsigned(dtype)) return typed(w, 'Div', [a, b], [from, from], dtype);
        return typed(
          w,
          'Div',
          [typed(w, 'Sub', [a, floorMod(a, b, dtype)], [dtype, dtype], dtype), b],
          [dtype, dtype],
          dtype,
        );
      case 'trunc':
        return isInt(dtype) ? a : w.node('Mul', [w.node('Sign', [a]), w.node('Floor', [w.node('Abs', [a])])]);
      case 'fma':
        return typed(w, 'Add', [typed(w, 'Mul', [a, b], [from, from], dtype), c], [dtype, dtype], dtype);
      case 'select':
        return w.node('Where', [a, b, c]);
      default:
        return refuse(printExpr(e), w.opset, `ONNX has no operator "${e.op}"`);
    }
  }

  function bitwise(op: string): string {
    return w.opset >= 18 ? op : refuse(op, w.opset, 'it came with opset 18', 'pass a higher opset');
  }

  /** The remainder with the divisor's sign. */
  function floorMod(a: string, b: string, dtype: Scalar): string {
    if (isInt(dtype)) return typed(w, 'Mod', [a, b], [dtype, dtype], dtype, { fmod: int(0) });
    // ONNX has it for integers only: a − floor(a / b) · b would lose digits, so the sign is put right instead.
    const rest = typed(w, 'Mod', [a, b], [dtype, dtype], dtype, { fmod: int(1) });
    const zero = w.scalar(0, dtype);
    const other = w.node('Xor', [w.node('Less', [rest, zero]), w.node('Less', [b, zero])]);
    const whole = w.node('Equal', [rest, zero]);
    return w.node('Where', [w.node('And', [other, w.node('Not', [whole])]), w.node('Add', [rest, b]), rest]);
  }

  function shifted(op: 'shl' | 'shr', a: string, b: string, dtype: Scalar): string {
    if (isUnsigned(dtype)) return w.node('BitShift', [a, b], { direction: string(op === 'shl' ? 'LEFT' : 'RIGHT') });
    // 2ᵇ in i64 is exact, and a product or floored quotient by it is the shift.
    const wide = (x: string): string => w.cast(x, dtype, 'i64');
    const power = w.cast(
      w.node('BitShift', [w.scalar(1, 'u64'), w.cast(b, dtype, 'u64')], { direction: string('LEFT') }),
      'u64',
      'i64',
    );
    if (op === 'shl') return w.cast(w.node('Mul', [wide(a), power]), 'i64', dtype);
    const rest = w.node('Mod', [wide(a), power], { fmod: int(0) });
    return w.cast(w.node('Div', [w.node('Sub', [wide(a), rest]), power]), 'i64', dtype);
  }
}

/** 2ᵏ − 1: `and` with it is the remainder by 2ᵏ. */
const isLowMask = (e: Expr): boolean =>
  e.op === 'const' && (e.arg as number) >= 0 && Number.isInteger(Math.log2((e.arg as number) + 1));
const isLeaf = (e: Expr): boolean => e.op === 'sym' || e.op === 'var' || e.op === 'operand';

/** A size, i64 of rank 0; `symbol` gives the tensor of a symbol. */
export const sizeTensor = (w: GraphWriter, size: Expr, symbol: (e: Expr) => string): string =>
  exprTensor(w, size, {
    leaf: symbol,
    dtype: (dtype) => (dtype === 'i32' ? 'i64' : dtype),
  });

/** Coordinates of the axes of `shape`, bounded so that index arithmetic simplifies. */
export const coordinates = (shape: Shape): Expr[] =>
  shape.map((d, i) => variable(`c${i}`, 'i32', 1, { from: 0, to: asExpr(d) }));

interface Place {
  /** Variables that stand for the coordinates, in order. */
  readonly at: readonly Expr[];
  readonly shape: Shape;
}

/** Numbers 0 … size − 1 along one axis of a tensor of that rank. */
function along(w: GraphWriter, size: Dim, axis: number, rank: number): string {
  const count = typeof size === 'number' ? w.scalar(size, 'i32') : w.cast(w.file.size(size), 'i64', 'i32');
  const range = w.node('Range', [w.scalar(0, 'i32'), count, w.scalar(1, 'i32')]);
  const after = rank - axis - 1;
  return after === 0 ? range : w.node('Reshape', [range, w.longs([-1, ...new Array<number>(after).fill(1)])]);
}

/**
 * An expression over coordinates and elements of operands as a tensor that broadcasts to `place.shape`.
 * @returns its name, and the axes along which it has the size of the place
 * @param operands names and types of the tensors that it loads from, by number
 */
export function gridTensor(
  w: GraphWriter,
  root: Expr,
  place: Place,
  operands: readonly { readonly name: string; readonly type: TensorType }[],
): { readonly name: string; readonly axes: ReadonlySet<number> } {
  const leaves = new Map<Expr, string>();
  const seen = new Set<number>();
  const leaf = (e: Expr): string => {
    const known = leaves.get(e);
    if (known) return known;
    const made = make(e);
    leaves.set(e, made);
    return made;
  };
  return { name: exprTensor(w, root, { leaf }), axes: seen };

  function make(e: Expr): string {
    if (e.op === 'sym') return w.cast(w.file.size(e), 'i64', 'i32');
    if (e.op === 'var') {
      const axis = place.at.indexOf(e);
      if (axis < 0) return refuse(printExpr(e), w.opset, `it is none of the coordinates`);
      seen.add(axis);
      return along(w, place.shape[axis]!, axis, place.shape.length);
    }
    const { name, type } = operands[e.arg as number]!;
    return plain(e, name, type) ?? gathered(e, name, type);
  }

  /** The operand itself, where its axes follow those of the grid. */
  function plain(e: Expr, name: string, { shape }: TensorType): string | undefined {
    const axes = e.args.map((a) => place.at.indexOf(a));
    const fits = e.args.every((a, i) => {
      const d = shape[i]!;
      if (axes[i]! < 0) return a.op === 'const' && a.arg === 0 && d === 1;
      return dim(d) === dim(place.shape[axes[i]!]!);
    });
    const used = axes.filter((axis) => axis >= 0);
    if (!fits || used.some((axis, i) => i > 0 && axis <= used[i - 1]!)) return undefined;
    for (const axis of used) seen.add(axis);
    const rank = place.shape.length;
    if (axes.length > 0 && axes.every((axis, i) => axis === i + rank - axes.length)) return name;
    if (axes.length === rank && axes.every((axis, i) => axis === i || axis < 0)) return name;
    const first = used[0] ?? rank;
    const target: Dim[] = place.shape.map((d, i) => (used.includes(i) ? d : 1));
    return w.node('Reshape', [name, w.sizes(target.slice(Math.min(first, rank)))]);
  }

  function gathered(e: Expr, name: string, { shape }: TensorType): string {
    if (e.args.length === 0) return name;
    const strides = stridesOf(shape);
    const flat = e.args.reduce<Expr>((sum, a, i) => add(sum, mul(a, strides[i]!)), literal(0));
    // The side of a select that is not taken may lie outside.
    const last = sub(elements(shape), 1);
    const inside = max(min(flat, last), 0);
    const at = exprTensor(w, inside, { leaf });
    return w.node('Gather', [w.node('Reshape', [name, w.long(-1)]), at], { axis: int(0) });
  }
}

/** Loads of operand `n` while an element is being written. */
export const loadOf =
  (types: readonly TensorType[]) =>
  (n: number, at: readonly Expr[]): Expr =>
    makeExpr('operand', types[n]!.dtype, 1, at, n);

/** A result given by its elements. */
export function elementwise(
  w: GraphWriter,
  v: Value,
  inputs: readonly string[],
  lower: Lowering<Value['attrs']>,
): string {
  const types = v.inputs.map(typeOf);
  const out = typeOf(v);
  const cx = { attrs: v.attrs, inputs: types, out };
  if (lower.kind === 'pointwise') {
    const args = types.map((t, n) => makeExpr('operand', t.dtype, 1, [], n));
    const root = lower.expr(args, cx);
    const x = exprTensor(w, root, {
      leaf: (e) => inputs[e.arg as number] ?? refuse(v.op.name, w.opset, 'unknown leaf'),
    });
    return stretched(
      w,
      x,
      exprNodes(root).some((e) => e.op === 'operand'),
      out.shape,
    );
  }
  if (lower.kind !== 'element') return refuse(v.op.name, w.opset, 'it is no function of single elements');
  if (out.shape.some((d) => d === 0)) return w.constant(nd(out.dtype, out.shape as readonly number[]));
  const at = coordinates(out.shape);
  const root = lower.element(at, loadOf(types), cx);
  const operands = inputs.map((name, n) => ({ name, type: types[n]! }));
  const { name, axes } = gridTensor(w, root, { at, shape: out.shape }, operands);
  // The first coordinate gives the result its rank.
  const whole = at.every((_, i) => axes.has(i) || (i > 0 && out.shape[i] === 1));
  return stretched(w, name, whole, out.shape);
}
const stretched = (w: GraphWriter, x: string, whole: boolean, shape: Shape): string =>
  whole ? x : w.node('Expand', [x, w.sizes(shape)]);
