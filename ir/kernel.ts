/**
 * The kernel IR: loops, variables and stores over flat buffers. The same kernel prints as WASM and as WGSL; what differs
 * between targets is the schedule that wrote it and the meaning of its bound loops.
 */

import { intRange, isInt, type Scalar } from './dtype.ts';
import type { Buffer, Expr, Lanes, Space } from './expr.ts';
import { binary, index, literal, type Num, splat, sub, variable } from './scalar.ts';
import { boundsOf } from './simplify.ts';

/**
 * Who runs the iterations of a loop. `grid.*` iterations are independent and may run in any order on any core;
 * `thread.*` iterations are the invocations of one workgroup, which `barrier` synchronises. On WASM a chunk of `grid.x`
 * is one call and `thread.*` must not occur.
 */
export type Bind = 'serial' | 'grid.x' | 'grid.y' | 'grid.z' | 'thread.x' | 'thread.y';

export type Stmt =
  | {
      readonly kind: 'for';
      readonly v: Expr;
      readonly from: Expr;
      readonly to: Expr;
      readonly step: number;
      readonly bind: Bind;
      readonly body: readonly Stmt[];
    }
  /** Defined once; `var` may be `set` again. */
  | { readonly kind: 'let' | 'var' | 'set'; readonly v: Expr; readonly value: Expr }
  /** Writes `value.lanes` consecutive elements from the flat element index `at`. */
  | { readonly kind: 'store'; readonly to: Buffer; readonly at: Expr; readonly value: Expr }
  | { readonly kind: 'if'; readonly cond: Expr; readonly then: readonly Stmt[]; readonly else: readonly Stmt[] }
  | { readonly kind: 'barrier' }
  /**
   * Defines `v` once, as what the invocations of a subgroup make of their values. All of a subgroup must come here
   * together. How large subgroups are, and which invocations are one, is the device's choice and may differ within a
   * workgroup; the last may lack members. Orders no memory: that is what barriers do.
   */
  | { readonly kind: 'subgroup'; readonly v: Expr; readonly op: SubgroupOp; readonly value: Expr }
  /**
   * Ends a basic block without meaning anything: some engines hoist every load of a block above its arithmetic and then
   * spill. WASM prints a branch that is never taken; other printers and the interpreter skip it. Only inside a loop.
   */
  | { readonly kind: 'fence' }
  /**
   * Asks for the memory around an element before it is needed, and means nothing: it hides that memory is slow. Only
   * where the element exists. Targets without use for it print nothing.
   */
  | { readonly kind: 'touch'; readonly from: Buffer; readonly at: Expr }
  | Routine;

/**
 * How values of a subgroup are joined, in an order that is not said: each member gets the whole, or with `before` the sum
 * of those before it. Minimum and maximum are NaN where a value is. Of f32 and integers of 32 or 64 bits; vectors are
 * joined lane by lane, by sums and products alone.
 */
export type SubgroupOp = 'add' | 'mul' | 'min' | 'max' | 'before';

/**
 * A block that kernels may share as one function: it reads its parameters and its global or local buffers, and whatever
 * it computes goes to those. Targets without such functions print it in place.
 */
export interface Routine {
  readonly kind: 'routine';
  readonly name: string;
  readonly buffers: readonly Buffer[];
  /** i32 variables, bound to `args` when the block starts. */
  readonly params: readonly Expr[];
  readonly args: readonly Expr[];
  readonly body: readonly Stmt[];
}

export interface Kernel {
  readonly kind: 'kernel';
  readonly name: string;
  /** Global buffers in argument order; then local and shared scratch. */
  readonly buffers: readonly Buffer[];
  /** Symbols (as `sym` expressions) the body mentions, in argument order. */
  readonly params: readonly Expr[];
  /** Exactly one `grid.x` loop at the top, perhaps below `grid.z` and `grid.y`. */
  readonly body: readonly Stmt[];
}

export const buffer = (
  name: string,
  dtype: Scalar,
  size: Num,
  options: { space?: Space; access?: Buffer['access'] } = {},
): Buffer => ({
  kind: 'buffer',
  name,
  dtype,
  size: index(size),
  space: options.space ?? 'global',
  access: options.access ?? 'read',
});

/** Bound of a routine's parameters: room for small multiples and sums of them below 2^31, so that addresses fold. */
const LARGE = 2 ** 27;

/** Writes statements in order. TypeScript is the macro language: unrolling is a `for` in the schedule. */
export class Block {
  readonly stmts: Stmt[] = [];

  for(
    name: string,
    from: Num,
    to: Num,
    body: (v: Expr, block: Block) => void,
    options: { step?: number; bind?: Bind } = {},
  ): void {
    // No trips: nothing to write. A grid stays: its loop is what makes statements a kernel.
    const serial = (options.bind ?? 'serial') === 'serial';
    if (serial && sub(to, from).op === 'const' && (sub(to, from).arg as number) <= 0) return;
    const v = variable(name, 'i32', 1, { from, to });
    const inner = new Block();
    body(v, inner);
    this.stmts.push({
      kind: 'for',
      v,
      from: index(from),
      to: index(to),
      step: options.step ?? 1,
      bind: options.bind ?? 'serial',
      body: inner.stmts,
    });
  }

  /** Names a value computed here once; constants and variables pass through. */
  let(name: string, value: Num): Expr {
    const e = index(value);
    if (e.op === 'const' || e.op === 'var' || e.op === 'sym') return e;
    // A bounded value stays bounded under its name, so that index arithmetic on it still simplifies.
    const [least, most] = isInt(e.dtype) ? boundsOf(e) : [0, 0];
    const range =
      isInt(e.dtype) && most < intRange(e.dtype)[1]
        ? { from: literal(least, e.dtype), to: literal(most + 1, e.dtype) }
        : undefined;
    const v = variable(name, e.dtype, e.lanes, range);
    this.stmts.push({ kind: 'let', v, value: e });
    return v;
  }

  var(name: string, value: Expr): Expr {
    const v = variable(name, value.dtype, value.lanes);
    this.stmts.push({ kind: 'var', v, value });
    return v;
  }

  set(v: Expr, value: Num): void {
    const e = typeof value === 'number' ? literal(value, v.dtype, v.lanes) : splat(value, v.lanes);
    this.stmts.push({ kind: 'set', v, value: e });
  }

  /** `v ← v op value`. */
  update(op: 'add' | 'mul' | 'min' | 'max', v: Expr, value: Num): void {
    this.set(v, binary(op, v, value));
  }

  store(to: Buffer, at: Num, value: Expr): void {
    this.stmts.push({ kind: 'store', to, at: index(at), value });
  }

  if(cond: Expr, then: (block: Block) => void, otherwise?: (block: Block) => void): void {
    if (cond.op === 'const') {
      const taken = cond.arg !== 0 ? then : otherwise;
      taken?.(this);
      return;
    }
    const [a, b] = [new Block(), new Block()];
    then(a);
    otherwise?.(b);
    this.stmts.push({ kind: 'if', cond, then: a.stmts, else: b.stmts });
  }

  /** What `op` makes of the values of the invocations of a subgroup, named. */
  subgroup(name: string, op: SubgroupOp, value: Expr, range?: { readonly from: Num; readonly to: Num }): Expr {
    const v = variable(name, value.dtype, value.lanes, range);
    this.stmts.push({ kind: 'subgroup', v, op, value });
    return v;
  }

  barrier(): void {
    this.stmts.push({ kind: 'barrier' });
  }

  /** A shareable block; parameters are sizes and element indices, at least 0. */
  routine(
    name: string,
    buffers: readonly Buffer[],
    given: Readonly<Record<string, Num>>,
    body: (params: Readonly<Record<string, Expr>>, block: Block) => void,
  ): void {
    const names = Object.keys(given);
    const params = names.map((n) => variable(n, 'i32', 1, { from: 0, to: LARGE }));
    const inner = new Block();
    body(Object.fromEntries(names.map((n, i) => [n, params[i]!])), inner);
    this.stmts.push({
      kind: 'routine',
      name,
      buffers,
      params,
      args: names.map((n) => index(given[n]!)),
      body: inner.stmts,
    });
  }

  touch(from: Buffer, at: Num): void {
    this.stmts.push({ kind: 'touch', from, at: index(at) });
  }

  fence(): void {
    this.stmts.push({ kind: 'fence' });
  }
}

/** Calls `visit` with every statement, outer before inner. */
export function eachStmt(body: readonly Stmt[], visit: (s: Stmt) => void): void {
  for (const s of body) {
    visit(s);
    if (s.kind === 'for' || s.kind === 'routine') eachStmt(s.body, visit);
    if (s.kind === 'if') {
      eachStmt(s.then, visit);
      eachStmt(s.else, visit);
    }
  }
}

/** The expressions a statement evaluates itself, not those of its body. */
export function stmtExprs(s: Stmt): readonly Expr[] {
  switch (s.kind) {
    case 'for':
      return [s.from, s.to];
    case 'let':
    case 'var':
    case 'set':
    case 'subgroup':
      return [s.value];
    case 'store':
      return [s.at, s.value];
    case 'if':
      return [s.cond];
    case 'touch':
      return [s.at];
    case 'routine':
      return s.args;
    case 'barrier':
    case 'fence':
      return [];
  }
}

export type { Buffer, Expr, Lanes };
