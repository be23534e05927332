/** Module hooks that `typescript.ts` registers; they run in a thread of their own. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { LoadHook, ResolveHook } from 'node:module';
import { fileURLToPath } from 'node:url';

/** A module of this package: `heddle` is resolved from here. */
let self = import.meta.url;

export function initialize(data: { readonly self: string }): void {
  self = data.self;
}

const TYPESCRIPT = /\.m?ts$/;

export const resolve: ResolveHook = (specifier, context, nextResolve) => {
  if (specifier === 'heddle' || specifier.startsWith('heddle/'))
    return nextResolve(specifier, { ...context, parentURL: self });
  // TypeScript names the file that will be built: `./layers.js` stands for `layers.ts`.
  if (/^\.{1,2}\//.test(specifier) && context.parentURL !== undefined && TYPESCRIPT.test(context.parentURL)) {
    const built = new URL(specifier, context.parentURL);
    const source = new URL(built.href.replace(/\.(m?)js$/, '.$1ts'));
    if (source.protocol === 'file:' && !existsSync(built) && existsSync(source))
      return { url: source.href, shortCircuit: true };
  }
  return nextResolve(specifier, context);
};

export const load: LoadHook = async (url, context, nextLoad) => {
  if (!url.startsWith('file:') || !TYPESCRIPT.test(new URL(url).pathname)) return nextLoad(url, context);
  const { ts } = await import('ts-morph');
  const fileName = fileURLToPath(url);
  const { outputText, diagnostics = [] } = ts.transpileModule(await readFile(fileName, 'utf8'), {
    fileName,
    reportDiagnostics: true,
    compilerOptions: {
      module: ts.ModuleKind.ESNext,
      target: ts.ScriptTarget.ES2022,
      inlineSourceMap: true,
      inlineSources: true,
    },
  });
  const [first] = diagnostics;
  if (first?.start !== undefined && first.file) {
    const { line, character } = first.file.getLineAndCharacterOfPosition(first.start);
    const text = ts.flattenDiagnosticMessageText(first.messageText, ' ');
    throw new SyntaxError(`${line + 1}:${character + 1}: ${text}`);
  }
  return { format: 'module', source: outputText, shortCircuit: true };
};
