import { type Diagnostic, type DiagnosticCode, fail } from '../../ir/diagnostic.ts';

/** Ends the reading of one file: the message is `source: what`. */
export type Fail = (what: string, more?: Pick<Diagnostic, 'notes' | 'help'>) => never;

/** A `Fail` whose messages begin with `source`, a file for example. */
export function failIn(code: DiagnosticCode, source: string): Fail {
  return (what, more = {}) => fail(code, `${source}: ${what}`, more);
}

/** `text` in double quotes, control characters escaped, cut to `max` characters: a file cannot flood a message. */
export function quote(text: string, max = 120): string {
  return JSON.stringify(text.length > max ? `${text.slice(0, max)}…` : text);
}

/** `[2, 3]`, cut after eight sizes. */
export function formatShape(shape: readonly number[]): string {
  return shape.length > 8 ? `[${shape.slice(0, 8).join(', ')}, … ${shape.length} axes]` : `[${shape.join(', ')}]`;
}
