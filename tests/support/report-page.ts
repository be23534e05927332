/** Sites of one script that reports: what tests of bundles in browsers open, in a page and in a worker. */
import type { Browser } from 'playwright-core';
import { closePage, openPage, valueIn } from './chromium.ts';
import { type ServedRequest, type ServeOptions, serve } from './server.ts';

/** Where the script runs: in the page itself, or in a module worker that the page starts. */
export type Place = 'page' | 'worker';

export interface ReportOptions extends ServeOptions {
  /** Declares `report`, an async function without parameters; what it returns must survive a structured clone. */
  readonly script: string;
  /** Seconds until a missing report is an error; default 60. */
  readonly seconds?: number;
}

/** What the script reported, and what a host saw of it. */
export interface Visit<R> {
  readonly report: R;
  /** Requested paths, each once and sorted, without those of the site's own files. */
  readonly asked: readonly string[];
  readonly requests: readonly ServedRequest[];
  /** Uncaught errors, console errors and warnings, violations of the policy among them. */
  readonly complaints: readonly string[];
  /** Requested addresses outside the site. */
  readonly foreign: readonly string[];
}

const send = `
const answer = await report().catch((error) => ({ error: String(error && error.stack || error) }));
if (typeof document === 'undefined') postMessage(answer);
else globalThis.answer = answer;
`;

const inWorker = `
const worker = new Worker('/script.js', { type: 'module' });
worker.onmessage = (event) => { globalThis.answer = event.data; };
worker.onerror = (event) => { globalThis.answer = { error: event.message }; };
`;

/**
 * Serves the script with the files and folders of `options` and opens it in a page of its own.
 * @throws Error what the script threw, or that it reported nothing
 */
export async function reportFrom<R>(browser: Browser, place: Place, options: ReportOptions): Promise<Visit<R>> {
  const start = place === 'page' ? '/script.js' : '/start.js';
  const files = {
    '/favicon.ico': '',
    '/index.html': `<!doctype html><script type="module" src="${start}"></script>`,
    '/script.js': options.script + send,
    '/start.js': inWorker,
    ...options.files,
  };
  const server = await serve({ ...options, files });
  try {
    const watched = await openPage(browser, `${server.origin}/index.html`);
    const report = await valueIn<R & { readonly error?: string }>(watched.page, 'answer', options.seconds);
    await closePage(watched);
    if (report.error !== undefined) throw new Error(report.error);
    const paths = new Set(server.requests.map(({ path }) => path));
    return {
      report,
      asked: [...paths].filter((path) => !(path in files)).sort(),
      requests: server.requests,
      complaints: watched.complaints,
      foreign: watched.urls.filter((url) => !url.startsWith(`${server.origin}/`)),
    };
  } finally {
    await server.close();
  }
}
