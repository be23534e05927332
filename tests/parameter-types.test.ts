/** Parameters of every type, as they are and inside arithmetic that is done when the bundle is made. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import { add, cast, concat, f32, init, input, model, param, type Tensor } from '../frontends/dsl/index.ts';
import type { Scalar } from '../ir/dtype.ts';
import { toHalf, type WeightStore } from '../ir/weights.ts';
import { open } from '../runtime/open.ts';

type Stored = Extract<Scalar, 'f64' | 'f16' | 'i64' | 'i32' | 'i16' | 'u16' | 'i8' | 'u8'>;
const VALUES = [3, -2, 100];
const POSITIVE = [3, 200, 100];
const ARRAYS: Readonly<Record<Stored, ArrayBufferView>> = {
  f64: Float64Array.from(VALUES),
  f16: toHalf(Float32Array.from(VALUES)),
  i64: BigInt64Array.from(VALUES, BigInt),
  i32: Int32Array.from(VALUES),
  i16: Int16Array.from(VALUES),
  u16: Uint16Array.from(POSITIVE),
  i8: Int8Array.from(VALUES),
  u8: Uint8Array.from(POSITIVE),
};

/** The bytes in a Buffer at an odd offset, as a file that was read may give them. */
function unaligned({ buffer, byteOffset, byteLength }: ArrayBufferView): Buffer {
  const file = Buffer.alloc(byteLength + 1);
  file.set(new Uint8Array(buffer, byteOffset, byteLength), 1);
  return file.subarray(1);
}

for (const dtype of Object.keys(ARRAYS) as Stored[])
  test(`${dtype} parameters`, async (t) => {
    const want = dtype.startsWith('u') ? POSITIVE : VALUES;
    const traced = model('types', { x: input(f32, [3]) }, ({ x }) => {
      const w = param('w', [3], init.zeros, dtype);
      return { w, twice: concat([w, w], 0), float: cast(w, f32), sum: add(x, cast(w, f32)) as Tensor };
    });
    const weights: WeightStore = {
      source: 'values',
      names: () => ['w'],
      get: () => ({ dtype, shape: [3], bytes: unaligned(ARRAYS[dtype]) }),
    };
    const session = await open(compile(traced, { weights }));
    t.teardown(() => session.dispose());
    const { w, twice, float, sum } = await session.run({ x: [1, 1, 1] });
    t.is(w!.dtype, dtype);
    t.deepEqual(w!.data, ARRAYS[dtype]);
    t.deepEqual(Array.from(twice!.data, Number), [...Array.from(w!.data, Number), ...Array.from(w!.data, Number)]);
    t.deepEqual(Array.from(float!.data, Number), want);
    t.deepEqual(
      Array.from(sum!.data, Number),
      want.map((x) => x + 1),
    );
  });
