/** Arithmetic on known elements while importing: no operator on shapes reaches a kernel. */

import { isFloat, isInt } from '../../ir/dtype.ts';
import { evaluate } from '../../ir/evaluate.ts';
import type { Expr } from '../../ir/expr.ts';
import { graph, type Value } from '../../ir/graph.ts';
import { broadcastOffset, countOf, eachIndex, type Nd, nd, rowMajor } from '../../ir/nd.ts';
import { broadcastShapes } from '../../ir/ops/check.ts';
import * as s from '../../ir/scalar.ts';
import { boundsOf } from '../../ir/simplify.ts';
import { asExpr, type Dim, dim, elements, staticShape } from '../../ir/type.ts';
import { type Item, literalItem, sizesItem } from './item.ts';
import type { Node } from './node.ts';

/** Largest result that is computed while importing. */
const MAX_FOLDED = 65536;

/** The elements of a value that depends on literals only; undefined where it is too large to fold here. */
export function folded(value: Value): Nd | undefined {
  if (value.type.kind === 'tuple') return undefined;
  if (value.op.name === 'constant') return value.attrs.value as Nd;
  const shape = staticShape(value.type.shape);
  if (!shape || countOf(shape) > MAX_FOLDED) return undefined;
  return evaluate(graph('fold', [], [['y', value]]), { inputs: {}, precision: 'f32' }).y;
}

/** Operands whose elements only move, by operator; the others must be literals. */
const MOVED: Readonly<Record<string, readonly number[] | 'all'>> = {
  Identity: [0],
  Gather: [0],
  GatherElements: [0],
  GatherND: [0],
  Slice: [0],
  Squeeze: [0],
  Unsqueeze: [0],
  Reshape: [0],
  Flatten: [0],
  Transpose: [0],
  Split: [0],
  Expand: [0],
  Tile: [0],
  Concat: 'all',
  Where: [1, 2],
  ScatterElements: [0, 2],
  ScatterND: [0, 2],
};

type Arithmetic = (a: Dim, b: Dim, whole: boolean) => Dim | undefined;
const both =
  (plain: (a: number, b: number) => number, expr: (a: Expr, b: Expr) => Expr): Arithmetic =>
  (a, b) =>
    typeof a === 'number' && typeof b === 'number' ? plain(a, b) : dim(expr(asExpr(a), asExpr(b)));
const positive = (d: Dim): boolean => boundsOf(asExpr(d))[0] > 0;
const nonNegative = (d: Dim): boolean => boundsOf(asExpr(d))[0] >= 0;

const ARITHMETIC: Readonly<Record<string, Arithmetic>> = {
  Add: both((a, b) => a + b, s.add),
  Sub: both((a, b) => a - b, s.sub),
  Mul: both((a, b) => a * b, s.mul),
  // Integers divide towards zero, which is the floor where nothing is negative.
  Div: (a, b, whole) =>
    whole && nonNegative(a) && positive(b)
      ? both((x, y) => Math.floor(x / y), s.floordiv)(a, b, whole)
      : b === 1
        ? a
        : undefined,
  Mod: (a, b, whole) => (whole && positive(b) ? dim(s.floormod(asExpr(a), asExpr(b))) : undefined),
  Min: both(Math.min, s.min),
  Max: both(Math.max, s.max),
};
const COMPARISONS: Readonly<Record<string, (a: Expr, b: Expr) => Expr>> = {
  Equal: s.eq,
  Less: s.lt,
  LessOrEqual: s.le,
  Greater: s.gt,
  GreaterOrEqual: s.ge,
};
const FOLDS: Readonly<Record<string, string>> = {
  ReduceProd: 'Mul',
  ReduceSum: 'Add',
  ReduceMin: 'Min',
  ReduceMax: 'Max',
};
/** What leaves whole numbers as they are. */
const WHOLE = ['Cast', 'CastLike', 'Floor', 'Ceil', 'Round', 'Identity'];

/**
 * Results of a node on sizes; undefined where the node is not arithmetic on sizes, or its result is not one.
 * @param run the node on other operands, through its ordinary entry
 */
export function onSizes(n: Node, run: (items: readonly (Item | undefined)[]) => Item[]): Item[] | undefined {
  const { op, domain } = n.proto;
  if (domain !== '') return undefined;
  if (op === 'Shape') return [shapeOf(n)];
  if (op === 'Size') return [sizesItem('i64', [], [dim(elements(n.shape(0)))])];
  if (!n.items.some((item) => item?.dims) || n.items.every((item) => !item || item.literal)) return undefined;
  const open = n.items.some((item) => item?.dims && !item.literal);
  if (Object.hasOwn(MOVED, op)) return open ? moved(n, MOVED[op]!, run) : undefined;
  const items = n.items.filter((item) => item !== undefined).map(withDims);
  if (Object.hasOwn(FOLDS, op)) return reduced(n, ARITHMETIC[FOLDS[op]!]!);
  if (items.some((item) => !item.dims)) return undefined;
  if (Object.hasOwn(COMPARISONS, op)) return compared(items, COMPARISONS[op]!);
  if (Object.hasOwn(ARITHMETIC, op)) return combined(items, ARITHMETIC[op]!);
  if (op === 'Neg') {
    const negated = n.item(0).dims!.map((d) => dim(s.sub(0, asExpr(d))));
    return [sizesItem(n.type(0).dtype, n.shape(0) as readonly number[], negated)];
  }
  if (WHOLE.includes(op)) {
    const dtype = op === 'Cast' ? n.dtype('to')! : op === 'CastLike' ? n.type(1).dtype : n.type(0).dtype;
    if (!isInt(dtype) && !isFloat(dtype)) return undefined;
    return [sizesItem(dtype, n.shape(0) as readonly number[], n.item(0).dims!)];
  }
  return undefined;
}

/** A small stored tensor of whole numbers counts as sizes here, whatever its element type. */
function withDims(item: Item): Item {
  const shape = staticShape(item.type.shape);
  if (item.dims || !shape || countOf(shape) > 64) return item;
  const data = item.constant()?.data;
  return data?.every(Number.isSafeInteger) ? { ...item, dims: Array.from(data) } : item;
}

function shapeOf(n: Node): Item {
  const shape = n.shape(0);
  const clamp = (at: number): number => Math.min(Math.max(at < 0 ? at + shape.length : at, 0), shape.length);
  const picked = shape.slice(clamp(n.int('start', 0)), clamp(n.int('end', shape.length)));
  return sizesItem('i64', [picked.length], picked);
}

/** Elements as numbers that stand for them, moved by the ordinary entry, and read back. */
function moved(
  n: Node,
  which: readonly number[] | 'all',
  run: (items: readonly (Item | undefined)[]) => Item[],
): Item[] | undefined {
  const table: Dim[] = [];
  const items = n.items.map((item, i) => {
    if (!item || (which !== 'all' && !which.includes(i))) return item;
    const { dims, type } = item;
    if (!dims) return undefined;
    const handles = dims.map((d) => table.push(d) - 1);
    return literalItem(nd(type.dtype === 'i32' ? 'i32' : 'i64', type.shape as readonly number[], handles));
  });
  if (items.some((item, i) => n.items[i] && !item?.literal)) return undefined;
  const dtype = n.type(which === 'all' ? 0 : which[0]!).dtype;
  return run(items).map((result) => {
    const handles = result.constant()!;
    return sizesItem(
      dtype,
      handles.shape,
      Array.from(handles.data, (h) => table[h]!),
    );
  });
}

function combined(items: readonly Item[], f: Arithmetic): Item[] | undefined {
  const dtype = items[0]!.type.dtype;
  const shape = broadcastShapes(items.map((item) => item.type.shape)) as readonly number[];
  const all = items.map((item) => stretched(item, shape));
  const out: Dim[] = [];
  for (let i = 0; i < countOf(shape); i++) {
    let acc: Dim | undefined = all[0]![i]!;
    for (const next of all.slice(1)) acc = acc === undefined ? undefined : f(acc, next[i]!, isInt(dtype));
    if (acc === undefined) return undefined;
    out.push(acc);
  }
  return [sizesItem(dtype, shape, out)];
}

function stretched({ type, dims }: Item, shape: readonly number[]): Dim[] {
  const own = type.shape as readonly number[];
  const strides = rowMajor(own);
  const out: Dim[] = [];
  eachIndex(shape, (at) => out.push(dims![broadcastOffset(own, strides, at)]!));
  return out;
}

/** A comparison whose every answer follows from the bounds of the symbols. */
function compared(items: readonly Item[], f: (a: Expr, b: Expr) => Expr): Item[] | undefined {
  const shape = broadcastShapes(items.map((item) => item.type.shape)) as readonly number[];
  const [a, b] = items.map((item) => stretched(item, shape));
  const answers = a!.map((x, i) => f(asExpr(x), asExpr(b![i]!)));
  const known = answers.map(truth);
  return known.some(Number.isNaN) ? undefined : [literalItem(nd('bool', shape, known))];
}
/** 1, 0, or NaN where it depends on a symbol. */
function truth(e: Expr): number {
  if (e.op === 'const') return e.arg as number;
  const [a, b] = e.args;
  if (!a || !b) return Number.NaN;
  const [low, high] = boundsOf(s.sub(a, b));
  switch (e.op) {
    case 'eq':
      return low > 0 || high < 0 ? 0 : low === 0 && high === 0 ? 1 : Number.NaN;
    case 'lt':
      return high < 0 ? 1 : low >= 0 ? 0 : Number.NaN;
    case 'le':
      return high <= 0 ? 1 : low > 0 ? 0 : Number.NaN;
    default:
      return Number.NaN;
  }
}

/** All elements folded into one. */
function reduced(n: Node, f: Arithmetic): Item[] | undefined {
  const { dims, type } = n.item(0);
  const axes = n.items[1] ? n.ints(1) : n.intList('axes');
  if (!dims || type.shape.length > 1 || dims.length === 0 || (axes && axes.length > 1)) return undefined;
  let acc: Dim | undefined = dims[0]!;
  for (const d of dims.slice(1)) acc = acc === undefined ? undefined : f(acc, d, true);
  if (acc === undefined) return undefined;
  const keep = n.int('keepdims', 1) !== 0 && type.shape.length === 1;
  return [sizesItem(type.dtype, keep ? [1] : [], [acc])];
}
