/** `heddle import` */
import { basename, dirname, extname, join } from 'node:path';
import type { Command } from 'commander';
import { writeAtomic } from '../../frontends/weights/files.ts';
import { writeSafetensors } from '../../frontends/weights/sharded.ts';
import { fail } from '../../ir/diagnostic.ts';
import { graphValues } from '../../ir/graph.ts';
import type { SizeBound, SizeBounds } from '../narrow.ts';
import { readDim } from './options.ts';
import { Progress, print, printJson, usage } from './terminal.ts';

interface Options {
  readonly out: string;
  readonly dim: SizeBounds;
  readonly json: boolean;
}

export function addImport(program: Command): void {
  program
    .command('import <model.onnx>')
    .description(
      'write an ONNX model as TypeScript: blocks become functions, names survive; its weights stand beside it',
    )
    .requiredOption('-o, --out <file>', 'the .ts file to write; its weights become a .safetensors file of that name')
    .option('--dim <name=size>', 'fix a size (batch=4) or narrow it (batch=1..8); may be repeated', readDim, {})
    .option('--json', 'print one JSON document', false)
    .addHelpText(
      'after',
      `
Examples:
  heddle import bert.onnx -o bert.ts
  heddle compile bert.ts --weights bert.safetensors -o dist/bert`,
    )
    .action(run);
}

async function run(source: string, { out, dim, json }: Options): Promise<void> {
  if (extname(source) !== '.onnx') usage(`${source} is not an .onnx file`);
  if (extname(out) !== '.ts') usage(`--out is "${out}"`, 'name a .ts file');
  const progress = new Progress(3);
  try {
    progress.step('reading the model');
    const { decompile, importOnnx } = await import('../../frontends/onnx/index.ts');
    const dims = Object.fromEntries(Object.entries(dim).map(([name, bound]) => [name, rangeOf(bound)]));
    const { model, weights } = importOnnx(source, { dims });
    progress.step('writing TypeScript');
    const stored = join(dirname(out), `${basename(out, '.ts')}.safetensors`);
    const names = weights.names();
    const header = [
      `Written by heddle import from ${basename(source)}.`,
      ...(names.length > 0 ? [`heddle compile ${basename(out)} --weights ${basename(stored)} -o FOLDER`] : []),
    ];
    const text = await decompile(model, { header });
    progress.step('writing weights');
    if (names.length > 0)
      writeSafetensors(
        stored,
        names.map((name) => [name, weights.get(name) ?? fail('weights', `${source} has no tensor "${name}"`)] as const),
      );
    writeAtomic(out, [new TextEncoder().encode(text)]);
    progress.end();
    const values = Object.values(model.entries).reduce((n, g) => n + graphValues(g).length, 0);
    const files = [out, ...(names.length > 0 ? [stored] : [])];
    if (json) printJson({ files, values, parameters: names.length });
    else print(`${files.join(', ')}: ${text.split('\n').length} lines, ${names.length} parameters`);
  } finally {
    progress.end();
  }
}

const rangeOf = (bound: SizeBound): number | { min: number; max: number } =>
  typeof bound === 'number' ? bound : { min: bound.min ?? 1, max: bound.max ?? bound.min ?? 1 };
