import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import { fail } from '../../ir/diagnostic.ts';
import { type Json, readJson } from './json.ts';
import { quote } from './message.ts';

/** Largest JSON file read (index, config), in bytes. */
const MAX_JSON = 100_000_000;

/** No single read or write system call is asked for more: Linux stops at 2 GiB. */
const MAX_IO = 1 << 30;

/**
 * The whole of a regular file, in one allocation of its size.
 *
 * @throws CompileError `file` when it cannot be read, is no regular file, is larger than `max` or shrinks meanwhile
 */
export function readBytes(path: string, max = Number.MAX_SAFE_INTEGER): Uint8Array {
  return io(path, 'read', () => {
    const file = openSync(path, 'r');
    try {
      const stat = fstatSync(file);
      if (!stat.isFile()) fail('file', `${path}: not a regular file`);
      if (stat.size > max) fail('file', `${path}: ${stat.size} bytes, more than the ${max} that such a file may have`);
      const bytes = new Uint8Array(stat.size);
      let at = 0;
      while (at < bytes.length) {
        const count = readSync(file, bytes, at, Math.min(MAX_IO, bytes.length - at), at);
        if (count === 0) fail('file', `${path}: ended after ${at} of ${bytes.length} bytes while it was read`);
        at += count;
      }
      return bytes;
    } finally {
      closeSync(file);
    }
  });
}

/**
 * Writes a file that is either complete or absent: a temporary file beside it is written, flushed and renamed.
 * An existing file is replaced.
 *
 * @throws CompileError `file`; the temporary file is gone then
 */
export function writeAtomic(path: string, chunks: Iterable<Uint8Array>): void {
  io(path, 'write', () => {
    const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
    const file = openSync(temporary, 'wx');
    let open = true;
    try {
      for (const chunk of chunks) {
        for (let at = 0; at < chunk.length; ) at += writeSync(file, chunk, at, Math.min(MAX_IO, chunk.length - at));
      }
      fsyncSync(file);
      closeSync(file);
      open = false;
      renameSync(temporary, path);
    } catch (error) {
      if (open) closeSync(file);
      rmSync(temporary, { force: true });
      throw error;
    }
  });
}

/**
 * Reads a JSON file with `readJson`.
 *
 * @throws CompileError `file` when it cannot be read, `code` when it is not strict JSON
 */
export function readJsonFile(path: string, code: 'config' | 'weights'): Json {
  const bytes = readBytes(path, MAX_JSON);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return fail(code, `${path}: not valid UTF-8`);
  }
  return readJson(text, { source: path, code, maxDepth: 32 });
}

/**
 * Path of a file that a model folder names. The name must be plain (no folders) and, after links are followed, the file
 * must lie in the folder; the one other place allowed is `blobs` of a Hugging Face cache, to which
 * `…/snapshots/REVISION/FILE` links.
 *
 * @throws CompileError `weights` when the name leaves the folder, `file` when there is no such file
 */
export function resolveInside(folder: string, name: string): string {
  const path = join(folder, name);
  if (name === '' || name === '.' || name === '..' || /[/\\\0]/.test(name) || /^[A-Za-z]:/.test(name)) {
    fail('weights', `${folder}: the file name ${quote(name)} does not stay inside the folder`);
  }
  return io(path, 'read', () => {
    const root = realpathSync(folder);
    const real = realpathSync(path);
    const roots = [root];
    if (basename(dirname(root)) === 'snapshots') roots.push(join(dirname(dirname(root)), 'blobs'));
    if (!roots.some((allowed) => real.startsWith(allowed.endsWith(sep) ? allowed : allowed + sep))) {
      fail('weights', `${path}: a link that leaves the folder`, { help: 'copy the file into the folder' });
    }
    return path;
  });
}

/** Runs a file operation; an error of the operating system becomes a CompileError that names the path. */
function io<T>(path: string, verb: 'read' | 'write', run: () => T): T {
  try {
    return run();
  } catch (error) {
    const code = errorCode(error);
    if (code === undefined) throw error;
    const reason = verb === 'write' && code === 'ENOENT' ? 'its folder does not exist' : REASONS.get(code);
    return fail('file', `${path}: cannot ${verb} it: ${reason ?? code}`);
  }
}

const REASONS = new Map([
  ['ENOENT', 'there is no such file'],
  ['EACCES', 'permission denied'],
  ['EISDIR', 'it is a folder'],
  ['ENOTDIR', 'a part of the path is not a folder'],
  ['ELOOP', 'its links form a loop'],
  ['ENOSPC', 'the disk is full'],
]);

function errorCode(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error && 'syscall' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}
