import { readFile, stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, resolve, sep } from 'node:path';

/** The strict policy under which bundles promise to work. */
export const strictPolicy =
  "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; object-src 'none'; base-uri 'none'";

/** What to serve. */
export interface ServeOptions {
  /** Folders by URL prefix, each ending in `/`: `{ '/bundle/': '/path/to/bundle' }`. The longest prefix wins. */
  readonly folders?: Readonly<Record<string, string>>;
  /** Single files by URL path; they win over folders. Strings are sent as UTF-8. */
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
  /** Sends COOP and COEP, so that pages are cross-origin isolated and have `SharedArrayBuffer`. Default false. */
  readonly isolated?: boolean;
  /** The `Content-Security-Policy` header; default `strictPolicy`. */
  readonly policy?: string;
}

/** One answered request. `path` has no query. */
export interface ServedRequest {
  readonly method: string;
  readonly path: string;
  readonly status: number;
}

/** A running server. */
export interface TestServer {
  /** `http://127.0.0.1:PORT`, without a final slash. */
  readonly origin: string;
  /** Every request answered so far, in order. */
  readonly requests: readonly ServedRequest[];
  close(): Promise<void>;
}

const mimeTypes: Readonly<Record<string, string>> = {
  '.bin': 'application/octet-stream',
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.ico': 'image/x-icon',
  '.jpg': 'image/jpeg',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.map': 'application/json; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.npy': 'application/octet-stream',
  '.onnx': 'application/octet-stream',
  '.png': 'image/png',
  '.safetensors': 'application/octet-stream',
  '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
  '.wgsl': 'text/plain; charset=utf-8',
};

/** Serves files on a free port of 127.0.0.1, as a plain static host would: GET and HEAD, no listing, no ranges. */
export async function serve(options: ServeOptions): Promise<TestServer> {
  const requests: ServedRequest[] = [];
  const server = createServer((request, response) => {
    answer(request, options)
      .catch((error: unknown) => ({ status: 500, type: 'text/plain', body: Buffer.from(String(error)) }))
      .then((reply) => {
        requests.push({ method: request.method ?? '', path: pathOf(request), status: reply.status });
        send(response, reply, request.method === 'HEAD', options);
      });
  });
  await new Promise<void>((done, fail) => {
    server.once('error', fail);
    server.listen(0, '127.0.0.1', done);
  });
  const { port } = server.address() as AddressInfo;
  return {
    origin: `http://127.0.0.1:${port}`,
    requests,
    close: () =>
      new Promise<void>((done, fail) => {
        server.close((error) => (error === undefined ? done() : fail(error)));
        server.closeAllConnections();
      }),
  };
}

interface Reply {
  readonly status: number;
  readonly type: string;
  readonly body: Uint8Array;
}

const notFound: Reply = { status: 404, type: 'text/plain', body: Buffer.from('not found') };

async function answer(request: IncomingMessage, options: ServeOptions): Promise<Reply> {
  if (request.method !== 'GET' && request.method !== 'HEAD') return { ...notFound, status: 405 };
  const path = pathOf(request);
  const inline = options.files?.[path];
  if (inline !== undefined) {
    return { status: 200, type: mimeOf(path), body: typeof inline === 'string' ? Buffer.from(inline) : inline };
  }
  const file = fileFor(path, options.folders ?? {});
  if (file === undefined || !(await stat(file).catch(() => undefined))?.isFile()) return notFound;
  return { status: 200, type: mimeOf(file), body: await readFile(file) };
}

function fileFor(path: string, folders: Readonly<Record<string, string>>): string | undefined {
  const prefix = Object.keys(folders)
    .filter((candidate) => path.startsWith(candidate))
    .sort((a, b) => b.length - a.length)[0];
  const folder = prefix === undefined ? undefined : folders[prefix];
  if (prefix === undefined || folder === undefined) return undefined;
  const file = join(resolve(folder), path.slice(prefix.length));
  return file.startsWith(resolve(folder) + sep) ? file : undefined;
}

function pathOf(request: IncomingMessage): string {
  return decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
}

function mimeOf(path: string): string {
  return mimeTypes[extname(path)] ?? 'application/octet-stream';
}

function send(response: ServerResponse, reply: Reply, headOnly: boolean, options: ServeOptions): void {
  response.writeHead(reply.status, {
    'content-type': reply.type,
    'content-length': reply.body.byteLength,
    'cache-control': 'no-store',
    'content-security-policy': options.policy ?? strictPolicy,
    'x-content-type-options': 'nosniff',
    ...(options.isolated === true && {
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
      'cross-origin-resource-policy': 'same-origin',
    }),
  });
  response.end(headOnly ? undefined : reply.body);
}
