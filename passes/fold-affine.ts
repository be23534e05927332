/**
 * A slope and an offset for each channel, next to a convolution, become part of its weights: inference batch normalisation,
 * and products and sums with constants.
 *
 * Behind it, s·(W∗x + b) + o is (s·W)∗x + (s·b + o). Before it, W∗(s·x + o) is (W·s)∗x + ΣW·o, where no padding stands
 * between: padding is 0 and not o. The new weights depend on parameters alone; they are computed in f64 when the bundle is
 * made, and rounded once.
 */
import { evaluate } from '../ir/evaluate.ts';
import { graph, readsSizes, typeOf, type Value } from '../ir/graph.ts';
import { countOf, type Nd } from '../ir/nd.ts';
import { makeValue } from '../ir/op.ts';
import { conv, convTranspose } from '../ir/ops/conv.ts';
import { add, div, mul, sub } from '../ir/ops/elementwise-binary.ts';
import { neg, reciprocal, sqrt } from '../ir/ops/elementwise-unary.ts';
import { batchNorm } from '../ir/ops/norm.ts';
import { dequantize } from '../ir/ops/quantize.ts';
import { reduceSum } from '../ir/ops/reduce.ts';
import { expand, reshape } from '../ir/ops/shape.ts';
import { scalar } from '../ir/ops/structural.ts';
import { dim, type Shape, sameShape, staticShape } from '../ir/type.ts';
import { ints, is, isOne, rankOf, shapeOf } from './facts.ts';
import type { MaskOptions } from './mask-options.ts';
import { describe, type PassContext } from './pass.ts';
import { type Miss, miss, type Rewritten, type Rule, rewritePass, rewritten } from './rewrite.ts';

/** slope · x + offset; the vectors are [C] and static. */
interface Affine {
  readonly kind: 'affine';
  readonly x: Value;
  readonly slope: Value | undefined;
  readonly offset: Value | undefined;
}

const isConv = (v: Value): boolean => is(v, conv) || is(v, convTranspose);

const known = new WeakMap<Value, boolean>();
/** Whether the bytes of a value are known when the bundle is made. */
function isStatic(v: Value): boolean {
  let found = known.get(v);
  if (found === undefined) {
    const computed = v.inputs.length > 0 && !readsSizes(v) && v.type.kind === 'tensor' && staticShape(v.type.shape);
    found = v.op.name === 'param' || v.op.name === 'constant' || (computed ? v.inputs.every(isStatic) : false);
    known.set(v, found);
  }
  return found;
}

/** A value that broadcasts against [N, C, …] as one number for each channel, [C]; undefined where it is none. */
function channelVector(v: Value, like: Shape): Value | undefined {
  const channels = like[1]!;
  if (typeof channels !== 'number') return undefined;
  const shape = shapeOf(v);
  const axis = 1 - (like.length - shape.length);
  if (shape.length > like.length || !shape.every((d, i) => isOne(d) || (i === axis && dim(d) === channels)))
    return undefined;
  const count = shape.some((d) => !isOne(d)) ? channels : 1;
  const vector = reshape([v], { shape: [count] });
  return count === channels ? vector : expand([vector], { shape: [channels] });
}

/** What `v` does to the channels of an operand; a miss where its vectors are not constants; undefined for other ops. */
function affineOf(v: Value): Affine | Miss | undefined {
  const [x, by] = v.inputs as [Value, Value];
  if (is(v, batchNorm)) {
    const [, scale, bias, mean, variance] = v.inputs as [Value, Value, Value, Value, Value];
    const loose = v.inputs.slice(1).find((p) => !isStatic(p));
    if (loose) return miss(`${describe(loose)} of the batch normalisation is computed when it runs, not a constant`);
    const deviation = sqrt([add([variance, scalar(Number(v.attrs.eps), typeOf(x).dtype)])]);
    const slope = div([scale, deviation]);
    return { kind: 'affine', x, slope, offset: sub([bias, mul([mean, slope])]) };
  }
  const commutes = is(v, mul) || is(v, add);
  if (!commutes && !is(v, div) && !is(v, sub)) return undefined;
  if (rankOf(v) < 3) return undefined;
  for (const [data, other] of commutes ? [[x, by] as const, [by, x] as const] : [[x, by] as const]) {
    if (isStatic(data) || !sameShape(shapeOf(data), shapeOf(v))) continue;
    const vector = channelVector(other, shapeOf(v));
    if (!vector) continue;
    if (!isStatic(other)) {
      if (!isConv(data) || isConv(other)) continue;
      return miss(
        `${describe(other)}, which ${is(v, mul) || is(v, div) ? 'scales' : 'shifts'} its channels, is no constant`,
      );
    }
    if (is(v, mul)) return { kind: 'affine', x: data, slope: vector, offset: undefined };
    if (is(v, div)) return { kind: 'affine', x: data, slope: reciprocal([vector]), offset: undefined };
    return { kind: 'affine', x: data, slope: undefined, offset: is(v, add) ? vector : neg([vector]) };
  }
  return undefined;
}

/** The numbers of a static value, where the parameters below it are known. */
function numbersOf(v: Value, { contents }: MaskOptions): Nd | undefined {
  let complete = true;
  const seen = new Set<Value>();
  const params = new Map<string, Nd>();
  const visit = (x: Value): void => {
    if (seen.has(x)) return;
    seen.add(x);
    if (x.op.name === 'param') {
      const found = contents?.(String(x.attrs.name));
      if (found && countOf(found.shape) === countOf(staticShape(shapeOf(x))!)) params.set(String(x.attrs.name), found);
      else complete = false;
    }
    x.inputs.forEach(visit);
  };
  visit(v);
  if (!complete) return undefined;
  return evaluate(graph('vector', [], [['value', v]]), {
    inputs: {},
    params: (name, { dtype, shape }) => ({ dtype, shape: staticShape(shape)!, data: params.get(name)!.data }),
  }).value;
}

/** Why vectors may not go into weights: a variance below 0, a number that is not finite. */
function strange({ slope, offset }: Affine, from: Value, facts: MaskOptions | undefined): Miss | undefined {
  for (const [what, vector] of [['slope', slope] as const, ['offset', offset] as const]) {
    const numbers = vector && facts && numbersOf(vector, facts);
    const at = numbers ? numbers.data.findIndex((x) => !Number.isFinite(x)) : -1;
    if (at >= 0) {
      const why = is(from, batchNorm) ? ': its variance plus eps is not above 0, or a parameter is not finite' : '';
      return miss(`the ${what} of channel ${at} is ${numbers!.data[at]}${why}`);
    }
  }
  return undefined;
}

/** Weights of a convolution that can be changed; a reason why not otherwise. */
function weightsOf(v: Value): Value | Miss | undefined {
  const weights = v.inputs[1]!;
  let base = weights;
  while (base.op.lower.kind === 'view' && base.inputs.length === 1) base = base.inputs[0]!;
  if (is(base, dequantize)) return miss('the weights are integers, whose scales the product already applies');
  if (!isStatic(weights)) return miss('the weights of the convolution are not constants');
  if (v.inputs[2] && !isStatic(v.inputs[2])) return miss('the bias of the convolution is not a constant');
  return typeof shapeOf(v)[1] === 'number' ? weights : undefined;
}

/** w · by, with a slope that is already there taken into the new one: weights are rounded once. */
function scaled(w: Value, by: Value): Value {
  const [inner, slope] = w.inputs;
  if (is(w, mul) && slope && isStatic(slope) && sameShape(shapeOf(slope), shapeOf(by)))
    return mul([inner!, mul([slope, by])]);
  return mul([w, by]);
}

/**
 * A vector of `groups` × `perGroup` channels, in the shape in which it multiplies weights [first, second, k…]: along the
 * first axis, or along the second, which counts the channels of one group.
 */
function alongWeights(vector: Value, weights: Shape, axis: 0 | 1, groups: number): Value {
  const [first, second, ...kernel] = weights as readonly [number, number, ...number[]];
  const ones = kernel.map(() => 1);
  if (axis === 0) return reshape([vector], { shape: [first, 1, ...ones] });
  if (groups === 1) return reshape([vector], { shape: [1, second, ...ones] });
  const apart = reshape([vector], { shape: [groups, 1, second] });
  const wide = expand([apart], { shape: [groups, first / groups, second] });
  return reshape([wide], { shape: [first, second, ...ones] });
}

const groupsOf = (v: Value): number => Number(v.attrs.groups);
const rebuilt = (v: Value, inputs: readonly (Value | undefined)[]): Value =>
  makeValue(
    v.op,
    inputs.filter((x) => x !== undefined),
    v.attrs,
  );

/** A convolution with a slope and an offset behind it. */
function behind(root: Value, { masks }: PassContext): Rewritten | Miss | undefined {
  const affine = affineOf(root);
  if (!affine) return undefined;
  if (affine.kind === 'miss') return isConv(root.inputs[0]!) || isConv(root.inputs[1]!) ? affine : undefined;
  const { x: image, slope, offset } = affine;
  if (!isConv(image)) return undefined;
  const weights = weightsOf(image);
  if (!weights || weights.kind === 'miss') return weights;
  const refused = strange(affine, root, masks);
  if (refused) return refused;
  const [x, , bias] = image.inputs;
  const axis = is(image, conv) ? 0 : 1;
  const w = slope ? scaled(weights, alongWeights(slope, shapeOf(weights), axis, groupsOf(image))) : weights;
  const b = bias && slope ? mul([bias, slope]) : bias;
  return rewritten(rebuilt(image, [x, w, b && offset ? add([b, offset]) : (b ?? offset)]), cover(image, 'convolution'));
}

/** A convolution with a slope and an offset before it. */
function before(root: Value, { masks }: PassContext): Rewritten | Miss | undefined {
  const inner = root.inputs[0]!;
  const affine = affineOf(inner);
  // What stands between two convolutions goes into the first one, which needs no sum.
  if (affine?.kind !== 'affine' || isConv(affine.x)) return undefined;
  const weights = weightsOf(root);
  if (!weights || weights.kind === 'miss') return weights;
  const { x, slope, offset } = affine;
  const pads = ints(root.attrs, 'pads');
  if (offset && is(root, convTranspose))
    return miss('fewer windows overlap at the border, where less of the offset arrives');
  if (offset && pads.some((n) => n !== 0)) return miss('its padding is 0, and not what the offset makes of 0');
  const refused = strange(affine, inner, masks);
  if (refused) return refused;
  const bias = root.inputs[2];
  const shape = shapeOf(weights);
  const along = (v: Value): Value => alongWeights(v, shape, is(root, conv) ? 1 : 0, groupsOf(root));
  const axes = shape.map((_, i) => i).slice(1);
  const sum = offset && reduceSum([mul([weights, along(offset)])], { axes });
  const b = bias && sum ? add([bias, sum]) : (bias ?? sum);
  return rewritten(
    rebuilt(root, [x, slope ? scaled(weights, along(slope)) : weights, b]),
    cover(inner, 'scaled image'),
  );
}

const cover = (v: Value, word: string): ReadonlyMap<Value, string> => new Map([[v, `the ${word}`]]);

const AFFINE = [batchNorm.def, mul.def, div.def, add.def, sub.def];
const rules: readonly Rule[] = [
  { name: 'behind-conv', ops: AFFINE, sharing: false, apply: behind },
  {
    name: 'before-conv',
    ops: [conv.def, convTranspose.def],
    sharing: false,
    apply: before,
  },
];

export const foldAffine = rewritePass({
  name: 'fold-affine',
  doc: 'Batch normalisation and other constant slopes and offsets of channels become part of the convolution next to them; legal because convolutions are linear.',
  rules,
});
