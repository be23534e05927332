/** From a model to a bundle: passes, regions, kernels, plan, files. */

import type { Graph } from '../ir/graph.ts';
import type { Kernel } from '../ir/kernel.ts';
import type { Model } from '../ir/model.ts';
import type { WeightStore } from '../ir/weights.ts';
import { FORMAT, type Manifest } from '../runtime/manifest.ts';
import { Bundle } from './bundle.ts';
import { decompose } from './decompose.ts';
import type { CompiledEntry } from './entry.ts';
import { partition } from './partition.ts';
import { planEntry } from './plan.ts';
import { kernelsOf, scheduleProgram } from './schedule-regions.ts';
import { WASM_PLAIN, WASM_RELAXED } from './target.ts';
import { printWasm, type WasmModule } from './wasm.ts';
import { WeightPlan } from './weights.ts';

export interface CompileOptions {
  readonly weights: WeightStore;
  /** How floats stand in the weight file; f16 is widened at load. Default `f32`. */
  readonly storage?: 'f32' | 'f16';
}

export function compile(model: Model, options: CompileOptions): Bundle {
  const weights = new WeightPlan();
  const kernels = new KernelList();
  const entries = Object.entries(model.entries).map(([name, graph]) => compileEntry(name, graph, weights, kernels));
  const relaxed = kernels.print('relaxed');
  const plain = kernels.print('plain');
  const packed = weights.write(options.weights, options.storage ?? 'f32', 'weights.bin');
  const files = new Map<string, Uint8Array>([
    ['kernels.wasm', plain.bytes],
    ['kernels.relaxed.wasm', relaxed.bytes],
    ['weights.bin', packed.bytes],
  ]);
  const manifest: Manifest = {
    heddle: FORMAT,
    name: model.name,
    entries: Object.fromEntries(entries.map((e) => [e.name, e.plan])),
    weights: packed.info,
    wasm: { plain: Bundle.describe('kernels.wasm', plain), relaxed: Bundle.describe('kernels.relaxed.wasm', relaxed) },
    selftest: [],
  };
  return new Bundle(manifest, files, entries);
}

export function compileEntry(name: string, graph: Graph, weights: WeightPlan, kernels: KernelList): CompiledEntry {
  const optimised = graph;
  const program = partition(decompose(optimised));
  const relaxed = scheduleProgram(program, WASM_RELAXED);
  const plain = scheduleProgram(program, WASM_PLAIN);
  kernels.addAll([...kernelsOf(relaxed)], [...kernelsOf(plain)]);
  const plan = planEntry(relaxed, weights, (kernel) => kernels.numberOf(kernel));
  return { name, optimised, program, relaxed, plain, plan };
}

/** Every distinct kernel of a bundle, in both variants, numbered in order of first use. */
export class KernelList {
  private readonly numbers = new Map<Kernel, number>();
  private readonly variants: { readonly relaxed: Kernel; readonly plain: Kernel }[] = [];

  /** Both lists hold the variants of the same kernels in the same order. */
  addAll(relaxed: readonly Kernel[], plain: readonly Kernel[]): void {
    if (relaxed.length !== plain.length) throw new Error('the variants of a target have different kernels');
    relaxed.forEach((kernel, i) => {
      if (this.numbers.has(kernel)) return;
      this.numbers.set(kernel, this.variants.length);
      this.variants.push({ relaxed: kernel, plain: plain[i]! });
    });
  }

  numberOf(relaxed: Kernel): number {
    const number = this.numbers.get(relaxed);
    if (number === undefined) throw new Error(`kernel ${relaxed.name} was not added`);
    return number;
  }

  get size(): number {
    return this.variants.length;
  }

  print(variant: 'relaxed' | 'plain'): WasmModule {
    return printWasm(
      this.variants.map((v) => v[variant]),
      variant === 'relaxed' ? WASM_RELAXED : WASM_PLAIN,
    );
  }
}
