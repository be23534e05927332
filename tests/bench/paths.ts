import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The package's root folder: the nearest one above this module with a `node_modules`. */
export const ROOT: string = findRoot(dirname(fileURLToPath(import.meta.url)));

/** Where generated models, bundles and outputs are kept between runs; created when absent, never committed. */
export function cacheFolder(...parts: readonly string[]): string {
  const folder = join(ROOT, 'node_modules', '.cache', 'heddle', 'bench', ...parts);
  mkdirSync(folder, { recursive: true });
  return folder;
}

function findRoot(from: string): string {
  if (existsSync(join(from, 'package.json')) && existsSync(join(from, 'node_modules'))) return from;
  const up = dirname(from);
  if (up === from) throw new Error('no package.json beside a node_modules above the benchmark; run npm ci first');
  return findRoot(up);
}
