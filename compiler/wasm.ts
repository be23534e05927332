/** Kernels as one WebAssembly module. */

import { type Expr, exprNodes } from '../ir/expr.ts';
import type { Kernel, Stmt } from '../ir/kernel.ts';
import { stmtExprs } from '../ir/kernel.ts';
import { legalizeKernel } from './legalize.ts';
import type { Target } from './target.ts';
import { FunctionBuilder, type Global, ModuleBuilder } from './wasm-encode.ts';
import { mathOf } from './wasm-expr.ts';
import { parameterTypes, printKernel } from './wasm-kernel.ts';
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
  const options = { fma: target.fma, math, constant };
  const known = new Map<string, { readonly first: number; readonly f: FunctionBuilder }>();
  const functionOf = legal.map((kernel, i) => {
    const params = parameterTypes(kernel);
    const draft = new FunctionBuilder(kernel.name, 0, { params, results: [] });
    printKernel(kernel, draft, options);
    const code: number[] = [];
    draft.encode(code);
    const key = `${params.length}:${code.join()}`;
    let twin = known.get(key);
    if (twin === undefined) {
      twin = { first: i, f: module.function(kernel.name, params) };
      printKernel(kernel, twin.f, options);
      known.set(key, twin);
    }
    module.export(`k${i}`, twin.f);
    return twin.first;
  });
  const { bytes, memoryFlagOffset } = module.encode();
  return { bytes, memoryFlagAt: memoryFlagOffset!, functionOf, wat: () => module.toWat() };
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
      if (s.kind === 'for') walk(s.body);
      if (s.kind === 'if') [s.then, s.else].forEach(walk);
    }
  };
  walk(kernel.body);
  return [...names];
}
