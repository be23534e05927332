import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { cacheRoot } from '../support/project.ts';

/** Where generated models, bundles and outputs are kept between runs; created when absent, never committed. */
export function cacheFolder(...parts: readonly string[]): string {
  const folder = join(cacheRoot, 'bench', ...parts);
  mkdirSync(folder, { recursive: true });
  return folder;
}
