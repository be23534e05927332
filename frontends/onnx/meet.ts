/**
 * Operands whose sizes must be the same, though one was counted from the data and another was not, or differently: the
 * file says that they are, and running it checks.
 */
import type { Sym } from '../../ir/expr.ts';
import { symbolsOf } from '../../ir/scalar.ts';
import { computed } from './item.ts';
import type { Node } from './node.ts';

/** For each operand, for each of its axes: a number that those axes share which must have one size; undefined for none. */
type Meeting = readonly (readonly (number | undefined)[])[];

const ELEMENTWISE = new Set(
  (
    'Add Sub Mul Div Pow Mod Min Max Sum Mean Where And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual ' +
    'BitwiseAnd BitwiseOr BitwiseXor BitShift PRelu'
  ).split(' '),
);
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

function meetingOf(n: Node): Meeting | undefined {
  const { op, domain } = n.proto;
  if (domain !== '') return undefined;
  const ranks = n.items.map((item) => item?.type.shape.length ?? 0);
  // Broadcasting aligns axes from the end.
  if (ELEMENTWISE.has(op)) return ranks.map((rank) => range(rank).map((i) => i - rank));
  if (op === 'Concat') {
    const axis = n.axis(n.int('axis'), ranks[0]!);
    return ranks.map((rank) => range(rank).map((i) => (i === axis ? undefined : i)));
  }
  if (op === 'ScatterElements') return [[], range(ranks[1]!), range(ranks[2]!)];
  if (op === 'ScatterND' && ranks[1]! > 0) {
    const depth = n.shape(1).at(-1);
    if (typeof depth !== 'number') return undefined;
    const tuples = ranks[1]! - 1;
    return [
      range(ranks[0]!).map((i) => (i < depth ? undefined : tuples + i - depth)),
      range(ranks[1]!).map((i) => (i < tuples ? i : undefined)),
      range(ranks[2]!),
    ];
  }
  return undefined;
}

const isCounted = (n: Node): boolean =>
  n.items.some((item) =>
    item?.type.shape.some((d) => typeof d !== 'number' && symbolsOf(d).some((s) => (s.arg as Sym).counted)),
  );

/** The node on operands whose sizes agree; the node itself where nothing was counted. */
export function metOperands(n: Node): Node {
  if (!isCounted(n)) return n;
  const meeting = meetingOf(n);
  if (!meeting || n.items.some((item) => item === undefined)) return n;
  const values = n.values();
  const met = n.counting.meeting(values, meeting);
  if (met.every((x, i) => x === values[i])) return n;
  return n.on(met.map((x, i) => (x === values[i] ? n.items[i] : computed(x))));
}
