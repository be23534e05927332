/** SHA-256 of FIPS 180-4, for pages that have no `crypto.subtle` because they are not a secure context. */

/** The first 32 bits of the fractional part of a root: `power` 1/2 or 1/3. */
function fractions(count: number, power: number): Uint32Array {
  const out = new Uint32Array(count);
  let n = 0;
  for (let candidate = 2; n < count; candidate++) {
    let prime = true;
    for (let d = 2; d * d <= candidate; d++) prime &&= candidate % d !== 0;
    if (prime) out[n++] = (candidate ** power % 1) * 2 ** 32;
  }
  return out;
}

const rotate = (x: number, by: number): number => (x >>> by) | (x << (32 - by));

let constants: Uint32Array | undefined;

function digest(bytes: Uint8Array): Uint8Array {
  constants ??= fractions(64, 1 / 3);
  const k = constants;
  const state = fractions(8, 1 / 2);
  const tailStart = bytes.length & ~63;
  const tail = new Uint8Array(bytes.length - tailStart < 56 ? 64 : 128);
  tail.set(bytes.subarray(tailStart));
  tail[bytes.length - tailStart] = 0x80;
  const view = new DataView(tail.buffer);
  view.setUint32(tail.length - 8, bytes.length / 2 ** 29);
  view.setUint32(tail.length - 4, bytes.length << 3);
  const w = new Int32Array(64);
  const absorb = (from: Uint8Array, at: number): void => {
    for (let i = 0; i < 16; i++, at += 4) {
      w[i] = (from[at]! << 24) | (from[at + 1]! << 16) | (from[at + 2]! << 8) | from[at + 3]!;
    }
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15]!, w[i - 2]!];
      const s0 = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3);
      w[i] = (w[i - 16]! + s0 + w[i - 7]! + (rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10))) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number];
    for (let i = 0; i < 64; i++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + k[i]! + w[i]!) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    for (const [i, word] of [a, b, c, d, e, f, g, h].entries()) state[i] = state[i]! + word;
  };
  for (let at = 0; at < tailStart; at += 64) absorb(bytes, at);
  for (let at = 0; at < tail.length; at += 64) absorb(tail, at);
  const out = new DataView(new ArrayBuffer(32));
  for (const [i, word] of state.entries()) out.setUint32(4 * i, word);
  return new Uint8Array(out.buffer);
}

const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

/** Lower-case hex SHA-256 in plain JavaScript, about 0.2 GB/s. */
export const sha256Slow = (bytes: Uint8Array): string => hex(digest(bytes));

/** Lower-case hex SHA-256, off this thread where the host can. Leave `bytes` alone until it is done. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const subtle = globalThis.crypto?.subtle as SubtleCrypto | undefined;
  return subtle === undefined ? sha256Slow(bytes) : hex(new Uint8Array(await subtle.digest('SHA-256', bytes)));
}
