/** `heddle dump` */
import type { Command } from 'commander';
import { nameValues } from '../../frontends/dsl/source.ts';
import type { Graph } from '../../ir/graph.ts';
import { printKernel } from '../../ir/kernel-text.ts';
import { didYouMean } from '../../ir/suggest.ts';
import { printGraph, printGraphs } from '../../ir/text.ts';
import { Demand } from '../../passes/demand.ts';
import { dropTokens } from '../../passes/drop-tokens.ts';
import type { Remark } from '../../passes/pass.ts';
import { passNames } from '../../passes/pipeline.ts';
import { lowerModel, optimise } from '../compile.ts';
import { narrowModel } from '../narrow.ts';
import { remarkReport } from '../report.ts';
import { kernelsOf } from '../schedule-regions.ts';
import { type MaskFlags, type ModelOptions, maskOptions, masksOf, modelOptions, readCount } from './options.ts';
import { loadSource } from './source.ts';
import { print, printJson, usage } from './terminal.ts';

const EMITS = ['graph', 'kernel', 'wat', 'plan', 'json'] as const;
type Emit = (typeof EMITS)[number];

interface Options extends ModelOptions, MaskFlags {
  readonly after?: string;
  readonly emit: Emit;
  readonly remarks?: string | true;
  readonly stopAfter?: number;
  readonly entry?: string;
  readonly plain: boolean;
  readonly validate: boolean;
  readonly demand: boolean;
}

const readEmit = (text: string): Emit =>
  EMITS.find((emit) => emit === text) ?? usage(`--emit is "${text}"`, `known: ${EMITS.join(', ')}`);

function readPass(text: string): string {
  const names = ['none', ...passNames()];
  return names.includes(text)
    ? text
    : usage(`there is no pass "${text}"`, didYouMean(text, names) ?? `passes: ${names.join(', ')}`);
}

export function addDump(program: Command): void {
  maskOptions(modelOptions(program.command('dump <model>')))
    .description('show a model at any stage of its compilation')
    .option('--after <pass>', 'the graph after this pass (its last run), or none; default: after all', readPass)
    .option('--emit <what>', `one of ${EMITS.join(', ')}`, readEmit, 'graph')
    .option('--remarks [pass]', 'what passes did and refused, and why, instead of the graph')
    .option('--demand', 'which elements of each value are read, before rows are dropped, instead of the graph', false)
    .option('--stop-after <n>', 'apply only the first n rewrites: bisects a miscompile', readCount('--stop-after'))
    .option('--validate', 'run the reference interpreter before and after each pass (slow)', false)
    .option('--entry <name>', 'one entry point only')
    .option('--plain', 'kernels without fused multiply-add', false)
    .addHelpText(
      'after',
      `
Examples:
  heddle dump zoo:vit-s16 --after none
  heddle dump models/tagger.ts --emit kernel | less
  heddle dump zoo:bert-base --remarks merge-projections
  heddle dump zoo:mae-b16 --demand`,
    )
    .action(run);
}

async function run(source: string, options: Options): Promise<void> {
  const loaded = await loadSource(source, options);
  const model = narrowModel(await nameValues(loaded.model), loaded.dim);
  const names = Object.keys(model.entries);
  if (options.entry !== undefined && !names.includes(options.entry))
    usage(`${model.name} has no entry "${options.entry}"`, `its entries are ${names.join(', ')}`);
  const chosen = { ...model, entries: pick(model.entries, options.entry) };
  const weights = loaded.seeded ? undefined : loaded.weights;

  if (options.demand) {
    showDemand(chosen.entries, options);
    return;
  }
  if (options.emit === 'graph' || options.emit === 'json' || options.remarks !== undefined) {
    const graphs: Graph[] = [];
    const remarks: Remark[] = [];
    for (const [name, graph] of Object.entries(chosen.entries)) {
      let shown = graph;
      const done = optimise(name, graph, {
        ...options,
        ...masksOf(options),
        weights,
        observe: (_, pass, after) => {
          if (pass.name === options.after) shown = after;
        },
      });
      graphs.push(options.after === undefined ? done.optimised : shown);
      remarks.push(...done.remarks);
    }
    if (options.remarks !== undefined) showRemarks(remarks, options);
    else if (options.emit === 'graph' && !options.json) process.stdout.write(printGraphs(graphs));
    else
      printJson({ name: model.name, graphs: graphs.map((graph) => ({ name: graph.name, text: printGraph(graph) })) });
    return;
  }
  if (options.after !== undefined) usage(`--after goes with --emit graph, not ${options.emit}`);
  const { entries, kernels } = lowerModel(chosen, {
    stopAfter: options.stopAfter,
    validate: options.validate,
    ...masksOf(options),
    weights,
  });
  const variant = options.plain ? 'plain' : 'relaxed';
  if (options.emit === 'plan')
    printJson({ name: model.name, entries: Object.fromEntries(entries.map(({ name, plan }) => [name, plan])) });
  else if (options.emit === 'wat') print(kernels[variant].wat());
  else {
    const distinct = new Set(entries.flatMap((entry) => [...kernelsOf(entry[variant])]));
    print([...distinct].map(printKernel).join('\n'));
  }
}

/** What `drop-tokens` finds when its turn comes. */
function showDemand(entries: Readonly<Record<string, Graph>>, options: Options): void {
  const texts = Object.entries(entries).map(([name, graph]) => {
    let [before, isBefore] = [graph, true];
    optimise(name, graph, {
      ...options,
      ...masksOf(options),
      weights: undefined,
      observe: (_, pass, after) => {
        isBefore &&= pass !== dropTokens;
        if (isBefore) before = after;
      },
    });
    return { name: graph.name, demand: new Demand(before, { strictNaN: options.strictNan }).print() };
  });
  if (options.json) printJson(texts);
  else print(texts.map(({ name, demand }) => `${name}\n${demand}`).join('\n'));
}

function showRemarks(remarks: readonly Remark[], options: Options): void {
  const pass = typeof options.remarks === 'string' ? readPass(options.remarks) : undefined;
  const shown = remarks.filter((remark) => pass === undefined || remark.pass === pass).map(remarkReport);
  if (options.json) printJson(shown);
  else if (shown.length === 0) process.stderr.write('no remarks\n');
  else print(shown.map(({ pass: name, kind, at, why }) => `${name}: ${kind} at ${at}: ${why}`).join('\n'));
}

const pick = <T>(entries: Readonly<Record<string, T>>, name: string | undefined): Readonly<Record<string, T>> =>
  name === undefined ? entries : { [name]: entries[name]! };
