/** Rotary position embedding. */
import { opt } from '../attr.ts';
import { fail } from '../diagnostic.ts';
import { typeOf, type Value } from '../graph.ts';
import { broadcastOffset, eachIndex, nd, rowMajor } from '../nd.ts';
import { defineOp } from '../op.ts';
import { printType } from '../print.ts';
import { dim, type Shape, sameShape, type TensorType } from '../type.ts';
import { broadcastShapes, expectDtype, expectRankAtLeast, expectSameDtype, typeAt } from './check.ts';
import { add, mul } from './elementwise-binary.ts';
import { f32 } from './example.ts';
import { concat, reshape, slice, sliceAxis } from './shape.ts';
import { constant } from './structural.ts';

const widthOf = (x: TensorType, width: number): number => (width > 0 ? width : (x.shape.at(-1) as number));

/** Tables broadcast against the leading axes of x; in the last axis they have one number a pair, or one an element. */
function checkTable(name: string, table: TensorType, x: TensorType, width: number): void {
  expectRankAtLeast(table, 1, name);
  const [lead, last] = [table.shape.slice(0, -1), table.shape.at(-1)!];
  const outer = x.shape.slice(0, -1);
  const fits = lead.length <= outer.length && sameShape(broadcastShapes([outer, lead]), outer);
  if (!fits || (last !== width && last !== width / 2))
    fail('shape', `${name} is ${printType(table)}, which gives ${printType(x)} no angles`, {
      help: `its last axis has ${width / 2} or ${width} elements, the others broadcast against those of x`,
    });
}

/**
 * Turns pairs of elements of the last axis by angles given as cosine and sine: (a, b) becomes (a·cos − b·sin, b·cos + a·sin).
 * The first `width` elements turn, the others stay.
 */
export const rotary = defineOp({
  name: 'rotary',
  doc: 'Turns pairs (a, b) of elements of the last axis: (a·cos − b·sin, b·cos + a·sin). a and b stand half of `width` apart, or side by side.',
  inputs: ['x', 'cos', 'sin'],
  attrs: {
    width: opt.int(0, 'elements that turn, from the first on; 0: all of them'),
    interleaved: opt.bool(false, 'pairs are neighbours, not halves'),
  },
  type: (inputs, attrs) => {
    const [x, cos, sin] = [typeAt(inputs, 0), typeAt(inputs, 1), typeAt(inputs, 2)];
    expectDtype(x, 'float', 'x');
    expectRankAtLeast(x, 1, 'x');
    expectSameDtype(inputs);
    const all = x.shape.at(-1)!;
    if (typeof all !== 'number') fail('shape', `the last axis of x must have a static size, not ${printType(x)}`);
    const width = widthOf(x, attrs.width);
    if (width % 2 !== 0 || width > all) fail('attribute', `${width} of ${all} elements do not form pairs`);
    checkTable('cos', cos, x, width);
    checkTable('sin', sin, x, width);
    return x;
  },
  axes: ([x, ...tables]) => {
    const rank = x!.shape.length;
    const last = (i: number, of: TensorType): boolean => i === of.shape.length - 1;
    return [x!, ...tables].map((t) =>
      t.shape.map((d, i) => {
        const axis = i + rank - t.shape.length;
        return last(i, t) || (dim(d) === 1 && x!.shape[axis] !== 1) ? 'mix' : axis;
      }),
    );
  },
  eval: ([x, cos, sin], { width, interleaved }) => {
    const all = x!.shape.at(-1)!;
    const turned = width > 0 ? width : all;
    const half = turned / 2;
    const out = nd(x!.dtype, x!.shape, x!.data);
    const strides = [cos!, sin!].map((t) => rowMajor(t.shape));
    const angle = (n: 0 | 1, at: readonly number[], i: number, pair: number): number => {
      const table = n === 0 ? cos! : sin!;
      const column = table.shape.at(-1) === turned ? i : pair;
      return table.data[broadcastOffset(table.shape, strides[n]!, [...at, column])]!;
    };
    eachIndex(x!.shape.slice(0, -1), (at, line) => {
      const from = (i: number): number => x!.data[line * all + i]!;
      for (let pair = 0; pair < half; pair++) {
        const [a, b] = interleaved ? [2 * pair, 2 * pair + 1] : [pair, pair + half];
        out.data[line * all + a] = from(a) * angle(0, at, a, pair) - from(b) * angle(1, at, a, pair);
        out.data[line * all + b] = from(b) * angle(0, at, b, pair) + from(a) * angle(1, at, b, pair);
      }
    });
    return out;
  },
  lower: {
    kind: 'decompose',
    // Each element times its cosine, plus its partner times ± its sine: the partner is read through a view, turned around in
    // the axis of size 2, so that neighbours in memory stay neighbours where halves turn.
    build: ([x, cos, sin], { width, interleaved }) => {
      const { dtype, shape } = typeOf(x!);
      const [all, turned] = [shape.at(-1) as number, widthOf(typeOf(x!), width)];
      const half = turned / 2;
      const pairs = (lead: Shape, count: number): Shape =>
        interleaved ? [...lead, half, count] : [...lead, count, half];
      const apart = (v: Value): Value => {
        const { shape: of } = typeOf(v);
        return reshape([v], { shape: pairs(of.slice(0, -1), of.at(-1) === turned ? 2 : 1) });
      };
      const last = shape.length - 1;
      const whole = apart(turned === all ? x! : sliceAxis(x!, last, 0, turned));
      const axis = interleaved ? last + 1 : last;
      const size = typeOf(whole).shape;
      const partner = slice([whole], {
        starts: size.map((_, i) => (i === axis ? 1 : 0)),
        stops: size.map((d, i) => (i === axis ? -1 : d)),
        steps: size.map((_, i) => (i === axis ? -1 : 1)),
      });
      const signs = constant([], { value: nd(dtype, interleaved ? [2] : [2, 1], [-1, 1]) });
      const sum = add([mul([whole, apart(cos!)]), mul([mul([partner, signs]), apart(sin!)])]);
      const result = reshape([sum], { shape: [...shape.slice(0, -1), turned] });
      return turned === all ? result : concat([result, sliceAxis(x!, last, turned, all)], { axis: last });
    },
  },
  examples: [
    { inputs: [f32(2, 3, 5, 8), f32(5, 4), f32(5, 4)] },
    { inputs: [f32(2, 5, 3, 8), f32(2, 5, 1, 4), f32(1, 5, 1, 4)], attrs: { interleaved: true } },
    { inputs: [f32(2, 3, 6), f32(3, 6), f32(3, 6)], note: 'an angle for each element' },
    { inputs: [f32(2, 3, 6), f32(2, 1, 6), f32(6)], attrs: { interleaved: true } },
    { inputs: [f32(3, 9), f32(3, 2), f32(3, 2)], attrs: { width: 4 }, note: 'the others stay' },
    { inputs: [f32(3, 7), f32(3, 6), f32(3, 6)], attrs: { width: 6, interleaved: true } },
    { inputs: [f32(0, 4), f32(2), f32(2)] },
  ],
});
