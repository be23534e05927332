/** A compiled model in memory: its manifest, its files, and how it came about. */
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Manifest, WasmFile } from '../runtime/manifest.ts';
import type { CompiledEntry } from './entry.ts';

export class Bundle {
  readonly manifest: Manifest;
  /** File name → bytes, without the manifest itself. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly entries: readonly CompiledEntry[];

  constructor(manifest: Manifest, files: ReadonlyMap<string, Uint8Array>, entries: readonly CompiledEntry[]) {
    this.manifest = manifest;
    this.files = files;
    this.entries = entries;
  }

  static describe(file: string, module: { readonly bytes: Uint8Array; readonly memoryFlagAt: number }): WasmFile {
    return {
      file,
      bytes: module.bytes.length,
      sha256: createHash('sha256').update(module.bytes).digest('hex'),
      memoryFlagAt: module.memoryFlagAt,
    };
  }

  /** Writes the folder atomically: everything stands in a temporary neighbour before it takes the name. */
  async write(folder: string): Promise<void> {
    const target = resolve(folder);
    const temporary = join(dirname(target), `.${basename(target)}.${randomUUID()}`);
    await mkdir(temporary, { recursive: true });
    try {
      for (const [name, bytes] of this.files) await writeFile(join(temporary, name), bytes);
      await writeFile(join(temporary, 'manifest.json'), JSON.stringify(this.manifest));
      await rm(target, { recursive: true, force: true });
      await rename(temporary, target);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw error;
    }
  }
}
