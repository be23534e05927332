/**
 * Rewrites a kernel into what WGSL has: f32, i32, u32 and bool. In the arena every element is one 32-bit word; weights
 * stand as in their file and are taken apart where they are read.
 */
import { fail } from '../ir/diagnostic.ts';
import { intRange, isFloat, isInt, isUnsigned, type Scalar, sizeOf } from '../ir/dtype.ts';
import { type Buffer, type Expr, exprNodes, makeExpr, type Var } from '../ir/expr.ts';
import { INTRINSICS } from '../ir/intrinsics.ts';
import { eachStmt, type Kernel, type Stmt, stmtExprs } from '../ir/kernel.ts';
import {
  add,
  and,
  bitcast,
  cast,
  ceildiv,
  floordiv,
  floormod,
  literal,
  load,
  mul,
  ne,
  not,
  shl,
  shr,
  vec,
} from '../ir/scalar.ts';
import { simplify } from '../ir/simplify.ts';
import { fromHalf, type Half } from './legalize-half.ts';
import { expandIntrinsic } from './legalize-intrinsics.ts';

/** Types of WGSL's values. */
export type Word = 'f32' | 'i32' | 'u32';

/** The type whose words hold elements of `dtype` in the arena. @throws CompileError `unsupported` for f64 */
export function wordOf(dtype: Scalar): Word {
  if (dtype === 'f64')
    fail('unsupported', 'f64 has no arithmetic on WebGPU', { help: 'cast to f32, or compile for wasm' });
  if (isFloat(dtype)) return 'f32';
  return dtype === 'bool' || isUnsigned(dtype) ? 'u32' : 'i32';
}

const isHalf = (dtype: Scalar): dtype is Half => dtype === 'f16' || dtype === 'bf16';
/** The type in which values of `dtype` are computed. */
const computed = (dtype: Scalar): Word | 'bool' => (dtype === 'bool' ? 'bool' : wordOf(dtype));
const isWord = (dtype: Scalar): boolean => dtype === 'f32' || dtype === 'i32' || dtype === 'u32';

/** A call of a function of the intrinsic table in `wgsl-math.ts`. */
export const call = (name: string, like: Expr, ...args: readonly Expr[]): Expr =>
  makeExpr('intrinsic', like.dtype, like.lanes, args, name);

/**
 * The kernel in the printable subset. Integers of 64 bits become 32 bits wide: the runtime checks what comes in, and
 * constants are checked here.
 *
 * @param isWeight  buffers that hold bytes as in the weight file
 * @throws CompileError `unsupported` for f64, `range` for a 64-bit constant that 32 bits cannot hold
 */
export function legalizeForWgsl(kernel: Kernel, isWeight: (b: Buffer) => boolean): LegalKernel {
  const rewriter = new Rewriter(isWeight, writtenIn(kernel));
  const buffers = kernel.buffers.map((b) => rewriter.buffer(b));
  return { kernel: { ...kernel, buffers, body: kernel.body.map((s) => rewriter.stmt(s)) }, buffers };
}

/** An expression over variables alone in the printable subset. */
export const legalizeExpr = (e: Expr): Expr => new Rewriter(() => false, new Set()).expr(e);

export interface LegalKernel {
  readonly kernel: Kernel;
  /** What became of each buffer of the original. */
  readonly buffers: readonly Buffer[];
}

function writtenIn(kernel: Kernel): ReadonlySet<Buffer> {
  const written = new Set<Buffer>();
  eachStmt(kernel.body, (s) => void (s.kind === 'store' && written.add(s.to)));
  for (const b of kernel.buffers) if (b.dtype === 'f64') wordOf(b.dtype);
  eachStmt(kernel.body, (s) => {
    for (const root of stmtExprs(s)) for (const e of exprNodes(root)) computed(e.dtype);
  });
  return written;
}

/** Operators whose result 64-bit operands beyond 32 bits do not change when they are clamped. */
const ORDERED = new Set<Expr['op']>(['min', 'max', 'lt', 'le', 'eq', 'ne']);

class Rewriter {
  readonly #isWeight: (b: Buffer) => boolean;
  readonly #written: ReadonlySet<Buffer>;
  readonly #buffers = new Map<Buffer, Buffer>();
  readonly #done = new Map<Expr, Expr>();

  constructor(isWeight: (b: Buffer) => boolean, written: ReadonlySet<Buffer>) {
    this.#isWeight = isWeight;
    this.#written = written;
  }

  buffer(b: Buffer): Buffer {
    const known = this.#buffers.get(b);
    if (known) return known;
    const raw = this.#isPacked(b);
    const size = raw ? ceildiv(mul(b.size, sizeOf(b.dtype)), 4) : b.size;
    const access = this.#written.has(b) || b.space !== 'global' ? 'readwrite' : 'read';
    const made: Buffer = {
      ...b,
      size: size === literal(0) && b.space !== 'global' ? literal(1) : size,
      access,
      dtype: raw ? 'u32' : wordOf(b.dtype),
    };
    this.#buffers.set(b, made);
    return made;
  }

  /** Whether elements are taken apart here; how halves of a weight are read is where they are bound (`wgsl-access.ts`). */
  #isPacked(b: Buffer): boolean {
    return this.#isWeight(b) && !isWord(b.dtype) && b.dtype !== 'f16';
  }

  stmt(s: Stmt): Stmt {
    const block = (body: readonly Stmt[]): readonly Stmt[] => body.map((x) => this.stmt(x));
    switch (s.kind) {
      case 'for': {
        const [from, to] = [this.expr(s.from), this.expr(s.to)];
        return { ...s, v: this.#rename(s.v, { from, to }), from, to, body: block(s.body) };
      }
      case 'let':
      case 'var':
      case 'subgroup': {
        const value = this.expr(s.value);
        return { ...s, v: this.#rename(s.v, s.v.arg as Var), value };
      }
      case 'set':
        return { kind: 'set', v: this.expr(s.v), value: this.expr(s.value) };
      case 'store': {
        const value = this.expr(s.value);
        const { dtype } = s.to;
        const stored =
          dtype === 'bool' ? cast(value, 'u32') : isHalf(dtype) ? call(`round_${dtype}`, value, value) : value;
        return { kind: 'store', to: this.buffer(s.to), at: this.expr(s.at), value: stored };
      }
      case 'touch':
        return { kind: 'touch', from: this.buffer(s.from), at: this.expr(s.at) };
      case 'if':
        return { kind: 'if', cond: this.expr(s.cond), then: block(s.then), else: block(s.else) };
      case 'routine': {
        const args = s.args.map((a) => this.expr(a));
        const params = s.params.map((v) => this.#rename(v, v.arg as Var));
        return { ...s, buffers: s.buffers.map((b) => this.buffer(b)), args, params, body: block(s.body) };
      }
      default:
        return s;
    }
  }

  #rename(v: Expr, { from, to }: Pick<Var, 'from' | 'to'>): Expr {
    const word = computed(v.dtype);
    // What 64 bits are known to lie in may be no range of 32.
    const [least, most] = isInt(word) ? intRange(word) : [-Infinity, Infinity];
    const known = [from, to].every((e) => e?.op !== 'const' || (Number(e.arg) >= least && Number(e.arg) <= most));
    const range = (e: Expr | undefined): Expr | undefined => (known && e ? this.expr(e) : undefined);
    const same = word === v.dtype && range(from) === from && range(to) === to && !isHalf(v.dtype);
    const fresh: Var = { kind: 'var', name: (v.arg as Var).name, from: range(from), to: range(to) };
    const renamed = same && this.#done.has(v) ? this.#done.get(v)! : makeExpr('var', word, v.lanes, [], fresh);
    this.#done.set(v, renamed);
    return renamed;
  }

  expr(e: Expr): Expr {
    const known = this.#done.get(e) ?? this.#rewrite(e);
    this.#done.set(e, known);
    return known;
  }

  #rewrite(e: Expr): Expr {
    if (e.op === 'var' || e.op === 'sym') return e;
    if (e.op === 'const') return this.#constant(e, false);
    const clamps = ORDERED.has(e.op);
    const args = e.args.map((a) => (a.op === 'const' && clamps ? this.#constant(a, true) : this.expr(a)));
    const [a, b] = args as [Expr, Expr];
    if (e.op === 'load') return this.#load(e, a);
    if (e.op === 'cast') return castTo(e.dtype, a, e.args[0]!.dtype);
    if (e.op === 'bitcast') return bitcastTo(e.dtype, a, e.args[0]!.dtype);
    if (e.op === 'intrinsic' && e.arg !== 'uniform' && String(e.arg) in INTRINSICS) return expandIntrinsic(e, args);
    const word = computed(e.dtype);
    const operand = e.args[0]!.dtype;
    if (isFloat(operand)) {
      // Values are NaN or not by their bits: a target may compute as if there were none.
      if (e.op === 'ne' && a === b) return isNaN32(a);
      if (e.op === 'eq' && a === b) return not(isNaN32(a));
      if (e.op === 'min' || e.op === 'max') return this.#extremum(e.op, a, b);
      if (FUNCTIONS.has(e.op)) return call(e.op, a, ...args);
    }
    const same = word === e.dtype && args.every((x, i) => x === e.args[i]);
    const plain = same ? e : simplify(makeExpr(e.op, word, e.lanes, args, e.arg));
    return isInt(e.dtype) && sizeOf(e.dtype) < 4 && WRAPS.has(e.op) ? wrapped(e.dtype, plain) : plain;
  }

  /** NaN if either is: a constant operand is known to be a number. */
  #extremum(op: 'min' | 'max', a: Expr, b: Expr): Expr {
    const number = (x: Expr): boolean => x.op === 'const' && !Number.isNaN(x.arg as number);
    if (number(a)) return call(`${op}_number`, b, b, a);
    return number(b) ? call(`${op}_number`, a, a, b) : call(op, a, a, b);
  }

  #constant(e: Expr, clamp: boolean): Expr {
    const value = e.arg as number;
    const word = computed(e.dtype);
    if (word === e.dtype) return e;
    if (word === 'bool' || isFloat(word) || !isInt(e.dtype)) return literal(value, word, e.lanes);
    const [low, high] = intRange(word);
    const [least, most] = intRange(e.dtype);
    if ((value < low || value > high) && !clamp && value !== least && value !== most)
      fail('range', `${e.dtype} constant ${value} does not fit the 32 bits that integers have on WebGPU`, {
        help: 'use a smaller number, or compile for wasm',
      });
    return literal(Math.min(high, Math.max(low, value)), word, e.lanes);
  }

  #load(e: Expr, at: Expr): Expr {
    const from = e.arg as Buffer;
    const to = this.buffer(from);
    if (this.#isPacked(from)) {
      if (e.lanes === 1) return unpacked(from.dtype, to, at);
      return vec(Array.from({ length: e.lanes }, (_, j) => unpacked(from.dtype, to, add(at, j))));
    }
    const words = load(to, at, e.lanes);
    return from.dtype === 'bool' ? ne(words, literal(0, 'u32', e.lanes)) : words;
  }
}

/** Functions of f32 that the intrinsic table spells. */
const FUNCTIONS = new Set<Expr['op']>(['exp', 'log', 'tanh', 'erf', 'sin', 'cos', 'pow']);
/** Operators on small integers whose 32-bit result may leave their range. */
const WRAPS = new Set<Expr['op']>(['neg', 'abs', 'not', 'add', 'sub', 'mul', 'div', 'floordiv', 'shl', 'fma', 'pow']);

/** By its bits. */
function isNaN32(x: Expr): Expr {
  if (x.lanes > 1) return makeExpr('intrinsic', 'bool', x.lanes, [x], 'is_nan');
  return makeExpr('intrinsic', 'bool', 1, [x], 'is_nan');
}

/** An integer modulo 2^bits in the range of a type narrower than 32 bits. */
function wrapped(dtype: Scalar, x: Expr): Expr {
  const bits = 8 * sizeOf(dtype);
  if (isUnsigned(dtype)) return and(x, literal(2 ** bits - 1, 'u32', x.lanes));
  const amount = literal(32 - bits, 'i32', x.lanes);
  return shr(shl(x, amount), amount);
}

/** An element of a weight narrower or wider than a word. */
function unpacked(dtype: Scalar, words: Buffer, at: Expr): Expr {
  const size = sizeOf(dtype);
  if (size === 8) return castTo(dtype, load(words, mul(at, 2)), 'u32');
  const perWord = 4 / size;
  const bits = mul(cast(floormod(at, perWord), 'u32'), literal(8 * size, 'u32'));
  const raw = and(shr(load(words, floordiv(at, perWord)), bits), literal(2 ** (8 * size) - 1, 'u32'));
  if (isHalf(dtype)) return fromHalf(dtype, bitcast(raw, 'i32'));
  if (dtype === 'bool') return ne(raw, literal(0, 'u32'));
  return isUnsigned(dtype) ? raw : wrapped(dtype, bitcast(raw, 'i32'));
}

function castTo(dtype: Scalar, x: Expr, from: Scalar): Expr {
  const word = computed(dtype);
  if (dtype === 'bool') return ne(x, literal(0, x.dtype, x.lanes));
  if (isFloat(dtype)) {
    const single = x.dtype === 'f32' ? x : cast(x, 'f32');
    return isHalf(dtype) && from !== dtype ? call(`round_${dtype}`, single, single) : single;
  }
  if (isFloat(from)) {
    const name = word === 'u32' ? 'to_u32' : 'to_i32';
    const narrow = isInt(dtype) && sizeOf(dtype) < 4;
    const [low, high] = narrow ? intRange(dtype) : [0, 0];
    const limit = (value: number): Expr => literal(value, 'f32', x.lanes);
    // Saturates before it is narrowed; NaN becomes 0 in the function.
    const within = narrow ? call('max_number', x, call('min_number', x, x, limit(high)), limit(low)) : x;
    return makeExpr('intrinsic', word, x.lanes, [within], name);
  }
  const integer = x.dtype === word ? x : x.dtype === 'bool' ? cast(x, word) : bitcast(x, word);
  const [have, want] = [from === 'bool' ? 1 : sizeOf(from), sizeOf(dtype)];
  const widens = have < want || from === dtype || (have === want && from === dtype);
  return want < 4 && !(widens && isUnsigned(from) === isUnsigned(dtype)) && from !== 'bool'
    ? wrapped(dtype, integer)
    : integer;
}

function bitcastTo(dtype: Scalar, x: Expr, from: Scalar): Expr {
  const bits = isHalf(from) ? makeExpr('intrinsic', 'i32', x.lanes, [x], `bits_${from}`) : x;
  if (isHalf(dtype)) {
    const pattern = and(bitcast(bits, 'i32'), literal(0xffff, 'i32', x.lanes));
    return fromHalf(dtype, pattern);
  }
  const word = computed(dtype);
  const same = bitcast(bits, word);
  return isInt(dtype) && sizeOf(dtype) < 4 ? wrapped(dtype, same) : same;
}
