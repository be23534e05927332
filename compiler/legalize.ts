/**
 * Rewrites a kernel into what the WASM printer can print: transcendental functions become polynomials or calls, halves
 * become bit patterns, vector operations without an instruction become four scalar ones, and names of integers learn
 * their ranges.
 */
import { isFloat, type Scalar } from '../ir/dtype.ts';
import { type Buffer, type Expr, type Lanes, makeExpr, type Var } from '../ir/expr.ts';
import type { Kernel, Stmt } from '../ir/kernel.ts';
import { and, bitcast, cast, extract, literal, load, vec } from '../ir/scalar.ts';
import { boundsOf, simplify } from '../ir/simplify.ts';
import { fromHalf, type Half, roundHalf, toHalf } from './legalize-half.ts';
import { expandIntrinsic } from './legalize-intrinsics.ts';
import { erfF32, expF32, expOfNonPositiveF32, logF32, tanhF32 } from './legalize-math.ts';

/**
 * The kernel in the printable subset; its buffers of halves become buffers of `u16`.
 *
 * `exp`, `log`, `tanh` and `erf` of f32 (and halves) are polynomials with the error bounds of `legalize-math.ts`; `sin`,
 * `cos`, `pow`, and everything of f64, stay and become calls. Halves are computed in f32 and rounded at `cast` and when
 * they are stored.
 */
export function legalizeKernel(kernel: Kernel): Kernel {
  const rewriter = new Rewriter();
  return {
    ...kernel,
    buffers: kernel.buffers.map((b) => rewriter.buffer(b)),
    body: kernel.body.map((s) => rewriter.stmt(s)),
  };
}

const isHalf = (dtype: Scalar): dtype is Half => dtype === 'f16' || dtype === 'bf16';
const widened = (dtype: Scalar): Scalar => (isHalf(dtype) ? 'f32' : dtype);

class Rewriter {
  readonly #buffers = new Map<Buffer, Buffer>();
  readonly #done = new Map<Expr, Expr>();

  buffer(b: Buffer): Buffer {
    const known = this.#buffers.get(b) ?? (isHalf(b.dtype) ? { ...b, dtype: 'u16' } : b);
    this.#buffers.set(b, known);
    return known;
  }

  stmt(s: Stmt): Stmt {
    switch (s.kind) {
      case 'for': {
        const [from, to] = [this.expr(s.from), this.expr(s.to)];
        const v = this.#rename(s.v, { from, to });
        return { ...s, v, from, to, body: s.body.map((x) => this.stmt(x)) };
      }
      case 'let': {
        const value = this.expr(s.value);
        return { kind: 'let', v: this.#rename(s.v, this.#rangeOf(s.v, value)), value };
      }
      case 'var': {
        const value = this.expr(s.value);
        return { kind: 'var', v: this.#rename(s.v, s.v.arg as Var), value };
      }
      case 'set':
        return { kind: 'set', v: this.expr(s.v), value: this.expr(s.value) };
      case 'store': {
        const value = this.expr(s.value);
        const stored = isHalf(s.to.dtype) ? cast(toHalf(s.to.dtype, value), 'u16') : value;
        return { kind: 'store', to: this.buffer(s.to), at: this.expr(s.at), value: stored };
      }
      case 'touch':
        return { kind: 'touch', from: this.buffer(s.from), at: this.expr(s.at) };
      case 'if':
        return {
          kind: 'if',
          cond: this.expr(s.cond),
          then: s.then.map((x) => this.stmt(x)),
          else: s.else.map((x) => this.stmt(x)),
        };
      case 'routine': {
        const args = s.args.map((a) => this.expr(a));
        const params = s.params.map((v) => this.#rename(v, v.arg as Var));
        return {
          ...s,
          buffers: s.buffers.map((b) => this.buffer(b)),
          args,
          params,
          body: s.body.map((x) => this.stmt(x)),
        };
      }
      default:
        return s;
    }
  }

  #rename(v: Expr, range: Pick<Var, 'from' | 'to'>): Expr {
    const old = v.arg as Var;
    const fresh: Var = { kind: 'var', name: old.name, from: range.from, to: range.to };
    const renamed = makeExpr('var', widened(v.dtype), v.lanes, [], fresh);
    this.#done.set(v, renamed);
    return renamed;
  }

  /** The declared range of a name, or else the range of its value. */
  #rangeOf(v: Expr, value: Expr): Pick<Var, 'from' | 'to'> {
    const { from, to } = v.arg as Var;
    if (from || to || v.dtype !== 'i32') return { from: from && this.expr(from), to: to && this.expr(to) };
    const [low, high] = boundsOf(value);
    const inRange = (x: number): boolean => Math.abs(x) < 2 ** 31 - 1;
    return { from: inRange(low) ? literal(low) : undefined, to: inRange(high) ? literal(high + 1) : undefined };
  }

  expr(e: Expr): Expr {
    const known = this.#done.get(e) ?? this.#rewrite(e);
    this.#done.set(e, known);
    return known;
  }

  #rewrite(e: Expr): Expr {
    if (e.op === 'var' || e.op === 'sym') return e;
    if (e.op === 'const') return isHalf(e.dtype) ? literal(e.arg as number, 'f32', e.lanes) : e;
    const args = e.args.map((a) => this.expr(a));
    const [a] = args as [Expr];
    if (e.op === 'load') {
      const buffer = e.arg as Buffer;
      const read = load(this.buffer(buffer), a, e.lanes);
      return isHalf(buffer.dtype) ? fromHalf(buffer.dtype, cast(read, 'i32')) : read;
    }
    if (e.op === 'cast' && isHalf(e.dtype)) return roundHalf(e.dtype, a, e.args[0]!.dtype);
    if (e.op === 'bitcast') return this.#bitcast(e, a);
    if (e.op === 'intrinsic' && !hasInstruction(e, args)) return this.expr(expandIntrinsic(e, args));
    const dtype = widened(e.dtype);
    if (dtype === 'f32') {
      const expand = e.op === 'exp' && e.arg === 'flush' ? expOfNonPositiveF32 : POLYNOMIALS[e.op];
      if (expand) return expand(a);
    }
    const same = dtype === e.dtype && args.every((x, i) => x === e.args[i]);
    const plain = same ? e : simplify(makeExpr(e.op, dtype, e.lanes, args, e.arg));
    return plain.lanes > 1 && needsScalars(plain) ? perLane(plain) : plain;
  }

  #bitcast(e: Expr, a: Expr): Expr {
    const from = e.args[0]!.dtype;
    if (isHalf(e.dtype))
      return isHalf(from) ? this.#bitsToHalf(toHalf(from, a), e.dtype) : this.#bitsToHalf(cast(a, 'i32'), e.dtype);
    return isHalf(from) ? cast(toHalf(from, a), e.dtype) : bitcast(a, e.dtype);
  }

  #bitsToHalf(bits: Expr, dtype: Half): Expr {
    return fromHalf(dtype, and(bits, literal(0xffff, 'i32', bits.lanes)));
  }
}

const POLYNOMIALS: Partial<Record<Expr['op'], (x: Expr) => Expr>> = {
  exp: expF32,
  log: logF32,
  tanh: tanhF32,
  erf: erfF32,
};

/** Intrinsics of four lanes; bytes are widened while they are loaded, not later. */
const hasInstruction = (e: Expr, args: readonly Expr[]): boolean =>
  e.lanes === 4 && (e.arg === 'dot_pairs' || args[0]!.op === 'load');

/** Vector operations that WASM has no instruction for. */
function needsScalars(e: Expr): boolean {
  switch (e.op) {
    case 'sin':
    case 'cos':
    case 'pow':
    case 'rem':
    case 'floordiv':
    case 'floormod':
      return true;
    case 'div':
      return !isFloat(e.dtype);
    case 'shl':
    case 'shr': {
      const amount = e.args[1]!;
      return amount.op !== 'splat' && amount.op !== 'const';
    }
    default:
      return false;
  }
}

const perLane = (e: Expr): Expr =>
  vec(
    Array.from({ length: e.lanes }, (_, lane) =>
      simplify(
        makeExpr(
          e.op,
          e.dtype,
          1 satisfies Lanes,
          e.args.map((a) => extract(a, lane)),
          e.arg,
        ),
      ),
    ),
  );
