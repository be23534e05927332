/** What an author sees in the editor: literal shape mistakes are red, each with one line that says what disagrees. */
import test from 'ava';
import * as dsl from '../frontends/dsl/index.ts';
import { typeErrors } from './support/type-errors.ts';

const functions = Object.keys(dsl).filter((name) => /^[a-z]\w*$/.test(name) && name !== 'bool');

const prelude = `
import { ${functions.join(', ')}, type Tensor } from '../frontends/dsl/index.ts';
const batch = dim('batch', { max: 8 });
const sequence = dim('sequence', { max: 16 });
declare function is<T>(x: T): void;
declare const x: Tensor<'f32', readonly [typeof batch, 197, 768]>;
declare const y: Tensor<'f32', readonly [typeof batch, 197, 384]>;
declare const ids: Tensor<'i64', readonly [typeof batch, typeof sequence]>;
declare const q: Tensor<'f32', readonly [typeof batch, 12, 197, 64]>;
declare const k: Tensor<'f32', readonly [typeof batch, 12, 50, 64]>;
declare const unknown: Tensor<'f32'>;
declare const w: Tensor<'f32', readonly [384, 768]>;
declare const rows: Tensor<'f32', readonly [typeof batch, number]>;
declare const half: Tensor<'f16', readonly [768]>;
declare function vector<const N extends number>(n: N): Tensor<'f32', readonly [N]>;
`;

/** An expression that must be red, and the type that its wrong argument is said not to fit. */
const MISTAKES: readonly (readonly [source: string, message: string])[] = [
  ['matmul(x, w)', 'matmul: inner sizes differ, 768 and 384'],
  ['matmul(y, w, { transposeB: true })', 'matmul: inner sizes differ, 384 and 768'],
  ['matmul(x, vector(768))', 'matmul: operands have rank 2 or more, not shape [768]'],
  ['linear(y, w)', 'linear: inner sizes differ, 384 and 768'],
  ['linear(x, w, vector(768))', 'linear: the bias has size 768, the weight has 384 rows'],
  ["nn.linear('fc', { in: 384, out: 10 })(x)", 'linear: the layer takes size 384, the last axis has size 768'],
  ["nn.layerNorm('norm', { size: 384 })(x)", 'layerNorm: the layer takes size 384, the last axis has size 768'],
  ['add(x, y)', 'add: sizes 768 and 384 do not broadcast, shapes [batch, 197, 768] and [batch, 197, 384]'],
  ['mul(ids, take(x, 1, 0))', 'mul: dtypes differ, i64 and f32; cast one of them'],
  ['add(x, half)', 'add: dtypes differ, f32 and f16; cast one of them'],
  [
    'sub(take(y, 1, 0), take(x, 1, 0))',
    'sub: sizes 384 and 768 do not broadcast, shapes [batch, 384] and [batch, 768]',
  ],
  [
    'equal(ids, transpose(ids, [1, 0]))',
    'equal: sizes sequence and batch do not broadcast, shapes [batch, sequence] and [sequence, batch]',
  ],
  [
    'select(less(x, 0), x, y)',
    'select: sizes 768 and 384 do not broadcast, shapes [batch, 197, 768] and [batch, 197, 384]',
  ],
  [
    'select(less(y, 0), x, 0)',
    'select: sizes 384 and 768 do not broadcast, shapes [batch, 197, 384] and [batch, 197, 768]',
  ],
  ['gelu(ids)', 'gelu: takes floats, not i64; cast it'],
  ['softmax(ids)', 'softmax: takes floats, not i64; cast it'],
  ['softmax(x, 3)', 'softmax: axis 3 does not exist in shape [batch, 197, 768]'],
  ['layerNorm(x, vector(384), vector(768))', 'layerNorm: scale has size 384, the last axis has size 768'],
  ['attention(x, x, x)', 'attention: q, k and v are [batch, heads, sequence, width], not [batch, 197, 768]'],
  ['attention(q, k, q)', 'attention: numbers of keys and values differ, 50 and 197'],
  ['attention(q, transpose(k, [0, 1, 3, 2]), k)', 'attention: widths of q and k differ, 64 and 50'],
  ['transpose(x, [0, 2])', 'transpose: 2 axes in perm for shape [batch, 197, 768]'],
  ['take(x, 3, 0)', 'take: axis 3 does not exist in shape [batch, 197, 768]'],
  ['sum(x, { axes: -4 })', 'sum: axis -4 does not exist in shape [batch, 197, 768]'],
  ['concat([x, y], 1)', 'concat: sizes off axis 1 differ, shapes [batch, 197, 768] and [batch, 197, 384]'],
  ['concat([x, rows], 1)', 'concat: ranks differ, shapes [batch, 197, 768] and [batch, ?]'],
  ['gather(w, x)', 'gather: indices are i64 or i32, not f32; cast them'],
];

/** Right code, and what its type must be. */
const RIGHT = `
is<Tensor<'f32', readonly [typeof batch, 197, 384]>>(matmul(x, w, { transposeB: true }));
is<Tensor<'f32', readonly [typeof batch, 197, 384]>>(linear(x, w, vector(384)));
is<Tensor<'f32', readonly [typeof batch, 197, 10]>>(nn.linear('fc', { in: 768, out: 10 })(x));
is<Tensor<'f32', readonly [typeof batch, 197, 768]>>(add(x, vector(768)));
is<Tensor<'f32', readonly [typeof batch, 197, 768]>>(add(1, gelu(x)));
is<Tensor<'bool', readonly [typeof batch, typeof sequence]>>(notEqual(ids, 0));
is<Tensor<'f32', readonly [typeof batch, 768]>>(take(x, 1, 0));
is<Tensor<'f32', readonly [typeof batch, 197, 1]>>(mean(x, { axes: -1, keepdims: true }));
is<Tensor<'f32', readonly []>>(sum(x));
is<Tensor<'f32', readonly [197, typeof batch, 768]>>(transpose(x, [1, 0, 2]));
is<Tensor<'f32', readonly [typeof batch, 1, 197, 768]>>(unsqueeze(x, 1));
is<Tensor<'f32', readonly [typeof batch, typeof sequence, 768]>>(gather(w, ids));
is<Tensor<'f32', readonly [typeof batch, 12, 197, 64]>>(attention(q, k, k, { mask: causal }));
is<Tensor<'f16', readonly [768]>>(cast(vector(768), f16));
// What cannot be known is a size that agrees with every other.
add(rows, vector(7));
add(unknown, x);
matmul(unknown, w);
nn.linear('fc', { in: 5, out: 7 })(rows);
const joined = concat([x, x], 1);
add(joined, x);
`;

test('literal shape mistakes are red with one readable line', (t) => {
  const source = prelude + MISTAKES.map(([expression], i) => `export const m${i} = ${expression};`).join('\n');
  const first = prelude.split('\n').length;
  const errors = typeErrors(source);
  const found = MISTAKES.map(([expression], i) => {
    const here = errors.filter(({ line }) => line === first + i);
    return [
      expression,
      here
        .map(({ detail }) => /is not assignable to parameter of type '"(.*)"'\.$/.exec(detail)?.[1] ?? detail)
        .join(' | '),
    ];
  });
  t.deepEqual(
    found,
    MISTAKES.map(([expression, message]) => [expression, message]),
  );
  t.is(errors.length, MISTAKES.length);
});

test('right code is not red, and its types are known', (t) => {
  t.deepEqual(typeErrors(prelude + RIGHT), []);
});

test('a wrong result type is red too', (t) => {
  const [error, ...rest] = typeErrors(`${prelude}is<Tensor<'f32', readonly [typeof batch, 768, 197]>>(x);\n`);
  t.is(rest.length, 0);
  t.regex(
    error?.message ?? '',
    /^Argument of type 'Tensor<"f32", readonly \[Named<"batch">, 197, 768\]>' is not assignable/,
  );
});

test('inputs and parameters carry their shapes into the model function', (t) => {
  const errors = typeErrors(`
import { dim, f32, input, matmul, model, param } from '../frontends/dsl/index.ts';
export const m = model('m', { x: input(f32, [dim('batch', { max: 8 }), 768]) }, ({ x }) => {
  return { y: matmul(x, param('w', [384, 10])) };
});
`);
  t.deepEqual(
    errors.map(({ line, detail }) => [line, detail]),
    [
      [
        4,
        `Argument of type 'Tensor<"f32", readonly [384, 10]>' is not assignable to parameter of type '"matmul: inner sizes differ, 768 and 384"'.`,
      ],
    ],
  );
});
