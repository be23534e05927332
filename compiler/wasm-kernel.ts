/** Statements of a kernel as the body of a WASM function: scopes, loops with pointers, values hoisted out of loops. */
import type { Expr } from '../ir/expr.ts';
import type { Kernel, Routine, Stmt } from '../ir/kernel.ts';
import { ceildiv, floormod, literal, mul, sub } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';
import { Addresses, type ForStmt, isInner, type Pointer } from './wasm-address.ts';
import type { Callable, FunctionBuilder, Global, Label, Local, ValType } from './wasm-encode.ts';
import { countUses, ExprPrinter, isPooled } from './wasm-expr.ts';
import { Locals, registerType } from './wasm-locals.ts';
import { pushStore } from './wasm-ops.ts';

/** Addresses of all buffers, then sizes, then `from` and `to`. */
export const parameterTypes = (kernel: Kernel): ValType[] =>
  Array.from({ length: kernel.buffers.length + kernel.params.length + 2 }, () => 'i32');

export interface KernelOptions {
  /** `f32x4.relaxed_madd` for `fma`. */
  readonly fma: boolean;
  readonly math: ReadonlyMap<string, Callable>;
  /** The function that a routine became. */
  readonly routine: (s: Routine) => Callable;
  /** The module variable that holds one lane of a vector constant. */
  readonly constant: (e: Expr) => Global;
}

/** Prints a legalized kernel into `f`, which has the parameters of {@link parameterTypes}. */
export function printKernel(kernel: Kernel, f: FunctionBuilder, options: KernelOptions): void {
  new KernelPrinter(kernel, f, options).print();
}

/** Addresses of the buffers, then the parameters. */
export const routineTypes = (s: Routine): ValType[] =>
  Array.from({ length: s.buffers.length + s.params.length }, () => 'i32');

/** Prints a legalized routine into `f`, which has the parameters of {@link routineTypes}. */
export function printRoutine(s: Routine, f: FunctionBuilder, options: KernelOptions): void {
  const { name, buffers, params, body } = s;
  new KernelPrinter({ kind: 'kernel', name, buffers, params, body }, f, options).printBody();
}

class KernelPrinter {
  readonly #kernel: Kernel;
  readonly #f: FunctionBuilder;
  readonly #locals: Locals;
  readonly #addresses: Addresses;
  readonly #exprs: ExprPrinter;
  readonly #options: KernelOptions;
  /** The innermost loop that has fences: where it ends, and a pointer to compare. */
  #fence: { readonly end: Label; readonly aligned: Pointer | undefined; count: number } | undefined;

  constructor(kernel: Kernel, f: FunctionBuilder, options: KernelOptions) {
    this.#kernel = kernel;
    this.#options = options;
    this.#f = f;
    this.#locals = new Locals(f);
    this.#addresses = new Addresses(kernel);
    const uses = new Map<Expr, number>();
    const count = (body: readonly Stmt[]): void => {
      for (const s of body) {
        countUses(this.#addresses.rootsOf(s), this.#addresses, uses);
        inner(s).forEach(count);
      }
    };
    count(kernel.body);
    this.#exprs = new ExprPrinter({ f, locals: this.#locals, addresses: this.#addresses, uses, ...options });
  }

  print(): void {
    const { buffers, params, body, name } = this.#kernel;
    const [grid] = body;
    if (body.length !== 1 || grid?.kind !== 'for' || grid.bind !== 'grid.x')
      throw new Error(`wasm: kernel ${name} must be exactly one grid.x loop`);
    this.#holdParameters();
    const from = this.#f.param(buffers.length + params.length);
    const to = this.#f.param(buffers.length + params.length + 1);
    this.#locals.hold(grid.v, from, 'block');
    this.#f.get(from).get(to).op('i32.lt_s');
    this.#f.if(() => {
      this.#hoist(grid);
      this.#f.loop((top) => {
        this.#block(grid.body);
        this.#f.get(from).i32(grid.step).op('i32.add').tee(from).get(to).op('i32.lt_s').brIf(top);
      });
    });
  }

  /** A body without grid: that of a routine. */
  printBody(): void {
    this.#holdParameters();
    this.#block(this.#kernel.body);
  }

  #holdParameters(): void {
    const { buffers, params, name } = this.#kernel;
    for (const [i, b] of buffers.entries()) {
      if (b.space === 'shared') throw new Error(`wasm: kernel ${name}: buffer ${b.name} is shared, which WASM lacks`);
      this.#locals.hold(this.#addresses.bases.get(b)!, this.#f.param(i), 'block');
    }
    for (const [i, p] of params.entries()) this.#locals.hold(p, this.#f.param(buffers.length + i), 'block');
  }

  #block(body: readonly Stmt[]): void {
    this.#locals.scope('block', () => {
      for (const s of body) {
        if (s.kind === 'for') this.#for(s);
        else if (s.kind === 'if') this.#if(s);
        else this.#simple(s);
      }
    });
  }

  #statement(roots: readonly Expr[], print: () => void): void {
    this.#locals.scope('statement', () => {
      this.#exprs.statement(roots);
      print();
    });
  }

  #simple(s: Exclude<Stmt, { kind: 'for' | 'if' }>): void {
    const f = this.#f;
    if (s.kind === 'barrier' || s.kind === 'subgroup')
      throw new Error(`wasm: kernel ${this.#kernel.name} has a ${s.kind}, which WASM lacks`);
    if (s.kind === 'fence') {
      this.#printFence();
      return;
    }
    this.#statement(this.#addresses.rootsOf(s), () => {
      switch (s.kind) {
        case 'routine':
          for (const b of s.buffers) this.#exprs.emit(this.#addresses.bases.get(b)!);
          for (const a of s.args) this.#exprs.emit(a);
          f.call(this.#options.routine(s));
          return;
        case 'store': {
          const { address, offset } = this.#addresses.accessOf(s.to, s.at);
          this.#exprs.emit(address);
          this.#exprs.emit(s.value);
          pushStore(f, s.to.dtype, s.value.lanes, offset);
          return;
        }
        case 'touch': {
          const { address, offset } = this.#addresses.accessOf(s.from, s.at);
          this.#exprs.emit(address);
          f.mem('i32.load8_u', offset).drop();
          return;
        }
        case 'let':
          this.#let(s.v, s.value);
          return;
        case 'var': {
          this.#exprs.emit(s.value);
          const local = this.#locals.take(registerType(s.v), 'block');
          f.set(local);
          this.#locals.hold(s.v, local, 'block');
          return;
        }
        case 'set': {
          this.#exprs.emit(s.value);
          const local = this.#locals.find(s.v);
          if (!local) throw new Error(`wasm: kernel ${this.#kernel.name} sets a variable that is not defined here`);
          f.set(local);
        }
      }
    });
  }

  #let(v: Expr, value: Expr): void {
    const pure = this.#addresses.isPure(value);
    if (pure) {
      this.#exprs.keep(value);
      const local = this.#locals.find(value);
      if (local) {
        this.#locals.hold(v, local, 'block');
        return;
      }
    }
    this.#exprs.emit(value);
    const local = this.#locals.take(registerType(v), 'block');
    this.#f.set(local);
    this.#locals.hold(v, local, 'block');
  }

  #if(s: Extract<Stmt, { kind: 'if' }>): void {
    this.#statement([s.cond], () => this.#exprs.emit(s.cond));
    const otherwise = s.else.length === 0 ? undefined : (): void => this.#block(s.else);
    this.#f.if(() => this.#block(s.then), otherwise);
  }

  #for(s: ForStmt): void {
    if (s.bind !== 'serial')
      throw new Error(`wasm: kernel ${this.#kernel.name} binds a loop to ${s.bind}, which WASM lacks`);
    const [from, to] = [boundsOf(s.from), boundsOf(s.to)];
    if (from[0] >= to[1]) return;
    if (from[1] < to[0]) {
      this.#locals.scope('block', () => this.#loop(s));
      return;
    }
    this.#statement([s.from, s.to], () => {
      this.#exprs.emit(s.from);
      this.#exprs.emit(s.to);
      this.#f.op('i32.lt_s');
    });
    this.#f.if(() => this.#locals.scope('block', () => this.#loop(s)));
  }

  /** The rounds of a loop that turns at least once. */
  #loop(s: ForStmt): void {
    const f = this.#f;
    this.#hoist(s);
    const pointers = this.#addresses.pointersOf(s);
    for (const p of pointers) this.#define(p.v, p.start);
    const counter = this.#counter(s, pointers);
    const rounds = (): void => {
      f.loop((top) => {
        this.#block(s.body);
        for (const p of pointers) if (p !== counter.pointer) this.#advance(p);
        this.#statement([], () => {
          counter.next();
          f.brIf(top);
        });
      });
    };
    if (!s.body.some((x) => x.kind === 'fence')) {
      rounds();
      return;
    }
    const outer = this.#fence;
    f.block((end) => {
      this.#fence = { end, aligned: pointers.find((p) => isAligned(p)), count: 0 };
      rounds();
    });
    this.#fence = outer;
  }

  /** A branch that ends the block of code and is never taken: an aligned address equals no odd number. */
  #printFence(): void {
    const { aligned, end } = this.#fence ?? {};
    const local = aligned && this.#locals.find(aligned.v);
    if (!this.#fence || !end || !local) return;
    // Each compares with a number of its own, so that no engine merges them.
    this.#fence.count++;
    this.#f
      .get(local)
      .i32(2 * this.#fence.count + 1)
      .op('i32.eq')
      .brIf(end);
  }

  #define(v: Expr, value: Expr): Local {
    let local: Local | undefined;
    this.#statement([value], () => {
      this.#exprs.emit(value);
      local = this.#locals.take(registerType(v), 'block');
      this.#f.set(local);
      this.#locals.hold(v, local, 'block');
    });
    return local!;
  }

  #advance(p: Pointer): void {
    const local = this.#locals.find(p.v)!;
    this.#statement([p.stride], () => {
      this.#f.get(local);
      this.#exprs.emit(p.stride);
      this.#f.op('i32.add').set(local);
    });
  }

  /** What decides whether the loop goes on: its variable where the body needs it, else a pointer or a count of rounds. */
  #counter(s: ForStmt, pointers: readonly Pointer[]): { readonly pointer?: Pointer; next(): void } {
    const f = this.#f;
    const trips = tripsOf(s);
    if (this.#reads(s.body, s.v) || trips === undefined) {
      const local = this.#define(s.v, s.from);
      return {
        next: () => {
          f.get(local).i32(s.step).op('i32.add').tee(local);
          this.#exprs.emit(s.to);
          f.op('i32.lt_s');
        },
      };
    }
    const pointer = pointers.find((p) => p.stride.op === 'const' && p.stride.arg !== 0);
    if (pointer) {
      const local = this.#locals.find(pointer.v)!;
      const end = this.#locals.take('i32', 'block');
      const span = mul(trips, pointer.stride);
      this.#statement([span], () => {
        f.get(local);
        this.#exprs.emit(span);
        f.op('i32.add').set(end);
      });
      const stride = pointer.stride.arg as number;
      return {
        pointer,
        next: () =>
          void f
            .get(local)
            .i32(stride | 0)
            .op('i32.add')
            .tee(local)
            .get(end)
            .op('i32.ne'),
      };
    }
    const left = this.#locals.take('i32', 'block');
    this.#statement([trips], () => {
      this.#exprs.emit(trips);
      f.set(left);
    });
    return { next: () => void f.get(left).i32(1).op('i32.sub').tee(left) };
  }

  #reads(body: readonly Stmt[], v: Expr): boolean {
    const seen = new Set<Expr>();
    const inExpr = (e: Expr): boolean => {
      if (e === v) return true;
      // What is held already is not computed again, so that it does not read anything.
      if (seen.has(e) || this.#locals.find(e)) return false;
      seen.add(e);
      return this.#addresses.operandsOf(e).some(inExpr);
    };
    return body.some((s) => this.#addresses.rootsOf(s).some(inExpr) || inner(s).some((below) => this.#reads(below, v)));
  }

  /** Computes before a loop what every round would compute alike. Vectors wait for the innermost loop: registers. */
  #hoist(loop: ForStmt): void {
    const level = this.#addresses.levelOf(loop.v);
    const innermost = isInner(loop);
    const seen = new Set<Expr>();
    const visit = (e: Expr): void => {
      if (seen.has(e) || this.#locals.find(e)) return;
      seen.add(e);
      if (innermost && isPooled(e)) this.#statement([e], () => this.#exprs.keep(e));
      if (e.args.length === 0) return;
      if (e.op !== 'load' && this.#addresses.levelOf(e) < level && (innermost || e.lanes === 1)) {
        this.#statement([e], () => this.#exprs.keep(e));
        return;
      }
      this.#addresses.operandsOf(e).forEach(visit);
    };
    const walk = (body: readonly Stmt[]): void => {
      for (const s of body) {
        this.#addresses.rootsOf(s).forEach(visit);
        inner(s).forEach(walk);
      }
    };
    walk(loop.body);
    for (const p of this.#addresses.pointersOf(loop)) visit(p.stride);
    visit(loop.to);
  }
}

const inner = (s: Stmt): readonly (readonly Stmt[])[] =>
  s.kind === 'for' ? [s.body] : s.kind === 'if' ? [s.then, s.else] : [];

/** True for addresses that stay even: buffers start at multiples of 64. */
const isAligned = (p: Pointer): boolean => p.width % 2 === 0;

/** How often a loop that turns at all does, where that is known without rounding. */
function tripsOf(s: ForStmt): Expr | undefined {
  const span = sub(s.to, s.from);
  return span.op === 'const' || floormod(span, s.step) === literal(0) ? ceildiv(span, s.step) : undefined;
}
