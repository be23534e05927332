/** Models of ours as ONNX files. */
import { basename, dirname, extname, join } from 'node:path';
import { fail } from '../../ir/diagnostic.ts';
import { isFloat } from '../../ir/dtype.ts';
import type { Sym } from '../../ir/expr.ts';
import { type Graph, graphValues, typeOf, type Value } from '../../ir/graph.ts';
import type { Model } from '../../ir/model.ts';
import { printType } from '../../ir/print.ts';
import { promisesOf } from '../../ir/promises.ts';
import { symbolsOf } from '../../ir/scalar.ts';
import { printSymbol } from '../../ir/text.ts';
import { toFloat32, type WeightStore, type WeightTensor } from '../../ir/weights.ts';
import { writeAtomic } from '../weights/files.ts';
import { encodeModel, type ModelDraft, type TensorDraft } from './encode.ts';
import { ModelWriter } from './export-graph.ts';
import { bytesOf, elementType } from './export-writer.ts';
import { PRODUCER, RANGES, sourceEntry } from './provenance.ts';

export interface ExportOptions {
  /** The bytes of every parameter. May be left out for a model without parameters. */
  readonly weights?: WeightStore | undefined;
  /** Version of the standard operators, 17 to 24; default 23. */
  readonly opset?: number | undefined;
  /**
   * Whether tensors above 1 KiB stand in a second file, `NAME.onnx.data`, beside the first. Default: where they come to
   * more than `maxInside`.
   */
  readonly externalData?: boolean | undefined;
  /** Most bytes of weights that one file holds; default, and most, a little below the 2 GB that protobuf can hold. */
  readonly maxInside?: number | undefined;
}

/** One entry point as a file, or as two where its weights stand beside it. */
export interface ExportedEntry {
  readonly graph: Graph;
  /**
   * The file in memory.
   * @throws CompileError `file` when its weights stand in a second file: write it instead
   */
  bytes(): Uint8Array<ArrayBuffer>;
}

export interface ExportedModel {
  /** By entry point. */
  readonly entries: Readonly<Record<string, ExportedEntry>>;
  /**
   * Writes the model: one file for each entry point, `NAME.onnx`, or `NAME.ENTRY.onnx` where there are several. Every file
   * is written under another name and then renamed, so that no reader sees half of one.
   * @returns the paths of all files
   */
  write(path: string): readonly string[];
}

export const OPSETS = { least: 17, most: 24, usual: 23 } as const;
/** IR versions that came with the opsets. */
const IR_VERSION: Readonly<Record<number, number>> = { 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 11 };

/** Bytes of initializers that are left in the file itself; protobuf holds 2 GB, of which the graph needs some. */
const MAX_INSIDE = 2 ** 31 - 2 ** 26;
/** Smaller tensors stay in the file also when the others do not. */
const MIN_OUTSIDE = 1024;

/**
 * Writes a model, or one graph, as ONNX.
 *
 * Names of inputs, outputs, values, parameters and symbolic sizes are kept, inputs keep their docs, nodes the position in
 * the model's source. What the opset has no operator for is written with simpler ones.
 *
 * @throws CompileError `unsupported` naming an operator that the opset cannot express, `weights` when a parameter is
 *   missing or has another shape, `usage` for opsets that cannot be written
 */
export function exportOnnx(source: Model | Graph, options: ExportOptions = {}): ExportedModel {
  const model: Model = 'kind' in source ? { name: source.name, entries: { main: source } } : source;
  const opset = options.opset ?? OPSETS.usual;
  if (!Number.isInteger(opset) || opset < OPSETS.least || opset > OPSETS.most)
    fail('usage', `opset ${opset} cannot be written`, { help: `opsets ${OPSETS.least} to ${OPSETS.most} can` });
  const names = Object.keys(model.entries);
  const drafts = names.map((name) => draftOf(model, name, opset, options));
  const entries = names.map((name, i) => [name, entryOf(drafts[i]!, model.entries[name]!, options)] as const);
  return {
    entries: Object.fromEntries(entries.map(([name, e]) => [name, { graph: e.graph, bytes: e.bytes }])),
    write: (path) =>
      entries.flatMap(([name, e]) => {
        const ending = extname(path) || '.onnx';
        const stem = join(dirname(path), basename(path, extname(path)));
        return e.write(entries.length === 1 ? `${stem}${ending}` : `${stem}.${name}${ending}`);
      }),
  };
}

function draftOf(model: Model, name: string, opset: number, { weights }: ExportOptions): ModelDraft {
  const graph = model.entries[name]!;
  const writer = new ModelWriter(opset, (param, key) => initializer(param, key, weights));
  const single = Object.keys(model.entries).length === 1;
  return {
    irVersion: IR_VERSION[opset]!,
    opset,
    producer: PRODUCER,
    doc: model.doc ?? '',
    metadata: { ...rangesOf(graph), ...(single ? {} : { 'heddle.entry': name }) },
    graph: writer.main(graph, model.doc ?? ''),
  };
}

/** Ranges of all symbolic sizes, for which ONNX has names only. */
function rangesOf(graph: Graph): Record<string, string> {
  const symbols = new Set<Sym>();
  for (const v of [...graph.inputs, ...graphValues(graph)])
    for (const e of sizesIn(v)) for (const s of symbolsOf(e)) symbols.add(s.arg as Sym);
  return symbols.size === 0 ? {} : { [RANGES]: [...symbols].map(printSymbol).join(', ') };
}
function sizesIn(v: Value): Parameters<typeof symbolsOf>[0][] {
  const types = v.type.kind === 'tuple' ? v.type.items : [v.type];
  const { count } = promisesOf(v);
  const sizes = [...types.flatMap(({ shape }) => shape), ...(count === undefined ? [] : [count])];
  return sizes.flatMap((d) => (typeof d === 'number' ? [] : [d]));
}

function initializer(param: Value, name: string, store: WeightStore | undefined): TensorDraft {
  const key = String(param.attrs.name);
  const { dtype, shape } = typeOf(param);
  if (!store) return fail('weights', `parameter "${key}" has no value`, { help: 'pass weights' });
  const tensor = store.get(key) ?? fail('weights', `${store.source} has no tensor "${key}"`);
  if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i]))
    fail(
      'weights',
      `parameter "${key}" is ${printType(typeOf(param))}, but ${store.source} has [${tensor.shape.join(', ')}]`,
    );
  const bytes = inDtype(tensor, dtype, key);
  return { name, dims: tensor.shape, type: elementType(dtype), bytes, metadata: sourceEntry(param) };
}

function inDtype(tensor: WeightTensor, dtype: WeightTensor['dtype'], key: string): Uint8Array {
  if (tensor.dtype === dtype) return tensor.bytes;
  if (!isFloat(tensor.dtype) || !isFloat(dtype))
    return fail('weights', `parameter "${key}" is ${dtype}, but its stored elements are ${tensor.dtype}`);
  return bytesOf({ dtype, shape: tensor.shape, data: Float64Array.from(toFloat32(tensor)) });
}

interface Entry extends ExportedEntry {
  write(path: string): string[];
}

function entryOf(draft: ModelDraft, graph: Graph, { externalData, maxInside }: ExportOptions): Entry {
  const total = draft.graph.initializers.reduce((n, t) => n + t.bytes.length, 0);
  const outside = externalData ?? total > Math.min(maxInside ?? MAX_INSIDE, MAX_INSIDE);
  return {
    graph,
    bytes: () => {
      if (outside)
        fail('file', `the weights of "${graph.name}" (${total} bytes) stand in a second file`, {
          help: 'write the model to a folder, or pass externalData: false where they come to less than 2 GB',
        });
      return joined(encodeModel(draft));
    },
    write: (path) => {
      if (!outside) {
        writeAtomic(path, encodeModel(draft));
        return [path];
      }
      const beside = `${path}.data`;
      const { initializers, chunks } = placed(draft.graph.initializers, basename(beside));
      const pieces = encodeModel({ ...draft, graph: { ...draft.graph, initializers } });
      // The weights first: a model file that exists finds them.
      writeAtomic(beside, chunks);
      writeAtomic(path, pieces);
      return [path, beside];
    },
  };
}

function joined(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(pieces.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** Large tensors one after another in a second file, at offsets that can be mapped into memory. */
function placed(
  tensors: readonly TensorDraft[],
  location: string,
): { readonly initializers: TensorDraft[]; readonly chunks: Uint8Array[] } {
  const chunks: Uint8Array[] = [];
  let offset = 0;
  const initializers = tensors.map((t) => {
    if (t.bytes.length < MIN_OUTSIDE) return t;
    const unit = t.bytes.length >= 2 ** 16 ? 4096 : 64;
    const gap = (unit - (offset % unit)) % unit;
    if (gap > 0) chunks.push(new Uint8Array(gap));
    offset += gap;
    const placedAt = { ...t, external: { location, offset } };
    chunks.push(t.bytes);
    offset += t.bytes.length;
    return placedAt;
  });
  return { initializers, chunks };
}
