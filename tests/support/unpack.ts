import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliDecompressSync } from 'node:zlib';
import { cacheRoot } from './project.ts';
import { untar } from './untar.ts';

/** True where `@sparticuz/chromium` has binaries: it packs Linux x64 only. */
export const hasPackedBrowser: boolean = process.platform === 'linux' && process.arch === 'x64';

/**
 * Unpacks one part of `@sparticuz/chromium` into the cache, once per package version, and returns its folder.
 *
 * A `.tar.br` part yields its entries; `chromium` yields the executable with SwiftShader beside it. Several processes may ask at once: each unpacks
 * into a folder of its own and the first to rename it into place wins, so a reader never sees half a folder.
 *
 * @throws Error when the package or the part is not installed
 */
export function unpack(part: 'al2023' | 'chromium' | 'fonts' | 'swiftshader'): string {
  const { folder, version } = locatePackage();
  const target = join(cacheRoot, `chromium-${version}`, part);
  if (existsSync(target)) return target;

  const draft = `${target}.${process.pid}-${Date.now()}.tmp`;
  mkdirSync(draft, { recursive: true });
  try {
    if (part === 'chromium') {
      // Chromium opens its graphics libraries from the folder it lies in.
      untar(readPart(folder, 'swiftshader.tar.br'), draft);
      writeFileSync(join(draft, 'chromium'), readPart(folder, 'chromium.br'), { mode: 0o755 });
    } else {
      untar(readPart(folder, `${part}.tar.br`), draft);
    }
    renameSync(draft, target);
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    if (!existsSync(target)) throw error;
  }
  return target;
}

function locatePackage(): { folder: string; version: string } {
  const entry = fileURLToPath(import.meta.resolve('@sparticuz/chromium'));
  const folder = join(dirname(entry), '..', '..');
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string };
  return { folder, version };
}

function readPart(folder: string, name: string): Uint8Array {
  const path = join(folder, 'bin', name);
  if (!existsSync(path)) {
    const present = existsSync(dirname(path)) ? readdirSync(dirname(path)).join(', ') : 'no bin folder';
    throw new Error(`@sparticuz/chromium lacks bin/${name} (it has: ${present}); run npm ci`);
  }
  return brotliDecompressSync(readFileSync(path));
}
