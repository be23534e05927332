/** From a model to a bundle: passes, regions, kernels, plan, files. */
import { createHash } from 'node:crypto';
import { fail } from '../ir/diagnostic.ts';
import { type Graph, graphValues } from '../ir/graph.ts';
import type { Model } from '../ir/model.ts';
import { didYouMean } from '../ir/suggest.ts';
import type { WeightStore } from '../ir/weights.ts';
import type { FiniteMasks } from '../passes/mask-options.ts';
import { type Pass, type Remark, runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { factsOf } from '../passes/weight-facts.ts';
import { type EntryPlan, FORMAT, type Manifest, type WasmModules, type WasmPart } from '../runtime/manifest.ts';
import { Bundle } from './bundle.ts';
import { decompose } from './decompose.ts';
import type { CompiledEntry, ScheduledEntry } from './entry.ts';
import { type Fallback, withFallbacks } from './fallback.ts';
import { KernelList, type PrintedKernels } from './kernel-list.ts';
import { defaultSizes, narrowModel, type SizeBounds } from './narrow.ts';
import { partition } from './partition.ts';
import { planEntry } from './plan.ts';
import { withPossibleSizes } from './possible.ts';
import { macsByLabel } from './report.ts';
import { scheduleProgram } from './schedule-regions.ts';
import { WASM_PLAIN, WASM_RELAXED } from './target.ts';
import { type LoweredForGpu, lowerForGpu, webGpuPart } from './webgpu-part.ts';
import { type WeightOptions, WeightPlan } from './weights.ts';

/** Stages of a compilation that take noticeable time, in order. */
export type CompilePhase = 'passes' | 'kernels' | 'weights';

/** What a bundle runs on. */
export type TargetName = 'wasm' | 'webgpu';

export interface PassOptions {
  /** Default `wasm`. `['wasm', 'webgpu']` makes a bundle for both, over one file of weights. */
  readonly target?: 'wasm' | readonly TargetName[] | undefined;
  /** Sizes to fix or narrow, by name: `{ batch: 4, sequence: { max: 128 } }`. A fixed size folds into the kernels. */
  readonly symbols?: SizeBounds | undefined;
  /** Weights, where passes may look at them: buffers that exporters store among them are constants of the model. */
  readonly weights?: WeightStore | undefined;
  /**
   * What numbers such as -10000, added to scores, are taken for: masks, which is what every author of one meant (`exact`, the
   * default), or numbers, unless the weights show that every score is small beside them (`keep`).
   */
  readonly finiteMasks?: FiniteMasks | undefined;
  /**
   * Whether a NaN or an infinity in a row that a mask hides must spread to other rows, as it does in the model as written:
   * softmax gives hidden keys a weight of 0, and 0 · NaN is NaN. Rows are then dropped only where nothing could have spread
   * from them: behind `select`, slices and gathers, and masks that the model states as such. Remarks say what that keeps.
   * Default false: hidden rows are taken to be finite.
   */
  readonly strictNaN?: boolean | undefined;
  /** Runs the reference interpreter before and after each pass and compares. Slow; for small models. Default false. */
  readonly validate?: boolean | undefined;
  /**
   * Passes to leave out, by name: `['drop-tokens', 'pack-rows']` computes every row as written, also those that nobody
   * reads. For NaN that spread as they do in the model see `strictNaN`. Default none.
   */
  readonly without?: readonly string[] | undefined;
  /**
   * What happens where inputs do not suit the plan that leaves rows out: a mask that is binary by its name alone holds other
   * numbers, a count is beyond its range, hardly a row may be left out. `none`, the default: an error, or rows moved for
   * nothing. `dense`: the bundle holds a second plan over the same weights and kernels, entry `main.dense` for `main`, which
   * computes every row and is chosen by the inputs of a run. It costs a plan and the kernels that only one of the two has (for
   * a padded BERT-base 10 KB gzipped), and nothing where no plan depends on that. What a user declares stays a promise: breaking it is an error.
   */
  readonly fallback?: Fallback | undefined;
  /** Rewrites allowed in all passes together, per entry: bisects a miscompile. Default no limit. */
  readonly stopAfter?: number | undefined;
  /** Sees the graph of each entry after each pass. */
  readonly observe?: ((entry: string, pass: Pass, graph: Graph) => void) | undefined;
  /** Called when each stage begins. */
  readonly onPhase?: ((phase: CompilePhase) => void) | undefined;
}

export interface CompileOptions extends PassOptions {
  readonly weights: WeightStore;
  /** How floats stand in the weight file; f16 is widened when it is loaded, on WebGPU when it is read. Default `f32`. */
  readonly storage?: 'f32' | 'f16' | undefined;
}

/**
 * Compiles every entry point of a model into one bundle in memory: pass it to `open` of `heddle/runtime`, or write it to a
 * folder with `write`.
 *
 * @throws CompileError `weights` when tensors are missing or do not fit, `unsupported` for what the target lacks, `name` or
 *   `range` for `symbols` that the model does not have
 */
export function compile(model: Model, options: CompileOptions): Bundle {
  const { weights: store, storage = 'f32', onPhase } = options;
  if (storage !== 'f32' && storage !== 'f16')
    fail('unsupported', `storage "${String(storage)}" is not known`, { help: 'known storages: f32, f16' });
  requireNames(model, store);
  const { entries, kernels, weights, at, webgpu, otherwise } = lowerModel(model, options);
  onPhase?.('weights');
  const packed = weights.write(store, 'weights.bin');
  const wasm = joinModules('kernels.bin', kernels);
  const files = new Map<string, Uint8Array>([
    ['kernels.bin', wasm.bytes],
    ['weights.bin', packed.bytes],
  ]);
  const gpu = webgpu && webGpuPart(webgpu);
  for (const [name, bytes] of gpu?.files ?? []) files.set(name, bytes);
  const manifest: Manifest = {
    heddle: FORMAT,
    name: model.name,
    entries: withOtherwise(Object.fromEntries(entries.map((e) => [e.name, e.plan])), otherwise),
    weights: packed.info,
    wasm: wasm.modules,
    ...(gpu && { webgpu: { ...gpu.part, entries: withOtherwise(gpu.part.entries, otherwise) } }),
    selftest: [],
    macs: Object.fromEntries(entries.map((e) => [e.name, macsByLabel(e.relaxed, at)])),
  };
  const target = gpu ? 'wasm,webgpu' : 'wasm';
  return new Bundle({ manifest, files, entries, target, doc: model.doc ?? '', at, kernels: kernels.count });
}

type Otherwise = Readonly<Record<string, EntryPlan['otherwise']>>;
const withOtherwise = (plans: Manifest['entries'], by: Otherwise): Manifest['entries'] =>
  Object.fromEntries(
    Object.entries(plans).map(([name, plan]) => [name, by[name] ? { ...plan, otherwise: by[name] } : plan]),
  );

/** Both variants of the kernels as one file. */
function joinModules(file: string, { plain, relaxed }: PrintedKernels): { bytes: Uint8Array; modules: WasmModules } {
  const bytes = new Uint8Array(plain.bytes.length + relaxed.bytes.length);
  const place = (from: number, module: PrintedKernels['plain']): WasmPart => {
    bytes.set(module.bytes, from);
    return { from, bytes: module.bytes.length, memoryFlagAt: module.memoryFlagAt };
  };
  const parts = { plain: place(0, plain), relaxed: place(plain.bytes.length, relaxed) };
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  return { bytes, modules: { file, bytes: bytes.length, sha256, ...parts } };
}

/** A model on its way to a bundle, before its weights are touched. */
export interface LoweredModel {
  readonly entries: readonly CompiledEntry[];
  readonly kernels: PrintedKernels;
  /** Where the weights will stand. */
  readonly weights: WeightPlan;
  readonly at: Readonly<Record<string, number>>;
  /** Where WebGPU is a target. */
  readonly webgpu?: LoweredForGpu;
  /** Entries that stand in for others, by the name of those. */
  readonly otherwise: Otherwise;
}

/** @throws CompileError `unsupported` */
function wantsWebGpu(target: PassOptions['target']): boolean {
  const names: readonly string[] = typeof target === 'string' ? [target] : (target ?? ['wasm']);
  const strange = names.find((name) => name !== 'wasm' && name !== 'webgpu');
  if (strange !== undefined || names.length === 0)
    fail('unsupported', `target "${String(strange)}" is not known`, { help: 'known targets: wasm, webgpu' });
  if (!names.includes('wasm'))
    fail('unsupported', 'a bundle for WebGPU alone could not run where there is none', { help: 'name wasm,webgpu' });
  return names.includes('webgpu');
}

/** Everything of a compilation that needs no weights. @throws CompileError as `compile` does */
export function lowerModel(model: Model, options: PassOptions & Pick<WeightOptions, 'storage'>): LoweredModel {
  const { symbols = {}, onPhase } = options;
  const both = wantsWebGpu(options.target);
  onPhase?.('passes');
  const narrow = withPossibleSizes(narrowModel(model, symbols));
  const own = Object.entries(narrow.entries).map(([name, graph]) => optimise(name, graph, options));
  const { entries: optimised, otherwise } =
    options.fallback === 'dense'
      ? withFallbacks(own, (name, graph, more) =>
          optimise(name, graph, { ...options, without: [...(options.without ?? []), ...more] }),
        )
      : { entries: own, otherwise: {} };
  onPhase?.('kernels');
  const scheduled = optimised.map(scheduleEntry);
  const list = new KernelList();
  for (const { relaxed, plain } of scheduled) list.add(relaxed, plain);
  const kernels = list.print();
  const weights = new WeightPlan({ webgpu: both, storage: options.storage });
  const entries = scheduled.map(
    (entry): CompiledEntry => ({ ...entry, plan: planEntry(entry.relaxed, weights, kernels.numberOf) }),
  );
  const partitions = Object.fromEntries(scheduled.map(({ name, program }) => [name, program]));
  const webgpu = both ? lowerForGpu(partitions, weights) : undefined;
  const at = { ...defaultSizes(model, symbols), ...defaultsOf(narrow) };
  return { entries, kernels, weights, at, otherwise, ...(webgpu && { webgpu }) };
}

/** The default of every size, moved into the range of each entry that has it. */
function defaultsOf({ name, entries }: Model): Record<string, number> {
  const sizes: Record<string, number> = {};
  for (const [entry, graph] of Object.entries(entries))
    for (const [symbol, size] of Object.entries(defaultSizes({ name, entries: { [entry]: graph } })))
      sizes[symbol] = Math.max(sizes[symbol] ?? 0, size);
  return sizes;
}

/** An entry after its passes, with what they said. */
export type OptimisedEntry = Pick<ScheduledEntry, 'name' | 'authored' | 'optimised' | 'remarks'>;

export function optimise(name: string, authored: Graph, options: Omit<PassOptions, 'symbols'>): OptimisedEntry {
  const remarks: Remark[] = [];
  const optimised = runPasses(authored, pipelineFor('wasm', options.without), {
    validate: options.validate,
    stopAfter: options.stopAfter,
    masks: {
      ...(options.weights && factsOf(options.weights)),
      finiteMasks: options.finiteMasks,
      strictNaN: options.strictNaN,
    },
    observe: (pass, graph) => options.observe?.(name, pass, graph),
    remark: (remark) => remarks.push(remark),
  });
  return { name, authored, optimised, remarks };
}

function scheduleEntry(entry: OptimisedEntry): ScheduledEntry {
  const program = partition(decompose(entry.optimised));
  return {
    ...entry,
    program,
    relaxed: scheduleProgram(program, WASM_RELAXED),
    plain: scheduleProgram(program, WASM_PLAIN),
  };
}

/** Refuses weights that lack a name, before anything is compiled; types and shapes are checked when they are packed. */
function requireNames(model: Model, store: WeightStore): void {
  const present = new Set(store.names());
  const missing = new Set<string>();
  for (const graph of Object.values(model.entries))
    for (const { op, attrs } of graphValues(graph))
      if (op.name === 'param' && !present.has(String(attrs.name))) missing.add(String(attrs.name));
  if (missing.size === 0) return;
  const [first] = missing;
  const notes = [...missing].slice(0, 20).map((name) => `missing "${name}"`);
  if (missing.size > notes.length) notes.push(`… and ${missing.size - notes.length} more`);
  fail('weights', `${store.source} lacks ${missing.size} of the tensors that model ${model.name} reads`, {
    notes,
    help: didYouMean(first!, present),
  });
}
