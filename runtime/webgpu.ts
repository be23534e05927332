/** A session on WebGPU. Loaded when it is wanted, so that pages which compute on WebAssembly do without. */
import type { DeviceTensor, Input, OpenOptions, RunOptions, Session } from './api.ts';
import { inNode } from './host.ts';
import type { Loading } from './opening.ts';
import { BundleSession } from './session.ts';
import { checkWebGpu } from './webgpu-check.ts';
import { Gpu } from './webgpu-device.ts';
import { Machine } from './webgpu-machine.ts';
import { type Binding, type DeviceElements, Runner } from './webgpu-runner.ts';

// Dawn's instances must outlive the adapters and devices made from them.
const alive = new Set<GPU>();

/** The host's WebGPU: the option's, the engine's, or Dawn's in Node where the package `webgpu` is installed. */
async function hostGpu({ gpu, device }: OpenOptions): Promise<GPU | undefined> {
  if (gpu !== undefined || typeof device === 'object') return gpu as GPU | undefined;
  const own = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (own !== undefined || !inNode) return own;
  // Spelt so that bundlers for pages do not look for the package.
  const name = 'webgpu';
  try {
    const { create } = (await import(/* @vite-ignore */ name)) as typeof import('webgpu');
    const dawn = create([]);
    alive.add(dawn);
    return dawn;
  } catch {
    return undefined;
  }
}

class WebGpuSession extends BundleSession<Binding, DeviceElements> {
  readonly adapter: string;
  readonly #runner: Runner;

  constructor(loading: Loading, runner: Runner, adapter: string) {
    super(loading.manifest, runner, { device: 'webgpu', threads: 1, relaxed: false, fallback: undefined });
    this.#runner = runner;
    this.adapter = adapter;
  }

  async runOnDevice(
    inputs: Readonly<Record<string, Input>>,
    options: RunOptions = {},
  ): Promise<Record<string, DeviceTensor>> {
    return this.enqueue(inputs, options, this.#runner.runOnDevice);
  }
}

/** @throws HeddleError `support`, `memory`, `manifest`, `integrity`, `source` or `device`, having given everything back */
export async function loadWebGpu(loading: Loading): Promise<Session> {
  const { manifest, options, signal, progress } = loading;
  const part = checkWebGpu(manifest);
  const request = async (): Promise<Gpu> => Gpu.request(part, options, await hostGpu(options));
  const gpu = await request();
  const machine = await Machine.load(gpu, part, loading);
  if (signal.aborted) gpu.close();
  signal.throwIfAborted();
  progress('ready', manifest.weights.bytes, manifest.weights.bytes);
  const quiet = { ...loading, signal: new AbortController().signal, progress: () => {} };
  const runner = new Runner(machine, part, {
    reload: async () => Machine.load(await request(), part, quiet),
    dispose: () => session.dispose(),
  });
  const session = new WebGpuSession(loading, runner, gpu.adapter);
  return session;
}
