/** `heddle run` */
import type { Command } from 'commander';
import type { Tensor } from '../../runtime/api.ts';
import { open } from '../../runtime/open.ts';
import { defaultEntry } from '../../runtime/session.ts';
import type { ImageOptions } from './images.ts';
import { collect, readCount, readDevice, readNumbers } from './options.ts';
import { readBundleManifest } from './stored.ts';
import { countText, print, printJson, usage } from './terminal.ts';
import { asInputs, outputsJson, readInputs, writeOutput } from './values.ts';

interface Options {
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly entry?: string;
  readonly threads?: number;
  readonly device: 'auto' | 'wasm' | 'webgpu';
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly scale: number;
  readonly json: boolean;
}

/** Flags by which images become numbers. */
export function imageOptions(command: Command): Command {
  return command
    .option('--mean <list>', 'taken from pixels: one number, or one a channel', readNumbers('--mean'), [0.5])
    .option('--std <list>', 'what is left is divided by: one number, or one a channel', readNumbers('--std'), [0.5])
    .option('--scale <n>', 'pixels are divided by this first', (text) => readNumbers('--scale')(text)[0]!, 255);
}

export const imageOf = ({ mean, std, scale }: ImageOptions): ImageOptions => ({ mean, std, scale });

export function addRun(program: Command): void {
  imageOptions(program.command('run <bundle>'))
    .description('run a bundle on files')
    .option('-i, --input <name=file>', '.npy, .json or .png; may be repeated', collect, [])
    .option('-o, --output <file>', 'FILE.json, or NAME=FILE.npy; may be repeated; default: a summary', collect, [])
    .option('--entry <name>', 'which function of the bundle; default main, or the first')
    .option('--threads <n>', 'threads that compute', readCount('--threads', 1))
    .option('--device <name>', 'auto, wasm or webgpu (in Node with the package webgpu)', readDevice, 'auto')
    .option('--json', 'print the outputs as JSON', false)
    .addHelpText(
      'after',
      `
A pixel p in 0…255 becomes (p / scale − mean) / std; 255, 0.5 and 0.5 unless told, which gives −1 … 1.

Examples:
  heddle run dist/vit --input pixel_values=cat.png --output logits=logits.npy
  heddle run dist/bert --input input_ids=ids.json --json
  heddle run dist/digits --input pixel_values=7.png --mean 0.3058 --std 0.319`,
    )
    .action(run);
}

async function run(folder: string, options: Options): Promise<void> {
  const manifest = await readBundleManifest(folder);
  const entry = options.entry ?? defaultEntry(manifest);
  const plan = manifest.entries[entry];
  if (!plan)
    return usage(`${folder} has no entry "${entry}"`, `its entries are ${Object.keys(manifest.entries).join(', ')}`);
  const inputs = readInputs(options.input, plan.inputs, imageOf(options));
  const { device, threads } = options;
  const session = await open(folder, { device, ...(threads !== undefined && { threads }) });
  try {
    const from = performance.now();
    const outputs = await session.run(asInputs(inputs), { entry });
    const ms = performance.now() - from;
    for (const wish of options.output) {
      const at = wish.indexOf('=');
      writeOutput(wish.slice(at + 1), at < 0 ? undefined : wish.slice(0, at), outputs);
    }
    if (options.json)
      printJson({ ms, device: session.device, fallback: session.fallback, outputs: outputsJson(outputs) });
    else if (options.output.length === 0) print(summary(outputs, ms));
  } finally {
    session.dispose();
  }
}

const SHOWN = 5;

/** Each output's type and its largest elements. */
function summary(outputs: Readonly<Record<string, Tensor>>, ms: number): string {
  const lines = Object.entries(outputs).map(([name, { dtype, shape, data }]) => {
    const values = Array.from(data as ArrayLike<number | bigint>, Number);
    const order = values
      .map((_, i) => i)
      .sort((a, b) => values[b]! - values[a]!)
      .slice(0, SHOWN);
    const top = order.map((i) => `[${i}] ${Number(values[i]!.toPrecision(6))}`).join('  ');
    return `${name} ${dtype}[${shape.join(', ')}]  ${countText(values.length)} elements, largest ${top}`;
  });
  return [...lines, `${ms.toFixed(1)} ms`].join('\n');
}
