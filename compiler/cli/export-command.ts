/** `heddle export` */
import { statSync } from 'node:fs';
import type { Command } from 'commander';
import { narrowModel } from '../narrow.ts';
import { type ModelOptions, modelOptions, readCount } from './options.ts';
import { loadSource } from './source.ts';
import { byteText, Progress, print, printJson, table } from './terminal.ts';

interface Options extends ModelOptions {
  readonly out: string;
  readonly opset?: number;
  readonly externalData?: boolean;
}

export function addExport(program: Command): void {
  modelOptions(program.command('export <model>'))
    .description('write a model as ONNX: other runtimes run it, Netron shows it')
    .requiredOption('-o, --out <file>', 'file to write; a model with several entry points becomes NAME.ENTRY.onnx each')
    .option('--opset <n>', 'version of the standard operators, 17 to 24; default 23', readCount('--opset'))
    .option('--external-data', 'keep large tensors in NAME.onnx.data beside the file; default: above 2 GB')
    .addHelpText(
      'after',
      `
Examples:
  heddle export zoo:vit-b16 --weights vit/model.safetensors -o vit.onnx
  heddle export models/tagger.ts --opset 17 -o tagger.onnx
  heddle export ./bert-base-uncased --external-data -o bert.onnx`,
    )
    .action(run);
}

async function run(source: string, options: Options): Promise<void> {
  const { out, opset, externalData, json } = options;
  const progress = new Progress(2);
  try {
    progress.step('reading the model');
    const { model, weights, seeded, dim } = await loadSource(source, options);
    progress.step('writing');
    const { exportOnnx } = await import('../../frontends/onnx/index.ts');
    const written = exportOnnx(narrowModel(model, dim), { weights, opset, externalData }).write(out);
    progress.end();
    const files = written.map((path) => ({ path, bytes: statSync(path).size }));
    if (json) printJson({ files, seeded });
    else {
      print(table(files.map(({ path, bytes }) => [path, byteText(bytes)])));
      if (seeded && weights.names().length > 0) print('its weights are seeded: pass --weights to write trained ones');
    }
  } finally {
    progress.end();
  }
}
