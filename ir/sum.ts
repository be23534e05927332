/**
 * One form for sums of sizes, so that equal shapes are equal expressions: each term once, with its factor, in the order of
 * their text, what is subtracted behind the rest, the constant last. `n + (m + n) - 2` is `m + n * 2 - 2`.
 */
import { type Expr, makeExpr, type Sym } from './expr.ts';

const ARITHMETIC = new Set<Expr['op']>(['add', 'sub', 'mul', 'floordiv', 'floormod', 'div', 'rem', 'min', 'max']);

const texts = new WeakMap<Expr, string>();
/** A text that tells sizes apart; empty for what is no expression over symbols alone. */
function textOf(e: Expr): string {
  if (e.op === 'const') return String(e.arg);
  if (e.op === 'sym') return (e.arg as Sym).name;
  if (!ARITHMETIC.has(e.op)) return '';
  let text = texts.get(e);
  if (text === undefined) {
    const parts = e.args.map(textOf);
    text = parts.includes('') ? '' : `(${parts.join(` ${e.op} `)})`;
    texts.set(e, text);
  }
  return text;
}

/**
 * A sum or difference in that form; undefined where an operand is not made of symbols, and for a difference in which
 * nothing cancels.
 * @param e an integer `add` or `sub` whose operands are simple
 */
export function sumOfSizes(e: Expr): Expr | undefined {
  if (e.lanes !== 1 || textOf(e) === '') return undefined;
  const terms = new Map<Expr, number>();
  let [constant, count] = [0, 0];
  const visit = (x: Expr, by: number): void => {
    const factor = x.op === 'mul' && x.args[1]!.op === 'const' ? (x.args[1]!.arg as number) : undefined;
    if (x.op === 'const') constant += by * (x.arg as number);
    else if (x.op === 'add' || x.op === 'sub') {
      visit(x.args[0]!, by);
      visit(x.args[1]!, x.op === 'add' ? by : -by);
    } else {
      const [base, times] = factor === undefined ? [x, by] : [x.args[0]!, by * factor];
      count++;
      terms.set(base, (terms.get(base) ?? 0) + times);
    }
  };
  visit(e, 1);
  const left = [...terms].filter(([, by]) => by !== 0);
  if (e.op === 'sub' && left.length === count) return undefined;
  if (![constant, ...left.map(([, by]) => by)].every((n) => n === (n | 0))) return undefined;
  left.sort(([a], [b]) => (textOf(a) < textOf(b) ? -1 : 1));
  const node = (op: 'add' | 'sub' | 'mul', a: Expr, b: Expr): Expr => makeExpr(op, e.dtype, 1, [a, b]);
  const number = (n: number): Expr => makeExpr('const', e.dtype, 1, [], n);
  const term = ([x, by]: readonly [Expr, number]): Expr =>
    by === 1 || by === -1 ? x : node('mul', x, number(Math.abs(by)));
  let sum: Expr | undefined;
  for (const t of left) if (t[1] > 0) sum = sum ? node('add', sum, term(t)) : term(t);
  for (const t of left) if (t[1] < 0) sum = node('sub', sum ?? number(0), term(t));
  if (!sum) return number(constant);
  return constant === 0 ? sum : node('add', sum, number(constant));
}
