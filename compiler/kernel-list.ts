/** Every distinct kernel of a bundle, in both variants. */
import type { Kernel } from '../ir/kernel.ts';
import { kernelsOf, type ScheduledProgram } from './schedule-regions.ts';
import { WASM_PLAIN, WASM_RELAXED } from './target.ts';
import { printWasm, type WasmModule } from './wasm.ts';

export interface PrintedKernels {
  readonly plain: WasmModule;
  readonly relaxed: WasmModule;
  /** Functions of the relaxed module. */
  readonly count: number;
  /** The number n of the export `k<n>` that runs a relaxed kernel or its plain twin. */
  numberOf(relaxed: Kernel): number;
}

export class KernelList {
  private readonly positions = new Map<Kernel, number>();
  private readonly pairs: { readonly relaxed: Kernel; readonly plain: Kernel }[] = [];

  /** Adds the kernels of two schedules of one program: variants of the same kernels in the same order. */
  add(relaxed: ScheduledProgram, plain: ScheduledProgram): void {
    const twins = [...kernelsOf(plain)];
    const kernels = [...kernelsOf(relaxed)];
    if (kernels.length !== twins.length) throw new Error('the variants of a target have different kernels');
    for (const [i, kernel] of kernels.entries()) {
      if (this.positions.has(kernel)) continue;
      this.positions.set(kernel, this.pairs.length);
      this.pairs.push({ relaxed: kernel, plain: twins[i]! });
    }
  }

  print(): PrintedKernels {
    const plain = printWasm(
      this.pairs.map((pair) => pair.plain),
      WASM_PLAIN,
    );
    const relaxed = printWasm(
      this.pairs.map((pair) => pair.relaxed),
      WASM_RELAXED,
    );
    return {
      plain,
      relaxed,
      count: new Set(relaxed.functionOf).size,
      numberOf: (kernel) => {
        const position = this.positions.get(kernel);
        if (position === undefined) throw new Error(`kernel ${kernel.name} was not added`);
        const first = relaxed.functionOf[position]!;
        return first === plain.functionOf[position] ? first : position;
      },
    };
  }
}
