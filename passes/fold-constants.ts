/** Computes at compile time what depends on constants alone. Parameters are never read. */
import { CompileError } from '../ir/diagnostic.ts';
import { evaluate } from '../ir/evaluate.ts';
import { graph, readsSizes, type Value } from '../ir/graph.ts';
import { countOf, nd } from '../ir/nd.ts';
import { constant } from '../ir/ops/structural.ts';
import { staticShape } from '../ir/type.ts';
import { literalOf } from './facts.ts';
import { simplifyPass } from './rewrite.ts';

/** Results beyond this are folded only where they are no larger than what they are made of. */
const LIMIT = 1024;
/** Nothing beyond this is computed while compiling. */
const MOST = 1 << 20;

/** A value of constants alone as a constant; undefined where it is large, or reads anything else. */
export function folded(value: Value): Value | undefined {
  if (value.inputs.length === 0 || value.type.kind === 'tuple' || readsSizes(value)) return undefined;
  let known = 0;
  for (const x of value.inputs) {
    const literal = literalOf(x);
    if (!literal) return undefined;
    known += literal.data.length;
  }
  const shape = staticShape(value.type.shape);
  if (!shape) return undefined;
  const size = countOf(shape);
  if (size > MOST || known > MOST || (size > LIMIT && size > known)) return undefined;
  try {
    // Each element is computed in f64 and rounded once to its type.
    const { value: result } = evaluate(graph('constant', [], [['value', value]]), { inputs: {} });
    return constant([], { value: nd(result!.dtype, result!.shape, result!.data) });
  } catch (error) {
    // An index outside its tensor: the fault stays in the model, where running it reports it.
    if (error instanceof CompileError && error.code === 'range') return undefined;
    throw error;
  }
}

export const foldConstants = simplifyPass({
  name: 'fold-constants',
  doc: 'What depends on constants alone becomes a constant, unless that is much larger than what it is made of.',
  merge: false,
  identities: () => [{ why: 'depends on constants alone', simplify: folded }],
});
