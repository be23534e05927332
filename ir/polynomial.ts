/** Integer expressions as polynomials with integer coefficients: a normal form that decides equality of sizes. */
import type { Expr } from './expr.ts';
import type { Dim, Shape } from './type.ts';

/** Coefficient of each monomial; a monomial is the sorted ids of its factors, so that `''` is the constant term. */
type Polynomial = ReadonlyMap<string, number>;

const constantTerm = (value: number): Polynomial => new Map(value === 0 ? [] : [['', value]]);

function combine(a: Polynomial, b: Polynomial, sign: number): Polynomial {
  const sum = new Map(a);
  for (const [monomial, coefficient] of b) {
    const total = (sum.get(monomial) ?? 0) + sign * coefficient;
    if (total === 0) sum.delete(monomial);
    else sum.set(monomial, total);
  }
  return sum;
}

function product(a: Polynomial, b: Polynomial): Polynomial {
  let result: Polynomial = new Map();
  for (const [m, x] of a)
    for (const [n, y] of b) {
      const ids = [...m.split(','), ...n.split(',')].filter((id) => id !== '').sort();
      result = combine(result, new Map([[ids.join(','), x * y]]), 1);
    }
  return result;
}

function polynomialOf(size: Dim): Polynomial {
  if (typeof size === 'number') return constantTerm(size);
  const [a, b] = size.args;
  switch (size.op) {
    case 'const':
      return constantTerm(size.arg as number);
    case 'add':
      return combine(polynomialOf(a!), polynomialOf(b!), 1);
    case 'sub':
      return combine(polynomialOf(a!), polynomialOf(b!), -1);
    case 'mul':
      return product(polynomialOf(a!), polynomialOf(b!));
    default:
      return new Map([[String(size.id), 1]]);
  }
}

const same = (a: Polynomial, b: Polynomial): boolean =>
  a.size === b.size && [...a].every(([monomial, coefficient]) => b.get(monomial) === coefficient);

/** Whether two sizes are equal for every value of what they mention, whatever their written order: A·B + A = A·(B + 1). */
export const equalSizes = (a: Expr | number, b: Expr | number): boolean => same(polynomialOf(a), polynomialOf(b));

/** Whether two shapes have the same number of elements for every value of their symbols. */
export function equalElements(a: Shape, b: Shape): boolean {
  const count = (shape: Shape): Polynomial =>
    shape.reduce<Polynomial>((n, d) => product(n, polynomialOf(d)), constantTerm(1));
  return same(count(a), count(b));
}
