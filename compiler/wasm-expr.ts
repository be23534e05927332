/**
 * Scalar expressions as WASM instructions. A value used more than once is computed once and kept in a local: for the
 * rest of its block when it is the same everywhere, else for the rest of its statement.
 */
import { isFloat, sizeOf } from '../ir/dtype.ts';
import type { BinaryOp, Buffer, Expr } from '../ir/expr.ts';
import { literal } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import type { Addresses } from './wasm-address.ts';
import type { Callable, FunctionBuilder, Global, Local, ValType } from './wasm-encode.ts';
import { type Locals, registerType } from './wasm-locals.ts';
import { isMathName } from './wasm-math.ts';
import { isUnsignedIn, opName, pushCast, pushConst, pushLoad, pushWrap } from './wasm-ops.ts';

/** The function that an operator of the printed program calls, if any. */
export const mathOf = (e: Expr): string | undefined => (isMathName(e.op) && isFloat(e.dtype) ? e.op : undefined);

export interface ExprOptions {
  readonly f: FunctionBuilder;
  readonly locals: Locals;
  readonly addresses: Addresses;
  readonly math: ReadonlyMap<string, Callable>;
  /** `f32x4.relaxed_madd` for `fma`. */
  readonly fma: boolean;
  /** The module variable that holds one lane of a vector constant. */
  readonly constant: (e: Expr) => Global;
  /** How often the kernel uses a pure expression. */
  readonly uses: ReadonlyMap<Expr, number>;
}

export class ExprPrinter {
  readonly #f: FunctionBuilder;
  readonly #locals: Locals;
  readonly #addresses: Addresses;
  readonly #options: ExprOptions;
  #here: ReadonlyMap<Expr, number> = new Map();

  constructor(options: ExprOptions) {
    this.#options = options;
    this.#f = options.f;
    this.#locals = options.locals;
    this.#addresses = options.addresses;
  }

  /** Announces the expressions that one statement prints, so that what they share is computed once. */
  statement(roots: readonly Expr[]): void {
    const uses = new Map<Expr, number>();
    countUses(roots, this.#addresses, uses);
    this.#here = uses;
  }

  /** Leaves the value of `e` on the stack. */
  emit(e: Expr): void {
    const held = this.#locals.find(e);
    if (held) {
      this.#f.get(held);
      return;
    }
    const shared = this.#isShared(e) && (e.op !== 'const' || isPooled(e));
    if (shared && e.op === 'const') this.#pooled(e);
    else this.#compute(e);
    if (shared) this.#f.tee(this.#local(e));
  }

  /** Computes `e` now; later uses find it, until the end of the block. Only for pure expressions. */
  keep(e: Expr): void {
    if (this.#locals.find(e)) return;
    if (isPooled(e)) this.#pooled(e);
    else this.#compute(e);
    const local = this.#locals.take(registerType(e), 'block');
    this.#f.set(local);
    this.#locals.hold(e, local, 'block');
  }

  #pooled(e: Expr): void {
    this.#f.get(this.#options.constant(e)).op(e.dtype === 'f32' ? 'f32x4.splat' : 'i32x4.splat');
  }

  #isShared(e: Expr): boolean {
    const uses = this.#addresses.isPure(e) ? this.#options.uses : this.#here;
    return (uses.get(e) ?? 0) > 1;
  }

  /** A local that holds the value of `e` as long as that is the same. */
  #local(e: Expr): Local {
    const until = this.#addresses.isPure(e) ? 'block' : 'statement';
    const local = this.#locals.take(registerType(e), until);
    this.#locals.hold(e, local, until);
    return local;
  }

  /** Makes `e` available any number of times at little cost; the result pushes it. */
  #again(e: Expr): () => void {
    if (e.op === 'const') return () => pushConst(this.#f, e);
    let local = this.#locals.find(e);
    if (!local) {
      this.#compute(e);
      local = this.#local(e);
      this.#f.set(local);
    }
    const kept = local;
    return () => void this.#f.get(kept);
  }

  #compute(e: Expr): void {
    const f = this.#f;
    const [a] = e.args;
    switch (e.op) {
      case 'const':
        pushConst(f, e);
        return;
      case 'var':
      case 'sym':
        throw new Error(`wasm: variable "${describe(e)}" has no value here`);
      case 'load':
        this.#load(e.arg as Buffer, e.args[0]!, e.lanes);
        return;
      case 'splat':
        this.#splat(e, a!);
        return;
      case 'vec':
        this.#vector(e);
        return;
      case 'extract':
        this.emit(a!);
        f.lane(a!.dtype === 'f32' ? 'f32x4.extract_lane' : 'i32x4.extract_lane', e.arg as number);
        if (e.dtype === 'bool') f.i32(1).op('i32.and');
        return;
      case 'shuffle':
        for (const x of e.args) this.emit(x);
        f.shuffle((e.arg as string).split(',').flatMap((lane) => [0, 1, 2, 3].map((byte) => Number(lane) * 4 + byte)));
        return;
      case 'cast':
        this.emit(a!);
        pushCast(f, a!.dtype, e.dtype, e.lanes, (type) => this.#locals.take(type));
        return;
      case 'bitcast':
        this.#bitcast(e, a!);
        return;
      case 'select':
        if (this.#extreme(e)) return;
        for (const x of [e.args[1]!, e.args[2]!, a!]) this.emit(x);
        if (e.lanes === 1) f.select();
        else f.op('v128.bitselect');
        return;
      case 'fma':
        this.#fma(e);
        return;
      case 'intrinsic':
        this.#intrinsic(e);
        return;
      case 'operand':
        throw new Error(`wasm: ${e.op} ${String(e.arg)} cannot be printed`);
      default:
        if (mathOf(e)) this.#call(e);
        else if (e.args.length === 1) this.#unary(e, a!);
        else this.#binary(e, e.op as BinaryOp);
    }
  }

  /** p < q ? q : p and p < q ? p : q on four floats are one instruction each. */
  #extreme(e: Expr): boolean {
    const [c, then, otherwise] = e.args as [Expr, Expr, Expr];
    if (e.dtype !== 'f32' || e.lanes !== 4 || c.op !== 'lt' || this.#locals.find(c)) return false;
    const [p, q] = c.args as [Expr, Expr];
    const largest = then === q && otherwise === p;
    if (!largest && !(then === p && otherwise === q)) return false;
    for (const x of largest ? [p, q] : [q, p]) this.emit(x);
    this.#f.op(largest ? 'f32x4.pmax' : 'f32x4.pmin');
    return true;
  }

  #intrinsic(e: Expr): void {
    const [a] = e.args as [Expr];
    if (e.arg === 'dot_pairs' && e.lanes === 4) {
      for (const x of e.args) this.emit(x);
      this.#f.op('i32x4.dot_i16x8_s');
    } else if (e.arg === 'widen_pair' && e.lanes === 4 && a.op === 'load') {
      const { address, offset } = this.#addresses.accessOf(a.arg as Buffer, a.args[0]!);
      this.emit(address);
      this.#f.mem('v128.load8x8_s', offset, 2);
    } else throw new Error(`wasm: intrinsic ${String(e.arg)} of ${e.lanes} lanes cannot be printed`);
  }

  #load(buffer: Buffer, at: Expr, lanes: number): void {
    const { address, offset } = this.#addresses.accessOf(buffer, at);
    this.emit(address);
    pushLoad(this.#f, buffer.dtype, lanes, offset);
  }

  #splat(e: Expr, a: Expr): void {
    const f = this.#f;
    if (a.op === 'load' && sizeOf(a.dtype) === 4 && !this.#locals.find(a) && (this.#here.get(a) ?? 0) < 2) {
      const { address, offset } = this.#addresses.accessOf(a.arg as Buffer, a.args[0]!);
      this.emit(address);
      f.mem('v128.load32_splat', offset);
      return;
    }
    if (a.dtype === 'bool') f.i32(0);
    this.emit(a);
    if (a.dtype === 'bool') f.op('i32.sub');
    f.op(e.dtype === 'f32' ? 'f32x4.splat' : 'i32x4.splat');
  }

  #vector(e: Expr): void {
    const f = this.#f;
    registerType(e);
    const [shape, bool] = [e.dtype === 'f32' ? 'f32x4' : 'i32x4', e.dtype === 'bool'] as const;
    for (const [lane, x] of e.args.entries()) {
      if (bool) f.i32(0);
      this.emit(x);
      if (bool) f.op('i32.sub');
      if (lane === 0) f.op(opName(`${shape}.splat`));
      else f.lane(opName(`${shape}.replace_lane`), lane);
    }
  }

  #bitcast(e: Expr, a: Expr): void {
    const [from, to] = [registerType(a), registerType(e)];
    this.emit(a);
    if (sizeOf(a.dtype) !== sizeOf(e.dtype)) throw new Error(`wasm: bitcast from ${a.dtype} to ${e.dtype}`);
    if (from !== to) this.#f.op(opName(`${to}.reinterpret_${from}`));
    else if (a.dtype !== e.dtype) pushWrap(this.#f, e.dtype, e.lanes);
  }

  #fma(e: Expr): void {
    const f = this.#f;
    const [a, b, c] = e.args as [Expr, Expr, Expr];
    this.emit(a);
    this.emit(b);
    const shape = shapeOf(e);
    if (shape === 'f32x4' && this.#options.fma) {
      this.emit(c);
      f.op('f32x4.relaxed_madd');
      return;
    }
    f.op(opName(`${shape}.mul`));
    this.emit(c);
    f.op(opName(`${shape}.add`));
    pushWrap(f, e.dtype, e.lanes);
  }

  #call(e: Expr): void {
    const name = mathOf(e)!;
    const callee = this.#options.math.get(name);
    if (!callee) throw new Error(`wasm: function ${name} is not provided`);
    for (const a of e.args) {
      this.emit(a);
      if (e.dtype === 'f32') this.#f.op('f64.promote_f32');
    }
    this.#f.call(callee);
    if (e.dtype === 'f32') this.#f.op('f32.demote_f64');
  }

  #unary(e: Expr, a: Expr): void {
    const f = this.#f;
    const shape = shapeOf(e);
    const float = isFloat(e.dtype);
    const name = e.op === 'round' ? 'nearest' : e.op;
    if (float) {
      this.emit(a);
      f.op(opName(`${shape}.${name}`));
      return;
    }
    switch (e.op) {
      case 'not':
        this.emit(a);
        if (e.lanes === 4) f.op('v128.not');
        else if (e.dtype === 'bool') f.op('i32.eqz');
        else if (shape === 'i64') f.i64(-1n).op('i64.xor');
        else f.i32(-1).op('i32.xor');
        break;
      case 'neg':
      case 'abs':
        if (e.lanes === 4) {
          this.emit(a);
          if (e.op === 'neg' || !e.dtype.startsWith('u')) f.op(opName(`i32x4.${e.op}`));
        } else this.#negateOrAbs(e, a, shape as 'i32' | 'i64');
        break;
      case 'floor':
      case 'ceil':
      case 'round':
      case 'trunc':
        this.emit(a);
        return;
      default:
        throw new Error(`wasm: ${e.op} of ${e.dtype} cannot be printed`);
    }
    pushWrap(f, e.dtype, e.lanes);
  }

  #negateOrAbs(e: Expr, a: Expr, type: 'i32' | 'i64'): void {
    const f = this.#f;
    if (e.op === 'neg') {
      pushInt(f, type, 0);
      this.emit(a);
      f.op(`${type}.sub`);
      return;
    }
    if (e.dtype.startsWith('u') || e.dtype === 'bool') {
      this.emit(a);
      return;
    }
    const x = this.#again(a);
    const sign = this.#locals.take(type);
    x();
    pushInt(f, type, type === 'i32' ? 31 : 63);
    f.op(`${type}.shr_s`).set(sign);
    x();
    f.get(sign).op(`${type}.xor`).get(sign).op(`${type}.sub`);
  }

  #binary(e: Expr, op: BinaryOp): void {
    const f = this.#f;
    const [a, b] = e.args as [Expr, Expr];
    const shape = shapeOf(a);
    const unsigned = isUnsignedIn(a.dtype) || a.dtype === 'bool';
    const sign = isFloat(a.dtype) ? '' : unsigned ? '_u' : '_s';
    switch (op) {
      case 'shl':
      case 'shr': {
        this.emit(a);
        const amount = a.lanes === 4 ? uniformLane(b) : b;
        if (amount === undefined) throw new Error(`wasm: vector ${op} wants one amount for all lanes`);
        this.emit(amount);
        f.op(opName(op === 'shl' ? `${shape}.shl` : `${shape}.shr${sign}`));
        pushWrap(f, e.dtype, e.lanes);
        return;
      }
      case 'and':
      case 'or':
      case 'xor':
        this.emit(a);
        this.emit(b);
        f.op(opName(a.lanes === 4 ? `v128.${op}` : `${shape}.${op}`));
        return;
      case 'lt':
      case 'le':
        this.emit(a);
        this.emit(b);
        f.op(opName(`${shape}.${op}${sign}`));
        return;
      case 'eq':
      case 'ne':
        this.emit(a);
        this.emit(b);
        f.op(opName(`${shape}.${op}`));
        return;
      case 'min':
      case 'max':
        this.#minMax(e, op, shape, sign);
        return;
      case 'div':
      case 'rem':
      case 'floordiv':
      case 'floormod':
        if (isFloat(e.dtype)) break;
        this.#divide(e, op);
        pushWrap(f, e.dtype, e.lanes);
        return;
    }
    this.emit(a);
    this.emit(b);
    f.op(opName(`${shape}.${op}`));
    pushWrap(f, e.dtype, e.lanes);
  }

  #minMax(e: Expr, op: 'min' | 'max', shape: string, sign: string): void {
    const f = this.#f;
    const [a, b] = e.args as [Expr, Expr];
    if (isFloat(e.dtype) || e.lanes === 4 || e.dtype === 'bool') {
      this.emit(a);
      this.emit(b);
      if (e.dtype === 'bool') f.op(opName(`${e.lanes === 4 ? 'v128' : 'i32'}.${op === 'min' ? 'and' : 'or'}`));
      else f.op(opName(`${shape}.${op}${sign}`));
      return;
    }
    const [x, y] = [this.#again(a), this.#again(b)];
    x();
    y();
    x();
    y();
    f.op(opName(`${shape}.${op === 'min' ? 'lt' : 'gt'}${sign}`)).select();
  }

  /**
   * Integer quotient and remainder without traps: x ÷ 0 = x and x mod 0 = 0, also where the quotient does not fit
   * (−2^31 ÷ −1 = −2^31), as WGSL has it.
   */
  #divide(e: Expr, op: 'div' | 'rem' | 'floordiv' | 'floormod'): void {
    const f = this.#f;
    const [a, b] = e.args as [Expr, Expr];
    const type = registerType(e);
    if (type !== 'i32' && type !== 'i64') throw new Error(`wasm: vector ${op} must be taken apart before printing`);
    const positive = isUnsignedIn(e.dtype) || (isKnown(a) && isKnown(b) && boundsOf(a)[0] >= 0 && boundsOf(b)[0] >= 0);
    const floors = op === 'floordiv' || op === 'floormod';
    const quotient = op === 'div' || op === 'floordiv';
    const shift = b.op === 'const' && (positive || floors) ? powerOfTwo(b.arg as number) : undefined;
    if (shift !== undefined) {
      this.emit(a);
      pushInt(f, type, quotient ? shift : 2 ** shift - 1);
      f.op(quotient ? `${type}.shr_${positive ? 'u' : 's'}` : `${type}.and`);
      return;
    }
    const x = this.#again(a);
    const y = this.#safeDivisor(a, b, type, positive);
    if (positive || !floors) {
      x();
      y();
      f.op(opName(`${type}.${quotient ? 'div' : 'rem'}_${positive ? 'u' : 's'}`));
      return;
    }
    const rest = this.#locals.take(type);
    x();
    y();
    f.op(`${type}.rem_s`).set(rest);
    // The remainder has the dividend's sign; it is wrong when it is not 0 and the divisor has the other.
    const wrong = (): void => {
      f.get(rest);
      y();
      f.op(`${type}.xor`);
      pushInt(f, type, 0);
      f.op(`${type}.lt_s`).get(rest);
      pushInt(f, type, 0);
      f.op(`${type}.ne`).op('i32.and');
    };
    if (quotient) {
      x();
      y();
      f.op(`${type}.div_s`);
      wrong();
      if (type === 'i64') f.op('i64.extend_i32_u');
      f.op(`${type}.sub`);
    } else {
      f.get(rest);
      y();
      pushInt(f, type, 0);
      wrong();
      f.select().op(`${type}.add`);
    }
  }

  /** The divisor, or 1 where dividing by it would trap. */
  #safeDivisor(a: Expr, b: Expr, type: 'i32' | 'i64', positive: boolean): () => void {
    const f = this.#f;
    const y = this.#again(b);
    if (b.op === 'const' && b.arg !== 0 && b.arg !== -1) return y;
    if (isKnown(b) && boundsOf(b)[0] > 0) return y;
    const x = this.#again(a);
    const safe = this.#locals.take(type);
    pushInt(f, type, 1);
    y();
    y();
    f.op(`${type}.eqz`);
    if (!positive) {
      x();
      if (type === 'i32') f.i32(-(2 ** 31));
      else f.i64(-(2n ** 63n));
      f.op(`${type}.eq`);
      y();
      pushInt(f, type, -1);
      f.op(`${type}.eq`).op('i32.and').op('i32.or');
    }
    f.select().set(safe);
    return () => void f.get(safe);
  }
}

/**
 * True for vector constants that cost engines several instructions each time. They come from a module variable into a
 * local, which engines cannot see through, so that what does not fit into registers is read back from the stack.
 */
export const isPooled = (e: Expr): boolean =>
  e.op === 'const' && e.lanes === 4 && (e.dtype === 'f32' || e.dtype === 'i32') && !Object.is(e.arg, 0) && e.arg !== -1;

/** Adds how often each expression below `roots` is used to `uses`; within one call, a shared node counts its users once. */
export function countUses(roots: readonly Expr[], addresses: Addresses, uses: Map<Expr, number>): void {
  const visited = new Set<Expr>();
  const visit = (e: Expr): void => {
    uses.set(e, (uses.get(e) ?? 0) + 1);
    if (visited.has(e)) return;
    visited.add(e);
    addresses.operandsOf(e).forEach(visit);
  };
  roots.forEach(visit);
}

const shapeOf = (e: Expr): string =>
  registerType(e) !== 'v128' ? registerType(e) : e.dtype === 'f32' ? 'f32x4' : 'i32x4';

/** Interval arithmetic ignores overflow, so it is trusted for indices only. */
const isKnown = (e: Expr): boolean => e.dtype === 'i32';

function pushInt(f: FunctionBuilder, type: ValType, value: number): void {
  if (type === 'i64') f.i64(BigInt(value));
  else f.i32(value);
}

function powerOfTwo(value: number): number | undefined {
  const shift = Math.log2(value);
  return value > 0 && Number.isInteger(shift) ? shift : undefined;
}

/** The scalar that all lanes of a vector equal, where that is visible. */
export function uniformLane(e: Expr): Expr | undefined {
  if (e.op === 'splat') return e.args[0]!;
  return e.op === 'const' ? literal(e.arg as number, e.dtype) : undefined;
}

function describe(e: Expr): string {
  const { arg } = e;
  return typeof arg === 'object' && 'name' in arg ? arg.name : e.op;
}
