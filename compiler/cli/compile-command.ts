/** `heddle compile` */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { refuseOthers } from '../bundle.ts';
import { compile, type TargetName } from '../compile.ts';
import type { Fallback } from '../fallback.ts';
import type { CompileReport } from '../report.ts';
import {
  collect,
  type MaskFlags,
  type ModelOptions,
  maskOptions,
  masksOf,
  modelOptions,
  readCount,
  readStorage,
  readTarget,
} from './options.ts';
import { recordSelfTest } from './record.ts';
import { readSamples, SAMPLE_HELP } from './sample-option.ts';
import { loadSource } from './source.ts';
import { byteText, countText, EXIT, Progress, print, printJson, sizesText, table, usage } from './terminal.ts';

interface Options extends ModelOptions, MaskFlags {
  readonly out: string;
  readonly target: readonly TargetName[];
  readonly storage: 'f32' | 'f16';
  readonly selftest: boolean;
  readonly validate: boolean;
  readonly stopAfter?: number;
  readonly without?: readonly string[];
  readonly fallback: Fallback;
  readonly sample: readonly string[];
}

const readFallback = (text: string): Fallback =>
  text === 'none' || text === 'dense' ? text : usage(`--fallback is "${text}"`, 'it is none or dense');

export function addCompile(program: Command): void {
  maskOptions(modelOptions(program.command('compile <model>')))
    .description('compile a model into a bundle: a folder of plain files that runs in Node and in browsers')
    .requiredOption('-o, --out <folder>', 'folder to write; an older bundle there is replaced')
    .option('--target <names>', 'what to compile for: wasm, or wasm,webgpu', readTarget, ['wasm'])
    .option('--storage <type>', 'floats in the weight file: f32, or f16 for half the bytes', readStorage, 'f32')
    .option('--no-selftest', 'record no run for session.selftest()')
    .option('--validate', 'run the reference interpreter before and after each pass (slow)', false)
    .option('--stop-after <n>', 'apply only the first n rewrites', readCount('--stop-after'))
    .option('--without <passes>', 'leave out passes, by name, separated by commas', (text) => text.split(','))
    .option(
      '--fallback <plan>',
      'none, or dense: a second plan for inputs that the first does not suit, such as a mask that is not binary',
      readFallback,
      'none',
    )
    .option('--sample <input=values>', SAMPLE_HELP, collect, [])
    .addHelpText(
      'after',
      `
Examples:
  heddle compile zoo:vit-b16 --weights vit/model.safetensors -o dist/vit
  heddle compile models/tagger.ts --dim sequence=1..128 -o dist/tagger
  heddle compile ./bert-base-uncased --storage f16 --json -o dist/bert
  heddle compile zoo:minilm-l6 --sample attention_mask=lengths:12,7,31 -o dist/minilm`,
    )
    .action(run);
}

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

async function run(source: string, options: Options): Promise<void> {
  const { out, target, storage, validate, stopAfter, without, fallback } = options;
  await refuseOthers(resolve(out), out);
  const progress = new Progress(6);
  try {
    progress.step('reading the model');
    const { model, weights, dim } = await loadSource(source, options);
    const bundle = compile(model, {
      weights,
      target,
      storage,
      symbols: dim,
      validate,
      stopAfter,
      without,
      ...masksOf(options),
      fallback,
      onPhase: (phase) => progress.step(phase),
    });
    const sample = readSamples(options.sample, bundle);
    const staged = await bundle.stage(out);
    const interrupted = (): never => {
      staged.removeNow();
      return process.exit(EXIT.fault);
    };
    for (const signal of SIGNALS) process.once(signal, interrupted);
    let report: CompileReport;
    try {
      progress.step('self-test');
      const finished = options.selftest ? bundle.withSelfTest(await recordSelfTest(bundle)) : bundle;
      progress.step('writing');
      report = await finished.report(sample);
      await staged.finish(finished);
    } catch (error) {
      await staged.abandon();
      throw error;
    } finally {
      for (const signal of SIGNALS) process.off(signal, interrupted);
    }
    progress.end();
    if (options.json) printJson({ out, ...report });
    else print(reportText(out, report, options));
  } finally {
    progress.end();
  }
}

function reportText(out: string, report: CompileReport, options: Pick<Options, 'sample'>): string {
  const { at, files, runtimeGzip, weightsBytes, peakBytes, kernels, entries, remarks } = report;
  const missed = remarks.filter(({ kind }) => kind === 'missed');
  const sizes = sizesText(at);
  const lines = [
    table(
      files.map(({ path, bytes, gzip }) => [path, byteText(bytes), gzip === null ? '' : `${byteText(gzip)} gzipped`]),
    ),
    '',
    `${out}: ${byteText(runtimeGzip)} gzipped and ${byteText(weightsBytes)} of weights; ${kernels} kernels`,
    `memory: ${byteText(peakBytes)} on one thread${sizes && ` at ${sizes}`}`,
    ...entries.map(
      ({ name, macs, macsCompiled, at: sizes }) =>
        `${name}: ${countText(macs)} multiply-accumulates${macs === macsCompiled ? '' : `, ${countText(macsCompiled)} as compiled`}` +
        (options.sample.length > 0 && Object.keys(sizes).length > 0 ? ` at ${sizesText(sizes)}` : ''),
    ),
    ...entries.flatMap(({ name, pairs }) =>
      pairs.executed === pairs.written
        ? []
        : [
            `${name}: attention computes ${countText(pairs.executed)} of ${countText(pairs.written)} scores, others are masked`,
          ],
    ),
    ...(missed.length > 0
      ? [`${missed.length} rewrites were refused: heddle dump … --remarks PASS says which and why`]
      : []),
  ];
  return lines.join('\n');
}
