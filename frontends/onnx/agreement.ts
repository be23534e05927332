/**
 * What a file does not say about its sizes, learnt from where they meet. Exporters leave sizes open that must be equal (the
 * batch of a state and that of the input), or that a table ends (positions up to 512): the model runs nowhere else, so such
 * sizes become one, or narrower, and the file is read again.
 */
import { CompileError } from '../../ir/diagnostic.ts';
import type { Expr, Sym } from '../../ir/expr.ts';
import { printDim } from '../../ir/print.ts';
import type { Dim } from '../../ir/type.ts';

/** Readings of one file; each learns one fact. */
const MOST = 32;

export class Agreement {
  /** Symbols in order of first use: of two that are equal the first one stays. */
  readonly order: string[] = [];
  readonly #same = new Map<string, string>();
  readonly #most = new Map<string, number>();
  readonly #fixed = new Map<string, number>();

  /** The earlier symbol that this one equals. */
  sameAs(name: string): string | undefined {
    return this.#same.get(name);
  }
  mostOf(name: string): number {
    return this.#most.get(name) ?? Infinity;
  }
  sizeOf(name: string): number | undefined {
    return this.#fixed.get(name);
  }

  /** Each fact as a sentence. */
  facts(): string[] {
    return [
      ...[...this.#same].map(([a, b]) => `size ${a} is size ${b}`),
      ...[...this.#most].map(([a, n]) => `size ${a} is at most ${n}`),
      ...[...this.#fixed].map(([a, n]) => `size ${a} is ${n}`),
    ];
  }

  /** Takes from an error that two sizes differ how they can be equal; false when they cannot. */
  learn(error: unknown): boolean {
    if (!(error instanceof CompileError) || this.facts().length >= MOST) return false;
    return (error.diagnostic.sizes ?? []).some(([a, b]) => this.#agree(a, b) || this.#agree(b, a));
  }

  #agree(a: Dim, b: Dim): boolean {
    const name = symbolOf(a);
    if (name === undefined) return false;
    if (typeof b === 'number') return this.#note(this.#fixed, name, b);
    const other = symbolOf(b);
    if (other !== undefined) {
      const [first, second] = [name, other].sort((x, y) => this.order.indexOf(x) - this.order.indexOf(y));
      return this.#note(this.#same, second!, first!);
    }
    // size = min(size, end): the end of a table.
    if (b.op !== 'min') return false;
    const end = b.args.find((e) => e.op === 'const');
    const rest = b.args.find((e) => e.op !== 'const');
    return end !== undefined && rest !== undefined && printDim(rest) === name
      ? this.#note(this.#most, name, end.arg as number)
      : false;
  }

  #note<T>(facts: Map<string, T>, name: string, fact: T): boolean {
    if (facts.has(name) || this.#same.has(name)) return false;
    facts.set(name, fact);
    return true;
  }
}

const symbolOf = (d: Dim): string | undefined =>
  typeof d !== 'number' && (d as Expr).op === 'sym' ? ((d as Expr).arg as Sym).name : undefined;
