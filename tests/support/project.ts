import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Absolute path of the checkout: the nearest folder above this module with a `package.json`. */
export const projectRoot: string = findRoot(dirname(fileURLToPath(import.meta.url)));

/** Folder of test material beside the checkout, which need not be there; `HEDDLE_SHARED` names another. */
export const sharedRoot: string = process.env.HEDDLE_SHARED ?? join(projectRoot, '..', 'shared');

/** Folder for what tests unpack or write between runs; inside `node_modules`, so `npm ci` empties it. */
export const cacheRoot: string = join(projectRoot, 'node_modules', '.cache', 'heddle');

function findRoot(from: string): string {
  for (let folder = from; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
    if (folder === dirname(folder)) throw new Error(`no package.json in any folder above ${from}`);
  }
}
