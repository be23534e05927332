/** Tensors stored as the few elements that are not zero. */
import { fail } from '../../ir/diagnostic.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { countOf, type Nd, nd } from '../../ir/nd.ts';
import { scatterNd } from '../../ir/ops/index.ts';
import { reshape } from '../../ir/ops/shape.ts';
import { constant } from '../../ir/ops/structural.ts';
import { filled } from './values.ts';

/**
 * The whole tensor; nothing of its size is made here.
 *
 * @param values the elements, [n]
 * @param indices where they stand: flat positions [n], or coordinates [n, rank]
 * @throws CompileError `shape` when indices and values do not go together, `range` for positions outside
 */
export function dense(values: Value, indices: Nd, dims: readonly number[], what: string): Value {
  const count = typeOf(values).shape[0];
  const total = countOf(dims);
  const flat = indices.shape.length === 1;
  const fits = flat || (indices.shape.length === 2 && indices.shape[1] === dims.length);
  if (!fits || indices.shape[0] !== count || dims.some((d) => d < 0) || !(total < 2 ** 31))
    fail('shape', `${what}: ${count} elements at [${indices.shape.join(', ')}] of [${dims.join(', ')}]`, {
      help: 'the file is damaged',
    });
  const at = Array.from({ length: indices.shape[0]! }, (_, n) => {
    const own = flat ? [indices.data[n]!] : Array.from(indices.data.subarray(n * dims.length, (n + 1) * dims.length));
    const sizes = flat ? [total] : dims;
    const outside = own.findIndex((i, axis) => !(i >= 0 && i < sizes[axis]!));
    if (outside >= 0) fail('range', `${what}: element ${n} stands at ${own.join(', ')} of [${dims.join(', ')}]`);
    return own.reduce((sum, i, axis) => sum * sizes[axis]! + i, 0);
  });
  const zeros = filled(0, typeOf(values).dtype, [total]);
  if (at.length === 0) return reshape([zeros], { shape: dims });
  const places = constant([], { value: nd('i64', [at.length, 1], at) });
  return reshape([scatterNd([zeros, places, values])], { shape: dims });
}
