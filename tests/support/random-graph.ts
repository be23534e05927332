/**
 * Random graphs whose results are small whole numbers: f32 then holds every intermediate value exactly, in whatever
 * order it is summed, so that compiled and reference results must be equal. Functions that are not exact are rounded to
 * whole numbers at once; `fragile` tells where such a rounding could go either way.
 */
import fc from 'fast-check';
import { evaluate } from '../../ir/evaluate.ts';
import type { Expr } from '../../ir/expr.ts';
import { type Attrs, type Graph, graph, typeOf, type Value } from '../../ir/graph.ts';
import { countOf, type Nd, nd } from '../../ir/nd.ts';
import { makeValue, opNamed } from '../../ir/op.ts';
import { seeded } from '../../ir/ops/example.ts';
import { constant, input, projectAll, scalar } from '../../ir/ops/structural.ts';
import { symbol } from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, elements, sameShape, sizeAt } from '../../ir/type.ts';
import '../../ir/ops/all.ts';

/** The symbol that random graphs may use as a size. */
export const N: Expr = symbol('n', { min: 0, max: 40, default: 5 });

interface Step {
  readonly kind: number;
  readonly a: number;
  readonly b: number;
  readonly output: boolean;
}
export interface Recipe {
  readonly shape: readonly number[];
  /** Which axis is symbolic; none when beyond the rank. */
  readonly symbolic: number;
  readonly steps: readonly Step[];
}

const SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17];

export const recipes: fc.Arbitrary<Recipe> = fc.record({
  shape: fc.array(fc.constantFrom(...SIZES), { minLength: 1, maxLength: 3 }),
  symbolic: fc.nat({ max: 4 }),
  steps: fc.array(
    fc.record({
      kind: fc.nat({ max: 1000 }),
      a: fc.nat({ max: 1000 }),
      b: fc.nat({ max: 1000 }),
      output: fc.boolean(),
    }),
    { minLength: 1, maxLength: 8 },
  ),
});

const op = (name: string, inputs: readonly Value[], attrs: Attrs = {}): Value =>
  makeValue(opNamed(name)!, inputs, attrs, { name });

/** Whole numbers −3 … 3. */
function whole(shape: readonly number[], seed: number, dtype: Nd['dtype'] = 'f32'): Nd {
  const next = seeded(seed);
  return nd(
    dtype,
    shape,
    Float64Array.from({ length: countOf(shape) }, () => Math.floor(next() * 7) - 3),
  );
}
const positions = (count: number, size: number, seed: number, dtype: 'i32' | 'i64'): Value => {
  const next = seeded(seed);
  const data = Array.from({ length: count }, () => Math.floor(next() * size * 2) - size);
  return constant([], { value: nd(dtype, [count], data) });
};

/** Back to −8 … 8 after something that grows. */
const small = (x: Value): Value => op('clamp', [x], { min: -8, max: 8 });
/** A value in [−c, c] as a whole number. */
const rounded = (x: Value, scale = 7.3): Value =>
  op('round', [op('add', [op('mul', [x, scalar(scale)]), scalar(0.31)])], {});

class Builder {
  readonly inputs: Value[] = [];
  readonly outputs: Value[] = [];
  private readonly earlier: Value[] = [];
  private current: Value;

  constructor({ shape, symbolic, steps }: Recipe) {
    this.current = this.input(shape.map((d, i) => (i === symbolic ? N : d)));
    steps.forEach((step, i) => {
      this.earlier.push(this.current);
      const next = this.apply(step, i);
      if (next) this.current = next;
      if (step.output) this.outputs.push(this.current);
    });
    this.outputs.push(this.current);
  }

  private input(shape: readonly Dim[]): Value {
    const name = `x${this.inputs.length}`;
    const value = input([], { name, dtype: 'f32', shape }, { name });
    this.inputs.push(value);
    return value;
  }

  private apply({ kind, a, b }: Step, index: number): Value | undefined {
    const x = this.current;
    const { shape } = typeOf(x);
    const rank = shape.length;
    const seed = 31 * index + a;
    const fixed = (
      shape.map((d, i) => [d, i] as const).filter(([d]) => typeof d === 'number') as [number, number][]
    ).filter(([d]) => d > 0);
    const [size, axis] = fixed.length > 0 ? fixed[b % fixed.length]! : [0, -1];
    const last = shape.at(-1);
    const any = rank > 0 ? a % rank : 0;
    const kinds: (() => Value | undefined)[] = [
      () => op(['neg', 'abs', 'relu', 'sign'][a % 4]!, [x]),
      () => small(op(['add', 'sub', 'mul', 'maximum', 'minimum'][a % 5]!, [x, this.sibling(b)])),
      () => small(op('add', [x, this.vector(shape, a, seed)])),
      () => small(op('mul', [x, scalar((a % 5) - 2)])),
      () => op('select', [op('less', [x, this.sibling(b)]), x, scalar(b % 3)]),
      () => op('cast', [op('cast', [x], { to: ['i32', 'f64', 'i64', 'i8'][a % 4]! })], { to: 'f32' }),
      () => (rank > 1 ? op('transpose', [x], { perm: permutation(rank, a) }) : undefined),
      () => op('reshape', [x], { shape: this.regrouped(shape, a, b) }),
      () => (axis >= 0 ? this.slice(x, size, axis, a) : undefined),
      () =>
        rank < 4
          ? op('expand', [op('reshape', [x], { shape: [1, ...shape] })], { shape: [(a % 3) + 1, ...shape] })
          : undefined,
      () => (rank > 0 ? op('concat', [x, this.sibling(b), x], { axis: any }) : undefined),
      () =>
        rank > 0
          ? op('pad', [x], {
              before: shape.map((_, i) => (i === any ? a % 4 : 0)),
              after: shape.map((_, i) => (i === any ? b % 3 : 0)),
              value: 1,
            })
          : undefined,
      () => (rank > 0 ? this.product(x, a, b, seed) : undefined),
      () => (rank > 0 ? this.product(x, a, b, seed) : undefined),
      () => (rank > 1 ? small(op('matmul', [x, x], { [a % 2 ? 'transposeB' : 'transposeA']: true })) : undefined),
      () => (rank > 0 ? rounded(op('softmax', [x], { axis: any - rank })) : undefined),
      () => (rank > 0 && typeof last === 'number' ? rounded(this.norm(x, last, a, seed), 1.7) : undefined),
      () =>
        rank > 0
          ? small(
              op(['reduce_sum', 'reduce_max', 'reduce_min'][a % 3]!, [x], {
                axes: someAxes(rank, b),
                keepdims: a % 2 === 0,
              }),
            )
          : undefined,
      () => (axis >= 0 ? rounded(op('reduce_mean', [x], { axes: [axis], keepdims: a % 2 === 0 })) : undefined),
      () =>
        rank > 0 ? small(op('cumsum', [x], { axis: any, exclusive: a % 2 === 0, reverse: b % 2 === 0 })) : undefined,
      () => (axis >= 0 ? op('gather', [x, positions(3, size, seed, b % 2 ? 'i32' : 'i64')], { axis }) : undefined),
      () =>
        axis === 0 && rank === 1
          ? small(
              op('scatter_elements', [x, positions(4, size, seed, 'i64'), constant([], { value: whole([4], seed) })], {
                reduction: ['none', 'add', 'mul', 'max'][a % 4]!,
              }),
            )
          : undefined,
      () => (axis === 0 ? this.scatter(x, size, a, seed) : undefined),
      () =>
        axis >= 0 ? projectAll(op('top_k', [x], { k: 1 + (a % size), axis, largest: b % 2 === 0 }))[0] : undefined,
      () =>
        axis >= 0
          ? small(op('cast', [projectAll(op('top_k', [x], { k: 1 + (a % size), axis }))[1]!], { to: 'f32' }))
          : undefined,
      () =>
        axis >= 0
          ? small(
              op(
                'cast',
                [
                  op(a % 2 ? 'arg_max' : 'arg_min', [x], {
                    axis,
                    last: b % 2 === 0,
                    keepdims: a % 3 === 0,
                    dtype: a % 5 ? 'i32' : 'i64',
                  }),
                ],
                { to: 'f32' },
              ),
            )
          : undefined,
    ];
    return kinds[kind % kinds.length]!();
  }

  /** An earlier value of the same shape, the current one when there is none. */
  private sibling(pick: number): Value {
    const same = this.earlier.filter((v) => sameShape(typeOf(v).shape, typeOf(this.current).shape));
    return same.length > 0 ? same[pick % same.length]! : this.current;
  }

  /** Something that broadcasts along the last axis. */
  private vector(shape: readonly Dim[], a: number, seed: number): Value {
    const last = shape.at(-1);
    if (last === undefined) return scalar(a % 3);
    if (a % 3 === 0 || typeof last !== 'number') return this.input([last]);
    return constant([], { value: whole([last], seed) });
  }

  private product(x: Value, a: number, b: number, seed: number): Value | undefined {
    const { shape } = typeOf(x);
    const k = shape.at(-1)!;
    const n = SIZES[b % SIZES.length]!;
    const left = shape.length === 1 ? op('reshape', [x], { shape: [1, k] }) : x;
    const transposeB = a % 2 === 0;
    const size: readonly Dim[] = transposeB ? [n, k] : [k, n];
    const right =
      a % 3 === 0 || typeof k !== 'number' ? this.input(size) : constant([], { value: whole(size as number[], seed) });
    return small(op('matmul', [left, right], { transposeB }));
  }

  private norm(x: Value, width: number, a: number, seed: number): Value {
    const scale = constant([], { value: whole([width], seed) });
    const vectors = [scale, constant([], { value: whole([width], seed + 1) })].slice(0, a % 3);
    return a % 2
      ? op('layer_norm', [x, ...vectors], { eps: 0.1 })
      : op('rms_norm', [x, ...vectors.slice(0, 1)], { eps: 0.1 });
  }

  private scatter(x: Value, size: number, a: number, seed: number): Value {
    const rows = op('reshape', [positions(3, size, seed, 'i32')], { shape: [3, 1] });
    const rest = typeOf(x).shape.slice(1);
    const updates = op('expand', [scalar((a % 5) - 2)], { shape: [3, ...rest] });
    return small(op('scatter_nd', [x, rows, updates], { reduction: ['none', 'add', 'min'][a % 3]! }));
  }

  private slice(x: Value, size: number, axis: number, a: number): Value {
    const { shape } = typeOf(x);
    const start = a % size;
    const stop = start + 1 + ((a >> 3) % (size - start));
    return op('slice', [x], {
      starts: shape.map((_, i) => (i === axis ? start : 0)),
      stops: shape.map((d, i) => (i === axis ? stop : d)),
      steps: shape.map((_, i) => (i === axis ? 1 + (a % 2) : 1)),
    });
  }

  /** The same elements in another shape. */
  private regrouped(shape: readonly Dim[], a: number, b: number): Dim[] {
    if (shape.length === 0) return [1, 1];
    const at = b % shape.length;
    const d = shape[at]!;
    if (a % 2 === 0 && shape.length > 1) {
      const first = Math.min(at, shape.length - 2);
      return shape.toSpliced(first, 2, dim(elements([shape[first]!, shape[first + 1]!])));
    }
    if (typeof d !== 'number' || shape.length > 3) return a % 3 === 0 ? [dim(elements(shape))] : [...shape];
    const divisor = [2, 3, 4].find((q) => d % q === 0 && d > q) ?? 1;
    return shape.toSpliced(at, 1, divisor, d / divisor);
  }
}

function permutation(rank: number, pick: number): number[] {
  const left = Array.from({ length: rank }, (_, i) => i);
  const perm: number[] = [];
  for (let rest = pick; left.length > 0; rest = Math.floor(rest / (left.length + 1)))
    perm.push(...left.splice(rest % left.length, 1));
  return perm;
}
const someAxes = (rank: number, bits: number): number[] =>
  Array.from({ length: rank }, (_, i) => i).filter((i) => (bits >> i) & 1);

export function randomGraph(recipe: Recipe): Graph {
  const { inputs, outputs } = new Builder(recipe);
  const distinct = [...new Set(outputs)];
  return graph(
    'random',
    inputs,
    distinct.map((v, i) => [`out${i}`, v] as const),
  );
}

/** Values of all inputs for one size of the symbol. */
export function randomInputs(g: Graph, n: number): Record<string, Nd> {
  return Object.fromEntries(
    g.inputs.map((v, i) => {
      const shape = typeOf(v).shape.map((d) => sizeAt(d, () => n));
      return [String(v.attrs.name), whole(shape, 977 * i + n)];
    }),
  );
}

/** Most elements of any value of the graph when the symbol is `n`. */
export const largest = (g: Graph, n: number): number =>
  Math.max(...[...g.inputs, ...g.outputs.values()].map((v) => sizeAt(asExpr(dim(elements(typeOf(v).shape))), () => n)));

/** The reference, and whether some rounding in it could go either way. */
export function reference(
  g: Graph,
  inputs: Readonly<Record<string, Nd>>,
): { readonly outputs: Record<string, Nd>; readonly fragile: boolean } {
  let fragile = false;
  const results = new Map<Value, Nd>();
  const outputs = evaluate(g, {
    inputs,
    observe: (value, result) => {
      if (Array.isArray(result)) return;
      const one = result as Nd;
      if (value.op.name === 'round') {
        const before = results.get(value.inputs[0]!)!;
        fragile ||= before.data.some((x) => Math.abs(Math.abs(x - Math.floor(x)) - 0.5) < 1e-3);
      }
      results.set(value, one);
    },
  });
  return { outputs, fragile };
}
