/** The short spelling of plans in `manifest.json`: what a launch shares with its neighbours is left out. */
import type { Address, Manifest, Size, Step, WebGpuPart } from '../runtime/manifest.ts';

/** A buffer by its number less the highest that was named before, `[bytes further than the last weight]`, or as it is. */
type PackedAddress = number | readonly [number] | Address;
type PackedLaunch = readonly [
  kernel: number,
  args: readonly PackedAddress[],
  params: readonly Size[],
  grid: Size,
  chunk: Size,
  label: string,
];
/** Launches are lists; other steps keep their form, with packed steps inside. */
type PackedStep = PackedLaunch | Readonly<Record<string, unknown>>;
/** `first` less that of the buffer before, and `last − first`. */
type PackedBuffer = readonly [bytes: Size, first: number, life: number];

/** The manifest as it is written to a file; `runtime/packed.ts` reads it back. */
export function packManifest(manifest: Manifest): unknown {
  const { webgpu } = manifest;
  return { ...packEntries(manifest), packed: true, ...(webgpu && { webgpu: packWebGpu(webgpu) }) };
}

/** The size of a workgroup stands in the shader itself. */
function packWebGpu(part: WebGpuPart): object {
  return { ...packEntries(part), kernels: part.kernels.map(({ workgroup, ...kernel }) => kernel) };
}

function packEntries(part: Pick<Manifest, 'entries'>): object {
  const entries = Object.entries(part.entries).map(([name, plan]) => {
    const buffers = plan.buffers.map(({ bytes, first, last }, i): PackedBuffer => {
      return [bytes, first - (plan.buffers[i - 1]?.first ?? 0), last - first];
    });
    return [name, { ...plan, buffers, steps: new StepPacker().steps(plan.steps) }];
  });
  return { ...part, entries: Object.fromEntries(entries) as unknown };
}

class StepPacker {
  private top = 0;
  private weight = 0;

  steps(steps: readonly Step[]): PackedStep[] {
    return steps.map((step) => {
      if ('kernel' in step) {
        const args = step.args.map((a) => this.address(a));
        return [step.kernel, args, step.params, step.grid, step.chunk, step.label];
      }
      if ('steps' in step) return { ...step, steps: this.steps(step.steps ?? []) };
      if ('if' in step) return { ...step, then: this.steps(step.then), else: this.steps(step.else) };
      return step as unknown as PackedStep;
    });
  }

  private address(a: Address): PackedAddress {
    if ('s' in a || a.at !== undefined) return a;
    if ('b' in a) {
      const apart = a.b - this.top;
      this.top = Math.max(this.top, a.b);
      return apart;
    }
    const apart = a.w - this.weight;
    this.weight = a.w;
    return [apart];
  }
}
