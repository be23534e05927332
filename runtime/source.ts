/** Where the files of a bundle come from. */
import type { Bundle } from './api.ts';
import { HeddleError } from './error.ts';
import { builtin, inNode } from './host.ts';
import { unpackManifest } from './packed.ts';
import { sha256 } from './sha256.ts';

/** A file that is read once, from start to end. */
export interface Reader {
  /** Fills `into` as far as the file goes. @returns how many bytes; fewer than asked for at the end only */
  fill(into: Uint8Array): Promise<number>;
  close(): Promise<void>;
}

export interface Source {
  /** The parsed manifest, as untrusted as it came. */
  manifest(signal: AbortSignal): Promise<unknown>;
  open(file: string, signal: AbortSignal): Promise<Reader>;
  /** Whether the files have a place of their own, so that a worker file can stand beside them. */
  readonly hosted: boolean;
}

function unreadable(what: string, why: string, cause?: unknown): HeddleError {
  return new HeddleError('source', `cannot read ${what}: ${why}. Serve or copy the bundle's folder as a whole.`, {
    cause,
  });
}

function readChunks(next: () => Promise<Uint8Array | undefined>, close: () => Promise<void>): Reader {
  let rest: Uint8Array = new Uint8Array(0);
  return {
    close,
    async fill(into) {
      let at = 0;
      while (at < into.length) {
        if (rest.length === 0) {
          const chunk = await next();
          if (chunk === undefined) break;
          rest = chunk;
        }
        const part = rest.subarray(0, into.length - at);
        into.set(part, at);
        rest = rest.subarray(part.length);
        at += part.length;
      }
      return at;
    },
  };
}

function openBytes(bytes: Uint8Array): Reader {
  let once: Uint8Array | undefined = bytes;
  return readChunks(
    async () => {
      const chunk = once;
      once = undefined;
      return chunk;
    },
    async () => {},
  );
}

async function openDisk(url: URL): Promise<Reader> {
  try {
    const handle = await builtin<typeof import('node:fs/promises')>('fs/promises').open(url);
    return {
      async fill(into) {
        let at = 0;
        while (at < into.length) {
          const { bytesRead } = await handle.read(into, at, into.length - at);
          if (bytesRead === 0) break;
          at += bytesRead;
        }
        return at;
      },
      close: () => handle.close(),
    };
  } catch (error) {
    throw unreadable(url.href, error instanceof Error ? error.message : String(error), error);
  }
}

async function openUrl(url: URL, signal: AbortSignal): Promise<Reader> {
  if (inNode && url.protocol === 'file:') return openDisk(url);
  const response = await fetch(url, { signal }).catch((error: unknown) => {
    signal.throwIfAborted();
    throw unreadable(url.href, String(error), error);
  });
  if (!response.ok) throw unreadable(url.href, `HTTP ${response.status} ${response.statusText}`.trim());
  if (response.body === null) return openBytes(new Uint8Array(await response.arrayBuffer()));
  const reader = response.body.getReader();
  return readChunks(
    async () => {
      const { value } = await reader.read();
      return value;
    },
    () => reader.cancel(),
  );
}

async function readJson(url: URL, signal: AbortSignal): Promise<unknown> {
  const reader = await openUrl(url, signal);
  let text = '';
  try {
    const decoder = new TextDecoder();
    const block = new Uint8Array(1 << 16);
    for (let n = 1; n > 0; ) {
      n = await reader.fill(block);
      text += decoder.decode(block.subarray(0, n), { stream: n > 0 });
    }
  } finally {
    await reader.close();
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new HeddleError('manifest', `${url.href} is not JSON: ${String(error)}. Compile the bundle again.`);
  }
}

function folderUrl(source: string | URL): URL {
  let url: URL;
  if (source instanceof URL || /^[a-z][a-z\d+.-]+:/i.test(source)) url = new URL(source);
  else if (inNode) url = builtin<typeof import('node:url')>('url').pathToFileURL(source);
  else url = new URL(source, globalThis.document?.baseURI ?? globalThis.location.href);
  if (!url.pathname.endsWith('/')) url.pathname += '/';
  return url;
}

/** @param source  a folder, by path (Node) or URL (relative ones against the page), or a bundle in memory */
export function sourceOf(source: string | URL | Bundle): Source {
  if (typeof source === 'string' || source instanceof URL) {
    const base = folderUrl(source);
    return {
      hosted: true,
      manifest: async (signal) => unpackManifest(await readJson(new URL('manifest.json', base), signal)),
      open: (file, signal) => openUrl(new URL(file, base), signal),
    };
  }
  if (!(source as Partial<Bundle> | null)?.files) throw unreadable(String(source), 'no bundle');
  return {
    hosted: [...source.files.values()].some((file) => file instanceof URL),
    manifest: async () => source.manifest,
    async open(file, signal) {
      const bytes = source.files.get(file);
      if (bytes === undefined) throw unreadable(file, 'the bundle in memory has no such file');
      return bytes instanceof URL ? openUrl(bytes, signal) : openBytes(bytes);
    },
  };
}

/** All bytes of a file of kernels. @throws HeddleError `integrity` when they are not what the manifest says; `source` */
export async function readChecked(
  source: Source,
  info: { readonly file: string; readonly bytes: number; readonly sha256: string },
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(info.bytes + 1);
  const reader = await source.open(info.file, signal);
  const got = await reader.fill(bytes).finally(() => reader.close().catch(() => {}));
  const bad = (why: string): HeddleError =>
    new HeddleError('integrity', `kernels ${info.file}: ${why}. Copy or download the file again.`);
  if (got !== info.bytes) {
    throw bad(
      `${got < info.bytes ? `ends after ${got}` : 'is longer than the'} bytes; the manifest says ${info.bytes}`,
    );
  }
  const code = bytes.subarray(0, got);
  if ((await sha256(code)) !== info.sha256) throw bad('the bytes do not have the hash in the manifest');
  return code;
}
