/**
 * Random operators. Their numbers are functions of the seed and the position, the same in every run; a file without a
 * seed gets one from the name of the node.
 */
import { isFloat, type Scalar } from '../../ir/dtype.ts';
import { typeOf, type Value } from '../../ir/graph.ts';
import { less } from '../../ir/ops/elementwise.ts';
import { randomCategorical, randomNormal, randomUniform } from '../../ir/ops/random.ts';
import { expand } from '../../ir/ops/shape.ts';
import type { Dim, Shape } from '../../ir/type.ts';
import type { Entries, Entry, Node } from './node.ts';
import { to, unsqueezed, workType } from './values.ts';

const bits = new DataView(new ArrayBuffer(4));

/** The key of a node's numbers: its seed, and a number of its own. */
function keyOf(n: Node): { readonly seed: number; readonly stream: number } {
  let stream = 0;
  for (const c of n.proto.name || n.proto.outputs[0] || '') stream = (Math.imul(stream, 31) + c.charCodeAt(0)) | 0;
  if (!n.hasAttribute('seed')) return { seed: 0, stream };
  bits.setFloat32(0, n.float('seed'));
  return { seed: bits.getInt32(0), stream: 0 };
}

type Draw = (n: Node, shape: Shape, dtype: 'f32' | 'f64') => Value;

const uniform: Draw = (n, shape, dtype) =>
  randomUniform([], { ...keyOf(n), shape, dtype, low: n.float('low', 0), high: n.float('high', 1) });
const normal: Draw = (n, shape, dtype) =>
  randomNormal([], { ...keyOf(n), shape, dtype, mean: n.float('mean', 0), std: n.float('scale', 1) });

/** Of the shape that an attribute states. */
const drawn =
  (draw: Draw): Entry =>
  (n) => {
    const dtype = n.dtype('dtype') ?? 'f32';
    return to(draw(n, n.intList('shape') ?? [], workType(dtype)), dtype);
  };
/** Of the shape of the operand. */
const drawnLike =
  (draw: Draw): Entry =>
  (n) => {
    const { dtype: own, shape } = n.type(0);
    const dtype: Scalar = n.dtype('dtype') ?? (isFloat(own) ? own : 'f32');
    return to(draw(n, shape, workType(dtype)), dtype);
  };

function bernoulli(n: Node): Value {
  const p = n.value(0);
  const { dtype, shape } = typeOf(p);
  const work = workType(dtype);
  return to(less([randomUniform([], { ...keyOf(n), shape, dtype: work }), to(p, work)]), n.dtype('dtype') ?? dtype);
}

function multinomial(n: Node): Value {
  const x = n.value(0);
  n.expectRank(0, 2);
  const [rows, classes] = typeOf(x).shape as [Dim, Dim];
  const count = n.int('sample_size', 1);
  const wide = expand([unsqueezed(x, 1)], { shape: [rows, count, classes] });
  // The operand holds logarithms of probabilities, up to a constant for each row.
  return to(randomCategorical([wide], keyOf(n)), n.dtype('dtype') ?? 'i32');
}

export const randoms: Entries = {
  RandomUniform: drawn(uniform),
  RandomNormal: drawn(normal),
  RandomUniformLike: drawnLike(uniform),
  RandomNormalLike: drawnLike(normal),
  Bernoulli: bernoulli,
  Multinomial: multinomial,
};
