/** Places buffers in one arena so that those alive at the same time never overlap. */
import { type BufferInfo, sizeOf } from './manifest.ts';

export interface ArenaLayout {
  /** Byte offset of each buffer, aligned. */
  readonly offsets: readonly number[];
  readonly bytes: number;
}

/**
 * Largest first, each at the lowest gap left by those alive with it (Pisarchyk & Lee 2020, "greedy by size").
 *
 * @param align  of offsets, in bytes
 */
export function layoutArena(
  buffers: readonly BufferInfo[],
  symbols: Readonly<Record<string, number>>,
  align = 64,
): ArenaLayout {
  const sizes = buffers.map((b) => Math.ceil(sizeOf(b.bytes, symbols) / align) * align);
  const order = buffers.map((_, i) => i).sort((a, b) => sizes[b]! - sizes[a]! || a - b);
  const offsets = new Array<number>(buffers.length).fill(0);
  const placed: number[] = [];
  let bytes = 0;
  for (const i of order) {
    const { first, last } = buffers[i]!;
    const rivals = placed
      .filter((j) => buffers[j]!.first <= last && first <= buffers[j]!.last)
      .sort((a, b) => offsets[a]! - offsets[b]!);
    let at = 0;
    for (const j of rivals) {
      if (at + sizes[i]! <= offsets[j]!) break;
      at = Math.max(at, offsets[j]! + sizes[j]!);
    }
    offsets[i] = at;
    bytes = Math.max(bytes, at + sizes[i]!);
    placed.push(i);
  }
  return { offsets, bytes };
}
