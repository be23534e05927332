/** Random programs over tokens compute the same, bit for bit, when the rows that nobody reads are dropped. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { isFloat } from '../ir/dtype.ts';
import { evaluate } from '../ir/evaluate.ts';
import { type Graph, typeOf, type Value } from '../ir/graph.ts';
import { countOf, type Nd, nd } from '../ir/nd.ts';
import { seeded } from '../ir/ops/example.ts';
import { parseGraphs } from '../ir/parse.ts';
import { printGraph } from '../ir/text.ts';
import { verifyGraph } from '../ir/verify.ts';
import { dropSteps } from '../passes/drop-steps.ts';
import { dropTokensPass } from '../passes/drop-tokens.ts';
import { packRowsPass } from '../passes/pack-rows.ts';
import type { Pass } from '../passes/pass.ts';
import { type Check, firstFailure, report, shrunk } from './support/campaign.ts';
import { projectRoot } from './support/project.ts';
import { difference } from './support/replay.ts';
import { ranProgram, rollsOf, tokenGraph, tokenInputs, tokenParams } from './support/token-graph.ts';

/** Take whatever can be taken, so that small graphs show it, and leave something that would be seen in its place. */
const GARBAGE = 1e5;
const drop = dropTokensPass({ macsPerElement: 0, share: 0.999, fill: GARBAGE });
const pack = packRowsPass(0);
const applied = (graph: Graph, passes: readonly Pass[]): Graph =>
  passes.reduce((g, pass) => pass.run(g, { remark: () => {} }), graph);

/** How many programs the last of some passes changes, and the first that they change for the worse. */
function validate(t: ExecutionContext, passes: readonly Pass[], usual: number): number {
  let changed = 0;
  const check: Check = (rolls, seed) => {
    const before = tokenGraph(rolls);
    const first = applied(before, passes.slice(0, -1));
    const after = applied(first, passes.slice(-1));
    if (after === first) return undefined;
    changed++;
    verifyGraph(after);
    const inputs = tokenInputs(rolls, seed);
    const want = ranProgram(rolls, seed).outputs();
    return difference(want, evaluate(after, { inputs, params: tokenParams }));
  };
  const failure = firstFailure(check, usual);
  if (failure) {
    const after = applied(tokenGraph(failure.rolls), passes.slice(0, -1));
    t.fail(report(failure, `${passes.map((p) => p.name).join(', ')}\n${printGraph(after)}`));
  }
  return changed;
}

test('programs compute the same after rows are dropped, bit for bit', (t) => {
  const changed = validate(t, [drop], 200);
  t.true(changed > 100, `${changed} changed`);
});

test('programs compute the same after rows are packed, bit for bit', (t) => {
  const changed = validate(t, [pack], 150);
  t.true(changed > 10, `${changed} changed`);
});

test('programs compute the same after rows are dropped, then packed, bit for bit', (t) => {
  const changed = validate(t, [drop, pack], 150);
  t.true(changed > 10, `${changed} changed`);
});

test('programs compute the same after steps of loops are dropped, and rows after that', (t) => {
  let changed = 0;
  const failure = firstFailure((rolls, seed) => {
    const before = tokenGraph(rolls);
    const shorter = applied(before, [dropSteps]);
    if (shorter === before) return undefined;
    changed++;
    const inputs = tokenInputs(rolls, seed);
    const want = ranProgram(rolls, seed).outputs();
    for (const after of [shorter, applied(shorter, [drop])]) {
      verifyGraph(after);
      // Recurrent layers are written out, which adds in another order.
      const problem = difference(want, evaluate(after, { inputs, params: tokenParams }), 1e-12);
      if (problem !== undefined) return problem;
    }
    return undefined;
  }, 800);
  t.is(failure, undefined, failure && report(failure, 'drop-steps'));
  t.true(changed > 8, `${changed} changed`);
});

test('a failing program is made small', (t) => {
  // A pass that is wrong about every attention.
  const check: Check = (rolls) =>
    printGraph(tokenGraph(rolls)).includes('attention') ? 'it has an attention' : undefined;
  const failure = firstFailure(check, 100);
  t.truthy(failure);
  const { rolls, seed } = failure!;
  t.true(rolls.length < rollsOf(seed).length);
  t.deepEqual(shrunk(check, failure!), failure);
  const values = printGraph(tokenGraph(rolls)).split('\n').length;
  t.true(values < 30, `${values} lines`);
});

/** Programs that a pass once took for others, each made small by a long run. */
const past = join(projectRoot, 'tests', 'fixtures', 'programs');
const ways: Readonly<Record<string, readonly Pass[]>> = { drop: [drop], pack: [pack], 'drop, pack': [drop, pack] };
for (const file of readdirSync(past))
  test(`${file}: as it was written`, (t) => {
    const [before] = parseGraphs(readFileSync(join(past, file), 'utf8')) as [Graph];
    for (let seed = 0; seed < 4; seed++) {
      const inputs = Object.fromEntries(before.inputs.map((v, n) => [String(v.attrs.name), filled(v, 100 * seed + n)]));
      const want = evaluate(before, { inputs, params: tokenParams });
      for (const [way, passes] of Object.entries(ways)) {
        const after = applied(before, passes);
        verifyGraph(after);
        t.is(difference(want, evaluate(after, { inputs, params: tokenParams })), undefined, way);
      }
    }
  });

/** Seeded elements; integers name rows of an axis of two or more. */
function filled(v: Value, seed: number): Nd {
  const { dtype, shape } = typeOf(v);
  const next = seeded(seed);
  const sizes = shape as readonly number[];
  const draw = (): number => (isFloat(dtype) ? next() * 2 - 1 : Math.floor(next() * 2) - (dtype === 'i64' ? 1 : 0));
  return nd(dtype, sizes, Array.from({ length: countOf(sizes) }, draw));
}
