import { constants } from 'node:os';
import { join } from 'node:path';
import { create, globals } from 'webgpu';
import { hasPackedBrowser, unpack } from './unpack.ts';

/** Where `createGpu` looks for an adapter. */
export interface GpuOptions {
  /**
   * `software` is SwiftShader, the same on every machine; `native` is whatever driver the machine has.
   * Default: `software` where it can be unpacked (Linux x64), else `native`.
   */
  readonly driver?: 'software' | 'native';
  /** Dawn options, such as `enable-dawn-features=allow_unsafe_apis`. */
  readonly dawn?: readonly string[];
}

/**
 * WebGPU in Node, from Dawn (`webgpu` on npm): what `navigator.gpu` is in a page. Installs the `GPU*` constants as globals.
 * It is kept for the life of the process, as its adapters and devices need.
 */
export function dawnGpu(options: GpuOptions = {}): GPU {
  const { driver = hasPackedBrowser ? 'software' : 'native', dawn = [] } = options;
  if (driver === 'software') useSwiftShader();
  Object.assign(globalThis, globals);
  const gpu = create([...dawn]);
  alive.add(gpu);
  return gpu;
}

/**
 * A WebGPU adapter in Node.
 *
 * Keep the adapter reachable for as long as its devices are used.
 *
 * @throws Error when there is no adapter; tests fail rather than skip without one
 */
export async function createGpu(options: GpuOptions = {}): Promise<GPUAdapter> {
  const adapter = await dawnGpu(options).requestAdapter();
  if (adapter !== null) return adapter;
  const { driver = hasPackedBrowser ? 'software' : 'native' } = options;
  throw new Error(
    `no WebGPU adapter (driver: ${driver}, VK_ICD_FILENAMES: ${process.env.VK_ICD_FILENAMES ?? 'unset'})`,
  );
}

// Dawn's instance must outlive the adapters and devices made from it.
const alive = new Set<GPU>();

/** Points Vulkan loaders of this process, and of its children, at the unpacked SwiftShader driver. */
export function useSwiftShader(): void {
  if (!hasPackedBrowser)
    throw new Error(`SwiftShader is packed for linux-x64, not ${process.platform}-${process.arch}`);
  const folder = unpack('swiftshader');
  process.env.VK_ICD_FILENAMES = join(folder, 'vk_swiftshader_icd.json');
  process.env.VK_DRIVER_FILES = process.env.VK_ICD_FILENAMES;
  preload(join(folder, 'libvulkan.so.1'));
}

// Dawn opens "libvulkan.so.1" by its bare name, and the library path is fixed when a process starts. Once the file is
// loaded from its full path the loader finds it by that name. It is no Node add-on, so `dlopen` loads it and then throws;
// the flag keeps it loaded when Node closes it again.
const RTLD_NODELETE = 0x1000;

function preload(library: string): void {
  try {
    process.dlopen({ exports: {} }, library, constants.dlopen.RTLD_NOW | RTLD_NODELETE);
  } catch (error) {
    if (!(error instanceof Error && error.message.includes('did not self-register'))) throw error;
  }
}
