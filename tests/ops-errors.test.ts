import test from 'ava';
import { CompileError } from '../ir/diagnostic.ts';
import type { Value } from '../ir/graph.ts';
import type { Nd } from '../ir/nd.ts';
import { add, and, cast, exp, pow, select, shiftLeft } from '../ir/ops/elementwise.ts';
import { gather, gatherNd, oneHot, scatterElements } from '../ir/ops/index.ts';
import { randomUniform } from '../ir/ops/random.ts';
import { concat, expand, iota, pad, reshape, slice, split, transpose, trilu } from '../ir/ops/shape.ts';
import { constant, input } from '../ir/ops/structural.ts';
import * as s from '../ir/scalar.ts';
import type { Dim } from '../ir/type.ts';

const given = (shape: readonly Dim[], dtype: Nd['dtype'] = 'f32'): Value => input([], { name: 'x', dtype, shape });
const N = s.symbol('N', { max: 64 });
const [x23, ints, flags] = [given([2, 3]), given([2], 'i32'), given([2, 3], 'bool')];

/** What each mistake must be told, word for word. */
const mistakes: readonly (readonly [message: string, build: () => Value])[] = [
  ['shape: add: sizes 3 and 2 do not broadcast (axis -1)', () => add([x23, given([2])])],
  ['shape: add: sizes 3 and N do not broadcast (axis -1)', () => add([x23, given([N])])],
  ['dtype: add: operands differ in dtype, f32 and f64', () => add([x23, given([3], 'f64')])],
  ['dtype: add: operands must be numeric, not bool', () => add([flags, flags])],
  ['dtype: and: operands must be bool, not f32', () => and([x23, x23])],
  ['dtype: pow: operands must be float, not i32', () => pow([ints, ints])],
  ['dtype: shift_left: operands must be int, not f32', () => shiftLeft([x23, x23])],
  ['dtype: exp: operand must be float, not i32', () => exp([ints])],
  ['dtype: select: condition must be bool, not f32', () => select([x23, x23, x23])],
  ['dtype: select: branches differ in dtype, f32 and i32', () => select([flags, x23, given([2, 3], 'i32')])],
  ['operand: add: takes (a, b), not 1 operand', () => add([x23])],
  ['attribute: cast: attribute to is missing', () => cast([x23], {} as { to: 'f32' })],
  ['shape: reshape: element counts differ, [2, 3] and [5]', () => reshape([x23], { shape: [5] })],
  [
    'shape: reshape: element counts differ, [N, 4] and [N * 2]',
    () => reshape([given([N, 4])], { shape: [s.mul(N, 2)] }),
  ],
  ['attribute: reshape: size -1 in shape [2, -1]', () => reshape([x23], { shape: [2, -1] })],
  ['attribute: transpose: perm [0, 0] is no permutation of 0..1', () => transpose([x23], { perm: [0, 0] })],
  ['shape: expand: [2, 3] does not stretch to [2, 1]', () => expand([x23], { shape: [2, 1] })],
  ['shape: expand: sizes 3 and 4 do not broadcast (axis -1)', () => expand([x23], { shape: [2, 4] })],
  [
    'range: slice: axis 1 has size 3, but 1..4 was asked for',
    () => slice([x23], { starts: [0, 1], stops: [2, 4], steps: [1, 1] }),
  ],
  [
    'range: slice: axis 0 has size N, but 0..N + 1 was asked for',
    () => slice([given([N])], { starts: [0], stops: [s.add(N, 1)], steps: [1] }),
  ],
  ['attribute: slice: a step of 0', () => slice([ints], { starts: [0], stops: [1], steps: [0] })],
  ['shape: concat: sizes differ on axis 1, 4 and 3', () => concat([x23, given([2, 4])], { axis: 0 })],
  ['operand: concat: needs at least one operand', () => concat([], { axis: 0 })],
  ['rank: concat: axis 2 does not exist in rank 2', () => concat([x23], { axis: 2 })],
  ['shape: split: pieces do not add up to axis 1, 4 and 3', () => split([x23], { axis: 1, sizes: [2, 2] })],
  ['attribute: pad: needs amounts for each of 2 axes', () => pad([x23], { before: [1], after: [1] })],
  ['shape: pad: axis 0 of size 2 loses 3', () => pad([x23], { before: [-3, 0], after: [0, 0] })],
  [
    'shape: pad: axis 0 is empty: edge has nothing to show',
    () => pad([given([0])], { before: [1], after: [0], mode: 'edge' }),
  ],
  ['rank: trilu: needs rank ≥ 2, not 1', () => trilu([ints])],
  ['dtype: iota: bool does not count', () => iota([], { axis: 0, shape: [2], dtype: 'bool' })],
  ['dtype: gather: indices must be i32 or i64, not f32', () => gather([x23, x23])],
  ['shape: gather_nd: the last axis of the indices needs a static size', () => gatherNd([x23, given([2, N], 'i32')])],
  ['shape: scatter_elements: updates must be [2], not f32[2, 3]', () => scatterElements([given([5]), ints, x23])],
  ['dtype: one_hot: indices must be i32 or i64, not f32', () => oneHot([x23], { depth: 2, dtype: 'f32' })],
  [
    'dtype: random_uniform: random values are floats, not i32',
    () => randomUniform([], { shape: [2], seed: 1, dtype: 'i32' }),
  ],
  [
    'attribute: constant: 1 elements for shape [2]',
    () => constant([], { value: { dtype: 'f32', shape: [2], data: Float64Array.of(1) } }),
  ],
];

for (const [message, build] of mistakes)
  test(`refused: ${message}`, (t) => {
    const error = t.throws(build, { instanceOf: CompileError });
    t.is(`${error?.code}: ${error?.diagnostic.message}`, message);
  });
