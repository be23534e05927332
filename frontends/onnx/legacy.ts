/** Nodes of opsets below 7 as later ones spell them. */
import { reshape } from '../../ir/ops/shape.ts';
import { computed, type Item } from './item.ts';
import type { Node } from './node.ts';
import type { OnnxAttribute } from './proto.ts';

/** Operators whose operand 1 broadcast only where the attribute `broadcast` said so, from the attribute `axis` on. */
const BINARY = ['Add', 'Sub', 'Mul', 'Div', 'Pow', 'And', 'Or', 'Xor', 'Equal', 'Greater', 'Less'];

/** The same node with the operands and attributes that its operator has today; itself where nothing changed since. */
export function modern(n: Node): Node {
  const { domain, op } = n.proto;
  if (domain !== '' || n.opset >= 7) return n;
  // What was overwritten in place, before opset 6.
  const attributes = new Map([...n.proto.attributes].filter(([name]) => name !== 'consumed_inputs'));
  let items = n.items;
  if (BINARY.includes(op)) items = broadcast(n, attributes);
  if (op === 'PRelu' && n.has(1) && n.rank(1) === 1 && n.rank(0) > 1) items = [n.item(0), spread(n, 1)];
  if (op === 'Tile' && items.length === 3) return n.fail('of opset 1 is not supported', 'convert the model to opset 6');
  return n.on(items, attributes);
}

function broadcast(n: Node, attributes: Map<string, OnnxAttribute>): readonly (Item | undefined)[] {
  const [on, axis] = [attributes.get('broadcast')?.i ?? 0, attributes.get('axis')?.i];
  attributes.delete('broadcast');
  attributes.delete('axis');
  const first = on === 0 || axis === undefined ? undefined : n.axis(axis, n.rank(0));
  return first === undefined ? n.items : [n.item(0), spread(n, first)];
}

/** Operand 1 with its axes from axis `first` of operand 0 on. */
function spread(n: Node, first: number): Item {
  const [rank, shape] = [n.rank(0), n.shape(1)];
  const behind = rank - first - shape.length;
  if (behind < 0) n.fail(`operand 1 of rank ${shape.length} does not fit from axis ${first} on`, undefined, 'rank');
  if (behind === 0) return n.item(1);
  return computed(reshape([n.value(1)], { shape: [...shape, ...new Array<number>(behind).fill(1)] }));
}
