/** Activations as exporters and authors spell them. */
import { typeOf, type Value } from '../ir/graph.ts';
import {
  gelu,
  hardSigmoid,
  hardSwish,
  leakyRelu,
  mish,
  quickGelu,
  relu,
  sigmoid,
  silu,
  softplus,
} from '../ir/ops/elementwise-activation.ts';
import { printNumber } from '../ir/print.ts';
import { asWritten, near } from './facts.ts';
import { any, exactly, number, oneOf, p, product, where } from './pattern.ts';
import { miss, type Rule, rule } from './rewrite.ts';

const x = any('x');

const half = Math.SQRT1_2;
const gaussian = p.add(p.erf(product(half, x)), exactly(1));
const RATE = Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715;
/** c · x³. */
const cube = (c: number) => oneOf(product(c, x, x, x), product(c, p.pow(x, exactly(3))), product(c, p.mul(x, x), x));
/** c · (x + 0.044715 x³), expanded or not. */
const tanhInner = (c: number) =>
  oneOf(
    product(c, p.add(x, cube(CUBIC))),
    product(c, p.add(product(CUBIC, x, x), exactly(1)), x),
    product(1, p.add(product(c * CUBIC, x, x), exactly(c)), x),
    p.add(cube(c * CUBIC), product(c, x)),
  );
/** e^(−c·x) + 1. */
const expPlus1 = (c: number) => {
  const down = c === 1 ? oneOf(p.neg(x), product(-1, x)) : oneOf(product(-c, x), p.neg(product(c, x)));
  return p.add(p.exp(down), exactly(1));
};
/** x + 3, limited to 0 … 6. */
const clipped = oneOf(
  where(p.clamp(p.add(x, exactly(3))), (v) => v.attrs.min === 0 && v.attrs.max === 6),
  p.minimum(oneOf(p.maximum(p.add(x, exactly(3)), exactly(0)), p.relu(p.add(x, exactly(3)))), exactly(6)),
  p.maximum(p.minimum(p.add(x, exactly(3)), exactly(6)), exactly(0)),
);
const SIXTH = 1 / 6;
const isSixths = (v: Value): boolean => near(Number(v.attrs.alpha), SIXTH) && near(Number(v.attrs.beta), 0.5);
const limited = (v: Value): boolean => v.attrs.min === 0 && v.attrs.max === 1;

const list = (...xs: readonly number[]): string => xs.map((n) => printNumber(Number(n.toPrecision(7)))).join(', ');

const unlike = (found: readonly number[], meant: readonly number[]): string =>
  `its constants are ${list(...found)}, and those of a gelu ${list(...meant)}`;

export const activations: readonly Rule[] = [
  rule(
    'gelu',
    oneOf(product(0.5, gaussian, x), product(1, p.add(product(0.5, p.erf(product(half, x))), exactly(0.5)), x)),
    ({ x }) => gelu([x]),
  ),
  rule('gelu', product('outer', p.add(p.erf(product('inner', x)), number('one')), any('by')), (c) => {
    const right = near(c.inner, half) && near(c.one, 1) && near(c.outer, 0.5);
    if (c.by === c.x) return right ? undefined : miss(unlike([c.inner, c.one, c.outer], [half, 1, 0.5]));
    return right ? miss('what the error function reads is not what it multiplies') : undefined;
  }),
  rule(
    'gelu-tanh',
    oneOf(
      product(0.5, p.add(p.tanh(tanhInner(RATE)), exactly(1)), x),
      product(1, p.add(product(0.5, p.tanh(tanhInner(RATE))), exactly(0.5)), x),
      product(1, p.sigmoid(tanhInner(2 * RATE)), x),
    ),
    ({ x }) => gelu([x], { approximate: 'tanh' }),
  ),
  rule(
    'gelu-tanh',
    product(
      'outer',
      p.add(
        p.tanh(
          product('rate', p.add(x, oneOf(product('cubic', x, x, x), product('cubic', p.pow(x, number('power')))))),
        ),
        number('one'),
      ),
      x,
    ),
    (c) => {
      const found = [c.outer, c.one, c.rate, c.cubic, 'power' in c ? c.power : 3];
      const meant = [0.5, 1, RATE, CUBIC, 3];
      return found.every((n, i) => near(n, meant[i]!)) ? undefined : miss(unlike(found, meant));
    },
  ),
  rule('quick-gelu', oneOf(product(1, p.sigmoid(product(1.702, x)), x), p.div(x, expPlus1(1.702))), ({ x }) =>
    quickGelu([x]),
  ),
  rule('silu', oneOf(p.mul(p.sigmoid(x), x), p.div(x, expPlus1(1))), ({ x }) => silu([x])),
  rule('sigmoid', oneOf(p.reciprocal(expPlus1(1)), p.div(exactly(1), expPlus1(1))), ({ x }) => sigmoid([x])),
  rule('relu', p.maximum(x, exactly(0)), ({ x }) => relu([x])),
  rule('leaky-relu', p.maximum(product('alpha', x), x), ({ x, alpha }) =>
    alpha > 0 && alpha < 1 ? leakyRelu([x], { alpha: asWritten(alpha, typeOf(x).dtype) }) : undefined,
  ),
  rule('softplus', p.log(p.add(p.exp(x), exactly(1))), ({ x }) => softplus([x])),
  rule('mish', p.mul(p.tanh(p.softplus(x)), x), ({ x }) => mish([x])),
  rule('hard-swish', oneOf(product(SIXTH, clipped, x), p.mul(where(p.hardSigmoid(x), isSixths), x)), ({ x }) =>
    hardSwish([x]),
  ),
  rule('hard-sigmoid', product(SIXTH, clipped), ({ x }) => hardSigmoid([x], { alpha: SIXTH, beta: 0.5 })),
  rule('hard-sigmoid', where(p.clamp(p.add(product('alpha', x), number('beta'))), limited), ({ x, alpha, beta }) =>
    hardSigmoid([x], { alpha: asWritten(alpha, typeOf(x).dtype), beta: asWritten(beta, typeOf(x).dtype) }),
  ),
];
