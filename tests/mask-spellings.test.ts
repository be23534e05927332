/** Attention as exporters write it: whatever the spelling of its mask, the same predicate comes out. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { importOnnx } from '../frontends/onnx/index.ts';
import { type Graph, graphValues } from '../ir/graph.ts';
import type { EmptyRow } from '../ir/ops/attention.ts';
import { printExpr } from '../ir/print.ts';
import { type Remark, runPasses } from '../passes/pass.ts';
import { pipelineFor } from '../passes/pipeline.ts';
import { factsOf } from '../passes/weight-facts.ts';
import { projectRoot, sharedRoot } from './support/project.ts';

const folder = join(projectRoot, 'tests', 'fixtures', 'masks');

/** The mask of each spelling, and what a query without a key becomes; `bias` where there is none. */
const MEANING: Readonly<Record<string, readonly [mask: string, emptyRow: EmptyRow] | 'bias'>> = {
  'causal-sdpa': ['k <= q', 'zero'],
  chunks: ['k div 2 == q div 2', 'zero'],
  'expand-mask': ['in3[b, k] != 0', 'uniform'],
  'mask-converter': ['k <= q && in3[b, k] != 0', 'uniform'],
  'minus-least': ['in3[b, k] != 0', 'uniform'],
  'minus-ten-thousand': ['in3[b, k] != 0', 'unmasked'],
  'multihead-padding': ['in3[b, k] != 0', 'nan'],
  'ranges-eager': ['k <= q && in3[b, k] != 0', 'uniform'],
  'ranges-sdpa': ['k <= q && in3[b, k] != 0', 'zero'],
  'sliding-window': ['k <= q && q <= k + 2', 'zero'],
  'sliding-window-wider': ['k <= q && q <= k + 3', 'zero'],
  'soft-penalty': 'bias',
  'triangle-buffer': ['k <= q', 'zero'],
  'triangle-buffer-k2': ['k <= q + 1', 'zero'],
  'triangle-buffer-turned': ['q <= k', 'zero'],
  'triangle-of-infinity': ['k <= q', 'zero'],
  'triangle-of-infinity-k2': ['k <= q + 1', 'zero'],
};

function folded(file: string, binary: boolean): { readonly after: Graph; readonly remarks: readonly Remark[] } {
  const small = file.includes('.symbolic.') && file.startsWith('triangle-buffer');
  const { model, weights } = importOnnx(join(folder, file), {
    ...(small && { dims: { tokens: '1..16' } }),
    ...(!binary && { binary: [] }),
  });
  const passes = pipelineFor();
  const remarks: Remark[] = [];
  const after = runPasses(model.entries.main!, passes.slice(0, passes.findIndex((p) => p.name === 'fold-masks') + 1), {
    remark: (r) => remarks.push(r),
    masks: factsOf(weights),
    validate: true,
  });
  return { after, remarks };
}

const attentionOf = (g: Graph) => graphValues(g).find((v) => v.op.name === 'attention');

for (const file of readdirSync(folder).sort()) {
  const name = file.split('.')[0]!;
  test(`${file}: the mask`, (t) => {
    const found = attentionOf(folded(file, true).after);
    const meaning = MEANING[name];
    if (!found || !meaning) return t.fail(found ? `no meaning is stated for ${name}` : 'there is no attention');
    const { mask, bias, emptyRow } = found.attrs;
    if (meaning === 'bias') return t.deepEqual([mask, bias === undefined], [undefined, false]);
    t.is(bias, undefined);
    const text = printExpr(mask as never);
    // Padding that is read through a flat gather of unknown length is a tensor of booleans by then.
    const flat = name.startsWith('ranges-') && file.includes('.symbolic.');
    t.is(text, flat ? 'k <= q && in3[b, k]' : meaning[0]);
    // torch's second exporter fills with the least float where the first one fills with −∞ and removes NaN.
    t.is(emptyRow, name === 'ranges-sdpa' && file.includes('.dynamo.') ? 'uniform' : meaning[1]);
  });
}

for (const name of ['minus-ten-thousand', 'minus-least', 'expand-mask'])
  test(`${name}: numbers that nobody promises to be 0 and 1 stay numbers`, (t) => {
    const { after, remarks } = folded(`${name}.script.fixed.onnx`, false);
    t.is(attentionOf(after)?.attrs.mask, undefined);
    t.true(
      remarks.some(
        ({ kind, why }) =>
          kind === 'missed' && /%attention_mask holds numbers, and nobody declares that they are 0 and 1/.test(why),
      ),
    );
  });

test('every file has a meaning, and every meaning a file of each kind', (t) => {
  const files = readdirSync(folder).sort();
  const wanted = Object.keys(MEANING).flatMap((name) =>
    ['dynamo.fixed', 'dynamo.symbolic', 'script.fixed', 'script.symbolic'].map((kind) => `${name}.${kind}.onnx`),
  );
  t.deepEqual(files, wanted.sort());
});

/** Models beside the checkout: how many attentions have each mask. */
const PUBLISHED: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  'nn-transformer-encdec-causal': { 'k <= q, zero': 2, 'none, zero': 4 },
  'nn-transformer-encoder-padmask': { '!in3[b div 4, k], nan': 2 },
  'ort-bert-toy-pretraining': { 'in3[b, k] != 0, unmasked': 5 },
};
for (const [name, wanted] of Object.entries(PUBLISHED))
  test(`${name}: masks of a model that others exported`, (t) => {
    const file = join(sharedRoot, 'models', name, 'model.onnx');
    if (!existsSync(file)) {
      t.log(`not run: there is no shared/models/${name} beside the checkout`);
      t.pass();
      return;
    }
    const { model, weights } = importOnnx(file);
    const passes = pipelineFor();
    const after = runPasses(
      model.entries.main!,
      passes.slice(0, passes.findIndex((p) => p.name === 'fold-masks') + 1),
      { masks: factsOf(weights) },
    );
    const found: Record<string, number> = {};
    for (const { op, attrs } of graphValues(after)) {
      if (op.name !== 'attention') continue;
      t.is(attrs.bias, undefined);
      const key = `${attrs.mask ? printExpr(attrs.mask as never) : 'none'}, ${String(attrs.emptyRow)}`;
      found[key] = (found[key] ?? 0) + 1;
    }
    t.deepEqual(found, wanted);
  });
