/**
 * Makes importing the package quick: puts the modules that one of its entry points has for itself into one file, `package.js`
 * beside its `index.js`. Resolving some hundred files one by one takes Node longer than compiling a small model. What entry
 * points share, `ir/` above all, stays in files of its own, so that every value exists once. Also lets the command line be
 * executed. Part of `npm run build`, after the TypeScript compiler.
 */
import { chmod } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';

const dist = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Entry points, and the folders whose modules belong to them alone. */
const ENTRIES = {
  compiler: ['compiler', 'passes'],
  'frontends/zoo': ['frontends/zoo', 'frontends/weights'],
  runtime: ['runtime'],
} as const;

/** Leaves outside what lies in other folders, under the path that it has from the entry point. */
const inside = (folder: string, own: readonly string[]): Plugin => ({
  name: 'inside',
  setup({ onResolve }) {
    onResolve({ filter: /^\.{1,2}\// }, ({ path, resolveDir }) => {
      const file = join(resolveDir, path);
      const place = relative(dist, file).replaceAll('\\', '/');
      if (own.some((each) => place.startsWith(`${each}/`))) return undefined;
      return { path: relative(join(dist, folder), file).replaceAll('\\', '/'), external: true };
    });
  },
});

for (const [folder, own] of Object.entries(ENTRIES))
  await build({
    entryPoints: [join(dist, folder, 'index.js')],
    outfile: join(dist, folder, 'package.js'),
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'es2022',
    packages: 'external',
    sourcemap: true,
    logLevel: 'warning',
    plugins: [inside(folder, own)],
  });

await chmod(join(dist, 'compiler', 'cli', 'main.js'), 0o755);
