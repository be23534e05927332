/** Every distinct kernel of a bundle's WebGPU part, once for each set of features that devices may have. */
import { SCALARS } from '../ir/dtype.ts';
import type { Buffer } from '../ir/expr.ts';
import type { Kernel } from '../ir/kernel.ts';
import type { WgslKernel } from '../runtime/manifest.ts';
import { GRIDS } from './device-counts.ts';
import { copyKernel } from './gpu-copy.ts';
import type { Stage } from './region.ts';
import type { ScheduledProgram } from './schedule-regions.ts';
import { printWgsl, type WgslOptions } from './wgsl.ts';

/** The sources of all kernels for one kind of device. */
export interface ShaderSet {
  /** What the sources enable. */
  readonly features: ReadonlySet<string>;
  /** By kernel. */
  readonly sources: readonly string[];
}

export interface PrintedShaders {
  /** One for each program that `add` was given; then, where weights are halves, the same for devices with `shader-f16`. */
  readonly sets: readonly ShaderSet[];
  readonly kernels: readonly WgslKernel[];
  /** The index in `kernels` of a kernel that was added, as the first of its programs has it. */
  numberOf(kernel: Kernel): number;
}

/** A kernel as it is for one kind of device. */
interface Variant {
  readonly kernel: Kernel;
  /** Which of its global buffers are weights. */
  readonly weights: ReadonlySet<Buffer>;
}

export class GpuKernelList {
  private readonly options: WgslOptions;
  private readonly added = new Map<Kernel, readonly Variant[]>();
  private readonly copies = new Set<Kernel>();
  private sets = 1;

  constructor(options: WgslOptions = {}) {
    this.options = options;
    for (const dtype of SCALARS) for (const weight of [false, true]) this.copies.add(copyKernel(dtype, weight));
  }

  /**
   * @param programs  the same program, scheduled for each kind of device; as many in every call. Their kernels bind the same
   *                  and take the same parameters, so that one plan serves all.
   */
  add(programs: readonly ScheduledProgram[]): void {
    this.sets = programs.length;
    const [first, ...others] = programs;
    for (const [r, { stages, bodies }] of first!.regions.entries()) {
      for (const [s, stage] of stages.entries())
        this.added.set(stage.kernel, [stage, ...others.map((p) => p.regions[r]!.stages[s]!)].map(variantOf));
      for (const [b, body] of (bodies ?? []).entries())
        this.add([body.program, ...others.map((p) => p.regions[r]!.bodies![b]!.program)]);
    }
  }

  /** Prints what was added; kernels that come out the same stand there once; copies and what follows from counts when they are first asked for. */
  print(): PrintedShaders {
    const kinds = this.options.halves ? [false, true] : [false];
    const sets = Array.from({ length: kinds.length * this.sets }, () => ({
      features: new Set<string>(),
      sources: [] as string[],
    }));
    const kernels: WgslKernel[] = [];
    const known = new Map<string, number>();
    const numbers = new Map<Kernel, number>();
    const number = (variants: readonly Variant[]): number => {
      const printed = kinds.flatMap((f16) =>
        variants.map(({ kernel, weights }) => printWgsl(kernel, (b) => weights.has(b), { ...this.options, f16 })),
      );
      const [plan, ...plans] = printed.map(({ kernel }) => JSON.stringify(kernel));
      if (plans.some((other) => other !== plan))
        throw new Error(`kernel ${variants[0]!.kernel.name} does not bind the same on all devices`);
      const key = [plan, ...printed.map(({ source }) => source)].join('\n');
      const same = known.get(key);
      if (same !== undefined) return same;
      known.set(key, kernels.length);
      for (const [i, { source, features }] of printed.entries()) {
        sets[i]!.sources.push(source);
        for (const feature of features) sets[i]!.features.add(feature);
      }
      return kernels.push(printed[0]!.kernel) - 1;
    };
    for (const [kernel, variants] of this.added) numbers.set(kernel, number(variants));
    return {
      sets,
      kernels,
      numberOf: (kernel) => {
        const at = numbers.get(kernel);
        if (at !== undefined) return at;
        if (!this.copies.has(kernel) && kernel.name !== GRIDS) throw new Error(`kernel ${kernel.name} was not added`);
        const reads = SCALARS.some((dtype) => copyKernel(dtype, true) === kernel);
        const weights = new Set(reads ? [kernel.buffers[0]!] : []);
        const made = number(Array.from({ length: this.sets }, () => ({ kernel, weights })));
        numbers.set(kernel, made);
        return made;
      },
    };
  }
}

function variantOf({ kernel, bindings }: Stage): Variant {
  const global = kernel.buffers.filter((b) => b.space === 'global');
  return { kernel, weights: new Set(global.filter((_, i) => bindings[i]!.kind === 'weight')) };
}
