/** Lays steps and buffers of one entry point, in the form the runtime executes. */
import { sizeOf as bytesOfType, type Scalar } from '../ir/dtype.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { typeOf, type Value } from '../ir/graph.ts';
import type { Kernel } from '../ir/kernel.ts';
import { promisesOf } from '../ir/promises.ts';
import { ceildiv, literal, mul, symbolsOf } from '../ir/scalar.ts';
import { asExpr, type Dim, elements } from '../ir/type.ts';
import type { Address, BufferInfo, Count, EntryPlan, Launch, Port, Size, Step } from '../runtime/manifest.ts';
import { notEmpty } from './buffers.ts';
import { Capacities } from './capacity.ts';
import { type CountedPlan, countOnDevice } from './device-counts.ts';
import { COPIED, copyKernel } from './gpu-copy.ts';
import type { Partition } from './partition.ts';
import type { Binding, Region, Stage, WeightLayout } from './region.ts';
import type { ScheduledProgram, ScheduledRegion } from './schedule-regions.ts';
import { sizeOf, symbolInfos } from './size.ts';
import type { Target } from './target.ts';

/** Gives weights a place; the same value in the same layout gets the same one. */
export interface WeightPlaces {
  /** Byte offset in the weight memory. */
  place(value: Value, layout: WeightLayout): number;
}

/** The number under which a kernel is exported. */
export type KernelNumbers = (kernel: Kernel) => number;

/** Work of one call, in multiply-accumulates (0.2 ms at 25 GMAC/s): long enough to amortise a call, short to share. */
const CALL_WORK = 5_000_000;
/** Calls that a launch of little work is cut into, and the least work of each. */
const SHARES = 4;
const SHARE_WORK = 100_000;

/** Steps of a control region; see `plan-control.ts`. */
export type ControlPlanner = (planner: Planner, region: ScheduledRegion, places: Places) => Generator<Step>;

interface Life {
  readonly bytes: Expr;
  first: number;
  last: number;
}

/** Where values stand while a list of steps is planned. */
export type Places = Map<Value, Address>;

export class Planner {
  private readonly weights: WeightPlaces;
  private readonly kernels: KernelNumbers;
  private readonly control: ControlPlanner;
  private readonly target: Target['name'];
  private readonly lives: Life[] = [];
  private readonly sizes: Dim[] = [];
  private readonly capacities = new Capacities();
  /** Counted sizes that steps have bound. */
  private readonly bound = new Set<Expr>();
  /** Counts that are bounded by counted sizes, or must equal them, while those are not all bound. */
  private readonly checks: { readonly exact: Expr; readonly all: boolean; at(): Address }[] = [];
  private loops = 0;
  private scratch = 0;
  /** The top-level step being planned: everything inside a loop or branch counts as that one step. */
  private now = 0;

  constructor(weights: WeightPlaces, kernels: KernelNumbers, control: ControlPlanner, target: Target['name']) {
    this.target = target;
    this.control = control;
    this.weights = weights;
    this.kernels = kernels;
  }

  entry(program: ScheduledProgram): EntryPlan {
    const { partition } = program;
    const { graph } = partition;
    const places: Places = new Map();
    for (const input of graph.inputs) {
      places.set(input, this.buffer(this.bytesOf(input)));
      const { count } = promisesOf(input);
      this.sizes.push(...typeOf(input).shape, ...(count === undefined ? [] : [count]));
    }
    const steps: Step[] = [];
    const take = (planned: Iterable<Step>): void => {
      for (const step of planned) {
        steps.push(step);
        this.now = steps.length;
      }
    };
    take(this.counts(partition, undefined, places));
    for (const region of program.regions) {
      for (const output of region.region.outputs) places.set(output, this.buffer(this.bytesOf(output)));
      take(this.region(region, places));
      take(this.counts(partition, region.region, places));
    }
    const { outputs } = graph;
    if (this.target === 'webgpu') countOnDevice(this.counted(steps, graph.inputs, places));
    const bytes = this.lives.map((l) => notEmpty(this.capacities.roomFor(l.bytes)));
    return {
      symbols: symbolInfos([...this.sizes, ...bytes]),
      inputs: graph.inputs.map((v) => port(String(v.attrs.name), v, places, String(v.attrs.doc ?? ''))),
      outputs: [...outputs].map(([name, v]) => {
        this.touch(places.get(v), name);
        return port(name, v, places, '');
      }),
      buffers: this.lives.map(({ first, last }, i): BufferInfo => ({ bytes: sizeOf(bytes[i]!), first, last })),
      scratch: this.scratch,
      steps,
    };
  }

  /** What a device that keeps its counts needs of the plan, once all steps stand. */
  private counted(steps: Step[], inputs: readonly Value[], places: Places): CountedPlan {
    const given = inputs.map((v) => places.get(v)!);
    return {
      steps,
      inputs: new Set(given.flatMap((address) => ('b' in address ? [address.b] : []))),
      kernel: this.kernels,
      buffer: (bytes, step) => ({ b: this.lives.push({ bytes: literal(bytes), first: step, last: step }) - 1 }),
      keep: (address) => void this.touch(address, 'a count'),
    };
  }

  /** Steps of one region whose outputs have places already. Several steps of one region may advance the clock between. */
  *region(scheduled: ScheduledRegion, places: Places): Generator<Step> {
    const { region, stages, bodies } = scheduled;
    if (bodies) {
      yield* this.control(this, scheduled, places);
      return;
    }
    const temps = new Map<string, Address>();
    for (const stage of stages) yield this.launch(stage, region.name, places, temps);
  }

  /**
   * Steps that bind the counted sizes of a graph whose counts `written` has just written; those of counts that stand
   * there before anything runs where there is no region.
   */
  *counts({ counted, isStatic }: Partition, written: Region | undefined, places: Places): Generator<Count> {
    for (const { size, capacity } of counted) if (typeof size !== 'number') this.capacities.add(size, capacity);
    for (const { size, count, capacity, all } of counted) {
      const here = written ? written.outputs.includes(count) : isStatic(count) || count.op.name === 'input';
      if (!here) continue;
      const at = (): Address => this.read(count, places, isStatic);
      if (typeof size === 'number') yield { count: this.loopSymbol(), at: at(), min: size, max: size };
      else if (!this.bound.has(size)) {
        this.bound.add(size);
        const { name, min: least } = size.arg as Sym;
        const room = this.capacities.roomFor(size);
        this.sizes.push(room);
        yield { count: name, at: at(), min: least, max: sizeOf(room) };
      }
      // The exact bound may be a size that is not counted yet.
      const exact = asExpr(capacity);
      if (all || this.capacities.mentions(exact)) this.checks.push({ exact, all, at });
    }
    for (const check of [...this.checks]) {
      const waits = symbolsOf(check.exact).some((s) => (s.arg as Sym).counted && !this.bound.has(s));
      if (waits) continue;
      this.checks.splice(this.checks.indexOf(check), 1);
      this.sizes.push(check.exact);
      const max = sizeOf(check.exact);
      yield { count: this.loopSymbol(), at: check.at(), min: check.all ? max : 0, max };
    }
  }

  launch(stage: Stage, label: string, places: Places, temps: Map<string, Address> = new Map()): Launch {
    const args = stage.bindings.map((b) => this.address(b, places, temps));
    args.push(...this.scratchOf(stage.kernel));
    this.sizes.push(stage.grid);
    return {
      kernel: this.kernels(stage.kernel),
      args,
      params: stage.kernel.params.map((p) => (p.arg as Sym).name),
      grid: sizeOf(stage.grid),
      chunk: this.target === 'webgpu' ? 1 : chunkOf(stage),
      label,
    };
  }

  /** A new buffer, alive from now on. */
  buffer(bytes: Expr): Address {
    this.lives.push({ bytes, first: this.now, last: this.now });
    this.sizes.push(bytes);
    return { b: this.lives.length - 1 };
  }

  /** Marks what stands at an address as read now. */
  touch(address: Address | undefined, what: string): Address {
    if (!address) throw new Error(`plan: ${what} is read before it is written`);
    if ('b' in address) this.lives[address.b]!.last = Math.max(this.lives[address.b]!.last, this.now);
    return address;
  }

  /** Where a value can be read; weights in plain layout when it is static. */
  read(value: Value, places: Places, isStatic: (v: Value) => boolean): Address {
    if (isStatic(value)) return { w: this.weights.place(value, { kind: 'plain' }) };
    return this.touch(places.get(value), value.op.name);
  }

  /** A new symbol that counts the trips of a loop; not one of the entry's. */
  loopSymbol(): string {
    return `t${this.loops++}`;
  }

  private address(binding: Binding, places: Places, temps: Map<string, Address>): Address {
    switch (binding.kind) {
      case 'weight':
        return { w: this.weights.place(binding.value, binding.layout) };
      case 'value':
        return this.touch(places.get(binding.value), binding.value.op.name);
      case 'temp': {
        let address = temps.get(binding.name);
        if (address === undefined) {
          address = this.buffer(mul(binding.size, this.elementBytes(binding.dtype)));
          temps.set(binding.name, address);
        }
        return this.touch(address, binding.name);
      }
    }
  }

  /** Whether kernels may be given an address inside a buffer: WebGPU binds buffers from their start. */
  get addressesItems(): boolean {
    return this.target === 'wasm';
  }

  /** Bytes of a value, or of one with another shape. On WebGPU every element is a word of 32 bits. */
  bytesOf(v: Value, shape: readonly Dim[] = typeOf(v).shape): Expr {
    return mul(elements(shape), literal(this.elementBytes(typeOf(v).dtype)));
  }

  private elementBytes(dtype: Scalar): number {
    return this.target === 'webgpu' ? 4 : bytesOfType(dtype);
  }

  /** Moves a value of this type and shape from one place to another. */
  copy(from: Address, to: Address, v: Value, shape: readonly Dim[] = typeOf(v).shape): Step {
    const bytes = sizeOf(this.bytesOf(v, shape));
    if (this.target === 'wasm') return { from, to, bytes };
    const { dtype } = typeOf(v);
    const count = elements(shape);
    const first = (a: Address, bytesEach: number): Size =>
      's' in a || a.at === undefined ? 0 : ['/', a.at, bytesEach];
    const start = (a: Address): Address => ('s' in a ? a : 'b' in a ? { b: a.b } : { w: a.w });
    const weight = 'w' in from;
    return {
      kernel: this.kernels(copyKernel(dtype, weight)),
      args: [start(from), start(to)],
      // By name, as everywhere: count, from, to.
      params: [sizeOf(count), first(from, this.elementBytes(dtype)), first(to, this.elementBytes(dtype))],
      grid: sizeOf(ceildiv(count, COPIED)),
      chunk: 1,
      label: 'copy',
    };
  }

  /** Private memory of one thread: the local buffers of a kernel side by side, the same place for all kernels. */
  private scratchOf(kernel: Kernel): Address[] {
    if (this.target === 'webgpu') return [];
    let offset = 0;
    return kernel.buffers
      .filter((b) => b.space === 'local')
      .map((b) => {
        if (b.size.op !== 'const') throw new Error(`scratch ${b.name} of ${kernel.name} needs a constant size`);
        const at = offset;
        offset += Math.ceil(((b.size.arg as number) * bytesOfType(b.dtype)) / 64) * 64;
        this.scratch = Math.max(this.scratch, offset);
        return { s: at };
      });
  }
}

function port(name: string, v: Value, places: Places, doc: string): Port {
  const address = places.get(v);
  if (!address || !('b' in address)) throw new Error(`${name} has no buffer`);
  const { dtype, shape } = typeOf(v);
  const binary = v.op.name === 'input' && v.attrs.binary === true;
  const ones = onesOf(v);
  return {
    name,
    dtype,
    shape: shape.map(sizeOf),
    doc,
    ...(binary && { binary }),
    ...(ones && { ones }),
    buffer: address.b,
  };
}

/** How many elements of each line of an input are promised to be 1, at least and at most. */
function onesOf(v: Value): Port['ones'] {
  const { count, atLeast } = promisesOf(v);
  if (count !== undefined) return [sizeOf(count), sizeOf(count)];
  return atLeast > 0 ? [atLeast, sizeOf(typeOf(v).shape.at(-1)!)] : undefined;
}

function chunkOf({ work, grid }: Stage): Size {
  if (work.op !== 'const') return ['max', 1, ['/', CALL_WORK, ['max', 1, sizeOf(work)]]];
  const units = (most: number): number => Math.max(1, Math.floor(most / Math.max(1, work.arg as number)));
  if (grid.op !== 'const') return units(CALL_WORK);
  const shared = Math.ceil((grid.arg as number) / SHARES);
  return Math.min(units(CALL_WORK), Math.max(units(SHARE_WORK), shared));
}
