/** Reads the weight file into the memory of the kernels, checking every block. */
import { HeddleError } from './error.ts';
import type { WeightSegment, WeightsInfo } from './manifest.ts';
import { sha256 } from './sha256.ts';
import type { Source } from './source.ts';

let table: Uint32Array | undefined;

/** The bits of every f16 as f32: exact, NaN payloads and subnormals included. */
export function widened(): Uint32Array {
  if (table !== undefined) return table;
  table = new Uint32Array(1 << 16);
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  for (let h = 0; h < 1 << 16; h++) {
    const magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00) bits[0] = 0x7f800000 | ((magnitude & 0x3ff) << 13);
    else if (magnitude >= 0x400) bits[0] = (magnitude << 13) + (112 << 23);
    else float[0] = magnitude * 2 ** -24;
    table[h] = bits[0]! | ((h & 0x8000) << 16);
  }
  return table;
}

/** Takes a block of the file, which stands at byte `start` of it. */
export type TakeBlock = (block: Uint8Array<ArrayBuffer>, start: number) => Promise<void>;

/** Copies what `block`, standing at byte `start` of the file, holds of a segment to its place in `memory`. */
function place(segment: WeightSegment, block: Uint8Array<ArrayBuffer>, start: number, memory: Uint8Array): void {
  const from = Math.max(segment.from, start);
  const to = Math.min(segment.from + segment.bytes, start + block.length);
  if (from >= to) return;
  if (segment.stored === 'raw') {
    memory.set(block.subarray(from - start, to - start), segment.to + from - segment.from);
    return;
  }
  const wide = widened();
  const halves = new Uint16Array(block.buffer, from - start, (to - from) / 2);
  const at = memory.byteOffset + segment.to + 2 * (from - segment.from);
  const out = new Uint32Array(memory.buffer, at, halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = wide[halves[i]!]!;
}

/**
 * Fills `memory` from the weight file: one pass, in blocks, hashing one block while the next is read.
 *
 * @param memory    `info.memory` bytes, at an address that is a multiple of 4; or what takes the blocks instead, in
 *                  their order
 * @param progress  called with the bytes read so far
 * @throws HeddleError `integrity` naming the file; `source`; or the signal's reason
 */
export async function loadWeights(
  source: Source,
  info: WeightsInfo,
  memory: Uint8Array | TakeBlock,
  signal: AbortSignal,
  progress: (loaded: number) => void,
): Promise<void> {
  if (info.bytes === 0) return;
  const size = Math.min(info.block, info.bytes);
  const segments = [...info.segments].sort((a, b) => a.from - b.from);
  // Where memory has the layout of the file, it is read straight into place; shared memory cannot be hashed there.
  const taken = typeof memory === 'function';
  const direct =
    !taken &&
    memory.buffer instanceof ArrayBuffer &&
    info.bytes <= info.memory &&
    segments.every(({ stored, from, to }) => stored === 'raw' && from === to);
  const ring = Array.from({ length: 2 }, () => ({
    bytes: new Uint8Array(direct ? 0 : size),
    checked: Promise.resolve(),
  }));
  const blockOf = (i: number): Uint8Array<ArrayBuffer> => {
    const from = i * size;
    const length = Math.min(size, info.bytes - from);
    return direct
      ? new Uint8Array(memory.buffer as ArrayBuffer, memory.byteOffset + from, length)
      : ring[i % ring.length]!.bytes.subarray(0, length);
  };
  let first = 0;
  const bad = (why: string): HeddleError =>
    new HeddleError('integrity', `weights ${info.file}: ${why}. Copy or download the file again.`);
  const reader = await source.open(info.file, signal);
  const blocks = Math.ceil(info.bytes / size);
  const hashes: string[] = [];
  /** Begins to read block `i` into its slot, once the slot is free. */
  const read = async (i: number): Promise<number> => {
    if (i >= blocks) return 0;
    await ring[i % ring.length]!.checked;
    return reader.fill(blockOf(i));
  };
  let next = read(0);
  try {
    for (let i = 0, start = 0; i < blocks; i++, start += size) {
      const slot = ring[i % ring.length]!;
      const got = await next;
      signal.throwIfAborted();
      const block = blockOf(i);
      if (got < block.length) {
        throw bad(`ends after ${start + got} bytes; the manifest says ${info.bytes}`);
      }
      slot.checked = sha256(block).then((hash) => {
        hashes[i] = hash;
      });
      slot.checked.catch(() => {});
      next = read(i + 1);
      next.catch(() => {});
      while (first < segments.length && segments[first]!.from + segments[first]!.bytes <= start) first++;
      if (taken) await memory(block, start);
      for (let s = first; !direct && !taken && s < segments.length && segments[s]!.from < start + got; s++) {
        place(segments[s]!, block, start, memory as Uint8Array);
      }
      progress(start + got);
    }
    for (const slot of ring) await slot.checked;
    if ((await sha256(new TextEncoder().encode(hashes.join('')))) !== info.sha256) {
      throw bad('the bytes do not have the hash in the manifest');
    }
    signal.throwIfAborted();
    if ((await reader.fill(new Uint8Array(1))) > 0) {
      throw bad(`is longer than the ${info.bytes} bytes that the manifest says`);
    }
  } finally {
    await next.catch(() => {});
    await reader.close().catch(() => {});
  }
}
