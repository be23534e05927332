/** Random programs over tokens compute the same, bit for bit, when the rows that nobody reads are dropped. */
import test from 'ava';
import fc from 'fast-check';
import { evaluate } from '../ir/evaluate.ts';
import type { Graph } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { printGraph } from '../ir/text.ts';
import { verifyGraph } from '../ir/verify.ts';
import { Demand } from '../passes/demand.ts';
import { dropTokensPass } from '../passes/drop-tokens.ts';
import { packRowsPass } from '../passes/pack-rows.ts';
import { members, runAll } from './support/demand-run.ts';
import { tokenGraph, tokenInputs, tokenParam } from './support/token-graph.ts';

/** Drops whatever can be dropped, so that small graphs show it. */
const eager = dropTokensPass({ macsPerElement: 0, share: 0.999 });
const params = (name: string, type: { readonly shape: readonly unknown[] }): Nd =>
  tokenParam(name, type.shape as readonly number[]);
const run = (graph: Graph, inputs: Readonly<Record<string, Nd>>): Readonly<Record<string, Nd>> => {
  const names = new Set(graph.inputs.map((v) => String(v.attrs.name)));
  return evaluate(graph, { inputs: Object.fromEntries(Object.entries(inputs).filter(([n]) => names.has(n))), params });
};

/** Equal but for the sign of zeros, which sums of dropped zeros may lose. */
function difference(a: Readonly<Record<string, Nd>>, b: Readonly<Record<string, Nd>>): string | undefined {
  for (const [name, x] of Object.entries(a))
    for (const [i, v] of x.data.entries()) {
      const w = b[name]!.data[i]!;
      if (v !== w && !Object.is(v, w)) return `${name}[${i}]: ${v} and ${w}`;
    }
  return undefined;
}

const programs = fc.array(fc.nat({ max: 1 << 16 }), { minLength: 8, maxLength: 60 });

test('programs compute the same after rows are dropped, bit for bit', (t) => {
  let [dropped, tried] = [0, 0];
  fc.assert(
    fc.property(programs, fc.nat({ max: 1000 }), (rolls, seed) => {
      const before = tokenGraph(rolls);
      const after = eager.run(before, { remark: () => {} });
      tried++;
      if (after === before) return;
      dropped++;
      verifyGraph(after);
      const inputs = tokenInputs(seed);
      const problem = difference(run(before, inputs), run(after, inputs));
      if (problem) throw new Error(`${problem}\n${printGraph(before)}\n${printGraph(after)}`);
    }),
    { numRuns: 1500, seed: 11, includeErrorInReport: true },
  );
  t.true(dropped > tried / 4, `${dropped} of ${tried}`);
});

test('programs compute the same after rows are packed, bit for bit', (t) => {
  const pack = packRowsPass(0);
  let [packed, tried] = [0, 0];
  fc.assert(
    fc.property(programs, fc.nat({ max: 1000 }), fc.boolean(), (rolls, seed, dropped) => {
      const before = tokenGraph(rolls);
      const first = dropped ? eager.run(before, { remark: () => {} }) : before;
      const after = pack.run(first, { remark: () => {} });
      tried++;
      if (after === first) return;
      packed++;
      verifyGraph(after);
      const inputs = tokenInputs(seed);
      const problem = difference(run(before, inputs), run(after, inputs));
      if (problem) throw new Error(`${problem}\n${printGraph(first)}\n${printGraph(after)}`);
    }),
    { numRuns: 1500, seed: 23, includeErrorInReport: true },
  );
  t.true(packed > 100, `${packed} of ${tried}`);
});

test('what nobody reads of the inputs changes no output', (t) => {
  let spared = 0;
  fc.assert(
    fc.property(programs, fc.nat({ max: 1000 }), fc.constantFrom(7, 1e30, 1e-310), (rolls, seed, factor) => {
      const graph = tokenGraph(rolls);
      const demand = new Demand(graph);
      const inputs = tokenInputs(seed);
      const ran = runAll(graph, inputs, params);
      const tokens = graph.inputs[0]!;
      const read = members(demand.of(tokens), demand, inputs.tokens!.shape, ran);
      if (read.data.every((x) => x === 1)) return;
      spared++;
      const moved = {
        ...inputs.tokens!,
        data: inputs.tokens!.data.map((x, i) => (read.data[i] ? x : (x + 1) * factor)),
      };
      const problem = difference(ran.outputs, run(graph, { ...inputs, tokens: moved }));
      if (problem) throw new Error(`${problem}\n${printGraph(graph)}\n${demand.print()}`);
    }),
    { numRuns: 1500, seed: 5, includeErrorInReport: true },
  );
  t.true(spared > 300, String(spared));
});
