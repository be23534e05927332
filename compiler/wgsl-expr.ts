/** Scalar expressions as WGSL text, with the functions of the intrinsic table that they call. */
import { isFloat } from '../ir/dtype.ts';
import type { Buffer, Expr, Lanes, Sym } from '../ir/expr.ts';
import { variable } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { legalizeExpr } from './wgsl-legalize.ts';
import { BUILTINS, DEFINITIONS } from './wgsl-math.ts';

/** How a buffer's elements are read, as text. */
export interface Access {
  load(at: Expr, lanes: Lanes, print: (e: Expr) => string): string;
}

/** WGSL's name of a type; `bool` has no short name for vectors. */
export function typeName(dtype: Expr['dtype'], lanes: Lanes): string {
  if (lanes === 1) return dtype;
  return dtype === 'bool' ? `vec${lanes}<bool>` : `vec${lanes}${dtype[0]}`;
}

const COMPARES: Partial<Record<Expr['op'], string>> = { lt: '<', le: '<=', eq: '==', ne: '!=' };
const INFIX: Partial<Record<Expr['op'], string>> = {
  add: '+',
  sub: '-',
  mul: '*',
  div: '/',
  rem: '%',
  and: '&',
  or: '|',
  xor: '^',
  ...COMPARES,
};
const CALLS: Partial<Record<Expr['op'], string>> = {
  abs: 'abs',
  sqrt: 'sqrt',
  floor: 'floor',
  ceil: 'ceil',
  round: 'round',
  trunc: 'trunc',
  min: 'min',
  max: 'max',
  fma: 'fma',
};
const LANES = 'xyzw';

/** Functions and constants that a module needs besides its kernel, printed once each. */
export class Library {
  readonly #functions = new Map<string, string>();
  readonly #constants = new Set<string>();
  readonly features = new Set<string>();

  /** Name of an intrinsic for operands like these. */
  call(name: string, args: readonly Expr[]): string {
    const builtin = BUILTINS[name];
    if (builtin !== undefined) {
      if (builtin.startsWith('subgroup')) this.features.add('subgroups');
      return builtin;
    }
    const definition = DEFINITIONS[name];
    if (!definition) throw new Error(`WGSL has no function ${name}`);
    const { lanes } = args[0]!;
    const title = `${name}_${lanes === 1 ? '' : lanes}`;
    if (!this.#functions.has(title)) {
      this.#functions.set(title, '');
      const params = args.map((a, i) => variable('abc'[i]!, a.dtype, lanes));
      const body = legalizeExpr(definition(...params));
      const printer = new ExprPrinter(this, new Map(params.map((p, i) => [p, 'abc'[i]!])), () => {
        throw new Error('functions read no memory');
      });
      const lines: string[] = [];
      const value = printer.shared(body, (line) => lines.push(`  ${line}`));
      const list = params.map((p, i) => `${'abc'[i]!}: ${typeName(p.dtype, lanes)}`).join(', ');
      this.#functions.delete(title);
      this.#functions.set(
        title,
        `fn ${title}(${list}) -> ${typeName(body.dtype, lanes)} {\n${[...lines, `  return ${value};`].join('\n')}\n}`,
      );
    }
    return title;
  }

  /** A variable whose bits make a number that WGSL refuses as a constant. */
  bits(pattern: string): string {
    this.#constants.add(pattern);
    return `bits_${pattern}`;
  }

  text(): string[] {
    return [...[...this.#constants].map((c) => `var<private> bits_${c}: u32 = 0x${c}u;`), ...this.#functions.values()];
  }
}

export class ExprPrinter {
  readonly #library: Library;
  readonly #names: Map<Expr, string>;
  readonly #access: (b: Buffer) => Access;
  #temporaries = 0;

  /** @param names  variables, symbols and named values in scope */
  constructor(library: Library, names: Map<Expr, string>, access: (b: Buffer) => Access) {
    this.#library = library;
    this.#names = names;
    this.#access = access;
  }

  /** Prints `e`; parts that occur twice are named by lines that go to `emit` first. */
  shared(e: Expr, emit: (line: string) => void): string {
    const named: { readonly part: Expr; readonly name: string; readonly text: string }[] = [];
    for (const part of partsOf(e, this.#names)) {
      const text = this.print(part);
      const name = `t${this.#temporaries + named.length}`;
      this.#names.set(part, name);
      named.push({ part, name, text });
    }
    const text = this.print(e);
    for (const { part } of named) this.#names.delete(part);
    // Addresses simplify while they are printed, so that a part may turn out to be read nowhere.
    const kept: string[] = [];
    for (const { name, text: value } of named.reverse()) {
      const later = [...kept, text].join('\n');
      if (new RegExp(`\\b${name}\\b`).test(later)) kept.unshift(`let ${name} = ${value};`);
    }
    this.#temporaries += kept.length > 0 ? named.length : 0;
    kept.forEach(emit);
    return text;
  }

  print = (e: Expr): string => {
    const name = this.#names.get(e);
    if (name !== undefined) return name;
    const p = (n: number): string => this.#operand(e.args[n]!);
    const bare = (n: number): string => this.print(e.args[n]!);
    const [a, b] = e.args as [Expr, Expr];
    switch (e.op) {
      case 'const':
        return this.#constant(e);
      case 'sym':
        throw new Error(`size ${(e.arg as Sym).name} is no parameter of the kernel`);
      case 'load':
        return this.#access(e.arg as Buffer).load(a, e.lanes, this.print);
      case 'neg':
        return `-${p(0)}`;
      case 'not':
        return e.dtype === 'bool' ? `!${p(0)}` : `~${p(0)}`;
      case 'splat':
        return `${typeName(e.dtype, e.lanes)}(${bare(0)})`;
      case 'vec':
        return `${typeName(e.dtype, e.lanes)}(${e.args.map(this.print).join(', ')})`;
      case 'extract':
        return `${p(0)}.${LANES[e.arg as number]!}`;
      case 'shuffle':
        return this.#shuffle(e);
      case 'cast':
        return this.#cast(e, a);
      case 'bitcast':
        return `bitcast<${typeName(e.dtype, e.lanes)}>(${bare(0)})`;
      case 'select': {
        // One condition for all lanes needs no vector of them.
        const one = a.op === 'splat' ? this.print(a.args[0]!) : bare(0);
        return `select(${bare(2)}, ${bare(1)}, ${one})`;
      }
      case 'shl':
      case 'shr':
        return `${p(0)} ${e.op === 'shl' ? '<<' : '>>'} ${this.#amount(b)}`;
      case 'floordiv':
      case 'floormod':
        return this.#floor(e, a, b);
      case 'ne':
        // True where either side is NaN, which WGSL's own operator does not say.
        if (isFloat(a.dtype)) return `!(${p(0)} == ${p(1)})`;
        return `${this.#side(e, 0)} != ${this.#side(e, 1)}`;
      case 'xor':
        if (e.dtype === 'bool') return `${p(0)} != ${p(1)}`;
        return `${p(0)} ^ ${p(1)}`;
      case 'and':
      case 'or': {
        const logical = e.dtype === 'bool' && e.lanes === 1;
        return `${p(0)} ${(e.op === 'and' ? '&' : '|').repeat(logical ? 2 : 1)} ${p(1)}`;
      }
      case 'fma':
        if (!isFloat(e.dtype)) return `${p(0)} * ${p(1)} + ${p(2)}`;
        return `fma(${bare(0)}, ${bare(1)}, ${bare(2)})`;
      case 'intrinsic':
        if (e.arg === 'raw_cast') return `${typeName(e.dtype, e.lanes)}(${bare(0)})`;
        if (e.arg === 'uniform') return `workgroupUniformLoad(&${bare(0)})`;
        return `${this.#library.call(String(e.arg), e.args)}(${e.args.map(this.print).join(', ')})`;
      case 'var':
        throw new Error(`a variable is used where it is not defined`);
    }
    // A negative number is taken away.
    if (e.op === 'add' && b.op === 'const' && b.lanes === 1 && (b.arg as number) < 0 && b.dtype === 'i32')
      return `${this.#side(e, 0)} - ${-(b.arg as number)}`;
    const infix = INFIX[e.op];
    if (infix !== undefined) return `${this.#side(e, 0)} ${infix} ${this.#side(e, 1)}`;
    const name2 = CALLS[e.op];
    if (name2 !== undefined) return `${name2}(${e.args.map(this.print).join(', ')})`;
    throw new Error(`WGSL has no ${e.op} of ${e.dtype}`);
  };

  /** An operand of a sum or product: products and sums need no parentheses in sums. */
  #side(e: Expr, n: number): string {
    const x = e.args[n]!;
    if (!this.#names.has(x)) {
      const sums = e.op === 'add' || (e.op === 'sub' && n === 0) || e.op in COMPARES;
      if (sums && (x.op === 'mul' || x.op === 'add' || x.op === 'sub')) return this.print(x);
      if (e.op === 'sub' && x.op === 'mul') return this.print(x);
      if (e.op === 'mul' && n === 0 && x.op === 'mul') return this.print(x);
    }
    return this.#operand(x);
  }

  /** As an operand of anything. */
  #operand(e: Expr): string {
    const text = this.print(e);
    if (/^-/.test(text)) return `(${text})`;
    return this.#names.has(e) || !NEEDS_PARENTHESES.has(e.op) || /^[\w.]+(\([^()]*\))?$/.test(text)
      ? text
      : `(${text})`;
  }

  #constant({ dtype, lanes, arg }: Expr): string {
    const value = arg as number;
    const one = dtype === 'f32' ? this.#real(value) : dtype === 'bool' ? String(value !== 0) : whole(dtype, value);
    if (lanes === 1) return one;
    return `${typeName(dtype, lanes)}(${one})`;
  }

  #real(value: number): string {
    if (Number.isNaN(value)) return `bitcast<f32>(${this.#library.bits('7fc00000')})`;
    if (value === Infinity) return `bitcast<f32>(${this.#library.bits('7f800000')})`;
    if (value === -Infinity) return `bitcast<f32>(${this.#library.bits('ff800000')})`;
    // A subnormal constant may be flushed to zero, its bits are not.
    if (value !== 0 && Math.abs(value) < 2 ** -126) {
      const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
      return `bitcast<f32>(${this.#library.bits(bits.toString(16).padStart(8, '0'))})`;
    }
    return `${shortest(value)}f`;
  }

  #cast(e: Expr, from: Expr): string {
    const type = typeName(e.dtype, e.lanes);
    return e.dtype === from.dtype ? this.print(from) : `${type}(${this.print(from)})`;
  }

  #amount(b: Expr): string {
    if (b.op === 'const') {
      const n = ((b.arg as number) & 31) >>> 0;
      return b.lanes === 1 ? `${n}u` : `vec${b.lanes}u(${n}u)`;
    }
    const text = b.dtype === 'u32' ? this.#operand(b) : `${typeName('u32', b.lanes)}(${this.print(b)})`;
    return `(${text} & ${b.lanes === 1 ? '31u' : `vec${b.lanes}u(31u)`})`;
  }

  /** Towards −∞; shifts and masks for powers of two, plain division where nothing is negative. */
  #floor(e: Expr, a: Expr, b: Expr): string {
    const quotient = e.op === 'floordiv';
    const divisor = b.op === 'const' ? (b.arg as number) : 0;
    const log = Math.log2(divisor);
    const [x, y] = [this.#operand(a), this.#operand(b)];
    if (divisor > 0 && Number.isInteger(log)) {
      const [shift, mask] = [whole('u32', log), whole(e.dtype, divisor - 1)];
      const wide = (text: string, unsigned: boolean): string =>
        e.lanes === 1 ? text : `${typeName(unsigned ? 'u32' : e.dtype, e.lanes)}(${text})`;
      return quotient ? `${x} >> ${wide(shift, true)}` : `${x} & ${wide(mask, false)}`;
    }
    if (e.dtype === 'u32' || (boundsOf(a)[0] >= 0 && boundsOf(b)[0] >= 0)) return `${x} ${quotient ? '/' : '%'} ${y}`;
    return `${this.#library.call(e.op, e.args)}(${this.print(a)}, ${this.print(b)})`;
  }

  #shuffle(e: Expr): string {
    const lanes = String(e.arg).split(',').map(Number);
    const [a, b] = e.args as [Expr, Expr];
    const of = (n: number): string => `${this.#operand(n < a.lanes ? a : b)}.${LANES[n % a.lanes]!}`;
    if (lanes.every((n) => n < a.lanes)) return `${this.#operand(a)}.${lanes.map((n) => LANES[n]!).join('')}`;
    return `${typeName(e.dtype, e.lanes)}(${lanes.map(of).join(', ')})`;
  }
}

const NEEDS_PARENTHESES = new Set<Expr['op']>([
  'neg',
  'not',
  'add',
  'sub',
  'mul',
  'div',
  'rem',
  'and',
  'or',
  'xor',
  'shl',
  'shr',
  'lt',
  'le',
  'eq',
  'ne',
  'floordiv',
  'floormod',
  'fma',
]);

function whole(dtype: Expr['dtype'], value: number): string {
  return dtype === 'u32' ? `${value}u` : value === -(2 ** 31) ? 'i32(-2147483648)' : String(value);
}

const LARGEST = 2 ** 128 - 2 ** 104;

/** The fewest digits that round to this f32. Those of the largest must not be above it: WGSL refuses such literals. */
function shortest(value: number): string {
  if (Object.is(value, -0)) return '-0.0';
  for (let digits = 1; digits < 10; digits++) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === value && Math.abs(text) <= LARGEST) return String(text).replace('e+', 'e');
  }
  return String(value);
}

/** Nested deeper than this, an expression is named in parts: parsers of WGSL have limits, and so have readers. */
const DEEP = 12;

/** Parts of expressions that are worth a name: read twice or more, or deep, and no leaf. Operands before users. */
function partsOf(root: Expr, named: ReadonlyMap<Expr, unknown>): readonly Expr[] {
  const uses = new Map<Expr, number>();
  const order: Expr[] = [];
  const visit = (e: Expr): void => {
    const count = (uses.get(e) ?? 0) + 1;
    uses.set(e, count);
    if (count > 1 || named.has(e)) return;
    e.args.forEach(visit);
    order.push(e);
  };
  visit(root);
  const depths = new Map<Expr, number>();
  return order.filter((e) => {
    const depth = 1 + e.args.reduce((most, a) => Math.max(most, depths.get(a) ?? 0), 0);
    const names = e !== root && e.args.length > 0 && (depth > DEEP || (uses.get(e)! > 1 && !isCheap(e)));
    depths.set(e, names ? 0 : depth);
    return names;
  });
}

/** As short as a name would be. */
const isCheap = (e: Expr): boolean =>
  e.op === 'extract' ||
  (e.op === 'splat' && e.args[0]!.op === 'const') ||
  (e.op === 'neg' && e.args[0]!.args.length === 0);
