/** THE ordered list of passes. */
import { fail } from '../ir/diagnostic.ts';
import { boundMasks } from './bound-masks.ts';
import { canonicalize } from './canonicalize.ts';
import { dropSteps } from './drop-steps.ts';
import { dropTokens } from './drop-tokens.ts';
import { foldAffine } from './fold-affine.ts';
import { foldConstants } from './fold-constants.ts';
import { foldMasks } from './fold-masks.ts';
import { fuseAttention } from './fuse-attention.ts';
import { integerProducts } from './integer-products.ts';
import { mergeProjections } from './merge-projections.ts';
import { packRows } from './pack-rows.ts';
import type { Pass } from './pass.ts';
import { raise } from './raise.ts';

/** Each line says why the pass stands where it does. */
const PIPELINE: readonly Pass[] = [
  canonicalize, // every later pass matches canonical forms only
  foldConstants, // sizes and scales that exporters compute become numbers, which patterns can read
  canonicalize, // numbers that have just been computed move to the right, and identities among them disappear
  raise, // before anything reads softmax or normalisations
  foldAffine, // before anything else reads the weights of convolutions
  fuseAttention, // takes scales off the queries, which then are plain projections
  foldMasks, // reads what attentions are masked with, which then need not be computed
  dropSteps, // before rows are dropped, which see what loops no longer read
  dropTokens, // knows the masks of attentions, and what of a product is read before others join it
  integerProducts, // an attention of dequantised queries and keys stays one
  mergeProjections, // sees which projections only feed an attention
  boundMasks, // once no mask is read any more by those before; equal limits meet below
  packRows, // after projections are merged, so that what an attention reads is put in place at once
  canonicalize, // slices and reshapes that the passes above left behind meet
];

const PASSES: readonly Pass[] = [...new Set(PIPELINE)];

/**
 * The passes that a graph goes through before it is compiled, in order. The same for every target so far.
 *
 * @param without names of passes to leave out
 * @throws CompileError `unsupported` for a name that no pass has
 */
export function pipelineFor(_target?: unknown, without: readonly string[] = []): readonly Pass[] {
  for (const name of without)
    if (!passNamed(name))
      fail('unsupported', `no pass is called "${name}"`, { help: `passes: ${passNames().join(', ')}` });
  return PIPELINE.filter((pass) => !without.includes(pass.name));
}

export const passNamed = (name: string): Pass | undefined => PASSES.find((pass) => pass.name === name);
/** Names of all passes, in order of first use. */
export const passNames = (): readonly string[] => PASSES.map((pass) => pass.name);
