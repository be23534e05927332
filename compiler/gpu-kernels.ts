/** Every distinct kernel of a bundle's WebGPU part. */
import { SCALARS } from '../ir/dtype.ts';
import type { Buffer } from '../ir/expr.ts';
import type { Kernel } from '../ir/kernel.ts';
import type { WgslKernel } from '../runtime/manifest.ts';
import { copyKernel } from './gpu-copy.ts';
import type { Stage } from './region.ts';
import type { ScheduledProgram } from './schedule-regions.ts';
import { printWgsl } from './wgsl.ts';
import { type BindingLimits, EVERY_DEVICE } from './wgsl-access.ts';

export interface PrintedShaders {
  readonly sources: readonly string[];
  readonly kernels: readonly WgslKernel[];
  /** The index in `kernels` of a kernel that was added. */
  numberOf(kernel: Kernel): number;
}

export class GpuKernelList {
  private readonly limits: BindingLimits;
  /** For each kernel, which of its global buffers are weights. */
  private readonly added = new Map<Kernel, ReadonlySet<Buffer>>();
  private readonly copies = new Set<Kernel>();

  constructor(limits: BindingLimits = EVERY_DEVICE) {
    this.limits = limits;
    for (const dtype of SCALARS) for (const weight of [false, true]) this.copies.add(copyKernel(dtype, weight));
  }

  add(program: ScheduledProgram): void {
    for (const { stages, bodies } of program.regions) {
      for (const stage of stages) this.added.set(stage.kernel, weightsOf(stage));
      for (const body of bodies ?? []) this.add(body.program);
    }
  }

  /** Prints what was added; kernels that come out the same stand there once, and copies when they are first asked for. */
  print(): PrintedShaders {
    const sources: string[] = [];
    const kernels: WgslKernel[] = [];
    const known = new Map<string, number>();
    const numbers = new Map<Kernel, number>();
    const number = (kernel: Kernel, weights: ReadonlySet<Buffer>): number => {
      const printed = printWgsl(kernel, (b) => weights.has(b), this.limits);
      const key = `${JSON.stringify(printed.kernel)}\n${printed.source}`;
      const same = known.get(key);
      if (same !== undefined) return same;
      known.set(key, kernels.length);
      kernels.push({ ...printed.kernel, source: sources.length });
      sources.push(printed.source);
      return kernels.length - 1;
    };
    for (const [kernel, weights] of this.added) numbers.set(kernel, number(kernel, weights));
    return {
      sources,
      kernels,
      numberOf: (kernel) => {
        const at = numbers.get(kernel);
        if (at !== undefined) return at;
        if (!this.copies.has(kernel)) throw new Error(`kernel ${kernel.name} was not added`);
        const reads = SCALARS.some((dtype) => copyKernel(dtype, true) === kernel);
        const made = number(kernel, new Set(reads ? [kernel.buffers[0]!] : []));
        numbers.set(kernel, made);
        return made;
      },
    };
  }
}

function weightsOf({ kernel, bindings }: Stage): ReadonlySet<Buffer> {
  const global = kernel.buffers.filter((b) => b.space === 'global');
  return new Set(global.filter((_, i) => bindings[i]!.kind === 'weight'));
}
