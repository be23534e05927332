/** Translation validation: a graph before and after a pass must compute the same values in the reference interpreter. */
import { CompileError, fail } from '../ir/diagnostic.ts';
import { isFloat } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import type { Expr, Sym } from '../ir/expr.ts';
import { type Graph, graphValues, type Value } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { keepingPromises, promisesOf } from '../ir/promises.ts';
import { symbolsOf } from '../ir/scalar.ts';
import { sizeAt, type TensorType } from '../ir/type.ts';

export interface ValidateOptions {
  /**
   * Largest difference between two results, as a fraction of the largest finite element of the output. Default 1e-5:
   * the interpreter computes in f64, but constants of a graph are f32, so formulas that are equal on paper differ by
   * some 1e-7 a layer. Where a graph rounds to halves, two roundings of those: a pass may leave one out. Integers and
   * booleans must be equal.
   */
  readonly tolerance?: number;
  /** Sizes of symbols by name; others get small sizes that differ from each other. */
  readonly symbols?: Readonly<Record<string, number>>;
  readonly seed?: number;
  /** The elements of parameters whose content passes may look at; the others are seeded. */
  readonly contents?: ((param: string) => Nd | undefined) | undefined;
}

/** What two roundings to the coarsest type that a graph casts to change, as a fraction; 0 where it casts to no halves. */
export const roundingIn = (graph: Graph): number =>
  graphValues(graph).reduce((most, { op, attrs }) => {
    const rounding = op.name !== 'cast' ? 0 : attrs.to === 'f16' ? 2 ** -10 : attrs.to === 'bf16' ? 2 ** -7 : 0;
    return Math.max(most, rounding);
  }, 0);

type Outputs = Readonly<Record<string, Nd>>;

/** Holds the outputs of one graph on seeded values, to compare later versions of it with. */
export class Validator {
  readonly #graph: Graph;
  readonly #options: ValidateOptions;
  readonly #sizes: Readonly<Record<string, number>>;
  readonly #integers: number;
  readonly #expected: Outputs;

  constructor(graph: Graph, options: ValidateOptions = {}) {
    this.#graph = graph;
    this.#options = options;
    this.#sizes = { ...smallSizes(graph), ...options.symbols };
    [this.#integers, this.#expected] = this.#firstRun();
  }

  /** @throws CompileError `internal` naming `pass` and the first element that differs */
  check(graph: Graph, pass: string): void {
    const found = this.#run(graph, this.#integers);
    const tolerance = this.#options.tolerance ?? Math.max(1e-5, roundingIn(this.#graph));
    const problem = difference(this.#expected, found, tolerance);
    if (problem)
      fail('internal', `pass ${pass} changed what graph ${graph.name} computes: ${problem}`, {
        notes: [
          `sizes: ${
            Object.entries(this.#sizes)
              .map(([name, n]) => `${name} = ${n}`)
              .join(', ') || 'all static'
          }`,
        ],
        help: 'find the rewrite with --stop-after N, and report it',
      });
  }

  /** Integers index tables of unknown size: they start in 0..4 and shrink while some op refuses them. */
  #firstRun(): [number, Outputs] {
    for (const integers of [5, 3, 2]) {
      try {
        return [integers, this.#run(this.#graph, integers)];
      } catch (error) {
        if (!(error instanceof CompileError && error.code === 'range')) throw error;
      }
    }
    return [1, this.#run(this.#graph, 1)];
  }

  #run(graph: Graph, integers: number): Outputs {
    const bind = (s: Expr): number => this.#sizes[(s.arg as Sym).name] ?? (s.arg as Sym).default;
    const fill = (name: string, type: TensorType, isParam: boolean): Nd =>
      fillTensor(`${isParam ? 'param' : 'input'} ${name}`, type, bind, integers, isParam, this.#options.seed ?? 0);
    const inputs = Object.fromEntries(
      graph.inputs.map((v) => {
        const type = v.type as TensorType;
        if (!promisesOf(v).binary) return [inputName(v), fill(inputName(v), type, false)];
        const bits = keepingPromises(v, fill(inputName(v), { ...type, dtype: 'bool' }, false), (d) => sizeAt(d, bind));
        return [inputName(v), nd(type.dtype, bits.shape, bits.data)];
      }),
    );
    return evaluate(graph, {
      inputs,
      params: (name, type) => this.#stored(name, type) ?? fill(name, type, true),
      symbols: this.#sizes,
    });
  }

  #stored(name: string, type: TensorType): Nd | undefined {
    const found = this.#options.contents?.(name);
    return found?.dtype === type.dtype && found.shape.join() === type.shape.join() ? found : undefined;
  }
}

const inputName = (v: Value): string => String(v.attrs.name);

/** 2, 3, 4, … for the symbols of the inputs, moved into each one's range. */
function smallSizes(graph: Graph): Record<string, number> {
  const sizes: Record<string, number> = {};
  for (const { type } of graph.inputs)
    for (const d of (type as TensorType).shape)
      for (const s of typeof d === 'number' ? [] : symbolsOf(d)) {
        const { name, min, max, multipleOf } = s.arg as Sym;
        if (Object.hasOwn(sizes, name)) continue;
        const wanted = Math.min(Math.max(min, 2 + Object.keys(sizes).length), max);
        sizes[name] = Math.max(min, Math.floor(wanted / multipleOf) * multipleOf);
      }
  return sizes;
}

/**
 * Seeded values that keep a deep network in range: matrices scaled by their width, vectors positive (they may be variances),
 * other floats in [−2, 2).
 */
function fillTensor(
  name: string,
  type: TensorType,
  bind: (s: Expr) => number,
  integers: number,
  isParam: boolean,
  seed: number,
): Nd {
  const shape = type.shape.map((d) => sizeAt(d, bind));
  const next = seeded([...name].reduce((hash, c) => (Math.imul(hash, 31) + c.charCodeAt(0)) | 0, seed + 7));
  const draw = (): number => {
    if (type.dtype === 'bool') return Math.floor(next() * 2);
    if (!isFloat(type.dtype)) return Math.floor(next() * integers);
    if (!isParam) return next() * 4 - 2;
    if (shape.length < 2) return 0.25 + next() * 1.5;
    return (next() * 2 - 1) * Math.sqrt(3 / Math.max(1, shape.at(-1)!));
  };
  return nd(type.dtype, shape, Array.from({ length: countOf(shape) }, draw));
}

/** Results that cancel to zero keep the f64 rounding of what they were made of. */
const ROUNDING = 1e-12;

/** The first difference between two sets of outputs as a sentence; undefined when there is none. */
function difference(before: Outputs, after: Outputs, tolerance: number): string | undefined {
  const [a, b] = [Object.keys(before).join(', '), Object.keys(after).join(', ')];
  if (a !== b) return `outputs are ${a} before and ${b} after`;
  for (const [name, x] of Object.entries(before)) {
    const y = after[name]!;
    if (x.dtype !== y.dtype || x.shape.join() !== y.shape.join())
      return `output ${name} is ${x.dtype}[${x.shape.join(', ')}] before and ${y.dtype}[${y.shape.join(', ')}] after`;
    let largest = 0;
    for (const v of x.data) if (Number.isFinite(v)) largest = Math.max(largest, Math.abs(v));
    const bound = isFloat(x.dtype) ? Math.max(largest * tolerance, ROUNDING) : 0;
    for (const [i, v] of x.data.entries()) {
      const w = y.data[i]!;
      if (v !== w && !Object.is(v, w) && !(Math.abs(v - w) <= bound))
        return `output ${name}, element ${i}: ${v} before and ${w} after`;
    }
  }
  return undefined;
}
