/** Expressions of kernels compiled once to closures over a frame of slots. */
import type { Scalar } from './dtype.ts';
import { type Buffer, type Expr, exprNodes, type Var } from './expr.ts';
import { type Actor, KernelFault, type Memory } from './interpret-memory.ts';
import { type FmaRounding, type ScalarFunction, scalarFunction } from './interpret-scalar.ts';
import { printExpr } from './print.ts';

/** State of one invocation. */
export interface Frame extends Actor {
  group: number;
  who: number;
  phase: number;
  /** Slots of scalars and of vectors; a variable has the same number in either. */
  readonly scalars: number[];
  readonly vectors: (readonly number[])[];
  readonly memories: Memory[];
  /** Position in the workgroup along x and y. */
  readonly thread: readonly [x: number, y: number];
}

export type ScalarCode = (f: Frame) => number;
export type VectorCode = (f: Frame) => readonly number[];
/** A scalar or a vector closure, by `lanes` of the expression. */
export type Code =
  | { readonly lanes: 1; readonly run: ScalarCode }
  | { readonly lanes: number; readonly run: VectorCode };

export type Intrinsics = Readonly<Record<string, (...args: number[]) => number>>;

export interface ExprContext {
  readonly kernel: string;
  readonly fma: FmaRounding;
  readonly intrinsics: Intrinsics;
  readonly params: ReadonlyMap<Expr, number>;
  memoryOf(buffer: Buffer): number;
  /** The slot of a variable that is in scope. */
  slotOf(variable: Expr): number;
  newSlot(): number;
}

/** Compiles one root expression; nodes that it mentions twice are computed once. */
export function compileExpr(root: Expr, cx: ExprContext): Code {
  const compiler = new ExprCompiler(cx);
  const uses = new Map<Expr, number>();
  const nodes = exprNodes(root);
  for (const e of nodes) for (const a of e.args) uses.set(a, (uses.get(a) ?? 0) + 1);
  const prelude: ((f: Frame) => void)[] = [];
  for (const e of nodes) {
    if (e === root || e.args.length === 0 || (uses.get(e) ?? 0) < 2) continue;
    const slot = cx.newSlot();
    prelude.push(assign(slot, compiler.code(e)));
    compiler.shared.set(e, slot);
  }
  const code = compiler.code(root);
  if (prelude.length === 0) return code;
  const after =
    <T>(run: (f: Frame) => T) =>
    (f: Frame): T => {
      for (const step of prelude) step(f);
      return run(f);
    };
  return root.lanes === 1
    ? { lanes: 1, run: after(code.run as ScalarCode) }
    : { lanes: root.lanes, run: after(code.run as VectorCode) };
}

/** Evaluates into a slot. */
export function assign(slot: number, code: Code): (f: Frame) => void {
  if (code.lanes === 1) {
    const run = code.run as ScalarCode;
    return (f) => {
      f.scalars[slot] = run(f);
    };
  }
  const run = code.run as VectorCode;
  return (f) => {
    f.vectors[slot] = run(f);
  };
}

class ExprCompiler {
  readonly shared = new Map<Expr, number>();
  readonly #cx: ExprContext;

  constructor(cx: ExprContext) {
    this.#cx = cx;
  }

  code(e: Expr): Code {
    return e.lanes === 1 ? { lanes: 1, run: this.#scalar(e) } : { lanes: e.lanes, run: this.#vector(e) };
  }

  #scalar(e: Expr): ScalarCode {
    const slot = this.shared.get(e);
    if (slot !== undefined) return (f) => f.scalars[slot]!;
    switch (e.op) {
      case 'const': {
        const value = e.arg as number;
        return () => value;
      }
      case 'sym': {
        const value = this.#cx.params.get(e);
        if (value === undefined) return this.#fault(`symbol ${printExpr(e)} is not bound`);
        return () => value;
      }
      case 'var': {
        const at = this.#cx.slotOf(e);
        return (f) => f.scalars[at]!;
      }
      case 'load': {
        const [memory, at] = [this.#memory(e.arg as Buffer), this.#scalar(e.args[0]!)];
        return (f) => f.memories[memory]!.load(at(f), f);
      }
      case 'extract': {
        const [from, lane] = [this.#vector(e.args[0]!), e.arg as number];
        if (!(lane >= 0 && lane < e.args[0]!.lanes)) return this.#fault(`there is no lane ${lane} in ${printExpr(e)}`);
        return (f) => from(f)[lane]!;
      }
      case 'intrinsic': {
        const f = this.#intrinsic(e);
        const args = e.args.map((a) => this.#scalar(a));
        return (frame) => f(...args.map((a) => a(frame)));
      }
      case 'splat':
      case 'shuffle':
      case 'vec':
      case 'operand':
        return this.#fault(`${printExpr(e)} cannot stand in a kernel`);
    }
    const f = this.#function(e);
    const [a, b, c] = e.args.map((x) => this.#scalar(x));
    if (c) return (frame) => f(a!(frame), b!(frame), c(frame));
    if (b) return (frame) => f(a!(frame), b(frame), 0);
    return (frame) => f(a!(frame), 0, 0);
  }

  #vector(e: Expr): VectorCode {
    const { lanes } = e;
    const slot = this.shared.get(e);
    if (slot !== undefined) return (f) => f.vectors[slot]!;
    switch (e.op) {
      case 'const': {
        const value = new Array<number>(lanes).fill(e.arg as number);
        return () => value;
      }
      case 'var': {
        const at = this.#cx.slotOf(e);
        return (f) => f.vectors[at]!;
      }
      case 'load': {
        const [memory, at] = [this.#memory(e.arg as Buffer), this.#scalar(e.args[0]!)];
        return (f) => {
          const first = at(f);
          const from = f.memories[memory]!;
          const out = new Array<number>(lanes);
          for (let lane = 0; lane < lanes; lane++) out[lane] = from.load(first + lane, f);
          return out;
        };
      }
      case 'splat': {
        const from = this.#scalar(e.args[0]!);
        return (f) => new Array<number>(lanes).fill(from(f));
      }
      case 'vec': {
        const items = e.args.map((a) => this.#scalar(a));
        return (f) => items.map((item) => item(f));
      }
      case 'shuffle': {
        const [a, b] = e.args.map((x) => this.#vector(x)) as [VectorCode, VectorCode];
        const picks = String(e.arg).split(',').map(Number);
        if (picks.length !== lanes || !picks.every((p) => p >= 0 && p < 2 * e.args[0]!.lanes))
          return this.#fault(`lanes [${String(e.arg)}] of ${printExpr(e)} do not exist`);
        return (f) => {
          const both = [...a(f), ...b(f)];
          return picks.map((p) => both[p]!);
        };
      }
      case 'intrinsic': {
        const f = this.#intrinsic(e);
        const args = e.args.map((a) => this.#lanewise(a, lanes));
        return (frame) => {
          const values = args.map((a) => a(frame));
          return fill(lanes, (lane) => f(...values.map((v) => v[lane]!)));
        };
      }
      case 'sym':
      case 'extract':
      case 'operand':
        return this.#fault(`${printExpr(e)} cannot have ${lanes} lanes`);
    }
    return lanewise(
      this.#function(e),
      lanes,
      e.args.map((x) => this.#lanewise(x, lanes)),
    );
  }

  /** An operand of a vector operator; all have its lanes. */
  #lanewise(e: Expr, lanes: number): VectorCode {
    return e.lanes === lanes
      ? this.#vector(e)
      : this.#fault(`${printExpr(e)} has ${e.lanes} lanes, its reader ${lanes}`);
  }

  #function(e: Expr): ScalarFunction {
    const from: Scalar = e.args[0]!.dtype;
    const f = scalarFunction(e.op, e.dtype, from, this.#cx.fma);
    const integerDivision =
      (e.op === 'div' || e.op === 'rem' || e.op === 'floordiv' || e.op === 'floormod') &&
      e.dtype[0] !== 'f' &&
      e.dtype !== 'bf16';
    if (!integerDivision) return f;
    return (a, b, c) => (b === 0 ? this.#fault(`division by zero in ${printExpr(e)}`) : f(a, b, c));
  }

  #memory(buffer: Buffer): number {
    if (buffer.access === 'write' && buffer.space === 'global')
      this.#fault(`reads ${buffer.name}, which is declared write-only`);
    return this.#cx.memoryOf(buffer);
  }

  #intrinsic(e: Expr): (...args: number[]) => number {
    const f = this.#cx.intrinsics[String(e.arg)];
    return f ?? this.#fault(`intrinsic ${String(e.arg)} has no meaning here; pass it in options.intrinsics`);
  }

  #fault(message: string): never {
    throw new KernelFault(this.#cx.kernel, message);
  }
}

/** A scalar function on each lane of its operands. */
function lanewise(f: ScalarFunction, lanes: number, operands: readonly VectorCode[]): VectorCode {
  const [a, b, c] = operands;
  return (frame) => {
    const x = a!(frame);
    const y = b ? b(frame) : x;
    const z = c ? c(frame) : x;
    const out = new Array<number>(lanes);
    for (let lane = 0; lane < lanes; lane++) out[lane] = f(x[lane]!, y[lane]!, z[lane]!);
    return out;
  };
}

function fill(lanes: number, value: (lane: number) => number): readonly number[] {
  const out = new Array<number>(lanes);
  for (let lane = 0; lane < lanes; lane++) out[lane] = value(lane);
  return out;
}

/** The variable's name, for messages. */
export const nameOf = (v: Expr): string => (v.op === 'var' ? (v.arg as Var).name : printExpr(v));
