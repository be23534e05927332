/** The inputs of recorded runs, the same when a bundle is compiled and when it is checked. */
import type { Input, SelfTestResult, Tensor, TensorData } from './api.ts';
import { type ElementType, type Manifest, type SelfTest, sizeOf } from './manifest.ts';
import { keepOnes } from './promises.ts';
import { arrayClass } from './tensor.ts';

/** 32 well-mixed bits of a 32-bit number (Prospecting for Hash Functions, Wellons 2018). */
function mix(seed: number): number {
  let x = seed;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Bits of an f16, of a number that has at most 10 bits behind the point and lies in [-1, 1). */
function halfBits(value: number): number {
  if (value === 0) return 0;
  const size = Math.abs(value);
  const exponent = Math.floor(Math.log2(size));
  return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | ((size / 2 ** exponent - 1) * 1024);
}

/**
 * Element `i` of the input called `name` when a recorded run needs it. Floats are uniform in [-1, 1), with 23 bits behind
 * the point (f32, f64), 10 (f16) or 7 (bf16); integers and bools are 0 or 1, which every table of indices and every mask
 * can take.
 */
export function fillInput(name: string, dtype: ElementType, count: number): TensorData {
  let seed = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) seed = Math.imul(seed ^ name.charCodeAt(i), 0x01000193);
  const out = new arrayClass[dtype](count);
  const fraction = { f64: 23, f32: 23, f16: 10, bf16: 7 }[dtype as string] ?? 0;
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  for (let i = 0; i < count; i++) {
    const word = mix(seed + Math.imul(i, 0x9e3779b9));
    let value: number | bigint = word >>> 31;
    if (fraction > 0) value = (word >>> (31 - fraction)) / 2 ** fraction - 1;
    if (dtype === 'f16') value = halfBits(value);
    if (dtype === 'bf16') {
      float[0] = value;
      value = bits[0]! >>> 16;
    }
    if (dtype === 'i64' || dtype === 'u64') value = BigInt(value);
    out[i] = value as never;
  }
  return out;
}

/** Every input of a recorded run. */
export function selfTestInputs(manifest: Manifest, test: SelfTest): Record<string, Input> {
  const inputs: Record<string, Input> = {};
  for (const port of manifest.entries[test.entry]!.inputs) {
    const { name, dtype, shape } = port;
    const sizes = shape.map((size) => sizeOf(size, test.symbols));
    const data = fillInput(
      name,
      dtype,
      sizes.reduce((a, b) => a * b, 1),
    );
    keepOnes(port, data, sizes, (size) => sizeOf(size, test.symbols));
    inputs[name] = { data, shape: sizes };
  }
  return inputs;
}

/** Compares one recorded run with what it gave here. */
export function compareRecorded(test: SelfTest, got: Readonly<Record<string, Tensor>>): SelfTestResult['cases'] {
  return test.outputs.map(({ name, at, values }) => {
    let worst = 0;
    for (const [i, want] of values.entries()) {
      const error = Math.abs(Number(got[name]?.data[at[i]!]) - want) / Math.max(1, Math.abs(want));
      worst = Math.max(worst, error >= 0 ? error : Number.POSITIVE_INFINITY);
    }
    return { entry: test.entry, output: name, worst };
  });
}
