/** Runs kernels as WebAssembly in this process, the way a session does, on one thread. */
import v8 from 'node:v8';
import type { Target } from '../compiler/target.ts';
import { WASM_PLAIN } from '../compiler/target.ts';
import { printWasm } from '../compiler/wasm.ts';
import { type Scalar, sizeOf } from '../ir/dtype.ts';
import { fromHalfBits, halfBits } from '../ir/evaluate-expr.ts';
import type { Buffer, Expr } from '../ir/expr.ts';
import type { Numbers } from '../ir/interpret.ts';
import type { Kernel } from '../ir/kernel.ts';
import { evaluateIndex } from '../ir/scalar.ts';

// Node 20 has relaxed SIMD behind a flag that later versions no longer know.
if (Number(process.versions.node.split('.')[0]) < 22) v8.setFlagsFromString('--experimental-wasm-relaxed-simd');

/** What the loader supplies under `m`. */
const math: Readonly<Record<string, (a: number, b: number) => number>> = {
  exp: Math.exp,
  log: Math.log,
  tanh: Math.tanh,
  sin: Math.sin,
  cos: Math.cos,
  pow: Math.pow,
};

const bits = new DataView(new ArrayBuffer(4));
const brainBits = (x: number): number => {
  bits.setFloat32(0, x);
  return bits.getUint16(0);
};
const fromBrainBits = (x: number): number => {
  bits.setUint32(0, x << 16);
  return bits.getFloat32(0);
};

type Access = readonly [
  get: (view: DataView, at: number) => number,
  set: (view: DataView, at: number, value: number) => void,
];
const ACCESS: Readonly<Record<Scalar, Access>> = {
  f64: [(v, at) => v.getFloat64(at, true), (v, at, x) => v.setFloat64(at, x, true)],
  f32: [(v, at) => v.getFloat32(at, true), (v, at, x) => v.setFloat32(at, x, true)],
  f16: [(v, at) => fromHalfBits(v.getUint16(at, true)), (v, at, x) => v.setUint16(at, halfBits(x), true)],
  bf16: [(v, at) => fromBrainBits(v.getUint16(at, true)), (v, at, x) => v.setUint16(at, brainBits(x), true)],
  i64: [(v, at) => Number(v.getBigInt64(at, true)), (v, at, x) => v.setBigInt64(at, BigInt(x), true)],
  u64: [(v, at) => Number(v.getBigUint64(at, true)), (v, at, x) => v.setBigUint64(at, BigInt(x), true)],
  i32: [(v, at) => v.getInt32(at, true), (v, at, x) => v.setInt32(at, x, true)],
  u32: [(v, at) => v.getUint32(at, true), (v, at, x) => v.setUint32(at, x, true)],
  i16: [(v, at) => v.getInt16(at, true), (v, at, x) => v.setInt16(at, x, true)],
  u16: [(v, at) => v.getUint16(at, true), (v, at, x) => v.setUint16(at, x, true)],
  i8: [(v, at) => v.getInt8(at), (v, at, x) => v.setInt8(at, x)],
  u8: [(v, at) => v.getUint8(at), (v, at, x) => v.setUint8(at, x)],
  bool: [(v, at) => v.getUint8(at), (v, at, x) => v.setUint8(at, x)],
};

export interface Instance {
  readonly memory: WebAssembly.Memory;
  /** Runs iterations `from … to` of kernel number `n`. */
  run(n: number, addresses: readonly number[], params: readonly number[], from: number, to: number): void;
}

/** Compiles kernels and instantiates them over a fresh shared memory. */
export function instantiate(kernels: readonly Kernel[], target: Target = WASM_PLAIN, pages = 64): Instance {
  const { bytes, functionOf } = printWasm(kernels, target);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: 65536, shared: true });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory }, m: math });
  return {
    memory,
    run(n, addresses, params, from, to) {
      const f = exports[`k${functionOf[n]}`] as (...args: number[]) => void;
      f(...addresses, ...params, from, to);
    },
  };
}

export interface RunOptions {
  /** Contents of the global buffers, written in place. */
  readonly buffers: ReadonlyMap<Buffer, Numbers>;
  readonly params?: ReadonlyMap<Expr, number>;
  readonly target?: Target;
  /** Calls cut the grid at these places. */
  readonly cuts?: readonly number[];
}

const ALIGN = 64;
/** Written around every buffer: a store outside changes it. */
const CANARY = 0xa5;

/**
 * Runs one kernel on copies of the buffers and writes the results back, as `runKernel` does on the host.
 * @throws Error when the kernel writes outside its buffers
 */
export function runWasm(kernel: Kernel, options: RunOptions): void {
  const { buffers, params = new Map<Expr, number>(), target = WASM_PLAIN } = options;
  const value = (e: Expr): number => evaluateIndex(e, (leaf) => params.get(leaf)!);
  const sizes = kernel.buffers.map((b) => value(b.size) * sizeOf(b.dtype));
  const addresses: number[] = [];
  let end = ALIGN;
  for (const size of sizes) {
    addresses.push(end);
    end = Math.ceil((end + size) / ALIGN + 1) * ALIGN;
  }
  const instance = instantiate([kernel], target, Math.ceil(end / 65536));
  const view = new DataView(instance.memory.buffer);
  const bytes = new Uint8Array(instance.memory.buffer).fill(CANARY);
  const each = (visit: (data: Numbers, i: number, at: number, access: Access) => void): void => {
    for (const [n, b] of kernel.buffers.entries()) {
      const data = buffers.get(b);
      if (data)
        for (let i = 0; i < sizes[n]! / sizeOf(b.dtype); i++)
          visit(data, i, addresses[n]! + i * sizeOf(b.dtype), ACCESS[b.dtype]);
    }
  };
  each((data, i, at, [, set]) => set(view, at, data[i]!));
  const [grid] = kernel.body;
  if (grid?.kind !== 'for') throw new Error('the kernel has no grid loop');
  const stops = [value(grid.from), ...(options.cuts ?? []), value(grid.to)];
  for (let i = 1; i < stops.length; i++)
    instance.run(
      0,
      addresses,
      kernel.params.map((p) => params.get(p)!),
      stops[i - 1]!,
      stops[i]!,
    );
  each((data, i, at, [get]) => (data[i] = get(view, at)));
  bytes.forEach((byte, at) => {
    if (byte !== CANARY && !sizes.some((size, n) => at >= addresses[n]! && at < addresses[n]! + size))
      throw new Error(`kernel ${kernel.name} wrote outside its buffers, at byte ${at}`);
  });
}
