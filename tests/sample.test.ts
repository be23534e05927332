/** Sample inputs: what they decide of a program, and work counted with them. */
import test from 'ava';
import { compile } from '../compiler/compile.ts';
import {
  attention,
  dim,
  i64,
  input,
  mask,
  mergeHeads,
  model,
  nn,
  notEqual,
  output,
  splitHeads,
} from '../frontends/dsl/index.ts';
import { seededWeights } from '../frontends/zoo/index.ts';
import { CompileError } from '../ir/diagnostic.ts';
import { nd } from '../ir/nd.ts';

const batch = dim('batch', { max: 8 });
const slots = dim('slots', { max: 64, default: 16 });
const words = model(
  'words',
  { ids: input(i64, [batch, slots], 'numbers'), present: input(i64, [batch, slots], '1 for words') },
  ({ ids, present }) => {
    const heads = splitHeads(nn.embedding('table', { rows: 9, width: 64 })(ids), 2);
    const keep = notEqual(present, 0);
    const y = mergeHeads(attention(heads, heads, heads, { mask: mask.keep(keep) }));
    return { y: output(nn.linear('last', { in: 64, out: 256 })(y), { where: keep }) };
  },
);
const bundle = compile(words, { weights: seededWeights(words) });
/** A product of 64 by 256 for each word, scores and sums of values for each pair of two words. */
const macs = (count: number, pairs: number): number => count * 64 * 256 + 2 * 64 * pairs;

test('without samples the most there can be is counted', async (t) => {
  const { at, macs: written, macsAllowed } = await bundle.report();
  t.deepEqual(at, { batch: 1, slots: 16, packed: 16 });
  t.is(written, macs(16, 256));
  t.is(macsAllowed, macs(16, 256));
});

test('a sample decides sizes, counts and pairs', async (t) => {
  const lengths = [3, 16, 1];
  const present = nd(
    'i64',
    [3, 16],
    lengths.flatMap((n) => Array.from({ length: 16 }, (_, i) => (i < n ? 1 : 0))),
  );
  const { at, entries, macs: written, macsAllowed, macsCompiled } = await bundle.report({ present });
  t.deepEqual(at, { batch: 3, slots: 16, packed: 20 });
  t.is(written, macs(48, 3 * 256));
  t.is(macsAllowed, macs(20, 9 + 256 + 1));
  t.true(entries[0]!.pairs.exact && macsCompiled >= macsAllowed && macsCompiled < written);
});

test('words need not stand first', async (t) => {
  const { at, macsAllowed } = await bundle.report({ present: nd('i64', [1, 4], [0, 1, 0, 1]) });
  t.deepEqual(at, { batch: 1, slots: 4, packed: 2 });
  t.is(macsAllowed, macs(2, 4));
});

test('inputs that decide nothing leave the most there can be', async (t) => {
  const { at, macsAllowed, entries } = await bundle.report({ ids: nd('i64', [2, 5], new Array<number>(10).fill(1)) });
  t.deepEqual(at, { batch: 2, slots: 5, packed: 10 });
  t.is(macsAllowed, macs(10, 50));
  t.false(entries[0]!.pairs.exact);
});

test('a sample that does not fit is refused', async (t) => {
  const refused = async (x: ReturnType<typeof nd>): Promise<string | undefined> =>
    (await t.throwsAsync(bundle.report({ present: x }), { instanceOf: CompileError })).diagnostic.code;
  t.is(await refused(nd('i64', [1, 65], new Array<number>(65).fill(1))), 'range');
  t.is(await refused(nd('i32', [1, 4], [1, 1, 1, 1])), 'dtype');
});
