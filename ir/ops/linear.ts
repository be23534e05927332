/** Matrix products. `einsum` is in its own file. */
import { opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { isInt } from '../dtype.ts';
import { typeOf, type Value } from '../graph.ts';
import { eachIndex, nd, rowMajor } from '../nd.ts';
import { type AxisRole, defineOp } from '../op.ts';
import { printDim } from '../print.ts';
import { dim, sameDim, type TensorType, tensor } from '../type.ts';
import { broadcastShapes, expectDtype, expectRankAtLeast, expectSameDtype, typeAt } from './check.ts';
import { addAs, mulAs } from './exact.ts';
import { f32, given } from './example.ts';
import { macsOf } from './macs.ts';
import { sumTo } from './reduce.ts';

interface Sides {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

/** Sizes of a product: batch axes, rows, inner size, columns. */
function productOf(inputs: readonly TensorType[], { transposeA, transposeB }: Sides) {
  const [a, b] = [typeAt(inputs, 0).shape, typeAt(inputs, 1).shape];
  const [rows, inner] = transposeA ? [a.at(-1)!, a.at(-2)!] : [a.at(-2)!, a.at(-1)!];
  const [innerB, columns] = transposeB ? [b.at(-1)!, b.at(-2)!] : [b.at(-2)!, b.at(-1)!];
  return { batch: [a.slice(0, -2), b.slice(0, -2)] as const, rows, inner, innerB, columns };
}

/**
 * Batched matrix product.
 *
 * A[…, M, K] · B[…, K, N] = [..., M, N]; leading axes broadcast. A transposed operand is stored [..., K, M] or [..., N, K].
 */
export const matmul = defineOp({
  name: 'matmul',
  doc: 'Matrix product of the last two axes; leading axes broadcast as in numpy. Operands have rank ≥ 2 and one dtype.',
  inputs: ['a', 'b'],
  attrs: {
    transposeA: opt.bool(false, 'a is stored [..., K, M]'),
    transposeB: opt.bool(false, 'b is stored [..., N, K]'),
  },
  type: (inputs, attrs) => {
    const [a, b] = [typeAt(inputs, 0), typeAt(inputs, 1)];
    expectRankAtLeast(a, 2, 'a');
    expectRankAtLeast(b, 2, 'b');
    const dtype = expectSameDtype(inputs);
    expectDtype(a, 'number', 'operands');
    const { batch, rows, inner, innerB, columns } = productOf(inputs, attrs);
    if (!sameDim(inner, innerB))
      fail('shape', `inner sizes differ, ${printDim(inner)} and ${printDim(innerB)}`, {
        help: sameDim(inner, columns)
          ? `the weight looks transposed; pass { transposeB: ${!attrs.transposeB} } or transpose it at import`
          : 'the last axis of a must have the size of the next to last axis of b',
        sizes: [[inner, innerB]],
      });
    return tensor(dtype, [...broadcastShapes(batch), rows, columns]);
  },
  axes: (inputs, attrs) => {
    const { batch } = productOf(inputs, attrs);
    const lead = broadcastShapes(batch);
    const [row, column] = [lead.length, lead.length + 1];
    const roles = (n: 0 | 1): AxisRole[] =>
      batch[n].map((d, i) => {
        const axis = i + lead.length - batch[n].length;
        return dim(d) === 1 && lead[axis] !== 1 ? 'mix' : axis;
      });
    return [
      [...roles(0), ...(attrs.transposeA ? (['mix', row] as const) : ([row, 'mix'] as const))],
      [...roles(1), ...(attrs.transposeB ? ([column, 'mix'] as const) : (['mix', column] as const))],
    ];
  },
  eval: ([a, b], { transposeA, transposeB }, cx) => {
    const { dtype, shape } = cx.types[0]!;
    const out = nd(dtype, shape);
    const [m, n] = [shape.at(-2)!, shape.at(-1)!];
    const k = a!.shape.at(transposeA ? -2 : -1)!;
    // Steps along rows, columns and the inner axis of each operand.
    const [am, ak] = transposeA ? [1, m] : [k, 1];
    const [bk, bn] = transposeB ? [1, k] : [n, 1];
    const lead = shape.slice(0, -2);
    const start = (x: typeof a, at: readonly number[]): number => {
      const own = x!.shape.slice(0, -2);
      const strides = rowMajor(x!.shape);
      return own.reduce((sum, d, i) => sum + (d === 1 ? 0 : at[i + lead.length - own.length]! * strides[i]!), 0);
    };
    const [x, y] = [a!.data, b!.data];
    const dot = (a0: number, b0: number): number => {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += x[a0 + i * ak]! * y[b0 + i * bk]!;
      return sum;
    };
    const intDot = (a0: number, b0: number): number => {
      let sum = 0;
      for (let i = 0; i < k; i++) sum = addAs(dtype, sum, mulAs(dtype, x[a0 + i * ak]!, y[b0 + i * bk]!));
      return sum;
    };
    const element = isInt(dtype) ? intDot : dot;
    eachIndex(lead, (at, batch) => {
      const [a0, b0] = [start(a, at), start(b, at)];
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) out.data[(batch * m + i) * n + j] = element(a0 + i * am, b0 + j * bn);
    });
    return out;
  },
  lower: { kind: 'schedule', name: 'matmul' },
  macs: (inputs, attrs) => {
    const { batch, rows, inner, columns } = productOf(inputs, attrs);
    return macsOf(...broadcastShapes(batch), rows, inner, columns);
  },
  grad: (out, [dout]): Value[] => {
    const [a, b] = [out.inputs[0]!, out.inputs[1]!];
    const transposeA = out.attrs.transposeA === true;
    const transposeB = out.attrs.transposeB === true;
    const da = transposeA
      ? matmul([b, dout!], { transposeA: transposeB, transposeB: true })
      : matmul([dout!, b], { transposeB: !transposeB });
    const db = transposeB
      ? matmul([dout!, a], { transposeA: true, transposeB: transposeA })
      : matmul([a, dout!], { transposeA: !transposeA });
    return [sumTo(da, typeOf(a).shape), sumTo(db, typeOf(b).shape)];
  },
  onnx: { op: 'MatMul', since: 13 },
  examples: [
    { inputs: [f32(3, 5), f32(5, 7)] },
    { inputs: [f32(2, 3, 5), f32(7, 5)], attrs: { transposeB: true }, note: 'a weight stored [out, in]' },
    { inputs: [f32(2, 1, 5, 3), f32(4, 5, 2)], attrs: { transposeA: true }, note: 'batch axes broadcast' },
    { inputs: [f32(5, 3), f32(7, 5)], attrs: { transposeA: true, transposeB: true } },
    { inputs: [f32(1, 1), f32(1, 1)] },
    { inputs: [f32(3, 0), f32(0, 2)], note: 'an empty inner axis gives zeros' },
    { inputs: [f32(0, 3), f32(3, 2)] },
    { inputs: [f32(1, 67), f32(67, 33)], note: 'one row' },
    { inputs: [given('i32', [2, 3]), given('i32', [3, 4])] },
    { inputs: [given('f32', [2, 2], [1, Infinity, 0, NaN]), given('f32', [2, 1], [0, 1])] },
  ],
});
