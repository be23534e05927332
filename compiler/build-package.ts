/**
 * Makes importing `heddle` quick: puts the modules of `compiler/` and `passes/` that `dist/compiler/index.js` reaches into that
 * one file. Resolving some hundred files one by one takes Node longer than compiling a small model. What other entry points of
 * the package share with it, `ir/` above all, stays in files of its own, so that every value exists once. Also lets the command
 * line be executed. Part of `npm run build`, after the TypeScript compiler.
 */
import { chmod } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';

const dist = join(dirname(fileURLToPath(import.meta.url)), '..');
const entry = join(dist, 'compiler', 'index.js');

/** Leaves outside what lies in other folders, under the path that it has from the entry point. */
const inside: Plugin = {
  name: 'inside',
  setup({ onResolve }) {
    onResolve({ filter: /^\.{1,2}\// }, ({ path, resolveDir }) => {
      const file = join(resolveDir, path);
      if (/^(?:compiler|passes)[\\/]/.test(relative(dist, file))) return undefined;
      return { path: relative(dirname(entry), file).replaceAll('\\', '/'), external: true };
    });
  },
};

await build({
  entryPoints: [entry],
  outfile: entry,
  allowOverwrite: true,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'es2022',
  packages: 'external',
  sourcemap: true,
  logLevel: 'warning',
  plugins: [inside],
});

await chmod(join(dist, 'compiler', 'cli', 'main.js'), 0o755);
