/** Nodes that read or give elements of 8 bits or fewer, on the wider values that stand for them. */
import { fail } from '../../ir/diagnostic.ts';
import { isInt, type Scalar } from '../../ir/dtype.ts';
import type { Value } from '../../ir/graph.ts';
import { add, div, maximum, minimum, mul, round, sub } from '../../ir/ops/elementwise.ts';
import { placed } from '../../ir/ops/quantize.ts';
import { scalar } from '../../ir/ops/structural.ts';
import { computed, type Item } from './item.ts';
import { type Narrow, narrowOf } from './narrow.ts';
import { type Narrowing, narrowed } from './narrow-round.ts';
import type { Node } from './node.ts';
import { dtypeOf, shapeOf, to } from './values.ts';

/** An item whose elements are those of a format, held in a wider value. */
export function narrowItem(wide: Item, format: Narrow, name: string): Item {
  return {
    ...wide,
    dims: undefined,
    narrow: { format, wide },
    value: () =>
      fail('dtype', `"${name}" has elements of type ${format.name}, which is not supported here`, {
        help: HELP,
      }),
  };
}

/** Operators whose operands move as they are, by position. */
const MOVED: Readonly<Record<string, readonly number[] | 'all'>> = {
  Identity: [0],
  Concat: 'all',
  DepthToSpace: [0],
  Expand: [0],
  Flatten: [0],
  Gather: [0],
  GatherElements: [0],
  GatherND: [0],
  Reshape: [0],
  Slice: [0],
  SpaceToDepth: [0],
  Split: [0],
  Squeeze: [0],
  Tile: [0],
  Transpose: [0],
  Unsqueeze: [0],
  Where: [1, 2],
};

/**
 * Results of a node with operands or results of such a type; undefined where it has none.
 * @param run the node on other operands, through its ordinary entry
 */
export function onNarrow(n: Node, run: (node: Node) => Item[]): Item[] | undefined {
  const { op, domain } = n.proto;
  const quantises = (op === 'QuantizeLinear' || op === 'DequantizeLinear') && ['', 'com.microsoft'].includes(domain);
  const some = n.items.some((item) => item?.narrow);
  if (domain !== '' && !quantises) return some ? refuseNode(n) : undefined;
  const target = targetOf(n);
  if (target) return [tagged(n, computed(intoNarrow(n, target)), target)];
  if (!some || op === 'Shape' || op === 'Size') return undefined;
  if (op === 'Cast' || op === 'CastLike') return run(wideNode(n, 'all'));
  if (op === 'DequantizeLinear') return dequantized(n, run);
  const moved = Object.hasOwn(MOVED, op) ? MOVED[op]! : refuseNode(n);
  const places = moved === 'all' ? [...n.items.keys()] : moved;
  const format = n.items[places[0]!]?.narrow?.format;
  if (!format || places.some((at) => n.items[at]?.narrow?.format !== format)) return refuseNode(n);
  return run(wideNode(n, places)).map((item) => tagged(n, item, format));
}

const HELP = 'such elements may be moved, cast, quantised and dequantised; put a Cast in front of this operator';

/** An operator that computes with its operands has none for such types. */
function refuseNode(n: Node): never {
  const names = new Set(n.items.flatMap((item) => (item?.narrow ? [item.narrow.format.name] : [])));
  return n.fail(`it has elements of type ${[...names].join(' and ')}, which is not supported here`, HELP, 'dtype');
}

/** The node on the wide values at some operands; others must not be narrow. */
function wideNode(n: Node, places: readonly number[] | 'all'): Node {
  const at = (i: number): boolean => places === 'all' || places.includes(i);
  return n.on(n.items.map((item, i) => (item?.narrow && at(i) ? item.narrow.wide : item)));
}

const tagged = (n: Node, item: Item, format: Narrow): Item => narrowItem(item, format, n.proto.outputs[0] ?? '');

/** The format that a node narrows to; undefined where it does not. */
function targetOf(n: Node): Narrow | undefined {
  const { op } = n.proto;
  if (op === 'Cast') return narrowOf(n.elementType('to'));
  if (op === 'CastLike') return n.items[1]?.narrow?.format;
  if (op === 'QuantizeLinear') return n.items[2] ? n.items[2].narrow?.format : narrowOf(n.elementType('output_dtype'));
  return undefined;
}

function intoNarrow(n: Node, format: Narrow): Value {
  const { op } = n.proto;
  const how: Narrowing = {
    saturate: n.int('saturate', 1) !== 0,
    roundMode: n.string('round_mode', 'up'),
    infinitiesSaturate: n.opset >= 24,
  };
  n.ignore('to', 'output_dtype', 'precision', 'axis', 'block_size');
  const whole = wideNode(n, 'all');
  const x = whole.value(0);
  const result = op === 'QuantizeLinear' ? quantized(whole, x, format, how) : narrowed(x, format, how);
  n.finish();
  return result;
}

const REALS: readonly Scalar[] = ['f32', 'f64', 'f16', 'bf16'];

/** The type in which x is divided by its scale: what the node says, else that of the scale, else that of x. */
export function precisionOf(n: Node): Scalar {
  const stated = n.int('precision', 0) === 0 ? undefined : n.dtype('precision');
  const own = [stated, n.type(1).dtype, n.type(0).dtype].find((dtype) => dtype && REALS.includes(dtype));
  return own ?? 'f32';
}

function quantized(n: Node, x: Value, format: Narrow, how: Narrowing): Value {
  const place = { axis: n.int('axis', 1), block: n.int('block_size', 0) };
  const precision = precisionOf(n);
  const beside = (v: Value): Value => to(placed(v, shapeOf(x), place), precision);
  const scaled = div([to(x, precision), beside(n.value(1))]);
  const zero = n.optional(2);
  if (format.kind !== 'whole') return narrowed(zero ? add([scaled, beside(zero)]) : scaled, format, how);
  const near = zero ? add([round([scaled]), beside(zero)]) : round([scaled]);
  const least = format.signed ? -(2 ** (format.bits - 1)) : 0;
  const bound = (value: number): Value => scalar(value, precision);
  return to(minimum([maximum([near, bound(least)]), bound(least + 2 ** format.bits - 1)]), format.wide);
}

/** (x − zero) · scale in the type of the result. */
function dequantized(n: Node, run: (node: Node) => Item[]): Item[] {
  const wide = wideNode(n, 'all');
  const x = wide.value(0);
  if (isInt(dtypeOf(x))) return run(wide);
  const place = { axis: n.int('axis', 1), block: n.int('block_size', 0) };
  const out = n.elementType('output_dtype') === 0 ? dtypeOf(wide.value(1)) : n.dtype('output_dtype')!;
  n.finish();
  const beside = (v: Value): Value => to(placed(v, shapeOf(x), place), out);
  const zero = wide.optional(2);
  return [computed(mul([zero ? sub([to(x, out), beside(zero)]) : to(x, out), beside(wide.value(1))]))];
}
