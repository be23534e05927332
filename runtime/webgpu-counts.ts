/**
 * Sizes that the data decide. Where a plan says how, the device keeps them: a kernel writes the number and the workgroups that
 * follow from it, they are copied to where launches have them from, and the host reads the number with the outputs. Bundles
 * that count nothing ship without this: see `compiler/build-runtime.ts`.
 */
import { HeddleError } from './error.ts';
import { type Num, numberOf } from './late.ts';
import type { Address, Count, Size, Step } from './manifest.ts';
import { BINDING_ALIGN } from './webgpu-weights.ts';

/** Bytes of the arena, or of a buffer of weights when that is given. */
export interface Range {
  readonly weights?: number;
  readonly at: number;
  readonly bytes: number;
}

export interface CountOp {
  readonly kind: 'count';
  readonly symbol: string;
  readonly at: Range;
  readonly min: Num;
  readonly max: Num;
  /** What is copied from the arena to the uniforms, when the device keeps the number: it and grids that follow from it. */
  readonly copies: { readonly from: number; readonly to: number; readonly bytes: number }[] | undefined;
}

const WORD = 4;
const MOST = 2 ** 31 - 1;
/** Bytes of the workgroups of one dispatch. */
const GRID = 12;

/** What lays out the rest of a program. */
interface Layout {
  readonly emit: (steps: readonly Step[]) => void;
  readonly num: (size: Size, symbols: Symbols, min: number, max: number, what: string) => Num;
  readonly word: (address: Address) => Range;
  readonly symbols: Symbols;
}
type Symbols = Readonly<Record<string, number>>;

/** What a program's launches have of counts that the device keeps, while the program is bound. */
export class KeptCounts {
  readonly #blocks: (readonly number[])[];
  /** Each with the place where its launch writes, and the grids that follow from it so far. */
  readonly #kept: { readonly op: CountOp; readonly from: number; grids: number }[] = [];
  readonly #grids = new Map<string, number>();

  /** @param blocks what stands in the uniforms, `BINDING_ALIGN` apart; grids are put there too */
  constructor(blocks: (readonly number[])[]) {
    this.#blocks = blocks;
  }

  #keeps(size: Size): boolean {
    if (typeof size === 'number') return false;
    return typeof size === 'string' ? this.#number(size) >= 0 : this.#keeps(size[1]) || this.#keeps(size[2]);
  }

  #number(size: Size): number {
    return this.#kept.findIndex(({ op }) => op.symbol === size);
  }

  /** What stands for a parameter that is a count, until `place`: below zero, as no parameter is. */
  word(size: Size): number | undefined {
    const n = this.#number(size);
    return n < 0 ? undefined : -1 - n;
  }

  /** Where a launch has its workgroups from, in bytes of the uniforms; undefined for one that the host tells. */
  grid(size: Size): number | undefined {
    if (!this.#keeps(size)) return undefined;
    const key = JSON.stringify(size);
    let to = this.#grids.get(key);
    if (to === undefined) {
      to = (this.#blocks.push([]) - 1) * BINDING_ALIGN;
      this.#grids.set(key, to);
      const last = this.#kept.at(-1)!;
      last.op.copies!.push({ from: last.from + WORD + GRID * last.grids++, to, bytes: GRID });
    }
    return to;
  }

  /** Lays out a step, after its launch where the device keeps the number. */
  op(step: Count, { emit, num, word, symbols }: Layout): CountOp {
    const { count: symbol, steps = [] } = step;
    emit(steps);
    const to = steps[0]?.args.at(-1);
    const [min, max] = [step.min, step.max].map((size) => num(size, symbols, 0, MOST, `a bound of ${symbol}`)) as [
      Num,
      Num,
    ];
    const op: CountOp = { kind: 'count', symbol, at: word(step.at), min, max, copies: to && [] };
    if (to) this.#kept.push({ op, from: word(to).at, grids: 0 });
    return op;
  }

  /** Takes the words that stand for counts out of block number `block`. */
  place(words: readonly number[], block: number): void {
    for (const [i, word] of words.entries()) {
      if (word >= 0) continue;
      const { op, from } = this.#kept[-1 - word]!;
      op.copies!.push({ from, to: block * BINDING_ALIGN + i * WORD, bytes: WORD });
    }
  }
}

/** What brings memory of the device to the host. */
interface Reader {
  readonly gpu: { race<T>(work: Promise<T>): Promise<T> };
  staging(bytes: number): Promise<GPUBuffer>;
}

/** The counts of one run. */
export class Counting {
  readonly #symbols: Record<string, number>;
  readonly #kept: CountOp[] = [];

  constructor(symbols: Record<string, number>) {
    this.#symbols = symbols;
  }

  /** Bytes that the counts take where they are read back; a multiple of 16. */
  get bytes(): number {
    return Math.ceil(this.#kept.length / 4) * 16;
  }

  /**
   * Binds a count: to the most that it may be until the end of the run, where the device keeps it.
   *
   * @throws HeddleError `input` when the number is known and outside its bounds
   */
  async take(
    op: CountOp,
    look: (at: Range) => Promise<number>,
    encoder: () => GPUCommandEncoder,
    arena: GPUBuffer,
    uniforms: GPUBuffer | undefined,
  ): Promise<void> {
    const { copies, symbol } = op;
    if (copies === undefined) {
      this.#bind(op, await look(op.at));
      return;
    }
    for (const { from, to, bytes } of copies) encoder().copyBufferToBuffer(arena, from, uniforms!, to, bytes);
    this.#kept.push(op);
    this.#symbols[symbol] = numberOf(op.max, this.#symbols, symbol);
  }

  #bind({ symbol, min, max }: CountOp, count: number): void {
    const [least, most] = [min, max].map((bound) => numberOf(bound, this.#symbols, symbol)) as [number, number];
    if (count < least || count > most) {
      const range = `${least} … ${most}`;
      throw new HeddleError('input', `size "${symbol}" is ${count} by the data; the bundle takes ${range}.`);
    }
    this.#symbols[symbol] = count;
  }

  /** Copies what the device kept to the start of a buffer. */
  copy(encoder: GPUCommandEncoder, arena: GPUBuffer, to: GPUBuffer): void {
    for (const [i, { at }] of this.#kept.entries()) encoder.copyBufferToBuffer(arena, at.at, to, i * WORD, WORD);
  }

  /** Binds what was kept to what it is. @throws HeddleError `input` */
  settle(memory: ArrayBuffer): void {
    const counts = new Int32Array(memory);
    for (const [i, op] of this.#kept.entries()) this.#bind(op, counts[i]!);
  }

  /** Reads back the counts alone. @returns what waits for them */
  async read(machine: Reader, encoder: GPUCommandEncoder, arena: GPUBuffer): Promise<() => Promise<void>> {
    const { bytes } = this;
    if (bytes === 0) return async () => {};
    const to = await machine.staging(bytes);
    this.copy(encoder, arena, to);
    return async () => {
      await machine.gpu.race(to.mapAsync(1, 0, bytes));
      try {
        this.settle(to.getMappedRange(0, bytes));
      } finally {
        to.unmap();
      }
    };
  }
}
