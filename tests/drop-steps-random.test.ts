/** Random loops: what is read of them is named, and compiling them changes nothing. */
import test from 'ava';
import fc from 'fast-check';
import {
  add,
  concat,
  constant,
  f32,
  i64,
  input,
  iota,
  less,
  linear,
  model,
  mul,
  scan,
  select,
  slice,
  type Tensor,
  tanh,
  unsqueeze,
} from '../frontends/dsl/index.ts';
import { evaluate } from '../ir/evaluate.ts';
import { nd } from '../ir/nd.ts';
import { Demand } from '../passes/demand.ts';
import { runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { leak } from './support/demand-oracle.ts';
import { Replay } from './support/replay.ts';

type X = Tensor<'f32'>;
const [T, B, H] = [5, 3, 16];
const wave = (seed: number, ...shape: number[]) =>
  nd(
    'f32',
    shape,
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.fround(Math.sin(seed + 1.9 * i))),
  );
const fixed = (seed: number, ...shape: number[]): X => constant(f32, shape, [...wave(seed, ...shape).data]) as X;

/** What a step does to one of its values; numbers choose operands among those that there are. */
interface Deed {
  readonly kind: 'add' | 'mul' | 'tanh' | 'mix' | 'turn' | 'swap rows' | 'where going' | 'where not';
  readonly a: number;
  readonly b: number;
}
interface Plan {
  readonly deeds: readonly Deed[];
  readonly states: readonly [number, number];
  readonly outputs: readonly [number, number];
  readonly reverse: boolean;
  readonly read: readonly Reading[];
  readonly lengths: readonly number[];
}
/** Which result is read, and which of its rows. */
interface Reading {
  readonly result: number;
  readonly from: number;
  readonly to: number;
  readonly within: 'all' | 'going' | 'first row' | 'first unit';
}

function build({ deeds, states, outputs, reverse, read }: Plan) {
  return model(
    'loop',
    { x: input(f32, [T, B, H], 'items'), lens: input(i64, [B], 'lengths') },
    ({ x, lens }): Record<string, Tensor> => {
      const ran = scan(
        { h: fixed(1, B, H), c: fixed(2, B, H) },
        { x: x as X, t: iota(i64, [T]) },
        ({ h, c, x, t }) => {
          // A product in every step, so that steps are worth leaving out.
          const values: X[] = [linear(h, fixed(3, H, H)) as X, h as X, c as X, x as X];
          const going = unsqueeze(less(t as never, lens as never), 1);
          const at = (n: number): X => values[n % values.length]!;
          for (const { kind, a, b } of deeds) {
            const [u, v] = [at(a), at(b)];
            if (kind === 'add') values.push(add(u, v) as X);
            else if (kind === 'mul') values.push(mul(u, v) as X);
            else if (kind === 'tanh') values.push(tanh(u) as X);
            else if (kind === 'mix') values.push(linear(u, fixed(3, H, H)) as X);
            else if (kind === 'turn')
              values.push(concat([slice(u, 1, { start: 1 }), slice(u, 1, { stop: 1 })], 1) as X);
            else if (kind === 'swap rows')
              values.push(concat([slice(u, 0, { start: 1 }), slice(u, 0, { stop: 1 })], 0) as X);
            else values.push((kind === 'where going' ? select(going, u, v) : select(going, v, u)) as X);
          }
          const [h1, c1] = states.map(at) as [X, X];
          const [y, z] = outputs.map(at) as [X, X];
          return { states: { h: h1, c: c1 }, outputs: { y, z } };
        },
        { reverse },
      );
      const results = [ran.outputs.y, ran.outputs.z, ran.states.h, ran.states.c] as X[];
      const going = unsqueeze(less(unsqueeze(iota(i64, [T]), 1), unsqueeze(lens as never, 0)), 2);
      return Object.fromEntries(
        read.map(({ result, from, to, within }, n) => {
          const of = results[result % 4]!;
          const axis = of.shape.length - 2;
          const some =
            within === 'first row'
              ? slice(of, axis, { stop: 1 })
              : within === 'first unit'
                ? slice(of, axis + 1, { stop: 1 })
                : within === 'going' && of.shape.length === 3
                  ? select(going, of, 0 as never)
                  : of;
          return [
            `o${n}`,
            of.shape.length === 3
              ? slice(some as X, 0, { start: Math.min(from, to), stop: Math.max(from, to) + 1 })
              : some,
          ];
        }),
      );
    },
  ).entries.main!;
}

const number = fc.nat({ max: 9 });
const plans: fc.Arbitrary<Plan> = fc.record({
  deeds: fc.array(
    fc.record({
      kind: fc.constantFrom<Deed['kind']>('add', 'mul', 'tanh', 'mix', 'turn', 'swap rows', 'where going', 'where not'),
      a: number,
      b: number,
    }),
    { minLength: 1, maxLength: 7 },
  ),
  states: fc.tuple(number, number),
  outputs: fc.tuple(number, number),
  reverse: fc.boolean(),
  read: fc.array(
    fc.record({
      result: fc.constantFrom(0, 0, 0, 1, 1, 1, 2, 3),
      from: fc.nat({ max: T - 1 }),
      to: fc.nat({ max: T - 1 }),
      within: fc.constantFrom<Reading['within']>('all', 'going', 'first row', 'first unit'),
    }),
    { minLength: 1, maxLength: 2 },
  ),
  lengths: fc.tuple(fc.nat({ max: T }), fc.nat({ max: T }), fc.nat({ max: T })),
});
const given = (plan: Plan) => ({ x: wave(5, T, B, H), lens: nd('i64', [B], plan.lengths) });
const none = (): never => {
  throw new Error('no parameters');
};

test('nothing that is read of random loops is left out of what is named', (t) => {
  fc.assert(
    fc.property(plans, (plan) => {
      const graph = build(plan);
      const found = leak(new Demand(graph), new Replay(graph, given(plan), none), 'random × 7', 11);
      if (found !== undefined) throw new Error(found);
    }),
    { numRuns: 150, seed: 7 },
  );
  t.pass();
});

test('random loops give the same results after all passes', (t) => {
  let shorter = 0;
  fc.assert(
    fc.property(plans, (plan) => {
      const graph = build(plan);
      const inputs = given(plan);
      const want = evaluate(graph, { inputs });
      const remark = ({ pass, kind }: { pass: string; kind: string }): void => {
        if (pass === 'drop-steps' && kind === 'applied') shorter++;
      };
      const got = evaluate(runPasses(graph, pipelineFor(), { remark }), { inputs });
      for (const [key, { data, shape }] of Object.entries(want)) {
        if (shape.join() !== got[key]!.shape.join()) throw new Error(`${key} is [${got[key]!.shape}]`);
        data.forEach((v, i) => {
          const w = got[key]!.data[i]!;
          // Products of states may grow beyond every number.
          const same = Object.is(v, w) || !Number.isFinite(v) || Math.abs(v - w) <= 1e-9 * Math.max(1, Math.abs(v));
          if (!same) throw new Error(`${key}[${i}]: ${v} and ${w}`);
        });
      }
    }),
    { numRuns: 150, seed: 8 },
  );
  t.true(shorter > 15, `${shorter} loops are cut`);
});
