/** What opening a bundle is on every device: its manifest, an end to whatever failed or was aborted. */
import type { Bundle, OpenOptions, Progress, Session } from './api.ts';
import { checkManifest } from './check.ts';
import type { Manifest } from './manifest.ts';
import { type Source, sourceOf } from './source.ts';

/** A bundle whose manifest is read and checked. */
export interface Loading {
  readonly source: Source;
  readonly manifest: Manifest;
  readonly options: OpenOptions;
  /** Aborts when the caller's does, and when anything beside fails. */
  readonly signal: AbortSignal;
  readonly progress: (phase: Progress['phase'], loaded: number, total: number) => void;
}

/** @param load  makes a session for the device, and gives back what it took when it fails */
export async function opening(
  from: string | URL | Bundle,
  options: OpenOptions,
  load: (loading: Loading) => Promise<Session>,
): Promise<Session> {
  const abort = new AbortController();
  const { signal } = options;
  const forward = (): void => abort.abort(signal?.reason);
  signal?.addEventListener('abort', forward);
  try {
    signal?.throwIfAborted();
    const source = sourceOf(from);
    const progress: Loading['progress'] = (phase, loaded, total) => options.onProgress?.({ phase, loaded, total });
    progress('manifest', 0, 0);
    const manifest = checkManifest(await source.manifest(abort.signal));
    abort.signal.throwIfAborted();
    return await load({ source, manifest, options, signal: abort.signal, progress });
  } catch (error) {
    // Ends whatever still reads or starts beside what failed.
    abort.abort(error);
    if (signal?.aborted) throw signal.reason;
    throw error;
  } finally {
    signal?.removeEventListener('abort', forward);
  }
}
