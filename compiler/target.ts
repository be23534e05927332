/** What a target can do and how its kernels are shaped: every tile is data, chosen from `npm run bench`. */

/** Rows × columns of the register tile of a matmul; columns are a multiple of 8. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
}

export interface Target {
  readonly name: 'wasm' | 'webgpu';
  /** Lanes of a vector of f32. */
  readonly lanes: 4;
  /** a·b + c in one instruction. */
  readonly fma: boolean;
  readonly matmul: Tile;
  /** Rows of a matmul's left operand that one pass over a column panel covers, so that they stay in the L2 cache. */
  readonly rowBlock: number;
  /** Queries of one block of attention: their scores stay in the L1 cache. */
  readonly attentionRows: number;
}

/**
 * V8 keeps 15 vector registers: a tile of R × C needs R·C/4 accumulators, C/4 columns and one splat (one more temporary
 * without FMA).
 */
export const WASM_RELAXED: Target = {
  name: 'wasm',
  lanes: 4,
  fma: true,
  matmul: { rows: 2, columns: 16 },
  rowBlock: 256,
  attentionRows: 24,
};
export const WASM_PLAIN: Target = { ...WASM_RELAXED, fma: false, matmul: { rows: 4, columns: 8 } };

/** Columns of one unit of a matmul's grid: a multiple of every tile, so that both variants share one plan. */
export const PANEL_COLUMNS = 16;
