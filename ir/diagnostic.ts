/** What goes wrong, where, the facts that disagree, and what to do about it. */
import type { Expr } from './expr.ts';

/** A position in a model's source; lines and columns count from 1. */
export interface Loc {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

export type DiagnosticCode =
  | 'shape'
  | 'dtype'
  | 'rank'
  | 'attribute'
  | 'name'
  | 'operand'
  | 'syntax'
  | 'verify'
  | 'unsupported'
  | 'weights'
  | 'config'
  | 'file'
  | 'range'
  | 'usage'
  | 'internal';

export interface Diagnostic {
  readonly code: DiagnosticCode;
  /** One line: the op or file, a colon, and what is wrong with the two facts that disagree. */
  readonly message: string;
  readonly loc?: Loc | undefined;
  /** Facts, one line each: `attended : f32[B, 197, 768]  from attention, models/vit.ts:24:20`. */
  readonly notes?: readonly string[];
  /** Sizes that should be equal and are not, where the error is about that. */
  readonly sizes?: readonly (readonly [number | Expr, number | Expr])[] | undefined;
  /** What to do. */
  readonly help?: string | undefined;
  /** Quoted source with a caret, when a front end could read the file. */
  readonly frame?: string | undefined;
}

export const printLoc = (loc: Loc): string => `${loc.file}:${loc.line}:${loc.column}`;

/** The diagnostic as shown to people, in the layout of a code frame. */
export function renderDiagnostic(d: Diagnostic): string {
  const lines = [`error[${d.code}]: ${d.message}`];
  if (d.loc) lines.push(`  --> ${printLoc(d.loc)}`);
  if (d.frame) lines.push(d.frame);
  for (const note of d.notes ?? []) lines.push(`   = ${note}`);
  if (d.help) lines.push(`   help: ${d.help}`);
  return lines.join('\n');
}

/** The one error type for faults of a model, its weights, its inputs or a command: never for bugs of heddle itself. */
export class CompileError extends Error {
  override readonly name = 'CompileError';
  readonly diagnostic: Diagnostic;

  constructor(diagnostic: Diagnostic, options?: ErrorOptions) {
    super(renderDiagnostic(diagnostic), options);
    this.diagnostic = diagnostic;
  }

  get code(): DiagnosticCode {
    return this.diagnostic.code;
  }

  /** The same error with facts that only an outer caller knows: a position, a code frame, more notes. */
  with(extra: Partial<Diagnostic>): CompileError {
    const notes = [...(this.diagnostic.notes ?? []), ...(extra.notes ?? [])];
    return new CompileError({ ...this.diagnostic, ...extra, notes }, { cause: this.cause });
  }
}

export function fail(code: DiagnosticCode, message: string, more: Omit<Diagnostic, 'code' | 'message'> = {}): never {
  throw new CompileError({ code, message, ...more });
}
