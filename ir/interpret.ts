/**
 * Runs kernels on the host, exactly as written: every operator rounded to its dtype, every access checked, invocations
 * of a workgroup as coroutines that meet at barriers. Slow and strict on purpose: what passes here is a correct kernel,
 * whatever a target then does to it.
 */
import { type Buffer, type Expr, exprNodes } from './expr.ts';
import {
  assign,
  compileExpr,
  type ExprContext,
  type Frame,
  type Intrinsics,
  nameOf,
  type ScalarCode,
  type VectorCode,
} from './interpret-expr.ts';
import { KernelFault, Memory, type Numbers } from './interpret-memory.ts';
import { type FmaRounding, scalarFunction } from './interpret-scalar.ts';
import { type Joined, runWorkgroup, type Steps, type Subgroups } from './interpret-workgroup.ts';
import { INTRINSICS } from './intrinsics.ts';
import { eachStmt, type Kernel, type Stmt, type SubgroupOp } from './kernel.ts';
import { evaluateIndex } from './scalar.ts';

export { KernelFault, type Numbers } from './interpret-memory.ts';
export type { Subgroups } from './interpret-workgroup.ts';

export interface RunKernelOptions {
  /**
   * Contents of the global buffers, at least as long as their size; written in place. Any typed array of numbers will do
   * that holds the buffer's values: f16, bf16 and 64-bit integers as doubles.
   */
  readonly buffers: ReadonlyMap<Buffer, Numbers>;
  /** Sizes of the kernel's symbols. */
  readonly params?: ReadonlyMap<Expr, number> | undefined;
  /** Runs only the iterations `from ≤ v < to` of the `grid.x` loop, as one call of a WebAssembly kernel does. */
  readonly grid?: readonly [from: number, to: number] | undefined;
  /** Order of grid iterations; a correct kernel gives the same in both. Default `forward`. */
  readonly order?: 'forward' | 'reverse' | undefined;
  /** Default `separate`. */
  readonly fma?: FmaRounding | undefined;
  /** Default: 32 neighbours. */
  readonly subgroups?: Subgroups | undefined;
  /** Whether conflicting accesses of invocations that no barrier orders are reported; default true. */
  readonly races?: boolean | undefined;
  /** Meaning of `intrinsic` expressions beyond those of `intrinsics.ts`, by name. */
  readonly intrinsics?: Intrinsics | undefined;
}

/**
 * Executes `kernel`. Shared memory is fresh for every workgroup and local memory for every invocation, both full of NaN,
 * so that what a kernel reads before writing shows in its results.
 *
 * @throws KernelFault for an access out of bounds, a data race, a barrier that some invocations miss, a variable out of
 *   scope, a missing buffer or size
 */
export function runKernel(kernel: Kernel, options: RunKernelOptions): void {
  new KernelCompiler(kernel, options).run();
}

type Run = (f: Frame) => void;
type StmtCode = { readonly run: Run; readonly steps?: undefined } | { readonly steps: Steps; readonly run?: undefined };
type Loop = Stmt & { readonly kind: 'for' };
/** A loop over invocations: their number along x or y must be known when the workgroup starts. */
interface ThreadLoop {
  readonly axis: 0 | 1;
  readonly extent: ScalarCode;
}

const isGrid = (s: Stmt): s is Loop => s.kind === 'for' && s.bind.startsWith('grid.');

class KernelCompiler implements ExprContext {
  readonly kernel: string;
  readonly fma: FmaRounding;
  readonly intrinsics: Intrinsics;
  readonly params: ReadonlyMap<Expr, number>;
  readonly #kernel: Kernel;
  readonly #options: RunKernelOptions;
  readonly #slots = new Map<Expr, number>();
  /** Variables that may be read where the compiler stands; those set again later map to true. */
  #scope = new Map<Expr, boolean>();
  #slotCount = 0;
  /** Barriers and operations of subgroups so far. */
  #meetings = 0;
  #groups = 0;
  /** Thread loops of the workgroup being compiled, and what was in scope where it starts; undefined outside one. */
  #workgroup: { readonly loops: ThreadLoop[]; readonly scope: ReadonlyMap<Expr, boolean> } | undefined;

  constructor(kernel: Kernel, options: RunKernelOptions) {
    this.#kernel = kernel;
    this.kernel = kernel.name;
    this.#options = options;
    this.fma = options.fma ?? 'separate';
    this.intrinsics = { ...INTRINSICS, ...options.intrinsics };
    this.params = options.params ?? new Map();
  }

  run(): void {
    const memories = this.#memories();
    const code = this.#grid(this.#kernel.body);
    code({
      group: 0,
      who: 0,
      phase: 0,
      scalars: new Array<number>(this.#slotCount).fill(NaN),
      vectors: [],
      memories,
      thread: [0, 0],
    });
  }

  // Memory

  #memories(): Memory[] {
    const written = new Set<Buffer>();
    eachStmt(this.#kernel.body, (s) => s.kind === 'store' && written.add(s.to));
    return this.#kernel.buffers.map((b) => {
      const size = this.#sizeOf(b);
      if (b.space !== 'global') return this.#scratch(b, size);
      const data = this.#options.buffers.get(b);
      if (!data) return this.#fault(`buffer ${b.name} is not given`);
      if (data.length < size) return this.#fault(`buffer ${b.name} has ${data.length} elements, not ${size}`);
      return new Memory(this.kernel, b.name, b.space, data, size, this.#tracked && written.has(b));
    });
  }

  #scratch(b: Buffer, size: number): Memory {
    const tracked = this.#tracked && b.space === 'shared';
    return new Memory(this.kernel, b.name, b.space, new Float64Array(size).fill(NaN), size, tracked);
  }

  get #tracked(): boolean {
    return this.#options.races ?? true;
  }

  #sizeOf(b: Buffer): number {
    return evaluateIndex(b.size, (leaf) => {
      const value = this.params.get(leaf);
      if (value === undefined) return this.#fault(`size of ${b.name} needs ${nameOf(leaf)}, which is not bound`);
      return value;
    });
  }

  memoryOf(buffer: Buffer): number {
    const at = this.#kernel.buffers.indexOf(buffer);
    return at >= 0 ? at : this.#fault(`buffer ${buffer.name} is not among the kernel's buffers`);
  }

  // Variables

  newSlot(): number {
    return this.#slotCount++;
  }

  slotOf(v: Expr): number {
    const slot = this.#scope.has(v) ? this.#slots.get(v) : undefined;
    return slot ?? this.#fault(`variable ${nameOf(v)} is used where it is not defined`);
  }

  #define(v: Expr, mutable: boolean): number {
    if (v.op !== 'var') this.#fault(`${nameOf(v)} is defined, but is no variable`);
    if (this.#scope.has(v)) this.#fault(`variable ${nameOf(v)} is defined twice`);
    this.#scope.set(v, mutable);
    const slot = this.#slots.get(v) ?? this.newSlot();
    this.#slots.set(v, slot);
    return slot;
  }

  #scoped<T>(compile: () => T): T {
    const outer = this.#scope;
    this.#scope = new Map(outer);
    const result = compile();
    this.#scope = outer;
    return result;
  }

  #index(e: Expr): ScalarCode {
    if (e.lanes !== 1) return this.#fault(`an index has ${e.lanes} lanes`);
    return compileExpr(e, this).run as ScalarCode;
  }

  // The grid

  /** Statements above and in the grid loops. A workgroup is one iteration of the innermost of them. */
  #grid(body: readonly Stmt[]): Run {
    if (!body.some(isGrid)) return this.#group(body);
    const steps = body.map((s) => {
      if (!isGrid(s)) return this.#group([s]);
      return this.#scoped(() => {
        const [from, to, inner] = [this.#index(s.from), this.#index(s.to), s.body];
        const slot = this.#define(s.v, false);
        const run = this.#grid(inner);
        const chunk = s.bind === 'grid.x' ? this.#options.grid : undefined;
        const reverse = this.#options.order === 'reverse';
        return (f: Frame): void => {
          const iterations: number[] = [];
          for (let i = from(f); i < to(f); i += s.step)
            if (!chunk || (i >= chunk[0] && i < chunk[1])) iterations.push(i);
          for (const i of reverse ? iterations.reverse() : iterations) {
            f.scalars[slot] = i;
            run(f);
          }
        };
      });
    });
    return (f) => {
      for (const step of steps) step(f);
    };
  }

  /** One workgroup: all its invocations run the whole body. */
  #group(body: readonly Stmt[]): Run {
    const loops: ThreadLoop[] = [];
    this.#workgroup = { loops, scope: this.#scope };
    const code = this.#scoped(() => this.#block(body));
    this.#workgroup = undefined;
    const scratch = this.#kernel.buffers.flatMap((b, at) =>
      b.space === 'global' ? [] : [{ b, at, size: this.#sizeOf(b) }],
    );
    return (f) => {
      f.group = this.#groups++;
      const size: [number, number] = [1, 1];
      for (const { axis, extent } of loops) size[axis] = Math.max(size[axis], extent(f));
      for (const { b, at, size: n } of scratch) f.memories[at] = this.#scratch(b, n);
      if (code.run && loops.length === 0) return code.run(f);
      const frames: Frame[] = [];
      for (let y = 0; y < size[1]; y++)
        for (let x = 0; x < size[0]; x++) {
          const memories = [...f.memories];
          for (const { b, at, size: n } of scratch) if (b.space === 'local') memories[at] = this.#scratch(b, n);
          const [scalars, vectors] = [[...f.scalars], [...f.vectors]];
          frames.push({ group: f.group, who: frames.length, phase: 0, scalars, vectors, memories, thread: [x, y] });
        }
      if (code.run) frames.forEach(code.run);
      else runWorkgroup(frames, code.steps, this.#options.subgroups ?? { size: 32 }, (why) => this.#fault(why));
    };
  }

  // Statements

  #block(body: readonly Stmt[]): StmtCode {
    return sequence(body.map((s) => this.#stmt(s)));
  }

  #stmt(s: Stmt): StmtCode {
    switch (s.kind) {
      case 'for':
        return s.bind === 'serial' ? this.#serial(s) : this.#thread(s);
      case 'let':
      case 'var': {
        this.#same(s);
        const value = compileExpr(s.value, this);
        return { run: assign(this.#define(s.v, s.kind === 'var'), value) };
      }
      case 'set': {
        this.#same(s);
        const slot = this.slotOf(s.v);
        if (!this.#scope.get(s.v)) this.#fault(`${nameOf(s.v)} is set, but is no var`);
        return { run: assign(slot, compileExpr(s.value, this)) };
      }
      case 'store':
        return { run: this.#store(s) };
      case 'if':
        return this.#if(s);
      case 'barrier':
        return { steps: barrier(this.#meetings++) };
      case 'subgroup':
        return { steps: this.#subgroup(s) };
      case 'routine':
        return this.#scoped(() =>
          this.#block([...s.params.map((v, i) => ({ kind: 'let', v, value: s.args[i]! }) as const), ...s.body]),
        );
      case 'fence':
      case 'touch':
        return { run: () => {} };
    }
  }

  #subgroup(s: Stmt & { readonly kind: 'subgroup' }): Steps {
    this.#same(s);
    const { run } = compileExpr(s.value, this);
    const at = this.#meetings++;
    const slot = this.#define(s.v, false);
    const sum = scalarFunction(s.op === 'before' ? 'add' : s.op, s.value.dtype, s.value.dtype, this.fma);
    const { lanes } = s.value;
    const join = (values: readonly Joined[]): readonly Joined[] => {
      if (lanes === 1) return joined(s.op, values as readonly number[], sum);
      const rows = values as readonly (readonly number[])[];
      const columns = rows[0]!.map((_, lane) =>
        joined(
          s.op,
          rows.map((row) => row[lane]!),
          sum,
        ),
      );
      return rows.map((_, i) => columns.map((column) => column[i]!));
    };
    return function* (f) {
      const got = yield { at, value: run(f), join };
      if (typeof got === 'number') f.scalars[slot] = got;
      else f.vectors[slot] = got;
    };
  }

  #same(s: Stmt & { readonly kind: 'let' | 'var' | 'set' | 'subgroup' }): void {
    if (s.v.dtype !== s.value.dtype || s.v.lanes !== s.value.lanes)
      this.#fault(`${nameOf(s.v)} is ${s.v.dtype}x${s.v.lanes}, its value ${s.value.dtype}x${s.value.lanes}`);
  }

  #store(s: Stmt & { readonly kind: 'store' }): Run {
    const { to, value } = s;
    if (to.access === 'read' && to.space === 'global') this.#fault(`writes ${to.name}, which is declared read-only`);
    if (to.dtype !== value.dtype) this.#fault(`stores ${value.dtype} into ${to.name}, which holds ${to.dtype}`);
    const [memory, at] = [this.memoryOf(to), this.#index(s.at)];
    const code = compileExpr(value, this);
    if (code.lanes === 1) {
      const run = code.run as ScalarCode;
      return (f) => f.memories[memory]!.store(at(f), run(f), f);
    }
    const run = code.run as VectorCode;
    return (f) => {
      const first = at(f);
      const values = run(f);
      for (let lane = 0; lane < values.length; lane++) f.memories[memory]!.store(first + lane, values[lane]!, f);
    };
  }

  #if(s: Stmt & { readonly kind: 'if' }): StmtCode {
    const cond = this.#index(s.cond);
    const then = this.#scoped(() => this.#block(s.then));
    const other = this.#scoped(() => this.#block(s.else));
    if (then.run && other.run) {
      const [a, b] = [then.run, other.run];
      return { run: (f) => (cond(f) !== 0 ? a(f) : b(f)) };
    }
    const [a, b] = [stepsOf(then), stepsOf(other)];
    return { steps: (f) => (cond(f) !== 0 ? a(f) : b(f)) };
  }

  #serial(s: Loop): StmtCode {
    const { step } = s;
    if (!(step > 0)) this.#fault(`loop over ${nameOf(s.v)} has step ${step}`);
    const [from, to] = [this.#index(s.from), this.#index(s.to)];
    return this.#scoped(() => {
      const slot = this.#define(s.v, false);
      const body = this.#block(s.body);
      if (body.run) {
        const { run } = body;
        return {
          run: (f) => {
            const end = to(f);
            for (let i = from(f); i < end; i += step) {
              f.scalars[slot] = i;
              run(f);
            }
          },
        };
      }
      const { steps } = body;
      return {
        *steps(f) {
          const end = to(f);
          for (let i = from(f); i < end; i += step) {
            f.scalars[slot] = i;
            yield* steps(f);
          }
        },
      };
    });
  }

  /** Each invocation runs its own iteration, if the loop has one for it. */
  #thread(s: Loop): StmtCode {
    const group = this.#workgroup;
    if (s.bind.startsWith('grid.') || !group)
      return this.#fault(`loop over ${nameOf(s.v)}: ${s.bind} stands below other statements`);
    for (const e of [s.from, s.to])
      for (const leaf of exprNodes(e))
        if ((leaf.op === 'var' && !group.scope.has(leaf)) || leaf.op === 'load')
          this.#fault(`loop over ${nameOf(s.v)}: the bounds of ${s.bind} must be known when the workgroup starts`);
    const axis = s.bind === 'thread.x' ? 0 : 1;
    const [from, to] = [this.#index(s.from), this.#index(s.to)];
    group.loops.push({ axis, extent: (f) => Math.ceil((to(f) - from(f)) / s.step) });
    return this.#scoped(() => {
      const slot = this.#define(s.v, false);
      const body = this.#block(s.body);
      const enter = (f: Frame): boolean => {
        const i = from(f) + f.thread[axis] * s.step;
        f.scalars[slot] = i;
        return i < to(f);
      };
      if (body.run) {
        const { run } = body;
        return { run: (f) => void (enter(f) && run(f)) };
      }
      const { steps } = body;
      return {
        *steps(f) {
          if (enter(f)) yield* steps(f);
        },
      };
    });
  }

  #fault(message: string): never {
    throw new KernelFault(this.kernel, message);
  }
}

function barrier(number: number): Steps {
  return function* () {
    yield number;
  };
}

/** What each member of a subgroup gets of their values. */
function joined(
  op: SubgroupOp,
  values: readonly number[],
  join: (a: number, b: number, c: number) => number,
): readonly number[] {
  if (op !== 'before') {
    const whole = values.reduce((a, b) => join(a, b, 0));
    return values.map(() => whole);
  }
  let sum = 0;
  return values.map((x) => {
    const before = sum;
    sum = join(sum, x, 0);
    return before;
  });
}

function sequence(codes: readonly StmtCode[]): StmtCode {
  if (codes.length === 1) return codes[0]!;
  if (codes.every((c) => c.run)) {
    const runs = codes.map((c) => c.run!);
    return {
      run: (f) => {
        for (const run of runs) run(f);
      },
    };
  }
  return {
    *steps(f) {
      for (const c of codes) {
        if (c.run) c.run(f);
        else yield* c.steps(f);
      }
    },
  };
}

function stepsOf(code: StmtCode): Steps {
  const { run } = code;
  if (!run) return code.steps;
  // biome-ignore lint/correctness/useYield: a branch without a barrier beside one that has it
  return function* (f) {
    run(f);
  };
}
