#!/usr/bin/env node
/** The command line: `heddle compile`, `run`, `inspect`, `dump`, `compare`, `bench`, `export`, `import`. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { CompileError } from '../../ir/diagnostic.ts';
import { addBench } from './bench-command.ts';
import { addCompare } from './compare-command.ts';
import { addCompile } from './compile-command.ts';
import { addDump } from './dump-command.ts';
import { addExport } from './export-command.ts';
import { addImport } from './import-command.ts';
import { addInspect } from './inspect-command.ts';
import { addRun } from './run-command.ts';
import { EXIT, reportError } from './terminal.ts';

const { version } = JSON.parse(readFileSync(new URL(import.meta.resolve('heddle/package.json')), 'utf8')) as {
  readonly version: string;
};

const program = new Command('heddle')
  .description('Compiles transformer models into small bundles that run on WebAssembly.')
  .version(version)
  .showHelpAfterError('(heddle --help, or heddle COMMAND --help, lists what there is)')
  .exitOverride()
  .addHelpText(
    'after',
    `
A MODEL is zoo:NAME, a .ts or .js module that exports model(…), or a folder with config.json and model.safetensors.
Exit codes: 0 done, 1 the model or an input is at fault, 2 the command is.`,
  );
for (const add of [addCompile, addRun, addInspect, addDump, addCompare, addBench, addExport, addImport]) add(program);
for (const command of program.commands) command.exitOverride().showHelpAfterError('(see --help)');

/** With the author's line, where the error has a position: reading sources takes a compiler, so only now. */
async function framed(error: unknown): Promise<unknown> {
  if (!(error instanceof CompileError) || error.diagnostic.loc === undefined) return error;
  const { frameOf } = await import('../../frontends/dsl/source.ts');
  return frameOf(error);
}

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage;
  else process.exitCode = reportError(await framed(error));
}
