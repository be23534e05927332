/**
 * What is raised is the function that was written: whatever number a spelled-out function is changed to, what comes out of
 * the pass computes the same. A rule that takes a wrong constant for the right one fails here.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { type Graph, graphValues } from '../ir/graph.ts';
import { parseGraphs } from '../ir/parse.ts';
import { type Remark, runPasses } from '../passes/pass.ts';
import { raise } from '../passes/raise.ts';
import { compareGraphs, goldenNames, goldenRoot } from './support/golden.ts';
import '../ir/ops/all.ts';

const NUMBER = /(?<= )-?\d+(?:\.\d+)?(?:e-?\d+)?(?=[,}]|$)/g;

/** The text above `// expect` of each golden of `raise`, and where numbers stand in its statements. */
const sources = goldenNames()
  .filter((name) => name.startsWith('raise/'))
  .map((name) => {
    const text = readFileSync(join(goldenRoot, `${name}.ir`), 'utf8').split('// expect')[0]!;
    const at: number[] = [];
    let start = 0;
    for (const line of text.split('\n')) {
      // Sizes and axes are no numbers of a function.
      const isArithmetic = /= (?:add|sub|mul|div|pow|maximum|minimum|clamp) /.test(line);
      if (isArithmetic) for (const found of line.split(' : ')[0]!.matchAll(NUMBER)) at.push(start + found.index);
      start += line.length + 1;
    }
    return { name, text, at };
  })
  .filter(({ at }) => at.length > 0);

const raised = (g: Graph): { readonly after: Graph; readonly remarks: readonly Remark[] } => {
  const remarks: Remark[] = [];
  return { after: runPasses(g, [raise], { remark: (r) => remarks.push(r) }), remarks };
};

/** The source with its number `n` replaced. */
function changed({ text, at }: (typeof sources)[number], n: number, to: (x: number) => number): Graph {
  const place = at[n % at.length]!;
  const [found] = /^-?\d+(?:\.\d+)?(?:e-?\d+)?/.exec(text.slice(place))!;
  const number = to(Number(found));
  return parseGraphs(`${text.slice(0, place)}${Math.fround(number)}${text.slice(place + found.length)}`)[0]!;
}

test('a changed constant changes nothing but what is raised', (t) => {
  t.true(sources.length > 20, String(sources.length));
  const factor = fc.oneof(
    fc.double({ min: 1e-4, max: 0.9, noNaN: true }).map((d) => 1 + d),
    fc.double({ min: 1e-4, max: 0.9, noNaN: true }).map((d) => 1 - d),
    fc.constantFrom(-1, 0, 2, 0.5),
  );
  fc.assert(
    fc.property(fc.constantFrom(...sources), fc.nat(20), factor, (source, n, by) => {
      const before = changed(source, n, (x) => x * by);
      const { after } = raised(before);
      const difference = compareGraphs(before, after);
      if (difference) throw new Error(`${source.name}, number ${n % source.at.length} times ${by}: ${difference}`);
    }),
    { numRuns: 400, seed: 4 },
  );
});

test('activations whose constant is off by a thousandth are not raised', (t) => {
  const ops = new Set(['gelu', 'quick_gelu', 'silu', 'softplus', 'mish', 'hard_swish']);
  let tried = 0;
  for (const source of sources) {
    const whole = graphValues(raised(parseGraphs(source.text)[0]!).after);
    // Halves know a thousandth from nothing; slopes of the hard ones are attributes, whatever they are.
    const isExact = !source.text.includes('f16') && source.name !== 'raise/hard-activations';
    if (!isExact || !whole.some((v) => ops.has(v.op.name))) continue;
    for (const [n] of source.at.entries())
      for (const by of [1.001, 0.999]) {
        const { after } = raised(changed(source, n, (x) => x * by));
        t.true(graphValues(after).length > whole.length, `${source.name}, number ${n} times ${by}`);
        tried++;
      }
  }
  t.true(tried > 50, String(tried));
});
