/** `heddle inspect` */
import type { Command } from 'commander';
import { countParameters } from '../../frontends/dsl/index.ts';
import type { Graph } from '../../ir/graph.ts';
import { graphValues, typeOf, type Value } from '../../ir/graph.ts';
import { countMacs } from '../../ir/macs.ts';
import { printDim } from '../../ir/print.ts';
import { dropTokens } from '../../passes/drop-tokens.ts';
import { optimise } from '../compile.ts';
import { defaultSizes, narrowModel } from '../narrow.ts';
import { type RemarkReport, remarkReport } from '../report.ts';
import { type UnsupportedOp, unsupportedOps } from '../support.ts';
import { type MaskFlags, type ModelOptions, maskOptions, masksOf, modelOptions } from './options.ts';
import { loadSource } from './source.ts';
import { countText, print, printJson, sizesText, table } from './terminal.ts';

export function addInspect(program: Command): void {
  maskOptions(modelOptions(program.command('inspect <model>')))
    .description('inputs, outputs, parameters, multiply-accumulates, operators, and what cannot be compiled')
    .option(
      '--compiled',
      'also what compiling makes of the multiply-accumulates, and which rows it drops and why',
      false,
    )
    .addHelpText(
      'after',
      `
Examples:
  heddle inspect zoo:bert-base --dim sequence=128
  heddle inspect zoo:mae-b16 --compiled
  heddle inspect models/tagger.ts --json`,
    )
    .action(run);
}

interface Options extends ModelOptions, MaskFlags {
  readonly compiled: boolean;
}

interface PortSummary {
  readonly name: string;
  readonly dtype: string;
  /** Numbers, or sizes as they print. */
  readonly shape: readonly (number | string)[];
  readonly doc: string;
}

interface EntrySummary {
  readonly name: string;
  readonly inputs: readonly PortSummary[];
  readonly outputs: readonly PortSummary[];
  readonly macs: number;
  readonly ops: Readonly<Record<string, number>>;
  readonly unsupported: readonly UnsupportedOp[];
  readonly compiled?: CompiledSummary;
}

/** What the passes make of an entry. */
interface CompiledSummary {
  readonly macs: number;
  /** Rows that are not computed, or are although some readers do without, and why. */
  readonly rows: readonly RemarkReport[];
}

async function run(source: string, options: Options): Promise<void> {
  const { model, dim } = await loadSource(source, options);
  const at = defaultSizes(model, dim);
  const narrow = narrowModel(model, dim);
  const entries = Object.entries(narrow.entries).map(([name, graph]) => ({
    ...summarise(name, graph, at),
    ...(options.compiled && { compiled: compiledSummary(name, graph, at, options) }),
  }));
  const { inputs, outputs, macs, ops, unsupported } = entries[0]!;
  const parameters = countParameters(model);
  const summary = { name: model.name, inputs, outputs, parameters, macs, ops, unsupported, at };
  if (options.json) printJson({ ...summary, entries });
  else print(text(model.name, model.doc, parameters, at, entries));
}

function summarise(name: string, graph: Graph, at: Readonly<Record<string, number>>): EntrySummary {
  const ops: Record<string, number> = {};
  for (const { op } of graphValues(graph)) ops[op.name] = (ops[op.name] ?? 0) + 1;
  return {
    name,
    inputs: graph.inputs.map((v) => ({
      name: String(v.attrs.name),
      ...typeSummary(v),
      doc: String(v.attrs.doc ?? ''),
    })),
    outputs: [...graph.outputs].map(([key, v]) => ({ name: key, ...typeSummary(v), doc: '' })),
    macs: countMacs(graph, at),
    ops: Object.fromEntries(Object.entries(ops).sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))),
    unsupported: unsupportedOps(graph),
  };
}

function compiledSummary(
  name: string,
  graph: Graph,
  at: Readonly<Record<string, number>>,
  options: Options,
): CompiledSummary {
  const { optimised, remarks } = optimise(name, graph, masksOf(options));
  const rows = remarks.filter(({ pass }) => pass === dropTokens.name).map(remarkReport);
  return { macs: countMacs(optimised, at), rows };
}

function typeSummary(v: Value): Pick<PortSummary, 'dtype' | 'shape'> {
  const { dtype, shape } = typeOf(v);
  return { dtype, shape: shape.map((d) => (typeof d === 'number' ? d : printDim(d))) };
}

function text(
  name: string,
  doc: string,
  parameters: number,
  at: Readonly<Record<string, number>>,
  entries: readonly EntrySummary[],
): string {
  const lines = [
    `${name}${doc && `: ${doc}`}`,
    `${countText(parameters)} parameters${sizesText(at) && `; counted at ${sizesText(at)}`}`,
  ];
  for (const entry of entries) {
    const rows = [
      ...entry.inputs.map((port) => ['  in ', port.name, `${port.dtype}[${port.shape.join(', ')}]`, port.doc]),
      ...entry.outputs.map((port) => ['  out', port.name, `${port.dtype}[${port.shape.join(', ')}]`, port.doc]),
    ];
    const census = Object.entries(entry.ops).map(([op, n]) => `${op} ${n}`);
    lines.push(
      '',
      `${entry.name}: ${countText(entry.macs)} multiply-accumulates`,
      table(rows),
      `  ops ${census.join(', ')}`,
    );
    if (entry.compiled) {
      lines.push(`  compiled: ${countText(entry.compiled.macs)} multiply-accumulates`);
      for (const { kind, why } of entry.compiled.rows) lines.push(`  ${kind === 'applied' ? 'dropped ' : ''}${why}`);
    }
    for (const { op, at: where, why } of entry.unsupported)
      lines.push(`  cannot be compiled: ${op} at ${where}: ${why}`);
  }
  return lines.join('\n');
}
