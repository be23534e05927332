import { existsSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fail } from '../../ir/diagnostic.ts';
import type { WeightTensor } from '../../ir/weights.ts';
import { readBytes, readJsonFile, resolveInside, writeAtomic } from './files.ts';
import { isObject } from './json.ts';
import { quote } from './message.ts';
import { layoutSafetensors, parseSafetensors, type Safetensors } from './safetensors.ts';
import type { FileStore } from './store.ts';

/** Reads one `.safetensors` file. @throws CompileError `file` or `weights` */
export function readSafetensors(path: string): Safetensors {
  return parseSafetensors(readBytes(path), path);
}

/**
 * Writes one `.safetensors` file, deterministically (see `layoutSafetensors`) and atomically: it is complete or absent.
 *
 * @throws CompileError `weights` when the tensors cannot be written, `file` when the file cannot
 */
export function writeSafetensors(
  path: string,
  tensors: Iterable<readonly [string, WeightTensor]>,
  metadata: Iterable<readonly [string, string]> = [],
): void {
  const { header, chunks } = layoutSafetensors(tensors, metadata);
  writeAtomic(path, [header, ...chunks]);
}

/** Tensors spread over several files by an index. */
export interface ShardedStore extends FileStore {
  /** Names that stand in a shard but not in the index; they are not part of the store. */
  readonly unlisted: readonly string[];
}

/**
 * Reads the shards that a `model.safetensors.index.json` lists. Every listed tensor must stand in its shard, and every
 * shard in the index's folder (see `resolveInside`).
 *
 * @throws CompileError `weights` or `file`
 */
export function readSharded(indexPath: string): ShardedStore {
  const json = readJsonFile(indexPath, 'weights');
  const map = isObject(json) ? json.get('weight_map') : undefined;
  if (!isObject(map)) fail('weights', `${indexPath}: "weight_map" is missing or not an object`);
  const folder = dirname(indexPath);
  const shards = new Map<string, { readonly tensors: Safetensors; readonly names: ReadonlySet<string> }>();
  const owner = new Map<string, Safetensors>();
  const absent: string[] = [];
  for (const [name, file] of map) {
    if (typeof file !== 'string') fail('weights', `${indexPath}: weight_map ${quote(name)} is not a file name`);
    let shard = shards.get(file);
    if (shard === undefined) {
      const tensors = readSafetensors(resolveInside(folder, file));
      shard = { tensors, names: new Set(tensors.names()) };
      shards.set(file, shard);
    }
    if (shard.names.has(name)) owner.set(name, shard.tensors);
    else absent.push(`${quote(name)} in ${file}`);
  }
  if (absent.length > 0) {
    const notes = absent.slice(0, 20);
    if (absent.length > 20) notes.push(`… and ${absent.length - 20} more`);
    fail('weights', `${indexPath}: ${absent.length} listed tensors are not in their files`, { notes });
  }
  const names = [...owner.keys()];
  return {
    source: indexPath,
    unlisted: [...shards.values()].flatMap((shard) =>
      [...shard.names].filter((name) => owner.get(name) !== shard.tensors),
    ),
    names: () => names,
    origin: (name) => owner.get(name)?.origin(name) ?? { file: basename(indexPath), name },
    get: (name) => owner.get(name)?.get(name),
  };
}

/** The names under which a folder may hold its weights, in the order in which they are tried. */
const WEIGHT_FILES = ['model.safetensors', 'model.safetensors.index.json'] as const;

/**
 * Reads the weights that `path` names: a `.safetensors` file, an index (`.index.json`), or a folder with
 * `model.safetensors` or `model.safetensors.index.json`.
 *
 * @throws CompileError `file` or `weights`
 */
export function readWeights(path: string): FileStore {
  if (!isFolder(path)) return path.endsWith('.json') ? readSharded(path) : readSafetensors(path);
  const name = WEIGHT_FILES.find((candidate) => existsSync(join(path, candidate)));
  if (name === undefined) {
    const pickle = ['pytorch_model.bin', 'pytorch_model.bin.index.json'].find((file) => existsSync(join(path, file)));
    return fail('file', `${path}: holds neither ${WEIGHT_FILES.join(' nor ')}`, {
      help: pickle === undefined ? undefined : `${pickle} is a Python pickle; save the model again as safetensors`,
    });
  }
  return readWeights(resolveInside(path, name));
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
