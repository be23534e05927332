/** The package `heddle`: the vocabulary of models, and the compiler. */
export * from '../frontends/dsl/index.ts';
export { CompileError, type Diagnostic, type DiagnosticCode, type Loc } from '../ir/diagnostic.ts';
export type { Graph } from '../ir/graph.ts';
export { type Declaration, type Interface, type Observation, withInterface } from '../ir/interface.ts';
export type { Model } from '../ir/model.ts';
export { printGraph } from '../ir/text.ts';
export type { WeightStore, WeightTensor } from '../ir/weights.ts';
export { Bundle } from './bundle.ts';
export { type CompileOptions, type CompilePhase, compile } from './compile.ts';
export type { SizeBound, SizeBounds } from './narrow.ts';
export type { CompileReport, EntryReport, FileReport, RemarkReport } from './report.ts';
