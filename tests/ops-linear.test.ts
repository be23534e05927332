import test from 'ava';
import { typeOf } from '../ir/graph.ts';
import { nd } from '../ir/nd.ts';
import { einsum } from '../ir/ops/einsum.ts';
import { matmul } from '../ir/ops/linear.ts';
import '../ir/ops/all.ts';
import type { Value } from '../ir/graph.ts';
import { printDim, printType } from '../ir/print.ts';
import { symbol } from '../ir/scalar.ts';
import { type Dim, sizeAt } from '../ir/type.ts';
import { argument, diagnosticOf, f64, gradientError, run, runAll, wave } from './support/op-run.ts';

const a = f64([2, 3], 1, 2, 3, 4, 5, 6);
const b = f64([3, 2], 7, 8, 9, 10, 11, 12);
const macsOf = (v: Value): Dim => v.op.macs!(v.inputs.map(typeOf), v.attrs, v.type);

test('matmul multiplies rows by columns, and reads transposed operands in place', (t) => {
  t.deepEqual(run(matmul, [a, b]), [58, 64, 139, 154]);
  t.deepEqual(run(matmul, [a, f64([2, 3], 7, 9, 11, 8, 10, 12)], { transposeB: true }), [58, 64, 139, 154]);
  t.deepEqual(run(matmul, [f64([3, 2], 1, 4, 2, 5, 3, 6), b], { transposeA: true }), [58, 64, 139, 154]);
});

test('matmul broadcasts leading axes', (t) => {
  const x = f64([2, 1, 1, 2], 1, 2, 3, 4);
  const y = f64([3, 2, 1], 1, 0, 0, 1, 1, 1);
  const [out] = runAll(matmul, [x, y]);
  t.deepEqual(out!.shape, [2, 3, 1, 1]);
  t.deepEqual([...out!.data], [1, 2, 3, 3, 4, 7]);
});

test('matmul over an empty inner axis is zero, and integers wrap', (t) => {
  t.deepEqual(run(matmul, [f64([2, 0]), f64([0, 1])]), [0, 0]);
  t.deepEqual(run(matmul, [nd('i8', [1, 2], [100, 100]), nd('i8', [2, 1], [1, 1])]), [-56]);
});

test('matmul names the sizes that differ and suggests the transposition that fits', (t) => {
  const d = diagnosticOf(() => matmul([argument('attended', [197, 768]), argument('projection', [384, 768])]));
  t.is(d.message, 'matmul: inner sizes differ, 768 and 384');
  t.is(d.help, 'the weight looks transposed; pass { transposeB: true } or transpose it at import');
  t.deepEqual(d.notes, ['attended : f32[197, 768]   from input', 'projection : f32[384, 768]   from input']);
  const ranks = diagnosticOf(() => matmul([argument('v', [3]), argument('m', [3, 2])]));
  t.is(ranks.message, 'matmul: a must have rank ≥ 2, not f32[3]');
  const dtypes = diagnosticOf(() => matmul([argument('x', [2, 2]), argument('y', [2, 2], 'f16')]));
  t.is(dtypes.message, 'matmul: operands differ in dtype, f32 and f16');
  const batches = diagnosticOf(() => matmul([argument('x', [2, 3, 3]), argument('y', [4, 3, 3])]));
  t.is(batches.message, 'matmul: sizes 2 and 4 do not broadcast (axis -1)');
});

test('multiply-accumulates are exact beyond 2^31, with numbers and with symbols', (t) => {
  const [rows, inner, columns] = [50_257, 1024, 768];
  t.is(macsOf(matmul([argument('x', [rows, inner]), argument('w', [inner, columns])])), 39_523_713_024);
  const s = symbol('S', { max: 4096 });
  const symbolic = macsOf(matmul([argument('x', [s, 3072]), argument('w', [3072, 768])]));
  t.is(
    sizeAt(symbolic, () => 4096),
    9_663_676_416,
  );
});

test('matmul keeps symbolic rows and batches', (t) => {
  const s = symbol('S', { max: 64 });
  const scores = matmul([argument('q', [2, s, 5]), argument('k', [2, s, 5])], { transposeB: true });
  t.is(printType(typeOf(scores)), 'f32[2, S, S]');
});

test('matmul: its gradient agrees with differences for every transposition and broadcast', (t) => {
  for (const transposeA of [false, true])
    for (const transposeB of [false, true]) {
      const x = wave(0.7, 2, ...(transposeA ? [3, 4] : [4, 3]));
      const y = wave(1.1, ...(transposeB ? [5, 3] : [3, 5]));
      t.true(gradientError(matmul, [x, y], { transposeA, transposeB }) < 1e-8, `${transposeA} ${transposeB}`);
    }
  t.true(gradientError(matmul, [wave(0.7, 2, 1, 2, 3), wave(1.1, 4, 3, 2)]) < 1e-8);
});

test('einsum contracts, permutes, sums and spreads', (t) => {
  t.deepEqual(run(einsum, [a, b], { equation: 'ij,jk->ik' }), [58, 64, 139, 154]);
  t.deepEqual(run(einsum, [a], { equation: 'ij->ji' }), [1, 4, 2, 5, 3, 6]);
  t.deepEqual(run(einsum, [a], { equation: 'ij->i' }), [6, 15]);
  t.deepEqual(run(einsum, [f64([2], 2, 3), f64([2], 5, 7)], { equation: 'i,j->ij' }), [10, 14, 15, 21]);
  t.deepEqual(run(einsum, [f64([2], 2, 3), f64([2], 5, 7)], { equation: 'i,i->' }), [31]);
  t.deepEqual(run(einsum, [b, a], { equation: 'ba,cb' }), run(einsum, [b, a], { equation: 'ba,cb->ac' }));
});

test('einsum gives each result axis the size of its index, ellipsis included', (t) => {
  const s = symbol('S', { max: 64 });
  const x = argument('x', [2, s, 5]);
  t.is(printType(typeOf(einsum([x, argument('w', [5, 7])], { equation: '...d,de->...e' }))), 'f32[2, S, 7]');
});

test('einsum refuses what it cannot mean', (t) => {
  const [x, y] = [argument('x', [2, 3]), argument('y', [4, 2])];
  const message = (equation: string, ...xs: Value[]): string => diagnosticOf(() => einsum(xs, { equation })).message;
  t.is(message('ij,jk->ik', x, y), 'einsum: index "j" has sizes 3 and 4');
  t.is(message('ij->ij', x, y), 'einsum: equation "ij->ij": 1 terms for 2 operands');
  t.is(message('ijk->i', x), 'einsum: equation "ijk->i": term "ijk" names 3 axes of operand 0, which has rank 2');
  t.is(message('ii->i', argument('z', [3, 4])), 'einsum: index "i" has sizes 3 and 4');
  t.is(message('ij->k', x), 'einsum: equation "ij->k": the result has index "k", which no operand has');
  t.is(
    message('...j->j', x),
    'einsum: equation "...j->j": the result drops the ellipsis; name those axes to sum over them',
  );
  t.is(
    message('ij->->', x),
    'einsum: equation "ij->->": expected letters, commas, one "..." a term and at most one "->"',
  );
});

test('einsum counts every index of a step once, along a chain from the left', (t) => {
  const of = (equation: string, ...shapes: number[][]): string =>
    printDim(
      macsOf(
        einsum(
          shapes.map((shape, i) => argument(`x${i}`, shape)),
          { equation },
        ),
      ),
    );
  t.is(of('bhqd,bhkd->bhqk', [2, 3, 5, 7], [2, 3, 11, 7]), String(2 * 3 * 5 * 7 * 11));
  t.is(of('ij->ji', [2, 3]), '0');
  t.is(of('ab,bc,cd->ad', [2, 3], [3, 4], [4, 5]), String(2 * 3 * 4 + 2 * 4 * 5));
});
