/** A compiled model in memory: its manifest, its files, and how it came about. */
import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { CompileError, fail } from '../ir/diagnostic.ts';
import type { Nd } from '../ir/nd.ts';
import type { Manifest, SelfTest } from '../runtime/manifest.ts';
import type { CompiledEntry } from './entry.ts';
import { loaderSource, loaderTypes, runtimeFiles } from './loader.ts';
import { packManifest } from './pack-manifest.ts';
import { type CompileReport, entryReport, fileReports, remarkReport } from './report.ts';

export interface BundleParts {
  readonly manifest: Manifest;
  /** Kernels and weights, by file name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly entries: readonly CompiledEntry[];
  readonly target: 'wasm' | 'wasm,webgpu';
  readonly doc: string;
  /** The size of each symbol at which things are counted. */
  readonly at: Readonly<Record<string, number>>;
  readonly kernels: number;
}

/** What `compile` makes. It is immutable, and what `open` of `heddle/runtime` takes as a bundle in memory. */
export class Bundle {
  readonly manifest: Manifest;
  /** Kernels and weights, by file name: what a session reads besides the manifest. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly entries: readonly CompiledEntry[];
  readonly at: Readonly<Record<string, number>>;
  private readonly parts: BundleParts;
  private written: Promise<ReadonlyMap<string, Uint8Array>> | undefined;

  constructor(parts: BundleParts) {
    this.parts = parts;
    this.manifest = parts.manifest;
    this.files = parts.files;
    this.entries = parts.entries;
    this.at = parts.at;
  }

  /** The same bundle with recorded runs for `selftest()`. */
  withSelfTest(selftest: readonly SelfTest[]): Bundle {
    return new Bundle({ ...this.parts, manifest: { ...this.manifest, selftest } });
  }

  /** Every file of the folder by name: the loader and its types, the runtime, the manifest, kernels and weights. */
  folder(): Promise<ReadonlyMap<string, Uint8Array>> {
    this.written ??= this.render();
    return this.written;
  }

  private async render(): Promise<ReadonlyMap<string, Uint8Array>> {
    const text = (content: string): Uint8Array => new TextEncoder().encode(content);
    return new Map<string, Uint8Array>([
      ['index.js', text(loaderSource(this.manifest))],
      ['index.d.ts', text(await loaderTypes(this.manifest, this.parts.doc))],
      ...(await runtimeFiles(this.manifest)),
      ['manifest.json', text(JSON.stringify(packManifest(this.manifest)))],
      ...this.files,
    ]);
  }

  /**
   * Sizes, counts and remarks.
   *
   * @param sample inputs by name, any of those that entries have: what depends on data is then counted as it is with them,
   *   instead of as the most that it can be
   * @throws CompileError for sample inputs that do not fit
   */
  async report(sample: Readonly<Record<string, Nd>> = {}): Promise<CompileReport> {
    const { manifest, at } = this;
    const files = fileReports(await this.folder(), manifest.weights.file);
    const entries = this.entries.map((entry) => entryReport(entry, manifest, at, sample));
    return {
      target: this.parts.target,
      at: { ...at, ...entries[0]!.at },
      files,
      runtimeGzip: files.reduce((sum, { gzip }) => sum + (gzip ?? 0), 0),
      weightsBytes: manifest.weights.bytes,
      peakBytes: Math.max(...entries.map((entry) => entry.peakBytes)),
      macs: entries[0]!.macs,
      macsCompiled: entries[0]!.macsCompiled,
      macsAllowed: entries[0]!.macsAllowed,
      kernels: this.parts.kernels,
      entries,
      remarks: this.entries.flatMap((entry) => entry.remarks.map(remarkReport)),
    };
  }

  /**
   * Writes the folder atomically: everything stands in a temporary neighbour before it takes the name. An older bundle
   * there is replaced, an empty folder filled.
   *
   * @throws CompileError `file` when something else is there or the disk refuses; nothing is left behind then
   */
  async write(folder: string): Promise<void> {
    const staged = await this.stage(folder);
    try {
      await staged.finish(this);
    } catch (error) {
      await staged.abandon();
      throw error;
    }
  }

  /** Begins to write: kernels and weights are on their way to the disk while the caller still records runs. */
  async stage(folder: string): Promise<StagedBundle> {
    const target = resolve(folder);
    await refuseOthers(target, folder);
    return new StagedBundle(target, folder, this.files);
  }
}

/** A folder that is being written beside the place that it is for. */
export class StagedBundle {
  private readonly target: string;
  private readonly shown: string;
  private readonly temporary: string;
  private readonly first: ReadonlyMap<string, Uint8Array>;
  private readonly writing: Promise<void>;

  constructor(target: string, shown: string, first: ReadonlyMap<string, Uint8Array>) {
    this.target = target;
    this.shown = shown;
    this.first = first;
    this.temporary = join(dirname(target), `.${basename(target)}.${randomUUID()}`);
    this.writing = this.begin();
    // Whoever awaits `finish` or `abandon` hears of it.
    this.writing.catch(() => {});
  }

  private async begin(): Promise<void> {
    await mkdir(this.temporary, { recursive: true });
    for (const [name, bytes] of this.first) await writeFile(join(this.temporary, name), bytes);
  }

  /** Writes the rest of `bundle`, whose kernels and weights are those that were staged, and gives the folder its name. */
  async finish(bundle: Bundle): Promise<void> {
    try {
      const files = await bundle.folder();
      await this.writing;
      for (const [name, bytes] of files)
        if (this.first.get(name) !== bytes) await writeFile(join(this.temporary, name), bytes);
      await replace(this.temporary, this.target);
    } catch (error) {
      if (error instanceof CompileError || !(error instanceof Error && 'syscall' in error)) throw error;
      fail('file', `${this.shown}: cannot write the bundle: ${error.message}`);
    }
  }

  /** Leaves nothing behind, at once: for a process that is told to end. */
  removeNow(): void {
    rmSync(this.temporary, { recursive: true, force: true });
  }

  /** Leaves nothing behind. */
  async abandon(): Promise<void> {
    await this.writing.catch(() => {});
    await rm(this.temporary, { recursive: true, force: true });
  }
}

/** Refuses a place that holds anything but a bundle of this kind. */
export async function refuseOthers(target: string, shown: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(target);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT') return;
    if (code === 'ENOTDIR') fail('file', `${shown}: is not a folder`, { help: 'name another folder' });
    throw error;
  }
  if (names.length === 0 || (await isBundle(target))) return;
  fail('file', `${shown}: the folder is not empty and holds no heddle bundle`, {
    help: 'name another folder, or empty this one',
  });
}

async function isBundle(folder: string): Promise<boolean> {
  try {
    const manifest: unknown = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8'));
    return typeof manifest === 'object' && manifest !== null && 'heddle' in manifest;
  } catch {
    return false;
  }
}

async function replace(temporary: string, target: string): Promise<void> {
  const old = `${temporary}.old`;
  let moved = false;
  try {
    await rename(target, old);
    moved = true;
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  try {
    await rename(temporary, target);
  } catch (error) {
    if (moved) await rename(old, target);
    throw error;
  }
  if (moved) await rm(old, { recursive: true, force: true });
}
