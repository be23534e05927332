/** Functions of f64 that modules call: imports from `Math`, and those that `Math` lacks, written out. */
import type { Callable, FunctionBuilder, ModuleBuilder } from './wasm-encode.ts';

/** Functions of `Math` that modules import under `m`, with their number of arguments. */
export const MATH_IMPORTS: Readonly<Record<string, number>> = { exp: 1, log: 1, tanh: 1, sin: 1, cos: 1, pow: 2 };

/** Functions that modules define themselves, with the imports that they call. */
const DEFINED: Readonly<Record<string, { readonly uses: readonly string[]; readonly define: Define }>> = {
  erf: { uses: ['exp'], define: defineErf },
  pow: { uses: ['pow'], define: definePow },
  rem: { uses: [], define: defineRem },
};
type Define = (module: ModuleBuilder, math: ReadonlyMap<string, Callable>) => Callable;

/** True for the names that {@link provideMath} can provide. */
export const isMathName = (name: string): boolean => Object.hasOwn(MATH_IMPORTS, name) || Object.hasOwn(DEFINED, name);

/** Imports or defines functions by name; call before the first kernel is printed. */
export function provideMath(module: ModuleBuilder, names: Iterable<string>): ReadonlyMap<string, Callable> {
  const wanted = [...new Set(names)].sort();
  const imports = new Set(wanted.flatMap((name) => DEFINED[name]?.uses ?? [name]));
  const math = new Map<string, Callable>();
  for (const name of [...imports].sort())
    math.set(name, module.importFunction('m', name, Array(MATH_IMPORTS[name]!).fill('f64'), ['f64']));
  const own = wanted.flatMap((name) => {
    const { define } = DEFINED[name] ?? {};
    return define ? [[name, define(module, math)] as const] : [];
  });
  return new Map([...math, ...own]);
}

/** C `pow`: `Math.pow`, but 1 to any power and ±1 to an infinite power are 1. */
function definePow(module: ModuleBuilder, math: ReadonlyMap<string, Callable>): Callable {
  const f = module.function('pow', ['f64', 'f64'], ['f64']);
  const [x, y] = [f.param(0), f.param(1)];
  f.f64(1).get(x).get(y).call(math.get('pow')!);
  f.get(x).f64(1).op('f64.eq');
  f.get(x).op('f64.abs').f64(1).op('f64.eq').get(y).op('f64.abs').f64(Infinity).op('f64.eq').op('i32.and');
  return f.op('i32.or').select();
}

/** C `fmod`, exact: long division in binary, one bit of the quotient a round. */
function defineRem(module: ModuleBuilder): Callable {
  const f = module.function('rem', ['f64', 'f64'], ['f64']);
  const [x, y] = [f.param(0), f.param(1)];
  const [rest, unit, part] = [f.local('f64'), f.local('f64'), f.local('f64')];
  f.get(x).op('f64.abs').set(rest);
  f.get(y).op('f64.abs').set(unit);
  // NaN unless x is finite and y is a number other than 0.
  f.get(rest).f64(Infinity).op('f64.lt').get(unit).f64(0).op('f64.gt').op('i32.and').op('i32.eqz');
  f.if(() => f.f64(NaN).return());
  f.get(rest).get(unit).op('f64.lt');
  f.if(() => f.get(x).return());
  // The largest unit·2^n that is not above the rest; halving it afterwards is exact.
  f.get(unit).set(part);
  f.block((end) =>
    f.loop((top) => {
      f.get(part).get(rest).f64(0.5).op('f64.mul').op('f64.le').op('i32.eqz').brIf(end);
      f.get(part).f64(2).op('f64.mul').set(part).br(top);
    }),
  );
  f.block((end) =>
    f.loop((top) => {
      f.get(rest).get(part).op('f64.ge');
      f.if(() => f.get(rest).get(part).op('f64.sub').set(rest));
      f.get(part).get(unit).op('f64.le').brIf(end);
      f.get(part).f64(0.5).op('f64.mul').set(part).br(top);
    }),
  );
  return f.get(rest).get(x).op('f64.copysign');
}

/** Where the series of erf gives way to the continued fraction, and how deep that goes for 16 digits there. */
const TAIL = 2;
const DEPTH = 56;
const TWO_OVER_SQRT_PI = 1.1283791670955126;
const ONE_OVER_SQRT_PI = 0.5641895835477563;

/** erf to about 1e-15, by the series e^(−x²)·Σ 2ⁿx^(2n+1)/(2n+1)!! and a continued fraction (A&S 7.1.6, 7.1.14). */
function defineErf(module: ModuleBuilder, math: ReadonlyMap<string, Callable>): Callable {
  const f = module.function('erf', ['f64'], ['f64']);
  const x = f.param(0);
  const [a, n, term, sum, factor] = Array.from({ length: 5 }, () => f.local('f64')) as [
    Local,
    Local,
    Local,
    Local,
    Local,
  ];
  f.get(x).op('f64.abs').f64(6).op('f64.min').set(a);
  f.get(a).get(a).op('f64.mul').op('f64.neg').call(math.get('exp')!).set(factor);
  f.get(a).f64(TAIL).op('f64.lt');
  f.if(
    () => {
      f.get(a).tee(term).set(sum).f64(1).set(n);
      f.loop((top) => {
        f.get(n).f64(2).op('f64.add').set(n);
        f.get(term).get(a).op('f64.mul').get(a).op('f64.mul').f64(2).op('f64.mul').get(n).op('f64.div').tee(term);
        f.get(sum).op('f64.add').set(sum);
        f.get(term).get(sum).f64(1e-17).op('f64.mul').op('f64.gt').brIf(top);
      });
      f.get(sum).get(factor).op('f64.mul').f64(TWO_OVER_SQRT_PI).op('f64.mul').set(sum);
    },
    () => {
      f.get(a)
        .set(sum)
        .f64(DEPTH / 2)
        .set(n);
      f.loop((top) => {
        f.get(a).get(n).get(sum).op('f64.div').op('f64.add').set(sum);
        f.get(n).f64(0.5).op('f64.sub').tee(n).f64(0).op('f64.gt').brIf(top);
      });
      f.f64(1).get(factor).f64(ONE_OVER_SQRT_PI).op('f64.mul').get(sum).op('f64.div').op('f64.sub').set(sum);
    },
  );
  return f.get(sum).get(x).op('f64.copysign');
}
type Local = ReturnType<FunctionBuilder['local']>;
