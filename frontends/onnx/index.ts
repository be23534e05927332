/** ONNX files: what `heddle/onnx` exports. */
import type { Model } from '../../ir/model.ts';
import type { DecompileOptions } from './decompile.ts';

export type { DecompileOptions };
/** `decompile` of `decompile.ts`, which takes half a second to load. */
export const decompile = async (model: Model, options?: DecompileOptions): Promise<string> =>
  (await import('./decompile.ts')).decompile(model, options);
export { type ExportedEntry, type ExportedModel, type ExportOptions, exportOnnx } from './export.ts';
export { type ImportedModel, type ImportOptions, importOnnx, unsupportedOps } from './import.ts';
export type { DimRange } from './symbols.ts';
export type { UnsupportedNode } from './unsupported.ts';
