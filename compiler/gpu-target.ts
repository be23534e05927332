/** What the schedules of WebGPU are shaped by: every tile is data. */
import { type Target, WASM_RELAXED } from './target.ts';

/** A product in tiles: each workgroup of `rows / perRow` × `columns / perColumn` invocations makes rows × columns results. */
export interface GpuTile {
  readonly rows: number;
  readonly columns: number;
  /** Steps of k that stand in workgroup memory at a time. */
  readonly depth: number;
  /** Results of one invocation: so many rows, and so many columns (a multiple of 4). */
  readonly perRow: number;
  readonly perColumn: number;
}

export interface GpuTarget extends Target {
  readonly name: 'webgpu';
  /** Tiles of products, largest first; a product takes the first that fills the device. */
  readonly tiles: readonly GpuTile[];
  /** Products of fewer multiply-accumulates, at usual and at largest sizes, take direct kernels. */
  readonly small: { readonly usual: number; readonly most: number };
  /** Workgroups that keep a device busy. */
  readonly workgroups: number;
  /** Invocations of a workgroup that reduces one line together. */
  readonly reduceGroup: number;
  /** Whether the invocations of a subgroup join values without memory: the feature `subgroups`. */
  readonly subgroups: boolean;
  /** Queries and keys of one block of attention, multiples of 16 and 8, largest first: the first that fits is taken. */
  readonly attention: readonly (readonly [queries: number, keys: number])[];
}

export const WEBGPU: GpuTarget = {
  ...WASM_RELAXED,
  name: 'webgpu',
  tiles: [
    { rows: 64, columns: 64, depth: 16, perRow: 8, perColumn: 4 },
    { rows: 32, columns: 32, depth: 16, perRow: 4, perColumn: 4 },
  ],
  small: { usual: 2 ** 18, most: 2 ** 26 },
  workgroups: 64,
  reduceGroup: 64,
  subgroups: false,
  attention: [
    [32, 32],
    [32, 16],
    [16, 16],
    [16, 8],
  ],
};

/** For devices whose invocations can join values of a subgroup. */
export const WEBGPU_SUBGROUPS: GpuTarget = { ...WEBGPU, subgroups: true };

export const gpuOf = (target: Target): GpuTarget => {
  if (target.name !== 'webgpu') throw new Error(`a schedule of WebGPU is asked for ${target.name}`);
  return target as GpuTarget;
};
