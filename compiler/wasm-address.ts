/** Where the loads and stores of a kernel point: byte addresses as expressions, and pointers that advance with loops. */
import { sizeOf } from '../ir/dtype.ts';
import type { Buffer, Expr } from '../ir/expr.ts';
import { type Kernel, type Stmt, stmtExprs } from '../ir/kernel.ts';
import { add, literal, mul, neg, variable } from '../ir/scalar.ts';
import { boundsOf } from '../ir/simplify.ts';

export type ForStmt = Extract<Stmt, { kind: 'for' }>;

/** An access is at `address + offset` bytes; `offset` ≥ 0 stands in the instruction. */
export interface Access {
  readonly address: Expr;
  readonly offset: number;
}

/** A variable that holds an address and grows by `stride` bytes each time its innermost loop turns. */
export interface Pointer {
  readonly v: Expr;
  readonly start: Expr;
  readonly stride: Expr;
  /** Bytes of one element: what the address is a multiple of. */
  readonly width: number;
}

/** One summand of a flat index: coefficient × product of factors. */
interface Term {
  readonly factors: readonly Expr[];
  readonly scale: number;
}

interface Affine {
  readonly terms: readonly Term[];
  readonly constant: number;
}

/** Accesses of one loop that one pointer serves. */
interface Group {
  readonly buffer: Buffer;
  readonly step: Expr;
  /** Index without constant in the first iteration. */
  readonly first: Expr;
  readonly members: { readonly at: Expr; readonly constant: number }[];
}

/** Instruction offsets stay below this, so that no sum of an address and an offset leaves 32 bits by itself. */
const MAX_OFFSET = 2 ** 30;

/** True for a loop that has no loop inside. */
export const isInner = (s: ForStmt): boolean => !containsLoop(s.body);
function containsLoop(body: readonly Stmt[]): boolean {
  return body.some(
    (s) =>
      s.kind === 'for' || s.kind === 'routine' || (s.kind === 'if' && (containsLoop(s.then) || containsLoop(s.else))),
  );
}

/** Loop depth, addresses and pointers of one kernel, all decided before the first instruction is printed. */
export class Addresses {
  /** The address of a buffer's first element. */
  readonly bases = new Map<Buffer, Expr>();
  readonly #levels = new Map<Expr, number>();
  readonly #exprLevels = new Map<Expr, number>();
  readonly #lets = new Map<Expr, Expr>();
  readonly #accesses = new Map<Buffer, Map<Expr, Access>>();
  readonly #pointers = new Map<ForStmt, readonly Pointer[]>();

  constructor(kernel: Kernel) {
    for (const b of kernel.buffers) {
      const v = variable(b.name, 'i32', 1, { from: 0, to: 2 ** 31 - 1 });
      this.bases.set(b, v);
      this.#levels.set(v, 0);
    }
    for (const s of kernel.params) this.#levels.set(s, 0);
    this.#define(kernel.body, 0);
    this.#plan(kernel.body);
  }

  /** The pointers of an innermost loop, empty for any other. */
  pointersOf(loop: ForStmt): readonly Pointer[] {
    return this.#pointers.get(loop) ?? [];
  }

  /** How many loops stand around the place where everything in `e` is known; Infinity for loads and mutable variables. */
  levelOf(e: Expr): number {
    let level = this.#exprLevels.get(e);
    if (level === undefined) {
      if (e.op === 'load') level = Infinity;
      else if (e.op === 'var' || e.op === 'sym') level = this.#levels.get(e);
      else level = e.args.reduce((most, a) => Math.max(most, this.levelOf(a)), 0);
      if (level === undefined) throw new Error(`wasm: variable "${nameOf(e)}" is used but never defined`);
      this.#exprLevels.set(e, level);
    }
    return level;
  }

  /** True when `e` has one value wherever it can be computed: no load, no mutable variable. */
  isPure(e: Expr): boolean {
    return this.levelOf(e) !== Infinity;
  }

  accessOf(buffer: Buffer, at: Expr): Access {
    const known = this.#accessesTo(buffer);
    let access = known.get(at);
    if (!access) {
      const { terms, constant } = this.#affine(at, Infinity);
      const size = sizeOf(buffer.dtype);
      const rest = this.#sum(literal(0), terms, 1);
      const folds = constant > 0 && constant * size < MAX_OFFSET && boundsOf(rest)[0] >= 0;
      const base = this.#sum(this.#base(buffer), terms, size);
      access = folds
        ? { address: base, offset: constant * size }
        : { address: add(base, literal((constant * size) | 0)), offset: 0 };
      known.set(at, access);
    }
    return access;
  }

  /** What printing `e` evaluates: its operands, or the address of a load. */
  operandsOf(e: Expr): readonly Expr[] {
    return e.op === 'load' ? [this.accessOf(e.arg as Buffer, e.args[0]!).address] : e.args;
  }

  /** What printing `s` evaluates itself, addresses and the starts of pointers included. */
  rootsOf(s: Stmt): readonly Expr[] {
    if (s.kind === 'store') return [this.accessOf(s.to, s.at).address, s.value];
    if (s.kind === 'touch') return [this.accessOf(s.from, s.at).address];
    if (s.kind === 'for') return [s.from, s.to, ...this.pointersOf(s).flatMap((p) => [p.start, p.stride])];
    return stmtExprs(s);
  }

  #accessesTo(buffer: Buffer): Map<Expr, Access> {
    let known = this.#accesses.get(buffer);
    if (!known) {
      known = new Map();
      this.#accesses.set(buffer, known);
    }
    return known;
  }

  #base(buffer: Buffer): Expr {
    const base = this.bases.get(buffer);
    if (!base) throw new Error(`wasm: buffer "${buffer.name}" is used but is not an argument of the kernel`);
    return base;
  }

  #define(body: readonly Stmt[], depth: number): void {
    for (const s of body) {
      if (s.kind === 'for') {
        this.#levels.set(s.v, Math.max(depth + 1, this.#levels.get(s.v) ?? 0));
        this.#define(s.body, depth + 1);
      } else if (s.kind === 'if') {
        this.#define(s.then, depth);
        this.#define(s.else, depth);
      } else if (s.kind === 'let') {
        this.#levels.set(s.v, Math.max(depth, this.#levels.get(s.v) ?? 0));
        this.#lets.set(s.v, s.value);
      } else if (s.kind === 'var') {
        this.#levels.set(s.v, Infinity);
      }
    }
  }

  #plan(body: readonly Stmt[]): void {
    for (const s of body) {
      if (s.kind === 'for') {
        this.#plan(s.body);
        if (isInner(s) && s.bind === 'serial') this.#pointers.set(s, this.#pointersFor(s));
      } else if (s.kind === 'if') {
        this.#plan(s.then);
        this.#plan(s.else);
      }
    }
  }

  /** One pointer for all accesses to a buffer that differ by constants and advance alike. */
  #pointersFor(loop: ForStmt): readonly Pointer[] {
    const level = this.#levels.get(loop.v)!;
    const groups = new Map<string, Group>();
    const visited = new Set<Expr>();
    const consider = (buffer: Buffer, at: Expr): void => {
      const { terms, constant } = this.#affine(at, level);
      const split = this.#splitLoop(terms, loop.v, level);
      if (!split) return;
      const rest = this.#sum(literal(0), split.rest, 1);
      const first = add(rest, mul(split.step, loop.from));
      const folds =
        constant >= 0 &&
        constant * sizeOf(buffer.dtype) < MAX_OFFSET &&
        boundsOf(add(rest, mul(split.step, loop.v)))[0] >= 0;
      // Only an address that is proven to lie in the buffer without it may leave a constant to the instruction.
      const own = folds ? 0 : constant;
      const key = `${this.#base(buffer).id},${split.step.id},${rest.id},${own}`;
      const group = groups.get(key) ?? { buffer, step: split.step, first: add(first, own), members: [] };
      groups.set(key, group);
      group.members.push({ at, constant: constant - own });
    };
    const visit = (e: Expr): void => {
      if (visited.has(e)) return;
      visited.add(e);
      if (e.op === 'load') consider(e.arg as Buffer, e.args[0]!);
      e.args.forEach(visit);
    };
    const walk = (body: readonly Stmt[]): void => {
      for (const s of body) {
        if (s.kind === 'store') consider(s.to, s.at);
        if (s.kind === 'touch') consider(s.from, s.at);
        stmtExprs(s).forEach(visit);
        if (s.kind === 'if') {
          walk(s.then);
          walk(s.else);
        }
      }
    };
    walk(loop.body);
    return [...groups.values()].map((group) => this.#makePointer(loop, group));
  }

  #makePointer(loop: ForStmt, group: Group): Pointer {
    const { buffer, step, first, members } = group;
    const size = sizeOf(buffer.dtype);
    const v = variable(`${buffer.name}_at`);
    this.#levels.set(v, Infinity);
    const known = this.#accessesTo(buffer);
    for (const m of members) known.set(m.at, { address: v, offset: m.constant * size });
    const { terms, constant } = this.#affine(first, Infinity);
    const start = add(this.#sum(this.#base(buffer), terms, size), literal((constant * size) | 0));
    return { v, start, stride: mul(step, size * loop.step), width: size };
  }

  /** index = step·v + rest, or undefined when `v` is not in it or not linear. */
  #splitLoop(terms: readonly Term[], v: Expr, level: number): { step: Expr; rest: readonly Term[] } | undefined {
    const rest: Term[] = [];
    let step = literal(0);
    for (const t of terms) {
      const inside = t.factors.filter((f) => this.levelOf(f) >= level);
      if (inside.length === 0) rest.push(t);
      else if (inside.length === 1 && inside[0] === v)
        step = add(step, product({ ...t, factors: t.factors.filter((f) => f !== v) }));
      else return undefined;
    }
    return step === literal(0) ? undefined : { step, rest };
  }

  /** The sum of products that `e` is; names given inside loops of depth ≥ `inlineFrom` are looked through. */
  #affine(e: Expr, inlineFrom: number): Affine {
    const sum = new Map<string, { factors: readonly Expr[]; scale: number }>();
    let constant = 0;
    const put = (factors: readonly Expr[], scale: number): void => {
      if (factors.length === 0) {
        constant += scale;
        return;
      }
      const key = factors.map((f) => f.id).join(',');
      sum.set(key, { factors, scale: (sum.get(key)?.scale ?? 0) + scale });
    };
    for (const t of this.#expand(e, inlineFrom)) put(t.factors, t.scale);
    return { terms: [...sum.values()].filter((t) => t.scale !== 0), constant };
  }

  #expand(e: Expr, inlineFrom: number): readonly Term[] {
    const [a, b] = e.args as [Expr, Expr];
    switch (e.dtype === 'i32' ? e.op : 'load') {
      case 'const':
        return [{ factors: [], scale: e.arg as number }];
      case 'add':
        return [...this.#expand(a, inlineFrom), ...this.#expand(b, inlineFrom)];
      case 'sub':
        return [...this.#expand(a, inlineFrom), ...this.#expand(b, inlineFrom).map(negated)];
      case 'neg':
        return this.#expand(a, inlineFrom).map(negated);
      case 'mul': {
        const [x, y] = [this.#expand(a, inlineFrom), this.#expand(b, inlineFrom)];
        if (x.length * y.length > 8) return [{ factors: [e], scale: 1 }];
        return x.flatMap((s) =>
          y.map((t) => ({
            factors: [...s.factors, ...t.factors].sort((p, q) => this.levelOf(p) - this.levelOf(q) || p.id - q.id),
            scale: s.scale * t.scale,
          })),
        );
      }
      case 'var': {
        const value = this.#lets.get(e);
        return value && this.levelOf(e) >= inlineFrom && this.isPure(value)
          ? this.#expand(value, inlineFrom)
          : [{ factors: [e], scale: 1 }];
      }
      default:
        return [{ factors: [e], scale: 1 }];
    }
  }

  /** base + Σ terms·size, outermost terms first, so that every prefix of the sum is known as early as it can be. */
  #sum(base: Expr, terms: readonly Term[], size: number): Expr {
    const level = (t: Term): number => Math.max(...t.factors.map((f) => this.levelOf(f)));
    return [...terms]
      .sort((s, t) => level(s) - level(t))
      .reduce((sum, t) => add(sum, product({ ...t, scale: t.scale * size })), base);
  }
}

const negated = (t: Term): Term => ({ factors: t.factors, scale: -t.scale });

function product({ factors, scale }: Term): Expr {
  if (factors.length === 0) return literal(scale | 0);
  const whole = factors.reduce((p, f) => mul(p, f));
  return scale === -1 ? neg(whole) : mul(whole, literal(scale | 0));
}

function nameOf(e: Expr): string {
  const { arg } = e;
  return typeof arg === 'object' && 'name' in arg ? arg.name : e.op;
}
