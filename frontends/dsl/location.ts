/** Where a model's source calls the DSL: read off the call stack, without parsing anything. */
import type { Loc } from '../../ir/diagnostic.ts';

const FRAMES = 24;
/** `at f (file:///a/b.ts:3:9)`, `at /a/b.ts:3:9`, `f@https://x/b.js:3:9`. */
const FRAME = /(?:\(|@|at (?:async )?)((?:[a-z]+:\/\/|\/|[A-Za-z]:[\\/])[^()\n]*?):(\d+):(\d+)\)?$/;
/** This file, in the coordinates of the stack: source maps may have turned compiled files back into sources. */
const SELF = /^(.*)frontends[\\/]dsl[\\/]location\.[jt]s$/s;

/**
 * The innermost caller outside the DSL: a position in the author's file, or in what it was compiled to when Node runs
 * without `--enable-source-maps`; `nameValues` and `frameOf` map those back. The zoo is a model like any other.
 *
 * @returns undefined where the stack says nothing of files, as in code bundled into one
 */
export function callSite(): Loc | undefined {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = FRAMES;
  const stack = new Error().stack ?? '';
  Error.stackTraceLimit = stackTraceLimit;
  let root: string | undefined;
  for (const line of stack.split('\n')) {
    const found = FRAME.exec(line.trim());
    if (!found) continue;
    const file = plain(found[1]!);
    root ??= SELF.exec(file)?.[1];
    if (root === undefined) return undefined;
    const own = file.startsWith(root) && /^(?:frontends[\\/]dsl|ir)[\\/]/.test(file.slice(root.length));
    if (!own) return { file: shown(file, root), line: Number(found[2]), column: Number(found[3]) };
  }
  return undefined;
}

/** A frame's file without `file://`. */
const plain = (file: string): string =>
  file.startsWith('file://') ? decodeURIComponent(file.slice('file://'.length)) : file;

/** The path that people see: from the working folder, or from this package. */
function shown(file: string, root: string): string {
  const cwd = typeof process === 'object' && typeof process.cwd === 'function' ? `${process.cwd()}/` : undefined;
  if (cwd !== undefined && file.startsWith(cwd)) return file.slice(cwd.length);
  return file.startsWith(root) ? `heddle/${file.slice(root.length)}` : file;
}
