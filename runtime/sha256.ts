/** SHA-256 of FIPS 180-4, for pages that have no `crypto.subtle` because they are not a secure context. */

/** The first 32 bits behind the point of the square or cube roots of the first primes. */
function roots(count: number, power: number): Int32Array {
  const out = new Uint32Array(count);
  const primes: number[] = [];
  for (let n = 2; primes.length < count; n++) {
    if (primes.every((prime) => n % prime)) out[primes.push(n) - 1] = (n ** power % 1) * 2 ** 32;
  }
  return new Int32Array(out.buffer);
}

const rotate = (x: number, by: number): number => (x >>> by) | (x << (32 - by));
const mix = (x: number, a: number, b: number, c: number): number => rotate(x, a) ^ rotate(x, b) ^ c;

const hexOf = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

/** Lower-case hex SHA-256 in plain JavaScript. */
export function sha256Slow(bytes: Uint8Array): string {
  const constants = roots(64, 1 / 3);
  const state = roots(8, 1 / 2);
  const whole = bytes.length & ~63;
  const tail = new Uint8Array(bytes.length - whole < 56 ? 64 : 128);
  tail.set(bytes.subarray(whole));
  tail[bytes.length - whole] = 0x80;
  const length = new DataView(tail.buffer, tail.length - 8);
  length.setUint32(0, bytes.length / 2 ** 29);
  length.setUint32(4, bytes.length << 3);
  const w = new Int32Array(64);
  const absorb = (from: Uint8Array, at: number): void => {
    const view = new DataView(from.buffer, from.byteOffset + at, 64);
    let a = state[0]!;
    let b = state[1]!;
    let c = state[2]!;
    let d = state[3]!;
    let e = state[4]!;
    let f = state[5]!;
    let g = state[6]!;
    let h = state[7]!;
    for (let i = 0; i < 64; i++) {
      if (i < 16) w[i] = view.getInt32(4 * i);
      else {
        const x = w[i - 15]!;
        const y = w[i - 2]!;
        w[i] = (w[i - 16]! + mix(x, 7, 18, x >>> 3) + w[i - 7]! + mix(y, 17, 19, y >>> 10)) | 0;
      }
      const t = (h + mix(e, 6, 11, rotate(e, 25)) + ((e & f) ^ (~e & g)) + constants[i]! + w[i]!) | 0;
      const u = (mix(a, 2, 13, rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t) | 0;
      d = c;
      c = b;
      b = a;
      a = (t + u) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => {
      state[i]! += word;
    });
  };
  for (let at = 0; at < whole; at += 64) absorb(bytes, at);
  for (let at = 0; at < tail.length; at += 64) absorb(tail, at);
  const out = new DataView(new ArrayBuffer(32));
  for (const [i, word] of state.entries()) out.setUint32(4 * i, word);
  return hexOf(new Uint8Array(out.buffer));
}

/** Lower-case hex SHA-256, off this thread where the host can. `bytes` are copied before it returns, or hashed. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const subtle = globalThis.crypto?.subtle as SubtleCrypto | undefined;
  return subtle === undefined ? sha256Slow(bytes) : hexOf(new Uint8Array(await subtle.digest('SHA-256', bytes)));
}
