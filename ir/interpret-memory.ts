/** Memory of the kernel interpreter: bounds of every access, and who touched which element since when. */
import type { Space } from './expr.ts';

/** A bug in a kernel or in how it was called: never the fault of a model. */
export class KernelFault extends Error {
  override readonly name = 'KernelFault';
  /** Name of the kernel. */
  readonly kernel: string;

  constructor(kernel: string, message: string) {
    super(`kernel ${kernel}: ${message}`);
    this.kernel = kernel;
  }
}

/** A typed array of numbers, or anything that reads and writes like one. */
export interface Numbers {
  readonly length: number;
  [index: number]: number;
}

/** One running invocation, as memory sees it. */
export interface Actor {
  /** Number of the workgroup in execution order. */
  readonly group: number;
  /** Number of the invocation in its workgroup. */
  readonly who: number;
  /** Barriers passed by the workgroup. */
  readonly phase: number;
}

const NOBODY = -1;
const SEVERAL = -2;

/** Who wrote and read each element last. */
class Trace {
  readonly writeGroup: Int32Array;
  readonly writePhase: Int32Array;
  readonly writer: Int32Array;
  readonly readGroup: Int32Array;
  readonly readPhase: Int32Array;
  readonly reader: Int32Array;

  constructor(size: number) {
    const fresh = (): Int32Array => new Int32Array(size).fill(NOBODY);
    [this.writeGroup, this.writePhase, this.writer] = [fresh(), fresh(), fresh()];
    [this.readGroup, this.readPhase, this.reader] = [fresh(), fresh(), fresh()];
  }
}

export class Memory {
  readonly data: Numbers;
  readonly size: number;
  readonly #kernel: string;
  readonly #name: string;
  readonly #space: Space;
  readonly #trace: Trace | undefined;

  /** @param tracked whether accesses of different invocations are compared; needed only where someone writes */
  constructor(kernel: string, name: string, space: Space, data: Numbers, size: number, tracked: boolean) {
    this.#kernel = kernel;
    this.#name = name;
    this.#space = space;
    this.data = data;
    this.size = size;
    this.#trace = tracked ? new Trace(size) : undefined;
  }

  load(at: number, by: Actor): number {
    if (!(at >= 0 && at < this.size)) this.#outside('reads', at);
    if (this.#trace) this.#noteRead(this.#trace, at, by);
    return this.data[at]!;
  }

  store(at: number, value: number, by: Actor): void {
    if (!(at >= 0 && at < this.size)) this.#outside('writes', at);
    if (this.#trace) this.#noteWrite(this.#trace, at, value, by);
    this.data[at] = value;
  }

  #noteRead(t: Trace, at: number, by: Actor): void {
    const group = t.writeGroup[at]!;
    if (group !== NOBODY && group !== by.group) this.#race(at, by, `reads what workgroup ${group} writes`);
    if (group === by.group && t.writePhase[at] === by.phase && t.writer[at] !== by.who)
      this.#race(at, by, `reads what invocation ${t.writer[at]!} writes with no barrier between`);
    const known = t.readGroup[at]!;
    if (known === by.group && t.readPhase[at] === by.phase) {
      if (t.reader[at] !== by.who) t.reader[at] = SEVERAL;
      return;
    }
    t.readGroup[at] = known === NOBODY || known === by.group ? by.group : SEVERAL;
    t.readPhase[at] = by.phase;
    t.reader[at] = by.who;
  }

  /** Writing the value that is already there is no conflict: overlapping tails of tiles do so. */
  #noteWrite(t: Trace, at: number, value: number, by: Actor): void {
    if (!Object.is(this.data[at], value)) {
      const [wrote, read] = [t.writeGroup[at]!, t.readGroup[at]!];
      if (wrote !== NOBODY && wrote !== by.group)
        this.#race(at, by, `overwrites ${this.data[at]!} of workgroup ${wrote} with ${value}`);
      if (wrote === by.group && t.writePhase[at] === by.phase && t.writer[at] !== by.who)
        this.#race(
          at,
          by,
          `overwrites ${this.data[at]!} of invocation ${t.writer[at]!} with ${value} and no barrier between`,
        );
      if (read !== NOBODY && read !== by.group)
        this.#race(at, by, `writes what ${read === SEVERAL ? 'other workgroups read' : `workgroup ${read} reads`}`);
      if (read === by.group && t.readPhase[at] === by.phase && t.reader[at] !== by.who)
        this.#race(at, by, 'writes what another invocation reads with no barrier between');
    }
    t.writeGroup[at] = by.group;
    t.writePhase[at] = by.phase;
    t.writer[at] = by.who;
  }

  #outside(verb: string, at: number): never {
    throw new KernelFault(
      this.#kernel,
      `${verb} ${this.#name}[${at}], outside its ${this.size} elements (${this.#space})`,
    );
  }

  #race(at: number, by: Actor, what: string): never {
    const who = `invocation ${by.who} of workgroup ${by.group}`;
    throw new KernelFault(this.#kernel, `data race on ${this.#name}[${at}] (${this.#space}): ${who} ${what}`);
  }
}
