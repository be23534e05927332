/** Size expressions of the IR in the form the manifest stores. */
import type { Expr, Sym } from '../ir/expr.ts';
import { symbolsOf } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { asExpr, type Dim } from '../ir/type.ts';
import type { Size, SymbolInfo } from '../runtime/manifest.ts';

const OPERATORS: Partial<Record<Expr['op'], '+' | '-' | '*' | '/' | '%' | 'min' | 'max'>> = {
  add: '+',
  sub: '-',
  mul: '*',
  floordiv: '/',
  div: '/',
  floormod: '%',
  rem: '%',
  min: 'min',
  max: 'max',
};

export function sizeOf(d: Dim): Size {
  const e = asExpr(d);
  if (e.op === 'const') return e.arg as number;
  if (e.op === 'sym') return (e.arg as Sym).name;
  const operator = OPERATORS[e.op];
  if (!operator) throw new Error(`a size may not use ${e.op}`);
  const [a, b] = [sizeOf(e.args[0]!), sizeOf(e.args[1]!)];
  // The manifest's % takes its sign from the left operand; a floored remainder has that of the right one.
  if (e.op === 'floormod' && boundsOf(e.args[0]!)[0] < 0) return ['-', a, ['*', b, ['/', a, b]]];
  return [operator, a, b];
}

/** The symbols that sizes mention, each once; not those that the program counts itself. */
export function symbolInfos(sizes: Iterable<Dim>): SymbolInfo[] {
  const found = new Map<string, SymbolInfo>();
  for (const d of sizes)
    for (const s of symbolsOf(asExpr(d))) {
      const { name, min, max, multipleOf, default: standard, counted } = s.arg as Sym;
      if (counted) continue;
      found.set(name, { name, min, max, multipleOf, default: standard });
    }
  return [...found.values()];
}
