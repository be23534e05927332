/**
 * `npm run bench`: heddle's bundles against onnxruntime-web and onnxruntime-node, whole models and products.
 * Prints Markdown on stdout, progress on stderr, and writes `tests/bench/results.md` and `results.json`.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { projectRoot } from '../support/project.ts';
import { measureFirstResult } from './first-result.ts';
import { maskedModels, maskedVerdicts, measureMasked, renderMasked } from './masked.ts';
import { measureAll } from './measure.ts';
import { findModel, MATMUL_NAMES, MODEL_NAMES } from './models.ts';
import { BASELINE, COMPETITORS, findCompetitor, REFERENCE } from './registry.ts';
import { type Environment, renderResults } from './table.ts';
import { firstResultVerdict, verdicts } from './targets.ts';
import { benchWebGpu, renderGpuResults } from './webgpu.ts';

const HELP = `npm run bench -- [flags]
  --models A,B        ${MODEL_NAMES.join(', ')} (default: all), any product of --matmul by name, or none
  --matmul            also the single products: ${MATMUL_NAMES.join(', ')}
  --competitors A,B   ${COMPETITORS.map((it) => it.name).join(', ')} (default: all)
  --threads 1,2       numbers of threads (default: 1,2)
  --rounds N          processes per competitor, model and number of threads (default: 5)
  --quick             2 rounds of few runs; writes no files unless --out is given
  --device webgpu     instead: time per kernel on the machine's GPU (a driver in software where there is none) against its
                      floors, and the first answer of a tiny model in Chromium; with --models, --matmul, --rounds, --out
  --masked            instead: masked and padded models with rows that nobody reads computed and dropped; with --models,
                      --rounds, --quick, --out; writes masked.md and masked.json
  --tolerance X       largest accepted relative difference from ${REFERENCE.name}'s outputs (default: 1e-4)
  --out DIR           where results.md and results.json go (default: tests/bench)`;

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      models: { type: 'string' },
      device: { type: 'string', default: 'wasm' },
      matmul: { type: 'boolean', default: false },
      competitors: { type: 'string', default: COMPETITORS.map((it) => it.name).join() },
      threads: { type: 'string', default: '1,2' },
      rounds: { type: 'string' },
      quick: { type: 'boolean', default: false },
      masked: { type: 'boolean', default: false },
      tolerance: { type: 'string', default: '1e-4' },
      out: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (flags.help) {
    console.log(HELP);
    return;
  }

  if (flags.masked) {
    const rounds = count('--rounds', flags.rounds ?? (flags.quick ? '2' : '5'));
    const chosen = maskedModels(flags.models?.split(','));
    const rows = await measureMasked({ models: chosen, rounds, quick: flags.quick }, (line) => console.error(line));
    const promises = maskedVerdicts(rows);
    const environment = describe(rounds);
    const text = renderMasked(rows, promises, environment);
    console.log(text);
    if (flags.quick && flags.out === undefined) return;
    const folder = flags.out === undefined ? join(projectRoot, 'tests', 'bench') : resolve(flags.out);
    writeResults(folder, 'masked', text, { environment, rows, promises });
    return;
  }

  const wanted = flags.models === 'none' ? [] : (flags.models?.split(',') ?? MODEL_NAMES);
  const models = [...wanted, ...(flags.matmul ? MATMUL_NAMES : [])].map(findModel);
  if (flags.device === 'webgpu') {
    const given = flags.models === undefined && !flags.matmul ? undefined : models;
    const runs = count('--rounds', flags.rounds ?? '5');
    const results = await benchWebGpu({ given, all: models }, runs, (line) => console.error(line));
    console.log(renderGpuResults(results));
    if (flags.out !== undefined) writeResults(resolve(flags.out), 'webgpu', renderGpuResults(results), results);
    return;
  }
  if (flags.device !== 'wasm') throw new Error(`--device: "${flags.device}" is not wasm or webgpu`);
  const competitors = flags.competitors.split(',').map(findCompetitor);
  const rounds = count('--rounds', flags.rounds ?? (flags.quick ? '2' : '5'));
  const threads = flags.threads.split(',').map((text) => count('--threads', text));
  const tolerance = Number(flags.tolerance);
  if (!(tolerance > 0)) throw new Error(`--tolerance: "${flags.tolerance}" is not a positive number`);

  const plan = { models, threads, rounds, quick: flags.quick, tolerance };
  const rows = await measureAll(plan, competitors, REFERENCE, (line) => console.error(line));
  const tiny = models.length > 0 ? [firstResultVerdict(await measureFirstResult(rounds))] : [];
  const promises = [...verdicts(rows, BASELINE.name), ...tiny];
  const environment = describe(rounds);
  const names = { baseline: BASELINE.name, reference: REFERENCE.name };
  const text = renderResults(rows, environment, names, promises);
  console.log(text);

  if (flags.quick && flags.out === undefined) return;
  const folder = flags.out === undefined ? join(projectRoot, 'tests', 'bench') : resolve(flags.out);
  writeResults(folder, 'results', text, { environment, ...names, rows, promises });
}

function writeResults(folder: string, name: string, text: string, data: object): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${name}.md`), text);
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(data, null, 2)}\n`);
}

function count(flag: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`${flag}: "${text}" is not a positive integer`);
}

function describe(rounds: number): Environment {
  const versions = ['onnxruntime-web', 'onnxruntime-node'].map((name) => {
    const manifest: { version: string } = JSON.parse(
      readFileSync(join(projectRoot, 'node_modules', name, 'package.json'), 'utf8'),
    );
    return [name, manifest.version];
  });
  return {
    date: new Date().toISOString().slice(0, 10),
    cpu: cpus()[0]?.model.trim() ?? 'unknown processor',
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    platform: `${process.platform} ${process.arch}`,
    node: process.versions.node,
    v8: process.versions.v8,
    packages: Object.fromEntries(versions),
    rounds,
  };
}
