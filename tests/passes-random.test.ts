/** Random graphs, with blocks that the passes look for strewn in, compute the same before and after the pipeline. */
import test from 'ava';
import fc from 'fast-check';
import { isFloat, type Scalar } from '../ir/dtype.ts';
import { type Graph, graph, typeOf, type Value } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { makeValue, opNamed } from '../ir/op.ts';
import * as e from '../ir/ops/elementwise.ts';
import { matmul } from '../ir/ops/linear.ts';
import { softmax } from '../ir/ops/norm.ts';
import { reduceMax, reduceMean, reduceSum } from '../ir/ops/reduce.ts';
import { concat, expand, pad, reshape, slice, splitAxis, transpose } from '../ir/ops/shape.ts';
import { constant, input, param, scalar } from '../ir/ops/structural.ts';
import { symbol } from '../ir/scalar.ts';
import { printGraph } from '../ir/text.ts';
import { type Dim, sameShape } from '../ir/type.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { Validator } from '../passes/validate.ts';
import '../ir/ops/all.ts';

/** Decisions of one graph, taken from a list of numbers that fast-check shrinks. */
class Dice {
  readonly #rolls: readonly number[];
  #next = 0;
  constructor(rolls: readonly number[]) {
    this.#rolls = rolls;
  }
  get done(): boolean {
    return this.#next >= this.#rolls.length;
  }
  below(n: number): number {
    return (this.#rolls[this.#next++] ?? 0) % n;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

const B = symbol('B', { min: 1, max: 6, default: 2 });
const shape = (v: Value): readonly Dim[] => typeOf(v).shape;
const dtype = (v: Value): Scalar => typeOf(v).dtype;
const isF32 = (v: Value): boolean => dtype(v) === 'f32';
const last = (v: Value): number => shape(v).length - 1;

/** Values that bound growth: what is large is squashed first. */
const squash = (v: Value): Value => e.tanh([v]);

const CONSTANTS = [0, -0, 1, -1, 2, 0.5, 0.125, 3, 1.702, 0.044715];
const UNARY = ['neg', 'abs', 'relu', 'sigmoid', 'tanh', 'exp', 'floor', 'stop_gradient'];
const BINARY = ['add', 'sub', 'mul', 'add', 'mul', 'maximum', 'minimum', 'div'];

type Step = (d: Dice, pool: readonly Value[]) => Value | readonly Value[] | undefined;

const operand = (d: Dice, pool: readonly Value[]): Value => d.pick(pool.filter(isF32));

const STEPS: readonly Step[] = [
  (d, pool) => {
    const v = operand(d, pool);
    const name = d.pick(UNARY);
    return makeValue(opNamed(name)!, [name === 'exp' ? squash(v) : v]);
  },
  (d, pool) => {
    const [a, b] = [operand(d, pool), operand(d, pool)];
    const name = d.pick(BINARY);
    return makeValue(opNamed(name)!, [a, name === 'div' ? e.add([e.abs([b]), scalar(1)]) : b]);
  },
  (d, pool) => {
    const [v, c] = [operand(d, pool), scalar(d.pick(CONSTANTS))];
    const name = d.pick(['add', 'sub', 'mul', 'maximum', 'add', 'mul']);
    return makeValue(opNamed(name)!, d.below(2) ? [v, c] : [c, v]);
  },
  (d, pool) => e.div([operand(d, pool), scalar(d.pick([1, 2, 3, 8]))]),
  (d, pool) => {
    const v = operand(d, pool);
    const perm = shape(v).map((_, i) => i);
    for (let i = perm.length - 1; i > 0; i--) {
      const j = d.below(i + 1);
      [perm[i], perm[j]] = [perm[j]!, perm[i]!];
    }
    return transpose([v], { perm });
  },
  (d, pool) => {
    const v = operand(d, pool);
    const at = d.below(shape(v).length + 1);
    return reshape([v], { shape: d.below(2) ? shape(v).filter((n) => n !== 1) : shape(v).toSpliced(at, 0, 1) });
  },
  (d, pool) => {
    const v = operand(d, pool);
    const axis = shape(v).findIndex((n) => n === 1);
    return expand([v], { shape: shape(v).map((n, i) => (i === axis ? d.pick<Dim>([1, 3, B]) : n)) });
  },
  (d, pool) => {
    const v = operand(d, pool);
    const axis = d.below(Math.max(1, shape(v).length));
    const n = shape(v)[axis];
    if (typeof n !== 'number' || n < 2) return undefined;
    const from = d.below(2);
    return slice([v], {
      starts: shape(v).map((_, i) => (i === axis ? from : 0)),
      stops: shape(v).map((x, i) => (i === axis ? n - d.below(2) * (n > 2 ? 1 : 0) : x)),
      steps: shape(v).map((_, i) => (i === axis ? 1 + d.below(2) : 1)),
    });
  },
  (d, pool) => {
    const v = operand(d, pool);
    const axis = d.below(Math.max(1, shape(v).length));
    const n = shape(v)[axis];
    if (typeof n !== 'number' || n < 2) return undefined;
    const pieces = splitAxis(v, axis, [1, n - 1]);
    return d.below(2) ? pieces : concat(d.below(2) ? pieces : pieces.toReversed(), { axis });
  },
  (d, pool) => concat([operand(d, pool), operand(d, pool)], { axis: d.below(3) }),
  (d, pool) => {
    const v = operand(d, pool);
    return pad([v], { before: shape(v).map(() => 0), after: shape(v).map(() => d.below(2)) });
  },
  (d, pool) => {
    const v = operand(d, pool);
    const fold = d.pick([reduceSum, reduceMean, reduceMax]);
    return fold([v], { axes: d.below(4) ? [d.below(shape(v).length)] : [], keepdims: d.below(2) === 1 });
  },
  (d, pool) => matmul([squash(operand(d, pool)), operand(d, pool)], { transposeB: d.below(2) === 1 }),
  (d, pool) => {
    const v = operand(d, pool);
    const [n, m] = [shape(v).at(-1), 2 + d.below(2)];
    if (typeof n !== 'number' || shape(v).length < 2) return undefined;
    const x = squash(v);
    return Array.from({ length: 1 + d.below(3) }, () => {
      const weight = param([], { name: `w${d.below(4)}.${m}.${n}`, dtype: 'f32', shape: [m, n] });
      const product = matmul([x, weight], { transposeB: true });
      const bias = param([], { name: `b${d.below(3)}.${m}`, dtype: 'f32', shape: [m] });
      const axes = shape(product).map((_, i) => i);
      return transpose([d.below(2) ? product : e.add([product, bias])], { perm: axes.toReversed() });
    });
  },
  (d, pool) => {
    const [a, b] = [operand(d, pool), operand(d, pool)];
    const condition = e.less([squash(a), scalar(0.3)]);
    return e.select([d.below(2) ? condition : e.not([condition]), b, d.below(2) ? b : scalar(d.pick(CONSTANTS))]);
  },
  (d, pool) =>
    e.cast([e.cast([e.less([operand(d, pool), scalar(0.25)])], { to: d.pick(['i64', 'u8', 'f16']) })], { to: 'f32' }),
  (d) => constant([], { value: nd('f32', [3], [d.below(5), 1, -2]) }),
  (d, pool) => softmax([squash(operand(d, pool))], { axis: d.below(2) ? -1 : 0 }),
  // What the passes look for.
  (d, pool) => {
    const v = squash(operand(d, pool));
    const inner = e.erf([e.div([v, scalar(Math.SQRT2)])]);
    const sum = d.below(2) ? e.add([inner, scalar(1)]) : e.add([scalar(1), inner]);
    return d.below(2) ? e.mul([e.mul([v, scalar(0.5)]), sum]) : e.mul([e.mul([v, sum]), scalar(0.5)]);
  },
  (d, pool) => {
    const v = operand(d, pool);
    const along = { axes: [d.below(2) ? last(v) : 0], keepdims: true };
    const centred = e.sub([v, reduceMean([v], along)]);
    const variance = reduceMean([e.mul([centred, centred])], along);
    const root = e.sqrt([e.add([variance, scalar(1e-5)])]);
    return d.below(2) ? e.div([centred, root]) : [e.div([centred, root]), variance];
  },
  (d, pool) => {
    const v = squash(operand(d, pool));
    const along = { axes: [d.below(shape(v).length)], keepdims: true };
    const weights = e.exp([e.sub([v, reduceMax([v], along)])]);
    return e.div([weights, reduceSum([weights], along)]);
  },
  (d, pool) => {
    const q = squash(operand(d, pool));
    const alike = pool.filter((v) => isF32(v) && sameShape(shape(v), shape(q)));
    const k = squash(d.pick(alike.length > 0 && d.below(4) ? alike : pool.filter(isF32)));
    let scores = matmul([q, k], { transposeB: true });
    for (let n = d.below(4); n > 0; n--)
      switch (d.below(4)) {
        case 0:
          scores = e.mul([scores, scalar(d.pick([0.5, 2, 0.3]))]);
          break;
        case 1:
          scores = e.add([scores, operand(d, pool)]);
          break;
        case 2:
          scores = e.select([
            e.less([squash(operand(d, pool)), scalar(0.9)]),
            scores,
            scalar(d.pick([-Infinity, -3e38, -1e4])),
          ]);
          break;
        case 3:
          scores = e.div([scores, scalar(1.5)]);
          break;
      }
    const weights = softmax([scores], { axis: d.below(5) ? -1 : 0 });
    const out = matmul([weights, d.below(4) ? k : operand(d, pool)]);
    return d.below(4) ? out : [out, weights];
  },
];

/** A graph from decisions: each step adds to a pool of values; the last ones are the outputs. */
function randomGraph(rolls: readonly number[]): Graph {
  const d = new Dice(rolls);
  const inputs = [
    input([], { name: 'x', dtype: 'f32', shape: [B, 3, 4] }, { name: 'x' }),
    input([], { name: 'y', dtype: 'f32', shape: [3, 4] }, { name: 'y' }),
    input([], { name: 'z', dtype: 'f32', shape: [B, 2, 3, 4] }, { name: 'z' }),
    input([], { name: 'u', dtype: 'f32', shape: [4, 1] }, { name: 'u' }),
  ];
  const pool: Value[] = [...inputs];
  while (!d.done) {
    const step = d.pick(STEPS);
    try {
      const made = step(d, pool.slice(-8));
      const all = made === undefined ? [] : 'kind' in made ? [made] : made;
      pool.push(...all.filter((v) => isF32(v) && isFloat(dtype(v))));
    } catch (error) {
      // Shapes that do not fit are refused by the type rules; the next decision goes on.
      if (!(error instanceof Error) || error.name !== 'CompileError') throw error;
    }
  }
  const outputs = pool.slice(inputs.length).slice(-3);
  return graph(
    'random',
    inputs,
    (outputs.length > 0 ? outputs : [pool[0]!]).map((v, i) => [`o${i}`, v] as const),
  );
}

test('the pipeline keeps what random graphs compute, and a second run changes nothing', (t) => {
  const fired = new Map<string, number>();
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 1 << 20 }), { minLength: 8, maxLength: 90 }), (rolls) => {
      const before = randomGraph(rolls);
      const remark = ({ pass, kind }: { pass: string; kind: string }): void => {
        const key = `${pass} ${kind}`;
        fired.set(key, (fired.get(key) ?? 0) + 1);
      };
      const after = runPasses(before, pipelineFor(), { remark });
      try {
        new Validator(before, { tolerance: 1e-6 }).check(after, 'pipeline');
      } catch (error) {
        throw new Error(`${String(error)}\n${printGraph(before)}\n${printGraph(after)}`);
      }
      const again = runPasses(after, pipelineFor());
      if (again !== after)
        throw new Error(`a second run changed\n${printGraph(before)}\n${printGraph(after)}\n${printGraph(again)}`);
    }),
    { numRuns: 400, seed: 7, includeErrorInReport: true },
  );
  for (const key of [
    'canonicalize applied',
    'fold-constants applied',
    'raise applied',
    'raise missed',
    'fuse-attention applied',
    'fuse-attention missed',
    'merge-projections applied',
    'merge-projections missed',
  ])
    t.true((fired.get(key) ?? 0) > 0, `${key}: ${fired.get(key) ?? 0}`);
});
