import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize, sep } from 'node:path';

const BLOCK = 512;

/**
 * Writes the files and folders of an uncompressed ustar archive below `folder`, keeping their execute bits.
 *
 * @throws Error on links, long-name extensions and names that leave `folder`: no archive read here has them
 */
export function untar(archive: Uint8Array, folder: string): void {
  for (let at = 0; at + BLOCK <= archive.length; ) {
    const header = archive.subarray(at, at + BLOCK);
    if (header.every((byte) => byte === 0)) return;
    const name = entryName(header);
    const size = octal(header, 124, 12);
    const kind = text(header, 156, 1);
    const target = join(folder, name);
    if (kind === '5') {
      mkdirSync(target, { recursive: true });
    } else if (kind === '0' || kind === '') {
      mkdirSync(dirname(target), { recursive: true });
      const body = archive.subarray(at + BLOCK, at + BLOCK + size);
      if (body.length !== size) throw new Error(`tar: ${name} is cut short: ${body.length} of ${size} bytes`);
      writeFileSync(target, body, { mode: octal(header, 100, 8) & 0o777 });
    } else {
      throw new Error(`tar: ${name} has entry type "${kind}"; only plain files and folders are unpacked`);
    }
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
  }
}

function entryName(header: Uint8Array): string {
  const prefix = text(header, 257, 5) === 'ustar' ? text(header, 345, 155) : '';
  const name = normalize(prefix === '' ? text(header, 0, 100) : `${prefix}/${text(header, 0, 100)}`);
  if (name.startsWith('..') || name.startsWith(sep)) throw new Error(`tar: ${name} lies outside the archive's folder`);
  return name;
}

function text(header: Uint8Array, from: number, length: number): string {
  const field = header.subarray(from, from + length);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}

function octal(header: Uint8Array, from: number, length: number): number {
  const value = Number.parseInt(text(header, from, length).trim() || '0', 8);
  if (!Number.isSafeInteger(value)) throw new Error(`tar: a numeric field at byte ${from} is not octal`);
  return value;
}
