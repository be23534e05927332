/**
 * Bundles the runtime into the files that every bundle carries: `dist/runtime/bundle/heddle.js` (exports `open`,
 * `HeddleError`), `worker.js` (the module of a thread, which must lie beside it) and `heddle.d.ts`. Part of
 * `npm run build`, after the TypeScript compiler; `compile` copies the three.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const runtime = join(dirname(fileURLToPath(import.meta.url)), '..', 'runtime');
const folder = join(runtime, 'bundle');

await build({
  entryPoints: { heddle: join(runtime, 'open.js'), worker: join(runtime, 'worker.js') },
  outdir: folder,
  bundle: true,
  minify: true,
  format: 'esm',
  platform: 'browser',
  target: 'es2022',
  legalComments: 'none',
  logLevel: 'warning',
});

/** A declaration file without the imports that the files beside it stand for. */
const declarations = async (name: string): Promise<string> => {
  const text = await readFile(join(runtime, `${name}.d.ts`), 'utf8');
  return text.replace(/^(import|export \* from|\/\/# sourceMappingURL).*$\n?/gm, '');
};
const parts = await Promise.all(['manifest', 'api', 'error', 'open'].map(declarations));
await writeFile(join(folder, 'heddle.d.ts'), parts.join(''));

for (const name of ['heddle.js', 'worker.js']) {
  const bytes = await readFile(join(folder, name));
  console.log(`runtime/bundle/${name}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
}
