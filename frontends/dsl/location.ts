/** Where a model's source calls the DSL: read off the call stack, without parsing anything. */
import type { Loc } from '../../ir/diagnostic.ts';

const FRAMES = 24;
/** `at f (file:///a/b.ts:3:9)`, `at /a/b.ts:3:9`, `f@https://x/b.js:3:9`. */
const FRAME = /(?:\(|@|at (?:async )?)((?:[a-z]+:\/\/|\/|[A-Za-z]:[\\/])[^()\n]*?):(\d+):(\d+)\)?$/;

/** This package's root as it stands in stack frames, with and without the folder that the build writes to. */
const here = new URL('../../', import.meta.url).href;
const roots = [here, ...(here.endsWith('/dist/') ? [here.slice(0, -'dist/'.length)] : [])].map(plain);

/** A frame's file without `file://`, so that mapped and unmapped frames compare. */
function plain(file: string): string {
  return file.startsWith('file://') ? decodeURIComponent(file.slice('file://'.length)) : file;
}

/** Layers whose frames are not the author's: the DSL itself and what it builds on. The zoo is a model like any other. */
function isOwn(file: string): boolean {
  return roots.some((root) => file.startsWith(`${root}frontends/dsl/`) || file.startsWith(`${root}ir/`));
}

/** The path that people see: from the working folder, or from this package's name. */
function shown(file: string): string {
  const cwd = typeof process === 'object' && typeof process.cwd === 'function' ? `${process.cwd()}/` : undefined;
  if (cwd !== undefined && file.startsWith(cwd)) return file.slice(cwd.length);
  const root = roots.find((known) => file.startsWith(known));
  return root === undefined ? file : `heddle/${file.slice(root.length)}`;
}

/**
 * The innermost caller outside the DSL: a position in the author's file, or in what it was compiled to when Node runs
 * without `--enable-source-maps`; `nameValues` and `frameOf` map those back.
 */
export function callSite(): Loc | undefined {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = FRAMES;
  const stack = new Error().stack ?? '';
  Error.stackTraceLimit = stackTraceLimit;
  for (const line of stack.split('\n')) {
    const found = FRAME.exec(line.trim());
    if (!found) continue;
    const file = plain(found[1]!);
    if (!isOwn(file)) return { file: shown(file), line: Number(found[2]), column: Number(found[3]) };
  }
  return undefined;
}
