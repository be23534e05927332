import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { hasPackedBrowser, unpack } from './unpack.ts';

const webgpuFlags = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-features=Vulkan',
  '--use-angle=swiftshader',
];

// The packed build forbids the GPU process's sandbox and fork server; it also must not ask the network for anything.
const packedFlags = ['--no-sandbox', '--no-zygote', '--in-process-gpu'];
const quietFlags = [
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-domain-reliability',
  '--disable-sync',
  '--disable-default-apps',
  '--no-first-run',
  '--no-default-browser-check',
  '--no-pings',
];

/** How to start the browser. */
export interface LaunchOptions {
  /** Command-line flags added to the usual ones. */
  readonly flags?: readonly string[];
}

/**
 * Starts headless Chromium with WebGPU on SwiftShader: the build from npm on Linux x64, else the machine's own Chrome.
 * The caller closes it.
 *
 * @throws Error when no browser can be started; tests fail rather than skip without one
 */
export async function launchBrowser(options: LaunchOptions = {}): Promise<Browser> {
  const { flags = [] } = options;
  const args = [...webgpuFlags, ...quietFlags, ...flags];
  if (!hasPackedBrowser) return chromium.launch({ channel: 'chrome', args });
  const folder = unpack('chromium');
  const libraries = [join(unpack('al2023'), 'lib'), folder, process.env.LD_LIBRARY_PATH ?? ''];
  return chromium.launch({
    executablePath: join(folder, 'chromium'),
    args: [...packedFlags, ...args],
    env: {
      ...environment(),
      LD_LIBRARY_PATH: libraries.filter((entry) => entry !== '').join(':'),
      VK_ICD_FILENAMES: join(folder, 'vk_swiftshader_icd.json'),
      FONTCONFIG_PATH: unpack('fonts'),
    },
  });
}

/** A page and everything it did that a strict host would see. */
export interface WatchedPage {
  readonly page: Page;
  /** Absolute URL of every request that the page and its workers began, refused ones included. */
  readonly urls: readonly string[];
  /** Uncaught errors, console errors and warnings, policy violations among them. */
  readonly complaints: readonly string[];
}

/** Opens `url` in a context of its own (no cache, no storage shared with other pages) and waits for its load event. */
export async function openPage(browser: Browser, url: string): Promise<WatchedPage> {
  const context = await browser.newContext({ serviceWorkers: 'block' });
  const page = await context.newPage();
  const urls: string[] = [];
  const complaints: string[] = [];
  context.on('request', (request) => urls.push(request.url()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  await page.goto(url, { waitUntil: 'load' });
  return { page, urls, complaints };
}

/** Closes the page with its context. */
export async function closePage(watched: WatchedPage): Promise<void> {
  await watched.page.context().close();
}

function environment(): Record<string, string> {
  const defined = Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return Object.fromEntries(defined);
}

/**
 * What a page has put at `globalThis[name]`, once it is there. Asks again and again: Playwright's `waitForFunction` would
 * evaluate a string inside the page, which a policy may forbid.
 *
 * @throws Error after `seconds`
 */
export async function valueIn<T>(page: Page, name: string, seconds = 60): Promise<T> {
  for (let tries = 0; tries < seconds * 10; tries++) {
    const value = await page.evaluate<T | undefined>(`globalThis.${name}`);
    if (value !== undefined) return value;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`the page has no ${name} after ${seconds} s`);
}
