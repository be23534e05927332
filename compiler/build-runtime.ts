/**
 * Bundles the runtime into the files that every bundle carries: `dist/runtime/bundle/heddle.js` (exports `open` and
 * `HeddleError`; `promises/heddle.js` where inputs promise counts), `worker.js` (the module of a thread, which imports it and must lie beside it) and `heddle.d.ts`. Part
 * of `npm run build`, after the TypeScript compiler; `compile` copies them.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { type BuildOptions, build, type Plugin } from 'esbuild';

const runtime = join(dirname(fileURLToPath(import.meta.url)), '..', 'runtime');
const folder = join(runtime, 'bundle');

const common = {
  bundle: true,
  minify: true,
  format: 'esm',
  platform: 'browser',
  target: 'es2022',
  legalComments: 'none',
  logLevel: 'warning',
} as const satisfies BuildOptions;

/** Leaves out the check of what inputs promise, for the bundles whose inputs promise nothing: see `runtimeFiles`. */
const withoutPromises: Plugin = {
  name: 'without promises',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /\/promises\.js$/ }, () => ({ path: 'promises', namespace: 'none' }));
    onLoad({ filter: /.*/, namespace: 'none' }, () => ({
      contents:
        'export function checkOnes() {}export function keepOnes() {}export const entryFor = (_, entry) => entry;',
    }));
  },
};
/** Leaves out loops, branches and counted sizes on a GPU, for the bundles that launch one kernel after another. */
const withoutControl: Plugin = {
  name: 'without control',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /\/webgpu-(counts|control)\.js$/ }, () => ({ path: 'control', namespace: 'straight' }));
    onLoad({ filter: /.*/, namespace: 'straight' }, () => ({
      contents: `const nothing = () => {};
        export const layOut = nothing;
        export class Walk {}
        export class KeptCounts { word = nothing; grid = nothing; op = nothing; place = nothing; }
        export class Counting { bytes = 0; take = nothing; copy = nothing; settle = nothing; read = () => nothing; }`,
    }));
  },
};
/** Folders of files for bundles whose inputs promise nothing, and for the others. */
const VARIANTS = [
  ['', [withoutPromises]],
  ['promises', []],
] as const;

/** Folders of `webgpu.js` for bundles that launch one kernel after another, and for the others. */
const GPU_VARIANTS = [
  ['', [withoutPromises, withoutControl]],
  ['control', [withoutPromises]],
] as const;

for (const [variant, plugins] of VARIANTS)
  await build({
    ...common,
    stdin: {
      contents: `export { open } from './open-wasm.js';
      export { HeddleError } from './error.js';
      export { serveThread } from './thread.js';`,
      resolveDir: runtime,
    },
    plugins: [...plugins],
    outfile: join(folder, variant, 'heddle.js'),
  });

/**
 * For bundles with WebGPU: `webgpu/heddle.js` opens on either device and exports what `wasm.js` and `webgpu.js` share; it
 * loads the one that is wanted.
 */
const SHARED = [
  'arena',
  'check',
  'error',
  'host',
  'late',
  'manifest',
  'opening',
  'session',
  'source',
  'tensor',
  'weights',
];
const LATER: Readonly<Record<string, string>> = { './open-wasm.js': './wasm.js', './webgpu.js': './webgpu.js' };
const shared = (outer: boolean): Plugin => ({
  name: 'shared',
  setup({ onResolve }) {
    onResolve({ filter: /^\.\// }, ({ path }) => {
      if (outer) return path in LATER ? { path: LATER[path]!, external: true } : undefined;
      return SHARED.includes(basename(path, '.js')) ? { path: './heddle.js', external: true } : undefined;
    });
  },
});
const both = join(folder, 'webgpu');
for (const [file, lines] of [
  ['heddle.js', [`export { open } from './open.js';`, ...SHARED.map((module) => `export * from './${module}.js';`)]],
  ['wasm.js', [`export { loadWasm } from './open-wasm.js';`, `export { serveThread } from './thread.js';`]],
  ['webgpu.js', [`export { loadWebGpu } from './webgpu.js';`]],
] as const) {
  const outer = file === 'heddle.js';
  for (const [variant, plugins] of outer ? VARIANTS : file === 'webgpu.js' ? GPU_VARIANTS : VARIANTS.slice(0, 1))
    await build({
      ...common,
      stdin: { contents: lines.join('\n'), resolveDir: runtime },
      plugins: [...plugins, shared(outer)],
      outfile: join(both, variant, file),
    });
}
await writeFile(join(both, 'worker.js'), 'import { serveThread } from "./wasm.js";\nserveThread();\n');
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

for (const name of ['heddle.js', 'webgpu/heddle.js', 'webgpu/wasm.js', 'webgpu/webgpu.js']) {
  const bytes = await readFile(join(folder, name));
  console.log(`runtime/bundle/${name}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
}
