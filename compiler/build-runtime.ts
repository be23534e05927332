/**
 * Bundles the runtime into the files that every bundle carries: `dist/runtime/bundle/heddle.js` (exports `open` and
 * `HeddleError`), `worker.js` (the module of a thread, which imports it and must lie beside it) and `heddle.d.ts`. Part
 * of `npm run build`, after the TypeScript compiler; `compile` copies the three.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const runtime = join(dirname(fileURLToPath(import.meta.url)), '..', 'runtime');
const folder = join(runtime, 'bundle');

await build({
  stdin: {
    contents: `export { open } from './open.js';
      export { HeddleError } from './error.js';
      export { serveThread } from './thread.js';`,
    resolveDir: runtime,
  },
  outfile: join(folder, 'heddle.js'),
  bundle: true,
  minify: true,
  format: 'esm',
  platform: 'browser',
  target: 'es2022',
  legalComments: 'none',
  logLevel: 'warning',
});
await writeFile(join(folder, 'worker.js'), 'import { serveThread } from "./heddle.js";\nserveThread();\n');

/** A declaration file without its imports, which stand beside it, and without the values that the bundle keeps inside. */
const declarations = async (name: string): Promise<string> => {
  const text = await readFile(join(runtime, `${name}.d.ts`), 'utf8');
  return text
    .replace(/^(import|\/\/# sourceMappingURL).*$\n?/gm, '')
    .replace(/^export declare (const|function) (?!open\b)/gm, 'declare $1 ');
};
const parts = await Promise.all(['manifest', 'api', 'error', 'open'].map(declarations));
// Without an export list, a declaration file exports everything in it.
await writeFile(join(folder, 'heddle.d.ts'), `${parts.join('')}export {};\n`);

const bytes = await readFile(join(folder, 'heddle.js'));
console.log(`runtime/bundle/heddle.js: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
