/** What partitioning decides and schedules implement: which values one step computes, and the kernels that do it. */

import type { Scalar } from '../ir/dtype.ts';
import type { Buffer, Expr } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import type { Kernel } from '../ir/kernel.ts';
import type { ScheduleName } from '../ir/op.ts';
import type { Dim } from '../ir/type.ts';
import { staticShape } from '../ir/type.ts';
import { PANEL_COLUMNS } from './target.ts';

/** `control`: a loop or branch, planned from its subgraphs. */
export type RegionKind = 'element' | 'reduce' | 'control' | ScheduleName;

/** One step of the program: a root op with the cheap ops around it that never reach memory. */
export interface Region {
  readonly kind: RegionKind;
  readonly name: string;
  /** The op whose schedule runs; for `element`, the value itself. */
  readonly root: Value;
  /** Values written to memory. For a fused epilogue, the last value of `epilogue`. */
  readonly outputs: readonly Value[];
  /** Values applied to the root's result, in order: same-shape pointwise ops and bijective views. */
  readonly epilogue: readonly Value[];
  /** Materialised values that the region loads, each once, in order of first use. */
  readonly inputs: readonly Value[];
}

/** How weights stand in memory: as they are, or as the right operand of a matmul in panels of 8 columns. */
export type WeightLayout =
  | { readonly kind: 'plain' }
  /** `[panel][K][8]`, zero padded to whole units of 16 columns, of a K × N matrix (stored N × K when `transposed`). */
  | { readonly kind: 'panels'; readonly k: number; readonly n: number; readonly transposed: boolean }
  /**
   * `[batch][panel][⌈K/2⌉][8]` of two bytes each, those of 2k and 2k + 1, of `batch` K × N matrices of 8-bit integers.
   * Bytes are signed: unsigned ones stand 128 lower. Padding is 0.
   */
  | {
      readonly kind: 'pairs';
      readonly batch: number;
      readonly k: number;
      readonly n: number;
      readonly transposed: boolean;
    };

/**
 * The panels in which a matmul takes its right operand, when that is one static f32 matrix; undefined otherwise.
 * @param matmul a value of op `matmul`
 */
export function panelsOf(matmul: Value, isStatic: (v: Value) => boolean): WeightLayout | undefined {
  const right = matmul.inputs[1]!;
  const { dtype, shape } = typeOf(right);
  const sizes = staticShape(shape);
  if (!isStatic(right) || dtype !== 'f32' || !sizes || sizes.slice(0, -2).some((d) => d !== 1)) return undefined;
  const transposed = matmul.attrs.transposeB === true;
  const [rows, columns] = sizes.slice(-2) as [number, number];
  return { kind: 'panels', k: transposed ? columns : rows, n: transposed ? rows : columns, transposed };
}

/** How an integer product takes its right operand, when that is static; undefined otherwise. */
export function pairsOf(product: Value, isStatic: (v: Value) => boolean): WeightLayout | undefined {
  const right = product.inputs[1]!;
  const sizes = staticShape(typeOf(right).shape);
  if (!isStatic(right) || !sizes) return undefined;
  const transposed = product.attrs.transposeB === true;
  const [rows, columns] = sizes.slice(-2) as [number, number];
  const batch = sizes.slice(0, -2).reduce((n, d) => n * d, 1);
  return { kind: 'pairs', batch, k: transposed ? columns : rows, n: transposed ? rows : columns, transposed };
}

/** Elements of a weight in memory, and their type. */
export function storedAs(value: Value, layout: WeightLayout): { readonly dtype: Scalar; readonly elements: number } {
  const { dtype, shape } = typeOf(value);
  switch (layout.kind) {
    case 'plain': {
      const sizes = staticShape(shape);
      if (!sizes) throw new Error('weights have static shapes');
      return { dtype, elements: sizes.reduce((n, d) => n * d, 1) };
    }
    case 'panels':
      return { dtype, elements: columnsOf(layout) * layout.k };
    case 'pairs':
      return { dtype: 'u16', elements: layout.batch * columnsOf(layout) * Math.ceil(layout.k / 2) };
  }
}
const columnsOf = ({ n }: { readonly n: number }): number => Math.ceil(n / PANEL_COLUMNS) * PANEL_COLUMNS;

/** What a kernel argument is bound to. */
export type Binding =
  | { readonly kind: 'value'; readonly value: Value }
  | { readonly kind: 'weight'; readonly value: Value; readonly layout: WeightLayout }
  /** Memory that only this region uses, between its stages. */
  | { readonly kind: 'temp'; readonly name: string; readonly dtype: Scalar; readonly size: Expr };

/** One launch of one kernel. `bindings` match the kernel's global buffers in order. */
export interface Stage {
  readonly kernel: Kernel;
  readonly bindings: readonly Binding[];
  /** Extent of `grid.x`. */
  readonly grid: Expr;
  /** Multiply-accumulates (or elements touched) of one grid unit: how calls are cut into chunks. */
  readonly work: Expr;
  /** Contraction MACs of the whole stage as planned: an exact number, or an i64 expression, since i32 would wrap. */
  readonly macs: Dim;
}

/** How a schedule gets buffers for values; the same value gives the same buffer within a region. */
export interface RegionBuffers {
  /** A materialised or static value; weights that a product has in panels stand in those. */
  input(value: Value): Buffer;
  /** Flat element index in that buffer. */
  addressOf(value: Value, at: readonly Expr[]): Expr;
  output(value: Value): Buffer;
  weight(value: Value, layout: WeightLayout): Buffer;
  temp(name: string, dtype: Scalar, size: Expr): Buffer;
  /** What a buffer handed out above is bound to. */
  bindingOf(buffer: Buffer): Binding;
  /** Private memory of one thread. */
  scratch(name: string, dtype: Scalar, size: number): Buffer;
  /** True for values whose bytes are known when the bundle is made. */
  isStatic(value: Value): boolean;
  /** True for the region's inputs, for which `input` may be called; anything else is computed where it is read. */
  isMaterialised(value: Value): boolean;
}
