/**
 * Compiles a graph as a bundle would and executes its plan: with the kernel interpreter, or as WebAssembly. The memory
 * is hostile: nothing is zero, buffers die after the last step that the plan lets read them, and a canary follows each.
 */
import v8 from 'node:v8';
import { decompose } from '../../compiler/decompose.ts';
import { type Partition, partition } from '../../compiler/partition.ts';
import { planEntry } from '../../compiler/plan.ts';
import { kernelsOf, type ScheduledProgram, scheduleProgram } from '../../compiler/schedule-regions.ts';
import { WASM_PLAIN, WASM_RELAXED } from '../../compiler/target.ts';
import { printWasm } from '../../compiler/wasm.ts';
import { WeightPlan } from '../../compiler/weights.ts';
import { sizeOf as bytesOfType, type Scalar } from '../../ir/dtype.ts';
import type { Buffer, Expr, Sym } from '../../ir/expr.ts';
import type { Graph } from '../../ir/graph.ts';
import { type Numbers, runKernel } from '../../ir/interpret.ts';
import type { Kernel } from '../../ir/kernel.ts';
import { countOf, type Nd } from '../../ir/nd.ts';
import { evaluateIndex } from '../../ir/scalar.ts';
import { toFloat32, toHalf, type WeightStore } from '../../ir/weights.ts';
import type { Address, EntryPlan, Launch, Step } from '../../runtime/manifest.ts';
import { sizeOf } from '../../runtime/manifest.ts';

/** The interpreter on the kernels of either variant of the target, or the modules printed from them. */
export type Engine = 'host plain' | 'host relaxed' | 'wasm plain' | 'wasm relaxed';
export const ENGINES: readonly Engine[] = ['host plain', 'host relaxed', 'wasm plain', 'wasm relaxed'];

export interface RunnableGraph {
  readonly program: Partition;
  readonly relaxed: ScheduledProgram;
  readonly plain: ScheduledProgram;
  readonly plan: EntryPlan;
  /** Outputs by name. @throws KernelFault, or Error when memory beside a buffer has changed */
  run(engine: Engine, inputs: Readonly<Record<string, Nd>>): Record<string, Nd>;
}

const NO_WEIGHTS: WeightStore = { source: 'no weights', names: () => [], get: () => undefined };

export function compileGraph(graph: Graph, store: WeightStore = NO_WEIGHTS): RunnableGraph {
  const program = partition(decompose(graph));
  const [relaxed, plain] = [scheduleProgram(program, WASM_RELAXED), scheduleProgram(program, WASM_PLAIN)];
  const kernels = { relaxed: [...kernelsOf(relaxed)], plain: [...kernelsOf(plain)] };
  const weights = new WeightPlan();
  const numbers = new Map(kernels.relaxed.map((k, i) => [k, i]));
  const plan = planEntry(relaxed, weights, (kernel) => numbers.get(kernel)!);
  const { bytes, info } = weights.write(store, 'weights.bin');
  const image = new Uint8Array(info.memory);
  for (const s of info.segments) image.set(bytes.subarray(s.from, s.from + s.bytes), s.to);
  const instances = new Map<Engine, WasmModuleCode>();
  return {
    program,
    relaxed,
    plain,
    plan,
    run(engine, inputs) {
      const list = engine.endsWith('relaxed') ? kernels.relaxed : kernels.plain;
      const execution = new Execution(plan, image, inputs);
      if (engine.startsWith('host')) return execution.run(hostLaunch(list, engine === 'host relaxed'));
      const module = instances.get(engine) ?? compileWasm(list, engine === 'wasm relaxed');
      instances.set(engine, module);
      return execution.run(wasmLaunch(module));
    },
  };
}

const ALIGN = 64;
const CANARY = 64;
const POISON = 0xff;
/** What stands in a buffer after its last read. */
const DEAD = 0xab;

type RunLaunch = (memory: Execution, launch: Launch, args: readonly number[], grid: number) => void;

class Execution {
  readonly plan: EntryPlan;
  readonly symbols: Record<string, number>;
  readonly memory: WebAssembly.Memory;
  readonly bytes: Uint8Array;
  private readonly buffers: readonly { readonly at: number; readonly bytes: number }[];
  private readonly scratch: number;
  private readonly ends: readonly number[];
  private readonly weights: number;

  constructor(plan: EntryPlan, image: Uint8Array, inputs: Readonly<Record<string, Nd>>) {
    this.plan = plan;
    this.symbols = bindSymbols(plan, inputs);
    let top = ALIGN;
    const ends: number[] = [];
    const place = (bytes: number): number => {
      const at = top;
      ends.push(at + bytes);
      top = Math.ceil((at + bytes + CANARY) / ALIGN) * ALIGN;
      return at;
    };
    this.weights = place(image.length);
    this.buffers = plan.buffers.map(({ bytes }) => {
      const size = sizeOf(bytes, this.symbols);
      return { at: place(size), bytes: size };
    });
    this.scratch = place(plan.scratch);
    this.ends = ends;
    this.memory = new WebAssembly.Memory({ initial: Math.ceil(top / 65536), maximum: 65536, shared: true });
    this.bytes = new Uint8Array(this.memory.buffer);
    this.bytes.fill(POISON);
    this.bytes.set(image, this.weights);
    for (const port of plan.inputs) {
      const given = inputs[port.name];
      const shape = port.shape.map((d) => sizeOf(d, this.symbols));
      if (!given || given.dtype !== port.dtype || given.shape.join() !== shape.join())
        throw new Error(`input ${port.name} should be ${port.dtype}[${shape.join(', ')}]`);
      encode(this.bytes, this.buffers[port.buffer]!.at, given.dtype, given.data);
    }
  }

  run(launch: RunLaunch): Record<string, Nd> {
    this.plan.steps.forEach((step, now) => {
      this.step(step, launch);
      this.plan.buffers.forEach(({ last }, i) => {
        const { at, bytes } = this.buffers[i]!;
        const isOutput = this.plan.outputs.some((o) => o.buffer === i);
        if (last === now && !isOutput) this.bytes.fill(DEAD, at, at + bytes);
        if (last < now && isOutput && last < this.plan.steps.length - 1)
          throw new Error(`output buffer ${i} dies at step ${last}`);
      });
    });
    for (const end of this.ends)
      if (this.bytes.subarray(end, end + CANARY).some((b) => b !== POISON))
        throw new Error(`something wrote beyond the end of a buffer at ${end}`);
    return Object.fromEntries(
      this.plan.outputs.map((port) => {
        const shape = port.shape.map((d) => sizeOf(d, this.symbols));
        const data = decode(this.bytes, this.buffers[port.buffer]!.at, port.dtype, countOf(shape));
        return [port.name, { dtype: port.dtype, shape, data }];
      }),
    );
  }

  private step(step: Step, launch: RunLaunch): void {
    if ('kernel' in step) {
      const args = step.args.map((a) => this.address(a));
      launch(this, step, args, sizeOf(step.grid, this.symbols));
    } else if ('loop' in step) {
      const trips = sizeOf(step.trips, this.symbols);
      for (let n = 0; n < trips; n++) {
        this.symbols[step.loop] = step.reverse ? trips - 1 - n : n;
        for (const inner of step.steps) this.step(inner, launch);
      }
    } else if ('if' in step) {
      const taken = this.bytes[this.address(step.if)] !== 0 ? step.then : step.else;
      for (const inner of taken) this.step(inner, launch);
    } else if ('count' in step) {
      const count = new DataView(this.memory.buffer).getInt32(this.address(step.at), true);
      const [least, most] = [sizeOf(step.min, this.symbols), sizeOf(step.max, this.symbols)];
      if (count < least || count > most) throw new Error(`${step.count} is ${count}, outside ${least}..${most}`);
      this.symbols[step.count] = count;
    } else {
      const [from, to] = [this.address(step.from), this.address(step.to)];
      this.bytes.copyWithin(to, from, from + sizeOf(step.bytes, this.symbols));
    }
  }

  private address(address: Address): number {
    if ('s' in address) return this.scratch + address.s;
    const at = address.at === undefined ? 0 : sizeOf(address.at, this.symbols);
    return at + ('w' in address ? this.weights + address.w : this.buffers[address.b]!.at);
  }
}

/** Sizes of symbols by the shapes of inputs; those that no input names take their default. */
function bindSymbols(plan: EntryPlan, inputs: Readonly<Record<string, Nd>>): Record<string, number> {
  const bound: Record<string, number> = Object.fromEntries(plan.symbols.map((s) => [s.name, s.default]));
  for (const port of plan.inputs)
    port.shape.forEach((d, axis) => {
      if (typeof d === 'string') bound[d] = inputs[port.name]?.shape[axis] ?? bound[d]!;
    });
  return bound;
}

// The interpreter

const ARRAYS: Partial<
  Record<Scalar, new (buffer: ArrayBufferLike, at: number, length: number) => Numbers & { readonly length: number }>
> = {
  f64: Float64Array,
  f32: Float32Array,
  i32: Int32Array,
  u32: Uint32Array,
  i16: Int16Array,
  u16: Uint16Array,
  i8: Int8Array,
  u8: Uint8Array,
  bool: Uint8Array,
};

function hostLaunch(kernels: readonly Kernel[], fused: boolean): RunLaunch {
  return (execution, launch, args, grid) => {
    const kernel = kernels[launch.kernel]!;
    const params = new Map<Expr, number>();
    kernel.params.forEach((p, i) => {
      params.set(p, sizeOf(launch.params[i]!, execution.symbols));
    });
    const size = (b: Buffer): number => evaluateIndex(b.size, (leaf) => sizeOfSymbol(leaf, params, execution));
    const buffers = new Map<Buffer, Numbers>();
    const writeBack: (() => void)[] = [];
    // Every symbol that a buffer's size mentions is needed too, though the kernel does not take it as an argument.
    const sizes = new Map(params);
    kernel.buffers.forEach((b, i) => {
      evaluateIndex(b.size, (leaf) => {
        const value = sizeOfSymbol(leaf, params, execution);
        sizes.set(leaf, value);
        return value;
      });
      if (b.space !== 'global') return;
      const at = args[i]!;
      const Native = ARRAYS[b.dtype];
      if (Native) {
        buffers.set(b, new Native(execution.memory.buffer, at, size(b)));
        return;
      }
      const copy = decode(execution.bytes, at, b.dtype, size(b));
      buffers.set(b, copy);
      if (b.access !== 'read') writeBack.push(() => encode(execution.bytes, at, b.dtype, copy));
    });
    const options = { buffers, params: sizes, fma: fused ? 'fused' : 'separate' } as const;
    for (const [from, to] of chunks(grid)) runKernel(kernel, { ...options, grid: [from, to], order: 'reverse' });
    for (const write of writeBack) write();
  };
}

function sizeOfSymbol(leaf: Expr, params: ReadonlyMap<Expr, number>, execution: Execution): number {
  const name = (leaf.arg as Sym).name;
  return params.get(leaf) ?? execution.symbols[name] ?? fail(`symbol ${name} is not bound`);
}
const fail = (message: string): never => {
  throw new Error(message);
};

// WebAssembly

interface WasmModuleCode {
  readonly module: WebAssembly.Module;
  readonly functionOf: readonly number[];
}

// Node 20 has relaxed SIMD behind a flag, which must be set before anything is compiled.
v8.setFlagsFromString('--experimental-wasm-relaxed-simd');

function compileWasm(kernels: readonly Kernel[], relaxed: boolean): WasmModuleCode {
  const printed = printWasm(kernels, relaxed ? WASM_RELAXED : WASM_PLAIN);
  return { module: new WebAssembly.Module(printed.bytes), functionOf: printed.functionOf };
}

/** What a module may import, as in the runtime: functions that `Math` itself has. */
const MATH = Object.fromEntries(
  Object.getOwnPropertyNames(Math).flatMap((name) => {
    const f: unknown = Reflect.get(Math, name);
    return typeof f === 'function' ? [[name, f as (...args: number[]) => number]] : [];
  }),
);

function wasmLaunch(code: WasmModuleCode): RunLaunch {
  let exports: WebAssembly.Exports | undefined;
  return (execution, launch, args, grid) => {
    const { memory, symbols } = execution;
    exports ??= new WebAssembly.Instance(code.module, { env: { memory }, m: MATH }).exports;
    const run = exports[`k${code.functionOf[launch.kernel]!}`] as (...args: number[]) => void;
    const params = launch.params.map((p) => sizeOf(p, symbols));
    for (const [from, to] of chunks(grid)) run(...args, ...params, from, to);
  };
}

/** The iterations of a grid in two calls, the second half first: units may not depend on each other. */
function chunks(grid: number): (readonly [from: number, to: number])[] {
  const middle = Math.ceil(grid / 2);
  const halves = [[middle, grid] as const, [0, middle] as const];
  return halves.filter(([from, to]) => from < to);
}

// Bytes

function encode(memory: Uint8Array, at: number, dtype: Scalar, data: ArrayLike<number>): void {
  const bytes = bytesFrom(dtype, data);
  memory.set(bytes, at);
}

function bytesFrom(dtype: Scalar, data: ArrayLike<number>): Uint8Array {
  const raw = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  switch (dtype) {
    case 'f64':
      return raw(Float64Array.from(data));
    case 'f32':
      return raw(Float32Array.from(data));
    case 'f16':
      return raw(toHalf(Float32Array.from(data)));
    case 'bf16':
      return raw(Uint16Array.from(new Uint32Array(Float32Array.from(data).buffer), (x) => x >>> 16));
    case 'i64':
      return raw(BigInt64Array.from(Array.from(data, BigInt)));
    case 'u64':
      return raw(BigUint64Array.from(Array.from(data, BigInt)));
    case 'i32':
      return raw(Int32Array.from(data));
    case 'u32':
      return raw(Uint32Array.from(data));
    case 'i16':
      return raw(Int16Array.from(data));
    case 'u16':
      return raw(Uint16Array.from(data));
    case 'i8':
      return raw(Int8Array.from(data));
    case 'u8':
    case 'bool':
      return raw(Uint8Array.from(data));
  }
}

function decode(memory: Uint8Array, at: number, dtype: Scalar, count: number): Float64Array {
  const bytes = memory.slice(at, at + count * bytesOfType(dtype));
  switch (dtype) {
    case 'f16':
    case 'bf16':
      return Float64Array.from(toFloat32({ dtype, shape: [count], bytes }));
    case 'i64':
      return Float64Array.from(new BigInt64Array(bytes.buffer), Number);
    case 'u64':
      return Float64Array.from(new BigUint64Array(bytes.buffer), Number);
    default: {
      const view = new ARRAYS[dtype]!(bytes.buffer, 0, count);
      return Float64Array.from({ length: count }, (_, i) => view[i]!);
    }
  }
}
