/** What demands leave out of random programs changes nothing that comes out, and what they name mostly does. */
import test from 'ava';
import { graphValues } from '../ir/graph.ts';
import { allOps } from '../ir/op.ts';
import { Demand } from '../passes/demand.ts';
import { firstFailure, isLong, report } from './support/campaign.ts';
import { GARBAGE, leak, precision, spares } from './support/demand-oracle.ts';
import { program, ranProgram } from './support/token-graph.ts';

for (const kind of Object.keys(GARBAGE)) {
  test(`what nobody reads of the inputs may be anything: ${kind}`, (t) => {
    let spared = 0;
    const failure = firstFailure((rolls, seed) => {
      const run = ranProgram(rolls, seed);
      const demand = new Demand(run.graph);
      if (spares(demand, run, run.graph.inputs)) spared++;
      return leak(demand, run, kind, seed, run.graph.inputs);
    }, 150);
    t.is(failure, undefined, failure && report(failure, 'demand'));
    t.true(spared > 20, `${spared} programs leave something out`);
  });

  test(`what nobody reads of any value may be anything: ${kind}`, (t) => {
    let spared = 0;
    const failure = firstFailure((rolls, seed) => {
      const run = ranProgram(rolls, seed);
      const demand = new Demand(run.graph);
      if (spares(demand, run)) spared++;
      return leak(demand, run, kind, seed);
    }, 300);
    t.is(failure, undefined, failure && report(failure, 'demand'));
    t.true(spared > 150, `${spared} programs leave something out`);
  });
}

test('brute force finds no row that is read and not named, and few that are named and not read', (t) => {
  let [read, named] = [0, 0];
  const failure = firstFailure((rolls, seed) => {
    const run = ranProgram(rolls, seed);
    const found = precision(new Demand(run.graph), run);
    read += found.read;
    named += found.named;
    return found.missed.length > 0 ? found.missed.join('; ') : undefined;
  }, 60);
  t.is(failure, undefined, failure && report(failure, 'demand'));
  t.log(`${read} of ${named} rows that are named are read`);
  t.true(read >= FLOOR * named, `${read} of ${named}`);
});
/** Share of the named rows of random programs that are read; what is lost is lost where ops mix what they are not known to. */
const FLOOR = 0.7;

test('random programs have every op that says by itself what it reads', (t) => {
  const seen = new Set<string>();
  for (let seed = 0; seed < 200; seed++) for (const v of graphValues(program(seed).graph)) seen.add(v.op.name);
  t.deepEqual(
    allOps()
      .filter((op) => op.need && !seen.has(op.name))
      .map((op) => op.name),
    [],
  );
  if (isLong) t.log(`${seen.size} ops`);
});
