/** From a folder, URL or bundle in memory to a session, on WebGPU or WebAssembly. */
import type { Bundle, OpenOptions, Session } from './api.ts';
import { HeddleError } from './error.ts';
import { type Loading, opening } from './opening.ts';

async function loadAny(loading: Loading): Promise<Session> {
  const { manifest, options } = loading;
  const { device = 'auto' } = options;
  // Files of their own, of which a page loads the one that it needs.
  const onWasm = async (fallback?: string): Promise<Session> =>
    (await import('./open-wasm.ts')).loadWasm(loading, fallback);
  if (device === 'wasm' || (device === 'auto' && manifest.webgpu === undefined)) return onWasm();
  if (manifest.webgpu === undefined) {
    throw new HeddleError('option', `${manifest.name} has no WebGPU kernels. Compile it with target wasm,webgpu.`);
  }
  const { loadWebGpu } = await import('./webgpu.ts');
  if (device !== 'auto') return loadWebGpu(loading);
  try {
    return await loadWebGpu(loading);
  } catch (error) {
    // What the files or the caller are at fault for, WebAssembly would meet again.
    const code = error instanceof HeddleError ? error.code : undefined;
    if (code !== 'support' && code !== 'memory' && code !== 'device') throw error;
    loading.signal.throwIfAborted();
    return onWasm((error as Error).message.replace(/^heddle: /, ''));
  }
}

/**
 * Opens a bundle: reads and checks its files, compiles its kernels, starts its threads. Requests nothing but the bundle's
 * own files.
 *
 * @param source  a bundle's folder by path (Node) or URL, or a bundle in memory
 * @throws HeddleError `source`, `manifest`, `integrity`, `support`, `memory`, `device` or `option`; or the signal's reason.
 * Whatever was begun is undone
 */
export async function open(source: string | URL | Bundle, options: OpenOptions = {}): Promise<Session> {
  const { device } = options;
  if (typeof device === 'string' && !['auto', 'wasm', 'webgpu'].includes(device)) {
    throw new HeddleError('option', `device "${device}" is not known. Use "auto", "wasm", "webgpu" or a GPUDevice.`);
  }
  return opening(source, options, loadAny);
}
