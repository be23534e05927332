import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Diagnostic, type DiagnosticMessageChain, Project } from 'ts-morph';
import { projectRoot } from './project.ts';

/** One complaint of the type checker: what an editor underlines in red. */
export interface TypeDiagnostic {
  /** From 1. */
  readonly line: number;
  /** From 1. */
  readonly column: number;
  /** First line of the message. */
  readonly message: string;
  /** Every line of the message, the indented "because" lines included. */
  readonly detail: string;
}

let project: Project | undefined;
let count = 0;

/**
 * Type-checks TypeScript source under this project's `tsconfig.json` and returns its errors in source order.
 *
 * The source stands as if it lay in `tests/`: `import { model } from '../frontends/dsl/index.ts'` finds the DSL. Errors
 * inside the files that it imports are not returned. The first call takes seconds, later ones
 * about one: put many mistakes in one source.
 */
export function typeErrors(source: string): TypeDiagnostic[] {
  return checkAs(`tests/type-errors-source-${count++}.ts`, source);
}

/** The same for a file on disk; `path` is relative to the project root. The build leaves out `tests/fixtures/types/`. */
export function typeErrorsOfFile(path: string): TypeDiagnostic[] {
  return checkAs(path, readFileSync(join(projectRoot, path), 'utf8'));
}

function checkAs(path: string, source: string): TypeDiagnostic[] {
  project ??= new Project({ tsConfigFilePath: join(projectRoot, 'tsconfig.json'), skipAddingFilesFromTsConfig: true });
  const file = project.createSourceFile(join(projectRoot, path), source, { overwrite: true });
  try {
    return file.getPreEmitDiagnostics().map((diagnostic) => {
      const { line, column } = file.getLineAndColumnAtPos(diagnostic.getStart() ?? 0);
      const lines = messageLines(diagnostic.getMessageText());
      return { line, column, message: lines[0] ?? '', detail: lines.join('\n') };
    });
  } finally {
    project.removeSourceFile(file);
  }
}

function messageLines(message: ReturnType<Diagnostic['getMessageText']>, depth = 0): string[] {
  if (typeof message === 'string') return message.split('\n');
  const indent = '  '.repeat(depth);
  const nested = (message.getNext() ?? []).flatMap((next: DiagnosticMessageChain) => messageLines(next, depth + 1));
  return [
    ...message
      .getMessageText()
      .split('\n')
      .map((line) => indent + line),
    ...nested,
  ];
}
