/**
 * Every op keeps its word: whatever stands in its operands where it says that it reads nothing, the elements that are wanted
 * of its results stay what they are. On all examples, for parts of the results that cut every axis in every way.
 */
import test from 'ava';
import type { Expr } from '../ir/expr.ts';
import { ALL, and, coordinate, type IndexSet, NONE, or, where } from '../ir/index-set.ts';
import { allOps } from '../ir/op.ts';
import { exampleGraph, exampleInput, exampleValues, seeded } from '../ir/ops/example.ts';
import * as s from '../ir/scalar.ts';
import { Demand } from '../passes/demand.ts';
import { GARBAGE, leak, spares } from './support/demand-oracle.ts';
import { Replay } from './support/replay.ts';
import '../ir/ops/all.ts';

const KINDS = Object.keys(GARBAGE);

/** A part of a tensor: positions on one axis or two. */
function part(shape: readonly number[], next: () => number): IndexSet {
  const below = (n: number): number => Math.floor(next() * n);
  const cut = (axis: number): Expr => {
    const [at, place] = [coordinate(axis), below(shape[axis]!)];
    return [s.eq(at, place), s.le(at, place), s.le(place, at), s.ne(at, place), s.eq(s.floormod(at, 2), place % 2)][
      below(5)
    ]!;
  };
  const axes = [...shape.keys()].filter((axis) => shape[axis]! > 1);
  if (axes.length === 0) return next() < 0.8 ? ALL : NONE;
  const pick = (): IndexSet => where(cut(axes[below(axes.length)]!));
  const roll = next();
  return roll < 0.5 ? pick() : roll < 0.75 ? and(pick(), pick()) : roll < 0.95 ? or(pick(), pick()) : NONE;
}

/** Parts tried of each example. */
const TRIES = 6;

let spared = 0;
// Sizes that data decide are not run again.
for (const op of allOps())
  if (op.examples.length > 0 && op.name !== 'counted')
    test(`${op.name}: reads no more than it says`, (t) => {
      for (const [n, example] of op.examples.entries()) {
        const g = exampleGraph(op, example);
        const inputs = Object.fromEntries(exampleValues(example).map((x, i) => [exampleInput(i), x]));
        const run = new Replay(g, inputs, () => {
          throw new TypeError('examples have no parameters');
        });
        const next = seeded(n + 1);
        for (let attempt = 0; attempt < TRIES; attempt++) {
          const observed = Object.fromEntries(
            [...g.outputs].map(([name, v]) => [name, part(run.of(v).shape, next)] as const),
          );
          const demand = new Demand(g, { observed });
          if (spares(demand, run, g.inputs)) spared++;
          const kind = KINDS[attempt % KINDS.length]!;
          const problem = leak(demand, run, kind, attempt, g.inputs, observed);
          t.is(problem, undefined, `example ${n}, ${kind}\n${demand.print()}`);
        }
      }
    });

test.after('most ops spare something', (t) => {
  t.true(spared > 500, `${spared} parts`);
});
