/** The memory and launch plan of one entry point, in the form the runtime executes. */
import { sizeOf as bytesOfType } from '../ir/dtype.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { type Graph, typeOf, type Value } from '../ir/graph.ts';
import { literal, mul } from '../ir/scalar.ts';
import { type Dim, elements } from '../ir/type.ts';
import type { Address, BufferInfo, EntryPlan, Launch, Port, Size, SymbolInfo } from '../runtime/manifest.ts';
import type { Partition } from './partition.ts';
import type { Binding, WeightLayout } from './region.ts';
import type { ScheduledRegion } from './schedule-regions.ts';
import { sizeOf, symbolInfos } from './size.ts';

/** Gives weights a place; the same value in the same layout gets the same one. */
export interface WeightPlaces {
  /** Byte offset in the weight memory. */
  place(value: Value, layout: WeightLayout): number;
}

/** Gives kernels a number; equal kernels may share one. */
export interface KernelNumbers {
  numberOf(region: number, stage: number): number;
}

/** Work of one call, in multiply-accumulates (0.2 ms at 25 GMAC/s): long enough to amortise a call, short to share. */
const CALL_WORK = 5_000_000;

export function planEntry(
  program: Partition,
  scheduled: readonly ScheduledRegion[],
  weights: WeightPlaces,
  kernels: KernelNumbers,
): EntryPlan {
  return new Planner(program, weights).plan(scheduled, kernels);
}

interface Life {
  readonly bytes: Expr;
  first: number;
  last: number;
}

class Planner {
  private readonly graph: Graph;
  private readonly weights: WeightPlaces;
  private readonly lives: Life[] = [];
  private readonly bufferOf = new Map<Value, number>();
  private readonly sizes: Dim[] = [];
  private scratch = 0;

  constructor(program: Partition, weights: WeightPlaces) {
    this.graph = program.graph;
    this.weights = weights;
  }

  plan(scheduled: readonly ScheduledRegion[], kernels: KernelNumbers): EntryPlan {
    for (const input of this.graph.inputs) {
      this.bufferOf.set(input, this.newBuffer(bytesOfValue(input), 0));
      this.sizes.push(...typeOf(input).shape);
    }
    const steps: Launch[] = [];
    scheduled.forEach(({ region, stages }, r) => {
      const temps = new Map<string, number>();
      for (const output of region.outputs)
        this.bufferOf.set(output, this.newBuffer(bytesOfValue(output), steps.length));
      stages.forEach((stage, s) => {
        const at = steps.length;
        const args = stage.bindings.map((b) => this.address(b, temps, at));
        args.push(...this.scratchOf(stage.kernel.buffers.filter((b) => b.space === 'local')));
        steps.push({
          kernel: kernels.numberOf(r, s),
          args,
          params: stage.kernel.params.map((p) => (p.arg as Sym).name),
          grid: sizeOf(stage.grid),
          chunk: chunkOf(stage.work),
          label: region.name,
        });
        this.sizes.push(stage.grid);
      });
    });
    const outputs: Port[] = [...this.graph.outputs].map(([name, value]) => {
      const buffer = this.bufferOf.get(value);
      if (buffer === undefined) throw new Error(`output ${name} has no buffer`);
      this.lives[buffer]!.last = Math.max(steps.length, this.lives[buffer]!.last);
      return port(name, value, buffer, '');
    });
    return {
      symbols: this.symbols(),
      inputs: this.graph.inputs.map((v) =>
        port(String(v.attrs['name']), v, this.bufferOf.get(v)!, String(v.attrs['doc'] ?? '')),
      ),
      outputs,
      buffers: this.lives.map((l): BufferInfo => ({ bytes: sizeOf(l.bytes), first: l.first, last: l.last })),
      scratch: this.scratch,
      steps,
    };
  }

  private symbols(): SymbolInfo[] {
    return symbolInfos(this.sizes);
  }

  private newBuffer(bytes: Expr, first: number): number {
    this.lives.push({ bytes, first, last: first });
    this.sizes.push(bytes);
    return this.lives.length - 1;
  }

  private address(binding: Binding, temps: Map<string, number>, at: number): Address {
    switch (binding.kind) {
      case 'weight':
        return { w: this.weights.place(binding.value, binding.layout) };
      case 'value':
        return { b: this.touch(this.bufferOf.get(binding.value), at, binding.value.op.name) };
      case 'temp': {
        let index = temps.get(binding.name);
        if (index === undefined) {
          index = this.newBuffer(mul(binding.size, bytesOfType(binding.dtype)), at);
          temps.set(binding.name, index);
        }
        return { b: this.touch(index, at, binding.name) };
      }
    }
  }

  private touch(index: number | undefined, at: number, what: string): number {
    if (index === undefined) throw new Error(`plan: ${what} is read before it is written`);
    this.lives[index]!.last = Math.max(this.lives[index]!.last, at);
    return index;
  }

  /** Private memory of one thread: the local buffers of a kernel side by side, shared by all kernels. */
  private scratchOf(
    buffers: readonly {
      readonly size: Expr;
      readonly dtype: Parameters<typeof bytesOfType>[0];
      readonly name: string;
    }[],
  ): Address[] {
    let offset = 0;
    return buffers.map((b) => {
      if (b.size.op !== 'const') throw new Error(`scratch ${b.name} needs a constant size`);
      const at = offset;
      offset += Math.ceil(((b.size.arg as number) * bytesOfType(b.dtype)) / 64) * 64;
      this.scratch = Math.max(this.scratch, offset);
      return { s: at };
    });
  }
}

const bytesOfValue = (v: Value): Expr => mul(elements(typeOf(v).shape), literal(bytesOfType(typeOf(v).dtype)));

const port = (name: string, v: Value, buffer: number, doc: string): Port => ({
  name,
  dtype: typeOf(v).dtype,
  shape: typeOf(v).shape.map(sizeOf),
  doc,
  buffer,
});

function chunkOf(work: Expr): Size {
  if (work.op === 'const') return Math.max(1, Math.floor(CALL_WORK / Math.max(1, work.arg as number)));
  return ['max', 1, ['/', CALL_WORK, ['max', 1, sizeOf(work)]]];
}
