/** Einstein summation: parsed once, evaluated from the definition, lowered to transpose, reshape, matmul and sums. */
import { attr } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { typeOf, type Value } from '../graph.ts';
import { eachIndex, generate, rowMajor } from '../nd.ts';
import { type AxisRole, defineOp } from '../op.ts';
import { printDim } from '../print.ts';
import { add as plus } from '../scalar.ts';
import { asExpr, type Dim, dim, elements, type Shape, sameDim, type TensorType, tensor } from '../type.ts';
import { expectDtype, expectSameDtype } from './check.ts';
import { mul } from './elementwise.ts';
import { addAs, mulAs } from './exact.ts';
import { f32, given } from './example.ts';
import { gather } from './index.ts';
import { matmul } from './linear.ts';
import { macsOf, macsSum } from './macs.ts';
import { reduceSum } from './reduce.ts';
import { expand, iota, reshape, transpose } from './shape.ts';
import { scalar } from './structural.ts';

/** The index of each axis of each operand and of the result; axes under an ellipsis are called "…0", "…1" from the last. */
interface Equation {
  readonly operands: readonly (readonly string[])[];
  readonly result: readonly string[];
}

function parse(equation: string, ranks: readonly number[]): Equation {
  const compact = equation.replaceAll(/\s/g, '');
  const [left = '', right, more] = compact.split('->');
  const terms = left.split(',');
  const syntax = (why: string): never => fail('attribute', `equation "${equation}": ${why}`);
  if (more !== undefined || !/^[A-Za-z.,]*$/.test(left) || !/^[A-Za-z.]*$/.test(right ?? ''))
    syntax('expected letters, commas, one "..." a term and at most one "->"');
  if (terms.length !== ranks.length) syntax(`${terms.length} terms for ${ranks.length} operands`);
  const expandTerm = (term: string, hidden: number): string[] => {
    const [head = '', tail, extra] = term.split('...');
    if (extra !== undefined || `${head}${tail ?? ''}`.includes('.')) syntax(`term "${term}" has a stray dot`);
    const middle = tail === undefined ? [] : Array.from({ length: hidden }, (_, i) => `…${hidden - 1 - i}`);
    return [...head, ...middle, ...(tail ?? '')];
  };
  const operands = terms.map((term, n) => {
    const letters = term.replace('...', '').length;
    const hidden = ranks[n]! - letters;
    if (hidden < 0 || (hidden > 0 && !term.includes('...')))
      syntax(`term "${term}" names ${letters} axes of operand ${n}, which has rank ${ranks[n]}`);
    return expandTerm(term, hidden);
  });
  const hidden = Math.max(0, ...operands.map((names) => names.filter((x) => x.startsWith('…')).length));
  const all = operands.flat();
  if (right === undefined) {
    // Without an arrow: the ellipsis, then the indices that occur once, in alphabetical order.
    const once = [...new Set(all)].filter((x) => !x.startsWith('…') && all.filter((y) => y === x).length === 1).sort();
    return { operands, result: [...expandTerm('...', hidden), ...once] };
  }
  const result = expandTerm(right, hidden);
  if (new Set(result).size !== result.length) syntax('the result repeats an index');
  for (const name of result) if (!all.includes(name)) syntax(`the result has index "${name}", which no operand has`);
  if (hidden > 0 && !right.includes('...')) syntax('the result drops the ellipsis; name those axes to sum over them');
  return { operands, result };
}

const equationOf = (inputs: readonly { readonly shape: readonly unknown[] }[], equation: string): Equation =>
  parse(
    equation,
    inputs.map((t) => t.shape.length),
  );

/** Size of every index. Axes under an ellipsis broadcast; others must agree. */
function sizesOf({ operands }: Equation, shapes: readonly Shape[]): Map<string, Dim> {
  const sizes = new Map<string, Dim>();
  for (const [n, names] of operands.entries())
    names.forEach((name, axis) => {
      const size = shapes[n]![axis]!;
      const known = sizes.get(name);
      if (known === undefined || (name.startsWith('…') && known === 1)) sizes.set(name, size);
      else if (!sameDim(known, size) && !(name.startsWith('…') && size === 1))
        fail('shape', `index "${name}" has sizes ${printDim(known)} and ${printDim(size)}`);
    });
  return sizes;
}

/** A value with the name of each of its axes. */
interface Named {
  readonly value: Value;
  readonly names: readonly string[];
}
const shapeOf = (x: Named): Shape => typeOf(x.value).shape;

function permuted(x: Named, names: readonly string[]): Named {
  const perm = names.map((name) => x.names.indexOf(name));
  return perm.every((p, i) => p === i) ? x : { value: transpose([x.value], { perm }), names };
}
/** Sums over the axes whose names are not wanted. */
function summed(x: Named, wanted: ReadonlySet<string>): Named {
  const axes = x.names.flatMap((name, i) => (wanted.has(name) ? [] : [i]));
  if (axes.length === 0) return x;
  return { value: reduceSum([x.value], { axes }), names: x.names.filter((name) => wanted.has(name)) };
}
/** The diagonal of every pair of axes that have one name, so that names are distinct. */
function distinct(x: Named): Named {
  const second = x.names.findIndex((name, i) => x.names.indexOf(name) < i);
  if (second < 0) return x;
  const first = x.names.indexOf(x.names[second]!);
  const shape = shapeOf(x);
  const size = shape[first]!;
  const rest = shape.map((_, i) => i).filter((i) => i !== first && i !== second);
  const turned = transpose([x.value], { perm: [first, second, ...rest] });
  const lines = reshape([turned], { shape: [dim(elements([size, size])), ...rest.map((i) => shape[i]!)] });
  // Element (i, i) of a square stands at i · (size + 1).
  const step = reduceSum([expand([scalar(1, 'i64')], { shape: [dim(plus(asExpr(size), 1))] })], { axes: [0] });
  const at = mul([iota([], { axis: 0, shape: [size], dtype: 'i64' }), step]);
  const value = gather([lines, at]);
  return distinct({ value, names: [x.names[first]!, ...rest.map((i) => x.names[i]!)] });
}
/** The value with the given groups of neighbouring axes merged into one axis each. */
function merged(x: Named, groups: readonly (readonly string[])[]): Value {
  const sizeOf = (name: string): Dim => shapeOf(x)[x.names.indexOf(name)]!;
  const shape = groups.map((group) => dim(elements(group.map(sizeOf))));
  return shape.length === x.names.length && groups.every((g) => g.length === 1)
    ? x.value
    : reshape([x.value], { shape });
}

/**
 * One product of two operands that keeps the names in `wanted`.
 *
 * Names of both operands that are kept become batch axes, which `matmul` broadcasts; the rest of each operand is merged
 * into its rows or columns. An operand whose axes already stand in [batch, rows, inner] or [batch, inner, rows] order
 * is not moved: the order is passed to `matmul` as a flag.
 */
function product(a0: Named, b0: Named, wanted: ReadonlySet<string>): Named {
  const shared = (names: readonly string[], other: readonly string[]): Set<string> =>
    new Set(names.filter((name) => wanted.has(name) || other.includes(name)));
  const a = summed(a0, shared(a0.names, b0.names));
  const b = summed(b0, shared(b0.names, a.names));
  const batch = a.names.filter((name) => b.names.includes(name) && wanted.has(name));
  const inner = a.names.filter((name) => b.names.includes(name) && !wanted.has(name));
  const rows = a.names.filter((name) => !b.names.includes(name));
  const columns = b.names.filter((name) => !a.names.includes(name));
  if (inner.length === 0)
    return scaled(permuted(a, [...batch, ...rows]), permuted(b, [...batch, ...columns]), batch, rows, columns);
  const split = (x: Named, own: readonly string[]): { value: Value; innerFirst: boolean } => {
    const apart = batch.map((name) => [name]);
    const first = [...batch, ...inner, ...own];
    if (own.length > 0 && first.every((name, i) => name === x.names[i]))
      return { value: merged(x, [...apart, inner, own]), innerFirst: true };
    return { value: merged(permuted(x, [...batch, ...own, ...inner]), [...apart, own, inner]), innerFirst: false };
  };
  const [left, right] = [split(a, rows), split(b, columns)];
  const value = matmul([left.value, right.value], { transposeA: left.innerFirst, transposeB: !right.innerFirst });
  const names = [...batch, ...rows, ...columns];
  const sizeIn = (name: string): Dim =>
    (a.names.includes(name) ? shapeOf(a)[a.names.indexOf(name)] : shapeOf(b)[b.names.indexOf(name)])!;
  const lead = typeOf(value).shape.slice(0, batch.length);
  const shape = [...lead, ...rows.map(sizeIn), ...columns.map(sizeIn)];
  return { value: rows.length === 1 && columns.length === 1 ? value : reshape([value], { shape }), names };
}

/** A product without a contraction: an outer product, as a broadcast multiplication. */
function scaled(
  a: Named,
  b: Named,
  batch: readonly string[],
  rows: readonly string[],
  columns: readonly string[],
): Named {
  const ones = new Array<Dim>(columns.length).fill(1);
  const [sa, sb] = [shapeOf(a), shapeOf(b)];
  const left = columns.length === 0 ? a.value : reshape([a.value], { shape: [...sa, ...ones] });
  const spread = [...sb.slice(0, batch.length), ...new Array<Dim>(rows.length).fill(1), ...sb.slice(batch.length)];
  const right = rows.length === 0 ? b.value : reshape([b.value], { shape: spread });
  return { value: mul([left, right]), names: [...batch, ...rows, ...columns] };
}

/** The names that a chain of products must keep after its first `done` operands. */
const stillWanted = ({ operands, result }: Equation, done: number): Set<string> =>
  new Set([...result, ...operands.slice(done).flat()]);

/** Multiply-accumulates of a left-to-right chain: each step touches every index of its two operands once. */
function chainMacs(inputs: readonly TensorType[], equation: string): Dim {
  const eq = equationOf(inputs, equation);
  const sizes = sizesOf(
    eq,
    inputs.map((t) => t.shape),
  );
  let names = new Set(eq.operands[0]);
  let total: Dim = 0;
  for (let n = 1; n < inputs.length; n++) {
    const touched = new Set([...names, ...eq.operands[n]!]);
    total = macsSum(total, macsOf(...[...touched].map((name) => sizes.get(name)!)));
    const wanted = stillWanted(eq, n + 1);
    names = new Set([...touched].filter((name) => wanted.has(name)));
  }
  return total;
}

export const einsum = defineOp({
  name: 'einsum',
  doc: 'Einstein summation, such as "bqd,bkd->bqk": products summed over the indices that the result lacks. "..." stands for leading axes, which broadcast. An index that one term repeats walks a diagonal. Without "->" the result has the indices that occur once, in alphabetical order.',
  inputs: ['xs...'],
  attrs: { equation: attr.string("terms of index letters, one an operand, and the result's") },
  type: (inputs, { equation }) => {
    if (inputs.length === 0) fail('operand', 'needs at least one operand');
    const dtype = expectSameDtype(inputs);
    expectDtype(inputs[0]!, 'number', 'operands');
    const eq = equationOf(inputs, equation);
    const sizes = sizesOf(
      eq,
      inputs.map((t) => t.shape),
    );
    return tensor(
      dtype,
      eq.result.map((name) => sizes.get(name)!),
    );
  },
  axes: (inputs, { equation }) => {
    const eq = equationOf(inputs, equation);
    const sizes = sizesOf(
      eq,
      inputs.map((t) => t.shape),
    );
    return eq.operands.map((names, n) =>
      names.map((name, axis): AxisRole => {
        const to = eq.result.indexOf(name);
        return to < 0 ||
          names.indexOf(name) !== names.lastIndexOf(name) ||
          !sameDim(inputs[n]!.shape[axis]!, sizes.get(name)!)
          ? 'mix'
          : to;
      }),
    );
  },
  eval: (xs, { equation }, cx) => {
    const { dtype, shape } = cx.types[0]!;
    const eq = equationOf(xs, equation);
    const sizes = sizesOf(
      eq,
      xs.map((x) => x.shape),
    );
    const inner = [...sizes.keys()].filter((name) => !eq.result.includes(name));
    const order = [...eq.result, ...inner];
    // For each operand, how far one step along each index moves; 0 where it lacks the index or broadcasts.
    const moves = xs.map((x, n) => {
      const strides = rowMajor(x.shape);
      return order.map((name) => {
        // An index that an operand repeats moves along both axes at once.
        return eq.operands[n]!.reduce(
          (sum, own, axis) => (own !== name || x.shape[axis] === 1 ? sum : sum + strides[axis]!),
          0,
        );
      });
    });
    return generate(dtype, shape, (at) => {
      let sum = 0;
      eachIndex(
        inner.map((name) => sizes.get(name) as number),
        (deep) => {
          const place = [...at, ...deep];
          const factor = (n: number): number =>
            xs[n]!.data[place.reduce((flat, i, axis) => flat + i * moves[n]![axis]!, 0)]!;
          let term = factor(0);
          for (let n = 1; n < xs.length; n++) term = mulAs(dtype, term, factor(n));
          sum = addAs(dtype, sum, term);
        },
      );
      return sum;
    });
  },
  lower: {
    kind: 'decompose',
    build: (xs, { equation }) => {
      const eq = equationOf(xs.map(typeOf), equation);
      const [first, ...rest] = xs.map((value, n) => distinct({ value, names: eq.operands[n]! }));
      let out = first!;
      rest.forEach((next, i) => {
        out = product(out, next, stillWanted(eq, i + 2));
      });
      return permuted(summed(out, new Set(eq.result)), eq.result).value;
    },
  },
  macs: (inputs, { equation }) => chainMacs(inputs, equation),
  onnx: { op: 'Einsum', since: 12, attrs: { equation: 'equation' } },
  examples: [
    { inputs: [f32(2, 3, 5, 4), f32(2, 3, 7, 4)], attrs: { equation: 'bhqd,bhkd->bhqk' } },
    { inputs: [f32(2, 5, 7, 3, 2, 4)], attrs: { equation: 'nchpwq->nhwpqc' }, note: 'a permutation' },
    { inputs: [f32(3, 5)], attrs: { equation: 'ij->ji' } },
    { inputs: [f32(2, 3, 5), f32(2, 5, 4)], attrs: { equation: 'bij,bjk->bik' } },
    { inputs: [f32(3), f32(5)], attrs: { equation: 'i,j->ij' }, note: 'an outer product' },
    { inputs: [f32(3, 5)], attrs: { equation: 'ij->' }, note: 'a sum of everything' },
    { inputs: [f32(3, 5, 2), f32(5, 4)], attrs: { equation: 'ijx,jk->ki' }, note: 'x is summed in one operand only' },
    { inputs: [f32(2, 1, 3, 5), f32(4, 5, 2)], attrs: { equation: '...ij,...jk->...ik' }, note: 'ellipses broadcast' },
    { inputs: [f32(3, 5), f32(5, 4)], attrs: { equation: 'ij, jk' }, note: 'an implied result' },
    { inputs: [f32(2, 3), f32(3, 4), f32(4, 5)], attrs: { equation: 'ab,bc,cd->ad' }, note: 'a chain' },
    {
      inputs: [f32(2, 3, 4, 5), f32(4, 3, 6)],
      attrs: { equation: 'bxyd,yxe->bde' },
      note: 'two inner axes in different order',
    },
    { inputs: [f32(4), f32(4)], attrs: { equation: 'i,i->' }, note: 'a dot product' },
    { inputs: [f32(3, 3)], attrs: { equation: 'ii->' }, note: 'a trace' },
    { inputs: [f32(2, 3, 3), f32(3, 4)], attrs: { equation: '...ii,ij->...ij' }, note: 'diagonals' },
    { inputs: [f32(2, 2, 5, 2)], attrs: { equation: 'iiji' }, note: 'a diagonal of three axes' },
    { inputs: [f32(3, 0), f32(0, 2)], attrs: { equation: 'ij,jk->ik' }, note: 'an empty sum' },
    { inputs: [f32(2, 3), f32(3)], attrs: { equation: 'bi,i->bi' } },
    { inputs: [given('i32', [2, 3]), given('i32', [3])], attrs: { equation: 'bi,i->b' } },
  ],
});
