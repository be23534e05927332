/** What a target can do and how its kernels are shaped: every tile is data, chosen from `npm run bench`. */

/**
 * A register tile: rows × columns of results (columns a multiple of 8), `unroll` steps of k in one turn of the loop, and
 * where a turn is fenced into basic blocks (see `fence` in `ir/kernel.ts`).
 */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly unroll: number;
  readonly fence: 'row' | 'step' | 'none';
}

export interface Target {
  readonly name: 'wasm' | 'webgpu';
  /** Lanes of a vector of f32. */
  readonly lanes: 4;
  /** a·b + c in one instruction. */
  readonly fma: boolean;
  /** Of every product, attention's included. */
  readonly tile: Tile;
  /** Of products of 8-bit integers, where `unroll` counts pairs in k; undefined: one sum at a time. */
  readonly integerTile?: Tile | undefined;
  /** Rows of a matmul's left operand that one pass over a column panel covers, so that they stay in the L2 cache. */
  readonly rowBlock: number;
  /** Queries of one block of attention: their scores stay in the L1 cache. */
  readonly attentionRows: number;
}

/**
 * V8 keeps 15 vector registers: a tile of R × C needs R·C/4 accumulators, C/4 columns and one splat (one more temporary
 * without FMA). With these fences the best tile measured, or within 2 % of it, in Node 20, 22 and 24. Without fences
 * Node 20 and 22 spill and lose a third; without FMA an unrolled turn is worth a fifth.
 */
export const WASM_RELAXED: Target = {
  name: 'wasm',
  lanes: 4,
  fma: true,
  tile: { rows: 6, columns: 8, unroll: 2, fence: 'row' },
  integerTile: { rows: 5, columns: 8, unroll: 4, fence: 'row' },
  rowBlock: 198,
  attentionRows: 24,
};
export const WASM_PLAIN: Target = {
  ...WASM_RELAXED,
  fma: false,
  tile: { rows: 5, columns: 8, unroll: 4, fence: 'row' },
};

/** Columns of one unit of a matmul's grid: a multiple of every tile, so that both variants share one plan. */
export const PANEL_COLUMNS = 16;
