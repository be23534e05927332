/** From what a command names to a model and its weights. */
import { existsSync, statSync } from 'node:fs';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { init, type ModelGraph } from '../../frontends/dsl/index.ts';
import { readWeights } from '../../frontends/weights/sharded.ts';
import { checkWeights } from '../../frontends/weights/store.ts';
import { modelFromHf } from '../../frontends/zoo/hf.ts';
import { seededWeights, zooFromText } from '../../frontends/zoo/index.ts';
import { CompileError, fail } from '../../ir/diagnostic.ts';
import { type Interface, withInterface } from '../../ir/interface.ts';
import { didYouMean } from '../../ir/suggest.ts';
import type { WeightStore } from '../../ir/weights.ts';
import type { SizeBounds } from '../narrow.ts';
import { usage } from './terminal.ts';
import { importTypeScript } from './typescript.ts';

export interface LoadedSource {
  readonly model: ModelGraph;
  /** The checkpoint, checked against the model; or initial weights from the seed. */
  readonly weights: WeightStore;
  /** Whether `weights` are only initial ones. */
  readonly seeded: boolean;
  /** Bounds of sizes that are still to be applied: none for an ONNX file, which is imported with them. */
  readonly dim: SizeBounds;
}

export interface SourceOptions {
  readonly weights?: string | undefined;
  readonly seed?: number | undefined;
  readonly export?: string | undefined;
  readonly dim?: SizeBounds | undefined;
  readonly observe?: Interface['observe'];
  readonly declare?: Interface['declare'];
}

const MODULES = ['.ts', '.mts', '.js', '.mjs'];

/**
 * Loads `zoo:NAME`, an ONNX file, a module that exports a model, or a folder with `config.json` and safetensors.
 *
 * @throws CompileError `usage` when the name is no source, `file`, `config`, `name` or `weights` when what it names is at
 *   fault; `weights` lists everything that is missing, extra, misshapen or NaN
 */
export async function loadSource(source: string, options: SourceOptions = {}): Promise<LoadedSource> {
  const loaded = await read(source, options);
  return { ...loaded, model: withInterface(loaded.model, options) };
}

async function read(source: string, options: SourceOptions): Promise<LoadedSource> {
  if (options.export !== undefined && !MODULES.includes(extname(source)))
    usage(`--export names a model of a module, and ${source} is none`);
  if (source.startsWith('zoo:')) return withWeights(zooFromText(source.slice('zoo:'.length)), options);
  const stat = statSync(source, { throwIfNoEntry: false });
  if (stat?.isDirectory()) return fromFolder(source, options);
  const kind = extname(source);
  if (kind === '.safetensors')
    usage(`${source} holds weights, not a model`, `name the model and pass --weights ${source}`);
  if (kind !== '.onnx' && !MODULES.includes(kind))
    usage(`${source} is not a model`, 'name zoo:NAME, an .onnx file, a .ts or .js module, or a Hugging Face folder');
  if (!stat) fail('file', `${source}: there is no such file`);
  if (kind === '.onnx') return fromOnnx(source, options);
  return withWeights(await fromModule(source, options.export), options);
}

function fromFolder(folder: string, options: SourceOptions): LoadedSource {
  if (!existsSync(resolve(folder, 'config.json')) && existsSync(resolve(folder, 'manifest.json')))
    usage(`${folder} is a compiled bundle, not a model`, 'name the model that it was compiled from');
  if (options.weights !== undefined)
    usage(`${folder} has its own weights`, 'leave --weights out, or change the folder');
  const { model, weights } = modelFromHf(folder);
  return { model, weights, seeded: false, dim: options.dim ?? {} };
}

/** A file's model with its own weights. */
async function fromOnnx(path: string, options: SourceOptions): Promise<LoadedSource> {
  if (options.weights !== undefined) usage(`${path} has its own weights`, 'leave --weights out, or change the file');
  const { importOnnx, unsupportedOps } = await import('../../frontends/onnx/index.ts');
  const given = { dims: options.dim };
  const imported = (): ReturnType<typeof importOnnx> => {
    try {
      return importOnnx(path, given);
    } catch (error) {
      // The first fault ends an import; whoever changes the export wants to see all of them.
      const all = unsupportedOps(path, given);
      if (all.length < 2) throw error;
      return fail('unsupported', `${path}: ${all.length} nodes cannot be imported`, {
        notes: all.map(({ at, why }) => `${at}: ${why}`),
        help: 'replace these operators before exporting',
      });
    }
  };
  const { model, weights } = imported();
  const parameters = weights.names().map((name) => {
    const { dtype, shape } = weights.get(name)!;
    return { name, dtype, shape, init: init.zeros };
  });
  return { model: { doc: '', ...model, parameters, config: {} }, weights, seeded: false, dim: {} };
}

function withWeights(model: ModelGraph, { weights: path, seed = 0, dim = {} }: SourceOptions): LoadedSource {
  if (path === undefined) return { model, weights: seededWeights(model, seed), seeded: true, dim };
  const weights = readWeights(path);
  checkWeights(model.parameters, weights);
  return { model, weights, seeded: false, dim };
}

async function fromModule(path: string, wanted: string | undefined): Promise<ModelGraph> {
  const url = pathToFileURL(resolve(path)).href;
  let exported: Readonly<Record<string, unknown>>;
  try {
    exported = await importTypeScript(url);
  } catch (error) {
    if (error instanceof CompileError) throw error;
    return fail('file', `${path}: ${error instanceof Error ? error.message : String(error)}`, {
      notes: stackOf(error, path),
    });
  }
  const models = Object.entries(exported).filter((entry): entry is [string, ModelGraph] => isModel(entry[1]));
  const names = models.map(([name]) => name);
  if (wanted !== undefined) {
    const found = models.find(([name]) => name === wanted);
    if (found) return found[1];
    const help = didYouMean(wanted, names) ?? `its models are ${names.join(', ') || 'none'}`;
    return fail('name', `${path}: exports no model "${wanted}"`, { help });
  }
  if (models.length === 1) return models[0]![1];
  const main = models.find(([name]) => name === 'default');
  if (main) return main[1];
  if (models.length === 0)
    return fail('name', `${path}: exports no model`, { help: "write export const net = model('net', …)" });
  return usage(`${path} exports ${models.length} models`, `pass --export with one of ${names.join(', ')}`);
}

/** Another copy of heddle would make objects of other classes; what counts is the form. */
function isModel(value: unknown): value is ModelGraph {
  return (
    typeof value === 'object' &&
    value !== null &&
    'entries' in value &&
    'parameters' in value &&
    Array.isArray(value.parameters) &&
    'name' in value &&
    typeof value.name === 'string'
  );
}

/** The lines of the author's files in a stack, for errors that are not heddle's. */
function stackOf(error: unknown, path: string): string[] {
  const stack = error instanceof Error ? (error.stack ?? '') : '';
  const folder = resolve(path, '..');
  return stack
    .split('\n')
    .filter((line) => line.includes(folder))
    .slice(0, 3)
    .map((line) => line.trim());
}
