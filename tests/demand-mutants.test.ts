/** Every mistake that is seeded into what ops say they read comes to light within a few random programs. */
import test from 'ava';
import { graphValues } from '../ir/graph.ts';
import { allOps } from '../ir/op.ts';
import { Demand } from '../passes/demand.ts';
import { MUTANTS, type Mutant } from './support/demand-mutants.ts';
import { GARBAGE, leak } from './support/demand-oracle.ts';
import type { Replay } from './support/replay.ts';
import { program } from './support/token-graph.ts';

/** Programs within which every mistake must be found. */
const MOST = 1500;
const KINDS = Object.keys(GARBAGE);

/** Whether the outputs of a program show that the demand is wrong. */
const isCaught = (mutant: Mutant, run: Replay, seed: number): boolean =>
  leak(new Demand(run.graph, { need: mutant.make() }), run, KINDS[seed % KINDS.length]!, seed) !== undefined;

test('no mistake in what is read survives', (t) => {
  const alive = new Set(MUTANTS);
  const found: string[] = [];
  let seed = 0;
  for (; seed < MOST && alive.size > 0; seed++) {
    const run = program(seed);
    const ops = new Set(graphValues(run.graph).map((v) => v.op.name));
    for (const mutant of alive) {
      if (mutant.ops && !mutant.ops.some((name) => ops.has(name))) continue;
      if (!isCaught(mutant, run, seed)) continue;
      alive.delete(mutant);
      found.push(`${String(seed + 1).padStart(4)}  ${mutant.name}`);
    }
  }
  t.log(`${MUTANTS.length} mistakes, by the number of programs until each was found:\n${found.join('\n')}`);
  t.deepEqual(
    [...alive].map((m) => m.name),
    [],
    `not found within ${seed} programs`,
  );
});

test('every op that says by itself what it reads has a mistake of its own', (t) => {
  const mutated = new Set(MUTANTS.flatMap((m) => m.ops ?? []));
  t.deepEqual(
    allOps()
      .filter((op) => op.need && !mutated.has(op.name))
      .map((op) => op.name),
    [],
  );
});
