/**
 * Scalar expressions: one language for sizes, index maps, masks and kernel bodies.
 *
 * Expressions are interned: equal expressions are the same object, so `===` compares them. This file holds the nodes;
 * build them with the constructors of `scalar.ts`, which simplify.
 */
import type { Scalar } from './dtype.ts';

export type Lanes = 1 | 2 | 4 | 8 | 16;

/** Operators by arity. Comparisons give `bool`; everything else has the dtype of its operands unless said otherwise. */
export const UNARY = [
  'neg',
  'abs',
  'not', // `not` is logical on bool, bitwise on integers
  'exp',
  'log',
  'sqrt',
  'tanh',
  'erf',
  'sin',
  'cos',
  'floor',
  'ceil',
  'round', // ties to even
  'trunc',
  'cast', // to `dtype`, as `roundTo`; between integers, modulo 2^bits
  'bitcast', // same width, same bits
  'splat', // one lane to `lanes`
  'extract', // lane number in `arg`
] as const;
export const BINARY = [
  'add',
  'sub',
  'mul',
  'div',
  'rem', // IEEE quotient and C `fmod` on floats; on integers towards zero, sign of the dividend
  'floordiv',
  'floormod', // integers: towards −∞, sign of the divisor
  'min',
  'max', // NaN if either is NaN
  'pow',
  'and',
  'or',
  'xor',
  'shl',
  'shr', // logical on bool, bitwise on integers; `shr` is arithmetic on signed types
  'lt',
  'le',
  'eq',
  'ne',
] as const;
export const TERNARY = [
  'fma', // a·b + c, rounded once or twice as the target likes
  'select', // select(condition, then, else); both sides may be evaluated
] as const;

export type UnaryOp = (typeof UNARY)[number];
export type BinaryOp = (typeof BINARY)[number];
export type TernaryOp = (typeof TERNARY)[number];
export type ExprOp =
  | 'const' // arg: its value
  | 'sym' // arg: a Sym, a size known only at run time
  | 'var' // arg: a Var: loop index, let or var of a kernel, coordinate of a mask
  | 'operand' // arg: operand number; args: coordinates. An element of an op's input, in masks and biases
  | 'load' // arg: a Buffer; args: [flat element index]; `lanes` consecutive elements
  | 'vec' // args: one scalar for each lane
  | 'shuffle' // args: [a, b] of `lanes`; arg: lane numbers "0,4,1,5"
  | 'intrinsic' // arg: a name of the per-target table
  | UnaryOp
  | BinaryOp
  | TernaryOp;

/** A size known when a model runs. Two symbols are the same iff all their fields are equal. */
export interface Sym {
  readonly kind: 'sym';
  readonly name: string;
  readonly min: number;
  readonly max: number;
  readonly multipleOf: number;
  /** The size used for counts and plans when nobody binds the symbol. */
  readonly default: number;
  /** Counted by the graph while it runs (`ir/counts.ts`), instead of given by the shape of an input. */
  readonly counted: boolean;
}

/** A named variable of a kernel or coordinate of a mask; identity is the object. `from ≤ v < to` where known. */
export interface Var {
  readonly kind: 'var';
  readonly name: string;
  readonly from: Expr | undefined;
  readonly to: Expr | undefined;
}

/** Where a buffer lives: the session's arena, one workgroup, or one invocation. */
export type Space = 'global' | 'shared' | 'local';

export interface Buffer {
  readonly kind: 'buffer';
  readonly name: string;
  readonly dtype: Scalar;
  readonly space: Space;
  /** Elements. */
  readonly size: Expr;
  readonly access: 'read' | 'write' | 'readwrite';
}

export type ExprArg = number | string | Sym | Var | Buffer | undefined;

export interface Expr {
  readonly op: ExprOp;
  readonly dtype: Scalar;
  readonly lanes: Lanes;
  readonly args: readonly Expr[];
  readonly arg: ExprArg;
  /** Creation number: a cheap stable key and a deterministic order within one process. */
  readonly id: number;
}

const table = new Map<string, WeakRef<Expr>>();
/** Entries at which the table is cleared of nodes that nobody holds any more. */
let sweepAt = 1 << 16;
const argIds = new WeakMap<object, number>();
let nextId = 0;

function argKey(arg: ExprArg): string {
  if (arg === undefined) return '';
  if (typeof arg === 'number') return Object.is(arg, -0) ? 'n-0' : `n${arg}`;
  if (typeof arg === 'string') return `s${arg}`;
  if (arg.kind === 'sym') return `y${arg.name}|${arg.min}|${arg.max}|${arg.multipleOf}|${arg.default}|${arg.counted}`;
  let id = argIds.get(arg);
  if (id === undefined) {
    id = nextId++;
    argIds.set(arg, id);
  }
  return `o${id}`;
}

/** The interned node. Only `scalar.ts`, `simplify.ts` and rewrites that keep simplified form should call this. */
export function makeExpr(op: ExprOp, dtype: Scalar, lanes: Lanes, args: readonly Expr[], arg?: ExprArg): Expr {
  let key = `${op}:${dtype}:${lanes}:${argKey(arg)}`;
  for (const a of args) key += `,${a.id}`;
  const known = table.get(key)?.deref();
  if (known) return known;
  const expr: Expr = Object.freeze({ op, dtype, lanes, args: Object.freeze([...args]), arg, id: nextId++ });
  table.set(key, new WeakRef(expr));
  if (table.size >= sweepAt) sweep();
  return expr;
}

function sweep(): void {
  for (const [key, ref] of table) if (ref.deref() === undefined) table.delete(key);
  sweepAt = Math.max(1 << 16, 2 * table.size);
}

/** Every node below `root`, each once, operands before users. */
export function exprNodes(root: Expr): Expr[] {
  const seen = new Set<Expr>();
  const order: Expr[] = [];
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    for (const a of e.args) visit(a);
    order.push(e);
  };
  visit(root);
  return order;
}
