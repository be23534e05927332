/** Operators that carry state from call to call: caches, running convolutions, linear attention. */
import { graph, typeOf, type Value } from '../../ir/graph.ts';
import { scan } from '../../ir/ops/control.ts';
import { conv } from '../../ir/ops/conv.ts';
import { add, exp, floorMod, mul, silu, sub } from '../../ir/ops/elementwise.ts';
import { scatterElements } from '../../ir/ops/index.ts';
import { matmul } from '../../ir/ops/linear.ts';
import { concat, expand, reshape, sliceAxis, transpose } from '../../ir/ops/shape.ts';
import { projectAll } from '../../ir/ops/structural.ts';
import * as s from '../../ir/scalar.ts';
import { asExpr, type Dim, dim, sameDim, tensor } from '../../ir/type.ts';
import type { Entries, Node } from './node.ts';
import { argument } from './scope.ts';
import {
  along,
  counter,
  dtypeOf,
  filled,
  quotientOf,
  shapeOf,
  sizeValue,
  sumOf,
  times,
  to,
  workType,
} from './values.ts';

function tensorScatter(n: Node): Value {
  const [cache, update] = [n.value(0), n.value(1)];
  const { shape } = typeOf(cache);
  const rank = shape.length;
  const axis = n.axis(n.int('axis', -2), rank);
  if (axis === 0) n.fail('axis 0 is the batch, which has no sequence', undefined, 'attribute');
  const mode = n.string('mode', 'linear');
  if (mode !== 'linear' && mode !== 'circular') n.fail(`mode "${mode}" is not known`, undefined, 'attribute');
  n.expectRank(1, rank);
  const { shape: wanted } = typeOf(update);
  const step = counter(wanted[axis]!, axis, rank, 'i64');
  const first = n.optional(2);
  const at = first ? add([step, along(first, 0, rank)]) : step;
  const turned = mode === 'circular' ? floorMod([at, sizeValue(shape[axis]!, 'i64')]) : at;
  return scatterElements([cache, expand([turned], { shape: wanted }), update], { axis });
}

/** A causal convolution of every channel by itself, which remembers its last positions. */
function causalConv(n: Node): readonly Value[] {
  const [x, w] = [n.value(0), n.value(1)];
  for (const i of [0, 1]) n.expectRank(i, 3);
  const { dtype, shape } = typeOf(x);
  const [batch, channels, length] = shape as [Dim, Dim, Dim];
  const taps = shapeOf(w)[2]!;
  if (typeof channels !== 'number' || typeof taps !== 'number')
    return n.fail('channels and weights need fixed sizes', undefined, 'shape');
  const bias = n.optional(2);
  const past = n.optional(3) ?? filled(0, dtype, [batch, channels, taps - 1]);
  const whole = taps === 1 ? x : concat([past, x], { axis: 2 });
  const out = conv([whole, w, ...(bias ? [bias] : [])], { groups: channels });
  const present = sliceAxis(whole, 2, length, sumOf(length, taps - 1));
  const word = n.string('activation', 'none');
  if (!['none', 'silu', 'swish'].includes(word)) n.fail(`activation "${word}" is not known`, undefined, 'attribute');
  return [word === 'none' ? out : silu([out]), present];
}

const RULES = ['linear', 'gated', 'delta', 'gated_delta'];

/**
 * Attention whose keys and values are summed into a state, one step after the other.
 *
 * B batch, T steps, H heads of keys and values, G heads of queries to each, D width of a key, E width of a value.
 */
function linearAttention(n: Node): readonly Value[] {
  const [heads, all] = [n.int('kv_num_heads'), n.int('q_num_heads')];
  const rule = n.string('update_rule', 'gated_delta');
  if (!RULES.includes(rule)) n.fail(`update_rule "${rule}" is not known`, `known: ${RULES.join(', ')}`, 'attribute');
  n.ignore('chunk_size');
  if (heads < 1 || all % heads !== 0) n.fail(`${all} heads do not share ${heads}`, undefined, 'attribute');
  for (const i of [0, 1, 2]) n.expectRank(i, 3);
  for (const i of [4, 5]) if (n.has(i)) n.expectRank(i, 3);
  const { dtype, shape } = n.type(0);
  const [batch, steps] = shape as [Dim, Dim, Dim];
  const work = workType(dtype);
  const [width, valueWidth] = [quotientOf(shape[2]!, all), quotientOf(n.shape(2)[2]!, heads)];
  const gated = rule.startsWith('gated');
  const delta = rule.endsWith('delta');
  if (gated && !n.has(4)) n.fail(`update_rule "${rule}" needs a decay, operand 4`, undefined, 'operand');
  if (delta && !n.has(5)) n.fail(`update_rule "${rule}" needs a beta, operand 5`, undefined, 'operand');
  /** [B, T, a · b] as [T, B, a, b]. */
  const timed = (i: number, a: Dim, b: Dim): Value => {
    const apart = reshape([to(n.value(i), work)], { shape: [batch, steps, a, b] });
    return transpose([apart], { perm: [1, 0, 2, 3] });
  };
  const queries = reshape([timed(0, all, width)], { shape: [steps, batch, heads, all / heads, width] });
  const xs = [queries, timed(1, heads, width), timed(2, heads, valueWidth)];
  if (gated) {
    const last = n.shape(4)[2]!;
    xs.push(timed(4, heads, sameDim(last, heads) ? 1 : width));
  }
  if (delta) xs.push(timed(5, sameDim(n.shape(5)[2]!, heads) ? heads : 1, 1));
  const states = [batch, heads, width, valueWidth];
  const past = n.optional(3);
  const state = argument('state', tensor(work, states));
  const items = xs.map((x, i) => argument(`x${i}`, tensor(work, shapeOf(x).slice(1))));
  const [q, k, v, ...rest] = items as [Value, Value, Value, ...Value[]];
  const row = (x: Value, d: Dim): Value => reshape([x], { shape: [batch, heads, 1, d] });
  const column = (x: Value): Value => reshape([x], { shape: [...shapeOf(x), 1] });
  const kept = gated ? mul([state, exp([column(rest[0]!)])]) : state;
  let value = row(v, valueWidth);
  if (delta) value = mul([column(rest.at(-1)!), sub([value, matmul([row(k, width), kept])])]);
  const next = add([kept, mul([column(k), value])]);
  const results = projectAll(
    scan([past ? to(past, work) : filled(0, work, states), ...xs], {
      body: graph(
        'step',
        [state, ...items],
        [
          ['state', next],
          ['out', matmul([q, next])],
        ],
      ),
      carried: 1,
    }),
  );
  const given = n.float('scale', 0);
  if (given === 0 && typeof width !== 'number') n.fail('the width of a head must be a fixed size', 'give a scale');
  const scaled = times(results[1]!, given === 0 ? 1 / Math.sqrt(width as number) : given);
  const wide = dim(s.mul(asExpr(valueWidth), all));
  const flat = reshape([scaled], { shape: [steps, batch, wide] });
  const out = transpose([flat], { perm: [1, 0, 2] });
  return [to(out, dtype), to(results[0]!, past ? dtypeOf(past) : dtype)];
}

export const stateful: Entries = {
  TensorScatter: tensorScatter,
  CausalConvWithState: causalConv,
  LinearAttention: linearAttention,
};
