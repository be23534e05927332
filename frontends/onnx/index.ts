/** ONNX files: what `heddle/onnx` exports. */
export { type ExportedEntry, type ExportedModel, type ExportOptions, exportOnnx } from './export.ts';
export { type ImportedModel, type ImportOptions, importOnnx, unsupportedOps } from './import.ts';
export type { DimRange } from './symbols.ts';
export type { UnsupportedNode } from './unsupported.ts';
