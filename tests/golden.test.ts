import test from 'ava';
import { type Graph, graph } from '../ir/graph.ts';
import { add, sub } from '../ir/ops/elementwise.ts';
import { input } from '../ir/ops/structural.ts';
import { expectedGolden, type GoldenPass, goldenNames, goldenPass, runGolden } from './support/golden.ts';

for (const name of goldenNames())
  test(`golden ${name}`, async (t) => {
    const { found, expected } = await runGolden(name, false);
    t.is(found, expected);
  });

const SOURCE = `// Why this golden is there.
symbols N in 2..9
graph before(%x: f32[N, 3], %y: f32[3]) {
  %z = add %x, %y : f32[N, 3]
  return z: %z
}
`;

/** A pass that rebuilds the only op of the graph. */
const rebuild = (build: (g: Graph) => Graph['outputs']): GoldenPass => ({
  run: (g) => graph(g.name, g.inputs, build(g)),
});
const swap = rebuild((g) => new Map([['z', add([g.inputs[1]!, g.inputs[0]!], {}, { name: 'z' })]]));
const wrong = rebuild((g) => new Map([['z', sub([g.inputs[0]!, g.inputs[1]!])]]));

test('a golden without its second half is completed from what the pass makes', (t) => {
  const completed = expectedGolden(SOURCE, 'swap.ir', swap);
  t.is(
    completed,
    `${SOURCE}// expect
graph after(%x: f32[N, 3], %y: f32[3]) {
  %z = add %y, %x : f32[N, 3]
  return z: %z
}
`,
  );
  t.is(expectedGolden(completed, 'swap.ir', swap), completed);
});

test('a stale second half is not what the runner expects', (t) => {
  const stale = `${SOURCE}// expect\ngraph after(%x: f32[N, 3], %y: f32[3]) {\n  return z: %x\n}\n`;
  t.not(expectedGolden(stale, 'swap.ir', swap), stale);
});

test('a pass that changes what a graph computes is never blessed', (t) => {
  t.throws(() => expectedGolden(SOURCE, 'wrong.ir', wrong), {
    message: /wrong\.ir: before and after compute different values; nothing is blessed\noutput z: element 0 is/,
  });
});

test('a pass that makes an ill-formed graph is never blessed', (t) => {
  const foreign = rebuild(
    (g) => new Map([['z', add([g.inputs[0]!, input([], { name: 'other', dtype: 'f32', shape: [3] })])]]),
  );
  t.throws(() => expectedGolden(SOURCE, 'foreign.ir', foreign), {
    message: /input "other" is not declared by graph after/,
  });
});

test('a reason why a rule did not apply is part of the golden', (t) => {
  const refuses: GoldenPass = {
    run: (g, { remark }) => {
      remark('missed', g.inputs[0]!, 'the axis is not last');
      return g;
    },
  };
  t.true(expectedGolden(SOURCE, 'refuses.ir', refuses).endsWith('}\n// missed: the axis is not last\n'));
});

test('a folder without a pass fails and says so', async (t) => {
  await t.throwsAsync(goldenPass('no-such-pass'), {
    message: /tests\/golden\/no-such-pass: no pass is named "no-such-pass"/,
  });
});
