/** Bundles on disk, as commands look at them. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fail } from '../../ir/diagnostic.ts';
import { checkManifest } from '../../runtime/check.ts';
import type { Manifest } from '../../runtime/manifest.ts';
import { unpackManifest } from '../../runtime/packed.ts';

export const isBundleFolder = (path: string): boolean =>
  (statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false) && existsSync(join(path, 'manifest.json'));

/** @throws CompileError `file` when the folder holds no bundle; HeddleError `manifest` when it is malformed */
export async function readBundleManifest(folder: string): Promise<Manifest> {
  const path = join(folder, 'manifest.json');
  if (!isBundleFolder(folder))
    fail('file', `${folder}: holds no bundle`, { help: 'make one with heddle compile MODEL -o FOLDER' });
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    fail('file', `${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  return checkManifest(unpackManifest(json));
}
