/** Kernels as one WebAssembly module. */

import { type Expr, exprNodes } from '../ir/expr.ts';
import { eachStmt, type Kernel, type Routine, type Stmt, stmtExprs } from '../ir/kernel.ts';
import { legalizeKernel } from './legalize.ts';
import type { Target } from './target.ts';
import { type FunctionBuilder, type Global, ModuleBuilder, type ValType } from './wasm-encode.ts';
import { mathOf } from './wasm-expr.ts';
import { type KernelOptions, parameterTypes, printKernel, printRoutine, routineTypes } from './wasm-kernel.ts';
import { provideMath } from './wasm-math.ts';

export interface WasmModule {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Index in `bytes` of the flag of the memory's limits: 3 for shared memory, 1 for memory of one thread. */
  readonly memoryFlagAt: number;
  /** For each kernel the first one with equal code; they share a function, exported under each of their numbers. */
  readonly functionOf: readonly number[];
  /** The module in the text format. */
  wat(): string;
}

/**
 * Prints kernels for WebAssembly.
 *
 * The module imports `env.memory` (shared; 1 to 65536 pages) and those functions of `Math` that its kernels call,
 * under `m` (exp, log, tanh, sin, cos, pow; f64). It exports the kernels in order as `k0`, `k1` …, each of type
 * `(address of each buffer in bytes …, size of each parameter …, from, to) → ()`, all i32: the iterations
 * `from ≤ x < to` of the kernel's `grid.x` loop.
 *
 * @throws Error for a kernel that is not one `grid.x` loop, or that has thread loops, barriers or shared buffers
 */
export function printWasm(kernels: readonly Kernel[], target: Target): WasmModule {
  const legal = kernels.map(legalizeKernel);
  const module = new ModuleBuilder().importMemory('env', 'memory', { min: 1, max: 65536, shared: true });
  const math = provideMath(module, legal.flatMap(functionsOf));
  const constants = new Map<string, Global>();
  const constant = (e: Expr): Global => {
    const key = `${e.dtype} ${Object.is(e.arg, -0) ? '-0' : e.arg}`;
    const known = constants.get(key) ?? module.global(e.dtype === 'f32' ? 'f32' : 'i32', e.arg as number, true);
    constants.set(key, known);
    return known;
  };
  const routines = new Map<Routine, FunctionBuilder>();
  const options: KernelOptions = { fma: target.fma, math, constant, routine: (s) => routines.get(s)! };
  const shared = new SharedFunctions(module);
  for (const kernel of legal)
    eachStmt(kernel.body, (s) => {
      if (s.kind === 'routine')
        routines.set(
          s,
          shared.add(s.name, routineTypes(s), (f) => printRoutine(s, f, options)),
        );
    });
  const firsts = new Map<FunctionBuilder, number>();
  const functionOf = legal.map((kernel, i) => {
    const f = shared.add(kernel.name, parameterTypes(kernel), (draft) => printKernel(kernel, draft, options));
    module.export(`k${i}`, f);
    if (!firsts.has(f)) firsts.set(f, i);
    return firsts.get(f)!;
  });
  const { bytes, memoryFlagOffset } = module.encode();
  return { bytes, memoryFlagAt: memoryFlagOffset!, functionOf, wat: () => module.toWat() };
}

/** Functions of a module, those with equal code once. */
class SharedFunctions {
  readonly #module: ModuleBuilder;
  readonly #known = new Map<string, FunctionBuilder>();

  constructor(module: ModuleBuilder) {
    this.#module = module;
  }

  add(name: string, params: readonly ValType[], print: (f: FunctionBuilder) => void): FunctionBuilder {
    const made = this.#module.function(name, params);
    print(made);
    const code: number[] = [];
    made.encode(code);
    const key = `${params.length}:${Buffer.from(code).toString('latin1')}`;
    const twin = this.#known.get(key);
    if (twin) {
      this.#module.discard(made);
      return twin;
    }
    this.#known.set(key, made);
    return made;
  }
}

function functionsOf(kernel: Kernel): readonly string[] {
  const names = new Set<string>();
  const walk = (body: readonly Stmt[]): void => {
    for (const s of body) {
      for (const root of stmtExprs(s))
        for (const e of exprNodes(root)) {
          const name = mathOf(e);
          if (name) names.add(name);
        }
      if (s.kind === 'for' || s.kind === 'routine') walk(s.body);
      if (s.kind === 'if') [s.then, s.else].forEach(walk);
    }
  };
  walk(kernel.body);
  return [...names];
}
