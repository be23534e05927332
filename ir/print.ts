/** Expressions and types as text; the graph's own text form is in `text.ts`. */
import type { Buffer, Expr, Sym, Var } from './expr.ts';
import type { Dim, ValueType } from './type.ts';

/** Infix operators with their binding strength; everything else prints as a call. */
export const INFIX: Readonly<Record<string, readonly [symbol: string, strength: number]>> = {
  or: ['||', 1],
  and: ['&&', 2],
  eq: ['==', 3],
  ne: ['!=', 3],
  lt: ['<', 4],
  le: ['<=', 4],
  add: ['+', 5],
  sub: ['-', 5],
  mul: ['*', 6],
  floordiv: ['div', 6],
  floormod: ['mod', 6],
  div: ['/', 6],
  rem: ['%', 6],
};

/** `k <= q && in3[b, k]`, `N * 4 + 1`, `min(a, b)`. Logical `and`/`or` on integers print as calls. */
export function printExpr(e: Expr, outer = 0): string {
  switch (e.op) {
    case 'const':
      return e.dtype === 'bool' ? (e.arg === 1 ? 'true' : 'false') : printNumber(e.arg as number);
    case 'sym':
      return (e.arg as Sym).name;
    case 'var':
      return (e.arg as Var).name;
    case 'operand':
      return `in${e.arg as number}[${e.args.map((a) => printExpr(a)).join(', ')}]`;
    case 'load':
      return `${(e.arg as Buffer).name}[${printExpr(e.args[0]!)}]${e.lanes > 1 ? `:${e.lanes}` : ''}`;
    case 'not':
      return `!${printExpr(e.args[0]!, 9)}`;
    case 'neg':
      return `-${printExpr(e.args[0]!, 9)}`;
    case 'cast':
    case 'bitcast':
      return `${e.op === 'cast' ? '' : 'bits_'}${e.dtype}(${printExpr(e.args[0]!)})`;
    case 'splat':
      return `splat${e.lanes}(${printExpr(e.args[0]!)})`;
    case 'extract':
      return `${printExpr(e.args[0]!, 9)}.${e.arg as number}`;
  }
  const infix = (e.op === 'and' || e.op === 'or') && e.dtype !== 'bool' ? undefined : INFIX[e.op];
  if (!infix) {
    const args = e.args.map((a) => printExpr(a));
    // Two literals do not show their dtype; i32 is what a reader assumes.
    const [, then, other] = e.args;
    if (e.op === 'select' && then?.op === 'const' && other?.op === 'const' && e.dtype !== 'i32' && e.dtype !== 'bool')
      args[1] = `${e.dtype}(${args[1]})`;
    if (typeof e.arg === 'string') args.push(e.arg);
    return `${e.op}(${args.join(', ')})`;
  }
  const [symbol, strength] = infix;
  const text = `${printExpr(e.args[0]!, strength)} ${symbol} ${printExpr(e.args[1]!, strength + 1)}`;
  return strength < outer ? `(${text})` : text;
}

export function printNumber(x: number): string {
  if (Number.isNaN(x)) return 'nan';
  if (!Number.isFinite(x)) return x < 0 ? '-inf' : 'inf';
  return Object.is(x, -0) ? '-0' : String(x);
}

export const printDim = (d: Dim): string => (typeof d === 'number' ? String(d) : printExpr(d));

export function printType(type: ValueType): string {
  if (type.kind === 'tuple') return `(${type.items.map(printType).join(', ')})`;
  return type.shape.length === 0 ? type.dtype : `${type.dtype}[${type.shape.map(printDim).join(', ')}]`;
}
