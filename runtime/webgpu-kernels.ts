/** The pipelines of a bundle: its WGSL read, checked and compiled, all at once. */
import { HeddleError } from './error.ts';
import type { WebGpuPart, WgslBinding, WgslFile, WgslKernel } from './manifest.ts';
import type { Loading } from './opening.ts';
import { readChecked } from './source.ts';
import { eachLaunch } from './webgpu-check.ts';
import type { Gpu } from './webgpu-device.ts';

/** Of what a storage binding is a part. */
export type Memory = 'arena' | 'weights';

export interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly kernel: WgslKernel;
  /** By binding. */
  readonly memories: readonly Memory[];
  /** Bytes of the uniform at binding 0; 0 when there is none. */
  readonly uniform: number;
}

/** The words behind the parameters: one for each argument that a binding of everything holds. */
export const offsetsOf = (binding: WgslBinding): readonly number[] =>
  'arena' in binding ? binding.arena : 'weights' in binding ? binding.weights : [];

interface Use {
  /** By argument. */
  readonly memories: readonly Memory[];
  /** Of the first launch. */
  readonly label: string;
}

/** What each argument of each kernel points to; the printer declared it, so all launches agree. */
function usesOf(part: WebGpuPart): Map<number, Use> {
  const found = new Map<number, Use>();
  for (const [name, { steps }] of Object.entries(part.entries)) {
    eachLaunch(steps, ({ kernel, args, label }) => {
      const memories = args.map((arg): Memory => ('w' in arg ? 'weights' : 'arena'));
      const before = found.get(kernel) ?? { memories, label };
      found.set(kernel, before);
      if (before.memories.join() === memories.join()) return;
      throw new HeddleError('manifest', `manifest: ${name}: ${label} binds weights where others bind values.`);
    });
  }
  return found;
}

/** The kernels' texts, for what the device can do. @throws HeddleError `support` where none are for such a device */
export async function readSources(
  { source, signal }: Loading,
  { wgsl }: WebGpuPart,
  { features }: Pick<GPUDevice, 'features'>,
): Promise<string[]> {
  const lacks = (file: WgslFile): string[] => (file.features ?? []).filter((name) => !features.has(name));
  const file = wgsl.find((each) => lacks(each).length === 0);
  if (file !== undefined) return new TextDecoder().decode(await readChecked(source, file, signal)).split('\n');
  const missing = wgsl.map((each) => lacks(each).join(', ')).join(' or ');
  throw new HeddleError('support', `the GPU device lacks ${missing}, which kernels of this bundle need.`);
}

/**
 * Compiles every kernel that an entry launches.
 *
 * @returns by kernel number; undefined for those that nobody launches
 * @throws HeddleError `support` when a pipeline cannot be made, with the compiler's words
 */
export async function compilePipelines(
  gpu: Gpu,
  part: WebGpuPart,
  sources: readonly string[],
  progress: (done: number, total: number) => void,
): Promise<(Pipeline | undefined)[]> {
  const { device } = gpu;
  const layouts = new Map<string, GPUBindGroupLayout>();
  const uses = usesOf(part);
  let done = 0;

  const layoutOf = (of: readonly Memory[], uniform: number): GPUBindGroupLayout => {
    const key = `${uniform} ${of.join()}`;
    let layout = layouts.get(key);
    if (layout === undefined) {
      const entries = of.map((memory, i): GPUBindGroupLayoutEntry => {
        const type = memory === 'arena' ? 'storage' : 'read-only-storage';
        return { binding: i + 1, visibility: 4, buffer: { type } };
      });
      const parameters: GPUBindGroupLayoutEntry = {
        binding: 0,
        visibility: 4,
        buffer: { type: 'uniform', hasDynamicOffset: true },
      };
      layout = device.createBindGroupLayout({ entries: uniform > 0 ? [parameters, ...entries] : entries });
      layouts.set(key, layout);
    }
    return layout;
  };

  const make = async (number: number, { memories: args, label }: Use): Promise<Pipeline> => {
    const kernel = part.kernels[number]!;
    const { value: module, error } = gpu.scoped(() => device.createShaderModule({ code: sources[number]! }));
    const of = kernel.bindings.map((binding): Memory => {
      if ('arg' in binding) return args[binding.arg]!;
      return 'arena' in binding ? 'arena' : 'weights';
    });
    const words = kernel.params + kernel.bindings.reduce((sum, each) => sum + offsetsOf(each).length, 0);
    const uniform = Math.ceil(words / 4) * 16;
    try {
      const { value, error: bad } = gpu.scoped(() => {
        const layout = layoutOf(of, uniform);
        const pipeline = device.createComputePipelineAsync({
          label,
          layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module, entryPoint: 'main' },
        });
        // Whoever awaits it below hears of it; the errors of scopes come first.
        pipeline.catch(() => {});
        return { layout, pipeline };
      });
      const failed = (await gpu.race(error)) ?? (await gpu.race(bad));
      if (failed !== undefined) throw failed;
      const pipeline = await gpu.race(value.pipeline);
      progress(++done, uses.size);
      return { pipeline, layout: value.layout, kernel, memories: of, uniform };
    } catch (cause) {
      if (cause instanceof HeddleError) throw cause;
      const why = cause instanceof Object && 'message' in cause ? String(cause.message) : String(cause);
      const where = `kernel ${label} does not compile on ${gpu.adapter}`;
      throw new HeddleError('support', `${where}: ${why.trim().split('\n')[0]}. Use device "wasm".`, { cause });
    }
  };
  const pipelines: (Pipeline | undefined)[] = [];
  await Promise.all(
    [...uses].map(async ([number, use]) => {
      pipelines[number] = await make(number, use);
    }),
  );
  return pipelines;
}
